"""Estimators that trust the ratios most instruments agree on.

Medians and modes of ratio estimates, the contamination mixture, and averaging over subsets of
instruments: all stay consistent when a part of the instruments is invalid.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import fft, special

from .._numerics import BLOCK, blocks, highest
from ._rows import Array, Arrays, row_quantile
from .linear import Distribution, Fit, Instruments, summary

MAD = 1.4826  # makes the median absolute deviation of a normal its standard deviation
GRID = 512  # points of a kernel density, as in R
LEAST_BANDWIDTH = 1e-8  # of the ratios' errors and size, where more than half of them are equal
UNINFORMATIVE = 1000  # times the median standard error of a ratio: it says nothing of their spread
CHI2_95 = special.chdtri(1, 0.05)


def bootstrap(
    statistic: Callable[[Array, slice], Array],
    center: Arrays,
    spread: Arrays,
    draws: int,
    seed: int,
    row_size: int,
) -> Array:
    """Parametric bootstrap of a statistic of ratios.

    Parameters
    ----------
    statistic : callable
        Maps ratios (D, R, V) of some rows, and the slice of those rows, to statistics (D, R).
    center, spread : tuple of np.ndarray, float64 (S, V)
        Means and standard deviations of normal draws: of outcome and exposure effects, whose
        quotient is the ratio, or of the ratio alone.
    draws : int
        Number of draws.
    seed : int
        The draws' seed. All sequences share the standard normal draws, instrument by instrument,
        so an estimate does not depend on the batch; their standard errors' Monte-Carlo errors are
        correlated for that reason.
    row_size : int
        Elements that the statistic works on for one draw of one sequence.

    Returns
    -------
    np.ndarray, float64 (draws, S)
    """
    rows, width = center[0].shape
    # One stream a quantity, filled instrument by instrument: the width of a block changes nothing.
    streams = np.random.default_rng(seed).spawn(len(center))
    noise = [stream.standard_normal((width, draws)).T for stream in streams]
    quantities = list(zip(center, spread, noise, strict=True))
    result = np.empty((draws, rows))
    for part in blocks(rows, row_size):
        step = max(1, BLOCK // (row_size * (part.stop - part.start)))
        for first in range(0, draws, step):
            drawn = slice(first, first + step)
            values = [c[part] + s[part] * e[drawn, None] for c, s, e in quantities]
            ratio = values[0] if len(values) == 1 else values[0] / values[1]
            result[drawn, part] = statistic(ratio, part)
    return result


def weighted_median(ratio: Array, weight: Array, n: Array) -> Array:
    """Median of ratios (.., S, V) by the interpolated cumulative weight (S, V).

    The first n ratios count, others are infinite and of weight 0. Where one end holds more than
    half of the weight, it is the median.
    """
    order = np.argsort(ratio, axis=-1, kind="stable" if ratio.ndim == 2 else None)
    sorted_weight = np.take_along_axis(np.broadcast_to(weight, ratio.shape), order, axis=-1)
    cumulated = np.cumsum(sorted_weight, axis=-1) - sorted_weight / 2
    cumulated /= weight.sum(axis=-1)[:, None]
    below = (cumulated < 0.5).sum(axis=-1) - 1
    low, high = np.fmax(below, 0), np.fmin(below + 1, n - 1)

    def at(values: Array, place: Array) -> Array:
        return np.take_along_axis(values, place[..., None], axis=-1)[..., 0]

    ratio_low, ratio_high = (at(ratio, at(order, place)) for place in (low, high))
    reach = at(cumulated, high) - at(cumulated, low)
    share = np.where(reach > 0, (0.5 - at(cumulated, low)) / reach, 0)
    return ratio_low + share * (ratio_high - ratio_low)


def _ordered_ties(ratio: Array, weight: Array) -> Arrays:
    """Sort ratios (S, V) and their weights; of ratios equal but for rounding, by their weights.

    The interpolation asks which of them is first, and rounding must not answer.
    """
    order = np.argsort(ratio, axis=1)
    ratio, weight = (np.take_along_axis(a, order, axis=1) for a in (ratio, weight))
    new = ~(np.diff(ratio, axis=1, prepend=-np.inf) <= 1e-11 * np.abs(ratio)) | np.isinf(ratio)
    first = np.maximum.accumulate(np.where(new, np.arange(ratio.shape[1]), 0), axis=1)
    ratio = np.take_along_axis(ratio, first, axis=1)
    order = np.lexsort((weight, ratio), axis=1)
    return ratio, np.take_along_axis(weight, order, axis=1)


def median(
    data: Instruments,
    *,
    weighting: Literal["simple", "weighted", "penalized"] = "weighted",
    distribution: Distribution = "normal",
    draws: int = 1000,
    seed: int = 0,
) -> Fit:
    """Median of the ratio estimates.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    weighting : {"simple", "weighted", "penalized"}
        Equal weights; inverse variances; those times min(1, 20 p), p of the distance from the
        weighted median.
    distribution : {"normal", "t"}
        Reference distribution; t has n - 1 degrees of freedom.
    draws, seed : int
        Of the bootstrap standard error, whose weights are kept fixed; see `bootstrap`.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`.

    Notes
    -----
    Bowden, Davey Smith, Haycock and Burgess (2016), Genet Epidemiol 40:304.
    """
    ratio = np.where(data.mask, data.y / data.x, np.inf)
    weight = data.mask.astype(float) if weighting == "simple" else (data.x / data.sy) ** 2

    def middle(weight: Array) -> Array:
        return weighted_median(*_ordered_ties(ratio, weight), data.n)

    if weighting == "penalized":
        distance = ratio - middle(weight)[:, None]
        penalty = np.fmin(1, 20 * special.chdtrc(1, weight * distance**2))
        weight = np.where(data.mask, weight * penalty, 0)
    center = np.where(data.mask, data.y, 1), data.x
    spread = np.where(data.mask, data.sy, 0), np.where(data.mask, data.sx, 0)

    def statistic(ratios: Array, rows: slice) -> Array:
        return weighted_median(ratios, weight[rows], data.n[rows])

    se = bootstrap(statistic, center, spread, draws, seed, data.x.shape[1]).std(axis=0, ddof=1)
    return summary(middle(weight), se, distribution=distribution, df=data.n - 1)


def mode(
    data: Instruments,
    *,
    weighting: Literal["simple", "weighted"] = "weighted",
    stderror: Literal["delta", "simple"] = "delta",
    phi: float = 1.0,
    distribution: Distribution = "normal",
    draws: int = 1000,
    seed: int = 0,
) -> Fit:
    """Mode of the smoothed distribution of the ratio estimates.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    weighting : {"simple", "weighted"}
        Equal weights or inverse variances.
    stderror : {"delta", "simple"}
        Variance of a ratio: with or without the error of the exposure effect.
    phi : float
        Factor of the bandwidth, 0.9 min(sd, mad) / n^(1/5), which is 0 where more than half of the
        ratios agree; then a very small one takes its place, and the mode is the common ratio.
    distribution : {"normal", "t"}
        Reference distribution; t has n - 1 degrees of freedom.
    draws, seed : int
        Of the bootstrap standard error; see `bootstrap`.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, and `bandwidth`.

    Notes
    -----
    Hartwig, Davey Smith and Bowden (2017), Int J Epidemiol 46:1985.
    """
    mask = data.mask
    ratio = np.where(mask, data.y / data.x, np.inf)
    variance = (data.sy / data.x) ** 2
    if stderror == "delta":
        variance = variance + (data.y * data.sx / data.x**2) ** 2
    weight = np.where(mask, 1 if weighting == "simple" else 1 / variance, 0)
    error = data.sy / data.x
    used = _informative(error, mask)
    size = row_quantile(np.abs(ratio), mask) + row_quantile(error, mask)
    bandwidth = np.fmax(_bandwidth(ratio, mask, phi), LEAST_BANDWIDTH * size)
    estimate = _exact_mode(np.where(mask, ratio, 0), weight, bandwidth)
    spread = np.where(mask, np.sqrt(variance), 0)

    def statistic(ratios: Array, rows: slice) -> Array:
        return _grid_mode(ratios, weight[rows], used[rows], mask[rows], phi)

    draw = bootstrap(statistic, (ratio,), (spread,), draws, seed, GRID)
    se = MAD * np.median(np.abs(draw - np.median(draw, axis=0)), axis=0)
    result = summary(estimate, se, distribution=distribution, df=data.n - 1)
    return result | {"bandwidth": bandwidth}


def _sd(values: Array, used: Array) -> Array:
    """Standard deviation (.., S) of the `used` (S, V) of values (.., S, V)."""
    n = used.sum(axis=-1)
    mean = np.where(used, values, 0).sum(axis=-1) / n
    square = np.where(used, (values - mean[..., None]) ** 2, 0)
    return np.sqrt(square.sum(axis=-1) / (n - 1))


def _bandwidth(ratio: Array, mask: Array, phi: float) -> Array:
    """Modified Silverman bandwidth (.., S) of the ratios (.., S, V) of a mask (S, V)."""
    middle = row_quantile(ratio, mask)
    mad = MAD * row_quantile(np.abs(ratio - middle[..., None]), mask)
    return phi * 0.9 * np.fmin(_sd(ratio, mask), mad) / mask.sum(axis=-1) ** 0.2


def _exact_mode(ratio: Array, weight: Array, bandwidth: Array) -> Array:
    """Highest point (S,) of Gaussian kernel densities: from the highest ratio by mean shift."""

    def bells(at: Array, rows: slice) -> Array:
        z = (at[..., None] - ratio[rows, None]) / bandwidth[rows, None, None]
        return np.exp(-z * z / 2) * weight[rows, None]

    mode = np.empty(len(ratio))
    for rows in blocks(len(ratio), ratio.shape[1] ** 2):
        density = np.where(weight[rows] > 0, bells(ratio[rows], rows).sum(axis=2), -1)
        top = np.take_along_axis(ratio[rows], highest(density, ratio[rows])[:, None], axis=1)
        for _ in range(1000):
            share = bells(top, rows)
            moved = (share * ratio[rows, None]).sum(axis=2) / share.sum(axis=2)
            change, top = np.abs(moved - top), moved
            if not (change > 1e-12 * bandwidth[rows, None] + 1e-15 * np.abs(top)).any():
                break
        mode[rows] = top[:, 0]
    return mode


def _grid_mode(ratio: Array, weight: Array, used: Array, mask: Array, phi: float) -> Array:
    """Highest grid point (D, S) of the kernel densities of draws (D, S, V).

    As in R, whose grid has as many points: its step is part of the bootstrap's spread. The grid
    spans the ratios `used` (S, V): another, far out, would take all of its points.
    """
    bandwidth = _bandwidth(ratio, mask, phi)
    low = np.where(used, ratio, np.inf).min(axis=-1)
    high = np.where(used, ratio, -np.inf).max(axis=-1)
    # The density is a binned sum, convolved with the kernel by FFT; margins of 4 bandwidths keep
    # the two ends of the periodic grid apart.
    start = low - 4 * bandwidth
    step = (high - low + 8 * bandwidth) / (GRID - 1)
    mass = np.where(used, weight, 0)
    place = np.where(used, (ratio - start[..., None]) / step[..., None], 0)
    place = np.clip(np.nan_to_num(place), 0, GRID - 1.001)
    left = place.astype(np.int64)
    share = place - left
    flat = left + np.arange(low.size).reshape(*low.shape, 1) * GRID
    index = np.concatenate([flat.ravel(), flat.ravel() + 1])
    masses = np.concatenate([(mass * (1 - share)).ravel(), (mass * share).ravel()])
    counts = np.bincount(index, masses, low.size * GRID).reshape(*low.shape, GRID)
    frequency = np.fft.rfftfreq(GRID) * 2 * np.pi
    kernel = np.exp(-(((bandwidth / step)[..., None] * frequency) ** 2) / 2)
    density = fft.irfft(fft.rfft(counts) * kernel, GRID)
    return start + step * np.argmax(density, axis=-1)


def conmix(data: Instruments, *, psi: float | None = None, unit_exponent: Array | int = 0) -> Fit:
    """Contamination mixture: the effect at which most instruments agree, by likelihood.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    psi : float, optional
        Standard deviation of the effects of invalid instruments; 1.5 sd of the ratios if not given,
        of those whose standard error is at most 1,000 times the median of theirs.
    unit_exponent : np.ndarray, int (S,)
        The data are in units of which one of the ratio is 2 to this power of the user's.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, without a standard error; the interval is the hull of
        the likelihood set, infinite where no effect is excluded. `psi`, `overdispersion`
        (residual standard deviation of the valid instruments, at least 1), `n_valid` (instruments
        counted as valid), `n_intervals` (pieces of the likelihood set).

    Notes
    -----
    Burgess, Foley, Allara, Staley and Howson (2020), Nat Commun 11:376. An instrument counts as
    valid where that is likelier, so the log likelihood is a sum of parabolas cut off at constants:
    its maximum and interval are found exactly, piece by piece, without a grid. Interval and p-value
    both divide the likelihood ratio by the overdispersion; R multiplies for the p-value.
    """
    mask = data.mask
    ratio = np.where(mask, data.y / data.x, 0)
    s2 = np.where(mask, (data.sy / data.x) ** 2, np.inf)
    middle = row_quantile(ratio, mask)
    if psi is None:
        width = 1.5 * _sd(ratio, _informative(data.sy / data.x, mask))
    else:
        width = np.ldexp(np.full(len(middle), float(psi)), -unit_exponent)
    width2 = width[:, None] ** 2
    # Log likelihood of "valid" at its peak above that of "invalid".
    gain = (np.log1p(np.where(mask, width2 / s2, 0)) + ratio**2 / (s2 + width2)) / 2
    reach = np.where(mask, np.sqrt(2 * gain * s2), 0)
    # Between the sorted ends of all parabolas the same instruments are valid.
    ends = np.concatenate([ratio - reach, ratio + reach], axis=1)
    order = np.argsort(ends, axis=1, kind="stable")
    ends = np.take_along_axis(ends, order, axis=1)

    def active_sum(values: Array) -> Array:
        both = np.concatenate([values, -values], axis=1)
        return np.cumsum(np.take_along_axis(both, order, axis=1), axis=1)[:, :-1]

    shifted = ratio - middle[:, None]  # small numbers lose fewer digits in the running sums
    weight = np.where(mask, 1 / s2, 0)
    a2, a1 = active_sum(weight), active_sum(weight * shifted)
    a0 = active_sum(np.where(mask, gain - weight * shifted**2 / 2, 0))
    low, high = ends[:, :-1] - middle[:, None], ends[:, 1:] - middle[:, None]
    some = active_sum(mask.astype(float)) > 0.5
    peak = np.where(some, np.clip(a1 / a2, low, high), low)
    height = np.where(some, a0 + a1 * peak - a2 * peak**2 / 2, 0)
    best = highest(height, peak + middle[:, None])[:, None]
    theta, top = (np.take_along_axis(v, best, axis=1)[:, 0] for v in (peak, height))
    # At a piece's end an instrument is as likely valid as not; rounding must not decide.
    valid = mask & (np.abs(shifted - theta[:, None]) <= reach * (1 + 1e-9))
    count = valid.sum(axis=1)
    residual = np.where(valid, (shifted - theta[:, None]) ** 2 * weight, 0).sum(axis=1)
    phi2 = np.fmax(1, residual / np.fmax(count - 1, 1))
    cut = (top - CHI2_95 * phi2 / 2)[:, None]
    vertex = a1 / a2
    half = np.sqrt(np.fmax(2 * (a0 + a1 * vertex / 2 - cut), 0) / a2)
    inside = some & (a0 + a1 * vertex / 2 > cut)
    left, right = np.fmax(vertex - half, low), np.fmin(vertex + half, high)
    inside &= left < right
    ci_low = np.fmin(np.where(inside, left, np.inf).min(axis=1), theta) + middle
    ci_high = np.fmax(np.where(inside, right, -np.inf).max(axis=1), theta) + middle
    everywhere = cut[:, 0] < 0  # even with no instrument valid
    zero = np.fmax(gain - ratio**2 / (2 * s2), 0).sum(axis=1)
    return {
        "causal_effect": theta + middle,
        "se": np.full(len(theta), np.nan),
        "ci_low": np.where(everywhere, -np.inf, ci_low),
        "ci_high": np.where(everywhere, np.inf, ci_high),
        "p": special.chdtrc(1, np.fmax(0, 2 * (top - zero)) / phi2),
        "psi": width,
        "overdispersion": np.sqrt(phi2),
        "n_valid": count.astype(float),
        "n_intervals": np.where(everywhere, 1.0, (inside & (left > low)).sum(axis=1)),
    }


def _informative(error: Array, mask: Array) -> Array:
    """Which ratios (S, V) have standard errors that say something beside those of the others."""
    return mask & (error <= UNINFORMATIVE * row_quantile(error, mask)[:, None])
