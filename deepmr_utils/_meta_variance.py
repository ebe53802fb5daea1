"""Between-study variances of many meta-analyses at once, of NumPy arrays and of torch's alike.

Studies are rows (S, G), so that sums over them run along contiguous memory.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ._numerics import bisect

Array = Any  # np.ndarray or torch.Tensor

# A weight 1 / (v + tau2) takes more than a decade of tau2 to fall from most to little of its value,
# so that steps of half a decade see each turn of the score; where it turns twice, finer ones.
STEP, FINE_STEP = 10**0.5, 10**0.125
# Below this share of the smallest variance weights hardly change, and the score is a straight line.
LOWEST = 0.03
BETWEEN, ROUNDS = 1e-13, 120  # relative width at which a bracket is closed, and a limit of steps


class Studies(NamedTuple):
    """Effects in units and about a centre in which sums neither overflow nor lose digits.

    The most precise study is the first, effects are differences from its own, and the unit is a
    power of 2 next to its standard error.

    Attributes
    ----------
    y, variance : np.ndarray or torch.Tensor, float64 (S, G)
        Differences and variances; 0 and infinite for what is left out.
    k : np.ndarray or torch.Tensor, int (G,)
        Number of studies in use.
    centre, unit : np.ndarray or torch.Tensor, float64 (G,)
        The effect of the most precise study, and the unit.
    """

    y: Array
    variance: Array
    k: Array
    centre: Array
    unit: Array


def _module(values: Array) -> Any:
    if isinstance(values, np.ndarray):
        return np
    import torch  # who has no tensor needs no torch

    return torch


def standardise(effect: Array, se: Array, used: Array) -> Studies:
    """Bring effects and standard errors (S, G) into a form that suits all units.

    Where standard errors span so much that no unit suits all, the first variance is NaN, and so is
    all that follows from it.
    """
    xp = _module(effect)
    se = xp.where(used, se, np.inf)
    first, k = se.argmin(0), used.sum(0)
    column = xp.ones_like(k).cumsum(0) - 1
    y, variance = 1 * effect, 1 * se
    for ordered, values in ((y, effect), (variance, se)):
        ordered[0], ordered[first, column] = values[first, column], values[0]
    centre, unit = xp.where(k > 0, y[0], np.nan), _power_of_two(variance[0])
    variance *= 1 / unit
    variance *= variance
    out = xp.isinf(variance)
    y -= centre
    y = xp.where(out, 0, y * (1 / unit))
    variance[0] = xp.where(k + out.sum(0) == len(y), variance[0], np.nan)
    return Studies(y, variance, k, centre, unit)


def _power_of_two(values: Array) -> Array:
    """The power of 2 above positive values (G,); 1 for an infinite one."""
    plain = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    exponent = np.where(np.isfinite(plain), np.frexp(plain)[1], 0)
    unit = np.ldexp(1.0, np.clip(exponent, -1021, 1022))
    return unit if plain is values else _module(values).from_numpy(unit).to(values)


def weighted(y: Array, variance: Array, tau2: Array) -> tuple[Array, Array, Array]:
    """Weighted mean, total weight and weighted sum of squares (G,), weights 1 / (v + tau2)."""
    weight = 1 / (variance + tau2)
    total = weight.sum(0)
    mean = (weight * y).sum(0) / total
    return mean, total, (weight * (y - mean) ** 2).sum(0)


def _lost(weight: Array) -> tuple[Array, Array]:
    """Total weight W, and W - sum w^2 / W, though the first weight may be all but all of it."""
    largest, others = weight[0], weight[1:]
    rest = others.sum(0)
    total = largest + rest
    return total, (largest * rest + rest * total - (others * others).sum(0)) / total


def dersimonian_laird(studies: Studies) -> Array:
    """Variance (G,) by the method of moments (DerSimonian and Laird, 1986)."""
    y, variance, k, *_ = studies
    excess = weighted(y, variance, 0 * variance[0])[2] - (k - 1)
    return _module(y).where(excess < 0, 0, excess / _lost(1 / variance)[1])


def q_root(studies: Studies, target: np.ndarray) -> np.ndarray:
    """Variance (G,) at which Q equals the target; 0 where Q is smaller at 0. Of NumPy arrays."""
    y, variance, k, *_ = studies
    nothing = 0 * target
    # Q(tau2) <= sum of squares / tau2, so the root is below their quotient.
    spread = (np.where(np.isinf(variance), 0, y - y.sum(0) / k) ** 2).sum(0)
    high = np.where(weighted(y, variance, nothing)[2] > target, spread / target, nothing)
    return bisect(lambda tau2: weighted(y, variance, tau2)[2] - target, nothing, high)


def _score(y: Array, variance: Array, tau2: Array, *, bound: bool = False) -> tuple[Array, Array]:
    """The score (Viechtbauer 2005, eq. 11), and whether it may be above 0 beyond, too.

    It is the derivative of twice the restricted log-likelihood, y'PPy - tr P, P being the weights
    less their share in the mean. The first term is at most the largest weight times Q = y'Py, which
    falls as tau2 grows, while tr P over the largest weight grows: where the latter is above Q, the
    score is negative from there on.
    """
    weight = 1 / (variance + tau2)
    total, lost = _lost(weight)
    residual = y - (weight * y).sum(0) / total
    deviation = weight * residual
    value = (deviation * deviation).sum(0) - lost
    return value, (deviation * residual).sum(0) > lost / weight[0] if bound else value


def _likelihood(y: Array, variance: Array, tau2: Array) -> Array:
    """Restricted log-likelihood (G,), without its constant."""
    xp = _module(y)
    _, total, spread = weighted(y, variance, tau2)
    terms = xp.where(xp.isinf(variance), 0, xp.log(variance + tau2))
    return -(terms.sum(0) + xp.log(total) + spread) / 2


def restricted_likelihood(studies: Studies) -> Array:
    """Variance (G,) at the global maximum of the restricted likelihood over tau2 >= 0.

    Notes
    -----
    The score is followed upwards from 0 over all that matters to these studies, and where it falls
    through 0 there is a maximum. Its place does not depend on other columns. Where there are
    several, or one that competes with 0, finer steps find all, and the likelihood compares them.
    """
    y, variance = studies.y, studies.variance
    xp = _module(y)
    nothing = 0 * variance[0]
    rising = _score(y, variance, nothing)[0] > 0
    falls, bracket = 0 * studies.k, [nothing] * 4
    for fall, step in _steps(y, variance, STEP):
        first = fall & (falls == 0)
        bracket = [xp.where(first, new, old) for new, old in zip(step, bracket, strict=True)]
        falls = falls + fall
    tau2 = _root(y, variance, *bracket)
    unclear = (falls > 1) | ((falls == 1) & ~rising)
    if unclear.any():
        tau2[unclear] = _highest(y[:, unclear], variance[:, unclear])
    return tau2


def _steps(y: Array, variance: Array, factor: float) -> Iterator[tuple[Array, tuple[Array, ...]]]:
    """Whether the score falls through 0; neighbouring variances (G,) and their scores; upwards."""
    xp = _module(y)
    at = 0 * variance[0]
    value, further = _score(y, variance, at, bound=True)
    while further.any():
        step = xp.where(at > 0, at * factor, LOWEST * variance[0])
        after = xp.where(further, step, at)
        after_value, there = _score(y, variance, after, bound=True)
        yield (value > 0) & ~(after_value > 0), (at, after, value, after_value)
        at, value, further = after, after_value, further & there


def _highest(y: Array, variance: Array) -> Array:
    """The best of all maxima that fine steps find, 0 among them."""
    xp = _module(y)
    tau2 = 0 * variance[0]
    best = _likelihood(y, variance, tau2)
    for fall, step in _steps(y, variance, FINE_STEP):
        if fall.any():
            root = _root(y, variance, *(xp.where(fall, a, 0) for a in step))
            value = _likelihood(y, variance, root)
            better = fall & (value > best)
            tau2, best = xp.where(better, root, tau2), xp.where(better, value, best)
    return tau2


def _root(
    y: Array, variance: Array, low: Array, high: Array, score_low: Array, score_high: Array
) -> Array:
    """Where the score falls through 0 between `low` and `high` (Dowell and Jarratt, 1971).

    False position: the end that stays twice is halved in value, or more where the other moved
    little (Anderson and Bjorck, 1973). A step is never shorter than the tolerance, so that the
    bracket closes, and goes to the middle where it has not become narrower for some steps.
    """
    xp = _module(y)
    noise = 1e-16 / (1 / variance).mean(0)  # of a score: no root can be told better
    root, before = low, high - low
    last_up = last_down = low != low
    for i in range(ROUNDS):  # about nine
        width, tolerance = high - low, BETWEEN * high + noise
        open_ = width > 2 * tolerance
        if not open_.any():
            break
        step = (low * score_high - high * score_low) / (score_high - score_low)
        bad = ~xp.isfinite(step)
        if i % 4 == 3:
            bad, before = bad | (width > before / 4), width
        step = xp.where(bad, (low + high) / 2, step)
        step = xp.minimum(xp.maximum(step, low + tolerance), high - tolerance)
        root = xp.where(open_, step, root)
        value = _score(y, variance, root)[0]
        positive = value > 0
        up, down = open_ & positive, open_ & ~positive
        factor = 1 - value / xp.where(positive, score_low, score_high)
        factor = xp.where(factor > 0, factor, 0.5)
        score_low = xp.where(up, value, xp.where(down & last_down, score_low * factor, score_low))
        score_high = xp.where(down, value, xp.where(up & last_up, score_high * factor, score_high))
        last_up, last_down = up, down
        low, high = xp.where(up, root, low), xp.where(down, root, high)
    return root


TAU2 = {  # the last two are of NumPy arrays
    "reml": restricted_likelihood,
    "dl": dersimonian_laird,
    "pm": lambda studies: q_root(studies, np.where(studies.k > 1, studies.k - 1.0, np.nan)),
    "common": lambda studies: 0 * studies.variance[0],
}
