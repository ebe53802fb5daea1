"""A small genome whose causes are known: files as of a real experiment, for the BPNet experiment.

Sites of four factors are planted in DNA drawn from a Markov model of the mouse genome, and bound as
`genome_binding` says. Everything is a field of `Parameters`.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pybigtools
from torch import Tensor, nn

from deepmr_utils.motifs import get_motif
from deepmr_utils.regions import read_bed, read_fasta
from deepmr_utils.sequences import ALPHABET, decode, encode, one_hot

from .. import DATA
from ..planting import plant, site_mutants
from .rules import (
    CHROMOSOMES,
    FACTORS,
    MOTIFS,
    Parameters,
    expected_reads,
    intrinsic_log_odds,
    log_counts,
    occupancies,
)
from .rules import GRAPHS as GRAPHS
from .rules import HIDDEN as HIDDEN
from .track_files import Specification, Task, write_specification

MIN_EXPOSURE_CHANGE = 0.05  # of log(1 + reads); a slope on smaller changes says nothing
ROUNDING = 1e-12  # of log(1 + reads), in float64
_ORDER = 4  # of the Markov model: 256 contexts, each seen 700 times in 89 kb and its reverse
_CHUNK = 256  # windows worked on at a time


class Demo(NamedTuple):
    """A demo genome on disk: its specification, and its sites as `read_sites` gives them."""

    specification: Path
    sites: pd.DataFrame


def make_genome(folder: str | Path, parameters: Parameters, seed: int = 0) -> Demo:
    """Write a demo genome: FASTA, bigWig, BED and their specification.

    Parameters
    ----------
    folder : path
        Made where there is none; files of the same names are replaced.
    parameters : Parameters
    seed : int
        Sequence, sites and reads have a stream each: only reads differ between graphs of the same
        factors.

    Returns
    -------
    Demo

    Notes
    -----
    The centre of every window is a peak of one task, that with the most reads there, so that no
    window comes twice. Windows with their margins do not help each other across their borders.
    Beside the specification, ``sites.bed`` says what was planted.
    """
    p, folder = parameters, Path(folder)
    background, planting, reading = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(3)
    )
    span = p.length + 2 * p.margin
    codes = _draw_background(p.n_windows, span, background)
    motifs = {name: get_motif(MOTIFS[name]) for name in p.factors}
    sites = plant(
        codes, motifs, p_site=p.p_site, sharpness=p.sharpness, rng=planting,
        margin=p.margin + p.length // 8,
    )  # fmt: skip
    per = -(-p.n_windows // len(CHROMOSOMES))
    window = np.arange(p.n_windows)
    chrom = np.array(CHROMOSOMES)[window // per]
    offset = window % per * span
    sizes = {c: span * int((chrom == c).sum()) for c in CHROMOSOMES if (chrom == c).any()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "genome.fa.fai").unlink(missing_ok=True)
    text = decode(codes)
    with open(folder / "genome.fa", "w") as file:
        for c in sizes:
            file.write(f">{c}\n" + "\n".join(text[i] for i in np.flatnonzero(chrom == c)) + "\n")

    most = np.empty(p.n_windows, dtype=np.int64)
    runs: list[list[tuple]] = [[] for _ in range(2 * len(FACTORS) + 2)]
    for rows in np.split(window, np.arange(_CHUNK, p.n_windows, _CHUNK)):
        expected = expected_reads(one_hot(codes[rows]), p).numpy()
        most[rows] = expected.sum((2, 3)).argmax(1)
        control = np.full((len(rows), 2, span), p.background / p.length)
        reads = reading.poisson(np.concatenate([expected.reshape(len(rows), -1, span), control], 1))
        for k, track in enumerate(runs):
            i, position = np.nonzero(reads[:, k])
            start = offset[rows][i] + position
            track.append((chrom[rows][i], start, reads[i, k, position]))
    names = [
        f"{name}/{strand}.bw" for name in (*FACTORS, "control") for strand in ("plus", "minus")
    ]
    for name, track in zip(names, runs, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        _write_bigwig(folder / name, sizes, track)

    centre = offset + span // 2
    for k, name in enumerate(FACTORS):
        own = most == k
        table = pd.DataFrame({"chrom": chrom[own], "start": centre[own], "end": centre[own] + 1})
        table.to_csv(folder / name / "peaks.bed", sep="\t", header=False, index=False)
    sites["start"] += offset[sites["window"]]
    widths = sites["factor"].map({name: motif.width for name, motif in motifs.items()})
    bed = pd.DataFrame({
        "chrom": chrom[sites["window"]], "start": sites["start"], "end": sites["start"] + widths,
        "factor": sites["factor"], "score": 0, "strand": sites["strand"],
    })  # fmt: skip
    bed.to_csv(folder / "sites.bed", sep="\t", header=False, index=False)
    tasks = {
        name: Task(*(folder / name / file for file in ("plus.bw", "minus.bw", "peaks.bed")))
        for name in FACTORS
    }
    control = folder / "control" / "plus.bw", folder / "control" / "minus.bw"
    spec = Specification(folder / "genome.fa", tasks, control)
    return Demo(write_specification(spec, folder / "dataspec.yml"), read_sites(folder))


def read_sites(folder: str | Path) -> pd.DataFrame:
    """Planted sites of a demo genome: ``chrom, start, end, factor, strand``."""
    table = read_bed(Path(folder) / "sites.bed").rename(columns={"name": "factor"})
    table.attrs = {}  # which file it was is not part of a demo
    return table.astype({"start": np.int64, "end": np.int64}).reset_index(drop=True)


def _write_bigwig(path: Path, sizes: dict[str, int], track: list[tuple]) -> None:
    chrom, start, count = (np.concatenate(part) for part in zip(*track, strict=True))
    entries = zip(chrom.tolist(), start.tolist(), (start + 1).tolist(), count.tolist(), strict=True)
    path.unlink(missing_ok=True)
    pybigtools.open(str(path), "w").write(
        sizes, sorted(((c, s, e, float(n)) for c, s, e, n in entries))
    )


@cache
def _markov() -> np.ndarray:
    """Cumulative probabilities (4 ** order, 4) of the next base, of mouse DNA and its reverse."""
    tiles = encode(read_fasta(DATA / "mouse_tiles.fa.gz")["sequence"])
    counts = np.ones((len(ALPHABET) ** _ORDER, len(ALPHABET)))
    for codes in (tiles, 3 - tiles[:, ::-1]):
        contexts = np.lib.stride_tricks.sliding_window_view(codes[:, :-1], _ORDER, axis=1)
        contexts = contexts @ len(ALPHABET) ** np.arange(_ORDER)[::-1]
        np.add.at(counts, (contexts, codes[:, _ORDER:]), 1)
    return (counts / counts.sum(1, keepdims=True)).cumsum(1)


def _draw_background(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Base codes (n, length) of the Markov model, after some bases that are thrown away."""
    cumulative, warm_up = _markov(), 50
    context = rng.integers(0, len(cumulative), n)
    codes = np.empty((n, length), dtype=np.uint8)
    for i in range(-warm_up, length):
        base = (rng.random(n)[:, None] >= cumulative[context][:, :-1]).sum(1)
        context = (context * len(ALPHABET) + base) % len(cumulative)
        if i >= 0:
            codes[:, i] = base
    return codes


