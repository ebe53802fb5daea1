"""Stored seeds of the simulated chromatin, each with a network of its own."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from deepmr_utils.pairs import PAIR
from deepmr_utils.plots import BLUE, ORANGE
from deepmr_utils.plots.style import SERIES

from ..study import Study, Unit, load_result, make_settings, store_result
from .one_draw import Run, Settings, classify, run
from .simulated import ACCESSIBILITY, FACTORS, ROLES, causes


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
FORMER = {  # what factors were called when the first seeds were stored
    "Oct4": "pioneer 1", "Sox2": "pioneer 2", "Nanog": "follower 1", "Klf4": "follower 2",
    "TAL1": "bystander 1", "decoy": "bystander 2", "GATA": "repressor",
}  # fmt: skip
FAR = -0.7  # where lower effects are drawn, with their values


def _run_and_store(settings: Settings, number: int, device: str, directory: Path) -> None:
    store(directory, run(settings, number, device))


def store(directory: Path, result: Run) -> None:
    """Write a seed."""
    store_result(directory / f"run-{result.record['run']:03d}.json", result)


def stored(directory: str | Path) -> list[Run]:
    """All seeds that are there, by number."""
    runs = [load_result(Run, path) for path in sorted(Path(directory).glob("run-*.json"))]
    return [_renamed(one) for one in runs]


def _renamed(one: Run) -> Run:
    tables = (table.replace(dict.fromkeys(PAIR, FORMER)) for table in one[:2])
    quality = [
        row | {"feature": FORMER.get(row["feature"], row["feature"])}
        for row in one.record.get("quality", [])
    ]
    return Run(*tables, one.record | {"quality": quality})


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """How well effects were recovered, by chain, over all runs.

    Returns
    -------
    pd.DataFrame
        Indexed by chain: ``auroc`` (mean over runs: do absolute effects on accessibility separate
        its causes from other factors), ``causes_found`` (share of causes whose total interval is on
        the right side of 0), ``covers_zero`` and ``covers_zero_reverse`` (share of the others'
        total intervals that contain 0), ``covers_nonzero`` (of effects that are not 0), ``roles``
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
                "causes_found": right[causal].mean(),
                "covers_zero": _holds(there[~causal], 0).mean(),
                "covers_zero_reverse": _holds(back[~reverse], 0).mean(),
                "covers_nonzero": _holds(table, table["truth"])[table["truth"] != 0].mean(),
                "roles": (named == named.index.map(ROLES)).mean(),
            })  # fmt: skip
    groups = pd.DataFrame(rows).drop(columns="run").groupby("chain", sort=False)
    return groups.mean().assign(runs=groups.size())


def sizes(runs: Sequence[Run], chain: str = "strongest") -> pd.DataFrame:
    """Effects of all runs by one chain, a row a run and pair.

    Returns
    -------
    pd.DataFrame
        ``run, exposure, outcome, factor`` (that of the pair which is not accessibility), ``effect,
        truth, covered``, and ``auroc``, that of the factor in held-out windows.
    """
    parts = []
    for one in runs:
        table = one.globals_[one.globals_["chain"] == chain]
        forward = table["outcome"] == ACCESSIBILITY
        factor = table["exposure"].where(forward, table["outcome"])
        auroc = {row["feature"]: row["auroc"] for row in one.record["quality"]}
        parts.append(table.assign(
            run=one.record["run"], factor=factor, auroc=factor.map(auroc),
            covered=_holds(table, table["truth"]),
        ))  # fmt: skip
    columns = ["run", *PAIR, "factor", "effect", "truth", "covered", "auroc"]
    return pd.concat(parts, ignore_index=True)[columns]


def draw_sizes(table: pd.DataFrame) -> Figure:
    """Draw `sizes` beside the truth: a panel a direction, a row a factor, a dot a run."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.9), sharey=True)
    forward, rng = table["outcome"] == ACCESSIBILITY, np.random.default_rng(0)
    titles = "effect on accessibility", "effect of accessibility"
    for ax, part, title in zip(axes, (table[forward], table[~forward]), titles, strict=True):
        row = part["factor"].map({name: -k for k, name in enumerate(FACTORS)})
        truth = part.groupby(row)["truth"].mean()
        ax.vlines(truth, truth.index - 0.4, truth.index + 0.4, color="black", lw=2, label="truth")
        for covered, colour, shape in ((True, BLUE, "o"), (False, ORANGE, "D")):
            own = part["covered"] == covered
            y = row[own] + rng.uniform(-0.25, 0.25, own.sum())
            name = f"interval {'contains' if covered else 'misses'} the truth"
            effect = part["effect"][own]
            shown = effect.clip(lower=FAR)
            ax.plot(shown, y, shape, ms=4, color=colour, alpha=0.75, label=name)
            for k in effect.index[effect < FAR]:
                ax.annotate(f"{effect[k]:.1f}", (FAR, y[k]), (5, -3), textcoords="offset points")
        ax.set(title=title, xlabel="global effect")
    axes[0].set(yticks=-np.arange(len(FACTORS)), yticklabels=FACTORS)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_ratios(table: pd.DataFrame) -> Figure:
    """Draw estimated over true effects on accessibility, of `sizes`, against the factor's AUROC."""
    figure, ax = plt.subplots(figsize=(5.4, 3.6))
    table = table[(table["outcome"] == ACCESSIBILITY) & (table["truth"] != 0)]
    shapes = zip(table.groupby("factor"), SERIES, "os^", strict=False)
    for (factor, own), colour, shape in shapes:
        ratio = own["effect"] / own["truth"]
        ax.plot(own["auroc"], ratio, shape, ms=6, mfc="none", color=colour, label=factor)
        ax.plot(own["auroc"][~own["covered"]], ratio[~own["covered"]], shape, ms=6, color=colour)
    ax.axhline(1, color="black", lw=1, zorder=0)
    ax.set(xlabel="AUROC of the factor in held-out windows", ylabel="estimate / true effect")
    ax.legend()
    return figure


def _holds(table: pd.DataFrame, value: pd.Series | float) -> pd.Series:
    return (table["total_ci_low"] <= value) & (value <= table["total_ci_high"])
