"""The original's mistakes, made on purpose: each does what the corrections page says of it."""

import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils import calibration
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot
from experiments.cooperativity import original, simulation
from experiments.cooperativity.network import SimulationCNN


def test_training_mode_makes_an_effect_depend_on_its_company():
    rng = np.random.default_rng(0)
    x = one_hot(["".join(rng.choice(list("ACGT"), 60)) for _ in range(2)])
    torch.manual_seed(0)
    members = [SimulationCNN(60) for _ in range(3)]
    with torch.no_grad():
        for member in members:
            member(torch.cat([x] * 4))  # statistics that are not those of a batch of mutants
            member.eval()
    before = {k: v.clone() for k, v in members[0].state_dict().items()}
    effects = saturation_mutagenesis(members, x, device="cpu")
    slipped = original.training_mode_effects(members, x, effects)
    assert np.array_equal(np.isnan(slipped["effect"]), np.isnan(effects["effect"]))
    assert not np.allclose(slipped["effect"], effects["effect"], equal_nan=True)
    assert not members[0].training
    for name, value in members[0].state_dict().items():
        torch.testing.assert_close(value, before[name])
    for member in members:  # without batch normalisation there is no difference
        for module in member.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.forward = lambda z: z
    effects = saturation_mutagenesis(members, x, device="cpu", propagate=False)
    same = original.training_mode_effects(members, x, effects)
    np.testing.assert_allclose(same["effect"], effects["effect"], atol=1e-5)
    np.testing.assert_allclose(same["se"], effects["se"], atol=1e-5)


def test_slipped_augmentation_misses_the_motifs():
    parameters = simulation.Parameters(n_train=400, n_augmented=200, n_test=10)
    data = simulation.simulate_round(parameters, 1)
    slipped = original.slipped_augmentation(data, 0)
    assert len(slipped.sequences) == len(data.sequences)
    kept = data.sequences["split"] != "augmented"
    assert slipped.sequences["split"].value_counts().equals(data.sequences["split"].value_counts())
    assert set(slipped.split("test")["sequence"]) == set(data.split("test")["sequence"])
    parents = data.sequences[kept].set_index("sequence_id")

    def share_of_parents_motifs_hit(round_):
        table = round_.split("augmented")
        hits = []
        for name, mutant in zip(table["sequence_id"], table["sequence"], strict=True):
            parent = parents.loc[name.removesuffix("-mutant")]
            changed = [a != b for a, b in zip(parent["sequence"], mutant, strict=True)]
            for _, start, end in simulation.motif_spans(parent, parameters):
                hits.append(any(changed[start:end]))
        return np.mean(hits)

    assert share_of_parents_motifs_hit(data) == 1
    assert share_of_parents_motifs_hit(slipped) < 0.4


def test_a_map_between_coverages_moves_an_unbiased_ensemble():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(2000, 1))
    labels = centre + rng.normal(size=(2000, 1))
    predictions = centre + 0.3 * rng.normal(size=(20, 2000, 1))  # unbiased, overconfident
    right = calibration.fit_isotonic(predictions, labels)(predictions)
    wrong = original.interval_recalibrator(predictions, labels)(predictions)
    sd = predictions.std(0).mean()
    assert abs((right - predictions).mean()) < 0.2 * sd
    assert abs((wrong - predictions).mean()) > sd


def test_mispaired_coverage_by_hand():
    local = pd.DataFrame({
        "stratum": ["exposure motif only", "both motifs", "both motifs"],
        "ci_low": [0.0, 0.9, 0.9], "ci_high": [0.2, 1.1, 1.1], "truth": [0.1, 1.0, 1.0],
    })  # fmt: skip
    # the truths 1.0, 1.0 meet the first two intervals
    assert original.mispaired_coverage(local) == pytest.approx(0.5)


def test_the_published_definition_makes_a_perfect_method_look_biased():
    rules = original.effects_of_the_rules(
        ["none", "both"], 2, simulation.Parameters(n_train=20, n_augmented=0, n_test=60), seed=3
    )
    assert list(zip(rules["scenario"], rules["round"], strict=True)) == [
        ("none", 0), ("none", 1), ("both", 0), ("both", 1),
    ]  # fmt: skip
    np.testing.assert_allclose(rules["effect"], rules["truth"], rtol=5e-3)
    none, both = (rules[rules["scenario"] == name] for name in ("none", "both"))
    np.testing.assert_allclose(none["truth_published"], none["truth"], rtol=1e-12)
    assert (both["truth_published"] / both["truth"] - 1).abs().max() > 0.05
