"""The causal atlas: the effect of every feature on every other, from one pass of mutagenesis.

IVW and MR-Egger of all ordered pairs are matrix products in each window (`atlas_sums`), global
effects are random-effects means over windows (`meta_batch`), and intervals carry the variance
between ensemble members. Robust estimators follow for pairs that the atlas points to.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy import special, stats

from . import __version__
from ._atlas_plan import Blocks, Plan, check_options, fingerprint, floors, make_plan, moments
from ._atlas_store import Folder
from ._atlas_sums import METHODS, Fits, Window, all_pairs, instrument_mask, windows
from ._checks import as_list, check_choice, require
from ._meta_batch import random_means
from .instruments import select_instruments
from .intervals import add_intervals, intervals, member_global, member_local
from .meta import global_effects
from .mr import local_mr
from .mr.linear import Z95, inference
from .predict import progress_bar, resolve_device

__all__ = ["causal_atlas", "local_atlas", "robust_pairs"]

Floors = Callable[[], np.ndarray]


def causal_atlas(
    effects: xr.Dataset | Blocks,
    *,
    rule: str = "pooled",
    threshold: float = 1.0,
    methods: Sequence[str] = METHODS,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    tau2_method: str = "reml",
    interval: str | None = None,
    store: str | Path | None = None,
    share: tuple[int, int] = (0, 1),
    keep_local: bool = False,
    dtype: str = "float64",
    max_memory: int = 2**30,
    device: str = "cpu",
    progress: bool = False,
) -> pd.DataFrame | None:
    """Global causal effect of every exposure on every outcome.

    Parameters
    ----------
    effects : xr.Dataset, or sequence of functions
        Variant effects, in memory or lazily from a store (`load_effects(path, lazy=True)`), with
        ``member_effect`` for intervals that carry the model's uncertainty. Or functions without
        arguments, each of which computes the effects of some windows, so that none need be kept:
        ``[partial(saturation_mutagenesis, members, x[i:i + 8], sequence_ids=ids[i:i + 8]) for i in
        range(0, len(x), 8)]``. The rule "pooled" calls them twice, "wald" once.
    rule, threshold
        Of instruments, as in `deepmr_utils.instruments.select_instruments`.
    methods : sequence of {"ivw", "egger"}
    exposures, outcomes : sequence of str, optional
        Features; all by default.
    tau2_method : {"reml", "dl"}
        Between-window variance, as in `deepmr_utils.meta.random_effects`.
    interval : str, optional
        Rule of `deepmr_utils.intervals.total_variance`; "rubin" by default where effects
        have members, else "plain": given the model.
    store : path, optional
        Directory that takes each finished block of windows, then of exposures, then the table. The
        same call goes on where it stopped, or finds the table; other settings are refused.
    share : (int, int)
        ``(i, n)``: do the i-th of n shares of the blocks of windows and return None. Jobs of a
        cluster share a store this way; a last call without shares puts them together.
    keep_local : bool
        Leave the local effects in the store.
    dtype : {"float64", "float32"}
        Of the local effects that wait for the meta-analysis.
    max_memory : int
        Bytes that blocks may take.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pd.DataFrame
        One row a method and pair: ``exposure, outcome, method, effect, se, ci_low, ci_high, tau2,
        n_windows`` (with an estimate), which are those of `random_effects`; ``between_se,
        total_se, total_df, total_ci_low, total_ci_high`` of `ensemble_intervals.intervals`;
        ``total_p`` (t, from the total error) and ``q_value`` (Benjamini and Hochberg, over all
        pairs of a method); ``status``. ``attrs`` holds the settings.

    Raises
    ------
    ValueError
        If an option is unknown, features are not there or have names in common, memory does not
        suffice.
    FileExistsError
        If the store holds another atlas.

    Notes
    -----
    Local effects equal those of `local_mr`, pair by pair, and those of members those of
    `member_local`. For N windows, A exposures, B outcomes and M members, ``(2 + M) N A B`` numbers
    a method wait for the meta-analysis, in the store or within `max_memory`. Beside them there are
    `max_memory` and, for a window of V substitutions and K features, about
    ``8 ((20 + M) V K + (4 A + 20 min(A, 256)) B)`` bytes.
    """
    plan = make_plan(effects, rule, threshold, methods, exposures, outcomes, max_memory)
    device = resolve_device(device)
    interval = interval or ("rubin" if plan.members else "plain")
    check_options(plan, tau2_method, interval, share, dtype)
    settings = {
        "rule": rule, "threshold": threshold, "methods": list(plan.methods),
        "tau2_method": tau2_method, "interval": interval, "dtype": dtype, "members": plan.members,
        "exposures": plan.exposures, "outcomes": plan.outcomes, "blocks": len(plan.blocks),
        "version": __version__, "effects": fingerprint(plan, effects),
    }  # fmt: skip
    versions = str(plan.first.attrs.get("versions", "unknown"))
    folder = Folder(store, settings, max_memory, versions)
    if (done := folder.finished()) is not None:
        return done
    plan = plan._replace(rules=folder.rules(plan.rules, lambda: moments(plan)))
    lowest = cache(lambda: floors(plan, max_memory))
    for i in progress_bar(range(share[0], len(plan.blocks), share[1]), progress, desc="windows"):
        if not folder.has(i):
            local = [
                _window_effects(window, plan, lowest, device)
                for window in windows(plan.block(i), plan.features, members=bool(plan.members))
            ]
            folder.put(i, np.stack(local, axis=2).astype(dtype), len(plan.blocks))
    if share[1] > 1:
        return None
    size = folder.exposures_at_a_time()
    tables = []
    for first in progress_bar(range(0, len(plan.exposures), size), progress, desc="exposures"):
        chosen = slice(first, first + size)
        if (table := folder.part(chosen)) is None:
            table = _global_effects(folder.gather(chosen), plan, chosen, tau2_method, device)
            folder.put_part(chosen, table)
        tables.append(table)
    table = _with_intervals(pd.concat(tables, ignore_index=True), interval)
    table.attrs = settings
    return folder.finish(table, keep_local=keep_local)


def local_atlas(
    effects: xr.Dataset,
    *,
    rule: str = "pooled",
    threshold: float = 1.0,
    methods: Sequence[str] = METHODS,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    distribution: str = "normal",
    device: str = "cpu",
) -> xr.Dataset:
    """Local causal effect of every exposure on every outcome in every window, in memory.

    Parameters
    ----------
    effects, rule, threshold, methods, exposures, outcomes
        As in `causal_atlas`.
    distribution : {"normal", "t"}
        Of intervals, as in `deepmr_utils.mr.estimate`.
    device : str
        As in `causal_atlas`.

    Returns
    -------
    xr.Dataset
        ``causal_effect, se, ci_low, ci_high, p, scale`` (estimator, sequence, exposure, outcome),
        as `deepmr_utils.mr.local_mr` gives them pair by pair, NaN where there is no estimate and
        for a feature on itself; ``n_instruments`` (sequence, exposure).
    """
    check_choice("distribution", distribution, ("normal", "t"))
    plan = make_plan(effects, rule, threshold, methods, exposures, outcomes, 2**62)
    plan = plan._replace(rules=moments(plan) if rule == "pooled" else plan.rules)
    device = resolve_device(device)
    lowest = cache(lambda: floors(plan, 2**62))
    rows = [
        _fit_window(window, plan, lowest, device)
        for window in windows(effects, plan.features, members=False)
    ]
    dims = ("estimator", "sequence", "exposure", "outcome")
    n = np.stack([fits[plan.methods[0]].n for fits in rows])
    names = ("causal_effect", "se", "ci_low", "ci_high", "p", "scale")
    arrays = {name: [] for name in names}
    for method in plan.methods:
        effect, se, scale, _ = (np.stack(a) for a in zip(*(f[method] for f in rows), strict=True))
        df = np.broadcast_to((n - (2 if method == "egger" else 1))[..., None], effect.shape)
        with np.errstate(all="ignore"):
            low, high, p = (
                part.reshape(effect.shape)
                for part in inference(
                    effect.ravel(), se.ravel(), distribution=distribution, df=df.ravel(),
                    shrink=scale.ravel() if method == "egger" else 1.0,
                )
            )  # fmt: skip
        bad = ~np.isfinite(effect) | np.isnan(low) | np.isnan(high)
        for name, values in zip(names, (effect, se, low, high, p, scale), strict=True):
            arrays[name].append(np.where(bad, np.nan, values))
    return xr.Dataset(
        {name: (dims, np.stack(values)) for name, values in arrays.items()}
        | {"n_instruments": (("sequence", "exposure"), n)},
        {"estimator": list(plan.methods), "sequence": effects["sequence"].to_numpy(),
         "exposure": plan.exposures, "outcome": plan.outcomes},
        {"rule": rule, "threshold": threshold, "distribution": distribution},
    )  # fmt: skip


def robust_pairs(
    effects: xr.Dataset,
    pairs: pd.DataFrame,
    methods: Sequence[str] = ("egger_robust",),
    *,
    rule: str = "pooled",
    threshold: float = 1.0,
    **options: object,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Local and global effects of chosen pairs by any estimator, through the ordinary path.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, in memory or lazily from a store: two features at a time are read.
    pairs : pd.DataFrame
        ``exposure, outcome``, for instance the rows of a `causal_atlas` with a small ``q_value``.
    methods : sequence of str
        Names of `deepmr_utils.mr.methods`.
    rule, threshold
        As in `deepmr_utils.instruments.select_instruments`.
    **options
        As in `deepmr_utils.meta.random_effects`.

    Returns
    -------
    tuple of pd.DataFrame
        Local effects, the columns of `local_mr`, and global ones, those of `global_effects`, both
        with ``exposure, outcome`` before; where effects have members, with the intervals of
        `ensemble_intervals.add_intervals`.
    """
    require(pairs, ["exposure", "outcome"], "a table of pairs")
    methods = as_list(methods)
    names = ["effect", "se", *(["member_effect"] if "member_effect" in effects else [])]
    tables: tuple[list[pd.DataFrame], list[pd.DataFrame]] = [], []
    for pair in pairs[["exposure", "outcome"]].drop_duplicates().to_dict("records"):
        known = [name for name in dict.fromkeys(pair.values()) if name in effects["feature"]]
        two = effects[names].sel(feature=known).load()
        instruments = select_instruments(two, **pair, rule=rule, threshold=threshold)
        local = local_mr(instruments, methods)
        whole = global_effects(local, **options)
        if "member_effect" in two:
            members = member_local(two, instruments, methods)
            again = member_global(local, members, **options)
            local = add_intervals(local, members, on=["sequence_id", "method"])
            whole = add_intervals(whole, again, on=["method"], effect="effect")
        for column, table in zip(tables, (local, whole), strict=True):
            column.append(pd.DataFrame(pair, index=table.index).join(table))
    return tuple(pd.concat(column, ignore_index=True) for column in tables)


