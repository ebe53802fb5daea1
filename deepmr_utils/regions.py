"""A user's own sequences and regions, as a sequence table: from FASTA, or BED and FASTA."""

import difflib
import gzip
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
from pyfaidx import Fasta, FastaIndexingError, UnsupportedCompressionFormat

from .sequences import check_letters, reverse_complement
from .tables import check_rows, require, whole_numbers

EDGES = ("raise", "pad", "drop")
STRANDS = ("+", "-", ".")
_LOGGER = logging.getLogger(__name__)


def read_fasta(path: str | Path) -> pd.DataFrame:
    """Read all records of a FASTA file.

    Parameters
    ----------
    path : path
        Plain, gzipped or bgzipped.

    Returns
    -------
    pd.DataFrame
        One row a record, in their order: ``sequence_id``, the first word of its header (a second
        ``peak`` becomes ``peak_2``), and ``sequence`` in upper case (soft-masking is lost). Lengths
        may differ; `deepmr_utils.sequences.one_hot` asks for one length.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no FASTA, a record is empty, or a letter is not A, C, G, T or N.
    """
    names, parts = [], []
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if line.startswith(">"):
                names.append(next(iter(line[1:].split()), ""))
                parts.append([])
                if not names[-1]:
                    raise ValueError(f"{path}, line {number}: a FASTA header needs a name; got '>'")
            elif line and not names:
                raise ValueError(
                    f"{path}, line {number}: a FASTA record begins with a header '>name'; got "
                    f"{line[:40]!r}: is it a FASTA file?"
                )
            elif line:
                parts[-1].append(line)
    sequences = ["".join(part) for part in parts]
    if not all(sequences) or not sequences:
        what = (
            f"record {names[sequences.index('')]!r} has none" if sequences else "it has no record"
        )
        raise ValueError(f"{path}: every FASTA record needs a sequence; {what}")
    return pd.DataFrame({"sequence_id": unique(names), "sequence": check_letters(sequences, names)})


def read_regions(
    bed: str | Path | pd.DataFrame,
    fasta: str | Path,
    length: int | None = None,
    *,
    edge: str = "raise",
) -> pd.DataFrame:
    """Read the sequences of genomic regions.

    Parameters
    ----------
    bed : path or pd.DataFrame
        A BED file (plain or gzipped; also narrowPeak), of which chromosome, start (0-based), end
        (exclusive), name and strand are used; or a table with the columns ``chrom``, ``start``,
        ``end`` and, where they exist, ``name`` and ``strand``.
    fasta : path
        Plain, or bgzipped (which needs Biopython). Its index ``.fai`` is built beside it where
        there is none.
    length : int, optional
        Cut or widen every region to this length, around its centre ``(start + end) // 2``, which
        becomes position ``length // 2`` of the window on the forward strand. Without it all regions
        must have one length.
    edge : {"raise", "pad", "drop"}
        What to do with windows that run off a chromosome: an error, unknown bases N in place of
        what is missing, or leave them out. The latter two are counted and logged.

    Returns
    -------
    pd.DataFrame
        One row a region, in their order: ``sequence_id``, ``chrom``, ``start``, ``end`` (of the
        window, also where padded, so that its start may be negative), ``strand`` ("+" or "-"),
        ``sequence`` in upper case, reverse-complemented on strand "-". ``sequence_id`` is the name,
        or ``chr1:100-200`` where there is none, with ``(-)`` on strand "-"; a second one of a kind
        gets ``_2``. ``attrs["counts"]`` says how many regions were read, padded and dropped.

    Raises
    ------
    FileNotFoundError, PermissionError
        If a file does not exist, or the FASTA has no current index and none can be written.
    ValueError
        If the BED holds no region, a malformed or an empty one, or none is left; lengths differ;
        a chromosome is unknown; a window runs off it; a letter is not A, C, G, T or N.
    ImportError
        If the FASTA is bgzipped and Biopython is not installed.

    Notes
    -----
    Position p of a sequence is base ``start + p`` of the chromosome (0-based) on strand "+" and
    ``end - 1 - p`` on strand "-". A strand "." counts as "+".
    """
    if edge not in EDGES:
        raise ValueError(f"unknown edge {edge!r}: choose one of {', '.join(EDGES)}")
    table = check_regions(bed if isinstance(bed, pd.DataFrame) else read_bed(bed))
    table = _windows(table, length)
    with open_indexed(fasta) as genome:
        sizes = {name: len(record) for name, record in genome.items()}
        table["size"] = chromosome_sizes(table["chrom"], sizes, fasta)
        table, counts = at_edges(table, edge)
        forward = [
            "N" * max(0, -row.start)
            + genome[row.chrom][max(0, row.start) : min(row.end, row.size)]
            + "N" * max(0, row.end - row.size)
            for row in table.itertuples()
        ]
    forward = check_letters(forward, table["span"].tolist())
    strand = np.where(table["strand"] == "-", "-", "+")
    span = table["span"] + np.where(strand == "-", "(-)", "")
    result = table[["chrom", "start", "end"]].assign(
        strand=strand,
        sequence=[
            reverse_complement(sequence) if s == "-" else sequence
            for sequence, s in zip(forward, strand, strict=True)
        ],
    )
    names = table["name"].where(~table["name"].isin(["", "."]), span)
    result.insert(0, "sequence_id", unique(names))
    result.attrs = {"counts": counts}
    return result


def unique(names: Iterable[str]) -> list[str]:
    """Names made unique: the second ``peak`` becomes ``peak_2``, unless there is one already."""
    names = list(names)
    taken, seen, result = set(names), Counter(), []
    for name in names:
        seen[name] += 1
        new = name
        while seen[name] > 1 and new in taken:
            new = f"{name}_{seen[name]}"
            seen[name] += new in taken
        taken.add(new)
        result.append(new)
    return result


