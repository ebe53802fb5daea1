"""Sites of motifs planted in sequences, and all substitutions inside a site."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from deepmr_utils.motifs import Motif, log_odds
from deepmr_utils.sequences import ALPHABET


def plant(
    codes: np.ndarray, motifs: Mapping[str, Motif], *, p_site: float, sharpness: float,
    rng: np.random.Generator, margin: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Write sites into sequences, in place: without overlap, in any order and on either strand.

    Parameters
    ----------
    codes : array (N, L)
        Base codes; sites are written into them.
    motifs : mapping of str to Motif
        By factor: each has a site in a sequence with probability ``p_site``.
    p_site : float
    sharpness : float
        Sites are drawn from the motif's probabilities to this power.
    rng : np.random.Generator
    margin : int
        Bases at either end that stay free of sites.

    Returns
    -------
    pd.DataFrame
        One row a site: ``window`` (row of codes), ``start``, ``factor, strand``.
    """
    n, length = codes.shape
    widths = np.array([motif.width for motif in motifs.values()])
    order = rng.random((n, len(motifs))).argsort(1)
    has = rng.random((n, len(motifs))) < p_site  # in that order
    taken = widths[order] * has
    spare = length - 2 * margin - taken.sum(1, keepdims=True)
    gaps = np.sort(rng.integers(0, spare + 1, (n, len(motifs))), axis=1)
    starts = margin + gaps + taken.cumsum(1) - taken
    parts = []
    for k, (name, motif) in enumerate(motifs.items()):
        rows, column = np.nonzero((order == k) & has)
        drawn = motif.probabilities**sharpness
        cumulative = (drawn / drawn.sum(1, keepdims=True)).cumsum(1)[:, :-1]
        site = (rng.random((len(rows), motif.width, 1)) >= cumulative).sum(2)
        turned = rng.random(len(rows)) < 0.5
        site = np.where(turned[:, None], 3 - site[:, ::-1], site)
        start = starts[rows, column]
        codes[rows[:, None], start[:, None] + np.arange(motif.width)] = site
        strand = np.where(turned, "-", "+")
        parts.append(
            pd.DataFrame({"window": rows, "start": start, "factor": name, "strand": strand})
        )
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["window", "start"], ignore_index=True)


def site_affinity(motif: Motif, sharpness: float) -> tuple[np.ndarray, float]:
    """Log-odds (W, 4) of a motif and the mean score of the sites that `plant` draws."""
    weights, drawn = log_odds(motif), motif.probabilities**sharpness
    return weights, float((weights * drawn / drawn.sum(1, keepdims=True)).sum())


def site_mutants(codes: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Base codes (N, 3 W, L) of all substitutions inside a site of each sequence (N, L)."""
    n, m = len(codes), 3 * width
    row, position = np.arange(n)[:, None], starts[:, None] + np.repeat(np.arange(width), 3)
    mutants = np.repeat(codes[:, None], m, axis=1)
    shifted = codes[row, position] + np.tile([1, 2, 3], width)
    mutants[row, np.arange(m), position] = shifted % len(ALPHABET)
    return mutants
