"""Estimates of all pairs of features in one window, as products of matrices."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ._atlas_plan import Plan, Window
from .mr.registry import REGISTRY

EXPOSURES = 256  # exposures of one product: with thousands of outcomes its sums stay small
LEAST = 1e-12  # share of sum x^2 below which what noise or centring leaves of it has no digits


def fit_window(window: Window, plan: Plan) -> np.ndarray:
    """Estimates of every exposure on every outcome in one window.

    Returns
    -------
    np.ndarray, float64 (2 + M, methods, A, B)
        Effect and standard error, and what each of M members says: pseudo-values, or of 2 members
        their own estimates. NaN where there is no estimate, and for a feature on itself.

    Notes
    -----
    The slope is ``sum x y / sum x^2`` over n instruments, all of the same weight. With 3 members or
    more both sums are means over products of different members, whose errors are independent:
    ``N = sum x y - n c`` and ``D = sum x^2 - n v_x``, where ``v_x, v_y, c`` are the variances and
    the covariance of the errors of x and y, means over instruments (the estimating equation of
    Lorincz-Comi, Yang, Li and Zhu 2024, HGG Adv 5:100290, for equal weights). With
    ``v = v_y + slope^2 v_x - 2 slope c`` and ``k = c - slope v_x``, the variance of a residual and
    its covariance with x, the squared standard error is
    ``(sum x^2 max(s2, v) + n k^2) / D^2``, s2 being the residual variance; IVW takes v alone below
    4 instruments. MR-Egger orients instruments so that x is positive, and centres the sums.

    A pseudo-value is ``M slope - (M - 1) slope(-m)``, with all of the other members alone.
    """
    (exposures, outcomes), kept = plan.columns, plan.instruments(window)
    draws = window.members if plan.members else window.effect[None]
    found = np.full((2 + plan.members, len(plan.methods), *plan.itself.shape), np.nan)
    for first in range(0, len(exposures), EXPOSURES):
        part = slice(first, first + EXPOSURES)
        rows = kept[:, part].any(axis=1)
        mask = _tensor(kept[rows, part], plan)
        used = draws[:, rows]
        x, y = _tensor(used[..., exposures[part]], plan) * mask, _tensor(used[..., outcomes], plan)
        if plan.members:
            variance = ((y - y.mean(0)) ** 2).sum(0) / (plan.members * (plan.members - 1))
        else:
            variance = _tensor(window.se[np.ix_(rows, outcomes)], plan) ** 2 / plan.averaged
        found[:, :, part] = _estimates(x, y, mask, variance, plan.methods).cpu().numpy()
    found[..., plan.itself] = np.nan
    return found


def _tensor(array: np.ndarray, plan: Plan) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float64)).to(plan.device)


def _estimates(
    x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, variance: torch.Tensor,
    methods: Sequence[str],
) -> torch.Tensor:  # fmt: skip
    """`fit_window` of effects (M, V, A), 0 off the mask, and (M, V, B), variances of means of y."""
    m, n = len(x), mask.sum(0)[:, None]
    slopes = _products(x, y, lambda a, b: a.T @ b)
    strength = _products(x, x, lambda a, b: (a * b).sum(0))[..., None]
    # of all members and of each subset: sum x^2, and sums of x and y, x oriented to be positive
    xx, reach, turned = [], [], []
    for a, b in _subsets(x, y):
        xx.append((a * a).sum(0)[:, None])
        if "egger" in methods:
            reach.append(a.abs().sum(0)[:, None])
            turned.append(a.sign().T @ b)
    x, y = next(_subsets(x, y))
    size, xy, square = torch.stack(xx), x.T @ y, y * y
    v_x, v_y, c = (size[0] - strength[0]) / n, mask.T @ variance / n, (xy - slopes[0]) / n
    tables = []
    for method in methods:
        product, d, total, cross, freedom = slopes, strength, size[0], xy, n - 1
        if method == "egger":
            a, b = torch.stack(reach), torch.stack(turned)
            product, d, total = product - a * b / n, d - a**2 / n, total - a[0] ** 2 / n
            # like R, instruments of exactly no exposure effect count as (0, 0)
            cross, freedom = cross - a[0] * b[0] / n, n - 2
            left = (x.sign() ** 2).T @ square - b[0] ** 2 / n
        else:
            left = mask.T @ square
        slope = torch.where(d > LEAST * size, product / d, torch.nan)
        effect = slope[0]
        residual = (v_y + effect**2 * v_x - 2 * effect * c).clamp_min(0)
        noise = torch.maximum(residual, (left - 2 * effect * cross + effect**2 * total) / freedom)
        if method == "ivw":
            noise = torch.where(n < 4, residual, noise)
        se = (total * noise + n * (c - effect * v_x) ** 2).sqrt() / d[0]
        members = m * effect - (m - 1) * slope[1:] if m > 2 else slope[1:]
        values = torch.cat([effect[None], se[None], members])
        tables.append(torch.where(n >= REGISTRY[method].minimum, values, torch.nan))
    return torch.stack(tables, 1)


def _subsets(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Means of all members, and then of all but one, or each of two."""
    m, all_x, all_y = len(x), x.sum(0), y.sum(0)
    yield all_x / m, all_y / m
    for a, b in zip(x, y, strict=True) if m > 1 else ():
        yield (a, b) if m == 2 else ((all_x - a) / (m - 1), (all_y - b) / (m - 1))


def _products(
    x: torch.Tensor, y: torch.Tensor, times: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Products of each of the `_subsets`, in means over different members where 3 are there."""
    m, all_x, all_y = len(x), x.sum(0), y.sum(0)
    if m < 3:
        return torch.stack([times(a, b) for a, b in _subsets(x, y)])
    pairs = zip(x, y, strict=True)
    lost = torch.stack([times(a, all_y - b) + times(all_x - a, b) for a, b in pairs])
    total = lost.sum(0) / 2
    return torch.cat([total[None] / (m * (m - 1)), (total - lost) / ((m - 1) * (m - 2))])
