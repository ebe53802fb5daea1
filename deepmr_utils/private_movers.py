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
from .intervals import PAIR, moderated_variance, total_variance

__all__ = ["private_movers"]

STRENGTH = 4  # standard errors by which a mover moves its feature
FEWEST = 10  # sequences with movers of the exposure and a site of the outcome
LEAK = 0.025  # ratio, in own responses, that networks predict where there is none
LEAST = 0.075  # smallest mean ratio of an effect
SPREAD = 0.35  # largest sd of the ratios of one effect, of their mean
STEPS, TOLERANCE = 200, 1e-4  # of the fit
Array = np.ndarray


def private_movers(
    effects: xr.Dataset, pairs: Sequence[tuple[str, str]] | None = None, *, moved: float = 0.15,
    by: str = "pair",
) -> pd.DataFrame:  # fmt: skip
    """Share of the substitutions that move the exposure which leave the outcome alone.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`, with
        ``member_effect`` for intervals.
    pairs : sequence of (exposure, outcome), optional
        All ordered pairs of features by default.
    moved : float
        How far a mover moves the exposure, in own responses (`instruments.own_responses` of all
        substitutions); it does so by 4 standard errors or more.
    by : {"pair", "sequence"}
        One row a pair, or one a pair and sequence.

    Returns
    -------
    pd.DataFrame
        By pair: ``exposure, outcome, private_share, private_ci_low, private_ci_high``, with a 95 %
        interval that carries sequences and members; ``n_movers`` in ``k`` sequences; ``status``,
        "ok" or why there is no share or no interval. By sequence: ``exposure, outcome, sequence_id,
        private_share, n_movers``, where a mover counts by the probability that it is private, given
        the fit to all sequences.

    Raises
    ------
    ValueError
        If effects are those of edits, or a feature, a pair or an option is unknown.

    Notes
    -----
    Where the outcome has no site, nothing can move it. So movers count in sequences that have one:
    3 positions where a substitution moves the outcome by half its own response. There must be 10.

    *Noise.* Let r be the outcome's move by that of the exposure, in own responses, and s its
    standard error (moderated, `deepmr_utils.intervals.moderated_variance`). The density of r has
    three parts, whose shares are fitted by EM (Dempster, Laird and Rubin 1977, J R Stat Soc B
    39:1): private movers, ``N(0, s^2 + 0.025^2)``, as networks leak by about as much; those by
    which the exposure acts, ``N(b, s^2 + t^2)`` with ``|b| >= 0.075`` and ``t <= 0.35 |b|``; and a
    standard Cauchy of those that move the outcome in other ways, too. So an effect of less than
    about 0.05 counts as none.

    *Interval.* The variance over sequences is the sandwich of the share's score, summed by
    sequence, and at least that of one sequence more or less; members, fitted one by one, add
    theirs by Rubin's rule (`deepmr_utils.intervals.total_variance`). The interval is Clopper and
    Pearson's for as many independent movers as have this variance (Korn and Graubard 1998, Surv
    Methodol 24:193).
    """
    if "edit" in effects.dims:
        raise ValueError("private movers are substitutions; these are the effects of edits")
    check_number("moved", moved, low=0)
    check_choice("by", by, ("pair", "sequence"))
    names = effects["feature"].to_numpy().tolist()
    if pairs is None:
        pairs = [(x, y) for x in names for y in names if x != y]
    if not pairs or any(len(check_names("feature of a pair", list(p), names)) != 2 for p in pairs):
        raise ValueError(f"a pair is an exposure and an outcome; got {pairs}")
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    effects = effects.sel(feature=names)
    own = own_responses(effects, eligible(effects, "all")).to_numpy()
    members = effects.sizes.get("member", 0) or effects.attrs.get("n_members", 1)
    mean, sd = (
        effects[name].transpose("feature", *SITES).to_numpy() / own[:, None, None, None]
        for name in ("effect", "se")
    )
    variance = np.nan_to_num(sd) ** 2 / members  # of one network it is not known
    size = np.nan_to_num(np.abs(mean))
    movers = size >= np.maximum(moved, STRENGTH * np.sqrt(variance))
    site = ((size >= SITE).any(3).sum(2) >= SITE_POSITIONS)[:, :, None, None]
    each = effects["member_effect"] if effects.sizes.get("member", 0) > 1 else None
    each = None if each is None else each.transpose("feature", "member", *SITES).to_numpy()
    tables = []
    for pair in pairs:
        i, j = map(names.index, pair)
        at = movers[i] & site[j] & np.isfinite(mean[j])
        x, y = mean[i][at], mean[j][at]
        ids, unit = np.unique(at.nonzero()[0], return_inverse=True)
        noise = moderated_variance(variance[j][at], members)[0] / x**2
        apart = None if each is None else each[j][:, at] / own[j] / x
        row, private = _share(y / x, noise, unit, apart)
        if by == "sequence":
            count, ids = np.bincount(unit), effects["sequence"].to_numpy()[ids]
            share = np.bincount(unit, private) / count
            row = {"sequence_id": ids, "private_share": share, "n_movers": count}
        head = dict(zip(PAIR, pair, strict=True))
        tables.append(pd.DataFrame(head | row, [0] if by == "pair" else None))
    return pd.concat(tables, ignore_index=True)


