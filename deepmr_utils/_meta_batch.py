"""Means of random effects for very many meta-analyses: what `meta` gives, without its intervals."""

from typing import Literal, NamedTuple

import numpy as np
import torch

from ._checks import check_choice, numbers
from ._meta_variance import (
    dersimonian_laird,
    restricted_likelihood,
    squared_unit,
    standardise,
    weighted,
)

TAU2_METHODS = ("reml", "dl")
CACHE = 2**15  # numbers of a block on a CPU: they stay in cache, and one thread does not wait


class Means(NamedTuple):
    """Random-effects means of G meta-analyses, arrays (G,).

    Attributes
    ----------
    effect, se : np.ndarray, float64 (G,)
        Mean and its standard error given the variances; NaN without a study.
    tau2 : np.ndarray, float64 (G,)
        Between-study variance; NaN below two studies.
    k : np.ndarray, int (G,)
        Studies that were used.
    """

    effect: np.ndarray
    se: np.ndarray
    tau2: np.ndarray
    k: np.ndarray


def random_means(
    effect: np.ndarray,
    se: np.ndarray,
    tau2_method: Literal["reml", "dl"] = "reml",
    *,
    device: str | torch.device = "cpu",
) -> Means:
    """Random-effects mean of every column.

    Parameters
    ----------
    effect, se : np.ndarray, float (S, G)
        Effects and standard errors of S studies in G meta-analyses: studies are rows here, so that
        sums over them run along contiguous memory. Pairs of which either is not finite, or se not
        positive, are left out.
    tau2_method : {"reml", "dl"}
        Restricted maximum likelihood or DerSimonian-Laird.
    device : str
        Where to compute.

    Returns
    -------
    Means
        What `deepmr_utils.meta.random_effects` gives, to rounding.

    Raises
    ------
    ValueError
        If the shapes differ or the method is unknown.
    """
    check_choice("tau2_method", tau2_method, TAU2_METHODS)
    effect, se = (numbers(a, name) for a, name in ((effect, "effect"), (se, "se")))
    if effect.shape != se.shape or effect.ndim != 2:
        raise ValueError(
            f"effect and se must have one shape, (S, G); got {effect.shape} and {se.shape}"
        )
    studies, columns = effect.shape
    device = torch.device(device)
    step = max(1, (CACHE if device.type == "cpu" else 2**25) // max(studies, 1))
    parts = []
    for first in range(0, columns, step):
        block = slice(first, first + step)
        parts.append(_block(effect[:, block], se[:, block], tau2_method, device))
    if not parts:
        return Means(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, int))
    return Means(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _block(effect: np.ndarray, se: np.ndarray, tau2_method: str, device: torch.device) -> Means:
    y, error = (
        torch.from_numpy(np.array(a, np.float64, order="C")).to(device) for a in (effect, se)
    )
    studies = standardise(y, error, torch.isfinite(y) & torch.isfinite(error) & (error > 0))
    estimate = dersimonian_laird if tau2_method == "dl" else restricted_likelihood
    several = studies.k > 1
    tau2 = torch.where(several, estimate(studies), torch.nan)
    mean, total, _ = weighted(studies.y, studies.variance, torch.where(several, tau2, 0))
    effect, error = mean * studies.unit + studies.centre, total.rsqrt() * studies.unit
    tau2 = squared_unit(tau2, studies.unit)
    good = torch.isfinite(effect + error) & (~several | torch.isfinite(tau2))
    result = (torch.where(good, a, torch.nan) for a in (effect, error, tau2))
    return Means(*(a.cpu().numpy() for a in (*result, studies.k)))
