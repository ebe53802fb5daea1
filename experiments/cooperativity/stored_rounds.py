"""What the stored rounds say of an analysis: global and local effects beside their truth."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import simulation
from .one_round import RoundResult
from .round_scores import global_table, score_table, with_component

SCENARIOS = {
    "none": "no confounding", "sequence_independent": "sequence-independent",
    "sequence_dependent": "sequence-dependent", "both": "both",
}  # fmt: skip
RULES = "plain", "mean", "rubin", "rubin, moderated", "rubin_few", "rubin_few, moderated"
COMPONENTS = {"small": "weak", "large": "strong"}
EDGES = [-np.inf, 0.003, 0.03, 0.3, 0.7, np.inf]  # of true effects, as a share of the largest
SIZES = ["below 0.3", "0.3 to 3", "3 to 30", "30 to 70", "above 70"]


class Analysis(NamedTuple):
    """An analysis of stored rounds: its estimator, the interval that is its own, its names."""

    method: str
    interval: str
    title: str
    words: str


ANALYSES = {
    "without_mutants": Analysis(
        "ivw", "total_ci", "recommended,\nno labelled mutants",
        "recommended analysis, no labelled mutants",
    ),
    "with_mutants": Analysis(
        "ivw", "total_ci", "recommended,\nlabelled mutants",
        "recommended analysis, networks trained on labelled mutants, too",
    ),
    "published": Analysis(
        "egger_robust", "ci", "published choice,\nlabelled mutants",
        "published choice, networks trained on labelled mutants, too",
    ),
}  # fmt: skip


def analysis_table(
    found: Mapping[str, Iterable[RoundResult]], parameters: simulation.Parameters
) -> pd.DataFrame:
    """Global effects of stored rounds, by each analysis with the interval that is its own.

    Parameters
    ----------
    found : mapping of str to iterable of RoundResult
        Rounds by name of their analysis, one of `ANALYSES`. Any number of them, also none.
    parameters : simulation.Parameters
        See `.round_scores.with_component`.

    Returns
    -------
    pd.DataFrame
        The columns of `.round_scores.global_table` and ``analysis, component, low, high,
        contains``.
    """
    parts = []
    for name, results in found.items():
        if not (results := list(results)):
            continue
        table = with_component(global_table(results), parameters)
        method, interval, *_ = ANALYSES[name]
        table = table[(table["method"] == method) & (table["calibration"] == "none")]
        low, high = table[f"{interval}_low"], table[f"{interval}_high"]
        held = table["truth"].between(low, high)
        parts.append(table.assign(analysis=name, low=low, high=high, contains=held))
    return pd.concat(parts, ignore_index=True)


LEVELS = ["analysis", "scenario", "component", "stratum"]


def analysis_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of `analysis_table` by its ``analysis, scenario, component, stratum``.

    Returns
    -------
    pd.DataFrame
        Scenario and component "all" pool the others. `.round_scores.score_table` has the columns,
        beside ``coverage`` and median ``width`` of the interval that is the analysis' own.
    """
    table = pd.concat([table, table.assign(component="all")])
    table = pd.concat([table, table.assign(scenario="all")], ignore_index=True)
    own = table.assign(width=table["high"] - table["low"]).groupby(LEVELS)
    scores = score_table(table, LEVELS).set_index(LEVELS)
    return scores.assign(coverage=own["contains"].mean(), width=own["width"].median()).sort_index()


def width_ratio(table: pd.DataFrame, other: pd.DataFrame) -> float:
    """Median ratio of the widths of intervals in the rounds that two tables of one stratum have."""
    keys = ["scenario", "round"]
    one, two = ((t["high"] - t["low"]).set_axis(t[keys].agg(tuple, axis=1)) for t in (table, other))
    return float((one / two).dropna().median())


