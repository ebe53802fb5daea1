"""Simulated chromatin: graph, labels, splits, truth; and what the analysis makes of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from scipy.special import expit
from sklearn.metrics import log_loss

from deepmr_utils import motifs
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.predict import MCDropout, predict
from deepmr_utils.sequences import decode, one_hot, reverse_complement
from experiments.__main__ import main
from experiments.chromatin import draws, one_draw, simulated
from experiments.chromatin.simulated import ACCESSIBILITY, FACTORS, FEATURES, ROLES, Parameters
from experiments.study import make_settings

P = Parameters()


@pytest.fixture(scope="module")
def windows():
    return simulated.simulate(P, 400, split="test", seed=5)


@pytest.fixture(scope="module")
def truth(windows):
    return simulated.true_effects(windows[:60], P)


def test_labels_are_draws_of_the_probabilities(windows):
    x = one_hot(windows["sequence"].tolist())
    for name, logit in zip(FEATURES, simulated.true_logits(x, P).T, strict=True):
        p = windows[f"{name}_probability"]
        np.testing.assert_allclose(p, logit.sigmoid(), atol=1e-12)
        sd = np.sqrt((p * (1 - p)).sum())
        assert abs(windows[name].sum() - p.sum()) < 4 * sd
        assert 0.15 < windows[name].mean() < 0.75


def test_windows_repeat_by_seed_and_differ_between_seeds(windows):
    pd.testing.assert_frame_equal(windows, simulated.simulate(P, 400, split="test", seed=5))
    other = simulated.simulate(P, 400, split="test", seed=6)
    assert not set(windows["sequence"]) & set(other["sequence"])


def test_no_tile_is_in_two_splits():
    spans = list(simulated.SPLITS.values())
    tiles = [i for first, last in spans for i in range(first, last)]
    assert tiles == list(range(100))
    for split, (first, last) in simulated.SPLITS.items():
        assert simulated.simulate(P, 50, split=split)["tile"].between(first, last - 1).all()


def test_background_is_the_shipped_dna():
    """Without sites, windows are stretches of their tile, on either strand."""
    table = simulated.simulate(replace(P, p_site=0.0), 20, split="test")
    tiles = decode(simulated._tiles())
    strands = [tiles, [reverse_complement(t) for t in tiles]]
    for row in table.itertuples():
        assert any(row.sequence in strand[row.tile] for strand in strands)


def test_motifs_are_told_apart():
    """A planted site passes another motif's threshold in at most 6 % more cases than chance."""
    rng = np.random.default_rng(0)
    known = {name: simulated.factor_motif(name) for name in FACTORS}
    base = rng.integers(0, 4, (1000, 40)).astype(np.uint8)

    def share(codes):
        found = motifs.find_instances(one_hot(codes), np.arange(len(codes)), known)
        return found.drop_duplicates(["sequence_id", "factor"])["factor"].value_counts() / 1000

    chance = share(base)
    for name, motif in known.items():
        drawn = motif.probabilities**P.sharpness
        cumulative = (drawn / drawn.sum(1, keepdims=True)).cumsum(1)[:, :-1]
        codes = base.copy()
        codes[:, 12 : 12 + motif.width] = (rng.random((1000, motif.width, 1)) >= cumulative).sum(2)
        more = share(codes) - chance
        assert more[name] > 0.8
        assert more.drop(name).max() < 0.06


def test_the_graph():
    """Log-odds by hand; each role changes what it should and nothing else."""
    sites = {name: torch.zeros(1, dtype=torch.float64) for name in FACTORS}
    base = simulated.propagate(sites, P)[0]
    accessible = -1.5 + 3 / 2 + 3 / 2 - 3 / 2
    assert base[-1].item() == pytest.approx(accessible)
    follower = base[FEATURES.index("follower 2")].item()
    assert follower == pytest.approx(4 / (1 + np.exp(-accessible)) - 3)
    for name, role in ROLES.items():
        more = {**sites, name: sites[name] + 1}
        change = (simulated.propagate(more, P)[0] - base).numpy()
        assert change[FEATURES.index(name)] == pytest.approx(1)
        sign = {"pioneer": 1, "repressor": -1}.get(role, 0)
        assert np.sign(change[-1]) == sign
        for other in set(FACTORS) - {name}:
            expected = sign if ROLES[other] == "follower" else 0
            assert np.sign(change[FEATURES.index(other)]) == expected


