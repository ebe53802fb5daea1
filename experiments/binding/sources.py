"""Where the networks of the BPNet experiment come from: the demo, the published file, a user's."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor, nn

from deepmr_utils._checks import check_choice
from deepmr_utils.models.bpnet import BPNet, load_bpnet_oskn
from deepmr_utils.models.downloads import fetch
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

from .. import DATA
from . import genome, knock_outs, one_genome, track_files

SOURCES = ("demo", "published", "path")


class Source(NamedTuple):
    """Networks and data: members, specification of the files, and for the demo what was planted."""

    members: list[BPNet]
    spec: track_files.Specification
    parameters: genome.Parameters | None
    sites: pd.DataFrame | None


def open_source(
    source: str, folder: str | Path, *, weights: str | Path | None = None,
    specification: str | Path | None = None, parameters: genome.Parameters | None = None,
    seed: int = one_genome.SHIPPED_SEED,
) -> Source:  # fmt: skip
    """Networks and data of one source.

    Parameters
    ----------
    source : {"demo", "published", "path"}
        ``"demo"``: the shipped ensemble, or the one in ``weights``, on the genome of ``parameters``
        and ``seed``. ``"published"``: the network of Avsec et al. (2021), downloaded unless
        ``weights`` says where it is. ``"path"``: an ensemble that
        `experiments.binding.one_genome.save_members` wrote.
    folder : path
        Where the demo genome is written; it serves where no ``specification`` is given.
    weights : path, optional
    specification : path, optional
        Of your own genome and reads, see `experiments.binding.track_files`.
    parameters : genome.Parameters, optional
    seed : int

    Raises
    ------
    ValueError
        If the source is unknown or "path" comes without weights and specification, and as the
        readers of the files.
    """
    check_choice("source", source, SOURCES)
    if source == "path" and (weights is None or specification is None):
        raise ValueError("source 'path' needs weights and a specification of the data")
    if source == "published":
        members = [load_bpnet_oskn(weights or fetch("bpnet.model.h5"))]
    else:
        members = one_genome.load_members(weights)
    if specification is not None:
        return Source(members, track_files.read_specification(specification), None, None)
    parameters = parameters or one_genome.SHIPPED.parameters
    demo = genome.make_genome(folder, parameters, seed)
    spec = track_files.read_specification(demo.specification)
    known = parameters if source == "demo" else None  # a real network never saw the planted graph
    return Source(members, spec, known, demo.sites)


def mutate(members: list[BPNet], windows: pd.DataFrame, *, progress: bool = False) -> xr.Dataset:
    """Variant effects of windows by every member; by both strands of a model that is alone.

    Parameters
    ----------
    members : list of BPNet
    windows : pd.DataFrame
        ``sequence_id, sequence``.
    progress : bool

    Returns
    -------
    xr.Dataset
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` gives them, with ``member_effect``;
        ``attrs["doubt"]`` says what members are: "members", or "strands".

    Notes
    -----
    Reads of both strands are averaged, so that a sequence and its reverse complement should be
    predicted alike; a network that was trained on both learns that only nearly. One model's two
    readings differ by part of its error. What a model trained anew would say differently, which is
    the larger part, they do not show.
    """
    alone = len(members) == 1
    effects = saturation_mutagenesis(
        members, one_hot(windows["sequence"].tolist()), sequence_ids=windows["sequence_id"],
        strands="members" if alone else "forward", keep_members=True, progress=progress,
        device="cpu",
    )  # fmt: skip
    return effects.assign_attrs(doubt="strands" if alone else "members")


class OtherStrand(nn.Module):
    """A network that reads the reverse complement."""

    def __init__(self, network: BPNet) -> None:
        super().__init__()
        self.network, self.feature_names = network, network.feature_names

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives for the other strand of x (N, 4, L)."""
        return self.network(x.flip(1, 2))


def knock_out(
    members: list[BPNet], windows: pd.DataFrame, instances: pd.DataFrame,
    parameters: genome.Parameters | None = None, *, seed: int = 0,
) -> xr.Dataset:  # fmt: skip
    """As `experiments.binding.knock_outs.knock_out`; by both strands of a model that is alone."""
    if len(members) == 1:
        members = [members[0], OtherStrand(members[0])]
    return knock_outs.knock_out(members, windows, instances, parameters, seed=seed)


def perfect_effects(
    parameters: genome.Parameters, windows: pd.DataFrame, error: float = 0.01
) -> xr.Dataset:
    """Variant effects by the demo genome's own rules, in place of networks.

    Parameters
    ----------
    parameters : genome.Parameters
    windows : pd.DataFrame
        ``sequence_id, sequence``.
    error : float
        Their standard error, the same for all: rules make none, but estimators ask for one.

    Returns
    -------
    xr.Dataset
        ``effect`` and ``se``; what an analysis makes of them is wrong only by its own fault.
    """
    x = one_hot(windows["sequence"].tolist())
    effects = saturation_mutagenesis(
        genome.Oracle(parameters), x, sequence_ids=windows["sequence_id"], propagate=False,
        device="cpu",
    )  # fmt: skip
    return effects.assign(se=xr.where(np.isfinite(effects["effect"]), error, np.nan))


def published_effects() -> pd.DataFrame:
    """Published global effects by pair and bin of distance; columns in ``data/README.md``."""
    table = pd.read_csv(DATA / "published_bpnet_motif_spacing.csv")
    return table.rename(columns={"ce": "effect", "motif_distance_bp": "bin"})