def local_table(found: Mapping[str, Iterable[RoundResult]]) -> pd.DataFrame:
    """Local effects of stored rounds as shares of what the round's effect is with both motifs.

    Returns
    -------
    pd.DataFrame
        ``analysis, scenario, round, stratum, truth, estimate, between, contains``. Only sequences
        with a truth and an estimate; rounds whose ratio of beta to alpha is 0 are left out.
    """
    parts = []
    for name, results in found.items():
        for result in results:
            largest = np.sqrt(result.record["rates"]["beta"] / result.record["rates"]["alpha"])
            rows = result.local[result.local["method"] == ANALYSES[name].method]
            rows = rows.dropna(subset=["truth", "causal_effect"])
            if largest == 0:
                continue
            ends = (rows[f"{ANALYSES[name].interval}_{end}"] for end in ("low", "high"))
            parts.append(pd.DataFrame({
                "analysis": name, "scenario": rows["scenario"], "round": rows["round"],
                "stratum": rows["stratum"].astype(str), "truth": rows["truth"] / largest,
                "estimate": rows["causal_effect"] / largest,
                "between": rows["between_se"] / largest,
                "contains": rows["truth"].between(*ends),
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def local_coverage(local: pd.DataFrame) -> pd.DataFrame:
    """Share of local intervals of `local_table` that contain the truth, by size of the truth."""
    size = pd.cut(local["truth"], EDGES, labels=SIZES)
    table = pd.concat([local, local.assign(scenario="all")])
    groups = table.assign(size=pd.concat([size, size]).astype(str)).groupby(
        ["analysis", "scenario", "size"]
    )
    return groups.agg(coverage=("contains", "mean"), sequences=("contains", "size"))


def truth_by_estimate(local: pd.DataFrame, width: float = 0.2, fewest: int = 20) -> pd.DataFrame:
    """Mean truth and estimate of `local_table` in bins of the estimate, where there are enough."""
    local = local.assign(bin=(local["estimate"] / width).round())
    groups = local.groupby(["analysis", "scenario", "bin"])
    table = groups.agg(
        estimate=("estimate", "mean"), truth=("truth", "mean"), sequences=("truth", "size")
    )
    return table[table["sequences"] >= fewest]


def effect_table(table: pd.DataFrame) -> pd.DataFrame:
    """The draft's table: true and estimated effects, and coverage of global and local intervals.

    Parameters
    ----------
    table : pd.DataFrame
        `analysis_table` of one analysis and stratum.

    Returns
    -------
    pd.DataFrame
        Words. A row a scenario and component, and one for all; means over rounds. The interval is
        the one for the mean of the sequences analysed, which the truth is.
    """
    cells = [(scenario, size) for scenario in SCENARIOS for size in COMPONENTS]
    rows = {
        f"{SCENARIOS[scenario]}, {COMPONENTS[size]}": table[
            (table["scenario"] == scenario) & (table["component"] == size)
        ]
        for scenario, size in cells
    }
    words = {name: _effect_row(part) for name, part in (rows | {"all": table}).items() if len(part)}
    return pd.DataFrame(words).T.rename_axis(index=None, columns="Scenario, effect")


def _effect_row(rows: pd.DataFrame) -> dict[str, str]:
    middle = rows.mean(numeric_only=True) + 0.0
    held = rows["truth"].between(rows["sample_ci_low"], rows["sample_ci_high"])
    local = np.average(rows["local_total_coverage"], weights=rows["k"])
    return {
        "Rounds": f"{len(rows)}",
        "True mean": f"{middle['truth']:.2f}",
        "Median": f"{middle['truth_median']:z.2f}",
        "Mode": f"{middle['truth_mode']:z.2f}",
        "Estimate [95% interval]": f"{middle['effect']:.2f} [{middle['sample_ci_low']:.2f}, "
        f"{middle['sample_ci_high']:.2f}]",
        "Rounds covered": f"{held.mean():.0%}",
        "Sequences covered": f"{local:.0%}",
    }


def miss_table(local: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Coverage, error and deviation between members by size of the truth, in words.

    ``local`` is `local_table`, of which the analyses ``names`` are shown.
    """
    size = pd.cut(local["truth"], EDGES, labels=SIZES)
    error = (local["estimate"] - local["truth"]) ** 2
    table = local.assign(size=size, error=error, between=local["between"] ** 2)
    groups = table.groupby(["analysis", "size"], observed=True)
    found = groups.agg(
        covered=("contains", "mean"), error=("error", "mean"), between=("between", "mean")
    )
    words = pd.DataFrame({
        "Covered": found["covered"].map("{:.0%}".format),
        "Error": (found["error"] ** 0.5).map("{:.2f}".format),
        "Between": (found["between"] ** 0.5).map("{:.2f}".format),
    })  # fmt: skip
    parts = []
    for name in names:
        mutants = "no mutants" if name == "without_mutants" else "mutants"
        part = words.loc[name]
        parts.append(part.set_axis([f"{column}, {mutants}" for column in part], axis=1))
    return pd.concat(parts, axis=1).rename_axis(index=None, columns="True effect, %")


def strength_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Inverse-variance weighting by scenario, in words.

    ``scores`` are `.round_scores.score_table`, indexed by ``scenario, method``.
    """
    rows = scores.xs("ivw", level="method").reindex(list(SCENARIOS))
    shares = {
        "Rounds covered": "total_coverage", "Sequences covered": "local_total_coverage",
        "End below": "local_below",
    }  # fmt: skip
    numbers = {"Slope": "slope", "Naive slope": "slope_naive", "Width": "total_width"}
    words = {name: rows[key].map("{:.3f}".format) for name, key in numbers.items()}
    words |= {name: rows[key].map("{:.0%}".format) for name, key in shares.items()}
    table = pd.DataFrame(words).rename(SCENARIOS)
    return table.rename_axis(index=None, columns="Scenario")


def rule_words(rules: pd.DataFrame) -> pd.DataFrame:
    """Inverse-variance weighting under every rule of `.round_scores.rule_table`, in words."""
    rows = rules.xs(("ivw", "none"), level=("method", "calibration"))
    rows = rows.loc[sorted(rows.index, key=RULES.index)]
    names = {"total": "Rounds", "both": "Both motifs", "exposure": "Exposure only"}
    words = {}
    for key, name in names.items():
        coverage, width = rows[f"{key}_coverage"], rows[f"{key}_width"]
        words[f"{name}, covered"] = coverage.map("{:.0%}".format).where(coverage.notna(), "")
        words[f"{name}, width"] = width.map("{:.2f}".format).where(width.notna(), "")
    return pd.DataFrame(words).rename_axis(index=None, columns="Rule")


def published_table(rounds: pd.DataFrame) -> pd.DataFrame:
    """The rounds of `.round_scores.published_rounds`, scored again, in words."""
    rounds = rounds.assign(
        error=(rounds["ce_est"] - rounds["true_ce"]) ** 2,
        held=rounds["true_ce"].between(rounds["ce_lower"], rounds["ce_upper"]),
    )
    rows = {}
    for scenario, name in SCENARIOS.items():
        part = rounds[rounds["scenario"] == scenario]
        if len(part):
            rows[name] = {
                "Correlation": f"{part['ce_est'].corr(part['true_ce']):.3f}",
                "RMSE": f"{part['error'].mean() ** 0.5:.3f}",
                "Confidence interval contains the truth": f"{part['held'].mean():.0%}",
            }
    return pd.DataFrame(rows).T.rename_axis(index=None, columns="Scenario")
