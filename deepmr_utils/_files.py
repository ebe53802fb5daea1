"""Files: text that users give, and runs, which are whole or not there.

Every run is its tables, then its record, whose presence says that the run is finished. So a run
that is cut short leaves nothing that is taken for a result, the same call goes on where it stopped,
and processes may fill one folder together: each writes under a name of its own, and the last to
finish a run replaces it by the same.
"""

import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

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
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.isascii() and (bad := re.search("[\udc80-\udcff]", line)):
                    raise ValueError(
                        f"{path}, line {number}: the text must be UTF-8; got the byte "
                        f"0x{ord(bad[0]) - 0xDC00:02x}: save the file as UTF-8"
                    )
                yield number, line.rstrip("\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is cut short or damaged after line {number} ({error}): copy or download the "
            "gzipped file again"
        ) from error


def land(path: Path, write: Callable[[Path], object], *, only_if_new: bool = False) -> None:
    """Write under another name and move it, so that a file or folder is whole or not there.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    write : callable
        Writes to the path that it is given.
    only_if_new : bool
        Leave a file that is there already, also where another process makes it at this moment.

    Raises
    ------
    OSError
        If it cannot be written; nothing that is stored is touched.
    """
    partial = path.with_name(f".{uuid4().hex}.partial-{path.name}")  # processes do not meet
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            if partial.is_file():
                with partial.open("rb") as file:
                    os.fsync(file.fileno())  # a full network disk may say so only now
            if only_if_new:
                _link(partial, path)
            else:
                partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # of a folder
        with suppress(OSError):  # its folder is none, or cannot be written to
            partial.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of a failure to write what it means, and what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise OSError(
            error.errno,
            f"cannot write {path.name} ({why}): what is stored is as it was. Mend the cause (free "
            "space, or choose a directory that can be written to) and make the same call: it goes "
            "on from here",
            str(path),
        ) from error


def _link(partial: Path, path: Path) -> None:
    """Give a file its name unless another one has it, in one step."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # some file systems have no links; then there is an instant to lose
        if not path.exists():
            partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    land(path, lambda partial: partial.write_text(text))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run; after its tables, since it marks them as finished."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record or settings.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with undamaged(path):
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError(f"a {type(record).__name__}, not a record")
    return record


FRACTION = 16  # bits after the leading one that numbers keep: a relative error of at most 8e-6
FINE = 20  # the same of numbers whose difference counts: 5e-7


def write_table(path: Path, table: pd.DataFrame, fine: Sequence[str] = ()) -> None:
    """Write a table as small as it gets, in Parquet with checksums.

    Parameters
    ----------
    path : Path
    table : pd.DataFrame
        Numbers become float32 of which `FRACTION` bits are kept. They cost least where equal
        values follow each other.
    fine : sequence of str
        Columns of which `FINE` bits are kept.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns, split = {}, []
    for name, column in table.items():
        values = column.to_numpy()
        if column.dtype.kind == "f":
            values = _rounded(column.to_numpy("float32"), FINE if name in fine else FRACTION)
            if 4 * len(np.unique(values.view("uint32"))) > len(values):
                split.append(name)  # few are equal: no dictionary
        columns[name] = pa.array(values, from_pandas=True)
    land(path, lambda partial: parquet.write_table(
        pa.table(columns), partial, compression="zstd", compression_level=19,
        use_dictionary=[name for name in columns if name not in split],
        use_byte_stream_split=split, write_page_checksum=True, write_statistics=False,
        store_schema=False,
    ))  # fmt: skip


def _rounded(values: np.ndarray, kept: int) -> np.ndarray:
    """Float32 of which so many bits after the leading one are kept, to the nearest."""
    bits, last = values.view("uint32"), 23 - kept
    nearest = (bits + np.uint32(2 ** (last - 1))) >> last << last
    return np.where(np.isfinite(values), nearest.view("float32"), values)


def read_table(path: Path, record: Path | None = None) -> pd.DataFrame:
    """Read a table of a run.

    Parameters
    ----------
    path : Path
    record : Path, optional
        Of the run that the table belongs to, which is to be removed where the table is damaged.

    Returns
    -------
    pd.DataFrame
        As written, numbers as float32.

    Raises
    ------
    ValueError
        If the file is missing, cut short or altered.
    """
    with undamaged(path, record):
        return pd.read_parquet(path, page_checksum_verification=True)


@contextmanager
def undamaged(path: str | Path, record: Path | None = None) -> Iterator[None]:
    """Say of a failure to read what is stored which file to remove, so that it is made again."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or missing ({why}), and what is stored is read whole or not at "
            f"all: remove {record or path} and make the call that wrote it again, which computes "
            "that alone"
        ) from error
