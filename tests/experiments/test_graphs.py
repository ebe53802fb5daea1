"""Effects between all pairs: a perfect model gives its graph back, and scores are as they say."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepmr_utils import instruments, mutagenesis, pairs
from deepmr_utils.knockouts import knockout_effects
from deepmr_utils.pairs import PAIR, PairEffects
from deepmr_utils.sequences import one_hot
from experiments.binding import genome, graph_scores, knock_outs, one_genome, track_files

LENGTH, MEMBERS = 200, 5
EDGES = {name: set(graph.edges) for name, graph in genome.GRAPHS.items()}


def perfect(folder, graph, n=36):
    """Effects of the genome's own rules, with errors of known size and members that differ."""
    p = genome.Parameters(graph, n_windows=380, length=LENGTH, margin=20)
    demo = genome.make_genome(folder, p, seed=5)
    spec = track_files.read_specification(demo.specification)
    windows = one_genome.read_windows(spec, LENGTH, n)
    truth = genome.true_effects(windows, demo.sites, p)
    effects = mutagenesis.saturation_mutagenesis(
        genome.Oracle(p), one_hot(windows["sequence"].tolist()), sequence_ids=windows["sequence_id"]
    )
    exact, rng = effects["effect"], np.random.default_rng(0)
    noise = 0.003 * rng.standard_normal((MEMBERS, *exact.shape))
    members = exact + xr.DataArray(noise, dims=("member", *exact.dims))
    effects = effects.assign(
        effect=members.mean("member"), se=members.std("member", ddof=1), member_effect=members
    )
    effects.attrs["n_members"] = MEMBERS
    return effects, knock_outs.factor_instances(windows), truth


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Analyses of perfect models, by graph."""
    made = {}

    def get(graph):
        if graph not in made:
            effects, instances, truth = perfect(tmp_path_factory.mktemp("demo"), graph)
            made[graph] = effects, instances, one_genome.analyse(effects, instances, truth)
        return made[graph]

    return get


def of_chain(world, chain="motif"):
    _, _, (_, table, members) = world
    rows = (table["chain"] == chain) & (table["bin"] == "all")
    by_member = members[(members["chain"] == chain) & (members["bin"] == "all")]
    return table[rows].reset_index(drop=True), by_member


@pytest.mark.parametrize("graph", ["default", "reverse", "confounded"])
def test_a_perfect_model_gives_the_graph_back(worlds, graph):
    table, members = of_chain(worlds(graph))
    assert len(table) == 12
    scores = graph_scores.recovery(table)
    assert scores["auroc"] == scores["auroc_z"] == 1
    assert scores["rank_correlation"] > 0.9
    assert abs(scores["bias"]) < 0.02
    assert scores["found"] == 1
    # in these short windows a match of one motif overlaps another's site now and then: 0.06 once
    assert table.loc[table["truth"] == 0, "effect"].abs().max() < 0.08
    ways = pairs.direction_test(table, members).set_index(PAIR)
    for edge in EDGES[graph] & set(permutations(genome.FACTORS, 2)):
        assert ways.loc[edge, "p"] < 0.05


def test_the_published_instruments_see_an_effect_in_reverse(worlds):
    """Substitutions in Sox2's site move Oct4, and Sox2 more: as instruments of Oct4 they mislead."""
    exact = of_chain(worlds("default"))[0].set_index(PAIR)["effect"]
    wrong = of_chain(worlds("default"), "published")[0].set_index(PAIR)["effect"]
    assert abs(exact["Oct4", "Sox2"]) < 0.02
    assert wrong["Oct4", "Sox2"] > 0.05
    # and the intercept of MR-Egger takes part of the true effects
    assert wrong["Sox2", "Oct4"] < 0.9 * exact["Sox2", "Oct4"]


def test_direct_effects_are_told_from_mediated_ones(worlds):
    for graph, mediated in (
        ("default", [("Sox2", "Klf4"), ("Oct4", "Klf4")]),
        ("reverse", [("Klf4", "Oct4"), ("Klf4", "Sox2")]),
    ):
        table = of_chain(worlds(graph), "direct")[0].set_index(PAIR)
        for edge in EDGES[graph]:
            assert table.loc[edge, "effect"] > 0.9 * table.loc[edge, "truth"]
        for pair in mediated:
            assert abs(table.loc[pair, "effect"]) < 0.2 * table.loc[pair, "total_effect"]


def test_without_edges_there_is_nothing(worlds):
    table, _ = of_chain(worlds("empty"))
    assert (table["truth"] == 0).all()
    assert table["effect"].abs().max() < 0.02
    assert np.isnan(graph_scores.recovery(table)["auroc"])


def test_eligible_substitutions(worlds):
    effects, instances, _ = worlds("default")
    allowed = instruments.eligible(effects, "motif", instances)
    site = instances[instances["factor"] == "Nanog"].iloc[0]
    one = allowed.sel(sequence=site["sequence_id"], feature="Nanog").any("allele").to_numpy()
    inside = np.zeros(LENGTH, bool)
    mine = instances.query("sequence_id == @site.sequence_id and factor == 'Nanog'")
    for start, end in mine[["start", "end"]].to_numpy():
        inside[start:end] = True
    np.testing.assert_array_equal(one, inside)
    strongest = instruments.eligible(effects, "strongest")
    known = np.isfinite(effects["effect"]).all("feature")
    claims = strongest.sum("feature").to_numpy()[known.to_numpy()]
    assert claims.max() == 1  # borders of three pairs may leave one to nobody
    assert claims.mean() > 0.95
    assert instruments.eligible(effects, "all").all()
    with pytest.raises(ValueError, match="unknown design 'own': choose one of motif, strongest"):
        instruments.eligible(effects, "own")
    with pytest.raises(ValueError, match=r"needs motif instances of every feature .* got those of"):
        instruments.eligible(effects, "motif", instances[instances["factor"] != "Klf4"])


