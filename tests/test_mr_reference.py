"""Estimators against the values of R (reference/mr)."""

import numpy as np
import pytest
from mr_reference import EXPECTED, NAMES, column, padded

from deepmr_utils import mr, raps

FIELDS = {
    "estimate": "causal_effect",
    "se": "se",
    "ci_lower": "ci_low",
    "ci_upper": "ci_high",
    "intercept": "intercept",
    "intercept_se": "intercept_se",
    "rse": "scale",
    "q": "q",
    "i2_gx": "i2_gx",
}
P_VALUES = {"p": "p", "intercept_p": "intercept_p", "q_p": "q_p"}
COLLINEAR = np.array([name.startswith("collinear") for name in NAMES])


def compare(table, key, rtol, fields=FIELDS):
    compared = 0
    for field, name in fields.items():
        expected = column(key, field)
        have = ~np.isnan(expected)
        if not have.any():
            continue
        compared += have.sum()
        actual = table[name].to_numpy()[have]
        # A value that is 0 up to cancellation has no relative error: the SE is its unit.
        unit = column(key, "se")[have] * (1e-9 if field != "i2_gx" else 0)
        error = np.abs(actual - expected[have])
        limit = np.broadcast_to(rtol, len(NAMES))[have] * np.abs(expected[have]) + unit
        worst = np.argmax(error - limit)
        assert error[worst] <= limit[worst], (key, field, np.array(NAMES)[have][worst])
    assert compared


def compare_p(table, key):
    for field, name in P_VALUES.items():
        expected = column(key, field)
        have = ~np.isnan(expected)
        # R's 2 * (1 - pnorm(|z|)) has no digits below 1e-15; ours uses the tail.
        np.testing.assert_allclose(table[name].to_numpy()[have], expected[have], 1e-8, 1e-12)


@pytest.mark.parametrize(
    ("key", "method", "options"),
    [
        ("ivw", "ivw", {}),
        ("ivw_fixed", "ivw_fixed", {}),
        ("ivw_random", "ivw_random", {}),
        ("ivw_t", "ivw", {"distribution": "t"}),
        ("ivw_delta", "ivw", {"weights": "delta"}),
        ("egger", "egger", {}),
        ("egger_t", "egger", {"distribution": "t"}),
    ],
)
def test_closed_forms(key, method, options):
    table = mr.estimate(*padded(), method, **options)
    assert (table["status"] == "ok").all()
    # Worst observed error 2e-13 relative; collinear_n20 loses digits in R's own QR fit.
    compare(table, key, np.where(COLLINEAR, 1e-8, 1e-9))
    compare_p(table, key)


@pytest.mark.parametrize(
    ("key", "method"), [("egger_robust_tight", "egger_robust"), ("ivw_robust_tight", "ivw_robust")]
)
@pytest.mark.parametrize("exhaustive", [False, True])
def test_robust_fits_reach_the_tight_fit(key, method, exhaustive):
    table = mr.estimate(*padded(), method, exhaustive=exhaustive)
    se = column(key, "se")
    have = ~np.isnan(se)
    assert have.sum() >= 40
    # Both are iterated to about 1e-12, and the worst observed errors are 2e-9 SE and 4e-9
    # relative; 1e-6 SE is far below what the choice of estimator can matter.
    for field, name in (("estimate", "causal_effect"), ("intercept", "intercept")):
        unit = se if field == "estimate" else column(key, "intercept_se")
        error = np.abs(table[name] - column(key, field)) / unit
        assert not (error[have] > 1e-6).any()
    for field, name in (("se", "se"), ("rse", "scale"), ("intercept_se", "intercept_se")):
        expected = column(key, field)
        have = ~np.isnan(expected) & ~np.isnan(se)
        np.testing.assert_allclose(table[name][have], expected[have], rtol=1e-6)
    have = ~np.isnan(se)  # without an SE (homog_n3, IVW) R's own S step did not converge
    np.testing.assert_allclose(table["q"][have], column(key, "q")[have], rtol=1e-6)


