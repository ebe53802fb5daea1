"""What figures share: colours, legends, and what is shown where there is nothing to show.

For all of them, a table without rows, or without one that has what is drawn, gives empty Axes that
say so; a table with rows that lacks a column is an error.

Figures that are made here are laid out so that they save uncut, with long names, too; Axes that are
given belong to the caller's figure, which constrained layout, as `use_style` sets it, keeps uncut.

One colour for each sign: wherever colour tells whether an effect is above or below 0, it is
`POSITIVE` or `NEGATIVE`, or a tint of the colour map `SIGNS` that they are taken from.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from inspect import signature
from itertools import cycle
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation

from .._checks import check_choice, check_columns, numbers

# seaborn's colour-blind palette
BLUE, ORANGE, GREEN, RED, PURPLE = "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"
BROWN, PINK, GREY, SKY = "#ca9161", "#fbafe4", "#949494", "#56b4e9"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, BROWN)  # of groups in one figure
SIGNS = "RdBu_r"  # blue below 0, white, red above
NEGATIVE, POSITIVE = (tuple(colour) for colour in plt.get_cmap(SIGNS)([0.1, 0.9]))
# Five dashes and six colours have no common factor: 30 methods before a pair is seen again.
_DASHES = ("-", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
_LINE_COLOURS = (RED, PURPLE, BROWN, GREEN, PINK, SKY)
_BESIDE = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 2}
_LEGENDS = {"inside": {"loc": "upper left"}, "beside": _BESIDE, "below": _BELOW}


def use_style() -> None:
    """Set the style that all figures of the book share."""
    import seaborn as sns  # takes longer to import than all of this package's figures

    sns.set_theme("notebook", "ticks", "colorblind", rc={
        "axes.spines.right": False, "axes.spines.top": False, "figure.constrained_layout.use": True,
        "figure.dpi": 110, "figure.facecolor": "white", "savefig.facecolor": "white",
        "font.size": 11, "legend.frameon": False,
    })  # fmt: skip


def line_styles() -> Iterator[dict[str, object]]:
    """Colour and dash of one method after the other, without end."""
    for colour, dash in zip(cycle(_LINE_COLOURS), cycle(_DASHES), strict=False):
        yield {"color": colour, "ls": dash, "lw": 2}


def drawable(table: pd.DataFrame, finite: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """Rows of a table that can be drawn.

    Parameters
    ----------
    table : pd.DataFrame
        What was given.
    finite, others : sequence of str
        Columns that the figure reads: those that must be finite numbers, and the others.

    Returns
    -------
    pd.DataFrame
        Perhaps without rows, but with all columns; how many were given stands in its ``attrs``.
    """
    columns = [*finite, *others]
    if isinstance(table, pd.DataFrame) and not len(table):
        return table.reindex(columns=[*table.columns.union(columns, sort=False)])
    check_columns(table, columns, "the table of this figure")
    good = np.ones(len(table), bool)
    for name in finite:
        good &= np.isfinite(numbers(table[name], name))
    rows = table[good]
    rows.attrs["given"] = len(table)
    return rows


def figure_of(
    finite: str, others: str = "", size: tuple[float, float] | None = None
) -> Callable[[Callable], Callable]:
    """Give a figure the rows of its table that can be drawn, or say that there are none.

    Parameters
    ----------
    finite, others : str
        Columns that it reads, see `drawable`, separated by spaces.
    size : (float, float), optional
        Of the Axes that it gets where it is called without; a figure of several makes its own.

    Returns
    -------
    callable
        Decorator of a function whose first argument is the table.
    """

    def decorate(draw: Callable) -> Callable:
        @wraps(draw)
        def drawn(*args: Any, **options: Any) -> Any:
            given = signature(draw).bind(*args, **options)
            table, ax = next(iter(given.arguments)), given.arguments.get("ax")
            rows = drawable(given.arguments[table], finite.split(), others.split())
            if rows.empty:
                return nothing_to_draw(ax) if size else nothing_to_draw().figure
            given.arguments[table] = rows
            if size:
                given.arguments["ax"] = ax or new_axes(size)
            drawing = draw(*given.args, **given.kwargs)
            return uncut(drawing) if size and ax is None else drawing

        return drawn

    return decorate


def new_axes(size: tuple[float, float]) -> Axes:
    """Axes of a figure of this size, in inches, that saves uncut."""
    return plt.subplots(figsize=size, layout="constrained")[1]


def uncut(ax: Axes) -> Axes:
    """Axes whose figure has grown until it holds all labels and legends."""
    figure = ax.figure
    for _ in range(4):
        figure.draw_without_rendering()
        box, size = figure.get_tightbbox(), figure.get_size_inches()
        beyond = np.fmax(-box.min, 0) + np.fmax(box.max - size, 0)
        if (beyond < 0.01).all():
            break
        figure.set_size_inches(size + 1.1 * beyond + 0.05 * (beyond > 0))
    return ax


def text_width(texts: Iterable[str], size: float) -> float:
    """Width of the longest text, in inches, in letters of so many points."""
    return max((TextPath((0, 0), t, size).get_extents().width for t in texts if t), default=0) / 72


def wrapped(text: str, width: int = 22) -> str:
    """A label in lines of so many characters, which end at a space or within a name."""
    if len(str(text)) <= width:
        return str(text)
    parts = re.sub(r"([_\-./:|]+)", "\\1\t", str(text))  # tabs: where a name may be broken
    lines = wrap(parts, width, expand_tabs=False, replace_whitespace=False, break_on_hyphens=False)
    return "\n".join(line.replace("\t", "") for line in lines)


def with_unit(label: str, unit: str) -> str:
    """Label of an axis; what the user calls the unit of his features stands behind it."""
    return f"{label} ({unit})" if unit else label


def one_pair(table: pd.DataFrame) -> tuple[str, str]:
    """Exposure and outcome of a table that may have one row a sequence: of one pair and method.

    Names stand in its columns, or in its ``attrs``; else they are "exposure" and "outcome".
    """
    for columns in (["exposure", "outcome"], ["method"]):
        if set(columns) <= set(table) and len(table[columns].drop_duplicates()) > 1:
            first = " and ".join(f"{n} == {table[n].iloc[0]!r}" for n in columns)
            raise ValueError(
                f"this figure draws one {'pair' if len(columns) > 1 else 'method'}; the table has "
                f"{len(table[columns].drop_duplicates())}: take one, table.query({first!r})"
            )
    named = {**table.attrs, **table.iloc[:1].to_dict("records")[0]} if len(table) else table.attrs
    return tuple(str(named.get(role, role)) for role in ("exposure", "outcome"))


def one_method(table: pd.DataFrame, method: str | None) -> tuple[pd.DataFrame, str]:
    """Rows of one method, the first where none is named, and what tells it in a label."""
    if "method" not in getattr(table, "columns", ()) or table.empty:
        return table, ""
    there = table["method"].unique().tolist()
    method = there[0] if method is None else check_choice("method", method, there)
    return table[table["method"] == method], f", {method}" if len(there) > 1 else ""


def both_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of pairs beside those of the reverse, ``_back``; of two features, the first row."""
    back = table.rename(columns={"exposure": "outcome", "outcome": "exposure"})
    both = table.merge(back, on=["exposure", "outcome"], suffixes=("", "_back"))
    names = [frozenset(pair) for pair in zip(both["exposure"], both["outcome"], strict=True)]
    return both[~pd.Series(names, both.index, dtype=object).duplicated()]


