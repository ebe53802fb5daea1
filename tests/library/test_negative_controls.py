"""Calibration by negative controls: false rates on synthetic nulls, arithmetic, and `deep_mr`."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from deepmr_utils._verdict import verdicts
from deepmr_utils.analysis import deep_mr
from deepmr_utils.negative_controls import _fit, _predict, calibrate
from deepmr_utils.pairs import PAIR

SLOW = 600  # replicates


def effects(rng, clusters, each, shared, icc=0.0, df=np.inf, scale=1.0):
    """Null effects with mean 0.3, standard error 1 and an error that no standard error shows."""
    network = np.repeat(np.arange(clusters), each)
    n = len(network)
    error = icc**0.5 * rng.normal(size=clusters)[network] + (1 - icc) ** 0.5 * rng.normal(size=n)
    own = 0.3 + shared * error + rng.normal(size=n)
    se = np.sqrt(rng.chisquare(df, n) / df) if np.isfinite(df) else np.ones(n)
    table = {"exposure": network, "outcome": np.arange(n), "network": network, "df": df}
    table |= {"own_effect": own, "effect": own / scale, "se": se}
    return pd.DataFrame(table).astype({"exposure": str, "outcome": str})


def others(rng, **options):
    """Effects of other networks."""
    table = effects(rng, 60, 1, **options)
    return table.assign(network=table["network"] + 10_000)


def false_rate(clusters, each=1, counted=True, replicates=SLOW, seed=0, **options):
    """Share of null effects told from 0, and its Monte-Carlo error."""
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(replicates):
        nulls = effects(rng, clusters, each, **options)
        labels = nulls["network"].to_numpy() if counted else np.arange(len(nulls))
        new = others(rng, **options)
        null = _fit(nulls, labels)
        variance, df = _predict(null, new["se"].to_numpy() ** 2, new["df"].to_numpy())
        t = np.abs(new["own_effect"] - null.mean) / variance**0.5
        rates.append((2 * stats.t.sf(t, df) < 0.05).mean())
    return np.mean(rates), np.std(rates) / replicates**0.5


@pytest.mark.parametrize("clusters", [5, 10, 20, 100])
def test_false_rates_are_nominal_where_an_error_is_shared(clusters):
    rate, error = false_rate(clusters, shared=5.0)
    assert rate == pytest.approx(0.05, abs=3 * error)
    rate, error = false_rate(clusters, shared=1.0, replicates=SLOW // 3)
    assert 0.03 < rate < 0.05 + 3 * error


def test_few_members_make_it_cautious():
    rate, error = false_rate(20, shared=1.0, df=4.0, replicates=SLOW // 3)
    assert 0.02 < rate < 0.05 + 2 * error


@pytest.mark.parametrize(("k", "expected"), [(3, 0.30), (5, 0.18), (10, 0.11), (20, 0.08)])
def test_the_normal_in_the_place_of_t_would_not_do(k, expected):
    rng = np.random.default_rng(1)
    nulls, new = rng.normal(size=(k, 20_000)), rng.normal(size=20_000)
    z = np.abs(new - nulls.mean(0)) / nulls.std(0)
    assert (z > 1.96).mean() == pytest.approx(expected, abs=0.015)
    exact = stats.t.ppf(0.975, k - 1) * ((k + 1) / (k - 1)) ** 0.5  # of a sd with ddof 0
    assert (z > exact).mean() == pytest.approx(0.05, abs=0.005)


def test_clusters_are_counted():
    options = {"shared": 5.0, "icc": 0.5, "replicates": SLOW // 2}
    rate, error = false_rate(5, each=8, **options)
    assert rate == pytest.approx(0.05, abs=3 * error + 0.004)
    wrong, error = false_rate(5, each=8, counted=False, **options)
    assert wrong > 0.06 + 2 * error


def test_a_tested_null_is_left_out_with_its_cluster():
    rng = np.random.default_rng(2)
    rates, inside = [], []
    for _ in range(120):
        nulls = effects(rng, 8, 4, shared=5.0, icc=0.8)
        rates.append((calibrate(nulls, nulls)["p"] < 0.05).mean())
        other = nulls.drop(columns="network").assign(exposure="new")
        inside.append((calibrate(other, nulls)["p"] < 0.05).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=3 * np.std(rates) / 120**0.5)
    assert np.mean(inside) < 0.035
    found, without = calibrate(nulls, nulls), nulls[nulls["network"] != 3]
    here = nulls["network"] == 3
    alone = calibrate(nulls[here].assign(network=99), without)
    np.testing.assert_allclose(found["se"][here], alone["se"])


def test_the_arithmetic_of_unequal_clusters():
    own = [1.0, 3.0, 0.0, -2.0, 5.0, 4.0, 1.0]
    network = ["a", "a", "b", "c", "d", "e", "e"]
    nulls = pd.DataFrame({"exposure": "x", "outcome": "y", "own_effect": own, "network": network})
    nulls["se"] = 0.5
    means = np.array([2.0, 0.0, -2.0, 5.0, 2.5])
    mean, between = means.mean(), means.var(ddof=1)
    within = (2.0 + 4.5) / 2  # squares about their means, over N - K
    parts = np.array([1.2 * between, (1 - 0.8) * within, 0.75])
    table = pd.DataFrame({
        "exposure": "x", "outcome": ["y", "z", "w"], "effect": [2.0, 2.0, 300.0],
        "own_effect": [4.0, 4.0, 600.0], "se": [0.25, 0.5, 50.0], "df": 6.0,
    })  # fmt: skip
    found = calibrate(table, nulls)
    small, larger, largest = (row for _, row in found.iterrows())
    assert small["se"] == pytest.approx(parts[:2].sum() ** 0.5 / 2)
    df = parts[:2].sum() ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 2)
    assert small["df"] == pytest.approx(df)
    assert larger["se"] == pytest.approx(parts.sum() ** 0.5 / 2)
    df = parts.sum() ** 2 / (parts**2 / [4, 2, 6]).sum()
    assert larger["df"] == pytest.approx(df)
    assert largest["se"] > 50  # its own, and the error of the mean
    np.testing.assert_allclose(found["null_mean"], mean / 2)
    np.testing.assert_allclose(found["effect"], table["effect"] - mean / 2)
    np.testing.assert_allclose(found["own_effect"], table["own_effect"] - mean)
    half = stats.t.ppf(0.975, found["df"]) * found["se"]
    np.testing.assert_allclose(found["ci_high"] - found["effect"], half)
    np.testing.assert_allclose(
        found["p"], 2 * stats.t.sf(found["effect"] / found["se"], found["df"])
    )
    np.testing.assert_allclose(found["q_value"], stats.false_discovery_control(found["p"]))
    facts = found.attrs["nulls"]
    assert facts["sd"] == pytest.approx(parts[:2].sum() ** 0.5)
    assert facts["note"] == "calibrated by 7 negative controls in 5 clusters, which are few"


def test_no_interval_is_narrowed_and_columns_may_be_total():
    rng = np.random.default_rng(3)
    table, nulls = others(rng, shared=0.0, df=3.0, scale=4.0), effects(rng, 40, 1, shared=0.0)
    table["se"] /= 4
    before = stats.t.ppf(0.975, 3) * table["se"]
    found = calibrate(table, nulls)
    assert (found["ci_high"] - found["effect"] >= before * (1 - 1e-9)).all()
    assert "few" not in found.attrs["nulls"]["note"]
    renamed = table.rename(columns={"se": "total_se", "df": "total_df"}).assign(se=1e-9)
    total = calibrate(renamed, nulls)
    np.testing.assert_allclose(total["total_se"], found["se"])
    np.testing.assert_allclose(total["total_p"], found["p"])
    table.loc[0, "se"] = np.nan
    assert calibrate(table, nulls).loc[0, ["se", "p", "ci_low"]].isna().all()


def test_most_pairs_may_be_null_and_not_known():
    rng = np.random.default_rng(4)
    rates = []
    for _ in range(40):
        table = effects(rng, 30, 10, shared=3.0)
        true = rng.random(len(table)) < 0.05
        table.loc[true, "own_effect"] += 30.0
        table["effect"] = table["own_effect"]
        found = calibrate(table, "most")
        rates.append((found["p"] < 0.05)[~true].mean())
        assert (found["p"] < 0.05)[true].mean() > 0.95
        assert found.attrs["nulls"]["mean"] == pytest.approx(0.3, abs=1.5)
    assert 0.01 < np.mean(rates) < 0.05
    table.loc[:60, ["own_effect", "effect"]] += 60.0
    with pytest.raises(ValueError, match="may not be null: name null pairs"):
        calibrate(table, "most")
    with pytest.raises(ValueError, match="make 20 clusters or more"):
        calibrate(table[table["network"] < 19], "most")
    table.attrs = {"methods": ("ivw",), "rule": "pooled"}
    with pytest.raises(ValueError, match="strength alone"):
        calibrate(table, "most")


def test_what_cannot_be_is_refused():
    rng = np.random.default_rng(5)
    table, nulls = others(rng, shared=1.0), effects(rng, 4, 5, shared=1.0)
    with pytest.raises(ValueError, match=r"5 clusters or more.*got 4"):
        calibrate(table, nulls)
    with pytest.raises(ValueError, match=r"\('0', '77'\).* are not: ask for them"):
        calibrate(table, [("0", "77")])
    with pytest.raises(ValueError, match="the table of nulls needs the columns"):
        calibrate(table, nulls.drop(columns="se"))
    with pytest.raises(ValueError, match="unknown nulls 'all'"):
        calibrate(table, "all")
    gone = effects(rng, 6, 1, shared=1.0)
    gone.loc[:1, "own_effect"] = np.nan
    with pytest.raises(ValueError, match="got 4"):
        calibrate(table, gone)


NAMES = [f"F{i}" for i in range(7)]


def world(seed=0, leak=0.08, slope=0.6, sequences=14, members=5):
    """F0 acts on F1; what all members share leaks from each feature's site into every other."""
    rng = np.random.default_rng(seed)
    length, n = 5 * len(NAMES), len(NAMES)
    acts = np.where(np.eye(n), 1.0, rng.normal(0, leak, (n, n)))
    acts[0, 1] += slope
    reference = rng.integers(0, 4, (sequences, length))
    site = np.arange(length) // 5 == np.arange(n)[:, None]  # feature, position
    size = -rng.gamma(2, 0.5, (sequences, length, 4, 1))
    effect = size * (site[:, :, None] * acts[:, None]).sum(0)[:, None]
    each = effect + 0.02 * rng.normal(size=(members, *effect.shape))
    each = np.where((np.arange(4) != reference[..., None])[..., None], each, np.nan)
    dims = ("sequence", "position", "allele", "feature")
    ids = [f"s{i}" for i in range(sequences)]
    data = {
        "effect": (dims, each.mean(0)), "se": (dims, each.std(0, ddof=1)),
        "member_effect": (("member", *dims), each),
    }  # fmt: skip
    letters = ("sequence", "position"), np.array(list("ACGT"))[reference]
    places = {"sequence": ids, "position": range(length), "allele": list("ACGT")}
    places |= {"feature": NAMES, "reference": letters}
    rows = [(i, name, 5 * k, 5 * k + 5) for i in ids for k, name in enumerate(NAMES)]
    instances = pd.DataFrame(rows, columns=["sequence_id", "factor", "start", "end"])
    return xr.Dataset(data, places, {"n_members": members}), instances


