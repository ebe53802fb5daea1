import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepmr_utils.predict import model_hash
from deepmr_utils.sequences import one_hot
from experiments import training
from experiments.cooperativity.network import SimulationCNN


def toy_data(n, seed):
    """Counts of A and of G: something a network learns at once."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, 24)).astype(np.uint8)
    clean = np.stack([(codes == 0).sum(1), 5 * (codes == 2).sum(1)], 1)
    labels = clean + rng.normal(scale=[0.5, 2.5], size=clean.shape)
    return one_hot(codes), torch.tensor(labels, dtype=torch.float32)


TRAIN, VALIDATION = toy_data(2000, 0), toy_data(500, 1)
FLOOR = np.array([0.25, 6.25])


def make_model():
    return SimulationCNN(24)


class Constant(nn.Module):
    """A network that cannot learn unless it is lucky: output 0 for odd initial draws."""

    def __init__(self):
        super().__init__()
        self.lucky = bool(torch.rand(1) < 0.5)
        self.net = SimulationCNN(24)

    def set_output_scale(self, labels):
        self.net.set_output_scale(labels)

    def forward(self, x):
        return self.net(x) if self.lucky else self.net(x) * 0


@pytest.fixture(scope="module")
def ensemble():
    return training.train_ensemble(
        make_model, *TRAIN, VALIDATION, n_members=2, seed=1, noise_floor=FLOOR, epochs=8
    )


def test_members_come_near_the_noise_floor(ensemble):
    errors = ensemble.report[["mse_exposure", "mse_outcome"]].to_numpy()
    assert (errors < 2.5 * FLOOR).all()  # the variances are 17 and 19 times the floor
    assert ensemble.report["attempts"].tolist() == [1, 1]
    assert not ensemble.members[0].training
    assert model_hash(ensemble.members[:1]) != model_hash(ensemble.members[1:])


def test_same_seed_same_ensemble_with_any_number_of_workers(ensemble):
    again = training.train_ensemble(
        make_model, *TRAIN, VALIDATION, n_members=2, seed=1, noise_floor=FLOOR, epochs=8, workers=2
    )
    assert model_hash(again.members) == model_hash(ensemble.members)
    pd.testing.assert_frame_equal(
        again.report.drop(columns="seconds"), ensemble.report.drop(columns="seconds")
    )


def test_training_leaves_threads_and_the_global_generator_alone():
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    training.train_ensemble(make_model, *TRAIN, VALIDATION, n_members=1, epochs=1, max_excess=5)
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_a_member_that_did_not_converge_is_trained_again():
    ensemble = training.train_ensemble(
        Constant, *TRAIN, VALIDATION, n_members=4, seed=0, noise_floor=FLOOR, epochs=8
    )
    assert all(member.lucky for member in ensemble.members)
    assert ensemble.report["attempts"].max() > 1
    assert ensemble.report["seed"].is_unique
    assert (ensemble.report["mse_1"] < 3 * FLOOR[1]).all()


def test_members_that_never_converge_raise():
    class Never(Constant):
        def __init__(self):
            super().__init__()
            self.lucky = False

    with pytest.raises(
        RuntimeError,
        match=r"members \[0, 1\] did not converge in 3 attempts.*noise floor \[0.25, 6.25\]",
    ):
        training.train_ensemble(Never, *TRAIN, VALIDATION, n_members=2, noise_floor=FLOOR, epochs=1)


def test_unconverged_judges_relative_to_the_floor():
    errors = np.array([[4.7, 5.0], [18, 54], [np.nan, 5.0], [1.1, 1.9]])
    got = training.unconverged(errors, np.array([0.9, 0.9]), np.array([75.0, 199.0]))
    assert got.tolist() == [False, True, True, False]
    # the same excess is fine where noise is larger than what can be learnt
    assert not training.unconverged(np.array([[17.0]]), np.array([16.0]), np.array([16.5])).any()


def test_labels_must_match():
    with pytest.raises(ValueError, match="got 2000 sequences and 500 labels"):
        training.train(make_model(), TRAIN[0], VALIDATION[1], seed=0)


def test_cross_entropy_finds_the_log_odds_of_labels():
    """One weight a base: log-odds of 2 for every A and a bias, found by any consistent loss."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 4, (20_000, 1)).astype(np.uint8)
    logit = np.where(codes == 0, 1.5, -0.5)
    labels = torch.tensor(rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).float()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    training.train(
        model, one_hot(codes), labels, seed=0, epochs=20, weight_decay=0.0,
        loss=nn.functional.binary_cross_entropy_with_logits,
    )  # fmt: skip
    found = model(torch.eye(4)[:, :, None]).detach().numpy()[:, 0]
    # standard error of a log-odds of 5,000 draws: 0.03
    np.testing.assert_allclose(found, [1.5, -0.5, -0.5, -0.5], atol=0.12)


def test_training_on_a_gpu_is_as_exact_as_on_the_cpu_and_repeatable():
    """Whoever has no GPU sees the switches: they hold while losses are computed, no longer."""
    model, seen = torch.nn.Linear(2, 1), []
    switches = torch.backends.cudnn

    def losses():
        for _ in range(2):
            seen.append((switches.allow_tf32, switches.deterministic, switches.enabled))
            yield model(torch.ones(3, 2)).square().mean()

    before = switches.allow_tf32, switches.deterministic, switches.enabled
    training.descend(model, losses(), 2, {"": 0.1}, 0.0, 1.0)
    assert seen == [(False, True, True)] * 2
    assert (switches.allow_tf32, switches.deterministic, switches.enabled) == before
