"""What a GPU would meet, seen without one: where tensors lie, what is uploaded, rounded and held.

The device `meta` holds no numbers, and runs every operation where its tensors lie.
"""

import contextlib
import gc
import importlib
import json
import sys
import weakref
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepmr_utils import _memory, predict
from deepmr_utils._engine import blocks, engines, windows
from deepmr_utils._engine.propagation import Propagator
from deepmr_utils._engine.spectral import spectrum
from deepmr_utils._engine.windows import Options, Sites
from deepmr_utils._members import leaves, seeded
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

LENGTH = 64


def sequences(n=2, length=LENGTH, dtype=torch.float32):
    return one_hot(np.random.default_rng(0).integers(0, 4, (n, length)).astype(np.uint8), dtype)


class Residual(nn.Module):
    """A body of dilated layers, as BPNet's."""

    def __init__(self, depth=3, filters=8):
        super().__init__()
        self.first = nn.Conv1d(4, filters, 5, padding=2)
        self.body = nn.ModuleList(
            nn.Conv1d(filters, filters, 3, padding=2**i, dilation=2**i) for i in range(depth)
        )
        self.last = nn.Linear(filters, 2)

    def forward(self, x):
        x = self.first(x).relu()
        for layer in self.body:
            x = x + layer(x).relu()
        return self.last(x.mean(2))


def dense(*rest):
    return nn.Sequential(
        nn.Conv1d(4, 8, 7, padding=3), nn.BatchNorm1d(8), *rest, nn.Flatten(), nn.LazyLinear(3)
    )


NETWORKS = {
    "residual": Residual,
    "deep residual": partial(Residual, 6),
    "pooled": lambda: dense(nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 8, 5), nn.GELU()),
    "averaged": lambda: dense(nn.Tanh(), nn.AvgPool1d(3, 2, 1), nn.Conv1d(8, 6, 3, groups=2)),
    "overlapping": lambda: dense(nn.MaxPool1d(5, 3, padding=1), nn.Conv1d(8, 8, 3, stride=2)),
    "global maximum": lambda: dense(nn.ELU(), nn.AdaptiveMaxPool1d(1)),
    "global mean": lambda: dense(nn.ELU(), nn.AdaptiveAvgPool1d(1)),
}


def made(name, dtype=torch.float32):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    with torch.no_grad():
        net(sequences())
    return net.to(dtype)


def all_sites(x):
    sequence, position = (i.ravel() for i in np.indices((len(x), x.shape[2])))
    codes = np.arange(len(sequence)) % 4
    change = torch.eye(4, dtype=x.dtype)[codes][:, None].repeat(1, 3, 1)
    return Sites(sequence, position, change)


class Devices(TorchDispatchMode):
    """Counts copies to `meta`, and fails where an operation mixes devices."""

    def __init__(self):
        super().__init__()
        self.uploads, self.operations = 0, Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        output = op(*args, **(kwargs or {}))
        name = op.overloadpacket.__name__
        self.operations[name] += 1
        given = {t.device.type for t in leaves((args, kwargs), torch.Tensor) if t.ndim}
        made = {t.device.type for t in leaves(output, torch.Tensor)}
        if name in ("_to_copy", "copy_"):
            assert made != {"cpu"} or given == {"cpu"}, f"{name} copies back to the host"
            self.uploads += "cpu" in given and "meta" in given | made
        else:
            assert len(given) < 2, f"{name} mixes {given}"
        return output


def carried_on_meta(name, window_bytes):
    """Operations of `mutants` on `meta`, uploads, and number of batches."""
    net, x = made(name).to("meta"), sequences().to("meta")
    sites = all_sites(sequences())
    sites = sites._replace(change=sites.change.to("meta"))
    batches = []

    class Counted(Propagator):
        def _carry(self, *arguments):
            batches.append(0)
            return super()._carry(*arguments)

    with torch.no_grad():
        heads = [(0, list(range(net(x).shape[1])))]
        engine = Counted(net, x, heads, Options({}))
        state, _ = engine.reference(x)
        few = Sites(*(part[:2] for part in sites))
        engine.mutants(state, few, 1)  # the size of windows is known from now on
        batches.clear()
        with Devices() as seen:
            predictions = engine.mutants(state, sites, window_bytes)
    assert predictions.shape == (2 * LENGTH, 3, len(heads[0][1]))
    return seen, len(batches)


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"deep residual"}))
def test_a_batch_uploads_its_sites_and_no_rows(name):
    """Sequences and starts of a batch, once for every stride in which these are counted."""
    (few, n), (many, m) = (carried_on_meta(name, size) for size in (2**17, 2**13))
    assert m > n + 2
    assert (many.uploads - few.uploads) / (m - n) <= 6
    assert few.uploads <= 8 + 6 * n  # 8 for all batches


