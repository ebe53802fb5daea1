"""Reads of several factors along a genome: bigWig tracks, peaks and a FASTA, streamed as batches.

A `Specification`, written and read by `track_files`, names the files.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pybigtools
import torch
from pyfaidx import Fasta
from torch import Tensor

from deepmr_utils._checks import check_choice, require
from deepmr_utils.models.bpnet import Control
from deepmr_utils.regions import (
    at_edges,
    check_regions,
    chromosome_sizes,
    open_indexed,
    read_bed,
    unique,
)
from deepmr_utils.sequences import encode, one_hot

from .track_files import Specification

# chromosomes of the published splits; what is in none of them is trained on
SPLITS = {"validation": ("chr2", "chr3", "chr4"), "test": ("chr1", "chr8", "chr9")}
EXCLUDED = ("chrX", "chrY")
EDGES = ("raise", "drop")
_PLACE = ("chrom", "start", "end")
_IUPAC = "RYSWKMBDHVN"  # codes of more than one base
_SMOOTHING = 50  # bases; the published network takes control reads as they are and smoothed
_LOGGER = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Windows: one_hot (N, 4, L), reads (N, T, 2, L) and control reads (N, 2, L), or None."""

    one_hot: Tensor
    reads: Tensor
    control: Tensor | None = None


