"""Where what all members of an ensemble have wrong together comes from.

Honest intervals carry what members disagree on. What they share stays hidden. Each arm changes one
thing about the training of the members, and everything after training stays as it is:

    same data   as in the stored rounds: all members learn from one set of labelled sequences
    own data    each member from a set of its own, of the same size and rates
    4 x data    all from one set of four times the size, in as many steps
    60 epochs   all from the one set, three times as long

If members that share nothing but the method are wrong together as much as before, the error lies in
the method; if their spread now shows it, it came from the data they had in common.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..study import Study, Unit, table_units
from ..training import Ensemble, train_ensemble
from . import simulation
from .network import SimulationCNN
from .one_round import Settings, analyse_round, arrays, draw_round, fit_round
from .rounds import check_rounds, simulation_settings


def _units(values: Mapping[str, Any], _: str) -> dict[str, Unit]:
    base = simulation_settings(values)
    keys = check_rounds(base, values["scenarios"], values["rounds"])

    def rows(scenario: str, round_: int, arm: str) -> pd.DataFrame:
        return arm_scores(base, scenario, round_, arm)

    keys = [(*key, arm) for key in keys for arm in arms(base)]
    return table_units("shared_error", ["scenario", "round", "arm"], keys, rows, "%.5g")


STUDY = Study(_units)


def arms(base: Settings) -> dict[str, Settings]:
    """Settings of the training of each arm."""
    p = base.parameters
    larger = replace(p, n_train=4 * p.n_train, n_augmented=4 * p.n_augmented)
    return {
        "same data": base,
        "own data": base,
        # of another seed, so that no test sequence is among them
        "4 x data": replace(base, parameters=larger, seed=base.seed + 1, epochs=base.epochs // 4),
        f"{3 * base.epochs} epochs": replace(base, epochs=3 * base.epochs),
    }


def arm_scores(base: Settings, scenario: str, round_: int, arm: str) -> pd.DataFrame:
    """Scores of the local effects of one round, by stratum."""
    settings = arms(base)[arm]
    data, seed = draw_round(base, scenario, round_)  # the same test sequences in all arms
    if arm == "own data":
        ensemble = _train_on_own_data(data, seed, settings)
    else:
        trained_on = data if arm != "4 x data" else draw_round(settings, scenario, round_)[0]
        ensemble = fit_round(trained_on, seed, settings)
    result = analyse_round(ensemble, data, settings, round_)
    rows = []
    local = result.local.dropna(subset=["truth", "causal_effect"])
    local = local.assign(error=local["causal_effect"] - local["truth"])
    for stratum, group in local.groupby("stratum"):
        held = group["truth"].between(group["total_ci_low"], group["total_ci_high"])
        rows.append({
            "scenario": scenario, "round": round_, "arm": arm, "stratum": stratum, "n": len(group),
            "slope": (group["causal_effect"] * group["truth"]).sum() / (group["truth"] ** 2).sum(),
            "bias": group["error"].mean(), "rmse": np.sqrt((group["error"] ** 2).mean()),
            "between": np.sqrt((group["between_se"] ** 2).mean()), "coverage": held.mean(),
            "width": (group["total_ci_high"] - group["total_ci_low"]).median(),
            "excess": (result.quality["mse"] - result.quality["noise_floor"]).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _train_on_own_data(data: simulation.Round, seed: int, settings: Settings) -> Ensemble:
    """Members that share no training sequence."""
    validation = data.split("validation")
    floor = simulation.noise_floor(validation, data.parameters, data.rates).to_numpy()
    members, reports = [], []
    for one in np.random.SeedSequence([seed, 1]).spawn(settings.n_members):
        labelled = simulation.simulate_round(data.parameters, one)
        ensemble = train_ensemble(
            lambda: SimulationCNN(data.parameters.length), *arrays(labelled.split("fit")),
            arrays(validation), n_members=1, seed=int(one.generate_state(1)[0]),
            noise_floor=floor, epochs=settings.epochs, max_excess=settings.max_excess,
        )  # fmt: skip
        members += ensemble.members
        reports.append(ensemble.report)
    return Ensemble(members, pd.concat(reports, ignore_index=True))
