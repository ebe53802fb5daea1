"""What several fits do with every row of a block: quantiles, deviations, weighted lines."""

from typing import NamedTuple

import numpy as np

from .._numerics import RANK

Array = np.ndarray
Arrays = tuple[Array, ...]


class Line(NamedTuple):
    """Lines of (S,) rows, all float64 but `converged`, bool."""

    slope: Array
    intercept: Array
    slope_se: Array
    intercept_se: Array
    scale: Array
    converged: Array


def row_quantile(values: Array, used: Array, level: float = 0.5) -> Array:
    """Quantile (.., S) of the `used` (S, V) of values (.., S, V), by linear interpolation."""
    n = used.sum(axis=-1)
    at = level * (n - 1)
    below = np.floor(at).astype(np.intp)
    places = np.stack([below, np.fmin(below + 1, n - 1)], axis=-1)
    ordered = np.sort(np.where(used, values, np.inf), axis=-1)
    places = np.broadcast_to(places, (*ordered.shape[:-1], 2))
    low, high = np.moveaxis(np.take_along_axis(ordered, places, axis=-1), -1, 0)
    return (1 - (at - below)) * low + (at - below) * high


def centred(x: Array, y: Array, weight: Array, intercept: bool) -> Arrays:
    """Weighted means (S,) of x and y, 0 without an intercept, and deviations (S, V) from them."""
    mean_x, mean_y, dx, dy = np.zeros(len(x)), np.zeros(len(x)), x, y
    total = weight.sum(axis=1)
    # Twice: what rounding left of the means matters where all x are nearly the same.
    for _ in range(2 if intercept else 0):
        rest_x, rest_y = ((weight * d).sum(axis=1) / total for d in (dx, dy))
        mean_x, mean_y = mean_x + rest_x, mean_y + rest_y
        dx, dy = dx - rest_x[:, None], dy - rest_y[:, None]
    return mean_x, mean_y, dx, dy


def weighted_line(x: Array, y: Array, weight: Array, n: Array, *, intercept: bool) -> Line:
    """Fit y = intercept + slope x by weighted least squares in every row.

    Parameters
    ----------
    x, y, weight : np.ndarray, float64 (S, V)
        Points and their weights; padding has weight 0.
    n : np.ndarray, int (S,)
        Number of points of a row.
    intercept : bool
        Whether the line has an intercept; without one it passes through the origin.

    Returns
    -------
    Line
        Standard errors are those of a unit residual variance; `scale` is the residual standard
        error, sqrt(sum w r^2 / (n - p)). All is NaN where the points have no slope: all x 0, or
        with an intercept equal but for rounding.
    """
    # Centred sums keep their digits when the exposure effects are nearly constant.
    mean_x, mean_y, dx, dy = centred(x, y, weight, intercept)
    weighted_dx = weight * dx
    information = (weighted_dx * dx).sum(axis=1)
    # The design's columns have no rank 2 where x differ from their mean by rounding only.
    determined = information > RANK**2 * (weight * x * x).sum(axis=1)
    information = np.where(determined, information, np.nan)
    slope = (weighted_dx * dy).sum(axis=1) / information
    residual = dy - slope[:, None] * dx
    freedom = n - (2 if intercept else 1)
    return Line(
        slope,
        mean_y - slope * mean_x,
        np.sqrt(1 / information),
        np.sqrt(1 / weight.sum(axis=1) + mean_x**2 / information),
        np.sqrt((weight * residual**2).sum(axis=1) / np.where(freedom > 0, freedom, np.nan)),
        np.ones(len(n), bool),
    )
