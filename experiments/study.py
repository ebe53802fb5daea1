"""One way to run a study: units with settings, each stored whole, and the missing ones computed.

A module of `STUDIES` says which units there are and how one is computed and stored; ``python -m
experiments NAME FILE`` runs them. A folder belongs to one choice of settings. A unit that is cut
short leaves nothing that is taken for a result, the same call goes on where it stopped, and
processes may fill one folder together.
"""

import json
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
import pandas as pd
import torch

from deepmr_utils import __version__
from deepmr_utils._checks import check_choice
from deepmr_utils._files import land, read_record, read_table, write_record, write_table, write_text
from deepmr_utils.predict import progress_bar

from .parameter_files import NOT_SETTINGS, read_parameters, settings_key

STUDIES = {
    "simulation": "cooperativity.rounds", "sweeps": "cooperativity.sweeps",
    "shared_error": "cooperativity.shared_error", "bpnet": "binding.genomes",
    "own_responses": "binding.own_responses", "deepsea": "chromatin.draws", "atlas": "atlas_shares",
    "verdicts": "verdicts", "exon_definition": "splicing.exons",
}  # fmt: skip
OF_A_UNIT = ("scenario", "graph")  # parameters that differ between the units of a study
S = TypeVar("S")  # a dataclass of settings, with those of the data in its ``parameters``


class Unit(NamedTuple):
    """A part of a study that is computed and stored as one.

    Where all ``files`` are in its folder it is finished, or where ``kept`` says of that folder that
    something else there holds its result. ``compute`` is given the folder, and stores them.
    ``settings``, by folder below, are written there or compared. A ``last`` unit puts all others
    together. `open_study` adds the ``folder`` below the study's, where the file names sets of
    settings, and a ``key`` of them.
    """

    files: tuple[str, ...]
    compute: Callable[[Path], object]
    settings: Mapping[str, Any] = {}
    kept: Callable[[Path], bool] | None = None
    last: bool = False
    folder: str = ""
    key: str = ""

    def finished(self, directory: Path) -> bool:
        """Whether the result is there."""
        place = directory / self.folder
        there = all((place / file).exists() for file in self.files)
        return there or (self.kept is not None and self.kept(place))


class Study(NamedTuple):
    """What a module says of its study, as ``STUDY``.

    ``units`` lists them by name, from the values of a file and a device; ``notebook`` has the
    defaults of what a file does not say.
    """

    units: Callable[[dict[str, Any], str], dict[str, Unit]]
    notebook: str | None = None


def open_study(name: str, file: str | Path, device: str = "cpu") -> tuple[dict[str, Unit], str]:
    """Read the units of a study, and check their settings.

    Parameters
    ----------
    name : str
        A key of `STUDIES`.
    file : path
        YAML: its parameters. Those under ``sets`` are several choices of settings by name, each
        with a folder of its own.
    device : str

    Returns
    -------
    tuple of dict and str
        Units by name, those of several sets in turn, so that what there is of an unfinished study
        is balanced; and the folder that the file names, or "".

    Raises
    ------
    ValueError
        If a name or a value is none that the study knows.
    """
    module = STUDIES[check_choice("study", name, list(STUDIES))]
    study = import_module(f".{module}", __package__).STUDY
    own, notebook = read_parameters(file), study.notebook
    if notebook is not None:
        notebook = Path(__file__).parents[1] / "notebooks" / notebook
    values, found = read_parameters(file, notebook), []
    for folder, given in own.get("sets", {"": own}).items():
        try:
            units = study.units({**values, **given}, device)
        except KeyError as error:
            raise ValueError(f"{file} lacks {error}, which the study {name} needs") from error
        for place, (label, unit) in enumerate(units.items()):
            unit = unit._replace(folder=folder, key=settings_key(given))
            found.append((place / len(units), f"{folder}/{label}".lstrip("/"), unit))
    found.sort(key=lambda one: one[0])
    return {label: unit for _, label, unit in found}, values.get("results_directory", "")


