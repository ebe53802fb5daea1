"""Where runs are kept: files that are whole or not there, one folder for each choice of settings.

Every run is its tables, then its record, whose presence says that the run is finished. So a run
that is cut short leaves nothing that is taken for a result, the same call goes on where it stopped,
and processes may fill one folder together: each writes under a name of its own, and the last to
finish a run replaces it by the same.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd


def land(path: Path, write: Callable[[Path], object], *, only_if_new: bool = False) -> None:
    """Write a file under another name and move it, so that a file is whole or not there.

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
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # a full network disk may say so only now
            if only_if_new:
                _link(partial, path)
            else:
                partial.replace(path)
    finally:
        _remove(partial)


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


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # where a folder is not one, or cannot be written to, there is none
        return


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
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # of JSON, or of the encoding
        raise ValueError(_damaged(path, path, error)) from error
    if not isinstance(record, dict):
        raise ValueError(_damaged(path, path, f"a {type(record).__name__}, not a record"))
    return record


def write_table(path: Path, table: pd.DataFrame, repeated: Sequence[str] | None = ()) -> None:
    """Write a table as small as it gets: float32, in Parquet with checksums.

    Parameters
    ----------
    path : Path
    table : pd.DataFrame
    repeated : sequence of str, optional
        Columns of numbers of which many are equal; None: all may be.
    """
    floats = [name for name in table.columns if table[name].dtype == "float64"]
    table = table.astype(dict.fromkeys(floats, "float32"))
    numbers = [name for name in table.columns if table[name].dtype == "float32"]
    split = [] if repeated is None else [name for name in numbers if name not in repeated]
    land(path, lambda partial: table.to_parquet(
        partial, index=False, compression="zstd", compression_level=19,
        use_dictionary=[name for name in table.columns if name not in split],
        use_byte_stream_split=split, write_page_checksum=True,
    ))  # fmt: skip


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
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # those of Arrow are
        raise ValueError(_damaged(path, record or path, error)) from error


def _damaged(path: Path, record: Path, why: object) -> str:
    why = str(why).splitlines()[0] if str(why) else type(why).__name__
    return (
        f"{path} is damaged or missing ({why}), and a stored run is read whole or not at all: "
        f"remove {record} and make the call that wrote it again, which computes that run alone"
    )
