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

from ._checks import as_list
from .instruments import places, select_instruments
from .intervals import PAIR, add_intervals, intervals, member_global, member_local, q_values
from .meta import global_effects
from .mr import local_mr

__all__ = [
    "Chain", "PairEffects", "choose_instruments", "direction_test", "pair_effects", "summarise",
]  # fmt: skip


class Chain(NamedTuple):
    """How instruments are chosen and what is made of them.

    ``source`` is a rule of `deepmr_utils.instruments.eligible`, ``rule`` and ``threshold`` are
    those of `deepmr_utils.instruments.select_instruments`, ``method`` is one or some of
    `deepmr_utils.mr.methods`.
    """

    source: str = "motif"
    method: str | Sequence[str] = "ivw"
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
        Of `deepmr_utils.instruments.eligible`.

    Returns
    -------
    pd.DataFrame
        As `deepmr_utils.instruments.select_instruments` gives it.
    """
    table = select_instruments(effects, exposure, outcome, chain.rule, chain.threshold)
    kept = allowed.sel(feature=exposure).to_numpy()[places(effects, table)]
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
        Of `deepmr_utils.instruments.eligible`, by the source of the chain.

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
    return _together(tables, members)


def _together(tables: list[pd.DataFrame], members: list[pd.DataFrame]) -> PairEffects:
    local = pd.concat(tables, ignore_index=True)
    by_member = pd.concat(members, ignore_index=True) if members else pd.DataFrame()
    return PairEffects(local[[*PAIR, *local.columns.drop(PAIR)]], by_member)


def _features(effects: xr.Dataset) -> list[str]:
    names = effects["feature"].to_numpy().tolist()
    if len(names) < 2:
        raise ValueError(f"effects on each other need at least 2 features; got {names}")
    return names


def summarise(
    pairs: PairEffects, by: Sequence[str] = (*PAIR, "method")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of all pairs: global effects with intervals and p-values that carry the model.

    Parameters
    ----------
    pairs : PairEffects
        Without rows, for instance those of other bins, where these should not enter.
    by : sequence of str
        Columns of ``pairs.local`` whose values make the groups.

    Returns
    -------
    tuple of pd.DataFrame
        A row a group. First the columns of ``by``; then those of
        `deepmr_utils.meta.random_effects`, with ``k`` sequences, in which ``se, ci_low, ci_high,
        p`` take the model for known; then ``between_se, total_se, total_df, total_ci_low,
        total_ci_high, total_p, total_status`` of `deepmr_utils.intervals.add_intervals`, **the
        interval and p-value to report**; then ``q_value``, see `deepmr_utils.intervals.q_values`,
        over all pairs that agree in the other columns of ``by``, such as the method.
        `deepmr_utils.atlas.causal_atlas` gives the same columns. A single model has no members:
        its total columns are NaN, and ``total_status`` says so.

        Then the same effects by member: the columns of ``by``, ``member``, ``effect``.
    """
    by = as_list(by)
    table = global_effects(pairs.local, by)
    members = table[by].iloc[:0].assign(member=0, effect=0.0)
    if len(pairs.members):
        members = member_global(pairs.local, pairs.members, by)
    table = add_intervals(table, members, by, "effect")
    return table.assign(q_value=q_values(table, [n for n in by if n not in PAIR])), members


def direction_test(table: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """Ask whether the effect of one feature on another is larger than the reverse one.

    Parameters
    ----------
    table, members : pd.DataFrame
        Of `summarise`, by pair.

    Returns
    -------
    pd.DataFrame
        A row an unordered pair, the stronger way first: ``exposure, outcome, forward, reverse,
        difference`` of their absolute values, ``total_se, total_df, p``.

    Notes
    -----
    Both ways come from one ensemble, so that the variance between members is that of each member's
    own difference; the errors given the model, of different instruments, are added. Combined as
    global effects are (`deepmr_utils.intervals.total_variance`, "rubin"). Effects must be
    on comparable scales.
    """
    ways = table.set_index(PAIR)
    back = ways.index.swaplevel()
    if (alone := ~back.isin(ways.index)).any():
        a, b = ways.index[alone][0]
        raise ValueError(f"a direction needs both ways; there is no effect of {b} on {a}")
    wide = members.pivot_table("effect", PAIR, "member").reindex(ways.index)
    size = wide.mul(np.sign(ways["effect"]), axis=0)
    forward, reverse = ways["effect"], ways["effect"].reindex(back).to_numpy()
    found = pd.DataFrame({"forward": forward, "reverse": reverse})
    found["difference"] = forward.abs() - np.abs(reverse)
    error = np.hypot(ways["se"], ways["se"].reindex(back).to_numpy())
    spread = (size - size.reindex(back).to_numpy()).std(axis=1)
    columns = intervals(found["difference"], error, spread, wide.shape[1])
    for name in ("total_se", "total_df", "total_p"):
        found[name.replace("total_p", "p")] = columns[name]
    return found[found["difference"] > 0].reset_index()
