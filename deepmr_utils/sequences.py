"""DNA sequences as strings and as one-hot arrays (N, 4, L) in A, C, G, T order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch  # else within functions: who reads strings need not wait for it

__all__ = ["decode", "one_hot", "reverse_complement"]

ALPHABET = "ACGT"
CLOSE = 1e-3  # what rounding and smoothing may take from a one-hot column
UNKNOWN = len(ALPHABET)  # code of an unknown base: an all-zero column, after the codes of A C G T
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
_CODES = np.full(256, 255, dtype=np.uint8)
_CODES[_LETTERS] = _CODES[_LETTERS + 32] = range(5)  # in upper and in lower case
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def encode(sequences: Sequence[str]) -> np.ndarray:
    """Turn sequences of one length into base codes.

    Parameters
    ----------
    sequences : sequence of str (N,)
        A, C, G, T in either case; N for an unknown base.

    Returns
    -------
    np.ndarray, uint8 (N, L)
        0, 1, 2, 3 for A, C, G, T and 4 for N.

    Raises
    ------
    ValueError
        If the sequences differ in length or hold any other letter.
    TypeError
        If it is given a single string, or something else than strings.
    """
    sequences = _strings(sequences)
    if not sequences:
        raise ValueError("encode needs at least one sequence; got none")
    lengths = [len(sequence) for sequence in sequences]
    if len(set(lengths)) > 1:
        i = next(i for i, length in enumerate(lengths) if length != lengths[0])
        raise ValueError(
            f"all sequences must have one length; sequence 0 has {lengths[0]} bases and sequence "
            f"{i} has {lengths[i]}: pad with N or cut to a common window"
        )
    # what is not ASCII becomes "?", one letter for one, which is no base either
    letters = np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8)
    codes = _CODES[letters].reshape(len(sequences), lengths[0])
    if (codes == 255).any():
        i, position = np.argwhere(codes == 255)[0]
        raise ValueError(unknown_base(sequences[i][position], i, position))
    return codes


def unknown_base(letter: str, i: int | str, position: int) -> str:
    """What is wrong with a letter of a sequence, which is called by its number or name."""
    return (
        f"unknown base {letter!r} in sequence {i} at position {position} (0-based): "
        "valid letters are A, C, G, T and N; replace other IUPAC codes by N"
    )


def _strings(sequences: Iterable[Any]) -> list[str]:
    if isinstance(sequences, str | bytes):
        raise TypeError("sequences must be a list; got a single string: put it in a list")
    sequences = [s.decode("latin-1") if isinstance(s, bytes) else s for s in sequences]
    for i, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise TypeError(
                f"sequences must be strings; sequence {i} is {sequence!r:.50} "
                f"({type(sequence).__name__}): join letters with ''.join"
            )
    return sequences


def check_letters(sequences: Iterable[str], names: Sequence[str] | None = None) -> list[str]:
    """Sequences of any lengths in upper case.

    Raises
    ------
    ValueError
        If one holds a letter other than A, C, G, T and N; it is called by its name, or its number.
    """
    checked = [sequence.upper() for sequence in _strings(sequences)]
    for i, sequence in enumerate(checked):
        if wrong := re.search("[^ACGTN]", sequence):
            raise ValueError(unknown_base(wrong[0], names[i] if names else i, wrong.start()))
    return checked


def reverse_complement(sequence: str) -> str:
    """The other strand of a sequence of A, C, G, T and N in upper case."""
    return sequence.translate(_COMPLEMENT)[::-1]


def decode(codes: np.ndarray) -> list[str]:
    """Turn base codes (N, L) of `encode` back into sequences."""
    codes = np.ascontiguousarray(codes)
    letters = _LETTERS[codes].view(f"S{codes.shape[1]}").ravel()
    return letters.astype(str).tolist()


def one_hot(
    sequences: Sequence[str] | np.ndarray, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """One-hot encode sequences.

    Parameters
    ----------
    sequences : sequence of str (N,) or int array (N, L)
        Sequences of one length, or their codes as `encode` gives them.
    dtype : torch.dtype, optional
        A floating-point type; float32 by default.

    Returns
    -------
    torch.Tensor (N, 4, L)
        Rows in A, C, G, T order; an unknown base is an all-zero column.
    """
    import torch

    numbers = isinstance(sequences, np.ndarray) and sequences.dtype.kind not in "USO"
    codes = _check_codes(sequences) if numbers else encode(sequences)
    codes = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.uint8))
    rows = torch.arange(len(ALPHABET), dtype=torch.uint8)[None, :, None]
    return (codes[:, None, :] == rows).to(dtype or torch.float32)


def _check_codes(codes: np.ndarray) -> np.ndarray:
    rule = "codes must be integers (N, L), 0 to 3 for A, C, G, T or 4 for N"
    if codes.dtype.kind not in "iu" or codes.ndim != 2:
        raise ValueError(f"{rule}; got {codes.dtype} {codes.shape}: give strings, or `encode` them")
    bad = (codes < 0) | (codes > UNKNOWN)
    if bad.any():
        i, position = np.argwhere(bad)[0]
        raise ValueError(f"{rule}; sequence {i}, position {position} holds {codes[i, position]}")
    return codes


def check_one_hot(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Check that an array is one-hot (N, 4, L) and return it as a tensor.

    Parameters
    ----------
    array : np.ndarray or torch.Tensor (N, 4, L)
        Of numbers of any real type.

    Returns
    -------
    torch.Tensor, float32 or float64 (N, 4, L)
        The array itself where it needs no change. A column within 0.001 of one base, by smoothing
        or rounding, is that base; one within 0.001 of nothing is an unknown base.

    Raises
    ------
    TypeError
        If it is not an array or tensor of numbers.
    ValueError
        If it is not (N, 4, L), is empty, or a column is neither a distribution over A, C, G, T
        (one-hot, or soft such as 0.25 each) nor all zero.
    """
    import torch

    array = _as_floats(array)
    if array.ndim != 3 or array.shape[1] != len(ALPHABET) or not array.numel():
        raise ValueError(
            "one_hot must have shape (N, 4, L), with a sequence and a position at least; got "
            f"{tuple(array.shape)}{_shape_hint(array.shape)}"
        )
    nearest = array.round().abs()  # -0.0 becomes 0
    near = ((array - nearest).abs() <= CLOSE).all(1) & (nearest.sum(1) <= 1)
    total = array.sum(1)
    bad = ~(near | ((array >= 0).all(1) & ((total - 1).abs() < CLOSE)))  # NaN is bad, too
    if bad.any():
        i, position = torch.nonzero(bad)[0].tolist()
        column = array[i, :, position].tolist()
        raise ValueError(
            "every column of one_hot must hold probabilities of A, C, G, T that sum to 1, or only "
            f"0 for an unknown base; sequence {i}, position {position} holds {column}"
        )
    cleaned = torch.where(near[:, None], nearest, array)
    return array if torch.equal(cleaned, array) else cleaned


