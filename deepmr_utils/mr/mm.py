"""MM-regression of a line, deterministic and for many data sets at once.

The model is that of `robustbase::lmrob` (Yohai 1987, Ann Stat 15:642; Koller and Stahel 2011):
an S-estimate of 50 % breakdown gives the scale, an M-estimate at that scale gives the line. What
differs is the search: here the candidates are fixed by the number of points, not drawn at random.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._numerics import blocks, highest

# Tukey's bisquare: 1.54764 gives the S-estimate its 50 % breakdown point, 4.685061 gives the
# M-estimate 95 % efficiency at normal errors; both as in lmrob.
TUNING_S = 1.54764
TUNING_M = 4.685061
BREAKDOWN = 0.5

# Lines through two points that are screened, and how many are refined. All pairs up to 25 points;
# beyond, see `tests/test_mr_mm.py` for how often this finds the minimum of the exhaustive search.
CANDIDATES = 300
REFINED = 16
FINALISTS = 3
STEPS = (3, 20)
ITERATIONS = 2000
TOLERANCE = 1e-13
# Mean slope of rho at the S-scale: 0 where each point lies on the line or is rejected, as integers
# may do. Then the scale is not unique. Of 28,000 fits to 3 to 20 normal points the least was 3e-5.
FLAT = 1e-5


class MMLine(NamedTuple):
    """Robust lines: the fields of a weighted line, with standard errors of the robust fit.

    Attributes
    ----------
    slope, intercept : np.ndarray, float64 (S,)
        The M-estimate.
    slope_se, intercept_se : np.ndarray, float64 (S,)
        From the asymptotic covariance, not divided by the scale.
    scale : np.ndarray, float64 (S,)
        The S-scale.
    converged : np.ndarray, bool (S,)
        False where a step did not converge, more than half of the points lie on one line
        exactly, so that there is no scale, or the rest has no slope or scale that a change of the
        data would move a little: then there is no standard error.
    """

    slope: np.ndarray
    intercept: np.ndarray
    slope_se: np.ndarray
    intercept_se: np.ndarray
    scale: np.ndarray
    converged: np.ndarray


class _Problem(NamedTuple):
    """Data sets of p columns, p = 1 or 2, in units in which all of them are alike.

    Attributes
    ----------
    design, response : np.ndarray, float64 (S, p, V) and (S, V)
        Columns of mean square 1, and the residuals of the least-squares fit.
    products : np.ndarray, float64 (S, V, p (p + 1) / 2)
        Products of the columns, whose weighted sums are the normal equations.
    n, target : np.ndarray (S,)
        Number of points, and what their rho sum to at the S-scale.
    """

    design: np.ndarray
    response: np.ndarray
    products: np.ndarray
    n: np.ndarray
    target: np.ndarray

    def rows(self, part: slice | np.ndarray) -> "_Problem":
        return _Problem(*(a[part] for a in self))

    def residuals(self, fit: np.ndarray) -> np.ndarray:
        """Residuals (S, C, V) of the lines (S, C, p)."""
        residual = fit @ self.design
        return np.subtract(self.response[:, None], residual, out=residual)


def mm_line(
    x: np.ndarray,
    y: np.ndarray,
    root_weight: np.ndarray,
    n: np.ndarray,
    *,
    intercept: bool,
    exhaustive: bool = False,
) -> MMLine:
    """Fit y = intercept + slope x by MM-regression in every row.

    Parameters
    ----------
    x, y, root_weight : np.ndarray, float64 (S, V)
        Points and the square roots of their weights; padding, at the end, has weight 0.
    n : np.ndarray, int (S,)
        Number of points of a row.
    intercept : bool
        Whether the line has an intercept.
    exhaustive : bool
        Screen every pair of points and refine 8 times as many, whatever the number of points.

    Returns
    -------
    MMLine

    Notes
    -----
    As in weighted `lmrob`, the rows (1, x, y) are multiplied by `root_weight` and then treated
    alike. Columns are centred, scaled and freed of the least-squares fit first; the estimate is
    equivariant, so this changes nothing but rounding.
    """
    # Rows without information divide by zero; they come out as not converged.
    with np.errstate(all="ignore"):
        problem, line, to_line, unit = _standardise(x, y, root_weight, n, intercept)
        size = np.sqrt(((root_weight * y) ** 2).sum(axis=1) / n)
        s_fit, scale, s_converged = _s_step(problem, _candidates(problem, exhaustive))
        fit, _, converged = _iterate(problem, s_fit, scale**2, TUNING_M)
        line = line + np.einsum("sij,sj->si", to_line, fit)
        covariance, known = _covariance(problem, fit, s_fit, scale)
        variance = np.einsum("sij,sjk,sik->si", to_line, covariance, to_line)
        se = np.sqrt(np.fmax(variance, 0))
    # A scale this far below the least-squares one, or the response, is rounding of an exact fit.
    converged &= s_converged & (scale > 1e-10) & (scale * unit > 1e-13 * size) & known
    no_intercept = np.zeros(len(line)), np.full(len(line), np.nan)
    a, a_se = (line[:, 0], se[:, 0]) if intercept else no_intercept
    return MMLine(line[:, -1], a, se[:, -1], a_se, scale * unit, converged)


def _standardise(
    x: np.ndarray, y: np.ndarray, u: np.ndarray, n: np.ndarray, intercept: bool
) -> tuple[_Problem, np.ndarray, np.ndarray, np.ndarray]:
    """Return the problem, and the way back: line = least squares + to_line @ fit, and the unit."""
    weight, zero = u**2, np.zeros(len(x))
    total = weight.sum(axis=1)
    mean_x = (weight * x).sum(axis=1) / total if intercept else zero
    mean_y = (weight * y).sum(axis=1) / total if intercept else zero
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    if intercept:  # as in `weighted_line`: what rounding left of the means
        rest_x, rest_y = ((weight * d).sum(axis=1) / total for d in (dx, dy))
        mean_x, mean_y = mean_x + rest_x, mean_y + rest_y
        dx, dy = dx - rest_x[:, None], dy - rest_y[:, None]
    dx, dy = u * dx, u * dy
    slope = (dx * dy).sum(axis=1) / (dx**2).sum(axis=1)
    residual = dy - slope[:, None] * dx
    unit, norm_x, norm_1 = (np.sqrt((a**2).sum(axis=1) / n) for a in (residual, dx, u))
    a, b = u / norm_1[:, None], dx / norm_x[:, None]
    if intercept:
        columns, products = [a, b], [a * a, a * b, b * b]
        to_line = np.stack([unit / norm_1, -unit * mean_x / norm_x, zero, unit / norm_x], axis=1)
        line = np.stack([mean_y - slope * mean_x, slope], axis=1)
    else:
        columns, products, to_line, line = [b], [b * b], unit / norm_x, slope[:, None]
    p = len(columns)
    problem = _Problem(
        np.stack(columns, axis=1),
        residual / unit[:, None],
        np.stack(products, axis=2),
        n,
        BREAKDOWN * (n - p),
    )
    return problem, line, to_line.reshape(-1, p, p), unit


@lru_cache(maxsize=4096)
def _pairs(n: int, count: int) -> np.ndarray:
    """Return pairs of n points, int (count, 2): all of them, or a seeded sample; padded by 0, 0."""
    i, j = np.triu_indices(n, 1)
    rng = np.random.default_rng(n)  # depends on n alone, so a row's fit is the same in any batch
    order = rng.permutation(len(i))[:count]
    pairs = np.zeros((count, 2), np.intp)
    pairs[: len(order)] = np.column_stack([i[order], j[order]])
    return pairs


def _candidates(problem: _Problem, exhaustive: bool) -> np.ndarray:
    """Best lines (S, C, p) among those through p points, by their rho at a common scale."""
    rows, p, width = problem.design.shape
    # From the width, not the largest n: which rows share a block must not change a result.
    available = width if p == 1 else width * (width - 1) // 2
    count = available if exhaustive or p == 1 else min(available, CANDIDATES)
    keep = min(count, _kept(REFINED, width) * (8 if exhaustive else 1))
    best = np.empty((rows, keep, p))
    for part in blocks(rows, count * width):
        some = problem.rows(part)
        lines = _elemental(some, count)
        residual2 = some.residuals(lines)
        np.square(residual2, out=residual2)
        # The smallest scale of a few candidates; a better candidate has a smaller rho at it.
        few = residual2[:, :: -(-count // 12)]
        scale2 = _m_scale2(few, some.target, np.ones(few.shape[:2]), 5).min(axis=1)
        residual2 *= (1 / (TUNING_S**2 * scale2))[:, None, None]
        loss = np.where(lines.any(axis=2), _rho_sum(residual2), np.inf)
        chosen = np.argsort(loss, axis=1, kind="stable")[:, :keep]
        best[part] = np.take_along_axis(lines, chosen[:, :, None], axis=1)
    return best


def _kept(least: int, width: int) -> int:
    """More candidates where points are few: they cost the same, and small minima are narrow."""
    return max(least, least * 48 // width)


def _elemental(problem: _Problem, count: int) -> np.ndarray:
    """Lines (S, count, p) through p points; 0, the least-squares line, where there is none."""
    row, y = np.arange(len(problem.n))[:, None], problem.response
    if problem.design.shape[1] == 1:
        lines = (y / problem.design[:, 0])[:, :count, None]
    else:
        sizes, inverse = np.unique(problem.n, return_inverse=True)
        pairs = np.stack([_pairs(int(size), count) for size in sizes])[inverse]
        i, j = pairs[:, :, 0], pairs[:, :, 1]
        a, b = problem.design[:, 0], problem.design[:, 1]
        ai, aj, bi, bj, yi, yj = (v[row, k] for v in (a, b, y) for k in (i, j))
        determinant = ai * bj - aj * bi
        # Two points of the same x have no line; rounding leaves a determinant of about 1e-16.
        determinant[np.abs(determinant) <= 1e-10 * (np.abs(ai * bj) + np.abs(aj * bi))] = np.nan
        lines = np.stack([yi * bj - yj * bi, ai * yj - aj * yi], axis=2) / determinant[..., None]
    lines[~np.isfinite(lines).all(axis=2)] = 0
    return lines


def _rho_sum(v: np.ndarray) -> np.ndarray:
    """Sum of Tukey's rho (maximum 1) over the last axis; v = (r / (c s))^2 is overwritten."""
    np.minimum(v, 1, out=v)
    np.subtract(1, v, out=v)
    return v.shape[-1] - np.vecdot(v * v, v)


