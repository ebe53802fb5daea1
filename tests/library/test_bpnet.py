"""BPNet: the reader against Keras, its losses, mutagenesis, and files that are not what they say."""

import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deepmr_utils import models, predict, sequences
from deepmr_utils.models import bpnet
from deepmr_utils.mutagenesis import saturation_mutagenesis

FOLDER = Path(__file__).parents[1] / "reference" / "models" / "bpnet"
FILE = FOLDER / "bpnet_oskn_random.h5"
# float32 sums in another order than TensorFlow's: the largest difference seen is 2.7e-5, of logits
# up to 12.8; the smallest mistake in reading costs 4
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def network():
    return models.load_bpnet_oskn(FILE)


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "bpnet_oskn_random.golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["one_hot"] = sequences.one_hot(arrays.pop("seqs").astype(str).tolist())
    return arrays


def close(given, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(given.cpu(), expected, atol=tolerance, rtol=0)


def test_both_heads_are_those_of_keras(network, golden):
    with torch.inference_mode():
        heads = network.heads(golden["one_hot"])
    close(heads.profile, golden["profile"])
    close(heads.counts, golden["counts"])
    # reads are up to 94, in which 2.7e-5 of a logit is 3e-3
    reads = heads.profile.softmax(-1) * heads.counts.exp()[..., None]
    close(reads[:2], golden["reads"], 3e-3)


def test_deep_mr_sees_the_mean_count_of_a_task(network, golden, device):
    given = predict.predict(network, golden["one_hot"], device=device)[0]
    np.testing.assert_allclose(given, golden["counts"].mean(2), atol=TOLERANCE, rtol=0)
    sox2 = predict.predict(network, golden["one_hot"], features=["Sox2"], device=device)
    np.testing.assert_allclose(sox2[0, :, 0], given[:, 1], atol=TOLERANCE, rtol=0)


def test_control_tracks_add_to_both_heads(network, golden):
    control = bpnet.Control(
        *(torch.tensor(golden[f"control_{name}"]) for name in bpnet.Control._fields)
    )
    with torch.inference_mode():
        heads = network.heads(golden["one_hot"][:1], control)
    close(heads.profile, golden["with_control_profile"])
    close(heads.counts, golden["with_control_counts"])
    zero = bpnet.Control(*(torch.zeros_like(part)[:, :1] for part in control))
    with torch.inference_mode():
        with_zero = network.heads(golden["one_hot"][:1], zero)
        without = network.heads(golden["one_hot"][:1])
    assert torch.equal(with_zero.profile, without.profile)
    assert torch.equal(with_zero.counts, without.counts)
    with pytest.raises(ValueError, match=r"control\.profile must be \(2, 4, 4, 1000\)"):
        network.heads(golden["one_hot"][:2], control)


def test_the_profile_head_is_a_transposed_convolution(network, golden):
    weight = network.profile.weight.transpose(0, 1).flip(2)
    with torch.inference_mode():
        x = network._body(golden["one_hot"])
        transposed = torch.nn.functional.conv_transpose1d(x, weight, network.profile.bias, 1, 12)
        close(network.profile(x), transposed)


@pytest.mark.parametrize(("strands", "tracks"), [(1, (0, 0)), (2, (3, 1))])
def test_any_tasks_strands_and_lengths(strands, tracks):
    net = models.BPNet(
        ["a", "b", "c"], filters=8, layers=3, width=11, strands=strands, control_tracks=tracks
    )
    x = torch.rand(2, 4, 77)
    control = bpnet.Control(torch.rand(2, 1, tracks[0], 77), torch.rand(2, 3, tracks[1]))
    heads = net.heads(x, control)
    assert heads.profile.shape == (2, 3, strands, 77)
    assert heads.counts.shape == (2, 3, strands)
    assert net(x).shape == (2, 3)
    assert net.feature_names == ("a", "b", "c")
    torch.testing.assert_close(net(x), net.heads(x).counts.mean(2))
    bpnet.bpnet_loss(heads, torch.ones_like(heads.profile)).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="tasks must be distinct names"):
        models.BPNet(["a", "a"])
    with pytest.raises(ValueError, match="width must be odd"):
        models.BPNet(["a"], width=24)


def test_the_profile_loss_is_the_multinomial_one():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 4, 50, dtype=torch.float64)
    reads = torch.poisson(torch.full((3, 2, 4, 50), 0.7, dtype=torch.float64))
    outputs = bpnet.Outputs(logits, torch.zeros(3, 2, 4))
    expected = 0.0
    for i in np.ndindex(3, 2, 4):
        distribution = torch.distributions.Multinomial(int(reads[i].sum()), logits=logits[i])
        expected -= distribution.log_prob(reads[i])
    torch.testing.assert_close(bpnet.bpnet_loss(outputs, reads, 0.0), expected / 3)
    with pytest.raises(ValueError, match="reads must have the shape of the logits"):
        bpnet.bpnet_loss(outputs, reads[:1])


