"""Stored seeds of the simulated chromatin, and the network that comes with the package.

``python -m experiments.chromatin.draws book/parameters/deepsea_demo_scale.yml --workers 2``
computes what is missing of the seeds that a file names, or with ``--run 3`` that one, and goes on
where it was interrupted; ``python -m experiments.chromatin.draws --network
deepmr_utils/data/demo_deepsea.pt`` trains the network of the notebook.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from deepmr_utils._files import read_record, read_table, write_record, write_table

from ..binding.genomes import claim
from ..parameter_files import read_parameters
from ..study import run_missing, which
from .one_draw import Run, Settings, classify, run, train
from .simulated import ACCESSIBILITY, ROLES, Parameters, causes


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from flat values; those of the chromatin are told by their names."""
    own = {name for name in Settings.__dataclass_fields__ if name != "parameters"}
    known = {*own, *Parameters.__dataclass_fields__}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown setting {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    parameters = Parameters(**{k: v for k, v in values.items() if k not in own})
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in own}
    return Settings(parameters, **chosen)


def study(
    settings: Settings, runs: int | Sequence[int], directory: str | Path, *, workers: int = 1,
    progress: bool = False,
) -> None:  # fmt: skip
    """Compute what is missing of some seeds, and store each as it finishes.

    Parameters
    ----------
    settings : Settings
    runs : int or sequence of int
        How many, from 0 on, or which.
    directory : path
        It belongs to one `Settings`.
    workers : int
        Seeds at a time, each in a process of its own with one thread.
    progress : bool
    """
    directory = Path(directory)
    claim(directory, settings)
    jobs = {number: (directory, settings, number) for number in which(runs)}
    run_missing(
        _run_and_store, jobs, lambda number: _path(directory, number).exists(),
        workers=workers, progress=progress, desc="seeds",
    )  # fmt: skip


def _run_and_store(directory: Path, settings: Settings, number: int) -> None:
    torch.set_num_threads(1)
    store(directory, run(settings, number))


def _path(directory: Path, number: int) -> Path:
    return directory / f"run-{number:03d}.json"


def store(directory: str | Path, result: Run) -> None:
    """Write a run: tables as parquet, numbers as float32, then the record, which marks the end."""
    path = _path(Path(directory), result.record["run"])
    for name, table in (("globals", result.globals_), ("local", result.local)):
        write_table(path.with_name(f"{path.stem}-{name}.parquet"), table, None)
    write_record(path, result.record)


def load(directory: str | Path, number: int) -> Run:
    """Read a run that `store` wrote."""
    path = _path(Path(directory), number)
    if not path.exists():
        raise FileNotFoundError(f"seed {number} is not in {directory}")
    tables = [
        read_table(path.with_name(f"{path.stem}-{name}.parquet"), path)
        for name in ("globals", "local")
    ]
    return Run(*tables, read_record(path))


def stored(directory: str | Path) -> list[Run]:
    """All runs that are there, by number."""
    paths = sorted(Path(directory).glob("run-*.json"))
    return [load(directory, int(path.stem[4:])) for path in paths]


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """How well effects were recovered, by chain, over all runs.

    Returns
    -------
    pd.DataFrame
        Indexed by chain: ``auroc`` (mean over runs: do absolute effects on accessibility tell its
        causes from other factors), ``auroc_reverse`` (the same of accessibility's effects on
        factors), ``causes_found`` (share of causes whose total interval lies on the right side of
        0), ``covers_zero`` and ``covers_zero_reverse`` (share of the others' total intervals that
        hold 0), ``covers_truth``, ``roles`` (share of factors that `classify` names right), and
        ``runs``.
    """
    acting, followers = causes(ACCESSIBILITY), [k for k, v in ROLES.items() if v == "follower"]
    rows = []
    for result in runs:
        for chain, table in result.globals_.groupby("chain", sort=False):
            there = table[table["outcome"] == ACCESSIBILITY].set_index("exposure")
            back = table[table["exposure"] == ACCESSIBILITY].set_index("outcome")
            causal, reverse = there.index.isin(acting), back.index.isin(followers)
            sign = np.where(there.index.map(ROLES) == "repressor", -1, 1)
            low, high = there["total_ci_low"], there["total_ci_high"]
            right = np.where(sign > 0, low > 0, high < 0)
            named = classify(table).set_index("factor")["role"]
            rows.append({
                "chain": chain, "run": result.record["run"],
                "auroc": roc_auc_score(causal, there["effect"].abs()),
                "auroc_reverse": roc_auc_score(reverse, back["effect"].abs()),
                "causes_found": right[causal].mean(),
                "covers_zero": _holds(there[~causal], 0).mean(),
                "covers_zero_reverse": _holds(back[~reverse], 0).mean(),
                "covers_truth": _holds(table, table["truth"]).mean(),
                "roles": (named == named.index.map(ROLES)).mean(),
            })  # fmt: skip
    groups = pd.DataFrame(rows).drop(columns="run").groupby("chain", sort=False)
    return groups.mean().assign(runs=groups.size())


def _holds(table: pd.DataFrame, value: pd.Series | float) -> pd.Series:
    return (table["total_ci_low"] <= value) & (value <= table["total_ci_high"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the runs that a YAML file names, or train the shipped network."""
    parser = argparse.ArgumentParser(prog="experiments.chromatin.draws", description=main.__doc__)
    parser.add_argument("parameters", nargs="?", help="YAML: directory, runs, settings")
    parser.add_argument("--network", help="train the network of the notebook, and write it here")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--workers", type=int, default=1, help="seeds at a time (default 1)")
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--run", type=int, help="only this")
    given = parser.parse_args(arguments)
    if given.network:
        network, table = train(Settings(), seed=0)
        print(table.round(3).to_string(index=False))
        torch.save(network.state_dict(), given.network)
        return
    if given.parameters is None:
        parser.error("give a YAML file of parameters, or --network")
    raw = read_parameters(given.parameters)
    settings = make_settings(raw.get("settings") or {})
    runs = min(raw["runs"], given.runs or raw["runs"]) if given.run is None else [given.run]
    directory = given.directory or raw["directory"]
    study(settings, runs, directory, workers=given.workers, progress=True)


if __name__ == "__main__":
    main()
