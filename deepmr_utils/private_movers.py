"""Private movers: substitutions that move one feature and leave another alone.

If X acts on Y, whatever moves X moves Y. A substitution that moves X and leaves Y where it is
speaks against X -> Y, with no motif known and no line fitted; and two features neither of which
moves without the other cannot be told apart.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from ._checks import check_choice, check_names, check_number
from .instruments import SITE, SITE_POSITIONS, SITES, eligible, own_responses
from .intervals import PAIR, total_variance

__all__ = ["private_movers"]

STRENGTH = 4  # standard errors by which a mover moves its feature
FEWEST = 10  # sequences with movers of the exposure, and a site of the outcome
LEAK = 0.025  # ratio, in own responses, that a network's predictions have where there is none
LEAST = 0.075  # smallest ratio that an effect has
SPREAD = 0.35  # standard deviation of the ratios of one effect, of their mean: the most
STEPS, TOLERANCE = 200, 1e-4  # of the fit
ALONE = "no interval: effects have no members that could differ"


def private_movers(
    effects: xr.Dataset, pairs: Sequence[tuple[str, str]] | None = None, *, moved: float = 0.15,
    by: str = "pair",
) -> pd.DataFrame:  # fmt: skip
    """Share of the substitutions that move the exposure and leave the outcome alone.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`, with
        ``member_effect`` for intervals.
    pairs : sequence of (exposure, outcome), optional
        All ordered pairs of features by default.
    moved : float
        How far a mover moves the exposure, in own responses (`instruments.own_responses` of all
        substitutions), and it does so by 4 standard errors or more.
    by : {"pair", "sequence"}
        One row a pair, or one a pair and sequence.

    Returns
    -------
    pd.DataFrame
        By pair: ``exposure, outcome, private_share, private_ci_low, private_ci_high``, shares of
        the movers, with 95 % intervals that carry sequences and members; ``n_movers`` in ``k``
        sequences; ``status``, "ok" or why there is no share or no interval. By sequence:
        ``exposure, outcome, sequence_id, private_share, n_movers``, where each mover counts by the
        probability, given the fit to all sequences, that it is private.

    Raises
    ------
    ValueError
        If effects are those of edits, or a feature, a pair or an option is unknown.

    Notes
    -----
    *Which count.* Where the outcome has no site, nothing can move it. So movers count in sequences
    that have a site of the outcome: at least 3 positions where a substitution moves it by half its
    own response. There must be 10 such sequences.

    *Noise.* Let r be the outcome's move for each unit of the exposure's, both in own responses, and
    s its standard error. The density of r has three parts (Pearson 1894, Phil Trans R Soc A
    185:71), whose shares are fitted by EM (Dempster, Laird and Rubin 1977, J R Stat Soc B 39:1):
    private movers, ``N(0, s^2 + 0.025^2)``, as networks leak by about as much where there is no
    effect; those by which the exposure acts, ``N(b, s^2 + t^2)`` with ``|b| >= 0.075`` and ``t <=
    0.35 |b|``; and a standard Cauchy of those that also move the outcome in other ways. A ratio
    between 0.025 and 0.075 is therefore told from 0 by no number of sequences.

    *Interval.* The variance over sequences is the sandwich of the share's score, summed by
    sequence, and at least that of one sequence more or less; members are fitted one by one, and
    combined by Rubin's rule (`deepmr_utils.intervals.total_variance`). The interval is that of
    Clopper and Pearson for as many independent movers as have this variance (Korn and Graubard
    1998, Surv Methodol 24:193), with the quantile of t for that of the normal.
    """
    if "edit" in effects.dims:
        raise ValueError("private movers are substitutions; these are the effects of edits")
    check_number("moved", moved, low=0)
    check_choice("by", by, ("pair", "sequence"))
    names = effects["feature"].to_numpy().tolist()
    if pairs is None:
        pairs = [(x, y) for x in names for y in names if x != y]
    for pair in pairs:
        check_names("feature of a pair", list(pair), names)
        if len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"a pair is an exposure and another feature; got {tuple(pair)}")
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    effects = effects.sel(feature=names)
    own = own_responses(effects, eligible(effects, "all")).to_numpy()
    members = effects.sizes.get("member", 0) or effects.attrs.get("n_members", 1)
    mean, sd = (
        effects[name].transpose("feature", *SITES).to_numpy() / own[:, None, None, None]
        for name in ("effect", "se")
    )
    variance = np.nan_to_num(sd.astype(np.float64)) ** 2 / members  # of one network it is unknown
    size = np.nan_to_num(np.abs(mean))
    movers = size >= np.maximum(moved, STRENGTH * np.sqrt(variance))
    site = ((size >= SITE).any(3).sum(2) >= SITE_POSITIONS)[:, :, None, None]
    each = None
    if effects.sizes.get("member", 0) > 1:
        each = effects["member_effect"].transpose("feature", "member", *SITES).to_numpy()
    tables = []
    for pair in pairs:
        i, j = map(names.index, pair)
        at = movers[i] & site[j] & np.isfinite(mean[j])
        x, y = (mean[f][at].astype(np.float64) for f in (i, j))
        ids, unit = np.unique(at.nonzero()[0], return_inverse=True)
        apart = None if each is None else each[j][:, at] / own[j] / x
        found, private = _share(y / x, variance[j][at] / x**2, unit, apart)
        if len(ids) < FEWEST:
            found["status"] = (
                f"{len(ids)} of {FEWEST} sequences have movers of {pair[0]} and a site"
            )
            found["status"] += f" of {pair[1]}"
        if by == "sequence":
            count = np.bincount(unit, minlength=len(ids))
            share = np.bincount(unit, private, len(ids)) / count
            ids = effects["sequence"].to_numpy()[ids]
            found = {"sequence_id": ids, "private_share": share, "n_movers": count}
        tables.append(pd.DataFrame(dict(zip(PAIR, pair, strict=True)) | found, np.atleast_1d(0)))
    return pd.concat(tables, ignore_index=True)


def _share(
    ratio: np.ndarray, noise: np.ndarray, unit: np.ndarray, by_member: np.ndarray | None
) -> tuple[dict[str, object], np.ndarray]:
    """Columns of a pair, and the probability of each mover (n,) that it is private.

    ``ratio`` has the variances ``noise`` (n,); of members there are ratios (M, n). Movers belong to
    sequences ``unit`` (n,).
    """
    k = len(np.unique(unit))
    found = {
        "private_share": np.nan, "private_ci_low": np.nan, "private_ci_high": np.nan,
        "n_movers": len(ratio), "k": k, "status": ALONE,
    }  # fmt: skip
    if k < FEWEST:
        return found, np.full(len(ratio), np.nan)
    fit, density = _fit(ratio[None], noise)
    shares, density = fit[0][0], density[:, 0]
    private = shares[0] * density[0] / (shares @ density)
    found["private_share"] = p = shares[0]
    if by_member is None:
        return found, private
    members = len(by_member)
    between = np.var(_fit(by_member, noise * members, fit)[0][0][:, 0], ddof=1)
    # the score of the share, of which the other parts keep their proportions
    rest = np.maximum(shares[1:], 1e-12)
    score = (density[0] - rest @ density[1:] / rest.sum()) / (shares @ density)
    within = np.bincount(unit, score - score.mean()) / (score @ score)  # the mean is not 0 at share 0
    within = max(k / (k - 1) * (within**2).sum(), 1 / k**2)
    total, df = total_variance(within, between, members, complete_df=k - 1)
    p = (k * shares[0] + 1) / (k + 2)  # has a variance at 0 and 1, too
    n = p * (1 - p) / total * (special.ndtri(0.975) / special.stdtrit(df, 0.975)) ** 2
    hits = n * shares[0]
    found["private_ci_low"] = special.betaincinv(hits, n - hits + 1, 0.025) if hits > 0 else 0.0
    found["private_ci_high"] = special.betaincinv(hits + 1, n - hits, 0.975) if hits < n else 1.0
    return found | {"status": "ok"}, private


def _normal(ratio: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.exp(-(ratio**2) / variance / 2) / np.sqrt(2 * np.pi * variance)


Fit = tuple[np.ndarray, np.ndarray, np.ndarray]


def _fit(ratio: np.ndarray, noise: np.ndarray, start: Fit | None = None) -> tuple[Fit, np.ndarray]:
    """Shares (R, 3), mean (R, 1) and sd (R, 1) of fits to ratios (R, n), and densities (3, R, n)."""
    zero = _normal(ratio, noise + LEAK**2)
    other = 1 / (np.pi * (1 + ratio**2))
    if start is None:
        acting = ratio[np.abs(ratio) > LEAST]
        mean = np.full((1, 1), np.median(acting) if len(acting) else LEAST)
        start = np.array([[0.5, 0.3, 0.2]]), _at_least(mean), SPREAD * np.abs(mean)
    shares, mean, sd = start
    for _ in range(STEPS):
        variance = noise + sd**2
        density = np.stack([zero, _normal(ratio - mean, variance), other])
        weight = shares.T[:, :, None] * density
        weight /= weight.sum(0)
        before, shares = shares, weight.mean(2).T
        if np.abs(shares - before).max() < TOLERANCE:
            break
        acts = weight[1] + 1e-12  # also where none does
        known = acts / variance
        mean = _at_least((known * ratio).sum(1, keepdims=True) / known.sum(1, keepdims=True))
        shrunk = sd**2 / variance
        spread = shrunk**2 * (ratio - mean) ** 2 + shrunk * noise
        spread = (acts * spread).sum(1, keepdims=True) / acts.sum(1, keepdims=True)
        sd = np.clip(np.sqrt(spread), LEAK, SPREAD * np.abs(mean))
    return (shares, mean, sd), density


def _at_least(mean: np.ndarray) -> np.ndarray:
    return np.copysign(np.maximum(np.abs(mean), LEAST), mean)
