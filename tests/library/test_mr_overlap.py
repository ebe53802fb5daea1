"""Errors that exposure and outcome share: equations, checks, and what simulation says of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deepmr_utils import mr
from deepmr_utils.intervals import total_variance
from deepmr_utils.mr.diagnostics import leave_one_out

METHODS = mr.methods().set_index("name")["overlap"]
OVERLAP = METHODS.index[METHODS].tolist()
REPLICATES, INSTRUMENTS, CORRELATION = 2000, 100, 0.8


def errors(rng, *shape):
    """Errors of exposure and outcome, of sd 1, whose correlation is 0.8."""
    e, d = rng.normal(size=(2, *shape))
    return e, CORRELATION * e + np.sqrt(1 - CORRELATION**2) * d


def signs(rng):
    return rng.choice([-1.0, 1.0], (REPLICATES, INSTRUMENTS))


def small(rows=3, width=20, constant=False, seed=0):
    rng = np.random.default_rng(seed)
    sx, sy = rng.uniform(0.05, 0.15, (2, rows, width))
    if constant:
        sx, sy = np.full_like(sx, 0.1), np.full_like(sy, 0.15)
    g, (e, d) = rng.normal(0.4, 0.2, (rows, width)), errors(rng, rows, width)
    return [g + sx * e, sx, 0.6 * g + sy * d, sy, CORRELATION * sx * sy]


def test_methods_that_allow_for_overlap():
    raps = [name for name in mr.REGISTRY if name.startswith("raps")]
    assert ["ivw", "ivw_fixed", "ivw_random", "egger", "divw", *raps] == OVERLAP
    *values, c = small()
    for name in ("ivw_robust", "egger_robust", "egger_paper", "median_simple"):
        drawn = {"draws": 25} if "draws" in mr.REGISTRY[name].options else {}
        base = mr.estimate(*values, name, **drawn)
        pd.testing.assert_frame_equal(mr.estimate(*values, name, covariance=c, **drawn), base)
    for option in ({"robust": True}, {"penalized": True}):
        base = mr.estimate(*values, "ivw", **option)
        with_c = mr.estimate(*values, "ivw", covariance=c, **option)
        pd.testing.assert_frame_equal(with_c, base)


@pytest.mark.parametrize("method", OVERLAP)
def test_a_line_off_the_outcome_takes_the_covariance_away(method):
    """y - (c / sx^2) x has errors of its own, so that its fit without covariance is the reference.

    Slopes differ by c / sx^2, and nothing else does.
    """
    x, sx, y, sy, c = small(constant=True)
    b = (c / sx**2)[0, 0]
    table = mr.estimate(x, sx, y, sy, method, covariance=c)
    free = x, sx, y - b * x, np.sqrt(sy**2 - c**2 / sx**2)
    none = {} if method.startswith(("raps", "divw")) else {"covariance": 0 * c}
    base = mr.estimate(*free, method, **none)
    assert (table["status"] == "ok").all()
    np.testing.assert_allclose(table["causal_effect"], base["causal_effect"] + b, rtol=1e-7)
    rtol = 1e-5 if method.startswith("raps_over") else 1e-7
    names = ["se", *{"tau2", "tau2_se", "scale", "intercept", "intercept_se", "q"} & {*table}]
    for name in names:
        np.testing.assert_allclose(table[name], base[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("method", ["divw", *(m for m in OVERLAP if m.startswith("raps"))])
def test_independent_errors_are_what_these_methods_assume_anyway(method):
    *values, c = small()
    without, with_0 = mr.estimate(*values, method), mr.estimate(*values, method, covariance=0 * c)
    pd.testing.assert_frame_equal(with_0, without)


def test_ivw_with_independent_errors_is_divw():
    *values, c = small()
    ivw = mr.estimate(*values, "ivw_fixed", covariance=0 * c)
    divw = mr.estimate(*values, "divw", overdispersion=False)
    np.testing.assert_allclose(ivw["causal_effect"], divw["causal_effect"], rtol=1e-12)
    np.testing.assert_allclose(ivw["se"], divw["se"], rtol=1e-12)


@pytest.mark.parametrize("method", ["ivw", "ivw_random", "egger"])
def test_without_any_error_of_exposure_these_are_the_usual_lines(method):
    x, sx, y, sy, _ = small()
    exact = np.full_like(sx, 1e-12)
    usual = mr.estimate(x, sx, y, sy, method)
    table = mr.estimate(x, exact, y, sy, method, covariance=0 * exact)
    for name in ("causal_effect", "se", "p", "scale", "q", "intercept", "intercept_se"):
        np.testing.assert_allclose(table[name], usual[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("intercept", [False, True])
def test_normal_equations_and_their_sandwich(intercept):
    """The same by matrices, one row at a time."""
    values = small(seed=4)
    method = "egger" if intercept else "ivw_random"
    table = mr.estimate(*values[:4], method, covariance=values[4])
    for i, (x, sx, y, sy, c) in enumerate(zip(*values, strict=True)):
        turn, w = np.sign(x), 1 / sy**2
        design = np.stack([turn * x, np.ones(20)][: 1 + intercept], axis=1)
        gram, moment = (design.T * w) @ design, (design.T * w) @ (turn * y)
        gram[0, 0] -= (w * sx**2).sum()
        moment[0] -= (w * c).sum()
        solution = np.linalg.solve(gram, moment)
        b = solution[0]
        v, k = sy**2 + b**2 * sx**2 - 2 * b * c, c - b * sx**2
        meat = (design.T * w**2 * v) @ design
        meat[0, 0] += (w**2 * k**2).sum()
        error = np.sqrt(np.diag(np.linalg.inv(gram) @ meat @ np.linalg.inv(gram).T))
        residual, lost = turn * y - design @ solution, 1 + intercept
        scale = np.sqrt((w * residual**2).sum() / (w * v).sum() * 20 / (20 - lost))
        assert table["causal_effect"][i] == pytest.approx(b, rel=1e-9)
        assert table["scale"][i] == pytest.approx(scale, rel=1e-9)
        assert table["se"][i] == pytest.approx(error[0] * max(scale, 1), rel=1e-9)
        assert table["q"][i] == pytest.approx(scale**2 * (20 - lost), rel=1e-9)
        if intercept:
            assert table["intercept"][i] == pytest.approx(solution[1], rel=1e-9)
            assert table["intercept_se"][i] == pytest.approx(error[1] * max(scale, 1), rel=1e-9)


def test_one_instrument():
    x, sx, y, sy, c = 0.5, 0.1, 0.4, 0.2, 0.012
    row = mr.estimate(*([a] for a in (x, sx, y, sy)), "ivw", covariance=[c], effects="random").iloc[
        0
    ]
    b = (x * y - c) / (x**2 - sx**2)
    v, k = sy**2 + b**2 * sx**2 - 2 * b * c, c - b * sx**2
    assert row["causal_effect"] == pytest.approx(b, rel=1e-12)
    assert row["se"] == pytest.approx(np.sqrt(x**2 * v + k**2) / (x**2 - sx**2), rel=1e-12)
    assert np.isnan(row["scale"])


@pytest.mark.parametrize("method", ["ivw", "divw", "egger"])
def test_no_estimate_where_the_exposure_is_error(method):
    x, sx, y, sy, c = (a[0] for a in small())
    row = mr.estimate(x / 100, sx, y, sy, method, covariance=c).iloc[0]
    assert row["status"].startswith("no estimate: exposure effects are no larger than their errors")
    assert np.isnan(row["causal_effect"])


@pytest.mark.parametrize("method", OVERLAP)
def test_one_feature_as_its_own_cause(method):
    """All errors are one error, and the fit is exact: 1, or no estimate, but no warning."""
    x, sx, *_ = small()
    table = mr.estimate(x, sx, x, sx, method, covariance=sx**2)
    assert ((table["causal_effect"] - 1).abs().fillna(0) < 1e-6).all()


def test_checks():
    x, sx, y, sy, c = small()
    half, infinite, short = c.copy(), c.copy(), c[:, 1:]
    half[1, 2], infinite[1, 2] = np.nan, np.inf
    for bad, message in (
        (half, r"known, or NaN in all five \(a half-missing instrument\).*row 1, column 2"),
        (infinite, "covariance must be finite; got inf at row 1, column 2"),
        (short, "the five arrays must have one shape"),
        (5 * c, "half of the instruments have 4 times that or more: they look like covariances "
                "between members, to be divided by their number"),
        (0 * c + 0.8, "or more: they look like correlations, to be multiplied by both"),
        (1e6 * c, "times that or more: they look like those of other numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            mr.estimate(x, sx, y, sy, "ivw", covariance=bad)
    # Standard errors that were made equal are below some covariances of few members.
    above = c.copy()
    above[:, :8] *= 1.5
    assert (mr.estimate(x, sx, y, sy, "ivw", covariance=above)["status"] == "ok").all()


def tidy(values):
    rows, columns = np.indices(values[0].shape).reshape(2, -1)
    table = pd.DataFrame({"sequence_id": [f"s{i}" for i in rows], "position": columns})
    table["reference"], table["alternate"] = "A", "C"
    for name, array in zip([*mr.EFFECTS, "covariance"], values, strict=True):
        table[name] = array.ravel()
    return table


def test_a_table_with_covariances():
    *values, c = small()
    table = tidy([*values, c])
    for method in ("ivw", "egger", "raps_simple", "ivw_robust"):
        local = mr.local_mr(table.sample(frac=1, random_state=0), method)
        local = local.set_index("sequence_id").loc[["s0", "s1", "s2"]].reset_index()
        wanted = mr.estimate(*values, method, covariance=c)
        pd.testing.assert_frame_equal(local.iloc[:, 2:], wanted, rtol=1e-9)
    plain = mr.local_mr(table.drop(columns="covariance"), "ivw")
    pd.testing.assert_frame_equal(plain.iloc[:, 2:], mr.estimate(*values, "ivw"))
    table.loc[3, "covariance"] = np.nan
    with pytest.raises(ValueError, match=r"NaN in all five.*at row 3"):
        mr.local_mr(table, "ivw")


def test_each_instrument_left_out():
    *values, c = (a[0] for a in small())
    table = leave_one_out(*values, "ivw", covariance=c)
    assert table["left_out"].tolist() == list(range(20))
    keep = np.arange(20) != 7
    row = mr.estimate(*(a[keep] for a in values), "ivw", covariance=c[keep]).iloc[0]
    assert table["causal_effect"][7] == pytest.approx(row["causal_effect"], rel=1e-12)
    assert table["se"][7] == pytest.approx(row["se"], rel=1e-12)


def test_strength_is_that_of_one_member_where_its_spread_is_known():
    table = tidy(small())
    plain = mr.local_mr(table, ["ivw", "divw", "egger"])
    table["sd_exposure"] = table["se_exposure"] * np.sqrt(5)
    with_sd = mr.local_mr(table, ["ivw", "divw", "egger"])
    np.testing.assert_allclose(with_sd["f_stat"], plain["f_stat"] / 5)
    columns = plain.columns.drop("f_stat")
    pd.testing.assert_frame_equal(with_sd[columns], plain[columns])
    table.loc[5, "sd_exposure"] = 0
    with pytest.raises(ValueError, match="a standard deviation must be greater than 0"):
        mr.local_mr(table, "ivw")


def unbiased(error, expected=0.0):
    """Whether a mean error is the bias of a quotient, of the order 1 / n, but for 3.5 MC errors."""
    return abs(error.mean() - expected) < 3.5 * error.std() / np.sqrt(len(error))


def covered(table, truth):
    ok = table["status"] == "ok"
    assert ok.all()
    return ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).mean()


@pytest.mark.parametrize("effect", [0.0, 0.5])
@pytest.mark.parametrize(("strength", "plain_bias"), [(10, 0.08), (3, 0.267)])
def test_known_covariance(strength, plain_bias, effect):
    """F is the mean squared z-score of what is given; of plain IVW, 1 / F of the error is bias."""
    rng = np.random.default_rng(strength)
    g = signs(rng) * np.sqrt(strength - 1)
    e, d = errors(rng, *g.shape)
    ones = np.ones(g.shape)
    values, c = (g + e, ones, effect * g + d, ones), CORRELATION * ones
    plain = mr.estimate(*values, "ivw")
    assert plain["f_stat"].mean() == pytest.approx(strength, rel=0.01)
    expected = plain_bias - effect / strength
    assert (plain["causal_effect"] - effect).mean() == pytest.approx(expected, rel=0.03)
    # A quotient's numerator and denominator have a covariance, 2 k E(x^2) an instrument.
    k = CORRELATION - effect
    quotient = -2 * k * strength / (INSTRUMENTS * (strength - 1) ** 2)
    for method in ("ivw", "ivw_fixed", "divw", "raps_simple"):
        table = mr.estimate(*values, method, covariance=c)
        error = table["causal_effect"] - effect
        assert unbiased(error, quotient if method != "raps_simple" else quotient / 4), method
        most = 0.975 if method in ("ivw", "divw") else 0.97  # under-dispersion does not narrow it
        assert 0.93 <= covered(table, effect) <= most, method
        if method == "ivw_fixed":
            assert table["se"].median() == pytest.approx(error.std(), rel=0.06)


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_known_covariance_and_an_intercept(effect):
    """Instruments of |z| from 3 to 9, whose signs errors leave, and pleiotropy of 0.7."""
    rng = np.random.default_rng(7)
    turn, size = signs(rng), rng.uniform(3, 9, (REPLICATES, INSTRUMENTS))
    e, d = errors(rng, *size.shape)
    ones = np.ones(size.shape)
    values = turn * size + e, ones, turn * (0.7 + effect * size) + d, ones
    plain = mr.estimate(*values, "egger")["causal_effect"] - effect
    k = CORRELATION - effect
    assert plain.mean() == pytest.approx(k / (1 + 3), rel=0.05)  # sizes have a variance of 3
    table = mr.estimate(*values, "egger", covariance=CORRELATION * ones)
    error = table["causal_effect"] - effect
    assert unbiased(error, -2 * k * 4 / (INSTRUMENTS * 3**2))
    assert 0.93 <= covered(table, effect) <= 0.975  # under-dispersion does not narrow it


def member_effects(strength, effect, spread=0.0, members=5):
    """Effects by member (M, S, V), whose errors have sd 1; and the truth.

    With a spread each member has a slope of its own, and so has the truth.
    """
    rng = np.random.default_rng(strength)
    g = signs(rng) * np.sqrt(strength)
    truth = effect + spread * rng.normal(size=(REPLICATES, 1))
    slopes = effect + spread * rng.normal(size=(members, REPLICATES, 1))
    e, d = errors(rng, members, *g.shape)
    return g + e, slopes * g + d, truth[:, 0]


def of_members(x, y, divisor=None):
    """Corrected IVW of the mean of members, by `estimate`: se and covariance are the mean's."""
    members = len(x)
    divisor = divisor or members
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    c = ((x - mean_x) * (y - mean_y)).sum(axis=0) / (members - 1)
    se_y = np.full_like(mean_y, 1 / np.sqrt(divisor))
    se_x = x.std(axis=0, ddof=1) / np.sqrt(divisor)
    return mr.estimate(mean_x, se_x, mean_y, se_y, "ivw_fixed", covariance=c / divisor)


