"""A user's tables, arrays and options: checked, and what an error says of each."""

import difflib
import importlib.util
import inspect
import math
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

MISSING_TEXT = {"", ".", "na", "nan", "<na>", "none"}  # numbers that are missing, in files of text

Range = tuple[float, float, bool]  # lowest, highest, and whether these two are allowed


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise a ValueError where a table has no row, lacks a column or has one twice."""
    check_columns(table, columns, what)
    if table.empty:
        raise ValueError(
            f"{what} needs at least one row; got {list(table.columns)} and 0 rows: add rows"
        )


def check_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise a ValueError where a table, which may be empty, lacks a column or has one twice."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{what} must be a pandas DataFrame; got {type(table).__name__}")
    there = list(table.columns)
    missing = [name for name in columns if name not in there]
    if missing:
        raise ValueError(
            f"{what} needs the columns {', '.join(columns)}; got {there} and {len(table)} rows; "
            f"{missing} missing: add {missing}"
        )
    twice = [name for name in columns if there.count(name) > 1]
    if twice:
        raise ValueError(
            f"{what} must have each column once; {twice[0]!r} is there {there.count(twice[0])} "
            "times: drop or rename the others (are these two tables side by side?)"
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


def distinct_text(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as text, or a ValueError where two of its values, 1 and "1", become one."""
    values = table[column].astype(object).drop_duplicates()
    text = values.astype(str)
    if text.duplicated().any():
        both = values[text == text[text.duplicated()].iloc[0]]
        raise ValueError(
            f"each {column} must differ from the others as text; got "
            f"{' and '.join(f'{v!r} ({type(v).__name__})' for v in both)}: rename one of them"
        )
    return table[column].astype(str)


def as_list(value: str | Iterable[Any]) -> list:
    """A list of names; one alone is a list of one, not of its letters."""
    return [value] if isinstance(value, str) else list(value)


def numbers(value: Any, name: str) -> np.ndarray:
    """What a user gives as numbers, as float64, NaN where it is missing.

    Parameters
    ----------
    value : array_like, pd.Series or pd.DataFrame
        Numbers, or text that says numbers.
    name : str
        What it is called, for errors.

    Returns
    -------
    np.ndarray, float64
        NaN in the place of masked entries, of None and of pandas' NA, and of text that files write
        for a missing number: nothing, ".", "NA".

    Raises
    ------
    ValueError
        If a value is no number, with its place.
    """
    if isinstance(value, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in value):
        # as a plain array the rows would lose their masks
        value = np.ma.array([np.nan if v is np.ma.masked else v for v in value])
    if isinstance(value, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(value), np.nan, numbers(value.data, name))
    if isinstance(value, pd.Series) and pd.api.types.is_numeric_dtype(value):
        return value.to_numpy(dtype=np.float64, na_value=np.nan)
    array = np.asarray(value)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind not in "OUST" or array.dtype.names:
        raise ValueError(f"{name} must hold numbers; got values of type {array.dtype}")
    flat = array.astype(object).ravel()
    known = pd.Series([np.nan if is_missing(v) else v for v in flat], dtype=object)
    if any(isinstance(v, complex | pd.Timestamp) for v in known):
        raise ValueError(f"{name} must hold numbers; got values of type {type(known[0]).__name__}")
    number = pd.to_numeric(known, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(number) & known.notna().to_numpy())
    if len(bad):
        raise ValueError(
            f"{name} must hold numbers; got {flat[bad[0]]!r} at {_place(value, array, bad[0])}: "
            "correct it, or make it NaN"
        )
    return number.reshape(array.shape)


