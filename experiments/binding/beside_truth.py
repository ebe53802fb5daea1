"""Stored estimates beside the truth, in numbers whose intervals are clustered by genome.

Effects of one genome share its networks: genomes count, not pairs or windows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from deepmr_utils.held_out import NORMAL
from deepmr_utils.negative_controls import FEWEST
from deepmr_utils.pairs import PAIR

from .. import verdicts
from .genomes import all_windows, calibrated, global_effects
from .graph_scores import BIN_NAMES, BINS
from .one_genome import Run

GENOME = ["graph", "run"]
LEAST = 0.01  # a true effect below this is none
TUNING = 3  # runs of each world by which the rule of verdicts was chosen, as in verdicts.yml


def jackknife(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]
) -> tuple[float, float, float]:
    """A statistic of a table and its 95 % interval, by leaving out one genome at a time.

    Notes
    -----
    The delete-one variance, with t of one degree of freedom less than there are genomes. Both ends
    are NaN of fewer than two.
    """
    code = table.groupby(GENOME).ngroup().to_numpy()
    whole, n = float(statistic(table)), len(np.unique(code))
    if n < 2:
        return whole, np.nan, np.nan
    others = np.array([statistic(table[code != one]) for one in np.unique(code)])
    half = stats.t.ppf(0.975, n - 1) * ((n - 1) * others.var()) ** 0.5
    return whole, whole - half, whole + half


def _share(hit: pd.Series, table: pd.DataFrame) -> tuple[float, float, float]:
    counts = hit.groupby([table[name] for name in GENOME]).agg(["sum", "size"])
    return verdicts.clustered_share(*counts.to_numpy().T)


def _rmse(estimate: str, truth: str) -> Callable[[pd.DataFrame], float]:
    return lambda table: ((table[estimate] - table[truth]) ** 2).mean() ** 0.5


def _scores(
    tables: Mapping[Any, pd.DataFrame],
    scores: Mapping[str, Callable[[pd.DataFrame], tuple[float, float, float]]],
    names: Sequence[str],
) -> pd.DataFrame:
    """Scores of tables, indexed by their keys and ``score``; ``value, low, high, genomes, n``."""
    rows = []
    for key, table in tables.items():
        key = key if isinstance(key, tuple) else (key,)
        genomes = table.groupby(GENOME).ngroups
        rows += [[*key, name, *f(table), genomes, len(table)] for name, f in scores.items()]
    columns = [*names, "score", "value", "low", "high", "genomes", "n"]
    return pd.DataFrame(rows, columns=columns).set_index([*names, "score"])


def local_errors(runs: Sequence[Run]) -> pd.DataFrame:
    """Local effects of the chain "motif" that truly are there.

    Returns
    -------
    pd.DataFrame
        A row a window and pair with a true effect of at least 0.01: ``graph, run, sequence_id,
        exposure, outcome, bin`` of the motifs' distance (NaN without a motif of the outcome),
        ``estimate, truth``, and whether the 95 % interval holds the truth: ``given``, by the
        standard error given the model; ``members``, by the interval that carries the variance
        between members, NaN where a run was stored without; ``miss``, the error in half-widths of
        the latter.
    """
    parts = []
    for one in runs:
        own = one.local[(one.local["chain"] == "motif") & (one.local["total"].abs() >= LEAST)]
        parts.append(own.assign(**{name: one.record[name] for name in GENOME}))
    table = pd.concat(parts, ignore_index=True).rename(
        columns={"causal_effect": "estimate", "total": "truth"}
    )
    error = (table["estimate"] - table["truth"]).abs()
    ends = table.reindex(columns=["ci_low", "ci_high"])
    miss = error / (ends["ci_high"] - ends["ci_low"]) * 2
    table["bin"] = pd.cut(table["distance"], BINS, labels=list(BIN_NAMES)).astype(object)
    table["given"] = (error < NORMAL * table["se"]).astype(float)
    table["members"] = (miss < 1).astype(float).where(miss.notna())
    table["miss"] = miss
    keys = [*GENOME, "sequence_id", *PAIR, "bin"]
    return table[[*keys, "estimate", "truth", "given", "members", "miss"]]


def local_scores(errors: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Scores of local effects, by columns of `local_errors`.

    Returns
    -------
    pd.DataFrame
        Indexed by ``by`` and ``score``: ``given`` and ``members``, the coverages; ``slope`` of the
        truth on the estimate, with an intercept; ``r``; ``rmse``; ``spread``, the standard
        deviation of estimates over that of the truth; ``wider``, the factor by which intervals with
        members would hold 90 %. Columns ``value, low, high``, how many ``genomes``,
        and ``n``.
    """

    def slope(table: pd.DataFrame) -> float:
        return table["estimate"].cov(table["truth"]) / table["estimate"].var()

    scores = {
        name: lambda t, name=name: _share(t[name].dropna(), t.dropna(subset=name))
        for name in ("given", "members")
        if errors[name].notna().any()
    }
    statistics = {
        "slope": slope,
        "r": lambda t: t["estimate"].corr(t["truth"]),
        "rmse": _rmse("estimate", "truth"),
        "spread": lambda t: t["estimate"].std() / t["truth"].std(),
    }
    if "members" in scores:
        statistics["wider"] = lambda t: t["miss"].quantile(0.9)
    scores |= {name: lambda t, f=f: jackknife(t, f) for name, f in statistics.items()}
    return _scores(dict(list(errors.groupby(list(by), sort=False))), scores, by)


