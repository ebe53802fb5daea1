"""Where what all members of an ensemble have wrong together comes from.

Honest intervals carry what members disagree on. What they share stays hidden. Each arm changes one
thing about the training of five members, and everything after training stays as it is:

    same data   as in the stored rounds: all members learn from one set of labelled sequences
    own data    each member from a set of its own, of the same size and rates
    4 x data    all from one set of four times the size, in as many steps
    60 epochs   all from the one set, three times as long

If members that share nothing but the method are wrong together as much as before, the error lies in
the method; if their spread now shows it, it came from the data they had in common.

    python benchmarks/shared_error.py [--rounds 2] [--workers 2]

writes book/results/shared_error.csv, a row a round, arm and stratum, as each finishes, and goes on
where it was interrupted: about 8 minutes on one core for the four arms of a round.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from experiments.cooperativity import rounds, simulation
from experiments.cooperativity.network import SimulationCNN
from experiments.training import Ensemble, train_ensemble

TABLE = Path(__file__).parents[1] / "book" / "results" / "shared_error.csv"
KEYS = ["scenario", "round", "arm"]
PARAMETERS = simulation.Parameters(effect_ratio=10.0, alpha_sd=0.0)  # all data sets alike in rates
BASE = rounds.Settings(PARAMETERS, epochs=20, methods=("ivw",), seed=2000)
ARMS = {
    "same data": BASE,
    "own data": BASE,
    "4 x data": replace(  # of another seed, so that no test sequence is among them
        BASE,
        parameters=replace(PARAMETERS, n_train=40_000, n_augmented=10_000),
        seed=2001,
        epochs=5,
    ),
    "60 epochs": replace(BASE, epochs=60),
}


def one_arm(scenario: str, round_: int, arm: str) -> pd.DataFrame:
    """Scores of the local effects of one round, by stratum."""
    torch.set_num_threads(1)
    settings = ARMS[arm]
    data, seed = rounds.draw_round(BASE, scenario, round_)  # the same test sequences in all arms
    if arm == "own data":
        ensemble = own_data(data, seed, settings)
    else:
        trained_on = data if arm != "4 x data" else rounds.draw_round(settings, scenario, round_)[0]
        ensemble = rounds.fit_round(trained_on, seed, settings)
    result = rounds.analyse_round(ensemble, data, settings, round_)
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


def own_data(data: simulation.Round, seed: int, settings: rounds.Settings) -> Ensemble:
    """Members that share no training sequence."""
    validation = rounds.arrays(data.split("validation"))
    floor = simulation.noise_floor(data.split("validation"), data.parameters, data.rates)
    members, reports = [], []
    for one in np.random.SeedSequence([seed, 1]).spawn(settings.n_members):
        labelled = simulation.simulate_round(data.parameters, one)
        ensemble = train_ensemble(
            lambda: SimulationCNN(PARAMETERS.length), *rounds.arrays(labelled.split("fit")),
            validation, n_members=1, seed=int(one.generate_state(1)[0]),
            noise_floor=floor.to_numpy(), epochs=settings.epochs, max_excess=settings.max_excess,
        )  # fmt: skip
        members += ensemble.members
        reports.append(ensemble.report)
    return Ensemble(members, pd.concat(reports, ignore_index=True))


def main() -> None:
    """Run the arms that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    keys = [(s, r, a) for r in range(options.rounds) for s in ("none", "both") for a in ARMS]
    jobs = (joblib.delayed(one_arm)(*key) for key in keys if key not in done)
    for rows in joblib.Parallel(options.workers, return_as="generator_unordered")(jobs):
        table = rows if table.empty else pd.concat([table, rows])
        table.sort_values([*KEYS, "stratum"]).to_csv(TABLE, index=False, float_format="%.5g")
        print(rows.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
