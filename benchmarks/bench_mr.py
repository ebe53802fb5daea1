"""Time of every MR method and of the meta-analysis.

Run from the repository root (not part of the tests):

    pytest benchmarks/bench_mr.py --benchmark-columns=min,median,rounds --benchmark-sort=name
    python benchmarks/bench_mr.py        # 10,000 sequences x 300 instruments: seconds and memory

What R needed for 500 x 60 on 2 cores, in seconds: IVW 0.8-1.3, MR-Egger 0.85-1.1, robust MR-Egger
3.0-4.6, RAPS (Tukey) 3.4-5.4, weighted median with 1,000 draws 27.
"""

import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from deepmr_utils import meta, mr

# One call of each takes long enough; hetpen has a limit of 15 instruments.
SLOW = {"hetpen": (50, 12), "mbe_simple": (500, 60), "mbe_weighted": (500, 60)}
LARGE = ("ivw", "egger", "egger_robust", "raps_overdispersed_tukey", "conmix", "divw")


def summary_data(rows: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Instruments of one effect, a fifth of them with pleiotropy."""
    rng = np.random.default_rng(seed)
    bx = rng.normal(0, 0.5, (rows, width))
    sx, sy = rng.uniform(0.02, 0.1, (2, rows, width))
    by = 1.7 * bx + rng.normal(0, sy)
    by += (rng.random((rows, width)) < 0.2) * rng.normal(0.5, 0.5, (rows, width))
    return [bx + rng.normal(0, sx), sx, by, sy]


@pytest.mark.parametrize("method", list(mr.REGISTRY))
def test_estimate(benchmark, method):
    rows, width = SLOW.get(method, (500, 60))
    benchmark.extra_info["size"] = f"{rows} x {width}"
    rounds = 1 if method in SLOW else 5
    data = summary_data(rows, width)
    table = benchmark.pedantic(mr.estimate, (*data, method), rounds=rounds, warmup_rounds=1)
    assert (table["status"] == "ok").mean() > 0.98


@pytest.mark.parametrize("tau2_method", ["reml", "dl", "pm"])
def test_meta_of_200_groups_of_500(benchmark, tau2_method):
    rng = np.random.default_rng(0)
    se = rng.uniform(0.1, 0.5, (200, 500))
    effect = rng.normal(1, np.hypot(se, 0.3))
    table = benchmark.pedantic(meta.random_effects, (effect, se, tau2_method), rounds=3)
    assert (table["status"] == "ok").all()


def large(method: str) -> None:
    """Fit 10,000 x 300 in this process; print seconds and what the fit added to memory."""
    data = summary_data(10_000, 300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    table = mr.estimate(*data, method)
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    failed = (table["status"] != "ok").sum()
    print(f"{method:26s} {seconds:8.2f} s  {added:8.0f} MB above the data's 96 MB  {failed} failed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        large(sys.argv[1])
    else:
        for name in LARGE:  # each in its own process, whose peak memory is that method's
            subprocess.run([sys.executable, __file__, name], check=True)