def _m_scale2(
    residual2: np.ndarray, target: np.ndarray, scale2: np.ndarray, iterations: int
) -> np.ndarray:
    """Squared M-scales (S, C): sum rho(r / s) = target (S,), by Newton steps in log s^2."""
    scale2 = scale2.copy()
    for _ in range(iterations):
        q = residual2 * (1 / (TUNING_S**2 * scale2))[..., None]
        np.minimum(q, 1, out=q)
        np.subtract(1, q, out=q)
        square, cube = np.vecdot(q, q), np.vecdot(q * q, q)
        # With v = (r / (c s))^2 and q = 1 - v: rho = 1 - q^3, d rho / d log s^2 = -3 v q^2.
        excess = q.shape[-1] - cube - target[:, None]
        step = np.clip(excess / (3 * (square - cube)), -2, 2)
        scale2 *= np.exp(np.where(np.isnan(step), 0, step))
    return scale2


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Solve symmetric p x p systems, p = 1 or 2, given as (.., 1) or (.., 3) and (.., p)."""
    if moment.shape[-1] == 1:
        return moment / gram
    g11, g12, g22 = gram[..., 0], gram[..., 1], gram[..., 2]
    m1, m2 = moment[..., 0], moment[..., 1]
    determinant = g11 * g22 - g12**2
    solution = np.stack([g22 * m1 - g12 * m2, g11 * m2 - g12 * m1], axis=-1)
    return solution / determinant[..., None]


def _reweight(
    problem: _Problem, fit: np.ndarray, scale2: np.ndarray, tuning: float
) -> tuple[np.ndarray, np.ndarray]:
    """One reweighted least-squares step (S, C, p), and the sum of rho (S, C) before it."""
    residual = problem.residuals(fit)
    v = residual * residual
    v *= (1 / (tuning**2 * scale2))[..., None]
    np.minimum(v, 1, out=v)
    q = np.subtract(1, v, out=v)
    weight = q * q
    rho = q.shape[-1] - np.vecdot(q, weight)
    # Solving for the change, from residuals, keeps the fixed point exact however ill the Gram.
    moment = np.multiply(weight, residual, out=residual) @ problem.design.transpose(0, 2, 1)
    change = _solve(weight @ problem.products, moment)
    return np.where(np.isfinite(change), change, 0), rho


def _s_step(problem: _Problem, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S-estimate (S, p), its scale (S,), and whether it converged, from candidates (S, C, p)."""
    rows, count, p = start.shape
    width = problem.design.shape[2]
    fit, scale2 = np.empty((rows, p)), np.empty(rows)
    for part in blocks(rows, count * width):
        some, lines = problem.rows(part), start[part]
        scales2 = np.ones(lines.shape[:2])
        # Refine all a little, then a few a lot, then leave the best one to converge.
        for steps, keep in zip(STEPS, (_kept(FINALISTS, width), 1), strict=True):
            scales2 = _m_scale2(some.residuals(lines) ** 2, some.target, scales2, 4)
            for _ in range(steps):
                change, rho = _reweight(some, lines, scales2, TUNING_S)
                lines = lines + change
                scales2 = scales2 * rho / some.target[:, None]
            scales2 = _m_scale2(some.residuals(lines) ** 2, some.target, scales2, 4)
            if keep > 1:
                top = _smallest_distinct(lines, scales2)[:, :keep]
            else:  # of lines of one scale, as symmetric data have, always the same
                top = highest(-scales2, lines[:, :, -1])[:, None]
            lines = np.take_along_axis(lines, top[:, :, None], axis=1)
            scales2 = np.take_along_axis(scales2, top, axis=1)
        fit[part], scale2[part] = lines[:, 0], scales2[:, 0]
    fit, scale2, converged = _iterate(problem, fit, scale2, TUNING_S)
    return fit, np.sqrt(scale2), converged


