"""DNA sequences as strings and as one-hot arrays (N, 4, L) in A, C, G, T order."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch

ALPHABET = "ACGT"
UNKNOWN = len(ALPHABET)  # code of an unknown base: an all-zero column, after the codes of A C G T
_CODES = np.full(256, 255, dtype=np.uint8)
_CODES[np.frombuffer(b"ACGTN", dtype=np.uint8)] = range(5)
_CODES[np.frombuffer(b"acgtn", dtype=np.uint8)] = range(5)
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
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
    """
    sequences = list(sequences)
    if not sequences:
        raise ValueError("encode needs at least one sequence; got none")
    length = len(sequences[0])
    for i, sequence in enumerate(sequences):
        if len(sequence) != length:
            raise ValueError(
                f"all sequences must have one length; sequence 0 has {length} bases and "
                f"sequence {i} has {len(sequence)}: pad with N or cut to a common window"
            )
    try:
        letters = np.frombuffer("".join(sequences).encode("ascii"), dtype=np.uint8)
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise ValueError(unknown_base(letter, *divmod(error.start, length))) from None
    codes = _CODES[letters].reshape(len(sequences), length)
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


def check_letters(sequences: Iterable[str], names: Sequence[str] | None = None) -> list[str]:
    """Sequences of any lengths in upper case.

    Raises
    ------
    ValueError
        If one holds a letter other than A, C, G, T and N; it is called by its name, or its number.
    """
    checked = [sequence.upper() for sequence in sequences]
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
    sequences: Sequence[str] | np.ndarray, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """One-hot encode sequences.

    Parameters
    ----------
    sequences : sequence of str (N,) or uint8 array (N, L)
        Sequences of one length, or their codes as `encode` gives them.
    dtype : torch.dtype
        A floating-point type.

    Returns
    -------
    torch.Tensor (N, 4, L)
        Rows in A, C, G, T order; an unknown base is an all-zero column.
    """
    codes = sequences if isinstance(sequences, np.ndarray) else encode(sequences)
    codes = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.uint8))
    rows = torch.arange(len(ALPHABET), dtype=torch.uint8)[None, :, None]
    return (codes[:, None, :] == rows).to(dtype)


def check_one_hot(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Check that an array is one-hot (N, 4, L) and return it as a tensor (no copy).

    Raises
    ------
    TypeError
        If it is not a floating-point array or tensor.
    ValueError
        If it is not (N, 4, L), is empty, or a column is neither a distribution over A, C, G, T
        (one-hot, or soft such as 0.25 each) nor all zero.
    """
    if isinstance(array, np.ndarray):
        if array.dtype.kind != "f":
            raise TypeError(
                f"one_hot must be floating point; got dtype {array.dtype}: "
                "convert with .astype('float32')"
            )
        array = torch.from_numpy(array)
    if not isinstance(array, torch.Tensor):
        raise TypeError(
            f"one_hot must be a NumPy array or a torch tensor; got {type(array).__name__}: "
            "encode strings with deepmr_utils.sequences.one_hot"
        )
    if not array.is_floating_point():
        raise TypeError(
            f"one_hot must be floating point; got dtype {array.dtype}: convert with .float()"
        )
    if array.ndim != 3 or array.shape[1] != len(ALPHABET):
        hint = ": transpose it" if array.ndim == 3 and array.shape[2] == len(ALPHABET) else ""
        raise ValueError(f"one_hot must have shape (N, 4, L); got {tuple(array.shape)}{hint}")
    if array.shape[0] == 0 or array.shape[2] == 0:
        raise ValueError(
            f"one_hot holds no sequence or no position; got shape {tuple(array.shape)}"
        )
    total = array.sum(1)
    bad = ~((array >= 0).all(1) & ((total == 0) | ((total - 1).abs() < 1e-3)))  # NaN is bad, too
    if bad.any():
        i, position = torch.nonzero(bad)[0].tolist()
        column = array[i, :, position].tolist()
        raise ValueError(
            "every column of one_hot must hold probabilities of A, C, G, T that sum to 1, or only "
            f"0 for an unknown base; sequence {i}, position {position} holds {column}"
        )
    return array


def base_codes(array: torch.Tensor) -> np.ndarray:
    """Base codes (N, L) of a tensor (N, 4, L): 0 to 3 where one base is certain, else 4."""
    array = array.detach().cpu()
    known = (array == 1).any(1)
    return torch.where(known, array.argmax(1), UNKNOWN).to(torch.uint8).numpy()
