"""The one analysis: what it chooses, what it gives, and what it answers, on effects made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from deepmr_utils import instruments, intervals, meta, mr, pairs
from deepmr_utils.analysis import PUBLISHED, deep_mr
from deepmr_utils.edits import edit_effects, site_edits
from deepmr_utils.motifs import find_instances, get_motif, log_odds
from deepmr_utils.pairs import PAIR
from deepmr_utils.sequences import one_hot

SITES = {"X": (5, 15), "Y": (20, 30)}
MEMBERS, LENGTH = 5, 40


def world(slope=0.5, noise=0.02, sequences=30, seed=0, members=MEMBERS, back=0.0):
    """X acts on Y by ``slope`` (Y on X by ``back``): effects are those of sites, and little noise.

    Members share their sites, and each has errors of its own that its two features share.
    """
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 4, (sequences, LENGTH))
    known = np.arange(4) != reference[..., None]
    effect = np.zeros((sequences, LENGTH, 4, 2))
    for k, (start, end) in enumerate(SITES.values()):
        effect[:, start:end, :, k] = -rng.gamma(2, 0.5, (sequences, end - start, 4))
    x, y = effect[..., 0].copy(), effect[..., 1].copy()
    effect[..., 0], effect[..., 1] = x + back * y, y + slope * x
    error = rng.normal(size=(members, *effect.shape))
    error[..., 1] = 0.6 * error[..., 0] + 0.8 * error[..., 1]
    each = np.where(known[..., None], effect + noise * error, np.nan)
    dims = ("sequence", "position", "allele", "feature")
    data = {
        "effect": (dims, each.mean(0)),
        "se": (dims, each.std(0, ddof=1) if members > 1 else np.nan * each[0]),
    }
    if members > 1:
        data["member_effect"] = (("member", *dims), each)
    ids = [f"s{i}" for i in range(sequences)]
    coordinates = {
        "sequence": ids, "position": range(LENGTH), "allele": list("ACGT"), "feature": ["X", "Y"],
        "reference": (("sequence", "position"), np.array(list("ACGT"))[reference]),
    }  # fmt: skip
    effects = xr.Dataset(data, coordinates, {"n_members": members})
    rows = [(i, name, *span) for i in ids for name, span in SITES.items()]
    return effects, pd.DataFrame(rows, columns=["sequence_id", "factor", "start", "end"])


def test_it_is_the_parts_in_a_row():
    effects, instances = world()
    found = deep_mr(effects, instances=instances)
    table = found.effects.set_index(PAIR)
    allowed = instruments.eligible(effects, "motif", instances)
    chosen = instruments.select_instruments(effects, "X", "Y", allowed=allowed)
    local = mr.local_mr(chosen, "ivw", weights="equal")
    by_member = intervals.member_local(effects, chosen, "ivw", weights="equal")
    whole = meta.global_effects(local)
    members = intervals.member_global(local, by_member)
    expected = intervals.add_intervals(whole, members, ["method"], "effect").iloc[0]
    row = table.loc["X", "Y"]
    for name, other in {
        "effect": "effect", "se": "total_se", "ci_low": "total_ci_low", "ci_high": "total_ci_high",
        "p": "total_p", "tau": "tau", "within_se": "se", "between_se": "between_se", "k": "k",
    }.items():  # fmt: skip
        assert row[name] == pytest.approx(expected[other], rel=1e-9), name
    assert row["n_instruments"] == len(chosen)
    assert row["q_value"] == pytest.approx(2 * min(table["p"]))
    assert row["effect"] == pytest.approx(0.5, abs=0.01)
    assert row["pi_low"] <= row["ci_low"] < 0.5 < row["ci_high"] <= row["pi_high"]
    assert abs(table.loc[("Y", "X"), "effect"]) < 0.01
    mine = found.local.query("exposure == 'X'")
    assert mine["sequence_id"].tolist() == effects["sequence"].to_numpy().tolist()
    assert (mine["se"] > mine["within_se"]).all()
    tidy = found.instruments.query("exposure == 'X' and outcome == 'Y'")
    assert tidy["position"].between(5, 14).all()
    assert found.settings["design"] == "motif"
    assert found.settings["members"] == MEMBERS


def test_rows_may_be_chosen_and_summarised_again():
    effects, instances = world()
    found = deep_mr(effects, instances=instances)
    whole, _ = pairs.summarise(found.pairs, PAIR)
    np.testing.assert_allclose(whole["total_se"], found.effects["se"])
    np.testing.assert_allclose(whole["effect"], found.effects["effect"])


def test_verdicts():
    effects, instances = world()
    verdicts = deep_mr(effects, instances=instances).effects.set_index(PAIR)["verdict"]
    assert verdicts.tolist() == ["acts", "no effect"]
    # Y is moved so little by its own site, compared with X's, that nothing can be said
    effects, instances = world(noise=1.0)
    verdicts = deep_mr(effects, instances=instances).effects
    assert verdicts.loc[1, "verdict"] == "undetermined"
    assert "contains 0" in verdicts.loc[1, "reason"]
    few = effects.isel(sequence=slice(9))
    verdicts = deep_mr(few, instances=instances).effects
    assert set(verdicts["verdict"]) == {"not distinguishable"}
    assert verdicts["reason"].str.contains("9 of the 10").all()
    for times in (2, -2):  # the same description read twice, or its mirror image
        twice = effects.copy(deep=True)
        for name in ("effect", "se", "member_effect"):
            one = twice[name].sel(feature="X", drop=True)
            twice[name].loc[{"feature": "Y"}] = (abs(times) if name == "se" else times) * one
        twice = deep_mr(twice, design="all").effects
        assert set(twice["verdict"]) == {"not distinguishable"}
        assert twice["reason"].str.contains("correlation 1.00").all()


def test_both_ways_told_without_a_knock_out_are_not_distinguishable():
    effects, instances = world(slope=0.5, back=0.3)
    both = deep_mr(effects, instances=instances).effects
    assert (both["q_value"] < 0.05).all()
    assert (both["correlation"] < 0.95).all()
    assert set(both["verdict"]) == {"not distinguishable"}
    assert both["reason"].str.startswith("both directions are significant").all()
    one = deep_mr(effects, instances=instances, pairs=[("X", "Y")]).effects
    assert one["verdict"].item() == "acts"


@pytest.mark.parametrize(
    ("knockout", "half", "verdict"),
    [(0.4, 0.1, "acts"), (0.0, 0.5, "undetermined"), (0.0, 0.02, "no effect")],
)
def test_the_verdict_is_that_of_what_labels_correct(knockout, half, verdict):
    effects, instances = world()
    before = deep_mr(effects, instances=instances).effects.set_index(PAIR).loc["X", "Y"]
    assert before["verdict"] == "acts"
    given = {"exposure": ["X"], "outcome": ["Y"], "knockout": [knockout], "model_knockout": [0.5]}
    given |= {"ci_low": [knockout - half], "ci_high": [knockout + half]}
    given |= {"learned_response": [0.5], "learned_ci_low": [0.4], "learned_ci_high": [0.6]}
    given["status"] = ["ok"]
    found = deep_mr(effects, instances=instances, labels=pd.DataFrame(given)).effects
    row = found.set_index(PAIR).loc["X", "Y"]
    assert row["q_value"] == before["q_value"] < 0.05
    held = row["corrected_ci_low"] <= 0 <= row["corrected_ci_high"]
    assert held == (row["knockout_ci_low"] <= 0 <= row["knockout_ci_high"]) == (knockout == 0)
    assert row["verdict"] == verdict


def test_units_change_nothing_but_the_effect():
    effects, instances = world()
    scaled = effects.copy(deep=True)
    for name in ("effect", "se", "member_effect"):
        scaled[name].loc[{"feature": "Y"}] *= 1000
    for design in ("motif", "strongest"):
        given = {"instances": instances} if design == "motif" else {}
        one, two = (deep_mr(e, design=design, **given).effects for e in (effects, scaled))
        np.testing.assert_allclose(two["effect"], one["effect"] * [1000, 1e-3], rtol=1e-9)
        np.testing.assert_allclose(two["own_effect"], one["own_effect"], rtol=1e-9)
        assert two["verdict"].tolist() == one["verdict"].tolist()


def test_own_motifs_respect_direction_and_strength_alone_does_not():
    effects, instances = world(slope=1.0)
    back = {
        d: deep_mr(effects, pairs=[("Y", "X")], design=d, instances=instances).effects
        for d in ("motif", "all")
    }
    assert back["motif"]["verdict"].item() == "no effect"
    assert back["all"]["effect"].item() > 0.3


def test_a_single_network_has_effects_and_says_that_it_has_no_interval():
    effects, instances = world(members=1, noise=0.0)
    table = deep_mr(effects, instances=instances).effects
    np.testing.assert_allclose(table["effect"], [0.5, 0.0], atol=1e-12)
    assert table["k"].tolist() == [30, 30]
    assert table[["se", "ci_low", "ci_high", "p", "q_value"]].isna().all(axis=None)
    assert set(table["verdict"]) == {"undetermined"}
    assert table["reason"].str.contains("no members").all()
    with pytest.raises(ValueError, match="effects of a single network have no standard errors"):
        deep_mr(effects, instances=instances, method="egger_robust")


def test_two_members_are_not_corrected_and_that_is_said():
    effects, instances = world(members=2)
    table = deep_mr(effects, instances=instances).effects
    assert table["reason"].str.contains("two members").all()
    assert table["se"].notna().all()


def test_the_published_analysis_says_that_it_takes_the_model_as_known():
    effects, _ = world()
    found = deep_mr(effects, **(PUBLISHED | {"threshold": 1.0}))
    row = found.effects.iloc[0]
    assert row["se"] == row["within_se"]
    assert "given the model" in found.report()
    assert found.effects["reason"].str.contains("takes the model as known").all()
    assert "given the model" not in deep_mr(effects).report()
    assert found.settings["method"] == "egger_paper"


def test_report_has_a_sentence_a_pair():
    effects, instances = world()
    lines = deep_mr(effects, instances=instances).report().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("X -> Y: acts; slope 0.5")
    assert "30 sequences" in lines[0]


def test_effects_at_the_rounding_of_float32_are_named():
    effects, instances = world()
    effects = effects.assign(reference_prediction=(("sequence", "feature"), np.full((30, 2), 1e6)))
    effects.attrs["precision"] = "float32"
    with pytest.warns(UserWarning, match="effects on 'X' are .* precision='float64'"):
        deep_mr(effects, instances=instances, pairs=[("X", "Y")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pairs": [("X", "Z")]}, "Z"),
        ({"pairs": [("X", "X")]}, "a pair is an exposure and another feature"),
        ({"pairs": [("X", "Y")], "outcomes": ["Y"]}, "give either pairs or these"),
        ({"exposures": ["X"], "outcomes": ["X"]}, "need at least 2 features"),
        ({"design": "strength"}, "unknown design 'strength': choose one of motif, strongest, all"),
        ({"design": "motif"}, "needs motif instances"),
        ({"interval": "bayes"}, "unknown interval 'bayes'"),
        ({"method": "ivv"}, "unknown method 'ivv'"),
        ({"weights": "none"}, "weights"),
        ({"device": "cpu"}, "effects are there already: device goes with the members"),
    ],
)
def test_bad_input_raises(given, message):
    effects, _ = world(sequences=12)
    with pytest.raises(ValueError, match=message):
        deep_mr(effects, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"design": "strength"}, "unknown design"),
        ({"rule": "sd"}, "unknown rule"),
        ({"threshold": -1}, "threshold must be a number of at least 0"),
        ({"method": "egger", "weights": "delta"}, "unknown weights 'delta'"),
        ({"interval": "bayes"}, "unknown interval"),
        ({"motifs": {}, "strands": "average"}, "leave out strands"),
    ],
)
def test_bad_options_raise_before_members_are_mutated(given, message):
    class Untouched(torch.nn.Module):
        def forward(self, x):
            raise AssertionError("the model was called")

    with pytest.raises(ValueError, match=message):
        deep_mr([Untouched()], torch.eye(4).repeat(2, 1, 5), **given)


def test_members_need_sequences():
    with pytest.raises(ValueError, match=r"deep_mr\(members, one_hot\)"):
        deep_mr([lambda x: x])


def test_weak_instruments_are_named_and_cross_fitted():
    """Selected and described by the same members the slope follows the errors, which correlate."""
    effects, instances = world(slope=0.0, noise=1.2, sequences=400)
    chosen = {"instances": instances, "rule": "wald", "threshold": 2.0, "pairs": [("X", "Y")]}
    same = deep_mr(effects, **chosen).effects.iloc[0]
    assert "weak instruments (F = " in same["reason"]
    other = deep_mr(effects, **chosen, cross_fit=True).effects.iloc[0]
    assert "weak" not in other["reason"]
    assert abs(other["effect"]) < 0.6 * abs(same["effect"])
    assert other["ci_low"] < 0 < other["ci_high"]
    with pytest.raises(ValueError, match="cross_fit goes with"):
        deep_mr(effects, instances=instances, cross_fit=True)
    with pytest.raises(ValueError, match="4 members or more"):
        deep_mr(world(members=3)[0], rule="wald", cross_fit=True)


class Scanners(torch.nn.Module):
    """Two factors that scan for their motifs; Y binds the more, the more X does."""

    feature_names = ("X", "Y")

    def __init__(self, motifs, seed, slope=2.0):
        super().__init__()
        rng = np.random.default_rng(seed)
        weights = [log_odds(motif, pseudocount=0.01).T for motif in motifs]
        width = max(w.shape[1] for w in weights)
        padded = np.zeros((2, 4, width))
        for w, target in zip(weights, padded, strict=True):
            target[:, : w.shape[1]] = w + 0.05 * rng.normal(size=w.shape)
        self.scan = torch.nn.Conv1d(4, 2, width, bias=False, dtype=torch.float64)
        self.scan.weight.data = torch.tensor(padded)
        self.slope = slope * (1 + 0.05 * rng.normal())

    def forward(self, x):
        x, y = self.scan(x).amax(2).relu().T
        return torch.stack([x, y + self.slope * x], 1)


def test_a_model_and_its_motifs_are_all_that_is_needed():
    motifs = {"X": get_motif("GATA_disc1"), "Y": get_motif("Klf4")}
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(15):
        bases = rng.choice(list("ACGT"), 80)
        for start, motif in zip((10, 50), motifs.values(), strict=True):
            bases[start : start + motif.width] = list(motif.consensus)
        sequences.append("".join(bases))
    x = one_hot(sequences, torch.float64)
    members = [Scanners(motifs.values(), seed) for seed in range(5)]
    found = deep_mr(members, x, motifs=motifs, device="cpu")
    forward, back = (found.effects.iloc[i] for i in (0, 1))
    slope = np.mean([member.slope for member in members])
    assert forward["effect"] == pytest.approx(slope, rel=0.02)
    assert forward["knockout"] == pytest.approx(slope, rel=0.02)
    assert forward["knockout_ci_low"] < slope < forward["knockout_ci_high"]
    assert forward["verdict"] == "acts"
    assert forward["reason"] == "slope and knock-out are significant and have one sign"
    assert back["verdict"] == "no effect"
    assert "knock-out 2" in found.report()
    # edits of sites are instruments, too
    instances = find_instances(x, [f"sequence-{i}" for i in range(15)], motifs)
    ids = instances["sequence_id"].unique().tolist()
    edits = site_edits(x, [f"sequence-{i}" for i in range(15)], instances, motifs, n_draws=4)
    changed = edit_effects(members, x, edits, device="cpu")
    assert len(ids) == 15
    by_edits = deep_mr(changed)
    assert by_edits.settings["design"] == "motif"
    assert by_edits.effects["effect"][0] == pytest.approx(slope, rel=0.02)
    assert by_edits.effects["k"].min() >= 14
    assert by_edits.effects["private_share"].isna().all()
    assert by_edits.instruments["reference"].str.len().min() > 3
    with pytest.raises(ValueError, match="leave out strands"):
        deep_mr(members, x, motifs=motifs, device="cpu", strands="mean")


def test_labels_correct_knockout_and_slope():
    effects, instances = world()
    given = {
        "exposure": ["X"], "outcome": ["Y"], "knockout": [0.25], "ci_low": [0.2], "ci_high": [0.3],
        "model_knockout": [0.45], "learned_response": [0.5], "learned_ci_low": [0.4],
        "learned_ci_high": [0.6], "status": ["ok"],
    }  # fmt: skip
    plain = deep_mr(effects, instances=instances).effects.set_index(PAIR).loc["X", "Y"]
    found = deep_mr(effects, instances=instances, labels=pd.DataFrame(given))
    row = found.effects.set_index(PAIR).loc["X", "Y"]
    assert row["effect"] == plain["effect"]
    assert row[["knockout", "knockout_ci_low", "knockout_ci_high"]].tolist() == [0.25, 0.2, 0.3]
    assert row[["learned_response", "learned_ci_low", "learned_ci_high"]].tolist() == [
        0.5,
        0.4,
        0.6,
    ]
    assert row["corrected"] == pytest.approx(0.25 + 0.5 * (row["effect"] - 0.45), rel=1e-12)
    half = np.hypot(0.05, 0.5 * (row["effect"] - row["ci_low"]))
    assert row["corrected_ci_high"] - row["corrected"] == pytest.approx(half, rel=1e-9)
    assert row["corrected"] - row["corrected_ci_low"] == pytest.approx(half, rel=1e-9)
    assert np.isnan(plain[["learned_response", "corrected"]].astype(float)).all()
    other = found.effects.set_index(PAIR).loc["Y", "X"]
    assert np.isnan(other[["learned_response", "corrected", "knockout"]].astype(float)).all()
    with pytest.raises(ValueError, match=r"labels, of .* needs the columns"):
        deep_mr(effects, instances=instances, labels=pd.DataFrame({"exposure": ["X"]}))


def test_an_exposure_that_labels_cannot_tell_gets_no_answer():
    effects, instances = world()
    names = ["knockout", "ci_low", "ci_high", "model_knockout", "learned_response"]
    given = {name: [np.nan] for name in [*names, "learned_ci_low", "learned_ci_high"]}
    given |= {"exposure": ["X"], "outcome": ["Y"], "status": ["own response not told from 0"]}
    found = deep_mr(effects, instances=instances, labels=pd.DataFrame(given)).effects
    row = found.set_index(PAIR).loc["X", "Y"]
    assert row["q_value"] < 0.05
    assert (row["verdict"], row["reason"]) == ("undetermined", given["status"][0])
    assert found.set_index(PAIR).loc[("Y", "X"), "verdict"] == "no effect"
