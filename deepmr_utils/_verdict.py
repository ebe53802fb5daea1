"""The verdict on a pair of features: what its numbers say of an arrow, and why."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from .intervals import PAIR

SAME = 0.95  # correlation of the effects on two features above which they cannot be told apart
FEWEST = 10  # sequences with instruments of their own that an answer needs
NEGLIGIBLE = 0.1  # effect, in own responses, below which there is none worth the name
PRIVATE = 0.1  # share of private movers that an arrow may have
LEARNED = 0.8  # share of the exposure's response below which labels flag a model
LEVEL = 0.05  # of the q-value


class Answer(NamedTuple):
    """A verdict, and its reason in words."""

    verdict: str
    reason: str


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Answers to all pairs of a table, whatever their order.

    Parameters
    ----------
    table : pd.DataFrame
        The columns of `deepmr_utils.analysis.Result.effects` that come before ``verdict``, and
        ``status``.

    Returns
    -------
    pd.DataFrame
        ``verdict, reason``, a row as in `table`; see `deepmr_utils.analysis.deep_mr` for the rule.
    """
    rows = dict(zip(zip(*(table[n] for n in PAIR), strict=True), table.to_dict("records"),
                    strict=True))  # fmt: skip
    found = [_answer(row, rows.get((y, x))) for (x, y), row in rows.items()]
    return pd.DataFrame(found, table.index, list(Answer._fields))


def _answer(row: dict, reverse: dict | None) -> Answer:
    """Answer to one pair, given the row of the opposite pair, if it was asked for."""
    told = row["q_value"] < LEVEL
    if row["correlation"] > SAME:
        why = f"substitutions move both alike (correlation {row['correlation']:.2f})"
        return Answer("not distinguishable", why)
    if row["k"] < FEWEST:
        why = f"only {row['k']:.0f} of the {FEWEST} sequences that are needed"
        return Answer("not distinguishable", why)
    if not np.isfinite(row["se"]):
        return Answer("undetermined", f"no interval: {row['status']}")
    if told and row["private_ci_low"] > PRIVATE:
        why = f"the slope is told from 0, but {row['private_share']:.0%} of what moves the "
        return Answer("undetermined", why + "exposure leaves the outcome alone")
    if told and np.isfinite(row["knockout"]):
        return _with_knockout(row)
    if told and reverse is not None and _also(reverse):
        return Answer(
            "not distinguishable", "both directions are told from 0, and no site was knocked out"
        )
    if told:
        return Answer("acts", "the slope is told from 0; no site was knocked out")
    if max(abs(row["own_ci_low"]), abs(row["own_ci_high"])) <= NEGLIGIBLE:
        return Answer(
            "no effect", f"the interval lies within {NEGLIGIBLE:g} own responses around 0"
        )
    why = f"the interval holds 0 and more than {NEGLIGIBLE:g} own responses"
    return Answer("undetermined", why)


def _with_knockout(row: dict) -> Answer:
    low, high = row["knockout_ci_low"], row["knockout_ci_high"]
    agrees = low > 0 if row["effect"] > 0 else high < 0
    if agrees:
        return Answer("acts", "slope and knock-out are told from 0 and have one sign")
    return Answer("undetermined", "the slope is told from 0, the knock-out is not")


def _also(reverse: dict) -> bool:
    """Whether nothing speaks against the opposite arrow, either."""
    return reverse["q_value"] < LEVEL and not reverse["private_ci_low"] > PRIVATE