def held_out(table: pd.DataFrame, first: int = TUNING) -> pd.DataFrame:
    """Answers of demo genomes without and with held-out reads, from the table of verdicts.

    Parameters
    ----------
    table : pd.DataFrame
        Of the study `experiments.verdicts`.
    first : int
        Earlier runs are left out.

    Returns
    -------
    pd.DataFrame
        Its rows of worlds that have both; ``graph`` is the world; ``slope, slope_low, slope_high``
        are the corrected ones where there are reads. Without rows where there are none.
    """
    table = table.reindex(columns=verdicts.COLUMNS).rename(columns={"world": "graph"})
    labels = table["analysis"] == verdicts.LABELS
    worlds = table.loc[labels, "graph"].unique()
    kept = table["analysis"].isin([verdicts.DEFAULT, verdicts.LABELS])
    table = table[kept & table["graph"].isin(worlds) & (table["run"] >= first)]
    labels = table["analysis"] == verdicts.LABELS
    for name, plain in (("", "effect"), ("_low", "ci_low"), ("_high", "ci_high")):
        other = "corrected" + (f"_ci{name}" if name else "")
        table = table.assign(**{f"slope{name}": table[plain].where(~labels, table[other])})
    return table.reset_index(drop=True)


def held_out_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Knock-out ratios and slopes of `held_out` beside the truth.

    Returns
    -------
    pd.DataFrame
        Indexed by ``graph, analysis, score``. ``knockout_rmse, slope_rmse``; ``knockout_covered,
        slope_covered``, shares of intervals that hold the truth; ``knockout_false, slope_false``,
        of absent pairs, whose interval excludes 0. Columns as in `local_scores`.
    """
    rows = []
    for key, own in table.groupby(["graph", "analysis"], sort=False):
        for name, truth, low, high in (
            ("knockout", "knockout_truth", "knockout_ci_low", "knockout_ci_high"),
            ("slope", "true_effect", "slope_low", "slope_high"),
        ):
            there = own.dropna(subset=[name, truth])
            absent = there[there["truth"] == "absent"]
            parts = {
                "rmse": (there, jackknife(there, _rmse(name, truth))),
                "covered": (there, _share(there[truth].between(there[low], there[high]), there)),
                "false": (absent, _share((absent[low] > 0) | (absent[high] < 0), absent)),
            }
            rows += [
                [*key, f"{name}_{score}", *values, part.groupby(GENOME).ngroups, len(part)]
                for score, (part, values) in parts.items()
            ]
    columns = ["graph", "analysis", "score", "value", "low", "high", "genomes", "n"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


def learned_responses(table: pd.DataFrame) -> pd.DataFrame:
    """What reads say that networks learned of each factor's own response, from `held_out`.

    Indexed by ``graph, exposure, score``, which is ``learned``, the mean over genomes; columns as
    in `local_scores`.
    """
    own = table[table["analysis"] == verdicts.LABELS].drop_duplicates([*GENOME, "exposure"])
    groups = own.groupby(["graph", "exposure"], sort=False)
    mean = {"learned": lambda t: jackknife(t, lambda part: part["learned_response"].mean())}
    return _scores(dict(list(groups)), mean, ["graph", "exposure"])


def interval_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals of `.genomes.global_effects` or `.genomes.calibrated`, beside the truth.

    Indexed by ``graph, score``: ``false``, the share of absent pairs with p below 0.05, ``covered``
    and ``width``, the median. Columns as in `local_scores`.
    """

    def false(own: pd.DataFrame) -> tuple[float, float, float]:
        absent = own[own["truth"].abs() < LEAST]
        return _share(absent["total_p"] < 0.05, absent)

    inside = table["truth"].between(table["total_ci_low"], table["total_ci_high"])
    table = table.assign(inside=inside, width=table["total_ci_high"] - table["total_ci_low"])
    scores = {
        "false": false,
        "covered": lambda own: _share(own["inside"], own),
        "width": lambda own: jackknife(own, lambda part: part["width"].median()),
    }
    return _scores(dict(list(table.groupby("graph"))), scores, ["graph"])


