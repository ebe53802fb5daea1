"""Time and memory of the causal atlas, and what all pairs of DeepSEA's 919 features would take.

Run from the repository root (not part of the tests):

    python benchmarks/atlas.py --features 100 --windows 1000 --members 5    # target: 110 s of CPU
    python benchmarks/atlas.py --features 919 --windows 2                   # rate, and projection
    python benchmarks/atlas.py --features 919 --windows 20 --length 100

Effects are synthetic, with a few strong positions as in real windows; blocks of windows repeat the
same ones, so that neither making nor reading them is timed. Instruments by the rule "pooled" with
threshold 1, which takes a first pass.

CPU seconds of one core (AMD EPYC with AVX-512, other work beside), IVW and MR-Egger:

    features  window   members  first pass a window  all pairs a window  whole, 1,000 windows
    100       1,000 bp 0        0.003                0.013               22 (measured, with REML)
    100       1,000 bp 5        0.003                0.037               44 (measured, with REML)
    919       1,000 bp 0        0.116                0.589               980: 16 minutes
    919       1,000 bp 5        0.074                1.888               2,200: 37 minutes
    919       100 bp   0        0.006                0.177               460

REML of 1,000 windows takes 0.16 ms a pair and method (3.5 ms by `meta.random_effects`), 270 s for
919 x 918 pairs; members take its weights. In these windows 1,279 of 3,000 substitutions are
instruments of some exposure. Local effects of 919 features wait on disk, 27 GB in float64, 95 GB
with 5 members.

Projected, not measured: the products of 919 x 918 pairs and 1,000 windows are 1.3e13 FLOP (3e13
if all substitutions are instruments; 4.3e13 with 5 members), one or two seconds of a GPU at 30
TFLOP/s in float64, and REML is bound by its memory at a few seconds, so that what the host does to
a window (reading and selecting, 0.1 to 0.2 s of a core) decides: 3 to 5 minutes. Blocks of windows
are independent (`causal_atlas(..., share=(i, n))`): 20 cores take under a minute for local effects,
and one of them 5 minutes for REML. The mutagenesis itself takes longer than any of these.
"""

import argparse
import resource
import tempfile
import time
from functools import partial

import numpy as np
import torch
import xarray as xr

from deepmr_utils import _atlas_plan, _atlas_sums, atlas
from deepmr_utils.meta import random_means

GPU_FLOPS = 30e12  # half of what an H100 or H200 does in float64 on its matrix units


def block_of_effects(n: int, length: int, k: int, members: int) -> xr.Dataset:
    """Effects of n windows on k features, float32, one substitution in twenty strong."""
    rng = np.random.default_rng(0)
    strong = np.exp(2 * (rng.random((n, length, 1, 1)) < 0.05) + rng.normal(size=(n, length, 4, 1)))
    mixing = (np.eye(k) + rng.normal(size=(k, k)) / np.sqrt(k)).astype(np.float32)
    effect = (strong * rng.normal(size=(n, length, 4, k))).astype(np.float32) @ mixing
    se = (strong * rng.uniform(0.1, 0.5, effect.shape)).astype(np.float32)
    effect[:, :, 0] = se[:, :, 0] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    arrays = {"effect": (dims, effect), "se": (dims, se)}
    if members:
        draws = effect + se * rng.normal(size=(members, *effect.shape)).astype(np.float32)
        arrays = {"effect": (dims, draws.mean(0)), "se": (dims, draws.std(0, ddof=1))}
        arrays["member_effect"] = (("member", *dims), draws)
    coordinates = {
        "sequence": np.arange(n), "position": np.arange(length), "allele": list("ACGT"),
        "feature": [f"feature-{i}" for i in range(k)],
    }  # fmt: skip
    return xr.Dataset(arrays, coordinates, {"n_members": members or 5})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--members", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    k, n = chosen.features, chosen.windows
    size = min(n, max(1, 2000 // k))
    block = block_of_effects(size, chosen.length, k, chosen.members)
    blocks = [
        partial(lambda i: block.assign_coords(sequence=np.arange(i, i + size)), i)
        for i in range(0, n, size)
    ]
    n = len(blocks) * size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    start, cpu = time.perf_counter(), time.process_time()
    plan = _atlas_plan.make_plan(blocks, "pooled", 1.0, ("ivw", "egger"), None, None, 2**30)
    found = _atlas_plan.moments(plan)
    first = time.process_time() - cpu
    plan = plan._replace(moments=found, device=torch.device(chosen.device))
    cpu_local, used = time.process_time(), []
    for window in _atlas_plan.windows(block, plan, members=bool(chosen.members)):
        used.append(plan.instruments(window).any(axis=1).sum())
        _atlas_sums.fit_window(window, plan)
    local = (time.process_time() - cpu_local) / size
    print(
        f"{k} features, {chosen.length} bp, {chosen.members} members, {chosen.threads} threads: "
        f"first pass {first / n:.3f} s CPU a window, all pairs {local:.3f} s CPU a window, with "
        f"{np.mean(used):.0f} substitutions that are instruments of any exposure"
    )
    rng = np.random.default_rng(0)
    se = rng.uniform(0.1, 1, (1000, 500))
    cpu_means = time.process_time()
    random_means(rng.normal(0, 0.3, se.shape) + se * rng.normal(size=se.shape), se)
    means = (time.process_time() - cpu_means) / 500
    print(f"REML of 1,000 windows: {means * 1e3:.2f} ms CPU a pair and method")

    if n >= 100:
        start, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            store = f"{folder}/atlas" if chosen.members else None
            table = atlas.causal_atlas(blocks, store=store, device=chosen.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"whole atlas, {n} windows, {len(table)} rows: {time.perf_counter() - start:.0f} s, "
            f"{time.process_time() - cpu:.0f} s CPU; peak {peak:.1f} GB, {before:.1f} before"
        )
    meta = 2 * k * (k - 1) * means
    products = 3 * chosen.members + 5 if chosen.members > 2 else 6
    flop = 1000 * products * 2 * np.mean(used) * k**2
    print(
        f"projected for 1,000 windows, minutes of a core: first pass {1000 * first / n / 60:.1f}, "
        f"all pairs {1000 * local / 60:.1f}, REML {meta / 60:.1f}; products {flop:.2g} FLOP, "
        f"{flop / GPU_FLOPS:.2g} s at {GPU_FLOPS / 1e12:.0f} TFLOP/s; local effects "
        f"{(2 + chosen.members) * 2 * 1000 * k**2 * 8 / 1e9:.1f} GB in float64"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GB, {before:.1f} GB of it the block of effects and Python")


if __name__ == "__main__":
    main()
