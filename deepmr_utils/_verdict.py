"""The verdict on a pair of features: what its numbers say of an arrow, and why."""

from typing import NamedTuple

import numpy as np
import pandas as pd

SAME = 0.95  # correlation of the effects on two features above which they cannot be told apart
FEWEST = 10  # sequences with instruments of their own that an answer needs
NEGLIGIBLE = 0.1  # effect, in own responses, below which there is none worth the name
PRIVATE = 0.1  # share of private movers that an arrow may have
MOSTLY = 0.5  # share of private movers above which there is no arrow
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
    rows = table.to_dict("records")
    by_pair = {(row["exposure"], row["outcome"]): row for row in rows}
    found = [_answer(row, by_pair.get((row["outcome"], row["exposure"]))) for row in rows]
    return pd.DataFrame(found, table.index, list(Answer._fields))


def _answer(row: dict, opposite: dict | None) -> Answer:
    """Answer to one pair, given the row of the opposite pair, if it was asked for."""
    if row["correlation"] > SAME:
        why = f"substitutions move both alike (correlation {row['correlation']:.2f})"
        return Answer("not distinguishable", why)
    if row["k"] < FEWEST:
        why = f"only {row['k']:.0f} of the {FEWEST} sequences that are needed"
        return Answer("not distinguishable", why)
    if not np.isfinite(row["se"]):
        return Answer("undetermined", f"no interval: {row['status']}")
    if row["status"] != "ok":  # labels do not tell the exposure's own response from 0
        return Answer("undetermined", row["status"])
    return _where_told(row, opposite) if _told(row) else _where_not(row)


def _told(row: dict) -> bool:
    """Whether the slope is significant; corrected by labels, too, where there are some."""
    low, high = row["corrected_ci_low"], row["corrected_ci_high"]
    return row["q_value"] < LEVEL and not low <= 0 <= high


def _where_told(row: dict, opposite: dict | None) -> Answer:
    low, high = row["knockout_ci_low"], row["knockout_ci_high"]
    agrees = low > 0 if row["effect"] > 0 else high < 0
    known = np.isfinite(row["knockout"])
    against = row["private_ci_low"] > PRIVATE
    if known and _negligible(row) and (against or not agrees):
        why = f"lost sites change the outcome by less than {NEGLIGIBLE:g} own responses"
        return Answer("no effect", why)
    if known and not agrees:
        return Answer("undetermined", "the slope is significant, the knock-out is not")
    if against:
        why = f"significant, but {row['private_share']:.0%} of what moves the exposure leaves the "
        return Answer("undetermined", why + "outcome alone")
    if opposite is not None and _told(opposite) and not opposite["private_ci_low"] > PRIVATE:
        if not known:
            why = "both directions are significant, and no site was knocked out"
            return Answer("not distinguishable", why)
        if abs(row["own_effect"]) < min(NEGLIGIBLE, abs(opposite["own_effect"])):
            why = f"significant, but below {NEGLIGIBLE:g} own responses and next to a larger "
            return Answer("undetermined", why + "effect the other way")
    if not known:
        return Answer("acts", "the slope is significant; no site was knocked out")
    return Answer("acts", "slope and knock-out are significant and have one sign")


def _where_not(row: dict) -> Answer:
    if max(abs(row["own_ci_low"]), abs(row["own_ci_high"])) <= NEGLIGIBLE:
        why = f"the interval lies within {NEGLIGIBLE:g} own responses around 0"
        return Answer("no effect", why)
    if _negligible(row):
        why = "the interval contains 0, and lost sites change less than "
        return Answer("no effect", f"{why}{NEGLIGIBLE:g} own responses")
    if row["private_ci_low"] > MOSTLY:
        why = f"the interval contains 0, and {row['private_share']:.0%} of what moves the exposure "
        return Answer("no effect", why + "leaves the outcome alone")
    why = f"the interval contains 0 and more than {NEGLIGIBLE:g} own responses"
    return Answer("undetermined", why)


def _negligible(row: dict) -> bool:
    """Whether the interval of the knock-out lies within `NEGLIGIBLE` own responses around 0."""
    scale = (row["own_ci_high"] - row["own_ci_low"]) / (row["ci_high"] - row["ci_low"])
    widest = max(abs(row["knockout_ci_low"]), abs(row["knockout_ci_high"]))
    return widest * scale <= NEGLIGIBLE
