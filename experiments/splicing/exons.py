"""Exon definition: what substitutions around human exons do to the splice sites that networks see.

A unit is an analysed exon of `data/exons.csv`, on the transcribed strand. Every base from 60 before
its acceptor to 30 behind its donor is mutated, and both sites lose their dinucleotides. What
is read: the log-odds of its own two sites, of the nearest sites across its introns where these have
at most 4,500 bases, and of sites of other genes that the networks can see from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from deepmr_utils._files import land, undamaged
from deepmr_utils.edits import edit_effects
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.regions import read_fasta
from deepmr_utils.sequences import ALPHABET, one_hot, reverse_complement

from ..study import Study, Unit
from .network import CONTEXT, DATA, N_MEMBERS, ReadOut, load_ensemble

BEFORE, BEHIND = 60, 30  # bases that are mutated outside an exon
LONGEST_INTRON = 4_500
LEAST = 0.3  # probability of either site below which networks do not see an exon
SITES = ("acceptor", "donor")
LOST = {"acceptor": "CT", "donor": "CA"}  # what becomes of a dinucleotide (transversions)
BORDERS = (0, 80, 120, 170)  # bases, of classes of length
LENGTH_CLASSES = ("below 80", "80 to 119", "120 to 169", "170 and more")


class Exon(NamedTuple):
    """An exon in the sequence that decides about all its ``sites``: name to kind and base."""

    sequence: str
    sites: dict[str, tuple[str, int]]

    @property
    def mutated(self) -> np.ndarray:
        """Positions, from before the acceptor to behind the donor."""
        (_, first), (_, last) = (self.sites[name] for name in SITES)
        return np.arange(first - BEFORE, last + BEHIND + 1)


@cache
def read_exons() -> pd.DataFrame:
    """The exons by identifier.

    Besides the columns of the file: ``acceptor, donor``, the bases of the sites on the transcribed
    strand of the region, from 0; ``length``; ``length_class``; and ``analysed``, exons between
    sites that no other exon competes with, seen by the networks, with the usual dinucleotides.
    """
    table = pd.read_csv(DATA / "exons.csv", keep_default_na=False).set_index("exon_id")
    seen = table[["acceptor_prob", "donor_prob"]].min(axis=1) >= LEAST
    usual = table["donor_dinucleotide"].eq("GT") & table["acceptor_dinucleotide"].eq("AG")
    alone = table["alternative_site"] == "none"
    length = table["end"] - table["start"]
    regions = zip(table["region_file"], table["strand"], strict=True)
    ends = [_region(*region)[1:] for region in regions]
    first, last = np.array(ends).T
    forward = table["strand"] == "+"
    return table.assign(
        acceptor=np.where(forward, table["start"] - first, last - table["end"]),
        donor=np.where(forward, table["end"] - first, last - table["start"]) - 1,
        length=length, analysed=alone & seen & usual,
        length_class=pd.cut(length, [*BORDERS, np.inf], right=False, labels=LENGTH_CLASSES),
    )  # fmt: skip


@cache
def _region(file: str, strand: str) -> tuple[str, int, int]:
    """The transcribed strand of a region, and where it begins and ends in the assembly, from 0."""
    record = read_fasta(DATA / file).iloc[0]
    first, last = map(int, record["sequence_id"].split(":")[1].split("-"))
    sequence = record["sequence"]
    return sequence if strand == "+" else reverse_complement(sequence), first - 1, last


@cache
def read_exon(exon_id: str) -> Exon:
    """An exon with all sites that are read, and 5,000 bases at either side of them."""
    table = read_exons()
    row = table.loc[exon_id]
    sequence = _region(row["region_file"], row["strand"])[0]
    sites = {name: (name, row[name]) for name in SITES}
    if row["upstream_intron"] <= LONGEST_INTRON:
        sites["previous donor"] = ("donor", row["acceptor"] - row["upstream_intron"] - 1)
    if row["downstream_intron"] <= LONGEST_INTRON:
        sites["next acceptor"] = ("acceptor", row["donor"] + row["downstream_intron"] + 1)
    for other_id, other in _other_genes(row).iterrows():
        sites |= {f"{kind} of {other_id}": (kind, other[kind]) for kind in SITES}
    seen = range(CONTEXT, len(sequence) - CONTEXT)  # whose whole context is in the region
    sites = {name: (kind, int(place)) for name, (kind, place) in sites.items()}
    sites = {name: site for name, site in sites.items() if site[1] in seen}
    places = [place for _, place in sites.values()]
    start, end = min(places) - CONTEXT, max(places) + CONTEXT + 1
    sites = {name: (kind, place - start) for name, (kind, place) in sites.items()}
    return Exon(sequence[start:end], sites)


def _other_genes(row: pd.Series) -> pd.DataFrame:
    """Exons of other genes on the same strand, all of whose sites are within reach of both own."""
    table = read_exons()
    other = table["gene"] != row["gene"]
    for name in ("region_file", "strand"):
        other &= table[name] == row[name]
    for own in SITES:
        other &= (table[list(SITES)] - row[own]).abs().le(CONTEXT).all(axis=1)
    return table[other]


def knock_outs(exon_id: str) -> pd.DataFrame:
    """Both sites without their dinucleotides, as edits of the exon's sequence."""
    sites = read_exon(exon_id).sites
    starts = {"acceptor": sites["acceptor"][1] - 2, "donor": sites["donor"][1] + 1}
    rows = [[exon_id, s, starts[s], starts[s] + 2, "replaced", 0, LOST[s]] for s in SITES]
    columns = ["sequence_id", "factor", "start", "end", "kind", "draw", "replacement"]
    return pd.DataFrame(rows, columns=columns).assign(status="ok")


