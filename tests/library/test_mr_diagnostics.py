"""Diagnostics against estimate and hand-computed values."""

import numpy as np
import pandas as pd
import pytest
from mr_reference import DATASETS, padded

from deepmr_utils import mr
from deepmr_utils.mr import diagnostics


def test_diagnostics_gather_what_estimate_reports():
    table = diagnostics.diagnostics(*padded())
    ivw, egger = mr.estimate(*padded(), "ivw"), mr.estimate(*padded(), "egger")
    for name, source, column in (
        ("f_mean", ivw, "f_stat"),
        ("q_ivw", ivw, "q"),
        ("q_egger_p", egger, "q_p"),
        ("i2_gx", egger, "i2_gx"),
        ("intercept_p", egger, "intercept_p"),
    ):
        np.testing.assert_array_equal(table[name], source[column])
    q, df = ivw["q"], ivw["n_instruments"] - 1
    np.testing.assert_allclose(table["i2_ivw"], np.fmax(0, (q - df) / q))


def test_steiger_finds_the_direction():
    rng = np.random.default_rng(0)
    g = rng.normal(0, 1, (200, 50))
    s = np.full(g.shape, 0.1)
    x, y = g + rng.normal(0, s), 0.5 * g + rng.normal(0, s)
    forward = diagnostics.diagnostics(x, s, y, s)
    backward = diagnostics.diagnostics(y, s, x, s)
    assert (forward["steiger_z"] > 3).all()
    np.testing.assert_allclose(backward["steiger_z"], -forward["steiger_z"])
    truth = (g**2).sum(axis=1)
    error = forward["r2_exposure"] - truth
    # Unbiased: the mean error of 200 sequences is within 4 of its standard errors.
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(200)
    scaled = diagnostics.diagnostics(x, s, 10 * y, 10 * s, outcome_sd=10)
    np.testing.assert_allclose(scaled["steiger_z"], forward["steiger_z"])


def test_steiger_holds_its_level_without_a_direction():
    rng = np.random.default_rng(1)
    g = rng.normal(0, 0.3, (4000, 20))
    s = np.full(g.shape, 0.1)
    table = diagnostics.diagnostics(g + rng.normal(0, s), s, g + rng.normal(0, s), s)
    # 4,000 tests at 5 %: a Monte-Carlo standard error of 0.34 %.
    assert abs((table["steiger_p"] < 0.05).mean() - 0.05) < 0.015


def test_single_instruments():
    bx, sx, by, sy = DATASETS["het_n40"]
    table = diagnostics.single_instruments(bx, sx, by, sy)
    np.testing.assert_allclose(table["ratio"], by / bx)
    np.testing.assert_allclose(table["se"], sy / np.abs(bx))
    line = mr.estimate(bx, sx, by, sy, "ivw")
    assert table["q"].sum() == pytest.approx(line["q"][0])
    # In a radial plot the inverse-variance weighted estimate is the slope through the origin.
    slope = (table["radial_x"] * table["radial_y"]).sum() / (table["radial_x"] ** 2).sum()
    assert slope == pytest.approx(line["causal_effect"][0])
    with pytest.raises(ValueError, match="expected one sequence"):
        diagnostics.single_instruments(*padded())


def test_leave_one_out():
    data = np.stack(DATASETS["het_n6"])
    gapped = np.insert(data, 2, np.nan, axis=1)
    table = diagnostics.leave_one_out(*gapped, "egger")
    assert table["left_out"].tolist() == [0, 1, 3, 4, 5, 6]
    for row, i in zip(range(6), table["left_out"], strict=True):
        alone = mr.estimate(*np.delete(gapped, i, axis=1), "egger")
        pd.testing.assert_frame_equal(
            table.iloc[[row], 1:].reset_index(drop=True), alone, rtol=1e-12
        )


def test_bad_input():
    with pytest.raises(ValueError, match="exposure_sd must be a number greater than 0; got 0"):
        diagnostics.diagnostics(*padded(), exposure_sd=0)
    empty = diagnostics.diagnostics(*np.full((4, 2, 3), np.nan))
    assert empty[["f_mean", "r2_exposure", "steiger_p"]].isna().all(axis=None)


def test_perfect_agreement_is_no_heterogeneity():
    x, s = np.array([0.5, 1, 2, 4]), np.full(4, 0.1)
    table = diagnostics.diagnostics(x, s, x / 2, s)
    assert table[["q_ivw", "i2_ivw", "i2_egger"]].to_numpy().tolist() == [[0, 0, 0]]
    one = diagnostics.diagnostics(x[:1], s[:1], x[:1] / 2, s[:1])
    assert one[["i2_ivw", "i2_egger"]].isna().all(axis=None)