def peak_windows(
    spec: Specification, split: str, *, length: int = 1000, margin: int = 0, edge: str = "raise",
    splits: Mapping[str, Sequence[str]] = SPLITS, excluded: Sequence[str] = EXCLUDED,
) -> pd.DataFrame:  # fmt: skip
    """Windows around the peaks of all tasks in one split.

    Parameters
    ----------
    spec : Specification
    split : str
        A key of ``splits``, or "train": all chromosomes that are neither in a split nor excluded.
    length, margin : int
        Windows have ``length + 2 * margin`` bases around the centre of their peak: room for
        `stream` to move the window in training. The authors move it by 200 at most.
    edge : {"raise", "drop"}
        What to do with windows that run off their chromosome.
    splits, excluded
        Chromosomes, as text; by default as published.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, task, chrom, start, end``, in the order of tasks and peaks. Windows with an
        unknown base, N or another IUPAC code, are left out; how many is logged, and stands in
        ``attrs["counts"]``: ``regions``, ``dropped`` at edges, ``unknown``.

    Notes
    -----
    Windows are centred on the middle of a peak, also of a narrowPeak: its summit is not used.
    """
    check_choice("split", split, tuple(dict.fromkeys((*splits, "train"))))
    check_choice("edge", edge, EDGES)
    if length < 1 or margin < 0 or length % 1 or margin % 1:
        raise ValueError(
            f"length must be at least 1, margin 0 or more; got {length} and {margin}: give whole "
            "numbers"
        )
    length, margin = int(length), int(margin)
    splits = {name: _names(chromosomes) for name, chromosomes in splits.items()}
    parts = [
        check_regions(read_bed(task.peaks)).assign(task=name) for name, task in spec.tasks.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    with open_indexed(spec.fasta) as genome:
        sizes = {name: len(record) for name, record in genome.items()}
        table["size"] = chromosome_sizes(table["chrom"], sizes, spec.fasta)
        elsewhere = {*_names(excluded), *(c for names in splits.values() for c in names)}
        chosen = table["chrom"].isin(splits.get(split, elsewhere)) == (split in splits)
        if not chosen.any():
            raise ValueError(
                f"no peak lies on the chromosomes of split {split!r}; peaks are on "
                f"{', '.join(table['chrom'].unique())}: give splits for this genome"
            )
        table = table[chosen]
        start = (table["start"] + table["end"]) // 2 - length // 2 - margin
        table = table.assign(start=start, end=start + length + 2 * margin)
        table["span"] = [f"{r.chrom}:{r.start}-{r.end}" for r in table.itertuples()]
        table, counts = at_edges(table, edge, EDGES)
        known = _are_known(genome, table)
    counts = {"regions": counts["regions"], "dropped": counts["dropped"]}
    counts["unknown"] = int((~known).sum())
    if not known.any():
        raise ValueError(f"all {len(known)} windows of split {split!r} hold unknown bases (N)")
    table = table[known].reset_index(drop=True)
    table.insert(0, "sequence_id", unique(table["span"]))
    table = table[["sequence_id", "task", "chrom", "start", "end"]]
    table.attrs = {"counts": counts}
    return table


def _names(chromosomes: Sequence[str] | str) -> tuple[str, ...]:
    """Names of chromosomes as text; one may be given as it is."""
    several = not isinstance(chromosomes, str | int)
    return tuple(map(str, chromosomes)) if several else (str(chromosomes),)


def _are_known(genome: Fasta, table: pd.DataFrame) -> np.ndarray:
    """Which windows hold A, C, G and T alone; the others are counted and logged."""
    found = [
        set(re.findall("[^ACGT]", genome[r.chrom][r.start : r.end].upper()))
        for r in table.itertuples()
    ]
    for letters, span in zip(found, table["span"], strict=True):
        if wrong := letters - set(_IUPAC):
            raise ValueError(
                f"{genome.filename} holds {min(wrong)!r} in {span}: a genome has A, C, G, T, N and "
                "other IUPAC codes"
            )
    known = np.array([not letters for letters in found])
    if not known.all():
        codes = Counter(code for letters in found for code in letters)
        names = "N" if set(codes) == {"N"} else (
            "unknown bases (" + ", ".join(f"{c} in {codes[c]}" for c in sorted(codes)) + ")"
        )  # fmt: skip
        _LOGGER.warning(
            "%d of %d windows hold %s and were dropped", (~known).sum(), len(known), names
        )
    return known


def stream(
    spec: Specification, windows: pd.DataFrame, *, length: int, batch_size: int = 128,
    seed: int | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Read windows batch by batch; no more than a batch is in memory.

    Parameters
    ----------
    spec : Specification
    windows : pd.DataFrame
        As `peak_windows` gives them.
    length : int
        Of the sequences; at most that of the windows.
    batch_size : int
    seed : int, optional
        Windows come in a random order, are cut at a random place, and half of them are turned to
        the other strand. Without it: in order, from the middle, as they are.

    Raises
    ------
    ValueError
        If a bigWig is none, is of another genome or holds a negative count, an infinite one or NaN;
        a window is not on the genome; windows differ in length.

    Notes
    -----
    Only chromosomes with windows are compared. Where the FASTA has one of them and a bigWig has
    no entry for it, the bigWig reads 0 there, which is logged.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    require(windows, _PLACE, "windows")
    windows = windows.assign(chrom=windows["chrom"].astype(str))  # a CSV may hold numbers
    with _open_tracks(spec, windows) as tracks:
        for rows in _orders(len(windows), batch_size, rng):
            yield _cut(_read(tracks, windows.iloc[rows]), length, rng)


def stream_held(
    held: Batch, *, length: int, batch_size: int = 128, seed: int | None = None
) -> Iterator[Batch]:
    """The batches of `stream`, from windows that `hold` read."""
    rng = None if seed is None else np.random.default_rng(seed)
    for rows in _orders(len(held.reads), batch_size, rng):
        parts = (None if part is None else part[torch.from_numpy(rows)] for part in held)
        yield _cut(Batch(*parts), length, rng)


def hold(spec: Specification, windows: pd.DataFrame) -> Batch:
    """Read all windows into memory, once: for small data; 1,000 windows of 1 kb take 48 MB."""
    require(windows, _PLACE, "windows")
    length = int((windows["end"] - windows["start"]).iloc[0])
    parts = zip(*stream(spec, windows, length=length), strict=True)
    return Batch(*(None if part[0] is None else torch.cat(part) for part in parts))


def control_inputs(control: Tensor) -> Control:
    """What a BPNet with ``control_tracks=(4, 2)`` takes of control reads (N, 2, L).

    Reads of both strands as they are and averaged over 50 bases; log(1 + reads) of both.
    """
    smooth = torch.nn.functional.avg_pool1d(
        torch.nn.functional.pad(control, (_SMOOTHING // 2, _SMOOTHING - _SMOOTHING // 2 - 1)),
        _SMOOTHING, stride=1,
    )  # fmt: skip
    profile = torch.cat([control, smooth], 1)
    return Control(profile[:, None], control.sum(-1).log1p()[:, None])


class _Track(NamedTuple):
    """An open bigWig, its chromosomes, and whether it holds a NaN anywhere."""

    path: Path
    file: Any
    chromosomes: dict[str, int]
    undefined: bool

    def read(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Reads of a window: 0 where there is no entry, NaN where the file says so."""
        if chrom not in self.chromosomes:
            return np.zeros(end - start)
        values = self.file.values(chrom, start, end, fillna=0)
        for first, last, value in self.file.records(chrom, start, end) if self.undefined else ():
            if np.isnan(value):
                values[max(first - start, 0) : last - start] = np.nan
        return values


class _Tracks(NamedTuple):
    """Open files: the genome, and bigWigs of tasks and control, plus before minus."""

    genome: Fasta
    tasks: list[_Track]
    control: list[_Track]


@contextmanager
def _open_tracks(spec: Specification, windows: pd.DataFrame) -> Iterator[_Tracks]:
    with ExitStack() as stack:
        genome = stack.enter_context(open_indexed(spec.fasta))
        sizes = {name: len(record) for name, record in genome.items()}
        _check_windows(windows, sizes, spec.fasta)
        used = windows["chrom"].unique()

        def opened(path: Path) -> _Track:
            try:
                file = stack.enter_context(pybigtools.open(str(path)))
                found = file.chroms()
                total = (file.info().get("summary") or {}).get("sum", 0)
            except (ValueError, OSError, pybigtools.BBIReadError) as error:
                raise ValueError(f"{path} is not a bigWig, or is cut short: {error}") from error
            if not file.is_bigwig:
                raise ValueError(f"{path} is not a bigWig, but a bigBed: convert it")
            _check_chromosomes(path, found, used, sizes, spec.fasta)
            return _Track(path, file, found, bool(np.isnan(total)))

        tasks = [opened(path) for task in spec.tasks.values() for path in (task.plus, task.minus)]
        yield _Tracks(genome, tasks, [opened(path) for path in spec.control or ()])


def _check_windows(windows: pd.DataFrame, sizes: Mapping[str, int], fasta: Path) -> None:
    """Raise where windows differ in length, or do not lie on the genome."""
    lengths = windows["end"] - windows["start"]
    if lengths.nunique() > 1:
        raise ValueError(
            f"all windows must have one length; got {lengths.min()} to {lengths.max()} bases"
        )
    place = windows["chrom"] + ":" + windows["start"].astype(str) + "-" + windows["end"].astype(str)
    size = chromosome_sizes(windows["chrom"], sizes, fasta)
    at_edges(windows.assign(size=size, span=place), "raise", ("raise",))


def _check_chromosomes(
    path: Path, found: Mapping[str, int], used: Sequence[str], sizes: Mapping[str, int], fasta: Path
) -> None:
    """Raise where a bigWig is of another genome, as far as chromosomes with windows show."""
    missing = [c for c in used if c not in found]
    other = [c for c in used if c in found and found[c] != sizes[c]]
    # names of another style, or none in common, are no chromosomes without reads
    other += [n for c in missing for n in (f"chr{c}", c.removeprefix("chr")) if n in found]
    other += [] if sizes.keys() & found.keys() else list(found)
    if other:
        raise ValueError(
            f"{path} is of another genome than {fasta}: {other[0]} has {found[other[0]]} bases "
            f"there and {sizes.get(other[0], 'none')} in the FASTA: use tracks and FASTA of one "
            "assembly"
        )
    if missing:
        _LOGGER.warning("%s has no entry for %s: its reads are 0 there", path, ", ".join(missing))


def _read(tracks: _Tracks, windows: pd.DataFrame) -> Batch:
    rows = list(windows[["chrom", "start", "end"]].itertuples(index=False, name=None))
    sequences = [tracks.genome[chrom][start:end] for chrom, start, end in rows]

    def reads(files: list[_Track]) -> Tensor:
        values = np.stack([np.stack([track.read(*row) for row in rows]) for track in files], 1)
        if (bad := ~((values >= 0) & (values < np.inf))).any():  # NaN is bad, too
            i, k, position = np.argwhere(bad)[0]
            chrom, start, _ = rows[i]
            raise ValueError(
                f"{files[k].path} holds {values[i, k, position]:g} at {chrom}:{start + position} "
                "(0-based): counts must be 0 or more, and finite. Some files give the minus strand "
                "negative values: write their absolute values. Infinity and NaN come of divisions: "
                "write the counts"
            )
        return torch.from_numpy(values.astype(np.float32))

    return Batch(
        one_hot(encode(sequences)),
        reads(tracks.tasks).unflatten(1, (-1, 2)),
        reads(tracks.control) if tracks.control else None,
    )


def _orders(n: int, batch_size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    order = np.arange(n) if rng is None else rng.permutation(n)
    return np.split(order, np.arange(batch_size, n, batch_size))


def _cut(batch: Batch, length: int, rng: np.random.Generator | None) -> Batch:
    """Cut windows to a length: in the middle, or at random, and on a random strand."""
    n, spare = len(batch.reads), batch.reads.shape[-1] - length
    if spare < 0:
        raise ValueError(f"length must be at most {spare + length}, of the windows; got {length}")
    if rng is None:
        first = spare // 2
        return Batch(*(None if x is None else x[..., first : first + length] for x in batch))
    columns = torch.from_numpy(rng.integers(0, spare + 1, n))[:, None] + torch.arange(length)
    turned = torch.from_numpy(rng.random(n) < 0.5)

    def cut(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        index = columns.view(n, *[1] * (x.ndim - 2), length).expand(*x.shape[:-1], length)
        x = x.gather(-1, index)
        # A C G T reversed is its complement; two strands reversed change places
        return torch.where(turned.view(n, *[1] * (x.ndim - 1)), x.flip(-2, -1), x)

    return Batch(*map(cut, batch))
