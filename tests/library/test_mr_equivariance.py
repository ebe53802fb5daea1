"""What no estimate may hang on: signs, alleles, order and units; and what one instrument may not do.

Over all methods, with ties: integers, duplicated instruments, equal standard errors, exposure effects
of 0.
"""

import numpy as np
import pandas as pd
import pytest

from deepmr_utils import meta, mr
from deepmr_utils.mr import presso

METHODS = list(mr.REGISTRY)
SIZES = (5, 9, 40)
ESTIMATE = ["causal_effect", "ci_low", "ci_high"]


def tables(size, rows=3):
    """Rows of integers, of duplicated instruments, of tenths with equal errors, and of neither."""
    rng = np.random.default_rng(size)
    shape = (rows, size)
    integers = [rng.integers(-4, 5, shape) + 0.0 for _ in range(2)]
    x = rng.normal(0, 0.5, shape)
    s = rng.uniform(0.03, 0.1, (2, *shape))
    y = 0.5 * x + rng.normal(0, s[1]) + 0.5 * (rng.random(shape) < 0.2)
    half = np.arange(size) % ((size + 1) // 2)
    constant = np.full(shape, 0.2)
    parts = [
        (integers[0], constant, integers[1], constant),
        [a[:, half] for a in (x, s[0], y, s[1])],
        (np.round(x, 1), constant, np.round(y, 1), constant),
        (np.where(np.arange(size) == 0, 0, x), s[0], y, s[1]),
    ]
    return np.concatenate([np.array(part) for part in parts], axis=1)


def fit(values, method):
    drawn, (*effects, c) = "draws" in mr.REGISTRY[method].options, [*values, None][:5]
    return mr.estimate(*effects, method, covariance=c, **({"draws": 25} if drawn else {}))


def same(table, base, factor=1.0, rtol=1e-6):
    """Compare tables; estimates of the first are `factor` times those of the second."""
    assert table["status"].tolist() == base["status"].tolist()
    names = ESTIMATE if factor > 0 else ["causal_effect", "ci_high", "ci_low"]
    width = (base["ci_high"] - base["ci_low"]).replace(np.inf, 1)
    for name, other in zip(ESTIMATE, names, strict=True):
        ours, theirs = table[name] / factor, base[other]
        unit = width + theirs.abs()
        with np.errstate(invalid="ignore"):
            close = (ours - theirs).abs() <= rtol * unit
        assert (close | (ours == theirs) | (ours.isna() & theirs.isna())).all(), name
    np.testing.assert_allclose(table["se"] / abs(factor), base["se"], rtol=rtol)
    np.testing.assert_allclose(table["p"], base["p"], rtol=1e-4, atol=1e-8)


def correlated(size, rows=3):
    """The same with covariances of the errors, some of them alike but for their sign."""
    values, rng = tables(size, rows), np.random.default_rng(size)
    values[[1, 3]] *= 2
    share = rng.choice([-0.9, -0.3, 0.3, 0.9], values.shape[1:]) * 0.3
    share[::2] = rng.uniform(0, 0.5, share[::2].shape)
    return np.concatenate([values, (share * values[1] * values[3])[None]])


def sizes(method):
    return [size for size in SIZES if size <= (9 if method == "hetpen" else 40)]


@pytest.mark.parametrize("method", METHODS)
def test_signs_alleles_and_order(method):
    for size in sizes(method):
        values = tables(size)
        base = fit(values, method)
        assert (base["status"] == "ok").mean() > 0.25
        reverse = values * np.array([1, 1, -1, 1])[:, None, None]
        same(fit(reverse, method), base, -1)
        rng = np.random.default_rng(1)
        swapped = values.copy()
        swapped[::2] *= rng.choice([-1.0, 1.0], values.shape[1:])
        same(fit(swapped, method), base)
        same(fit(values[:, :, rng.permutation(size)], method), base)


OVERLAP = [m for m in METHODS if mr.REGISTRY[m].overlap()]


@pytest.mark.parametrize("method", OVERLAP)
@pytest.mark.parametrize("size", SIZES)
def test_covariances_of_errors_follow_alleles_signs_order_and_units(method, size):
    values = correlated(size)
    base = fit(values, method)
    assert (base["status"] == "ok").mean() > 0.25
    assert not np.allclose(base["causal_effect"], fit(values[:4], method)["causal_effect"])
    rng = np.random.default_rng(1)
    alleles = values.copy()
    alleles[[0, 2]] *= rng.choice([-1.0, 1.0], values.shape[1:])
    same(fit(alleles, method), base)
    same(fit(values[:, :, rng.permutation(size)], method), base)
    for unit in (2.0**-300, 0.1, 1e100):
        x, y = np.array([[unit, unit, 1, 1, unit], [1, 1, unit, unit, unit]])[:, :, None, None]
        same(fit(values * x, method), base, 1 / unit)
        same(fit(values * y, method), base, unit)
    reverse = values * np.array([1, 1, -1, 1, -1])[:, None, None]
    same(fit(reverse, method), base, -1)
    pd.testing.assert_frame_equal(fit(values[:, 4:5], method), base[4:5].reset_index(drop=True))
    padding = np.pad(values, ((0, 0), (0, 0), (2, 1)), constant_values=np.nan)
    pd.testing.assert_frame_equal(fit(padding, method), base)


def test_covariances_can_tell_an_effect_from_its_opposite():
    x, y = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.0, -1, 2, -2, 3, -3])
    s, turn = np.full(6, 0.1), np.array([1, -1, 1, -1, 1, -1])
    assert fit((x, s, y, s, 0.005 * turn), "ivw")["causal_effect"][0] == 0
    row = fit((x, s, y, s, 0.005 * turn**2), "ivw").iloc[0]
    assert row["status"] == "ok"
    assert row["causal_effect"] == pytest.approx(-6 * 0.005 / (28 - 6 * 0.01), rel=1e-12)


