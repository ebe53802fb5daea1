"""How much of a factor's response to its own site networks learn.

A causal effect is a ratio: how much a mutation moves the outcome, over how much it moves the
exposure. Networks that learn too little of the latter make every effect of that exposure too large,
also one that does not exist and of which they learned a trace. This trains the ensembles of stored
runs on demo genomes again, from their settings and seeds, and regresses what they say of all
substitutions in instances of a factor's own motif on how much these move the factor by the rules of
the genome, through the origin. 1 is all of the response.

    OMP_NUM_THREADS=1 python benchmarks/own_responses.py [--runs 2] [--workers 2]

writes book/results/bpnet/own_responses.csv, a row a graph, run, exposure and feature: ``learned``,
and ``true`` by the rules; in rows of a feature that is the exposure, ``counts_r``, correlation of
its predicted with its observed log counts. About four minutes on one core for a run.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from deepmr_utils import analysis, instruments
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot
from experiments.binding import genome, genomes, one_genome, sources
from experiments.binding.track_files import read_specification

RESULTS = Path(__file__).parents[1] / "book" / "results"
TABLE = RESULTS / "bpnet" / "own_responses.csv"
WINDOWS = 150


def one_run(graph: str, number: int) -> pd.DataFrame:
    """Responses to substitutions in own motifs, learned and true, of one run's ensemble."""
    torch.set_num_threads(1)
    settings = genomes.read_settings(RESULTS / "bpnet" / "graphs")
    settings = replace(settings, parameters=replace(settings.parameters, graph=graph))
    parameters = settings.parameters
    genome_seed, model_seed = one_genome.seeds(settings, graph, number)
    with tempfile.TemporaryDirectory() as folder:
        spec = read_specification(genome.make_genome(folder, parameters, genome_seed).specification)
        windows = one_genome.read_windows(spec, parameters.length, WINDOWS)
        ensemble, quality = one_genome.train(spec, settings, model_seed)
    learned = saturation_mutagenesis(
        ensemble.members, one_hot(windows["sequence"].tolist()), sequence_ids=windows["sequence_id"]
    )
    true = sources.perfect_effects(parameters, windows)
    instances = one_genome.factor_instances(windows)
    allowed = instruments.eligible(true, analysis.CHAINS["motif"].source, instances)
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
            r = quality.loc[feature, "pearson"] if feature == exposure else np.nan
            rows.append([graph, number, exposure, feature, *slopes, r])
    columns = ["graph", "run", "exposure", "feature", "learned", "true", "counts_r"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """Train what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2, help="a graph (default 2)")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    jobs = [(g, number) for number in range(given.runs) for g in ("default", "reverse")]
    tables = joblib.Parallel(given.workers)(joblib.delayed(one_run)(*job) for job in jobs)
    table = pd.concat(tables).sort_values(["graph", "run"], kind="stable")
    table.round(4).to_csv(TABLE, index=False)
    mean = table.groupby(["graph", "exposure", "feature"])[["learned", "true", "counts_r"]].mean()
    print(mean.round(3).to_string())


if __name__ == "__main__":
    main()
