"""Figures that tell whether an estimate can be believed.

The scatter with every method's line is `deepmr_utils.plots.effects.effect_scatter`, the forest of
sequences `deepmr_utils.plots.effects.forest`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style

Z_95 = 1.959964  # 95 % of a normal distribution lie so many standard deviations from its mean


@style.figure_of("ratio precision", size=(7.6, 4.2))
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
    estimates = style.drawable(estimates, ["causal_effect"], ["method"])
    ratio, precision, lines = single["ratio"], single["precision"], estimates["causal_effect"]
    ends = [*np.quantile(ratio, [0.05, 0.95]), *lines]
    margin = 0.25 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    inside = ratio.between(low, high)
    size = style.marker_size(len(single))
    ax.plot(ratio[inside], precision[inside], "o", ms=size, color=style.BLUE, alpha=0.8,
            label="instrument")  # fmt: skip
    if not inside.all():
        ax.plot(ratio[~inside].clip(low, high), precision[~inside], "x", ms=size + 2,
                color=style.GREY, clip_on=False, label="beyond the edge")  # fmt: skip
    for name, line, look in zip(estimates["method"], lines, style.line_styles(), strict=False):
        ax.axvline(line, **look, label=f"{name}: {line:.2f}")
    heights = np.linspace(precision.max() / 50, 1.05 * precision.max(), 200)
    for centre in lines[:1]:
        for z, label in ((-Z_95, None), (Z_95, "95 % of valid instruments")):
            ax.plot(centre + z / heights, heights, ls=":", color="0.4", lw=1, label=label)
    ax.set(xlim=(low, high), ylim=(0, heights[-1]), xlabel="ratio of one instrument",
           ylabel="precision (1 / standard error)")  # fmt: skip
    style.readable_legend(ax, "beside")
    return ax


@style.figure_of("radial_x radial_y", "q_p", size=(7.6, 4.2))
def radial(single: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw ratios times the root of their weight against that root: outliers leave the band.

    Parameters
    ----------
    single : pd.DataFrame
        Instruments of one sequence, see `deepmr_utils.mr.diagnostics.single_instruments`. Those
        whose part of Cochran's Q has a p-value below 5 %, after Bonferroni's correction, are marked
        as outliers.
    ax : Axes, optional

    Notes
    -----
    Bowden et al. (2018), Int J Epidemiol 47:1264. The line has the inverse-variance weighted
    estimate as its slope; the band is 1.96 above and below it, since every point has variance 1.
    """
    x, y = single["radial_x"], single["radial_y"]
    slope = (x * y).sum() / (x**2).sum()
    outlier = single["q_p"] * len(single) < 0.05
    size = style.marker_size(len(single))
    ax.plot(x[~outlier], y[~outlier], "o", ms=size, color=style.BLUE, alpha=0.8, label="instrument")
    if outlier.any():
        ax.plot(x[outlier], y[outlier], "D", ms=size + 1, color=style.ORANGE, mec="black", mew=0.5,
                label=f"outlier ({outlier.sum()})")  # fmt: skip
    grid = np.array([0, 1.05 * x.max()])
    ax.plot(grid, slope * grid, color=style.RED, lw=2, label=f"ivw: {slope:.2f}")
    ax.fill_between(grid, slope * grid - Z_95, slope * grid + Z_95, color=style.RED, alpha=0.12,
                    lw=0, label="95 % of valid instruments")  # fmt: skip
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.set(xlim=(0, grid[1]), xlabel="√weight", ylabel="ratio × √weight")
    style.readable_legend(ax, "beside")
    return ax


@style.figure_of("causal_effect", "left_out ci_low ci_high", size=(6.4, 5))
def leave_one_out(left_out: pd.DataFrame, whole: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Draw the estimate without each instrument in turn, sorted, beside that with all of them.

    Parameters
    ----------
    left_out : pd.DataFrame
        See `deepmr_utils.mr.diagnostics.leave_one_out`. Up to 40 names of instruments, its column
        ``left_out``, stand at the axis; of more, the legend names the five whose absence changes
        the estimate most.
    whole : pd.Series
        Row of `deepmr_utils.mr.estimate` with all instruments.
    ax : Axes, optional
    """
    left_out = left_out.sort_values("causal_effect")
    rank = style.ranked_intervals(ax, left_out, "one instrument left out, 95 % CI")
    ax.axvspan(whole["ci_low"], whole["ci_high"], color=style.RED, alpha=0.12, lw=0)
    ax.axvline(whole["causal_effect"], color=style.RED, lw=1.5, zorder=1.5,
               label=f"all instruments: {whole['causal_effect']:.2f}, 95 % CI")  # fmt: skip
    names = left_out["left_out"].astype(str)
    if len(names) <= 40:
        ax.set_yticks(rank, names, fontsize=8)
    else:
        change = (left_out["causal_effect"] - whole["causal_effect"]).abs().to_numpy()
        most = names.iloc[np.argsort(-change, kind="stable")[:5]]
        ax.plot([], [], " ", label=f"matter most: {', '.join(most)}")
        ax.set_yticks([])
    ax.set(xlabel="causal effect of exposure on outcome", ylabel="instrument left out")
    ax.margins(y=0.02)
    style.readable_legend(ax, "below")
    return ax


@style.figure_of("bias coverage", "scenario method assumed")
def method_scores(scores: pd.DataFrame) -> Figure:
    """Draw a map of methods by scenarios: the coverage of their intervals, and their bias.

    Parameters
    ----------
    scores : pd.DataFrame
        See `deepmr_utils.mr.benchmark.score`. The colour of a cell is the coverage, its words are
        coverage and bias. Frames mark cells in which the assumptions of the method hold.
    """
    scenarios, methods = scores["scenario"].unique(), scores["method"].unique()
    size = 2.4 + 0.72 * len(scenarios), 1.4 + 0.42 * len(methods)
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    coverage = scores.pivot(index="method", columns="scenario", values="coverage")
    mesh = ax.imshow(coverage.loc[methods, scenarios], vmin=0, vmax=1, cmap="cividis",
                     aspect="auto")  # fmt: skip
    columns, rows = (pd.Index(names) for names in (scenarios, methods))
    for one in scores.itertuples():
        x, y = columns.get_loc(one.scenario), rows.get_loc(one.method)
        ink = "white" if one.coverage < 0.5 else "black"
        ax.text(x, y, f"{one.coverage:.0%}\n{one.bias:+z.2f}", ha="center", va="center",
                fontsize=9, color=ink)  # fmt: skip
        if one.assumed:
            corner = x - 0.44, y - 0.42
            ax.add_patch(plt.Rectangle(corner, 0.88, 0.84, fill=False, lw=1.8, edgecolor=ink))
    ax.set_xticks(range(len(scenarios)), scenarios, rotation=30, ha="left")
    ax.set_yticks(range(len(methods)), methods)
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    bar = figure.colorbar(mesh, ax=ax, location="bottom", shrink=0.7, aspect=40)
    bar.set_label("coverage of 95 % intervals; below it in a cell: bias")
    return figure
