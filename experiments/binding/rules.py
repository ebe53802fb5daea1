"""How factors bind on the demo genome, and what reads that gives.

The log-odds that a factor binds at a place rise with its motif's score there and with the occupancy
of helpers nearby, along a directed graph. Everything is a field of `Parameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.models.bpnet import OSKN
from deepmr_utils.motifs import get_motif, match_scores

from ..planting import site_affinity

FACTORS = OSKN
HIDDEN = "hidden"  # a fifth factor, of which there are no reads
MOTIFS = {"Oct4": "Oct4_core", "Sox2": "Sox2_core", "Nanog": "Nanog", "Klf4": "Klf4"} | {
    HIDDEN: "GATA_disc1"
}
_FOOTPRINT = {"Oct4": 6, "Sox2": 5, "Nanog": 9, "Klf4": 7}  # bases from centre to the reads' peaks
_HALF = 30  # bases at either side that a footprint takes


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
CHROMOSOMES = tuple(f"chr{i}" for i in range(1, 20))  # of the mouse, so that published splits hold


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
        if isinstance(self.graph, str):
            check_choice("graph", self.graph, list(GRAPHS))
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
        check_number("p_site", self.p_site, 0, 1)
        for name in ("depth", "background"):
            check_number(name, getattr(self, name), 0, ends=False)
        check_number("margin", self.margin, 0)
        check_number("n_windows", self.n_windows, len(CHROMOSOMES))  # one a chromosome
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


def _order(graph: Graph) -> list[str]:
    """Factors, helpers first."""
    helpers = {name: [a for a, b in graph.edges if b == name] for name in MOTIFS}
    return list(MOTIFS) if graph.reciprocal else list(TopologicalSorter(helpers).static_order())


def intrinsic_log_odds(x: Tensor, name: str, p: Parameters) -> Tensor:
    """Log-odds (N, 2, L) without help, by strand and centre of the site; -inf where it is cut."""
    weights, mean = site_affinity(get_motif(MOTIFS[name]), p.sharpness)
    width = len(weights)
    scores = x.new_full((len(x), 2, x.shape[-1]), -torch.inf, dtype=torch.float64)
    # the centre of an even motif lies between two bases; its mirror must be the mirrored index
    for strand, w in enumerate((weights, weights[::-1, ::-1].copy())):
        first = width // 2 if strand == 0 else (width - 1) // 2
        found = match_scores(x.double(), w)
        scores[:, strand, first : first + found.shape[1]] = found + p.intrinsic - mean
    return scores


@lru_cache(32)
def _kernel(edge: Edge, length: int, device: torch.device | str = "cpu") -> Tensor:
    """Help (L, L) that a site at a place (row) gives at every place (column)."""
    place = torch.arange(length, dtype=torch.float64, device=device)
    distance = (place[:, None] - place).abs()
    help_ = edge.strength * torch.exp(-distance / edge.reach)
    if edge.period is not None:
        help_ = help_ * (1 + torch.cos(2 * torch.pi * distance / edge.period)) / 2
    return help_


def occupancies(
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
            kernel = _kernel(edge, logit.shape[-1], logit.device)
            logit = logit + (helping.sum(1) @ kernel)[:, None]
        found[name] = logit.sigmoid()
    return found


@cache
def _footprint(name: str, device: torch.device | str = "cpu") -> Tensor:
    """Reads (2 strands of the site, 2 of the reads, width) of one bound site; each sums to 1."""
    x = torch.arange(-_HALF, _HALF + 1, dtype=torch.float64, device=device)
    at = _FOOTPRINT[name]

    def peak(centre: float, sd: float) -> Tensor:
        return torch.exp(-0.5 * ((x - centre) / sd) ** 2)

    # plus reads begin left of the site, minus reads right of it, with a weaker stop inside
    forward = torch.stack([peak(-at, 1.5) + 0.3 * peak(2, 2), peak(at, 2) + 0.1 * peak(-2, 2)])
    forward = forward / forward.sum(1, keepdim=True)
    return torch.stack([forward, forward.flip(0, 1)])


def _spread(occupied: Tensor, name: str) -> Tensor:
    """Reads (N, 2, L) by strand of one unit of depth at occupancies (N, 2, L)."""
    kernel = _footprint(name, occupied.device).transpose(0, 1).flip(-1)  # conv1d correlates
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
    occupied = occupancies({name: intrinsic_log_odds(x, name, p) for name in p.factors}, p.network)
    reads = [_spread(_bound(occupied, name, p.network), name) for name in FACTORS]
    return p.background / p.length + p.depth * torch.stack(reads, 1)


def log_counts(occupied: Mapping[str, Tensor], p: Parameters) -> Tensor:
    """Log(1 + expected reads) (N, T), mean of both strands."""
    logs = []
    for name in FACTORS:
        bound = _bound(occupied, name, p.network)
        length = bound.shape[-1]
        # how much of a footprint lies inside, by strand of the site, strand of reads and place
        inside = nn.functional.conv1d(
            bound.new_ones(1, 1, length),
            _footprint(name, bound.device).reshape(4, 1, -1), padding=_HALF,
        ).view(2, 2, length)  # fmt: skip
        reads = torch.einsum("nol,osl->ns", bound, inside)
        reads = p.background * length / p.length + p.depth * reads
        logs.append(reads.log1p().mean(1))
    return torch.stack(logs, 1)
