"""All that needs a GPU, in one run of under ten minutes: checks, timings, one JSON file.

Run from the repository root (not part of the tests, but for its dry run):

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --steps exactness throughput --minutes 5
    python benchmarks/gpu.py --dry-run             # tiny sizes, on the CPU

What a step finds is printed and written as it comes. A step that fails leaves its traceback there,
and the next one begins; one that would begin after `--minutes` is left out, and said so.
"""

import argparse
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ism
import numpy as np
import torch
from torch import nn

from deepmr_utils import mutagenesis
from deepmr_utils._engine import spectral
from deepmr_utils._engine.layers import _sum_products
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

Found = Iterator[tuple[str, Any]]  # names of results, and these as JSON takes them


class Run(NamedTuple):
    """Where and how large: the sizes of a card, or of a dry run."""

    device: torch.device
    tiny: bool

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU to see."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def network(self, name: str) -> tuple[nn.Module, torch.Tensor]:
        """A network of random weights, and sequences."""
        filters, layers, length, n = {
            "bpnet": (64, 9, 2114, 32), "chrombpnet": (512, 8, 2114, 4),
            "deepsea": (0, 0, 1000, 32), "basset": (0, 0, 960, 32),
        }[name]  # fmt: skip
        torch.manual_seed(0)
        if self.tiny:
            network, length, n = ism.DilatedResidual(8, 2), 60, 2
        elif filters:
            network = ism.DilatedResidual(filters, layers)
        else:
            network = {"deepsea": ism.deepsea, "basset": ism.basset}[name]()
        codes = np.random.default_rng(0).integers(0, 4, (n, length)).astype(np.uint8)
        return network.eval(), one_hot(codes)

    @property
    def networks(self) -> tuple[str, ...]:
        """Names that `network` takes."""
        return ("bpnet",) if self.tiny else ("bpnet", "chrombpnet", "deepsea", "basset")

    def seconds(self, call: Callable[[], object], repeats: int = 10) -> float:
        """Of a call, after one to warm up."""
        call()
        self.wait()
        start = time.perf_counter()
        for _ in range(1 if self.tiny else repeats):
            call()
        self.wait()
        return (time.perf_counter() - start) / (1 if self.tiny else repeats)


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """What the library logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("deepmr_utils").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("deepmr_utils").removeHandler(handler)


@contextlib.contextmanager
def window_of(size: int | None) -> Iterator[None]:
    """Windows of so many bytes; as the library chooses where None."""
    chosen = mutagenesis.Limits

    class Fixed(chosen):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.window = size or self.window

    mutagenesis.Limits = Fixed
    try:
        yield
    finally:
        mutagenesis.Limits = chosen


def switches() -> dict[str, str]:
    """How products of float32 are rounded, as torch says."""
    b, found = torch.backends, {}
    for name, part in {"all": b, "matmul": b.cuda.matmul, "cudnn": b.cudnn}.items():
        found[name] = str(getattr(part, "fp32_precision", None))
    with contextlib.suppress(RuntimeError):  # it refuses a mixture of old and new switches
        found["legacy"] = torch.get_float32_matmul_precision()
    return found


def card(run: Run) -> Found:
    """The card, and versions."""
    yield "torch", [torch.__version__, torch.version.cuda, torch.backends.cudnn.version()]
    yield "switches", switches()
    if run.is_gpu:
        yield "card", str(torch.cuda.get_device_properties(run.device))
        yield "free_and_all_bytes", torch.cuda.mem_get_info(run.device)
        yield "multiply_adds_a_second", ism.gemm_rate(str(run.device))


def tests(run: Run) -> Found:
    """The tests that take a device, and those of its path."""
    files = ["tests/engine/test_cuda_path.py"]
    if not run.tiny:
        files += [f"tests/library/test_{n}.py" for n in ("mutagenesis", "predict", "null", "atlas")]
    only = ["-k", "generators" if run.tiny else "cuda"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *files, *only]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ}
    )
    yield "returned", done.returncode
    yield "said", done.stdout[-1500:]


def exactness(run: Run) -> Found:
    """Errors over the largest effect against float64 in full on the CPU; what is logged."""
    kinds = ["float64", "float32", "bfloat16"] + ["tf32"] * run.is_gpu
    for name in ("bpnet",) if run.tiny else ("cnn", "bpnet", "basset", "deepsea"):
        network, x = run.network(name) if run.tiny else ism.made(name, 2)
        positions = np.unique(np.linspace(0, x.shape[2] - 1, 4 if run.tiny else 16).astype(int))
        options = {"positions": positions}
        exact = saturation_mutagenesis(
            network, x, device="cpu", precision="float64", propagate=False, **options
        )["effect"]
        for kind in kinds:
            with messages() as lines:
                got = saturation_mutagenesis(
                    network, x, device=run.device, precision=kind, **options
                )["effect"]
            error = np.abs(got - exact).max().item() / np.abs(exact).max().item()
            yield f"{name} {kind}", {"error": error, "logged": lines}


def left_alone(run: Run) -> Found:
    """What a call leaves of switches, generators and places of modules."""
    network, x = run.network("bpnet")
    x = x[:1, :, :60]
    before = switches()
    state = torch.cuda.get_rng_state(run.device) if run.is_gpu else torch.get_rng_state()
    kinds = [None, "tf32"] if run.is_gpu else [None]
    for kind in kinds:
        saturation_mutagenesis(network, x, device=run.device, precision=kind)
        yield f"switches after {kind}", switches() == before
    from experiments.training import one_thread

    with one_thread(1, run.device):
        torch.rand(3, device=run.device)
    after = torch.cuda.get_rng_state(run.device) if run.is_gpu else torch.get_rng_state()
    yield "generator as it was", torch.equal(state, after)
    with contextlib.suppress(ValueError):
        saturation_mutagenesis(network, x[:, :3], device=run.device)
    yield "module back on", str(next(network.parameters()).device)


def memory(run: Run) -> Found:
    """A card of which little is given: equal results, and how often batches were halved."""
    network, x = run.network("bpnet")
    x = x[:4]
    options = {"device": run.device, "positions": range(0, x.shape[2], 4)}
    expected = saturation_mutagenesis(network, x, **options)["effect"]
    index = run.device.index or 0
    for share in (0.1, 0.03, 0.01) if run.is_gpu else ():
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated(run.device)
        torch.cuda.set_per_process_memory_fraction(share, index)
        try:
            with messages() as lines:  # planned as if all were free
                got = saturation_mutagenesis(network, x, **options)["effect"]
            yield (
                f"{share}",
                {
                    "difference": np.abs(got - expected).max().item(),
                    "halved": sum("out of GPU memory" in line for line in lines),
                    "bytes_left": torch.cuda.memory_allocated(run.device) - held,
                },
            )
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)
    yield "in float32, largest effect", np.abs(expected).max().item()


def waits(run: Run) -> Found:
    """Where the host waits for the GPU in one call, by line."""
    network, x = run.network("bpnet")
    network.to(run.device)
    saturation_mutagenesis(network, x[:2], device=run.device)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if run.is_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            saturation_mutagenesis(network, x[:2], device=run.device)
        finally:
            if run.is_gpu:
                torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in seen if "sync" in str(w.message))
    yield "by line", dict(lines.most_common(20))


def share_of_gpu(run: Run) -> Found:
    """Time of kernels over that of a call, launches, and the ten longest kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] * run.is_gpu
    for name in run.networks[::2]:
        network, x = run.network(name)
        x = x[: 2 if run.tiny else 8]
        saturation_mutagenesis(network, x, device=run.device)
        run.wait()
        options = {"activities": activities[run.is_gpu :]}
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cycles of the profiler, of which there is one
            with torch.profiler.profile(**options) as seen:
                saturation_mutagenesis(network, x, device=run.device)
                run.wait()
        wall = time.perf_counter() - start
        kind = "self_device_time_total" if run.is_gpu else "self_cpu_time_total"
        parts = sorted(seen.key_averages(), key=lambda event: -getattr(event, kind))
        yield (
            name,
            {
                "share": sum(getattr(event, kind) for event in parts) / 1e6 / wall,
                "launches": sum(event.count for event in parts),
                "longest": [[e.key[:80], getattr(e, kind) / 1e6, e.count] for e in parts[:10]],
            },
        )


