import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepmr_utils import instruments, meta, mr, mutagenesis, sequences
from deepmr_utils.null import dinucleotide_shuffle, shuffled_weights, untrained
from experiments.cooperativity import simulation
from experiments.cooperativity.network import SimulationCNN


def trained_like(seed=0):
    """A network whose weights, statistics and output scale are not those of a new one."""
    torch.manual_seed(seed)
    model = SimulationCNN(30, channels=4, hidden=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
        model.train()(torch.randn(50, 4, 30))
        model.set_output_scale(torch.randn(50, 2) * 3 + 10)
    return model.eval()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("helper", [shuffled_weights, untrained])
def test_a_copy_that_depends_on_the_seed_alone(helper, device):
    model = trained_like()
    before, generator = state(model), torch.get_rng_state()
    copies = [helper(model, seed) for seed in (3, 3, 4)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    a, b, c = (state(copy) for copy in copies)
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = [
        name
        for name, value in model.named_parameters()
        if name.endswith("weight") and value.ndim > 1
    ]
    assert not any(
        torch.equal(a[name], c[name]) or torch.equal(a[name], before[name]) for name in weights
    )
    assert not copies[0].training
    elsewhere = helper(model.to(device), 3)
    assert next(elsewhere.parameters()).device.type == device
    assert all(torch.equal(value.cpu(), a[name]) for name, value in elsewhere.state_dict().items())
    x = sequences.one_hot(["ACGTT" * 6])
    assert torch.isfinite(copies[0](x)).all()


def test_shuffled_weights_keep_every_tensors_values_and_all_buffers():
    model = trained_like()
    shuffled = shuffled_weights(model, 0)
    for name, value in model.named_parameters():
        moved = shuffled.get_parameter(name)
        assert moved.shape == value.shape
        assert torch.equal(moved.flatten().sort().values, value.flatten().sort().values)
    for name, value in model.named_buffers():
        assert torch.equal(shuffled.get_buffer(name), value)


def test_untrained_is_drawn_as_a_new_network_is():
    model = trained_like()
    new = untrained(model, 0)
    assert all(
        (m.running_mean == 0).all() and (m.running_var == 1).all()
        for m in new.modules()
        if isinstance(m, nn.BatchNorm1d)
    )
    assert torch.equal(new.output_mean, model.output_mean)
    for layer in new.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):  # uniform within 1 / sqrt(inputs)
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.5)


