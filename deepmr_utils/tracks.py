"""Reads of several factors along a genome: bigWig tracks, peaks and a FASTA, streamed as batches.

A `Specification`, written and read by `track_files`, names the files.
"""

import logging
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

from .models.bpnet import Control
from .regions import at_edges, check_regions, chromosome_sizes, open_indexed, read_bed, unique
from .sequences import encode, one_hot
from .track_files import Specification

# chromosomes of the published splits; what is in none of them is trained on
SPLITS = {"validation": ("chr2", "chr3", "chr4"), "test": ("chr1", "chr8", "chr9")}
EXCLUDED = ("chrX", "chrY")
_SMOOTHING = 50  # bases; the published network takes control reads as they are and smoothed
_LOGGER = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Windows: one_hot (N, 4, L), reads (N, T, 2, L) and control reads (N, 2, L), or None."""

    one_hot: Tensor
    reads: Tensor
    control: Tensor | None = None


def peak_windows(
    spec: Specification,
    split: str,
    *,
    length: int = 1000,
    margin: int = 0,
    edge: str = "raise",
    splits: Mapping[str, Sequence[str]] = SPLITS,
    excluded: Sequence[str] = EXCLUDED,
) -> pd.DataFrame:
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
        Chromosomes; by default as published.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, task, chrom, start, end``, in the order of tasks and peaks. Windows with an
        unknown base are left out; how many is logged.
    """
    if split not in (*splits, "train"):
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join((*splits, 'train'))}")
    if length < 1 or margin < 0:
        raise ValueError(f"length must be at least 1, margin 0 or more; got {length} and {margin}")
    parts = [
        check_regions(read_bed(task.peaks)).assign(task=name) for name, task in spec.tasks.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    with open_indexed(spec.fasta) as genome:
        sizes = {name: len(record) for name, record in genome.items()}
        table["size"] = chromosome_sizes(table["chrom"], sizes, spec.fasta)
        elsewhere = {*excluded, *(c for chromosomes in splits.values() for c in chromosomes)}
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
        table, _ = at_edges(table, edge)
        known = np.array(
            ["N" not in genome[r.chrom][r.start : r.end].upper() for r in table.itertuples()]
        )
    if not known.any():
        raise ValueError(f"all {len(known)} windows of split {split!r} hold unknown bases (N)")
    if not known.all():
        _LOGGER.warning("%d of %d windows hold N and were dropped", (~known).sum(), len(known))
    table = table[known].reset_index(drop=True)
    table.insert(0, "sequence_id", unique(table["span"]))
    return table[["sequence_id", "task", "chrom", "start", "end"]]


def stream(
    spec: Specification,
    windows: pd.DataFrame,
    *,
    length: int,
    batch_size: int = 128,
    seed: int | None = None,
) -> Iterator[Batch]:
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
        If a bigWig is none, is of another genome, lacks a chromosome or holds a negative count.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    with _open_tracks(spec, windows["chrom"].unique()) as tracks:
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


def check_strands(spec: Specification, windows: pd.DataFrame, *, n: int = 500) -> None:
    """Raise a ValueError where the strands of a task look swapped.

    Parameters
    ----------
    spec : Specification
    windows : pd.DataFrame
        As `peak_windows` gives them; the first n are looked at.
    n : int

    Notes
    -----
    Fragments are sequenced from their ends, so that reads of the plus strand lie left of what is
    bound and those of the minus strand right of it. Per window of the task's own with reads on
    both, the difference of their mean positions; an error where it is positive by more than 4 of
    its standard errors.
    """
    for t, name in enumerate(spec.tasks):
        own = windows[windows["task"] == name].head(n)
        if len(own) < 2:
            continue
        reads = hold(spec, own).reads[:, t].double()
        position = torch.arange(reads.shape[-1], dtype=torch.float64)
        mean = (reads * position).sum(-1) / reads.sum(-1)
        difference = (mean[:, 0] - mean[:, 1]).numpy()
        difference = difference[np.isfinite(difference)]
        if len(difference) < 2:
            continue
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() > 4 * error:
            raise ValueError(
                f"tasks.{name}: plus and minus look swapped: in {len(difference)} windows, reads "
                f"of the plus strand lie {difference.mean():.1f} ± {error:.1f} bases right of "
                "those of the minus strand; they should lie left: exchange the two files"
            )


class _Tracks(NamedTuple):
    """Open files: the genome, and bigWigs of tasks and control, plus before minus."""

    genome: Fasta
    tasks: list[tuple[Path, Any]]
    control: list[tuple[Path, Any]]


@contextmanager
def _open_tracks(spec: Specification, chromosomes: Sequence[str]) -> Iterator[_Tracks]:
    with ExitStack() as stack:
        genome = stack.enter_context(open_indexed(spec.fasta))
        sizes = {name: len(record) for name, record in genome.items()}

        def opened(path: Path) -> tuple[Path, Any]:
            try:
                file = stack.enter_context(pybigtools.open(str(path)))
                found = file.chroms()
            except (ValueError, OSError, pybigtools.BBIReadError) as error:
                raise ValueError(f"{path} is not a bigWig, or is cut short: {error}") from error
            other = [c for c, size in found.items() if sizes.get(c) != size]
            if other:
                raise ValueError(
                    f"{path} is of another genome than {spec.fasta}: {other[0]} has "
                    f"{found[other[0]]} bases there and {sizes.get(other[0], 'none')} in the "
                    "FASTA: use tracks and FASTA of one assembly"
                )
            if missing := [c for c in chromosomes if c not in found]:
                raise ValueError(
                    f"{path} has no chromosome {', '.join(missing)}, on which there are peaks; it "
                    f"has {', '.join(found)}: exclude these peaks or complete the track"
                )
            return path, file

        tasks = [opened(path) for task in spec.tasks.values() for path in (task.plus, task.minus)]
        yield _Tracks(genome, tasks, [opened(path) for path in spec.control or ()])


def _read(tracks: _Tracks, windows: pd.DataFrame) -> Batch:
    rows = list(windows[["chrom", "start", "end"]].itertuples(index=False, name=None))
    sequences = [tracks.genome[chrom][start:end] for chrom, start, end in rows]

    def reads(files: list[tuple[Path, Any]]) -> Tensor:
        values = np.stack([
            np.stack([f.values(c, start, end, fillna=0) for c, start, end in rows])
            for _, f in files
        ], 1)  # fmt: skip
        if not (values >= 0).all():
            i, k, position = np.argwhere(~(values >= 0))[0]
            chrom, start, _ = rows[i]
            raise ValueError(
                f"{files[k][0]} holds {values[i, k, position]:g} at {chrom}:{start + position} "
                "(0-based): counts must be 0 or more. Some files give the minus strand negative "
                "values: write their absolute values"
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
