"""MTSplice (Cheng et al., 2021): tissue-specific splicing of an exon, with its trained weights."""

import hashlib
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import BSpline
from torch import nn

from ._published import checked, keras_file, refusal

DATA = Path(__file__).parents[1] / "data" / "mtsplice"
TISSUES = tuple((DATA / "tissues.txt").read_text(encoding="utf-8").splitlines())
INTRON, WINDOW = 300, 400  # bases of intron at either side of the exon; bases of each input
SHA256 = {
    "mtsplice_deep0.h5": "7f664348225cc2eaecd9b87bfc6b4903898c02a6a3a3f91cb1a4c7054db5bcdb",
    "mtsplice_deep1.h5": "9eac5c71e6424253eab74db1c13f2d65f642cdbddcb43565214f7f23674368db",
    "mtsplice_deep2.h5": "24795e68a4fe8ab22afc04e9bcfc81cbb2d6d3d6da956b1a40abae7fe1ed523a",
    "mtsplice_deep3.h5": "61ca46545f4e25fe2154a880240b0c8017896a5765cdc80919a27360f8623f21",
}
_NETWORK = "a deep network of MTSplice"
_WEIGHTS = {  # of layers of Keras, in the order of those of torch
    **dict.fromkeys(("Conv1D", "Dense"), ("kernel", "bias")),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "SplineWeight1D": ("kernel",),
}
# what shapes of weights do not tell
_SETTINGS = (
    *("batch_input_shape", "strides", "dilation_rate", "padding", "data_format", "activation"),
    *("spline_degree", "rate"),
)


