"""Figures of the effects of substitutions, and of local and global causal effects."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Affine2D

from .._checks import as_list, check_choice, check_columns
from . import style

if TYPE_CHECKING:  # a figure of tables needs no xarray
    import xarray as xr

Spans = Sequence[tuple[str, int, int]]
OTHER_LETTER = "0.75"  # no instrument
LETTER_COLOURS = (*style.SERIES[:5], style.SKY, style.PINK, "#ece133")
BASE_COLOURS = {"A": style.GREEN, "C": style.BLUE, "G": style.ORANGE, "T": style.RED}
SPAN_COLOURS = {"exposure": style.BLUE, "outcome": style.ORANGE, "confounder": style.PINK}
_FONT = FontProperties(family="DejaVu Sans", weight="bold")
_LETTERS = {base: TextPath((0, 0), base, size=1, prop=_FONT) for base in BASE_COLOURS}


ROW = 100  # bases in a row of a sequence that is drawn in rows
ONE_ROW = 120  # bases up to which it is not
OTHERS, SEVERAL = "others", "several"  # of instruments, in a legend


def sequence_logo(
    effects: "xr.Dataset",
    sequence_id: str,
    feature: str,
    spans: Spans = (),
    ax: Axes | None = None,
    *,
    positions: slice = slice(None),
    instruments: pd.DataFrame | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Draw a sequence with letters as tall as what the model loses when they are mutated.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    sequence_id, feature : str
    spans : sequence of (name, start, end)
        Embedded motifs to shade, end exclusive.
    ax : Axes, optional
        Without it, more than 120 bases are drawn in rows of 100.
    positions : slice
        Which bases to draw, counted from 0.
    instruments : pd.DataFrame, optional
        Of `deepmr_utils.analysis.deep_mr`: letters of instruments have a colour, by the column
        ``motif``, if there, else ``exposure``; other letters are grey.
    colours : mapping of str to str, optional
        Of motifs or exposures. By default the feature, and those with the most instruments,
        eight in all, have one.

    Returns
    -------
    Axes
        Those of the first row.

    Notes
    -----
    The height of a base is minus the mean effect of its three substitutions.
    """
    one = _one(effects, sequence_id, feature)
    heights = -one["effect"].mean("allele").to_numpy()
    start, stop, step = positions.indices(len(heights))
    if stop <= start or step != 1:
        raise ValueError(
            f"positions must be a slice of at least one of {len(heights)} bases, without a step; "
            f"got {positions}: give slice(0, {min(len(heights), ROW)})"
        )
    if np.isnan(heights[start:stop]).all():
        return style.nothing_to_draw(ax)
    groups, legend = {}, {}
    if instruments is not None:
        groups, legend = _instrument_colours(one, instruments, colours)
    rows, new = [(start, stop)], ax is None
    if ax is not None:
        axes = [ax]
    elif stop - start <= ONE_ROW:
        axes = [style.new_axes((8, 1.9 + 0.35 * bool(legend)))]
    else:
        rows = [(i, min(i + ROW, stop)) for i in range(start, stop, ROW)]
        size = (8, 0.8 + 1.15 * len(rows))
        axes = style.panels(len(rows), 1, size, sharex=False)[1][:, 0]
    shown = heights[start:stop]
    low, high = min(np.nanmin(shown), 0), max(np.nanmax(shown), 0)
    margin = 0.06 * (high - low) or 1.0
    for row, (first, last) in zip(axes, rows, strict=True):
        _draw_spans(row, spans, first, last)
        for position in range(first, last):
            base = one["reference"].to_numpy()[position]
            if base in _LETTERS:
                colour = groups.get(position, OTHER_LETTER) if legend else BASE_COLOURS[base]
                _draw_letter(row, base, position, heights[position], colour)
        row.axhline(0, color="black", lw=0.8)
        end = last if len(rows) == 1 else first + ROW  # letters are as wide in a short last row
        row.set(xlim=(first - 1, end), ylim=(low - margin, high + margin))
    axes[-1].set(xlabel="position (bp)")
    label = f"importance\nfor {style.wrapped(feature)}"
    if len(rows) == 1:
        axes[0].set(ylabel=label)
    else:
        axes[0].figure.supylabel(label, fontsize=11)
    if legend:
        for name, colour in legend.items():
            axes[-1].plot([], [], "s", color=colour, label=name)
        style.readable_legend(axes[-1], "below", ncols=max(1, 90 // (6 + max(map(len, legend)))))
    return style.uncut(axes[0]) if new else axes[0]


def _one(effects: "xr.Dataset", sequence_id: str, feature: str) -> "xr.Dataset":
    for dimension, name in (("sequence", sequence_id), ("feature", feature)):
        check_choice(dimension, name, effects[dimension].to_numpy().tolist())
    return effects.sel(sequence=sequence_id, feature=feature)


def _instrument_colours(
    one: "xr.Dataset", table: pd.DataFrame, colours: Mapping[str, str] | None
) -> tuple[dict[int, str], dict[str, str]]:
    """Colours by index of the base, and by what the legend calls them."""
    by = "motif" if "motif" in getattr(table, "columns", ()) else "exposure"
    check_columns(table, ["sequence_id", "position", by], "the table of instruments")
    mine = table.loc[table["sequence_id"] == one["sequence"].item(), ["position", by]]
    mine = mine.dropna().drop_duplicates().astype({by: str})
    if colours is None:
        most = mine[by].value_counts().index.tolist()
        most.sort(key=lambda name: name != one["feature"].item())
        colours = dict(zip(most, LETTER_COLOURS, strict=False))
        colours = {name: colours[name] for name in pd.unique(mine[by]) if name in colours}
    names = mine[by].where(mine[by].isin(list(colours)), OTHERS).groupby(mine["position"]).unique()
    of_base = {place: n[0] if len(n) == 1 else SEVERAL for place, n in names.items()}
    looks = {**colours, SEVERAL: "black", OTHERS: style.BROWN}
    index = {place: i for i, place in enumerate(one["position"].to_numpy().tolist())}
    legend = {name: colour for name, colour in looks.items() if name in of_base.values()}
    legend["no instrument"] = OTHER_LETTER
    return {index[p]: looks[name] for p, name in of_base.items() if p in index}, legend


def _draw_spans(ax: Axes, spans: Spans, first: int, last: int) -> None:
    for name, start, end in spans:
        start, end = max(start, first), min(end, last)
        if start >= end:
            continue
        colour = SPAN_COLOURS.get(name, style.GREY)
        ax.axvspan(start - 0.5, end - 0.5, color=colour, alpha=0.15, lw=0)
        ax.annotate(f"{name} motif", ((start + end - 1) / 2, 1.02), ha="center", va="bottom",
                    xycoords=("data", "axes fraction"), color=colour, fontsize=10)  # fmt: skip


def _draw_letter(ax: Axes, base: str, position: int, height: float, colour: str) -> None:
    if not np.isfinite(height):
        return
    path = _LETTERS[base]
    box = path.get_extents()
    stretch = Affine2D().translate(-box.x0, -box.y0).scale(0.95 / box.width, height / box.height)
    placed = stretch.translate(position - 0.475, 0).transform_path(path)
    ax.add_patch(PathPatch(placed, color=colour, lw=0))


def effect_heatmap(
    effects: "xr.Dataset",
    sequence_id: str,
    feature: str,
    ax: Axes | None = None,
    *,
    unit: str = "",
) -> Axes:
    """Draw the effect of every substitution of one sequence; reference bases are grey.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    sequence_id, feature : str
    ax : Axes, optional
    unit : str
        Of the feature, for the colour bar.
    """
    values = _one(effects, sequence_id, feature)["effect"].transpose("allele", "position")
    if values.isnull().all():
        return style.nothing_to_draw(ax)
    label = style.with_unit(f"effect on\n{style.wrapped(feature)}", unit)
    new, ax = ax is None, ax or style.new_axes((8, 1.6))
    table = pd.DataFrame(values.to_numpy(), values["allele"].to_numpy())
    every = 10 * max(1, round(table.shape[1] / 200))
    style.signed_map(ax, table, label, xticklabels=every)
    ax.set(xlabel="position (bp)")
    return style.uncut(ax) if new else ax


@style.figure_of("beta_exposure se_exposure beta_outcome se_outcome", size=(7.6, 4.2))
def effect_scatter(
    instruments: pd.DataFrame,
    local: pd.DataFrame,
    *,
    truth: float | None = None,
    spans: Spans = (),
    units: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one sequence's instruments with the line of each method.

    Parameters
    ----------
    instruments : pd.DataFrame
        Instruments of one sequence, see `deepmr_utils.instruments.select_instruments`, or one pair
        and sequence of ``instruments`` of `deepmr_utils.analysis.deep_mr`. Effects are oriented as
        MR-Egger orients them, so that the exposure's is positive.
    local : pd.DataFrame
        Rows of `deepmr_utils.mr.local_mr` for this sequence, one a method.
    truth : float, optional
        True causal effect, drawn as a dashed line through the origin.
    spans : sequence of (name, start, end)
        Embedded motifs, by which points are coloured.
    units : mapping of str to str, optional
        Of features, by name, for the labels of the axes.
    ax : Axes, optional
    """
    local = style.drawable(local, ["causal_effect"], ["method", "se", "intercept"])
    exposure, outcome = style.one_pair(instruments)
    style.one_pair(local.drop(columns="method"))
    sign = np.sign(instruments["beta_exposure"])
    x, y = sign * instruments["beta_exposure"], sign * instruments["beta_outcome"]
    x_error, y_error = 1.96 * instruments["se_exposure"], 1.96 * instruments["se_outcome"]
    names = pd.Series("substitution elsewhere" if len(spans) else "substitution", x.index)
    colours = dict.fromkeys(names, style.GREY)
    check_columns(instruments, ["position"] if len(spans) else [], "the table of this figure")
    for name, start, end in spans:
        label = f"substitution in {name} motif"
        names[instruments["position"].between(start, end - 1)] = label
        colours[label] = SPAN_COLOURS.get(name, style.GREY)
    size = style.marker_size(len(instruments))
    look = {"fmt": "o", "ms": size, "lw": min(0.8, 0.2 * size), "alpha": 0.8}
    for name, i in names.groupby(names).groups.items():
        ax.errorbar(x[i], y[i], y_error[i], x_error[i], **look, color=colours[name], label=name)
    grid = np.array([0, 1.02 * (x + x_error).max()])
    for (_, row), look in zip(local.iterrows(), style.line_styles(), strict=False):
        intercept = 0 if np.isnan(row["intercept"]) else row["intercept"]
        error = "" if np.isnan(row["se"]) else f" ± {row['se']:.2f}"
        ax.plot(grid, intercept + row["causal_effect"] * grid, **look,
                label=f"{row['method']}: {row['causal_effect']:.2f}{error}")  # fmt: skip
    if truth is not None:
        ax.plot(grid, truth * grid, ls="--", color="black", lw=1.5, label=f"truth: {truth:.2f}")
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    labels = []
    for name in (exposure, outcome):
        label = style.with_unit(f"effect on {name}", (units or {}).get(name, ""))
        labels.append(style.wrapped(f"{label} (oriented)", 44))
    ax.set(xlim=(0, grid[1]), xlabel=labels[0], ylabel=labels[1])
    style.readable_legend(ax, "beside")
    return ax


@style.figure_of("causal_effect", "ci_low ci_high", size=(6.4, 5))
def forest(
    local: pd.DataFrame,
    pooled: pd.Series | None = None,
    *,
    unit: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw local effects with their 95 % intervals, sorted, over the global effect.

    Parameters
    ----------
    local : pd.DataFrame
        ``causal_effect, ci_low, ci_high`` of one pair, such as its rows of ``local`` of
        `deepmr_utils.analysis.deep_mr`, and, if there, ``truth``, each sequence's true effect.
        Rows without an estimate are not drawn; their number stands in the axis label.
    pooled : pd.Series, optional
        A row of `deepmr_utils.meta.global_effects` or of ``effects``: a diamond for the mean with
        its 95 % interval and a bar from effect - 2 tau to effect + 2 tau; tau and, if there, I²
        stand in the legend.
    unit : str
        Of effects, for the label of the axis.
    ax : Axes, optional
        The effect axis spans the central 95 % of the ends of intervals.
    """
    exposure, outcome = style.one_pair(local)
    local = local.sort_values("causal_effect")
    rank = style.ranked_intervals(ax, local, "local effect, 95 % CI")
    if "truth" in local:
        size = style.marker_size(len(local)) + 3
        ax.plot(local["truth"], rank, "|", ms=size, color="black", label="true local effect")
    if pooled is not None:
        y = -0.06 * len(local) - 1
        middle, two_tau = pooled["effect"], 2 * pooled["tau"]
        spread = f"± 2 tau ({pooled['tau']:.2g})"
        spread += f"; I² {pooled['i2']:.0%}" if "i2" in pooled else ""
        ax.hlines(y, middle - two_tau, middle + two_tau, lw=2, color=style.ORANGE, label=spread)
        error = style.bars(pooled.to_frame().T, "effect", "ci_low", "ci_high")
        ax.errorbar(pooled["effect"], y, xerr=error, fmt="D", ms=8, color=style.RED, capsize=4,
                    label=f"global effect {pooled['effect']:.2f}, 95 % CI")  # fmt: skip
    ends = local[["ci_low", "ci_high"]].to_numpy(float)
    ends = np.where(np.isfinite(ends), ends, local[["causal_effect"]])  # of conmix some are not
    low, high = np.quantile(ends[:, 0], 0.025), np.quantile(ends[:, 1], 0.975)
    margin = 0.1 * (high - low) or 1.0
    missing = local.attrs["given"] - len(local)
    without = f" ({missing} without estimate)" if missing else ""
    label = style.wrapped(f"causal effect of {exposure} on {outcome}", 60)
    ax.set(xlim=(low - margin, high + margin), xlabel=style.with_unit(label, unit),
           yticks=[], ylabel=f"{len(local)} sequences{without}")  # fmt: skip
    style.readable_legend(ax, "below")
    return ax


@style.figure_of("expected observed", "feature", size=(4.6, 4.4))
def reliability(curves: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw reliability curves: ``feature, expected, observed`` and, if there, ``calibration``."""
    import seaborn as sns  # slow to import

    ax.plot([0, 1], [0, 1], ls="--", color="black", lw=1, label="calibrated")
    dashes = "calibration" if "calibration" in curves else None
    sns.lineplot(curves, x="expected", y="observed", hue="feature", style=dashes, ax=ax,
                 errorbar=None, estimator=None)  # fmt: skip
    ax.set(xlabel="predicted quantile", ylabel="share of labels below it", aspect="equal")
    ax.legend(fontsize=9)
    return ax


@style.figure_of("mse", "scenario feature mse_member noise_floor", size=(7.5, 4.6))
def model_quality(quality: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw mean squared errors beside the noise floor, by scenario and feature.

    Parameters
    ----------
    quality : pd.DataFrame
        ``scenario, feature, mse, mse_member, noise_floor``, one row or more a scenario and feature;
        bars are means over rows.
    ax : Axes, optional
    """
    names = {"noise_floor": "noise floor", "mse": "ensemble", "mse_member": "single member"}
    mean = quality.groupby(["scenario", "feature"], sort=False)[list(names)].mean()
    mean.index = [f"{s.replace('_', '-')}: {feature}" for s, feature in mean.index]
    colours = [style.GREY, style.BLUE, style.SKY]
    mean.rename(columns=names).plot.barh(ax=ax, width=0.8, color=colours)
    ax.invert_yaxis()
    ax.set(xlabel="mean squared error on held-out sequences", ylabel="")
    ax.legend(fontsize=9)
    return ax


def global_against_truth(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    truth: str = "truth",
    interval: tuple[str, str] = ("ci_low", "ci_high"),
    ax: Axes | None = None,
) -> Axes:
    """Draw global effects with their 95 % intervals against the true ones.

    Parameters
    ----------
    tables : pd.DataFrame or mapping of str to pd.DataFrame
        Global effects, in a column ``effect``, with ``truth`` and ``interval``. Of several, each
        has a colour, and stands a little beside the others, so that effects at 0 can be told apart.
    truth : str
        Column of true effects.
    interval : (str, str)
        Columns of the ends of intervals.
    ax : Axes, optional
    """
    tables = tables if isinstance(tables, Mapping) else {"this run": tables}
    xy = [truth, "effect"]
    tables = {name: style.drawable(table, xy, interval) for name, table in tables.items()}
    if all(table.empty for table in tables.values()):
        return style.nothing_to_draw(ax)
    ax = ax or style.new_axes((4.6, 4.4))
    known = pd.concat([table[xy] for table in tables.values()]).to_numpy()
    low, high = min(0, known.min()), known.max()
    margin = 0.05 * (high - low) or 0.05
    beside = 0.3 * margin * np.linspace(-1, 1, len(tables)) if len(tables) > 1 else [0]
    looks = zip(tables.items(), cycle(style.SERIES), cycle("osD^"), beside, strict=False)
    for (name, table), colour, marker, offset in looks:
        ax.errorbar(table[truth] + offset, table["effect"], fmt=marker, color=colour, ms=5, lw=1.2,
                    yerr=style.bars(table, "effect", *interval), alpha=0.8, label=name)  # fmt: skip
    ends = (low - 2 * margin, high + margin)
    ax.plot(ends, ends, ls="--", color="black", lw=1, zorder=0)
    ax.set(xlabel="true global effect", ylabel="estimated global effect", aspect="equal",
           xlim=ends, ylim=ends)  # fmt: skip
    if len(tables) > 1:
        style.readable_legend(ax, "inside")
    return ax


def setting_scores(
    scores: pd.DataFrame,
    columns: dict[str, str],
    targets: dict[str, float],
    log: Sequence[str] = (),
) -> Figure:
    """Draw scores of settings as points, one row a setting, one panel a score.

    Parameters
    ----------
    scores : pd.DataFrame
        `experiments.cooperativity.round_scores.score_table` by ``setting`` and ``method``.
    columns : dict
        Columns to draw, with what their axes are called.
    targets : dict
        Values to aim at, by column, drawn as a dashed line.
    log : sequence of str
        Columns with a logarithmic axis.
    """
    scores = style.drawable(scores, [], ["setting", "method", *columns])
    scores = scores.dropna(subset=columns, how="all")
    if scores.empty:
        return style.nothing_to_draw().figure
    log = as_list(log)
    settings, middle = scores["setting"].unique().tolist(), (scores["method"].nunique() - 1) / 2
    size = (8.6, 1.5 + 0.36 * len(settings))
    figure, axes = style.panels(len(columns), len(columns), size, sharex=False)
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        for i, (method, rows) in enumerate(scores.groupby("method", sort=False)):
            y = rows["setting"].map(settings.index) + 0.14 * (i - middle)
            ax.plot(rows[column], y, "os^Dvh"[i % 6], color=style.SERIES[i % 6], ms=6, label=method)
        if column in targets:
            ax.axvline(targets[column], color="black", lw=1, ls="--", zorder=0)
        if column in log:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="y", color="0.9")
        ax.set_axisbelow(True)
        ax.set_xlabel(label)
    axes[0, 0].set_yticks(range(len(settings)), settings)
    axes[0, 0].invert_yaxis()
    drawn = axes[0, 0].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside upper center", ncols=4, fontsize=9)
    return figure
