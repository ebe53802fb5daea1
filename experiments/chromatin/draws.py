"""Stored seeds of the simulated chromatin, each with a network of its own."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ..study import Study, Unit, load_result, make_settings, store_result
from .one_draw import Run, Settings, classify, run
from .simulated import ACCESSIBILITY, ROLES, causes


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    settings = make_settings(Settings, values)
    return {
        f"run-{number:03d}": Unit(
            (f"run-{number:03d}.json",),
            partial(_run_and_store, settings, number, device),
            {"": settings},
        )
        for number in range(values["runs"])
    }


STUDY = Study(_units)


def _run_and_store(settings: Settings, number: int, device: str, directory: Path) -> None:
    store(directory, run(settings, number, device))


def store(directory: Path, result: Run) -> None:
    """Write a seed."""
    store_result(directory / f"run-{result.record['run']:03d}.json", result, None)


def stored(directory: str | Path) -> list[Run]:
    """All seeds that are there, by number."""
    return [load_result(Run, path) for path in sorted(Path(directory).glob("run-*.json"))]


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """How well effects were recovered, by chain, over all runs.

    Returns
    -------
    pd.DataFrame
        Indexed by chain: ``auroc`` (mean over runs: do absolute effects on accessibility tell its
        causes from other factors), ``auroc_reverse`` (the same of accessibility's effects on
        factors), ``causes_found`` (share of causes whose total interval lies on the right side of
        0), ``covers_zero`` and ``covers_zero_reverse`` (share of the others' total intervals that
        hold 0), ``covers_truth`` and ``covers_nonzero`` (of effects that are not 0), ``roles``
        (share of factors that `classify` names right), and ``runs``.
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
                "covers_nonzero": _holds(table, table["truth"])[table["truth"] != 0].mean(),
                "roles": (named == named.index.map(ROLES)).mean(),
            })  # fmt: skip
    groups = pd.DataFrame(rows).drop(columns="run").groupby("chain", sort=False)
    return groups.mean().assign(runs=groups.size())


def sizes(runs: Sequence[Run], chain: str) -> pd.DataFrame:
    """Effects of all runs by one chain, a row a run and pair.

    Returns
    -------
    pd.DataFrame
        ``run, exposure, outcome, pair`` (a label), ``effect, truth, covered``.
    """
    table = pd.concat(one.globals_.assign(run=one.record["run"]) for one in runs)
    table = table[table["chain"] == chain].sort_values("truth", ignore_index=True)
    label = table["exposure"] + " \N{RIGHTWARDS ARROW} " + table["outcome"]
    table = table.assign(pair=label, covered=_holds(table, table["truth"]))
    return table[["run", "exposure", "outcome", "pair", "effect", "truth", "covered"]]


def _holds(table: pd.DataFrame, value: pd.Series | float) -> pd.Series:
    return (table["total_ci_low"] <= value) & (value <= table["total_ci_high"])
