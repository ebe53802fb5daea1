"""MTSplice: the reader against TensorFlow, the two windows, and files that are not what they say."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from deepmr_utils import mutagenesis, null, predict, sequences
from deepmr_utils.models import mtsplice

# float32 sums of hundreds of terms in another order than TensorFlow's: the largest difference seen
# is 5e-7, of predictions up to 1.4; a wrong epsilon, swapped windows or no spline each cost 0.04
TOLERANCE = 2e-6
FILE = mtsplice.DATA / "mtsplice_deep0.h5"


@pytest.fixture(scope="module")
def members():
    return mtsplice.load_ensemble()


@pytest.fixture(scope="module")
def exons():
    return mtsplice.example_exons()


def test_the_networks_predict_what_tensorflow_predicts(members, exons, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 10 bits of mantissa
    for i, sequence in enumerate(exons.table["sequence"]):
        predicted = predict.predict(members, sequences.one_hot([sequence]), device=device)
        np.testing.assert_allclose(predicted[:, 0], exons.predictions[:, i], atol=TOLERANCE, rtol=0)


def test_the_two_inputs_give_what_the_whole_exon_gives(members, exons):
    x = sequences.one_hot([exons.table["sequence"][0]])
    with torch.inference_mode():
        apart = members[0].network(x[..., :400], x[..., -400:])
    np.testing.assert_allclose(apart[0], exons.predictions[0, 0], atol=TOLERANCE, rtol=0)


def test_the_network_of_two_inputs_can_be_traced(members, exons):
    x = sequences.one_hot([exons.table["sequence"][0]])
    traced = torch.fx.symbolic_trace(members[0].network)
    with torch.inference_mode():
        given = members[0].network(x[..., :400], x[..., -400:])
        assert torch.equal(traced(x[..., :400], x[..., -400:]), given)


def test_a_network_drawn_anew_weighs_all_positions_alike(members):
    new = null.untrained(members[0], 1)
    for name, parameter in members[0].named_parameters():
        assert not torch.equal(new.get_parameter(name), parameter), name
    assert (new.network.donor.spline.weight == 0).all()  # as MTSplice() begins


def test_the_exons_are_what_they_are_said_to_be(exons):
    table = exons.table
    assert table["sequence_id"].is_unique
    assert len(table) == 12
    assert (table["sequence"].str.len() == table["end"] - table["start"] + 1 + 600).all()
    assert (table["sequence"].str[298:300] == "AG").all()
    assert (table["sequence"].str[-300:-298] == "GT").all()
    assert len(set(mtsplice.TISSUES)) == 56


@pytest.mark.parametrize("length", [135, 291])
def test_a_substitution_changes_the_windows_that_it_lies_in(members, exons, length):
    row = exons.table[exons.table["end"] - exons.table["start"] + 1 == length].iloc[0]
    reference = sequences.one_hot([row["sequence"]])
    total = reference.shape[-1]
    seen = []
    network = members[0].network
    handles = [
        body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for body in (network.acceptor, network.donor)
    ]
    for position in (0, 350, total // 2, total - 350, total - 1):
        mutant = reference.clone()
        mutant[..., position] = reference[..., position].roll(1, dims=1)
        seen.clear()
        with torch.inference_mode():
            before = members[0](reference)
            after = members[0](mutant)
        windows = ((0, 400), (total - 400, total))
        for (start, end), old, new in zip(windows, seen[:2], seen[2:], strict=True):
            assert torch.equal(old, new) == (not start <= position < end)
        neither = not any(start <= position < end for start, end in windows)
        assert torch.equal(before, after) == neither
    for handle in handles:
        handle.remove()
    overlap = [p for p in range(total) if total - 400 <= p < 400]
    assert len(overlap) == max(0, 200 - length)


def test_sharing_windows_between_mutants_changes_nothing(members, exons):
    reference = sequences.one_hot([exons.table["sequence"][9]])
    batch = reference.repeat(6, 1, 1)
    for row, position in enumerate((10, 350, 350, 390, 700), start=1):
        batch[row, :, position] = reference[0, :, position].roll(row)
    together = predict.predict(members, batch, device="cpu")
    alone = [predict.predict(members, one[None], device="cpu") for one in batch]
    # rounding of batches of another size
    np.testing.assert_allclose(together, np.concatenate(alone, 1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("exon", "positions"), [(3, [10, 350, 390, 700]), (1, [350, 420, 450, 600])]
)
def test_mutagenesis_follows_a_substitution_into_both_windows(members, exons, exon, positions):
    x = sequences.one_hot([exons.table["sequence"][exon]])
    options = {"positions": positions, "device": "cpu", "features": ["Liver", "Testis"]}
    effects = mutagenesis.saturation_mutagenesis(members, x, **options)
    whole = mutagenesis.saturation_mutagenesis(members, x, **options, propagate=False)
    for name in ("effect", "se"):
        np.testing.assert_allclose(effects[name], whole[name], atol=TOLERANCE, rtol=0)
    seen = [p < 400 or p >= x.shape[2] - 400 for p in positions]
    largest = abs(effects["effect"]).max(["sequence", "allele", "feature"]).to_numpy()
    assert (largest > 1e-6).tolist() == seen  # nothing but rounding where the model cannot see


def test_a_sequence_without_introns_is_refused(members):
    with pytest.raises(ValueError, match="300 bases of intron at either side"):
        predict.predict(members, torch.zeros(1, 4, 600), device="cpu")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        mtsplice.load_mtsplice(tmp_path / "nothing.h5")


@pytest.mark.parametrize("size", [0, 100, 5000, 500_000, FILE.stat().st_size - 1])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = tmp_path / "cut.h5"
    path.write_bytes(FILE.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.h5 is not a whole Keras model in HDF5"):
        mtsplice.load_mtsplice(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match=r"weights\.h5 is not a whole Keras model"):
        mtsplice.load_mtsplice(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"weights\.h5 is not a whole Keras model"):
        mtsplice.load_mtsplice(path)


def altered(folder, change):
    """A copy of a published file, changed by a function of its layers, by name, and its arrays."""
    path = folder / "altered.h5"
    shutil.copy(FILE, path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        change({layer["name"]: layer for layer in layers}, file["model_weights"])
        file.attrs["model_config"] = json.dumps(config)
    return path


def change_a_dilation(layers, _):
    layers["conv1d_5"]["config"]["dilation_rate"] = [8]


def swap_an_input(layers, _):
    layers["add_3"]["inbound_nodes"][0][0][0] = "batch_normalization_3"


def share_a_layer(layers, _):
    layers["conv1d_1"]["inbound_nodes"].append([["seqr", 0, 0, {}]])


def lose_a_layer(layers, _):
    layers["add_3"]["inbound_nodes"][0][0][0] = "nowhere"


def widen(_, arrays):
    del arrays["dense/dense/kernel:0"]
    arrays["dense/dense/kernel:0"] = np.ones((64, 33), "float32")


def without_bias(_, arrays):
    arrays["conv1d_5"].attrs["weight_names"] = [b"conv1d_5/kernel:0"]


def not_finite(_, arrays):
    arrays["dense2/dense2/bias:0"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_a_dilation, r"layer 24 .*'dilation_rate': \[8\].*; expected .*\[16\]"),
        (swap_an_input, r"layer \d+ is {'class': 'Add'"),
        (share_a_layer, r"layer 2 is {'class': 'Conv1D'"),
        (lose_a_layer, r"is not a whole Keras model .*nowhere"),
        (widen, r"dense/kernel:0 is float32 \(64, 33\); expected float32 \(64, 32\)"),
        (without_bias, r"layer conv1d_5 has weights \['conv1d_5/kernel:0'\]; expected"),
        (not_finite, r"dense2/bias:0 has numbers that are not finite"),
    ],
)
def test_another_architecture_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"altered\.h5 .*{message}"):
        mtsplice.load_mtsplice(altered(tmp_path, change))


def test_a_network_trained_anew_and_saved_by_another_keras_is_read(tmp_path, exons):
    """Other weights, names, and constants of batch norm; the class of the splines in full."""

    def train(layers, arrays):
        layers["bn6"]["config"]["epsilon"] = 0.5
        arrays["dense2/dense2/bias:0"][...] += 1
        for layer in layers.values():  # these say what they said
            layer["config"].pop("kernel_initializer", None)
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["axis"] = [2]
            if layer["class_name"] == "SplineWeight1D":
                layer["class_name"] = "mmsplice>SplineWeight1D"
        layers["conv1d_5"]["name"] = "conv1d_77"
        for node in layers["add_4"]["inbound_nodes"][0]:
            node[0] = node[0].replace("conv1d_5", "conv1d_77")
        arrays.move("conv1d_5", "conv1d_77")

    network = mtsplice.load_mtsplice(altered(tmp_path, train))
    norms = [m for m in network.head if isinstance(m, torch.nn.BatchNorm1d)]
    assert [m.eps for m in norms] == [0.001, 0.5]
    norms[1].eps = 0.001
    x = sequences.one_hot([exons.table["sequence"][0]])
    with torch.inference_mode():
        predicted = mtsplice.WholeExon(network)(x)[0]
    np.testing.assert_allclose(predicted - 1, exons.predictions[0, 0], atol=TOLERANCE, rtol=0)


def test_an_altered_weight_file_is_noticed(tmp_path, monkeypatch):
    for name in mtsplice.SHA256:
        shutil.copy(mtsplice.DATA / name, tmp_path / name)
    with h5py.File(tmp_path / "mtsplice_deep2.h5", "r+") as file:
        file["model_weights/dense2/dense2/bias:0"][0] += 1
    monkeypatch.setattr(mtsplice, "DATA", tmp_path)
    with pytest.raises(ValueError, match=r"mtsplice_deep2\.h5 has SHA-256 .* install it again"):
        mtsplice.load_ensemble()


def test_the_notice_of_the_weights_is_shipped_beside_them():
    text = (mtsplice.DATA / "LICENSE.mmsplice").read_text()
    assert "Permission is hereby granted, free of charge" in text
