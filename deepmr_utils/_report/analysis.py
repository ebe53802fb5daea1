"""What a report computes: effects, the answer for every pair, and the same where nothing is."""

import hashlib
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn

from .. import null, predict
from ..analysis import Result, deep_mr
from ..edits import edit_effects, site_edits
from ..held_out import correct
from ..knockouts import response_curve
from ..motifs import find_instances
from ..mutagenesis import saturation_mutagenesis
from ..sequences import one_hot
from .parameters import Asked


class Answer(NamedTuple):
    """What was found, with the instances of motifs and effects of lost sites, where there are."""

    result: Result
    instances: pd.DataFrame | None
    edits: xr.Dataset | None
    corrected: pd.DataFrame | None
    notes: list[str]


def mutate(asked: Asked) -> xr.Dataset:
    """Effects of all substitutions, in a store that an interrupted run goes on with."""
    members = predict.as_members(asked.members)
    p, digest = asked.parameters, hashlib.sha256(predict.model_hash(members).encode())
    for text in chain([p["model"], str(p["features"])], *asked.windows.to_numpy(str)):
        digest.update(f"{text}\n".encode())
    return saturation_mutagenesis(
        asked.members, asked.x, sequence_ids=asked.windows["sequence_id"].tolist(),
        keep_members=True, max_memory=p["max_memory"], progress=True, **asked.options,
        store=asked.directory / f"effects-{digest.hexdigest()[:8]}.zarr",
    )  # fmt: skip


def answer(asked: Asked, effects: xr.Dataset) -> Answer:
    """What `deepmr_utils.analysis.deep_mr` says of all pairs, with knock-outs of known motifs."""
    p, instances, edits, corrected, notes = asked.parameters, None, None, None, []
    ids = asked.windows["sequence_id"].tolist()
    if asked.motifs:
        instances = find_instances(asked.x, ids, asked.motifs)
        drawn = site_edits(asked.x, ids, instances, asked.motifs, seed=p["seed"])
        if (drawn["status"] == "ok").any():
            edits = edit_effects(asked.members, asked.x, drawn, sequence_ids=ids, **asked.options)
        else:
            notes.append("No site could be knocked out: each shares bases with another one's.")
        if edits is not None and asked.labels is not None:
            try:
                corrected = _corrected(asked, edits, instances)
            except ValueError as error:
                notes.append(f"The labels correct nothing, because {error}.")
    return Answer(
        deep_mr(
            effects, exposures=asked.exposures, outcomes=asked.outcomes,
            design=p["design"] or None, method=p["method"], instances=instances, edits=edits,
            labels=corrected, null_pairs=asked.null_pairs, seed=p["seed"],
        ), instances, edits, corrected, notes,
    )  # fmt: skip


def _labelled(asked: Asked) -> tuple[torch.Tensor, np.ndarray]:
    """Sequences with labels, in the order of these, and their predictions (M, N, K)."""
    table = asked.pool.set_index("sequence_id").loc[asked.labels.index]
    x = one_hot(table["sequence"].tolist())
    return x, predict.predict(asked.members, x, **asked.options)


def _corrected(asked: Asked, edits: xr.Dataset, instances: pd.DataFrame) -> pd.DataFrame:
    """Knock-outs corrected by labels, see `deepmr_utils.held_out.correct`."""
    x, values = _labelled(asked)
    ids, names = asked.labels.index.tolist(), edits["feature"].to_numpy()
    predictions = xr.DataArray(
        values, {"sequence": ids, "feature": names}, ("member", "sequence", "feature")
    )
    others = instances[~instances["sequence_id"].isin(ids)]
    scores = pd.concat([find_instances(x, ids, asked.motifs), others])
    return correct(edits, predictions, asked.labels, scores, head="gaussian")


def quality(asked: Asked, effects: xr.Dataset) -> pd.DataFrame | None:
    """Correlation of predictions and labels, by feature; None without labels."""
    if asked.labels is None:
        return None
    _, values = _labelled(asked)
    names = effects["feature"].to_numpy().tolist()
    rows = []
    for name in (name for name in asked.labels if name in names):
        label, of_members = asked.labels[name], values[..., names.index(name)]
        mean = pd.Series(of_members.mean(0), label.index)
        alone = [pd.Series(one, label.index).corr(label) for one in of_members]
        rows.append({
            "feature": name, "windows": int(label.notna().sum()), "pearson": mean.corr(label),
            "spearman": mean.corr(label, "spearman"), "pearson_of_one_member": np.mean(alone),
        })  # fmt: skip
    return pd.DataFrame(rows)


