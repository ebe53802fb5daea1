"""How much of a factor's response to its own site networks learn.

A causal effect is a ratio: how much a mutation moves the outcome, over how much it moves the
exposure. Networks that learn too little of the latter make every effect of that exposure too large,
also one that does not exist and of which they learned a trace. This trains the ensembles of stored
runs on demo genomes again, from their settings and seeds, and regresses what they say of all
substitutions in instances of a factor's own motif on how much these move the factor by the rules of
the genome, through the origin. 1 is all of the response. Of shuffled sites it takes the share of
the summed change, which `deepmr_utils.held_out.correct` estimates from reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepmr_utils import instruments
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

from ..study import Study, Unit, make_settings, table_units
from . import genome, knock_outs, one_genome, sources
from .one_genome import Settings
from .track_files import read_specification

WINDOWS = 150  # of the validation split, that are mutated


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    settings = make_settings(Settings, values)

    def rows(graph: str, number: int) -> pd.DataFrame:
        return responses(settings, graph, number, device)

    keys = [(graph, number) for number in range(values["runs"]) for graph in values["graphs"]]
    return table_units("own_responses", ["graph", "run"], keys, rows)


STUDY = Study(_units)


def responses(settings: Settings, graph: str, number: int, device: str = "cpu") -> pd.DataFrame:
    """Responses to substitutions in own motifs of one run's ensemble.

    Returns
    -------
    pd.DataFrame
        A row an ``exposure`` and ``feature``, after ``graph, run``: ``learned``, and ``true`` by
        the rules; where the feature is the exposure ``counts_r``, the correlation of its predicted
        with its observed log counts, and ``whole_site``, what networks learned of its response to
        shuffled sites.
    """
    settings = replace(settings, parameters=replace(settings.parameters, graph=graph))
    parameters = settings.parameters
    genome_seed, model_seed = one_genome.seeds(settings, graph, number)
    with TemporaryDirectory() as folder:
        spec = read_specification(genome.make_genome(folder, parameters, genome_seed).specification)
        windows = one_genome.read_windows(spec, parameters.length, WINDOWS)
        ensemble, quality = one_genome.train(spec, settings, model_seed, device=device)
    learned = saturation_mutagenesis(
        ensemble.members, one_hot(windows["sequence"].tolist()),
        sequence_ids=windows["sequence_id"], device=device,
    )  # fmt: skip
    true = sources.perfect_effects(parameters, windows)
    instances = knock_outs.factor_instances(windows)
    allowed = instruments.eligible(true, "motif", instances)
    edits = knock_outs.knock_out(
        ensemble.members, windows, instances, parameters, seed=model_seed, device=device
    )
    quality = quality.set_index("task")
    rows = []
    for exposure in genome.FACTORS:
        inside = allowed.sel(feature=exposure) & np.isfinite(true["effect"].sel(feature=exposure))
        moved = true["effect"].sel(feature=exposure).where(inside, 0.0)
        for feature in genome.FACTORS:
            slopes = [
                float((table["effect"].sel(feature=feature).where(inside, 0.0) * moved).sum())
                / float((moved**2).sum())
                for table in (learned, true)
            ]
            own = [np.nan, np.nan]
            if feature == exposure:
                own = [quality.loc[feature, "pearson"], _whole_sites(edits, exposure)]
            rows.append([graph, number, exposure, feature, *slopes, *own])
    columns = ["graph", "run", "exposure", "feature", "learned", "true", "counts_r", "whole_site"]
    return pd.DataFrame(rows, columns=columns).round(4)


def _whole_sites(edits: xr.Dataset, factor: str) -> float:
    """Summed change of a factor by shuffled sites of its own, predicted over true."""
    own = edits.sel(feature=factor).isel(edit=np.flatnonzero(edits["factor"] == factor))
    return float(own["effect"].sum() / own["true_effect"].sum())