@pytest.mark.parametrize("effect", [0.0, 0.5])
@pytest.mark.parametrize(
    ("strength", "plain", "confused"), [(10, 0.0157, -0.0703), (3, 0.05, -0.297)]
)
def test_five_members(strength, plain, confused, effect):
    x, y, _ = member_effects(strength, effect)
    table = of_members(x, y)
    error = table["causal_effect"] - effect
    k = (CORRELATION - effect) / 5
    quotient = -2 * k * (strength + 0.2) / (INSTRUMENTS * strength**2)
    assert unbiased(error, quotient / 5)
    assert 0.93 <= covered(table, effect) <= 0.97
    # Pseudo-values have the error of independent members, and less bias than the estimate.
    rest = [of_members(*(np.delete(a, m, axis=0) for a in (x, y))) for m in range(5)]
    pseudo = 5 * table["causal_effect"].to_numpy() - 4 * np.array(
        [t["causal_effect"] for t in rest]
    )
    assert unbiased(pseudo.mean(axis=0) - effect)
    half = stats.t.ppf(0.975, 4) * np.sqrt(pseudo.var(axis=0, ddof=1) / 5)
    assert 0.93 <= (np.abs(error) <= half).mean() <= 0.975
    # What is found without the correction, and with that of one member's error.
    share = 1 - effect / CORRELATION
    usual = (x.mean(axis=0) * y.mean(axis=0)).sum(axis=1) / (x.mean(axis=0) ** 2).sum(axis=1)
    assert (usual - effect).mean() == pytest.approx(plain * share, rel=0.05)
    wrong = of_members(x, y, divisor=1)["causal_effect"] - effect
    assert wrong.mean() == pytest.approx(confused * share, rel=0.03)


