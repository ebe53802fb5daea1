"""Figures of effects between many features: tables in, a Figure or Axes out."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from scipy.cluster import hierarchy

from .._checks import require
from .style import BLUE, RED, drawable, nothing_to_draw

NAMED = 60  # features beyond which names in a heat map cannot be read
PAIR = ["exposure", "outcome"]


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
    require(table, [*PAIR, value], "a table of effects")
    repeated = table.duplicated(PAIR)
    if repeated.any():
        row = table[repeated].iloc[0]
        raise ValueError(
            f"a pair may have one row; {row['exposure']!r} on {row['outcome']!r} has more: take "
            "the rows of one method, table[table['method'] == 'egger']"
        )
    wide = table.pivot(index="exposure", columns="outcome", values=value)
    exposures, outcomes = (table[side].unique().tolist() for side in PAIR)
    shared = set(outcomes) & set(exposures)
    columns = [name for name in exposures if name in shared]
    columns += [name for name in outcomes if name not in shared]
    return wide.reindex(index=exposures, columns=columns).astype(np.float64)


def cluster(matrix: pd.DataFrame) -> np.ndarray | None:
    """Hierarchy of features that act, and are acted on, alike.

    Parameters
    ----------
    matrix : pd.DataFrame, float (A, B)
        Of `effect_matrix`. What is missing counts as no effect. Where exposures and outcomes are
        the same features these are described by both, else exposures by their effects.

    Returns
    -------
    np.ndarray, float64 (A - 1, 4)
        Average linkage of Euclidean distances, as `scipy.cluster.hierarchy.linkage`, its leaves in
        an order that puts like beside like; None below 3 exposures.
    """
    if len(matrix) < 3:
        return None
    values = matrix.fillna(0).to_numpy()
    if set(matrix.index) == set(matrix.columns):
        values = np.hstack([values, values.T])
    ordered = len(matrix) <= 300  # takes the square of the number of features in memory, and longer
    return hierarchy.linkage(values, "average", optimal_ordering=ordered)


def effect_clustermap(
    table: pd.DataFrame, *, value: str = "effect", limit: float | None = None
) -> Figure:
    """Draw all effects, like features beside like.

    Parameters
    ----------
    table : pd.DataFrame
        See `effect_matrix`; pairs with ``q_value`` below 5 %, where there is one, get a dot.
    value : str
        Column to draw.
    limit : float, optional
        Effect of full colour; by default the 98 % quantile of absolute effects.

    Returns
    -------
    Figure
        The hierarchy beside the heat map; a feature on itself, and what is missing, is grey.
    """
    if drawable(table, [*PAIR, value], [value]).empty:
        return nothing_to_draw().figure
    matrix = effect_matrix(table, value)
    linkage = cluster(matrix)
    rows, columns = list(range(len(matrix))), list(range(matrix.shape[1]))
    if linkage is not None:
        rows = hierarchy.leaves_list(linkage).tolist()
    if set(matrix.index) == set(matrix.columns):
        columns = rows
    elif (other := cluster(matrix.T)) is not None:
        columns = hierarchy.leaves_list(other).tolist()
    matrix = matrix.iloc[rows, columns]
    if limit is None:
        sizes = matrix.abs().stack()
        limit = float(sizes.quantile(0.98)) or 1.0
    named = max(matrix.shape) <= NAMED
    cell = 0.24 if named else 5.5 / max(matrix.shape)
    size = (max(4.5, cell * matrix.shape[1] + 2.6), max(3.2, cell * len(matrix) + 1.4))
    figure, (left, ax) = plt.subplots(
        1, 2, figsize=size, width_ratios=(1, 6), layout="constrained"
    )  # fmt: skip
    left.axis("off")
    if linkage is not None and linkage[-1, 2] > 0:  # else all are alike
        hierarchy.dendrogram(
            linkage, orientation="left", ax=left, no_labels=True, color_threshold=0,
            above_threshold_color="0.4",
        )  # fmt: skip
        left.set_ylim(10 * len(matrix), 0)  # leaves are 10 apart, the first is drawn on top
    ax.set_facecolor("0.8")
    mesh = ax.pcolormesh(
        matrix.to_numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True
    )  # fmt: skip
    if "q_value" in table and named:
        told = effect_matrix(table, "q_value").loc[matrix.index, matrix.columns].to_numpy() < 0.05
        i, j = told.nonzero()
        ax.plot(j + 0.5, i + 0.5, "o", ms=2, color="black", label="q < 5 %")
    ax.invert_yaxis()
    ax.set(xlabel="outcome", ylabel="exposure", xticks=[], yticks=[])
    if named:
        ax.set_xticks(np.arange(matrix.shape[1]) + 0.5, matrix.columns, rotation=90, fontsize=8)
        ax.set_yticks(np.arange(len(matrix)) + 0.5, matrix.index, fontsize=8)
    figure.colorbar(mesh, ax=ax, label=value.replace("_", " "), extend="both", pad=0.02)
    return figure


def effect_graph(
    table: pd.DataFrame,
    *,
    value: str = "effect",
    edges: int = 50,
    significance: float | None = 0.05,
    column: str = "q_value",
    ax: Axes | None = None,
) -> Axes:
    """Draw the strongest effects as arrows between features on a circle.

    Parameters
    ----------
    table : pd.DataFrame
        See `effect_matrix`.
    value : str
        Column that decides strength, width and colour: orange-red acts up, blue down.
    edges : int
        How many arrows to draw at most.
    significance : float, optional
        Only pairs whose ``column`` is below it; None for all.
    column : str
        Of p-values or q-values.
    ax : Axes, optional

    Returns
    -------
    Axes
        Features stand in the order of `cluster`; above 40, only those with an arrow.
    """
    if drawable(table, [*PAIR, value], [value]).empty:
        return nothing_to_draw(ax)
    matrix = effect_matrix(table, value)
    shown = table[table[value].notna()]
    if significance is not None:
        require(table, [column], "a table of effects")
        shown = shown[shown[column] < significance]
    shown = shown.loc[shown[value].abs().nlargest(edges).index]
    linkage = cluster(matrix)
    names = matrix.index.tolist()
    if linkage is not None:
        names = [names[i] for i in hierarchy.leaves_list(linkage)]
    names += [name for name in matrix.columns if name not in set(names)]
    if len(names) > 40:
        joined = set(shown[PAIR].to_numpy().ravel())
        names = [name for name in names if name in joined]
    ax = ax or plt.subplots(figsize=(6, 6))[1]
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / max(len(names), 1)
    place = dict(zip(names, np.stack([np.cos(angle), np.sin(angle)], axis=1), strict=True))
    largest = shown[value].abs().max() or 1.0
    for exposure, outcome, effect in shown[[*PAIR, value]].itertuples(index=False):
        ax.add_patch(
            FancyArrowPatch(
                place[exposure], place[outcome], arrowstyle="-|>", mutation_scale=10,
                connectionstyle="arc3,rad=0.15", shrinkA=6, shrinkB=6, alpha=0.8,
                lw=0.5 + 2.5 * abs(effect) / largest, color=RED if effect > 0 else BLUE,
            )
        )  # fmt: skip
    for (name, (x, y)), turn in zip(place.items(), np.degrees(angle), strict=True):
        ax.plot(x, y, "o", ms=6, color="black")
        leftwards = x < -1e-9
        ax.text(
            1.06 * x, 1.06 * y, name, fontsize=9, rotation=turn - 180 if leftwards else turn,
            rotation_mode="anchor", ha="right" if leftwards else "left", va="center",
        )  # fmt: skip
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    ax.axis("off")
    return ax
