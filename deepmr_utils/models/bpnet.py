"""BPNet (Avsec et al., 2021): read profiles and counts of any number of factors from sequence."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from .._checks import distinct_names

OSKN = ("Oct4", "Sox2", "Nanog", "Klf4")  # tasks of the published network, in its order
_FILTERS, _WIDTH, _LAYERS, _STRANDS = 64, 25, 9, 2
_CONTROL_TRACKS = (
    4,
    2,
)  # of each task: two strands, as they are and smoothed; reads of two strands


class Control(NamedTuple):
    """Tracks of a control experiment: profile (N, T, C, L) and counts (N, T, B), or T = 1."""

    profile: Tensor
    counts: Tensor


class Outputs(NamedTuple):
    """Both heads: profile (N, T, S, L), logits; counts (N, T, S), log(1 + reads)."""

    profile: Tensor
    counts: Tensor

    @property
    def reads(self) -> Tensor:
        """Expected reads (N, T, S, L), as Kipoi gives them: ``exp(counts)`` is 1 + reads."""
        return self.profile.softmax(-1) * self.counts.exp()[..., None]


class BPNet(nn.Module):
    """Residual dilated convolutions, with a profile head and a counts head a task.

    Parameters
    ----------
    tasks : sequence of str (T,)
    filters : int
        Of every convolution.
    layers : int
        Residual convolutions of width 3 and dilations 2, 4, 8, ...
    width, profile_width : int
        Odd widths of the first convolution and of the profile head.
    strands : int
        Strands of a task (S); 1 for data without strands.
    control_tracks : tuple of int
        Control tracks of a task (C) and numbers beside them (B) that `heads` may take.

    Notes
    -----
    The profile head of the paper, a transposed convolution of stride 1, is a convolution with its
    kernel reversed, and is written so. Called on sequences alone, the network gives the feature of
    Deep MR: log(1 + reads) of every task, averaged over its strands.
    """

    def __init__(
        self,
        tasks: Sequence[str] = OSKN,
        *,
        filters: int = _FILTERS,
        layers: int = _LAYERS,
        width: int = _WIDTH,
        profile_width: int = _WIDTH,
        strands: int = _STRANDS,
        control_tracks: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        tasks = distinct_names("tasks", tasks)
        if width % 2 == 0 or profile_width % 2 == 0:
            raise ValueError(
                f"widths must be odd, so that outputs lie above their bases; got width {width}, "
                f"profile_width {profile_width}"
            )
        self.feature_names = tasks
        self.shape = (len(tasks), strands)
        self.first = nn.Sequential(nn.Conv1d(4, filters, width, padding=width // 2), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(filters, filters, 3, padding=d, dilation=d), nn.ReLU())
            for d in (2**i for i in range(1, layers + 1))
        )
        outputs = len(tasks) * strands
        self.profile = nn.Conv1d(filters, outputs, profile_width, padding=profile_width // 2)
        self.counts = nn.Linear(filters, outputs)
        self.control_profile = nn.Parameter(torch.zeros(len(tasks), control_tracks[0]))
        self.control_counts = nn.Parameter(torch.zeros(len(tasks), control_tracks[1]))

    def _body(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Log(1 + reads) of every task (N, T), mean of its strands, of one-hot x (N, 4, L)."""
        return self.counts(self._body(x).mean(-1)).view(-1, *self.shape).mean(2)

    def heads(self, x: Tensor, control: Control | None = None) -> Outputs:
        """Profile and counts of every strand.

        Parameters
        ----------
        x : Tensor (N, 4, L)
            One-hot sequences, A C G T.
        control : Control, optional
            Its tracks add to both heads, on all strands of a task; without it they are taken as 0.
        """
        x = self._body(x)
        profile = self.profile(x).unflatten(1, self.shape)
        counts = self.counts(x.mean(-1)).unflatten(1, self.shape)
        if control is not None:
            self._check(control, len(x), x.shape[-1])
            tracks = control.profile * self.control_profile[..., None]
            profile = profile + tracks.sum(2, keepdim=True)
            counts = counts + (control.counts * self.control_counts).sum(2, keepdim=True)
        return Outputs(profile, counts)

    def _check(self, control: Control, n: int, length: int) -> None:
        tracks, numbers = self.control_profile.shape[1], self.control_counts.shape[1]
        tails = {"profile": (tracks, length), "counts": (numbers,)}
        for (name, tail), got in zip(tails.items(), control, strict=True):
            shape = (n, self.shape[0], *tail)
            if got.shape not in (shape, (n, 1, *tail)):
                raise ValueError(
                    f"control.{name} must be {shape}, or 1 for the tasks; got {tuple(got.shape)}"
                )


