"""Checks of a user's tables, with the row that breaks a rule."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise a ValueError where a table has no row or lacks a column."""
    missing = [name for name in columns if name not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"{what} needs the columns {', '.join(columns)} and at least one row; got "
            f"{list(table.columns)} and {len(table)} rows: add {missing or 'rows'}"
        )


def check_rows(table: pd.DataFrame, bad: pd.Series, rule: str, *columns: str) -> None:
    """Raise a ValueError with the rule and the first row that breaks it, its columns named."""
    if bad.any():
        i = int(bad.to_numpy().argmax())
        got = ", ".join(f"{name} {table[name].iloc[i]}" for name in columns)
        raise ValueError(f"{rule}; {table.index.name or 'row'} {table.index[i]} has {got}")


def whole_numbers(table: pd.DataFrame, column: str, note: str) -> pd.Series:
    """A column as int64, or a ValueError where it is not a whole number, 0 or more."""
    number = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
    bad = ~((number >= 0) & (number < 2**53)) | (number % 1 != 0)  # below: exact as a float
    check_rows(table, bad, f"{column} must be a whole number, 0 or more ({note})", column)
    return number.astype(np.int64)
