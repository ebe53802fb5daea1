"""Figures of the chapter on exon definition."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepmr_utils import plots
from deepmr_utils.analysis import Result
from deepmr_utils.plots import style

from .answers import PLACES, placed, with_exon
from .exons import BEFORE, BORDERS, SITES, read_exons

COLOURS = {"donor": plots.BLUE, "acceptor": plots.ORANGE}
WAYS = {"donor": "donor \u2192 acceptor", "acceptor": "acceptor \u2192 donor"}
PLACE_COLOURS = dict(zip(PLACES, style.SERIES, strict=False)) | {PLACES[-1]: style.SKY}


def draw_logos(effects: xr.Dataset, result: Result, exon_id: str) -> Figure:
    """What either site loses by substitutions around an exon; instruments have a colour."""
    end = BEFORE + int(read_exons().loc[exon_id, "length"])
    figure, axes = plt.subplots(2, 1, figsize=(10, 5), sharex=True)
    for ax, site in zip(axes, SITES, strict=True):
        own = placed(result.instruments[result.instruments["exposure"] == site])
        plots.sequence_logo(
            effects, exon_id, site, ax=ax, positions=slice(BEFORE - 35, end + 12),
            instruments=own.assign(motif=own["place"]), colours=PLACE_COLOURS,
        )  # fmt: skip
        ax.axvspan(BEFORE - 0.5, end - 0.5, color="0.93", zorder=0, lw=0)
        ax.set(ylabel=f"loss of the {site}\n(log-odds)", xlabel="")
        ax.get_legend().remove()
    ticks = np.arange(BEFORE - 30, end + 12, 10)
    axes[1].set_xticks(ticks, ticks - BEFORE)
    axes[1].set_xlabel("bases from the exon\u2019s first")
    squares = [Line2D([], [], ls="", marker="s", color=c) for c in PLACE_COLOURS.values()]
    figure.legend(squares, PLACES, loc="outside lower center", ncols=4)
    return figure


def draw_local(result: Result) -> Figure:
    """Local effects of either site in order of size, with intervals that carry the members."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for ax, (exposure, way) in zip(axes, WAYS.items(), strict=True):
        local = result.local[result.local["exposure"] == exposure].dropna(subset="causal_effect")
        local = local.sort_values("causal_effect")
        rank, colour = np.arange(len(local)), COLOURS[exposure]
        ax.vlines(rank, local["ci_low"], local["ci_high"], color=colour, lw=0.5, alpha=0.5)
        ax.plot(rank, local["causal_effect"], ".", color=colour, ms=3)
        row = result.effects.set_index("exposure").loc[exposure]
        ax.axhspan(row["ci_low"], row["ci_high"], color="0.8", zorder=0, lw=0)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title=way, xlabel="exons, in order", ylim=(-0.5, 1.2))
    axes[0].set_ylabel("local effect")
    return figure


def draw_lengths(result: Result, classes: pd.DataFrame) -> Figure:
    """Local effects by length of the exon, and the global ones of classes of `by_length`."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    edges = [30, *BORDERS[1:], 373]
    for ax, (exposure, way) in zip(axes, WAYS.items(), strict=True):
        local = with_exon(result.local[result.local["exposure"] == exposure])
        ax.plot(local["length"], local["causal_effect"], ".", color="0.7", ms=4)
        own = classes[classes["exposure"] == exposure].sort_values("length_class")
        middle = np.sqrt(np.multiply(edges[:-1], edges[1:]))
        sides = own["effect"] - own["total_ci_low"], own["total_ci_high"] - own["effect"]
        ax.errorbar(middle, own["effect"], sides, fmt="o", color=COLOURS[exposure], capsize=3)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title=way, xlabel="length of the exon (bases)", xscale="log", ylim=(-0.25, 1.0))
        ax.set_xticks([40, 80, 120, 170, 300], [40, 80, 120, 170, 300], minor=False)
        ax.minorticks_off()
    axes[0].set_ylabel("effect")
    return figure


def draw_across(local: pd.DataFrame) -> Figure:
    """The local effect across the exon against that across the intron, a dot an exon."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), sharex=True, sharey=True)
    for ax, (exposure, outcomes) in zip(axes, (
        ("donor", ("next acceptor", "acceptor")), ("acceptor", ("previous donor", "donor")),
    ), strict=True):  # fmt: skip
        own = local[local["exposure"] == exposure]
        ax.axline((0, 0), slope=1, color="0.7", lw=1)
        ax.axhline(0, color="0.9", lw=0.8, zorder=0)
        ax.axvline(0, color="0.9", lw=0.8, zorder=0)
        ax.plot(own["intron"], own["exon"], ".", color=COLOURS[exposure], ms=5)
        ax.set(xlabel=f"{exposure} \u2192 {outcomes[0]}", ylabel=f"{exposure} \u2192 {outcomes[1]}")
        ax.set(xlim=(-0.25, 0.95), ylim=(-0.25, 0.95), aspect="equal")
    return figure


def draw_knock_outs(curves: Mapping[str, pd.DataFrame], predicted: pd.DataFrame) -> Figure:
    """The ratio of both losses by the size of the loss, and knock-outs predicted."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.9))
    for exposure, table in curves.items():
        sides = table["ratio"] - table["low"], table["high"] - table["ratio"]
        options = {"color": COLOURS[exposure], "capsize": 3}
        axes[0].errorbar(table["lost"], table["ratio"], sides, fmt="o-", **options,
                         label=WAYS[exposure])  # fmt: skip
        last = table.iloc[-1]
        axes[0].plot(last["lost"], last["ratio"], "s", ms=9, color=COLOURS[exposure])
    axes[0].set(xlabel="log-odds that the exposure loses", ylim=(0, None),
                ylabel="outcome\u2019s loss / exposure\u2019s loss")  # fmt: skip
    axes[0].legend()
    axes[1].axline((0, 0), slope=1, color="0.7", lw=1)
    axes[1].plot(predicted["predicted"], predicted["actual"], ".", color=plots.BLUE, ms=5)
    axes[1].set(xlabel="predicted from other substitutions", ylabel="knock-out of the donor")
    return figure


def draw_places(places: pd.DataFrame) -> Figure:
    """How many instruments an exon has, by where they are, and how strong they are."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    at = {place: -i for i, place in enumerate(PLACES)}
    for k, (site, colour) in enumerate(COLOURS.items()):
        own = places[places["exposure"] == site].dropna()
        y = own["place"].map(at) + 0.2 - 0.4 * k
        axes[0].barh(y, own["many"], 0.38, color=colour, label=f"of the {site}")
        axes[1].barh(y, own["size"], 0.38, color=colour)
    axes[0].set_yticks(list(at.values()), list(at))
    axes[0].set_xlabel("instruments of an exon, mean")
    axes[1].set_xlabel("their effect on the site (log-odds), mean")
    axes[0].legend()
    return figure
