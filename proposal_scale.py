"""Proposal for source "strongest" of `deepmr_utils.instruments.eligible`, and own responses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

SITE = 0.5  # share of its own response by which a feature moves where its site is damaged
SITE_POSITIONS = 3  # moved as much in a sequence: a site, rather than one that a mutation makes
APART = np.radians(30)  # between the means of two groups of directions, below which there is one


def eligible(effects: xr.Dataset, source: str = "strongest") -> xr.DataArray:
    """Which substitution may be an instrument for which feature.

    ``"strongest"``: those that move every other feature less than its own. What is less is learned
    from the effects, pair by pair: if X acts on Y, whatever moves X moves Y in proportion, and X's
    substitutions lie along a line that can be as steep as it likes, short of those that move Y
    alone. In the sequences that have a site of both, the directions of all substitutions that
    damage one of them, ``atan2(|y| / own Y, |x| / own X)``, are split into two groups by 2-means;
    the border is halfway between the groups' means (Otsu 1979, IEEE Trans Syst Man Cybern 9:62),
    or 45 degrees where these are less than 30 apart. A Steiger filter against all others at once,
    for which no motif has to be known, and which does not depend on features' units.

    Returns
    -------
    xr.DataArray, bool (sequence, position, allele, feature)
    """
    if source != "strongest":
        raise ValueError(f"this proposal knows source 'strongest'; got {source!r}")
    dims = ("feature", "sequence", "position", "allele")
    values = effects["effect"].transpose(*dims)
    result = xr.DataArray(_strongest(values.to_numpy()), values.coords, dims)
    return result.transpose(*dims[1:], "feature")


def _strongest(effect: np.ndarray) -> np.ndarray:
    """Of effects (F, S, P, A), those that move every other feature less than its own."""
    effect = np.ascontiguousarray(effect, np.float64)  # a feature at a time is read
    result = np.isfinite(effect)
    size = np.abs(np.where(result, effect, 0))
    own = np.array([_half_of_total(largest) for largest in size.max((2, 3))])
    size /= np.where(own > 0, own, 1)[:, None, None, None]
    damaged = size >= SITE
    site = damaged.any(3).sum(2) >= SITE_POSITIONS
    for i, j in combinations(range(len(size)), 2):
        at = (damaged[i] | damaged[j]) & (site[i] & site[j])[:, None, None]
        steepest = np.tan(_border(np.arctan2(size[j][at], size[i][at])))
        result[i] &= size[j] < steepest * size[i]
        result[j] &= size[j] > steepest * size[i]
    return result


def _half_of_total(values: np.ndarray) -> float:
    """Values as large or larger make up half of the total (N50).

    Sequences without a site, however many, and single ones with an uncommon effect hardly change
    it.
    """
    ordered = np.sort(values)[::-1]
    total = ordered.cumsum()
    return ordered[np.searchsorted(total, total[-1] / 2)]


def _border(angle: np.ndarray) -> float:
    """Border between two groups of angles from 0 to 90 degrees, by 2-means; 45 if there is one."""
    if len(angle) < 2:
        return np.pi / 4
    ordered = np.sort(angle)
    below, n = np.arange(1, len(angle)), len(angle)
    total = ordered.cumsum()
    low, high = total[:-1] / below, (total[-1] - total[:-1]) / (n - below)
    k = (below * (n - below) * (high - low) ** 2).argmax()
    return (low[k] + high[k]) / 2 if high[k] - low[k] >= APART else np.pi / 4


def own_response(effects: xr.Dataset, allowed: xr.DataArray) -> pd.Series:
    """How much a feature responds when a typical site of its own is damaged, in its units.

    ``effect * own[exposure] / own[outcome]`` is an effect in own-response units.

    Parameters
    ----------
    effects : xr.Dataset
    allowed : xr.DataArray
        Of `eligible`.

    Returns
    -------
    pd.Series
        By feature: the median, over the sequences that have a site of the feature, of the largest
        absolute effect of its own substitutions. A sequence has a site where that is at least half
        of what makes up half of the total over sequences. NaN where nothing moves the feature.
    """
    largest = np.abs(effects["effect"]).where(allowed, 0).max(("position", "allele"))
    found = {}
    for name, values in zip(
        effects.indexes["feature"], largest.transpose("feature", "sequence").to_numpy(), strict=True
    ):
        typical = _half_of_total(values)
        found[name] = np.median(values[values >= SITE * typical]) if typical > 0 else np.nan
    return pd.Series(found, name="own_response")