class Oracle(nn.Module):
    """The genome's own rules as a model: one-hot (N, 4, L) to log(1 + expected reads) (N, T)."""

    feature_names = FACTORS

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self.genome = parameters

    def forward(self, x: Tensor) -> Tensor:
        """Log(1 + expected reads), mean of both strands."""
        scores = {name: intrinsic_log_odds(x, name, self.genome) for name in self.genome.factors}
        return log_counts(occupancies(scores, self.genome.network), self.genome).to(x.dtype)


def true_effects(
    windows: pd.DataFrame, sites: pd.DataFrame, parameters: Parameters
) -> pd.DataFrame:
    """True causal effects of every factor on every other, by window.

    Parameters
    ----------
    windows : pd.DataFrame
        ``sequence_id, chrom, start, end, sequence`` of S windows of one length, forward strand.
    sites : pd.DataFrame
        As `read_sites` gives them.
    parameters : Parameters
        Those the genome was made with.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, exposure, outcome, total, direct, status``: 12 rows a window. Effects are NaN
        where ``status`` is not "ok".

    Notes
    -----
    The slope, without intercept, of changes of the outcome on changes of the exposure, both of
    log(1 + expected reads), over all substitutions inside the exposure's planted site. A
    substitution changes the exposure's log-odds, and what follows from it along the graph; what it
    does to motif matches of other factors is left out, so that without an edge the effect is 0
    exactly. ``total``: all other factors respond. ``direct``: the same slope, of the outcome's
    change less that which it has where all other factors respond and only the outcome does not see
    the exposure (total direct effect; what is taken off is the pure indirect effect). In an
    indirect experiment both include what the outcome borrows.
    """
    p, rows = parameters, []
    for exposure in FACTORS:
        own = sites[sites["factor"] == exposure]
        at = windows.reset_index(names="_").merge(own, on="chrom", suffixes=("", "_site"))
        at = at[(at["start_site"] >= at["start"]) & (at["end_site"] <= at["end"])]
        starts = (at["start_site"] - at["start"]).groupby(at["_"].to_numpy()).first()
        held = windows.loc[starts.index]
        slopes = [
            _slopes(encode(held["sequence"].iloc[part]), starts.to_numpy()[part], exposure, p)
            for part in _chunks(len(held), 16)
        ]
        total, direct, change = (
            np.concatenate(parts) if parts else np.empty((0, len(FACTORS)))
            for parts in (zip(*slopes, strict=True) if slopes else ((), (), ()))
        )
        for outcome in FACTORS:
            if outcome == exposure:
                continue
            k = FACTORS.index(outcome)
            table = pd.DataFrame({
                "sequence_id": windows["sequence_id"], "exposure": exposure, "outcome": outcome,
                "total": np.nan, "direct": np.nan, "status": f"no planted {exposure} site",
            })  # fmt: skip
            weak = change.ravel()[: len(held)] < MIN_EXPOSURE_CHANGE
            table.loc[held.index, "total"] = np.where(weak, np.nan, total[:, k])
            table.loc[held.index, "direct"] = np.where(weak, np.nan, direct[:, k])
            reason = f"no substitution changes {exposure} by {MIN_EXPOSURE_CHANGE:g}"
            table.loc[held.index, "status"] = np.where(weak, reason, "ok")
            rows.append(table)
    return pd.concat(rows, ignore_index=True)