def run_units(
    units: Mapping[str, Unit], directory: str | Path, *, workers: int = 1, progress: bool = False
) -> None:
    """Compute the units that are not finished, and then those that put all together.

    Parameters
    ----------
    units : mapping of str to Unit
    directory : path
        Made if needed. Every folder belongs to one choice of settings.
    workers : int
        Units at a time, each in a process of its own with one thread.
    progress : bool

    Raises
    ------
    ValueError
        If there is no unit, or a folder was written with other settings; nothing is computed then.
    """
    if not units:
        raise ValueError("nothing to run: the study has no units")
    directory = Path(directory)
    for folder, settings in _settings(units.values(), directory).items():
        write_or_compare_settings(folder, settings)
    parts = [unit for unit in units.values() if not unit.last]
    missing = [unit for unit in parts if not unit.finished(directory)]
    for folder in _settings(missing, directory):
        _tell_another_version(folder)
    calls = (joblib.delayed(_compute)(unit, directory, workers > 1) for unit in missing)
    done = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    found = len(parts) - len(missing)
    for _ in progress_bar(done, progress, desc="units", total=len(parts), initial=found):
        pass
    for unit in units.values():
        if unit.last:
            unit.compute(directory / unit.folder)


def _settings(units: Iterable[Unit], directory: Path) -> dict[Path, Any]:
    """Settings of units, by the folders that they belong to."""
    return {
        directory / unit.folder / below: settings
        for unit in units
        for below, settings in unit.settings.items()
    }


def _compute(unit: Unit, directory: Path, one_thread: bool) -> None:
    if one_thread:
        torch.set_num_threads(1)
    if not unit.finished(directory):  # another process may have been there in the meantime
        unit.compute(directory / unit.folder)


