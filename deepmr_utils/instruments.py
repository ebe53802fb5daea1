"""From variant effects to instruments: which substitutions inform a pair of features."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._checks import check_choice, check_columns, check_number
from .sequences import ALPHABET

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["eligible", "own_responses", "select_instruments"]

RULES = ("pooled", "wald")
DESIGNS = ("motif", "strongest", "all")
WALD_OF_ONE = (
    "rule 'wald' needs standard errors, and effects of a single network have none: use an ensemble "
    "or MC-dropout, or the rule 'pooled'"
)
SE_FLOOR_QUANTILE = 0.01
SITE = 0.5  # share of its own response by which a feature moves where its site is damaged
SITE_POSITIONS = 3  # moved as much in a sequence: a site, rather than one that a mutation makes
APART = np.radians(30)  # between the means of two groups of directions, below which there is one
SITES = ("sequence", "position", "allele")


def select_instruments(
    effects: xr.Dataset, exposure: str, outcome: str, rule: str = "pooled", threshold: float = 1.0,
    *, allowed: xr.DataArray | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Keep the substitutions that are associated with the exposure.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`; or those of edits,
        see `deepmr_utils.edits.edit_effects`, each of which may be an instrument, too.
    exposure, outcome : str
        Two different features of ``effects``.
    rule : {"pooled", "wald"}
        ``"pooled"`` (the paper's): exposure effects are standardised by the mean and sd (ddof 0) of
        all valid substitutions of all sequences, and those with ``|z| >= threshold`` are kept.
        ``"wald"``: those with ``|effect| / sd >= threshold``, sd over members.
    threshold : float
        The paper uses 1 in the simulation and 3 for BPNet.
    allowed : xr.DataArray, optional
        Which substitutions may be instruments of which feature, of `eligible`; all by default.

    Returns
    -------
    pd.DataFrame
        One row an instrument: ``sequence_id`` (a Categorical over all analysed sequences, in their
        order), ``position`` (0-based), ``reference``, ``alternate``, then ``beta_``, ``sd_`` and
        ``se_`` of ``exposure`` and ``outcome``. ``sd_`` is the standard deviation over members,
        ``se_`` the standard error of the effect, their mean: ``sd / sqrt(M)``. Where effects by
        member are there, ``covariance`` is that of the errors of both effects: all members predict
        both, so that it is the covariance over members, divided by M. Of effects from elsewhere,
        ``sd_`` and ``se_`` are the standard errors that came with them. ``attrs["counts"]`` says
        how many substitutions there were, how many were kept, and why the others were not;
        ``attrs["exposure"]`` and ``attrs["outcome"]`` name the features.

    Notes
    -----
    Reference alleles and unknown bases are no substitutions. A substitution that moves no member's
    exposure (se exactly 0) is no instrument. Where only the outcome's se is 0, dropping it would
    bias the estimate away from 0; its se is set to the 1 % quantile of the positive outcome
    standard errors. A single network's effects have no standard errors: they are NaN.
    """
    names = effects["feature"].to_numpy().tolist()
    pair = [
        names.index(check_choice(role, name, names))
        for role, name in (("exposure", exposure), ("outcome", outcome))
    ]
    if exposure == outcome:
        raise ValueError(f"exposure and outcome must be two features; both are {exposure!r}")
    check_choice("rule", rule, RULES)
    check_number("threshold", threshold, low=0)
    sites = site_dimensions(effects)
    (x, y), (sd_x, sd_y) = (
        effects[name].isel(feature=pair).transpose("feature", *sites).to_numpy().astype(np.float64)
        for name in ("effect", "se")
    )
    valid = np.isfinite(x) & np.isfinite(y)
    unknown = valid.any() and np.isnan(sd_x[valid]).all()
    if unknown and rule == "wald":
        raise ValueError(WALD_OF_ONE)
    frozen = valid & (sd_x == 0)
    usable = valid & ~frozen
    if rule == "pooled":
        spread = x[valid].std() if valid.any() else np.nan
        strength = np.abs(x - x[valid].mean()) / spread if spread > 0 else np.zeros(x.shape)
    else:
        strength = np.abs(x) / np.where(usable, sd_x, np.nan)
    strong = usable & (np.nan_to_num(strength) >= threshold)
    if sites != SITES:
        strong &= ~_edit_keys(effects).duplicated().to_numpy()
    kept = strong
    if allowed is not None:
        kept = strong & allowed.sel(feature=exposure).transpose(*sites).to_numpy()

    sd_outcome = sd_y[kept]
    floored = sd_outcome == 0
    if floored.any():
        positive = sd_y[usable & (sd_y > 0)]
        if not len(positive):
            raise ValueError(
                f"no substitution moves the outcome {outcome!r}: its se is 0 everywhere"
            )
        sd_outcome[floored] = np.quantile(positive, SE_FLOOR_QUANTILE)
    members = effects.sizes.get("member", 0) or effects.attrs.get("n_members", 1)
    table = _identity(effects, np.nonzero(kept)).assign(
        beta_exposure=x[kept], sd_exposure=sd_x[kept], se_exposure=sd_x[kept] / members**0.5,
        beta_outcome=y[kept], sd_outcome=sd_outcome, se_outcome=sd_outcome / members**0.5,
    )  # fmt: skip
    if effects.sizes.get("member", 0) > 1:
        own = effects["member_effect"].isel(feature=pair).transpose("feature", "member", *sites)
        each = own.to_numpy()[..., kept].astype(np.float64)
        each = each - each.mean(1, keepdims=True)
        table["covariance"] = (each[0] * each[1]).sum(0) / (members - 1) / members
    table.attrs = {
        "exposure": exposure, "outcome": outcome, "rule": rule, "threshold": threshold,
        "counts": {
            "substitutions": int(valid.sum()), "kept": len(table),
            "weak": int((usable & ~strong).sum()), "not eligible": int((strong & ~kept).sum()),
            "exposure se 0": int(frozen.sum()), "outcome se floored": int(floored.sum()),
        },
    }  # fmt: skip
    return table


