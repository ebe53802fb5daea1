"""A user's tables and text files: checked, with the row or line that breaks a rule."""

import difflib
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file (plain or gzipped) by number from 1, without their ends.

    Ends of all systems are understood, and a byte order mark is no part of the text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not UTF-8, or a gzipped file is cut short or damaged.
    """
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for raw in file:
                text = raw.decode("utf-8-sig" if number == 0 else "utf-8")
                for line in text.rstrip("\r\n").split("\r"):
                    number += 1
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number + 1}: the text must be UTF-8; got the byte "
            f"0x{error.object[error.start]:02x}: save the file as UTF-8"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is cut short or damaged after line {number} ({error}): copy or download the "
            "gzipped file again"
        ) from error


def check_choice(value: object, choices: Iterable[str], what: str) -> None:
    """Raise a ValueError that lists the choices where a value is none of them."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown {what} {value!r}{hint}: choose one of {', '.join(choices)}")


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise a ValueError where a table has no row or lacks a column."""
    missing = [name for name in columns if name not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"{what} needs the columns {', '.join(columns)} and at least one row; got "
            f"{list(table.columns)} and {len(table)} rows: add {missing or 'rows'}"
        )


def check_rows(
    table: pd.DataFrame, bad: pd.Series, rule: str, *columns: str, hint: str = ""
) -> None:
    """Raise a ValueError with the rule and the first row that breaks it, its columns named.

    Parameters
    ----------
    table : pd.DataFrame
    bad : pd.Series of bool
        Of its rows.
    rule : str
    *columns : str
        Those that the message shows.
    hint : str
        Ends the message.
    """
    if bad.any():
        i = int(bad.to_numpy().argmax())
        got = ", ".join(f"{name} {table[name].iloc[i]}" for name in columns)
        where = f"{table.attrs['file']}: " if "file" in table.attrs else ""
        raise ValueError(
            f"{where}{rule}; {table.index.name or 'row'} {table.index[i]} has {got}{hint}"
        )


def whole_numbers(table: pd.DataFrame, column: str, note: str) -> pd.Series:
    """A column as int64, or a ValueError where it is not a whole number, 0 or more."""
    number = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
    bad = ~((number >= 0) & (number < 2**53)) | (number % 1 != 0)  # below: exact as a float
    check_rows(table, bad, f"{column} must be a whole number, 0 or more ({note})", column)
    return number.astype(np.int64)
