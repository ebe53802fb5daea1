"""Sweeps of the simulation study: which choice moves bias, coverage and width of the effects.

Settings that differ only in what is done with a trained ensemble (instruments, estimators,
members, calibration, direction) share it. All have the same data: they are compared in pairs.

``python -m experiments.cooperativity.sweeps book/parameters/sweeps_paper_scale.yml --notebook
notebooks/sweeps.ipynb`` computes what is missing of the sweeps that a file names, or, with
``--settings "n_train 2500" --scenario both --round 3``, a part of them.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from deepmr_utils._files import undamaged, write_text

from ..parameter_files import folder_name, read_parameters, setting_name
from ..study import Clock, provenance, run_missing, which
from ..training import Ensemble
from . import round_scores
from . import rounds as study
from .rounds import Settings

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
            label = setting_name(name, value)
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
            settings[label] = changed
    return settings


def run_sweep(
    settings: Mapping[str, Settings],
    scenarios: Sequence[str],
    rounds: int | Sequence[int],
    directory: str | Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> pd.DataFrame:
    """Run rounds of each scenario under each setting, or find them again.

    Parameters
    ----------
    settings : mapping of str to Settings
        By name, for instance of `one_at_a_time`.
    scenarios : sequence of str
    rounds : int or sequence of int
        How many, from 0 on, or which.
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
        The columns of `.round_scores.global_table` after ``setting``; ``r2``, of the
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
    if not (numbers := which(rounds)) or not scenarios:
        raise ValueError(f"nothing to run: {rounds} rounds of {len(scenarios)} scenarios")
    paths = {name: Path(directory) / folder_name(name) for name in settings}
    if len(set(paths.values())) < len(paths):
        raise ValueError(f"settings need names that differ in letters or numbers: {list(settings)}")
    for name, one in settings.items():
        study.claim(paths[name], one)
    keys = [(scenario, round_) for scenario in scenarios for round_ in numbers]
    units = {
        (*names, *key): ({paths[name]: settings[name] for name in names}, *key, device, workers > 1)
        for names in _same_ensemble(settings)
        for key in keys
    }
    run_missing(
        _run_and_store, units,
        lambda unit: all(_table_path(paths[name], *unit[-2:]).exists() for name in unit[:-2]),
        workers=workers, progress=progress, desc="ensembles",
    )  # fmt: skip
    tables = [
        _read(_table_path(path, *key)).assign(setting=name)
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
    settings = {
        p: one for p, one in settings.items() if not _table_path(p, scenario, round_).exists()
    }
    largest = max(settings.values(), key=lambda one: one.n_members)
    clock, cache = Clock(), {}
    with clock("round"):
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
        table = table.assign(seconds=clock.seconds["round"], **provenance())
        write_text(target, table.to_csv(index=False, float_format="%.6g"))


def _table_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.csv"


def _read(path: Path) -> pd.DataFrame:
    """A stored table; what a text file loses at its end is noticed by its last line."""
    with undamaged(path):
        text = path.read_text()
        table = pd.read_csv(path)
        whole = text.endswith("\n") and {"effect", "git_revision"} <= set(table.columns)
        if not whole or table["git_revision"].isna().any():
            raise ValueError("its end is missing")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the sweeps that a YAML file names."""
    parser = argparse.ArgumentParser(
        prog="experiments.cooperativity.sweeps", description=main.__doc__
    )
    parser.add_argument("parameters", help="YAML: parameters of the notebook")
    parser.add_argument("--notebook", help="whose defaults hold for what the file does not say")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--settings", nargs="+", help="only these, such as baseline 'n_train 2500'")
    parser.add_argument("--scenario", help="only this")
    parser.add_argument("--round", type=int, help="only this")
    parser.add_argument("--workers", type=int, default=1, help="ensembles at a time (default 1)")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    values = read_parameters(given.parameters, given.notebook)
    base = study.make_settings(values)
    parts = {
        scenarios: one_at_a_time(base, values.get(changes) or {})
        for changes, scenarios in (("analyses", "scenarios"), ("training", "training_scenarios"))
    }
    known = {name for settings in parts.values() for name in settings}
    for name in given.settings or ():
        if name not in known:
            raise ValueError(f"unknown setting {name!r}: choose among {', '.join(sorted(known))}")
    for scenarios, settings in parts.items():
        chosen = {k: v for k, v in settings.items() if k in (given.settings or known)}
        if chosen:
            run_sweep(
                chosen,
                [given.scenario] if given.scenario else values[scenarios],
                values["rounds"] if given.round is None else [given.round],
                given.directory or values["results_directory"],
                workers=given.workers, device=given.device, progress=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
