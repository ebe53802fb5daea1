"""Simulated chromatin whose causes are known, for the DeepSEA experiment.

Sites of seven factors are planted in windows of real human DNA. Pioneers bind wherever their motif
is and open the chromatin, a repressor closes it, followers bind where it is open, bystanders bind
and do nothing. Labels are draws of the probabilities that follow, as peaks of an experiment are.
Factors are named by their roles: they borrow motifs of real factors, but nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.motifs import Motif, find_instances, get_motif, match_scores
from deepmr_utils.regions import read_fasta
from deepmr_utils.sequences import ALPHABET, decode, encode, one_hot

from .. import DATA
from ..planting import plant, site_affinity

ACCESSIBILITY = "accessibility"
_MOTIFS = MappingProxyType({  # shipped; that of "bystander 2" is made up
    "pioneer 1": "Oct4_core", "pioneer 2": "Sox2_core", "follower 1": "Nanog", "follower 2": "Klf4",
    "bystander 1": "TAL1_known1", "bystander 2": "", "repressor": "GATA_disc1",
})  # fmt: skip
ROLES = MappingProxyType({name: name.split()[0] for name in _MOTIFS})
FACTORS = tuple(ROLES)
FEATURES = (*FACTORS, ACCESSIBILITY)
PIONEER, FOLLOWER, REPRESSOR = "pioneer", "follower", "repressor"
SPLITS = MappingProxyType({"train": (0, 70), "validation": (70, 80), "test": (80, 100)})  # tiles
MIN_CHANGE = 0.2  # of an exposure's log-odds; a slope on smaller changes says nothing


@dataclass(frozen=True)
class Parameters:
    """All parameters of the simulated chromatin.

    Every factor has a site in a window of ``length`` bases with probability ``p_site``, drawn from
    its motif's probabilities to the power ``sharpness``, at a random place without overlap. An
    average site is bound without help with log-odds ``intrinsic``, a window without any site with
    ``unspecific``; those of a follower in closed chromatin are lower by ``closed``. The log-odds
    that chromatin is open are ``baseline``, and ``opening`` more for each bound pioneer,
    ``closing`` less for a bound repressor; in open chromatin those of a follower rise by
    ``opened``.
    """

    length: int = 200
    p_site: float = 0.4
    sharpness: float = 2.0
    intrinsic: float = 1.0
    unspecific: float = -4.0
    closed: float = 3.0
    baseline: float = -1.5
    opening: float = 3.0
    closing: float = 3.0
    opened: float = 4.0

    def __post_init__(self) -> None:
        check_number("p_site", self.p_site, 0, 1)
        check_number("sharpness", self.sharpness, 0, ends=False)
        widths = sum(factor_motif(name).width for name in FACTORS)  # all sites in a tile of DNA
        check_number("length", self.length, widths, _tiles().shape[1])


def factor_motif(factor: str) -> Motif:
    """The motif of a factor; the made-up one is that of bystander 1 read backwards."""
    if name := _MOTIFS[check_choice("factor", factor, FACTORS)]:
        return get_motif(name)
    return Motif(factor, get_motif(_MOTIFS["bystander 1"]).probabilities[::-1])


@cache
def _tiles() -> np.ndarray:
    """Codes (100, 2000) of human DNA far from known genes' starts."""
    sequences = read_fasta(DATA / "human_tiles.fa.gz")["sequence"]
    shortest = sequences.str.len().min()
    return encode([sequence[:shortest] for sequence in sequences])


