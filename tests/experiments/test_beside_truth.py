"""Stored estimates beside the truth: scores as counted by hand, intervals clustered by genome."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from experiments import verdicts
from experiments.binding import beside_truth, genome, one_genome
from experiments.parameter_files import notebook_defaults

FACTORS = list(permutations(genome.FACTORS, 2))


def a_run(graph, number, rng, noise=0.1):
    """A run of 12 pairs in 6 windows, in which Oct4 and Sox2 act on each other."""
    rows = [(f"w{i}", *pair) for pair in FACTORS for i in range(6)]
    local = pd.DataFrame(rows, columns=["sequence_id", "exposure", "outcome"])
    acts = local["exposure"].isin(["Oct4", "Sox2"]) & local["outcome"].isin(["Oct4", "Sox2"])
    acts &= graph != "empty"
    local["total"] = np.where(acts, rng.uniform(0.2, 0.6, len(local)), 0.0)
    local["causal_effect"] = local["total"] + noise * rng.standard_normal(len(local))
    local["distance"] = [20.0, 35.0, 60.0, 100.0, 200.0, np.nan] * 12
    local = local.assign(chain="motif", se=0.05, n_instruments=20)
    local["ci_low"], local["ci_high"] = local["causal_effect"] - 0.2, local["causal_effect"] + 0.2
    table = pd.DataFrame(FACTORS, columns=["exposure", "outcome"]).assign(chain="motif", bin="all")
    true = local.groupby(["exposure", "outcome"], sort=False)["total"].mean().to_numpy()
    table["truth"], table["effect"] = true, true + 0.01 * rng.standard_normal(12)
    table["total_se"], table["total_df"] = 0.01, 10.0
    for end, sign in (("total_ci_low", -1), ("total_ci_high", 1)):
        table[end] = table["effect"] + sign * 0.02
    table["total_p"] = 2 * stats.norm.sf(table["effect"].abs() / 0.01)
    table["own_effect"] = 0.5 * table["effect"]
    record = {"graph": graph, "run": number}
    return one_genome.Run(local, table, pd.DataFrame(), record)


def test_the_jackknife_of_a_mean_is_the_interval_of_cluster_means():
    values = np.random.default_rng(0).normal(size=(7, 5))
    table = pd.DataFrame({"graph": "a", "run": np.repeat(range(7), 5), "x": values.ravel()})
    found = beside_truth.jackknife(table, lambda part: part["x"].mean())
    known = stats.ttest_1samp(values.mean(1), 0).confidence_interval()
    np.testing.assert_allclose(found, [values.mean(), *known])
    alone = beside_truth.jackknife(table[table["run"] == 0], lambda part: part["x"].mean())
    assert np.isnan(alone[1:]).all()


def test_local_errors_are_of_effects_that_are_there():
    rng = np.random.default_rng(1)
    runs = [a_run("default", number, rng) for number in range(3)]
    errors = beside_truth.local_errors(runs)
    assert len(errors) == 3 * 12  # two pairs, six windows
    assert errors["bin"].value_counts(dropna=False).to_dict() == {
        "(0, 35]": 12, "(35, 70]": 6, "(70, 150]": 6, "(150, 1000]": 6, np.nan: 6,
    }  # fmt: skip
    off = (errors["estimate"] - errors["truth"]).abs()
    assert errors["members"].tolist() == (off < 0.2).astype(float).tolist()
    assert errors["given"].tolist() == (off < 1.959964 * 0.05).astype(float).tolist()
    np.testing.assert_allclose(errors["miss"], off / 0.2)

    scores = beside_truth.local_scores(errors, ["graph"]).loc["default"]
    assert scores.loc["given", "value"] == errors["given"].mean()
    assert scores.loc["rmse", "value"] == pytest.approx((off**2).mean() ** 0.5)
    fit = stats.linregress(errors["estimate"], errors["truth"])
    np.testing.assert_allclose(scores.loc[["slope", "r"], "value"], [fit.slope, fit.rvalue])
    assert scores.loc["wider", "value"] == pytest.approx((off / 0.2).quantile(0.9))
    assert (scores["low"] < scores["value"]).all()
    assert (scores[["genomes", "n"]] == [3, 36]).all(axis=None)
    binned = beside_truth.local_scores(errors.dropna(subset="bin"), ["graph", "bin"])
    assert binned.xs("rmse", level="score")["n"].sum() == 30


def test_local_errors_of_runs_without_intervals_have_no_coverage_by_members():
    one = a_run("default", 0, np.random.default_rng(2))
    errors = beside_truth.local_errors([one._replace(local=one.local.drop(columns="ci_low"))])
    assert errors["members"].isna().all()
    scores = beside_truth.local_scores(errors, ["graph"]).loc["default"]
    assert scores.index.tolist() == ["given", "slope", "r", "rmse", "spread"]


def answered(rng, n=6):
    """Rows of the study of verdicts: labels take an error of 0.1 off, and one world has none."""
    rows = []
    for world, run, name in [
        (w, r, a)
        for w in ("reverse", "tissues")
        for r in range(n)
        for a in (verdicts.DEFAULT, verdicts.LABELS, verdicts.PUBLISHED)
    ]:
        if world == "tissues" and name == verdicts.LABELS:
            continue
        bias = 0.0 if name == verdicts.LABELS else 0.1
        for i, pair in enumerate(FACTORS):
            true = 0.5 if i < 6 else 0.0
            found = true + bias + 0.001 * rng.standard_normal()
            row = {"world": world, "run": run, "analysis": name, "exposure": pair[0]}
            row |= {"outcome": pair[1], "truth": "acts" if true else "absent"}
            row |= {"true_effect": true, "knockout_truth": true, "effect": true + 0.1}
            row |= {"ci_low": true + 0.05, "ci_high": true + 0.15, "knockout": found}
            row |= {"knockout_ci_low": found - 0.01, "knockout_ci_high": found + 0.01}
            if name == verdicts.LABELS:
                row |= {"corrected": true, "corrected_ci_low": true - 0.01}
                row |= {"corrected_ci_high": true + 0.01, "learned_response": 0.5 + 0.1 * (run % 2)}
            rows.append(row)
    return pd.DataFrame(rows)


def test_held_out_reads_are_scored_beside_the_analysis_without():
    table = answered(np.random.default_rng(4))
    held = beside_truth.held_out(table, first=2)
    assert set(held["graph"]) == {"reverse"}
    assert held["run"].min() == 2
    scores = beside_truth.held_out_scores(held)["value"].loc["reverse"].unstack()
    plain, labels = scores.loc[verdicts.DEFAULT], scores.loc[verdicts.LABELS]
    assert plain["knockout_rmse"] == pytest.approx(0.1, rel=0.02)
    assert plain["slope_rmse"] == pytest.approx(0.1)
    assert labels["knockout_rmse"] == pytest.approx(0.001, rel=0.3)
    assert labels["slope_rmse"] == 0
    for what in ("knockout", "slope"):
        assert plain[[f"{what}_covered", f"{what}_false"]].tolist() == [0, 1]
        assert labels[[f"{what}_covered", f"{what}_false"]].tolist() == [1, 0]
    learned = beside_truth.learned_responses(held).loc[("reverse", "Oct4", "learned")]
    assert learned["value"] == pytest.approx(0.55)
    assert learned["genomes"] == learned["n"] == 4
    assert beside_truth.held_out(table[table["world"] == "tissues"]).empty


def test_empty_genomes_calibrate_the_others_and_each_other():
    rng = np.random.default_rng(5)
    runs = [a_run("empty", number, rng) for number in range(20, 34)]
    runs += [a_run("default", number, rng) for number in (12, 13, 14)]
    scores = beside_truth.null_calibration(runs)
    assert scores.xs("width", level="score")["genomes"].to_dict() == {
        (when, graph): n for when in ("before", "after") for graph, n in
        (("default", 2), ("empty", 14))
    }  # fmt: skip
    value = scores["value"]
    assert value["before", "empty", "width"] == pytest.approx(0.04)
    assert value["after", "empty", "width"] > 0.04  # none is made narrower
    assert value["after", "empty", "false"] <= value["before", "empty", "false"]
    assert scores.loc[("before", "default", "false"), "n"] == 24
    assert beside_truth.null_calibration(runs[:9]).empty


def test_direct_effects_are_covered_and_mediated_ones_are_means():
    runs = [a_run("default", number, np.random.default_rng(number)) for number in range(4)]
    parts = []
    for one in runs:  # all that Oct4 does to Sox2 is mediated
        mediated = (one.globals_["exposure"] == "Oct4") & (one.globals_["outcome"] == "Sox2")
        direct = one.globals_.assign(chain="direct", total_effect=one.globals_["effect"])
        direct["truth"] = direct["truth"].mask(mediated, 0.0)
        parts.append(one._replace(globals_=pd.concat([one.globals_, direct])))
    scores = beside_truth.direct_scores(parts).loc["default"]["value"]
    every = pd.concat(one.globals_ for one in runs)
    of_pair = every.query("exposure == 'Oct4' and outcome == 'Sox2'")["effect"].mean()
    assert scores["mediated"] == scores["mediated_total"] == pytest.approx(of_pair)
    inside = every["truth"].between(every["total_ci_low"], every["total_ci_high"])
    missed = inside & (every["exposure"] == "Oct4") & (every["outcome"] == "Sox2")
    assert scores["direct_covered"] == pytest.approx((inside & ~missed).mean())


def test_the_runs_that_chose_the_rule_are_the_same_everywhere():
    root = Path(__file__).parents[2]
    study = yaml.safe_load((root / "book" / "parameters" / "verdicts.yml").read_text())
    assert study["tuning"] == beside_truth.TUNING
    assert notebook_defaults(root / "notebooks" / "verdicts.ipynb")["tuning"] == study["tuning"]