class SplineWeight(nn.Module):
    """Multiply (N, 64, 400) by 1 + a cubic B-spline of the position, one a channel."""

    def __init__(self, n_bases: int = 10) -> None:
        super().__init__()
        low, high = -0.001 * (WINDOW - 1), 1.001 * (WINDOW - 1)
        step = (high - low) / (n_bases - 3)
        knots = np.linspace(low - 3 * step, high + 3 * step, n_bases + 4).astype(np.float32)
        basis = BSpline(knots.astype(np.float64), np.eye(n_bases), 3)(np.arange(WINDOW))
        self.register_buffer("basis", torch.tensor(basis.T, dtype=torch.float32), persistent=False)
        self.weight = nn.Parameter(torch.zeros(64, n_bases))

    def reset_parameters(self) -> None:
        """Begin without a preference for any position, as before training."""
        nn.init.zeros_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weighted x (N, 64, 400)."""
        return x * (1 + self.weight @ self.basis)


class Body(nn.Module):
    """Residual dilated convolutions over one window (N, 4, 400), averaged over it to (N, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(4, 64, 11, padding=5), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(64), nn.Conv1d(64, 64, 3, padding=d, dilation=d), nn.ReLU()
            )
            for d in (2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.spline = SplineWeight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over positions (N, 64)."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.spline(x).mean(-1)


class MTSplice(nn.Module):
    """One network: acceptor and donor window (N, 4, 400) to 56 tissues, on the logit scale."""

    feature_names = TISSUES

    def __init__(self) -> None:
        super().__init__()
        self.acceptor, self.donor = Body(), Body()
        self.head = nn.Sequential(
            nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ReLU(),
            nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, len(TISSUES)),
        )  # fmt: skip

    def forward(self, acceptor: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
        """Splicing in every tissue (N, 56)."""
        # the mean over both windows joined, which have one length: the mean of their means
        return self.head((self.acceptor(acceptor) + self.donor(donor)) / 2)


class WholeExon(nn.Module):
    """MTSplice on whole exons (N, 4, L), where L = 300 intron + exon + 300 intron, to (N, 56).

    Notes
    -----
    The first 400 bases are the acceptor window, the last 400 the donor window. In an exon shorter
    than 200 bp the windows overlap: a base in the overlap is one base, and its substitution is seen
    in both. In a longer one the bases between the windows are not seen at all.
    """

    feature_names = TISSUES

    def __init__(self, network: MTSplice) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Splicing in every tissue (N, 56)."""
        if x.shape[-1] <= 2 * INTRON:
            raise ValueError(
                f"MTSplice takes an exon with {INTRON} bases of intron at either side, more than "
                f"{2 * INTRON} bases; got {x.shape[-1]}"
            )
        return self.network(x[..., :WINDOW], x[..., -WINDOW:])


def load_mtsplice(path: str | Path) -> MTSplice:
    """Read a network from a file of Keras 2, without Keras.

    Parameters
    ----------
    path : str or Path
        One of the four "deep" files of the package mmsplice, such as ``mtsplice_deep0.h5``, or a
        network of this architecture saved again, or trained anew.

    Returns
    -------
    MTSplice
        In evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not HDF5, is cut short, or holds another architecture.
    """
    network = MTSplice().eval()
    pairs = zip(_leaves(network.acceptor), _leaves(network.donor), strict=True)
    modules = [*(module for pair in pairs for module in pair), *_leaves(network.head)]
    with keras_file(path) as (file, layers):
        _check_graph(path, layers)
        held = [layer for layer in layers if _class(layer) in _WEIGHTS]
        for module, layer in zip(modules, held, strict=True):
            if isinstance(module, nn.BatchNorm1d):
                module.eps = layer["config"]["epsilon"]
            group = file["model_weights"][layer["name"]]
            names = group.attrs["weight_names"].astype(str).tolist()
            expected = _WEIGHTS[_class(layer)]
            if [name.rpartition("/")[2] for name in names] != [f"{kind}:0" for kind in expected]:
                what = f"layer {layer['name']} has weights {names}; expected {expected}"
                raise refusal(path, _NETWORK, what)
            for target, name in zip(module.state_dict().values(), names, strict=False):
                # Keras stores arrays with axes reversed
                value = checked(path, _NETWORK, name, group[name], tuple(target.shape)[::-1])
                target.copy_(value.permute(*range(value.ndim)[::-1]))
    return network


def _class(layer: dict[str, Any]) -> str:
    return layer["class_name"].rpartition(">")[2]  # a newer Keras puts a package before it


def _graph(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Class, inputs and settings of every layer; names are left out, since Keras numbers anew."""
    number = {layer["name"]: i for i, layer in enumerate(layers)}
    return [
        {
            "class": _class(layer),
            "inputs": [[number[source[0]] for source in node] for node in layer["inbound_nodes"]],
            **{key: layer["config"][key] for key in _SETTINGS if key in layer["config"]},
        }
        for layer in layers
    ]


def _check_graph(path: str | Path, layers: list[dict[str, Any]]) -> None:
    """Refuse another architecture than the shipped one, by the first layer that differs."""
    graph = _graph(layers)
    with keras_file(DATA / "mtsplice_deep0.h5") as (_, shipped):
        expected_graph = _graph(shipped)
    for i, (got, expected) in enumerate(zip_longest(graph, expected_graph)):
        if got != expected:
            what = f"layer {i} is {got or 'missing'}; expected {expected or 'none'}"
            raise refusal(path, _NETWORK, what)


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Modules that hold weights, in the order in which they are used."""
    return [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]


def load_ensemble() -> list[WholeExon]:
    """Load the four networks shipped with the package, after comparing their checksums."""
    for name, expected in SHA256.items():
        found = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(
                f"{DATA / name} has SHA-256 {found}; {expected} was shipped: install it again"
            )
    return [WholeExon(load_mtsplice(DATA / name)) for name in SHA256]


class Exons(NamedTuple):
    """Exons, and what TensorFlow predicts for them."""

    table: pd.DataFrame
    predictions: np.ndarray


def example_exons() -> Exons:
    """Read twelve real human exons of 100 bp or more.

    Returns
    -------
    Exons
        ``table``: ``sequence_id``, ``assembly``, ``chrom``, ``start``, ``end`` (of the exon,
        1-based and inclusive), ``strand``, ``sequence`` (transcribed strand, 300 bp of intron
        at either side); ``predictions`` (4, 12, 56): what the shipped networks predict in
        TensorFlow 2.15.
    """
    return Exons(pd.read_csv(DATA / "exons.csv"), np.load(DATA / "predictions.npy"))