def test_uploads_do_not_grow_with_depth():
    (shallow, n), (deep, m) = (
        carried_on_meta(name, 2**20) for name in ("residual", "deep residual")
    )
    assert n == m
    assert shallow.uploads == deep.uploads <= 8


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_made_on_a_device_are_those_of_numpy(name, monkeypatch):
    net, x = made(name, torch.float64), sequences(dtype=torch.float64)
    with torch.no_grad():
        engine = Propagator(net, x, [(0, [0, 1])], Options({}))
        state, _ = engine.reference(x)
        engine.mutants(state, Sites(*(part[:2] for part in all_sites(x))), 1)
        expected = engine.mutants(state, all_sites(x), 2**13)
        with monkeypatch.context() as patch:
            patch.setattr(windows, "is_host", lambda device: False)
            got = engine.mutants(state, all_sites(x), 2**13)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    assert windows.uploaded.cache_info().currsize == 0  # nothing stays on the device


def test_running_maxima_are_made_once_for_all_batches():
    seen, batches = carried_on_meta("global maximum", 2**13)
    assert batches > 3
    assert seen.operations["cummax"] == 0  # the call before had made them


def test_spectral_matrices_are_made_on_the_device():
    with Devices() as seen:
        parts = spectrum(torch.empty(8, 5, 3, device="meta"), 7)
    assert {part.device.type for part in parts} == {"meta"}
    assert seen.uploads == 0


def test_a_window_is_converted_to_bfloat16_once_a_layer():
    net, x = made("residual"), sequences()
    with torch.no_grad():
        engine = Propagator(net, x, [(0, [0, 1])], Options({}, bfloat16=True))
        state, _ = engine.reference(x)
        engine.mutants(state, all_sites(x), 2**30)
        with Devices() as seen:
            engine.mutants(state, all_sites(x), 2**30)
    assert seen.operations["_to_copy"] == 4  # convolutions, of 5 and 3 taps


