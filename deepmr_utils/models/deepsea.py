"""DeepSEA (Zhou and Troyanskaya, 2015) and Beluga (Zhou et al., 2018): chromatin from sequence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH, _POOL = 8, 4  # of all convolutions and poolings
_OUTPUTS = ("probability", "logit")
_PLAIN = (torch.strided, torch.device("cpu"))  # neither sparse nor without data


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
    (``reverse_complement=True``): the same effects, propagated.
    """

    _rounds = 1  # convolutions before a pooling

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
        if output not in _OUTPUTS:
            raise ValueError(f"unknown output {output!r}: choose from {', '.join(_OUTPUTS)}")
        if isinstance(feature_names, str):
            raise TypeError(f"feature_names must be a list of names; got {feature_names!r}")
        if feature_names is not None:
            feature_names = tuple(feature_names)
            if len(feature_names) != n_features or len(set(feature_names)) != n_features:
                raise ValueError(
                    f"feature_names must be {n_features} distinct names; got {len(feature_names)}, "
                    f"{len(set(feature_names))} of them distinct: put the column before each name"
                )
        self.length, self.feature_names = length, feature_names
        self.output, self.both_strands = output, both_strands
        self.convolutions = nn.Sequential(*self._convolutions(channels))
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * positions, hidden),
            self._activation(),
            nn.Linear(hidden, n_features),
        )

    def _activation(self) -> nn.Module:
        return nn.Threshold(0, 1e-6)

    def _convolutions(self, channels: tuple[int, int, int]) -> list[nn.Module]:
        first, second, third = channels
        return [
            *(
                nn.Conv1d(4, first, _WIDTH),
                self._activation(),
                nn.MaxPool1d(_POOL),
                nn.Dropout(0.2),
            ),
            *(nn.Conv1d(first, second, _WIDTH), self._activation()),
            *(nn.MaxPool1d(_POOL), nn.Dropout(0.2)),
            *(nn.Conv1d(second, third, _WIDTH), self._activation(), nn.Dropout(0.5)),
        ]

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

    _rounds = 2

    def __init__(
        self,
        n_features: int = 2002,
        length: int = 2000,
        *,
        channels: tuple[int, int, int] = (320, 480, 640),
        hidden: int = 2003,
        **options: Any,
    ) -> None:
        super().__init__(n_features, length, channels=channels, hidden=hidden, **options)

    def _activation(self) -> nn.Module:
        return nn.ReLU()

    def _convolutions(self, channels: tuple[int, int, int]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, after, drop in zip((4, *channels), channels, (0.2, 0.2, 0.5), strict=False):
            layers += [nn.Conv1d(before, after, _WIDTH), nn.ReLU()]
            layers += [nn.Conv1d(after, after, _WIDTH), nn.ReLU()]
            layers += [nn.Dropout(drop), nn.MaxPool1d(_POOL)]
        return layers[:-1]


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
    state = _read(path)
    predict = any(str(key).startswith("2.") for key in state)
    layers = [f"{'2' if predict else '1'}.{layer}" for layer in ("0", "4", "8", "12.1", "14.1")]
    both = predict if both_strands is None else both_strands
    options = {"feature_names": feature_names, "output": output, "both_strands": both}
    return _network(path, DeepSEA, 1000, state, layers, options)


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
    return _network(path, Beluga, 2000, _read(path), layers, options)


def _read(path: str | Path) -> Mapping[str, Tensor]:
    """Tensors by name; nothing else that a file of PyTorch may hold, such as code, is taken."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"{path} is no file of PyTorch with tensors alone, or is cut short: "
            f"{type(error).__name__}: {reason}. Get it again; files with code in them are not read"
        ) from error
    values = state.values() if isinstance(state, Mapping) else [state]
    plain = (isinstance(v, Tensor) and (v.layout, v.device) == _PLAIN for v in values)
    if not isinstance(state, Mapping) or not all(plain):
        raise ValueError(f"{path} must hold plain tensors by name; got {type(state).__name__}")
    return state


def _network(
    path: str | Path,
    kind: type[DeepSEA],
    length: int,
    state: Mapping[str, Tensor],
    layers: Sequence[str],
    options: dict[str, Any],
) -> Any:
    """A network of the sizes and with the weights of a published state."""

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path} does not hold {kind.__name__}: {what}")

    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    if differing := sorted(map(str, expected ^ set(state))):
        key = differing[0]
        raise refuse(f"{key} is {'missing' if key in expected else 'not part of it'}")
    for i, layer in enumerate(layers):
        weight = state[f"{layer}.weight"]
        if weight.ndim != (4 if i < len(layers) - 2 else 2) or not weight.numel():
            raise refuse(f"{layer}.weight has shape {tuple(weight.shape)}")
    # a few bytes can claim to be a tensor of any size
    if sum(v.numel() for v in state.values()) * 4 > Path(path).stat().st_size:
        raise refuse("its tensors are larger than the file")
    *filters, hidden, n_features = (len(state[f"{layer}.weight"]) for layer in layers)
    with torch.device("meta"):  # shapes only
        network = kind(
            n_features,
            length,
            channels=tuple(filters[kind._rounds - 1 :: kind._rounds]),
            hidden=hidden,
            **options,
        )
    weights = {}
    own = [n for n, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Linear)]
    for name, layer in zip(own, layers, strict=True):
        for part, like in network.get_submodule(name).named_parameters():
            value, shape = state[f"{layer}.{part}"], tuple(like.shape)
            shape = (*shape[:2], 1, *shape[2:]) if len(shape) == 3 else shape  # (1, w) kernels
            if value.dtype != torch.float32 or tuple(value.shape) != shape:
                raise refuse(
                    f"{layer}.{part} is {value.dtype} {tuple(value.shape)}; expected "
                    f"{torch.float32} {shape} for sequences of {length} bp"
                )
            if not value.isfinite().all():
                raise refuse(f"{layer}.{part} has numbers that are not finite")
            weights[f"{name}.{part}"] = value.squeeze(2) if value.ndim == 4 else value
    first = f"{own[0]}.weight"
    weights[first] = weights[first][:, [0, 2, 1, 3]]  # A, G, C, T there; A, C, G, T here
    network.load_state_dict(weights, strict=False, assign=True)
    return network.eval()
