"""A small genome whose causes are known: files as of a real experiment, for the BPNet experiment.

Sites of four factors are planted in DNA drawn from a Markov model of the mouse genome. The log-odds
that a factor binds at a place rise with its motif's score there and with the occupancy of helpers
nearby, along a directed graph. Everything is a field of `Parameters`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pybigtools
import torch
from torch import Tensor, nn

from .models.bpnet import OSKN
from .motifs import get_motif, log_odds, match_scores
from .regions import read_bed, read_fasta
from .sequences import ALPHABET, decode, encode, one_hot
from .tracks import Specification, Task, write_specification

FACTORS = OSKN
HIDDEN = "hidden"  # a fifth factor, of which there are no reads
MOTIFS = {"Oct4": "Oct4_core", "Sox2": "Sox2_core", "Nanog": "Nanog", "Klf4": "Klf4"} | {
    HIDDEN: "GATA_disc1"
}
CHROMOSOMES = tuple(f"chr{i}" for i in range(1, 20))  # of the mouse, so that published splits hold
MIN_EXPOSURE_CHANGE = 0.05  # of log(1 + reads); a slope on smaller changes says nothing
_ORDER = 4  # of the Markov model: 256 contexts, each seen 700 times in 89 kb and its reverse
_FOOTPRINT = {"Oct4": 6, "Sox2": 5, "Nanog": 9, "Klf4": 7}  # bases from centre to the reads' peaks
_HALF = 30  # bases at either side that a footprint takes
_CHUNK = 256  # windows worked on at a time


class Edge(NamedTuple):
    """Help of one occupied site: log-odds ``strength`` beside it, falling by e every ``reach`` bp.

    With a ``period`` it also swings between all and nothing as the helix turns.
    """

    strength: float
    reach: float = 80.0
    period: float | None = None


class Graph(NamedTuple):
    """Who helps whom: edges (helper, helped).

    ``reciprocal``: helpers act by the occupancy they have without help, so that cycles are allowed.
    ``borrowed``: share of occupancy at the first's sites that the second's experiment sees, too:
    indirect binding.
    """

    edges: Mapping[tuple[str, str], Edge]
    reciprocal: bool = False
    borrowed: Mapping[tuple[str, str], float] = {}


_STRONG, _MODERATE = Edge(7.0), Edge(6.0)
_DEFAULT = {
    ("Sox2", "Oct4"): _STRONG,
    ("Sox2", "Nanog"): _STRONG._replace(strength=12.0, period=10.5),
    ("Oct4", "Nanog"): _MODERATE,
    ("Nanog", "Klf4"): _MODERATE,
}
GRAPHS = {
    "default": Graph(_DEFAULT),
    "reverse": Graph({(b, a): edge for (a, b), edge in _DEFAULT.items()}),
    "empty": Graph({}),
    "confounded": Graph(_DEFAULT | {(HIDDEN, "Oct4"): _STRONG, (HIDDEN, "Klf4"): _STRONG}),
    "reciprocal": Graph(_DEFAULT | {("Oct4", "Sox2"): _MODERATE}, reciprocal=True),
    "indirect": Graph({}, borrowed={("Sox2", "Oct4"): 0.3}),
}


@dataclass(frozen=True)
class Parameters:
    """All parameters of the demo genome.

    ``graph`` is a name of `GRAPHS` or a `Graph`. There are ``n_windows`` windows of ``length``
    bases, spread over the chromosomes, each with ``margin`` bases at either side; every factor has
    a site in a window with probability ``p_site``, drawn from its motif's probabilities to the
    power ``sharpness``, at a random place in the middle three quarters of the window. The log-odds
    that an average site is bound without help are ``intrinsic``. A bound site gives ``depth`` reads
    on each strand; a window gives ``background`` more.
    """

    graph: str | Graph = "default"
    n_windows: int = 4_000
    length: int = 400
    margin: int = 50
    p_site: float = 0.75
    sharpness: float = 2.0
    intrinsic: float = -1.5
    depth: float = 150.0
    background: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.graph, str) and self.graph not in GRAPHS:
            raise ValueError(f"unknown graph {self.graph!r}: choose one of {', '.join(GRAPHS)}")
        network = self.network
        pairs = [*network.edges, *network.borrowed]
        unknown = {name for pair in pairs for name in pair} - set(MOTIFS)
        if unknown or any(a == b for a, b in pairs):
            raise ValueError(
                f"edges are pairs of two of {', '.join(MOTIFS)}; got {', '.join(map(str, pairs))}"
            )
        if not network.reciprocal:
            try:
                _order(network)
            except CycleError as error:
                raise ValueError(
                    f"the graph has a cycle, {' - '.join(error.args[1])}: remove an edge, or let "
                    "helpers act without help by reciprocal=True"
                ) from None
        if not 0 <= self.p_site <= 1:
            raise ValueError(f"p_site is a probability, in [0, 1]; got {self.p_site}")
        if min(self.depth, self.background) <= 0 or self.margin < 0:
            raise ValueError(
                "depth and background must be above 0, margin 0 or more; got "
                f"{self.depth}, {self.background} and {self.margin}"
            )
        if self.n_windows < len(CHROMOSOMES):
            raise ValueError(
                f"n_windows must be at least {len(CHROMOSOMES)}, one a chromosome; got "
                f"{self.n_windows}"
            )
        widths = sum(get_motif(MOTIFS[name]).width for name in self.factors)
        if self.length - 2 * (self.length // 8) < widths:
            raise ValueError(
                f"the sites need {widths} bases in the middle of a window, length is "
                f"{self.length}: use longer windows"
            )

    @property
    def network(self) -> Graph:
        """The graph itself."""
        return GRAPHS[self.graph] if isinstance(self.graph, str) else self.graph

    @property
    def factors(self) -> tuple[str, ...]:
        """All factors at work, the hidden one last, where it acts."""
        acts = any(HIDDEN in edge for edge in self.network.edges)
        return (*FACTORS, HIDDEN) if acts else FACTORS


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
    sites = _plant(codes, p, planting)
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
    widths = sites["factor"].map({name: get_motif(MOTIFS[name]).width for name in p.factors})
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
    with resources.as_file(resources.files(__package__) / "data" / "mouse_tiles.fa.gz") as path:
        tiles = encode(read_fasta(path)["sequence"])
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


def _plant(codes: np.ndarray, p: Parameters, rng: np.random.Generator) -> pd.DataFrame:
    """Write sites into codes (N, L), in place: ``window, start, factor, strand``.

    Without overlap; the order of the factors and the gaps between them are uniform.
    """
    n = len(codes)
    names = np.array(p.factors)
    widths = np.array([get_motif(MOTIFS[name]).width for name in names])
    order = rng.random((n, len(names))).argsort(1)
    has = rng.random((n, len(names))) < p.p_site  # in that order
    taken = widths[order] * has
    first, room = p.margin + p.length // 8, p.length - 2 * (p.length // 8)
    spare = room - taken.sum(1, keepdims=True)
    gaps = np.sort(rng.integers(0, spare + 1, (n, len(names))), axis=1)
    starts = first + gaps + taken.cumsum(1) - taken
    parts = []
    for k, name in enumerate(names):
        rows, column = np.nonzero((order == k) & has)
        probabilities = get_motif(MOTIFS[name]).probabilities ** p.sharpness
        cumulative = (probabilities / probabilities.sum(1, keepdims=True)).cumsum(1)[:, :-1]
        site = (rng.random((len(rows), widths[k], 1)) >= cumulative).sum(2)
        turned = rng.random(len(rows)) < 0.5
        site = np.where(turned[:, None], 3 - site[:, ::-1], site)
        start = starts[rows, column]
        codes[rows[:, None], start[:, None] + np.arange(widths[k])] = site
        strand = np.where(turned, "-", "+")
        parts.append(
            pd.DataFrame({"window": rows, "start": start, "factor": name, "strand": strand})
        )
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["window", "start"], ignore_index=True)


def _order(graph: Graph) -> list[str]:
    """Factors, helpers first."""
    helpers = {name: [a for a, b in graph.edges if b == name] for name in MOTIFS}
    return list(MOTIFS) if graph.reciprocal else list(TopologicalSorter(helpers).static_order())


@cache
def _affinity(name: str, sharpness: float) -> tuple[np.ndarray, float]:
    """Log-odds (W, 4) of a factor's motif and the mean score of the sites that are planted."""
    motif = get_motif(MOTIFS[name])
    weights, drawn = log_odds(motif), motif.probabilities**sharpness
    return weights, float((weights * drawn / drawn.sum(1, keepdims=True)).sum())


