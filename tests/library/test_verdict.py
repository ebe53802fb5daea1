"""The rule of the verdict: every threshold, the order of its questions, and the opposite pair."""

import itertools

import numpy as np
import pandas as pd
import pytest

from deepmr_utils._verdict import verdicts

# Told from 0, sites knocked out; the slope's interval is half as wide in own responses.
ROW = {
    "exposure": "X", "outcome": "Y", "status": "ok", "correlation": 0.0, "k": 50,
    "effect": 1.0, "se": 0.1, "ci_low": 0.8, "ci_high": 1.2, "q_value": 0.001,
    "own_effect": 0.5, "own_ci_low": 0.4, "own_ci_high": 0.6,
    "knockout": 1.0, "knockout_ci_low": 0.8, "knockout_ci_high": 1.2,
    "private_share": 0.3, "private_ci_low": 0.0,
    "corrected": np.nan, "corrected_ci_low": np.nan, "corrected_ci_high": np.nan,
}  # fmt: skip
NULL = {"effect": 0.0, "ci_low": -0.4, "ci_high": 0.4, "q_value": 0.5, "own_effect": 0.0,
        "own_ci_low": -0.2, "own_ci_high": 0.2}  # fmt: skip
NO_SITE = dict.fromkeys(["knockout", "knockout_ci_low", "knockout_ci_high"], np.nan)
ALIKE, FEW, OPEN, BOTH = "move both alike", "only 9 of", "more than 0.1 own", "both directions"


def knockout(low, high):
    return {"knockout": (low + high) / 2, "knockout_ci_low": low, "knockout_ci_high": high}


def corrected(low, high):
    return {"corrected": (low + high) / 2, "corrected_ci_low": low, "corrected_ci_high": high}


