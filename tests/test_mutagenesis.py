"""Mutagenesis against a plain loop, against published golden values, and its invariances."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from deepmr_utils.models import SimulationCNN
from deepmr_utils.mutagenesis import load_effects, saturation_mutagenesis, save_effects
from deepmr_utils.predict import MCDropout
from deepmr_utils.sequences import ALPHABET, one_hot

GOLDEN = Path(__file__).parent / "reference" / "models" / "ism_tiny.golden.npz"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest prediction


def sequences(n=5, length=24, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    return one_hot(rng.integers(0, 4, (n, length)).astype(np.uint8), dtype)


def ensemble(n=3, length=24, dtype=torch.float64):
    members = []
    for seed in range(n):
        torch.manual_seed(seed)
        member = SimulationCNN(length).to(dtype)
        for layer in member.modules():  # batch statistics as after training
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
        members.append(member)
    return members


def brute_force(members, x):
    """Effects (M, N, L, 4, K) by one forward pass a mutant."""
    n, _, length = x.shape
    effects = np.full((len(members), n, length, 4, 2), np.nan)
    with torch.no_grad():
        for m, member in enumerate(members):
            member.eval()
            for i in range(n):
                reference = member(x[i : i + 1])
                for position in range(length):
                    for allele in range(4):
                        if x[i, allele, position] == 0 and x[i, :, position].any():
                            mutant = x[i : i + 1].clone()
                            mutant[0, :, position] = 0
                            mutant[0, allele, position] = 1
                            effects[m, i, position, allele] = (member(mutant) - reference)[0]
    return effects


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_equals_a_plain_loop(dtype, batch_size, device):
    members, x = ensemble(dtype=dtype), sequences(dtype=dtype)
    x[2, :, 5] = 0  # an unknown base
    expected = brute_force(members, x)
    effects = saturation_mutagenesis(
        members, x, batch_size=batch_size, device=device, keep_members=True
    )
    scale = TOLERANCE[dtype] * np.nanmax(np.abs(effects["reference_prediction"])).item()
    np.testing.assert_allclose(effects["member_effect"], expected, rtol=0, atol=scale)
    np.testing.assert_allclose(effects["effect"], expected.mean(0), rtol=0, atol=scale)
    np.testing.assert_allclose(effects["se"], expected.std(0, ddof=1), rtol=0, atol=scale)
    assert effects["effect"].dtype == (np.float64 if dtype == torch.float64 else np.float32)


def test_dimensions_and_coordinates():
    x = sequences(2)
    effects = saturation_mutagenesis(ensemble(), x, sequence_ids=["a", "b"], device="cpu")
    assert effects["effect"].dims == ("sequence", "position", "allele", "feature")
    assert effects["sequence"].to_numpy().tolist() == ["a", "b"]
    assert effects["position"].to_numpy().tolist() == list(range(24))
    assert effects["allele"].to_numpy().tolist() == list(ALPHABET)
    assert effects["feature"].to_numpy().tolist() == ["exposure", "outcome"]
    assert effects["reference_prediction"].dims == ("sequence", "feature")
    assert effects["reference"].shape == (2, 24)
    reference = effects["allele"] == effects["reference"]
    assert effects["effect"].where(reference).isnull().all()
    assert (effects["effect"].isnull().all("feature") == reference).all()
    assert effects.attrs["n_members"] == 3
    assert effects.attrs["dropout_seed"] == "none"
    assert effects.attrs["schema_version"] == 1
    assert len(effects.attrs["model_hash"]) == 64


def test_order_of_sequences_does_not_matter():
    x, ids = sequences(), list("abcde")
    forward = saturation_mutagenesis(ensemble(), x, sequence_ids=ids, device="cpu")
    backward = saturation_mutagenesis(ensemble(), x.flip(0), sequence_ids=ids[::-1], device="cpu")
    xr.testing.assert_allclose(forward, backward.sel(sequence=ids), rtol=1e-12)
    alone = saturation_mutagenesis(ensemble(), x[2:3], sequence_ids=["c"], device="cpu")
    xr.testing.assert_allclose(forward.sel(sequence=["c"]), alone, rtol=1e-12)


def test_features_are_selected_and_renamed():
    x, members = sequences(2), ensemble()
    full = saturation_mutagenesis(members, x, device="cpu")
    one = saturation_mutagenesis(members, x, features=["outcome"], device="cpu")
    xr.testing.assert_equal(full["effect"].sel(feature=["outcome"]), one["effect"])
    named = saturation_mutagenesis(members, x, features={"b": 1, "a": 0}, device="cpu")
    np.testing.assert_array_equal(named["effect"].sel(feature="a"), full["effect"][..., 0])


def test_members_in_training_mode_predict_in_evaluation_mode():
    members, x = ensemble(), sequences(2)
    expected = saturation_mutagenesis([m.eval() for m in members], x, device="cpu")
    got = saturation_mutagenesis([m.train() for m in members], x, device="cpu")
    xr.testing.assert_identical(got, expected)
    assert all(m.training for m in members)


def test_mc_dropout_shares_masks_between_reference_and_mutants():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 24, 2)).double()
    effects = saturation_mutagenesis(
        MCDropout(net, 40, seed=1), sequences(2), batch_size=11, device="cpu", keep_members=True
    )
    # in a linear network a mutant differs by two weights: every other mask bit must cancel, so a
    # member's effect takes at most four values
    assert effects.attrs["dropout_seed"] == 1
    weight = net[2].weight.detach().numpy().reshape(2, 4, 24)
    base = {letter: i for i, letter in enumerate(ALPHABET)}[effects["reference"][0, 3].item()]
    for allele in set(range(4)) - {base}:
        new, old = weight[0, allele, 3], weight[0, base, 3]
        possible = np.array([0, 2 * new, -2 * old, 2 * new - 2 * old])
        got = effects["member_effect"][:, 0, 3, allele, 0].to_numpy()
        assert np.abs(got[:, None] - possible).min(1).max() < 1e-12


def test_transform_recalibrates_members_before_differencing():
    members, x = ensemble(), sequences(2)
    plain = saturation_mutagenesis(members, x, device="cpu", keep_members=True)
    tripled = saturation_mutagenesis(
        members, x, device="cpu", keep_members=True, transform=lambda p: 3 * p + 1
    )
    np.testing.assert_allclose(tripled["member_effect"], 3 * plain["member_effect"], rtol=1e-9)
    seen = []

    def record(predictions):
        seen.append(predictions.shape)
        return predictions

    saturation_mutagenesis(members, x, device="cpu", transform=record, batch_size=50)
    assert {shape[::2] for shape in seen} == {(3, 2)}  # all members and features together
    assert max(shape[1] for shape in seen) == 48  # mutants of whole sites


def test_a_single_model_has_no_standard_error():
    effects = saturation_mutagenesis(ensemble(1)[0], sequences(1), device="cpu")
    assert effects["se"].isnull().all()
    assert effects["effect"].notnull().sum() == 24 * 3 * 2


class GoldenNet(nn.Module):
    """The network of the golden values."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(4, 12, 11, padding=5)
        self.conv2 = nn.Conv1d(12, 12, 5, dilation=2, padding=4)
        self.fc1, self.fc2 = nn.Linear(600, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = nn.functional.max_pool1d(x + torch.relu(self.conv2(x)), 4)
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


def test_golden_values(device):
    with np.load(GOLDEN) as file:
        golden = dict(file)
    net = GoldenNet()
    net.load_state_dict(
        {k.removeprefix("weight__"): torch.tensor(v) for k, v in golden.items() if "__" in k}
    )
    x = one_hot(golden["seqs"].tolist())
    np.testing.assert_array_equal(x, golden["onehot_ACGT_NCL"])
    effects = saturation_mutagenesis(net, x, device=device)
    expected = golden["y_hat"].transpose(0, 2, 1, 3) - golden["y0"][:, None, None]
    # a brute-force loop agrees with the golden values to 3e-6: rounding of another batch size
    np.testing.assert_allclose(effects["effect"].fillna(0), expected, rtol=0, atol=5e-6)
    np.testing.assert_allclose(effects["reference_prediction"], golden["y0"], rtol=0, atol=5e-6)
    hypothetical = effects["effect"].fillna(0)
    hypothetical = (hypothetical - hypothetical.mean("allele")).mean("feature")
    np.testing.assert_allclose(
        hypothetical.transpose("sequence", "allele", "position"),
        golden["attr_hypothetical"], rtol=0, atol=5e-6,
    )  # fmt: skip


def test_save_and_load_round_trip(tmp_path):
    effects = saturation_mutagenesis(ensemble(), sequences(2), device="cpu", keep_members=True)
    path = tmp_path / "effects.zarr"
    save_effects(effects, path)
    xr.testing.assert_identical(load_effects(path), effects)
    with pytest.raises(FileExistsError, match=r"effects.zarr exists: choose another path"):
        save_effects(effects, path)
    with pytest.raises(FileNotFoundError, match="no variant effects"):
        load_effects(tmp_path / "other.zarr")
    old = tmp_path / "old.zarr"
    save_effects(effects.assign_attrs(schema_version=0), old)
    with pytest.raises(ValueError, match="schema version 0; this version of deepmr_utils reads 1"):
        load_effects(old)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sequence_ids": ["a"]}, ValueError, "must name all 2 sequences; got 1"),
        ({"sequence_ids": ["a", "a"]}, ValueError, "'a' occurs more than once"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"device": "tpu9"}, ValueError, "unknown device 'tpu9'"),
        ({"features": ["x"]}, ValueError, "unknown feature 'x'"),
        ({"one_hot": np.zeros((2, 24, 4))}, ValueError, "transpose"),
        ({"members": []}, TypeError, "empty list"),
    ],
)
def test_bad_input_raises(change, error, message):
    arguments = {"members": ensemble(), "one_hot": sequences(2), "device": "cpu", **change}
    with pytest.raises(error, match=message):
        saturation_mutagenesis(arguments.pop("members"), arguments.pop("one_hot"), **arguments)
