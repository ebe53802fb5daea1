"""Estimators that search for the valid instruments: model averaging and MR-PRESSO."""

from functools import lru_cache

import numpy as np

from .._numerics import BLOCK, bisect, blocks, highest
from ._rows import Array
from .linear import Fit, Instruments, ivw
from .median_mode import CHI2_95

ALL_OUTLIERS = "no estimate: all instruments, or all but one, are outliers"
NO_OTHERS = "no finite estimate: fewer than two instruments have an exposure effect"
DOMINANT = 1e-6  # part of a sum beside one of its terms, below which the sum is taken anew
NEGLIGIBLE = 1e-8  # weight of a subset, relative to the largest, below which it is left out


def hetpen(data: Instruments, *, prior: float = 0.5, unit_exponent: Array | int = 0) -> Fit:
    """Heterogeneity-penalised model averaging over all subsets of instruments.

    Parameters
    ----------
    data : Instruments
        Block of sequences of at most 15 instruments.
    prior : float
        Prior probability that an instrument is valid.
    unit_exponent : np.ndarray, int (S,)
        The data are in units of which one of the ratio is 2 to this power of the user's.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, without a standard error and p-value: the estimate is
        the highest point of a mixture of normals, one for each subset, and the interval the hull
        of where twice its logarithm is within 3.84 of the top. `n_intervals` counts the pieces.

    Notes
    -----
    Burgess, Zuber, Gkatzionis and Foley (2018), Int J Epidemiol 47:1242. A subset K of two or more
    weighs prior^k (1 - prior)^(n - k) exp(-Q_K / 2) / product of its k ratios' standard errors;
    its normal has the inverse-variance weighted mean and multiplicative random-effects variance.
    As published the weights depend on the unit of the ratios: in units that make their standard
    errors small, large subsets gain.
    """
    peaks = np.full((4, len(data.n)), np.nan)
    # What a standard error of 1 / sqrt(weight) in the user's units multiplies the odds by.
    log_odds = np.log(prior / (1 - prior)) - np.broadcast_to(unit_exponent, len(data.n)) * np.log(2)
    for i, n in enumerate(data.n):
        ratio, weight = data.y[i, :n] / data.x[i, :n], (data.x[i, :n] / data.sy[i, :n]) ** 2
        mixture = _subset_mixture(ratio, weight, log_odds[i])
        if len(mixture[0]):  # none of the subsets is left where sums overflow
            peaks[:, i] = _mixture_mode(*mixture)
    fit = dict(zip(("causal_effect", "ci_low", "ci_high", "n_intervals"), peaks, strict=True))
    return fit | dict.fromkeys(("se", "p"), np.full(len(data.n), np.nan))


