"""What a report shows: tables, figures, and what cannot be concluded."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import __version__, plots, predict
from .._files import land, write_record
from ..plots import style
from .analysis import Answer, curve
from .parameters import Asked

MOST = 30  # pairs that a table or a figure shows
SPAN = 80  # bases of a window whose letters can be read
PACKAGES = ("numpy", "pandas", "scipy", "statsmodels", "torch", "xarray", "zarr")
COUNTED = ("acts", "no effect", "undetermined", "not distinguishable")


def asked_for(asked: Asked) -> pd.Series:
    """What is asked, and of what, in words."""
    p, windows = asked.parameters, asked.windows
    source = p["regions"] or p["sequences"] or "shipped with the package"
    kind = "draws of MC-dropout" if p["draws"] else "networks"
    names = "as the model gives them" if asked.names is None else ", ".join(asked.names[:20])
    rows = {
        "model": p["model"], "members": f"{asked.n_members} {kind}",
        "windows": f"{len(windows)} of {len(asked.pool)}, {asked.x.shape[2]} bases ({source})",
        "features": names,
        "motifs": ", ".join(f"{f}: {m.name}" for f, m in asked.motifs.items()) or "none",
        "labels": "none" if asked.labels is None else f"of {len(asked.labels)} windows",
        "null pairs": str(asked.null_pairs or "none"), "results": p["results_directory"],
    }  # fmt: skip
    return pd.Series(rows, name="this report")


def verdict_table(asked: Asked, found: Answer) -> pd.DataFrame:
    """Verdicts with the numbers that they rest on, the clearest first; the truth where known."""
    table = _with_truth(asked, found.result.effects)
    order = (table["effect"] / table["se"]).abs().sort_values(ascending=False, kind="stable").index
    table = table.loc[order]
    rows = {
        "exposure": table["exposure"], "outcome": table["outcome"], "verdict": table["verdict"],
        "slope": _intervals(table, "effect", ""),
        "knock-out": _intervals(table, "knockout", "knockout_"),
        "q": [f"{q:.2g}" for q in table["q_value"]], "sequences": table["k"],
    }  # fmt: skip
    for name, words in (("truth", "true slope"), ("knockout_truth", "true knock-out")):
        if name in table:
            rows[words] = [_two(value) for value in table[name]]
    return pd.DataFrame(rows).head(MOST).reset_index(drop=True)


def _with_truth(asked: Asked, table: pd.DataFrame) -> pd.DataFrame:
    if asked.truth is None:
        return table
    return table.merge(asked.truth, on=["exposure", "outcome"], how="left")


def _intervals(table: pd.DataFrame, name: str, prefix: str) -> list[str]:
    low, high = table[f"{prefix}ci_low"], table[f"{prefix}ci_high"]
    return [
        _two(v) + ("" if np.isnan(a) else f" [{_two(a)}, {_two(b)}]")
        for v, a, b in zip(table[name], low, high, strict=True)
    ]


def _two(value: float) -> str:
    """Two decimals, without a sign before zeros."""
    return "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def count_verdicts(found: Answer) -> pd.Series:
    """How many pairs have which verdict."""
    return found.result.effects["verdict"].value_counts().reindex(COUNTED, fill_value=0)


def logos(asked: Asked, effects: xr.Dataset, found: Answer, exposure: str, outcome: str) -> Figure:
    """The two windows in which most instruments of a pair move the outcome, around these."""
    instruments = found.result.instruments
    near = instruments[instruments["exposure"].isin([exposure, outcome])]
    pair = near[(near["exposure"] == exposure) & (near["outcome"] == outcome)]
    counts = pair["beta_outcome"].abs().groupby(pair["sequence_id"]).sum()
    counts = counts.sort_values(ascending=False, kind="stable")
    chosen = [*counts.index[:2], *(i for i in asked.windows["sequence_id"] if i not in counts)][:2]
    figure, axes = plt.subplots(len(chosen), 1, figsize=(10, 2.6 * len(chosen)), squeeze=False)
    exposures = found.result.effects["exposure"].unique()
    colours = dict(zip(exposures, cycle(style.SERIES), strict=False))
    for ax, sequence_id in zip(axes[:, 0], chosen, strict=True):
        own = instruments[instruments["sequence_id"] == sequence_id]
        length = effects.sizes["position"]
        at = near.loc[near["sequence_id"] == sequence_id, "position"].astype(int)
        at = np.bincount(at, minlength=length)
        size = min(SPAN, length)
        inside = np.convolve(at, np.ones(size), "valid")
        start = int(np.median(np.flatnonzero(inside == inside.max())))
        part = effects.isel(position=slice(start, start + size))
        plots.sequence_logo(part, sequence_id, outcome, ax=ax)
        low, high = ax.get_ylim()
        step = 0.07 * (high - low)
        for row, (name, colour) in enumerate(colours.items()):
            places = own.loc[own["exposure"] == name, "position"].drop_duplicates() - start
            places = places[(places >= 0) & (places < size)]
            if len(places) and row < len(style.SERIES):
                ax.plot(places, np.full(len(places), low - step * (row + 0.5)), "s", ms=3.5,
                        color=colour, label=f"instrument for {name}")  # fmt: skip
        ax.set_ylim(low - step * (min(len(colours), len(style.SERIES)) + 0.5), high)
        ticks = np.arange(-start % 10, size, 10)
        ax.set_xticks(ticks, start + ticks)
        ax.set_title(sequence_id, fontsize=10, loc="left")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def forest(asked: Asked, found: Answer) -> Axes:
    """Global effects with their intervals: those furthest from 0, in standard errors."""
    table = _with_truth(asked, found.result.effects)
    size = (table["effect"] / table["se"]).abs().fillna(0)
    shown = table.loc[size.nlargest(MOST).index.sort_values()]
    ax = plt.subplots(figsize=(7.2, 1.8 + 0.34 * len(shown)))[1]
    return plots.pair_forest(shown, ax=ax)


def response(asked: Asked, found: Answer, exposure: str, outcome: str) -> Axes:
    """Effects of substitutions on a pair, with the slope, the curve and the loss of a site."""
    table, ax = found.result.effects.set_index(["exposure", "outcome"]), None
    row = table.loc[(exposure, outcome)]
    ax = plt.subplots(figsize=(6.4, 4.4))[1]
    own = found.result.instruments
    own = own[(own["exposure"] == exposure) & (own["outcome"] == outcome)]
    x, y = own["beta_exposure"], own["beta_outcome"]
    ax.plot(x, y, "o", ms=3, alpha=0.4, color=style.GREY, label="one substitution", mew=0)
    bent = curve(asked, found, exposure, outcome)
    ends = [np.array([0.0]), x.to_numpy(float)]
    if found.edits is not None:
        lost = found.edits["factor"].to_numpy() == exposure
        change = found.edits["effect"].isel(edit=np.flatnonzero(lost)).mean("edit")
        place = [float(change.sel(feature=name)) for name in (exposure, outcome)]
        if np.isfinite(place).all():
            ax.plot(*place, "D", ms=9, mfc="white", mew=2, color=style.GREEN,
                    label="a site shuffled, mean", zorder=4)  # fmt: skip
            ends.append(np.array(place[:1]))
    if bent is not None:
        ax.plot(bent["exposure_change"], bent["outcome_change"], "o-", ms=4, color=style.ORANGE,
                label="1, 2, ... bases of a site changed, mean", zorder=3)  # fmt: skip
        ends.append(bent["exposure_change"].to_numpy())
    ends = np.concatenate(ends)
    line = np.array([ends.min(), ends.max()])
    if np.isfinite(row["effect"]):
        ax.plot(line, row["effect"] * line, color=style.BLUE, lw=2,
                label=f"slope {row['effect']:.2f}")  # fmt: skip
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel=f"change of {exposure}", ylabel=f"change of {outcome}")
    ax.locator_params(axis="x", nbins=5)
    ax.figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return ax


def both_ways(found: Answer) -> Axes:
    """Effects of every two features in both directions, in the features' own responses."""
    order = found.result.effects["own_effect"].abs().sort_values(ascending=False, kind="stable")
    both = style.both_ways(found.result.effects.loc[order.index])
    both = both.dropna(subset="own_effect_back").head(MOST)
    if both.empty:
        return style.nothing_to_draw(message="no two features were asked both ways")
    ax = plt.subplots(figsize=(6.4, 1.6 + 0.42 * len(both)))[1]
    place = np.arange(len(both))
    looks = (("", -0.12, style.BLUE, "first on second"), ("_back", 0.12, style.ORANGE, "reverse"))
    for end, beside, colour, label in looks:
        columns = [f"own_{name}{end}" for name in ("effect", "ci_low", "ci_high")]
        ax.errorbar(both[columns[0]], place + beside, xerr=style.bars(both, *columns), fmt="o",
                    ms=5, lw=1.2, capsize=3, color=colour, label=label)  # fmt: skip
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks(place, [f"{row.exposure}, {row.outcome}" for row in both.itertuples()])
    ax.invert_yaxis()
    ax.set(xlabel="effect, in own responses")
    ax.figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return ax


