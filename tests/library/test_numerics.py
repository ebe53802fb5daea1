"""Numerical tools against what they should give by hand."""

import numpy as np
import pytest

from deepmr_utils import _numerics


def test_half_sample_mode_by_hand():
    # 7 values: the closest 4 are 2.0 to 2.3; of these the closest 2 are 2.0 and 2.05
    values = [9.0, 2.3, 0.0, 2.05, 2.0, 5.0, 2.2]
    assert _numerics.half_sample_mode(values) == pytest.approx(2.025)
    assert _numerics.half_sample_mode([1.0, 2.0, 2.5]) == pytest.approx(2.25)
    assert _numerics.half_sample_mode([1.0, 2.0, 3.0]) == 2.0
    assert _numerics.half_sample_mode([np.nan, 4.0]) == 4.0
    assert np.isnan(_numerics.half_sample_mode([np.nan]))


def test_half_sample_mode_finds_the_larger_of_two_clusters():
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(0, 0.1, 100), rng.normal(3, 0.1, 300)]
    assert _numerics.half_sample_mode(values) == pytest.approx(3, abs=0.2)
    assert _numerics.half_sample_mode(-2 * values) == pytest.approx(-6, abs=0.4)