def mutate(
    exon_id: str, positions: np.ndarray | None = None, device: str = "cpu"
) -> tuple[xr.Dataset, xr.Dataset]:
    """Effects of substitutions around an exon, at all of its positions or some, and knock-outs."""
    exon, networks = read_exon(exon_id), load_ensemble()
    members = [ReadOut(network, list(exon.sites.values())) for network in networks]
    x, options = one_hot([exon.sequence]), {"sequence_ids": [exon_id], "device": device}
    options["features"] = list(exon.sites)
    edited = edit_effects(members, x, knock_outs(exon_id), **options)
    positions = exon.mutated if positions is None else positions
    return saturation_mutagenesis(
        members, x, positions=positions, keep_members=True, **options
    ), edited


def compute(directory: Path, exon_id: str, device: str = "cpu") -> None:
    """Predict all of an exon and store it: a tenth of a per cent is enough (float16)."""
    mutated, edited = mutate(exon_id, device=device)
    held = {
        "features": mutated["feature"].to_numpy(),
        "effect": mutated["member_effect"].values[:, 0].astype(np.float16),
        "edited": edited["member_effect"].values.astype(np.float32),
        "reference": mutated["reference_prediction"].values[0].astype(np.float32),
    }

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **held)

    land(directory / f"{exon_id}.npz", write)


def exon_units(exon_ids: Iterable[str], device: str = "cpu") -> dict[str, Unit]:
    """A unit an exon."""
    return {e: Unit((f"{e}.npz",), partial(compute, exon_id=e, device=device)) for e in exon_ids}


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    table = read_exons().sort_values("length")
    controls = [e for e in table.index if any(" of " in name for name in read_exon(e).sites)]
    return exon_units(dict.fromkeys([*controls, *table.index[table["analysed"]]]), device)


STUDY = Study(_units)


def load(
    directory: str | Path, exon_ids: Sequence[str], features: Sequence[str] = SITES
) -> tuple[xr.Dataset, xr.Dataset]:
    """Read stored effects of exons, in one frame: position 0 is 60 bases before the acceptor.

    Parameters
    ----------
    directory : path
    exon_ids : sequence of str
        Exons that have been computed; those of which a feature is not read are left out.
    features : sequence of str

    Returns
    -------
    tuple of xr.Dataset
        Effects of substitutions and of knock-outs, as `deepmr_utils.analysis.deep_mr` takes them.

    Raises
    ------
    FileNotFoundError
        If an exon has not been computed.
    ValueError
        If a file is damaged, or no exon has all features.
    """
    features, held = list(features), {}
    for exon_id in exon_ids:
        path = Path(directory) / f"{exon_id}.npz"
        with undamaged(path), np.load(path, allow_pickle=False) as stored:
            names = stored["features"].tolist()
            if set(features) <= set(names):
                columns = [names.index(name) for name in features]
                parts = ("effect", "edited", "reference")
                held[exon_id] = [stored[part][..., columns].astype(float) for part in parts]
    if not held:
        raise ValueError(f"none of {len(exon_ids)} exons has read-outs {', '.join(features)}")
    width = max(effect.shape[1] for effect, _, _ in held.values())
    effect = np.full((N_MEMBERS, len(held), width, len(ALPHABET), len(features)), np.nan)
    for i, (of_exon, _, _) in enumerate(held.values()):
        effect[:, i, : of_exon.shape[1]] = of_exon
    ids, predicted = list(held), np.stack([reference for _, _, reference in held.values()])
    first = [read_exon(exon_id).mutated[0] for exon_id in ids]
    spans = zip(ids, first, strict=True)
    bases = [list(read_exon(exon_id).sequence[start : start + width]) for exon_id, start in spans]
    shared = {
        "reference_prediction": (("sequence", "feature"), predicted),
        "sequence": ids, "feature": features,
    }  # fmt: skip
    mutated = xr.Dataset(
        {**_over_members(effect, ("sequence", "position", "allele", "feature")), **shared},
        {"position": np.arange(width), "allele": list(ALPHABET),
         "reference": (("sequence", "position"), np.array(bases))},
    )  # fmt: skip
    edits = pd.concat([knock_outs(exon_id) for exon_id in ids], ignore_index=True)
    moved = edits["sequence_id"].map(dict(zip(ids, first, strict=True)))
    edits = edits.assign(
        start=edits["start"] - moved, end=edits["end"] - moved,
        reference=edits["factor"].map({"acceptor": "AG", "donor": "GT"}),
    )  # fmt: skip
    edited = np.concatenate([knocked for _, knocked, _ in held.values()], axis=1)
    return mutated, xr.Dataset(
        {**_over_members(edited, ("edit", "feature")), **shared},
        {name: ("edit", column.to_numpy()) for name, column in edits.items()},
    )


def _over_members(values: np.ndarray, dimensions: tuple[str, ...]) -> dict[str, tuple]:
    """Effects, the sd over members, and those of every member."""
    return {
        "effect": (dimensions, values.mean(axis=0)),
        "se": (dimensions, values.std(axis=0, ddof=1)),
        "member_effect": (("member", *dimensions), values),
    }