def test_a_layer_of_ones_own_has_the_last_word():
    class Zeros(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def reset_parameters(self):
            nn.init.zeros_(self.inner.weight)

    assert (untrained(nn.Sequential(Zeros()), 0)[0].inner.weight == 0).all()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_is_shuffled_and_cannot_be_drawn_anew():
    layer = nn.utils.weight_norm(nn.Conv1d(4, 8, 3))
    x = torch.ones(1, 4, 3)
    before = layer(x)  # leaves a tensor with a gradient in the layer
    shuffled = shuffled_weights(layer, 0)
    assert not torch.isclose(shuffled(x), before).all()
    assert torch.equal(shuffled.weight_g.flatten().sort()[0], layer.weight_g.flatten().sort()[0])
    # its reset_parameters draws a tensor that the next call throws away
    with pytest.raises(ValueError, match="leaves parameters as they are: weight_g, weight_v"):
        untrained(layer, 0)
    assert torch.equal(layer(x), before)


def test_null_models_are_made_of_one_module():
    for helper in (shuffled_weights, untrained):
        with pytest.raises(TypeError, match="got list: call this for each member"):
            helper([nn.Linear(2, 2)], 0)
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0; got -1"):
            helper(nn.Linear(2, 2), -1)
        with pytest.raises(ValueError, match="on the device 'meta'"):
            helper(nn.Linear(2, 2, device="meta"), 0)


def test_models_that_cannot_be_made_null_raise():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    model = nn.Sequential(nn.Linear(2, 2), Scale(), Scale())
    with pytest.raises(
        ValueError,
        match=r"reset_parameters, which is missing: 1 \(Scale\), 2 \(Scale\). Define it, or use shuffled_weights",
    ):
        untrained(model, 0)
    with pytest.raises(ValueError, match=r"missing: the module itself \(Scale\)"):
        untrained(Scale(), 0)
    for helper in (untrained, shuffled_weights):
        with pytest.raises(ValueError, match="ReLU has no parameters: nothing in it was learnt"):
            helper(nn.ReLU(), 0)


def dinucleotides(sequence):
    return Counter(itertools.pairwise(sequence))


@settings(deadline=None, max_examples=300)
@given(st.text("ACGTN", max_size=60), st.integers(0, 2**32))
def test_shuffles_keep_dinucleotides_ends_and_unknown_bases(sequence, seed):
    (shuffled,) = dinucleotide_shuffle([sequence], seed)
    assert dinucleotides(shuffled) == dinucleotides(sequence)
    assert shuffled[:1] == sequence[:1]
    assert shuffled[-1:] == sequence[-1:]
    assert [i for i, b in enumerate(shuffled) if b == "N"] == [
        i for i, b in enumerate(sequence) if b == "N"
    ]


@pytest.mark.parametrize("sequence", ["ACACGATAGA", "GATTACAGAT", "AACAAGAAC"])
def test_shuffles_are_uniform_over_all_that_keep_dinucleotides(sequence):
    middles = set(itertools.permutations(sequence[1:-1]))
    possible = {sequence[0] + "".join(m) + sequence[-1] for m in middles}
    possible = sorted(s for s in possible if dinucleotides(s) == dinucleotides(sequence))
    draws = Counter(dinucleotide_shuffle([sequence] * (100 * len(possible)), 1))
    assert set(draws) == set(possible)
    assert len(possible) > 3
    assert scipy.stats.chisquare([draws[s] for s in possible]).pvalue > 0.001


def test_shuffles_depend_on_seed_place_and_sequence_alone():
    texts = ["".join(np.random.default_rng(i).choice(list("ACGT"), 200)) for i in range(3)]
    first = dinucleotide_shuffle(texts, 5)
    assert first == dinucleotide_shuffle([t.lower() for t in texts], 5)
    assert first[2] == dinucleotide_shuffle(["A", "", texts[2]], 5)[2]
    assert not set(first) & set(dinucleotide_shuffle(texts, 6))
    # nothing of the order is left: chance agreement of two sequences is about a quarter
    agreement = [
        np.mean([a == b for a, b in zip(s, t, strict=True)])
        for s, t in zip(first, texts, strict=True)
    ]
    assert max(agreement) < 0.4


def test_an_unbalanced_sequence_takes_no_longer():
    """One way out of 1,000 leads to the last base: drawn at once, not by rejection."""
    (shuffled,) = dinucleotide_shuffle(["AC" * 5000 + "G"], 0)
    assert shuffled == "AC" * 5000 + "G"


def test_bad_sequences_raise():
    with pytest.raises(ValueError, match="unknown base 'R' in sequence 1 at position 2"):
        dinucleotide_shuffle(["ACGT", "ACR"], 0)
    with pytest.raises(TypeError, match="got a single string: put it in a list"):
        dinucleotide_shuffle("ACGT", 0)


def null_ensemble(seed, dtype=torch.float32):
    return [untrained(SimulationCNN(100).to(dtype), 100 * seed + member) for member in range(5)]


def local_effects(members, x):
    effects = mutagenesis.saturation_mutagenesis(members, x, device="cpu")
    return mr.local_mr(instruments.select_instruments(effects, "exposure", "outcome"), "ivw")


def random_sequences(rng, n=10):
    return sequences.one_hot(rng.integers(4, size=(n, 100)).astype(np.uint8))


def test_local_effects_of_untrained_networks_are_symmetric_around_zero():
    """Output weights and their negatives are equally likely, and negate every local effect."""
    x = random_sequences(np.random.default_rng(0), 4).double()
    members = null_ensemble(0, torch.float64)
    before = local_effects(members, x)["causal_effect"]
    with torch.no_grad():
        for member in members:
            member.dense[-1].weight[1] *= -1
            member.dense[-1].bias[1] *= -1
    after = local_effects(members, x)["causal_effect"]
    np.testing.assert_allclose(after, -before, rtol=1e-6)
    assert before.abs().min() > 0


def test_untrained_networks_give_effects_that_their_errors_do_not_cover():
    """What the module says: 0 over ensembles, but significant within one."""
    rng, rows = np.random.default_rng(1), []
    for seed in range(12):
        local = local_effects(null_ensemble(seed), random_sequences(rng))
        total = meta.global_effects(local).iloc[0]
        rows.append(((local["p"] < 0.05).mean(), total["effect"], total["se"], total["p"] < 0.05))
    share, effect, se, significant = np.array(rows, dtype=float).T
    assert abs(effect.mean()) < 4 * effect.std(ddof=1) / np.sqrt(len(effect))
    # 200 ensembles gave 28 %, 5.3 and 76 %; bounds leave room for 12 ensembles of 10 sequences
    assert share.mean() > 0.12
    assert effect.std(ddof=1) > 2 * se.mean()
    assert significant.mean() > 0.4


def test_shuffling_leaves_a_short_motif_and_takes_a_long_one_away():
    """The simulation as its own model: exposure motifs occur by chance, outcome motifs do not."""
    rng = np.random.default_rng(0)
    parameters = simulation.Parameters(effect_ratio=1.0)
    oracle = simulation.Oracle(parameters, simulation.draw_rates(parameters, rng))
    table = simulation.simulate_sequences(parameters, 60, rng)
    texts = table.loc[table["exposure_start"].notna(), "sequence"].tolist()
    largest = []
    for version in (texts, dinucleotide_shuffle(texts, 0)):
        x = sequences.one_hot(version, torch.float64)
        effects = mutagenesis.saturation_mutagenesis(oracle, x, device="cpu")["effect"]
        largest.append(np.abs(effects).max(["position", "allele"]).median("sequence").to_numpy())
    (exposure, outcome), (exposure_after, outcome_after) = largest
    assert exposure > 10
    assert exposure_after > 10
    assert outcome > 10
    assert outcome_after < 1
