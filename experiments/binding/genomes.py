"""Many runs on demo genomes, each stored as it finishes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from deepmr_utils.direct import call_direct
from deepmr_utils.intervals import intervals
from deepmr_utils.negative_controls import calibrate
from deepmr_utils.pairs import PAIR, direction_test

from ..study import Study, Unit, load_result, make_settings, store_result
from . import genome, graph_scores
from .one_genome import (
    DIRECT,
    GLOBAL_COLUMNS,
    LOCAL_COLUMNS,
    TRUTH_COLUMNS,
    Run,
    Settings,
    run,
)

ENDS = ["ci_low", "ci_high"]
TOTALS = ["total_se", "total_df", "total_ci_low", "total_ci_high", "total_p"]


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    settings = make_settings(Settings, values)
    for graph in values["graphs"]:
        replace(settings.parameters, graph=graph)  # raises where unknown
    return {  # in turn, so that what there is of an unfinished study is balanced
        f"{graph}/run-{number:03d}": Unit(
            (f"{graph}/run-{number:03d}.json",),
            partial(_run_and_store, settings, graph, number, device),
            {"": settings},
        )
        for number in range(values["runs"])
        for graph in values["graphs"]
    }


STUDY = Study(_units)


def _run_and_store(
    settings: Settings, graph: str, number: int, device: str, directory: Path
) -> None:
    store(directory, run(settings, graph, number, device=device))


def store(directory: Path, result: Run) -> None:
    """Write a run: without what `load` finds again, and one column for both ends of an interval."""
    path = directory / result.record["graph"] / f"run-{result.record['run']:03d}.json"
    local, globals_ = result.local, result.globals_
    if set(ENDS) <= set(local):
        half = (local["ci_high"].astype(float) - local["ci_low"]) / 2
        local = local.drop(columns=ENDS).assign(ci_half=half)
    globals_ = globals_.drop(columns=TOTALS, errors="ignore")
    store_result(path, result._replace(local=local, globals_=globals_))


def load(path: Path) -> Run:
    """Read a run, of the record ``path``, that `store` wrote.

    Columns that a run was stored without are NaN, but local intervals, which it then has not.
    """
    found = load_result(Run, path)
    local, globals_ = found.local, found.globals_
    if "ci_half" in local:
        effect, half = (local[name].astype(float) for name in ("causal_effect", "ci_half"))
        local = local.assign(ci_low=effect - half, ci_high=effect + half)
    local = local[[name for name in (*LOCAL_COLUMNS, *TRUTH_COLUMNS) if name in local]]
    if TOTALS[0] not in globals_:
        each = found.members.groupby(["chain", *PAIR, "bin"])["effect"].count()
        n = each.rename("n").reset_index()
        known = globals_.merge(n, on=["chain", *PAIR, "bin"], how="left")
        names = "effect", "se", "between_se", "n"
        total = intervals(*(known[name].astype(float) for name in names))
        globals_ = globals_.assign(**{name: total[name].astype("float32") for name in TOTALS})
    return found._replace(local=local, globals_=globals_.reindex(columns=GLOBAL_COLUMNS))


def stored(directory: str | Path) -> list[Run]:
    """All runs of one set that are there, by graph, then number; none where there are none."""
    return [load(path) for path in sorted(Path(directory).glob("*/run-*.json"))]


def score_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """How well each run recovers its graph, a row a run and chain.

    Returns
    -------
    pd.DataFrame
        ``graph, run, chain``, the scores of `.graph_scores.recovery` and `.graph_scores.answers`
        (the latter NaN but for the chain "motif"), and over the factors that have reads:
        ``edges`` of the graph, ``way``, how many of them have a direction that is told (p below
        0.05), ``called``, how many are called direct, ``miscalled``, how many pairs without an edge
        are.
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
            row |= graph_scores.recovery(table) | graph_scores.answers(table)
            rows.append(row | dict(zip(names, map(len, counts), strict=True)))
    return pd.DataFrame(rows, columns=None if rows else ["graph", "run", "chain"])


def all_windows(runs: Sequence[Run]) -> pd.DataFrame:
    """``globals_`` of runs in all windows, whatever the distance of motifs, with ``graph, run``."""
    parts = [one.globals_.assign(**{n: one.record[n] for n in ("graph", "run")}) for one in runs]
    whole = pd.concat(parts, ignore_index=True)
    return whole[whole["bin"] == "all"]


def global_effects(runs: Sequence[Run]) -> pd.DataFrame:
    """Effects of the chain "motif" in all windows: ``globals_`` of runs with ``graph, run``."""
    whole = all_windows(runs)
    return whole[whole["chain"] == "motif"].reset_index(drop=True)


def calibrated(runs: Sequence[Run], nulls: Sequence[Run]) -> pd.DataFrame:
    """`global_effects` of runs, calibrated by those of runs without an edge.

    Returns
    -------
    pd.DataFrame
        `global_effects` and the columns of `deepmr_utils.negative_controls.calibrate`. A run is a
        network: one that is among the nulls is left out of its own fit. The coverage of ``truth``
        is that of ``total_ci_low, total_ci_high``, around the effect without the mean of the nulls.
    """

    def table(runs: Sequence[Run]) -> pd.DataFrame:
        whole = global_effects(runs)
        network = whole["graph"] + "/" + whole["run"].astype(str)
        return whole.assign(network=network, scale=whole["own_effect"] / whole["effect"])

    known = table(nulls)
    known = known.assign(se=known["total_se"] * known["scale"].abs())
    return calibrate(table(runs), known)
