"""Figures of the chapter on the simulation: global effects, slopes and coverages, local effects."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepmr_utils import plots
from deepmr_utils.plots.style import wrapped

from .stored_rounds import ANALYSES, COMPONENTS, SCENARIOS, SIZES

CONTAINS = {True: ("o", plots.BLUE, "contains the truth"), False: ("s", plots.RED, "does not")}
LOOKS = {
    "without_mutants": ("o", plots.BLUE), "with_mutants": ("D", plots.GREEN),
    "published": ("s", plots.ORANGE),
}  # fmt: skip
COLOURS = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE)
LINES = dict(zip(SCENARIOS, zip("osD^", COLOURS, strict=True), strict=True))
INTERVALS = {"ci": "networks taken as known", "total_ci": "with the variance between networks"}
BANDS = {"slope": (0.95, 1.05), "coverage": (0.9, 1.0)}
LABELS = {
    "slope": "slope of estimates on truths",
    "coverage": "share of rounds whose interval\ncontains the truth",
}


def draw_rounds(table: pd.DataFrame) -> Figure:
    """Error of the global effect with its interval, a line a round, ordered by the truth.

    ``table`` has the rows of `.stored_rounds.analysis_table` of one stratum: a panel for every
    scenario and analysis.
    """
    shown = [name for name in ANALYSES if name in set(table["analysis"])]
    figure, axes = plt.subplots(
        len(SCENARIOS), len(shown), figsize=(7.4, 8.6), sharey=True, squeeze=False
    )
    for i, scenario in enumerate(SCENARIOS):
        for ax, name in zip(axes[i], shown, strict=True):
            rows = table[(table["scenario"] == scenario) & (table["analysis"] == name)]
            rows = rows.sort_values("truth")
            _draw_errors(ax, rows)
            _mark_sizes(ax, rows)
        axes[i, 0].set_ylabel(f"{wrapped(SCENARIOS[scenario], 20)}\nestimate − truth", fontsize=9)
    for ax, name in zip(axes[0], shown, strict=True):
        ax.set_title(ANALYSES[name].title)
    for ax in axes[-1]:
        ax.set_xlabel("rounds, by true effect")
    _name_intervals(figure, 2)
    return figure


@sns.plotting_context("paper")
def draw_intervals(table: pd.DataFrame, interval: str) -> Figure:
    """Errors of global effects with one of their intervals, a line a round, lowest first.

    Parameters
    ----------
    table : pd.DataFrame
        Rows of `.stored_rounds.analysis_table` of one stratum and analysis.
    interval : {"ci", "total_ci"}
        One of `INTERVALS`. The figures of both have one scale.
    """
    low, high = (table[f"{interval}_{end}"] for end in ("low", "high"))
    rows = table.assign(low=low, high=high, contains=table["truth"].between(low, high))
    figure, ax = plt.subplots(figsize=(3.5, 2.6))
    _draw_errors(ax, rows.iloc[(rows["effect"] - rows["truth"]).argsort()])
    ends = table[["total_ci_low", "total_ci_high"]].sub(table["truth"], axis=0).to_numpy()
    ax.set(title=INTERVALS[interval], ylim=(1.05 * ends.min(), 1.05 * ends.max()),
           xlabel="rounds, by error", ylabel="estimate − true global effect")  # fmt: skip
    _name_intervals(figure, 1)
    return figure


def _name_intervals(figure: Figure, columns: int) -> None:
    handles = [
        Line2D([], [], marker=marker, color=colour, label=f"95% interval {words}")
        for marker, colour, words in CONTAINS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _draw_errors(ax: Axes, rows: pd.DataFrame) -> None:
    x, held = np.arange(len(rows)), rows["contains"].to_numpy(bool)
    error, low, high = (rows[name] - rows["truth"] for name in ("effect", "low", "high"))
    size = 3.5 if len(rows) < 30 else 2.2
    for value, (marker, colour, _) in CONTAINS.items():
        at = held == value
        ax.vlines(x[at], low[at], high[at], color=colour, lw=0.45 * size)
        ax.plot(x[at], error[at], marker, color=colour, ms=size)
    ax.axhline(0, color="black", lw=0.8, zorder=0)
    ax.text(0.03, 0.97, f"{held.sum()} of {len(rows)}", transform=ax.transAxes, va="top")
    ax.set_xticks([])


def _mark_sizes(ax: Axes, rows: pd.DataFrame) -> None:
    weak = int((rows["component"] == "small").sum())
    ax.axvline(weak - 0.5, color="0.6", lw=1, ls=":")
    for where, words in ((weak / 2, "weak"), ((weak + len(rows)) / 2, "strong")):
        ax.text(where - 0.5, 0.02, words, transform=ax.get_xaxis_transform(), ha="center",
                color="0.35", fontsize=10)  # fmt: skip


def draw_scores(scores: pd.DataFrame) -> Figure:
    """Slopes and coverages of `.stored_rounds.analysis_scores`, by scenario and component.

    ``scores`` are those of one stratum. Lines are 95 % intervals of the share, given the number of
    rounds; what is grey is aimed at.
    """
    cells = [(scenario, size) for scenario in SCENARIOS for size in COMPONENTS]
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 6.2), sharey=True)
    for ax, (score, band) in zip(axes, BANDS.items(), strict=True):
        ax.axvspan(*band, color="0.9", lw=0, zorder=0)
        for k, (name, (marker, colour)) in enumerate(LOOKS.items()):
            for i, (scenario, size) in enumerate(cells):
                key, y = (name, scenario, size), i + 0.26 * (k - 1)
                if key not in scores.index:
                    continue
                row = scores.loc[key]
                ax.plot(row[score], y, marker, color=colour, ms=6)
                if score == "coverage":
                    ax.hlines(y, *_binomial(row[score], row["rounds"]), color=colour, lw=1)
        for i in range(2, len(cells), 2):
            ax.axhline(i - 0.5, color="0.8", lw=1)
        ax.set_xlabel(LABELS[score])
    names = [f"{SCENARIOS[scenario]}, {COMPONENTS[size]}" for scenario, size in cells]
    axes[0].set_yticks(range(len(cells)), [wrapped(name, 22) for name in names])
    axes[0].invert_yaxis()
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, label=ANALYSES[name].words)
        for name, (marker, colour) in LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    return figure


def _binomial(share: float, count: float) -> tuple[float, float]:
    count = round(count)
    found = scipy.stats.binomtest(round(share * count), count).proportion_ci(method="wilson")
    return found.low, found.high


def draw_local(coverage: pd.DataFrame, calibration: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Coverage of local intervals by true effect, and mean truth by estimate; columns: analyses.

    ``coverage`` and ``calibration`` are `.stored_rounds.local_coverage` and
    `.stored_rounds.truth_by_estimate`.
    """
    figure, axes = plt.subplots(2, len(names), figsize=(7.4, 7.2), sharey="row", squeeze=False)
    calibration = calibration.loc[list(names)].sort_index()
    for (above, below), name in zip(axes.T, names, strict=True):
        above.axhline(0.95, color="black", lw=1, ls="--", zorder=0)
        for k, (scenario, (marker, colour)) in enumerate(LINES.items()):
            look = {"marker": marker, "color": colour, "ms": 5, "lw": 1.5}
            rows = coverage.loc[(name, scenario)].reindex(SIZES)
            x = np.arange(len(rows)) + 0.08 * (k - 1.5)
            above.plot(x, rows["coverage"], **look, label=SCENARIOS[scenario])
            rows = calibration.loc[(name, scenario)]
            below.plot(rows["estimate"], rows["truth"], **look)
        above.set_xticks(range(len(SIZES)), SIZES, rotation=35, ha="right")
        above.set(title=ANALYSES[name].title, xlabel="true effect, % of that\nwith both motifs")
        ends = calibration[["estimate", "truth"]].to_numpy()
        below.plot(*[(ends.min(), ends.max())] * 2, color="black", lw=1, ls="--", zorder=0)
        below.set_xlabel("estimated effect, share of\nthat with both motifs")
    axes[0, 0].set(ylabel="share of local intervals\nthat contain the truth", ylim=(0.45, 1.02))
    axes[1, 0].set_ylabel("mean true effect, share of\nthat with both motifs")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
