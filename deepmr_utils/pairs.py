"""Local and global effects of pairs of features: what `deepmr_utils.analysis` makes answers of."""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ._checks import as_list, check_choice, check_number, check_options
from .instruments import RULES, select_instruments, site_dimensions
from .intervals import PAIR, add_intervals, intervals, member_global, member_local, q_values
from .meta import global_effects
from .mr import local_mr
from .mr.crossfit import cross_fit as cross_fit_local
from .mr.linear import NOT_DEBIASED
from .mr.registry import RANGES, REGISTRY, check_methods

__all__ = ["PairEffects", "direction_test", "pair_effects", "summarise"]


class PairEffects(NamedTuple):
    """Local effects of pairs, `deepmr_utils.mr.local_mr`, the same by member, and instruments.

    All have ``exposure, outcome`` in front.
    """

    local: pd.DataFrame
    members: pd.DataFrame
    instruments: pd.DataFrame = pd.DataFrame()


def pair_effects(
    effects: xr.Dataset, allowed: xr.DataArray, pairs: Sequence[tuple[str, str]] | None = None, *,
    method: str | Sequence[str] = "ivw", rule: str = "pooled", threshold: float = 1.0,
    weights: str = "equal", cross_fit: bool = False,
) -> PairEffects:  # fmt: skip
    """Local causal effects of pairs of features, of which `deep_mr` makes an answer.

    Parameters
    ----------
    effects : xr.Dataset
        With ``member_effect``, where effects by member are wanted.
    allowed : xr.DataArray
        Of `deepmr_utils.instruments.eligible`.
    pairs : sequence of (exposure, outcome), optional
        All ordered pairs by default.
    method : str or sequence of str
    rule, threshold, weights, cross_fit
        As in `deep_mr`.

    Returns
    -------
    PairEffects
        Without standard errors where effects have none; these take method "ivw" or "egger" alone,
        with equal weights.
    """
    fits = check_fits(method, rule, threshold, weights)
    if cross_fit:
        _check_cross_fit(effects, method, rule, weights)
    tables, members, chosen = [], [], []
    for exposure, outcome in permutations(_features(effects), 2) if pairs is None else pairs:
        found = select_instruments(effects, exposure, outcome, rule, threshold, allowed=allowed)
        pair = {"exposure": exposure, "outcome": outcome}
        fit = _without_errors if found["se_outcome"].isna().any() else local_mr
        for name, options in fits.items():
            local, each = fit(found, name, **options), None
            if cross_fit:
                local, each = _cross_fitted(effects, allowed, found, local)
            elif effects.sizes.get("member", 0) > 1:
                each = member_local(effects, found, name, **options)
            tables.append(local.assign(**pair))
            members += [] if each is None else [each.assign(**pair)]
        chosen.append(found.astype({"sequence_id": str}).assign(**pair))
    return PairEffects(*(_together(each) for each in (tables, members, chosen)))


def check_fits(
    method: str | Sequence[str], rule: str, threshold: float, weights: str
) -> dict[str, dict[str, str]]:
    """Options of each method by name; a ValueError where a choice is none, before any work."""
    check_choice("rule", rule, RULES)
    check_number("threshold", threshold, low=0)
    fits = {}
    for name in check_methods(method):
        options = {"weights": weights} if "weights" in REGISTRY[name].options else {}
        fits[name] = check_options(REGISTRY[name].fit.func, options, RANGES)
    return fits


def _check_cross_fit(
    effects: xr.Dataset, method: str | Sequence[str], rule: str, weights: str
) -> None:
    given = {"method": as_list(method), "rule": rule, "weights": weights}
    needed = {"method": ["ivw"], "rule": "wald", "weights": "equal"}
    if given != needed:
        raise ValueError(f"cross_fit goes with {needed}; got {given}")
    if effects.sizes.get("member", 0) < 4 or "edit" in effects.dims:
        raise ValueError(
            "cross_fit needs the effects of substitutions by 4 members or more: two are multiplied "
            f"over instruments that the others select; got {dict(effects.sizes)}"
        )


def _cross_fitted(
    effects: xr.Dataset, allowed: xr.DataArray, instruments: pd.DataFrame, local: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Local effects, and pseudo-values of members, whose instruments other members selected."""
    exposure, outcome = (instruments.attrs[role] for role in ("exposure", "outcome"))
    order = ("member", *site_dimensions(effects))
    x, y = (
        effects["member_effect"].sel(feature=name).transpose(*order).to_numpy()
        for name in (exposure, outcome)
    )
    x, y = (a.reshape(*a.shape[:2], -1).astype(np.float64) for a in (x, y))
    may = allowed.sel(feature=exposure).transpose(*order[1:]).to_numpy().reshape(x.shape[1:])
    may = may & np.isfinite(x).all(0) & np.isfinite(y).all(0)
    threshold = instruments.attrs["threshold"]
    effect, pseudo, count = cross_fit_local(x, y, np.ones(may.shape), may, threshold)
    lost = np.isnan(effect) & (local["status"] == "ok")
    status = np.where(lost, NOT_DEBIASED, local["status"])
    counts = np.round(count).astype(int)
    local = local.assign(causal_effect=effect, n_instruments=counts, status=status)
    member, sequence = np.indices(pseudo.shape).reshape(2, -1)
    ids = local["sequence_id"].to_numpy()[sequence]
    each = {"member": member, "sequence_id": ids, "method": "ivw", "causal_effect": pseudo.ravel()}
    return local, pd.DataFrame(each)


def _without_errors(instruments: pd.DataFrame, method: str, **options: str) -> pd.DataFrame:
    """Local effects without standard errors: slopes, which equal weights need no errors for."""
    if method not in ("ivw", "egger") or options.get("weights") != "equal":
        raise ValueError(
            "effects of a single network have no standard errors: take method 'ivw' or 'egger' "
            f"with weights='equal'; got {method!r}, weights={options.get('weights')!r}"
        )
    known = instruments.drop(columns=["sd_exposure", "sd_outcome"])
    table = local_mr(known.assign(se_exposure=1.0, se_outcome=1.0), method, **options)
    kept = ["sequence_id", "method", "causal_effect", "intercept", "n_instruments", "status"]
    return table.assign(**dict.fromkeys(table.columns.difference(kept), np.nan))


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    table["sequence_id"] = table["sequence_id"].astype(str)
    return table[[*PAIR, *table.columns.drop(PAIR)]]


def _features(effects: xr.Dataset) -> list[str]:
    names = effects["feature"].to_numpy().tolist()
    if len(names) < 2:
        raise ValueError(f"effects on each other need at least 2 features; got {names}")
    return names


def summarise(
    pairs: PairEffects, by: Sequence[str] = (*PAIR, "method"), *, rule: str = "rubin"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of all pairs: global effects with intervals and p-values that carry the model.

    Parameters
    ----------
    pairs : PairEffects
        Without rows, for instance those of other bins, where these should not enter.
    by : sequence of str
        Columns of ``pairs.local`` whose values make the groups.
    rule : str
        Of intervals, see `deepmr_utils.intervals.total_variance`.

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
    if pairs.local["se"].isna().all():  # a single network: nothing to weight sequences by
        mean = pairs.local.groupby(by)["causal_effect"].agg(["mean", "count"]).reset_index()
        mean = table[by].merge(mean, on=by)
        table = table.assign(effect=mean["mean"], k=mean["count"])
    members = table[by].iloc[:0].assign(member=0, effect=0.0)
    if len(pairs.members):
        members = member_global(pairs.local, pairs.members, by)
    table = add_intervals(table, members, by, "effect", rule=rule)
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