def _chunks(n: int, size: int) -> Iterator[slice]:
    return (slice(i, i + size) for i in range(0, n, size))


def _slopes(
    codes: np.ndarray, starts: np.ndarray, exposure: str, p: Parameters
) -> Sequence[np.ndarray]:
    """Total and direct slopes (N, T) on an exposure and its largest change (N,)."""
    width = get_motif(MOTIFS[exposure]).width
    n, m = len(codes), 3 * width
    mutants = site_mutants(codes, starts, width)
    reference = {name: intrinsic_log_odds(one_hot(codes), name, p) for name in p.factors}
    base = log_counts(occupancies(reference, p.network), p)[:, None]
    unmutated = {name: x.repeat_interleave(m, 0) for name, x in reference.items()}
    own = intrinsic_log_odds(one_hot(mutants.reshape(n * m, -1)), exposure, p)
    moved = occupancies(unmutated | {exposure: own}, p.network)
    others = {name: x for name, x in moved.items() if name != exposure}
    unseen = occupancies(unmutated, p.network, others)  # the outcome does not see the exposure
    total, indirect = ((log_counts(o, p).view(n, m, -1) - base).numpy() for o in (moved, unseen))
    # the same sum may round otherwise in another row of a batch, which is no change
    total, direct = (np.where(np.abs(c) < ROUNDING, 0, c) for c in (total, total - indirect))
    x = total[:, :, [FACTORS.index(exposure)]]
    square = np.maximum((x**2).sum(1), 1e-300)
    return (x * total).sum(1) / square, (x * direct).sum(1) / square, np.abs(x).max((1, 2))
