"""Intervals that carry the variance between members: formulas by hand, coverage by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import nn

from deepmr_utils import intervals, meta, mr
from deepmr_utils.instruments import select_instruments
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

MEMBERS = 4


class Linear(nn.Module):
    """Two features that are linear in the bases, so that effects are known."""

    feature_names = ("x", "y")

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ncl,kcl->nk", one_hot, self.weights)


@pytest.fixture(scope="module")
def effects():
    rng = np.random.default_rng(0)
    shared, sequences = rng.normal(size=(2, 4, 30)), rng.choice(list("ACGT"), (12, 30))
    shared[1] = 0.5 * shared[0]
    members = [Linear(torch.tensor(shared + 0.05 * rng.normal(size=(2, 4, 30)))) for _ in range(MEMBERS)]  # fmt: skip
    x = one_hot(["".join(s) for s in sequences], torch.float64)
    return saturation_mutagenesis(members, x, device="cpu", keep_members=True)


@pytest.fixture(scope="module")
def instruments(effects):
    return select_instruments(effects, "x", "y")


def test_total_variance_by_hand():
    within, between = 0.04, 0.1
    total, df = intervals.total_variance(within, between, 5)
    assert total == pytest.approx(0.04 + 1.2 * 0.1)
    assert df == pytest.approx(4 * (1 + 0.04 / 0.12) ** 2)
    total, df = intervals.total_variance(within, between, 5, "rubin_few")
    assert (total, df) == (pytest.approx(0.16), 4)
    total, df = intervals.total_variance(within, between, 5, "mean")
    assert total == pytest.approx(0.04 + 0.1 / 5)
    assert df == pytest.approx(4 * (1 + 0.04 / 0.02) ** 2)
    total, df = intervals.total_variance(within, between, 5, "plain")
    assert (total, df) == (0.04, np.inf)


def test_barnard_and_rubin_degrees_of_freedom():
    """As printed for multiple imputation: 1 / df = 1 / df_m + 1 / df_obs, never above either."""
    _, df = intervals.total_variance(0.04, 0.1, 5, complete_df=20)
    fraction = 0.12 / 0.16  # of the total variance that is between
    observed = (20 + 1) / (20 + 3) * 20 * (1 - fraction)
    old = 4 / fraction**2
    assert df == pytest.approx(1 / (1 / old + 1 / observed))
    _, far = intervals.total_variance(0.04, 0.1, 5, complete_df=1e9)
    assert far == pytest.approx(old, rel=1e-6)


def test_limits_of_the_total_variance():
    total, df = intervals.total_variance([0.04, 0.0, 0.04], [0.0, 0.1, 0.1], [5, 5, 1])
    np.testing.assert_allclose(total, [0.04, 0.12, np.nan])
    np.testing.assert_allclose(df, [np.inf, 4, np.nan])
    columns = intervals.intervals([1.0], [0.2], [0.0], 5)
    assert columns["total_ci_low"] == pytest.approx(1 - scipy.stats.norm.ppf(0.975) * 0.2)
    with pytest.raises(ValueError, match="unknown rule 'bayes': choose one of rubin"):
        intervals.total_variance(1, 1, 5, "bayes")
    with pytest.raises(ValueError, match="variances must be 0 or more"):
        intervals.total_variance(-1, 1, 5)


def test_rubins_interval_covers_when_members_are_draws_of_the_model():
    """2,000 models: the truth and M members are draws around one centre. Rule "mean" is honest only
    about the centre, which is not the truth."""
    rng = np.random.default_rng(1)
    truth, members = rng.normal(size=2000), rng.normal(size=(5, 2000))
    estimate = members.mean(0) + 0.3 * rng.normal(size=2000)
    covered = {}
    for rule in intervals.RULES:
        got = intervals.intervals(estimate, np.full(2000, 0.3), members.std(0, ddof=1), 5, rule)  # fmt: skip
        covered[rule] = np.mean((got["total_ci_low"] <= truth) & (truth <= got["total_ci_high"]))
    tolerance = 4 * np.sqrt(0.95 * 0.05 / 2000)
    assert covered["rubin"] == pytest.approx(0.95, abs=tolerance)
    assert covered["rubin_few"] == pytest.approx(0.955, abs=tolerance)
    assert covered["mean"] < 0.85
    assert covered["plain"] < 0.6


def test_moderated_variances_recover_their_prior():
    """Variances drawn as the model says: prior 0.3 on 6 degrees of freedom, seen on 4."""
    rng = np.random.default_rng(3)
    true = 0.3 * 6 / rng.chisquare(6, 20_000)
    seen = true * rng.chisquare(4, 20_000) / 4
    shrunk, df = intervals.moderated_variance(seen, 5)
    assert df == pytest.approx(6 + 4, abs=0.6)  # 5 standard errors of the fit
    slope = np.polyfit(seen, shrunk, 1)
    np.testing.assert_allclose(slope, [4 / df, 0.3 * (df - 4) / df], rtol=0.05)
    error = rng.normal(size=20_000) * np.sqrt(true)
    covered = np.abs(error) <= np.sqrt(shrunk) * scipy.stats.t.ppf(0.975, df)
    assert covered.mean() == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 20_000))
    plain = np.sqrt(seen) * scipy.stats.t.ppf(0.975, 4)
    assert np.sqrt(shrunk).mean() * scipy.stats.t.ppf(0.975, df) < 0.95 * plain.mean()


def test_equal_variances_are_pooled_and_few_are_left_alone():
    seen = 0.2 * np.random.default_rng(4).chisquare(4, 50) / 4
    seen = np.append(np.exp(np.log(seen) * 0.5 + 0.5 * np.log(0.2)), np.nan)  # less than by chance
    shrunk, df = intervals.moderated_variance(seen, 5)
    assert np.isinf(df)
    assert np.ptp(shrunk[:-1]) == 0
    assert np.isnan(shrunk[-1])
    few, df = intervals.moderated_variance([0.1, 0.2], 5)
    assert (few.tolist(), df) == ([0.1, 0.2], 4)


@pytest.mark.parametrize("method", ["ivw_robust", "egger_robust", "median_weighted"])
def test_member_estimates_are_those_of_one_member_at_a_time(effects, instruments, method):
    members = intervals.member_local(effects, instruments, method)
    assert len(members) == MEMBERS * 12
    position = effects.indexes["position"].get_indexer(instruments["position"])
    allele = effects.indexes["allele"].get_indexer(instruments["alternate"])
    sequence = instruments["sequence_id"].cat.codes.to_numpy()
    for m in range(MEMBERS):
        own = effects["member_effect"].to_numpy()[m, sequence, position, allele]
        table = instruments.assign(beta_exposure=own[:, 0], beta_outcome=own[:, 1])
        alone = mr.local_mr(table, method)["causal_effect"]
        np.testing.assert_allclose(members.query("member == @m")["causal_effect"], alone, rtol=1e-9)


def test_leaving_one_member_out_by_hand():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 5, 3))
    mean_x, mean_y, variance, covariance = intervals.leave_one_out(x, y)
    for m in range(5):
        a, b = np.delete(x, m, 0), np.delete(y, m, 0)
        np.testing.assert_allclose(mean_x[m], a.mean(0))
        np.testing.assert_allclose(mean_y[m], b.mean(0))
        np.testing.assert_allclose(variance[m], a.var(0, ddof=1) / 4)
        np.testing.assert_allclose(
            covariance[m], [np.cov(*ab)[0, 1] / 4 for ab in zip(a.T, b.T, strict=True)]
        )


def test_members_of_a_corrected_estimate_are_pseudo_values(effects, instruments):
    """By products of different members: mean over m != m' of x_m y_m', and of x_m x_m'."""
    place = instruments["sequence_id"].cat.codes.to_numpy()
    position = effects.indexes["position"].get_indexer(instruments["position"])
    allele = effects.indexes["allele"].get_indexer(instruments["alternate"])
    each = effects["member_effect"].to_numpy()[:, place, position, allele]
    one = place == 0

    def slope(kept):
        pairs = list(itertools.permutations(kept, 2))
        top = sum((each[a, one, 0] * each[b, one, 1]).sum() for a, b in pairs)
        return top / sum((each[a, one, 0] * each[b, one, 0]).sum() for a, b in pairs)

    whole = slope(range(MEMBERS))
    left = [slope([m for m in range(MEMBERS) if m != out]) for out in range(MEMBERS)]
    expected = MEMBERS * whole - (MEMBERS - 1) * np.array(left)
    local = mr.local_mr(instruments, "ivw", weights="equal")
    assert local["causal_effect"][0] == pytest.approx(whole, rel=1e-9)
    found = intervals.member_local(effects, instruments, "ivw", weights="equal")
    got = found[found["sequence_id"] == local["sequence_id"][0]]["causal_effect"]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert np.abs(got - np.mean(got)).max() > 1e-3
    # c in the place of c / M, and s^2 of s^2 / M, is another number
    wrong = instruments.assign(covariance=MEMBERS * instruments["covariance"])
    wrong["se_exposure"] = wrong["sd_exposure"]
    wrong["se_outcome"] = wrong["sd_outcome"]
    wrong = mr.local_mr(wrong, "ivw", weights="equal")["causal_effect"][0]
    assert abs(wrong - whole) > 1e-4


