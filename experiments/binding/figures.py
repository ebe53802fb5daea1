"""Figures of the BPNet chapter."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deepmr_utils.pairs import PAIR
from deepmr_utils.plots import BLUE, GREEN, GREY, ORANGE
from deepmr_utils.plots.style import SERIES

from .. import verdicts
from .graph_scores import BIN_NAMES

LABELS = {verdicts.DEFAULT: (ORANGE, "o", "without"), verdicts.LABELS: (BLUE, "s", "with")}

GRAPHS = {name: name for name in ("default", "confounded", "reverse", "empty")}
GRAPHS["reverse"] = "reversed"


def _errors(
    table: pd.DataFrame, value: str = "value", ends: Sequence[str] = ("low", "high")
) -> np.ndarray:
    low, high = (table[name] for name in ends)
    return np.array([table[value] - low, high - table[value]])


def draw_forests(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Global effects of all pairs, here with their truth, and as published, in the same rows.

    ``ours`` is ``effects`` of `deepmr_utils.analysis.deep_mr`, with ``truth``, which may be NaN;
    ``published`` is of `deepmr_utils.meta.global_effects`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 4.8), sharey=True)
    ours = ours.sort_values(["truth", "effect"], ascending=False)
    names = [f"{x} → {y}" for x, y in ours[PAIR].to_numpy()]
    tables = ours, published.set_index(PAIR).loc[map(tuple, ours[PAIR].to_numpy())]
    titles = "our demo genome", "mouse, as published"
    for ax, table, title in zip(axes, tables, titles, strict=True):
        errors = _errors(table, "effect", ("ci_low", "ci_high"))
        row = np.arange(len(table))
        ax.errorbar(table["effect"], row, xerr=errors, fmt="o", color=BLUE, capsize=3,
                    label="estimate, 95% interval")  # fmt: skip
        ax.axvline(0, color=GREY, lw=1, zorder=0)
        ax.set(title=title, xlabel="global effect")
    axes[0].plot(ours["truth"], row, "|", ms=15, mew=2.5, color=ORANGE, label="true effect")
    axes[0].set(yticks=row, yticklabels=names)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_responses(learned: pd.DataFrame, true: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """What networks learned of own responses, and what labels correct.

    ``learned`` is of `.beside_truth.learned_responses`, ``true`` has ``graph, exposure,
    whole_site`` of `.own_responses`, ``scores`` is of `.beside_truth.held_out_scores`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.9))
    factors = list(learned.index.unique("exposure"))
    for k, (graph, colour) in enumerate((("default", GREEN), ("reverse", ORANGE))):
        own = learned.loc[graph].droplevel("score").loc[factors]
        x = np.arange(len(factors)) + 0.2 * k - 0.1
        axes[0].errorbar(x, own["value"], yerr=_errors(own), fmt="o", color=colour, capsize=3,
                         label=f"{GRAPHS[graph]} graph, by labels")  # fmt: skip
        known = true[true["graph"] == graph].groupby("exposure")["whole_site"].mean()
        axes[0].plot(x, known.reindex(factors), "x", ms=8, color="black",
                     label="by the genome's rules" if k else None)  # fmt: skip
    axes[0].set(ylabel="learned share of own response", xticks=range(len(factors)),
                xticklabels=factors, ylim=(0, 1.05))  # fmt: skip
    axes[0].legend(loc="lower right", fontsize=9)
    graphs = [
        name for name in ("default", "confounded", "reverse", "empty") if name in scores.index
    ]
    error = scores.xs("knockout_rmse", level="score")
    for k, (name, (colour, shape, label)) in enumerate(LABELS.items()):
        own = error.xs(name, level="analysis").loc[graphs]
        x = np.arange(len(graphs)) + 0.2 * k - 0.1
        axes[1].errorbar(x, own["value"], yerr=_errors(own), fmt=shape, color=colour, capsize=3,
                         label=f"{label} labels")  # fmt: skip
    axes[1].axhline(0.02, color=GREY, lw=1, ls="--", label="target")
    axes[1].set(ylabel="RMSE of the knock-out ratio", xticks=range(len(graphs)), ylim=(0, None))
    axes[1].set_xticklabels([GRAPHS[name] for name in graphs], rotation=30)
    axes[1].legend(fontsize=9)
    return figure


def draw_local(scores: pd.DataFrame) -> Figure:
    """Coverage and correlation of local effects by distance, of `.beside_truth.local_scores`."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.6))
    labels = {"members": "share of intervals with the truth", "r": "correlation with the truth"}
    for ax, (score, label) in zip(axes, labels.items(), strict=True):
        for k, (graph, colour) in enumerate(zip(list(GRAPHS)[:3], SERIES, strict=False)):
            own = scores.xs((graph, score), level=("graph", "score")).loc[list(BIN_NAMES)]
            x = np.arange(len(own)) + 0.15 * (k - 1)
            ax.errorbar(x, own["value"], yerr=_errors(own), fmt="osD"[k], color=colour, capsize=2,
                        label=GRAPHS[graph])  # fmt: skip
        ax.set(ylabel=label, ylim=(0, 1), xticks=range(len(own)), xlabel="bases between motifs")
        ax.set_xticklabels(BIN_NAMES.values())
    axes[0].axhline(0.9, color=GREY, lw=1, ls="--", label="target")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