def throughput(run: Run) -> Found:
    """Substitutions a second and memory: by precision, by size of windows, and in full."""
    kinds = ["float32"] + ["tf32", "bfloat16"] * run.is_gpu
    for name in run.networks:
        network, x = run.network(name)
        network.to(run.device)
        sizes = (None,) if run.tiny or name != "bpnet" else (None, 2**27, 2**29, 2**30, 2**31)
        ways = [
            (k, w, True) for k, w in itertools.product(kinds, sizes) if k != "bfloat16" or not w
        ]
        for kind, window, propagate in [*ways, ("float32", None, False)]:
            some = x if propagate else x[:1, :, :60] if run.tiny else x[:1]
            positions = None if propagate else range(some.shape[2])[:: 1 if run.tiny else 8]
            times = []
            with messages() as lines, window_of(window):
                for _ in range(2):  # the first to warm up
                    if run.is_gpu:
                        torch.cuda.reset_peak_memory_stats(run.device)
                    start = time.perf_counter()
                    saturation_mutagenesis(
                        network, some, device=run.device, precision=kind, propagate=propagate,
                        positions=positions,
                    )  # fmt: skip
                    times.append(time.perf_counter() - start)
            n = 3 * len(some) * (some.shape[2] if positions is None else len(positions))
            yield f"{name} {kind} window {window} {'propagated' if propagate else 'in full'}", {
                "substitutions_a_second": n / times[1], "substitutions": n,
                "first_seconds": times[0], "logged": lines,
                "peak_bytes": torch.cuda.max_memory_allocated(run.device) if run.is_gpu else None,
            }  # fmt: skip


