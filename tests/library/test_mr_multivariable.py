"""Several exposures and correlated instruments, against statsmodels, closed forms and estimate."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from mr_reference import DATASETS
from scipy import linalg

from deepmr_utils import mr


def simulated(count=40, exposures=3, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    g = rng.normal(0, 0.5, (count, exposures))
    sx, sy = rng.uniform(0.02, 0.06, (count, exposures)), rng.uniform(0.02, 0.06, count)
    y = g @ [1.0, -0.5, 0.3][:exposures] + rng.normal(0, noise * sy)
    return g + rng.normal(0, sx), sx, y, sy


@pytest.mark.parametrize("method", ["ivw", "egger"])
@pytest.mark.parametrize("correlated", [False, True])
def test_equals_generalised_least_squares(method, correlated):
    x, sx, y, sy = simulated(noise=2.0)
    rho = linalg.toeplitz(0.6 ** np.arange(40)) if correlated else np.eye(40)
    table = mr.multivariable(x, sx, y, sy, method, correlation=rho, distribution="t")
    sign = np.where(x[:, 0] < 0, -1, 1) if method == "egger" else np.ones(40)
    design = x * sign[:, None]
    if method == "egger":
        design = sm.add_constant(design)
    rho = rho * np.outer(sign, sign)
    fit = sm.GLS(y * sign, design, rho * np.outer(sy, sy)).fit()
    assert table["scale"][0] == pytest.approx(np.sqrt(fit.scale), rel=1e-10)
    assert table["scale"][0] > 1  # so that both use the same dispersion
    np.testing.assert_allclose(table["causal_effect"], fit.params[-3:], rtol=1e-10)
    np.testing.assert_allclose(table["se"], fit.bse[-3:], rtol=1e-10)
    np.testing.assert_allclose(table["p"], fit.pvalues[-3:], rtol=1e-8)
    np.testing.assert_allclose(table[["ci_low", "ci_high"]], fit.conf_int()[-3:], rtol=1e-9)
    if method == "egger":
        assert table["intercept"][1] == pytest.approx(fit.params[0], rel=1e-9)
        assert table["intercept_p"][1] == pytest.approx(fit.pvalues[0], rel=1e-8)


@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_one_exposure_is_the_univariable_estimate(method):
    data = DATASETS["het_n40"]
    table = mr.multivariable(*data, method)
    single = mr.estimate(*data, "ivw_random" if method == "ivw" else "egger")
    for name in ("causal_effect", "se", "p", "scale", "q", "q_p"):
        assert table[name][0] == pytest.approx(single[name][0], rel=1e-10)
    if method == "ivw":
        assert table["conditional_f"][0] == pytest.approx(single["f_stat"][0], rel=1e-10)


def test_conditional_f_falls_as_exposures_become_collinear():
    x, sx, y, sy = simulated(exposures=2)
    independent = mr.multivariable(x, sx, y, sy)["conditional_f"]
    near = x.copy()
    near[:, 1] = x[:, 0] + np.random.default_rng(1).normal(0, 0.05, 40)
    collinear = mr.multivariable(near, sx, y, sy)["conditional_f"]
    assert (independent > 20).all()
    # What tells the two apart is 0.05 wide and measured with errors of about 0.05: F near 1.
    assert (collinear < 5).all()


def test_padding_order_and_names():
    x, sx, y, sy = simulated()
    table = mr.multivariable(pd.DataFrame(x, columns=["a", "b", "c"]), sx, y, sy)
    assert table["exposure"].tolist() == ["a", "b", "c"]
    pad = [np.concatenate([a, np.full_like(a[:3], np.nan)])[::-1] for a in (x, sx, y, sy)]
    np.testing.assert_allclose(
        mr.multivariable(*pad)["causal_effect"], table["causal_effect"], rtol=1e-12
    )
    assert (table["n_instruments"] == 40).all()


def test_degenerate_input_is_a_status():
    x, sx, y, sy = simulated(count=3)
    assert mr.multivariable(x, sx, y, sy)["status"][0] == "too few instruments: 3 of at least 4"
    x, sx, y, sy = simulated(exposures=2)
    same = mr.multivariable(np.column_stack([x[:, 0], x[:, 0]]), sx, y, sy)
    assert same["status"][0] == "exposure effects are collinear"
    assert same["se"].isna().all()


def test_nearly_collinear_exposures_have_their_true_standard_errors():
    """Right values by mpmath, 80 digits."""
    x, d = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1, -1, 1, 1, -1, -1.0])
    y, s = np.array([0.5, 0.9, 1.6, 2.1, 2.4, 3.1]), np.full(6, 0.1)
    for e, se in ((1e-6, 41792.83), (1e-7, 417928.35), (1e-10, 417928317.5), (1e-12, np.nan)):
        table = mr.multivariable(np.column_stack([x, x + e * d]), np.full((6, 2), 0.05), y, s)
        if np.isnan(se):
            assert (table["status"] == "exposure effects are collinear").all()
        else:
            assert table["se"][0] == pytest.approx(se, rel=1e-4)


@pytest.mark.parametrize("rel", [1e-7, 1e-9, 1e-10])
@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_twin_exposures(rel, method):
    """With (x, twin - x) as exposures the design is well-conditioned, and the effects are theirs."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = np.abs(rng.normal(size=40))
        twin = x * (1 + rel * rng.normal(size=40))
        y, s = 0.4 * x + 0.05 * rng.normal(size=40), np.full(40, 0.05)
        errors = np.full((40, 2), 0.05)
        table = mr.multivariable(np.column_stack([x, twin]), errors, y, s, method)
        apart = mr.multivariable(np.column_stack([x, (twin - x) / rel]), errors, y, s, method)
        assert table["se"][1] == pytest.approx(apart["se"][1] / rel, rel=1e-5)
        assert table["causal_effect"][1] == pytest.approx(
            apart["causal_effect"][1] / rel, rel=1e-4, abs=1e-4 * apart["se"][1] / rel
        )


