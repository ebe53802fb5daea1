"""MM-regression of a line, deterministic and for many data sets at once.

The model is that of `robustbase::lmrob` (Yohai 1987, Ann Stat 15:642; Koller and Stahel 2011):
an S-estimate of 50 % breakdown gives the scale, an M-estimate at that scale gives the line. What
differs is the search: here the candidates are fixed by the number of points, not drawn at random.
"""

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from .._numerics import blocks, highest
from ._rows import Array, Arrays, Line, centred

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

    design: Array
    response: Array
    products: Array
    n: Array
    target: Array

    def rows(self, part: slice | Array) -> "_Problem":
        return _Problem(*(a[part] for a in self))

    def residuals(self, fit: Array) -> Array:
        """Residuals (S, C, V) of the lines (S, C, p)."""
        residual = fit @ self.design
        return np.subtract(self.response[:, None], residual, out=residual)


def mm_line(x: Array, y: Array, root_weight: Array, n: Array, *, intercept: bool) -> Line:
    """Fit y = intercept + slope x by MM-regression in every row.

    Parameters
    ----------
    x, y, root_weight : np.ndarray, float64 (S, V)
        Points and the square roots of their weights; padding, at the end, has weight 0.
    n : np.ndarray, int (S,)
        Number of points of a row.
    intercept : bool
        Whether the line has an intercept.

    Returns
    -------
    Line
        The M-estimate; standard errors from the asymptotic covariance, not divided by the scale;
        the S-scale. `converged` is False where a step did not converge, more than half of the
        points lie on one line exactly, so that there is no scale, or the rest has no slope or
        scale that a change of the data would move a little: then there is no standard error.

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
        s_fit, scale, s_converged = _s_step(problem, _candidates(problem))
        fit, _, converged = _iterate(problem, s_fit, scale**2, TUNING_M)
        line = line + np.einsum("sij,sj->si", to_line, fit)
        covariance, known = _covariance(problem, fit, s_fit, scale)
        variance = np.einsum("sij,sjk,sik->si", to_line, covariance, to_line)
        se = np.sqrt(np.fmax(variance, 0))
    # A scale this far below the least-squares one, or the response, is rounding of an exact fit.
    converged &= s_converged & (scale > 1e-10) & (scale * unit > 1e-13 * size) & known
    no_intercept = np.zeros(len(line)), np.full(len(line), np.nan)
    a, a_se = (line[:, 0], se[:, 0]) if intercept else no_intercept
    return Line(line[:, -1], a, se[:, -1], a_se, scale * unit, converged)


def _standardise(
    x: Array, y: Array, u: Array, n: Array, intercept: bool
) -> tuple[_Problem, Array, Array, Array]:
    """Return the problem, and the way back: line = least squares + to_line @ fit, and the unit."""
    mean_x, mean_y, dx, dy = centred(x, y, u**2, intercept)
    dx, dy = u * dx, u * dy
    slope = (dx * dy).sum(axis=1) / (dx**2).sum(axis=1)
    residual = dy - slope[:, None] * dx
    unit, norm_x, norm_1 = (np.sqrt((a**2).sum(axis=1) / n) for a in (residual, dx, u))
    line = np.stack([mean_y - slope * mean_x, slope], axis=1)
    to_line = [unit / norm_1, -unit * mean_x / norm_x, np.zeros(len(x)), unit / norm_x]
    to_line = np.stack(to_line, axis=1).reshape(-1, 2, 2)
    columns, first = [u / norm_1[:, None], dx / norm_x[:, None]], 0 if intercept else 1
    pairs = combinations_with_replacement(columns[first:], 2)
    problem = _Problem(
        np.stack(columns[first:], axis=1),
        residual / unit[:, None],
        np.stack([a * b for a, b in pairs], axis=2),
        n,
        BREAKDOWN * (n - 2 + first),
    )
    return problem, line[:, first:], to_line[:, first:, first:], unit


@lru_cache(maxsize=4096)
def _pairs(n: int, count: int) -> Array:
    """Return pairs of n points, int (count, 2): all of them, or a seeded sample; padded by 0, 0."""
    pairs = np.column_stack(np.triu_indices(n, 1))
    rng = np.random.default_rng(n)  # depends on n alone, so a row's fit is the same in any batch
    drawn = pairs[rng.permutation(len(pairs))[:count]]
    return np.pad(drawn, ((0, count - len(drawn)), (0, 0)))


def _candidates(problem: _Problem) -> Array:
    """Best lines (S, C, p) among those through p points, by their rho at a common scale."""
    rows, p, width = problem.design.shape
    # From the width, not the largest n: which rows share a block must not change a result.
    count = width if p == 1 else min(width * (width - 1) // 2, CANDIDATES)
    keep = min(count, _kept(REFINED, width))
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
        q = _inside(residual2)
        loss = np.where(lines.any(axis=2), width - np.vecdot(q * q, q), np.inf)
        chosen = np.argsort(loss, axis=1, kind="stable")[:, :keep]
        best[part] = np.take_along_axis(lines, chosen[:, :, None], axis=1)
    return best


def _kept(least: int, width: int) -> int:
    """More candidates where points are few: they cost the same, and small minima are narrow."""
    return max(least, least * 48 // width)


def _elemental(problem: _Problem, count: int) -> Array:
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


def _inside(v: Array) -> Array:
    """1 - v, v = (r / (c s))^2 at most 1, in its place; Tukey's rho is 1 - (1 - v)^3."""
    np.minimum(v, 1, out=v)
    return np.subtract(1, v, out=v)


