"""Verdicts in worlds whose answer is known: what should be answered, and how answers are scored."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import special

from deepmr_utils.analysis import deep_mr
from deepmr_utils.models import mtsplice
from experiments import verdict_figures, verdict_tables, verdicts, worlds
from experiments.__main__ import main
from experiments.analyses import ANALYSES
from experiments.binding import genome, one_genome
from experiments.chromatin.simulated import ACCESSIBILITY, causes
from experiments.study import open_study

TINY_GENOME = {"n_windows": 190, "length": 160, "margin": 10, "n_analysed": 12}
TINY_NETWORKS = {"n_members": 2, "filters": 8, "layers": 2, "epochs": 2, "resample": True}
TINY = {
    "simulation": {
        "scenario": "both", "effect_ratio": 10.7, "n_train": 1200, "n_augmented": 300,
        "n_test": 60, "n_members": 2, "epochs": 10, "max_excess": 2.0, "n_analysed": 20,
    },
    "genome": {"graph": "reverse", **TINY_GENOME, **TINY_NETWORKS, "n_windows": 1200},  # labels
    "chromatin": {"n_train": 200, "epochs": 1, "n_test": 100, "n_windows": 5, "n_draws": 2},
    "null": {"null": "shuffled", **TINY_GENOME},
    "tissues": {"near": 5, "size": 3},
    "additive": {
        "motifs": ["GATA_disc1", "TAL1_known1"], "n_train": 200, "noise": 0.1, "filters": 2,
        "n_members": 2, "epochs": 2, "n_analysed": 12, "seed": 0,
    },
    "exon_definition": {"stored": "book/results/exon_definition"},
    "other_genes": {"stored": "book/results/exon_definition"},
}  # fmt: skip
FACTORS = list(permutations(genome.FACTORS, 2))


def truths(cases):
    rows = pd.concat(case.truth for case in cases).set_index(["exposure", "outcome"])
    return rows["truth"].to_dict(), rows["true_effect"]


@pytest.fixture(scope="module")
def cases():
    return {kind: worlds.WORLDS[kind](values, 0, "cpu") for kind, values in TINY.items()}


def test_every_world_says_what_should_be_answered(cases):
    assert cases.keys() == worlds.WORLDS.keys()
    way, back = ("exposure", "outcome"), ("outcome", "exposure")
    known, effect = truths(cases["simulation"])
    assert known == {way: "acts", back: "absent"}
    assert 0.5 < effect[way] < 5
    assert effect[back] == 0
    # by any path along the graph, which runs from Klf4 over Nanog and Oct4 to Sox2
    order = ["Klf4", "Nanog", "Oct4", "Sox2"]
    known, effect = truths(cases["genome"])
    down = {p for p in FACTORS if order.index(p[0]) < order.index(p[1])}
    assert {p for p, answer in known.items() if answer == "acts"} <= down
    assert all(effect[p] == 0 for p in set(known) - down)
    assert known["Nanog", "Sox2"] == known["Oct4", "Sox2"] == "acts"
    known, effect = truths(cases["chromatin"])
    for (x, y), answer in known.items():
        assert ACCESSIBILITY in (x, y)
        assert answer == ("acts" if x in causes(y) else "absent")
    assert len(known) == 14
    assert effect["repressor", ACCESSIBILITY] < 0 < effect["pioneer 1", ACCESSIBILITY]
    known, effect = truths(cases["null"])
    assert known == dict.fromkeys(FACTORS, "none")
    assert effect.isna().all()
    known, _ = truths(cases["tissues"])
    tissues = {name for pair in known for name in pair}
    assert tissues <= set(mtsplice.TISSUES)
    assert len(tissues) == TINY["tissues"]["size"]
    assert known == dict.fromkeys(permutations(tissues, 2), "same")
    known, effect = truths(cases["additive"])
    assert known == dict.fromkeys(permutations(TINY["additive"]["motifs"], 2), "absent")
    known, effect = truths(cases["exon_definition"])
    assert set(known.values()) == {"acts"}
    assert 0 < effect["acceptor", "donor"] < effect["donor", "acceptor"] < 1
    known, effect = truths(cases["other_genes"])
    assert set(known.values()) == {"absent"}
    assert (effect == 0).all()


def test_one_output_twice_is_one_thing():
    values = TINY["additive"] | {"again": ["TAL1_known1"]}
    known, effect = truths(worlds.additive(values, 0, "cpu"))
    copy = ("TAL1_known1", "TAL1_known1, again")
    assert {pair for pair, truth in known.items() if truth == "same"} == {copy, copy[::-1]}
    assert effect[copy] == 1
    assert set(known.values()) == {"same", "absent"}


@pytest.mark.parametrize("kind", TINY)
def test_every_world_is_answered_by_its_analyses(cases, kind):
    table = verdicts.answers(cases[kind])
    pairs = sum(len(case.truth) for case in cases[kind])
    names = ["deep_mr", "published"] + ["deep_mr, labels"] * (kind == "genome")
    assert table["analysis"].value_counts().to_dict() == dict.fromkeys(names, pairs)
    assert table.columns.tolist() == verdicts.COLUMNS  # world and run are empty yet
    assert table[["world", "run"]].isna().all(axis=None)
    assert set(table["verdict"]) <= set(verdicts.VERDICTS)
    assert set(table.loc[table["analysis"] == "published", "verdict"]) <= {"acts", "undetermined"}
    has_sites = kind not in ("chromatin", "tissues")
    assert ("edits" in cases[kind][0].given) == has_sites


def test_runs_of_a_null_model_differ_and_are_found_again(cases):
    effects = cases["null"][0].effects["effect"]
    again, other = (worlds.null_models(TINY["null"], run, "cpu")[0] for run in (0, 1))
    np.testing.assert_array_equal(again.effects["effect"], effects)
    assert not np.array_equal(other.effects["effect"], effects)
    new = worlds.null_models({**TINY["null"], "null": "untrained"}, 0, "cpu")[0].effects
    assert new.sizes["member"] == effects.sizes.get("member", 3) == 3
    assert not np.array_equal(new["effect"], effects)
    members = new["member_effect"].std(["sequence", "position", "allele"]).to_numpy()
    assert (np.abs(np.diff(members, axis=0)) > 0).all()  # no two members are alike
    with pytest.raises(ValueError, match=r"unknown null 'shuffle'.*did you mean 'shuffled'"):
        worlds.null_models({**TINY["null"], "null": "shuffle"}, 0, "cpu")


def test_no_output_of_the_additive_network_sees_a_filter_of_another():
    torch.manual_seed(0)
    network = worlds.separate_network(3, 4, 6)
    x = torch.rand(5, 4, 30)
    for k in range(3):
        network.zero_grad()
        network(x)[:, k].sum().backward()
        moved = network[0].weight.grad.abs().sum((1, 2)).view(3, 4) > 0
        assert moved.any(1).tolist() == [k == i for i in range(3)]
        assert network[3].weight.grad.abs().sum((1, 2)).nonzero().flatten().tolist() == [k]
    # scores add up: what is far apart does not know of each other
    first, second, both = x.clone(), x.clone(), x.clone()
    first[:, :, 3] = both[:, :, 3] = 0
    second[:, :, 20] = both[:, :, 20] = 0
    sums = network(first) + network(second) - network(x)
    torch.testing.assert_close(network(both), sums)


def test_kept_weights_are_used_in_the_place_of_training(tmp_path, monkeypatch):
    values = {**TINY["genome"], "weights": str(tmp_path / "kept")}
    [trained] = worlds.genome(values, 0, "cpu")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["reverse-000.pt"]
    monkeypatch.setattr(one_genome, "train", None)
    [kept] = worlds.genome(values, 0, "cpu")
    xr.testing.assert_equal(kept.effects, trained.effects)
    xr.testing.assert_equal(kept.given["edits"], trained.given["edits"])
    with pytest.raises(TypeError, match="not callable"):
        worlds.genome(values, 1, "cpu")


def test_a_true_effect_is_brought_into_own_responses(cases):
    [case] = cases["simulation"]
    table = verdicts.answers([case])
    found = deep_mr(case.effects, **case.given).effects
    paper = ANALYSES["published_simulation"]
    published = deep_mr(case.effects, instances=case.given["instances"], **paper).effects
    own = table[table["analysis"] == "deep_mr"].reset_index(drop=True)
    for name in ("verdict", "reason", "effect", "q_value", "own_effect", "knockout"):
        pd.testing.assert_series_equal(own[name], found[name])
    scale = abs(found["own_effect"] / found["effect"])
    assert own["size"][0] == pytest.approx(case.truth["true_effect"][0] * scale[0])
    assert scale[0] > 1.05 or scale[0] < 0.95
    assert own["size"][1] == 0
    own = table[table["analysis"] == "published"].reset_index(drop=True)
    np.testing.assert_array_equal(own["effect"], published["effect"])
    np.testing.assert_array_equal(own["size"], table["size"][:2])
    assert own["verdict"].tolist() == [
        "acts" if q < 0.05 else "undetermined" for q in published["q_value"]
    ]


def rows(*given):
    columns = ["run", "truth", "size", "effect", "verdict"]
    table = pd.DataFrame(given, columns=columns).assign(world="w", analysis="deep_mr")
    return table.assign(true_effect=table["size"])


TABLE = rows(
    (0, "acts", 0.5, 0.4, "acts"), (0, "acts", 0.5, -0.4, "acts"),
    (0, "acts", -0.3, 0.0, "no effect"), (1, "acts", -0.3, -0.2, "acts"),
    (1, "acts", 0.05, 0.1, "no effect"), (1, "acts", 0.1, 0.1, "undetermined"),
    (0, "absent", 0.0, 0.2, "acts"), (0, "absent", 0.0, 0.0, "no effect"),
    (1, "absent", 0.0, 0.0, "not distinguishable"), (1, "absent", 0.0, 0.0, "undetermined"),
    (0, "same", np.nan, 0.9, "not distinguishable"), (0, "same", np.nan, 0.9, "no effect"),
    (0, "none", np.nan, 0.9, "acts"), (1, "none", np.nan, 0.0, "no effect"),
)  # fmt: skip


def test_a_confusion_table_counts_every_pair_once():
    table = verdicts.confusion(TABLE).droplevel(["world", "analysis"])
    expected = {
        "acts": [2, 1, 1, 1, 0], "acts, small": [0, 0, 1, 0, 0], "absent": [1, 0, 1, 1, 1],
        "same": [0, 0, 1, 0, 1], "none": [1, 0, 1, 0, 0],
    }  # fmt: skip
    assert table.columns.tolist() == ["acts", "acts, wrong sign", *verdicts.VERDICTS[1:]]
    assert {truth: row.tolist() for truth, row in table.iterrows()} == expected
    assert table.to_numpy().sum() == len(TABLE)


def test_rates_ask_the_pairs_that_they_are_about():
    table = verdicts.rates(TABLE).set_index("rate")
    found = {name: (row["count"], row["pairs"]) for name, row in table.iterrows()}
    assert found == {"false": (1, 4), "found": (2, 5), "wrong": (5, 14), "open": (3, 10)}
    assert table["runs"].tolist() == [2, 2, 2, 2]
    assert table["target"].to_dict() == verdicts.TARGETS
    # worlds that have no absent pairs have no rate of false answers
    table = verdicts.rates(TABLE[TABLE["truth"] == "same"])
    assert table["rate"].tolist() == ["wrong"]


def test_an_interval_by_clusters_is_that_by_hand():
    # variance 5 / 4 * 3.2 / 400 = 0.01, so 0.1275 / 0.01 cases, times (2.0930 / 2.7764)^2
    share, low, high = verdicts.clustered_share([1, 0, 0, 2, 0], [4] * 5)
    assert share == pytest.approx(0.15)
    n = 12.75 * (2.09302 / 2.77645) ** 2
    hits = 0.15 * n
    assert low == pytest.approx(0.0049, rel=0.01)
    assert special.betainc(hits, n - hits + 1, low) == pytest.approx(0.025, rel=1e-4)
    assert special.betainc(hits + 1, n - hits, high) == pytest.approx(0.975, rel=1e-5)
    share, low, high = verdicts.clustered_share([0] * 20, [12] * 20)
    assert (share, low) == (0, 0)
    n = 240 * (1.96990 / 2.09302) ** 2
    assert high == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-3)
    assert verdicts.clustered_share([20], [20])[0] == 1
    assert np.isnan(verdicts.clustered_share([1], [20])[1:]).all()


def test_intervals_hold_the_share_where_runs_differ():
    rng, held, plain = np.random.default_rng(0), [], []
    for _ in range(400):
        p = rng.beta(0.5, 4.5, 20)
        count = rng.binomial(12, p)
        _, low, high = verdicts.clustered_share(count, np.full(20, 12))
        held.append(low <= 0.1 <= high)
        _, low, high = verdicts.clustered_share(rng.permuted(np.r_[np.ones(count.sum()), np.zeros(
            240 - count.sum())]), np.ones(240))  # fmt: skip
        plain.append(low <= 0.1 <= high)
    assert 0.92 < np.mean(held) < 0.99
    assert np.mean(plain) < 0.8


FILE = """
worlds:
  first: {kind: "null", "null": untrained, runs: 1, n_windows: 190, length: 160, margin: 10, n_analysed: 12}
  second, additive: {kind: additive, runs: 2, motifs: [GATA_disc1, TAL1_known1], n_train: 200,
                     noise: 0.1, filters: 2, n_members: 2, epochs: 2, n_analysed: 12, seed: 0}