def multinomial_nll(logits: Tensor, reads: Tensor) -> Tensor:
    """Negative log-likelihood of where reads lie, given how many there are.

    Parameters
    ----------
    logits, reads : Tensor (..., L)

    Returns
    -------
    Tensor (...)
    """
    if logits.shape != reads.shape:
        raise ValueError(
            f"reads must have the shape of the logits {tuple(logits.shape)}; "
            f"got {tuple(reads.shape)}"
        )
    ways = torch.lgamma(reads.sum(-1) + 1) - torch.lgamma(reads + 1).sum(-1)
    return -ways - (reads * logits.log_softmax(-1)).sum(-1)


def bpnet_loss(outputs: Outputs, reads: Tensor, counts_weight: float = 10.0) -> Tensor:
    """Profile loss plus weighted counts loss, summed over tasks, mean over sequences.

    Parameters
    ----------
    outputs : Outputs
        Of `BPNet.heads`.
    reads : Tensor (N, T, S, L)
    counts_weight : float
        10 in the paper.

    Notes
    -----
    As the authors train it: the multinomial loss is summed over strands, the squared error of
    log(1 + reads) averaged over them.
    """
    profile = multinomial_nll(outputs.profile, reads).sum((1, 2)).mean()
    error = outputs.counts - reads.sum(-1).log1p()
    return profile + counts_weight * error.square().mean((0, 2)).sum()


def load_bpnet_oskn(path: str | Path) -> BPNet:
    """Read the published network for Oct4, Sox2, Nanog and Klf4 from its Keras file.

    Parameters
    ----------
    path : str or Path
        ``bpnet.model.h5``, see `deepmr_utils.models.downloads.fetch`.

    Returns
    -------
    BPNet
        In evaluation mode. It takes control tracks (4, 2).

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not HDF5, is cut short, or holds another architecture.

    Notes
    -----
    Only arrays and the description of the layers are read; the code inside the file is not.
    """
    unreadable = (OSError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)
    layers = _layers()
    try:
        with h5py.File(path) as file:
            _check_graph(path, file, layers)
            values = {
                (name, kind): _array(path, file, f"model_weights/{name}/{name}/{kind}:0", shape)
                for name, layer in layers.items()
                for kind, shape in layer.arrays.items()
            }
    except FileNotFoundError:
        raise
    except (*unreadable, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole Keras model in HDF5, or is cut short: {error}. Get it again"
        ) from error

    def joined(layer: str, kind: str, numbers: range, dim: int = 0) -> Tensor:
        """An array of all tasks, side by side."""
        return torch.cat([values[f"{layer}_{n}", kind] for n in numbers], dim)

    network = BPNet(control_tracks=_CONTROL_TRACKS).eval()
    state = {}
    body = ["first.0", *(f"blocks.{i}.0" for i in range(_LAYERS))]
    for i, name in enumerate(body, start=1):  # Keras: (width, in, out)
        state[f"{name}.weight"] = values[f"conv1d_{i}", "kernel"].permute(2, 1, 0)
        state[f"{name}.bias"] = values[f"conv1d_{i}", "bias"]
    # the odd dense layers predict, the even ones take the control
    tasks, odd, even = range(1, 5), range(1, 9, 2), range(2, 9, 2)
    # (width, 1, out, in) of a transposed convolution, which is reversed
    kernel = joined("conv2d_transpose", "kernel", tasks, 2)[:, 0].flip(0)
    state["profile.weight"] = kernel.permute(1, 2, 0)
    state["profile.bias"] = joined("conv2d_transpose", "bias", tasks)
    state["counts.weight"] = joined("dense", "kernel", odd, 1).T
    state["counts.bias"] = joined("dense", "bias", odd)
    numbers = range(_LAYERS + 2, _LAYERS + 6)
    state["control_profile"] = joined("conv1d", "kernel", numbers)[..., 0]
    state["control_counts"] = joined("dense", "kernel", even, 1).T
    network.load_state_dict(state)
    return network