def arrows(found: Answer) -> Axes:
    """A graph of the pairs of which it is said that one acts on the other."""
    table = found.result.effects
    edges = table[table["verdict"] == "acts"]
    edges = edges.loc[edges["effect"].abs().nlargest(50).index]
    names = list(dict.fromkeys([*table["exposure"], *table["outcome"]]))
    effects = edges.set_index(["exposure", "outcome"])["effect"].to_dict()
    if len(names) > 40:
        names = [name for name in names if any(name in pair for pair in effects)]
    if not effects:
        return style.nothing_to_draw(message="no pair has the verdict acts")
    return plots.causal_graph(effects, nodes=names)


def limits(
    asked: Asked, found: Answer, quality: pd.DataFrame | None, nulls: pd.DataFrame | None
) -> list[str]:
    """What cannot be concluded, and why: a sentence or two each."""
    table, says = found.result.effects, list(found.notes)
    says.insert(0, "Effects are statements about the model. They say something about biology as "
                "far as the model is right.")  # fmt: skip
    if asked.n_members == 1:
        says.append("There is one network and so no standard error: slopes are given and no pair "
                    "has a verdict of acts. Give an ensemble, one file of weights a member, or "
                    "draws of a network with dropout.")  # fmt: skip
    elif asked.n_members == 2:
        says.append("Two members give wide intervals, and the errors that exposure and outcome "
                    "share are not taken out: three or more do.")  # fmt: skip
    if asked.parameters["draws"]:
        says.append("Draws of dropout are of one training: what another seed or other data would "
                    "have given is not in the intervals.")  # fmt: skip
    counts = count_verdicts(found)
    for name in ("undetermined", "not distinguishable"):
        reasons = table.loc[table["verdict"] == name, "reason"].value_counts()
        for reason, n in reasons.head(3).items():
            says.append(f"{n} of {len(table)} pairs are {name}: {reason}.")
    if not asked.motifs:
        says.append("No motifs were named: instruments are what moves the exposure most, no site "
                    "was knocked out, and a verdict of acts rests on the slope alone.")  # fmt: skip
    if counts["acts"] and found.corrected is None:
        says.append("What all members have wrong together is in no interval: labels of sequences "
                    "that none was trained on, with motifs, would show it.")  # fmt: skip
    if asked.null_pairs is None:
        says.append("No null pairs were named, so intervals are not calibrated by pairs that are "
                    "known to have no effect.")  # fmt: skip
    if quality is not None:
        for row in quality[quality["pearson"] < 0.5].itertuples():
            says.append(f"The model predicts {row.feature} badly (r = {row.pearson:.2f} in "
                        f"{row.windows} windows): effects on it are hardly about it.")  # fmt: skip
    elif asked.labels is None:
        says.append("No labels were given: how well the model predicts is not known here.")
    if nulls is None:
        says.append("Null models were not made (null_windows is 0).")
    else:
        for row in nulls[nulls["status"] != "ok"].itertuples():
            says.append(f"Null models, {row.networks}: none, because {row.status}.")
        for row in nulls[nulls.get("acts", pd.Series(0, nulls.index)).fillna(0) > 0].itertuples():
            if row.networks in ("weights shuffled", "untrained"):
                says.append(
                    f"Networks that learned nothing ({row.networks}) give the verdict acts in "
                    f"{row.acts:.0f} of {row.pairs:.0f} pairs: doubt it here."
                )
    return says


