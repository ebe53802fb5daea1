"""The causal atlas: the effect of every feature on every other, from one pass of mutagenesis.

IVW and MR-Egger of all ordered pairs, with equal weights, are matrix products in each window
(`_atlas_sums`), global effects are random-effects means over windows (`meta`), and intervals carry
the variance between ensemble members. `analysis` has other estimators, of a few pairs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from . import __version__
from ._atlas_plan import METHODS, Blocks, Plan, fingerprint, make_plan, moments
from ._atlas_store import FINISHED, Folder
from ._atlas_sums import fit_window
from ._checks import check_choice
from .intervals import PAIR, RULES, intervals, q_values
from .meta import mean_table, random_means
from .predict import progress_bar, resolve_device

__all__ = ["causal_atlas"]

NO_ERRORS = "no standard errors, as of a single network: a mean without weights"
NO_MEMBERS = "no effects by member: compute them with keep_members=True"


def causal_atlas(
    effects: xr.Dataset | Blocks,
    *,
    rule: str = "pooled",
    threshold: float = 1.0,
    methods: Sequence[str] = METHODS,
    exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    interval: str = "rubin",
    store: str | Path | None = None,
    share: tuple[int, int] = (0, 1),
    max_memory: int = 2**30,
    device: str = "cpu",
    progress: bool = False,
) -> pd.DataFrame | None:
    """Global causal effect of every exposure on every outcome.

    Parameters
    ----------
    effects : xr.Dataset, or sequence of functions
        Variant effects, in memory or lazily from a store (`load_effects(path, lazy=True)`), with
        ``member_effect`` for intervals, which carry the model's uncertainty. Or functions without
        arguments, each of which computes the effects of some windows, so that none need be kept:
        ``[partial(saturation_mutagenesis, members, x[i:i + 8], sequence_ids=ids[i:i + 8]) for i in
        range(0, len(x), 8)]``. The rule "pooled" calls them twice, "wald" once.
    rule, threshold
        Of instruments, as in `deepmr_utils.instruments.select_instruments`.
    methods : sequence of {"ivw", "egger"}
    exposures, outcomes : sequence of str, optional
        Features; all by default.
    interval : str
        Rule of `deepmr_utils.intervals.total_variance`. "plain" takes the model for known, with
        members or without; the others need at least 2 members.
    store : path, optional
        Directory that takes each finished block of windows, then of exposures, then the table. The
        same call goes on where it stopped, or finds the table; other settings are refused.
    share : (int, int)
        ``(i, n)``: do the i-th of n shares of the blocks of windows and return None. Jobs of a
        cluster share a store this way; a last call without shares puts them together.
    max_memory : int
        Bytes that blocks may take.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pd.DataFrame
        One row a method and pair, the columns of `deepmr_utils.pairs.summarise` by ``exposure,
        outcome, method``, and ``attrs`` holds the settings. Windows are its sequences. The
        Q-profile interval, ``tau2_low, tau2_high``, takes longer than all else, and is NaN; why
        local effects were left out is not counted, so that there is no ``excluded``. Without
        members ``total_*`` and ``q_value`` are NaN unless ``interval="plain"``, and
        ``total_status`` says why. Effects without standard errors, of a single network or from
        elsewhere, give the mean over windows as ``effect``, and nothing else.

    Raises
    ------
    ValueError
        If an option is unknown, features are not there or have names in common, memory does not
        suffice, or the rule "wald" has no standard errors.
    FileExistsError
        If the store holds another atlas.

    Notes
    -----
    The effect is the slope through the origin over the exposure's instruments, all of the same
    weight (MR-Egger: with an intercept); `_atlas_sums` has the equations. Exposure and outcome are
    predicted by the same members: with 3 or more, estimates are free of the bias that errors in
    common bring, and members enter by pseudo-values, averaged over windows with the weights of the
    ensemble. With 2, and without members, the bias stays. A window in which no member's outcome
    moves has a standard error of 0 and is left out of the mean.

    For N windows, A exposures, B outcomes and M members, ``(2 + M) N A B`` numbers a method wait
    for the meta-analysis, in the store or within `max_memory`. Beside them there are `max_memory`
    and, for a window of V substitutions and K features, about
    ``8 ((10 + 4 M) V K + (2 + M) (2 A + 15 min(A, 256)) B)`` bytes.
    """
    plan = make_plan(effects, rule, threshold, methods, exposures, outcomes, max_memory)
    plan = plan._replace(device=resolve_device(device))
    check_choice("interval", interval, RULES)
    if not 0 <= share[0] < share[1]:
        raise ValueError(f"share (i, n) must have 0 <= i < n; got {share}")
    n_blocks = len(plan.blocks)
    settings = {
        "rule": rule, "threshold": threshold, "methods": plan.methods,
        "interval": interval, "members": plan.members, "exposures": plan.exposures,
        "outcomes": plan.outcomes, "blocks": n_blocks, "version": __version__,
        "effects": fingerprint(plan, effects),
    }  # fmt: skip
    versions = str(plan.first.attrs.get("versions", "unknown"))
    folder = Folder(store, settings, max_memory, versions)
    if folder.has(FINISHED):
        return folder.table(FINISHED, pd.DataFrame)
    if rule == "pooled":
        plan = plan._replace(moments=folder.array("moments.npy", partial(moments, plan)))

    def block(i: int) -> np.ndarray:
        """Local effects (2 + M, methods, n, A, B) of a block of windows."""
        return folder.array(f"local/{i:06d}.npy", partial(_local_effects, plan, i), n_blocks)

    for i in progress_bar(range(share[0], n_blocks, share[1]), progress, desc="windows"):
        block(i)
    if share[1] > 1:
        return None
    # exposures whose local effects, with the work on them, fit into memory
    size = max(1, max_memory // (24 * sum(block(i)[:, :, :, :1].size for i in range(n_blocks))))
    tables = []
    for first in progress_bar(range(0, len(plan.exposures), size), progress, desc="exposures"):
        name, chosen = f"pairs-{first:06d}-{first + size:06d}.parquet", slice(first, first + size)
        compute = partial(_global_effects, plan, chosen, block, interval)
        tables.append(folder.table(name, compute))
    table = pd.concat([t[t["method"] == m] for m in METHODS for t in tables], ignore_index=True)
    table = table.assign(q_value=q_values(table, ["method"]))
    table.attrs = settings
    table = folder.table(FINISHED, lambda: table)
    folder.tidy()
    return table


def _local_effects(plan: Plan, i: int) -> np.ndarray:
    """Local effects (2 + M, methods, n, A, B) in a block of windows."""
    found = plan.windows(i, members=plan.members > 0)
    return np.stack([fit_window(window, plan) for window in found], axis=2)


def _global_effects(
    plan: Plan, chosen: slice, block: Callable[[int], np.ndarray], interval: str
) -> pd.DataFrame:
    """Means over windows of the local effects of some exposures, with their intervals."""
    # (2 + M, methods, N, a, B)
    local = np.concatenate([block(i)[:, :, :, chosen] for i in range(len(plan.blocks))], axis=2)
    pair = ~plan.itself[chosen].ravel()
    names = pd.MultiIndex.from_product([plan.exposures[chosen], plan.outcomes], names=PAIR)
    reason = "" if plan.members or interval == "plain" else NO_MEMBERS
    reason = reason if plan.errors else NO_ERRORS
    tables = []
    for method, values in zip(plan.methods, np.moveaxis(local, 1, 0), strict=True):
        values = values.reshape(*values.shape[:2], -1)[..., pair]
        means, members = _means(values, plan)
        spread = pd.DataFrame(members, columns=range(len(means)), dtype=float)
        columns = intervals(means["effect"], means["se"], spread.std(), spread.count(), interval)
        if reason:
            status = np.where(means["effect"].isna(), columns["total_status"], reason)
            columns["total_status"] = status
        table = names[pair].to_frame(index=False).assign(method=method)
        tables.append(pd.concat([table, means.assign(**columns)], axis=1))
    return pd.concat(tables, ignore_index=True)


def _means(values: np.ndarray, plan: Plan) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Means over windows of effects and of what members say (2 + M, N, P), weights in common."""
    effect, se, *members = values
    means = mean_table(random_means(effect, se, device=plan.device), len(effect))
    if not plan.errors:
        used = np.isfinite(effect)
        k = used.sum(axis=0)
        mean = np.where(used, effect, 0).sum(axis=0) / np.where(k > 0, k, np.nan)
        status = np.where(k > 0, NO_ERRORS, means["status"])
        return means.assign(effect=mean, k=k, n_excluded=len(effect) - k, status=status), []
    used = np.isfinite(values).all(axis=0) & (se > 0)
    tau2 = means["tau2"].fillna(0).to_numpy()
    weight = np.where(used, 1 / np.where(used, se**2 + tau2, 1), 0)
    total = weight.sum(axis=0)
    total[total == 0] = np.nan
    return means, [(weight * np.where(used, own, 0)).sum(axis=0) / total for own in members]