def test_member_order_and_row_order_do_not_matter(effects, instruments):
    members = intervals.member_local(effects, instruments)
    local = mr.local_mr(instruments, "ivw")
    keys = ["sequence_id", "method"]
    one = intervals.add_intervals(local, members, keys)
    shuffled = instruments.sample(frac=1, random_state=0)
    shuffled.attrs = instruments.attrs
    flipped = intervals.member_local(effects.isel(member=slice(None, None, -1)), shuffled)
    two = intervals.add_intervals(local, flipped, keys)
    pd.testing.assert_frame_equal(one, two)
    assert (one["total_se"] > one["se"]).all()
    moderated = intervals.add_intervals(local, members, keys, moderate=True)
    assert (moderated["total_df"] > one["total_df"]).mean() > 0.5
    pd.testing.assert_series_equal(moderated["between_se"], one["between_se"])
    assert one[["ci_low", "ci_high"]].equals(local[["ci_low", "ci_high"]])
    centre = (one["total_ci_low"] + one["total_ci_high"]) / 2
    np.testing.assert_allclose(centre, one["causal_effect"])


def test_global_effects_by_member(effects, instruments):
    local = mr.local_mr(instruments, "ivw").assign(stratum=["a"] * 5 + ["b"] * 7)
    local.loc[0, ["causal_effect", "se"]] = np.nan  # the ensemble has no estimate: nobody enters
    members = intervals.member_local(effects, instruments)
    by = ["stratum", "method"]
    table = intervals.member_global(local, members, by)
    assert len(table) == 2 * MEMBERS
    own = members.query("member == 2")["causal_effect"].to_numpy()[1:5]
    known = local.iloc[1:5]
    tau2 = meta.random_effects(known["causal_effect"], known["se"])["tau2"]  # of the ensemble
    expected = np.average(own, weights=1 / (known["se"] ** 2 + tau2))
    got = table.query("stratum == 'a' and member == 2")["effect"].item()
    assert got == pytest.approx(expected)
    globals_ = meta.global_effects(local, by)
    added = intervals.add_intervals(globals_, table, by, "effect")
    spread = table.query("stratum == 'b'")["effect"].std()
    assert added.loc[1, "between_se"] == pytest.approx(spread)
    assert added.loc[1, "total_se"] ** 2 == pytest.approx(
        globals_.loc[1, "se"] ** 2 + (1 + 1 / MEMBERS) * spread**2
    )