def _smallest_distinct(lines: np.ndarray, scales2: np.ndarray) -> np.ndarray:
    """Order (S, C) of lines by their scale, with repetitions of the line before put last."""
    order = np.argsort(scales2, axis=1, kind="stable")
    lines = np.take_along_axis(lines, order[:, :, None], axis=1)
    scales2 = np.take_along_axis(scales2, order, axis=1)
    near = np.abs(np.diff(lines, axis=1)).max(axis=2) < 0.03 * np.sqrt(scales2[:, 1:])
    repeated = np.pad(near, ((0, 0), (1, 0)))
    return np.take_along_axis(order, np.argsort(repeated, axis=1, kind="stable"), axis=1)


def _iterate(
    problem: _Problem, fit: np.ndarray, scale2: np.ndarray, tuning: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reweight lines (S, p) until they stand still; in the S step the scale moves too."""
    fit, scale2 = fit.copy(), scale2.copy()
    last, active = np.zeros_like(fit), np.arange(len(fit))
    for iteration in range(ITERATIONS):
        f, s2 = fit[active], scale2[active]
        some = problem.rows(active)
        change, rho = _reweight(some, f[:, None], s2[:, None], tuning)
        change, rho = change[:, 0], rho[:, 0]
        still = np.abs(change).max(axis=1) <= TOLERANCE * (np.sqrt(s2) + np.abs(f).max(axis=1))
        if tuning == TUNING_S:
            factor = rho / some.target
            scale2[active] = s2 * factor
            still &= np.abs(factor - 1) <= 1e-12
        previous, last[active] = last[active], change
        if iteration % 5 == 4:
            # Reweighting converges linearly: near the end, jump to where its steps add up to.
            rate = (change * previous).sum(axis=1) / (previous**2).sum(axis=1)
            near = (np.abs(change).max(axis=1) < 1e-3 * np.sqrt(s2)) & (rate > 0) & (rate < 0.99)
            change = change * np.where(near, 1 / (1 - rate), 1)[:, None]
        fit[active] = f + change
        active = active[~still]
        if not len(active):
            break
    converged = np.ones(len(fit), bool)
    converged[active] = False
    return fit, scale2, converged


def _covariance(
    problem: _Problem, fit: np.ndarray, s_fit: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance (S, p, p) of the M-estimate, scale estimated too (`.vcov.avar1` of lmrob).

    Also whether there is one (S,). Croux, Dhaene and Hoorelbeke (2003), "Robust standard errors for
    robust estimators".
    """
    design, n = problem.design, problem.n[:, None]
    u, u0 = (problem.residuals(f[:, None])[:, 0] / scale[:, None] for f in (fit, s_fit))
    v, v0 = np.minimum((u / TUNING_M) ** 2, 1), np.minimum((u0 / TUNING_S) ** 2, 1)
    psi, psi_slope = u * (1 - v) ** 2, (1 - v) * (1 - 5 * v)
    chi, chi_slope_u0 = 1 - (1 - v0) ** 3, 6 * v0 * (1 - v0) ** 2
    gram = np.einsum("spv,sv,sqv->spq", design, psi_slope, design)
    known = (chi_slope_u0.mean(axis=1) * v.shape[1] > FLAT * problem.n) & _regular(gram)
    bread = scale[:, None, None] * _inverse(gram)
    influence = np.einsum("spv,sv->sp", design, psi_slope * u)
    influence /= chi_slope_u0.sum(axis=1, keepdims=True) / n
    a = np.einsum("spq,sq->sp", bread, influence)
    b = np.einsum("spq,sqv,sv->sp", bread, design, psi * chi)
    meat = (design * (psi**2)[:, None]) @ design.transpose(0, 2, 1)
    cross = a[:, :, None] * b[:, None, :] / n[:, None]
    chi2 = ((chi**2).sum(axis=1, keepdims=True) / n - BREAKDOWN**2) / n
    outer = chi2[:, None] * a[:, :, None] * a[:, None, :]
    return bread @ meat @ bread - cross - cross.transpose(0, 2, 1) + outer, known


def _regular(matrix: np.ndarray) -> np.ndarray:
    """Whether symmetric (S, p, p), p = 1 or 2, have a determinant that is not rounding."""
    if matrix.shape[-1] == 1:
        return matrix[:, 0, 0] != 0
    product, square = matrix[:, 0, 0] * matrix[:, 1, 1], matrix[:, 0, 1] ** 2
    return np.abs(product - square) > 1e-10 * (np.abs(product) + square)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of symmetric (S, p, p), p = 1 or 2; infinite, not an error, where singular."""
    if matrix.shape[-1] == 1:
        return 1 / matrix
    a, b, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    adjugate = np.stack([d, -b, -b, a], axis=1).reshape(-1, 2, 2)
    return adjugate / (a * d - b**2)[:, None, None]
