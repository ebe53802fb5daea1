"""Products of members over instruments that others selected."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from deepmr_utils.mr.crossfit import cross_fit


def world(strength, effect, members=5, rows=1500, width=100, seed=0):
    """Effects by member whose errors, of sd 1, have a correlation of 0.8; strengths are squared."""
    rng = np.random.default_rng(seed)
    g = rng.choice([-1.0, 1.0], (rows, width)) * np.sqrt(strength)
    e, d = rng.normal(size=(2, members, rows, width))
    return g + e, effect * g + 0.8 * e + 0.6 * d


def brute(x, y, weight, allowed, threshold, members):
    """The effect of some members of one sequence, all members selecting, one product at a time."""
    top = bottom = 0.0
    for m, n in combinations(members, 2):
        others = [k for k in range(len(x)) if k not in (m, n)]
        for v in np.flatnonzero(allowed):
            values = x[others, v]
            if abs(values.mean()) >= threshold * values.std(ddof=1):
                top += weight[v] * (x[m, v] * y[n, v] + x[n, v] * y[m, v])
                bottom += weight[v] * 2 * x[m, v] * x[n, v]
    return top / bottom


@pytest.mark.parametrize("members", [4, 6])
def test_sums_by_hand(members):
    x, y = world(4.0, 0.3, members, rows=3, width=30, seed=members)
    rng = np.random.default_rng(1)
    weight, allowed = rng.uniform(0.5, 2, (3, 30)), rng.random((3, 30)) < 0.8
    effect, pseudo, count = cross_fit(x, y, weight, allowed, 1.5)
    for s in range(3):
        row = x[:, s], y[:, s], weight[s], allowed[s], 1.5
        whole = brute(*row, range(members))
        assert effect[s] == pytest.approx(whole, rel=1e-12)
        for m in range(members):
            rest = brute(*row, [k for k in range(members) if k != m])
            assert pseudo[m, s] == pytest.approx(members * whole - (members - 1) * rest, rel=1e-9)
    assert (count > 0).all()
    assert (count < allowed.sum(axis=1)).all()


def test_without_a_threshold_it_is_the_mean_less_the_covariance():
    x, y = world(4.0, 0.3, rows=4, width=30)
    ones = np.ones((4, 30))
    effect, pseudo, count = cross_fit(x, y, ones, ones > 0, 0)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    shared = ((x - mean_x) * (y - mean_y)).sum(axis=0) / 4
    square = (mean_x**2 - x.var(axis=0, ddof=1) / 5).sum(axis=1)
    np.testing.assert_allclose(effect, (mean_x * mean_y - shared / 5).sum(axis=1) / square)
    assert (count == 30).all()
    np.testing.assert_allclose(pseudo.mean(axis=0), effect, atol=0.1)


def test_alleles_units_padding_and_batch_change_nothing():
    x, y = world(4.0, 0.3, rows=3, width=20)
    weight, allowed = np.ones((3, 20)), np.ones((3, 20), bool)
    base = cross_fit(x, y, weight, allowed, 2)
    turn = np.where(np.arange(20) % 3 == 0, -1, 1)
    for other in (
        cross_fit(turn * x, turn * y, weight, allowed, 2),
        [a * b for a, b in zip(cross_fit(4 * x, 2 * y, weight, allowed, 2), (2, 2, 1), strict=True)],
        [-a if i < 2 else a for i, a in enumerate(cross_fit(x, -y, weight, allowed, 2))],
        cross_fit(
            *(np.pad(a, ((0, 0), (0, 0), (3, 2)), constant_values=np.nan) for a in (x, y)),
            *(np.pad(a, ((0, 0), (3, 2))) for a in (weight, allowed)), 2,
        ),
        cross_fit(x[::-1], y[::-1], weight, allowed, 2),
    ):  # fmt: skip
        np.testing.assert_allclose(other[0], base[0], rtol=1e-12)
        np.testing.assert_allclose(np.sort(other[1], axis=0), np.sort(base[1], axis=0), rtol=1e-9)
        np.testing.assert_allclose(other[2], base[2])
    alone = cross_fit(x[:, 1:2], y[:, 1:2], weight[1:2], allowed[1:2], 2)
    np.testing.assert_array_equal(alone[1], base[1][:, 1:2])


def test_no_effect_without_instruments():
    x, y = world(4.0, 0.3, rows=2, width=20)
    effect, pseudo, count = cross_fit(x, y, np.ones((2, 20)), np.zeros((2, 20), bool), 2)
    assert np.isnan(effect).all()
    assert np.isnan(pseudo).all()
    assert (count == 0).all()


def test_what_is_refused():
    x, y = world(4.0, 0.3, rows=2, width=20)
    ones = np.ones((2, 20))
    with pytest.raises(ValueError, match=r"M >= 4 members.*got \(3, 2, 20\)"):
        cross_fit(x[:3], y[:3], ones, ones > 0, 2)
    with pytest.raises(ValueError, match="threshold must be a number of at least 0; got -1"):
        cross_fit(x, y, ones, ones > 0, -1)
    x[0, 1, 7] = np.nan
    with pytest.raises(ValueError, match="row 1, column 7: do not allow it"):
        cross_fit(x, y, ones, ones > 0, 2)


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_selection_of_weak_instruments_biases_nothing(effect):
    """Selected by all five members at three standard deviations, 0.14 is found in place of 0."""
    x, y = world(3.0, effect)
    ones = np.ones(x.shape[1:])
    estimate, pseudo, count = cross_fit(x, y, ones, ones > 0, 3)
    assert 20 < count.mean() < 40
    error, reps = estimate - effect, len(estimate)
    # A quotient of sums over 30 instruments has a bias of the order of its variance.
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(reps) + 1.5 * error.var()
    assert abs(np.median(error)) < 3 * 1.25 * error.std() / np.sqrt(reps) + 0.002
    half = stats.t.ppf(0.975, 4) * np.sqrt(pseudo.var(axis=0, ddof=1) / 5)
    assert 0.93 < (np.abs(error) <= half).mean() < 0.985
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    same = np.abs(mean_x) >= 3 * x.std(axis=0, ddof=1)
    shared = ((x - mean_x) * (y - mean_y)).sum(axis=0) / 20
    square = (same * (mean_x**2 - x.var(axis=0, ddof=1) / 5)).sum(axis=1)
    naive = (same * (mean_x * mean_y - shared)).sum(axis=1) / square - effect
    assert naive.mean() == pytest.approx(0.131 if effect == 0 else 0.049, rel=0.05)