# The published weights of hetpen depend on the unit of the ratios, see its Notes.
@pytest.mark.parametrize("method", [m for m in METHODS if m != "hetpen"])
@pytest.mark.parametrize("unit", [2.0**-300, 0.1, 1e100, 1e-100])
def test_units(method, unit):
    values = tables({0.1: 5, 1e100: 6, 1e-100: 9}.get(unit, 40), rows=2)
    base = fit(values, method)
    same(fit(values * np.array([unit, unit, 1, 1])[:, None, None], method), base, 1 / unit)
    table = fit(values * np.array([1, 1, unit, unit])[:, None, None], method)
    same(table, base, unit)
    for name in {"intercept", "intercept_se"} & {*table}:
        np.testing.assert_allclose(table[name] / unit, base[name], rtol=1e-6, atol=1e-12)
    for name in {"scale", "q", "i2_gx", "condition", "n_valid", "global_p"} & {*table}:
        np.testing.assert_allclose(table[name], base[name], rtol=1e-6, atol=1e-9)
    if "tau2" in table and 1e-90 < unit < 1e90:
        np.testing.assert_allclose(table["tau2"] / unit**2, base["tau2"], rtol=1e-5, atol=1e-9)


def test_units_of_an_option_and_of_hetpen():
    values = tables(9)
    psi = mr.estimate(*values, "conmix", psi=2.0)
    scaled = mr.estimate(values[0] / 8, values[1] / 8, *values[2:], "conmix", psi=16.0)
    same(scaled, psi, 8)
    assert (scaled["psi"].dropna() == 16).all()
    # In units that make the ratios' errors small, large subsets gain.
    x, s, y = np.array([1.0, 1, 1, 1, 1]), np.full(5, 0.1), np.array([0.1, 0.0, 0.1, 1.0, 1.1])
    wide = mr.estimate(x, s, y, s, "hetpen")
    small = mr.estimate(x, s, y / 1e15, s / 1e15, "hetpen")
    # Three agree, and the five lie 58.6 in log likelihood below; two factors of 1e15 are worth 69.
    assert wide["causal_effect"][0] == pytest.approx(0.2 / 3, abs=0.01)
    assert small["causal_effect"][0] == pytest.approx(0.46e-15, rel=1e-3)


