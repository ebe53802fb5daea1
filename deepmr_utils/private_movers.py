"""Private movers: substitutions that move one feature and leave another alone.

If X acts on Y, whatever moves X moves Y. A substitution that moves X and leaves Y where it is
speaks against X -> Y, with no motif known and no line fitted; and two features neither of which
moves without the other are two readings of one thing.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from ._checks import check_choice, check_names, check_number
from .instruments import SITE, SITE_POSITIONS, SITES, eligible, own_responses
from .intervals import PAIR, moderated_variance, total_variance

__all__ = ["private_movers"]

MOVED = 0.15  # of its own response: what moves a feature
STRENGTH = 4  # standard errors by which a mover moves it
FEWEST = 10  # sequences with movers and a site of the outcome that an answer needs
LEAK = 0.02  # ratio, in own responses, that a model's predictions have where there is none
LEAST = 0.05  # smallest ratio that counts as an effect
SPREAD = 0.5  # of the ratio: most that ratios of one effect differ
STEPS, TOLERANCE = 200, 1e-5  # of the fit
ALONE = "effects have no members that could differ: no interval"


def private_movers(
    effects: xr.Dataset, pairs: Sequence[tuple[str, str]] | None = None, *, moved: float = MOVED,
    by: str = "pair",
) -> pd.DataFrame:  # fmt: skip
    names = effects["feature"].to_numpy().tolist()
    if "edit" in effects.dims:
        raise ValueError("private movers are substitutions; got the effects of edits of sites")
    if pairs is None:
        pairs = [(x, y) for x in names for y in names if x != y]
    check_number("moved", moved, low=0)
    check_choice("by", by, ("pair", "sequence"))
    own = own_responses(effects, eligible(effects, "all"))[names].to_numpy()
    mean, se, each = _in_own_responses(effects, own)
    with np.errstate(invalid="ignore"):
        size = np.abs(mean)
        movers = size >= np.maximum(moved, np.nan_to_num(STRENGTH * se))
        site = (size >= SITE).any(3).sum(2) >= SITE_POSITIONS
    tables = []
    for exposure, outcome in pairs:
        if exposure == outcome:
            raise ValueError(f"a pair is an exposure and another feature; got {exposure!r} twice")
        i, j = (names.index(n) for n in check_names("feature of a pair", [exposure, outcome], names))
        at = movers[i] & site[j][:, None, None] & np.isfinite(mean[j])
        sequence = at.nonzero()[0]
        x, y = mean[i][at], mean[j][at]
        noise = np.nan_to_num((se[j][at] / x) ** 2)
        without = None
        if each is not None:
            m = len(each[i])
            without = [
                (m * y - each[j][k][at]) / (m * x - each[i][k][at]) for k in range(m)
            ]
        found = _share(y / x, noise, sequence, without)
        head = {"exposure": exposure, "outcome": outcome}
        tables.append(head | found)
    return pd.DataFrame(tables)


def _in_own_responses(effects, own):
    scale = own[:, None, None, None]
    def read(name, *dims):
        v = effects[name].transpose("feature", *dims, *SITES).to_numpy()
        return v
    mean = read("effect") / scale
    if effects.sizes.get("member", 0) < 2:
        return mean, read("se") / scale, None
    each = read("member_effect", "member") / scale[:, None]
    return mean, each.std(1, ddof=1) / each.shape[1]**0.5, each


def _normal(r, variance):
    return np.exp(-(r**2) / variance / 2) / np.sqrt(2 * np.pi * variance)


def _fit(r, noise, start=None, steps=STEPS):
    """pi, b, tau and posterior, densities."""
    zero = _normal(r, noise + LEAK**2)
    other = 1 / (np.pi * (1 + r**2))
    if start is None:
        far = np.abs(r) > LEAST
        b = np.median(r[far]) if far.any() else LEAST
        b = np.copysign(max(abs(b), LEAST), b)
        share, tau = np.array([0.5, 0.3, 0.2]), SPREAD * abs(b)
    else:
        share, b, tau = start
    for _ in range(steps):
        density = np.stack([zero, _normal(r - b, noise + tau**2), other])
        weight = share[:, None] * density
        weight /= weight.sum(0)
        before, share = share, weight.mean(1)
        w = weight[1] / (noise + tau**2)
        b = w @ r / w.sum()
        b = np.copysign(max(abs(b), LEAST), b)
        shrink = tau**2 / (noise + tau**2)
        spread = weight[1] @ (shrink**2 * (r - b) ** 2 + shrink * noise) / weight[1].sum()
        tau = np.clip(np.sqrt(spread), LEAK, max(SPREAD * abs(b), LEAK))
        if np.abs(share - before).max() < TOLERANCE:
            break
    return (share, b, tau), density


def _share(r, noise, sequence, without):
    ids, unit = np.unique(sequence, return_inverse=True)
    k = len(ids)
    if k < FEWEST:
        return dict(private_share=np.nan, n=len(r), k=k)
    fit, density = _fit(r, noise)
    (share, b, tau) = fit
    total = share @ density
    slab = share[1:] @ density[1:] / max(1 - share[0], 1e-12)
    score = (density[0] - slab) / total
    by = np.bincount(unit, score)
    W = k / (k - 1) * (by**2).sum() / (score**2).sum() ** 2
    B = np.nan
    if without is not None:
        M = len(without)
        pseudo = [M * share[0] - (M - 1) * _fit(q, noise * M / (M - 1), fit, 20)[0][0][0] for q in without]
        B = np.var(pseudo, ddof=1)
    return dict(private_share=share[0], b=b, tau=tau, other=share[2], crude=np.mean(np.abs(r) < .05), n=len(r), k=k, W=W**.5, B=B**.5)