@pytest.mark.parametrize("method", ["divw", "raps_simple"])
def test_weights_of_a_few_members_leave_a_part_of_the_bias(method):
    x, y, _ = member_effects(3, 0.0)
    x, y = x[:, :1000], y[:, :1000]
    c = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).sum(axis=0) / 20
    errors = [x.var(axis=0, ddof=1) / 5, y.var(axis=0, ddof=1) / 5, c]
    found = {}
    for name, (vx, vy, shared) in {
        "own": errors,
        "common": [np.broadcast_to(a.mean(axis=1, keepdims=True), a.shape) for a in errors],
    }.items():
        values = x.mean(axis=0), np.sqrt(vx), y.mean(axis=0), np.sqrt(vy)
        found[name] = mr.estimate(*values, method, covariance=shared)
    assert abs(found["common"]["causal_effect"].mean()) < 0.004  # without the correction 0.05
    assert 0.93 <= covered(found["common"], 0) <= 0.97
    assert covered(found["own"], 0) < 0.9
    if method == "divw":
        assert found["own"]["causal_effect"].mean() == pytest.approx(0.4 * 0.05, rel=0.2)


@pytest.mark.parametrize("strength", [10, 3])
def test_interval_of_what_members_share(strength):
    """The truth differs from what members learned as they differ from each other."""
    x, y, truth = member_effects(strength, 0.3, spread=0.2)
    table = of_members(x, y)
    rest = [of_members(*(np.delete(a, m, axis=0) for a in (x, y))) for m in range(5)]
    pseudo = 5 * table["causal_effect"].to_numpy() - 4 * np.array(
        [t["causal_effect"] for t in rest]
    )
    total, df = total_variance(table["se"] ** 2, pseudo.var(axis=0, ddof=1), 5)
    half = stats.t.ppf(0.975, df) * np.sqrt(total)
    assert 0.93 <= (np.abs(table["causal_effect"] - truth) <= half).mean() <= 0.97
