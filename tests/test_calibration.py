"""Calibration against uncertainty-toolbox and scikit-learn, with their conventions undone."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from deepmr_utils import calibration

REFERENCE = Path(__file__).parent / "reference" / "models"
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