def simulate(
    parameters: Parameters, n: int, *, split: str = "train", seed: int = 0
) -> pd.DataFrame:
    """Draw windows, their sites and their labels.

    Parameters
    ----------
    parameters : Parameters
    n : int
        Number of windows.
    split : {"train", "validation", "test"}
        Whose tiles of DNA the windows are cut from, at any place, on either strand: no base is in
        two splits.
    seed : int
        Every split has a stream of its own.

    Returns
    -------
    pd.DataFrame
        A row a window: ``sequence_id, split, tile, sequence``; for each of `FEATURES` its label, 0
        or 1, and ``<feature>_probability``, of which that is a draw.
    """
    check_choice("split", split, list(SPLITS))
    check_number("n", n, 1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, list(SPLITS).index(split)]))
    length, tiles = parameters.length, _tiles()
    tile = rng.integers(*SPLITS[split], n)
    start = rng.integers(0, tiles.shape[1] - length + 1, n)
    codes = tiles[tile[:, None], start[:, None] + np.arange(length)]
    codes = np.where(rng.random(n)[:, None] < 0.5, 3 - codes[:, ::-1], codes).astype(np.uint8)
    motifs = {name: factor_motif(name) for name in FACTORS}
    plant(codes, motifs, p_site=parameters.p_site, sharpness=parameters.sharpness, rng=rng)
    x = one_hot(codes)
    logits = torch.cat([true_logits(part, parameters) for part in x.split(512)])
    probabilities = logits.sigmoid().numpy()
    labels = (rng.random(probabilities.shape) < probabilities).astype(int)
    return pd.DataFrame(
        {"sequence_id": [f"{split}-{i}" for i in range(n)], "split": split, "tile": tile,
         "sequence": decode(codes)}
        | {name: labels[:, k] for k, name in enumerate(FEATURES)}
        | {f"{name}_probability": probabilities[:, k] for k, name in enumerate(FEATURES)}
    )  # fmt: skip


def site_logits(x: Tensor, factor: str, parameters: Parameters) -> Tensor:
    """Log-odds (N,) that a factor binds anywhere in one-hot x (N, 4, L), without help.

    Notes
    -----
    The logarithm of the sum, over places and strands, of the exponentiated log-odds of each, and of
    what binds without a site.
    """
    p = parameters
    weights, mean = site_affinity(factor_motif(factor), p.sharpness)
    both = [match_scores(x.double(), w) for w in (weights, weights[::-1, ::-1].copy())]
    logit = torch.cat(both, 1).logsumexp(1) - mean + p.intrinsic
    return torch.logaddexp(logit, torch.full_like(logit, p.unspecific))


def propagate(sites: Mapping[str, Tensor], parameters: Parameters) -> Tensor:
    """Log-odds (..., 8) of all features from those of the factors' sites, along the graph."""
    p = parameters
    accessible = torch.full_like(sites[FACTORS[0]], p.baseline)
    for name, role in ROLES.items():
        if role in (PIONEER, REPRESSOR):
            change = p.opening if role == PIONEER else -p.closing
            accessible = accessible + change * sites[name].sigmoid()
    found = [
        site + p.opened * accessible.sigmoid() - p.closed if ROLES[name] == FOLLOWER else site
        for name, site in ((name, sites[name]) for name in FACTORS)
    ]
    return torch.stack([*found, accessible], -1)


def true_logits(x: Tensor, parameters: Parameters) -> Tensor:
    """Noise-free log-odds (N, 8) of the features of one-hot x (N, 4, L), in float64."""
    return propagate({name: site_logits(x, name, parameters) for name in FACTORS}, parameters)


