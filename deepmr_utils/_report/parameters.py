"""Parameters of a report: everything that can be wrong with them is said before a forward pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import predict
from .._checks import (
    check_choice,
    check_installed,
    check_names,
    check_number,
    check_writable,
    did_you_mean,
)
from .._members import declared_names
from ..instruments import DESIGNS
from ..motifs import Motif, find_instances, read_meme, shipped_motifs
from ..mr.registry import check_methods
from ..negative_controls import check_nulls
from ..regions import CENTRES, read_regions
from ..sequences import one_hot
from .command import defaults
from .files import demo_windows, read_labels, read_sequences
from .models import DEMO, load_members

DEMO_MOTIFS = {"Oct4": "Oct4_core", "Sox2": "Sox2_core", "Nanog": "Nanog", "Klf4": "Klf4"}
KINDS = {name: type(value) for name, (value, _) in defaults().items()}
LEAST = {"max_memory": 10**6}  # of whole numbers; 0 elsewhere
GIVEN = {  # how papermill and the command line give what is no text and no number
    list: "a list, as in -y 'NAME: [a, b]'", dict: "names and values, as in -y 'NAME: {a: b}'",
}  # fmt: skip


class Asked(NamedTuple):
    """What a report is about, resolved and checked.

    ``members``: networks, or draws of one; ``alone``: the module that is drawn from, or the single
    network; ``pool``: all windows, ``windows`` those that are mutated, ``x`` their sequences;
    ``names`` of features, None where the model will give them; ``motifs`` by feature; ``labels``,
    a row a window of the pool; ``truth`` of the demo.
    """

    parameters: dict[str, Any]
    members: list[nn.Module] | predict.MCDropout
    pool: pd.DataFrame
    windows: pd.DataFrame
    x: torch.Tensor
    names: list[str] | None
    exposures: list[str] | None
    outcomes: list[str] | None
    motifs: dict[str, Motif]
    labels: pd.DataFrame | None
    null_pairs: list[tuple[str, str]] | str | None
    truth: pd.DataFrame | None
    directory: Path

    @property
    def options(self) -> dict[str, Any]:
        """Of every prediction: features and device."""
        p = self.parameters
        return {"features": p["features"] or None, "device": p["device"]}

    @property
    def n_members(self) -> int:
        """Networks, or draws."""
        drawn = isinstance(self.members, predict.MCDropout)
        return self.members.n_draws if drawn else len(self.members)


class _Problems(list):
    """Messages, one a parameter that is wrong."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.parameters = parameters

    def add(self, name: str, message: object) -> None:
        text = str(message)
        text = text.removeprefix(f"{name} ") if text.startswith(f"{name} must ") else text
        got = "" if "; got " in text else f"; got {self.parameters.get(name)!r}"
        self.append(f"parameter {name}: {text}{got}")

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError) as error:
            self.add(name, error)

    def stop(self) -> None:
        if self:
            raise ValueError("\n".join(self))


