"""Calibration against uncertainty-toolbox and scikit-learn, with their conventions undone."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from deepmr_utils import calibration

REFERENCE = Path(__file__).parents[1] / "reference" / "models"
SETS = ["calibrated", "overconfident", "underconfident", "biased", "heavy_tailed_small_ensemble"]


@pytest.fixture(scope="module")
def golden():
    with np.load(REFERENCE / "calibration.golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def printed():
    return json.loads((REFERENCE / "calibration.golden.json").read_text())


def as_members(mean, sd):
    """Two members (2, N, 1) whose mean and sd (ddof 0) are the given ones."""
    return np.stack([mean - sd, mean + sd])[..., None]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["quantile", "interval"])
def test_proportions_and_metrics_equal_the_toolbox(golden, printed, name, kind):
    mean, sd, y = (golden[f"{name}__{k}"] for k in ("pred_mean", "pred_std", "y"))
    sign = -1 if kind == "quantile" else 1  # the toolbox counts prediction - truth: mirrored
    members, labels = as_members(sign * mean, sd), sign * y[:, None]
    curve = calibration.reliability_curve(members, labels, ["x"], kind)
    np.testing.assert_allclose(curve["expected"], golden[f"{name}__{kind}__exp"], atol=1e-12)
    # one point may sit on a level: rounding then decides, one label of at least 257
    np.testing.assert_allclose(curve["observed"], golden[f"{name}__{kind}__obs"], atol=1 / 257)
    metrics = calibration.calibration_metrics(members, labels, ["x"], kind).iloc[0]
    expected = printed["regression"][name]
    for key in ("mace", "rmsce", "miscalibration_area"):
        assert metrics[key] == pytest.approx(expected[kind][key], rel=2e-3, abs=1e-5), key
    assert metrics["sharpness"] == pytest.approx(expected["sharpness"], rel=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_isotonic_map_equals_the_toolbox(golden, name):
    mean, sd, y = (golden[f"{name}__{k}"] for k in ("pred_mean", "pred_std", "y"))
    fitted = calibration.fit_isotonic(as_members(-mean, sd), -y[:, None])
    got = fitted.maps[0].predict(golden["grid"])
    # at exactly 0 and 1 the toolbox averages the levels that were never reached; we keep the
    # innermost, so the ends are compared only to where a level was reached at all
    inner = slice(1, -1)
    np.testing.assert_allclose(
        got[inner], golden[f"{name}__quantile__iso_grid"][inner], rtol=0, atol=1e-12
    )


def test_members_move_as_in_the_toolbox(golden, printed):
    fit, y = golden["ensemble__fit_members"], golden["ensemble__fit_y"]
    members = golden["ensemble__members"]
    # the toolbox fits a mirrored map and applies it to unmirrored members: so do we, here only
    mirrored = calibration.fit_isotonic(-fit[..., None], -y[:, None])
    moved = mirrored(members[..., None])[..., 0]
    np.testing.assert_allclose(
        moved, golden["ensemble__quantile__recal_members"], rtol=0, atol=1e-12
    )
    expected = printed["regression"]["ensemble"]["quantile"]
    assert np.isfinite(moved).all()
    assert moved.std(0).mean() == pytest.approx(expected["mean_std_after"], rel=1e-9)
    assert (moved - members).mean() == pytest.approx(expected["mean_shift"], rel=1e-6)


def ensemble(spread, n=4000, seed=0):
    """Five members (5, n, 1) with errors of sd 1 and a spread of exactly `spread`, and labels."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    offsets = np.array([-2, -1, 0, 1, 2]) / np.sqrt(2)
    members = (
        truth
        + rng.normal(size=n)
        + spread * rng.permuted(np.repeat(offsets[:, None], n, 1), axis=0)
    )
    return members[..., None], truth[:, None]


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_overconfident_is_widened_and_underconfident_narrowed(spread):
    recalibrate = calibration.fit_isotonic(*ensemble(spread, seed=0))
    members, labels = ensemble(spread, seed=1)
    moved = recalibrate(members)
    ratio = moved.std(0).mean() / members.std(0).mean()
    assert ratio == pytest.approx(1 / spread, rel=0.15)  # to the true error's sd, which is 1
    before = calibration.calibration_metrics(members, labels, ["x"])["miscalibration_area"].item()
    after = calibration.calibration_metrics(moved, labels, ["x"])["miscalibration_area"].item()
    assert after < before / 2


def test_an_unbiased_ensemble_is_not_shifted():
    members, _ = ensemble(1.0, seed=2)
    moved = calibration.fit_isotonic(*ensemble(1.0, seed=3))(members)
    assert abs((moved - members).mean()) < 0.1 * members.std(0).mean()


def test_a_biased_ensemble_is_shifted_towards_the_truth():
    members, labels = ensemble(1.0, seed=4)
    recalibrate = calibration.fit_isotonic(members + 1, labels)
    moved = recalibrate(members + 1)
    assert (moved - labels).mean() < 0.5 * (members + 1 - labels).mean()


