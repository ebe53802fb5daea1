"""Training and evaluation of BPNets on a demo genome small enough to learn within seconds."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils.models.bpnet import BPNet, Outputs
from deepmr_utils.predict import model_hash
from experiments.binding import genome, profiles, track_files, tracks

LENGTH = 160
SMALL = partial(BPNet, filters=16, layers=3)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    p = genome.Parameters(n_windows=760, length=LENGTH, margin=10)
    demo = genome.make_genome(tmp_path_factory.mktemp("demo"), p, seed=3)
    spec = track_files.read_specification(demo.specification)
    return {
        split: tracks.hold(spec, tracks.peak_windows(spec, split, length=LENGTH, margin=10))
        for split in ("train", "validation")
    }


def epoch(batch, size=64):
    return lambda seed: tracks.stream_held(batch, length=LENGTH, batch_size=size, seed=seed)


@pytest.fixture(scope="module")
def ensemble(held):
    return profiles.fit_ensemble(
        SMALL, epoch(held["train"], 32), epoch(held["validation"]), n_members=2, seed=1, epochs=12
    )


def test_profiles_and_counts_are_learnt(held, ensemble):
    table = profiles.evaluate(ensemble.members, epoch(held["validation"])).set_index("task")
    assert table.index.tolist() == list(genome.FACTORS)
    # measured: profiles 0.87 to 0.96 of the way, correlations 0.44 to 0.79, of an ensemble that is
    # much smaller than the demo's; errors 0.38 to 0.97 of the variance
    assert (table["profile"] > 0.7).all()
    assert (table["pearson"] > 0.25).all()
    assert (table["jsd_lower"] < table["jsd"]).all()
    assert (table["jsd"] < table["jsd_upper"]).all()
    variance = held["validation"].reads[..., 10:-10].sum(-1).log1p().mean(2).var(0)
    errors = ensemble.report[[f"mse_{name}" for name in genome.FACTORS]].to_numpy()
    assert (errors < 1.2 * variance.numpy()).all()
    again = profiles.evaluate(ensemble.members, epoch(held["validation"], 7)).set_index("task")
    columns = ["pearson", "spearman", "jsd", "jsd_upper"]  # the draws differ with the batches
    pd.testing.assert_frame_equal(again[columns], table[columns], rtol=1e-5)


def test_members_differ_and_the_same_seed_gives_them_again_with_any_number_of_workers(held):
    part = partial(_epoch, held["validation"])
    first, second = (
        profiles.fit_ensemble(SMALL, part, part, n_members=2, seed=1, workers=workers, epochs=1)
        for workers in (1, 2)
    )
    assert model_hash(first.members[:1]) != model_hash(first.members[1:])
    assert not first.members[0].training
    assert model_hash(first.members) == model_hash(second.members)
    pd.testing.assert_frame_equal(
        first.report.drop(columns="seconds"), second.report.drop(columns="seconds")
    )


def _epoch(batch, seed):  # processes need a name to find it by
    return tracks.stream_held(batch, length=LENGTH, batch_size=64, seed=seed)


def test_control_reads_reach_a_network_that_takes_them(held):
    model = SMALL(control_tracks=(4, 2))
    profiles.fit_bpnet(model, epoch(held["validation"]), seed=0, epochs=1)
    assert (model.control_profile != 0).all()
    bare = held["validation"]._replace(control=None)
    with pytest.raises(ValueError, match="the model takes control reads, and the data have none"):
        profiles.fit_bpnet(SMALL(control_tracks=(4, 2)), epoch(bare), seed=0, epochs=1)


def test_training_leaves_the_global_generator_alone_and_says_what_is_wrong(held):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    part = epoch(held["validation"])
    profiles.fit_ensemble(SMALL, part, part, n_members=1, epochs=1)
    assert torch.rand(1) == expected
    with pytest.raises(ValueError, match="an epoch must have at least one batch"):
        profiles.fit_bpnet(SMALL(), lambda seed: [], seed=0)
    with pytest.raises(RuntimeError, match=r"members \[0\] diverged: train at a lower peak_lr"):
        profiles.fit_ensemble(SMALL, part, part, n_members=1, epochs=2, peak_lr=1e20)


def test_divergence_is_that_of_its_definition():
    p, q = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    m = (p / 4 + q) / 2
    by_hand = sum(
        0.5 * sum(float(a) * math.log(a / b) for a, b in zip(x, m, strict=True) if a)
        for x in (p / 4, q)
    )
    assert abs(float(profiles._divergence(p, q)) - by_hand) < 1e-7
    assert float(profiles._divergence(p, 5 * p)) == 0
    far = profiles._divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert abs(float(far) - math.log(2)) < 1e-12


class Known(BPNet):
    """A network that answers with what it is told."""

    def __init__(self, answer):
        super().__init__(["A"], filters=2, layers=1)
        self.answer = answer

    def heads(self, x, control=None):
        return Outputs(*(part[: len(x)] for part in self.answer))


def test_bounds_are_met_by_a_perfect_and_an_average_prediction():
    rng = np.random.default_rng(0)
    shape = rng.dirichlet(np.full(30, 0.3), (200, 1, 2))
    reads = torch.from_numpy(rng.multinomial(80, shape)).float()
    reads[-1, 0, 0] = 0  # too few to compare
    batch = tracks.Batch(torch.zeros(200, 4, 30), reads)
    counts = reads.sum(-1).log1p()
    perfect = Known(Outputs(torch.from_numpy(shape + 1e-12).log().float(), counts))
    table = profiles.evaluate([perfect], lambda seed: [batch]).iloc[0]
    assert table["pearson"] > 1 - 1e-6
    assert table["strands"] == 399
    assert abs(table["jsd"] - table["jsd_lower"]) < 0.003  # 3 se of 400 draws
    assert table["jsd_upper"] > 5 * table["jsd"]
    mean = reads.sum(0, keepdim=True).log().expand_as(reads)
    table = profiles.evaluate([Known(Outputs(mean, counts))], lambda seed: [batch]).iloc[0]
    assert abs(table["profile"]) < 1e-6