def _fit_window(
    window: Window, plan: Plan, lowest: Floors, device: torch.device, member: int | None = None
) -> dict[str, Fits]:
    """Estimates of all pairs in one window, by the ensemble or one member's effects."""
    a, b = plan.columns
    kept = instrument_mask(window.effect[:, a], window.se[:, a], plan.rules)
    still = (window.se[:, b] == 0) & kept.any(axis=1, keepdims=True)
    needed = still.any() and (kept.T.astype(np.float32) @ still.astype(np.float32)).any()
    effect = window.effect if member is None else window.members[member]
    fits = all_pairs(
        effect[:, a], window.se[:, a], effect[:, b], window.se[:, b], kept, plan.methods,
        floor=lowest() if needed else None, device=device,
    )  # fmt: skip
    for fit in fits.values():
        for values in fit[:3]:
            values[plan.itself] = np.nan
    return fits


def _window_effects(window: Window, plan: Plan, lowest: Floors, device: torch.device) -> np.ndarray:
    """Effect, standard error and each member's effect (2 + M, methods, A, B) in one window."""
    fits = _fit_window(window, plan, lowest, device)
    rows = [[fits[m].effect for m in plan.methods], [fits[m].se for m in plan.methods]]
    for member in range(plan.members):
        own = _fit_window(window, plan, lowest, device, member)
        rows.append([own[m].effect for m in plan.methods])
    return np.array(rows)


