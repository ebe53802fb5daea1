"""Rounds of the simulation study, each stored as it finishes.

``python -m experiments.cooperativity.rounds book/parameters/simulation_paper_scale.yml --notebook
notebooks/simulation.ipynb`` computes what is missing of the rounds that a file names, or, with
``--scenario none --round 3``, one of them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepmr_utils import __version__
from deepmr_utils._files import read_record, read_table, write_record, write_table

from ..parameter_files import NOT_SETTINGS, check_name, read_parameters
from ..study import claim_values, run_missing, which
from . import simulation
from .one_round import (
    CALIBRATIONS,
    FEATURES,
    GLOBAL_KEYS,
    INTERVAL_COLUMNS,
    LOCAL_COLUMNS,
    MEMBER_COLUMNS,
    RoundResult,
    Settings,
    analyse_round,
    arrays,
    assess,
    draw_round,
    fit_round,
    local_effects,
    naive_effects,
    predict_split,
    run_round,
    with_truth,
)

__all__ = [
    "CALIBRATIONS",
    "FEATURES",
    "GLOBAL_KEYS",
    "INTERVAL_COLUMNS",
    "LOCAL_COLUMNS",
    "MEMBER_COLUMNS",
    "RoundResult",
    "Settings",
    "analyse_round",
    "arrays",
    "assess",
    "claim",
    "draw_round",
    "fit_round",
    "load_round",
    "local_effects",
    "main",
    "make_settings",
    "naive_effects",
    "plain",
    "predict_split",
    "run_round",
    "run_rounds",
    "store_round",
    "with_truth",
]


def run_rounds(
    settings: Settings,
    scenarios: Sequence[str],
    rounds: int | Sequence[int],
    directory: str | Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> list[RoundResult]:
    """Run rounds of each scenario, or find them again.

    Each round is stored in ``directory`` as it finishes, so an interrupted run resumes where it
    stopped; a round that was cut short is run again.

    Parameters
    ----------
    settings : Settings
    scenarios : sequence of str
    rounds : int or sequence of int
        How many, from 0 on, or which.
    directory : str or Path
        Made if needed. It belongs to one `Settings`.
    workers : int
        Rounds at a time, each in a process of its own with one thread.
    device : str
    progress : bool

    Returns
    -------
    list of RoundResult
        By scenario, then round.

    Raises
    ------
    ValueError
        If a scenario is unknown or the directory was written with other settings.
    """
    for scenario in scenarios:
        replace(settings.parameters, scenario=scenario)  # raises where unknown
    if not (numbers := which(rounds)) or not scenarios:
        raise ValueError(f"nothing to run: {rounds} rounds of {len(scenarios)} scenarios")
    directory = Path(directory)
    claim(directory, settings)
    keys = [(scenario, number) for scenario in scenarios for number in numbers]
    jobs = {key: (settings, *key, directory, device, workers > 1) for key in keys}
    run_missing(
        _run_and_store, jobs, lambda key: _record_path(directory, *key).exists(),
        workers=workers, progress=progress, desc="rounds",
    )  # fmt: skip
    return [load_round(directory, *key) for key in keys]


def _run_and_store(
    settings: Settings, scenario: str, round_: int, directory: Path, device: str, one_thread: bool
) -> None:
    if one_thread:
        torch.set_num_threads(1)
    store_round(directory, run_round(settings, scenario, round_, device=device))


def claim(directory: Path, settings: Settings) -> None:
    """Write the settings into a new directory, or check them in one that has been used."""
    path = directory / "settings.json"
    if not path.exists() and directory.exists() and any(directory.glob("*/round-*")):
        raise ValueError(f"{directory} holds rounds but no settings.json: choose another one")
    # what a setting of a later version leaves as it was need not have been written down
    claim_values(directory, plain(settings), plain(Settings()))


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as flat JSON values, without the scenario, which is a round's own."""
    values = asdict(settings)
    values |= {k: v for k, v in values.pop("parameters").items() if k != "scenario"}
    return json.loads(json.dumps({"deepmr_utils": __version__, **values}))


def _record_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.json"


def store_round(directory: Path, result: RoundResult) -> None:
    """Write a round: tables as float32 parquet, then the record, which marks it as finished."""
    path = _record_path(directory, result.record["scenario"], result.record["round"])
    # the truth and the naive effect are the same for every method
    write_table(path.with_suffix(".parquet"), result.local, ["truth", "truth_published", "naive"])
    quality = json.loads(result.quality.to_json(orient="records", double_precision=6))
    members = _member_lists(result.members)
    write_record(path, {**result.record, "quality": quality, "members": members})


def _member_lists(members: pd.DataFrame) -> list[list]:
    """Effects of all members of a row's stratum, calibration and method, as a JSON list."""
    keys = [name for name in GLOBAL_KEYS if name not in ("scenario", "round")]
    groups = members.sort_values("member", kind="stable").groupby(keys, sort=False)["effect"]
    return [[*key, values.astype(float).round(6).tolist()] for key, values in groups]


def load_round(directory: str | Path, scenario: str, round_: int) -> RoundResult:
    """Read a round that `store_round` wrote."""
    path = _record_path(Path(directory), scenario, round_)
    if not path.exists():
        raise FileNotFoundError(f"round {round_} of {scenario} is not in {directory}")
    record = read_record(path)
    quality = pd.DataFrame(record.pop("quality"))
    local = read_table(path.with_suffix(".parquet"), path)
    for name in set(INTERVAL_COLUMNS) - set(local):
        local[name] = np.nan  # a round stored by an earlier version has no total interval
    rows = [
        (scenario, round_, *key, member, effect)
        for *key, effects in record.pop("members", [])
        for member, effect in enumerate(effects)
    ]
    return RoundResult(local, quality, record, pd.DataFrame(rows, columns=MEMBER_COLUMNS))


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from flat values by the names of the notebooks' parameters.

    ``method`` and ``other_methods`` make the methods, ``other_parameters`` are more of the data's;
    what is no setting (where and how much to run) is passed over.
    """
    values = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
    if "method" in values:
        values["methods"] = [values.pop("method"), *values.pop("other_methods", [])]
    values |= values.pop("other_parameters", {})
    own = {f.name for f in fields(Settings)} - {"parameters"}
    data = {f.name for f in fields(simulation.Parameters)} - {"scenario"}
    for name in values:
        check_name(name, sorted(own | data))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    parameters = simulation.Parameters(**{k: v for k, v in values.items() if k in data})
    return Settings(parameters, **{k: v for k, v in values.items() if k in own})


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the rounds that a YAML file names."""
    parser = argparse.ArgumentParser(
        prog="experiments.cooperativity.rounds", description=main.__doc__
    )
    parser.add_argument("parameters", help="YAML: parameters of the notebook")
    parser.add_argument("--notebook", help="whose defaults hold for what the file does not say")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--scenario", help="only this")
    parser.add_argument("--round", type=int, help="only this")
    parser.add_argument("--workers", type=int, default=1, help="rounds at a time (default 1)")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    values = read_parameters(given.parameters, given.notebook)
    run_rounds(
        make_settings(values),
        [given.scenario] if given.scenario else values["scenarios"],
        values["rounds"] if given.round is None else [given.round],
        given.directory or values["results_directory"],
        workers=given.workers, device=given.device, progress=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
