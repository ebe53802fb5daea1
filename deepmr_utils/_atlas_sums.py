"""Estimates of all pairs of features in one window, as products of matrices."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from ._atlas_plan import Plan, Window
from .mr import estimate
from .mr.registry import REGISTRY

EXPOSURES = 256  # exposures of one product: with thousands of outcomes its sums stay small
# Relative error of a difference of sums is about 1e-16 of what cancels: above this share of the
# difference the pair is fitted by `estimate`, from centred values.
CANCELLED = 1e6


def fit_window(window: Window, plan: Plan, lowest: Callable[[], np.ndarray]) -> np.ndarray:
    """Estimates of every exposure on every outcome in one window.

    Parameters
    ----------
    window : Window
    plan : Plan
    lowest : callable
        Gives the standard error (A, B) of an outcome where it is 0, see `_atlas_plan.floors`;
        called where an instrument has such an outcome.

    Returns
    -------
    np.ndarray, float64 (2 + M, methods, A, B)
        Effect and standard error as `deepmr_utils.mr.estimate` gives them pair by pair, and the
        effect by each member; NaN where there is no estimate, and for a feature on itself.

    Notes
    -----
    With weights ``w = 1 / se_y^2``, signs ``s = sign(x)`` that orient an instrument so that x is
    positive, and m the instruments, all that a weighted line needs are the sums
    ``Sw = m' w``, ``Sx = (m s x)' w``, ``Sxx = (m x^2)' w``, ``Sy = (m s)' (w y)``,
    ``Sxy = (m x)' (w y)`` and ``Syy = m' (w y^2)``, products of (A, V) by (V, B). Instruments lie
    away from 0, so little cancels when the sums are centred; pairs in which more does than
    `CANCELLED` are fitted again one by one.
    """
    (exposures, outcomes), kept = plan.columns, plan.instruments(window)
    needed = plan.still(window, kept).any()
    shape = len(plan.methods), len(exposures), len(outcomes)
    found = np.full((2 + len(window.members), *shape), np.nan)
    for first in range(0, len(exposures), EXPOSURES):
        part = slice(first, first + EXPOSURES)
        rows = kept[:, part].any(axis=1)
        left, right = np.ix_(rows, exposures[part]), np.ix_(rows, outcomes)
        mask, error = kept[rows, part], window.se[right]
        floor = lowest()[part] if needed else None
        n = mask.sum(axis=0)[:, None]
        for i, effect in enumerate((window.effect, *window.members)):
            x, y = effect[left], effect[right]
            sums = _sums(*(_tensor(values, plan) for values in (x, mask, y, error)), floor)
            for m, method in enumerate(plan.methods):
                values, doubtful = _fit(method, sums, _tensor(n, plan))
                a, b = doubtful.nonzero()
                if len(a):
                    data = x, window.se[left], mask, y, error
                    values[:, a, b] = _one_by_one(method, a, b, data, floor)
                found[1 + i, m, part] = values[0]
                if i == 0:
                    found[:2, m, part] = values
    found[..., plan.itself] = np.nan
    return found


def _tensor(array: np.ndarray, plan: Plan) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float64)).to(plan.device)


def _sums(
    x: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, se: torch.Tensor,
    floor: np.ndarray | None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Sums (A, B) over instruments; "zero" is Syy without instruments of exactly no effect."""
    sign = torch.sign(x) * mask
    size = x.abs() * mask
    left = torch.cat([mask, size, size * size], 1), torch.cat([sign, x * mask], 1), mask
    exact_zero = bool(((x == 0) & (mask > 0)).any())
    if exact_zero:
        left = (*left[:2], torch.cat([mask, sign * sign], 1))
    still = se == 0
    weight = torch.where(still, 0, 1 / (se * se))

    def products(rows: slice | torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        right = weight, weight * y[rows], weight * y[rows] ** 2
        blocks = [a[rows].T @ b for a, b in zip(left, right, strict=True)]
        return [c for block in blocks for c in block.reshape(-1, x.shape[1], y.shape[1])]

    values = products(slice(None), weight)
    rows = still.any(1)
    if rows.any():  # with the floor of the pair as their standard error
        counts = products(rows, still[rows].to(y))
        if bool((counts[0] > 0).any()):
            lowest = torch.from_numpy(floor).to(y) ** -2
            values = [
                a + torch.where(counts[0] > 0, lowest * b, 0)
                for a, b in zip(values, counts, strict=True)
            ]
    names = ("w", "x", "xx", "y", "xy", "yy", *(["zero"] if exact_zero else []))
    sums = dict(zip(names, values, strict=True))
    return {"zero": sums["yy"], **sums}


def _fit(
    method: str, sums: dict[str, torch.Tensor], n: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Effect and se (2, A, B) by sums, and for which pairs these are no good."""
    xx, xy = sums["xx"], sums["xy"]
    information, product, left = xx, xy, sums["yy"]
    freedom, fixed = n - 1, n < 4  # "auto": random effects from 4 instruments on
    if method == "egger":
        information = xx - sums["x"] ** 2 / sums["w"]
        product = xy - sums["x"] * sums["y"] / sums["w"]
        left = sums["zero"] - sums["y"] ** 2 / sums["w"]
        freedom, fixed = n - 2, torch.zeros_like(n, dtype=torch.bool)
    effect = product / information
    squares = (left - effect * product).clamp_min(0)
    scale = torch.where(freedom > 0, (squares / freedom).sqrt(), torch.nan)
    se = information.rsqrt() * torch.where(fixed, 1, torch.fmax(scale, torch.ones_like(scale)))
    enough = n >= REGISTRY[method].minimum
    clear = torch.isfinite(effect) & torch.isfinite(se) & (information * CANCELLED > xx)
    # nothing depends on a scale that is far below 1
    clear &= (squares * CANCELLED > sums["yy"]) | (scale < 0.1) | (freedom <= 0)
    values = torch.where(enough, torch.stack([effect, se]), torch.nan)
    return values.cpu().numpy(), (enough & ~clear).cpu().numpy()


def _one_by_one(
    method: str, a: np.ndarray, b: np.ndarray, data: tuple[np.ndarray, ...],
    floor: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """Effect and se (2, P) of pairs of exposures and outcomes by `estimate`."""
    x, se_x, mask, y, se_y = data
    step = max(1, 2**21 // max(1, len(x)))
    tables = []
    for first in range(0, len(a), step):
        i, j = a[first : first + step], b[first : first + step]
        error = se_y.T[j]
        if floor is not None:
            error = np.where(error == 0, floor[i, j][:, None], error)
        there = mask.T[i] & ~np.isnan(error)
        arrays = (x.T[i], se_x.T[i], y.T[j], error)
        tables.append(estimate(*(np.where(there, v, np.nan) for v in arrays), method))
    table = pd.concat(tables)
    return table[["causal_effect", "se"]].to_numpy().T
