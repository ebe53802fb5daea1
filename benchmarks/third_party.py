"""Networks of other packages, as they are: what of them is propagated, how fast, how exactly.

Run from the repository root, with bpnet-lite 1.1.0 and tangermeme 1.6.0 installed (not part of the
tests; `tests/engine/test_third_party.py` holds small ones to exactness):

    OMP_NUM_THREADS=1 python benchmarks/third_party.py > benchmarks/third_party.csv

Random weights, one sequence, one thread; 40 positions in the middle, 400 of SpliceAI-10k, of which
the slow ones are timed on 12 and extended. Errors are of effects at these, against float64 in full,
over the largest prediction.
"""

import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import nn

from deepmr_utils._engine.engines import propagator
from deepmr_utils._engine.windows import Options
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot
from experiments.splicing.network import SpliceNetwork


class SpliceAI(nn.Module):
    """SpliceAI-10k with random weights: probabilities of acceptor and donor at two positions."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SpliceNetwork()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, 4)."""
        return self.network(x).softmax(1)[:, 1:, [150, 250]].flatten(1)


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    """Names, networks and lengths."""
    from bpnetlite.bpnet import BPNet, ControlWrapper, CountWrapper, ProfileWrapper
    from bpnetlite.chrombpnet import ChromBPNet

    def bpnet(filters: int = 64, layers: int = 8, outputs: int = 2, controls: int = 0) -> BPNet:
        return BPNet(
            n_filters=filters, n_layers=layers, n_outputs=outputs, n_control_tracks=controls,
            trimming=557, verbose=False,
        )  # fmt: skip

    yield "CountWrapper(BPNet)", lambda: CountWrapper(bpnet()), 2114
    with_controls = lambda: CountWrapper(ControlWrapper(bpnet(controls=2)))  # noqa: E731
    yield "CountWrapper(ControlWrapper(BPNet))", with_controls, 2114
    yield "ProfileWrapper(BPNet)", lambda: ProfileWrapper(bpnet()), 2114
    chrombpnet = lambda: ChromBPNet(bias=bpnet(64, 4, 1), accessibility=bpnet(256, 8, 1))  # noqa: E731
    yield "ChromBPNet, 256 filters, counts", lambda: Counts(chrombpnet()), 2114
    yield "SpliceAI-10k, two read-outs", SpliceAI, 10400


class Counts(nn.Module):
    """The counts of a model of profiles and counts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Counts (N, 1)."""
        return self.model(x)[1]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measured(name: str, make: Callable[[], nn.Module], length: int) -> dict[str, object]:
    """A row of the table."""
    from tangermeme import saturation_mutagenesis as module

    torch.manual_seed(0)
    network = make().eval()
    codes = np.random.default_rng(0).integers(0, 4, (1, length)).astype(np.uint8)
    x, n, all_of_them = one_hot(codes, torch.float32), *((12, 400) if length > 5000 else (40, 40))
    start = length // 2 - n // 2
    positions = range(start, start + n)

    def ours(propagate: bool, **options: object) -> np.ndarray:
        effects = saturation_mutagenesis(
            network, x, device="cpu", positions=positions, propagate=propagate, **options
        )
        return effects["effect"].to_numpy()

    def peer(fast: bool) -> object:
        module._FAST_MIN_SECONDS = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.saturation_mutagenesis(
                network, x, raw_outputs=True, fast=fast, device="cpu", start=start, end=start + n
            )

    with torch.no_grad():
        alone = network(x)
        net = propagator(network, x[0], [alone], list(range(alone.shape[1])), Options({}))
    exact = ours(False, precision="float64")
    many = range(length // 2 - all_of_them // 2, length // 2 + all_of_them // 2)
    call = lambda: saturation_mutagenesis(network, x, device="cpu", positions=many)  # noqa: E731
    times = {"full": seconds(lambda: ours(False), 1)}
    times |= {f"peer {f}": seconds(lambda f=f: peer(f), 1) for f in (True, False)}
    times = {name: value * all_of_them / n for name, value in times.items()}
    times["ours"] = seconds(call, 3 if all_of_them == n else 1)
    best = min(times["peer True"], times["peer False"])
    return {
        "network": name, "propagated": net.share, "seconds": times["ours"],
        "over_full": times["full"] / times["ours"], "over_tangermeme": best / times["ours"],
        "tangermeme_fast": times["peer True"], "tangermeme": times["peer False"],
        "error": np.nanmax(np.abs(ours(True) - exact)) / alone.abs().max().item(),
        "error_in_full": np.nanmax(np.abs(ours(False) - exact)) / alone.abs().max().item(),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    for k, network in enumerate(networks()):
        row = pd.DataFrame([measured(*network)])
        print(row.to_csv(index=False, header=not k, float_format="%.3g"), end="", flush=True)