class Oracle(nn.Module):
    """The rules themselves as a model: one-hot (N, 4, L) to probabilities (N, 8)."""

    feature_names = FEATURES

    def __init__(self, parameters: Parameters, output: str = "probability") -> None:
        super().__init__()
        self.chromatin, self.output = parameters, output

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, or log-odds where ``output`` is "logit"."""
        logits = true_logits(x, self.chromatin).to(x.dtype)
        return logits if self.output == "logit" else logits.sigmoid()


def instances(windows: pd.DataFrame) -> pd.DataFrame:
    """Instances of the factors' motifs in windows, see `deepmr_utils.motifs.find_instances`.

    Parameters
    ----------
    windows : pd.DataFrame
        ``sequence_id`` and ``sequence``.

    Returns
    -------
    pd.DataFrame
        As `deepmr_utils.motifs.find_instances` gives them.
    """
    known = {name: factor_motif(name) for name in FACTORS}
    return find_instances(one_hot(windows["sequence"].tolist()), windows["sequence_id"], known)


def causes(outcome: str) -> tuple[str, ...]:
    """Features that act on an outcome, directly or by way of accessibility."""
    acting = tuple(name for name, role in ROLES.items() if role in (PIONEER, REPRESSOR))
    if outcome == ACCESSIBILITY:
        return acting
    return (*acting, ACCESSIBILITY) if ROLES[outcome] == FOLLOWER else ()


def true_effects(windows: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """True effects of every factor on accessibility and of accessibility on every factor.

    Parameters
    ----------
    windows : pd.DataFrame
        ``sequence_id, sequence`` of S windows, as `simulate` gives them.
    parameters : Parameters
        Those the windows were made with.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, exposure, outcome, truth, status``: 14 rows a window. The truth is NaN where
        ``status`` is not "ok".

    Notes
    -----
    The slope, without intercept, of changes of the outcome on changes of the exposure, both of
    noise-free log-odds, over all substitutions in the exposure's motif instances. A substitution
    changes what its factor's sites bind, and what follows from it along the graph; what it does to
    other motifs is left out, so that without a path the effect is 0 exactly. Accessibility has no
    motif: it is moved by the sites of pioneers and repressor other than the outcome.
    """
    found = instances(windows)
    changes = {name: _changes(windows, found, name, parameters) for name in causes(ACCESSIBILITY)}
    changes |= {
        name: _changes(windows, found, name, parameters) for name in FACTORS if name not in changes
    }
    n, tables = len(windows), []
    for factor in FACTORS:
        others = [name for name in causes(ACCESSIBILITY) if name != factor]
        ways = {(factor, ACCESSIBILITY): [factor], (ACCESSIBILITY, factor): others}
        for (exposure, outcome), movers in ways.items():
            row = np.concatenate([changes[name][0] for name in movers])
            change = np.concatenate([changes[name][1] for name in movers])
            x, y = (change[:, FEATURES.index(name)] for name in (exposure, outcome))
            square, product = (np.bincount(row, z, n) for z in (x**2, x * y))
            largest = np.zeros(n)
            np.maximum.at(largest, row, np.abs(x))
            known = largest >= MIN_CHANGE
            product = product * (exposure in causes(outcome))  # else rounding
            reason = f"no substitution changes {exposure} by {MIN_CHANGE:g}"
            tables.append(pd.DataFrame({
                "sequence_id": windows["sequence_id"].to_numpy(),
                "exposure": exposure, "outcome": outcome,
                "truth": np.where(known, product / np.where(known, square, 1), np.nan),
                "status": np.where(known, "ok", reason),
            }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _changes(
    windows: pd.DataFrame, found: pd.DataFrame, factor: str, p: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (V,) of substitutions in a factor's instances, and changes (V, 8) they make."""
    own = found[found["factor"] == factor]
    row = pd.Index(windows["sequence_id"]).get_indexer(own["sequence_id"])
    width = factor_motif(factor).width
    places = own["start"].to_numpy()[:, None] + np.arange(width)
    pairs = np.unique(np.stack([np.repeat(row, width), places.ravel()], 1), axis=0)
    pairs = np.repeat(pairs, 3, axis=0)
    codes = encode(windows["sequence"])
    reference = {name: site_logits(one_hot(codes), name, p) for name in FACTORS}
    before, parts = propagate(reference, p), []
    for rows, position in ((part[:, 0], part[:, 1]) for part in _split(pairs, 3 * 1024)):
        mutants = codes[rows]
        step = np.tile([1, 2, 3], len(rows) // 3)
        at = np.arange(len(rows)), position
        mutants[at] = (mutants[at] + step) % len(ALPHABET)
        sites = {name: logit[rows] for name, logit in reference.items()}
        sites[factor] = site_logits(one_hot(mutants), factor, p)
        parts.append((propagate(sites, p) - before[rows]).numpy())
    return pairs[:, 0], np.concatenate(parts or [np.empty((0, len(FEATURES)))])


def _split(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[i : i + size] for i in range(0, len(values), size)]
