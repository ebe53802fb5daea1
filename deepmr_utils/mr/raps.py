"""Estimators that allow for error in the exposure effects: MR-RAPS and debiased IVW.

Both model x ~ N(g, sx^2) and y ~ N(theta g, sy^2 + tau2) with unknown g, so that many weak
instruments do not pull the estimate towards 0.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from .._numerics import RANK, highest
from ._rows import Array, Arrays, row_quantile
from .linear import NOT_DEBIASED, Fit, Instruments, summary

HUBER = 1.345  # 95 % efficiency at normal errors, as MR-RAPS has it
TUKEY = 4.685
ALTERNATIONS = 2
ATTEMPTS = 5
CANDIDATES = 33
BEYOND = np.r_[0.25, 1, 4, 32]  # of the largest ratio: candidates outside of all ratios
VALLEYS, FEW = 3, 48  # valleys of the criterion that are searched, with up to so many instruments
LARGE_TAU2 = 100  # times the 95th percentile of sy^2: R's limit, passed only where residuals do
NEWTON_STEPS = 30

Loss = Literal["l2", "huber", "tukey"]


def divw(data: Instruments, *, overdispersion: bool = True) -> Fit:
    """Debiased inverse-variance weighted estimate.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    overdispersion : bool
        Whether to allow for balanced pleiotropy.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, `tau2`, the variance of balanced pleiotropy, and
        `condition`, (F - 1) sqrt(V), F the mean squared exposure z-score: the normal interval asks
        for 20 or more. Where the debiased sum of squares is not positive the instruments tell
        nothing of the exposure, and there is no estimate.

    Notes
    -----
    Ye, Shao and Kang (2021), Ann Stat 49:2079, eqs. 5 and 11. A covariance leaves the numerator,
    and enters the variances as in `deepmr_utils.mr.linear._corrected_line`.
    """
    x, sx, y, sy, n, c = data
    weight = 1 / sy**2
    ratio, signal, shared = weight * sx**2, weight * x**2, weight * (0.0 if c is None else c)
    strength = (signal - ratio).sum(axis=1)
    strength = np.where(strength > 1e-12 * signal.sum(axis=1), strength, np.nan)
    theta = (weight * y * x - shared).sum(axis=1) / strength
    slope = theta[:, None]
    excess = weight * (y - slope * x) ** 2 - 1 - weight * (slope * sx) ** 2 + 2 * slope * shared
    excess = np.where(data.mask, excess, 0).sum(axis=1)
    tau2 = np.fmax(0, excess / weight.sum(axis=1)) * overdispersion
    spread = signal + slope**2 * ratio * (signal + ratio) + tau2[:, None] * signal * weight
    spread = spread + shared * (shared - 2 * slope * (signal + ratio))
    se = np.sqrt(spread.sum(axis=1)) / strength
    return summary(theta, se) | {
        "tau2": tau2,
        "condition": (((x / sx) ** 2).sum(axis=1) / n - 1) * np.sqrt(n),
        "reasons": {NOT_DEBIASED: np.isnan(strength)},
    }


def raps(data: Instruments, *, loss: Loss = "l2", overdispersion: bool = False) -> Fit:
    """Robust adjusted profile score.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    loss : {"l2", "huber", "tukey"}
        Loss of a standardised residual; the last two resist outliers.
    overdispersion : bool
        Whether to allow for balanced pleiotropy of variance tau2. Instruments whose exposure
        standard error is above 10 times the median are left out then, as in the R package.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, and `tau2`, `tau2_se`, `n_pruned`.

    Notes
    -----
    Zhao, Wang, Hemani, Bowden and Small (2020), Ann Stat 48:1742; the equations as published, not
    as in mr.raps 0.4.2, whose robust over-dispersed form uses the largest variance for all.
    Covariances of the errors enter as in GRAPPLE (Wang et al. 2021, PLOS Genet 17:e1009575).
    """
    keep, tau2, theta = data.mask, np.zeros(len(data.n)), np.zeros(len(data.n))
    if overdispersion:
        keep = keep & (data.sx <= 10 * row_quantile(data.sx, data.mask)[:, None])
    x, sx, y = (np.where(keep, a, 0) for a in (data.x, data.sx, data.y))
    limit = row_quantile(data.sy**2, data.mask, 0.95) * overdispersion
    limits = np.where(keep, data.sx * data.sy, 0)  # moderated errors may be below a covariance
    c = None if data.c is None else np.clip(data.c, -limits, limits)
    model = _Model(x, sx**2, y, np.where(keep, data.sy, np.inf) ** 2, loss, limit, c)
    candidates = _ratio_quantiles(data, keep)
    if overdispersion:
        # Of several solutions the one of larger tau2: start where all residuals look small, and a
        # robust fit where the other ends.
        tau2 = np.fmax(LARGE_TAU2 * limit, (y**2).max(axis=1))
        theta = _best_theta(model, candidates, tau2)
        if loss != "l2":
            theta, tau2 = _alternate(model._replace(loss="l2"), candidates, theta)
    converged = np.zeros(len(x), bool)
    for attempt in range(ATTEMPTS):
        rows = np.flatnonzero(~converged)
        part = model.rows(rows)
        start = _alternate(part, candidates[rows], theta[rows], grids=2 + attempt)
        *end, good = _polish(part, *start)
        theta[rows], tau2[rows] = (np.where(good, a, b) for a, b in zip(end, start, strict=True))
        converged[rows] = good
        if converged.all():
            break
    variance, tau2_variance = _variances(model, theta, tau2, overdispersion)
    return summary(theta, np.sqrt(variance)) | {
        "tau2": tau2,
        "tau2_se": np.where(overdispersion, np.sqrt(tau2_variance), np.nan),
        "n_pruned": (data.mask & ~keep).sum(axis=1).astype(float),
        "converged": converged,
    }


class _Model(NamedTuple):
    """Data (S, V) and loss of the profile likelihood, and the scale (S,) of tau2, or 0."""

    x: Array
    sx2: Array
    y: Array
    sy2: Array
    loss: Loss
    limit: Array | None = None
    c: Array | None = None

    def rows(self, part: Array) -> "_Model":
        c = None if self.c is None else self.c[part]
        return _Model(*(a[part] for a in self[:4]), self.loss, self.limit[part], c)

    @property
    def shared(self) -> Array | float:
        """Covariance of the errors, 0 where none is given."""
        return 0.0 if self.c is None else self.c

    def standardised(self, theta: Array, tau2: Array) -> Arrays:
        """Residual and its variance v (S, V) at theta, tau2 (S,)."""
        slope = theta[:, None]
        v = tau2[:, None] + self.sy2 + slope**2 * self.sx2
        if self.c is not None:  # errors that are one leave a residual none, but for rounding
            v = np.fmax(v - 2 * slope * self.c, RANK * v)
        return self.y - slope * self.x, v


_RHO = {  # of a squared residual
    "l2": lambda t2: t2,
    "huber": lambda t2: np.where(t2 <= HUBER**2, t2, 2 * HUBER * np.sqrt(t2) - HUBER**2),
    "tukey": lambda t2: 1 - (1 - np.fmin(t2 / TUKEY**2, 1)) ** 3,
}
_PSI = {
    "l2": lambda t: t,
    "huber": lambda t: np.clip(t, -HUBER, HUBER),
    "tukey": lambda t: t * (1 - np.fmin((t / TUKEY) ** 2, 1)) ** 2,
}


def _criterion(model: _Model, theta: Array, tau2: Array) -> Array:
    """Sum of losses (S,), least at the estimate of theta."""
    residual, v = model.standardised(theta, tau2)
    return _RHO[model.loss](residual**2 / v).sum(axis=1)


@lru_cache
def _constants(loss: Loss) -> tuple[float, float, float, float]:
    """Return delta, c1, c2, c3: moments of psi under the standard normal."""
    z = np.linspace(-12, 12, 480_001)  # trapezoids of 5e-5 leave an error of 1e-10
    psi, density = _PSI[loss](z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    moments = [z * psi, psi**2, (z * psi) ** 2, z**2 * np.gradient(psi, z)]
    delta, c1, c2, c3 = (float(np.trapezoid(m * density, z)) for m in moments)
    return delta, c1, c2 - delta**2, c3


def _scores(model: _Model, theta: Array, tau2: Array) -> Arrays:
    """Left sides (S,) of the estimating equations of theta and tau2."""
    residual, v = model.standardised(theta, tau2)
    root = np.sqrt(v)
    t = residual / root
    psi = _PSI[model.loss](t)
    pull = t * theta[:, None] * model.sx2 - t * model.shared
    theta_score = psi * (model.x + pull / root) / root
    tau2_score = model.sx2 * (t * psi - _constants(model.loss)[0]) / v
    return theta_score.sum(axis=1), tau2_score.sum(axis=1)


def _ratio_quantiles(data: Instruments, keep: Array) -> Array:
    """Candidates of theta (S, K): quantiles of the ratios, dense where instruments are, and beyond.

    All ratios are among them, and places in between, where they are fewer than CANDIDATES. Errors
    of the exposure effects can put the estimate outside of all ratios.
    """
    ratio = np.where(keep & (data.x > 0), data.y / data.x, np.inf)
    ratio.sort(axis=1)
    ratio[:, 1:][np.diff(ratio, axis=1) <= 1e-9 * np.abs(ratio[:, 1:])] = np.inf  # each one once
    ratio.sort(axis=1)
    last = np.fmax(np.isfinite(ratio).sum(axis=1)[:, None] - 1, 0)
    place = np.linspace(0, 1, CANDIDATES) * last
    whole = np.abs(place - np.rint(place)) <= last / (CANDIDATES - 1) / 2
    place = np.where(whole, np.rint(place), place)
    below = place.astype(int)
    places = (below, np.fmin(below + 1, last))
    low, high = (np.take_along_axis(ratio, at, axis=1) for at in places)
    inner = low + (place - below) * (high - low)
    first, last = inner[:, :1], inner[:, -1:]
    reach = BEYOND * np.fmax(np.abs(first), np.abs(last))
    return np.concatenate([first - reach[:, ::-1], inner, last + reach], axis=1)


def _best_theta(model: _Model, candidates: Array, tau2: Array, grids: int = 2) -> Array:
    """Near the global minimum of the criterion (S,) at given tau2, by ever finer grids."""
    values = np.stack([_criterion(model, theta, tau2) for theta in candidates.T], axis=1)
    # With few instruments the deepest of several valleys need not hold the lowest candidate.
    starts = VALLEYS if model.x.shape[1] <= FEW else 1
    lower = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    valley = np.where((values <= lower[:, :-2]) & (values <= lower[:, 2:]), values, np.inf)
    order = np.argsort(valley, axis=1, kind="stable")[:, :starts]
    ends = [_refined(model, candidates, at, tau2, grids) for at in order.T]
    thetas, criteria = (np.stack(column, axis=1) for column in zip(*ends, strict=True))
    row = np.arange(len(tau2))
    return thetas[row, highest(-criteria, thetas)]


def _refined(model: _Model, candidates: Array, at: Array, tau2: Array, grids: int) -> Arrays:
    """Lowest point (S,) near the candidates of index `at` (S,), and the criterion there."""
    row = np.arange(len(tau2))
    for _ in range(grids - 1):
        middle = candidates[row, at]
        other = candidates - middle[:, None]
        low = middle + np.where(other < 0, other, -np.inf).max(axis=1)
        high = middle + np.where(other > 0, other, np.inf).min(axis=1)
        low, high = (np.where(np.isfinite(end), end, middle) for end in (low, high))
        candidates = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 17)
        values = np.stack([_criterion(model, theta, tau2) for theta in candidates.T], axis=1)
        at = np.argmin(values, axis=1)
    return candidates[row, at], values[row, at]


def _best_tau2(model: _Model, theta: Array, grids: int = 2) -> Array:
    """Near the root of the equation of tau2 (S,) at given theta; 0 where there is none."""
    row = np.arange(len(theta))
    # Where tau2 is twice the largest squared residual, each term of the equation is negative.
    largest = ((model.y - theta[:, None] * model.x) ** 2).max(axis=1)
    decades = np.log10(np.fmax(LARGE_TAU2, 2 * largest / model.limit))
    powers = -6 + (decades[:, None] + 6) * np.linspace(0, 1, 25)
    grid = model.limit[:, None] * np.pad(10.0**powers, ((0, 0), (1, 0)))
    for _ in range(grids):
        positive = np.stack([_scores(model, theta, tau2)[1] > 0 for tau2 in grid.T], axis=1)
        crossing = positive[:, :-1] & ~positive[:, 1:]
        last = crossing.shape[1] - 1 - np.argmax(crossing[:, ::-1], axis=1)
        low, high = grid[row, last], grid[row, last + 1]
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 9)
        found = crossing.any(axis=1)
    return np.where(found, (low + high) / 2, 0)


def _alternate(model: _Model, candidates: Array, theta: Array, grids: int = 2) -> Arrays:
    """Estimate tau2 given theta and theta given tau2 in turn; tau2 = 0 without a limit for it."""
    if not model.limit.any():
        return _best_theta(model, candidates, 0 * theta, grids), 0 * theta
    for _ in range(ALTERNATIONS):
        tau2 = _best_tau2(model, theta, grids)
        theta = _best_theta(model, candidates, tau2, grids)
    return theta, tau2


def _slopes(model: _Model, theta: Array, tau2: Array, step: Array, tau2_step: Array) -> list[Array]:
    """Central differences of both scores, where one of the steps (S,) is 0."""
    up = _scores(model, theta + step, tau2 + tau2_step)
    down = _scores(model, theta - step, tau2 - tau2_step)
    return [(a - b) / (2 * (step + tau2_step)) for a, b in zip(up, down, strict=True)]


def _polish(model: _Model, theta: Array, tau2: Array) -> Arrays:
    """Newton steps on both equations, on that of theta alone where tau2 is 0."""
    start, theta, tau2 = theta, theta.copy(), tau2.copy()
    active = np.arange(len(theta))
    for step in range(NEWTON_STEPS):
        part = model.rows(active)
        at, dispersion = theta[active], tau2[active]
        free = dispersion > 0
        # Central differences, wide enough for 1e-9 relative and narrow enough for the kinks.
        h = 1e-5 * np.sqrt((part.sy2.min(axis=1) + dispersion) / part.x.max(axis=1) ** 2)
        score, tau2_score = _scores(part, at, dispersion)
        a, c = _slopes(part, at, dispersion, h, 0 * h)
        b, d = _slopes(part, at, dispersion, 0 * h, 1e-5 * dispersion) if free.any() else (a, c)
        b, c, d = np.where(free, b, 0), np.where(free, c, 0), np.where(free, d, 1)
        tau2_score = np.where(free, tau2_score, 0)
        determinant = a * d - b * c
        damping = 1 if step < 10 else 0.5  # a step back and forth over a kink needs a shorter one
        theta_step = damping * (d * score - b * tau2_score) / determinant
        tau2_step = damping * (a * tau2_score - c * score) / determinant
        theta[active] = at - theta_step
        # A step below 0 ends at 0 if the equation has no root in between.
        shrunk = np.where(_scores(part, at, 0 * at)[1] > 0, dispersion / 10, 0)
        tau2[active] = np.where(dispersion > tau2_step, dispersion - tau2_step, shrunk) * free
        moved = np.abs(theta_step) > 1e-12 * (np.abs(at) + 1e5 * h)
        moved |= free & (np.abs(tau2_step) > 1e-11 * dispersion)
        active = active[moved]
        if not len(active):
            break
    # Newton's method may leave for another stationary point: the start must not be better.
    end, begin = _criterion(model, theta, tau2), _criterion(model, start, tau2)
    converged = end <= begin * (1 + 1e-9)
    converged[active] = False
    return theta, tau2, converged


def _variances(model: _Model, theta: Array, tau2: Array, overdispersion: bool) -> Arrays:
    """Sandwich variances (S,) of theta and tau2."""
    delta, c1, c2, c3 = _constants(model.loss)
    x, sx2, y, sy2 = model[:4]
    v = model.standardised(theta, tau2)[1]
    # Divided by v before anything is multiplied, so that padding of infinite sy adds 0.
    noise, x_part, y_part = (tau2[:, None] + sy2) / v, (x**2 - sx2) / v, y**2 / v
    share, joint = sx2 / v, model.shared / v
    noise = np.where(np.isfinite(sy2), noise, 0)
    information = x_part * noise + (y_part - noise) * share - 2 * joint * (x * y / v - joint)
    s = c1 * (information + share * noise - joint**2).sum(axis=1)
    a = delta * information.sum(axis=1)
    a = np.where(np.abs(a) > 1e-10 * np.abs(information).sum(axis=1), a, np.nan)  # rounding alone
    variance = s / a**2
    t = c2 * (share**2).sum(axis=1)
    d = (delta + c3) / 2 * (share / v).sum(axis=1)
    if overdispersion:
        b = delta * ((share * theta[:, None] - joint) / v).sum(axis=1)
        variance = variance + t * b**2 / (a * d) ** 2
    return variance, t / d**2
