"""Direct effects: with a perfect model what is mediated vanishes, and what is direct is the truth."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepmr_utils.direct import call_direct, direct_effects
from deepmr_utils.instruments import eligible, places, select_instruments
from deepmr_utils.intervals import PAIR
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot
from experiments.binding import genome, knock_outs, one_genome, track_files

NAMES = ["A", "B", "C"]
SITE = 12  # positions of a factor's site
MEMBERS, SEQUENCES = 3, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reads(scores, help_, seen=None):
    """log(1 + reads) of A -> B -> C and A -> C, at log-odds (.., 3) without help.

    ``seen``: log-odds of A as C sees them, those of ``scores`` by default.
    """
    a, b, c = np.moveaxis(scores, -1, 0)
    a_b, b_c, a_c = help_
    bound_b = sigmoid(b + a_b * sigmoid(a))
    bound_c = sigmoid(c + b_c * bound_b + a_c * sigmoid(a if seen is None else seen))
    return np.log1p(10 + 150 * np.stack([sigmoid(a), bound_b, bound_c], -1))


def world(helps, seed=0):
    """Effects of members, of whom each obeys its own strengths of help, and the true slopes."""
    rng = np.random.default_rng(seed)
    base = rng.uniform([0, -2, -3], [2, 0, -2], (SEQUENCES, 3))
    n = 3 * SITE
    change = np.zeros((SEQUENCES, n, 4, 3))
    for k in range(3):
        change[:, k * SITE : (k + 1) * SITE, 1:, k] = rng.uniform(-6, 1, (SEQUENCES, SITE, 3))
    scores = base[:, None, None] + change
    layers, truths = [], []
    for help_ in helps:
        start = reads(base, help_)[:, None, None]
        layers.append(reads(scores, help_) - start)
        without = reads(scores, help_, seen=base[:, None, None, 0] + 0 * scores[..., 0]) - start
        x, y, indirect = (
            part[:, :SITE, 1:].reshape(SEQUENCES, -1)
            for part in (layers[-1][..., 0], layers[-1][..., 2], without[..., 2])
        )
        square = (x**2).sum(1)
        truths.append(((x * y).sum(1) / square, (x * (y - indirect)).sum(1) / square))
    values = np.array(layers)
    values[:, :, :, 0] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    coordinates = {
        "sequence": [f"s{i}" for i in range(SEQUENCES)], "position": np.arange(n),
        "allele": list("ACGT"), "feature": NAMES,
        "reference": (dims[:2], np.full((SEQUENCES, n), "A")),
    }  # fmt: skip
    data = {
        "effect": (dims, values.mean(0)),
        "se": (dims, np.full(values.shape[1:], 0.01)),
        "member_effect": (("member", *dims), values),
    }
    return xr.Dataset(data, coordinates), np.array(truths)


def own_instruments(effects, site=SITE):
    """Every substitution in a factor's site, for every pair."""
    tables = []
    names = effects["feature"].to_numpy().tolist()
    for x, y in permutations(names, 2):
        table = select_instruments(effects, x, y, threshold=0)
        inside = table["position"] // site == names.index(x)
        tables.append(table[inside].assign(exposure=x, outcome=y))
    return pd.concat(tables, ignore_index=True)


def of_pair(table, exposure, outcome):
    return table.query("exposure == @exposure and outcome == @outcome")["causal_effect"].to_numpy()


def parabola(effects, outcome, sequence):
    """Slopes at the reference of parabolas in all exposures, fitted to all own instruments."""
    x = effects["effect"].isel(sequence=sequence, allele=slice(1, None)).to_numpy().reshape(-1, 3)
    k = NAMES.index(outcome)
    x = np.delete(x, np.s_[3 * SITE * k : 3 * SITE * (k + 1)], 0)
    others = np.delete(x, k, 1)
    return np.linalg.lstsq(np.hstack([others, others**2]), x[:, k], rcond=None)[0][:2]


def test_what_is_mediated_vanishes():
    effects, ((total, direct),) = world([(4, 5, 0)])
    np.testing.assert_allclose(direct, 0, atol=1e-12)
    local, _ = direct_effects(effects, own_instruments(effects))
    assert (local["status"] == "ok").all()
    assert (np.abs(of_pair(local, "A", "C")) < 0.02 * total).all()
    # of nothing but B's own substitutions, which no one mediates, the direct effect is the total
    b = effects["effect"].isel(position=slice(SITE, 2 * SITE), allele=slice(1, None))
    x, y = (b.sel(feature=name).to_numpy().reshape(SEQUENCES, -1) for name in "BC")
    slope = (x * y).sum(1) / (x**2).sum(1)
    np.testing.assert_allclose(of_pair(local, "B", "C"), slope, rtol=1e-12)
    for pair in ("BA", "CA", "CB"):
        np.testing.assert_allclose(of_pair(local, *pair), 0, atol=1e-12)
    bent = [parabola(effects, "C", s)[0] for s in range(SEQUENCES)]
    assert (np.abs(bent) > 0.05 * total).all()


