"""Rounds of the simulation study, each stored as it finishes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepmr_utils import intervals
from deepmr_utils._files import read_record, read_table, write_record, write_table

from ..study import Study, Unit, make_settings, run_units
from . import one_round
from .one_round import RoundResult, Settings, run_round

ENDS = ["ci_low", "ci_high", "total_ci_low", "total_ci_high"]
MEMBERS = ["between_se", "n_members"]
COLUMNS = ["scenario", "round", "sequence_id", "truth", "truth_published", "truth_status"]
COLUMNS += ["stratum", *one_round.LOCAL_COLUMNS[1:], *one_round.INTERVAL_COLUMNS]
COLUMNS += ["naive", "calibration"]  # of a local table


def simulation_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from flat values by the names of the notebooks' parameters.

    ``method`` and ``other_methods`` make the methods, ``other_parameters`` are more of the data's.
    """
    values = dict(values)
    if "method" in values:
        values["methods"] = [values.pop("method"), *values.pop("other_methods", [])]
    return make_settings(Settings, values | values.pop("other_parameters", {}))


def check_rounds(settings: Settings, scenarios: Sequence[str], rounds: int) -> list[tuple]:
    """Scenario and number of every round, or a ValueError where there is none."""
    for scenario in scenarios:
        replace(settings.parameters, scenario=scenario)  # raises where unknown
    if rounds < 1 or not scenarios:
        raise ValueError(f"nothing to run: {rounds} rounds of {len(scenarios)} scenarios")
    return [(scenario, number) for scenario in scenarios for number in range(rounds)]


def round_units(
    settings: Settings, scenarios: Sequence[str], rounds: int, device: str = "cpu"
) -> dict[str, Unit]:
    """Rounds of each scenario as units of a study."""
    return {
        f"{scenario}/round-{number:03d}": Unit(
            (f"{scenario}/round-{number:03d}.json",),
            partial(_run_and_store, settings, scenario, number, device),
            {"": settings},
        )
        for scenario, number in check_rounds(settings, scenarios, rounds)
    }


def _run_and_store(
    settings: Settings, scenario: str, round_: int, device: str, directory: Path
) -> None:
    store_round(directory, run_round(settings, scenario, round_, device=device))


STUDY = Study(
    lambda values, device: round_units(
        simulation_settings(values), values["scenarios"], values["rounds"], device
    ),
    "simulation.ipynb",
)


def run_rounds(
    settings: Settings, scenarios: Sequence[str], rounds: int, directory: str | Path, *,
    workers: int = 1, device: str = "cpu", progress: bool = False,
) -> list[RoundResult]:  # fmt: skip
    """Run so many rounds of each scenario, or find them again.

    Parameters
    ----------
    settings : Settings
    scenarios : sequence of str
    rounds : int
    directory, workers, progress
        As in `experiments.study.run_units`.
    device : str

    Returns
    -------
    list of RoundResult
        By scenario, then round.

    Raises
    ------
    ValueError
        If a scenario is unknown or the directory was written with other settings.
    """
    units = round_units(settings, scenarios, rounds, device)
    run_units(units, directory, workers=workers, progress=progress)
    return [load_round(directory, *key) for key in check_rounds(settings, scenarios, rounds)]


def _record_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.json"


def store_round(directory: Path, result: RoundResult) -> None:
    """Write a round: a table as small parquet, then the record, which marks it as finished.

    Ends of intervals that `interval_ends` finds again are left out.
    """
    path = _record_path(directory, result.record["scenario"], result.record["round"])
    ends = interval_ends(result.local)
    again = [end for end in ends if same_ends(result.local, ends, end)]
    # intervals may be narrow: whether they contain a truth hangs on its distance from the estimate
    fine = ["causal_effect", "truth"]
    write_table(path.with_suffix(".parquet"), result.local.drop(columns=again), fine)
    quality = json.loads(result.quality.to_json(orient="records", double_precision=6))
    members = _member_lists(result.members)
    write_record(path, {**result.record, "quality": quality, "members": members})


def load_rounds(directory: str | Path) -> list[RoundResult]:
    """Read all rounds that a folder has, of all scenarios; it need not be there."""
    paths = sorted(Path(directory).glob("*/round-*.json"))
    keys = [(path.parent.name, int(path.stem.removeprefix("round-"))) for path in paths]
    return [load_round(directory, *key) for key in keys]


def _member_lists(members: pd.DataFrame) -> list[list]:
    """Effects of all members of a row's stratum, calibration and method, as a JSON list."""
    keys = [name for name in one_round.GLOBAL_KEYS if name not in ("scenario", "round")]
    groups = members.sort_values("member", kind="stable").groupby(keys, sort=False)["effect"]
    return [[*key, values.astype(float).round(6).tolist()] for key, values in groups]


def interval_ends(local: pd.DataFrame) -> pd.DataFrame:
    """Ends of the local 95 % intervals of a round, from its other columns: `ENDS`.

    Those given the model are normal, as of `deepmr_utils.mr.local_mr`; total ones follow the rules
    that `.one_round.Settings` have by default.
    """
    parts = []
    for _, group in local.groupby(["calibration", "method"], sort=False):
        known = [group[name].astype(float) for name in ("causal_effect", "se", *MEMBERS)]
        given = intervals.intervals(*known, "plain")
        total = intervals.intervals(*known, Settings.interval_rule, moderate=Settings.moderate)
        ends = [table[f"total_{end}"] for table in (given, total) for end in ENDS[:2]]
        parts.append(pd.DataFrame(dict(zip(ENDS, ends, strict=True)), group.index))
    return pd.concat(parts).reindex(local.index)


def same_ends(local: pd.DataFrame, ends: pd.DataFrame, name: str) -> bool:
    """Whether a column of `ENDS` is in another table, too, to 1e-4 of the intervals' widths."""
    low, high = (ends[name[: name.index("ci_")] + end] for end in ENDS[:2])
    off, known = (local[name] - ends[name]).abs(), local[name].notna()
    within = off <= 1e-4 * (high - low) + 1e-6 * ends[name].abs()
    return bool((known == ends[name].notna()).all() and within[known].all())


def load_round(directory: str | Path, scenario: str, round_: int) -> RoundResult:
    """Read a round that `store_round` wrote."""
    path = _record_path(Path(directory), scenario, round_)
    if not path.exists():
        raise FileNotFoundError(f"round {round_} of {scenario} is not in {directory}")
    record = read_record(path)
    quality = pd.DataFrame(record.pop("quality"))
    local = read_table(path.with_suffix(".parquet"), path)
    for name in set(MEMBERS) - set(local):
        local[name] = np.nan  # a round stored by an earlier version has no total interval
    ends = interval_ends(local).astype("float32")
    local = local.assign(**{name: ends[name] for name in ENDS if name not in local})[COLUMNS]
    rows = [
        (scenario, round_, *key, member, effect)
        for *key, effects in record.pop("members", [])
        for member, effect in enumerate(effects)
    ]
    return RoundResult(local, quality, record, pd.DataFrame(rows, columns=one_round.MEMBER_COLUMNS))