@lru_cache
def _subsets(n: int) -> Array:
    """Membership (2^n - n - 1, n) of all subsets of two or more, as 0.0 and 1.0."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return bits[bits.sum(axis=1) > 1].astype(float)


def _subset_mixture(ratio: Array, weight: Array, log_odds: float) -> tuple[Array, Array, Array]:
    """Log weights, means and standard deviations of the subsets that matter."""
    members = _subsets(len(ratio))
    center = np.median(ratio)  # sums of small numbers keep their digits
    terms = np.stack([weight, weight * (ratio - center), np.log(weight) / 2], axis=1)
    total, first, log_precision = (members @ terms).T
    size, shift = members.sum(axis=1), first / total
    q = np.fmax(members @ (weight * (ratio - center) ** 2) - first * shift, 0)
    log_weight = log_precision - q / 2 + size * log_odds
    keep = log_weight > log_weight.max() + np.log(NEGLIGIBLE)
    sd = np.sqrt(np.fmax(q / (size - 1), 1) / total)
    return log_weight[keep] - log_weight.max(), (center + shift)[keep], sd[keep]


def _mixture_mode(log_weight: Array, mean: Array, sd: Array) -> tuple[float, float, float, float]:
    """Highest point of a mixture of normals, its likelihood interval, and number of pieces."""
    height = np.exp(log_weight) / sd

    def bells(at: Array) -> Array:
        z = (at[:, None] - mean) / sd
        return np.exp(-z * z / 2) * height

    def density(at: Array) -> Array:
        parts = [bells(at[part]).sum(axis=1) for part in blocks(len(at), len(mean))]
        return np.concatenate(parts)

    heaviest = np.argsort(-height, kind="stable")[:100]
    ends = np.min(mean - 5 * sd), np.max(mean + 5 * sd)
    grid = np.sort(np.concatenate([np.linspace(*ends, 401), mean[heaviest]]))
    values = density(grid)
    top = grid[highest(values[None], grid[None])]
    for _ in range(200):  # mean shift: a fixed point is a stationary point of the density
        share = bells(top) / sd**2
        last, top = top, (share * mean).sum(axis=1) / share.sum(axis=1)
        if np.abs(top - last)[0] <= 1e-14 * np.abs(last)[0]:
            break
    cut = density(top)[0] * np.exp(-CHI2_95 / 2)
    inside = np.flatnonzero(values > cut)
    if not len(inside):
        return float(top[0]), np.nan, np.nan, np.nan
    first, last = inside[[0, -1]]
    outer = grid[[max(first - 1, 0), min(last + 1, len(grid) - 1)]]
    low, high = bisect(lambda at: density(at) - cut, grid[[first, last]], outer)
    return float(top[0]), low, high, 1.0 + (np.diff(inside) > 1).sum()


def presso(
    data: Instruments, *, significance: float = 0.05, draws: int = 1000, seed: int = 0
) -> Fit:
    """MR-PRESSO: test for pleiotropic outliers, drop them, and test what that changes.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    significance : float
        Level of the global test, and of the outlier tests after Bonferroni's correction.
    draws, seed : int
        Of the simulated null distributions; all sequences share the standard normal draws.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, of the random-effects inverse-variance weighted fit
        without outliers; `global_p` (any pleiotropy), `n_outliers`, `distortion` (relative change
        of the estimate by the outliers) and `distortion_p`, NaN without outliers.

    Notes
    -----
    Verbanck, Chen, Neale and Do (2018), Nat Genet 50:693. `global_p` and `distortion_p` are
    (b + 1) / (draws + 1), b draws being as extreme (Phipson and Smyth 2010, Stat Appl Genet Mol
    Biol 9:39): never 0, where R's b / draws, of the same draws, is 0 and printed as "<0.001". The
    outlier tests, which have no column, use b / draws as R does: with 1,000 draws no corrected
    p-value of more than 50 instruments is below 0.05 unless no draw exceeds it: use more draws.
    Where fewer than two instruments are no outliers only the global test is given.
    """
    x, sx, y, sy, n = data[:5]
    weight = 1 / sy**2
    slope = _leave_one_out(x, y, weight)
    observed = weight * (y - slope * x) ** 2
    streams = np.random.default_rng(seed).spawn(3)
    noise = [stream.standard_normal((x.shape[1], draws)).T for stream in streams[:2]]
    sx, sy = (np.where(data.mask, a, 0) for a in (sx, sy))
    global_above, above = np.zeros(len(n)), np.zeros(x.shape)
    step = max(1, BLOCK // max(1, x.size))
    for first in range(0, draws, step):
        part = slice(first, first + step)
        x_new = x + sx * noise[0][part, None]
        y_new = slope * x + sy * noise[1][part, None]
        above += (weight * (y_new - slope * x_new) ** 2 > observed).sum(axis=0)
        total = weight * (y_new - _leave_one_out(x_new, y_new, weight) * x_new) ** 2
        global_above += (total.sum(axis=2) > observed.sum(axis=1)).sum(axis=0)
    untested = (x > 0).sum(axis=1) < 2
    global_p = np.where(untested, np.nan, (global_above + 1) / (draws + 1))
    outlier = data.mask & (above / draws * n[:, None] < significance)
    outlier &= (global_p < significance)[:, None]
    kept = data._replace(
        x=np.where(outlier, 0, x), y=np.where(outlier, 0, y), sy=np.where(outlier, np.inf, data.sy)
    )
    fit = ivw(kept._replace(n=n - outlier.sum(axis=1)), effects="random")
    everything = (weight * x * y).sum(axis=1) / (weight * x**2).sum(axis=1)
    distortion = (everything - fit["causal_effect"]) / np.abs(fit["causal_effect"])
    distortion[~outlier.any(axis=1)] = np.nan
    distortion_p = np.full(len(n), np.nan)
    uniform = streams[2].random((x.shape[1], draws)).T
    for i in np.flatnonzero(outlier.any(axis=1)):
        good, bad = np.flatnonzero(data.mask[i] & ~outlier[i]), np.flatnonzero(outlier[i])
        # The null: as many instruments, outliers among them, the rest drawn with replacement.
        count = max(len(good) - len(bad), 0)
        drawn = good[(uniform[:, :count] * len(good)).astype(int)]
        chosen = np.concatenate([np.tile(bad, (draws, 1)), drawn], axis=1)[:, : len(good)]
        top, bottom = weight[i] * x[i] * y[i], weight[i] * x[i] ** 2
        random = top[chosen].sum(axis=1) / bottom[chosen].sum(axis=1)
        expected = np.abs((everything[i] - random) / random)
        distortion_p[i] = (np.sum(expected > np.abs(distortion[i])) + 1) / (draws + 1)
    return fit | {
        "global_p": global_p,
        "n_outliers": outlier.sum(axis=1).astype(float),
        "distortion": distortion,
        "distortion_p": distortion_p,
        "reasons": {ALL_OUTLIERS: n - outlier.sum(axis=1) < 2, NO_OTHERS: untested},
    }


def _leave_one_out(x: Array, y: Array, weight: Array) -> Array:
    """Weighted slopes through the origin (.., S, V), each without its own point."""
    top, bottom = weight * x * y, weight * x * x
    top_sum, bottom_sum = top.sum(axis=-1, keepdims=True), bottom.sum(axis=-1, keepdims=True)
    others = bottom_sum - bottom
    slope = (top_sum - top) / others
    # Where one point is nearly all of the sum, what is left of it is rounding.
    *row, place = np.nonzero(others < DOMINANT * bottom_sum)
    if len(place):
        rest = np.arange(x.shape[-1]) != place[:, None]
        sums = [np.where(rest, a[tuple(row)], 0).sum(axis=1) for a in (top, bottom)]
        slope[(*row, place)] = sums[0] / sums[1]
    return slope