def clean(seed=3):
    rng = np.random.default_rng(seed)
    g = rng.normal(0.5, 0.2, 12)
    s = np.full(12, 0.05)
    return np.array([g + rng.normal(0, s), s, 0.4 * g + rng.normal(0, s), s])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exposure", [0.0, 1e-320, 1e-300, -1e-12, 1e-5])
def test_an_instrument_of_almost_no_exposure_effect_does_not_decide(method, exposure):
    without = fit(clean(), method).iloc[0]
    # Bandwidths, dispersions and intercepts feel one instrument more, but no more than that.
    for outcome in (0.06, -0.06, 0.0):
        values = np.column_stack([clean(), [exposure, 0.05, outcome, 0.05]])
        row = fit(values, method).iloc[0]
        assert row["status"] == "ok"
        assert row["n_instruments"] == 13
        width = without["ci_high"] - without["ci_low"]
        assert abs(row["causal_effect"] - without["causal_effect"]) < 0.3 * width
        assert row["ci_high"] - row["ci_low"] < 1.5 * width
        if exposure == 0 and mr.REGISTRY[method].ratios:  # it has no ratio, and is left out
            assert row["causal_effect"] == without["causal_effect"]
            assert row["ci_low"] == without["ci_low"]


@pytest.mark.parametrize("method", METHODS)
def test_no_ok_without_a_standard_error(method):
    rng = np.random.default_rng(0)
    cases = [rng.integers(-2, 3, (2, 40, n)) + 0.0 for n in (4, 5, 7)]
    c = np.full((1, 4), 0.7)
    cases.append(np.array([[[0, -0.7, 0.7, 0]], c]))
    cases.append(
        np.array([np.tile([2.0, 1, 2, 1, 2, 1, 2], (1, 1)), [[2, 1.5, 2, 1.5, 2, 1.5, 2]]])
    )
    for x, y in cases:
        for error in (0.1, 1.0):
            s = np.full_like(x, error)
            table = fit((x, s, y, s), method)
            good = table[table["status"] == "ok"]
            if mr.REGISTRY[method].has_se:
                assert np.isfinite(good["se"]).all()
                assert (good["se"] > 0).all()
                # Rounding in place of 0 gives 1e16; weights of penalized forms may be as small as that.
                assert (good["se"] < 1e4).all() or "penalized" in method
                assert np.isfinite(good["p"]).all()
                np.isfinite(meta.global_effects(table.assign(method=method))["effect"])
            assert table.loc[table["status"] != "ok", mr.COLUMNS].isna().all(axis=None)


def test_where_the_robust_scale_is_flat():
    """R's lmrob: "S refinements did not converge", and no standard error."""
    for x, y, sy in (
        ([0.5, 1, 0.5], [0, 1, 0.5], 1.0),
        ([2, 1, 2, 1, 2, 1, 2], [2, 1.5, 2, 1.5, 2, 1.5, 2], 0.2),
    ):
        s = np.full(len(x), sy)
        row = mr.estimate(x, s, y, s, "ivw_robust").iloc[0]
        assert row["status"] == "not converged, or an exact fit without a scale"


INTERCEPT = [m for m in METHODS if m.startswith("egger")]


@pytest.mark.parametrize("method", INTERCEPT)
def test_no_slope_of_equal_exposure_effects(method):
    rng = np.random.default_rng(0)
    for size in range(3, 20):
        for value in (0.1, 0.3, 0.5, 0.7, 1.1):
            s = rng.uniform(0.05, 0.15, size).round(3)
            y = rng.normal(0, 0.3, size)
            x = np.full(size, value)
            near = x.copy()
            near[::2] = np.nextafter(value, 2)
            table = mr.estimate(
                np.array([x, near]), np.tile(s, (2, 1)), *np.array([[y, y], [s, s]]), method
            )
            assert table["status"].str.startswith("no finite estimate").all()