def _intrinsic(x: Tensor, name: str, p: Parameters) -> Tensor:
    """Log-odds (N, 2, L) without help, by strand and centre of the site; -inf where it is cut."""
    weights, mean = _affinity(name, p.sharpness)
    width = len(weights)
    scores = torch.full((len(x), 2, x.shape[-1]), -torch.inf, dtype=torch.float64)
    # the centre of an even motif lies between two bases; its mirror must be the mirrored index
    for strand, w in enumerate((weights, weights[::-1, ::-1].copy())):
        first = width // 2 if strand == 0 else (width - 1) // 2
        found = match_scores(x.double(), w)
        scores[:, strand, first : first + found.shape[1]] = found + p.intrinsic - mean
    return scores


@lru_cache(32)
def _kernel(edge: Edge, length: int) -> Tensor:
    """Help (L, L) that a site at a place (row) gives at every place (column)."""
    place = torch.arange(length, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    help_ = edge.strength * torch.exp(-distance / edge.reach)
    if edge.period is not None:
        help_ = help_ * (1 + torch.cos(2 * torch.pi * distance / edge.period)) / 2
    return help_


def _occupancies(
    scores: Mapping[str, Tensor], graph: Graph, held: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Occupancies (N, 2, L) of all factors from log-odds without help.

    Those in ``held`` help as they are given there, not as they are computed.
    """
    found: dict[str, Tensor] = {}
    for name in _order(graph):
        if name not in scores:
            continue
        logit = scores[name]
        for (helper, helped), edge in graph.edges.items():
            if helped != name:
                continue
            if graph.reciprocal:  # help does not travel on, so that there is nothing to hold
                helping = scores[helper].sigmoid()
            else:
                helping = found[helper] if held is None or helper not in held else held[helper]
            kernel = _kernel(edge, logit.shape[-1])
            logit = logit + (helping.sum(1) @ kernel)[:, None]
        found[name] = logit.sigmoid()
    return found


@cache
def _footprint(name: str) -> Tensor:
    """Reads (2 strands of the site, 2 of the reads, width) of one bound site; each sums to 1."""
    x = torch.arange(-_HALF, _HALF + 1, dtype=torch.float64)
    at = _FOOTPRINT[name]

    def peak(centre: float, sd: float) -> Tensor:
        return torch.exp(-0.5 * ((x - centre) / sd) ** 2)

    # plus reads begin left of the site, minus reads right of it, with a weaker stop inside
    forward = torch.stack([peak(-at, 1.5) + 0.3 * peak(2, 2), peak(at, 2) + 0.1 * peak(-2, 2)])
    forward = forward / forward.sum(1, keepdim=True)
    return torch.stack([forward, forward.flip(0, 1)])


def _spread(occupied: Tensor, name: str) -> Tensor:
    """Reads (N, 2, L) by strand of one unit of depth at occupancies (N, 2, L)."""
    kernel = _footprint(name).transpose(0, 1).flip(-1)  # conv1d correlates
    return nn.functional.conv1d(occupied, kernel, padding=_HALF)


def _bound(occupied: Mapping[str, Tensor], name: str, graph: Graph) -> Tensor:
    """Where an experiment sees a factor: at its own sites and where it borrows."""
    total = occupied[name]
    for (site, seen), share in graph.borrowed.items():
        if seen == name:
            total = total + share * occupied[site]
    return total


def expected_reads(x: Tensor, parameters: Parameters) -> Tensor:
    """Expected reads (N, T, 2, L) at every base, by factor and strand, of one-hot x (N, 4, L)."""
    p = parameters
    occupied = _occupancies({name: _intrinsic(x, name, p) for name in p.factors}, p.network)
    reads = [_spread(_bound(occupied, name, p.network), name) for name in FACTORS]
    return p.background / p.length + p.depth * torch.stack(reads, 1)


def _log_counts(occupied: Mapping[str, Tensor], p: Parameters) -> Tensor:
    """Log(1 + expected reads) (N, T), mean of both strands."""
    logs = []
    for name in FACTORS:
        bound = _bound(occupied, name, p.network)
        length = bound.shape[-1]
        # how much of a footprint lies inside, by strand of the site, strand of reads and place
        inside = nn.functional.conv1d(
            torch.ones(1, 1, length, dtype=torch.float64),
            _footprint(name).reshape(4, 1, -1), padding=_HALF,
        ).view(2, 2, length)  # fmt: skip
        reads = torch.einsum("nol,osl->ns", bound, inside)
        reads = p.background * length / p.length + p.depth * reads
        logs.append(reads.log1p().mean(1))
    return torch.stack(logs, 1)


class Oracle(nn.Module):
    """The genome's own rules as a model: one-hot (N, 4, L) to log(1 + expected reads) (N, T)."""

    feature_names = FACTORS

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self.genome = parameters

    def forward(self, x: Tensor) -> Tensor:
        """Log(1 + expected reads), mean of both strands."""
        scores = {name: _intrinsic(x, name, self.genome) for name in self.genome.factors}
        return _log_counts(_occupancies(scores, self.genome.network), self.genome).to(x.dtype)


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
    exactly. ``total``: all other factors respond. ``direct``: all but the outcome stay as they are.
    In an indirect experiment both include what the outcome borrows.
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
    position = starts[:, None] + np.repeat(np.arange(width), 3)
    mutants = np.repeat(codes[:, None], m, axis=1)
    row = np.arange(n)[:, None]
    shifted = (codes[row, position] + np.tile([1, 2, 3], width)) % len(ALPHABET)
    mutants[row, np.arange(m), position] = shifted
    reference = {name: _intrinsic(one_hot(codes), name, p) for name in p.factors}
    before = _occupancies(reference, p.network)
    scores = {name: x.repeat_interleave(m, 0) for name, x in reference.items()}
    scores[exposure] = _intrinsic(one_hot(mutants.reshape(n * m, -1)), exposure, p)
    others = {name: x.repeat_interleave(m, 0) for name, x in before.items() if name != exposure}
    base = _log_counts(before, p)[:, None]
    total, direct = (
        (_log_counts(_occupancies(scores, p.network, held), p).view(n, m, -1) - base).numpy()
        for held in (None, others)
    )
    x = total[:, :, [FACTORS.index(exposure)]]
    square = np.maximum((x**2).sum(1), 1e-300)
    return (x * total).sum(1) / square, (x * direct).sum(1) / square, np.abs(x).max((1, 2))