def nothing_to_draw(ax: Axes | None = None, message: str = "no row has an estimate") -> Axes:
    """Axes that say that the table had no row to draw."""
    ax = ax or new_axes((4, 2))
    ax.text(0.5, 0.5, f"nothing to draw: {message}", ha="center", va="center",
            transform=ax.transAxes, color="0.4")  # fmt: skip
    ax.set(xticks=[], yticks=[])
    return ax


def panels(
    count: int, columns: int, size: tuple[float, float], sharex: bool = True
) -> tuple[Figure, np.ndarray]:
    """A figure of this many Axes on common scales, in rows of so many; others are left blank."""
    figure, axes = plt.subplots(-(-count // columns), columns, figsize=size, sharex=sharex,
                                sharey=True, squeeze=False, layout="constrained")  # fmt: skip
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, axes


def marker_size(count: int) -> float:
    """Marker size, in points, at which so many points stay apart."""
    return float(np.clip(250 / max(count, 1), 1, 5))


def bars(table: pd.DataFrame, middle: str, low: str, high: str) -> list[pd.Series]:
    """What error bars reach below and above the middle."""
    return [table[middle] - table[low], table[high] - table[middle]]


def ranked_intervals(ax: Axes, table: pd.DataFrame, label: str) -> np.ndarray:
    """Draw estimates with their intervals, the first row lowest; their places are 1, 2, ..."""
    rank = np.arange(1, len(table) + 1)
    size = marker_size(len(table))
    ax.hlines(rank, table["ci_low"], table["ci_high"], color=BLUE, lw=min(size, 1.5), alpha=0.45)
    ax.plot(table["causal_effect"], rank, "o", ms=size, color=BLUE, label=label)
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    return rank


def signed_map(
    ax: Axes, values: pd.DataFrame, label: str, limit: float | None = None, **options: Any
) -> None:
    """Draw effects as colours, the first row on top, what is missing in grey.

    Parameters
    ----------
    ax : Axes
    values : pd.DataFrame, float (A, B)
        Cells end at whole numbers, and are named by index and columns.
    label : str
        Of the colour bar.
    limit : float, optional
        Effect of full colour; by default the largest.
    **options : any
        As of `seaborn.heatmap`.
    """
    import seaborn as sns

    named = options.pop("yticklabels", True)
    largest = values.abs().max(axis=None) or 1.0
    limit = limit or largest
    bar = {"label": label, "pad": 0.02, "extend": "both" if limit < largest else "neither"}
    ax.set_facecolor("0.8")
    sns.heatmap(values, ax=ax, cmap=SIGNS, vmin=-limit, vmax=limit, rasterized=True, cbar_kws=bar,
                yticklabels=False, **options)  # fmt: skip
    if named:  # seaborn would turn them, and lay the figure out with names upright
        ax.set_yticks(np.arange(len(values)) + 0.5, values.index.astype(str))


def readable_legend(ax: Axes, place: str, **options: Any) -> None:
    """Add a legend whose markers and lines are as large as if there were few points."""
    look = {**_LEGENDS[place], **options}
    if place == "below":  # of the label of the axis, however tall the Axes are
        down = -0.38 - 0.17 * (1 + ax.get_xlabel().count("\n")) * bool(ax.get_xlabel())
        shift = ScaledTranslation(0, down, ax.figure.dpi_scale_trans)
        look["bbox_transform"] = ax.transAxes + shift
    legend = ax.legend(fontsize=9, **look)
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_alpha(1)
            handle.set_markersize(max(handle.get_markersize(), 6))


def label_points(ax: Axes, x: pd.Series, y: pd.Series) -> None:
    """Write the index of each point beside it, on the side away from the nearest other point."""
    ax.figure.draw_without_rendering()  # places on the screen are known after this
    places = ax.transData.transform(np.column_stack([x, y.loc[x.index]]))
    for name, place in zip(x.index, places, strict=True):
        apart = np.hypot(*(places - place).T)
        nearest = places[np.argsort(apart)[1]] if len(places) > 1 else place
        right, up = place[0] >= nearest[0], place[1] >= nearest[1]
        ax.annotate(
            name, (x[name], y[name]), xytext=(5 if right else -5, 5 if up else -5), fontsize=9,
            textcoords="offset points", ha="left" if right else "right",
            va="bottom" if up else "top",
        )  # fmt: skip
