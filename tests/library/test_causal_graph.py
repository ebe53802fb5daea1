"""Tables of all pairs: p-values of totals, and which way effects go."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deepmr_utils import pairs
from deepmr_utils.pairs import PAIR, PairEffects

MEMBERS = 5


def table_of(effect, se, between, rng, features):
    """Global effects of all pairs and of their members, drawn around `effect`."""
    both = list(permutations(features, 2))
    shared = effect + between * rng.standard_normal(len(both))
    values = shared + se * rng.standard_normal(len(both))
    by_member = effect + between * rng.standard_normal((MEMBERS, len(both)))
    by_member += values - by_member.mean(0)
    table = pd.DataFrame(both, columns=PAIR).assign(effect=values, se=se)
    members = [table[PAIR].assign(member=m, effect=v) for m, v in enumerate(by_member)]
    return table, pd.concat(members)


def test_direction_is_claimed_at_the_nominal_rate_and_not_of_half_a_pair():
    rng = np.random.default_rng(1)
    features = [f"f{i}" for i in range(40)]
    table, members = table_of(0.5, 0.02, 0.03, rng, features)
    ways = pairs.direction_test(table, members)
    assert len(ways) == 780
    assert (ways["difference"] > 0).all()
    assert (
        0.01 < (ways["p"] < 0.05).mean() < 0.08
    )  # binomial sd 0.008; Rubin's rule is conservative
    table.loc[table["exposure"] == "f0", "effect"] += 0.5
    members.loc[members["exposure"] == "f0", "effect"] += 0.5
    found = pairs.direction_test(table, members).query("exposure == 'f0'")
    assert len(found) == 39
    assert (found["p"] < 0.05).all()
    with pytest.raises(
        ValueError, match="a direction needs both ways; there is no effect of f1 on"
    ):
        pairs.direction_test(table.query("exposure == 'f0'"), members)


def test_total_p_is_two_sided_and_from_the_total_error():
    """One pair of a sequence, members by hand: t = 3 / total_se on Rubin's degrees of freedom."""
    keys = {"sequence_id": "s", "exposure": "a", "outcome": "b", "method": "ivw"}
    local = pd.DataFrame([{**keys, "causal_effect": 0.3, "se": 0.1}])
    members = pd.DataFrame([{**keys, "member": m, "causal_effect": v}
                            for m, v in enumerate([0.2, 0.3, 0.4])])  # fmt: skip
    table, _ = pairs.summarise(PairEffects(local, members))
    variance = 0.1**2 + (1 + 1 / 3) * 0.1**2
    df = 2 * (1 + 0.1**2 / ((1 + 1 / 3) * 0.1**2)) ** 2
    row = table.iloc[0]
    assert row["total_se"] == pytest.approx(np.sqrt(variance))
    assert row["total_p"] == pytest.approx(2 * stats.t.sf(0.3 / np.sqrt(variance), df), rel=1e-9)
    assert row["total_p"] == pytest.approx(0.0962, abs=5e-4)
    # an effect of 0 is told from nothing: one-sided it would be a half
    none = PairEffects(local.assign(causal_effect=0.0), members)
    assert pairs.summarise(none)[0]["total_p"].item() == pytest.approx(1)
    name = pairs.summarise(PairEffects(local, members), by="exposure")[0]
    assert name.columns[0] == "exposure"


@pytest.mark.parametrize("sign", [1, -1])
def test_direction_by_hand(sign):
    """Members' own differences of absolute values, the reverse effect of either sign."""
    table = pd.DataFrame({"exposure": ["a", "b"], "outcome": ["b", "a"],
                          "effect": [0.5, sign * 0.2], "se": [0.03, 0.04]})  # fmt: skip
    forward, reverse = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]  # which move together
    members = pd.DataFrame({
        "exposure": ["a"] * 3 + ["b"] * 3, "outcome": ["b"] * 3 + ["a"] * 3,
        "member": [0, 1, 2] * 2, "effect": [*forward, *(sign * r for r in reverse)],
    })  # fmt: skip
    row = pairs.direction_test(table, members).iloc[0]
    assert (row["forward"], row["reverse"]) == (0.5, sign * 0.2)
    assert row["difference"] == pytest.approx(0.3)
    # all members say 0.3, so that only the errors given the model are left, of both ways
    assert row["total_se"] == pytest.approx(0.05, rel=1e-6)
    assert row["p"] == pytest.approx(2 * stats.norm.sf(6), rel=1e-3)
