"""DeepSEA (Zhou and Troyanskaya, 2015) and Beluga (Zhou et al., 2018): chromatin from sequence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import as_list, check_choice
from ._published import checked, refusal, torch_file

_WIDTH, _POOL = 8, 4  # of all convolutions and poolings


class DeepSEA(nn.Module):
    """Three convolutions and two dense layers.

    Parameters
    ----------
    n_features : int
        Outputs (K).
    length : int
        Sequence length (L), which is fixed by the dense layers.
    channels : tuple of int
        Filters before the first pooling, before the second, and after it.
    hidden : int
        Units of the hidden dense layer.
    feature_names : sequence of str (K,), optional
        Distinct names. The published labels repeat: there the column is what identifies a feature.
    output : {"probability", "logit"}
        Scale of the predictions.
    both_strands : bool
        Average the probabilities with those of the reverse complement.

    Notes
    -----
    Activations are x where x > 0 and else 1e-6, not 0, as in the published network. Unknown bases
    were 0.25 in all four rows when it was trained.

    With `both_strands` mutagenesis predicts every mutant in full. Let a network of one strand give
    probabilities and `deepmr_utils.mutagenesis.saturation_mutagenesis` take both strands
    (``strands="mean"``): the same effects, propagated.
    """

    _rounds = 1  # convolutions before a pooling
    _dropout_first = False

    def __init__(
        self,
        n_features: int = 919,
        length: int = 1000,
        *,
        channels: tuple[int, int, int] = (320, 480, 960),
        hidden: int = 925,
        feature_names: Sequence[str] | None = None,
        output: str = "probability",
        both_strands: bool = False,
    ) -> None:
        super().__init__()
        positions = length
        for pool in (1, _POOL, _POOL):
            positions = positions // pool - self._rounds * (_WIDTH - 1)
        if positions < 1:
            raise ValueError(f"{type(self).__name__} needs longer sequences; got length {length}")
        if feature_names is not None:
            feature_names = tuple(as_list(feature_names))
            distinct = len(set(feature_names))
            if not len(feature_names) == distinct == n_features:
                raise ValueError(
                    f"feature_names must be {n_features} distinct names; got {len(feature_names)}, "
                    f"{distinct} of them distinct: put the column before each name"
                )
        self.length, self.feature_names, self.both_strands = length, feature_names, both_strands
        self.output = check_choice("output", output, ("probability", "logit"))
        layers: list[nn.Module] = []
        for before, after, drop in zip((4, *channels), channels, (0.2, 0.2, 0.5), strict=False):
            for inputs in (before, after)[: self._rounds]:
                layers += [nn.Conv1d(inputs, after, _WIDTH), self._activation()]
            pool, dropout = nn.MaxPool1d(_POOL), nn.Dropout(drop)
            layers += [dropout, pool] if self._dropout_first else [pool, dropout]
        layers.remove(pool)  # the last are not pooled
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * positions, hidden),
            self._activation(),
            nn.Linear(hidden, n_features),
        )

    def _activation(self) -> nn.Module:
        return nn.Threshold(0, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, K) of one-hot sequences (N, 4, length), A C G T."""
        if x.shape[-1] != self.length:
            raise ValueError(
                f"this network takes sequences of {self.length} bp; got {x.shape[-1]} bp: "
                "cut or pad them, or build it with another length"
            )
        logits = self.dense(self.convolutions(x))
        if self.both_strands:  # in A, C, G, T order the complement is the reverse
            other = self.dense(self.convolutions(x.flip(1, 2)))
            if self.output == "probability":
                return (logits.sigmoid() + other.sigmoid()) / 2
            yes = torch.logaddexp(F.logsigmoid(logits), F.logsigmoid(other))
            return yes - torch.logaddexp(F.logsigmoid(-logits), F.logsigmoid(-other))
        return logits.sigmoid() if self.output == "probability" else logits

    # the scale belongs to the state, so that a hash of the state knows it; loading leaves it

    def get_extra_state(self) -> Tensor:
        """Whether outputs are logits, and of both strands."""
        return torch.tensor([self.output == "logit", self.both_strands])

    def set_extra_state(self, state: Any) -> None:
        """Keep the scale that this network was built with."""