def make_settings(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from flat values by name, of which those of the data go to ``parameters``.

    What is no setting (where and how much to run) is passed over.
    """
    data = kind.__dataclass_fields__["parameters"].default_factory
    own = {field.name for field in fields(kind)} - {"parameters"}
    known = own | {field.name for field in fields(data)} - set(OF_A_UNIT)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    given = {k: v for k, v in given.items() if k not in NOT_SETTINGS}
    for name in given:
        check_choice("parameter", name, sorted(known))
    parameters = data(**{k: v for k, v in given.items() if k not in own})
    return kind(parameters, **{k: v for k, v in given.items() if k in own})


def check_choices(name: str, values: Sequence[str], valid: Sequence[str]) -> None:
    """Raise where a list of choices is empty, or holds what is none of them."""
    for value in values or ("",):
        check_choice(name, value, valid)


def flat_settings(settings: Any) -> dict[str, Any]:
    """Settings as flat JSON values, without what is a unit's own."""
    values = asdict(settings)
    values |= {k: v for k, v in values.pop("parameters").items() if k not in OF_A_UNIT}
    return json.loads(json.dumps({"deepmr_utils": __version__, **values}))


def stored_settings(kind: type[S], directory: str | Path) -> S:
    """The settings that a folder belongs to."""
    return make_settings(kind, read_record(Path(directory) / "settings.json"))


def write_or_compare_settings(directory: str | Path, settings: Any) -> None:
    """Write settings into a new folder, or compare them with those of one that has been used.

    What a setting of a later version leaves as it was need not have been written down. The version
    itself is no setting: each unit's record has its own.

    Raises
    ------
    ValueError
        If the folder was written with other settings, or holds results without any.
    """
    path, mine = Path(directory) / "settings.json", flat_settings(settings)
    if not path.exists():
        stored = (path.parent.glob(f"{below}r*-[0-9][0-9][0-9].*") for below in ("", "*/"))
        if any(next(found, None) for found in stored):
            raise ValueError(f"{directory} holds results but no settings.json: choose another one")
        text = json.dumps(mine, indent=1) + "\n"
        land(path, lambda partial: partial.write_text(text), only_if_new=True)
    theirs = {**flat_settings(type(settings)()), **read_record(path)}
    names = (mine.keys() | theirs.keys()) - {"deepmr_utils"}
    names = sorted(n for n in names if mine.get(n) != theirs.get(n))
    if names:
        differences = "; ".join(f"{n}: {theirs.get(n)} there, {mine.get(n)} now" for n in names)
        raise ValueError(
            f"{directory} was written with other settings ({differences}): choose another results "
            "directory, or remove it to run again"
        )


def _tell_another_version(directory: Path) -> None:
    before = read_record(directory / "settings.json").get("deepmr_utils")
    if before != __version__:
        warnings.warn(
            f"{directory} was begun by deepmr_utils {before}; what is missing is computed by "
            f"{__version__}, and the record of each unit says by which",
            stacklevel=3,  # whoever calls run_units
        )


def table_units(
    name: str,
    columns: Sequence[str],
    keys: Sequence[tuple],
    rows: Callable[..., pd.DataFrame],
    float_format: str | None = None,
) -> dict[str, Unit]:
    """Units of a study whose result is one table, of which a unit computes some rows.

    Parameters
    ----------
    name : str
        The table is ``name.csv``; each unit's rows are in a file of the folder ``name`` until the
        last unit puts them together.
    columns : sequence of str
        Whose values tell units apart. Rows that the table has already are finished.
    keys : sequence of tuple
        Their values, one a unit.
    rows : callable
        Gives the rows of a key, with these columns.
    float_format : str, optional
        Of the numbers in the files.
    """
    columns, table = list(columns), f"{name}.csv"
    files = {key: f"{name}/{'-'.join(map(str, key)).replace(' ', '-')}.csv" for key in keys}

    def read(path: Path) -> pd.DataFrame:
        return pd.read_csv(path) if path.exists() else pd.DataFrame()

    def write(path: Path, rows_: pd.DataFrame) -> None:
        write_text(path, rows_.to_csv(index=False, float_format=float_format))

    def kept(folder: Path, key: tuple) -> pd.DataFrame:
        held = read(folder / table)
        return held[(held[columns] == list(key)).all(axis=1)] if len(held) else held

    def store(folder: Path, key: tuple) -> None:
        found = kept(folder, key)
        write(folder / files[key], found if len(found) else rows(*key))

    def put_together(folder: Path) -> None:
        parts = [read(folder / file) for file in (*files.values(), table)]
        every = pd.concat([part for part in parts if len(part)])
        write(folder / table, every.drop_duplicates().sort_values(columns, kind="stable"))

    units = {
        Path(file).stem: Unit(
            (file,),
            partial(store, key=key),
            kept=lambda folder, key=key: len(kept(folder, key)) > 0,
        )
        for key, file in files.items()
    }
    return units | {"table": Unit((table,), put_together, last=True)}


def store_result(path: Path, result: Any) -> None:
    """Write a NamedTuple of tables as small parquet files, then its record, which marks the end."""
    for name, table in result._asdict().items():
        if name != "record":
            write_table(_table_path(path, name), table)
    write_record(path, result.record)


def load_result(kind: type[S], path: Path) -> S:
    """Read a result that `store_result` wrote.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}")
    names = [name for name in kind._fields if name != "record"]
    tables = [read_table(_table_path(path, name), path) for name in names]
    return kind(*tables, read_record(path))


def _table_path(record: Path, name: str) -> Path:
    return record.with_name(f"{record.stem}-{name.strip('_')}.parquet")


class Clock:
    """Wall-clock seconds of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds that the body of a ``with`` takes to those of a stage."""
        start = time.perf_counter()
        yield
        seconds = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.seconds[stage] = round(seconds, 3)


def provenance() -> dict[str, str]:
    """Versions, git revision and machine that a result comes from."""
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "deepmr_utils": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "git_revision": git.stdout.strip() if git.returncode == 0 else "not a git checkout",
    }
