"""A user's own sequences and regions, as a sequence table: from FASTA, or BED and FASTA."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._checks import (
    check_choice,
    check_columns,
    check_installed,
    check_number,
    check_rows,
    require,
    whole_numbers,
)
from ._files import text_lines
from .sequences import check_letters, reverse_complement, unknown_base

if TYPE_CHECKING:
    from pyfaidx import Fasta  # else where a genome is opened: tables do not need it

__all__ = ["read_fasta", "read_regions"]

EDGES = ("raise", "pad", "drop")
CENTRES = ("middle", "summit")
_FAR = 1 << 16  # bytes; longer is no header
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
        If it is no FASTA, a record is empty, a letter is not A, C, G, T or N, the text is not
        UTF-8, or a gzipped file is cut short; with the line.
    """
    names, headers, parts = [], [], []
    for number, line in text_lines(path):
        line, problem = line.strip(), ""
        if line.startswith(">"):
            names += line[1:].split()[:1] or [""]
            headers.append(number)
            parts.append([])
            problem = "" if names[-1] else "a FASTA header needs a name; got '>'"
        elif line and not names:
            problem = f"a FASTA record begins with a header '>name'; got {line[:40]!r}"
        elif line:
            parts[-1].append(line.upper())
            if wrong := re.search("[^ACGTN]", parts[-1][-1]):
                position = sum(map(len, parts[-1][:-1])) + wrong.start()
                problem = unknown_base(line[wrong.start()], names[-1], position)
        if problem:
            raise ValueError(f"{path}, line {number}: {problem}")
    for name, header, part in zip(names, headers, parts, strict=True):
        if not part:
            raise ValueError(f"{path}, line {header}: FASTA record {name!r} has no sequence")
    if not names:
        raise ValueError(f"{path} has no FASTA record")
    return pd.DataFrame({"sequence_id": unique(names), "sequence": ["".join(p) for p in parts]})


