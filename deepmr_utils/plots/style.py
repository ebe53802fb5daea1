"""What figures share: legends, labels, and what is shown where there is nothing to show.

For all of them, a table without rows, or without one that has what is drawn, gives empty Axes that
say so; a table with rows that lacks a column is an error.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .._checks import check_columns, numbers

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = sns.color_palette("colorblind")
# Five dashes and six colours have no common factor: 30 methods before a pair is seen again.
_DASHES = ("-", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
_LINE_COLOURS = (RED, PURPLE, BROWN, GREEN, PINK, SKY)


def use_style() -> None:
    """Set the style that all figures of the book share."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    plt.rcParams.update({
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "font.size": 11,
        "legend.frameon": False,
        "savefig.facecolor": "white",
    })  # fmt: skip


def line_styles() -> Iterator[dict[str, object]]:
    """Colour and dash of one method after the other, without end."""
    for colour, dash in zip(cycle(_LINE_COLOURS), cycle(_DASHES), strict=False):
        yield {"color": colour, "ls": dash}


def drawable(
    table: pd.DataFrame, columns: Sequence[str], finite: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rows of a table that can be drawn.

    Parameters
    ----------
    table : pd.DataFrame
        What was given.
    columns : sequence of str
        Columns that the figure reads.
    finite : sequence of str, optional
        Those of them that must be finite numbers; all rows without.

    Returns
    -------
    pd.DataFrame
        Perhaps without rows, but with all columns.
    """
    if isinstance(table, pd.DataFrame) and not len(table):
        return table.reindex(columns=[*table.columns.union(list(columns), sort=False)])
    check_columns(table, columns, "the table of this figure")
    good = np.ones(len(table), bool)
    for name in finite or ():
        good &= np.isfinite(numbers(table[name], name))
    return table[good]


def nothing_to_draw(ax: Axes | None = None) -> Axes:
    """Axes that say that the table had no row to draw."""
    ax = ax or plt.subplots(figsize=(4, 2))[1]
    ax.text(0.5, 0.5, "nothing to draw: no row has an estimate", ha="center", va="center",
            transform=ax.transAxes, color="0.4")  # fmt: skip
    ax.set(xticks=[], yticks=[])
    return ax


def marker_size(count: int) -> float:
    """Marker size, in points, at which so many points stay apart."""
    return float(np.clip(250 / max(count, 1), 1, 5))


def readable_legend(ax: Axes, **options: object) -> None:
    """Add a legend whose markers and lines are as large as if there were few points."""
    legend = ax.legend(fontsize=9, **options)
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
