"""Seconds of `deep_mr` on effects at hand: all pairs of some features, with members.

python benchmarks/deep_mr.py
"""

import argparse
import time

import numpy as np
import xarray as xr

from deepmr_utils import deep_mr


def effects_of(features: int, windows: int, length: int, members: int) -> xr.Dataset:
    """Effects of sites of ten bases, one a feature and window, and noise."""
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 4, (windows, length))
    effect = np.zeros((windows, length, 4, features), np.float32)
    for k in range(features):
        for i, start in enumerate(rng.integers(0, length - 10, windows)):
            effect[i, start : start + 10, :, k] = -rng.gamma(2, 0.5, (10, 4))
    shape = (members, *effect.shape)
    each = effect + 0.02 * rng.standard_normal(shape, dtype=np.float32)
    each[:, np.arange(4) == reference[..., None]] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    return xr.Dataset(
        {
            "effect": (dims, each.mean(0)), "se": (dims, each.std(0, ddof=1)),
            "member_effect": (("member", *dims), each),
        },
        {
            "sequence": [f"s{i}" for i in range(windows)], "position": range(length),
            "allele": list("ACGT"), "feature": [f"f{k}" for k in range(features)],
            "reference": (("sequence", "position"), np.array(list("ACGT"))[reference]),
        },
        {"n_members": members},
    )  # fmt: skip


def main() -> None:
    """Time the designs that need no motif."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("features", 4), ("windows", 500), ("length", 400), ("members", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    effects = effects_of(**vars(parser.parse_args()))
    for design in ("strongest", "all"):
        start, cpu = time.perf_counter(), time.process_time()
        found = deep_mr(effects, design=design)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        pairs, rows = len(found.effects), len(found.instruments)
        print(f"{design}: {seconds:.1f} s ({cpu:.1f} s CPU), {pairs} pairs, {rows} instruments")


if __name__ == "__main__":
    main()