def test_what_is_direct_is_the_slope_of_what_mediators_leave():
    """Of every member by its own rules, with the instruments of the ensemble."""
    helps = [(4, 3, 3), (3.8, 3, 2.8), (4.2, 2.8, 3.2)]
    effects, truths = world(helps)
    _, members = direct_effects(effects, own_instruments(effects))
    assert len(members) == MEMBERS * 6 * SEQUENCES
    for m, (total, direct) in enumerate(truths):
        found = of_pair(members[members["member"] == m], "A", "C")
        np.testing.assert_allclose(found, direct, rtol=0.02)
        assert (direct < 0.9 * total).all()
    one, truth = world(helps[:1])
    local, members = direct_effects(one, own_instruments(one))
    np.testing.assert_allclose(of_pair(local, "A", "C"), truth[0, 1], rtol=0.02)
    np.testing.assert_allclose(members["causal_effect"], local["causal_effect"], rtol=1e-12)
    bent = np.array([parabola(one, "C", s)[0] for s in range(SEQUENCES)])
    assert (np.abs(bent / truth[0, 1] - 1) > 0.05).any()


def linear(coefficients, n, seed=0):
    """Effects x = own + B x, where every substitution moves the factor of its site alone."""
    rng = np.random.default_rng(seed)
    features = len(coefficients)
    own = np.zeros((1, features * n, 4, features))
    for k in range(features):
        own[:, k * n : (k + 1) * n, 1:, k] = rng.normal(size=(1, n, 3))
    values = own @ np.linalg.inv(np.eye(features) - coefficients).T
    values[:, :, 0] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    coordinates = {
        "sequence": ["s"], "position": np.arange(features * n), "allele": list("ACGT"),
        "feature": [f"f{k}" for k in range(features)],
        "reference": (dims[:2], np.full((1, features * n), "A")),
    }  # fmt: skip
    se = 0.1 + rng.uniform(size=values.shape)
    return xr.Dataset({"effect": (dims, values), "se": (dims, se)}, coordinates)


def test_in_a_linear_world_with_a_cycle_the_coefficients_come_back():
    b = np.array([[0, 0.3, 0, -0.2], [0.5, 0, 0, 0], [0.4, -0.6, 0, 0.1], [0, 0, 0.7, 0]])
    effects = linear(b, 5)
    table = own_instruments(effects, 5)
    local, members = direct_effects(effects, table)
    assert members.empty
    for i, j in permutations(range(4), 2):
        row = local.query(f"exposure == 'f{j}' and outcome == 'f{i}'").iloc[0]
        assert row["causal_effect"] == pytest.approx(b[i, j], abs=1e-10)
        assert row["n_instruments"] == 15
        used = table[table["outcome"] == f"f{i}"]  # one variance of the outcome's errors
        x = used.loc[used["exposure"] == f"f{j}", "beta_exposure"]
        variance = (used["se_outcome"] ** 2).mean()
        assert row["se"] == pytest.approx((variance / (x**2).sum()) ** 0.5)


def test_errors_are_widened_where_what_is_left_scatters():
    effects = linear(np.array([[0, 0], [0.5, 0]]), 6)
    noise = np.random.default_rng(1).normal(size=effects["effect"].shape)
    effects["effect"][..., 1] += 3 * noise[..., 1]
    table = own_instruments(effects, 6)
    local, _ = direct_effects(effects, table)
    row = local.query("exposure == 'f0'").iloc[0]
    used = table[table["exposure"] == "f0"]
    x, y = used["beta_exposure"], used["beta_outcome"]
    slope = (x * y).sum() / (x**2).sum()
    spread = ((y - slope * x) ** 2).sum() / 17
    assert spread > 2 * (used["se_outcome"] ** 2).mean()
    assert row["causal_effect"] == pytest.approx(slope)
    assert row["se"] == pytest.approx((spread / (x**2).sum()) ** 0.5)


def test_what_cannot_be_told_is_missing_and_says_why():
    effects, _ = world([(4, 5, 0)] * 2)
    table = own_instruments(effects)
    few = (table["sequence_id"] == "s1") & (table["exposure"] == "B")
    table = table[~few | ((table["position"] == SITE) & (table["alternate"] != "T"))]
    local, members = direct_effects(effects, table)
    missing = local[local["causal_effect"].isna()]
    assert set(missing["sequence_id"]) == {"s1"}
    assert set(missing["outcome"]) == {"A", "C"}
    assert (missing["status"] == "an exposure has fewer than 3 instruments of its own").all()
    assert members["causal_effect"].isna().sum() == 2 * len(missing)
    # two exposures that respond alike, to the sites of both
    effects, _ = world([(4, 5, 0)] * 2)
    for name in ("effect", "member_effect"):
        effects[name][..., 0] = effects[name][..., 1]
    local, members = direct_effects(effects, own_instruments(effects))
    found = local[local["outcome"] == "C"]
    assert found["causal_effect"].isna().all()
    assert members.loc[members["outcome"] == "C", "causal_effect"].isna().all()
    assert (found["status"] == "exposures are collinear").all()