def test_a_table_without_members_has_no_total_interval(instruments):
    local = mr.local_mr(instruments, "ivw")
    none = pd.DataFrame(columns=["member", "sequence_id", "method", "causal_effect"])
    none = none.astype({"causal_effect": float, "sequence_id": local["sequence_id"].dtype})
    added = intervals.add_intervals(local, none, ["sequence_id", "method"])
    assert added["total_ci_low"].isna().all()
    assert added["ci_low"].notna().all()


def test_effects_without_members_or_of_others_raise(effects, instruments):
    with pytest.raises(ValueError, match="keep_members=True"):
        intervals.member_local(effects.drop_vars("member_effect"), instruments)
    with pytest.raises(ValueError, match="instruments are not from these effects"):
        intervals.member_local(effects.isel(sequence=slice(3)), instruments)


def test_conditional_standard_error():
    se = np.array([0.1, 0.2, 0.4])
    assert meta.conditional_se(se, 0.0) == pytest.approx(1 / np.sqrt((1 / se**2).sum()))
    # so heterogeneous that all studies weigh the same: the error of a plain mean
    assert meta.conditional_se(se, 1e9) == pytest.approx(np.sqrt((se**2).sum()) / 3)


def test_members_of_a_group_without_estimates_have_no_row():
    """A chain of instruments may leave a pair without any: its table is empty, and of its kind."""
    local = pd.DataFrame({"sequence_id": ["a"], "method": ["ivw"], "causal_effect": [np.nan],
                          "se": [np.nan]})  # fmt: skip
    members = local.drop(columns="se").merge(pd.DataFrame({"member": [0, 1]}), how="cross")
    table = intervals.member_global(local, members)
    assert table.empty
    assert list(table) == ["method", "member", "effect"]
    assert table["effect"].dtype == float
    estimates = pd.DataFrame({"method": ["ivw"], "effect": [np.nan], "se": [np.nan]})
    added = intervals.add_intervals(estimates, table, ["method"], "effect")
    assert added["total_se"].isna().all()