def provenance(asked: Asked, effects: xr.Dataset, found: Answer) -> pd.Series:
    """Settings, versions and hashes."""
    text = "\n".join(asked.windows["sequence"])
    rows: dict[str, Any] = dict(asked.parameters)
    rows |= {f"chosen {k}": v for k, v in found.result.settings.items() if k != "model_hash"}
    rows["SHA-256 of the weights"] = predict.model_hash(predict.as_members(asked.members))
    rows["SHA-256 of the sequences"] = hashlib.sha256(text.encode()).hexdigest()
    rows["deepmr_utils"], rows["Python"] = __version__, platform.python_version()
    for name in PACKAGES:
        try:
            rows[name] = version(name)
        except PackageNotFoundError:
            rows[name] = "not installed"
    return pd.Series({k: str(v) for k, v in rows.items()}, name="value")


def write_tables(
    asked: Asked, found: Answer, settings: pd.Series, **others: pd.DataFrame | None
) -> list[str]:
    """Write all tables as Parquet and CSV, and the settings; give the names of the files."""
    result, names = found.result, []
    tables: Mapping[str, pd.DataFrame | None] = {
        "effects": result.effects, "local_effects": result.local,
        "instruments": result.instruments, "windows": asked.windows,
        "instances": found.instances, **others,
    }  # fmt: skip
    for name, table in tables.items():
        if table is None:
            continue
        path = asked.directory / name
        land(path.with_suffix(".parquet"), lambda p, t=table: t.to_parquet(p, index=False))
        land(path.with_suffix(".csv"), lambda p, t=table: t.to_csv(p, index=False))
        names += [f"{name}.parquet", f"{name}.csv"]
    write_record(asked.directory / "settings.json", json.loads(settings.to_json()))
    return [*names, "settings.json"]
