"""Figures that tell whether an estimate can be believed; `deepmr_utils.plots` has the others.

The scatter with every method's line is `deepmr_utils.plots.effect_scatter`, the forest of sequences
`deepmr_utils.plots.forest`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import special

from .._checks import check_number
from .style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    drawable,
    line_styles,
    marker_size,
    nothing_to_draw,
    readable_legend,
)

Z_95 = special.ndtri(0.975)


def funnel(single: pd.DataFrame, estimates: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw ratios against their precision; invalid instruments on one side make it lopsided.

    Parameters
    ----------
    single : pd.DataFrame
        Instruments of one sequence, see `deepmr_utils.mr.diagnostics.single_instruments`.
    estimates : pd.DataFrame
        ``method, causal_effect``, a vertical line each. Around the first, dotted curves hold 95 %
        of the ratios if all instruments are valid.
    ax : Axes, optional
        Ratios too far out for the range, the central 90 % and all lines, stand at its edge.
    """
    shown = drawable(single, ["ratio", "precision"], ["ratio", "precision"])
    if shown.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(7.6, 4.2))[1]
    estimates = drawable(estimates, ["method", "causal_effect"], ["causal_effect"])
    ends = [*np.quantile(shown["ratio"], [0.05, 0.95]), *estimates["causal_effect"]]
    margin = 0.25 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    inside = shown["ratio"].between(low, high)
    size = marker_size(len(shown))
    ax.plot(shown["ratio"][inside], shown["precision"][inside], "o", ms=size, color=BLUE, alpha=0.8,
            label="instrument")  # fmt: skip
    if not inside.all():
        ax.plot(shown["ratio"][~inside].clip(low, high), shown["precision"][~inside], "x",
                ms=size + 2, color=GREY, clip_on=False, label="beyond the edge")  # fmt: skip
    for (_, row), style in zip(estimates.iterrows(), line_styles(), strict=False):
        ax.axvline(row["causal_effect"], **style, lw=2,
                   label=f"{row['method']}: {row['causal_effect']:.2f}")  # fmt: skip
    heights = np.linspace(shown["precision"].max() / 50, 1.05 * shown["precision"].max(), 200)
    for side in (-1, 1) if len(estimates) else ():
        centre = estimates["causal_effect"].iloc[0]
        ax.plot(centre + side * Z_95 / heights, heights, ls=":", color="0.4", lw=1,
                label="95 % of valid instruments" if side > 0 else None)  # fmt: skip
    ax.set(xlim=(low, high), ylim=(0, heights[-1]), xlabel="ratio of one instrument",
           ylabel="precision (1 / standard error)")  # fmt: skip
    readable_legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def radial(single: pd.DataFrame, *, significance: float = 0.05, ax: Axes | None = None) -> Axes:
    """Draw ratios times the root of their weight against that root: outliers leave the band.

    Parameters
    ----------
    single : pd.DataFrame
        Instruments of one sequence, see `deepmr_utils.mr.diagnostics.single_instruments`.
    significance : float
        Instruments whose part of Cochran's Q has a p-value below it, after Bonferroni's correction,
        are marked as outliers.
    ax : Axes, optional

    Notes
    -----
    Bowden et al. (2018), Int J Epidemiol 47:1264. The line has the inverse-variance weighted
    estimate as its slope; the band is 1.96 above and below it, since every point has variance 1.
    """
    check_number("significance", significance, 0, 1, ends=False)
    shown = drawable(single, ["radial_x", "radial_y", "q_p"], ["radial_x", "radial_y"])
    if shown.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(7.6, 4.2))[1]
    x, y = shown["radial_x"], shown["radial_y"]
    slope = (x * y).sum() / (x**2).sum()
    outlier = shown["q_p"] * len(shown) < significance
    size = marker_size(len(shown))
    ax.plot(x[~outlier], y[~outlier], "o", ms=size, color=BLUE, alpha=0.8, label="instrument")
    if outlier.any():
        ax.plot(x[outlier], y[outlier], "D", ms=size + 1, color=ORANGE, mec="black", mew=0.5,
                label=f"outlier ({outlier.sum()})")  # fmt: skip
    grid = np.array([0, 1.05 * x.max()])
    ax.plot(grid, slope * grid, color=RED, lw=2, label=f"ivw: {slope:.2f}")
    ax.fill_between(grid, slope * grid - Z_95, slope * grid + Z_95, color=RED, alpha=0.12, lw=0,
                    label="95 % of valid instruments")  # fmt: skip
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.set(xlim=(0, grid[1]), xlabel="√weight", ylabel="ratio × √weight")
    readable_legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def leave_one_out(
    left_out: pd.DataFrame,
    whole: pd.Series,
    *,
    labels: pd.Series | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the estimate without each instrument in turn, sorted, beside that with all of them.

    Parameters
    ----------
    left_out : pd.DataFrame
        See `deepmr_utils.mr.diagnostics.leave_one_out`.
    whole : pd.Series
        Row of `deepmr_utils.mr.estimate` with all instruments.
    labels : pd.Series, optional
        Names of instruments, by their index. Up to 40 stand at the axis; of more, the legend names
        the five whose absence changes the estimate most.
    ax : Axes, optional
    """
    needed = ["left_out", "causal_effect", "ci_low", "ci_high"]
    shown = drawable(left_out, needed, ["causal_effect"]).sort_values("causal_effect")
    if shown.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(6.4, 5))[1]
    rank = np.arange(1, len(shown) + 1)
    size = marker_size(len(shown))
    ax.hlines(rank, shown["ci_low"], shown["ci_high"], color=BLUE, lw=min(size, 1.5), alpha=0.45)
    ax.plot(shown["causal_effect"], rank, "o", ms=size, color=BLUE,
            label="one instrument left out, 95 % CI")  # fmt: skip
    ax.axvspan(whole["ci_low"], whole["ci_high"], color=RED, alpha=0.12, lw=0)
    ax.axvline(whole["causal_effect"], color=RED, lw=1.5, zorder=1.5,
               label=f"all instruments: {whole['causal_effect']:.2f}, 95 % CI")  # fmt: skip
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    names = shown["left_out"].map(labels) if labels is not None else shown["left_out"]
    if len(shown) <= 40:
        ax.set_yticks(rank, names.astype(str).tolist(), fontsize=8)
    else:
        change = (shown["causal_effect"] - whole["causal_effect"]).abs().to_numpy()
        most = names.iloc[np.argsort(-change, kind="stable")[:5]].astype(str)
        ax.plot([], [], " ", label=f"matter most: {', '.join(most)}")
        ax.set_yticks([])
    ax.set(xlabel="causal effect of exposure on outcome", ylabel="instrument left out")
    ax.margins(y=0.02)
    readable_legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


def method_scores(scores: pd.DataFrame) -> Figure:
    """Draw bias, spread and coverage of methods, one panel a scenario.

    Parameters
    ----------
    scores : pd.DataFrame
        See `deepmr_utils.mr.benchmark.score`. A point is the bias, its bar one standard deviation
        of the estimates to either side, its colour the coverage. Squares mark methods whose
        assumptions do not hold.
    """
    needed = ["scenario", "method", "bias", "rmse", "coverage", "assumed"]
    scores = drawable(scores, needed, ["bias"])
    if scores.empty:
        return nothing_to_draw().figure
    scenarios, methods = scores["scenario"].unique(), scores["method"].unique()
    rows = -(-len(scenarios) // 3)
    columns = min(3, len(scenarios))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(7.6, 0.8 + rows * (1 + 0.21 * len(methods))),
        sharey=True,
        squeeze=False,
    )
    y = pd.Series(np.arange(len(methods)), index=methods)
    for ax, scenario in zip(axes.flat, scenarios, strict=False):
        one = scores[scores["scenario"] == scenario]
        spread = np.sqrt(np.fmax(one["rmse"] ** 2 - one["bias"] ** 2, 0))
        at = y[one["method"]].to_numpy()
        ax.hlines(at, one["bias"] - spread, one["bias"] + spread, color="0.5", lw=1.2, zorder=1)
        for holds, marker in ((True, "o"), (False, "s")):
            chosen = (one["assumed"] == holds).to_numpy()
            mesh = ax.scatter(one["bias"][chosen], at[chosen], c=one["coverage"][chosen], vmin=0,
                              vmax=1, cmap="cividis", marker=marker, s=34, edgecolor="black",
                              linewidth=0.6, zorder=2)  # fmt: skip
        ax.axvline(0, color="black", ls="--", lw=1, zorder=0)
        ax.set(title=scenario, xlabel="bias ± sd")
        ax.xaxis.set_major_locator(MaxNLocator(3))
    for ax in axes.flat[len(scenarios) :]:
        ax.set_axis_off()
    axes[0, 0].set_yticks(y, y.index)
    axes[0, 0].invert_yaxis()
    for ax in axes[:, 0]:
        ax.tick_params(axis="y", labelsize=9)
    bar = figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.6, aspect=40)
    bar.set_label("coverage of 95 % intervals (squares: an assumption fails)")
    return figure
