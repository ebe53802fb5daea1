"""Effects as arrows between features."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from .._checks import check_choice, check_columns
from . import style
from .pairs import PAIR, cluster, effect_matrix

Pair = tuple[str, str]
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
