"""The demo that the library ships for its report: five networks, windows, labels and the truth.

``python -m experiments.binding.shipped_demo FOLDER WEIGHTS`` writes it. Weights, as
`.one_genome.save_members` writes them, are those of run 0 of the world "default" of
``book/parameters/verdicts.yml``; where there is no such file, they are trained, in minutes.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from deepmr_utils.pairs import PAIR

from . import genome, knock_outs, one_genome, tracks
from .track_files import read_specification

SETTINGS = one_genome.Settings(filters=16, resample=True)
GRAPH, RUN, N_WINDOWS = "default", 0, 48


def write(folder: Path, weights: Path) -> None:
    """Write ``weights.pt``, ``windows.csv`` and ``truth.csv``.

    The windows are a sample of the validation windows, on chromosomes that no member was trained
    on; labels are log(1 + reads), the mean of both strands. The truth of a pair is the mean, over
    these windows, of the slope of the genome's own rules, and their answer to shuffled sites.
    """
    p = SETTINGS.parameters
    seed, model_seed = one_genome.seeds(SETTINGS, GRAPH, RUN)
    with TemporaryDirectory() as made:
        demo = genome.make_genome(made, p, seed)
        spec = read_specification(demo.specification)
        windows = one_genome.read_windows(spec, p.length, N_WINDOWS)
        places = tracks.peak_windows(spec, "validation", length=p.length)
        kept = places["sequence_id"].isin(windows["sequence_id"])
        reads = tracks.hold(spec, places[kept]).reads
        if not weights.exists():
            (members, _), _ = one_genome.train(spec, SETTINGS, model_seed)
            one_genome.save_members(weights, members, SETTINGS)
    members = one_genome.load_members(weights)
    labels = pd.DataFrame(reads.sum(-1).log1p().mean(2).numpy(), columns=genome.FACTORS)
    table = windows[["sequence_id", "sequence"]].reset_index(drop=True).join(labels.round(3))
    slopes = genome.true_effects(windows, demo.sites, p).groupby(PAIR, sort=False)["total"].mean()
    instances = knock_outs.factor_instances(windows)
    edits = knock_outs.knock_out(members, windows, instances, p, seed=model_seed)
    truth = slopes.rename("truth").reset_index().merge(knock_outs.true_knockouts(edits), on=PAIR)
    folder.mkdir(parents=True, exist_ok=True)
    states = [member.state_dict() for member in members]
    torch.save({"filters": SETTINGS.filters, "layers": SETTINGS.layers, "members": states},
               folder / "weights.pt")  # fmt: skip
    table.to_csv(folder / "windows.csv", index=False)
    truth.round(4).to_csv(folder / "truth.csv", index=False)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