def read_regions(
    bed: str | Path | pd.DataFrame,
    fasta: str | Path,
    length: int | None = None,
    *,
    edge: str = "raise",
    centre: str = "middle",
) -> pd.DataFrame:
    """Read the sequences of genomic regions.

    Parameters
    ----------
    bed : path or pd.DataFrame
        A BED file (plain or gzipped; also narrowPeak), of which
        chromosome, start (0-based), end (exclusive), name and strand are used; or a table with the
        columns ``chrom``, ``start``, ``end`` and, where they exist, ``name`` and ``strand``. Names
        of chromosomes are text: read a CSV with ``dtype={"chrom": str}, keep_default_na=False``.
    fasta : path
        Plain, or bgzipped (which needs Biopython). Its index ``.fai`` is built beside it where
        there is none, or where it does not fit the file.
    length : int, optional
        Cut or widen every region to this length, around its centre ``(start + end) // 2``, which
        becomes position ``length // 2`` of the window on the forward strand. Without it all regions
        must have one length.
    edge : {"raise", "pad", "drop"}
        What to do with windows that run off a chromosome: an error, unknown bases N in place of
        what is missing, or leave them out. The latter two are counted and logged.
    centre : {"middle", "summit"}
        What windows of a `length` lie around: the middle of the region, or its summit, which column
        10 of a narrowPeak file, or the column ``summit`` of a table, gives as an offset from start.

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
    check_choice("edge", edge, EDGES)
    check_choice("centre", centre, CENTRES)
    given = bed if isinstance(bed, pd.DataFrame) else read_bed(bed, summits=centre == "summit")
    table = check_regions(given)
    if centre == "summit":
        table["summit"] = _summits(given, table)
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
    _check_lengths(forward, table, fasta)
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


def _check_lengths(sequences: list[str], table: pd.DataFrame, fasta: str | Path) -> None:
    """Raise where lines of a FASTA differ in length, so that its index points elsewhere."""
    got = np.array([len(sequence) for sequence in sequences])
    if (wrong := got != table["end"] - table["start"]).any():
        span = table["span"][wrong].iloc[0]
        raise ValueError(
            f"{fasta} does not fit its index at {span}: lines of a record must have one length. "
            f"Remove {fasta}.fai where the FASTA has changed"
        )


def _is_header(line: str) -> bool:
    """Whether a line of a BED file is a comment or for a browser; a chromosome may be ``track``."""
    words = line.split()
    region = len(words) > 2 and words[1].isdigit() and words[2].isdigit()
    return not words or line.startswith("#") or (words[0] in ("track", "browser") and not region)


def read_bed(path: str | Path, *, summits: bool = False) -> pd.DataFrame:
    """Columns chrom, start, end, name and strand of a BED file as text, by line number.

    With `summits` also the tenth of narrowPeak, ``summit``.
    """
    columns = {"chrom": 0, "start": 1, "end": 2, "name": 3, "strand": 5}
    columns |= {"summit": 9} if summits else {}
    rows = {}
    for number, line in text_lines(path):
        if _is_header(line):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) < 3:
            raise ValueError(
                f"{path}, line {number}: a BED line needs chromosome, start and end, separated "
                f"by tabs; got {line[:60]!r}"
            )
        fields += ["."] * (10 - len(fields))
        rows[number] = [fields[column].strip() for column in columns.values()]
    if not rows:
        raise ValueError(f"{path} holds no region: a BED file needs at least one line")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))
    table.attrs["file"] = str(path)  # for errors
    return table.rename_axis("line")


def check_regions(bed: pd.DataFrame) -> pd.DataFrame:
    """Regions with integer starts and ends, a name and a strand each, or an error with the row."""
    require(bed, ("chrom", "start", "end"), "a table of regions")
    note = "read a CSV with keep_default_na=False where a chromosome is called NA"
    missing = bed["chrom"].isna() | (bed["chrom"].astype(str) == "")
    check_rows(bed, missing, f"every region needs a chrom ({note})", "chrom")
    table = pd.DataFrame({"chrom": bed["chrom"].astype(str)}, index=bed.index)
    table.attrs = bed.attrs
    for column in ("start", "end"):
        table[column] = whole_numbers(bed, column, "0-based; no header line")
    for column in ("name", "strand"):
        values = bed[column] if column in bed.columns else pd.Series(".", bed.index)
        table[column] = values.fillna(".").astype(str)
    empty = table["end"] <= table["start"]
    check_rows(table, empty, "a region needs end > start (half-open)", "start", "end")
    unknown = ~table["strand"].isin(["+", "-", "."])
    check_rows(table, unknown, "strand must be '+', '-' or '.'", "strand")
    return table


def _summits(bed: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Offsets of summits from the starts of regions, which must lie within them."""
    check_columns(bed, ["summit"], "a table of regions with summits")
    summit = whole_numbers(bed, "summit", "column 10 of narrowPeak, from the start of the region")
    beyond = summit >= table["end"] - table["start"]
    rule = "a summit must lie within its region"
    check_rows(table.assign(summit=summit), beyond, rule, "start", "end", "summit")
    return summit


