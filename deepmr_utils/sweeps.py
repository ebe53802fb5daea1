"""Sweeps of the simulation study: which choice moves bias, coverage and width of the effects.

Settings that differ only in what is done with a trained ensemble (instruments, estimators,
members, calibration, direction) share it. All have the same data: they are compared in pairs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from . import round_scores
from . import rounds as study
from .predict import progress_bar
from .rounds import Settings
from .training import Ensemble

ANALYSIS = (  # what is done with a trained ensemble; its size is, since a smaller one is part of it
    "n_members",
    "calibrations",
    "rule",
    "threshold",
    "methods",
    "direction",
    "interval_rule",
    "moderate",
)
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
    mine = {f.name for f in fields(Settings)} - {"parameters"}
    theirs = {f.name for f in fields(base.parameters)} - {"scenario"}
    for name, values in changes.items():
        if name not in mine | theirs | {"instruments", "confounding"}:
            valid = ", ".join(["instruments", "confounding", *sorted(mine | theirs)])
            raise ValueError(f"unknown setting {name!r}: choose among {valid}")
        for value in values:
            label = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            if name == "instruments":
                changed = replace(base, rule=value[0], threshold=float(value[1]))
            elif name == "confounding":
                strengths = {n: value * getattr(base.parameters, n) for n in CONFOUNDING}
                changed = replace(base, parameters=replace(base.parameters, **strengths))
            elif name in mine:
                value = tuple(value) if isinstance(value, list) else value
                changed = replace(base, **{name: value})
            else:
                changed = replace(base, parameters=replace(base.parameters, **{name: value}))
            settings[f"{name} {label}"] = changed
    return settings


def run_sweep(
    settings: Mapping[str, Settings],
    scenarios: Sequence[str],
    rounds: int,
    directory: str | Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> pd.DataFrame:
    """Run rounds 0 to ``rounds - 1`` of each scenario under each setting, or find them again.

    Parameters
    ----------
    settings : mapping of str to Settings
        By name, for instance of `one_at_a_time`.
    scenarios : sequence of str
    rounds : int
    directory : str or Path
        Every setting has a subdirectory that belongs to it, with the global effects of every round
        in a file of its own, written as it finishes.
    workers : int
        Ensembles at a time, each in a process of its own with one thread.
    device : str
    progress : bool

    Returns
    -------
    pd.DataFrame
        The columns of `deepmr_utils.round_scores.global_table` after ``setting``; ``r2``, of the
        worse learned feature, and ``seconds`` of the round with all settings that share its
        ensemble. A round in which no sequence has an estimate, for want of instruments, has no
        row.

    Notes
    -----
    An ensemble of M members is the first M of a larger one from the same seed, so ensembles of
    several sizes are trained once, at the largest.
    """
    for scenario in scenarios:
        replace(next(iter(settings.values())).parameters, scenario=scenario)  # raises where unknown
    if rounds < 1 or not scenarios:
        raise ValueError(f"nothing to run: {rounds} rounds of {len(scenarios)} scenarios")
    paths = {name: Path(directory) / _slug(name) for name in settings}
    if len(set(paths.values())) < len(paths):
        raise ValueError(f"settings need names that differ in letters or numbers: {list(settings)}")
    for name, one in settings.items():
        study.claim(paths[name], one)
    keys = [(scenario, round_) for scenario in scenarios for round_ in range(rounds)]
    units = []
    for names in _same_ensemble(settings):
        for key in keys:
            missing = [name for name in names if not _table_path(paths[name], *key).exists()]
            if missing:
                units.append(({paths[name]: settings[name] for name in missing}, *key))
    jobs = (joblib.delayed(_run_and_store)(*unit, device, workers > 1) for unit in units)
    done = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    for _ in progress_bar(done, progress, desc="ensembles", total=len(units)):
        pass
    tables = [
        pd.read_csv(_table_path(path, *key)).assign(setting=name)
        for name, path in paths.items()
        for key in keys
    ]
    table = pd.concat([one for one in tables if len(one)] or tables, ignore_index=True)
    return table[["setting", *table.columns.drop("setting")]]


def _same_ensemble(settings: Mapping[str, Settings]) -> Iterator[list[str]]:
    """Names of settings with the same data and training."""
    groups: dict[str, list[str]] = {}
    for name, one in settings.items():
        plain = study.plain(one)
        key = joblib.hash({k: v for k, v in plain.items() if k not in ANALYSIS})
        groups.setdefault(key, []).append(name)
    yield from groups.values()


def _run_and_store(
    settings: Mapping[Path, Settings], scenario: str, round_: int, device: str, one_thread: bool
) -> None:
    if one_thread:
        torch.set_num_threads(1)
    clock, cache = study.Clock(), {}
    with clock("round"):
        largest = max(settings.values(), key=lambda one: one.n_members)
        data, seed = study.draw_round(largest, scenario, round_)
        ensemble = study.fit_round(data, seed, largest, device=device)
        tables = {}
        for path, one in settings.items():
            few = Ensemble(ensemble.members[: one.n_members], ensemble.report[: one.n_members])
            result = study.analyse_round(few, data, one, round_, device=device, cache=cache)
            table = round_scores.global_table([result])
            tables[path] = table.assign(r2=result.quality["r2"].min())
    for path, table in tables.items():
        target = _table_path(path, scenario, round_)
        target.parent.mkdir(parents=True, exist_ok=True)
        table = table.assign(seconds=clock.seconds["round"], **study.provenance())
        study.write_text(target, table.to_csv(index=False, float_format="%.6g"))


def _table_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.csv"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)
