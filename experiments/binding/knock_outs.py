"""Knock-outs of factors' sites: by networks, by the genome's rules, and corrected by reads."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr

from deepmr_utils import motifs
from deepmr_utils.edits import edit_effects, site_edits
from deepmr_utils.held_out import correct
from deepmr_utils.intervals import PAIR
from deepmr_utils.models.bpnet import BPNet
from deepmr_utils.regions import read_regions
from deepmr_utils.sequences import one_hot

from . import genome, tracks
from .track_files import Specification

N_DRAWS = 3  # of shuffled bases for each site


def factor_motifs() -> dict[str, motifs.Motif]:
    """The motifs of Oct4, Sox2, Nanog and Klf4."""
    return {name: motifs.get_motif(genome.MOTIFS[name]) for name in genome.FACTORS}


def factor_instances(windows: pd.DataFrame) -> pd.DataFrame:
    """Instances of the motifs of Oct4, Sox2, Nanog and Klf4, see `motifs.find_instances`."""
    x = one_hot(windows["sequence"].tolist())
    return motifs.find_instances(x, windows["sequence_id"].tolist(), factor_motifs())


def knock_out(
    members: Sequence[torch.nn.Module], windows: pd.DataFrame, instances: pd.DataFrame,
    parameters: genome.Parameters | None = None, *, seed: int = 0, device: str = "cpu",
) -> xr.Dataset:  # fmt: skip
    """Effects of shuffled sites: `deepmr_utils.edits.edit_effects` of `N_DRAWS` a site.

    Parameters
    ----------
    members : sequence of nn.Module
    windows : pd.DataFrame
        ``sequence_id, sequence``.
    instances : pd.DataFrame
        Of `factor_instances`.
    parameters : genome.Parameters, optional
        Of the genome; what the edits do by its rules is then there as ``true_effect``.
    seed : int
    device : str
    """
    x, ids = one_hot(windows["sequence"].tolist()), windows["sequence_id"].tolist()
    edits = site_edits(x, ids, instances, factor_motifs(), n_draws=N_DRAWS, seed=seed)
    effects = edit_effects(members, x, edits, sequence_ids=ids, device=device)
    if parameters is not None:
        rules, x = [genome.Oracle(parameters)], x.double()
        exact = edit_effects(rules, x, edits, sequence_ids=ids, device=device)
        effects = effects.assign(true_effect=exact["effect"])
    return effects


def true_knockouts(edits: xr.Dataset) -> pd.DataFrame:
    """``exposure, outcome, knockout_truth``: the ratio ``sum(x y) / sum(x^2)`` of true changes."""
    change = edits["true_effect"].transpose("edit", "feature")
    names, rows = change["feature"].to_numpy().tolist(), []
    for exposure in np.unique(edits["factor"].to_numpy()):
        own = change.isel(edit=np.flatnonzero(edits["factor"] == exposure))
        x = own.sel(feature=exposure)
        ratios = ((own * x).sum("edit") / (x**2).sum("edit")).to_numpy()
        rows += [(exposure, y, r) for y, r in zip(names, ratios, strict=True) if y != exposure]
    return pd.DataFrame(rows, columns=[*PAIR, "knockout_truth"])


def corrected_knockouts(
    members: Sequence[BPNet], spec: Specification, parameters: genome.Parameters, *, seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """Knock-outs in all validation and test windows, corrected by the reads that these have.

    The counts head predicts log(1 + reads), the mean of both strands, with the squared error: a
    Gaussian head. Gives the table of `deepmr_utils.held_out.correct`, beside ``knockout_truth``.
    """
    places = [tracks.peak_windows(spec, s, length=parameters.length) for s in tracks.SPLITS]
    held = [tracks.hold(spec, part) for part in places]
    windows = pd.concat(places, ignore_index=True).rename(columns={"sequence_id": "name"})
    windows = read_regions(windows, spec.fasta)
    ids, x = windows["sequence_id"].tolist(), torch.cat([part.one_hot for part in held])
    with torch.inference_mode():
        values = [torch.cat([m(part) for part in x.split(256)]).numpy() for m in members]
    dims, coordinates = ("member", "sequence", "feature"), {"sequence": ids}
    predictions = xr.DataArray(values, coordinates | {"feature": list(genome.FACTORS)}, dims)
    reads = torch.cat([part.reads for part in held]).sum(-1).log1p().mean(2).numpy()
    labels = pd.DataFrame(reads, ids, genome.FACTORS)
    sites = factor_instances(windows)
    edits = knock_out(members, windows, sites, parameters, seed=seed, device=device)
    table = correct(edits, predictions, labels, sites, head="gaussian")
    return table.merge(true_knockouts(edits), on=PAIR)