@pytest.mark.parametrize("key", ["egger_robust", "egger_robust_t", "ivw_robust"])
def test_robust_fits_agree_with_default_search(key):
    options = {"distribution": "t"} if key.endswith("_t") else {}
    table = mr.estimate(*padded(), key.removesuffix("_t"), **options)
    for i, name in enumerate(NAMES):
        expected = EXPECTED[name][key]
        spread = EXPECTED[name][key.removesuffix("_t")]["seed_spread"]
        if name == "homog_n3" and key == "ivw_robust":
            continue  # two solutions 76 SE apart; which one R finds depends on its seed
        # R draws 500 subsamples; its own spread over 20 seeds, doubled, is the tolerance.
        spread_se = spread["tol_se_rel"]
        limit = (spread["tol_estimate_over_se"] + 3 * spread_se) * expected["se"]
        row = table.iloc[i]
        assert row["causal_effect"] == pytest.approx(
            expected["estimate"], abs=spread["tol_estimate_over_se"] * expected["se"]
        )
        assert row["se"] == pytest.approx(expected["se"], rel=spread_se)
        assert row["ci_low"] == pytest.approx(expected["ci_lower"], abs=4 * limit, rel=1e-6)


def test_paper_rule_is_robust_above_ten_instruments():
    paper = mr.estimate(*padded(), "egger_paper")
    plain, robust = mr.estimate(*padded(), "egger"), mr.estimate(*padded(), "egger_robust")
    many = paper["n_instruments"] > 10
    assert many.any()
    assert (~many).any()
    assert paper[many].equals(robust[many])
    assert paper[~many].equals(plain[~many])


def test_divw():
    table = mr.estimate(*padded(), "divw")
    compare(table, "divw", 1e-9)
    compare_p(table, "divw")
    simple = mr.estimate(*padded(), "divw", overdispersion=False)
    compare(simple, "divw_no_overdispersion", 1e-9)


RAPS = [name for name in mr.REGISTRY if name.startswith("raps")]


@pytest.mark.parametrize("method", RAPS)
def test_raps_solves_the_published_equations(method):
    table = mr.estimate(*padded(), method)
    assert (table["status"] == "ok").all()
    for i, name in enumerate(NAMES):
        expected = EXPECTED[name][method]
        warned = " ".join(expected.get("warnings", []))
        if not expected["root_is_global"] or "Did not find a solution for tau2" in warned:
            continue  # R's own solution is a local one, or it gave up and set tau2 to 0
        # The reference roots are solved to about 1e-12; worst observed error 6e-10 SE.
        limit = 1e-6 * expected["se"]
        assert table["causal_effect"][i] == pytest.approx(expected["root_estimate"], abs=limit)
        assert table["tau2"][i] == pytest.approx(expected.get("root_tau2", 0), rel=1e-6, abs=1e-12)
        assert table["n_pruned"][i] == expected.get("n_pruned", 0)


@pytest.mark.parametrize("method", RAPS)
def test_raps_standard_errors(method):
    """R's SE is that at R's own estimate, so the formula is compared there."""
    bx, sx, by, sy = padded()
    if "overdispersed" in method:
        dropped = sx > 10 * np.nanmedian(sx, axis=1, keepdims=True)
        bx, sx, by, sy = (np.where(dropped, np.nan, a) for a in (bx, sx, by, sy))
    filled = [np.nan_to_num(a, nan=v) for a, v in ((bx, 0), (sx, 0), (by, 0), (sy, np.inf))]
    loss = method.split("_")[-1] if method.endswith(("huber", "tukey")) else "l2"
    model = raps._Model(filled[0], filled[1] ** 2, filled[2], filled[3] ** 2, loss)
    tau2 = np.nan_to_num(column(method, "tau2"))
    with np.errstate(invalid="ignore"):  # of padding
        variance, tau2_variance = raps._variances(
            model, column(method, "estimate"), tau2, "overdispersed" in method
        )
    # R integrates the Huber constants to about 1e-5 only.
    np.testing.assert_allclose(np.sqrt(variance), column(method, "se"), rtol=1e-4)
    if "overdispersed" in method:
        np.testing.assert_allclose(np.sqrt(tau2_variance), column(method, "tau2_se"), rtol=1e-4)


def test_where_r_gave_up_on_tau2_a_solution_exists():
    table = mr.estimate(*padded(["het_n100"]), "raps_overdispersed_tukey")
    others = [EXPECTED["het_n100"][f"raps_overdispersed{loss}"] for loss in ("", "_huber")]
    # R reports tau2 = 0 and 1.57 (SE 0.015) here, against 0.79 and 0.78 by its other losses.
    assert all(abs(table["causal_effect"][0] - o["estimate"]) < o["se"] for o in others)
    assert table["tau2"][0] == pytest.approx(others[1]["tau2"], rel=0.1)