def peer(run: Run) -> Found:
    """A published engine in the same process, where it is installed."""
    for name, sequences in (("bpnet", 4), ("chrombpnet", 1)):
        if name not in run.networks:
            continue
        network, x = run.network(name)
        x = x[:sequences]
        for fast in (True, False):
            taken = run.seconds(lambda: ism.peer(network, x, fast, str(run.device)), 1)  # noqa: B023
            rate = 3 * x.shape[2] * len(x) / taken
            yield f"{name} fast={fast}", {"substitutions_a_second": rate}


def layers(run: Run) -> Found:
    """Ways of one layer: tap by tap, as one convolution, spectral; pointwise functions, fused."""
    sites = 8 if run.tiny else 1024
    shapes = [(8, 5, 1)] if run.tiny else [(64, 27, 1), (64, 91, 32), (512, 27, 1), (512, 59, 16)]
    for channels, width, dilation in shapes:
        for dtype in (torch.float32, torch.bfloat16) if run.is_gpu else (torch.float32,):
            few = sites if channels < 512 else sites // 8
            data = torch.randn(width, few, 3, channels, device=run.device, dtype=dtype)
            weight = torch.randn(channels, channels, 3, device=run.device, dtype=dtype)
            taps, reach = weight.permute(2, 1, 0).contiguous(), 2 * dilation
            out = data.new_empty(width + reach, few, 3, channels)
            rows = [slice(reach - t * dilation, reach - t * dilation + width) for t in range(3)]
            image = data.view(1, width, few * 3, channels).permute(0, 3, 1, 2)
            kernel = weight[..., None].contiguous(memory_format=torch.channels_last)

            def tap_by_tap() -> None:
                products = [(row, data, tap) for row, tap in zip(rows, taps, strict=True)]  # noqa: B023
                _sum_products(out, products)  # noqa: B023

            def whole() -> torch.Tensor:
                pad, step = (reach, 0), (dilation, 1)  # noqa: B023
                return nn.functional.conv2d(image, kernel, padding=pad, dilation=step)  # noqa: B023

            kind = str(dtype).removeprefix("torch.")
            yield f"{channels} channels, {width} rows, {kind}", {
                "tap_by_tap": run.seconds(tap_by_tap), "conv2d": run.seconds(whole),
            }  # fmt: skip
    taps = torch.randn(8, 6, 5, device=run.device) if run.tiny else torch.randn(
        8, 320, 480, device=run.device
    )  # fmt: skip
    data = torch.randn(8, sites, 3, taps.shape[1], device=run.device)
    matrices = spectral.spectrum(taps, 8)
    yield "spectral", run.seconds(lambda: spectral.spectral_convolution(data, *matrices, 0, 15))

    def pointwise(change: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return torch.relu(change + reference) - torch.relu(reference)

    change = torch.randn(91, sites, 3, 64, device=run.device)
    reference = torch.randn(91, sites, 1, 64, device=run.device)
    yield "pointwise", run.seconds(lambda: pointwise(change, reference))
    if run.is_gpu:  # on the CPU it asks for a compiler
        fused = torch.compile(pointwise, dynamic=True)
        yield "pointwise, compiled", run.seconds(lambda: fused(change, reference))


def training(run: Run) -> Found:
    """Seconds of a short training, and its loss beside the CPU's."""
    from experiments.training import train

    x = one_hot(np.random.default_rng(1).integers(0, 4, (64 if run.tiny else 2048, 100)))
    labels = torch.stack([x[:, 0, 20:40].sum(1), x[:, 1, 50:70].sum(1)], dim=1)
    for device in dict.fromkeys(("cpu", str(run.device))):
        torch.manual_seed(0)
        network = ism.SimulationCNN(100)
        start = time.perf_counter()
        train(network, x, labels, seed=0, epochs=1 if run.tiny else 12, device=device)
        taken = time.perf_counter() - start
        with torch.no_grad():
            loss = (network(x) - labels).square().mean().item()
        yield device, {"seconds": taken, "loss": loss}


STEPS: dict[str, Callable[[Run], Found]] = {
    step.__name__: step
    for step in (
        card, exactness, left_alone, memory, waits, share_of_gpu, throughput, layers, training,
        peer, tests,
    )
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9, help="after which no step begins")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    options = parser.parse_args()
    run = Run(torch.device("cpu" if options.dry_run else options.device), options.dry_run)
    start, found = time.perf_counter(), {}

    def note(step: str, name: str, value: object) -> None:
        found.setdefault(step, {})[name] = value
        options.output.write_text(json.dumps(found, indent=1, default=str))
        print(f"{time.perf_counter() - start:.1f} s, {step}, {name}: {value}", flush=True)

    for step in options.steps:
        began = time.perf_counter()
        if began - start > 60 * options.minutes:
            note(step, "left out", f"{options.minutes:g} minutes were over")
            continue
        try:
            for name, value in STEPS[step](run):
                note(step, name, value)
        except Exception:
            note(step, "error", traceback.format_exc())
        note(step, "seconds", time.perf_counter() - began)


if __name__ == "__main__":
    main()
