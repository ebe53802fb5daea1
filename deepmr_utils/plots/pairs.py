"""Figures of effects between all pairs of features: tables in, matplotlib Axes or Figure out."""

from collections.abc import Mapping, Sequence
from itertools import combinations, cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from .._checks import as_list
from ..analysis import PAIR
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    drawable,
    nothing_to_draw,
    readable_legend,
)

# by hand: helpers above what they help; a fifth factor aside
PLACES = {"Sox2": (0, 1), "Oct4": (-1, 0), "Nanog": (1, 0), "Klf4": (0, -1), "hidden": (-2, -1)}
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def arrow_name(exposure: str, outcome: str) -> str:
    """A pair as it stands on axes."""
    return f"{exposure} → {outcome}"


def causal_graph(
    edges: Mapping[tuple[str, str], float],
    *,
    dashed: Sequence[tuple[str, str]] = (),
    places: Mapping[str, tuple[float, float]] = PLACES,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a causal graph: arrows as wide as effects are large, blue above 0 and red below.

    Parameters
    ----------
    edges : mapping of (str, str) to float
        Effects, by exposure and outcome; pairs without an arrow are left out.
    dashed : sequence of (str, str)
        Edges to draw dashed, for instance those that are not direct.
    places : mapping of str to (float, float)
        Where nodes lie; others than Oct4, Sox2, Nanog, Klf4 need places of their own.
    title : str
    ax : Axes, optional
    """
    if not places:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(3.4, 3.4))[1]
    edges = {pair: effect for pair, effect in edges.items() if np.isfinite(effect)}
    nodes = [n for n in places if n != "hidden" or any(n in pair for pair in edges)]
    missing = sorted({n for pair in edges for n in pair} - set(nodes))
    if missing:
        raise ValueError(f"no place for {', '.join(missing)}: give places of all nodes")
    largest = max(map(abs, edges.values()), default=1.0) or 1.0
    for (a, b), effect in edges.items():
        bent = 0.18 if (b, a) in edges else 0.0
        ax.add_patch(
            FancyArrowPatch(
                places[a], places[b], arrowstyle="-|>", mutation_scale=14,
                shrinkA=23, shrinkB=23, lw=0.8 + 4.2 * abs(effect) / largest,
                color=BLUE if effect > 0 else RED, ls="--" if (a, b) in dashed else "-",
                connectionstyle=f"arc3,rad={bent}", alpha=0.9,
            )
        )  # fmt: skip
    for name in nodes:
        ax.annotate(name, places[name], ha="center", va="center", fontsize=9.5,
                    bbox={"boxstyle": "circle,pad=0.35", "fc": "white", "ec": GREY})  # fmt: skip
    x, y = np.array([places[n] for n in nodes]).T
    ax.set(xlim=(x.min() - 0.5, x.max() + 0.5), ylim=(y.min() - 0.5, y.max() + 0.5))
    ax.set(aspect="equal", title=title)
    ax.axis("off")
    return ax


def pair_forest(
    table: pd.DataFrame,
    *,
    truth: str | None = "truth",
    published: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw global effects of all pairs with their intervals and the spread of local effects.

    Parameters
    ----------
    table : pd.DataFrame
        Of `deepmr_utils.analysis.summarise`; total intervals where there are, else those given
        the model.
    truth : str, optional
        Column of true effects.
    published : pd.DataFrame, optional
        ``exposure, outcome, effect`` to mark beside.
    ax : Axes, optional
    """
    needed = [*PAIR, "effect", "se", "tau", "total_ci_low", "total_ci_high"]
    table = drawable(table, needed, ["effect"])
    if table.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(6.4, 4.8))[1]
    row = np.arange(len(table))
    low = table["total_ci_low"].fillna(table["effect"] - 1.96 * table["se"])
    high = table["total_ci_high"].fillna(table["effect"] + 1.96 * table["se"])
    spread = table["tau"].fillna(0)
    ax.hlines(row, table["effect"] - spread, table["effect"] + spread, color=ORANGE, lw=6,
              alpha=0.35, label="± tau, local effects")  # fmt: skip
    error = [table["effect"] - low, high - table["effect"]]
    ax.errorbar(table["effect"], row, xerr=error, fmt="o", ms=5, capsize=3, color=BLUE,
                label="global effect, 95 % interval")  # fmt: skip
    if truth in table:
        ax.plot(table[truth], row, "|", ms=13, mew=2, color="black", label="true effect")
    if published is not None:
        beside = table[PAIR].merge(published, on=PAIR, how="left")
        ax.plot(beside["effect"], row, "x", color=RED, label="published, mouse")
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks(row, [arrow_name(*pair) for pair in table[PAIR].to_numpy()])
    ax.invert_yaxis()
    ax.set(xlabel="causal effect on log(1 + reads)")
    readable_legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    return ax


def local_densities(local: pd.DataFrame, *, limits: tuple[float, float] = (-0.3, 1.2)) -> Figure:
    """Draw how local effects are distributed: a panel an exposure, a line an outcome."""
    local = drawable(local, [*PAIR, "causal_effect"], ["causal_effect"])
    if local.empty:
        return nothing_to_draw().figure
    exposures = local["exposure"].unique().tolist()
    colours = dict(zip(exposures, cycle(_COLOURS), strict=False))
    figure, axes = plt.subplots(
        1, len(exposures), figsize=(10.5, 3.2), sharex=True, sharey=True, squeeze=False
    )
    bins = np.linspace(*limits, 46)
    for ax, exposure in zip(axes[0], exposures, strict=True):
        for outcome, rows in local[local["exposure"] == exposure].groupby("outcome", sort=False):
            values = rows["causal_effect"].clip(*limits)
            ax.hist(values, bins, density=True, histtype="step", lw=1.6,
                    color=colours.get(outcome, GREY), label=f"on {outcome}")  # fmt: skip
        ax.set(title=exposure, yscale="symlog", ylim=(0, None))
        ax.legend(fontsize=9)
    axes[0, 0].set(ylabel="density")
    figure.supxlabel("local causal effect", fontsize=11)
    return figure


