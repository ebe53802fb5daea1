"""Knock-out ratios: by how much one feature answers an edit of another's site, for each unit lost.

The products of changes that enter are those of different members, whose errors are their own, so
that what a member has wrong of exposure and outcome alike does not pass for a cause.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ._checks import check_names
from .intervals import intervals

__all__ = ["knockout_effects", "local_knockouts", "response_curve"]

KNOCKOUTS = ("shuffled", "destroyed", "replaced")  # kinds of edits that leave no site
NO_EDIT = "no site of the exposure was edited, in one of these kinds"
NO_CHANGE = "edits do not move the exposure, but for error"
ALONE = "one alone: no spread between sequences, or edits"
FEW_MEMBERS = "2 members: not corrected for the errors that exposure and outcome share"
Pairs = Sequence[tuple[str, str]] | None


def knockout_effects(
    effects: xr.Dataset, pairs: Pairs = None, kinds: Sequence[str] = KNOCKOUTS
) -> pd.DataFrame:
    """Knock-out ratios over all sequences.

    Parameters
    ----------
    effects : xr.Dataset
        Of `deepmr_utils.edits.edit_effects`.
    pairs : sequence of tuple of str, optional
        Exposure and outcome; by default all ordered pairs of features. The sites of an exposure are
        those whose ``factor`` has its name.
    kinds : sequence of str
        Kinds of edits that enter; ``["planted"]`` gives the answer to a site more.

    Returns
    -------
    pd.DataFrame
        One row a pair: ``exposure, outcome, knockout, knockout_se, knockout_ci_low,
        knockout_ci_high, knockout_p`` and ``knockout_status``, "ok" or what is missing; ``k``
        sequences that enter with ``n_edits`` edits, ``n_without_site`` that have none of these
        edits and ``n_not_drawn`` for whose sites none could be drawn.

    Notes
    -----
    ``R = sum(x y) / sum(x^2)`` over edits, each with the same weight, of changes x of the exposure
    and y of the outcome. For M members the products are means over pairs of different members,
    ``mean(x) mean(y) - c / M`` and ``mean(x)^2 - s^2 / M`` with covariance c and variance s^2 over
    members (ddof 1). The variance is ``W + (1 + 1 / M) B``, with the degrees of freedom of
    `deepmr_utils.intervals.total_variance`: W of the jackknife over sequences, whose edits belong
    together; B over members (ddof 1) of the pseudo-values ``M R - (M - 1) R(-m)``. Of 2 members
    products are not corrected; 1 has no interval.
    """
    parts = []
    for exposure, outcomes in _by_exposure(effects, pairs).items():
        table, x, y = _edits_of(effects, exposure, outcomes, kinds)
        known = ~np.isnan(x).any(0)
        unit, _ = pd.factorize(table["sequence_id"][known])
        found = _ratios(x[:, known], y[:, known], unit, np.zeros(unit.max(initial=-1) + 1, int), 1)
        k, there = len(np.unique(unit)), table["sequence_id"].nunique()
        counts = {
            "k": k, "n_edits": int(known.sum()), "n_not_drawn": there - k,
            "n_without_site": effects.sizes["sequence"] - there,
        }  # fmt: skip
        frame = {"exposure": exposure, "outcome": outcomes}
        parts.append(pd.DataFrame(frame | {name: v[0] for name, v in found.items()} | counts))
    return pd.concat(parts, ignore_index=True)


def local_knockouts(
    effects: xr.Dataset, pairs: Pairs = None, kinds: Sequence[str] = KNOCKOUTS
) -> pd.DataFrame:
    """Knock-out ratios of every sequence.

    Parameters
    ----------
    effects, pairs, kinds
        As in `knockout_effects`.

    Returns
    -------
    pd.DataFrame
        ``exposure, outcome, sequence_id``, the columns ``knockout...`` and ``n_edits``, one row a
        pair and sequence with an edit. W is of the jackknife over the edits of the sequence.
    """
    parts = []
    for exposure, outcomes in _by_exposure(effects, pairs).items():
        table, x, y = _edits_of(effects, exposure, outcomes, kinds)
        known = ~np.isnan(x).any(0)
        group, ids = pd.factorize(table["sequence_id"][known])
        edits = np.arange(known.sum())
        found = _ratios(x[:, known], y[:, known], edits, group, len(ids))
        for j, outcome in enumerate(outcomes):
            frame = {"exposure": exposure, "outcome": outcome, "sequence_id": ids}
            frame |= {name: value[:, j] for name, value in found.items()}
            parts.append(pd.DataFrame(frame | {"n_edits": np.bincount(group, minlength=len(ids))}))
    return pd.concat(parts, ignore_index=True)


def response_curve(effects: xr.Dataset, exposure: str, outcome: str) -> pd.DataFrame:
    """How the ratio changes from a single substitution to the loss of the site.

    Parameters
    ----------
    effects : xr.Dataset
        Of `deepmr_utils.edits.edit_effects`, with edits of the kind "partial".
    exposure, outcome : str

    Returns
    -------
    pd.DataFrame
        One row a number of changed ``bases``: ``exposure_change`` and ``outcome_change``, the mean
        changes; ``share`` of the exposure's mean change by the most bases; the columns
        ``knockout...`` of `knockout_effects`, of these edits alone; ``k`` sequences. Rows go by
        what was done, not by what the model answers, whose errors would choose the rows.
    """
    ((exposure, outcomes),) = _by_exposure(effects, [(exposure, outcome)]).items()
    table, x, y = _edits_of(effects, exposure, outcomes, ["partial"])
    known = ~np.isnan(x).any(0)
    if not known.any():
        raise ValueError(
            f"a curve needs edits of the kind 'partial' of sites of {exposure}; got "
            f"{', '.join(np.unique(effects['kind'].to_numpy()))}: draw them with site_edits"
        )
    texts = table.loc[known, ["reference", "replacement"]].to_numpy()
    changed = np.array([sum(a != b for a, b in zip(*pair, strict=True)) for pair in texts])
    x, y, ids = x[:, known], y[:, known], table["sequence_id"].to_numpy()[known]
    bases, group = np.unique(changed, return_inverse=True)
    unit, keys = pd.factorize(pd.MultiIndex.from_arrays([group, ids]))
    of_unit = keys.get_level_values(0).to_numpy()
    found = _ratios(x, y, unit, of_unit, len(bases))
    edits = np.bincount(group)
    mean_x, mean_y = (np.bincount(group, v.mean(0)) / edits for v in (x, y[:, :, 0]))
    return pd.DataFrame(
        {
            "exposure": exposure, "outcome": outcome, "bases": bases, "exposure_change": mean_x,
            "outcome_change": mean_y, "share": mean_x / mean_x[-1],
        }
        | {name: value[:, 0] for name, value in found.items()}
        | {"k": np.bincount(of_unit)}
    )  # fmt: skip


def _by_exposure(effects: xr.Dataset, pairs: Pairs) -> dict[str, list[str]]:
    """Outcomes of every exposure."""
    if "edit" not in effects.dims or "member_effect" not in effects:
        raise ValueError(
            "knock-outs are of the effects of edits, edits.edit_effects; got the dimensions "
            f"{', '.join(map(str, effects.dims))}"
        )
    names = effects["feature"].to_numpy().tolist()
    if pairs is None:
        return {a: [b for b in names if b != a] for a in names if len(names) > 1}
    found: dict[str, list[str]] = {}
    for pair in pairs:
        exposure, outcome = check_names("feature of a pair", pair, names)
        found.setdefault(exposure, []).append(outcome)
    return found


def _edits_of(
    effects: xr.Dataset, exposure: str, outcomes: list[str], kinds: Sequence[str]
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Edits of an exposure's sites, and what they change: (M, E) and (M, E, K)."""
    there = set(effects["kind"].to_numpy().tolist())
    kinds = check_names("kind", kinds, sorted({*KNOCKOUTS, "partial", *there}))
    own = (effects["factor"] == exposure) & effects["kind"].isin(kinds)
    used = effects.isel(edit=np.flatnonzero(own.to_numpy()))
    names = ["sequence_id", "reference", "replacement"]
    table = pd.DataFrame({name: used[name].to_numpy() for name in names})
    change = used["member_effect"].transpose("member", "edit", "feature").astype(np.float64)
    x, y = (change.sel(feature=name).to_numpy() for name in (exposure, outcomes))
    return table, x, y