def null_calibration(runs: Sequence[Run], first: int = 13, first_null: int = 20) -> pd.DataFrame:
    """Intervals without and with calibration by genomes in which nothing acts on anything.

    Empty genomes from ``first_null`` on calibrate the runs of other graphs from ``first`` on, and
    each half of these empty genomes the other half. Earlier runs had a say in the choice of rules.

    Returns
    -------
    pd.DataFrame
        Of `interval_scores`, with a first level of the index, "before" and "after". Empty where
        there are fewer than 10 such genomes.
    """
    nulls = [r for r in runs if r.record["graph"] == "empty" and r.record["run"] >= first_null]
    others = [r for r in runs if r.record["graph"] != "empty" and r.record["run"] >= first]
    if len(nulls) < 2 * FEWEST:
        return pd.DataFrame()
    halves = nulls[: len(nulls) // 2], nulls[len(nulls) // 2 :]
    after = [calibrated(*halves), calibrated(*halves[::-1])]
    after += [calibrated(others, nulls)] if others else []
    tables = {"before": global_effects([*others, *nulls]), "after": pd.concat(after)}
    return pd.concat({name: interval_scores(table) for name, table in tables.items()})


def direct_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Direct effects in all windows beside the truth.

    Indexed by ``graph, score``: ``direct_covered``, the share of intervals that hold the true
    direct effect; ``mediated``, the mean estimate where the effect is through others alone, and
    ``mediated_total``, that of the total effect there. Columns as in `local_scores`.
    """
    whole = all_windows(runs)
    total = whole[whole["chain"] == "motif"].set_index([*GENOME, *PAIR])["truth"]
    direct = whole[whole["chain"] == "direct"].set_index([*GENOME, *PAIR])
    direct = direct.assign(
        inside=direct["truth"].between(direct["total_ci_low"], direct["total_ci_high"]),
        mediated=(direct["truth"].abs() < LEAST) & (total.reindex(direct.index) >= LEAST),
    ).reset_index()

    def mean(column: str) -> Callable[[pd.DataFrame], tuple[float, float, float]]:
        return lambda t: jackknife(t[t["mediated"]], lambda part: part[column].mean())

    scores = {"direct_covered": lambda t: _share(t["inside"], t)}
    mediated = {"mediated": mean("effect"), "mediated_total": mean("total_effect")}
    tables = dict(list(direct.groupby("graph")))
    some = {graph: own for graph, own in tables.items() if own["mediated"].any()}
    return pd.concat([_scores(tables, scores, ["graph"]), _scores(some, mediated, ["graph"])])
