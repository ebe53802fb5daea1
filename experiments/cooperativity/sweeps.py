"""Sweeps of the simulation study: which choice moves bias, coverage and width of the effects.

Settings that differ only in what is done with a trained ensemble (instruments, estimators,
members, calibration, direction) share it. All have the same data: they are compared in pairs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from deepmr_utils._checks import check_choice
from deepmr_utils._files import undamaged, write_text

from ..study import Clock, Study, Unit, flat_settings, provenance, run_units
from ..training import Ensemble
from . import round_scores
from .one_round import Settings, analyse_round, draw_round, fit_round
from .rounds import check_rounds, simulation_settings

# What is done with a trained ensemble; its size is, since a smaller one is part of it
ANALYSIS = {
    "n_members", "calibrations", "design", "rule", "threshold", "methods", "weights", "direction",
    "interval_rule", "moderate",
}  # fmt: skip
CONFOUNDING = ("eta", "nu", "tau1", "tau2")


def one_at_a_time(base: Settings, changes: Mapping[str, Sequence[Any]]) -> dict[str, Settings]:
    """Settings that differ from ``base`` in one thing each.

    Parameters
    ----------
    base : Settings
    changes : mapping
        Values to try, by name: a field of `Settings` or of its parameters; ``"instruments"``, pairs
        of rule and threshold; or ``"confounding"``, factors of all confounder strengths.

    Returns
    -------
    dict
        By a name such as ``"n_members 10"``, ``"baseline"`` first.
    """
    settings = {"baseline": base}
    own = {field.name for field in fields(Settings)} - {"parameters"}
    data = {field.name for field in fields(base.parameters)} - {"scenario"}
    for name, values in changes.items():
        check_choice("setting", name, ["instruments", "confounding", *sorted(own | data)])
        for value in values:
            value = tuple(value) if isinstance(value, list) else value
            changed = {name: value}
            if name == "instruments":
                changed = {"rule": value[0], "threshold": float(value[1])}
            elif name == "confounding":
                changed = {n: value * getattr(base.parameters, n) for n in CONFOUNDING}
            if not changed.keys() <= own:
                changed = {"parameters": replace(base.parameters, **changed)}
            label = " ".join(map(str, value)) if isinstance(value, tuple) else value
            settings[f"{name} {label}"] = replace(base, **changed)
    return settings


def sweep_units(
    settings: Mapping[str, Settings], scenarios: Sequence[str], rounds: int, device: str = "cpu"
) -> dict[str, Unit]:
    """Rounds of each scenario under each setting; those that share an ensemble are one unit.

    A unit is named after the first of its settings, and every setting has a folder of its own.
    """
    folders = {name: _folder(name) for name in settings}
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"settings need names that differ in letters or numbers: {list(settings)}")
    groups: dict[str, list[str]] = {}
    for name, one in settings.items():
        key = joblib.hash({k: v for k, v in flat_settings(one).items() if k not in ANALYSIS})
        groups.setdefault(key, []).append(name)
    units = {}
    keys = check_rounds(next(iter(settings.values())), scenarios, rounds)
    for names in groups.values():
        own = {folders[name]: settings[name] for name in names}
        for scenario, number in keys:
            units[f"{folders[names[0]]}/{scenario}/round-{number:03d}"] = Unit(
                tuple(f"{folder}/{scenario}/round-{number:03d}.csv" for folder in own),
                partial(_run_and_store, own, scenario, number, device), own,
            )  # fmt: skip
    return units


def _folder(setting: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", setting)


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    base, wanted = simulation_settings(values), {}
    for changes, scenarios in (("analyses", "scenarios"), ("training", "training_scenarios")):
        for scenario in values[scenarios]:
            settings = one_at_a_time(base, values.get(changes) or {})
            wanted[scenario] = wanted.get(scenario, {}) | settings
    return {
        name: unit
        for scenario, settings in wanted.items()
        for name, unit in sweep_units(settings, [scenario], values["rounds"], device).items()
    }


STUDY = Study(_units, "sweeps.ipynb")


def run_sweep(
    settings: Mapping[str, Settings], scenarios: Sequence[str], rounds: int, directory: str | Path,
    *, workers: int = 1, device: str = "cpu", progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Run so many rounds of each scenario under each setting, or find them again.

    Parameters
    ----------
    settings : mapping of str to Settings
        By name, for instance of `one_at_a_time`.
    scenarios : sequence of str
    rounds : int
    directory, workers, progress
        As in `experiments.study.run_units`.
    device : str

    Returns
    -------
    pd.DataFrame
        The columns of `.round_scores.global_table` after ``setting``; ``r2``, of the
        worse learned feature, and ``seconds`` of the round with all settings that share its
        ensemble. A round in which no sequence has an estimate, for want of instruments, has no
        row.

    Notes
    -----
    An ensemble of M members is the first M of a larger one from the same seed, so ensembles of
    several sizes are trained once, at the largest.
    """
    units = sweep_units(settings, scenarios, rounds, device)
    run_units(units, directory, workers=workers, progress=progress)
    tables = [
        read_sweep_table(_table_path(Path(directory) / _folder(name), *key)).assign(setting=name)
        for name in settings
        for key in check_rounds(settings[name], scenarios, rounds)
    ]
    table = pd.concat([one for one in tables if len(one)] or tables, ignore_index=True)
    return table[["setting", *table.columns.drop("setting")]]