def _windows(table: pd.DataFrame, length: int | None) -> pd.DataFrame:
    """Cut or widen regions to a length around their centres, or check that they have one."""
    if "summit" in table and length is None:
        raise ValueError("windows around summits need a length; got None: give length")
    if length is not None:
        length = check_number("length", length, 1, whole=True)
        middle = (table["start"] + table["end"]) // 2
        start = table["start"] + table["summit"] if "summit" in table else middle
        start = start - length // 2
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
    """Open a FASTA with its index, which is built where there is none, or one of another file."""
    check_installed("files", "pyfaidx")
    from pyfaidx import FastaIndexingError, UnsupportedCompressionFormat

    if not Path(fasta).is_file():
        raise FileNotFoundError(f"no FASTA file at {fasta}")
    with open(fasta, "rb") as file:
        head = file.read(3)
    if head.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{fasta} begins with a byte order mark: save it as plain text without")
    if head.startswith(b"\x1f\x8b") and Path(fasta).suffix.lower() not in (".gz", ".bgz"):
        raise ValueError(f"{fasta} is compressed, which its name must say: unpack it by gunzip")
    unreadable = (EOFError, UnsupportedCompressionFormat, FastaIndexingError, ValueError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of an older index: it may still fit
            return _open(fasta, unreadable)
    except ImportError:
        raise ImportError(
            f"{fasta} is compressed, which needs Biopython: pip install biopython, or unpack the "
            "file by gunzip, as you must where it is plain gzip, not bgzip"
        ) from None
    except unreadable as error:
        raise ValueError(f"{fasta} cannot be indexed: {error}") from error
    except OSError as error:
        raise PermissionError(
            f"{fasta} has no current index, and {fasta}.fai cannot be written: make it by "
            "'samtools faidx', or link the FASTA into a folder of your own ('ln -s') and give "
            "that path"
        ) from error


def _open(fasta: str | Path, unreadable: tuple[type[Exception], ...]) -> Fasta:
    from pyfaidx import Fasta

    indices = [Path(f"{fasta}{suffix}") for suffix in (".fai", ".gzi")]
    there = indices[0].exists()
    try:
        genome = Fasta(str(fasta), as_raw=True, rebuild=False)
        if _fits(genome):
            return genome
        genome.close()
    except unreadable:
        if not there:  # then it is the FASTA that is wrong
            raise
    for index in indices:
        index.unlink(missing_ok=True)
    _LOGGER.warning("%s did not fit its FASTA and was built anew", indices[0])
    return Fasta(str(fasta), as_raw=True, rebuild=False)


def _fits(genome: Fasta) -> bool:
    """Whether an index is that of its FASTA, whatever their times say.

    Every record must follow a header of its name, have a first line of the stated length, and end
    where the next header, or the file, does.
    """
    last, ending = 0, rb"(;.*\n|\s)*"  # comments may stand before the first header
    for name, record in sorted(genome.faidx.index.items(), key=lambda item: item[1].offset):
        between = _bytes(genome, last, record.offset - last)
        header = re.fullmatch(ending + rb">[ \t]*(?P<name>\S+)([^\S\n].*)?\n", between)
        if header is None or header["name"] != name.encode():
            return False
        newline = record.lenb - record.lenc
        first = _bytes(genome, record.offset + record.lenc - 1, 1 + newline)
        if record.rlen > record.lenc and not re.fullmatch(rb"\S\s+", first):
            return False
        last = record.bend - newline - 1 if record.rlen else record.offset - 1
        ending = rb"\S(\s+|\Z)" if record.rlen else rb"\s+"
    return re.fullmatch(ending, _bytes(genome, last, _FAR)) is not None


def _bytes(genome: Fasta, offset: int, n: int) -> bytes:
    """So many bytes of an open FASTA, unpacked; none where a header would be of absurd length."""
    if not 0 < n <= _FAR:
        return b""
    file, blocks = genome.faidx.file, getattr(genome.faidx, "gzi_index", None)
    if blocks:
        block = blocks[bisect_right(blocks, offset, key=lambda b: b.ustart) - 1]
        offset = block.cstart << 16 | offset - block.ustart  # a virtual offset, as of samtools
    file.seek(offset)
    return file.read(n)


def chromosome_sizes(
    chromosomes: pd.Series, sizes: Mapping[str, int], fasta: str | Path
) -> pd.Series:
    """Size of each row's chromosome, or an error where it is unknown."""
    unknown = chromosomes[~chromosomes.isin(list(sizes))]
    if len(unknown):
        name = unknown.iloc[0]
        variants = (f"chr{name}", name.removeprefix("chr"), name.removesuffix(".0"))
        near = [n for n in variants if n in sizes] or difflib.get_close_matches(name, sizes)
        raise ValueError(
            f"unknown chromosome {name!r}: {fasta} has {len(sizes)} sequences, such as "
            f"{', '.join(near or list(sizes)[:5])}; {len(unknown)} regions are on unknown ones: "
            "rename or remove them"
        )
    return chromosomes.map(sizes)


def at_edges(
    table: pd.DataFrame, edge: str, choices: Sequence[str] = EDGES
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Apply the rule for windows that run off their chromosome, and count them."""
    off = (table["start"] < 0) | (table["end"] > table["size"])
    beside = (table["end"] <= 0) | (table["start"] >= table["size"])
    refused = {"raise": off, "pad": beside, "drop": off & off.all()}[edge]
    if refused.any():
        first = table[refused].iloc[0]
        others = " or ".join(repr(choice) for choice in choices if choice != "raise")
        raise ValueError(
            f"windows must {'reach into' if edge == 'pad' else 'lie within'} their chromosome; "
            f"{refused.sum()} of {len(table)} do not, the first {first['span']} "
            f"({first['chrom']} has {first['size']} bases): choose edge={others}, a shorter "
            "length, or the assembly that the regions come from"
        )
    counts = {"regions": len(table), "padded": 0, "dropped": 0}
    if off.any():
        action = "padded" if edge == "pad" else "dropped"
        counts[action] = n = int(off.sum())
        message = "%d of %d regions run off their chromosome and were %s"
        _LOGGER.warning(message, n, len(table), action)
    kept = table[~off] if edge == "drop" else table
    return kept.reset_index(drop=True), counts
