"""Verdicts of `deep_mr` in worlds whose answer is known, beside what the paper's analysis says.

A unit is a world and a run; its rows are one an ordered pair and analysis. Scores come from the
table of all units: a confusion table for each world, and rates beside what they should be.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd
from scipy import stats

from deepmr_utils._checks import check_choice
from deepmr_utils.analysis import deep_mr
from deepmr_utils.pairs import PAIR

from .analyses import ANALYSES
from .study import Study, Unit, table_units
from .worlds import NOT_THE_WORLDS, WORLDS, Case

DEFAULT, LABELS, PUBLISHED = "deep_mr", "deep_mr, labels", "published"
VERDICTS = ("acts", "no effect", "undetermined", "not distinguishable")
ANSWERS = ("acts", "acts, wrong sign", *VERDICTS[1:])  # columns of `confusion`
SAID = ["acts", "acts, wrong sign", "undetermined"]  # those that the published analysis can have
TRUTHS = ("acts", "acts, small", "absent", "same", "none")
LEAST = 0.1  # own responses; an effect as large should be found
NUMBERS = ["effect", "se", "ci_low", "ci_high", "q_value", "k", "knockout", "knockout_ci_low"]
NUMBERS += ["knockout_ci_high", "own_effect", "own_ci_low", "own_ci_high", "private_share"]
NUMBERS += [
    "private_ci_low",
    "private_ci_high",
    "correlation",
    "learned_response",
    "learned_ci_low",
]
NUMBERS += ["learned_ci_high", "corrected", "corrected_ci_low", "corrected_ci_high"]
COLUMNS = ["world", "run", "analysis", *PAIR, "truth", "true_effect", "knockout_truth", "size"]
COLUMNS += ["verdict", "reason", *NUMBERS]
TARGETS = {"false": 0.05, "found": 0.9, "wrong": 0.05, "open": 0.2}  # at most; of found, at least


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    worlds = values["worlds"]
    for name, world in worlds.items():
        check_choice(f"kind of the world {name}", world.get("kind", ""), list(WORLDS))
    cache = joblib.Memory(values.get("cache"), verbose=0)
    runs = max(world["runs"] for world in worlds.values())
    keys = [(name, run) for run in range(runs) for name, w in worlds.items() if run < w["runs"]]

    def rows(name: str, run: int) -> pd.DataFrame:
        world = {k: v for k, v in worlds[name].items() if k not in NOT_THE_WORLDS}
        cases = cache.cache(WORLDS[worlds[name]["kind"]], ignore=["device"])(world, run, device)
        return answers(cases).assign(world=name, run=run)[COLUMNS]

    return table_units("verdicts", ["world", "run"], keys, rows, "%.5g")


STUDY = Study(_units)


def answers(cases: Sequence[Case]) -> pd.DataFrame:
    """What both analyses answer, in the columns of the study's table but for ``world, run``.

    ``truth`` is "acts" or "absent", "same" where two features are one thing, or "none" where
    nothing was learnt; ``size`` is the true effect in own responses (see
    `deepmr_utils.analysis.Result`), or as it is where no effect was estimated. The published
    analysis has no verdict: "acts" where q < 0.05, else "undetermined".
    """
    tables = []
    for case in cases:
        given = {k: v for k, v in case.given.items() if k != "edits"}
        paper = deep_mr(case.effects, **given, **ANALYSES[case.published]).effects
        told = np.where(paper["q_value"] < 0.05, "acts", "undetermined")
        found = {DEFAULT: deep_mr(case.effects, **case.given).effects,
                 PUBLISHED: paper.assign(verdict=told, reason="")}  # fmt: skip
        if case.labels is not None:
            found[LABELS] = deep_mr(case.effects, **case.given, labels=case.labels).effects
        own = case.truth.merge(found[DEFAULT], on=PAIR)
        scale = (own["own_effect"] / own["effect"]).abs().fillna(1.0)
        # the same for all analyses
        truth = own[case.truth.columns].assign(size=own["true_effect"] * scale)
        for name, table in found.items():
            truth_ = truth
            if name == LABELS:  # knock-outs of more windows, with a truth of their own
                truth_ = truth.drop(columns="knockout_truth").merge(
                    case.labels[[*PAIR, "knockout_truth"]], on=PAIR, how="left"
                )
            table = truth_.merge(table, on=PAIR).assign(analysis=name)
            tables.append(table.reindex(columns=COLUMNS))
    return pd.concat(tables, ignore_index=True)


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """How many pairs of each truth have each verdict, by world and analysis.

    Indexed by ``world, analysis, truth``, where effects below `LEAST` are "acts, small"; the
    columns are `ANSWERS`.
    """
    small = (table["truth"] == "acts") & ~_large(table)
    verdict = table["verdict"].mask(_against(table), "acts, wrong sign")
    truth = table["truth"].mask(small, "acts, small")
    keys = ["world", "analysis", truth.rename("truth")]
    counts = table.assign(verdict=verdict).groupby(keys, sort=False)["verdict"].value_counts()
    return counts.unstack(fill_value=0).reindex(columns=list(ANSWERS), fill_value=0)


def _against(table: pd.DataFrame) -> pd.Series:
    """Whether the verdict is "acts", with the sign that the effect does not have."""
    return (table["verdict"] == "acts") & (table["effect"] * table["true_effect"] < 0)


def _large(table: pd.DataFrame) -> pd.Series:
    return (table["truth"] == "acts") & (table["size"].abs() >= LEAST)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Whether each answer is ``false``, ``found``, ``wrong`` or ``open``, see `rates`."""
    truth, verdict, against = table["truth"], table["verdict"], _against(table)
    acts = verdict == "acts"
    denied = (verdict == "no effect") & (_large(table) | (truth == "same"))
    return pd.DataFrame({
        "false": acts & (truth == "absent"), "found": acts & ~against & _large(table),
        "wrong": acts & (against | (truth != "acts")) | denied,
        "open": truth.isin(["acts", "absent"]) & verdict.isin(VERDICTS[2:]),
    })  # fmt: skip


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of wrong, right and open answers, with intervals clustered by run.

    Parameters
    ----------
    table : pd.DataFrame
        The study's, or some of its worlds.

    Returns
    -------
    pd.DataFrame
        A row a ``world, analysis, rate`` (``rate`` in `TARGETS`) that has pairs: ``count`` of
        ``pairs``, ``share, low, high``, ``target`` and the number of ``runs``. ``false``: absent
        pairs that act; ``found``: effects of at least `LEAST` that act, with their sign; ``wrong``:
        of all pairs, those that act against the truth, or where there is none, or have no effect
        where there is a large one or both features are one; ``open``: undetermined or not
        distinguishable, where there is an answer.
    """
    told, known = judged(table), table["truth"].isin(["acts", "absent"])
    asked = {"false": table["truth"] == "absent", "found": _large(table),
             "wrong": table["truth"].notna(), "open": known}  # fmt: skip
    rows = []
    for name, among in asked.items():
        part = table.assign(hit=told[name])[among]
        for keys, group in part.groupby(["world", "analysis"], sort=False):
            counts = group.groupby("run")["hit"].agg(["sum", "size"]).to_numpy().T
            share, low, high = clustered_share(*counts)
            rows.append([*keys, name, counts[0].sum(), counts[1].sum(), share, low, high,
                         TARGETS[name], counts.shape[1]])  # fmt: skip
    columns = ["world", "analysis", "rate", "count", "pairs", "share", "low", "high", "target"]
    return pd.DataFrame(rows, columns=[*columns, "runs"])


def clustered_share(count: np.ndarray, size: np.ndarray) -> tuple[float, float, float]:
    """A share over clusters, and its 95 % interval.

    Parameters
    ----------
    count, size : array (G,)
        Hits and cases of each cluster.

    Returns
    -------
    tuple of float
        Share, lower and upper end; the ends are NaN of fewer than two clusters.

    Notes
    -----
    Clopper and Pearson's interval at an effective number of cases, that at which a binomial share
    varies as much as this one does over clusters, times ``(t(n - 1) / t(G - 1))^2``, and at most n
    (Korn and Graubard, 1998). Where all or none hit, clusters show no variance, and it is n times
    that factor.
    """
    count, size = np.asarray(count, float), np.asarray(size, float)
    n, clusters = size.sum(), len(size)
    share = count.sum() / n
    if clusters < 2:
        return share, np.nan, np.nan
    variance = clusters / (clusters - 1) * ((count - share * size) ** 2).sum() / n**2
    effective = share * (1 - share) / variance if variance > 0 else n
    effective *= (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, clusters - 1)) ** 2
    effective = min(effective, n)
    hits, rest = share * effective, (1 - share) * effective
    low = stats.beta.ppf(0.025, hits, rest + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, rest) if rest else 1.0
    return float(share), float(low), float(high)