def _products(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Mean products of x (M, E, 1) and y (M, E, K): of all members, then without each of them.

    From 3 members on the products are those of different members.
    """
    members, corrected = len(x), len(x) > 2
    sums = x.sum(0), y.sum(0), (x * y).sum(0) if corrected else 0
    nothing = np.zeros_like(x[0])
    for m in range(-1, members if members > 1 else 0):
        # at -1 of all members, then without member m
        one, other = (nothing, nothing) if m < 0 else (x[m], y[m])
        n = members - (m >= 0)
        whole = (sums[0] - one) * (sums[1] - other)
        yield (whole - (sums[2] - one * other)) / (n * (n - 1)) if corrected else whole / n**2


def _sums(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """Sums (n, K) of rows (E, K) by their group (E,)."""
    total = np.zeros((n, values.shape[1]))
    np.add.at(total, group, values)
    return total


def _ratios(
    x: np.ndarray, y: np.ndarray, unit: np.ndarray, group: np.ndarray, n: int
) -> dict[str, np.ndarray]:
    """Ratios (n, K) of changes x (M, E) and y (M, E, K), with their intervals.

    Edits belong to units (E,), which the jackknife leaves out, and units (U,) to groups.
    """
    members, x = len(x), x[:, :, None]
    each = [[_sums(part, unit, len(group)) for part in _products(x, v)] for v in (y, x)]
    groups = [[_sums(part, group, n) for part in parts] for parts in each]
    k = np.bincount(group, minlength=n)[:, None].astype(float)
    with np.errstate(all="ignore"):
        whole, *without = (np.where(b > 0, a / b, np.nan) for a, b in zip(*groups, strict=True))
        # without one unit
        rest = [total[0][group] - parts[0] for total, parts in zip(groups, each, strict=True)]
        jackknife = np.where(k > 1, (k - 1) / k, np.nan) * _sums(
            (rest[0] / rest[1] - whole[group]) ** 2, group, n
        )
        pseudo = [members * whole - (members - 1) * ratio for ratio in without]
    between = np.std(pseudo, 0, ddof=1) if pseudo else np.full_like(whole, np.nan)
    found = intervals(whole, np.sqrt(jackknife), between, members)
    status = np.select(
        [
            k == 0,
            np.isnan(whole) | (np.isnan(between) & (members > 1)),
            k < 2,
            np.full(k.shape, members == 2),
        ],
        [NO_EDIT, NO_CHANGE, ALONE, FEW_MEMBERS],
        found["total_status"],
    )
    values = {
        f"knockout_{name}": found[f"total_{name}"] for name in ("se", "ci_low", "ci_high", "p")
    }
    return {"knockout": whole} | values | {"knockout_status": status}
