"""Model averaging and MR-PRESSO against direct calculations of their definitions."""

from itertools import combinations

import numpy as np
import pytest
from mr_reference import DATASETS

from deepmr_utils import mr


@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_hetpen_equals_its_definition_on_a_grid(prior):
    rng = np.random.default_rng(3)
    bx, sx, sy = rng.normal(0, 0.5, 8), np.full(8, 0.05), rng.uniform(0.03, 0.08, 8)
    by = np.where(np.arange(8) < 5, 1.0, 2.0) * bx + rng.normal(0, sy)
    ratio, se = by / bx, sy / np.abs(bx)
    grid, density = np.arange(-1, 4, 5e-4), 0
    for size in range(2, 9):
        for chosen in combinations(range(8), size):
            r, s = ratio[list(chosen)], se[list(chosen)]
            mean, total = (r / s**2).sum() / (1 / s**2).sum(), (1 / s**2).sum()
            q = (((r - mean) / s) ** 2).sum()
            weight = prior**size * (1 - prior) ** (8 - size) * np.exp(-q / 2) / s.prod()
            sd = max(1, np.sqrt(q / (size - 1))) / np.sqrt(total)
            density = density + weight / sd * np.exp(-(((grid - mean) / sd) ** 2) / 2)
    inside = grid[2 * np.log(density) > 2 * np.log(density.max()) - 3.841459]
    row = mr.estimate(bx, sx, by, sy, "hetpen", prior=prior).iloc[0]
    assert row["causal_effect"] == pytest.approx(grid[np.argmax(density)], abs=5e-4)
    assert row["ci_low"] == pytest.approx(inside.min(), abs=6e-4)
    assert row["ci_high"] == pytest.approx(inside.max(), abs=6e-4)
    assert row["n_intervals"] == 1 + (np.diff(inside) > 6e-4).sum()


def test_hetpen_rejects_an_impossible_prior():
    with pytest.raises(ValueError, match="prior must lie between 0 and 1"):
        mr.estimate(*DATASETS["homog_n5"], "hetpen", prior=1.0)


def outlying(n_outliers, rows=100, width=30, seed=0):
    rng = np.random.default_rng(seed)
    bx = rng.uniform(0.3, 0.8, (rows, width))
    s = np.full(bx.shape, 0.05)
    by = 0.7 * bx + rng.normal(0, s)
    by[:, :n_outliers] += 0.6
    return bx + rng.normal(0, s / 5), s / 5, by, s


def test_presso_finds_outliers_and_corrects():
    table = mr.estimate(*outlying(3), "presso")
    raw = mr.estimate(*outlying(3), "ivw_random")
    # no draw is as extreme: (0 + 1) / (1,000 + 1), and never 0
    np.testing.assert_allclose(table["global_p"], 1 / 1001, rtol=1e-12)
    assert (table["n_outliers"] >= 3).all()
    assert table["n_outliers"].mean() < 5  # the slope they pull makes others look outlying
    assert abs(table["causal_effect"].mean() - 0.7) < 0.01
    assert raw["causal_effect"].mean() > 0.78
    change = (raw["causal_effect"] - table["causal_effect"]) / table["causal_effect"].abs()
    np.testing.assert_allclose(table["distortion"], change, rtol=1e-9)
    assert (table["distortion_p"] < 0.5).all()


def test_presso_without_outliers_is_ivw_and_holds_its_level():
    data = outlying(0, rows=400)
    table, ivw = mr.estimate(*data, "presso"), mr.estimate(*data, "ivw_random")
    clean = table["n_outliers"] == 0
    np.testing.assert_allclose(table["causal_effect"][clean], ivw["causal_effect"][clean])
    np.testing.assert_allclose(table["se"][clean], ivw["se"][clean])
    # 400 tests at 5 %: a Monte-Carlo standard error of 1.1 %.
    assert abs((table["global_p"] < 0.05).mean() - 0.05) < 0.035
    assert table.loc[clean, ["distortion", "distortion_p"]].isna().all(axis=None)
