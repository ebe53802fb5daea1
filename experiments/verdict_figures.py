"""Figures of the page on verdicts."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from deepmr_utils import plots

from .verdict_tables import NAMES, named
from .verdicts import DEFAULT, LABELS, PUBLISHED, TARGETS

COLOURS = {DEFAULT: plots.BLUE, LABELS: plots.GREEN, PUBLISHED: plots.ORANGE}
MODELS = {
    "all": ("s", "0.5", "perfect model"),
    "under": ("D", plots.ORANGE, "perfect but for a response"),
}


def draw_rates(rates: pd.DataFrame) -> Figure:
    """Rates of `.verdicts.rates` with intervals: a panel a rate, a row a world."""
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(11, 5.5), sharey=True)
    there = set(rates["world"])
    at = {name: -i for i, name in enumerate(name for name in NAMES if name in there)}
    for ax, (rate, target) in zip(axes, TARGETS.items(), strict=True):
        ax.axvline(target, color="0.6", lw=1)
        for k, (name, colour) in enumerate(COLOURS.items()):
            part = rates[(rates["rate"] == rate) & (rates["analysis"] == name)]
            y = part["world"].map(at).astype(float) + 0.25 - 0.25 * k
            ax.hlines(y, part["low"], part["high"], color=colour, lw=1)
            ax.plot(part["share"], y, "o", color=colour, ms=4, label=name)
        ax.set(title=rate, xlim=(-0.04, 1.04), xlabel="share of pairs")
    axes[0].set_yticks(list(at.values()), [named(name) for name in at])
    _legend(figure)
    return figure


def draw_way_back(back: pd.DataFrame, worlds: tuple[str, str]) -> Figure:
    """Knock-out effects of the outcome on the exposure in two worlds, run by run.

    ``back`` has ``world, run, networks, knockout_ci_low, knockout_ci_high`` and the `MODELS`, of
    `.worlds.simulation_knock_outs`.
    """
    figure, axes = plt.subplots(1, len(worlds), figsize=(8.5, 3.4))
    for ax, name in zip(axes, worlds, strict=True):
        part = back[back["world"] == name].sort_values("run")
        x = part["run"]
        ax.vlines(x, part["knockout_ci_low"], part["knockout_ci_high"], color=plots.BLUE, lw=1)
        ax.plot(x, part["networks"], "o", color=plots.BLUE, ms=4, label="networks")
        for key, (marker, colour, label) in MODELS.items():
            ax.plot(x, part[key], marker, color=colour, ms=4, mfc="none", label=label)
        ax.axhline(0, color="0.85", lw=1, zorder=0)
        ax.set(title=named(name).removeprefix("simulation, "), xlabel="run")
    axes[0].set_ylabel("knock-out effect, way back")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
