"""Figures of the BPNet chapter."""

from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepmr_utils import plots
from deepmr_utils.pairs import PAIR
from deepmr_utils.plots import BLUE, GREEN, GREY, ORANGE
from deepmr_utils.plots.style import SERIES, nothing_to_draw

from .. import verdicts
from .graph_scores import BIN_NAMES

LABELS = {verdicts.DEFAULT: (ORANGE, "o", "without"), verdicts.LABELS: (BLUE, "s", "with")}

GRAPHS = {name: name for name in ("default", "confounded", "reverse", "empty")}
GRAPHS["reverse"] = "reversed"
WIDE = {"Sox2": (0, 1), "Oct4": (-2, 0), "Nanog": (2, 0), "Klf4": (0, -1)}  # graph_scores.PLACES
HALF_PAGE = sns.plotting_context("paper")  # of figures that stand two in a row


def _errors(
    table: pd.DataFrame, value: str = "value", ends: Sequence[str] = ("low", "high")
) -> np.ndarray:
    low, high = (table[name] for name in ends)
    return np.array([table[value] - low, high - table[value]])


@HALF_PAGE
def draw_window(
    effects: xr.Dataset, instances: pd.DataFrame, instruments: pd.DataFrame, local: pd.DataFrame
) -> Figure:
    """A site of the exposure in both predictions, and the line through its substitutions.

    Parameters
    ----------
    effects : xr.Dataset
    instances : pd.DataFrame
        Of `deepmr_utils.motifs.find_instances`.
    instruments : pd.DataFrame
        Of `deepmr_utils.analysis.deep_mr`.
    local : pd.DataFrame
        Of `.one_genome.analyse`, of one pair and chain. Of the windows with one site of either
        factor the one with the median local effect is drawn.
    """
    local = local.dropna(subset=["causal_effect", "distance"])
    pair = local[PAIR].iloc[0].tolist() if len(local) else []
    many = instances[instances["factor"].isin(pair)].groupby("sequence_id").size()
    local = local[local["sequence_id"].map(many) == 2]
    if local.empty:
        return nothing_to_draw(message="no window has one site of either factor").figure
    own = local.sort_values("causal_effect").iloc[len(local) // 2]
    sites = instances[instances["sequence_id"] == own["sequence_id"]].set_index("factor")
    start, end = sites.loc[pair[0], ["start", "end"]]
    figure, axes = plt.subplots(3, 1, figsize=(3.5, 4.2), height_ratios=(1, 1, 3))
    for ax, name in zip(axes, pair, strict=False):
        shown = slice(max(start - 8, 0), end + 8)
        plots.sequence_logo(effects, own["sequence_id"], name, ax=ax, positions=shown)
        ax.axvspan(start - 0.5, end - 0.5, color=BLUE, alpha=0.15, lw=0)
        ax.set(xlabel="", xticks=[], ylabel=f"loss of\n{name}")
    axes[0].set_title(f"site of {pair[0]}", color=BLUE)
    keys = ["sequence_id", *PAIR]
    _draw_line(axes[2], instruments[(instruments[keys] == own[keys]).all(axis=1)], own)
    axes[2].set(xlabel=f"change in predicted {pair[0]}", ylabel=f"change in predicted {pair[1]}")
    return figure


def _draw_line(ax: Axes, used: pd.DataFrame, own: pd.Series) -> None:
    x, y = used["beta_exposure"], used["beta_outcome"]
    ends = 1.1 * np.array([min(x.min(), 0), max(x.max(), 0)])
    effect, low, high, truth = own[["causal_effect", "ci_low", "ci_high", "total"]]
    ax.plot(ends, effect * ends, color="0.3", lw=1.5, label=f"local effect {effect:.2f}")
    ax.fill_between(ends, low * ends, high * ends, color="0.3", alpha=0.15, lw=0)
    if np.isfinite(truth):
        ax.plot(ends, truth * ends, "--", color="black", lw=1.5, label=f"true effect {truth:.2f}")
    ax.errorbar(x, y, 1.96 * used["se_outcome"], 1.96 * used["se_exposure"], fmt="o", ms=4, lw=0.8,
                color=BLUE, label="substitution")  # fmt: skip
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.legend(loc="lower right")


@HALF_PAGE
def draw_graphs(
    true: pd.Series, learned: pd.Series, planted: Collection, called: Collection
) -> Figure:
    """Effects that follow from the planted graph, and below those that were recovered, as arrows.

    ``true`` and ``learned`` are those that differ from 0, by exposure and outcome. Arrows that are
    not ``planted``, and not ``called`` direct, are dashed.
    """
    figure, axes = plt.subplots(2, 1, figsize=(3.5, 4.2))
    panels = ("planted", true, planted), ("recovered", learned, called)
    for ax, (title, effects, direct) in zip(axes, panels, strict=True):
        dashed = [pair for pair in effects.index if pair not in direct]
        plots.causal_graph(effects.to_dict(), nodes=list(WIDE), places=WIDE, dashed=dashed, ax=ax)
        ax.set_title(title, loc="left")
        for (a, b), effect in effects.items():
            middle = 0.62 * np.array(WIDE[a]) + 0.38 * np.array(WIDE[b])  # arrows cross at a half
            ax.annotate(f"{effect:.2f}", middle, ha="center", va="center", fontsize="small",
                        bbox={"fc": "white", "ec": "none", "pad": 0.8})  # fmt: skip
    return figure


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
