"""CI-SpliceAI: five trained SpliceAI-10k networks (Strauch et al., 2022), read at given positions.

Weights are those of the package `cispliceai` 1.2.2 (CC BY 4.0, see `data/LICENSE.cispliceai`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

CONTEXT = 5_000  # bases at either side that a prediction reads, exactly
N_MEMBERS = 5
CHANNELS = 32
WIDTHS = np.repeat([11, 11, 21, 41], 4)
DILATIONS = np.repeat([1, 4, 10, 25], 4)
EPSILON = 1e-3  # of batch norm: that of the framework in which the networks were trained
DATA = Path(__file__).parent / "data"
CLASSES = ("none", "acceptor", "donor")


class Block(nn.Module):
    """Two convolutions of a normalised, rectified input, added to the input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        options = {"dilation": dilation, "padding": dilation * (width - 1) // 2}
        self.bn1, self.bn2 = (nn.BatchNorm1d(CHANNELS, eps=EPSILON) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv1d(CHANNELS, CHANNELS, width, **options) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, 32, L) of features (N, 32, L)."""
        inner = self.conv1(torch.relu(self.bn1(x)))
        return x + self.conv2(torch.relu(self.bn2(inner)))


class SpliceNetwork(nn.Module):
    """SpliceAI-10k (Jaganathan et al., 2019, Cell 176:535): logits of no site, acceptor, donor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, CHANNELS, 1)
        self.blocks = nn.ModuleList(
            Block(int(w), int(d)) for w, d in zip(WIDTHS, DILATIONS, strict=True)
        )
        self.skips = nn.ModuleList(nn.Conv1d(CHANNELS, CHANNELS, 1) for _ in range(5))
        self.head = nn.Conv1d(CHANNELS, len(CLASSES), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 3, L - 10,000) of sequences (N, 4, L) on the transcribed strand."""
        x = self.stem(x)
        skip = self.skips[0](x)
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i % 4 == 0:
                skip = skip + self.skips[i // 4](x)
        return self.head(skip[:, :, CONTEXT:-CONTEXT])


class ReadOut(nn.Module):
    """Log-odds of sites at given positions: features of a network.

    Parameters
    ----------
    network : SpliceNetwork
    sites : sequence of (str, int)
        "acceptor" or "donor", and the base of the sequence at which it is read, counted from 0.
        Sequences must have 5,000 bases at either side of it.
    """

    def __init__(self, network: SpliceNetwork, sites: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.network, self.sites = network, tuple(sites)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-odds (N, K) of sequences (N, 4, L)."""
        logits = self.network(x)
        read = []
        last = x.shape[2] - CONTEXT - 1
        for kind, position in self.sites:
            if not CONTEXT <= position <= last:
                raise ValueError(
                    f"a site needs {CONTEXT} bases at either side, which leaves {CONTEXT} to "
                    f"{last}; got {position}: give a longer sequence"
                )
            column = logits[:, :, position - CONTEXT]
            k = CLASSES.index(kind)
            others = [i for i in range(len(CLASSES)) if i != k]
            read.append(column[:, k] - torch.logsumexp(column[:, others], dim=1))
        return torch.stack(read, dim=1)


def load_ensemble() -> list[SpliceNetwork]:
    """The five trained networks, in evaluation mode."""
    members = []
    for m in range(N_MEMBERS):
        network = SpliceNetwork()
        state = torch.load(DATA / f"member-{m}.pt", weights_only=True)
        missing, foreign = network.load_state_dict(state, strict=False)
        counters = {name for name in missing if name.endswith("num_batches_tracked")}
        if foreign or set(missing) != counters:
            raise ValueError(f"member-{m}.pt must hold the tensors of a SpliceNetwork")
        members.append(network.eval())
    return members