# A row's own columns, those of the opposite row or None, the verdict, and words of the reason.
RULES = [
    ({}, None, "acts", "slope and knock-out"),
    # can the two be told apart at all?
    ({"correlation": 0.941}, None, "acts", ""),
    ({"correlation": 0.959}, None, "not distinguishable", ALIKE),
    ({"correlation": np.nan}, None, "acts", ""),
    ({"k": 10}, None, "acts", ""),
    ({"k": 9}, None, "not distinguishable", FEW),
    ({"se": np.nan, "status": "one member"}, None, "undetermined", "no interval: one member"),
    ({"status": "own response untold"}, None, "undetermined", "own response untold"),
    # told from 0: by the slope, and corrected by labels
    ({"q_value": 0.0495}, None, "acts", ""),
    ({"q_value": 0.0505}, None, "undetermined", OPEN),
    (corrected(0.01, 1.0), None, "acts", ""),
    (corrected(-0.01, 1.0), None, "undetermined", OPEN),
    (corrected(-1.0, -0.01), None, "acts", ""),
    # the knock-out has the sign of the slope
    (knockout(0.001, 1.2), None, "acts", ""),
    (knockout(-0.001, 1.2), None, "undetermined", "the knock-out is not"),
    (knockout(-1.2, -0.001), None, "undetermined", "the knock-out is not"),
    ({"effect": -1.0, **knockout(-1.2, -0.001)}, None, "acts", ""),
    ({"effect": -1.0, **knockout(-1.2, 0.001)}, None, "undetermined", "the knock-out is not"),
    (knockout(-0.198, 0.198), None, "no effect", "lost sites change the outcome"),
    (knockout(-0.198, 0.202), None, "undetermined", "the knock-out is not"),
    (knockout(-0.202, 0.198), None, "undetermined", "the knock-out is not"),
    (knockout(0.01, 0.198), None, "acts", ""),
    # private movers speak against it
    ({"private_ci_low": 0.099}, None, "acts", ""),
    ({"private_ci_low": 0.101}, None, "undetermined", "30% of what moves the exposure"),
    ({"private_ci_low": np.nan}, None, "acts", ""),
    ({"private_ci_low": 0.101, **NO_SITE}, None, "undetermined", "leaves the outcome alone"),
    ({"private_ci_low": 0.101, **knockout(0.01, 0.198)}, None, "no effect", "lost sites"),
    ({"private_ci_low": 0.101, **knockout(0.01, 0.202)}, None, "undetermined", "leaves"),
    ({"private_ci_low": 0.099, **knockout(0.01, 0.198)}, None, "acts", ""),
    # both directions are told: without a knock-out
    (NO_SITE, None, "acts", "no site was knocked out"),
    (NO_SITE, {}, "not distinguishable", BOTH),
    (NO_SITE, {"q_value": 0.0495}, "not distinguishable", BOTH),
    (NO_SITE, {"q_value": 0.0505}, "acts", ""),
    (NO_SITE, corrected(-0.01, 1.0), "acts", ""),
    (NO_SITE, {"private_ci_low": 0.099}, "not distinguishable", BOTH),
    (NO_SITE, {"private_ci_low": 0.101}, "acts", ""),
    # both directions are told: with one
    ({}, {}, "acts", "slope and knock-out"),
    ({"own_effect": 0.099}, {}, "undetermined", "the other way"),
    ({"own_effect": -0.099}, {"own_effect": -0.5}, "undetermined", "the other way"),
    ({"own_effect": 0.101}, {}, "acts", ""),
    ({"own_effect": 0.0495}, {"own_effect": 0.05}, "undetermined", "the other way"),
    ({"own_effect": 0.0505}, {"own_effect": 0.05}, "acts", ""),
    ({"own_effect": 0.05}, None, "acts", ""),
    ({"own_effect": 0.05}, {"q_value": 0.0505}, "acts", ""),
    ({"own_effect": 0.05}, {"private_ci_low": 0.101}, "acts", ""),
    # not told from 0: is the effect known to be small?
    (NULL, None, "undetermined", OPEN),
    (NULL | {"own_ci_low": -0.099, "own_ci_high": 0.099}, None, "no effect", "interval lies"),
    (NULL | {"own_ci_low": -0.101, "own_ci_high": 0.099}, None, "undetermined", OPEN),
    (NULL | {"own_ci_low": -0.099, "own_ci_high": 0.101}, None, "undetermined", OPEN),
    (NULL | knockout(-0.198, 0.1), None, "no effect", "lost sites change less"),
    (NULL | knockout(-0.202, 0.1), None, "undetermined", OPEN),
    (NULL | knockout(-0.1, 0.198), None, "no effect", "lost sites change less"),
    (NULL | knockout(-0.1, 0.202), None, "undetermined", OPEN),
    (NULL | {"private_ci_low": 0.505}, None, "no effect", "30% of what moves the exposure"),
    (NULL | {"private_ci_low": 0.495}, None, "undetermined", OPEN),
    (NULL | NO_SITE, {}, "undetermined", OPEN),
    # the first question that has an answer gives it
    ({"correlation": 0.959, "k": 9, "se": np.nan}, None, "not distinguishable", ALIKE),
    ({"k": 9, "se": np.nan}, None, "not distinguishable", FEW),
    (NULL | {"se": np.nan, "private_ci_low": 0.9}, None, "undetermined", "no interval"),
    (knockout(-0.1, 1.2) | {"private_ci_low": 0.9}, None, "undetermined", "the knock-out is not"),
    ({"private_ci_low": 0.9, "own_effect": 0.05}, {}, "undetermined", "leaves the outcome alone"),
    (NO_SITE | {"own_effect": 0.05}, {}, "not distinguishable", BOTH),
    (NULL | {"own_ci_low": -0.09, "own_ci_high": 0.09, "private_ci_low": 0.9}, None,
     "no effect", "interval lies"),
    (NULL | knockout(-0.1, 0.1) | {"private_ci_low": 0.9}, None, "no effect", "lost sites"),
]  # fmt: skip


def table(own, opposite):
    rows = [ROW | own]
    if opposite is not None:
        rows.append(ROW | {"exposure": "Y", "outcome": "X"} | opposite)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("own", "opposite", "verdict", "reason"), RULES)
def test_each_rule_and_its_threshold(own, opposite, verdict, reason):
    found = verdicts(table(own, opposite)).iloc[0]
    assert found["verdict"] == verdict
    assert reason in found["reason"]
    assert found["reason"]


def test_rows_may_have_any_order_and_index():
    names = ["X", "Y", "Z"]
    rows = [
        ROW | NO_SITE | {"exposure": x, "outcome": y, "q_value": 0.001 if (x, y) != ("Z", "X") else 1}
        for x, y in itertools.permutations(names, 2)
    ]  # fmt: skip
    given = pd.DataFrame(rows, index=list("abcdef"))
    expected = verdicts(given)
    assert expected["verdict"].value_counts().to_dict() == {
        "not distinguishable": 4, "acts": 1, "undetermined": 1,
    }  # fmt: skip
    for seed in range(5):
        again = verdicts(given.sample(frac=1, random_state=seed))
        pd.testing.assert_frame_equal(again.sort_index(), expected)


def test_a_pair_of_other_features_is_no_opposite():
    other = ROW | NO_SITE | {"exposure": "Y", "outcome": "Z"}
    found = verdicts(pd.DataFrame([ROW | NO_SITE, other]))
    assert found["verdict"].tolist() == ["acts", "acts"]
