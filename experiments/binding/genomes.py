"""Many runs on demo genomes, each stored as it finishes.

``python -m experiments.binding.genomes book/parameters/bpnet_demo_scale.yml --workers 2`` computes
what is missing of all runs that a file names, and goes on where it was interrupted; ``--sets empty
--graphs empty --run 3`` computes one of them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from deepmr_utils._files import read_record, read_table, write_record, write_table
from deepmr_utils.analysis import PAIR, call_direct, direction_test

from ..parameter_files import read_parameters
from ..study import claim_values, run_missing, which
from . import genome, graph_scores
from .one_genome import DIRECT, TRUTH_COLUMNS, Run, Settings, make_settings, plain, run


def study(
    settings: Mapping[str, tuple[Settings, Sequence[str], int | Sequence[int]]],
    directory: str | Path,
    *,
    workers: int = 1,
    progress: bool = False,
) -> None:
    """Compute what is missing of several sets of runs, and store each run as it finishes.

    Parameters
    ----------
    settings : mapping
        By name of the set: its settings, graphs, and how many runs a graph, or which. Sets are
        stored in folders of their names; runs are done in turn, so that what there is of an
        unfinished study is balanced.
    directory : path
    workers : int
        Runs at a time, each in a process of its own with one thread.
    progress : bool
    """
    jobs = []
    for name, (one, graphs, runs) in settings.items():
        for graph in graphs:
            replace(one.parameters, graph=graph)  # raises where unknown
        folder, numbers = Path(directory) / name, which(runs)
        claim(folder, one)
        jobs += [
            (k / len(numbers), folder, one, graph, number)
            for k, number in enumerate(numbers)
            for graph in graphs
        ]
    run_missing(
        _run_and_store,
        {_path(job[1], *job[3:]): job[1:] for job in sorted(jobs, key=lambda job: job[0])},
        Path.exists, workers=workers, progress=progress,
    )  # fmt: skip


def _run_and_store(directory: Path, settings: Settings, graph: str, number: int) -> None:
    torch.set_num_threads(1)
    store(directory, run(settings, graph, number))


def claim(directory: Path, settings: Settings) -> None:
    """Write the settings into a new directory, or check them in one that has been used."""
    claim_values(directory, plain(settings))


def read_settings(directory: str | Path) -> Settings:
    """The settings of stored runs."""
    values = read_record(Path(directory) / "settings.json")
    values.pop("deepmr_utils")
    return make_settings(values)


def _path(directory: Path, graph: str, number: int) -> Path:
    return directory / graph / f"run-{number:03d}.json"


def store(directory: Path, result: Run) -> None:
    """Write a run: tables as float32 parquet, then the record, which marks it as finished."""
    path = _path(directory, result.record["graph"], result.record["run"])
    for name, table in result._asdict().items():
        if name != "record":
            final = path.with_name(f"{path.stem}-{name.strip('_')}.parquet")
            write_table(final, table, TRUTH_COLUMNS)
    write_record(path, result.record)


def load(directory: str | Path, graph: str, number: int) -> Run:
    """Read a run that `store` wrote."""
    path = _path(Path(directory), graph, number)
    if not path.exists():
        raise FileNotFoundError(f"run {number} of graph {graph} is not in {directory}")
    tables = [
        read_table(path.with_name(f"{path.stem}-{name}.parquet"), path)
        for name in ("local", "globals", "members")
    ]
    return Run(*tables, read_record(path))


def stored(directory: str | Path) -> list[Run]:
    """All runs of one set that are there, by graph, then number; none where there are none."""
    paths = sorted(Path(directory).glob("*/run-*.json"))
    return [load(directory, path.parent.name, int(path.stem[4:])) for path in paths]


def score_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """How well each run recovers its graph, a row a run and chain.

    Returns
    -------
    pd.DataFrame
        ``graph, run, chain``, the scores of `.graph_scores.recovery`, and over the
        factors that have reads: ``edges`` of the graph, ``way``, how many of them have a direction
        that is told (p below 0.05), ``called``, how many are called direct, ``miscalled``, how many
        pairs without an edge are.
    """
    rows = []
    for one in runs:
        graph = genome.GRAPHS[one.record["graph"]]
        edges = {pair for pair in graph.edges if genome.HIDDEN not in pair}
        whole, members = (t[t["bin"] == "all"] for t in (one.globals_, one.members))
        direct = whole[whole["chain"] == DIRECT]
        for chain in whole["chain"].unique():
            table = whole[whole["chain"] == chain]
            ways = direction_test(table, members[members["chain"] == chain])
            told = set(map(tuple, ways.loc[ways["p"] < 0.05, PAIR].to_numpy()))
            calls = call_direct(table, direct)["called"]
            called = set(calls.index[calls])
            counts = [edges, edges & told, edges & called, called - edges]
            names = ("edges", "way", "called", "miscalled")
            row = {"graph": one.record["graph"], "run": one.record["run"], "chain": chain}
            row |= graph_scores.recovery(table)
            rows.append(row | dict(zip(names, map(len, counts), strict=True)))
    return pd.DataFrame(rows, columns=None if rows else ["graph", "run", "chain"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the runs that a YAML file names."""
    parser = argparse.ArgumentParser(prog="experiments.binding.genomes", description=main.__doc__)
    parser.add_argument("parameters", help="YAML: directory, and by set: graphs, runs, settings")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--runs", type=int, help="at most so many a graph")
    parser.add_argument("--run", type=int, help="only this of each graph")
    parser.add_argument("--graphs", nargs="+", help="only these")
    parser.add_argument("--sets", nargs="+", help="only these")
    given = parser.parse_args(arguments)
    raw = read_parameters(given.parameters)
    for name in given.sets or ():
        if name not in raw["sets"]:
            raise ValueError(f"unknown set {name!r}: choose among {', '.join(raw['sets'])}")
    sets = {}
    for name in given.sets or raw["sets"]:
        one = raw["sets"][name]
        graphs, n = one.pop("graphs"), one.pop("runs")
        graphs = [g for g in graphs if not given.graphs or g in given.graphs]
        n = min(n, given.runs or n) if given.run is None else [given.run]
        sets[name] = make_settings(one), graphs, n
    study(sets, given.directory or raw["directory"], workers=given.workers, progress=True)


if __name__ == "__main__":
    main()