@pytest.mark.parametrize("unit", [1e-15, 1e-100, 1e100, 1e-200])
def test_units_do_not_make_exposures_collinear(unit):
    x, sx, y, sy = simulated()
    scale = np.array([1, unit, 1])
    base, table = mr.multivariable(x, sx, y, sy), mr.multivariable(x * scale, sx * scale, y, sy)
    z, other = (t["causal_effect"] / t["se"] for t in (base, table))
    np.testing.assert_allclose(other, z, rtol=1e-10)
    np.testing.assert_allclose(table["conditional_f"], base["conditional_f"], rtol=1e-10)
    moved = mr.multivariable(x, sx, y * unit, sy * unit, "egger")
    base = mr.multivariable(x, sx, y, sy, "egger")
    np.testing.assert_allclose(moved["se"] / unit, base["se"], rtol=1e-10)
    np.testing.assert_allclose(moved["q"], base["q"], rtol=1e-10)


def test_alleles_of_an_instrument_that_does_not_affect_the_first_exposure():
    x, sx, y, sy = simulated()
    x[3, 0], x[7] = 0, 0
    swap = np.where(np.isin(np.arange(40), [2, 3, 7]), -1, 1)
    for method in ("ivw", "egger"):
        base = mr.multivariable(x, sx, y, sy, method)
        other = mr.multivariable(x * swap[:, None], sx, y * swap, sy, method)
        np.testing.assert_allclose(other["causal_effect"], base["causal_effect"], rtol=1e-10)
        np.testing.assert_allclose(other["se"], base["se"], rtol=1e-10)


def test_correlation_may_be_unknown_for_padding_only():
    x, sx, y, sy = simulated()
    rho = linalg.toeplitz(0.6 ** np.arange(40))
    rho[5], rho[:, 5] = np.nan, np.nan
    with pytest.raises(ValueError, match="got nan in row 0, column 5"):
        mr.multivariable(x, sx, y, sy, correlation=rho)
    padded = [np.where(np.arange(40).reshape(-1, *[1] * (a.ndim - 1)) == 5, np.nan, a)
              for a in (x, sx, y, sy)]  # fmt: skip
    kept = np.arange(40) != 5
    base = mr.multivariable(*(a[kept] for a in (x, sx, y, sy)), correlation=rho[np.ix_(kept, kept)])
    table = mr.multivariable(*padded, correlation=rho)
    np.testing.assert_allclose(table["se"], base["se"], rtol=1e-12)


def test_bad_input():
    x, sx, y, sy = simulated()
    for arguments, options, message in (
        ((x, sx[:5], y, sy), {}, r"expected exposures \(V, P\)"),
        (
            (x, 0 * sx, y, sy),
            {},
            "se_exposure must be greater than 0; got 0.0 at row 0 of exposure 0",
        ),
        ((x, sx, y * np.nan, sy), {}, "beta_outcome must be known.*got nan at row 0 of"),
        ((x + np.inf, sx, y, sy), {}, "beta_exposure must be finite"),
        ((x, sx, y, sy), {"method": "median"}, "unknown method 'median'"),
        ((x, sx, y, sy), {"correlation": np.eye(3)}, r"shape \(40, 40\)"),
        ((x, sx, y, sy), {"correlation": np.ones((40, 40))}, "positive definite"),
        ((x, sx, y, sy), {"correlation": 2 * np.eye(40)}, "ones on its diagonal"),
    ):
        with pytest.raises(ValueError, match=message):
            mr.multivariable(*arguments, **options)


