"""Time, multiply-adds, memory and exactness of in-silico mutagenesis, beside a published engine.

Run from the repository root (not part of the tests):

    python benchmarks/ism.py                       # ours: propagated, and predicted in full
    python benchmarks/ism.py --peer                # also tangermeme 1.6.0, which must be installed
    python benchmarks/ism.py --shapes basset --sequences 8 --threads 1 --device cuda
    python benchmarks/ism.py --scaling             # time by sequences, members and features
    python benchmarks/ism.py --precision           # error of every type of computation
    python benchmarks/ism.py --memory              # 1,000 windows x 919 features into a store
    python benchmarks/ism.py --memory windows      # 1,000 windows of 1 kb by a BPNet, half an hour

Tables are printed as CSV. A time a sequence is the difference between calls with several sequences
and with one, so set-up (recording, rearranging weights, checking) is counted apart. Set
OMP_NUM_THREADS as well as --threads where a library asks for threads of its own.
"""

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.predict import MCDropout
from deepmr_utils.sequences import one_hot
from experiments.cooperativity.network import SimulationCNN


class DilatedResidual(nn.Module):
    """The body of BPNet with a counts head: 64 filters, nine dilated layers."""

    def __init__(self, filters: int = 64, layers: int = 9, outputs: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, filters, 25, padding=12)
        self.dilated = nn.ModuleList(
            nn.Conv1d(filters, filters, 3, padding=2**i, dilation=2**i)
            for i in range(1, layers + 1)
        )
        self.counts = nn.Linear(filters, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Counts (N, outputs) of sequences (N, 4, L)."""
        x = torch.relu(self.first(x))
        for layer in self.dilated:
            x = x + torch.relu(layer(x))
        return self.counts(x.mean(2))


def deepsea() -> nn.Module:
    """4-320-480-960 channels of width 8, 919 outputs, 1 kb."""
    return nn.Sequential(
        nn.Conv1d(4, 320, 8), nn.Threshold(0, 1e-6), nn.MaxPool1d(4), nn.Dropout(0.2),
        nn.Conv1d(320, 480, 8), nn.Threshold(0, 1e-6), nn.MaxPool1d(4), nn.Dropout(0.2),
        nn.Conv1d(480, 960, 8), nn.Threshold(0, 1e-6), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(960 * 53, 925), nn.Threshold(0, 1e-6), nn.Linear(925, 919),
        nn.Sigmoid(),
    )  # fmt: skip


def basset() -> nn.Module:
    """300-200-200 channels, pooled by 3, 4 and 4; dense 1,000, 1,000, 164; 960 bp."""
    layers: list[nn.Module] = []
    for i, o, width, pool in ((4, 300, 19, 3), (300, 200, 11, 4), (200, 200, 7, 4)):
        layers += [nn.Conv1d(i, o, width, padding="same"), nn.BatchNorm1d(o), nn.ReLU()]
        layers += [nn.MaxPool1d(pool)]
    layers.append(nn.Flatten())
    for i, o in ((4000, 1000), (1000, 1000)):
        layers += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(1000, 164))


SHAPES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # network, length, sequences
    "deepsea": (deepsea, 1000, 4),
    "bpnet": (DilatedResidual, 1000, 3),
    "basset": (basset, 960, 9),
    "cnn": (lambda: SimulationCNN(100), 100, 20),
}


def made(shape: str, sequences: int, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights and random sequences."""
    network, length, _ = SHAPES[shape]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (sequences, length)).astype(np.uint8)
    return network().eval(), one_hot(codes)


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Fastest of several calls, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        output = op(*args, **(kwargs or {}))
        name = op.overloadpacket.__name__.removesuffix("_")
        if name in ("mm", "bmm"):
            self.total += args[0].numel() * args[1].shape[-1]
        elif name == "addmm":
            self.total += args[1].numel() * args[2].shape[-1]
        elif name == "convolution":
            self.total += output.numel() * args[1][0].numel()
        elif name == "linear":
            self.total += output.numel() * args[1].shape[-1]
        elif name in ("conv1d", "conv2d"):
            self.total += output.numel() * args[1][0].numel()
        return output


def multiply_adds(function: Callable[[], object]) -> int:
    """Multiply-adds of a call."""
    with MultiplyAdds() as counter:
        function()
    return counter.total


def gemm_rate(device: str) -> float:
    """Multiply-adds a second of a large matrix product."""
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    return n**3 / seconds(lambda: a @ a, 5)


def peer(network: nn.Module, x: torch.Tensor, fast: bool, device: str) -> torch.Tensor:
    """Predictions of tangermeme for every substitution."""
    from tangermeme import saturation_mutagenesis as module

    module._FAST_MIN_SECONDS = 0  # take the fast path however short the job
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = module.saturation_mutagenesis(
            network, x, raw_outputs=True, fast=fast, device=device, batch_size=64
        )
    return result[1]


