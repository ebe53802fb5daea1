"""Who acts on whom: causal effects between all pairs of features, and the graph they make.

Substitutions that weaken a factor's own site are sound instruments for that factor. Those in the
site of a helper move it, too, but act on other features by other ways. So instruments can be told
apart by where they lie, see `eligible`; the published choice, all that are strong, stands beside.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from ._checks import as_list, check_choice, check_columns
from ._numerics import least_squares, pad_groups
from .instruments import select_instruments
from .intervals import add_intervals, member_global, member_local
from .meta import global_effects
from .mr import local_mr

SOURCES = ("motif", "strongest", "all")
PAIR = ["exposure", "outcome"]
_TOTAL = ["total_se", "total_df", "total_ci_low", "total_ci_high", "total_p"]
COLLINEAR = 1e-5  # effects are float32: features equal but for its rounding determine no slopes
MIN_OWN = 3  # instruments of each exposure in a sequence, below which others' cannot be told apart


class Chain(NamedTuple):
    """How instruments are chosen and what is made of them.

    ``source`` is a rule of `eligible`, ``rule`` and ``threshold`` are those of
    `deepmr_utils.instruments.select_instruments`, ``method`` is one of `deepmr_utils.mr.methods`.
    """

    source: str = "motif"
    method: str = "ivw"
    rule: str = "pooled"
    threshold: float = 3.0


CHAINS = {
    "motif": Chain(threshold=1.0),
    "strongest": Chain("strongest", threshold=1.0),
    "strong": Chain("all"),
    "published": Chain("all", "egger_paper"),
}


class PairEffects(NamedTuple):
    """Local effects of all pairs, `deepmr_utils.mr.local_mr`, and the same by member."""

    local: pd.DataFrame
    members: pd.DataFrame


def eligible(
    effects: xr.Dataset, source: str = "motif", instances: pd.DataFrame | None = None
) -> xr.DataArray:
    """Which substitution may be an instrument for which feature.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    source : {"motif", "strongest", "all"}
        ``"motif"``: those inside an instance of the feature's own motif, so that they act through
        it. ``"strongest"``: those that move no other feature more, in units of the standard
        deviation of each feature's effects: a Steiger filter against all others at once, for which
        no motif has to be known. ``"all"``: all, as published.
    instances : pd.DataFrame, optional
        ``sequence_id, factor, start, end`` as `deepmr_utils.motifs.find_instances` gives them;
        needed for "motif".

    Returns
    -------
    xr.DataArray, bool (sequence, position, allele, feature)
    """
    dims = ("sequence", "position", "allele", "feature")
    values = effects["effect"].transpose(*dims)
    check_choice("source", source, SOURCES)
    if source == "all":
        return xr.ones_like(values, dtype=bool)
    if source == "strongest":
        size = np.abs(values / values.std(dims[:3]))
        return size == size.max("feature")
    features = effects.indexes["feature"]
    if instances is not None:
        check_columns(instances, ["sequence_id", "factor", "start", "end"], "motif instances")
    if instances is None or not set(features) <= set(instances["factor"]):
        held = [] if instances is None else sorted(instances["factor"].unique())
        raise ValueError(
            f"source 'motif' needs motif instances of every feature ({', '.join(features)}); got "
            f"those of {', '.join(held) or 'none'}: give instances, or use source 'strongest'"
        )
    result = np.zeros(values.shape, bool)
    used = instances[instances["factor"].isin(features)]
    row = effects.indexes["sequence"].get_indexer(used["sequence_id"])
    used, row = used[row >= 0], row[row >= 0]
    position = effects.indexes["position"].to_numpy()
    first, last = (np.searchsorted(position, used[name]) for name in ("start", "end"))
    for i, a, b, k in zip(row, first, last, features.get_indexer(used["factor"]), strict=True):
        result[i, a:b, :, k] = True
    return xr.DataArray(result, values.coords, dims)


def choose_instruments(
    effects: xr.Dataset, exposure: str, outcome: str, chain: Chain, allowed: xr.DataArray
) -> pd.DataFrame:
    """Instruments of one pair: those that the rule selects and that are eligible.

    Parameters
    ----------
    effects : xr.Dataset
        Of `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    exposure, outcome : str
    chain : Chain
        Its rule and threshold are used.
    allowed : xr.DataArray
        Of `eligible`.

    Returns
    -------
    pd.DataFrame
        As `deepmr_utils.instruments.select_instruments` gives it.
    """
    table = select_instruments(effects, exposure, outcome, chain.rule, chain.threshold)
    kept = allowed.sel(feature=exposure).to_numpy()[_places(effects, table)]
    result = table[kept].reset_index(drop=True)
    result.attrs = table.attrs
    return result


def pair_effects(effects: xr.Dataset, chain: Chain, allowed: xr.DataArray) -> PairEffects:
    """Local causal effects between all ordered pairs of features.

    Parameters
    ----------
    effects : xr.Dataset
        With ``member_effect``.
    chain : Chain
    allowed : xr.DataArray
        Of `eligible`, by the source of the chain.

    Returns
    -------
    PairEffects
        With the columns ``exposure, outcome`` in front.
    """
    tables, members = [], []
    for exposure, outcome in permutations(_features(effects), 2):
        found = choose_instruments(effects, exposure, outcome, chain, allowed)
        pair = {"exposure": exposure, "outcome": outcome}
        table = local_mr(found, chain.method).astype({"sequence_id": str})
        tables.append(table.assign(**pair))
        if "member_effect" in effects:
            one = member_local(effects, found, chain.method).astype({"sequence_id": str})
            members.append(one.assign(**pair))
    local = pd.concat(tables, ignore_index=True)
    by_member = pd.concat(members, ignore_index=True) if members else pd.DataFrame()
    return PairEffects(local[[*PAIR, *local.columns.drop(PAIR)]], by_member)


def direct_effects(
    effects: xr.Dataset, chain: Chain, allowed: xr.DataArray, *, curved: bool = True
) -> PairEffects:
    """Local effects of every feature on every other, all other features held fixed.

    Parameters
    ----------
    effects, chain, allowed
        As in `pair_effects`; the method of the chain is not used.
    curved : bool
        Let the outcome respond to every exposure by a parabola, of which the slope at the reference
        is the effect. A mutation that destroys a mediator's site moves it much further than one
        that reaches it through a helper; if a straight line is fitted to both, what the line does
        not follow looks like a direct effect of the helper.

    Returns
    -------
    PairEffects
        Rows of a sequence are NaN where an exposure has fewer than 3 instruments of its own, since
        its effect cannot then be told from those of the others.

    Notes
    -----
    Multivariable inverse-variance weighting of all sequences at once: for each outcome, the
    instruments of all other features. Without curvature it is `deepmr_utils.mr.multivariable`.
    """
    features = _features(effects)
    tables, members = [], []
    for outcome in features:
        exposures = [name for name in features if name != outcome]
        chosen = [choose_instruments(effects, x, outcome, chain, allowed) for x in exposures]
        ids = chosen[0]["sequence_id"].cat.categories
        own = np.stack([table["sequence_id"].value_counts(sort=False) for table in chosen])
        enough = own.min(0) >= MIN_OWN
        union = pd.concat(chosen, ignore_index=True)
        union = union.drop_duplicates(["sequence_id", "position", "alternate"])
        place = _places(effects, union)
        columns = {"ids": ids, "codes": union["sequence_id"].cat.codes.to_numpy().astype(np.intp)}
        columns |= {"weight": union["se_outcome"] ** -2, "curved": curved}
        frame = pd.MultiIndex.from_product([exposures, ids], names=["exposure", "sequence_id"])
        frame = frame.to_frame(index=False).assign(outcome=outcome, method="multivariable")
        shown = np.tile(enough, len(exposures))

        effect, se = _fit(effects["effect"], [*exposures, outcome], place, **columns)
        status = np.where(enough, "ok", f"an exposure has fewer than {MIN_OWN} instruments")
        tables.append(
            frame.assign(
                causal_effect=np.where(shown, effect.T.ravel(), np.nan),
                se=np.where(shown, se.T.ravel(), np.nan),
                n_instruments=np.tile(own.sum(0), len(exposures)),
                status=np.tile(status, len(exposures)),
            )
        )
        for m in range(effects.sizes.get("member", 0)):
            values = effects["member_effect"].isel(member=m)
            one = _fit(values, [*exposures, outcome], place, **columns)[0].T.ravel()
            members.append(frame.assign(member=m, causal_effect=np.where(shown, one, np.nan)))
    by_member = pd.concat(members, ignore_index=True) if members else pd.DataFrame()
    return PairEffects(pd.concat(tables, ignore_index=True), by_member)


def weighted_fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes through the origin of many regressions at once.

    Parameters
    ----------
    x : np.ndarray, float (S, V, P)
    y, weight : np.ndarray, float (S, V)
        NaN where there is no instrument.

    Returns
    -------
    tuple of np.ndarray, float64 (S, P)
        Slopes and standard errors, widened where residuals are larger than the weights say; NaN
        where the slopes are not determined.
    """
    used = ~np.isnan(weight)
    x, y, w = (np.where(u, a, 0) for u, a in ((used[..., None], x), (used, y), (used, weight)))
    count, exposures = used.sum(1), x.shape[2]
    root = np.sqrt(w)
    slope, unit, full = least_squares(root[..., None] * x, root * y, COLLINEAR)
    q = (w * (y - np.einsum("svp,sp->sv", x, slope)) ** 2).sum(1)
    se = unit * np.sqrt(np.maximum(q / np.maximum(count - exposures, 1), 1))[:, None]
    solvable = full & (count > exposures)
    return tuple(np.where(solvable[:, None], part, np.nan) for part in (slope, se))


def _fit(
    values: xr.DataArray, features: list[str], place: tuple, *, ids: pd.Index, codes: np.ndarray,
    weight: pd.Series, curved: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`weighted_fit` of the last feature on the others, at the places of long tables."""
    values = values.sel(feature=features).transpose("sequence", "position", "allele", "feature")
    *x, y, w = pad_groups(codes, len(ids), *values.to_numpy()[place].T, weight)
    terms = [*x, *(one**2 for one in x)] if curved else x
    effect, se = weighted_fit(np.stack(terms, -1), y, w)
    return effect[:, : len(x)], se[:, : len(x)]


def _features(effects: xr.Dataset) -> list[str]:
    names = effects["feature"].to_numpy().tolist()
    if len(names) < 2:
        raise ValueError(f"effects on each other need at least 2 features; got {names}")
    return names


def _places(effects: xr.Dataset, instruments: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Indices (sequence, position, allele) of instruments."""
    names = instruments["sequence_id"].cat.categories
    sequence = effects.indexes["sequence"].get_indexer(names)
    return (
        sequence[instruments["sequence_id"].cat.codes],
        effects.indexes["position"].get_indexer(instruments["position"]),
        effects.indexes["allele"].get_indexer(instruments["alternate"]),
    )


def summarise(pairs: PairEffects, by: Sequence[str] = PAIR) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Global effects of all pairs, with intervals and p-values that carry the model's doubt.

    Parameters
    ----------
    pairs : PairEffects
        Without rows, for instance those of other bins, where these should not enter.
    by : sequence of str
        Columns of ``pairs.local`` whose values make the groups.

    Returns
    -------
    tuple of pd.DataFrame
        A row a group: `deepmr_utils.meta.global_effects`, the columns of
        `deepmr_utils.intervals.add_intervals`, and ``total_p``. Then the same effects by
        member: the columns of ``by``, ``member``, ``effect``. A single model has no members:
        its total columns are NaN.
    """
    by = as_list(by)
    table = global_effects(pairs.local, by)
    if not len(pairs.members):
        nothing = dict.fromkeys(["between_se", *_TOTAL], np.nan)
        nothing["total_status"] = "fewer than 2 members gave an estimate"
        return table.assign(**nothing), pd.DataFrame(columns=[*by, "member", "effect"])
    members = pd.concat(
        [
            member_global(local, pairs.members.merge(local[PAIR].iloc[:1], on=PAIR), by)
            for _, local in pairs.local.groupby(PAIR, sort=False)
        ],
        ignore_index=True,
    )
    table = add_intervals(table, members, by, "effect")
    p = 2 * special.stdtr(
        table["total_df"].clip(upper=1e9), -abs(table["effect"]) / table["total_se"]
    )
    return table.assign(total_p=p), members
