"""Simulated instruments have what their scenario says, and scores are counted right."""

import numpy as np
import pytest

from deepmr_utils import mr
from deepmr_utils.mr import benchmark
from deepmr_utils.mr.benchmark import SCENARIOS, assumed, score, simulate


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_direct_effects(scenario):
    data = simulate(scenario, 400, 30, seed=1)
    oriented = np.sign(data.beta_exposure) * data.direct
    share = (data.direct != 0).mean()
    # 12,000 instruments: shares are within 1.5 %, means within 0.006.
    expected = {
        "valid": (0, 0),
        "balanced": (1, 0),
        "directional": (1, 0.1),
        "outliers": (0.2, 0.1),
        "correlated": (0.2, 0.1),
        "weak": (0, 0),
    }[scenario]
    assert share == pytest.approx(expected[0], abs=0.015)
    assert oriented.mean() == pytest.approx(expected[1], abs=0.006)
    strength = np.abs(data.beta_exposure)
    together = np.corrcoef(strength.ravel(), oriented.ravel())[0, 1] if share else 0
    assert (together > 0.5) == (scenario == "correlated")
    if scenario != "correlated":
        assert abs(together) < 0.04


def test_standard_errors_are_those_of_the_noise():
    # the same seed, so that only the errors of the exposure differ
    plain, weak = simulate("valid", 400, seed=2), simulate("weak", 400, seed=2)
    spread = (weak.beta_exposure - plain.beta_exposure).std()
    assert spread == pytest.approx(0.4 - 0.05, rel=0.03)
    residual = plain.beta_outcome - simulate("valid", 400, effect=0.0, seed=2).beta_outcome
    assert np.abs(residual).max() <= 0.1
    noise = simulate("valid", 400, effect=0.0, seed=2).beta_outcome
    assert (noise / plain.se_outcome).std() == pytest.approx(1, rel=0.03)


def test_seed_and_unknown_scenario():
    first, again = simulate("outliers", 3, seed=5), simulate("outliers", 3, seed=5)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (simulate("outliers", 3, seed=6).beta_outcome != first.beta_outcome).all()
    with pytest.raises(ValueError, match="unknown scenario 'bad': choose one of valid, balanced"):
        simulate("bad", 1)


def test_assumptions_of_every_method():
    holds = {name: {s for s in SCENARIOS if assumed(name, s)} for name in mr.REGISTRY}
    assert holds["ivw_fixed"] == {"valid"}
    assert holds["ivw"] == {"valid", "balanced"}
    assert holds["egger"] == {"valid", "balanced", "directional", "outliers"}
    assert holds["egger_robust"] == {*holds["egger"], "correlated"}
    assert holds["median_weighted"] == {"valid", "outliers", "correlated"}
    assert holds["conmix"] == holds["mode_simple"] == holds["hetpen"] == holds["median_weighted"]
    assert holds["presso"] == {"valid", "outliers"}
    assert holds["divw"] == {"valid", "balanced", "weak"}
    assert holds["raps_simple_tukey"] == {"valid", "outliers", "correlated", "weak"}


def test_score_counts():
    table = score(["ivw", "hetpen"], ["outliers"], datasets=40, effect=0.3, seed=4)
    data = simulate("outliers", 40, effect=0.3, seed=4)
    fits = {
        "ivw": mr.estimate(*data[:4], "ivw"),
        "hetpen": mr.estimate(*(a[:, :15] for a in data[:4]), "hetpen"),
    }
    for row in table.itertuples():
        fit = fits[row.method]
        error = fit["causal_effect"] - 0.3
        assert row.bias == pytest.approx(error.mean())
        assert row.rmse**2 == pytest.approx(row.bias**2 + error.var(ddof=0))
        assert row.coverage == np.mean((fit["ci_low"] <= 0.3) & (fit["ci_high"] >= 0.3))
        assert row.power == np.mean((fit["ci_low"] > 0) | (fit["ci_high"] < 0))
        assert row.mc_error == pytest.approx(np.sqrt(row.coverage * (1 - row.coverage) / 40))
        assert row.failed == 0


def test_score_passes_options_and_counts_failures():
    table = score(["ivw", "egger"], ["valid"], datasets=5, instruments=2,
                  options={"ivw": {"distribution": "t"}})  # fmt: skip
    assert table["failed"].tolist() == [0, 1]
    assert table["bias"].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="unknown option of ivw 'phi'"):
        benchmark.score(["ivw"], ["valid"], datasets=2, options={"ivw": {"phi": 1}})