class _Layer(NamedTuple):
    """A layer of the file: what it takes, shapes of its arrays, settings that matter."""

    inputs: list[str]
    arrays: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    settings: Mapping[str, Any] = MappingProxyType({})


def _layers() -> dict[str, _Layer]:
    """Every layer between sequence and outputs, by name, in the layout of Keras."""

    def convolution(source: str, kernel: tuple[int, ...], dilation: int) -> _Layer:
        settings = {"padding": "same", "dilation_rate": [dilation], "activation": "relu"}
        return _Layer([source], {"kernel": kernel, "bias": kernel[2:]}, settings)

    before = "conv1d_1"
    layers = {before: convolution("seq", (_WIDTH, 4, _FILTERS), 1)}
    for i in range(1, _LAYERS + 1):
        layers[f"conv1d_{i + 1}"] = convolution(before, (3, _FILTERS, _FILTERS), 2**i)
        layers[f"add_{i}"] = _Layer([before, f"conv1d_{i + 1}"])
        before = f"add_{i}"
    linear = {"activation": "linear"}
    profile = {"kernel": (_WIDTH, 1, _STRANDS, _FILTERS), "bias": (_STRANDS,)}
    counts = {"kernel": (_FILTERS, _STRANDS), "bias": (_STRANDS,)}
    tracks, numbers = ({"kernel": shape} for shape in ((1, _CONTROL_TRACKS[0], 1), (2, 1)))
    for t, task in enumerate(OSKN, start=1):
        even, odd, control = 2 * t, 2 * t - 1, f"conv1d_{_LAYERS + 1 + t}"
        sums = [f"add_{_LAYERS + odd}", f"add_{_LAYERS + even}"]
        layers |= {
            f"reshape_{odd}": _Layer([before]),
            f"conv2d_transpose_{t}": _Layer(
                [f"reshape_{odd}"], profile, {"padding": "same"} | linear
            ),
            f"reshape_{even}": _Layer([f"conv2d_transpose_{t}"]),
            control: _Layer([f"bias/{task}/profile"], tracks, linear),
            sums[0]: _Layer([f"reshape_{even}", control]),
            f"{task}/profile": _Layer([sums[0]]),
            f"global_average_pooling1d_{t}": _Layer([before]),
            f"dense_{odd}": _Layer([f"global_average_pooling1d_{t}"], counts, linear),
            f"dense_{even}": _Layer([f"bias/{task}/counts"], numbers, linear),
            sums[1]: _Layer([f"dense_{odd}", f"dense_{even}"]),
            f"{task}/counts": _Layer([sums[1]]),
        }
    return layers


def _check_graph(path: str | Path, file: h5py.File, layers: dict[str, _Layer]) -> None:
    """Refuse another architecture, by the first layer that differs."""
    found = {n["name"]: n for n in json.loads(file.attrs["model_config"])["config"]["layers"]}
    for name, layer in layers.items():
        kind = name.rpartition("_")[0].replace("_", "") or "lambda"  # the class, in lower case
        expected, got = [kind, sorted(layer.inputs), dict(layer.settings)], None
        if held := found.get(name):
            sources = sorted(source[0] for node in held["inbound_nodes"] for source in node)
            settings = {key: held["config"].get(key) for key in layer.settings}
            got = [held["class_name"].lower(), sources, settings]
        if got != expected:
            raise ValueError(
                f"{path} holds another architecture than BPNet-OSKN: layer {name} is "
                f"{got or 'missing'}; expected {expected} (class, inputs, settings)"
            )


def _array(path: str | Path, file: h5py.File, name: str, shape: tuple[int, ...]) -> Tensor:
    """One array of numbers, after checking that it is what it should be."""
    data = file[name]
    if data.shape != shape or data.dtype.newbyteorder("=") != np.float32:
        raise ValueError(
            f"{path} holds another architecture than BPNet-OSKN: {name} is {data.dtype} "
            f"{data.shape}; expected float32 {shape}"
        )
    if data.is_virtual or data.external or data.file.filename != file.filename:
        raise ValueError(f"{path} keeps {name} in another file, which is not read: get it again")
    values = torch.from_numpy(data[()].astype(np.float32))
    if not values.isfinite().all():
        raise ValueError(f"{path}: {name} holds numbers that are not finite: get the file again")
    return values