def given(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a notebook, and what papermill injected under names that it does not have."""
    names = list(KINDS)
    for cell in namespace.get("In", ()):  # sources of the cells that were run so far
        if cell.startswith("# Parameters"):
            lines = (line.partition("=") for line in cell.splitlines())
            names += [name.strip() for name, sign, _ in lines if sign and name[:1].isalpha()]
    return {name: namespace[name] for name in dict.fromkeys(names) if name in namespace}


def check(parameters: Mapping[str, Any]) -> Asked:
    """Resolve the parameters of a report; no network is evaluated.

    Parameters
    ----------
    parameters : mapping
        All of `KINDS`, by name.

    Raises
    ------
    ValueError
        With a line for each parameter that is wrong: its name, the rule and the value.
    """
    problems = _Problems(parameters)
    _check_kinds(parameters, problems)
    problems.stop()
    p = dict(parameters)
    _check_options(p, problems)
    demo = p["model"] == "demo" and not (p["sequences"] or p["regions"])
    pool, windows, x = _read_pool(p, demo, problems), None, None
    if pool is not None:
        windows = _drawn(pool, p["n_windows"], p["seed"])
        with problems.of("sequences" if p["sequences"] else "length"):
            x = one_hot(windows["sequence"].tolist())
    members = _read_members(p, problems)
    names = None
    if members is not None:
        with problems.of("features"):
            names = _names(members, p["features"])
    motifs = _read_motifs(p, names, demo, problems)
    chosen = _check_names(p, names, motifs, problems)
    if x is not None and chosen[0] is not None and p["design"] in ("", "motif"):
        with problems.of("motif_of"):
            _check_sites(x, windows, {n: m for n, m in motifs.items() if n in chosen[0]})
    labels = None
    if demo and not p["labels"]:
        labels = demo_windows("sequence_id")
        labels = labels[[name for name in names or () if name in labels]]
    elif pool is not None and p["labels"]:
        with problems.of("labels"):
            labels = read_labels(p["labels"], pool, names)
    problems.stop()
    truth = pd.read_csv(DEMO / "truth.csv") if demo else None
    return Asked(
        p, members, pool, windows, x, names, *chosen[:2], motifs, labels, chosen[2], truth,
        Path(p["results_directory"]),
    )  # fmt: skip


def _check_kinds(parameters: Mapping[str, Any], problems: _Problems) -> None:
    """Unknown names, missing ones, and values of another type."""
    for name in parameters:
        if name not in KINDS:
            hint = did_you_mean(name, list(KINDS))
            problems.append(f"unknown parameter {name!r}{hint}: choose one of {', '.join(KINDS)}")
    for name, kind in KINDS.items():
        value = parameters.get(name)
        boolean = isinstance(value, bool)
        whole = kind is int and isinstance(value, float) and value.is_integer()
        if not (isinstance(value, kind) or whole) or boolean:
            problems.add(name, f"must be of type {kind.__name__} ({GIVEN.get(kind, 'one value')})")
        elif kind is int:
            with problems.of(name):
                check_number(name, value, LEAST.get(name, 0), whole=True)
        elif kind is list and not all(isinstance(v, str) for v in value):
            problems.add(name, "must be a list of texts")


def _check_options(p: Mapping[str, Any], problems: _Problems) -> None:
    """What needs no file: choices, the device, the folder, and options that exclude each other."""
    with problems.of("method"):
        check_methods(p["method"])
    with problems.of("device"):
        predict.resolve_device(p["device"])
    with problems.of("centre"):
        check_choice("centre", p["centre"], CENTRES)
    if p["design"]:
        with problems.of("design"):
            check_choice("design", p["design"], DESIGNS)
    with problems.of("results_directory"):
        check_writable(p["results_directory"])
        check_installed("report", "zarr", "pyarrow")
    if p["regions"] and p["sequences"]:
        problems.add("sequences", "windows are of regions or of sequences: give one of these")
    if p["regions"] and not p["genome"]:
        problems.add("genome", "regions need the genome that they are of, a FASTA file")
    for name in ("genome", "length"):
        if p[name] and not p["regions"]:
            problems.add(name, f"{name} goes with regions: give regions, or leave it out")
    if p["centre"] == "summit" and not (p["regions"] and p["length"]):
        problems.add("centre", "windows around summits need regions and a length")
    if p["model"] != "demo" and not (p["regions"] or p["sequences"]):
        problems.add(
            "sequences",
            "a model of yours needs windows: give sequences, a FASTA file or a table, or regions "
            "and genome",
        )


def _read_pool(p: Mapping[str, Any], demo: bool, problems: _Problems) -> pd.DataFrame | None:
    """All windows, with their sequences."""
    if demo:
        return demo_windows()[["sequence_id", "sequence"]]
    if p["sequences"] and not p["regions"]:
        with problems.of("sequences"):
            return read_sequences(Path(p["sequences"]))
    for name in ("regions", "genome"):
        if p[name] and not Path(p[name]).is_file():
            problems.add(name, "there is no such file")
            return None
    if p["regions"] and p["genome"] and not p["sequences"]:
        with problems.of("regions"):
            return read_regions(
                p["regions"], p["genome"], p["length"] or None, edge="drop", centre=p["centre"]
            )
    return None


def _drawn(pool: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """So many windows, in their order; all for 0."""
    if not 0 < n < len(pool):
        return pool
    rows = np.random.default_rng(seed).choice(len(pool), n, replace=False)
    return pool.iloc[np.sort(rows)].reset_index(drop=True)


def _read_members(
    p: Mapping[str, Any], problems: _Problems
) -> list[nn.Module] | predict.MCDropout | None:
    with problems.of("model"):
        members = load_members(p["model"], p["weights"])
        if not p["draws"]:
            return members
        with problems.of("draws"):
            if len(members) > 1:
                raise ValueError(f"draws are of one network; the model has {len(members)} members")
            return predict.MCDropout(members[0], p["draws"], p["seed"])
    return None


def _names(
    members: list[nn.Module] | predict.MCDropout, features: Sequence[str]
) -> list[str] | None:
    """Names of the features that are asked for, as far as they are known without a prediction."""
    drawn = isinstance(members, predict.MCDropout)
    declared = declared_names(members.module if drawn else members[0])
    if features and declared is not None:
        return check_names("feature", features, declared)
    if len(set(features)) < len(features):
        raise ValueError("names must be distinct")
    return list(features) or declared


def _read_motifs(
    p: Mapping[str, Any], names: Sequence[str] | None, demo: bool, problems: _Problems
) -> dict[str, Motif]:
    """Motifs by feature."""
    wanted, known = dict(p["motif_of"]), None
    with problems.of("motifs"):
        if p["motifs"] and not Path(p["motifs"]).is_file():
            raise FileNotFoundError("there is no such file, which must be in MEME format")
        known = read_meme(p["motifs"]) if p["motifs"] else shipped_motifs()
        if p["motifs"] and not wanted:
            wanted = {name: name for name in names or () if name in known}
            if not wanted:
                raise ValueError(
                    "no motif has the name of a feature: give motif_of, {feature: motif}, with "
                    f"motifs among {', '.join(list(known)[:20])}"
                )
    if demo and not wanted and not p["motifs"]:
        wanted = {name: motif for name, motif in DEMO_MOTIFS.items() if name in (names or ())}
    found = {}
    for feature, motif in wanted.items():
        with problems.of("motif_of"):
            if known is not None:
                found[feature] = known[check_choice("motif", motif, list(known))]
    return found


def _check_names(
    p: Mapping[str, Any], names: Sequence[str] | None, motifs: Mapping[str, Motif],
    problems: _Problems,
) -> tuple[list[str] | None, list[str] | None, list[tuple[str, str]] | str | None]:  # fmt: skip
    """Exposures, outcomes and null pairs."""
    asked = [name for name in ("exposures", "outcomes", "motif_of", "null_pairs") if p[name]]
    if names is None:
        if asked and not any("parameter model" in problem for problem in problems):
            problems.add(
                "features",
                f"{asked[0]} names features, but the model does not name its outputs: give "
                "features, a name for every output in order",
            )
        return None, None, None
    for feature in p["motif_of"]:
        with problems.of("motif_of"):
            check_choice("feature", feature, names)
    exposures, outcomes = p["exposures"], p["outcomes"]
    for name, values in (("exposures", exposures), ("outcomes", outcomes)):
        with problems.of(name):
            check_names("feature", values, names)
    if not exposures:
        exposures = [name for name in names if name in motifs] if motifs else list(names)
    outcomes = outcomes or list(names)
    pairs = [(a, b) for a, b in product(exposures, outcomes) if a != b]
    if not pairs:
        problems.add("exposures", f"effects need a pair of 2 features among {', '.join(names)}")
    without = [name for name in exposures if name not in motifs]
    if p["design"] == "motif" and without:
        problems.add(
            "design",
            f"'motif' takes instruments from the motif of every exposure; {without[0]} has none: "
            "give motif_of, other exposures, or design 'strongest'",
        )
    elif motifs and without and p["design"] in ("", "motif"):
        problems.add(
            "exposures",
            f"{without[0]} has no motif, and where there are motifs instruments lie in them: give "
            "motif_of for it, leave it out, or give design 'strongest'",
        )
    nulls: list[tuple[str, str]] | str | None = None
    with problems.of("null_pairs"):
        nulls = _null_pairs(p["null_pairs"])
        if nulls is not None:
            design = p["design"] or ("motif" if motifs else "strongest")
            check_nulls(nulls, pairs, {"design": design})
    return exposures, outcomes, nulls


def _check_sites(x: torch.Tensor, windows: pd.DataFrame, motifs: Mapping[str, Motif]) -> None:
    """Raise where an exposure has no site in any window."""
    if not motifs:
        return
    found = find_instances(x, windows["sequence_id"].tolist(), motifs)["factor"].unique()
    for name, motif in motifs.items():
        if name not in found:
            raise ValueError(
                f"instruments lie in sites, and none of {len(windows)} windows has one of "
                f"{motif.name} ({motif.consensus}, {motif.width} bases): give other windows, leave "
                f"{name} out, or give design 'strongest'"
            )


def _null_pairs(texts: Sequence[str]) -> list[tuple[str, str]] | str | None:
    """Pairs of texts "exposure -> outcome"."""
    if list(texts) == ["most"]:
        return "most"
    pairs = [tuple(part.strip() for part in text.split("->")) for text in texts]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a null pair is written 'exposure -> outcome', or 'most' for all")
    return pairs or None