def _global_effects(
    local: np.ndarray, plan: Plan, chosen: slice, tau2_method: str, device: torch.device
) -> pd.DataFrame:
    """Means over windows of local effects (2 + M, methods, N, a, B), and their spread by member."""
    exposures = plan.exposures[chosen]
    pair = ~plan.itself[chosen].ravel()
    tables = []
    for method, values in zip(plan.methods, np.moveaxis(local, 1, 0), strict=True):
        values = values.reshape(*values.shape[:2], -1)[..., pair]
        effect, se, *members = values
        means = random_means(effect, se, tau2_method, device=device)
        common = np.isfinite(values).all(axis=0)
        each = [
            random_means(np.where(common, own, np.nan), se, tau2_method, device=device).effect
            for own in members
        ]
        table = pd.DataFrame({
            "exposure": np.repeat(exposures, len(plan.outcomes))[pair],
            "outcome": np.tile(plan.outcomes, len(exposures))[pair],
            "method": method,
            "effect": means.effect,
            "se": means.se,
            "ci_low": means.effect - Z95 * means.se,
            "ci_high": means.effect + Z95 * means.se,
            "tau2": means.tau2,
            "n_windows": means.k,
        })  # fmt: skip
        spread = pd.DataFrame(each).agg(["std", "count"]) if each else None
        table["between_se"] = np.nan if spread is None else spread.loc["std"].to_numpy()
        table["n_members"] = 0 if spread is None else spread.loc["count"].to_numpy().astype(int)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _with_intervals(table: pd.DataFrame, interval: str) -> pd.DataFrame:
    """Add the intervals by the spread of members, p-values, q-values and status."""
    columns = intervals(
        table["effect"], table["se"], table["between_se"], table["n_members"], interval
    )
    del columns["total_status"]  # the table's own says more
    df, size = columns["total_df"], np.abs(table["effect"] / columns["total_se"])
    finite = np.isfinite(df)
    p = 2 * np.where(finite, special.stdtr(np.where(finite, df, 1), -size), special.ndtr(-size))
    p = np.where(np.isnan(df), np.nan, p)
    table = table.drop(columns="n_members").assign(**columns, total_p=p, q_value=np.nan)
    for rows in table[np.isfinite(p)].groupby("method").groups.values():
        table.loc[rows, "q_value"] = stats.false_discovery_control(table.loc[rows, "total_p"])
    k = table["n_windows"]
    status = np.where(k > 1, "ok", "one effect: no heterogeneity can be estimated")
    status = np.where(k > 0, status, "no window has an estimate")
    table["status"] = np.where((k > 0) & table["total_p"].isna(), "no finite estimate", status)
    return table.sort_values("method", key=lambda m: m.map({m: i for i, m in enumerate(METHODS)}),
                             kind="stable", ignore_index=True)  # fmt: skip