def site_dimensions(effects: xr.Dataset) -> tuple[str, ...]:
    """Dimensions that tell changes of sequences apart: those of substitutions, or "edit"."""
    return ("edit",) if "edit" in effects.dims else SITES


def _identity(effects: xr.Dataset, place: tuple[np.ndarray, ...]) -> pd.DataFrame:
    """What was changed at these places: sequence, position, reference and alternate bases."""
    if len(place) == 1:
        (edit,) = place
        ids = pd.Categorical(effects["sequence_id"].to_numpy()[edit], sequences_of(effects))
        start, reference, alternate = (
            effects[name].to_numpy()[edit] for name in ("start", "reference", "replacement")
        )
    else:
        sequence, position, allele = place
        ids = pd.Categorical.from_codes(sequence, effects["sequence"].to_numpy())
        start = effects["position"].to_numpy()[position]
        reference = effects["reference"].transpose("sequence", "position").to_numpy()
        reference = reference[sequence, position]
        alternate = np.array(list(ALPHABET))[allele]
    return pd.DataFrame(
        {"sequence_id": ids, "position": start, "reference": reference, "alternate": alternate}
    )


def _edit_keys(effects: xr.Dataset) -> pd.DataFrame:
    """What tells edits apart; draws may be alike."""
    names = ["sequence_id", "start", "replacement"]
    return pd.DataFrame({name: effects[name].to_numpy() for name in names})


def sequences_of(effects: xr.Dataset) -> list[str]:
    """Identifiers of the sequences of effects; of edits without any, those that were edited."""
    if "sequence" in effects.coords:
        return effects["sequence"].to_numpy().tolist()
    return pd.unique(effects["sequence_id"].to_numpy()).tolist()


