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

from .._checks import as_list, check_choice, check_columns
from . import style

Pair = tuple[str, str]
PAIR = ["exposure", "outcome"]
NAMED = 60  # features or pairs beyond which names cannot be read
PANELS = 30  # of pairs in one figure
DIRECTLY = 12  # names around a circle up to which none has to be turned
NAME = 9  # points


def causal_graph(
    edges: Mapping[Pair, float],
    *,
    nodes: Sequence[str] = (),
    places: Mapping[str, tuple[float, float]] | None = None,
    dashed: Sequence[Pair] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a causal graph: arrows as wide as effects are large, in the colours of their signs.

    Parameters
    ----------
    edges : mapping of (str, str) to float
        Effects, by exposure and outcome; pairs without an arrow are left out.
    nodes : sequence of str
        Features to draw, too, without an arrow, and in which order, clockwise from the top of a
        circle. Above 15 features arrows hide each other: `effect_clustermap` shows all effects.
    places : mapping of str to (float, float)
        Where each feature lies, instead of on a circle. Names of up to six letters stand inside
        their nodes.
    dashed : sequence of (str, str)
        Edges to draw dashed, for instance those that are not direct.
    ax : Axes, optional
    """
    edges = {pair: effect for pair, effect in edges.items() if np.isfinite(effect)}
    names = list(dict.fromkeys([*nodes, *(name for pair in edges for name in pair)]))
    if not names:
        return style.nothing_to_draw(ax)
    new, inside = ax is None, places is not None and max(len(str(name)) for name in names) <= 6
    if places is None:
        angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
        at = np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        at = np.array([places[check_choice("feature", n, list(places))] for n in names], float)
    where = dict(zip(names, at, strict=True))
    ax = _graph_axes(ax, at, names, inside)
    width, gap = (5, 23) if inside else (3, 6)  # of the largest arrow, and before a node; points
    largest = max(map(abs, edges.values()), default=0.0) or 1.0
    for (a, b), effect in edges.items():
        bend = 0.18 if (b, a) in edges else 0.0
        arrow = FancyArrowPatch(
            where[a], where[b], arrowstyle="-|>", mutation_scale=2.8 * width, shrinkA=gap,
            shrinkB=gap, lw=width * (0.16 + 0.84 * abs(effect) / largest), alpha=0.9,
            color=style.POSITIVE if effect > 0 else style.NEGATIVE,
            ls="--" if (a, b) in dashed else "-", connectionstyle=f"arc3,rad={bend}",
        )  # fmt: skip
        ax.add_patch(arrow)
    box = {"boxstyle": "circle,pad=0.35", "fc": "white", "ec": style.GREY}
    for name, place in where.items():
        if inside:
            ax.annotate(name, place, ha="center", va="center", fontsize=9.5, bbox=box)
            continue
        ax.plot(*place, "o", ms=6, color="black")
        _name_outside(ax, name, place, place - at.mean(0), turned=len(names) > DIRECTLY)
    return style.uncut(ax) if new else ax


def _graph_axes(ax: Axes | None, at: np.ndarray, names: list[str], inside: bool) -> Axes:
    """Axes whose limits hold nodes and names; without any, of a size for both."""
    low, high = at.min(0), at.max(0)
    room = np.array([0.5, 0.5])  # around the nodes: for names inside them, in units of places
    if inside:
        ax = ax or style.new_axes((3.4, 3.4))
    else:
        name = style.text_width(names, NAME) + 0.25  # inches
        beside = np.array([name, name if len(names) > DIRECTLY else 0.35])
        radius = max(2.0, 0.028 * len(names))  # inches a unit
        ax = ax or style.new_axes((*np.fmax(radius * (high - low) + 2 * beside + 0.2, 3),))
        ax.axis("off")
        ax.figure.draw_without_rendering()  # the size of Axes is known after this
        box = ax.get_window_extent().size / ax.figure.dpi
        span = np.fmax(high - low, 0.5)
        scale = np.fmax((box - 2 * beside - 0.1) / span, 0.1 * box / span).min()
        room = beside / scale
    ax.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]),
           aspect="equal")  # fmt: skip
    ax.axis("off")
    return ax


def _name_outside(
    ax: Axes, name: str, place: np.ndarray, away: np.ndarray, *, turned: bool
) -> None:
    """Write a name beside its node, away from the middle; turned, as a spoke of the circle."""
    away = away / (np.hypot(*away) or 1.0)
    turn, left = np.degrees(np.arctan2(away[1], away[0])), away[0] < -1e-9
    side = "center" if abs(away[0]) < 1e-9 and not turned else ("right" if left else "left")
    above = "center" if turned or abs(away[0]) > 0.2 else ("bottom" if away[1] >= 0 else "top")
    ax.annotate(name, place, 8 * away, textcoords="offset points", fontsize=NAME, ha=side, va=above,
                rotation=(turn - 180 * left) * turned, rotation_mode="anchor")  # fmt: skip


def pair_forest(
    table: pd.DataFrame, *, method: str | None = None, unit: str = "", ax: Axes | None = None
) -> Axes:
    """Draw global effects of all pairs with their intervals and the spread of local effects.

    Parameters
    ----------
    table : pd.DataFrame
        ``effects`` of `deepmr_utils.analysis.deep_mr`, or of `deepmr_utils.pairs.summarise` or
        `deepmr_utils.atlas.causal_atlas`, of which the total intervals are drawn, or of
        `deepmr_utils.meta.global_effects` by pair. Where there is no interval, the dot stands
        alone. Columns ``tau``, ``knockout`` with its interval, and ``truth`` are drawn, if there.
        Of more than 60 pairs, those with the largest effects are drawn.
    method : str, optional
        Of a table of several: which to draw, by default the first.
    unit : str
        Of effects, for the label of the axis.
    ax : Axes, optional
    """
    every = style.drawable(table, ["effect"], PAIR)
    if every.empty:
        return style.nothing_to_draw(ax)
    ends = [f"total_ci_{e}" if f"total_ci_{e}" in table else f"ci_{e}" for e in ("low", "high")]
    check_columns(table, ends, "the table of this figure")
    every, of = style.one_method(every, method)
    table = every[every["effect"].abs().rank(method="first", ascending=False) <= NAMED]
    names = _arrow_names(table)
    size = (max(6.4, 4.9 + style.text_width(names, 11)), max(2.2, 1.56 + 0.27 * len(table)))
    new, ax = ax is None, ax or style.new_axes(size)
    row, effect = np.arange(len(table)), table["effect"]
    if "tau" in table and (table["tau"] > 0).any():
        spread = table["tau"].fillna(0)
        ax.hlines(row, effect - spread, effect + spread, color=style.ORANGE, lw=6, alpha=0.35,
                  label="± tau, local effects")  # fmt: skip
    ax.errorbar(effect, row, xerr=style.bars(table, "effect", *ends), fmt="o", ms=5,
                capsize=3, color=style.BLUE, label="global effect, 95 % interval")  # fmt: skip
    if "knockout" in table and table["knockout"].notna().any():
        ends = style.bars(table, "knockout", "knockout_ci_low", "knockout_ci_high")
        ax.errorbar(table["knockout"], row + 0.28, xerr=ends, fmt="D", ms=4, mfc="white", capsize=2,
                    lw=1, color=style.GREEN, label="effect of a knock-out")  # fmt: skip
    if "truth" in table:
        ax.plot(table["truth"], row, "|", ms=13, mew=2, color="black", label="true effect")
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks(row, names)
    ax.set_ylim(len(table) - 0.4, -0.6)
    some = f"{len(table)} largest of {len(every)} pairs" if len(table) < len(every) else ""
    ax.set(xlabel=style.with_unit(f"causal effect of exposure on outcome{of}", unit), ylabel=some)
    style.readable_legend(ax, "below")
    return style.uncut(ax) if new else ax


def private_movers(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what moves one feature and leaves the other alone, against the same the other way round.

    Parameters
    ----------
    table : pd.DataFrame
        ``effects`` of `deepmr_utils.analysis.deep_mr`, or of
        `deepmr_utils.private_movers.private_movers`. A dot is two features, the first of which
        has the horizontal axis: on the left edge it may act on the second, on the lower edge the
        second on it; in the corner of both they cannot be told apart; elsewhere neither acts. Pairs
        with a share one way only are left out. Long names stand beside the figure, by number; more
        than 30 dots have none.
    ax : Axes, optional
    """
    table = style.drawable(table, ["private_share"], [*PAIR, "private_ci_low", "private_ci_high"])
    back = table.rename(columns=dict(zip(PAIR, PAIR[::-1], strict=True)))
    both = table.merge(back, on=PAIR, suffixes=("", "_back"))
    names = [frozenset(pair) for pair in both[PAIR].itertuples(index=False)]
    both = both[~pd.Series(names, both.index, dtype=object).duplicated()]
    if both.empty:
        return style.nothing_to_draw(ax)
    new = ax is None
    ax = ax or style.new_axes((6, 6))
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
    names = [f"{row.exposure}, {row.outcome}" for row in both.itertuples()]
    if len(names) > PANELS:
        return ax
    if len(names) > 15 or max(map(len, names)) > 16:
        list_of = [f"{i}  {name}" for i, name in enumerate(names, 1)]
        if new:
            ax.figure.set_size_inches(6.2 + style.text_width(list_of, 8), 6)
        beside = [Line2D([], [], ls="", label=text) for text in list_of]
        ax.legend(handles=beside, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8,
                  handlelength=0, handletextpad=0)  # fmt: skip
        names = [str(i) for i in range(1, len(names) + 1)]
    for name, row in zip(names, both.itertuples(), strict=True):
        flat = row.private_share_back < 0.2 < row.private_share  # dots in a row: slanted names
        ax.annotate(name, (row.private_share, row.private_share_back),
                    (2, 6) if flat else (6, 4), textcoords="offset points", fontsize=9,
                    va="bottom" if flat else "center", rotation=55 * flat)  # fmt: skip
    return style.uncut(ax) if new else ax


def _arrow_names(table: pd.DataFrame) -> list[str]:
    return [f"{exposure} → {outcome}" for exposure, outcome in table[PAIR].to_numpy()]


@style.figure_of("causal_effect", "exposure outcome")
def local_densities(local: pd.DataFrame, *, unit: str = "") -> Figure:
    """Draw how local effects are distributed: a panel an exposure, a line an outcome.

    Parameters
    ----------
    local : pd.DataFrame
        ``local`` of `deepmr_utils.analysis.deep_mr`: ``exposure, outcome, causal_effect``.
    unit : str
        Of effects, for the label of the axis.

    Returns
    -------
    Figure
        In rows of four panels. Above 30 outcomes lines look alike: choose rows of the table.
    """
    local = _clipped(style.one_method(local, None)[0])
    exposures = local["exposure"].unique()
    names = pd.unique(local[PAIR].to_numpy().T.ravel())  # exposures first
    looks = [(c, dash) for dash in ("-", "--", ":", "-.", (0, (5, 1))) for c in style.SERIES]
    looks = dict(zip(names, cycle(looks), strict=False))
    columns, rows = min(4, len(exposures)), -(-len(exposures) // 4)
    beside = -(-len(names) // max(12, 12 * rows))  # columns of the legend
    wide = beside * (style.text_width([f"on {n}" for n in names], 9) + 0.65)
    size = (
        max(10.5, 2.4 * columns + wide) if columns > 2 else 3.2 * columns + 1 + wide,
        3.2 * rows,
    )
    figure, axes = style.panels(len(exposures), columns, size)
    bins = np.histogram_bin_edges(local["causal_effect"], 45)
    for ax, exposure in zip(axes.flat, exposures, strict=False):
        for outcome, rows in local[local["exposure"] == exposure].groupby("outcome", sort=False):
            colour, dash = looks[outcome]
            ax.hist(rows["causal_effect"], bins, density=True, histtype="step", lw=1.6,
                    color=colour, ls=dash)  # fmt: skip
        ax.set(yscale="symlog", ylim=(0, None))
        ax.set_title(style.wrapped(exposure), fontsize=10 if len(str(exposure)) > 22 else None)
    for ax in axes[:, 0]:
        ax.set(ylabel="density")
    handles = [
        Line2D([], [], color=colour, ls=dash, label=f"on {name}")
        for name, (colour, dash) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=9, ncols=beside)
    figure.supxlabel(style.with_unit("local causal effect", unit), fontsize=11)
    return figure


def _clipped(local: pd.DataFrame) -> pd.DataFrame:
    """Local effects, the outermost 1 % at the edge of the others."""
    effect = local["causal_effect"]
    return local.assign(causal_effect=effect.clip(*effect.quantile([0.005, 0.995])))


@style.figure_of("causal_effect", "sequence_id exposure outcome")
def effects_against_reverse(local: pd.DataFrame, *, unit: str = "") -> Figure:
    """Draw local effects of each pair against their reverse.

    Parameters
    ----------
    local : pd.DataFrame
        ``local`` of `deepmr_utils.analysis.deep_mr`: ``sequence_id, exposure, outcome,
        causal_effect``. A column ``distance``, of the motifs in bases, colours the dots, if there.
        Of more than 30 pairs of features, those with the largest effects on average are drawn.
    unit : str
        Of effects, for the label of the figure.

    Returns
    -------
    Figure
        Both axes span the central 99 % of all effects; the others are drawn at the edge.
    """
    local = _clipped(style.one_method(local, None)[0])
    pairs = list(combinations(pd.unique(local[PAIR].to_numpy().ravel()), 2))
    there = len(pairs)
    if there > PANELS:
        size = local["causal_effect"].abs().groupby([local[name] for name in PAIR]).mean()
        pairs.sort(key=lambda pair: -np.fmax(size.get(pair, 0.0), size.get(pair[::-1], 0.0)))
        pairs = pairs[:PANELS]
    columns = min(3, -(-len(pairs) // 2)) if len(pairs) <= 6 else 5
    rows, long = -(-len(pairs) // columns), local[PAIR].astype(str).map(len).max(axis=None) > 10
    size = (max(4.5, 10 * columns / 3), 3.2 * max(rows, 1)) if columns <= 3 else (15, 2.9 * rows)
    figure, axes = style.panels(len(pairs), columns, size)
    reverse = ["sequence_id", *PAIR[::-1]]
    both = local.merge(
        local, left_on=["sequence_id", *PAIR], right_on=reverse, suffixes=("", "_back")
    )
    low, high = local["causal_effect"].agg(["min", "max"])
    margin = 0.03 * (high - low) or 0.05
    ends = (low - margin, high + margin)
    for ax, (a, b) in zip(axes.flat, pairs, strict=False):
        shown = both[(both["exposure"] == a) & (both["outcome"] == b)]
        look = {"color": style.BLUE}
        if "distance" in local:
            look = {"c": shown["distance"], "cmap": "viridis_r", "vmin": 0, "vmax": 200}
        points = ax.scatter(shown["causal_effect"], shown["causal_effect_back"], s=9, **look)
        ax.axline((0, 0), slope=1, color="0.7", lw=0.8, zorder=0)
        ax.axhline(0, color="0.85", lw=0.8, zorder=0)
        ax.axvline(0, color="0.85", lw=0.8, zorder=0)
        ax.set(aspect="equal", xlim=ends, ylim=ends)
        small = {"fontsize": 8} if long else {}
        ax.set_xlabel(_arrow(a, b), **small)
        ax.set_ylabel(_arrow(b, a), **small)
    if "distance" in local:
        figure.colorbar(points, ax=axes, label="distance between motifs (bp)", shrink=0.7)
    if there > PANELS or unit:
        some = f": {PANELS} of {there} pairs" if there > PANELS else ""
        figure.suptitle(f"{style.with_unit('local causal effects', unit)}{some}", fontsize=11)
    return figure


def _arrow(exposure: str, outcome: str) -> str:
    """A pair as a label, in lines where it is long."""
    text = f"{exposure} → {outcome}"
    return (
        text
        if len(text) <= 24
        else f"{style.wrapped(exposure, 31)}\n→ {style.wrapped(outcome, 31)}"
    )


def distance_heatmap(
    table: pd.DataFrame, bins: Sequence[str], *, unit: str = "", ax: Axes | None = None
) -> Axes:
    """Draw global effects by pair and distance of the motifs, with their values.

    Parameters
    ----------
    table : pd.DataFrame
        Of `experiments.binding.graph_scores.by_distance`.
    bins : sequence of str
        The bins, in their order.
    unit : str
        Of effects, for the colour bar.
    ax : Axes, optional
    """
    bins = as_list(bins)
    table = style.drawable(table, ["effect"], [*PAIR, "bin"])
    table = table[table["bin"].isin(bins)]
    if table.empty:
        return style.nothing_to_draw(ax)
    wide = table.pivot_table("effect", PAIR, "bin", sort=False).reindex(columns=bins)
    wide.index = _arrow_names(wide.index.to_frame())
    long = max(1.2 * style.text_width(wide.index, 11) - 1.5, 0)
    new, ax = ax is None, ax or style.new_axes((5.2 + long, np.clip(1 + 0.3 * len(wide), 5, 20)))
    style.signed_map(
        ax,
        wide,
        style.with_unit("global effect", unit),
        annot=True,
        fmt="z.2f",
        annot_kws={"size": 8.5},
    )
    ax.set(xlabel="distance between motifs (bp)", ylabel="")
    ax.tick_params(axis="x", labelsize=8)
    return style.uncut(ax) if new else ax


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


def effect_clustermap(table: pd.DataFrame, *, method: str | None = None, unit: str = "") -> Figure:
    """Draw all effects, like features beside like.

    Parameters
    ----------
    table : pd.DataFrame
        See `effect_matrix`; pairs with ``q_value`` below 5 %, where there is one, get a dot.
    method : str, optional
        Of a table of several, as of `deepmr_utils.atlas.causal_atlas`: which to draw, by default
        the first, as the colour bar then says.
    unit : str
        Of effects, for the colour bar.

    Returns
    -------
    Figure
        The hierarchy beside the heat map, whose colours end at the 98 % quantile of absolute
        effects; a feature on itself, and what is missing, is grey.
    """
    table, of = style.one_method(table, method)
    if style.drawable(table, ["effect"], PAIR).empty:
        return style.nothing_to_draw().figure
    matrix = effect_matrix(table)
    tree, rows = cluster(matrix)
    columns = rows if set(matrix.index) == set(matrix.columns) else cluster(matrix.T)[1]
    matrix = matrix.iloc[rows, columns]
    (height, width), named = matrix.shape, max(matrix.shape) <= NAMED
    cell = 0.24 if named else 5.5 / max(matrix.shape)
    beside, below = (style.text_width(map(str, n), 8) for n in (matrix.index, matrix.columns))
    more = np.fmax([beside - 0.6, below - 0.6], 0) * named  # inches, for long names
    size = (max(4.5, cell * width + 2.6) + 1.2 * more[0], max(3.2, cell * height + 1.4) + more[1])
    figure, (left, ax) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 6), layout="constrained")
    left.axis("off")
    if tree is not None and tree[-1, 2] > 0:  # else all are alike
        hierarchy.dendrogram(tree, orientation="left", ax=left, no_labels=True, color_threshold=0,
                             above_threshold_color="0.4")  # fmt: skip
        left.set_ylim(10 * height, 0)  # leaves are 10 apart, the first is drawn on top
    limit = np.nanquantile(np.abs(matrix.to_numpy()), 0.98)
    style.signed_map(
        ax,
        matrix,
        style.with_unit(f"effect{of}", unit),
        limit,
        xticklabels=named,
        yticklabels=named,
    )
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
    method: str | None = None,
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
    method : str, optional
        Of a table of several: which to draw, by default the first.
    ax : Axes, optional

    Returns
    -------
    Axes
        Of `causal_graph`. Features stand in the order of `cluster`; above 40, only those with an
        arrow.
    """
    table, _ = style.one_method(table, method)
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
    ax = causal_graph(shown.to_dict(), nodes=names, ax=ax)
    if shown.empty:
        ax.set_title(f"no pair has q below {significance:g}", fontsize=10)
    return ax
