"""Errors that exposure and outcome share: the estimators that the notebook compares."""

import numpy as np
import pytest

from deepmr_utils import mr
from experiments import one_sample

SIZE = {"datasets": 40, "instruments": 30, "seed": 1}


def test_strength_is_that_of_the_mean_by_the_sd_of_a_member():
    for members in (1, 5):
        drawn = one_sample.draw(
            4.0, 0.5, 0.8, members=members, datasets=2000, instruments=30, seed=0
        )
        assert (drawn.x.mean(0) ** 2).mean() == pytest.approx(4.0, rel=0.01)
    errors = [(a - a.mean(0)).ravel() for a in drawn]
    assert np.corrcoef(errors)[0, 1] == pytest.approx(0.8, abs=0.01)


def test_members_are_corrected_as_the_library_does_it():
    x, y = drawn = one_sample.draw(10.0, 0.5, 0.8, members=5, **SIZE)
    table = one_sample.of_members(drawn).set_index("estimator")
    mean_x, mean_y, m = x.mean(0), y.mean(0), 5
    c = ((x - mean_x) * (y - mean_y)).sum(0) / (m - 1)
    given = mean_x, x.std(0, ddof=1) / m**0.5, mean_y, y.std(0, ddof=1) / m**0.5
    for name, shared in ((one_sample.PLAIN, None), (one_sample.CORRECTED, c / m)):
        wanted = mr.estimate(*given, "ivw", covariance=shared, weights="equal")["causal_effect"]
        np.testing.assert_allclose(table.loc[name, "estimate"], wanted, rtol=1e-9)
    wrong = (mean_x * mean_y - c).sum(1) / (mean_x**2 - x.var(0, ddof=1)).sum(1)
    np.testing.assert_allclose(table.loc[one_sample.WRONG, "estimate"], wrong, rtol=1e-9)


def test_without_a_threshold_nothing_is_selected_and_cross_fitting_is_the_correction():
    drawn = one_sample.draw(10.0, 0.0, 0.8, members=5, **SIZE)
    table, counts = one_sample.after_selection(drawn, 0.0)
    wide = {name: rows["estimate"].to_numpy() for name, rows in table.groupby("estimator")}
    np.testing.assert_allclose(wide[one_sample.CROSSED], wide[one_sample.CORRECTED], rtol=1e-9)
    assert counts.tolist() == [30, 30]


def test_scores():
    drawn = one_sample.draw(10.0, 0.0, 0.8, members=1, **SIZE)
    table = one_sample.known(drawn, 0.8)
    scores = one_sample.score(table, 0.0)
    plain = table[table["estimator"] == one_sample.PLAIN]
    assert scores.loc[one_sample.PLAIN, "bias"] == pytest.approx(plain["estimate"].mean())
    held = (plain["estimate"].abs() <= plain["half"]).mean()
    assert scores.loc[one_sample.PLAIN, "coverage"] == held