def eligible(
    effects: xr.Dataset, design: str = "motif", instances: pd.DataFrame | None = None
) -> xr.DataArray:
    """Which substitution may be an instrument for which feature.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    design : {"motif", "strongest", "all"}
        ``"motif"``: those inside an instance of the feature's own motif, so that they act through
        it. ``"strongest"``: those that move every other feature less than its own, by borders that
        are learned from the effects: a Steiger filter against all others at once, for which no
        motif has to be known. ``"all"``: all, as published.
    instances : pd.DataFrame, optional
        ``sequence_id, factor, start, end`` as `deepmr_utils.motifs.find_instances` gives them;
        needed for "motif".

    Returns
    -------
    xr.DataArray, bool (sequence, position, allele, feature)

    Notes
    -----
    What "less" is, is learned pair by pair. If X acts on Y, whatever moves X moves Y in proportion:
    substitutions of X lie along a line that can be as steep as it likes, short of those that move Y
    alone. In the sequences that have a site of both, the directions ``atan2(|y| / own Y, |x| / own
    X)`` of all substitutions that damage one of them are split into two groups by 2-means; the
    border lies halfway between the groups' means (Otsu 1979, IEEE Trans Syst Man Cybern 9:62), or
    at 45 degrees where these are less than 30 apart. No unit of a feature matters.
    """
    import xarray as xr  # tables of instruments do without

    dims = (*site_dimensions(effects), "feature")
    values = effects["effect"].transpose(*dims)
    check_choice("design", design, DESIGNS)
    if design == "all":
        return xr.ones_like(values, dtype=bool)
    if design == "strongest":
        if dims[0] == "edit":
            raise ValueError(
                "design 'strongest' is for substitutions; edits have a factor: 'motif'"
            )
        moved = _strongest(values.transpose("feature", *SITES).to_numpy())
        return xr.DataArray(np.moveaxis(moved, 0, -1), values.coords, dims)
    features = effects.indexes["feature"]
    if dims[0] == "edit":  # an edit says whose site it changes
        return effects["factor"] == xr.DataArray(
            features, dims="feature", coords={"feature": features}
        )
    if instances is not None:
        check_columns(instances, ["sequence_id", "factor", "start", "end"], "motif instances")
    if instances is None or not set(features) <= set(instances["factor"]):
        held = [] if instances is None else sorted(instances["factor"].unique())
        raise ValueError(
            f"design 'motif' needs motif instances of every feature ({', '.join(features)}); got "
            f"those of {', '.join(held) or 'none'}: give instances, or use design 'strongest'"
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


def own_responses(effects: xr.Dataset, allowed: xr.DataArray) -> pd.Series:
    """How far a feature moves when a typical site of its own is damaged, to compare features by.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects.
    allowed : xr.DataArray
        Of `eligible`; of features that it does not have all substitutions count.

    Returns
    -------
    pd.Series, float64
        By feature: the median, over the sequences that have a site of the feature, of the largest
        move by its own substitutions. A sequence has a site where that is at least half of what
        makes up half of the total over sequences. NaN where nothing moves the feature.
    """
    sites = site_dimensions(effects)
    found, there = {}, set(allowed["feature"].to_numpy())
    for name in effects["feature"].to_numpy().tolist():
        values = effects["effect"].sel(feature=name).transpose(*sites).to_numpy()
        size = np.nan_to_num(np.abs(values.astype(np.float64)))
        if name in there:
            size = size * allowed.sel(feature=name).transpose(*sites).to_numpy()
        if sites == SITES:
            largest = size.max((1, 2))
        else:
            largest = pd.Series(size).groupby(effects["sequence_id"].to_numpy()).max().to_numpy()
        typical = _half_of_total(largest)
        found[name] = np.median(largest[largest >= SITE * typical]) if typical > 0 else np.nan
    return pd.Series(found, dtype=float)


def places(effects: xr.Dataset, instruments: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Indices, along `site_dimensions`, of instruments in the effects they were selected from.

    Raises
    ------
    ValueError
        If they are from others.
    """
    ids = instruments["sequence_id"].astype("category").cat
    if "edit" in effects.dims:
        there = pd.MultiIndex.from_frame(_edit_keys(effects))
        wanted = instruments[["sequence_id", "position", "alternate"]]
        wanted = pd.MultiIndex.from_frame(wanted.astype({"sequence_id": str}))
        first = np.flatnonzero(~there.duplicated())
        at = there[first].get_indexer(wanted)
        found = (np.where(at < 0, at, first[at]),)
    else:
        found = (
            effects.indexes["sequence"].get_indexer(ids.categories)[ids.codes],
            effects.indexes["position"].get_indexer(instruments["position"]),
            effects.indexes["allele"].get_indexer(instruments["alternate"]),
        )
    if min(index.min(initial=0) for index in found) < 0:
        raise ValueError("instruments are not from these effects: select them from the same ones")
    return found
