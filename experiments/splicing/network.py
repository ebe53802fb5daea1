"""CI-SpliceAI: five trained SpliceAI-10k networks (Strauch et al., 2022), read at given positions.

Weights are those of the package `cispliceai` 1.2.2 (CC BY 4.0, see `data/LICENSE.cispliceai`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv1d

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

    def forward(self, x: torch.Tensor, spacing: int = 1) -> torch.Tensor:
        """Features (N, 32, P) of features (N, 32, P) at every ``spacing``-th base."""
        inner = _convolve(self.conv1, torch.relu(self.bn1(x)), spacing)
        return x + _convolve(self.conv2, torch.relu(self.bn2(inner)), spacing)


def _convolve(layer: nn.Conv1d, x: torch.Tensor, spacing: int) -> torch.Tensor:
    dilation, padding = layer.dilation[0] // spacing, layer.padding[0] // spacing
    return conv1d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)


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

    def at(self, x: torch.Tensor, bases: Iterable[int]) -> list[torch.Tensor]:
        """The same (N, 3) at some bases of the sequences, a tensor for each.

        The last eight blocks look at every fifth base, and the last four at every 25th. So they are
        computed there alone, for each of the bases: a few positions in the place of thousands.
        """
        stages = [self.stem(x)]
        for first in (0, 4):
            stages.append(_through(self.blocks[first : first + 4], stages[-1], 1))
        logits = []
        for base in bases:
            read = [stage[:, :, base : base + 1] for stage in stages]
            y, middle, spacing = stages[-1], base, 1
            for first in (8, 12):
                blocks = self.blocks[first : first + 4]
                reach = sum(_reach(block) for block in self.blocks[first:]) // spacing
                y = y[:, :, middle - reach : middle + reach + 1 : 5]
                middle, spacing = reach // 5, 5 * spacing
                y = _through(blocks, y, spacing)
                read.append(y[:, :, middle : middle + 1])
            skips = [skip(part) for skip, part in zip(self.skips, read, strict=True)]
            logits.append(self.head(sum(skips[1:], skips[0]))[:, :, 0])
        return logits


def _through(blocks: Iterable[Block], x: torch.Tensor, spacing: int) -> torch.Tensor:
    for block in blocks:
        x = block(x, spacing)
    return x


def _reach(block: Block) -> int:
    """Bases to either side that a block reads."""
    return block.conv1.padding[0] + block.conv2.padding[0]


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
        last = x.shape[2] - CONTEXT - 1
        for _, position in self.sites:
            if not CONTEXT <= position <= last:
                raise ValueError(
                    f"a site needs {CONTEXT} bases at either side, which leaves {CONTEXT} to "
                    f"{last}; got {position}: give a longer sequence"
                )
        read = []
        kinds, positions = zip(*self.sites, strict=True)
        for kind, logits in zip(kinds, self.network.at(x, positions), strict=True):
            k = CLASSES.index(kind)
            others = [i for i in range(len(CLASSES)) if i != k]
            read.append(logits[:, k] - torch.logsumexp(logits[:, others], dim=1))
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