def strongest(result: Result) -> tuple[str, str]:
    """The pair to look at: of those that act the one furthest from 0 in standard errors, if any."""
    table = result.effects
    acting = table[table["verdict"] == "acts"]
    table = table if acting.empty else acting
    size = (table["effect"] / table["se"]).abs()
    size = size if size.notna().any() else table["effect"].abs()
    row = table.loc[size.idxmax() if size.notna().any() else table.index[0]]
    return row["exposure"], row["outcome"]


def curve(asked: Asked, found: Answer, exposure: str, outcome: str) -> pd.DataFrame | None:
    """The response to 1, 2, ... changed bases of a site; None without a motif."""
    if exposure not in asked.motifs or found.instances is None:
        return None
    ids, p = asked.windows["sequence_id"].tolist(), asked.parameters
    sites = found.instances[found.instances["factor"] == exposure]
    if sites.empty:
        return None
    drawn = site_edits(asked.x, ids, found.instances, asked.motifs, "partial", n_draws=2,
                       seed=p["seed"])  # fmt: skip
    drawn = drawn[drawn["factor"] == exposure]
    partial = edit_effects(asked.members, asked.x, drawn, sequence_ids=ids, **asked.options)
    return response_curve(partial, exposure, outcome)


def nulls(asked: Asked, effects: xr.Dataset, found: Answer) -> pd.DataFrame | None:
    """The same analysis of networks that learned nothing, and of shuffled sequences.

    Returns
    -------
    pd.DataFrame
        One row a case: ``networks``, ``windows``, ``spread`` (the standard deviation of the effects
        of substitutions, mean over features, relative to the trained networks on these windows),
        ``largest``, the largest effect of a pair, ``told``, pairs with a q value below 0.05, and
        ``acts``, pairs with that verdict, of ``pairs``; ``status``, "ok" or why there is nothing.
        None where none were asked for.
    """
    p = asked.parameters
    if not p["null_windows"]:
        return None
    some = asked.windows.head(p["null_windows"])
    ids, texts = some["sequence_id"].tolist(), some["sequence"].str.upper().tolist()
    shuffled = null.dinucleotide_shuffle(texts, p["seed"])
    cases: list[tuple[str, Callable | None, list[str]]] = [
        ("as given", None, texts), ("as given, DNA shuffled", None, shuffled),
        ("weights shuffled", null.shuffled_weights, texts), ("untrained", null.untrained, texts),
    ]  # fmt: skip
    rows, scale = [], None
    for name, make, sequences in cases:
        row: dict[str, Any] = {"networks": name, "windows": len(ids), "status": "ok"}
        try:
            members = asked.members if make is None else _made(asked.members, make, p["seed"])
            part = effects.sel(sequence=ids) if name == "as given" else saturation_mutagenesis(
                members, one_hot(sequences), sequence_ids=ids, keep_members=True,
                max_memory=p["max_memory"], **asked.options,
            )  # fmt: skip
            small = asked._replace(
                members=members, x=one_hot(sequences), labels=None, null_pairs=None,
                windows=some.assign(sequence=sequences),
            )  # fmt: skip
            table = answer(small, part).result.effects
        except (ValueError, TypeError, RuntimeError) as error:
            rows.append(row | {"status": str(error).partition("\n")[0]})
            continue
        spread = part["effect"].std(("sequence", "position", "allele"))
        scale = spread if scale is None else scale
        rows.append(row | {
            "spread": float((spread / scale).mean()), "largest": table["effect"].abs().max(),
            "told": int((table["q_value"] < 0.05).sum()),
            "acts": int((table["verdict"] == "acts").sum()), "pairs": len(table),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _made(
    members: list[nn.Module] | predict.MCDropout, make: Callable, seed: int
) -> list[nn.Module] | predict.MCDropout:
    """Null networks, as many as there are members."""
    if isinstance(members, predict.MCDropout):
        return predict.MCDropout(make(members.module, seed), members.n_draws, members.seed)
    return [make(member, seed + i) for i, member in enumerate(members)]
