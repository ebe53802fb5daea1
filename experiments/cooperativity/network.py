"""The convolutional network of the cooperativity simulation."""

import torch
from torch import nn

from deepmr_utils._checks import check_number, distinct_names


class SimulationCNN(nn.Module):
    """Three convolutions with batch norm and three dense layers, with outputs in label units.

    Parameters
    ----------
    length : int
        Sequence length, which is fixed by the dense layers.
    feature_names : tuple of str
        One output each.
    channels, width, hidden : int
        Filters a convolution, their width in bases (no padding), units a hidden dense layer.

    Notes
    -----
    The network of Malina, Cizin and Knowles (2022). ``set_output_scale`` stores mean and sd of the
    labels, so that the trainable part works on standardised features whatever their scale.
    """

    def __init__(
        self, length: int = 100, feature_names: tuple[str, ...] = ("exposure", "outcome"), *,
        channels: int = 15, width: int = 7, hidden: int = 30,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = {"length": length, "channels": channels, "width": width, "hidden": hidden}
        length, channels, width, hidden = (
            check_number(name, size, 1, whole=True) for name, size in sizes.items()
        )
        remaining = length - 3 * (width - 1)
        if remaining < 1:
            raise ValueError(
                f"three convolutions of width {width} need sequences of at least "
                f"{3 * (width - 1) + 1} bp; got length {length}"
            )
        self.length = length
        self.feature_names = distinct_names("feature_names", feature_names)
        layers = [
            (nn.Conv1d(inputs, channels, width), nn.BatchNorm1d(channels), nn.ReLU())
            for inputs in (4, channels, channels)
        ]
        self.convolutions = nn.Sequential(*(layer for three in layers for layer in three))
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * remaining, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, len(self.feature_names)),
        )  # fmt: skip
        self.register_buffer("output_mean", torch.zeros(len(self.feature_names)))
        self.register_buffer("output_sd", torch.ones(len(self.feature_names)))

    def set_output_scale(self, labels: torch.Tensor) -> None:
        """Set the outputs' location and scale from labels (N, K)."""
        k = len(self.feature_names)
        if labels.ndim != 2 or len(labels) < 2 or labels.shape[1] != k:
            raise ValueError(
                f"labels must be (N, {k}), N at least 2; got {tuple(labels.shape)}: give a column "
                f"for each of {', '.join(self.feature_names)}"
            )
        self.output_mean.copy_(labels.mean(0))
        self.output_sd.copy_(labels.std(0).clamp_min(1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, K) of one-hot sequences (N, 4, length)."""
        if x.shape[-1] != self.length:
            raise ValueError(
                f"this network takes sequences of {self.length} bp; got {x.shape[-1]} bp: "
                "cut or pad them, or build it with another length"
            )
        return self.dense(self.convolutions(x)) * self.output_sd + self.output_mean