def _share(ratio: Array, noise: Array, unit: Array, by_member: Array | None) -> tuple[dict, Array]:
    """Columns of a pair, and the probability (n,) of each mover that it is private.

    Movers have ratios (n,) with variances ``noise`` (n,), by member (M, n), and belong to sequences
    ``unit`` (n,).
    """
    k = unit.max(initial=-1) + 1
    row = dict.fromkeys(("private_share", "private_ci_low", "private_ci_high"), np.nan)
    row |= {"n_movers": len(ratio), "k": k, "status": "no members that could differ: no interval"}
    if k < FEWEST:
        why = f"{k} sequences have movers of the exposure and a site of the outcome; {FEWEST} must"
        return row | {"status": why}, np.full(len(ratio), np.nan)
    fit, density = _fit(ratio[None], noise)
    shares, density = fit[0][0], density[:, 0]
    total = shares @ density
    row["private_share"], private = shares[0], shares[0] * density[0] / total
    if by_member is None:
        return row, private
    members = len(by_member)
    between = _fit(by_member, noise * members, fit)[0][0][:, 0].var(ddof=1)
    rest = np.maximum(shares[1:], 1e-12)  # the other parts, in proportion
    score = (density[0] - rest @ density[1:] / rest.sum()) / total
    within = np.bincount(unit, score - score.mean()) / (score @ score)  # at 0 the mean is below 0
    within = max(k / (k - 1) * (within**2).sum(), 1 / k**2)
    error, df = total_variance(within, between, members, complete_df=k - 1)
    middle = (k * shares[0] + 1) / (k + 2)  # has a variance at 0 and 1, too
    n = middle * (1 - middle) / error * (special.ndtri(0.975) / special.stdtrit(df, 0.975)) ** 2
    hits = n * shares[0]
    row["private_ci_low"] = special.betaincinv(hits, n - hits + 1, 0.025) if hits > 0 else 0.0
    row["private_ci_high"] = special.betaincinv(hits + 1, n - hits, 0.975) if hits < n else 1.0
    return row | {"status": "ok"}, private


def _fit(ratio: Array, noise: Array, start: tuple | None = None) -> tuple[tuple, Array]:
    """Shares (R, 3), mean and sd (R, 1) fitted to ratios (R, n), and their densities (3, R, n)."""
    zero, other = _normal(ratio, noise + LEAK**2), 1 / (np.pi * (1 + ratio**2))
    if start is None:
        acting = ratio[np.abs(ratio) > LEAST]
        mean = np.full((1, 1), np.median(acting) if len(acting) else LEAST)
        start = np.array([[0.5, 0.3, 0.2]]), mean, np.maximum(LEAK, SPREAD * np.abs(mean))
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
        mean = _weighted(ratio, acts / variance)
        mean = np.copysign(np.maximum(np.abs(mean), LEAST), mean)
        shrunk = sd**2 / variance
        sd = np.sqrt(_weighted(shrunk**2 * (ratio - mean) ** 2 + shrunk * noise, acts))
        sd = np.clip(sd, LEAK, SPREAD * np.abs(mean))
    return (shares, mean, sd), density


def _normal(ratio: Array, variance: Array) -> Array:
    return np.exp(-(ratio**2) / variance / 2) / np.sqrt(2 * np.pi * variance)


def _weighted(values: Array, weight: Array) -> Array:
    return (weight * values).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
