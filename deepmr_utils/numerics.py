"""Small numerical tools that several estimators share."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

BLOCK = 2**17  # elements of a work array: 1 MB, which a core's cache holds


def blocks(rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows whose work arrays of `row_size` elements a row fit in a core's cache."""
    step = max(1, BLOCK // max(row_size, 1))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def bisect(
    function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Find where functions that are positive at `low` change sign, all at once.

    Parameters
    ----------
    function : callable
        Maps arguments (S,) to values (S,).
    low, high : np.ndarray, float64 (S,)
        Ends of the brackets; where they are equal, that is the answer.

    Returns
    -------
    np.ndarray, float64 (S,)
        The roots, to the last digits of the larger end.
    """
    for _ in range(200):  # halving a bracket this often leaves no digit undecided
        middle = (low + high) / 2
        positive = function(middle) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
        if np.all(~(high - low > 1e-15 * np.fmax(np.abs(low), np.abs(high)))):
            break
    return (low + high) / 2


def pad_groups(codes: np.ndarray, groups: int, *columns: ArrayLike) -> list[np.ndarray]:
    """Spread columns of a long table over one row a group, padded by NaN.

    Parameters
    ----------
    codes : np.ndarray, int (N,)
        Group of each row, 0 to groups - 1.
    groups : int
        Number of groups.
    *columns : array_like, float (N,)
        Columns to spread.

    Returns
    -------
    list of np.ndarray, float64 (groups, largest group)
        One array a column, values in their order in the table.
    """
    counts = np.bincount(codes, minlength=groups)
    order = np.argsort(codes, kind="stable")
    place = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = []
    for column in columns:
        array = np.full((groups, counts.max(initial=0)), np.nan)
        values = pd.Series(column).to_numpy(dtype=np.float64, na_value=np.nan)
        array[codes[order], place] = values[order]
        padded.append(array)
    return padded


def half_sample_mode(values: ArrayLike) -> float:
    """Most frequent value of a sample (N,), without a bandwidth to choose.

    Notes
    -----
    The half of the sample that lies closest together is kept, again and again, until at most two
    values are left (Robertson and Cryer, 1974, J Am Stat Assoc 69:1012; ties go to the smallest
    values). NaN are left out.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    ordered = ordered[~np.isnan(ordered)]
    while len(ordered) > 3:
        half = (len(ordered) + 1) // 2
        start = np.argmin(ordered[half - 1 :] - ordered[: len(ordered) - half + 1])
        ordered = ordered[start : start + half]
    if len(ordered) == 3:
        left, right = np.diff(ordered)
        ordered = ordered if left == right else ordered[:2] if left < right else ordered[1:]
    return float(ordered.mean()) if len(ordered) else np.nan
