"""Figures: tables in, matplotlib Axes out. Colour-blind safe, on white."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Affine2D

from .._checks import as_list, check_choice
from ..sequences import ALPHABET
from .style import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    SKY,
    drawable,
    label_points,
    line_styles,
    marker_size,
    nothing_to_draw,
    readable_legend,
    use_style,
)

__all__ = [
    "effect_heatmap", "effect_scatter", "forest", "global_against_truth", "label_points",
    "line_styles", "marker_size", "model_quality", "readable_legend", "reliability",
    "sequence_logo", "setting_scores", "use_style",
]  # fmt: skip
BASE_COLOURS = dict(zip(ALPHABET, (GREEN, BLUE, ORANGE, RED), strict=True))
SPAN_COLOURS = {"exposure": BLUE, "outcome": ORANGE, "confounder": PINK}
_LETTERS = {
    base: TextPath((0, 0), base, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    for base in ALPHABET
}


def sequence_logo(
    effects: xr.Dataset,
    sequence_id: str,
    feature: str,
    spans: Sequence[tuple[str, int, int]] = (),
    ax: Axes | None = None,
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

    Notes
    -----
    The height of a base is minus the mean effect of its three substitutions.
    """
    one = _one(effects, sequence_id, feature)
    heights = -one["effect"].mean("allele").to_numpy()
    if np.isnan(heights).all():
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(8, 1.9))[1]
    for name, start, end in spans:
        colour = SPAN_COLOURS.get(name, GREY)
        ax.axvspan(start - 0.5, end - 0.5, color=colour, alpha=0.15, lw=0)
        ax.annotate(f"{name} motif", ((start + end - 1) / 2, 1.02), ha="center", va="bottom",
                    xycoords=("data", "axes fraction"), color=colour, fontsize=10)  # fmt: skip
    for position, base in enumerate(one["reference"].to_numpy()):
        if base in _LETTERS:
            _draw_letter(ax, base, position, heights[position])
    ax.axhline(0, color="black", lw=0.8)
    low, high = min(np.nanmin(heights), 0), max(np.nanmax(heights), 0)
    margin = 0.06 * (high - low) or 1.0
    ax.set(xlim=(-1, len(heights)), ylim=(low - margin, high + margin), xlabel="position (bp)",
           ylabel=f"importance\nfor {feature}")  # fmt: skip
    return ax


def _one(effects: xr.Dataset, sequence_id: str, feature: str) -> xr.Dataset:
    for dimension, name in (("sequence", sequence_id), ("feature", feature)):
        check_choice(dimension, name, effects[dimension].to_numpy().tolist())
    return effects.sel(sequence=sequence_id, feature=feature)


def _draw_letter(ax: Axes, base: str, position: int, height: float) -> None:
    path = _LETTERS[base]
    box = path.get_extents()
    stretch = Affine2D().translate(-box.x0, -box.y0).scale(0.95 / box.width, height / box.height)
    placed = stretch.translate(position - 0.475, 0).transform_path(path)
    ax.add_patch(PathPatch(placed, color=BASE_COLOURS[base], lw=0))