class Tf32(TorchDispatchMode):
    """Rounds factors of products to 10 bits of mantissa while `on`; counts them."""

    def __init__(self):
        super().__init__()
        self.on, self.rounded = False, Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__.removesuffix("_")
        if self.on and name in ("mm", "bmm", "addmm", "convolution"):
            self.rounded[name] += 1
            first = 1 if name == "addmm" else 0
            args = [*args]
            for i in (first, first + 1):
                bits = args[i].contiguous().view(torch.int32)
                args[i] = (bits + 0x1000 & ~0x1FFF).view(torch.float32).view(args[i].shape)
        return op(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def products(self, device, tf32):
        before, self.on = self.on, tf32
        yield
        self.on = before


def test_tf32_rounds_effects_and_not_predictions(monkeypatch, caplog):
    """Errors are a share of the effects, whatever the predictions are."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 32, 7), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(32, 32, 5), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 25, 16), nn.ReLU(), nn.Linear(16, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[-1].bias += 3
    x = sequences(1)
    exact = saturation_mutagenesis(net, x, device="cpu", precision="float64")["effect"]
    mode = Tf32()
    monkeypatch.setattr(windows, "float32_products", mode.products)
    monkeypatch.setattr(engines, "float32_products", mode.products)

    def error(propagate):
        with torch.no_grad(), mode:
            (engine,) = engines.engines_of(
                [(net, [net(x)], [0, 1, 2])], x[0], propagate, Options({}, tf32=True)
            )
            mode.rounded.clear()
            codes = x.argmax(1).numpy()
            block = blocks.Block(x, codes, np.ones_like(codes, bool))
            limits = blocks.Limits(None, 2**30, x.device)
            values = blocks.block_moments(block, [engine], limits, None, False)
            effect = block.spread(values, np.arange(LENGTH), False, False)["effect"]
        return np.nanmax(np.abs(effect - exact)) / np.nanmax(np.abs(exact))

    assert error(True) < 1e-3
    assert not caplog.messages
    # taps of the convolutions and places of the dense layer; no convolution of a reference
    assert mode.rounded["mm"] > 25
    assert mode.rounded["convolution"] == 0
    assert error(False) > 3e-3
    assert caplog.messages[-1].startswith(
        "in full prediction errors of tf32 follow the predictions"
    )


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_full_gpu_halves_sequences_as_well_as_sites(error, monkeypatch, caplog):
    """References of four sequences do not fit; windows are let go before the cache is emptied."""
    net, x = made("residual", torch.float64), sequences(5, dtype=torch.float64)
    expected = saturation_mutagenesis(net, x, device="cpu")
    alive, at_empty, sizes = [], [], []
    reference, carry = Propagator.reference, Propagator._carry

    def full(self, x):
        state, predictions = reference(self, x)
        alive.append(weakref.ref(state))
        sizes.append(len(x))
        if len(x) > 3:
            raise type(error)(*error.args)  # whose traceback holds this frame
        return state, predictions

    def also(self, references, sites):
        batch = carry(self, references, sites)
        alive.append(weakref.ref(batch))
        if len(sites.sequence) > 100:
            raise type(error)(*error.args)  # whose traceback holds this frame
        return batch

    def empty_cache():
        gc.collect(0)
        at_empty.append(sum(one() is not None for one in alive))

    monkeypatch.setattr(Propagator, "reference", full)
    monkeypatch.setattr(Propagator, "_carry", also)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    got = saturation_mutagenesis(net, x, device="cpu")
    np.testing.assert_allclose(got["effect"], expected["effect"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(got["reference_prediction"], expected["reference_prediction"])
    assert at_empty == [0, 0]
    assert sizes == [1, 5, 3, 2, 2, 2, 2]  # the check; of 5 x 64 sites all, 160, and 80 each
    assert [m.split(":")[0] for m in caplog.messages] == [
        "out of GPU memory with 320 sites",
        "out of GPU memory with 160 sites",
    ]


def test_other_errors_are_no_lack_of_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("an illegal memory access was encountered")

    net, x = made("residual"), sequences()
    monkeypatch.setattr(blocks.Block, "predictions", broken)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("emptied the cache"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        saturation_mutagenesis(net, x, device="cpu")


def test_windows_and_blocks_follow_the_free_memory(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert _memory.memory_for(None, cpu) == 2**31
    assert _memory.memory_for(2**40, cpu) == 2**40
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 2**30)
    assert _memory.memory_for(None, gpu) == 64 * 2**30  # 0.8 of 70 and 10
    assert _memory.memory_for(2**33, gpu) == 2**33
    assert _memory.memory_for(2**40, gpu) == 64 * 2**30
    assert blocks.Limits(None, 2**31, cpu).window == 2**22
    large = blocks.Limits(None, 64 * 2**30, gpu)
    assert large.window == 2**30

    class Engine:
        bytes_per_sequence = 2**24

    large.bytes_per_site = 2**10
    assert large.sequences([Engine], 2000, 8) == 2**17 // 2000
    assert large.sequences([Engine], 1000, 919) == 2**31 // (64 * 1000 * 919)  # result of 2 GiB


def test_predict_sizes_its_batches_and_halves_them(monkeypatch):
    sizes = []

    class Counted(Residual):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    class Raising(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    torch.manual_seed(0)
    net, x = Counted().double(), sequences(12, dtype=torch.float64)
    with torch.no_grad():
        expected = Residual.forward(net.eval(), x)
    got = predict.predict(net, x, device="cpu")
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)
    assert sizes == [12, 6, 3, 1, 3, 3, 3]  # one alone: that predictions can be repeated
    sizes.clear()
    monkeypatch.setattr(predict, "free_memory", lambda device: 1e5)
    predict.predict(net, x, device="cpu")
    assert sizes == [1, 3, 1, 3, 3, 3]  # one, to see that it takes 27 kB
    with pytest.raises(torch.OutOfMemoryError):
        predict.predict(Raising(), x, device="cpu")


def test_weights_are_hashed_once_for_all_draws(monkeypatch):
    net = nn.Sequential(nn.Conv1d(4, 3, 5), nn.Dropout(), nn.Flatten(), nn.Linear(180, 2))
    read, bytes_of = [], predict._members.bytes_of
    monkeypatch.setattr(predict._members, "bytes_of", lambda t: (read.append(0), bytes_of(t))[1])
    hashes = {predict.model_hash(predict.MCDropout(net, n).members()) for n in (1, 2, 20)}
    assert len(read) == 3 * 4
    assert len(hashes) == 3


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_only_the_generators_in_use_are_seeded(device, monkeypatch):
    torch.manual_seed(3)
    state, calls = torch.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: calls.append("all"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: calls.append(seed))
    monkeypatch.setattr(torch.cuda, "device", lambda one: contextlib.nullcontext(calls.append(one)))
    if device != "cpu":
        fork = lambda devices: contextlib.nullcontext(calls.append(devices))  # noqa: E731
        monkeypatch.setattr(torch.random, "fork_rng", fork)
    with seeded(7, device):
        drawn = torch.rand(3)
    generator = torch.Generator().manual_seed(7)
    np.testing.assert_array_equal(drawn, torch.rand(3, generator=generator))
    one = torch.device(device)
    assert calls == ([] if device == "cpu" else [[one], one, 7])
    if device == "cpu":
        np.testing.assert_array_equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_device_agrees_with_full_predictions_on_the_cpu(name, device, caplog):
    net, x = made(name, torch.float64), sequences(dtype=torch.float64)
    got = saturation_mutagenesis(net, x, device=device)["effect"]
    assert not caplog.messages
    expected = saturation_mutagenesis(net, x, device="cpu", propagate=False)["effect"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * np.abs(expected).max().item())


def test_the_run_on_a_gpu_works_when_it_is_dry(monkeypatch, tmp_path):
    """Every step of `benchmarks/gpu.py`, but the tests and the engine that it compares with."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark = importlib.import_module("gpu")
    steps = [step for step in benchmark.STEPS if step not in ("tests", "peer")]
    output = tmp_path / "found.json"
    given = ["gpu.py", "--dry-run", "--output", str(output), "--steps", *steps]
    monkeypatch.setattr(sys, "argv", given)
    benchmark.main()
    found = json.loads(output.read_text())
    assert [*found] == steps
    assert [part["error"] for part in found.values() if "error" in part] == []
    assert found["exactness"]["bpnet float64"]["error"] < 1e-9
