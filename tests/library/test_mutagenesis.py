"""Mutagenesis against a plain loop, against published golden values, and its invariances."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import special
from torch import nn

from deepmr_utils._effects_store import EffectsWriter
from deepmr_utils._engine import engines
from deepmr_utils.effects import load_effects, save_effects
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.predict import MCDropout
from deepmr_utils.sequences import ALPHABET, one_hot
from experiments.cooperativity.network import SimulationCNN

GOLDEN = Path(__file__).parents[1] / "reference" / "models" / "ism_tiny.golden.npz"
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
        ({"sequence_ids": ["a"]}, ValueError, "must name all 2 sequences; got 1$"),
        ({"sequence_ids": ["a", "a"]}, ValueError, "'a' occurs more than once"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1; got 0"),
        ({"device": "tpu9"}, ValueError, "unknown device 'tpu9'"),
        ({"features": ["x"]}, ValueError, "unknown feature 'x'"),
        ({"one_hot": np.zeros((2, 24, 4))}, ValueError, "transpose"),
        ({"members": []}, TypeError, r"got \[\]"),
    ],
)
def test_bad_input_raises(change, error, message):
    arguments = {"members": ensemble(), "one_hot": sequences(2), "device": "cpu", **change}
    with pytest.raises(error, match=message):
        saturation_mutagenesis(arguments.pop("members"), arguments.pop("one_hot"), **arguments)


class TwoHeads(nn.Module):
    """Heads of several kinds, made from one trunk."""

    def __init__(self, kind):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.ReLU())
        self.dense, self.pooled = nn.Linear(6 * 24, 3), nn.Linear(6, 1)
        self.kind = kind

    def forward(self, x):
        x = self.trunk(x)
        dense, pooled = self.dense(x.flatten(1)), self.pooled(x.mean(2))
        if self.kind == "dict":
            return {"counts": dense, "open": pooled[:, 0]}
        return (dense, pooled) if self.kind == "tuple" else torch.cat([dense, pooled], dim=1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dict", ["counts:0", "counts:1", "counts:2", "open"]),
        ("tuple", ["0:0", "0:1", "0:2", "1"]),
        ("tensor", ["0", "1", "2", "3"]),
    ],
)
def test_heads_are_columns(kind, names, caplog):
    torch.manual_seed(0)
    net, x = TwoHeads(kind).double(), sequences(2)
    effects = saturation_mutagenesis(net, x, device="cpu")
    assert effects["feature"].to_numpy().tolist() == names
    full = saturation_mutagenesis(net, x, device="cpu", propagate=False)
    np.testing.assert_allclose(effects["effect"], full["effect"], rtol=0, atol=1e-12)
    one = saturation_mutagenesis(net, x, device="cpu", features={"open": 3})
    np.testing.assert_allclose(one["effect"][..., 0], effects["effect"][..., 3], atol=1e-14)
    if kind != "tensor":
        turns = saturation_mutagenesis(net, x, device="cpu", features=[names[3], names[0]])
        np.testing.assert_allclose(turns["effect"], effects["effect"][..., [3, 0]], atol=1e-14)
    assert not caplog.messages


def test_a_head_that_is_no_table_is_refused():
    class Profile(nn.Module):
        def forward(self, x):
            return {"profile": x, "counts": x.sum(2)}

    with pytest.raises(
        ValueError,
        match=r"got \(1, 4, 24\) in head 'profile': where its last axis is .* give features, .* of counts:0, .* counts:3$",
    ):
        saturation_mutagenesis(Profile(), sequences(1), device="cpu")


@pytest.mark.parametrize("propagate", [True, False])
def test_reverse_complements_are_averaged(propagate):
    members, x = ensemble(), sequences(3)
    x[1, :, 4] = 0

    class BothStrands(nn.Module):
        def __init__(self, member):
            super().__init__()
            self.member = member

        def forward(self, x):
            return (self.member(x) + self.member(x.flip(1, 2))) / 2

    expected = brute_force([BothStrands(m) for m in members], x)
    effects = saturation_mutagenesis(
        members, x, device="cpu", strands="mean", keep_members=True, propagate=propagate
    )
    known = ~np.isnan(effects["member_effect"].to_numpy())
    assert known.sum() == 3 * 2 * 3 * (3 * 24 - 1)
    np.testing.assert_allclose(
        effects["member_effect"].to_numpy()[known], expected[known], rtol=0, atol=1e-12
    )
    assert effects.attrs["strands"] == "mean"


def test_positions_and_masks():
    members, x = ensemble(), sequences(3)
    whole = saturation_mutagenesis(members, x, device="cpu")
    some = saturation_mutagenesis(members, x, device="cpu", positions=np.r_[20:24, 3, 4])
    assert some["position"].to_numpy().tolist() == [3, 4, 20, 21, 22, 23]
    xr.testing.assert_allclose(some, whole.sel(position=some["position"]), rtol=1e-12)
    mask = np.zeros((3, 24), bool)
    mask[0, 5], mask[2, 7:9] = True, True
    masked = saturation_mutagenesis(members, x, device="cpu", positions=mask)
    assert masked["position"].to_numpy().tolist() == [5, 7, 8]
    assert masked["effect"].notnull().sum() == 3 * 3 * 2
    assert masked["reference_prediction"].notnull().all()
    np.testing.assert_allclose(masked["effect"][2, 1:], whole["effect"][2, 7:9], rtol=1e-12)


def test_soft_columns_are_context_and_not_mutated():
    members, x = ensemble(1), sequences(2)
    x[0, :, 6] = 0.25
    x[1, :, :] = 0.25  # nothing to mutate
    effects = saturation_mutagenesis(members, x, device="cpu")
    assert effects["reference"][0, 6] == "N"
    assert effects["effect"].notnull().sum() == 23 * 3 * 2
    with torch.no_grad():
        expected = members[0].eval()(x)
    np.testing.assert_allclose(effects["reference_prediction"], expected, rtol=1e-12)
    mutant = x[:1].clone()
    mutant[0, :, 5] = torch.eye(4)[(x[0, :, 5].argmax() + 1) % 4]
    with torch.no_grad():
        change = members[0](mutant)[0] - expected[0]
    allele = mutant[0, :, 5].argmax().item()
    np.testing.assert_allclose(effects["effect"][0, 5, allele], change, rtol=0, atol=1e-12)


def test_covariance_over_members():
    effects = saturation_mutagenesis(
        ensemble(4), sequences(2), device="cpu", keep_members=True, covariance=True
    )
    member = effects["member_effect"].stack(site=("sequence", "position", "allele"))
    member = member.dropna("site").transpose("site", "member", "feature").to_numpy()
    expected = np.stack([np.cov(m.T) for m in member])
    got = effects["covariance"].stack(site=("sequence", "position", "allele")).dropna("site")
    got = got.transpose("site", "feature", "other_feature").to_numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(
        np.sqrt(effects["covariance"].to_numpy()[..., [0, 1], [0, 1]]), effects["se"], rtol=1e-9
    )
    wide = nn.Sequential(nn.Flatten(), nn.Linear(96, 70)).double()
    with pytest.raises(ValueError, match=r"covariance of 70 features .* at most 64"):
        saturation_mutagenesis([wide, wide], sequences(1), device="cpu", covariance=True)


def test_precision_on_request_leaves_the_members_alone():
    members, x = ensemble(dtype=torch.float32), sequences(2, dtype=torch.float32)
    single = saturation_mutagenesis(members, x, device="cpu")
    double = saturation_mutagenesis(members, x, device="cpu", precision="float64")
    assert double["effect"].dtype == np.float64
    assert single["effect"].dtype == np.float32
    assert next(members[0].parameters()).dtype == torch.float32
    scale = np.abs(double["reference_prediction"]).max().item()
    np.testing.assert_allclose(single["effect"], double["effect"], rtol=0, atol=1e-5 * scale)
    for propagate in (True, False):
        half = saturation_mutagenesis(
            members, x, device="cpu", precision="bfloat16", propagate=propagate
        )
        error = np.abs(half["effect"] - double["effect"]).max().item()
        assert 1e-5 * scale < error < 0.05 * scale
    with pytest.raises(ValueError, match="'tf32' is a mode of GPUs"):
        saturation_mutagenesis(members, x, device="cpu", precision="tf32")


def test_masks_of_dropout_do_not_depend_on_batches():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(8 * 20, 2),
    ).double()  # fmt: skip
    draws, x = MCDropout(net, 6, seed=4), sequences(3)
    expected = brute_force(draws.members(), x)
    for batch_size, propagate in ((7, True), (10_000, True), (11, False)):
        effects = saturation_mutagenesis(
            draws, x, device="cpu", batch_size=batch_size, keep_members=True, propagate=propagate
        )
        np.testing.assert_allclose(effects["member_effect"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("propagate", [True, False])
def test_out_of_memory_halves_the_batch(monkeypatch, propagate, caplog):
    members, x = ensemble(2), sequences(2)
    expected = saturation_mutagenesis(members, x, device="cpu")
    engine = engines.Propagator if propagate else engines.FullPrediction
    mutants = engine.mutants

    def small(self, references, sites, window_bytes):
        if len(sites.sequence) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mutants(self, references, sites, window_bytes)

    monkeypatch.setattr(engine, "mutants", small)
    effects = saturation_mutagenesis(members, x, device="cpu", propagate=propagate)
    xr.testing.assert_allclose(effects, expected, rtol=1e-12)
    assert [m.split(":")[0] for m in caplog.messages] == [
        "out of GPU memory with 48 sites",
        "out of GPU memory with 24 sites",
        "out of GPU memory with 12 sites",
    ]
    monkeypatch.setattr(
        engine, "mutants", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory"))
    )
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        saturation_mutagenesis(members, x, device="cpu", propagate=propagate)


def test_a_store_resumes_where_it_was_interrupted(tmp_path, monkeypatch):
    members, x, path = ensemble(), sequences(7), tmp_path / "effects.zarr"
    options = {"device": "cpu", "batch_size": 3 * 24 * 2, "keep_members": True, "covariance": True}
    expected = saturation_mutagenesis(members, x, **options)
    write, calls = EffectsWriter.write, []

    def interrupted(self, start, size, values):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(start)
        write(self, start, size, values)

    monkeypatch.setattr(EffectsWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saturation_mutagenesis(members, x, store=path, **options)
    assert not path.exists()
    with pytest.raises(FileExistsError, match="holds other effects"):
        saturation_mutagenesis(members, x.flip(0), store=path, **options)
    later = []
    monkeypatch.setattr(
        EffectsWriter,
        "write",
        lambda self, start, size, values: (later.append(start), write(self, start, size, values)),
    )
    options["batch_size"] = None  # the blocks of the store stay
    resumed = saturation_mutagenesis(members, x, store=path, **options)
    assert (calls, later) == ([0, 2], [4, 6])
    assert resumed.attrs.pop("fingerprint")
    xr.testing.assert_identical(resumed.load(), expected)
    xr.testing.assert_equal(load_effects(path), expected)
    again = saturation_mutagenesis(members, x, store=path, **options)
    assert len(later) == 2
    xr.testing.assert_equal(again.load(), expected)
    some = load_effects(path, features=["outcome"], lazy=True)
    xr.testing.assert_equal(some.load(), expected.sel(feature=["outcome"]))
    with pytest.raises(ValueError, match="unknown feature 'x': choose one of exposure, outcome"):
        load_effects(path, features=["x"])
    with pytest.raises(FileExistsError, match="choose another path or remove it"):
        saturation_mutagenesis(members[:2], x, store=path, **options)


def test_a_store_outlives_an_update_of_software_and_says_so(tmp_path, monkeypatch, caplog):
    members, x, path = ensemble(), sequences(4), tmp_path / "effects.zarr"
    plain = {"device": "cpu", "batch_size": 3 * 24 * 2}
    options = plain | {"store": path}
    write = EffectsWriter.write

    def interrupted(self, start, size, values):
        if start:
            raise KeyboardInterrupt
        write(self, start, size, values)

    with monkeypatch.context() as old:
        old.setattr(torch, "__version__", "1.99")
        old.setattr(EffectsWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            saturation_mutagenesis(members, x, **options)
    effects = saturation_mutagenesis(members, x, **options).load()
    old, new = effects.attrs["versions"].split("; continued with ")
    assert "torch 1.99," in old
    assert f"torch {torch.__version__}," in new
    assert [m.partition("effects.zarr.partial ")[2] for m in caplog.messages] == [
        f"was begun, and goes on, with other versions: {old}; now {new}"
    ]
    xr.testing.assert_equal(effects, saturation_mutagenesis(members, x, **plain))
    caplog.clear()
    saturation_mutagenesis(members, x, **options)
    assert not caplog.messages
    monkeypatch.setattr(torch, "__version__", "9.99")
    again = saturation_mutagenesis(members, x, **options)
    assert "was written with other versions" in caplog.text
    assert again.attrs["versions"] == effects.attrs["versions"]  # what computed it
    with pytest.raises(FileExistsError, match=r"holds other effects .*; by deepmr_utils .*, now "):
        saturation_mutagenesis(members[:2], x, **options)


def test_memory_is_bounded_by_the_budget():
    """Peak of torch's own allocations while 40 sequences are mutated, against the budget."""
    net = nn.Sequential(
        nn.Conv1d(4, 64, 9, padding=4), nn.ReLU(), nn.Conv1d(64, 64, 9, padding=4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 200, 8),
    )  # fmt: skip
    x = sequences(40, 200, torch.float32)
    from torch.profiler import ProfilerActivity, profile

    for propagate in (True, False):
        for budget in (2**25, 2**27):
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                saturation_mutagenesis(
                    net, x, device="cpu", max_memory=budget, propagate=propagate,
                    positions=range(0, 200, 20),
                )  # fmt: skip
            held = np.cumsum([
                e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"
            ])  # fmt: skip
            assert 0 < held.max() < budget


def test_effects_on_the_logit_scale():
    members, x = ensemble(), sequences(2)
    odds = [nn.Sequential(member, nn.Sigmoid()) for member in members]
    expected = saturation_mutagenesis(members, x, device="cpu")
    effects = saturation_mutagenesis(odds, x, device="cpu", transform=special.logit)
    np.testing.assert_allclose(effects["effect"], expected["effect"], rtol=0, atol=1e-12)
    assert effects.attrs["calibration"] == "logit"
    back = saturation_mutagenesis(members, x, device="cpu", transform=special.expit)
    np.testing.assert_allclose(
        back["effect"], saturation_mutagenesis(odds, x, device="cpu")["effect"], atol=1e-12
    )


@pytest.mark.parametrize("transform", [None, special.logit])
def test_predictions_that_are_not_finite_raise(transform):
    net = nn.Sequential(nn.Flatten(), nn.Linear(96, 1), nn.Sigmoid()).double()
    net[1].weight.data *= 1e6 if transform else np.nan
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="model gives NaN or infinity"):
        saturation_mutagenesis(net, sequences(2), device="cpu", transform=transform)