def _run_and_store(
    settings: Mapping[str, Settings], scenario: str, round_: int, device: str, directory: Path
) -> None:
    paths = {folder: _table_path(directory / folder, scenario, round_) for folder in settings}
    settings = {folder: one for folder, one in settings.items() if not paths[folder].exists()}
    largest = max(settings.values(), key=lambda one: one.n_members)
    clock, cache, tables = Clock(), {}, {}
    with clock("round"):
        data, seed = draw_round(largest, scenario, round_)
        ensemble = fit_round(data, seed, largest, device=device)
        for folder, one in settings.items():
            few = Ensemble(ensemble.members[: one.n_members], ensemble.report[: one.n_members])
            result = analyse_round(few, data, one, round_, device=device, cache=cache)
            table = round_scores.global_table([result])
            tables[folder] = table.assign(r2=result.quality["r2"].min())
    for folder, table in tables.items():
        table = table.assign(seconds=clock.seconds["round"], **provenance())
        write_text(paths[folder], table.to_csv(index=False, float_format="%.5g"))


def _table_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.csv"


def read_sweep_table(path: Path) -> pd.DataFrame:
    """A stored table; what a text file loses at its end is noticed by its last line."""
    with undamaged(path):
        text = path.read_text()
        table = pd.read_csv(path)
        whole = text.endswith("\n") and {"effect", "git_revision"} <= set(table.columns)
        if not whole or table["git_revision"].isna().any():
            raise ValueError("its end is missing")
    return table


def stored_sweeps(directory: str | Path) -> pd.DataFrame:
    """All stored tables of a sweep, the baseline first, with their ``setting``."""
    tables = []
    for path in Path(directory).glob("*/*/round-*.csv"):
        table = read_sweep_table(path)
        if len(table):
            tables.append(table.assign(setting=_setting(path.parts[-3])))
    table = pd.concat(tables, ignore_index=True)
    order = table["setting"].map(lambda name: (name != "baseline", *_parts(name)))
    return (
        table.assign(order=order).sort_values(["order", "scenario", "round"]).drop(columns="order")
    )


def _setting(folder: str) -> str:
    return re.sub("^n ", "n_", folder.replace("-", " "))


def _parts(setting: str) -> tuple[str, float]:
    name, _, value = setting.rpartition(" ")
    return (name, float(value)) if re.fullmatch(r"[\d.]+", value) else (setting, 0.0)


WORDS = {
    "baseline": "recommended analysis", "design all": "strong substitutions anywhere",
    "design strongest": "substitutions of the feature moved most",
    "weights simple": "weights by variance", "n_members": "{:g} members",
    "n_train": "{:,.0f} sequences", "n_augmented": "{:,.0f} labelled mutants",
    "epochs": "{:g} epochs", "confounding": "confounders × {:g}",
    "calibrations isotonic": "isotonic recalibration", "ivw": "inverse-variance weighting",
    "egger": "MR-Egger", "egger_robust": "robust MR-Egger",
    "median_weighted": "weighted median",
}  # fmt: skip


def in_words(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with names of settings and methods spelled out."""
    settings = {}
    for setting in scores["setting"].unique():
        name, value = _parts(setting)
        settings[setting] = WORDS.get(name, setting).format(value)
    return scores.replace({"setting": settings, "method": WORDS})


ARMS = {
    "same data": "the same data", "own data": "data of its own", "4 x data": "four times the data",
    "60 epochs": "three times the epochs",
}  # fmt: skip


def shared_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The stored table of the study ``shared_error``, in words: a row a scenario and training."""
    names = {"none": "no confounding", "both": "both"}
    mean = scores.groupby(["scenario", "arm", "stratum"])[
        ["slope", "coverage", "rmse", "between"]
    ].mean()
    rows = {}
    for scenario, name in names.items():
        for arm, words in ARMS.items():
            whole, few = (
                mean.loc[(scenario, arm, stratum)]
                for stratum in ("both motifs", "exposure motif only")
            )
            rows[f"{name}, {words}"] = {
                "Slope": f"{whole['slope']:.3f}",
                "Covered, both motifs": f"{whole['coverage']:.0%}",
                "Error, exposure only": f"{few['rmse']:.2f}",
                "Between, exposure only": f"{few['between']:.2f}",
                "Covered, exposure only": f"{few['coverage']:.0%}",
            }
    return pd.DataFrame(rows).T.rename_axis(index=None, columns="Scenario, each member")