"""


def test_the_study_stores_a_table_of_all_units(tmp_path, monkeypatch):
    file = tmp_path / "file.yml"
    file.write_text(f"results_directory: {tmp_path}\ncache: {tmp_path / 'cache'}\n{FILE}")
    main(["verdicts", str(file)])
    table = pd.read_csv(tmp_path / "verdicts.csv")
    assert table.columns.tolist() == verdicts.COLUMNS
    counts = table.groupby(["world", "run"]).size()
    assert counts.to_dict() == {("first", 0): 24, ("second, additive", 0): 4,
                                ("second, additive", 1): 4}  # fmt: skip
    # with the effects of every run kept, nothing is trained or mutated again
    for path in (tmp_path / "verdicts.csv", *(tmp_path / "verdicts").iterdir()):
        path.unlink()
    monkeypatch.setattr(worlds, "saturation_mutagenesis", None)
    monkeypatch.setattr(one_genome, "observe", None)
    monkeypatch.setattr(worlds, "train_ensemble", None)
    main(["verdicts", str(file)])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "verdicts.csv"), table)


def test_a_world_that_is_none_is_refused(tmp_path):
    file = tmp_path / "file.yml"
    file.write_text(FILE.replace("kind: additive", "kind: aditive"))
    with pytest.raises(ValueError, match=r"second, additive 'aditive'.*did you mean 'additive'"):
        open_study("verdicts", file)


def test_the_parameters_of_the_book_describe_worlds_that_there_are():
    units, folder = open_study("verdicts", "book/parameters/verdicts.yml")
    assert folder == "book/results"
    assert len(units) == 4 * 13 + 3 * 23 + 63 + 11 + 2 * 8 + 2 * 13 + 10 + 4 + 3 + 1  # the table


def test_a_perfect_model_says_what_the_loss_of_sites_does():
    given = {**TINY["simulation"], "kind": "simulation", "runs": 9}
    both = worlds.simulation_knock_outs(given, 0).set_index("exposure")
    plain = worlds.simulation_knock_outs({**given, "scenario": "none"}, 0).set_index("exposure")
    assert both.loc["exposure", "all"] == pytest.approx(both.loc["exposure", "held"], rel=0.1)
    assert abs(both.loc["outcome", "all"]) < 0.05
    assert 0 < both.loc["outcome", "moving"] < 1
    # without a confounder nothing is held, and nothing moves it
    np.testing.assert_array_equal(plain["all"], plain["held"])
    assert plain["moving"].tolist() == [0, 0]
    # a fifth of the outcome's own response: the way back is overstated, the way there is not
    assert abs(plain.loc["outcome", "under"]) > abs(plain.loc["outcome", "all"])
    assert plain.loc["exposure", "under"] == pytest.approx(plain.loc["exposure", "all"], rel=0.2)


def test_tables_of_the_page_name_every_world_and_mark_what_misses():
    given = pd.concat([TABLE.assign(world="reverse"), TABLE.assign(world="empty")])
    given = pd.concat([given.assign(analysis=name) for name in verdict_tables.KEYS])
    counts = verdict_tables.count_table(verdicts.confusion(given))
    worlds_ = counts.index.get_level_values(0).unique().tolist()
    assert worlds_ == [
        "genome, reverse graph", "genome, reverse graph, with labels", "genome, empty graph",
        "genome, empty graph, with labels",
    ]  # fmt: skip
    row = counts.loc[("genome, reverse graph", "acts")]
    assert row["deep_mr"].tolist() == [2, 1, 1, 1, 0]
    assert row["paper"].tolist() == [2, 1, 1]
    labels = counts.loc[("genome, reverse graph, with labels", "acts")]
    assert labels["deep_mr"].tolist() == [2, 1, 1, 1, 0]
    assert labels["paper"].tolist() == ["", "", ""]
    right = given[~given["verdict"].eq("acts") | (given["effect"] * given["true_effect"] >= 0)]
    few = verdict_tables.count_table(verdicts.confusion(right))
    assert "wrong sign" not in few.columns.get_level_values(1)
    assert few.loc[("genome, reverse graph", "acts"), "paper"].tolist() == [2, 1]
    rates = verdict_tables.rate_table(verdicts.rates(given))
    assert rates.index.tolist() == worlds_
    row = rates.loc["genome, reverse graph"].droplevel(1)
    assert row["false"].startswith("25%* [")
    assert row["found"].startswith("40%* [")
    assert row["runs"] == 2
    one = verdict_tables.rate_table(verdicts.rates(given[given["run"] == 0]))
    assert one.loc["genome, empty graph"].droplevel(1)["false"] == "50%*"


def test_reasons_are_counted_without_the_numbers_of_single_pairs():
    given = pd.DataFrame({"reason": [
        "significant, but 50% of what moves; weak instruments (F = 1.7)",
        "significant, but 7% of what moves", "only 9 of the 10 sequences",
    ]})  # fmt: skip
    assert verdict_tables.reasons(given).to_dict() == {
        "significant, but a share of what moves": 2, "too few of the 10 sequences": 1,
    }  # fmt: skip


def test_figures_show_every_share_where_it_is():
    rates = verdicts.rates(TABLE.assign(world="default"))
    figure = verdict_figures.draw_rates(rates)
    for ax, (rate, target) in zip(figure.axes, verdicts.TARGETS.items(), strict=True):
        assert ax.get_title() == rate
        line, *dots = ax.lines
        assert set(line.get_xdata()) == {target}
        shown = [x for one in dots for x in one.get_xdata()]
        assert shown == pytest.approx(rates.loc[rates["rate"] == rate, "share"])
    back = pd.DataFrame({
        "world": ["a", "b", "a"], "run": [4, 3, 3], "networks": [0.5, 0.1, 0.3],
        "all": 0.2, "under": 0.4, "knockout_ci_low": 0.0, "knockout_ci_high": 0.6,
    })  # fmt: skip
    figure = verdict_figures.draw_way_back(back, ("a", "b"))
    left, right = (ax.lines[0].get_xydata().tolist() for ax in figure.axes)
    assert (left, right) == ([[3, 0.3], [4, 0.5]], [[3, 0.1]])


def test_private_shares_tell_arrows_from_none():
    table = pd.DataFrame({
        "world": "w", "truth": ["acts", "acts", "acts", "absent", "absent", "same"],
        "size": [0.2, -0.5, 0.05, 0, 0, np.nan],
        "private_share": [0.1, 0.4, 0.9, 0.3, np.nan, 0.0],
    })  # fmt: skip
    row = verdict_tables.mover_table(table).loc["w"]
    assert row["with a share"] == pytest.approx(4 / 5)
    assert row[["arrows", "absent", "largest", "smallest"]].tolist() == [2, 1, 0.4, 0.3]
    assert row["median"] == pytest.approx(0.25)
    assert row["auroc"] == 0.5  # 0.3 lies above one of the two arrows
    assert np.isnan(verdict_tables.mover_table(table.iloc[3:5]).loc["w", "auroc"])
