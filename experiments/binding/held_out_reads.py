"""What reads of windows that no network was trained on say that it has not learned."""

from collections.abc import Sequence

import pandas as pd
import torch
import xarray as xr

from deepmr_utils.held_out import correct
from deepmr_utils.models.bpnet import BPNet
from deepmr_utils.regions import read_regions

from . import genome, one_genome, tracks
from .track_files import Specification


def corrected_knockouts(
    members: Sequence[BPNet], spec: Specification, parameters: genome.Parameters, *, seed: int = 0,
    device: str = "cpu",
) -> tuple[pd.DataFrame, xr.Dataset]:  # fmt: skip
    """Knock-outs in all validation and test windows, corrected by the reads that these have.

    The counts head predicts log(1 + reads), the mean of both strands, with the squared error: a
    Gaussian head. Gives the table of `deepmr_utils.held_out.correct`, beside ``knockout_truth``,
    and the edits of `.one_genome.knock_out`.
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
    sites = one_genome.factor_instances(windows)
    edits = one_genome.knock_out(members, windows, sites, parameters, seed=seed, device=device)
    table = correct(edits, predictions, labels, sites, head="gaussian")
    return table.merge(one_genome.true_knockouts(edits), on=one_genome.PAIR), edits