def test_both_strands_are_alike(windows):
    x = one_hot(windows["sequence"].tolist()[:20])
    given, other = simulated.true_logits(x, P), simulated.true_logits(x.flip(1, 2), P)
    np.testing.assert_allclose(given, other, atol=1e-10)


def test_truth_has_the_signs_of_the_roles(truth):
    assert (truth.groupby("sequence_id").size() == 14).all()
    ok = truth[truth["status"] == "ok"]
    assert ok["truth"].notna().all()
    assert truth.loc[truth["status"] != "ok", "truth"].isna().all()
    there = ok[ok["outcome"] == ACCESSIBILITY].set_index("exposure")["truth"]
    back = ok[ok["exposure"] == ACCESSIBILITY].set_index("outcome")["truth"]
    for name, role in ROLES.items():
        sign = {"pioneer": 1, "repressor": -1}.get(role, 0)
        assert (np.sign(there[name]) == sign).all()
        assert (np.sign(back[name]) == (role == "follower")).all()


def test_truth_is_the_slope_over_a_sites_substitutions(windows, truth):
    """Brute force, in the motif's instances only, where no other site of any factor is near."""
    found = simulated.instances(windows[:60])
    ok = truth.query("exposure == 'pioneer 2' and status == 'ok'").set_index("sequence_id")["truth"]
    motif, compared = simulated.factor_motif("pioneer 2"), 0
    for name in ok.index:
        own = found.query("sequence_id == @name and factor == 'pioneer 2'")
        if len(own) > 1:
            continue
        row = windows.set_index("sequence_id").loc[name]
        first, text = own["start"].iloc[0], row["sequence"]
        mutants = [
            text[:i] + base + text[i + 1 :]
            for i in range(first, first + motif.width) for base in "ACGT" if base != text[i]
        ]  # fmt: skip
        sites = {f: simulated.site_logits(one_hot([text]), f, P) for f in FACTORS}
        held = {f: sites[f].expand(len(mutants)) for f in FACTORS}
        held["pioneer 2"] = simulated.site_logits(one_hot(mutants), "pioneer 2", P)
        change = (simulated.propagate(held, P) - simulated.propagate(sites, P)).numpy()
        x, y = change[:, FEATURES.index("pioneer 2")], change[:, -1]
        assert ok[name] == pytest.approx((x * y).sum() / (x**2).sum(), rel=1e-9)
        compared += 1
    assert compared > 5


