"""What the loss of sites does by the simulation's own rules, and which rule it does it by."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn

from deepmr_utils.edits import edit_effects

from .parameters import FEATURES, Parameters, Rates
from .simulation import mean_anscombe, occupancies

HIDDEN = "confounder"
MOVED = 0.05  # of the confounder's occupancy
LEARNED = 0.2  # of changes of the outcome's own occupancy, in ``under``


class Occupancies(nn.Module):
    """A model (N, 4, L) to (N, K) that gives the occupancy of each motif at work."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self.simulation, self.feature_names = parameters, list(parameters.motifs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Occupancies, in the order of ``feature_names``."""
        q = occupancies(x, self.simulation)
        return torch.stack([q[name] for name in self.feature_names], 1)


def true_knockouts(
    x: torch.Tensor, ids: Sequence[str], edits: pd.DataFrame, parameters: Parameters, rates: Rates
) -> pd.DataFrame:
    """Knock-out ratios of exposure and outcome, both ways, with a perfect model.

    Parameters
    ----------
    x : tensor (N, 4, L)
    ids : sequence of str (N,)
    edits : pd.DataFrame
        Of `deepmr_utils.edits.site_edits`, for a scenario without GC bias.
    parameters : Parameters
    rates : Rates

    Returns
    -------
    pd.DataFrame
        ``exposure, outcome`` and ratios ``sum(x y) / sum(x^2)``: ``all``; ``held``, where the
        confounder's occupancy stays what it was; ``under``, by a model that is perfect but for the
        outcome's own sites, of whose loss it sees `LEARNED`. ``moving`` is the share of edits that
        move the confounder's occupancy by more than `MOVED`, ``made`` the share of these that raise
        it: by the bases that take the place of the site.
    """
    effects = edit_effects([Occupancies(parameters)], x.double(), edits, sequence_ids=ids)
    effects = effects.isel(edit=np.flatnonzero(effects["effect"].notnull().all("feature")))
    before = effects["reference_prediction"].sel(sequence=effects["sequence_id"])
    before, moved = (v.transpose("edit", "feature") for v in (before, effects["effect"]))
    hidden, own = moved["feature"] == HIDDEN, moved["feature"] == FEATURES[1]
    found = {"all": moved, "held": moved.where(~hidden, 0.0)}
    found["under"] = moved.where(~own, LEARNED * moved)
    change = {name: _changes(before, by, parameters, rates) for name, by in found.items()}
    by_hidden = moved.where(hidden, 0.0).sum("feature").to_numpy()
    rows = []
    for role, other in (FEATURES, FEATURES[::-1]):
        own = effects["factor"].to_numpy() == role
        row = {"exposure": role, "outcome": other}
        for name, values in change.items():
            lost, answer = (values[own, list(FEATURES).index(k)] for k in (role, other))
            row[name] = float(lost @ answer / (lost @ lost))
        moving = by_hidden[own & (np.abs(by_hidden) > MOVED)]
        made = (moving > 0).mean() if len(moving) else np.nan
        rows.append(row | {"moving": len(moving) / own.sum(), "made": made})
    return pd.DataFrame(rows)


def _changes(
    before: xr.DataArray, moved: xr.DataArray, parameters: Parameters, rates: Rates
) -> np.ndarray:
    """Changes (E, 2) of the expected features, from occupancies before and their changes."""
    names = before["feature"].to_numpy().tolist()
    states = [torch.from_numpy(np.array(v)) for v in (before, before + moved.to_numpy())]
    old, new = (
        mean_anscombe(dict(zip(names, q.T, strict=True)), rates, parameters.p_batch) for q in states
    )
    return (new - old).numpy()