def is_missing(value: object) -> bool:
    """Whether a value stands for none: text as of `MISSING_TEXT`, None, pandas' NA."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING_TEXT
    return value is None or value is pd.NA or value is np.ma.masked or value is pd.NaT


def _place(value: object, array: np.ndarray, flat: int) -> str:
    """Where an entry stands: labels of a pandas object, else indices."""
    where = [int(i) for i in np.unravel_index(flat, array.shape)]
    if not isinstance(value, pd.Series | pd.DataFrame):
        return f"index {tuple(where)}"
    column = f", column {value.columns[where[1]]}" if isinstance(value, pd.DataFrame) else ""
    return f"row {value.index[where[0]]}{column}"


def check_choice(name: str, value: Any, valid: Sequence[Hashable]) -> Any:
    """The valid value that an option has, or a ValueError that names them all.

    Parameters
    ----------
    name : str
        What the option is called.
    value : any
        What was given.
    valid : sequence
        Texts, and True and False, that it may be.

    Returns
    -------
    any
        The element of `valid`.

    Raises
    ------
    ValueError
        If it is none of them, with the choices and the likeliest.
    TypeError
        If it is a list.
    """
    if isinstance(value, list | tuple | set | np.ndarray | pd.Series | pd.Index):
        raise TypeError(
            f"{name} must be one of {', '.join(map(str, valid))}; got {list(value)}: give one at a "
            "time"
        )
    boolean = isinstance(value, bool | np.bool_)
    for choice in valid:  # 1 is True to Python, and would be another choice here
        if boolean == isinstance(choice, bool) and value == choice:
            return choice
    choices, hint = ", ".join(map(str, valid)), did_you_mean(value, valid)
    raise ValueError(f"unknown {name} {value!r}: choose one of {choices}{hint}")


def check_names(what: str, given: str | Iterable[Hashable], valid: Sequence[Hashable]) -> list:
    """A list of valid names, or a ValueError where one is unknown or given twice."""
    names = [check_choice(what, name, valid) for name in as_list(given)]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"{what} must be given once each; got {names}: drop a {twice[0]!r}")
    return names


def did_you_mean(value: Any, valid: Sequence[Hashable]) -> str:
    """The end of an error: which choice is likeliest, or nothing where none is near."""
    texts = {str(choice).lower(): choice for choice in valid}
    near = difflib.get_close_matches(str(value).lower(), texts, n=1)
    return f" (did you mean {texts[near[0]]!r}?)" if near else ""


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    ends: bool = True,
    whole: bool = False,
) -> Any:
    """A number that an option may be, or a ValueError that says which.

    Parameters
    ----------
    name : str
        What the option is called.
    value : any
        What was given.
    low, high : float
        Range.
    ends : bool
        Whether `low` and `high` themselves are allowed.
    whole : bool
        Whether it must be a whole number; 1e3 is one.

    Returns
    -------
    int or float
    """
    number = value if isinstance(value, int | float | np.integer | np.floating) else math.nan
    number = math.nan if isinstance(value, bool) else number
    inside = low <= number <= high if ends else low < number < high
    if inside and not (whole and (math.isinf(number) or number != int(number))):
        return int(number) if whole else float(number)
    rule = "be a whole number" if whole else "be a number"
    if not math.isinf(high):
        rule = f"lie between {low:g} and {high:g}" + ("" if ends else ", both excluded")
    elif not math.isinf(low):
        rule += f" of at least {low:g}" if ends else f" greater than {low:g}"
    raise ValueError(f"{name} must {rule}; got {value!r}")


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    ranges: Mapping[str, Range] | None = None,
) -> dict[str, Any]:
    """Options of a function, each held to the type that its signature says.

    Parameters
    ----------
    function : callable
        Its annotations say what an option may be: choices are a `Literal`.
    options : mapping
        What was given, by name.
    ranges : mapping, optional
        Of numbers, by name: lowest, highest, and whether these two are allowed.

    Returns
    -------
    dict
        The options.

    Raises
    ------
    ValueError
        If one has none of its values, as `check_choice` and `check_number` say.
    """
    hints = get_type_hints(inspect.unwrap(function))
    return {
        name: _check_option(name, value, hints[name], (ranges or {}).get(name))
        for name, value in options.items()
    }


def _check_option(name: str, value: Any, hint: Any, limits: Range | None) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices: list[Hashable] = []
    for kind in kinds:
        choices += get_args(kind) if get_origin(kind) is Literal else ()
        choices += (True, False) if kind is bool else ()
    if value is None and type(None) in kinds:
        return None
    if not {int, float} & set(kinds) or (choices and isinstance(value, bool | str)):
        return check_choice(name, value, choices)
    low, high, ends = limits or (-math.inf, math.inf, True)
    return check_number(name, value, low, high, ends=ends, whole=float not in kinds)


def listed(names: Sequence[str], wanted: str = "", most: int = 20) -> str:
    """Names for an error, not too many, and the one that was probably meant."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    hint = "" if wanted in names else did_you_mean(wanted, names)
    return ", ".join(names[:most]) + more + hint


def distinct_names(argument: str, names: Any) -> tuple[str, ...]:
    """Names of a model's outputs, as its author gives them."""
    given = [] if isinstance(names, str | set) or not hasattr(names, "__iter__") else list(names)
    if not given or len(set(given)) < len(given) or not all(isinstance(n, str) for n in given):
        raise ValueError(f"{argument} must be distinct names, at least one; got {names!r}")
    return tuple(given)


def check_file(path: str | Path) -> Path:
    """The path of a file, or a FileNotFoundError where there is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return Path(path)


def check_writable(directory: str | Path) -> None:
    """Raise a ValueError where a folder is not there and cannot be made, or not be written to."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        where = Path(directory).absolute()
        raise ValueError(f"must be a folder that can be written, {where}: {error}") from None


def check_installed(extra: str, *modules: str) -> None:
    """Raise where a package is missing that an extra of the library brings, and say which extra."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            message = (
                f"this needs {name}, which is not installed: pip install 'deepmr-utils[{extra}]'"
            )
            raise ModuleNotFoundError(message, name=name)
