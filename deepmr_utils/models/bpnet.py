"""BPNet (Avsec et al., 2021): read profiles and counts of any number of factors from sequence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import distinct_names
from ._published import checked, keras_file, refusal

OSKN = ("Oct4", "Sox2", "Nanog", "Klf4")  # tasks of the published network, in its order
_FILTERS, _WIDTH, _LAYERS, _STRANDS = 64, 25, 9, 2
_CONTROL_TRACKS = (4, 2)  # a task: two strands, as they are and smoothed; reads of two strands


class Control(NamedTuple):
    """Tracks of a control experiment: profile (N, T, C, L) and counts (N, T, B), or T = 1."""

    profile: Tensor
    counts: Tensor


class Outputs(NamedTuple):
    """Both heads: profile (N, T, S, L), logits; counts (N, T, S), log(1 + reads)."""

    profile: Tensor
    counts: Tensor


class BPNet(nn.Module):
    """Residual dilated convolutions, with a profile head and a counts head a task.

    Parameters
    ----------
    tasks : sequence of str (T,)
    filters : int
        Of every convolution.
    layers : int
        Residual convolutions of width 3 and dilations 2, 4, 8, ...
    width : int
        Of the first convolution and of the profile head; odd.
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
        strands: int = _STRANDS,
        control_tracks: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        tasks = distinct_names("tasks", tasks)
        if width % 2 == 0:
            raise ValueError(f"width must be odd, so that outputs lie above bases; got {width}")
        self.feature_names = tasks
        self.shape = (len(tasks), strands)
        self.first = nn.Sequential(nn.Conv1d(4, filters, width, padding=width // 2), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(filters, filters, 3, padding=d, dilation=d), nn.ReLU())
            for d in (2**i for i in range(1, layers + 1))
        )
        outputs = len(tasks) * strands
        self.profile = nn.Conv1d(filters, outputs, width, padding=width // 2)
        self.counts = nn.Linear(filters, outputs)
        self.control_profile = nn.Parameter(torch.zeros(len(tasks), control_tracks[0]))
        self.control_counts = nn.Parameter(torch.zeros(len(tasks), control_tracks[1]))

    def reset_parameters(self) -> None:
        """Start from no influence of control tracks; layers draw their own weights."""
        nn.init.zeros_(self.control_profile)
        nn.init.zeros_(self.control_counts)

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
    As the authors train it: the negative log-likelihood of where reads lie, given how many there
    are, is summed over strands, the squared error of log(1 + reads) averaged over them.
    """
    logits = outputs.profile
    if logits.shape != reads.shape:
        raise ValueError(
            f"reads must have the shape of the logits {tuple(logits.shape)}; got "
            f"{tuple(reads.shape)}"
        )
    ways = torch.lgamma(reads.sum(-1) + 1) - torch.lgamma(reads + 1).sum(-1)
    likelihood = ways + (reads * logits.log_softmax(-1)).sum(-1)
    profile = -likelihood.sum((1, 2)).mean()
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
    network = BPNet(control_tracks=_CONTROL_TRACKS).eval()
    state = network.state_dict()
    with keras_file(path) as (file, layers):
        _check_graph(path, layers)

        def array(layer: str, kind: str, *shape: int) -> Tensor:
            name = f"model_weights/{layer}/{layer}/{kind}:0"
            return checked(path, "BPNet-OSKN", name, file[name], shape)

        def joined(layer: str, numbers: range, kind: str, *shape: int, dim: int = 0) -> Tensor:
            """An array of all tasks, side by side."""
            return torch.cat([array(f"{layer}_{n}", kind, *shape) for n in numbers], dim)

        body = ["first.0", *(f"blocks.{i}.0" for i in range(_LAYERS))]
        for i, name in enumerate(body, start=1):
            shape = reversed(state[f"{name}.weight"].shape)  # Keras: (width, in, out)
            state[f"{name}.weight"] = array(f"conv1d_{i}", "kernel", *shape).permute(2, 1, 0)
            state[f"{name}.bias"] = array(f"conv1d_{i}", "bias", _FILTERS)
        tasks, strands, (tracks, numbers) = range(1, len(OSKN) + 1), _STRANDS, _CONTROL_TRACKS
        # (width, 1, out, in) of a transposed convolution, which is reversed
        shape = (_WIDTH, 1, strands, _FILTERS)
        kernel = joined("conv2d_transpose", tasks, "kernel", *shape, dim=2)[:, 0].flip(0)
        state["profile.weight"] = kernel.permute(1, 2, 0)
        state["profile.bias"] = joined("conv2d_transpose", tasks, "bias", strands)
        # the odd dense layers predict, the even ones take the control
        odd, even, last = range(1, 9, 2), range(2, 9, 2), range(_LAYERS + 2, _LAYERS + 6)
        state["counts.weight"] = joined("dense", odd, "kernel", _FILTERS, strands, dim=1).T
        state["counts.bias"] = joined("dense", odd, "bias", strands)
        state["control_profile"] = joined("conv1d", last, "kernel", 1, tracks, 1)[..., 0]
        state["control_counts"] = joined("dense", even, "kernel", numbers, 1, dim=1).T
    network.load_state_dict(state)
    return network


def _layers() -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Inputs, and settings that matter, of every layer between sequence and outputs."""
    same, linear = {"padding": "same"}, {"activation": "linear"}
    relu = same | {"activation": "relu"}
    before = "conv1d_1"
    layers = {before: (["seq"], relu | {"dilation_rate": [1]})}
    for i in range(1, _LAYERS + 1):
        layers[f"conv1d_{i + 1}"] = ([before], relu | {"dilation_rate": [2**i]})
        layers[f"add_{i}"] = ([before, f"conv1d_{i + 1}"], {})
        before = f"add_{i}"
    for t, task in enumerate(OSKN, start=1):
        even, odd, control = 2 * t, 2 * t - 1, f"conv1d_{_LAYERS + 1 + t}"
        sums = [f"add_{_LAYERS + odd}", f"add_{_LAYERS + even}"]
        layers |= {
            f"reshape_{odd}": ([before], {}),
            f"conv2d_transpose_{t}": ([f"reshape_{odd}"], same | linear),
            f"reshape_{even}": ([f"conv2d_transpose_{t}"], {}),
            control: ([f"bias/{task}/profile"], linear),
            sums[0]: ([f"reshape_{even}", control], {}),
            f"{task}/profile": ([sums[0]], {}),
            f"global_average_pooling1d_{t}": ([before], {}),
            f"dense_{odd}": ([f"global_average_pooling1d_{t}"], linear),
            f"dense_{even}": ([f"bias/{task}/counts"], linear),
            sums[1]: ([f"dense_{odd}", f"dense_{even}"], {}),
            f"{task}/counts": ([sums[1]], {}),
        }
    return layers


def _check_graph(path: str | Path, layers: list[dict[str, Any]]) -> None:
    """Refuse another architecture, by the first layer that differs."""
    found = {layer["name"]: layer for layer in layers}
    for name, (inputs, settings) in _layers().items():
        kind = name.rpartition("_")[0].replace("_", "") or "lambda"  # the class, in lower case
        expected, got = [kind, sorted(inputs), settings], None
        if held := found.get(name):
            sources = sorted(source[0] for node in held["inbound_nodes"] for source in node)
            its = {key: held["config"].get(key) for key in settings}
            got = [held["class_name"].lower(), sources, its]
        if got != expected:
            what = f"layer {name} is {got or 'missing'}; expected {expected}"
            raise refusal(path, "BPNet-OSKN", f"{what} (class, inputs, settings)")
