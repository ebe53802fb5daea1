"""Figures of effects between pairs of features, of a few or of hundreds."""

from collections.abc import Mapping, Sequence
from itertools import combinations, cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from scipy.cluster import hierarchy

from .._checks import as_list, check_columns
from . import style

Pair = tuple[str, str]
PAIR = ["exposure", "outcome"]
# by hand: helpers above what they help; a fifth factor aside
PLACES = {"Sox2": (0, 1), "Oct4": (-1, 0), "Nanog": (1, 0), "Klf4": (0, -1), "hidden": (-2, -1)}
NAMED = 60  # features beyond which names in a heat map cannot be read


def causal_graph(
    edges: Mapping[Pair, float],
    *,
    nodes: Sequence[str] = (),
    dashed: Sequence[Pair] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a causal graph: arrows as wide as effects are large, in the colours of their signs.

    Parameters
    ----------
    edges : mapping of (str, str) to float
        Effects, by exposure and outcome; pairs without an arrow are left out.
    nodes : sequence of str
        Features to draw, too, without an arrow, and in which order. Oct4, Sox2, Nanog and Klf4 have
        places of their own; as soon as there are others, all lie on a circle.
    dashed : sequence of (str, str)
        Edges to draw dashed, for instance those that are not direct.
    ax : Axes, optional
    """
    edges = {pair: effect for pair, effect in edges.items() if np.isfinite(effect)}
    names = list(dict.fromkeys([*nodes, *(name for pair in edges for name in pair)]))
    circle = not set(names) <= set(PLACES)
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / max(len(names), 1)
    places = dict(zip(names, zip(np.cos(angle), np.sin(angle), strict=True), strict=True))
    if not circle:
        places = {n: place for n, place in PLACES.items() if n != "hidden" or n in names}
    ax = ax or plt.subplots(figsize=(6, 6) if circle else (3.4, 3.4))[1]
    width, gap = (3, 6) if circle else (5, 23)  # of the largest arrow, and before a node; points
    largest = max(map(abs, edges.values()), default=0.0) or 1.0
    for (a, b), effect in edges.items():
        bend = 0.18 if (b, a) in edges else 0.0
        arrow = FancyArrowPatch(
            places[a], places[b], arrowstyle="-|>", mutation_scale=2.8 * width, shrinkA=gap,
            shrinkB=gap, lw=width * (0.16 + 0.84 * abs(effect) / largest), alpha=0.9,
            color=style.POSITIVE if effect > 0 else style.NEGATIVE,
            ls="--" if (a, b) in dashed else "-", connectionstyle=f"arc3,rad={bend}",
        )  # fmt: skip
        ax.add_patch(arrow)
    box = {"boxstyle": "circle,pad=0.35", "fc": "white", "ec": style.GREY}
    for name, (x, y) in places.items():
        if not circle:
            ax.annotate(name, (x, y), ha="center", va="center", fontsize=9.5, bbox=box)
            continue
        ax.plot(x, y, "o", ms=6, color="black")
        turn, left = np.degrees(np.arctan2(y, x)), x < -1e-9
        ax.text(1.06 * x, 1.06 * y, name, fontsize=9, rotation=turn - 180 * left,
                rotation_mode="anchor", ha="right" if left else "left", va="center")  # fmt: skip
    x, y = np.array(list(places.values())).T
    ax.set(xlim=(x.min() - 0.5, x.max() + 0.5), ylim=(y.min() - 0.5, y.max() + 0.5), aspect="equal")
    ax.axis("off")
    return ax


@style.figure_of("effect", "exposure outcome tau", size=(6.4, 4.8))
def pair_forest(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw global effects of all pairs with their intervals and the spread of local effects.

    Parameters
    ----------
    table : pd.DataFrame
        ``effects`` of `deepmr_utils.analysis.deep_mr`, or of `deepmr_utils.pairs.summarise`,
        of which the total intervals are drawn. Where there is none, the dot stands alone. Columns
        ``knockout``, with its interval, and ``truth`` are drawn, if there.
    ax : Axes, optional
    """
    row, effect, spread = np.arange(len(table)), table["effect"], table["tau"].fillna(0)
    ax.hlines(row, effect - spread, effect + spread, color=style.ORANGE, lw=6, alpha=0.35,
              label="± tau, local effects")  # fmt: skip
    ends = [f"total_ci_{e}" if f"total_ci_{e}" in table else f"ci_{e}" for e in ("low", "high")]
    check_columns(table, ends, "the table of this figure")
    ax.errorbar(effect, row, xerr=style.bars(table, "effect", *ends), fmt="o", ms=5,
                capsize=3, color=style.BLUE, label="global effect, 95 % interval")  # fmt: skip
    if "knockout" in table and table["knockout"].notna().any():
        ends = style.bars(table, "knockout", "knockout_ci_low", "knockout_ci_high")
        ax.errorbar(table["knockout"], row + 0.28, xerr=ends, fmt="D", ms=4, mfc="white", capsize=2,
                    lw=1, color=style.GREEN, label="effect of a knock-out")  # fmt: skip
    if "truth" in table:
        ax.plot(table["truth"], row, "|", ms=13, mew=2, color="black", label="true effect")
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks(row, _arrow_names(table))
    ax.invert_yaxis()
    ax.set(xlabel="causal effect of exposure on outcome")
    style.readable_legend(ax, "below")
    return ax


@style.figure_of("private_share", "exposure outcome private_ci_low private_ci_high", size=(6, 6))
def private_movers(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what moves one feature and leaves the other alone, against the same the other way round.

    Parameters
    ----------
    table : pd.DataFrame
        ``effects`` of `deepmr_utils.analysis.deep_mr`, or of
        `deepmr_utils.private_movers.private_movers`. A dot is two features, the first of which
        has the horizontal axis: on the left edge it may act on the second, on the lower edge the
        second on it; in the corner of both they cannot be told apart; elsewhere neither acts. Pairs
        with a share one way only are left out.
    ax : Axes, optional
    """
    back = table.rename(columns=dict(zip(PAIR, PAIR[::-1], strict=True)))
    both = table.merge(back, on=PAIR, suffixes=("", "_back"))
    names = [frozenset(pair) for pair in both[PAIR].itertuples(index=False)]
    both = both[~pd.Series(names, both.index, dtype=object).duplicated()]
    if both.empty:
        return style.nothing_to_draw(ax)
    xerr, yerr = (
        style.bars(both, *(f"private_{name}{end}" for name in ("share", "ci_low", "ci_high")))
        for end in ("", "_back")
    )
    ax.errorbar(both["private_share"], both["private_share_back"], yerr, xerr, fmt="o", ms=5, lw=1,
                capsize=2, color=style.BLUE)  # fmt: skip
    ax.plot([0, 1], [0, 1], color="0.7", lw=0.8, zorder=0)
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal",
           xlabel="movers of the first that leave the second alone (share)",
           ylabel="movers of the second that leave the first alone (share)")  # fmt: skip
    for row in both.itertuples():
        flat = row.private_share_back < 0.2 < row.private_share  # dots in a row: slanted names
        ax.annotate(f"{row.exposure}, {row.outcome}", (row.private_share, row.private_share_back),
                    (2, 6) if flat else (6, 4), textcoords="offset points", fontsize=9,
                    va="bottom" if flat else "center", rotation=55 * flat)  # fmt: skip
    return ax


def _arrow_names(table: pd.DataFrame) -> list[str]:
    return [f"{exposure} → {outcome}" for exposure, outcome in table[PAIR].to_numpy()]


@style.figure_of("causal_effect", "exposure outcome")
def local_densities(local: pd.DataFrame) -> Figure:
    """Draw how local effects are distributed: a panel an exposure, a line an outcome."""
    local = _clipped(local)
    exposures = local["exposure"].unique()
    names = pd.unique(local[PAIR].to_numpy().T.ravel())  # exposures first
    colours = dict(zip(names, cycle(style.SERIES), strict=False))
    figure, axes = style.panels(len(exposures), len(exposures), (10.5, 3.2))
    bins = np.histogram_bin_edges(local["causal_effect"], 45)
    for ax, exposure in zip(axes[0], exposures, strict=True):
        for outcome, rows in local[local["exposure"] == exposure].groupby("outcome", sort=False):
            ax.hist(rows["causal_effect"], bins, density=True, histtype="step", lw=1.6,
                    color=colours[outcome])  # fmt: skip
        ax.set(title=exposure, yscale="symlog", ylim=(0, None))
    handles = [Line2D([], [], color=colour, label=f"on {n}") for n, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right center", fontsize=9)
    axes[0, 0].set(ylabel="density")
    figure.supxlabel("local causal effect", fontsize=11)
    return figure


def _clipped(local: pd.DataFrame) -> pd.DataFrame:
    """Local effects, the outermost 1 % at the edge of the others."""
    effect = local["causal_effect"]
    return local.assign(causal_effect=effect.clip(*effect.quantile([0.005, 0.995])))


@style.figure_of("causal_effect distance", "sequence_id exposure outcome")
def effects_against_reverse(local: pd.DataFrame) -> Figure:
    """Draw local effects of each pair against their reverse, coloured by the motifs' distance.

    Parameters
    ----------
    local : pd.DataFrame
        ``sequence_id, exposure, outcome, causal_effect, distance``.

    Returns
    -------
    Figure
        Both axes span the central 99 % of all effects; the others are drawn at the edge.
    """
    local = _clipped(local)
    pairs = list(combinations(pd.unique(local[PAIR].to_numpy().ravel()), 2))
    figure, axes = style.panels(len(pairs), -(-len(pairs) // 2), (10, 6.4))
    reverse = ["sequence_id", *PAIR[::-1]]
    both = local.merge(
        local, left_on=["sequence_id", *PAIR], right_on=reverse, suffixes=("", "_back")
    )
    low, high = local["causal_effect"].agg(["min", "max"])
    margin = 0.03 * (high - low) or 0.05
    ends = (low - margin, high + margin)
    for ax, (a, b) in zip(axes.flat, pairs, strict=False):
        rows = both[(both["exposure"] == a) & (both["outcome"] == b)]
        points = ax.scatter(rows["causal_effect"], rows["causal_effect_back"], s=9,
                            c=rows["distance"], cmap="viridis_r", vmin=0, vmax=200)  # fmt: skip
        ax.axline((0, 0), slope=1, color="0.7", lw=0.8, zorder=0)
        ax.axhline(0, color="0.85", lw=0.8, zorder=0)
        ax.axvline(0, color="0.85", lw=0.8, zorder=0)
        ax.set(xlabel=f"{a} → {b}", ylabel=f"{b} → {a}", aspect="equal", xlim=ends, ylim=ends)
    figure.colorbar(points, ax=axes, label="distance between motifs (bp)", shrink=0.7)
    return figure


@style.figure_of("effect", "exposure outcome bin", size=(5.2, 5))
def distance_heatmap(table: pd.DataFrame, bins: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw global effects by pair and distance of the motifs, with their values.

    Parameters
    ----------
    table : pd.DataFrame
        Of `experiments.binding.graph_scores.by_distance`.
    bins : sequence of str
        The bins, in their order.
    ax : Axes, optional
    """
    bins = as_list(bins)
    table = table[table["bin"].isin(bins)]
    if table.empty:
        return style.nothing_to_draw(ax)
    wide = table.pivot_table("effect", PAIR, "bin", sort=False).reindex(columns=bins)
    wide.index = _arrow_names(wide.index.to_frame())
    style.signed_map(ax, wide, "global effect", annot=True, fmt="z.2f", annot_kws={"size": 8.5})
    ax.set(xlabel="distance between motifs (bp)", ylabel="")
    ax.tick_params(axis="x", labelsize=8)
    return ax


def effect_matrix(table: pd.DataFrame, value: str = "effect") -> pd.DataFrame:
    """Effects of one method, exposures in rows and outcomes in columns.

    Parameters
    ----------
    table : pd.DataFrame
        ``exposure, outcome`` and the column ``value``, one row a pair: those of one method of
        `deepmr_utils.atlas.causal_atlas`.
    value : str

    Returns
    -------
    pd.DataFrame, float64 (A, B)
        In order of first appearance, outcomes that are exposures in the exposures' order; NaN where
        the table has no value.
    """
    repeated = table[table.duplicated(PAIR)]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(
            f"a pair may have one row; {row['exposure']!r} on {row['outcome']!r} has more: take "
            "the rows of one method, table[table['method'] == 'egger']"
        )
    rows, columns = (pd.Index(table[side].unique(), name=side) for side in PAIR)
    columns = rows.intersection(columns, sort=False).append(columns.difference(rows, sort=False))
    wide = table.pivot(index="exposure", columns="outcome", values=value)
    return wide.reindex(index=rows, columns=columns).astype(np.float64)


def cluster(matrix: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray]:
    """Hierarchy of features that act, and are acted on, alike.

    Parameters
    ----------
    matrix : pd.DataFrame, float (A, B)
        Of `effect_matrix`. What is missing counts as no effect. Where exposures and outcomes are
        the same features these are described by both, else exposures by their effects.

    Returns
    -------
    tree : np.ndarray, float64 (A - 1, 4)
        Average linkage of Euclidean distances, as `scipy.cluster.hierarchy.linkage`; None below 3
        exposures.
    order : np.ndarray, int (A,)
        Of its leaves, which puts like beside like.
    """
    if len(matrix) < 3:
        return None, np.arange(len(matrix))
    values = matrix.fillna(0).to_numpy()
    if set(matrix.index) == set(matrix.columns):
        values = np.hstack([values, values.T])
    ordered = len(matrix) <= 300  # takes the square of the number of features in memory, and longer
    tree = hierarchy.linkage(values, "average", optimal_ordering=ordered)
    return tree, hierarchy.leaves_list(tree)


def effect_clustermap(table: pd.DataFrame) -> Figure:
    """Draw all effects, like features beside like.

    Parameters
    ----------
    table : pd.DataFrame
        See `effect_matrix`; pairs with ``q_value`` below 5 %, where there is one, get a dot.

    Returns
    -------
    Figure
        The hierarchy beside the heat map, whose colours end at the 98 % quantile of absolute
        effects; a feature on itself, and what is missing, is grey.
    """
    if style.drawable(table, ["effect"], PAIR).empty:
        return style.nothing_to_draw().figure
    matrix = effect_matrix(table)
    tree, rows = cluster(matrix)
    columns = rows if set(matrix.index) == set(matrix.columns) else cluster(matrix.T)[1]
    matrix = matrix.iloc[rows, columns]
    (height, width), named = matrix.shape, max(matrix.shape) <= NAMED
    cell = 0.24 if named else 5.5 / max(matrix.shape)
    size = (max(4.5, cell * width + 2.6), max(3.2, cell * height + 1.4))
    figure, (left, ax) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 6), layout="constrained")
    left.axis("off")
    if tree is not None and tree[-1, 2] > 0:  # else all are alike
        hierarchy.dendrogram(tree, orientation="left", ax=left, no_labels=True, color_threshold=0,
                             above_threshold_color="0.4")  # fmt: skip
        left.set_ylim(10 * height, 0)  # leaves are 10 apart, the first is drawn on top
    limit = np.nanquantile(np.abs(matrix.to_numpy()), 0.98)
    style.signed_map(ax, matrix, "effect", limit, xticklabels=named, yticklabels=named)
    ax.set(xlabel="outcome", ylabel="exposure")
    ax.tick_params(labelsize=8)
    if named and "q_value" in table:
        small = effect_matrix(table, "q_value").loc[matrix.index, matrix.columns] < 0.05
        i, j = small.to_numpy().nonzero()
        ax.plot(j + 0.5, i + 0.5, "o", ms=2, color="black", label="q < 5 %")
    return figure


def effect_graph(
    table: pd.DataFrame,
    *,
    edges: int = 50,
    significance: float | None = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draw the strongest effects as arrows between features on a circle.

    Parameters
    ----------
    table : pd.DataFrame
        See `effect_matrix`.
    edges : int
        How many arrows to draw at most.
    significance : float, optional
        Only pairs whose ``q_value`` is below it; None for all.
    ax : Axes, optional

    Returns
    -------
    Axes
        Of `causal_graph`. Features stand in the order of `cluster`; above 40, only those with an
        arrow.
    """
    shown = style.drawable(table, ["effect"], PAIR)
    if shown.empty:
        return style.nothing_to_draw(ax)
    if significance is not None:
        check_columns(table, ["q_value"], "the table of this figure")
        shown = shown[shown["q_value"] < significance]
    shown = shown.loc[shown["effect"].abs().nlargest(edges).index].set_index(PAIR)["effect"]
    matrix = effect_matrix(table)
    names = matrix.index[cluster(matrix)[1]]
    names = names.append(matrix.columns.difference(names, sort=False))
    if len(names) > 40 and len(shown):
        names = names[names.isin([name for pair in shown.index for name in pair])]
    return causal_graph(shown.to_dict(), nodes=names, ax=ax)
