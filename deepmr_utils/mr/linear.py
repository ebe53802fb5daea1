"""Weighted-line estimators of Mendelian randomization (IVW, MR-Egger), many sequences at once.

Every fit takes a block of sequences of about the same number of instruments and returns a
dictionary of arrays (S,). It shares one weighted line, one robust line and one rule of inference.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special

from .._numerics import RANK
from ._rows import Array, Line, centred, row_quantile, weighted_line
from .mm import mm_line

Distribution = Literal["normal", "t"]
Fit = dict[str, Array]

Z95 = special.ndtri(0.975)
NOT_DEBIASED = "no estimate: exposure effects are no larger than their errors make them"


class Instruments(NamedTuple):
    """Summary data of a block of sequences, in canonical form.

    Each instrument is oriented so that its exposure effect is not negative, each row is sorted by
    exposure effect, and padding stands at the end. Padding is x = y = 0, sx = 1, sy = infinity:
    it has zero weight and zero residual under any line, so most formulas need no mask.

    Attributes
    ----------
    x, sx : np.ndarray, float64 (S, V)
        Exposure effects and their standard errors.
    y, sy : np.ndarray, float64 (S, V)
        Outcome effects and their standard errors.
    n : np.ndarray, int (S,)
        Number of instruments of each row.
    c : np.ndarray, float64 (S, V), optional
        Covariances of the errors of x and y, padding 0. Where they are given, fits allow for them
        and for the errors of x.
    """

    x: Array
    sx: Array
    y: Array
    sy: Array
    n: Array
    c: Array | None = None

    @property
    def mask(self) -> Array:
        """Which entries are instruments, bool (S, V)."""
        return np.arange(self.x.shape[1]) < self.n[:, None]


def inference(
    estimate: Array,
    se: Array,
    *,
    distribution: Distribution = "normal",
    df: Array | None = None,
    shrink: Array | float = 1.0,
) -> tuple[Array, Array, Array]:
    """Two-sided 95 % interval and p-value, both from one reference distribution.

    Parameters
    ----------
    estimate, se : np.ndarray, float64 (S,)
        Estimates and standard errors.
    distribution : {"normal", "t"}
        Reference distribution.
    df : np.ndarray, optional (S,)
        Degrees of freedom of the t distribution.
    shrink : float or np.ndarray, float64 (S,)
        MR-Egger's rule for "t": `se * shrink` (shrink <= 1) is the standard error before
        under-dispersion was corrected. Where shrink < 1 the wider of the normal interval with `se`
        and the t interval with `se * shrink` is taken, and the larger of the two p-values.

    Returns
    -------
    tuple of np.ndarray, float64 (S,)
        Lower limit, upper limit, p-value.
    """
    half = Z95 * se
    p = 2 * special.ndtr(-np.abs(estimate / se))
    if distribution == "t":
        used = se * np.minimum(shrink, 1)
        df = np.where(df > 0, df, np.nan)
        half_t = special.stdtrit(df, 0.975) * used
        p_t = 2 * special.stdtr(df, -np.abs(estimate / used))
        half = np.where(shrink < 1, np.fmax(half, half_t), half_t)
        p = np.where(shrink < 1, np.fmax(p, p_t), p_t)
    return estimate - half, estimate + half, p


def summary(estimate: Array, se: Array, **rule: Any) -> Fit:
    """Columns of an estimate (S,), its standard error, and what `inference` makes of them."""
    low, high, p = inference(estimate, se, **rule)
    return {"causal_effect": estimate, "se": se, "ci_low": low, "ci_high": high, "p": p}


def chi2_tail(df: Array, q: Array) -> Array:
    """Upper tail of chi-square; NaN without degrees of freedom."""
    return np.where(df > 0, special.chdtrc(np.where(df > 0, df, 1), q), np.nan)


def i2_gx(data: Instruments) -> Array:
    """Dilution of MR-Egger by error in the exposure effects, weighted form.

    Notes
    -----
    I^2_GX of Bowden et al. (2016), Int J Epidemiol 45:1961, of x / sy with standard errors sx / sy.
    """
    g = data.x / data.sy
    weight = np.where(data.mask, (data.sy / data.sx) ** 2, 0)
    mean = (weight * g).sum(axis=1) / weight.sum(axis=1)
    q = (weight * (g - mean[:, None]) ** 2).sum(axis=1)
    return np.fmax(0, (q - (data.n - 1)) / q)


def _squares(data: Instruments, slope: Array, intercept: Array | float = 0.0) -> Array:
    """Squares (S, V) of the standardised residuals of a line."""
    residual = data.y - np.reshape(intercept, (-1, 1)) - slope[:, None] * data.x
    return (residual / data.sy) ** 2


def _penalty(squares: Array) -> Array:
    """Weights that drop outliers: min(1, 100 p), p the chi-square tail of a squared residual."""
    return np.fmin(1, 100 * special.chdtrc(1, squares))


def ivw(
    data: Instruments,
    *,
    effects: Literal["auto", "fixed", "random"] = "auto",
    penalized: bool = False,
    robust: bool = False,
    weights: Literal["simple", "delta", "equal"] = "simple",
    distribution: Distribution = "normal",
) -> Fit:
    """Inverse-variance weighted estimate: a line through the origin.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    effects : {"auto", "fixed", "random"}
        Dispersion rule: "random" multiplies the standard error by max(1, residual standard
        error); "auto" is fixed below 4 instruments.
    penalized : bool
        Downweight instruments that are far from the median ratio.
    robust : bool
        MM-regression in place of least squares.
    weights : {"simple", "delta", "equal"}
        1 / sy^2, or with the second-order term, 1 / (sy^2 + y^2 sx^2 / x^2); or one weight for all,
        see `equal_line`: where errors are known so badly that weights by them are noise.
    distribution : {"normal", "t"}
        Reference distribution; t has n - 1 degrees of freedom.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`, and `f_stat`, the mean squared exposure z-score.

    Notes
    -----
    Burgess, Butterworth and Thompson (2013), Genet Epidemiol 37:658; robust and penalized forms:
    Rees, Wood, Dudbridge and Burgess (2019), PLOS ONE 14:e0222362. With covariances:
    `_corrected_line`.
    """
    if weights == "equal":
        return equal_line(data, effects=effects, distribution=distribution)
    variance = data.sy**2
    if weights == "delta":  # infinite variance, no weight, where there is no exposure effect
        second = (data.y * data.sx / np.where(data.x > 0, data.x, np.nan)) ** 2
        second = np.where(data.mask, np.nan_to_num(second, nan=np.inf, posinf=np.inf), 0)
        variance = variance + second
    weight = 1 / variance
    if penalized:
        # An instrument of no exposure effect has no ratio, on either side of the median.
        ratio = data.y / data.x
        median = row_quantile(ratio, data.mask & np.isfinite(ratio))
        weight = weight * _penalty(_squares(data, median))
    line = _fit_line(data, weight, intercept=False, robust=robust)
    fixed = (effects == "fixed") | ((effects == "auto") & (data.n < 4))
    se, df = line.slope_se * np.where(fixed, 1, np.fmax(line.scale, 1)), data.n - 1
    result = summary(line.slope, se, distribution=distribution, df=df) | {
        "scale": line.scale,
        "f_stat": ((data.x / data.sx) ** 2).sum(axis=1) / data.n,
        "converged": line.converged,
    }
    if not penalized:  # a Q of downweighted residuals has no chi-square distribution
        q = df * line.scale**2  # as R reports it, of the robust scale too
        result |= {"q": q, "q_p": chi2_tail(df, q)}
    return result | _undetermined(data, line)


def egger(
    data: Instruments,
    *,
    penalized: bool = False,
    robust: bool | int = False,
    weights: Literal["simple", "equal"] = "simple",
    distribution: Distribution = "normal",
) -> Fit:
    """MR-Egger: a line whose intercept is the average directional pleiotropy.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    penalized : bool
        Refit with weights that drop the outliers of a first fit.
    robust : bool or int
        MM-regression in place of least squares; a number: only in rows with more instruments.
    weights : {"simple", "equal"}
        As in `ivw`.
    distribution : {"normal", "t"}
        Reference distribution; t has n - 2 degrees of freedom and the wider-of-two rule of
        `inference`.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`.

    Notes
    -----
    Bowden, Davey Smith and Burgess (2015), Int J Epidemiol 44:512; robust and penalized forms as in
    Rees et al. (2019), PLOS ONE 14:e0222362. Standard errors are divided by min(scale, 1), so that
    under-dispersion never narrows an interval. With covariances (`_corrected_line`) the line is
    free of overlap as far as errors leave the signs of exposure effects, which orient instruments.
    """
    # R orients by sign(x), so an instrument of exactly no exposure effect counts as (0, 0).
    data = data._replace(y=np.where(data.x == 0, 0, data.y))
    if weights == "equal":
        return equal_line(data, intercept=True, distribution=distribution)
    weight = 1 / data.sy**2
    if penalized:
        first = weighted_line(data.x, data.y, weight, data.n, intercept=True)
        weight = weight * _penalty(_squares(data, first.slope, first.intercept))
    line = _fit_line(data, weight, intercept=True, robust=robust)
    se, intercept_se = (e * np.fmax(line.scale, 1) for e in (line.slope_se, line.intercept_se))
    df = data.n - 2
    rule = {"distribution": distribution, "df": df, "shrink": line.scale}
    result = summary(line.slope, se, **rule) | {
        "intercept": line.intercept,
        "intercept_se": intercept_se,
        "intercept_p": inference(line.intercept, intercept_se, **rule)[2],
        "scale": line.scale,
        "i2_gx": i2_gx(data),
        "converged": line.converged,
    }
    if not penalized:
        squares = _squares(data, line.slope, line.intercept).sum(axis=1)
        q = squares if data.c is None else df * line.scale**2
        result |= {"q": q, "q_p": chi2_tail(df, q)}
    return result | _undetermined(data, line)


def _undetermined(data: Instruments, line: Line) -> dict[str, dict[str, Array]]:
    """Why rows have no line where covariances are given: exposure effects that are errors alone."""
    return {} if data.c is None else {"reasons": {NOT_DEBIASED: np.isnan(line.slope)}}


def _corrected_line(data: Instruments, weight: Array, *, intercept: bool) -> Line:
    """Weighted line whose normal equations lack what errors add to them.

    Notes
    -----
    MRBEE's estimating equations (Lorincz-Comi, Yang, Li and Zhu 2024, HGG Adv 5:100290):
    sum w r = 0 and sum w (x r - k) = 0, r = y - a - b x and k = c - b sx^2 the covariance of the
    errors of x and r. Of normal errors the terms of the second, x centred, have the variance
    w^2 (x^2 v + k^2), v = sy^2 + b^2 sx^2 - 2 b c that of r. The squared scale is the mean of w r^2
    over that of w v: a covariance of a few members makes single v small or negative. Without
    errors of x all is `weighted_line`; without covariance the slope is that of dIVW.
    """
    mean_x, mean_y, dx, dy = centred(data.x, data.y, weight, intercept)
    weighted_dx, error = weight * dx, weight * data.sx**2
    spread, shared = (weighted_dx * dx).sum(axis=1), weight * data.c
    strength = spread - error.sum(axis=1)
    known = (strength > RANK * spread) & (spread > RANK**2 * (weight * data.x**2).sum(axis=1))
    strength = np.where(known, strength, np.nan)
    slope = (weighted_dx * dy - shared).sum(axis=1) / strength
    b, lever = slope[:, None], dx / strength[:, None]
    noise = weight * np.where(data.mask, data.sy**2, 0)
    variance = noise + b**2 * error - 2 * b * shared  # times the weight
    rest, total = (shared - b * error) / strength[:, None], weight.sum(axis=1)
    pull = 1 / total[:, None] - mean_x[:, None] * lever  # on the intercept
    n = (weight > 0).sum(axis=1)
    freedom = n - (2 if intercept else 1)
    floor = RANK * (noise + b**2 * error).sum(axis=1)  # errors that are one leave a residual none
    expected = np.fmax(variance.sum(axis=1), floor) * np.where(freedom > 0, freedom, np.nan) / n
    return Line(
        slope,
        mean_y - slope * mean_x,
        np.sqrt((lever**2 * weight * variance + rest**2).sum(axis=1)),
        np.sqrt((pull**2 * weight * variance + (mean_x[:, None] * rest) ** 2).sum(axis=1)),
        np.sqrt((weight * (dy - b * dx) ** 2).sum(axis=1) / expected),
        np.ones(len(slope), bool),
    )


def equal_line(
    data: Instruments,
    *,
    intercept: bool = False,
    effects: Literal["auto", "fixed", "random"] = "auto",
    distribution: Distribution = "normal",
) -> Fit:
    """Line through instruments of equal weight, whose errors are taken for equal, too.

    Parameters
    ----------
    data : Instruments
        Block of sequences.
    intercept : bool
        MR-Egger; else the line passes through the origin.
    effects : {"auto", "fixed", "random"}
        Of a line through the origin, as in `ivw`; with an intercept always "random".
    distribution : {"normal", "t"}
        Reference distribution; t has as many degrees of freedom as residuals leave.

    Returns
    -------
    dict of np.ndarray
        Columns of `deepmr_utils.mr.estimate`.

    Notes
    -----
    The slope is ``sum x y / sum x^2``, of deviations from the means with an intercept. With the
    covariance c of errors known it is ``sum (x y - c) / sum (x^2 - sx^2)``, which neither overlap
    nor attenuation biases (Lorincz-Comi, Yang, Li and Zhu 2024, HGG Adv 5:100290, for one
    exposure and equal weights). With errors as large as their means over instruments, v is the
    variance ``sy^2 + slope^2 sx^2 - 2 slope c`` of a residual, and ``k = c - slope sx^2`` its
    covariance with x; the variance of the slope is ``(sum x^2 max(s2, v) + n k^2) / D^2``, s2 the
    residual variance and D the denominator of the slope.
    """
    x, sx, y, sy, n = data[:5]
    mask, used = data.mask, np.fmax(n, 1)
    c = 0.0 * x if data.c is None else data.c
    ex, ey, cov = (np.where(mask, a, 0).sum(axis=1) / used for a in (sx**2, sy**2, c))
    if data.c is None:
        ex = 0 * ex  # as estimators do that take the exposure effects for exact
    mean_x, mean_y, dx, dy = centred(x, y, mask.astype(float), intercept)
    dx, dy = np.where(mask, dx, 0), np.where(mask, dy, 0)
    total = (dx * dx).sum(axis=1)
    strength = total - n * ex
    determined = (strength > 1e-12 * total) & (total > RANK**2 * (x * x).sum(axis=1))
    strength = np.where(determined, strength, np.nan)
    slope = ((dx * dy).sum(axis=1) - n * cov) / strength
    v = ey + slope**2 * ex - 2 * slope * cov
    freedom = n - (2 if intercept else 1)
    squares = ((dy - slope[:, None] * dx) ** 2).sum(axis=1)
    spread = squares / np.where(freedom > 0, freedom, np.nan)
    fixed = (effects == "fixed") | ((effects == "auto") & (n < 4))
    noise = np.where(fixed & (not intercept), v, np.fmax(spread, v))
    kappa = cov - slope * ex
    se = np.sqrt(total * noise + n * kappa**2) / strength
    scale, q = np.sqrt(spread / v), squares / v
    rule = {"distribution": distribution, "df": freedom}
    result = summary(slope, se, **rule) | {
        "scale": scale,
        "q": q,
        "q_p": chi2_tail(freedom, q),
        "reasons": {NOT_DEBIASED: (total > 0) & ~(strength > 0)},
    }
    if not intercept:
        return result | {"f_stat": ((x / sx) ** 2).sum(axis=1) / n}
    level_se = np.sqrt(noise / used + mean_x**2 * se**2)
    level = mean_y - slope * mean_x
    return result | {
        "intercept": level,
        "intercept_se": level_se,
        "intercept_p": inference(level, level_se, **rule)[2],
        "i2_gx": i2_gx(data),
    }


def _fit_line(data: Instruments, weight: Array, *, intercept: bool, robust: bool | int) -> Line:
    """Weighted line, robust where asked for, with standard errors of unit residual variance."""
    if data.c is not None:
        return _corrected_line(data, weight, intercept=intercept)
    # A point whose penalty underflows to a weight of 0 is no observation to R's lm and lmrob.
    order = np.argsort(weight == 0, axis=1, kind="stable")
    arrays = (data.x, data.y, data.sy, weight)
    x, y, sy, weight = (np.take_along_axis(a, order, axis=1) for a in arrays)
    n = (weight > 0).sum(axis=1)
    line = weighted_line(x, y, weight, n, intercept=intercept)
    rows = np.flatnonzero((data.n > (robust if robust is not True else 0)) & ~np.isnan(line.slope))
    if robust is False or not len(rows):
        return line
    mm = mm_line(x[rows], y[rows], np.sqrt(weight[rows]), n[rows], intercept=intercept)
    unit = {name: getattr(mm, name) / mm.scale for name in ("slope_se", "intercept_se")}
    for values, robust_values in zip(line, mm._replace(**unit), strict=True):
        values[rows] = robust_values
    # The S step tolerates (n - p) / 2 outliers; with as many all but weightless points, and p that
    # any line fits, its scale is that of rounding; with some, and others on one line, too.
    negligible = (weight > 0) & (weight * sy**2 < 1e-8)
    enough = 2 * negligible.sum(axis=1) < n - (2 if intercept else 1)
    enough &= ~negligible.any(axis=1) | ~(line.scale < 1e-4)
    line.converged[rows] &= enough[rows]
    return line