class Beluga(DeepSEA):
    """DeepSEA "Beluga": six convolutions, two before each pooling, and rectifiers.

    Parameters are those of `DeepSEA`.
    """

    _rounds, _dropout_first = 2, True

    def __init__(self, n_features: int = 2002, length: int = 2000, **options: Any) -> None:
        sizes = {"channels": (320, 480, 640), "hidden": 2003}
        super().__init__(n_features, length, **sizes | options)

    def _activation(self) -> nn.Module:
        return nn.ReLU()


def load_deepsea(
    path: str | Path,
    *,
    feature_names: Sequence[str] | None = None,
    output: str = "probability",
    both_strands: bool | None = None,
) -> DeepSEA:
    """Read DeepSEA from ``deepsea_predict.pth`` or ``deepsea_variant_effects.pth``.

    Parameters
    ----------
    path : str or Path
        See `deepmr_utils.models.downloads.fetch`.
    feature_names, output
        As for `DeepSEA`.
    both_strands : bool, optional
        As for `DeepSEA`; by default as published: both strands for ``deepsea_predict.pth``, the
        given one for ``deepsea_variant_effects.pth``.

    Returns
    -------
    DeepSEA
        In evaluation mode, on the CPU, of the sizes in the file. It takes A, C, G, T.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is cut short, holds anything but tensors, or another network.
    """
    state = torch_file(path)
    predict = any(str(key).startswith("2.") for key in state)
    layers = [f"{'2' if predict else '1'}.{layer}" for layer in ("0", "4", "8", "12.1", "14.1")]
    both = predict if both_strands is None else both_strands
    options = {"feature_names": feature_names, "output": output, "both_strands": both}
    return _network(path, DeepSEA, state, layers, options)


def load_beluga(
    path: str | Path,
    *,
    feature_names: Sequence[str] | None = None,
    output: str = "probability",
    both_strands: bool = False,
) -> Beluga:
    """Read DeepSEA Beluga from ``deepsea.beluga.pth``.

    Parameters and errors are those of `load_deepsea`. The published weights are for non-commercial
    use only.

    Returns
    -------
    Beluga
        In evaluation mode, on the CPU, of the sizes in the file. It takes A, C, G, T, other than
        the published network, which takes A, G, C, T.
    """
    convolutions = (f"model.0.{layer}" for layer in (0, 2, 6, 8, 12, 14))
    layers = [*convolutions, "model.1.2.1", "model.1.4.1"]
    options = {"feature_names": feature_names, "output": output, "both_strands": both_strands}
    return _network(path, Beluga, torch_file(path), layers, options)


def _network(
    path: str | Path,
    kind: type[DeepSEA],
    state: Mapping[str, Tensor],
    layers: Sequence[str],
    options: dict[str, Any],
) -> Any:
    """A network of the sizes and with the weights of a published state."""
    keys = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    if differing := sorted(map(str, set(keys) ^ set(state))):
        what = "missing" if differing[0] in keys else "not part of it"
        raise refusal(path, kind.__name__, f"{differing[0]} is {what}")
    for key in keys[::2]:
        if state[key].ndim != (2 if key in keys[-4:] else 4) or not state[key].numel():
            raise refusal(path, kind.__name__, f"{key} has shape {tuple(state[key].shape)}")
    *filters, hidden, n_features = (len(state[key]) for key in keys[::2])
    channels = tuple(filters[:: kind._rounds])
    with torch.device("meta"):  # shapes only
        network = kind(n_features, channels=channels, hidden=hidden, **options)
    weights = {}
    for key, (name, like) in zip(keys, network.named_parameters(), strict=True):
        kernel = like.ndim == 3  # (1, w) in the file
        shape = tuple((like.unsqueeze(2) if kernel else like).shape)
        value = checked(path, kind.__name__, key, state[key], shape)
        weights[name] = value.squeeze(2) if kernel else value
    first = "convolutions.0.weight"
    weights[first] = weights[first][:, [0, 2, 1, 3]]  # A, G, C, T there; A, C, G, T here
    network.load_state_dict(weights, strict=False, assign=True)
    return network.eval()