def both_ways(local: pd.DataFrame, *, limits: tuple[float, float] = (-0.3, 1.2)) -> Figure:
    """Draw local effects of each pair against their reverse, coloured by the motifs' distance.

    Parameters
    ----------
    local : pd.DataFrame
        ``sequence_id, exposure, outcome, causal_effect, distance``.
    limits : (float, float)
        Of both axes; what lies outside is drawn at the edge.
    """
    needed = ["sequence_id", *PAIR, "causal_effect", "distance"]
    local = drawable(local, needed, ["causal_effect", "distance"])
    if local.empty:
        return nothing_to_draw().figure
    names = pd.unique(local[PAIR].to_numpy().ravel())
    pairs = list(combinations(names, 2))
    figure, axes = plt.subplots(2, -(-len(pairs) // 2), figsize=(10, 6.4), sharex=True, sharey=True,
                                squeeze=False)  # fmt: skip
    values = local.set_index("sequence_id")
    points, ends = None, (limits[0] - 0.05, limits[1] + 0.05)
    for ax, (a, b) in zip(axes.flat, pairs, strict=False):
        there, back = (
            values[(values["exposure"] == one) & (values["outcome"] == other)]
            for one, other in ((a, b), (b, a))
        )
        back = back["causal_effect"].rename("back")
        both = there.join(back, how="inner").dropna(subset="distance")
        points = ax.scatter(both["causal_effect"].clip(*limits), both["back"].clip(*limits), s=9,
                            c=both["distance"], cmap="viridis_r", vmin=0, vmax=200)  # fmt: skip
        ax.axline((0, 0), slope=1, color="0.7", lw=0.8, zorder=0)
        ax.axhline(0, color="0.85", lw=0.8, zorder=0)
        ax.axvline(0, color="0.85", lw=0.8, zorder=0)
        ax.set(xlabel=arrow_name(a, b), ylabel=arrow_name(b, a), aspect="equal",
               xlim=ends, ylim=ends)  # fmt: skip
    for ax in axes.flat[len(pairs) :]:
        ax.set_axis_off()
    figure.colorbar(points, ax=axes, label="distance between motifs (bp)", shrink=0.7)
    return figure


def distance_heatmap(
    table: pd.DataFrame, bins: Sequence[str], *, value: str = "effect", ax: Axes | None = None
) -> Axes:
    """Draw global effects by pair and distance of the motifs, with their values.

    Parameters
    ----------
    table : pd.DataFrame
        Of `experiments.binding.graph_scores.by_distance`.
    bins : sequence of str
        The bins, in their order.
    value : str
    ax : Axes, optional
    """
    bins = as_list(bins)
    table = drawable(table, [*PAIR, "bin", value], [value])
    table = table[table["bin"].isin(bins)]
    if table.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(5.2, 5))[1]
    wide = table.pivot_table(value, PAIR, "bin", sort=False).reindex(columns=list(bins))
    limit = np.nanmax(np.abs(wide.to_numpy())) or 1.0
    mesh = ax.imshow(wide, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (i, k), number in np.ndenumerate(wide.to_numpy()):
        text = "" if np.isnan(number) else f"{number:z.2f}"
        colour = "white" if abs(number) > 0.6 * limit else "black"
        ax.annotate(text, (k, i), ha="center", va="center", fontsize=8.5, color=colour)
    ax.set_yticks(range(len(wide)), [arrow_name(*pair) for pair in wide.index])
    ax.set_xticks(range(len(bins)), list(bins), fontsize=9)
    ax.set(xlabel="distance between motifs (bp)")
    ax.figure.colorbar(mesh, ax=ax, label="global effect", shrink=0.8)
    return ax


def learned_against_true(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Draw learned global effects with total intervals against true ones, a colour a graph.

    Graphs stand a little beside each other, so that absent effects, all at 0, can be told apart.
    """
    needed = ["effect", "truth", "total_ci_low", "total_ci_high"]
    tables = {name: drawable(one, needed, ["effect", "truth"]) for name, one in tables.items()}
    if all(one.empty for one in tables.values()):
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(4.6, 4.4))[1]
    ends = []
    beside = np.linspace(-0.015, 0.015, len(tables))
    looks = zip(cycle(_COLOURS), cycle("osD^"), beside, strict=False)
    for (name, table), (colour, marker, offset) in zip(tables.items(), looks, strict=True):
        error = [table["effect"] - table["total_ci_low"], table["total_ci_high"] - table["effect"]]
        ax.errorbar(table["truth"] + offset, table["effect"], yerr=error, fmt=marker, ms=5, lw=1.2,
                    color=colour, label=name, alpha=0.8)  # fmt: skip
        ends += [*table["truth"], *table["effect"]]
    top = max(1.15 * max(ends), 0.05)
    ax.plot([-0.05, top], [-0.05, top], ls="--", color="black", lw=1, zorder=0)
    ax.set(xlabel="true global effect", ylabel="learned global effect", xlim=(-0.05, top),
           ylim=(-0.1, top))  # fmt: skip
    readable_legend(ax, loc="upper left")
    return ax
