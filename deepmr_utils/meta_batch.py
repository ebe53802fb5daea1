"""Means of random effects for very many meta-analyses: what `meta` gives, without its intervals."""

from typing import Literal, NamedTuple

import numpy as np
import torch

from .meta import random_effects

TAU2_METHODS = ("reml", "dl")
CACHE = 2**15  # numbers of a block on a CPU: they stay in cache, and one thread does not wait
# A weight 1 / (v + tau2) takes more than a decade of tau2 to fall from most to little of its value,
# so steps of half a decade, over the range in which `meta` looks, see each turn of the score.
GRID = np.r_[0, np.logspace(-8, 1, 19)]


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

    Notes
    -----
    REML by the sign of the score on a grid, then bracketed false position (Illinois), instead of
    the likelihood on a finer grid and bisection; columns whose score turns more than once go to
    `random_effects`, which compares the maxima.
    """
    if tau2_method not in TAU2_METHODS:
        raise ValueError(f"unknown tau2_method {tau2_method!r}: choose one of {TAU2_METHODS}")
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
    y = torch.from_numpy(np.array(effect, np.float64, order="C")).to(device)
    variance = torch.from_numpy(np.array(se, np.float64, order="C")).to(device) ** 2
    used = torch.isfinite(y) & torch.isfinite(variance) & (variance > 0)
    y = torch.where(used, y, 0)
    variance = torch.where(used, variance, torch.inf)
    k = used.sum(0)
    several = k > 1
    if tau2_method == "dl":
        tau2, unclear = _dl(y, variance, k), torch.zeros_like(several)
    else:
        tau2, unclear = _reml(y, variance, used)
    tau2 = torch.where(several, tau2, torch.nan)
    weight = 1 / (variance + torch.where(several, tau2, 0))
    total = weight.sum(0)
    mean = (weight * y).sum(0) / total
    result = [a.cpu().numpy() for a in (mean, total.rsqrt(), tau2, k)]
    result[1][result[3] == 0] = np.nan
    again = np.flatnonzero((unclear & several).cpu().numpy())
    if len(again):
        left = used[:, again].cpu().numpy()
        table = random_effects(
            *(np.where(left, a[:, again], np.nan).astype(np.float64).T for a in (effect, se)),
            tau2_method,
        )
        for values, name in zip(result, ("effect", "se", "tau2"), strict=False):
            values[again] = table[name]
    return Means(*result)


def _dl(y: torch.Tensor, variance: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    weight = 1 / variance
    total = weight.sum(0)
    q = (weight * (y - (weight * y).sum(0) / total) ** 2).sum(0)
    return ((q - (k - 1)) / (total - (weight**2).sum(0) / total)).clamp_min(0)


def _score(y: torch.Tensor, variance: torch.Tensor, tau2: torch.Tensor) -> torch.Tensor:
    """Derivative (G,) of twice the restricted log-likelihood (Viechtbauer 2005, eq. 11)."""
    weight = 1 / (variance + tau2)
    total = weight.sum(0)
    deviation = y - (weight * y).sum(0) / total
    deviation *= weight
    squares = (deviation * deviation).sum(0)
    return squares - total + (weight * weight).sum(0) / total


def _reml(
    y: torch.Tensor, variance: torch.Tensor, used: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """REML variance (G,), and of which columns a grid cannot tell it."""
    deviation = torch.where(used, y - y.sum(0) / used.sum(0), 0)
    grid = (deviation**2).sum(0) * torch.from_numpy(GRID).to(y)[:, None]  # (steps, G)
    scores = torch.stack([_score(y, variance, tau2) for tau2 in grid])
    rising = scores > 0
    falls = rising[:-1] & ~rising[1:]  # a maximum between a point and the next
    unclear = (falls.sum(0) > 1) | ((falls.sum(0) == 1) & ~rising[0]) | ~scores.isfinite().all(0)
    unclear |= rising[-1]
    inside = falls.any(0)
    at = falls.to(torch.int8).argmax(0)
    column = torch.arange(len(at), device=y.device)
    ends = [torch.where(inside, a[i, column], 0) for i in (at, at + 1) for a in (grid, scores)]
    return _illinois(y, variance, *ends), unclear


def _illinois(
    y: torch.Tensor,
    variance: torch.Tensor,
    low: torch.Tensor,
    score_low: torch.Tensor,
    high: torch.Tensor,
    score_high: torch.Tensor,
) -> torch.Tensor:
    """Where the score changes sign between `low` (positive) and `high` (Dowell and Jarratt 1971).

    The end that stays is halved in value, or more where the other moved little (Anderson and
    Bjorck, 1973), so that both ends close in.
    """
    root = low
    within = 1 / (1 / variance).mean(0)
    for _ in range(60):  # superlinear: about eight
        new = (low * score_high - high * score_low) / (score_high - score_low)
        new = torch.where(torch.isfinite(new), new, (low + high) / 2)
        moved = (new - root).abs()
        root = new
        if bool((moved <= 1e-10 * root + 1e-14 * within).all()):  # the next would be exact
            break
        score = _score(y, variance, root)
        positive = score > 0
        before = torch.where(positive, score_low, score_high)
        factor = 1 - score / before
        factor = torch.where(factor > 0, factor, 0.5)
        low, high = torch.where(positive, root, low), torch.where(positive, high, root)
        score_low = torch.where(positive, score, score_low * factor)
        score_high = torch.where(positive, score_high * factor, score)
    return root
