"""What the DeepSEA notebook analyses: the demo, published weights, or files of the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from deepmr_utils.models import downloads
from deepmr_utils.models.deepsea import load_deepsea
from deepmr_utils.predict import predict
from deepmr_utils.regions import read_fasta
from deepmr_utils.sequences import one_hot

from . import deepsea_features, one_draw, simulated

SOURCES = ("demo", "published", "path")


class Source(NamedTuple):
    """A network that gives logits, its features by name and column, and windows to analyse.

    ``bound`` holds, by factor, the identifiers of windows that it binds.
    """

    network: nn.Module
    features: Mapping[str, int]
    outcome: str
    windows: pd.DataFrame
    bound: Mapping[str, list[str]]


def check_labels(source: str, calibrated: bool) -> None:
    """Raise a ValueError where predictions are to be calibrated, but windows have no labels."""
    if calibrated and source != "demo":
        raise ValueError(f"calibration needs labels, which windows of source {source!r} lack")


def demo(n_windows: int, *, n_test: int = 1_000, seed: int = 1) -> Source:
    """The shipped network and test windows of simulated chromatin, bound by their labels."""
    windows = simulated.simulate(simulated.Parameters(), n_test, split="test", seed=seed)
    bound = one_draw.bound_windows(windows, simulated.FACTORS, n_windows)
    columns = {name: k for k, name in enumerate(simulated.FEATURES)}
    chosen = one_draw.choose(windows, bound)
    network = one_draw.load_network()
    return Source(network, columns, simulated.ACCESSIBILITY, chosen, bound)


def published(
    n_windows: int, sequences: str | Path, *, weights: str | Path | None = None,
    names: str | Path | None = None, cell: str = "HepG2", outcome: str = "DNase",
    factors: tuple[int, ...] = (),
) -> Source:  # fmt: skip
    """DeepSEA with published weights on windows of the user's own.

    Parameters
    ----------
    n_windows : int
        Windows a factor. The labels of DeepSEA's test set do not come with its weights: these are
        the windows in which the network predicts the factor's binding most surely.
    sequences : path
        FASTA of windows of 1,000 bases.
    weights, names : path, optional
        Downloaded where none is given, see `deepmr_utils.models.downloads.fetch`.
    cell, outcome : str
        As for `.deepsea_features.select_feature`; the outcome may be its index.
    factors : tuple of int
        Indices; all factors of the cell by default.
    """
    table = deepsea_features.read_features(names or downloads.fetch("predictor.names"))
    wanted = {"index": int(outcome)} if outcome.isdigit() else {"cell": cell, "target": outcome}
    target = deepsea_features.select_feature(table, **wanted)
    chosen = (
        deepsea_features.select_features(table, index=list(factors))
        if factors else deepsea_features.select_factors(table, cell)
    )  # fmt: skip
    chosen = chosen[chosen["index"] != target["index"]]
    path = weights or downloads.fetch("deepsea_variant_effects.pth", progress=True)
    network = load_deepsea(path, output="logit", both_strands=False)
    windows = read_fasta(sequences)
    columns = dict(zip(chosen["name"], chosen["index"].astype(int), strict=True))
    columns[target["name"]] = int(target["index"])
    x = one_hot(windows["sequence"].tolist())
    logits = predict(network, x, features=columns, device="cpu")[0]
    best = np.argsort(-logits, axis=0, kind="stable")[:n_windows]
    bound = {
        name: windows["sequence_id"].iloc[np.sort(best[:, k])].tolist()
        for k, name in enumerate(chosen["name"])
    }
    return Source(network, columns, target["name"], one_draw.choose(windows, bound), bound)