class Blurred(torch.nn.Module):
    """The oracle with the noise of a network that learned log-odds a little wrong."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        names = ["intrinsic", "unspecific", "opening", "closing", "opened"]
        self.rules = replace(P, **{n: getattr(P, n) + 0.3 * rng.normal() for n in names})
        self.feature_names = FEATURES

    def forward(self, x):
        return simulated.true_logits(x, self.rules).to(x.dtype)


@pytest.fixture(scope="module")
def oracle(windows):
    bound = one_draw.bound_windows(windows, FACTORS, 4)
    chosen = one_draw.choose(windows, bound)
    spots = simulated.instances(chosen)
    mask = np.zeros((len(chosen), P.length), bool)
    for row in spots.itertuples():  # what lies between sites does next to nothing
        mask[chosen["sequence_id"].tolist().index(row.sequence_id), row.start : row.end] = True
    effects = saturation_mutagenesis(
        [Blurred(s) for s in range(3)], one_hot(chosen["sequence"].tolist()).double(),
        sequence_ids=chosen["sequence_id"], keep_members=True, propagate=False, device="cpu",
        positions=mask,
    )  # fmt: skip
    return effects, bound, simulated.true_effects(chosen, P)


def test_the_exact_model_gives_true_effects_and_no_false_one(oracle):
    table, _ = one_draw.analyse(*oracle[:2], ACCESSIBILITY, ["strongest"], oracle[2])
    zero = table["truth"].fillna(0) == 0
    # where accessibility moves by a factor's own sites alone, both are moved equally, in units of
    # their sd, and a few windows do not tell which of the two is the cause
    alone = table["outcome"].isin(simulated.causes(ACCESSIBILITY))
    assert table.loc[zero & ~alone, "effect"].abs().max() < 0.05
    assert (table.loc[~zero, "effect"] - table.loc[~zero, "truth"]).abs().max() < 0.25


def test_the_shipped_network_predicts_nearly_as_well_as_the_rules():
    held = simulated.simulate(P, 800, split="test", seed=9)
    table = one_draw.quality(one_draw.load_network(), held)
    # 0.04 at most was lost when it was trained, on 2,000 windows; 800 have an error of 0.015
    assert (table["auroc_possible"] - table["auroc"]).max() < 0.09
    assert (table["auroc"] > 0.75).all()


def test_calibration_mends_a_network_that_is_too_cautious(windows):
    held = simulated.simulate(P, 200, split="validation", seed=9)
    network = one_draw.load_network()
    platt, table = one_draw.calibrate(network, held, windows, n_draws=3, seed=1)
    names, x = list(FEATURES), one_hot(windows["sequence"].tolist())
    logits = predict(MCDropout(network, 3, 1), x).astype(float).mean(0)
    for when, p in (("before", expit(logits)), ("after", platt(expit(logits)))):
        losses = [log_loss(windows[name], p[:, k]) for k, name in enumerate(names)]
        np.testing.assert_allclose(table[f"log_loss_{when}"], losses, rtol=1e-6)  # of probabilities
    assert table["log_loss_after"].mean() < table["log_loss_before"].mean()
    last = network.dense[-1]
    with torch.no_grad():  # exactly half of every logit
        last.weight /= 2
        last.bias /= 2
    halved, other = one_draw.calibrate(network, held, windows, n_draws=3, seed=1)
    np.testing.assert_allclose(halved.slope, 2 * platt.slope, rtol=1e-9)
    np.testing.assert_allclose(halved.intercept, platt.intercept, rtol=1e-9, atol=1e-9)
    for column in ("log_loss", "own_slope", "ece"):
        np.testing.assert_allclose(other[f"{column}_after"], table[f"{column}_after"], rtol=1e-9)
    assert (other["log_loss_before"] > table["log_loss_before"]).all()


def test_platt_scaling_multiplies_an_effect_by_the_ratio_of_slopes(oracle):
    effects, bound, truth = oracle
    slope = np.linspace(0.5, 2, len(FEATURES))
    parts = ["effect", "se", "member_effect"]
    scaled = effects.assign(effects[parts] * xr.DataArray(slope, dims="feature"))
    chains = ["strongest", "published_deepsea"]
    before, after = (
        one_draw.analyse(one, bound, ACCESSIBILITY, chains, truth)[0] for one in (effects, scaled)
    )
    of = dict(zip(FEATURES, slope, strict=True))
    ratio = before["outcome"].map(of) / before["exposure"].map(of)
    for column in ("effect", "total_se", "total_ci_low", "total_ci_high"):
        np.testing.assert_allclose(after[column], before[column] * ratio, rtol=1e-6, atol=1e-9)


def test_factors_are_named_by_both_ways():
    names = ["pioneer 1", "follower 1", "bystander 1", "repressor"]
    rows = [(n, ACCESSIBILITY, e) for n, e in zip(names, [1, 0, 0, -1], strict=True)]
    rows += [(ACCESSIBILITY, n, e) for n, e in zip(names, [0, 1, 0, 0], strict=True)]
    table = pd.DataFrame(rows, columns=["exposure", "outcome", "effect"])
    table = table.assign(total_ci_low=table["effect"] - 0.5, total_ci_high=table["effect"] + 0.5)
    named = one_draw.classify(table).set_index("factor")["role"]
    assert named.to_dict() == {name: ROLES[name] for name in names}


def test_a_window_that_a_factor_binds_is_needed(windows):
    bound = one_draw.bound_windows(windows, ["pioneer 1"], 3)
    assert len(bound["pioneer 1"]) == 3
    assert (windows.set_index("sequence_id").loc[bound["pioneer 1"], "pioneer 1"] == 1).all()
    with pytest.raises(ValueError, match="no window is bound by pioneer 1"):
        one_draw.bound_windows(windows.assign(**{"pioneer 1": 0}), ["pioneer 1"], 3)


def test_draws_share_masks_between_a_reference_and_its_mutants(windows):
    """Mutagenesis of the study equals predictions of each draw, one sequence at a time."""
    torch.manual_seed(0)
    network = one_draw.make_network(P).eval()
    two = windows[:2]
    effects = one_draw.mutate(network, two, n_draws=3, seed=4, positions=[90, 120], device="cpu")
    text = two["sequence"].iloc[1]
    mutant = one_hot([text[:120] + ("A" if text[120] != "A" else "C") + text[121:]])
    allele = "A" if text[120] != "A" else "C"
    for m, draw in enumerate(MCDropout(network, 3, 4).members()):
        with torch.inference_mode():
            expected = (draw(mutant) - draw(one_hot([text])))[0].numpy()
        got = effects["member_effect"].sel(
            member=m, sequence=two["sequence_id"].iloc[1], position=120, allele=allele
        )
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert np.abs(expected).max() > 1e-3  # another mask would move every output


def test_first_filters_begin_as_motifs():
    network = one_draw.make_network(P)
    site = one_hot(["A" * 96 + "ATTTGCAT" + "A" * 96])
    with torch.inference_mode():
        fired = network.convolutions[0](site)[0]
    assert fired[0].argmax() == 96
    assert fired[0].max() > 1
    assert network.get_parameter("convolutions.0.weight").shape == (48, 4, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_site": 1.5}, "p_site must lie between 0 and 1; got 1.5"),
        ({"sharpness": 0}, "sharpness must be a number greater than 0"),
        ({"length": 50}, "between 80"),
        ({"length": 5000}, "and 2000; got 5000"),
    ],
)
def test_bad_parameters_raise(change, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**change)


def test_bad_arguments_raise(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev': choose one of train"):
        simulated.simulate(P, 3, split="dev")
    with pytest.raises(ValueError, match="at least 1"):
        simulated.simulate(P, 0)
    with pytest.raises(ValueError, match="unknown factor 'p53'"):
        simulated.factor_motif("p53")
    with pytest.raises(ValueError, match="unknown chain"):
        one_draw.Settings(chains=("guess",))
    with pytest.raises(ValueError, match="n_draws must be a number of at least 2"):
        one_draw.Settings(n_draws=1)
    with pytest.raises(ValueError, match=r"unknown parameter 'windows'.* mean 'n_windows'"):
        make_settings(one_draw.Settings, {"windows": 3})
    assert draws.stored(tmp_path) == []


def test_a_run_is_stored_found_again_and_scored(tmp_path):
    values = {"n_train": 64, "epochs": 1, "n_test": 60, "n_windows": 3, "n_draws": 2}
    values |= {"runs": 1, "chains": ["strongest"], "kept": [], "results_directory": str(tmp_path)}
    path = tmp_path / "file.yml"
    path.write_text(yaml.safe_dump(values))
    main(["deepsea", str(path)])
    [run] = draws.stored(tmp_path)
    stamp = (tmp_path / "run-000.json").stat().st_mtime_ns
    main(["deepsea", str(path)])
    assert (tmp_path / "run-000.json").stat().st_mtime_ns == stamp
    assert len(run.globals_) == 14
    assert {row["feature"] for row in run.record["quality"]} == set(FEATURES)
    assert draws.scores([run])["runs"].tolist() == [1]
    sizes = draws.sizes([run], "strongest")
    assert len(sizes) == 14
    assert sizes["auroc"].notna().all()
    assert len(draws.draw_sizes(sizes).axes) == 2
    assert draws.draw_ratios(sizes).axes
    held = run.globals_.set_index(["exposure", "outcome"])
    one = sizes.set_index(["exposure", "outcome"])
    inside = held["truth"].between(held["total_ci_low"], held["total_ci_high"])
    assert one["covered"].equals(inside.reindex(one.index).rename("covered"))
    assert one["effect"].equals(held["effect"].reindex(one.index))
    path.write_text(yaml.safe_dump(values | {"epochs": 2}))
    with pytest.raises(ValueError, match="other settings"):
        main(["deepsea", str(path)])