def test_correlation_from_members_is_usable_and_better_than_none():
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(60, 3))
    covariance = loadings @ loadings.T + np.eye(60)
    sd = np.sqrt(np.diag(covariance))
    truth = covariance / np.outer(sd, sd)
    members = rng.multivariate_normal(np.zeros(60), covariance, size=30)
    rho = mr.correlation_from_members(members)
    np.testing.assert_allclose(np.diag(rho), 1, rtol=1e-9)
    assert np.linalg.eigvalsh(rho)[0] > 0
    assert np.linalg.norm(rho - truth) < 0.6 * np.linalg.norm(np.eye(60) - truth)


def test_correlation_widens_intervals_that_ignore_it():
    rho = linalg.toeplitz(0.9 ** np.arange(40))
    x = np.full(40, 0.5)
    s = np.full(40, 0.05)
    y = 0.5 * x
    naive = mr.multivariable(x, s, y, s)["se"][0]
    # Of equal and equally correlated instruments the information is that of their mean.
    assert mr.multivariable(x, s, y, s, correlation=rho)["se"][0] > 2 * naive
    exact = 0.05 / 0.5 / np.sqrt(np.linalg.inv(rho).sum())
    assert mr.multivariable(x, s, y, s, correlation=rho)["se"][0] == pytest.approx(exact)


def test_correlation_from_members_rejects_bad_input():
    members = np.random.default_rng(0).normal(size=(5, 4))
    for value, message in (
        (members[:2], "at least 3 members"),
        (members * [1, 1, 0, 1], "must be finite, and differ .* of instrument 2: drop it"),
    ):
        with pytest.raises(ValueError, match=message):
            mr.correlation_from_members(value)


def test_names_of_a_data_frame():
    x, sx, y, sy = simulated()
    table = pd.DataFrame(x, columns=["Oct4", "Sox2", "Nanog"])
    errors = pd.DataFrame(sx * [1, 2, 3], columns=table.columns)
    got = mr.multivariable(table, errors, y, sy)
    assert got["exposure"].tolist() == ["Oct4", "Sox2", "Nanog"]
    # standard errors are those of their column, wherever it stands
    pd.testing.assert_frame_equal(mr.multivariable(table, errors.iloc[:, ::-1], y, sy), got)


def test_a_correlation_that_lacks_values_says_where():
    x, sx, y, sy = simulated()
    rho = np.eye(40)
    rho[3, 7] = rho[7, 3] = np.nan
    with pytest.raises(
        ValueError, match=r"correlation must hold a number .* got nan in row 3, column 7"
    ):
        mr.multivariable(x, sx, y, sy, correlation=rho)
    with pytest.raises(ValueError, match="got nan in row 3, column 7"):
        mr.multivariable(x, sx, y, sy, correlation=np.ma.array(np.eye(40), mask=np.isnan(rho)))
    rho[3], rho[:, 3] = np.nan, np.nan
    with pytest.raises(ValueError, match="got nan in row 0, column 3"):
        mr.multivariable(x, sx, y, sy, correlation=rho)
    rho[7, 3], others = np.nan, np.arange(40) != 3
    x[3], sx[3], y[3], sy[3] = np.nan, np.nan, np.nan, np.nan  # of padding nothing is asked
    got = mr.multivariable(x, sx, y, sy, correlation=rho)
    want = mr.multivariable(*(a[others] for a in (x, sx, y, sy)))
    pd.testing.assert_frame_equal(got, want)
    with pytest.raises(ValueError, match=r"exposure_correlation must hold .* row 0, column 1"):
        mr.multivariable(x, sx, y, sy, exposure_correlation=np.where(np.eye(3), 1, np.nan))
    rho = np.eye(40)
    rho[1, 2] = 0.4
    rho[3, 3] = np.inf
    with pytest.raises(ValueError, match="got inf in row 3, column 3"):
        mr.multivariable(*simulated(), correlation=rho)
    with pytest.raises(ValueError, match=r"must be finite.* nan .*of instrument 0"):
        mr.correlation_from_members([[1, 2], [np.nan, 3], [4, 5]])
