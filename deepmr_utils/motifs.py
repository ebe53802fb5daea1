"""Position probability matrices: reading, scanning and occupancy."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ._checks import check_choice, check_number
from ._files import text_lines
from .sequences import ALPHABET

__all__ = ["Motif", "find_instances", "get_motif", "log_odds", "read_meme"]

UNIFORM = (0.25, 0.25, 0.25, 0.25)
ROUNDING = 1e-4  # of sums of published matrices
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan", re.IGNORECASE)


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
    if (np.abs(sums - 1) > ROUNDING).any():
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise ValueError(f"{what} must sum to 1; the sum is {worst:.6g}: normalise it")
    return values / sums[..., None]


def read_meme(path: str | Path) -> dict[str, Motif]:
    """Read the motifs of a file in MEME format, minimal or full, by name.

    Parameters
    ----------
    path : path
        Plain or gzipped. Of its lines only ``MOTIF``, ``ALPHABET`` and letter-probability matrices
        are read; a matrix without ``w=`` has the rows that follow.

    Raises
    ------
    ValueError
        If the file holds no motif, a name occurs twice, a motif has not one matrix, the letters are
        not those of DNA, or a matrix is cut short or does not sum to 1; with the line.
    """
    motifs: dict[str, Motif] = {}
    for name, place, matrices in _meme_entries(path):
        if name in motifs:
            raise ValueError(f"{place}: motif {name} occurs a second time: rename one")
        if len(matrices) != 1:
            raise ValueError(
                f"{place}: motif {name} needs one letter-probability matrix; got {len(matrices)}"
            )
        motifs[name] = Motif(name, _meme_matrix(name, *matrices[0]))
    if not motifs:
        raise ValueError(f"{path} holds no motif in MEME minimal format")
    return motifs


def _meme_entries(path: str | Path) -> list[tuple[str, str, list]]:
    """Motifs as they stand: name, place, and matrices of place, header and rows of words."""
    entries: list[tuple[str, str, list]] = []
    rows: list | None = None  # of the matrix that has begun
    for number, line in text_lines(path):
        words, place = line.split(), f"{path}, line {number}"
        if words[:1] == ["MOTIF"]:
            if len(words) < 2:
                raise ValueError(f"{place}: a motif needs a name; got {line!r}")
            entries.append((words[1], place, []))
            rows = None
        elif words[:1] == ["letter-probability"]:
            if not entries:
                raise ValueError(f"{place}: a matrix needs a line 'MOTIF name' before it")
            rows = []
            entries[-1][2].append((place, line, rows))
        elif line.startswith("ALPHABET="):
            if line[9:].strip().upper() not in ("ACGT", "ACGU"):
                raise ValueError(f"{place}: motifs must be of the letters ACGT; got {line[9:]!r}")
        elif rows is not None and _is_row(words):
            rows.append((place, words))
        elif words:
            rows = None  # numbers that follow are of another matrix, such as log odds
    return entries


def _is_row(words: list[str]) -> bool:
    """Whether words are a row of a matrix, if perhaps a wrong one."""
    numbers = [_NUMBER.fullmatch(word) is not None for word in words]
    return numbers[:1] == [True] or (len(words) == len(ALPHABET) and sum(numbers) > 1)


def _meme_matrix(name: str, place: str, header: str, rows: list) -> np.ndarray:
    """The probabilities (W, 4) of a motif, from the header of its matrix and rows of words."""
    width = str(len(rows))
    stated = {"w": width, "alength": "4"} | dict(re.findall(r"(\w+)\s*=\s*(\S*)", header))
    if not rows or (stated["w"], stated["alength"]) != (width, "4"):
        raise ValueError(
            f"{place}: motif {name} needs w= rows of alength= 4 numbers, of A, C, G, T; got "
            f"{width} rows after {header!r}"
        )
    values = []
    for i, (line, words) in enumerate(rows):
        what = f"{line}: row {i} of motif {name}"
        if len(words) != len(ALPHABET) or not all(map(_NUMBER.fullmatch, words)):
            raise ValueError(f"{what} should have 4 numbers; got {' '.join(words)[:60]!r}")
        values.append(check_probabilities([float(word) for word in words], what))
    return np.stack(values)


@cache
def shipped_motifs() -> dict[str, Motif]:
    """The motifs that come with the package, by name (see ``data/README.md`` for their source)."""
    return read_meme(Path(__file__).with_name("data") / "motifs.meme")


def get_motif(name: str) -> Motif:
    """One of the shipped motifs by name; an unknown name raises ValueError with the valid ones."""
    motifs = shipped_motifs()
    return motifs[check_choice("motif", name, tuple(motifs))]


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
    check_number("p", p, 0, 1, ends=False)
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
    one_hot: torch.Tensor, sequence_ids: Sequence[str], motifs: Mapping[str, Motif], p: float = 5e-4
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
