"""Position probability matrices: reading, scanning and occupancy."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .sequences import ALPHABET

UNIFORM = (0.25, 0.25, 0.25, 0.25)


class Motif(NamedTuple):
    """A motif: its name and its probabilities (W, 4), a row a position, in A, C, G, T order."""

    name: str
    probabilities: np.ndarray

    @property
    def width(self) -> int:
        """Number of positions."""
        return len(self.probabilities)

    @property
    def consensus(self) -> str:
        """The most probable base at each position."""
        return "".join(ALPHABET[i] for i in self.probabilities.argmax(1))


def check_probabilities(values: Sequence, what: str) -> np.ndarray:
    """Return probabilities over A, C, G, T (..., 4) as float64, or raise ValueError.

    Each row must be non-negative and sum to 1 within 1e-4 (published matrices are rounded).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != len(ALPHABET):
        raise ValueError(
            f"{what} must hold 4 probabilities, for A, C, G, T; got shape {values.shape}"
        )
    if not (values >= 0).all():
        raise ValueError(f"{what} must be 0 or more; the smallest is {values.min():g}")
    sums = values.sum(-1)
    if (np.abs(sums - 1) > 1e-4).any():
        worst = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        place = f" in row {worst[0]}" if worst else ""
        raise ValueError(f"{what} must sum to 1; the sum{place} is {sums[worst]:.6g}: normalise it")
    return values / sums[..., None]


def read_meme(path: str | Path) -> dict[str, Motif]:
    """Read the motifs of a file in MEME minimal format, by name.

    Raises
    ------
    ValueError
        If the file holds no motif, or a matrix is cut short or does not sum to 1.
    """
    motifs: dict[str, Motif] = {}
    lines = Path(path).read_text().splitlines()
    name = None
    for i, line in enumerate(lines):
        words = line.split()
        if words[:1] == ["MOTIF"]:
            name = words[1]
        elif words[:1] == ["letter-probability"]:
            width = int(words[words.index("w=") + 1])
            rows = [row.split() for row in lines[i + 1 : i + 1 + width]]
            if len(rows) < width or any(len(row) != len(ALPHABET) for row in rows):
                raise ValueError(f"{path}: motif {name} should have {width} rows of 4 numbers")
            motifs[name] = Motif(name, check_probabilities(rows, f"{path}: motif {name}"))
    if not motifs:
        raise ValueError(f"{path} holds no motif in MEME minimal format")
    return motifs


@cache
def shipped_motifs() -> dict[str, Motif]:
    """The motifs that come with the package, by name (see ``data/README.md`` for their source)."""
    with resources.as_file(resources.files(__package__) / "data" / "motifs.meme") as path:
        return read_meme(path)


def get_motif(name: str) -> Motif:
    """One of the shipped motifs by name; an unknown name raises ValueError with the valid ones."""
    motifs = shipped_motifs()
    if name not in motifs:
        raise ValueError(f"unknown motif {name!r}: the shipped motifs are {', '.join(motifs)}")
    return motifs[name]


def log_odds(
    motif: Motif, background: Sequence[float] = UNIFORM, pseudocount: float = 1e-5
) -> np.ndarray:
    """Natural-log odds (W, 4) of a motif against a background.

    The pseudocount is added and each row renormalised, since published matrices hold exact zeros.
    """
    background = check_probabilities(background, "the background")
    probabilities = motif.probabilities + pseudocount
    return np.log(probabilities / probabilities.sum(1, keepdims=True) / background)


def match_scores(one_hot: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    """Log-odds score of a motif at every offset of every sequence, forward strand.

    Parameters
    ----------
    one_hot : torch.Tensor (N, 4, L)
        Sequences; an unknown base (all-zero column) scores 0.
    weights : np.ndarray (W, 4)
        Log odds, see `log_odds`.

    Returns
    -------
    torch.Tensor (N, L - W + 1)
    """
    width, length = len(weights), one_hot.shape[-1]
    if width > length:
        raise ValueError(f"the motif ({width} bp) is longer than the sequences ({length} bp)")
    # What each motif position scores at each base, then a sum along diagonals: several times faster
    # than conv1d, which has no fast path for float64 on a CPU.
    values = torch.from_numpy(weights).to(one_hot) @ one_hot
    n_offsets = length - width + 1
    scores = values[:, 0, :n_offsets].clone()
    for i in range(1, width):
        scores += values[:, i, i : i + n_offsets]
    return scores


def occupancy(one_hot: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    """Probability that a factor binds at least once in a sequence.

    With ``g = sigmoid(score)`` at every offset, ``q = 1 - prod(1 - g)``, computed as a sum of
    logarithms so that neither tiny nor nearly certain binding loses digits.

    Parameters
    ----------
    one_hot : torch.Tensor (N, 4, L)
    weights : np.ndarray (W, 4)
        Log odds, see `log_odds`.

    Returns
    -------
    torch.Tensor (N,)
        In [0, 1].
    """
    return -torch.expm1(F.logsigmoid(-match_scores(one_hot, weights)).sum(-1))


def match_threshold(weights: np.ndarray, p: float = 5e-4) -> float:
    """Smallest score that uniformly random bases reach with a probability of at most ``p``.

    Parameters
    ----------
    weights : np.ndarray (W, 4)
        Log odds, see `log_odds`.
    p : float
        Of one place on one strand.

    Notes
    -----
    The distribution of scores, rounded to hundredths, by convolution (Staden, 1989, Comput Appl
    Biosci 5:89).
    """
    if not 0 < p < 1:
        raise ValueError(f"p is a probability, in (0, 1); got {p}")
    steps = np.round(100 * weights).astype(int)
    lowest = steps.min(1)
    probability = np.ones(1)
    for row in steps - lowest[:, None]:
        spread = np.zeros(row.max() + 1)
        np.add.at(spread, row, 1 / len(ALPHABET))
        probability = np.convolve(probability, spread)
    reached = probability[::-1].cumsum()[::-1]
    return float(np.argmax(np.append(reached, 0) <= p * (1 + 1e-9)) + lowest.sum()) / 100 - 0.005


def find_instances(
    one_hot: torch.Tensor,
    sequence_ids: Sequence[str],
    motifs: Mapping[str, Motif],
    p: float = 5e-4,
) -> pd.DataFrame:
    """Instances of motifs in sequences, on both strands.

    Parameters
    ----------
    one_hot : torch.Tensor (N, 4, L)
    sequence_ids : sequence of str (N,)
    motifs : mapping of str to Motif
        By the name of the factor.
    p : float
        An instance scores as random bases do with this probability, a place and strand; of those
        that overlap, the best is kept.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, factor, start, end, strand, score``; places count from 0, the end excluded.
    """
    parts = []
    for factor, motif in motifs.items():
        weights = log_odds(motif)
        both = [match_scores(one_hot.double(), w) for w in (weights, weights[::-1, ::-1].copy())]
        scores = torch.stack(both, 1)
        best = scores.amax(1)
        near = F.max_pool1d(best[:, None], 2 * motif.width - 1, 1, motif.width - 1)[:, 0]
        row, start = torch.nonzero((best >= match_threshold(weights, p)) & (best == near)).T.numpy()
        strand = scores[row, :, start].argmax(1).numpy()
        parts.append(pd.DataFrame({
            "sequence_id": np.asarray(sequence_ids)[row], "factor": factor, "start": start,
            "end": start + motif.width, "strand": np.array(["+", "-"])[strand],
            "score": best[row, start].numpy(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)
