"""Instruments and estimates of all pairs of features in one window, as products of matrices."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from .mr import estimate
from .mr.registry import REGISTRY

METHODS = ("ivw", "egger")
EXPOSURES = 256  # exposures of one product: with thousands of outcomes its sums stay small
# Relative error of a difference of sums is about 1e-16 of what cancels: above this share of the
# difference the pair is fitted by `estimate`, from centred values.
CANCELLED = 1e6


class Rules(NamedTuple):
    """What decides which substitutions are instruments, of each of A exposures.

    Attributes
    ----------
    rule, threshold
        As in `deepmr_utils.instruments.select_instruments`.
    mean, sd : np.ndarray, float64 (A,)
        Of all valid substitutions of all windows (ddof 0); of the rule "pooled" alone.
    """

    rule: str
    threshold: float
    mean: np.ndarray
    sd: np.ndarray


class Window(NamedTuple):
    """The V substitutions of one window that have effects, on K features.

    Attributes
    ----------
    effect, se : np.ndarray, float64 (V, K)
        Effects and standard errors.
    members : np.ndarray, float64 (M, V, K), or None
        Effects by member.
    """

    effect: np.ndarray
    se: np.ndarray
    members: np.ndarray | None


class Fits(NamedTuple):
    """Estimates of A exposures on B outcomes in one window, arrays (A, B); NaN where there is none.

    Attributes
    ----------
    effect, se, scale : np.ndarray, float64 (A, B)
        Causal effect, its standard error, residual standard error (to few digits where it is below
        0.1, since nothing depends on it there).
    n : np.ndarray, int (A,)
        Instruments of each exposure.
    """

    effect: np.ndarray
    se: np.ndarray
    scale: np.ndarray
    n: np.ndarray


def windows(effects: xr.Dataset, features: Sequence[str], *, members: bool) -> Iterator[Window]:
    """Substitutions of each window of a block of variant effects.

    Raises
    ------
    ValueError
        If a substitution has an effect on some features only, or no standard error with it.
    """
    names = ["effect", "se", *(["member_effect"] if members else [])]
    block = effects[names]
    if block["feature"].to_numpy().tolist() != list(features):
        block = block.sel(feature=list(features))
    block = block.load()
    order = ("sequence", "position", "allele", "feature")
    effect, se = (block[name].transpose(*order).to_numpy() for name in names[:2])
    each = block["member_effect"].transpose("member", *order).to_numpy() if members else None
    for i, name in enumerate(block["sequence"].to_numpy().tolist()):
        finite = np.isfinite(effect[i])
        valid = finite.all(axis=-1)
        if (finite.any(axis=-1) != valid).any():
            feature = features[int(np.argmin(finite[finite.any(axis=-1)].all(axis=0)))]
            raise ValueError(
                f"all features must have effects of the same substitutions; window {name!r} lacks "
                f"some of {feature!r}: leave that feature out, or use select_instruments"
            )
        error = se[i][valid].astype(np.float64)
        if not (np.isfinite(error) & (error >= 0)).all():
            raise ValueError(
                f"a standard error must be finite and at least 0 where there is an effect; window "
                f"{name!r} has {error[~(np.isfinite(error) & (error >= 0))][0]}: compute it again"
            )
        own = None if each is None else each[:, i][:, valid].astype(np.float64)
        yield Window(effect[i][valid].astype(np.float64), error, own)


def instrument_mask(effect: np.ndarray, se: np.ndarray, rules: Rules) -> np.ndarray:
    """Which substitutions (V, A) are instruments, as `select_instruments` decides."""
    usable = se != 0
    if rules.rule == "pooled":
        spread = np.where(rules.sd > 0, rules.sd, 1)
        strength = np.where(rules.sd > 0, np.abs(effect - rules.mean) / spread, 0)
    else:
        strength = np.abs(effect) / np.where(usable, se, 1)
    return usable & (strength >= rules.threshold)


def all_pairs(
    exposure: np.ndarray,
    se_exposure: np.ndarray,
    outcome: np.ndarray,
    se_outcome: np.ndarray,
    kept: np.ndarray,
    methods: Sequence[str] = METHODS,
    *,
    floor: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Fits]:
    """Estimates of every exposure on every outcome in one window.

    Parameters
    ----------
    exposure, se_exposure : np.ndarray, float64 (V, A)
        Effects on A exposures, and their standard errors.
    outcome, se_outcome : np.ndarray, float64 (V, B)
        Effects on B outcomes, and their standard errors.
    kept : np.ndarray, bool (V, A)
        Instruments of each exposure, `instrument_mask`.
    methods : sequence of {"ivw", "egger"}
    floor : np.ndarray, float64 (A, B), optional
        Standard error of an outcome where it is 0, of each pair; NaN where there is none. Needed
        where an instrument has such an outcome.
    device : str
        Where the products are computed.

    Returns
    -------
    dict of Fits
        By method, what `deepmr_utils.mr.estimate` gives pair by pair.

    Notes
    -----
    With weights ``w = 1 / se_y^2``, signs ``s = sign(x)`` that orient an instrument so that x is
    positive, and m the instruments, all that a weighted line needs are the sums
    ``Sw = m' w``, ``Sx = (m s x)' w``, ``Sxx = (m x^2)' w``, ``Sy = (m s)' (w y)``,
    ``Sxy = (m x)' (w y)`` and ``Syy = m' (w y^2)``, products of (A, V) by (V, B). Instruments lie
    away from 0, so little cancels when the sums are centred; pairs in which more does than
    `CANCELLED` are fitted again one by one.
    """
    fits = {
        method: Fits(*np.full((3, exposure.shape[1], outcome.shape[1]), np.nan), kept.sum(axis=0))
        for method in methods
    }
    for first in range(0, exposure.shape[1], EXPOSURES):
        part = slice(first, first + EXPOSURES)
        rows = kept[:, part].any(axis=1)
        x, mask = exposure[rows, part], kept[rows, part]
        y, error = outcome[rows], se_outcome[rows]
        lowest = None if floor is None else floor[part]
        sums = _sums(*(_tensor(a, device) for a in (x, mask, y, error)), lowest)
        for method in methods:
            new, doubtful = _fit(method, sums, _tensor(mask.sum(axis=0)[:, None], device))
            a, b = doubtful.nonzero()
            if len(a):
                data = x, se_exposure[rows, part], mask, y, error
                for values, exact in zip(new, _one_by_one(method, a, b, data, lowest), strict=True):
                    values[a, b] = exact
            for whole, values in zip(fits[method], new, strict=False):
                whole[part] = values
    return fits


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float64)).to(device)


def _sums(
    x: torch.Tensor,
    mask: torch.Tensor,
    y: torch.Tensor,
    se: torch.Tensor,
    floor: np.ndarray | None,
) -> dict[str, torch.Tensor]:
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
) -> tuple[list[np.ndarray], np.ndarray]:
    """Effect, se and scale (A, B) by sums, and for which pairs these are no good."""
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
    values = [torch.where(enough, a, torch.nan).cpu().numpy() for a in (effect, se, scale)]
    return values, (enough & ~clear).cpu().numpy()


def _one_by_one(
    method: str,
    a: np.ndarray,
    b: np.ndarray,
    data: tuple[np.ndarray, ...],
    floor: np.ndarray | None,
) -> list[np.ndarray]:
    """Effect, se and scale (P,) of pairs of exposures and outcomes by `estimate`."""
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
    return [table[name].to_numpy() for name in ("causal_effect", "se", "scale")]