def test_slope_of_nearly_equal_exposure_effects():
    """A spread of 1e-9 leaves seven digits; the right value by exact fractions."""
    d = np.array([0.0, 1, 2, 3, 4, 5])
    x = 1 + d * 2.0**-30
    y = np.array([0.1, 0.3, 0.2, 0.5, 0.4, 0.6])
    table = mr.estimate(x, np.full(6, 0.1), y, np.full(6, 0.5), "egger")
    # Of y on d: sum (d - 2.5) (y - 0.35) = 1.55, sum (d - 2.5)^2 = 17.5.
    assert table["causal_effect"][0] == pytest.approx(1.55 / 17.5 * 2**30, rel=1e-6)
    assert table["se"][0] == pytest.approx(0.5 / np.sqrt(17.5) * 2**30, rel=1e-6)


@pytest.mark.parametrize("method", ["mode_simple", "mode_weighted"])
def test_mode_of_ratios_that_agree(method):
    x = np.array([0.5, 1, 2, 4, 3, 0.7])
    s = np.full(6, 0.1)
    row = mr.estimate(x, s, 0.3 * x + np.r_[0, 0, 0, 0, 0.7, -0.4], s, method).iloc[0]
    assert row["status"] == "ok"
    assert row["causal_effect"] == pytest.approx(0.3, rel=1e-12)
    assert 0 < row["bandwidth"] < 1e-7
    assert row["se"] > 0.01
    exact = mr.estimate(x, s, 0.3 * x, s, method).iloc[0]
    assert exact["causal_effect"] == pytest.approx(0.3, rel=1e-12)


def test_divw_without_strength():
    x = [0.03, -0.05, 0.06, 0.02, -0.04, 0.05, 0.01, -0.06]
    y = [0.02, -0.10, 0.09, -0.05, -0.08, 0.12, 0.04, -0.03]
    s = np.full(8, 0.1)
    row = mr.estimate(x, s, y, s, "divw").iloc[0]
    assert (
        row["status"] == "no estimate: exposure effects are no larger than their errors make them"
    )
    assert np.isnan(row["causal_effect"])
    f = np.mean((np.array(x) / 0.1) ** 2)  # 0.19
    assert row["condition"] == pytest.approx((f - 1) * np.sqrt(8), rel=1e-12)
    strong = mr.estimate(*clean(), "divw").iloc[0]
    assert strong["status"] == "ok"
    assert strong["condition"] == pytest.approx(
        ((clean()[0] / 0.05) ** 2).mean() * 12**0.5 - 12**0.5
    )


def test_presso_keeps_its_global_test_and_never_ends_on_one_instrument():
    x = np.array([1.0, 1, 1, 1, 1])
    y = np.array([0.0, 10, -10, 30, -30])
    s = np.full(5, 0.01)
    row = mr.estimate(x, s, y, s, "presso").iloc[0]
    assert row["n_outliers"] >= 4
    assert row["status"] == "no estimate: all instruments, or all but one, are outliers"
    assert row["global_p"] == 1 / 1001  # no draw of 1,000 was as large
    assert np.isnan(row["causal_effect"])
    # One instrument that outweighs the others by 1e20 leaves their slope as it is.
    x, y = np.array([[1, 2, 3, 1e10]]), np.array([[0.5, 1, 1.5, 2e10]])
    with np.errstate(invalid="ignore"):
        slope = presso._leave_one_out(x, y, np.ones((1, 4)))[0]
    np.testing.assert_allclose(slope, [2, 2, 2, 0.5], rtol=1e-12)
    none = mr.estimate(
        [1.0, 0, 0, 0], np.full(4, 0.1), [1.0, 2, 3, 4], np.full(4, 0.1), "presso"
    ).iloc[0]
    assert none["status"].startswith("no finite estimate: fewer than two instruments")


def test_symmetric_data_have_no_effect_or_no_unique_one():
    x, y = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.0, -1, 2, -2, 3, -3])
    s = np.full(6, 0.1)
    assert mr.estimate(x, s, y, s, "ivw")["causal_effect"][0] == 0
    for method in ("mode_simple", "conmix", "hetpen", "raps_simple_tukey"):
        status = mr.estimate(x, s, y, s, method)["status"][0]
        assert status == "not unique: an effect and its opposite fit equally well"