def test_one_model_alone_has_effects_and_no_honest_interval(worlds):
    effects, instances, _ = worlds("default")
    alone = effects.drop_vars("member_effect")
    found = pairs.pair_effects(alone, instruments.eligible(alone, "motif", instances))
    table, members = pairs.summarise(found)
    assert table["effect"].notna().all()
    assert table[["total_ci_low", "total_p", "between_se"]].isna().all(axis=None)
    assert members.empty


def test_recovery_by_hand():
    table = pd.DataFrame({
        "exposure": list("abcdef"), "outcome": list("bcdefa"),
        "effect": [0.5, -0.3, 0.1, 0.2, 0.0, 0.05], "truth": [0.4, -0.3, 0.2, 0, 0, 0],
        "total_se": [0.1, 0.1, 0.1, 0.01, 0.1, 0.1], "total_p": [0.01, 0.01, 0.3, 0.01, 0.9, 0.7],
        "total_ci_low": -0.1, "total_ci_high": 0.25,
    })  # fmt: skip
    scores = graph_scores.recovery(table)
    assert scores["auroc"] == 8 / 9
    assert scores["auroc_z"] == 6 / 9
    assert scores["rank_correlation"] == 1
    np.testing.assert_allclose(scores["bias"], 0, atol=1e-12)
    np.testing.assert_allclose(scores["slope"], (0.2 + 0.09 + 0.02) / 0.29)
    assert (scores["found"], scores["false"], scores["coverage"]) == (2 / 3, 1 / 3, 4 / 6)


def test_distances_and_bins_by_hand():
    instances = pd.DataFrame(
        [("s", "A", 0, 10), ("s", "A", 100, 110), ("s", "B", 40, 52), ("t", "A", 0, 10),
         ("t", "B", 35, 45), ("u", "A", 5, 15)],
        columns=["sequence_id", "factor", "start", "end"],
    )  # fmt: skip
    distances = graph_scores.motif_distances(instances)
    found = distances.set_index(["sequence_id", *PAIR])["distance"].to_dict()
    assert found == {("s", "A", "B"): 41, ("s", "B", "A"): 41, ("t", "A", "B"): 35,
                     ("t", "B", "A"): 35}  # fmt: skip
    local = distances.assign(method="ivw", causal_effect=[1.0, 2, 3, 4], se=0.1)
    local = local.drop(columns="distance")
    table, _ = graph_scores.by_distance(PairEffects(local, pd.DataFrame()), distances)
    got = table[table["exposure"] == "A"].set_index("bin")["effect"]
    assert set(table["bin"]) == {"(0, 35]", "(35, 70]"}
    np.testing.assert_allclose(got["(0, 35]"], local["causal_effect"][2])
    assert (table["k"] == 1).all()


def test_verdicts_and_knockouts_by_hand():
    table = pd.DataFrame({
        "truth": [0.4, -0.2, 0.05, 0.0, 0.001, 0.3],
        "verdict": ["acts", "undetermined", "acts", "acts", "no effect", "acts"],
        "knockout": [0.5, -0.1, 0.0, 0.1, 0.0, np.nan], "knockout_truth": [0.4, -0.3, 0, 0, 0, 0.2],
    })  # fmt: skip
    ends = {f"knockout_ci_{e}": table["knockout"] + d for e, d in (("low", -0.15), ("high", 0.15))}
    scores = graph_scores.answers(table.assign(**ends))
    assert (scores["acts"], scores["acts_absent"]) == (2 / 3, 1 / 2)
    np.testing.assert_allclose(scores["knockout_rmse"], np.sqrt((0.01 + 0.04 + 0.01) / 5))
    assert scores["knockout_coverage"] == 4 / 5
    none = pd.DataFrame(np.nan, table.index, [*table, *ends]).assign(truth=table["truth"])
    assert np.isnan([*graph_scores.answers(none).values()]).all()


def test_knockouts_by_the_rules_are_the_true_ones(tmp_path):
    p = genome.Parameters("default", n_windows=190, length=120, margin=10)
    demo = genome.make_genome(tmp_path, p, seed=1)
    windows = one_genome.read_windows(track_files.read_specification(demo.specification), 120, 16)
    instances = knock_outs.factor_instances(windows)
    edits = knock_outs.knock_out([genome.Oracle(p)] * 2, windows, instances, p)
    assert edits.sizes["edit"] == knock_outs.N_DRAWS * len(instances)
    true = knock_outs.true_knockouts(edits).set_index(PAIR)["knockout_truth"]
    found = knockout_effects(edits).set_index(PAIR)["knockout"]
    assert len(true) == 12
    np.testing.assert_allclose(found[true.index], true, rtol=1e-4, atol=1e-5)
    assert true["Sox2", "Oct4"] > 0.1
    assert abs(true["Klf4", "Sox2"]) < 0.01
    # all are random, so that another seed gives other bases
    again = knock_outs.knock_out([genome.Oracle(p)] * 2, windows, instances, seed=1)
    assert (again["replacement"] != edits["replacement"]).any()
    assert "true_effect" not in again
