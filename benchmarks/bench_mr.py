"""Time of every MR method and of the meta-analysis.

Run from the repository root:

    python benchmarks/bench_mr.py                # milliseconds per 1,000 sequences
    python benchmarks/bench_mr.py --large        # 10,000 sequences x 300 instruments, and memory
    python benchmarks/bench_mr.py egger_robust   # the same of one method

What R needed for 500 x 60 on 2 cores, in seconds: IVW 0.8-1.3, MR-Egger 0.85-1.1, robust MR-Egger
3.0-4.6, RAPS (Tukey) 3.4-5.4, weighted median with 1,000 draws 27.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from deepmr_utils import meta, mr

# One call of each takes long enough; hetpen has a limit of 15 instruments.
SLOW = {"hetpen": (50, 12), "mode_simple": (500, 60), "mode_weighted": (500, 60)}
LARGE = ("ivw", "egger", "egger_robust", "raps_overdispersed_tukey", "conmix", "divw")


def summary_data(rows: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Instruments of one effect, a fifth of them with pleiotropy."""
    rng = np.random.default_rng(seed)
    bx = rng.normal(0, 0.5, (rows, width))
    sx, sy = rng.uniform(0.02, 0.1, (2, rows, width))
    by = 1.7 * bx + rng.normal(0, sy)
    by += (rng.random((rows, width)) < 0.2) * rng.normal(0.5, 0.5, (rows, width))
    return [bx + rng.normal(0, sx), sx, by, sy]


def report(name: str, rows: int, width: int, call: Callable[[], pd.DataFrame], rounds: int) -> None:
    """Print a row of the table: the fastest of some rounds, after one that warms up."""
    table, seconds = call(), []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    good = (table["status"] == "ok").mean()
    print(f"{name:26s} {rows:6d} x {width:<6d} {1e6 * min(seconds) / rows:12.1f} {good:6.1%}")


def small() -> None:
    """Every method on 500 sequences, and the meta-analysis of 200 groups of 500."""
    print(f"{'method':26s} {'sequences x size':15s} {'ms per 1,000':>12s} {'ok':>6s}")
    for method in mr.REGISTRY:
        rows, width = SLOW.get(method, (500, 60))
        data = summary_data(rows, width)
        rounds = 1 if method in SLOW else 5
        report(method, rows, width, lambda d=data, m=method: mr.estimate(*d, m), rounds)
    rng = np.random.default_rng(0)
    se = rng.uniform(0.1, 0.5, (200, 500))
    effect = rng.normal(1, np.hypot(se, 0.3))
    for rule in ("reml", "dl", "pm"):
        report(f"meta {rule}", 200, 500, lambda r=rule: meta.random_effects(effect, se, r), 3)


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("method", nargs="?", choices=list(mr.REGISTRY))
    parser.add_argument("--large", action="store_true")
    chosen = parser.parse_args()
    if chosen.method:
        large(chosen.method)
    elif chosen.large:
        for name in LARGE:  # each in its own process, whose peak memory is that method's
            subprocess.run([sys.executable, __file__, name], check=True)
    else:
        small()


if __name__ == "__main__":
    main()