def _as_floats(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An array of numbers as a tensor, float32 or float64; without a copy where it is one."""
    import torch

    got = f"{type(array).__name__} of {getattr(array, 'dtype', 'no numbers')}"
    numbers = isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
    if numbers and not isinstance(array, np.ma.MaskedArray):
        exact = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize >= 8 else np.float32
        # of this machine's byte order, in steps that torch knows, and not read-only
        array = torch.from_numpy(np.require(array, exact, ["C", "W"]))
    tensor = isinstance(array, torch.Tensor)
    if not tensor or array.is_complex() or array.is_quantized or array.is_meta:
        where = f" on {array.device}" if tensor else ""
        raise TypeError(
            f"one_hot must be a NumPy array or a torch tensor of real numbers; got {got}{where}: "
            "encode strings with deepmr_utils.sequences.one_hot, and give 0 for what is unknown"
        )
    array = array.detach().to_dense()
    return array if array.dtype in (torch.float32, torch.float64) else array.float()


def _shape_hint(shape: Sequence[int]) -> str:
    if len(shape) == 3 and shape[2] == len(ALPHABET):
        return ": transpose it, one_hot.swapaxes(1, 2)"
    if len(shape) == 2 and len(ALPHABET) in shape:
        return f": a single sequence is one_hot{'' if shape[0] == len(ALPHABET) else '.T'}[None]"
    return ""


def base_codes(array: torch.Tensor) -> np.ndarray:
    """Base codes (N, L) of a tensor (N, 4, L): 0 to 3 where one base is certain, else 4."""
    import torch

    array = array.detach().cpu()
    known = (array == 1).any(1)
    return torch.where(known, array.argmax(1), UNKNOWN).to(torch.uint8).numpy()
