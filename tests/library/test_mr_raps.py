"""MR-RAPS against the profile likelihood on a grid, also where errors spread over decades."""

import numpy as np
import pytest

from deepmr_utils import mr
from deepmr_utils.mr import raps


def criterion(theta, tau2, x, sx, y, sy, loss):
    """Sum of losses at thetas (K,), as published."""
    v = tau2 + sy**2 + theta[:, None] ** 2 * sx**2
    t = (y - theta[:, None] * x) / np.sqrt(v)
    if loss == "l2":
        return (t**2).sum(axis=1)
    if loss == "huber":
        c = 1.345
        return np.where(np.abs(t) <= c, t**2, 2 * c * np.abs(t) - c**2).sum(axis=1)
    return (1 - (1 - np.minimum((t / 4.685) ** 2, 1)) ** 3).sum(axis=1)


def grid_minimum(tau2, x, sx, y, sy, loss):
    """Global minimum: a grid about each ratio and over all angles, its best cells refined."""
    some = x != 0
    ratio, error = y[some] / x[some], sy[some] / np.abs(x[some])
    near = ratio[:, None] + error[:, None] * np.linspace(-4, 4, 33)
    far = np.median(np.abs(ratio)) * np.tan(np.linspace(-1.57, 1.57, 801))
    grid = np.unique(np.concatenate([near.ravel(), far]))
    values = criterion(grid, tau2, x, sx, y, sy, loss)
    valleys = np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])) + 1
    ends = []
    for i in valleys[np.argsort(values[valleys])][:3]:
        low, high = grid[i - 1], grid[i + 1]
        for _ in range(12):
            fine = np.linspace(low, high, 17)
            j = int(np.argmin(criterion(fine, tau2, x, sx, y, sy, loss)))
            low, high = fine[max(j - 1, 0)], fine[min(j + 1, 16)]
        ends.append((criterion(fine[[j]], tau2, x, sx, y, sy, loss)[0], fine[j]))
    return min(ends)


def score(theta, tau2, x, sx, y, sy, loss):
    """Left side of the equation of tau2, as published."""
    model = raps._Model(*(a[None] for a in (x, sx**2, y, sy**2)), loss)
    return raps._scores(model, np.array([theta]), np.array([tau2]))[1][0]


def profile(x, sx, y, sy, loss):
    """Largest tau2 at which its equation holds along the profile, and theta there."""
    keep = sx <= 10 * np.median(sx)
    data = [*(a[keep] for a in (x, sx, y, sy)), loss]
    last = None
    for tau2 in np.r_[np.logspace(2, -8, 41) * np.max(y**2), 0]:
        theta = grid_minimum(tau2, *data)[1]
        if score(theta, tau2, *data) > 0:
            break
        last = tau2
    else:
        return theta, 0.0
    low, high = tau2, last
    for _ in range(30):
        tau2 = np.sqrt(low * high)
        theta = grid_minimum(tau2, *data)[1]
        low, high = (tau2, high) if score(theta, tau2, *data) > 0 else (low, tau2)
    return theta, tau2


def decades(seed):
    """40 instruments, exposure standard errors log-uniform over three decades."""
    rng = np.random.default_rng(seed)
    sx, sy, g = 10 ** rng.uniform(-3, 0, 40), np.full(40, 0.05), rng.normal(0, 0.5, 40)
    return g + rng.normal(0, sx), sx, 0.4 * g + rng.normal(0, np.hypot(sy, 0.1)), sy


def ten_imprecise(seed):
    """22 instruments, ten of them a hundred times less precise."""
    rng = np.random.default_rng(seed)
    times = np.where(np.arange(22) < 10, 100, 1)
    sx, sy, g = 0.02 * times, 0.03 * times, rng.normal(0, 0.5, 22)
    return g + rng.normal(0, sx), sx, 0.4 * g + rng.normal(0, np.hypot(sy, 0.1)), sy


@pytest.mark.parametrize("loss", ["l2", "huber", "tukey"])
@pytest.mark.parametrize("data", [decades, ten_imprecise])
def test_errors_over_orders_of_magnitude(data, loss):
    name = "" if loss == "l2" else f"_{loss}"
    for seed in range(12):
        values = data(seed)
        simple = mr.estimate(*values, f"raps_simple{name}").iloc[0]
        least, theta = grid_minimum(0.0, *values, loss)
        assert simple["status"] == "ok"
        assert simple["causal_effect"] == pytest.approx(theta, abs=1e-5 * simple["se"], rel=1e-6)
        assert criterion(np.array([simple["causal_effect"]]), 0.0, *values, loss) <= least + 1e-8
        over = mr.estimate(*values, f"raps_overdispersed{name}").iloc[0]
        assert over["status"] == "ok"
        if seed < 3:
            theta, tau2 = profile(*values, loss)
            assert over["causal_effect"] == pytest.approx(theta, abs=1e-3 * over["se"])
            assert over["tau2"] == pytest.approx(tau2, rel=1e-3, abs=1e-8)


def test_the_least_of_several_minima():
    x, y = [0.9, 1.1, 2.2, -0.3, -0.9, 0.1], [0.3, -0.1, 1.3, 0.0, -0.1, 0.2]
    row = mr.estimate(x, [0.2] * 6, y, [0.2] * 6, "raps_simple_tukey").iloc[0]
    assert row["causal_effect"] == pytest.approx(0.46913, abs=2e-5)
    x, y = np.array([0.5, -1, -1.8, -0.6, -1.5]), np.array([0.2, -2.6, -0.8, -2.4, -1])
    for sign in (1, -1):
        row = mr.estimate(x, [0.2] * 5, sign * y, [0.2] * 5, "raps_simple").iloc[0]
        assert row["causal_effect"] == pytest.approx(sign * 1.62008, abs=1e-5)
        assert row["se"] == pytest.approx(0.15933, abs=1e-5)


@pytest.mark.parametrize("loss", ["l2", "huber", "tukey"])
def test_small_tables_with_outliers_reach_the_global_minimum(loss):
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(0, 1, (60, 6)), 1)
    y = np.round(0.5 * x + rng.normal(0, 0.2, x.shape) + 2 * (rng.random(x.shape) < 0.15), 1)
    s = np.full_like(x, 0.2)
    table = mr.estimate(x, s, y, s, "raps_simple" + ("" if loss == "l2" else f"_{loss}"))
    assert (table["status"] == "ok").sum() >= 58
    for i, row in table[table["status"] == "ok"].iterrows():
        data = x[i], s[i], y[i], s[i], loss
        reached = criterion(np.array([row["causal_effect"]]), 0.0, *data)[0]
        assert reached <= grid_minimum(0.0, *data)[0] + 1e-8


def test_tau2_beyond_the_limit_of_r():
    """Residuals of 30 standard errors: tau2 is not 0 because its root is above R's limit."""
    rng = np.random.default_rng(0)
    x, s = rng.uniform(0.5, 1, 30), np.full(30, 0.02)
    y = 0.5 * x + rng.normal(0, 0.6, 30)
    row = mr.estimate(x, s, y, s, "raps_overdispersed").iloc[0]
    theta, tau2 = profile(x, s, y, s, "l2")
    assert tau2 > 100 * 0.02**2
    assert row["tau2"] == pytest.approx(tau2, rel=1e-3)
    assert row["causal_effect"] == pytest.approx(theta, abs=1e-3 * row["se"])