def compare(shapes: list[str], n: int | None, device: str, with_peer: bool) -> pd.DataFrame:
    """One row a shape and engine."""
    rate, rows = gemm_rate(device), []
    for shape in shapes:
        many = n or SHAPES[shape][2]
        network, x = made(shape, many)
        short = shape == "cnn"  # too short to time one sequence: set-up is part of it

        def ours(x: torch.Tensor, propagate: bool, network: nn.Module = network) -> object:
            return saturation_mutagenesis(network, x, device=device, propagate=propagate)

        exact = saturation_mutagenesis(
            network, x[:1], device=device, precision="float64", propagate=False,
            positions=np.r_[0:20, x.shape[2] // 2, x.shape[2] - 20 : x.shape[2]],
        )  # fmt: skip
        scale = np.abs(exact["reference_prediction"]).max().item()
        naive = multiply_adds(lambda: ours(x[:1], False))  # noqa: B023
        engines: dict[str, Callable[[torch.Tensor], object]] = {
            "propagated": lambda x: ours(x, True),
            "in full": lambda x: ours(x, False),
        }
        if with_peer:
            engines["tangermeme fast"] = lambda x: peer(network, x, True, device)  # noqa: B023
            engines["tangermeme"] = lambda x: peer(network, x, False, device)  # noqa: B023
        for engine, call in engines.items():
            slow = engine in ("in full", "tangermeme") and not short
            if slow:
                one, each = seconds(lambda: call(x[:1]), 1), np.nan  # noqa: B023
                each = one
            else:
                one = seconds(lambda: call(x[:1]))  # noqa: B023
                total = seconds(lambda: call(x))  # noqa: B023
                each = total / many if short else (total - one) / (many - 1)
            row = {"shape": shape, "engine": engine, "seconds_a_sequence": each}
            row |= {"set_up_seconds": one - each, "sequences": 1 if slow else many}
            if engine == "propagated":
                macs = multiply_adds(lambda: ours(x, True)) / many  # noqa: B023
                got = ours(x[:1], True).sel(position=exact["position"])
                row |= {
                    "multiply_adds": macs,
                    "of_naive": macs / naive,
                    "of_gemm_rate": macs / each / rate,
                    "error": np.abs(got["effect"] - exact["effect"]).max().item() / scale,
                }
            rows.append(row)
            print(pd.DataFrame([row]).to_csv(index=False, float_format="%.4g"), flush=True)
    return pd.DataFrame(rows)


def scaling(device: str) -> pd.DataFrame:
    """Time by number of sequences, members and features."""
    rows = []

    def measure(varied: str, value: int, call: Callable[[], object]) -> None:
        rows.append({"varied": varied, "value": value, "seconds": seconds(call, 2)})

    network, x = made("cnn", 800)
    for n in (100, 200, 400, 800):
        measure("sequences", n, lambda n=n: saturation_mutagenesis(network, x[:n], device=device))
    for m in (5, 10, 20, 40):
        members = [made("cnn", 1, seed)[0] for seed in range(m)]
        measure("members", m, lambda m=members: saturation_mutagenesis(m, x[:100], device=device))
    network, x = made("basset", 4)
    for m in (5, 10, 20):
        draws = MCDropout(network, m)
        measure("draws", m, lambda d=draws: saturation_mutagenesis(d, x[:1], device=device))
    for k in (1, 41, 82, 164):
        chosen = list(range(k))
        measure(
            "features", k,
            lambda c=chosen: saturation_mutagenesis(network, x, features=c, device=device),
        )  # fmt: skip
    return pd.DataFrame(rows)


def precision(device: str) -> pd.DataFrame:
    """Largest error of effects against float64, over the largest prediction and largest effect."""
    rows = []
    for shape in SHAPES:
        network, x = made(shape, 2)
        positions = np.linspace(0, x.shape[2] - 1, 40).astype(int)

        def effects(kind: str, propagate: bool) -> xr.Dataset:
            return saturation_mutagenesis(
                network, x, device=device, positions=positions, precision=kind,  # noqa: B023
                propagate=propagate,
            )  # fmt: skip

        exact = effects("float64", False)
        prediction = np.abs(exact["reference_prediction"]).max().item()
        largest = np.abs(exact["effect"]).max().item()
        for kind in ("float64", "float32", "bfloat16") + ("tf32",) * (device != "cpu"):
            for propagate in (True, False):
                error = np.abs(effects(kind, propagate)["effect"] - exact["effect"]).max().item()
                rows.append({
                    "shape": shape, "precision": kind,
                    "engine": "propagated" if propagate else "in full",
                    "of_prediction": error / prediction, "of_effect": error / largest,
                })  # fmt: skip
    return pd.DataFrame(rows)


def memory(device: str, case: str, windows: int = 1000) -> pd.DataFrame:
    """Peak memory, of 919 features at 100 positions into a store, or of whole windows by a BPNet.

    Peaks only rise within a process: a case has a process of its own, and few windows come first.
    """
    if case == "features":  # a narrow network, a wide result
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv1d(4, 32, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(32, 48, 8), nn.ReLU(),
            nn.MaxPool1d(4), nn.Flatten(), nn.Linear(48 * 60, 64), nn.ReLU(), nn.Linear(64, 919),
        )  # fmt: skip
        codes = np.random.default_rng(0).integers(0, 4, (windows, 1000)).astype(np.uint8)
        x, positions = one_hot(codes), range(100)
    else:
        network, x = made("bpnet", windows)
        positions = range(x.shape[2])
    rows = []
    for n in (windows // 10, windows):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            effects = saturation_mutagenesis(
                network, x[:n], device=device, positions=positions, max_memory=2**30,
                store=Path(folder) / "effects.zarr" if case == "features" else None,
            )  # fmt: skip
            taken = time.perf_counter() - start
            size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows.append({
            "windows": n, "positions": len(positions), "features": effects.sizes["feature"],
            "seconds": taken, "store_bytes": size, "peak_bytes_before": 1024 * before,
            "peak_bytes": 1024 * after,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--precision", action="store_true")
    parser.add_argument("--memory", nargs="?", const="features", choices=["features", "windows"])
    parser.add_argument("--output", type=Path, help="write the table to this CSV file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.scaling:
        table = scaling(options.device)
    elif options.precision:
        table = precision(options.device)
    elif options.memory:
        table = memory(options.device, options.memory)
    else:
        table = compare(options.shapes, options.sequences, options.device, options.peer)
    print(table.to_csv(index=False, float_format="%.4g"))
    if options.output:
        table.to_csv(options.output, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