def test_the_loss_weighs_counts_and_averages_strands():
    torch.manual_seed(0)
    outputs = bpnet.Outputs(torch.randn(5, 3, 2, 40), torch.randn(5, 3, 2))
    reads = torch.poisson(torch.full((5, 3, 2, 40), 0.5))
    both, profile = (bpnet.bpnet_loss(outputs, reads, weight) for weight in (10.0, 0.0))
    error = (outputs.counts - torch.log1p(reads.sum(-1))) ** 2
    torch.testing.assert_close(both - profile, 10 * error.mean((0, 2)).sum())
    no_reads = bpnet.bpnet_loss(outputs, torch.zeros_like(reads))
    assert no_reads.isfinite()


def test_mutagenesis_propagates(network, golden, caplog, device):
    x = golden["one_hot"][[0, 3]]
    where = {"positions": np.r_[0:3, 490:500, 997:1000], "device": device}
    fast = saturation_mutagenesis(network, x, propagate=True, **where)
    full = saturation_mutagenesis(network, x, propagate=False, **where)
    assert "predicted in full" not in caplog.text
    scale = 1e-5 * np.abs(full["reference_prediction"]).max().item()
    np.testing.assert_allclose(fast["effect"], full["effect"], atol=scale, rtol=0)
    assert np.abs(full["effect"]).max() > 100 * scale


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        models.load_bpnet_oskn(tmp_path / "nothing.h5")


@pytest.mark.parametrize("size", [0, 100, 5000, 300_000, FILE.stat().st_size - 1])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = tmp_path / "cut.h5"
    path.write_bytes(FILE.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.h5 is not a whole Keras model in HDF5"):
        models.load_bpnet_oskn(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(pickle.dumps({"not": "HDF5"}))
    with pytest.raises(ValueError, match="not a whole Keras model"):
        models.load_bpnet_oskn(path)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "[1, 2"
    with pytest.raises(ValueError, match="not a whole Keras model"):
        models.load_bpnet_oskn(path)
    mtsplice = FOLDER.parents[3] / "deepmr_utils" / "data" / "mtsplice" / "mtsplice_deep0.h5"
    with pytest.raises(ValueError, match=r"does not hold BPNet-OSKN: layer conv1d_1"):
        models.load_bpnet_oskn(mtsplice)


@pytest.fixture
def altered(tmp_path):
    path = tmp_path / "altered.h5"
    shutil.copy(FILE, path)
    path.chmod(0o644)
    return path


def change_a_layer(path, name, change):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(next(one for one in config["config"]["layers"] if one["name"] == name))
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("conv1d_5", lambda layer: layer["config"].update(dilation_rate=[8])),
        ("conv1d_3", lambda layer: layer["config"].update(activation="tanh")),
        ("add_3", lambda layer: layer["inbound_nodes"][0][0].__setitem__(0, "add_1")),
        ("add_9", lambda layer: layer.update(class_name="Multiply")),
        ("dense_7", lambda layer: layer.update(name="dense_9")),
    ],
)
def test_another_graph_is_refused(altered, name, change):
    change_a_layer(altered, name, change)
    with pytest.raises(ValueError, match=f"does not hold BPNet-OSKN: layer {name} is"):
        models.load_bpnet_oskn(altered)


def test_code_in_the_file_is_never_run(altered, network):
    code = {"function": ["4wEAAAAAAAAA", None, None], "function_type": "lambda"}
    change_a_layer(altered, "Oct4/profile", lambda layer: layer["config"].update(code))
    with h5py.File(altered, "r+") as file:
        file.attrs["training_config"] = np.void(b"cos\nsystem\n(S'false'\ntR.")
    read = models.load_bpnet_oskn(altered).state_dict()
    assert all(torch.equal(value, read[name]) for name, value in network.state_dict().items())


KERNEL = "model_weights/conv1d_2/conv1d_2/kernel:0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((3, 64, 32), "f4"),
            r"kernel:0 is float32 \(3, 64, 32\); expected float32 \(3, 6",
        ),
        (np.zeros((3, 64, 64), "f8"), "kernel:0 is float64"),
        (np.full((3, 64, 64), np.nan, "f4"), "not finite"),
        (np.zeros((3, 64, 64), "S4"), "expected float32"),
        (None, "not a whole Keras model"),
    ],
)
def test_other_arrays_are_refused(altered, values, message):
    with h5py.File(altered, "r+") as file:
        del file[KERNEL]
        if values is not None:
            file[KERNEL] = values
    with pytest.raises(ValueError, match=message):
        models.load_bpnet_oskn(altered)


def test_arrays_in_other_files_are_not_read(altered, tmp_path):
    with h5py.File(altered, "r+") as file:
        del file[KERNEL]
        file[KERNEL] = h5py.ExternalLink(str(shutil.copy(FILE, tmp_path / "other.h5")), KERNEL)
    with pytest.raises(ValueError, match="lies in another file"):
        models.load_bpnet_oskn(altered)
    (tmp_path / "raw").write_bytes(bytes(4 * 3 * 64 * 64))
    with h5py.File(altered, "r+") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, (3, 64, 64), "f4", external=[(str(tmp_path / "raw"), 0, 49152)])
    with pytest.raises(ValueError, match="lies in another file"):
        models.load_bpnet_oskn(altered)


def test_the_order_of_bytes_does_not_matter(altered, network):
    with h5py.File(altered, "r+") as file:
        values = file[KERNEL][()]
        del file[KERNEL]
        file[KERNEL] = values.astype(">f4")
    assert torch.equal(
        models.load_bpnet_oskn(altered).blocks[0][0].weight, network.blocks[0][0].weight
    )