def test_a_substitution_of_two_features_is_nobodys_own():
    effects, _ = world([(4, 5, 0)])
    table = own_instruments(effects)
    expected, _ = direct_effects(effects, table)
    shared = table[(table["exposure"] == "B") & (table["outcome"] == "C")].assign(exposure="A")
    there = table.merge(shared[["sequence_id", "position", "alternate"]].head(6))
    moved = pd.concat([table, shared.head(6)], ignore_index=True)
    found, _ = direct_effects(effects, moved)
    rows = ~table.set_index(["sequence_id", "position", "alternate"]).index.isin(
        there.set_index(["sequence_id", "position", "alternate"]).index
    )
    without, _ = direct_effects(effects, table[rows])
    pd.testing.assert_frame_equal(found, without)
    assert not found.equals(expected)
    with pytest.raises(ValueError, match=r"instruments needs the columns exposure, outcome"):
        direct_effects(effects, table.drop(columns="exposure"))


def test_a_perfect_model_of_the_genome_keeps_edges_and_loses_paths(tmp_path):
    p = genome.Parameters("default", n_windows=380, length=200, margin=20)
    demo = genome.make_genome(tmp_path, p, seed=5)
    spec = track_files.read_specification(demo.specification)
    windows = one_genome.read_windows(spec, 200)
    instances = knock_outs.factor_instances(windows).sort_values(["sequence_id", "start"])
    # one instance of each factor, clear of the others: a change of reads then says where it is
    groups = instances.groupby("sequence_id")
    near = (
        (instances["start"] < groups["end"].shift(fill_value=0))
        .groupby(instances["sequence_id"])
        .any()
    )
    clean = (groups.size() == 4) & (groups["factor"].nunique() == 4) & ~near
    windows = windows[windows["sequence_id"].map(clean)].reset_index(drop=True)
    effects = saturation_mutagenesis(
        genome.Oracle(p), one_hot(windows["sequence"].tolist()),
        sequence_ids=windows["sequence_id"], precision="float64",
    )  # fmt: skip
    effects["se"][:] = 0.01
    allowed = eligible(effects, "motif", instances)
    tables = []
    for x, y in permutations(genome.FACTORS, 2):
        table = select_instruments(effects, x, y, threshold=0.1)
        kept = allowed.sel(feature=x).to_numpy()[places(effects, table)]
        tables.append(table[kept].assign(exposure=x, outcome=y))
    local, _ = direct_effects(effects, pd.concat(tables, ignore_index=True))
    truth = genome.true_effects(windows, demo.sites, p)
    both = local.merge(truth[truth["status"] == "ok"], on=["sequence_id", *PAIR])
    both = both[both["causal_effect"].notna()]
    mean = both.groupby(PAIR)[["causal_effect", "direct", "total"]].mean()
    assert len(windows) == 11
    paths, edges = [("Oct4", "Klf4"), ("Sox2", "Klf4")], list(genome.GRAPHS["default"].edges)
    assert (mean.loc[paths, "causal_effect"].abs() < 0.03 * mean.loc[paths, "total"]).all()
    np.testing.assert_allclose(
        mean.loc[edges, "causal_effect"], mean.loc[edges, "direct"], rtol=0.02
    )
    others = mean.drop([*paths, *edges])
    assert (others["causal_effect"].abs() < 0.005).all()
    assert mean.loc[("Sox2", "Nanog"), "direct"] < 0.6 * mean.loc[("Sox2", "Nanog"), "total"]


def test_direct_is_told_from_mediated():
    pairs = pd.DataFrame([("A", "C"), ("B", "C"), ("C", "B")], columns=PAIR)
    total = pairs.assign(effect=[0.4, 0.3, 0.0], total_p=[1e-4, 1e-4, 0.6])
    direct = pairs.assign(
        effect=[0.1, 0.29, 0.02], total_effect=[0.4, 0.3, 0.0], total_p=[0.01, 0.001, 0.04]
    )
    found = call_direct(total, direct)
    assert found["called"].tolist() == [False, True, False]
    assert found.loc[("A", "C"), "share"] == pytest.approx(0.25)
    assert call_direct(total, direct, least=0.2)["called"].tolist() == [True, True, False]