def _m_scale2(residual2: Array, target: Array, scale2: Array, iterations: int) -> Array:
    """Squared M-scales (S, C): sum rho(r / s) = target (S,), by Newton steps in log s^2."""
    scale2 = scale2.copy()
    for _ in range(iterations):
        q = _inside(residual2 * (1 / (TUNING_S**2 * scale2))[..., None])
        square, cube = np.vecdot(q, q), np.vecdot(q * q, q)
        # rho = 1 - q^3, d rho / d log s^2 = -3 v q^2
        excess = q.shape[-1] - cube - target[:, None]
        step = np.clip(excess / (3 * (square - cube)), -2, 2)
        scale2 *= np.exp(np.where(np.isnan(step), 0, step))
    return scale2


def _solve(gram: Array, moment: Array) -> Array:
    """Solve symmetric p x p systems, p = 1 or 2, given as (.., 1) or (.., 3) and (.., p)."""
    if moment.shape[-1] == 1:
        return moment / gram
    g11, g12, g22 = gram[..., 0], gram[..., 1], gram[..., 2]
    m1, m2 = moment[..., 0], moment[..., 1]
    solution = np.stack([g22 * m1 - g12 * m2, g11 * m2 - g12 * m1], axis=-1)
    return solution / (g11 * g22 - g12**2)[..., None]


def _reweight(problem: _Problem, fit: Array, scale2: Array, tuning: float) -> Arrays:
    """One reweighted least-squares step (S, C, p), and the sum of rho (S, C) before it."""
    residual = problem.residuals(fit)
    v = residual * residual
    v *= (1 / (tuning**2 * scale2))[..., None]
    q = _inside(v)
    weight = q * q
    rho = q.shape[-1] - np.vecdot(q, weight)
    # Solving for the change, from residuals, keeps the fixed point exact however ill the Gram.
    moment = np.multiply(weight, residual, out=residual) @ problem.design.transpose(0, 2, 1)
    change = _solve(weight @ problem.products, moment)
    return np.where(np.isfinite(change), change, 0), rho


def _s_step(problem: _Problem, start: Array) -> Arrays:
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


def _smallest_distinct(lines: Array, scales2: Array) -> Array:
    """Order (S, C) of lines by their scale, with repetitions of the line before put last."""
    order = np.argsort(scales2, axis=1, kind="stable")
    lines = np.take_along_axis(lines, order[:, :, None], axis=1)
    scales2 = np.take_along_axis(scales2, order, axis=1)
    near = np.abs(np.diff(lines, axis=1)).max(axis=2) < 0.03 * np.sqrt(scales2[:, 1:])
    repeated = np.pad(near, ((0, 0), (1, 0)))
    return np.take_along_axis(order, np.argsort(repeated, axis=1, kind="stable"), axis=1)


def _iterate(problem: _Problem, fit: Array, scale2: Array, tuning: float) -> Arrays:
    """Reweight lines (S, p) until they stand still; in the S step the scale moves too."""
    fit, scale2 = fit.copy(), scale2.copy()
    last, active = np.zeros_like(fit), np.arange(len(fit))
    for iteration in range(ITERATIONS):
        f, s2 = fit[active], scale2[active]
        some = problem.rows(active)
        change, rho = (a[:, 0] for a in _reweight(some, f[:, None], s2[:, None], tuning))
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
    return fit, scale2, ~np.isin(np.arange(len(fit)), active)


def _covariance(problem: _Problem, fit: Array, s_fit: Array, scale: Array) -> Arrays:
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
    adjugate = np.array([[1, -1], [-1, 1]]) * gram[:, ::-1, ::-1]
    adjugate = adjugate if gram.shape[1] == 2 else np.ones_like(gram)
    terms = gram[:, 0] * adjugate[:, :, 0]  # of the determinant, of which only rounding may be left
    determinant = terms.sum(axis=1)
    known = np.abs(determinant) > 1e-10 * np.abs(terms).sum(axis=1)
    known &= chi_slope_u0.sum(axis=1) > FLAT * problem.n
    bread = scale[:, None, None] * (adjugate / determinant[:, None, None])
    influence = np.einsum("spv,sv->sp", design, psi_slope * u)
    influence /= chi_slope_u0.sum(axis=1, keepdims=True) / n
    a = np.einsum("spq,sq->sp", bread, influence)
    b = np.einsum("spq,sqv,sv->sp", bread, design, psi * chi)
    meat = (design * (psi**2)[:, None]) @ design.transpose(0, 2, 1)
    cross = a[:, :, None] * b[:, None, :] / n[:, None]
    chi2 = ((chi**2).sum(axis=1, keepdims=True) / n - BREAKDOWN**2) / n
    outer = chi2[:, None] * a[:, :, None] * a[:, None, :]
    return bread @ meat @ bread - cross - cross.transpose(0, 2, 1) + outer, known