def effect_heatmap(
    effects: xr.Dataset, sequence_id: str, feature: str, ax: Axes | None = None
) -> Axes:
    """Draw the effect of every substitution of one sequence; reference bases are grey."""
    values = _one(effects, sequence_id, feature)["effect"].transpose("allele", "position")
    values = values.to_numpy()
    if np.isnan(values).all():
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(8, 1.6))[1]
    limit = np.nanmax(np.abs(values)) or 1.0
    ax.set_facecolor("0.8")
    mesh = ax.pcolormesh(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    mesh.set_edgecolor("face")
    ax.set(yticks=np.arange(4) + 0.5, xlabel="position (bp)")
    ax.set_yticklabels(list(ALPHABET))
    ax.invert_yaxis()
    ax.figure.colorbar(mesh, ax=ax, label=f"effect on\n{feature}", pad=0.01)
    return ax


def effect_scatter(
    instruments: pd.DataFrame,
    local: pd.DataFrame,
    *,
    truth: float | None = None,
    spans: Sequence[tuple[str, int, int]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw one sequence's instruments with the line of each method.

    Parameters
    ----------
    instruments : pd.DataFrame
        Instruments of one sequence, see `deepmr_utils.instruments.select_instruments`. Effects are
        oriented as MR-Egger orients them, so that the exposure's is positive.
    local : pd.DataFrame
        Rows of `deepmr_utils.mr.local_mr` for this sequence, one a method.
    truth : float, optional
        True causal effect, drawn as a dashed line through the origin.
    spans : sequence of (name, start, end)
        Embedded motifs, by which points are coloured.
    ax : Axes, optional
    """
    columns = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]
    instruments = drawable(instruments, [*columns, *(["position"] if len(spans) else [])], columns)
    if instruments.empty:
        return nothing_to_draw(ax)
    fitted = ["method", "causal_effect", "se", "intercept"]
    local = drawable(local, fitted, ["causal_effect"])
    ax = ax or plt.subplots(figsize=(7.6, 4.2))[1]
    sign = np.sign(instruments["beta_exposure"])
    x, y = sign * instruments["beta_exposure"], sign * instruments["beta_outcome"]
    where = pd.Series("elsewhere", index=instruments.index)
    for name, start, end in spans:
        where[instruments["position"].between(start, end - 1)] = f"{name} motif"
    size = marker_size(len(instruments))
    labels = {"elsewhere": "substitution elsewhere" if len(spans) else "substitution"}
    for name, rows in where.groupby(where).groups.items():
        colour = SPAN_COLOURS.get(name.removesuffix(" motif"), GREY)
        ax.errorbar(x[rows], y[rows], xerr=1.96 * instruments["se_exposure"][rows],
                    yerr=1.96 * instruments["se_outcome"][rows], fmt="o", ms=size,
                    lw=min(0.8, 0.2 * size), color=colour, alpha=0.8,
                    label=labels.get(name, f"substitution in {name}"))  # fmt: skip
    grid = np.array([0, 1.02 * (x + 1.96 * instruments["se_exposure"]).max()])
    for (_, row), style in zip(local.iterrows(), line_styles(), strict=False):
        intercept = 0 if np.isnan(row["intercept"]) else row["intercept"]
        error = "" if np.isnan(row["se"]) else f" ± {row['se']:.2f}"
        ax.plot(grid, intercept + row["causal_effect"] * grid, **style, lw=2,
                label=f"{row['method']}: {row['causal_effect']:.2f}{error}")  # fmt: skip
    if truth is not None:
        ax.plot(grid, truth * grid, ls="--", color="black", lw=1.5, label=f"truth: {truth:.2f}")
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    names = {role: instruments.attrs.get(role, role) for role in ("exposure", "outcome")}
    ax.set(
        xlim=(0, grid[1]),
        xlabel=f"effect on {names['exposure']} (oriented)",
        ylabel=f"effect on {names['outcome']} (oriented)",
    )
    readable_legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def forest(
    local: pd.DataFrame,
    pooled: pd.Series | None = None,
    *,
    truth: str | None = "truth",
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw local effects with their 95 % intervals, sorted, over the global effect.

    Parameters
    ----------
    local : pd.DataFrame
        ``causal_effect, ci_low, ci_high`` and, if there, the column named by ``truth``. Rows
        without an estimate are not drawn; their number stands in the axis label.
    pooled : pd.Series, optional
        A row of `deepmr_utils.meta.global_effects`: a diamond for the mean with its 95 % interval
        and a bar from effect - 2 tau to effect + 2 tau; tau and I² stand in the legend.
    truth : str, optional
        Column with each sequence's true effect.
    limits : (float, float), optional
        Range of the effect axis; by default that of the central 95 % of the interval ends.
    ax : Axes, optional
    """
    shown = drawable(local, ["causal_effect", "ci_low", "ci_high"], ["causal_effect"])
    if shown.empty:
        return nothing_to_draw(ax)
    shown = shown.sort_values("causal_effect")
    ax = ax or plt.subplots(figsize=(6.4, 5))[1]
    rank = np.arange(1, len(shown) + 1)
    size = marker_size(len(shown))
    ax.hlines(rank, shown["ci_low"], shown["ci_high"], color=BLUE, lw=min(size, 1.5), alpha=0.45)
    ax.plot(shown["causal_effect"], rank, "o", ms=size, color=BLUE, label="local effect, 95 % CI")
    if truth in shown:
        ax.plot(shown[truth], rank, "|", ms=size + 3, color="black", label="true local effect")
    if pooled is not None:
        y = -0.06 * len(shown) - 1
        ax.hlines(y, pooled["heterogeneity_low"], pooled["heterogeneity_high"], color=ORANGE, lw=2,
                  label=f"± 2 tau ({pooled['tau']:.2g}); I² {pooled['i2']:.0%}")  # fmt: skip
        ax.errorbar(pooled["effect"], y, fmt="D", ms=8, color=RED, capsize=4,
                    xerr=[[pooled["effect"] - pooled["ci_low"]],
                          [pooled["ci_high"] - pooled["effect"]]],
                    label=f"global effect {pooled['effect']:.2f}, 95 % CI")  # fmt: skip
    if limits is None:  # ends that are infinite (conmix) leave the figure
        ends = shown[["ci_low", "ci_high"]].to_numpy(float)
        ends = np.where(np.isfinite(ends), ends, shown[["causal_effect"]])
        low, high = np.quantile(ends[:, 0], 0.025), np.quantile(ends[:, 1], 0.975)
        margin = 0.1 * (high - low) or 1.0
        limits = (low - margin, high + margin)
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    missing = len(local) - len(shown)
    without = f" ({missing} without estimate)" if missing else ""
    ax.set(
        xlim=limits,
        yticks=[],
        xlabel="causal effect of exposure on outcome",
        ylabel=f"{len(shown)} sequences{without}",
    )
    readable_legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


def reliability(curves: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw reliability curves: ``feature, expected, observed`` and, if there, ``calibration``."""
    curves = drawable(curves, ["feature", "expected", "observed"], ["expected", "observed"])
    if curves.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(4.6, 4.4))[1]
    ax.plot([0, 1], [0, 1], ls="--", color="black", lw=1, label="calibrated")
    style = "calibration" if "calibration" in curves else None
    sns.lineplot(curves, x="expected", y="observed", hue="feature", style=style, ax=ax,
                 errorbar=None, estimator=None)  # fmt: skip
    ax.set(xlabel="predicted quantile", ylabel="share of labels below it", aspect="equal")
    ax.legend(fontsize=9)
    return ax


def model_quality(quality: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw mean squared errors beside the noise floor, by scenario and feature.

    Parameters
    ----------
    quality : pd.DataFrame
        ``scenario, feature, mse, mse_member, noise_floor``, one row or more a scenario and feature;
        bars are means over rows.
    ax : Axes, optional
    """
    quality = drawable(
        quality, ["scenario", "feature", "mse", "mse_member", "noise_floor"], ["mse"]
    )
    if quality.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(7.5, 4.6))[1]
    names = {"noise_floor": "noise floor", "mse": "ensemble", "mse_member": "single member"}
    mean = quality.groupby(["scenario", "feature"], sort=False)[list(names)].mean()
    rows = np.arange(len(mean))
    for i, (column, colour) in enumerate(zip(names, (GREY, BLUE, SKY), strict=True)):
        ax.barh(rows + 0.27 * (i - 1), mean[column], height=0.25, color=colour, label=names[column])
    ax.set_yticks(rows, [f"{s.replace('_', '-')}: {feature}" for s, feature in mean.index])
    ax.invert_yaxis()
    ax.set(xlabel="mean squared error on held-out sequences")
    ax.legend(fontsize=9)
    return ax


def global_against_truth(
    globals_: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    truth: str = "truth",
    ax: Axes | None = None,
) -> Axes:
    """Draw global effects of rounds, with 95 % intervals, against the true ones.

    Parameters
    ----------
    globals_ : pd.DataFrame
        Rows of `experiments.cooperativity.round_scores.global_table` of one stratum and method.
    published : pd.DataFrame, optional
        Published rounds: ``ce_est`` and ``true_ce``.
    truth : str
        Column of ``globals_`` with the true effect.
    ax : Axes, optional
    """
    globals_ = drawable(globals_, [truth, "effect", "ci_low", "ci_high"], [truth, "effect"])
    if globals_.empty:
        return nothing_to_draw(ax)
    ax = ax or plt.subplots(figsize=(4, 4))[1]
    if published is not None:
        ax.plot(published["true_ce"], published["ce_est"], "x", color=GREY, ms=5, alpha=0.7,
                label="published")  # fmt: skip
    ax.errorbar(globals_[truth], globals_["effect"], fmt="o", color=BLUE, ms=6,
                yerr=[globals_["effect"] - globals_["ci_low"],
                      globals_["ci_high"] - globals_["effect"]], label="this run")  # fmt: skip
    values = [globals_[truth], globals_["effect"]]
    if published is not None:
        values += [published["true_ce"], published["ce_est"]]
    top = 1.05 * max(v.max() for v in values)
    bottom = min(0, *(v.min() for v in values))
    ax.plot([bottom, top], [bottom, top], ls="--", color="black", lw=1, zorder=0)
    ax.set(xlabel="true global effect", ylabel="estimated global effect", aspect="equal",
           xlim=(bottom, top), ylim=(bottom, top))  # fmt: skip
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
    scores = drawable(scores, ["setting", "method", *columns]).dropna(subset=columns, how="all")
    if scores.empty:
        return nothing_to_draw().figure
    log = as_list(log)
    settings = scores["setting"].unique().tolist()
    figure, axes = plt.subplots(
        1, len(columns), figsize=(8.6, 1.5 + 0.36 * len(settings)), sharey=True, squeeze=False
    )
    colours = (BLUE, ORANGE, GREEN, PURPLE, RED, BROWN)
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        for i, (method, rows) in enumerate(scores.groupby("method", sort=False)):
            y = rows["setting"].map(settings.index) + 0.14 * (
                i - (scores["method"].nunique() - 1) / 2
            )
            ax.plot(rows[column], y, "os^Dvh"[i % 6], color=colours[i % 6], ms=6, label=method)
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
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9
    )
    return figure
