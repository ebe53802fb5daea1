"""Files that a report reads: tables, sequences and labels of windows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .._checks import (
    check_columns,
    check_file,
    check_installed,
    check_names,
    distinct_text,
    numbers,
)
from ..regions import read_fasta
from .models import DEMO

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


def demo_windows(index: str | None = None) -> pd.DataFrame:
    """Windows of the demo, with their sequences and labels."""
    return pd.read_csv(DEMO / "windows.csv", index_col=index)


def read_table(path: Path, what: str) -> pd.DataFrame:
    """A table, in a file of text or of Parquet."""
    check_file(path)
    if path.suffix == ".parquet":
        check_installed("store", "pyarrow")
        return pd.read_parquet(path)
    if not path.name.endswith(TABLES):
        raise ValueError(f"{what} must be .csv, .tsv or .parquet; got {path.name}")
    return pd.read_csv(path, sep="\t" if ".tsv" in path.name else ",")


def read_sequences(path: Path) -> pd.DataFrame:
    """``sequence_id, sequence`` of a table or a FASTA file."""
    if not path.name.endswith(TABLES):
        return read_fasta(check_file(path))
    table = read_table(path, "a table of sequences")
    check_columns(table, ["sequence_id", "sequence"], f"the table {path.name}")
    table["sequence_id"] = distinct_text(table, "sequence_id")
    if table["sequence_id"].duplicated().any():
        twice = table["sequence_id"][table["sequence_id"].duplicated()].iloc[0]
        raise ValueError(f"every sequence_id must be there once; twice: {twice}")
    return table[["sequence_id", "sequence"]]


def read_labels(
    given: Sequence[str], pool: pd.DataFrame, names: Sequence[str] | None
) -> pd.DataFrame:
    """Labels of windows, a column a feature.

    Parameters
    ----------
    given : sequence of str
        One table, or a bigWig of each feature, ``feature=file.bw``.
    pool : pd.DataFrame
        Windows, with ``chrom, start, end`` where there are bigWigs.
    names : sequence of str, optional
        Of features, as far as they are known.

    Returns
    -------
    pd.DataFrame, float64
        By ``sequence_id``; windows without a label have no row.
    """
    ids = pool["sequence_id"]
    tracks = dict(text.split("=", 1) for text in given if "=" in text)
    if len(tracks) == len(given):
        table = _read_tracks(tracks, pool)
    elif len(given) == 1:
        table = read_table(Path(given[0]), "a table of labels")
        check_columns(table, ["sequence_id"], "the table of labels")
        table = table.set_index(table["sequence_id"].astype(str)).drop(columns="sequence_id")
    else:
        raise ValueError("must be one table, or a bigWig of each feature, 'feature=file.bw'")
    shown = [name for name in table if names is None or name in names]
    if names is not None and not shown:
        raise ValueError(
            f"no column has the name of a feature: there are {', '.join(map(str, table))}, "
            f"features are {', '.join(names)}"
        )
    if tracks and len(shown) < len(tracks):
        check_names("feature", tracks, names)
    table = table[table.index.isin(ids)][shown]
    if table.empty:
        raise ValueError(f"no sequence_id is that of a window, such as {ids.iloc[0]}")
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"a window has one row; twice: {twice}")
    return table.apply(lambda column: numbers(column, f"labels of {column.name}"))


def _read_tracks(tracks: Mapping[str, str], pool: pd.DataFrame) -> pd.DataFrame:
    """log(1 + sum) of bigWigs over windows of a genome."""
    if "chrom" not in pool:
        raise ValueError("bigWigs are read at regions: give regions and genome, or a table")
    check_installed("files", "pybigtools")
    import pybigtools

    table = pd.DataFrame(index=pd.Index(pool["sequence_id"], name="sequence_id"))
    for feature, path in tracks.items():
        with pybigtools.open(str(check_file(path))) as file:
            sizes = file.chroms()
            unknown = [c for c in pool["chrom"] if c not in sizes]
            if unknown:
                raise ValueError(f"{path} has no chromosome {unknown[0]!r}")
            sums = [
                np.sum(file.values(c, max(a, 0), min(b, sizes[c]), fillna=0))
                for c, a, b in pool[["chrom", "start", "end"]].itertuples(index=False)
            ]
        table[feature] = np.log1p(sums)
    return table
