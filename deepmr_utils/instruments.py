"""From variant effects to instruments: which substitutions inform a pair of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._checks import check_choice, check_number
from .sequences import ALPHABET

if TYPE_CHECKING:
    import xarray as xr

RULES = ("pooled", "wald")
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