def test_saturated_quantiles_stay_finite():
    members, labels = ensemble(0.001, n=50)
    recalibrate = calibration.fit_isotonic(members, labels)
    moved = recalibrate(members)
    assert np.isfinite(moved).all()
    same = np.ones((5, 3, 1))
    np.testing.assert_array_equal(recalibrate(same), same)
    assert recalibrate(members.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "name", ["logit_scores", "rare_positive_probabilities", "small_sample_shifted"]
)
def test_platt_equals_scikit_learn(golden, printed, name):
    slope, intercept = calibration.fit_platt(
        golden[f"platt__{name}__score"], golden[f"platt__{name}__y"]
    )
    # scikit-learn's optimiser stops at about 1e-4
    assert slope == pytest.approx(-printed["platt"][name]["a"], rel=2e-3)
    assert intercept == pytest.approx(-printed["platt"][name]["b"], rel=2e-3)
    grid = golden[f"platt__{name}__grid"]
    np.testing.assert_allclose(
        expit(slope * grid + intercept), golden[f"platt__{name}__p"], atol=5e-4
    )


def test_platt_recalibrator_acts_on_the_logit():
    recalibrate = calibration.PlattRecalibrator(np.array([2.0]), np.array([0.5]))
    p = np.array([[[0.2]], [[0.7]]])
    odds = (p / (1 - p)) ** 2 * np.exp(0.5)
    np.testing.assert_allclose(recalibrate(p), odds / (1 + odds), rtol=1e-12)


def test_platt_a_feature_skips_what_cannot_be_fitted_and_says_why():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4))
    labels = (rng.random(logits.shape) < expit(2 * logits - 1)).astype(float)
    labels[:, 1], labels[:, 2], labels[::2, 3] = 1, np.nan, np.nan
    recalibrate, table = calibration.fit_platt_features(logits, labels, list("abcd"))
    assert table["status"].tolist() == ["ok", "all labels are the same", "no labels", "ok"]
    assert table["n"].tolist() == [4000, 4000, 0, 2000]
    assert (recalibrate.slope[1:3] == 1).all()
    assert (recalibrate.intercept[1:3] == 0).all()
    # standard errors of a logistic regression on so many: below 0.12 and 0.07
    np.testing.assert_allclose(recalibrate.slope[[0, 3]], 2, atol=0.3)
    np.testing.assert_allclose(recalibrate.intercept[[0, 3]], -1, atol=0.2)
    assert recalibrate.slope[3] == calibration.fit_platt(logits[1::2, 3], labels[1::2, 3])[0]


def test_classifier_metrics_in_closed_form():
    p = np.array([[0.0], [0.1], [0.15], [0.9], [0.8]])
    y = np.array([[0.0], [1.0], [0.0], [1.0], [np.nan]])
    curve = calibration.classifier_reliability(p, y, ["x"])
    assert curve["bin"].tolist() == [0, 1, 8]  # 0.1 belongs to the first, 0.9 to the ninth
    np.testing.assert_allclose(curve["predicted"], [0.05, 0.15, 0.9])
    np.testing.assert_allclose(curve["observed"], [0.5, 0, 1])
    assert curve["n"].tolist() == [2, 1, 1]
    row = calibration.classifier_metrics(p, y, ["x"]).iloc[0]
    assert (row["n"], row["positives"]) == (4, 2)
    assert row["brier"] == pytest.approx((0 + 0.81 + 0.0225 + 0.01) / 4)
    assert row["ece"] == pytest.approx((2 * 0.45 + 0.15 + 0.1) / 4)
    assert row["auroc"] == 0.75  # three of four pairs in order
    assert row["auprc"] == pytest.approx((1 + 2 / 3) / 2)


def test_calibrated_probabilities_have_the_brier_score_of_their_variance():
    rng = np.random.default_rng(1)
    p = rng.random((50_000, 1))
    y = (rng.random(p.shape) < p).astype(float)
    row = calibration.classifier_metrics(p, y, ["x"]).iloc[0]
    assert row["brier"] == pytest.approx(1 / 6, abs=0.004)  # mean of p (1 - p); 5 standard errors
    assert row["ece"] < 0.02
    overconfident = calibration.classifier_metrics((p > 0.5) * 1.0, y, ["x"]).iloc[0]
    assert overconfident["ece"] == pytest.approx(0.25, abs=0.01)


def test_a_classifier_without_negatives_has_no_auroc():
    row = calibration.classifier_metrics(np.full((3, 1), 0.8), np.ones((3, 1)), ["x"]).iloc[0]
    assert np.isnan(row["auroc"])
    assert row["brier"] == pytest.approx(0.04)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration.classifier_metrics(np.full((3, 1), 1.8), np.ones((3, 1)), ["x"])
    with pytest.raises(ValueError, match="labels 0, 1 or NaN"):
        calibration.classifier_metrics(np.full((3, 1), 0.8), np.full((3, 1), 0.5), ["x"])
    with pytest.raises(ValueError, match="2 names"):
        calibration.classifier_metrics(np.full((3, 1), 0.8), np.ones((3, 1)), ["x", "y"])


def test_bad_input_raises():
    members, labels = ensemble(1.0, n=20)
    with pytest.raises(ValueError, match=r"got \(5, 20, 1\) and \(20,\)"):
        calibration.fit_isotonic(members, labels[:, 0])
    with pytest.raises(ValueError, match="members that differ"):
        calibration.fit_isotonic(members[:1], labels)
    with pytest.raises(ValueError, match="fitted to 1 features"):
        calibration.fit_isotonic(members, labels)(np.zeros((5, 20, 2)))
    with pytest.raises(ValueError, match="unknown kind 'mean'"):
        calibration.reliability_curve(members, labels, ["x"], "mean")
    with pytest.raises(ValueError, match="both present; got 0 positives of 3"):
        calibration.fit_platt(np.zeros(3), np.zeros(3))