def _open(path: str | Path) -> TextIO:
    """Open a plain or gzipped text file."""
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    return opener(path, "rt", encoding="utf-8", errors="replace")


def read_bed(path: str | Path) -> pd.DataFrame:
    """Columns chrom, start, end, name and strand of a BED file as text, by line number."""
    rows = {}
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r\n")
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            fields = line.split("\t") if "\t" in line else line.split()
            if len(fields) < 3:
                raise ValueError(
                    f"{path}, line {number}: a BED line needs chromosome, start and end, separated "
                    f"by tabs; got {line[:60]!r}"
                )
            fields += ["."] * (6 - len(fields))
            rows[number] = [fields[column] for column in (0, 1, 2, 3, 5)]
    if not rows:
        raise ValueError(f"{path} holds no region: a BED file needs at least one line")
    columns = ["chrom", "start", "end", "name", "strand"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("line")


def check_regions(bed: pd.DataFrame) -> pd.DataFrame:
    """Regions with integer starts and ends, a name and a strand each, or an error with the row."""
    require(bed, ("chrom", "start", "end"), "a table of regions")
    table = pd.DataFrame({"chrom": bed["chrom"].astype(str)}, index=bed.index)
    for column in ("start", "end"):
        table[column] = whole_numbers(bed, column, "0-based; no header line")
    for column in ("name", "strand"):
        values = bed[column] if column in bed.columns else pd.Series(".", bed.index)
        table[column] = values.fillna(".").astype(str)
    empty = table["end"] <= table["start"]
    check_rows(table, empty, "a region needs end > start (half-open)", "start", "end")
    unknown = ~table["strand"].isin(STRANDS)
    check_rows(table, unknown, "strand must be '+', '-' or '.'", "strand")
    return table


def _windows(table: pd.DataFrame, length: int | None) -> pd.DataFrame:
    """Cut or widen regions to a length around their centres, or check that they have one."""
    if length is not None:
        if length < 1:
            raise ValueError(f"length must be at least 1 base; got {length}")
        start = (table["start"] + table["end"]) // 2 - length // 2
        table = table.assign(start=start, end=start + length)
    lengths = table["end"] - table["start"]
    if lengths.nunique() > 1:
        raise ValueError(
            f"all regions must have one length; got {lengths.min()} to {lengths.max()} bases: give "
            "length to cut or widen them around their centres"
        )
    start, end = table["start"].astype(str), table["end"].astype(str)
    return table.assign(span=table["chrom"] + ":" + start + "-" + end)


def open_indexed(fasta: str | Path) -> Fasta:
    """Open a FASTA with its index, which is built where there is none."""
    if not Path(fasta).is_file():
        raise FileNotFoundError(f"no FASTA file at {fasta}")
    try:
        return Fasta(str(fasta), as_raw=True)
    except ImportError:
        raise ImportError(
            f"{fasta} is compressed, which needs Biopython: pip install biopython, or unpack the "
            "file by gunzip"
        ) from None
    except (UnsupportedCompressionFormat, FastaIndexingError, ValueError) as error:
        raise ValueError(f"{fasta} cannot be indexed: {error}") from error
    except OSError as error:
        raise PermissionError(
            f"{fasta} has no current index, and {fasta}.fai cannot be written: make it by "
            "'samtools faidx', or link the FASTA into a folder of your own ('ln -s') and give that "
            "path"
        ) from error


def chromosome_sizes(
    chromosomes: pd.Series, sizes: Mapping[str, int], fasta: str | Path
) -> pd.Series:
    """Size of each row's chromosome, or an error where it is unknown."""
    unknown = chromosomes[~chromosomes.isin(list(sizes))]
    if len(unknown):
        name = unknown.iloc[0]
        near = [n for n in (f"chr{name}", name.removeprefix("chr")) if n in sizes]
        near += [n for n in difflib.get_close_matches(name, sizes) if n not in near]
        hint = f"near names: {', '.join(near)}" if near else "no near name"
        listed = ", ".join([*list(sizes)[:5], *["..."] * (len(sizes) > 5)])
        raise ValueError(
            f"unknown chromosome {name!r}: {fasta} has {len(sizes)} sequences ({listed}; {hint}); "
            f"{len(unknown)} regions are on unknown ones: rename or remove them"
        )
    return chromosomes.map(sizes)


def at_edges(table: pd.DataFrame, edge: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Apply the rule for windows that run off their chromosome, and count them."""
    off = (table["start"] < 0) | (table["end"] > table["size"])
    beside = (table["end"] <= 0) | (table["start"] >= table["size"])
    refused = {"raise": off, "pad": beside, "drop": off & off.all()}[edge]
    if refused.any():
        first = table[refused].iloc[0]
        raise ValueError(
            "windows must lie within their chromosome, or reach into it with edge='pad'; "
            f"{refused.sum()} of {len(table)} do not, the first {first['span']} "
            f"({first['chrom']} has {first['size']} bases): choose edge='pad' or 'drop', a shorter "
            "length, or the assembly that the regions come from"
        )
    counts = {"regions": len(table), "padded": 0, "dropped": 0}
    if off.any():
        action = "padded" if edge == "pad" else "dropped"
        counts[action] = int(off.sum())
        message = "%d of %d regions run off their chromosome and were %s"
        _LOGGER.warning(message, counts[action], len(table), action)
    kept = table[~off] if edge == "drop" else table
    return kept.reset_index(drop=True), counts
