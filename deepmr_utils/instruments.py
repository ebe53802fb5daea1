"""From variant effects to instruments: which substitutions inform a pair of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._checks import check_choice, check_columns, check_number
from .sequences import ALPHABET

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["eligible", "select_instruments"]

RULES = ("pooled", "wald")
SOURCES = ("motif", "strongest", "all")
SE_FLOOR_QUANTILE = 0.01


def select_instruments(
    effects: xr.Dataset, exposure: str, outcome: str, rule: str = "pooled", threshold: float = 1.0
) -> pd.DataFrame:
    """Keep the substitutions that are associated with the exposure.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    exposure, outcome : str
        Two different features of ``effects``.
    rule : {"pooled", "wald"}
        ``"pooled"`` (the paper's): exposure effects are standardised by the mean and sd (ddof 0) of
        all valid substitutions of all sequences, and those with ``|z| >= threshold`` are kept.
        ``"wald"``: those with ``|effect| / se >= threshold``.
    threshold : float
        The paper uses 1 in the simulation and 3 for BPNet.

    Returns
    -------
    pd.DataFrame
        One row an instrument: ``sequence_id`` (a Categorical over all analysed sequences, in their
        order), ``position`` (0-based), ``reference``, ``alternate``, ``beta_exposure``,
        ``se_exposure``, ``beta_outcome``, ``se_outcome``. ``attrs["counts"]`` says how many
        substitutions there were, how many were kept, and why the others were not;
        ``attrs["exposure"]`` and ``attrs["outcome"]`` name the features.

    Notes
    -----
    Reference alleles and unknown bases are no substitutions. A substitution that moves no member's
    exposure (se exactly 0) is no instrument. Where only the outcome's se is 0, dropping it would
    bias the estimate away from 0; its se is set to the 1 % quantile of the positive outcome
    standard errors.
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
    order = ("feature", "sequence", "position", "allele")
    (x, y), (se_x, se_y) = (
        effects[name].isel(feature=pair).transpose(*order).to_numpy().astype(np.float64)
        for name in ("effect", "se")
    )
    valid = np.isfinite(x) & np.isfinite(y)
    if valid.any() and np.isnan(se_x[valid]).all():
        raise ValueError(
            "effects of a single member have no standard errors, which instruments need: use an "
            "ensemble or MC-dropout"
        )

    frozen = valid & (se_x == 0)
    usable = valid & ~frozen
    if rule == "pooled":
        spread = x[valid].std() if valid.any() else np.nan
        strength = np.abs(x - x[valid].mean()) / spread if spread > 0 else np.zeros(x.shape)
    else:
        strength = np.abs(x) / np.where(usable, se_x, np.nan)
    kept = usable & (np.nan_to_num(strength) >= threshold)

    sequence, position, allele = np.nonzero(kept)
    se_outcome = se_y[kept]
    floored = se_outcome == 0
    if floored.any():
        positive = se_y[usable & (se_y > 0)]
        if not len(positive):
            raise ValueError(
                f"no substitution moves the outcome {outcome!r}: its se is 0 everywhere"
            )
        se_outcome[floored] = np.quantile(positive, SE_FLOOR_QUANTILE)
    reference = effects["reference"].transpose("sequence", "position").to_numpy()
    table = pd.DataFrame({
        "sequence_id": pd.Categorical.from_codes(sequence, effects["sequence"].to_numpy()),
        "position": effects["position"].to_numpy()[position],
        "reference": reference[sequence, position],
        "alternate": np.array(list(ALPHABET))[allele],
        "beta_exposure": x[kept],
        "se_exposure": se_x[kept],
        "beta_outcome": y[kept],
        "se_outcome": se_outcome,
    })  # fmt: skip
    table.attrs = {
        "exposure": exposure, "outcome": outcome, "rule": rule, "threshold": threshold,
        "counts": {
            "substitutions": int(valid.sum()), "kept": len(table),
            "weak": int((usable & ~kept).sum()), "exposure se 0": int(frozen.sum()),
            "outcome se floored": int(floored.sum()),
        },
    }  # fmt: skip
    return table


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
    import xarray as xr  # tables of instruments do without

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


def places(effects: xr.Dataset, instruments: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Indices (sequence, position, allele) of instruments in the effects they were selected from.

    Raises
    ------
    ValueError
        If they are from others.
    """
    ids = instruments["sequence_id"].cat
    found = (
        effects.indexes["sequence"].get_indexer(ids.categories)[ids.codes],
        effects.indexes["position"].get_indexer(instruments["position"]),
        effects.indexes["allele"].get_indexer(instruments["alternate"]),
    )
    if min(index.min(initial=0) for index in found) < 0:
        raise ValueError("instruments are not from these effects: select them from the same ones")
    return found