@pytest.fixture(scope="module")
def analysed():
    data, instances = world()
    pairs = [(x, y) for x in NAMES for y in NAMES[:2] if x != y]
    nulls = [pair for pair in pairs if pair not in {("F0", "F1"), ("F1", "F0")}]
    options = {"pairs": pairs, "instances": instances}
    plain, found = deep_mr(data, **options), deep_mr(data, **options, null_pairs=nulls)
    return data, options, nulls, plain, found


def test_deep_mr_calibrates_what_it_finds(analysed):
    _, _, nulls, plain, found = analysed
    known = plain.effects
    expected = calibrate(known.assign(scale=known["own_effect"] / known["effect"]), nulls)
    columns = ["effect", "se", "ci_low", "ci_high", "p", "q_value", "df", "own_effect", "null_mean"]
    pd.testing.assert_frame_equal(found.effects[columns], expected[columns], check_exact=False)
    facts = found.settings["null_pairs"]
    assert (facts["nulls"], facts["clusters"]) == (10, 5)
    assert plain.settings["null_pairs"] is None
    assert found.effects["reason"].str.contains("by 10 negative controls in 5 clusters, wh").all()
    assert "null_mean" not in known
    table = found.effects
    reach = stats.t.ppf(0.975, np.minimum(table["df"], table["k"] - 2))
    reach *= np.hypot(table["se"], table["tau"])
    np.testing.assert_allclose(table["pi_high"], table["effect"] + reach)