def test_one_name_is_a_list_of_one(effects, instruments):
    local = mr.local_mr(instruments, "ivw")
    members = intervals.member_local(effects, instruments)
    one = intervals.add_intervals(local, members, on="sequence_id")
    pd.testing.assert_frame_equal(one, intervals.add_intervals(local, members, on=["sequence_id"]))
    by_member = intervals.member_global(local, members, by="method")
    pd.testing.assert_frame_equal(by_member, intervals.member_global(local, members))
    whole = intervals.add_intervals(meta.global_effects(local, []), by_member, [], "effect")
    assert whole["between_se"].item() == pytest.approx(by_member["effect"].std())
    alone = intervals.member_global(local, members, by=())
    np.testing.assert_array_equal(alone["effect"], by_member["effect"])
    with pytest.raises(ValueError, match=r"needs the columns efect.*\['efect'"):
        intervals.add_intervals(local, members, on=[], effect="efect")


def test_several_methods_at_once(effects, instruments):
    both = intervals.member_local(effects, instruments, ["ivw", "egger"])
    for method in ("ivw", "egger"):
        alone = intervals.member_local(effects, instruments, method)
        rows = both[both["method"] == method].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, alone)


def test_local_effects_without_a_usable_error_are_left_out(effects, instruments):
    local = mr.local_mr(instruments, "ivw")
    members = intervals.member_local(effects, instruments)
    spoilt = local.copy()
    spoilt.loc[[0, 1, 2], "se"] = [np.inf, 0, np.nan]
    got = intervals.member_global(spoilt, members)
    want = intervals.member_global(local.iloc[3:], members)
    np.testing.assert_allclose(got["effect"], want["effect"])


def test_what_has_no_interval_says_why():
    columns = intervals.intervals([0.5], [0.0], [0.2], 5, complete_df=[9])
    assert columns["total_df"] == 0
    assert columns["total_status"][0].startswith("no degrees of freedom")
    columns = intervals.intervals([0.5], [0.0], [0.2], 5)
    assert (columns["total_df"], columns["total_status"][0]) == (4, "ok")
    columns = intervals.intervals(
        np.ma.array([0.5] * 5, mask=[0, 0, 1, 0, 0]), [0.1, np.nan, 0.1, 0, 0.1],
        [0.1, 0.1, 0.1, 0, 0.1], [1, 5, 5, 5, 5],
    )  # fmt: skip
    assert [text[:9] for text in columns["total_status"]] == [
        "fewer tha", "no finite", "no estima", "no varian", "ok",
    ]  # fmt: skip
    finite = np.isfinite(columns["total_ci_low"])
    assert finite.tolist() == [False, False, False, True, True]


def test_missing_degrees_of_freedom_are_not_infinite_ones():
    _, df = intervals.total_variance(0.04, 0.1, 5, complete_df=[np.nan, 20])
    assert np.isnan(df[0])
    assert df[1] == pytest.approx(2.80, rel=0.01)


def test_members_of_two_calibrations_are_not_averaged(effects, instruments):
    local, members = mr.local_mr(instruments, "ivw"), intervals.member_local(effects, instruments)
    other = members.assign(causal_effect=3 * members["causal_effect"])

    def both(*tables):
        return pd.concat([t.assign(calibration=c) for c, t in zip("ab", tables, strict=True)])

    by = ["calibration", "method"]
    got = intervals.member_global(both(local, local), both(members, other), by)
    want = both(intervals.member_global(local, members), intervals.member_global(local, other))
    pd.testing.assert_frame_equal(got, want[list(got)].reset_index(drop=True))
    with pytest.raises(ValueError, match="one row each for every sequence_id, method; got more"):
        intervals.member_global(both(local, local), both(members, other))


def test_the_variance_of_members_that_agree_is_not_negative():
    """Leave-one-out moments by hand, also where all others say the same up to rounding."""
    x = np.random.default_rng(0).normal(0, 5, (3, 2000))
    x[1, ::2] = x[0, ::2]
    mean, _, variance, _ = intervals.leave_one_out(x, x)
    assert (variance >= 0).all()
    for m in range(3):
        others = np.delete(x, m, axis=0)
        np.testing.assert_allclose(mean[m], others.mean(0))
        np.testing.assert_allclose(variance[m], others.var(0, ddof=1) / 2, atol=1e-12)
