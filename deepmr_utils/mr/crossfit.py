"""Local effects from weak instruments: some members select them, others say what they do."""

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_number, numbers
from ._rows import Array, Arrays

__all__ = ["cross_fit"]


def cross_fit(
    x: ArrayLike, y: ArrayLike, weight: ArrayLike, allowed: ArrayLike, threshold: float
) -> Arrays:
    """Slopes through the origin, of products of members that had no part in the selection.

    Where the members that select an instrument also say its effects, it is selected for their
    errors, which exposure and outcome share. Here every pair of members is multiplied over the
    instruments that the other members select.

    Parameters
    ----------
    x, y : array_like, float (M, S, V)
        Exposure and outcome effects of V candidates in S sequences by M members, 4 or more.
    weight : array_like, float (S, V)
        Weights, for instance 1 / se_outcome^2; they should not hang on single members.
    allowed : array_like, bool (S, V)
        Candidates; the others and padding may hold anything in the other arrays.
    threshold : float
        Instruments have a mean of at least this many standard deviations (ddof 1) over the
        selecting members, in size.

    Returns
    -------
    tuple of np.ndarray, float64
        Effects (S,) in units of y / x; pseudo-values (M, S), whose variance over members (ddof 1)
        is the B of `deepmr_utils.intervals.total_variance`; number of instruments (S,), its mean
        over pairs. An effect is NaN, and its pseudo-values are, where the pairs' exposures are no
        larger than errors make them.

    Raises
    ------
    ValueError
        If there are fewer than 4 members, shapes differ, the threshold is negative, or a candidate
        has an effect that is not finite or a weight that is not positive.

    Notes
    -----
    With w the weights and A_mn the instruments that all but m and n select, the effect is
    sum_mn sum_A w (x_m y_n + x_n y_m) / (2 sum_mn sum_A w x_m x_n). Errors of members are
    independent, so that neither overlap, nor errors of x, nor selection bias either sum. A
    pseudo-value is M t - (M - 1) t(-m), t(-m) of the pairs without m, instruments unchanged.
    """
    check_number("threshold", threshold, 0)
    x, y, weight = (numbers(a, name) for a, name in ((x, "x"), (y, "y"), (weight, "weight")))
    allowed = np.asarray(allowed, bool)
    if x.ndim != 3 or len(x) < 4 or not y.shape[1:] == weight.shape == allowed.shape == x.shape[1:]:
        raise ValueError(
            "x and y must be (M, S, V) with M >= 4 members, weight and allowed (S, V); got "
            f"{x.shape}, {y.shape}, {weight.shape}, {allowed.shape}: two members are multiplied, "
            "and it takes two to select"
        )
    good = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
    bad = np.argwhere(allowed & ~(good & (weight > 0) & np.isfinite(weight)))
    if len(bad):
        raise ValueError(
            "a candidate must have finite effects and a positive finite weight; not so at row "
            f"{bad[0][0]}, column {bad[0][1]}: do not allow it"
        )
    x, y, weight = np.where(allowed, x, 0), np.where(allowed, y, 0), np.where(allowed, weight, 0)
    members, pairs = len(x), np.array(list(combinations(range(len(x)), 2)))
    products, squares, counts = np.empty((3, x.shape[1], len(pairs)))
    for i, (m, n) in enumerate(pairs):
        others = np.delete(x, (m, n), axis=0)
        selected = allowed & (np.abs(others.mean(axis=0)) >= threshold * others.std(axis=0, ddof=1))
        used = weight * selected
        products[:, i] = (used * (x[m] * y[n] + x[n] * y[m])).sum(axis=1) / 2
        squares[:, i] = (used * x[m] * x[n]).sum(axis=1)
        counts[:, i] = selected.sum(axis=1)
    without = ((pairs != m).all(axis=1) for m in range(-1, members))  # no member is -1
    effect, *rest = (_ratio((products * k).sum(axis=1), (squares * k).sum(axis=1)) for k in without)
    pseudo = members * effect - (members - 1) * np.stack(rest)
    effect = np.where(np.isnan(pseudo).any(axis=0), np.nan, effect)
    return effect, np.where(np.isnan(effect), np.nan, pseudo), counts.mean(axis=1)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient (S,), NaN where the denominator is not positive."""
    return numerator / np.where(denominator > 0, denominator, np.nan)