def test_verdicts_are_those_of_calibrated_intervals(analysed):
    _, _, nulls, plain, found = analysed
    before, after = (r.effects.set_index(PAIR) for r in (plain, found))
    assert (before["q_value"] < 0.05).all()
    assert (after["q_value"] < 0.05).sum() == 1
    assert after["q_value"].idxmin() == ("F0", "F1")
    # with no site knocked out, leaks become arrows, but for those that private movers speak against
    known = before.loc[nulls]
    private = known["private_ci_low"] > 0.1
    assert private.mean() < 0.5
    assert set(known.loc[~private, "verdict"]) == {"acts"}
    assert set(known.loc[private, "verdict"]) == {"undetermined"}
    assert before.loc[("F0", "F1"), "verdict"] == "not distinguishable"  # the way back leaks, too
    assert after.loc[("F0", "F1"), "verdict"] == "acts"
    assert set(after.loc[nulls, "verdict"]) == {"no effect", "undetermined"}
    for table in (plain.effects, found.effects):
        assert verdicts(table)["verdict"].tolist() == table["verdict"].tolist()


def test_deep_mr_refuses_before_it_estimates(analysed):
    data, options, nulls, _, found = analysed
    with pytest.raises(ValueError, match=r"\('F0', 'F6'\)"):
        deep_mr(data, **options, null_pairs=[*nulls, ("F0", "F6")])
    with pytest.raises(ValueError, match=r"5 clusters or more.*got 1"):
        deep_mr(data, **options, null_pairs=nulls[:1])
    with pytest.raises(ValueError, match="strength alone"):
        deep_mr(data, pairs=options["pairs"], null_pairs="most")
    rng = np.random.default_rng(6)
    given = effects(rng, 25, 1, shared=0.0).assign(se=0.001)
    given["own_effect"] *= 0.08
    given = deep_mr(data, **options, null_pairs=given)
    assert given.settings["null_pairs"]["clusters"] == 25
    assert given.effects["reason"].str.endswith("in 25 clusters").all()
    assert found.effects["null_mean"].abs().max() < 0.1
