import numpy as np
import pytest
import torch
from torch import nn

from deepmr_utils import _members, predict
from deepmr_utils.sequences import one_hot
from experiments.cooperativity.network import SimulationCNN


def dropout_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout1d(0.3),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(6 * 10, 3),
    ).double()  # fmt: skip


def sequences(n=7, length=12, seed=0):
    rng = np.random.default_rng(seed)
    return one_hot(rng.integers(0, 4, (n, length)).astype(np.uint8), torch.float64)


def test_predictions_are_in_evaluation_mode_and_modes_come_back(device):
    model = dropout_net().train()
    x = sequences()
    got = predict.predict(model, x, device=device)
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    with torch.no_grad():
        np.testing.assert_allclose(got[0], model.eval()(x), rtol=1e-12)
    assert got.shape == (1, 7, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_same_whatever_the_batch(batch_size, device):
    members = predict.MCDropout(dropout_net(), n_draws=4, seed=1)
    x = sequences()
    got = predict.predict(members, x, batch_size=batch_size, device=device)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    permuted = predict.predict(members, x[order], device="cpu")
    np.testing.assert_allclose(got[:, order], permuted, rtol=1e-12)


def test_mc_dropout_draws_one_mask_for_all_sequences():
    x = sequences(1).repeat(5, 1, 1)
    members = predict.MCDropout(dropout_net(), n_draws=20, seed=3)
    got = predict.predict(members, x, device="cpu")
    np.testing.assert_allclose(got, got[:, :1].repeat(5, 1), rtol=1e-12)
    assert (got.std(0) > 0).all()
    again = predict.predict(predict.MCDropout(dropout_net(), 20, seed=3), x, device="cpu")
    np.testing.assert_array_equal(got, again)
    other = predict.predict(predict.MCDropout(dropout_net(), 20, seed=4), x, device="cpu")
    assert not np.isclose(got, other).any()


def test_mc_dropout_mean_is_unbiased_in_a_linear_network():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(48, 1)).double()
    x = sequences(1)
    draws = predict.predict(predict.MCDropout(net, 3000), x, device="cpu")[:, 0, 0]
    exact = predict.predict(net, x, device="cpu")[0, 0, 0]
    assert draws.mean() == pytest.approx(exact, abs=5 * draws.std() / np.sqrt(3000))


def test_mc_dropout_masks_channels_where_the_layer_does():
    net = nn.Sequential(nn.Dropout1d(0.5), nn.Flatten())
    got = predict.predict(predict.MCDropout(net, 30), sequences(2), device="cpu")
    channels = got.reshape(30, 2, 4, 12)
    kept = channels.sum(-1) > 0
    assert (
        channels[kept].sum(-1) == 2 * sequences(2).sum(-1)[None].expand(30, -1, -1).numpy()[kept]
    ).all()


def test_features_by_name_column_or_mapping():
    model = SimulationCNN(30)
    x = sequences(2, 30).float()
    full = predict.predict(model, x, device="cpu")
    for features in (["outcome"], [1], {"mine": 1}):
        got = predict.predict(model, x, features=features, device="cpu")
        np.testing.assert_array_equal(got, full[..., 1:])
    plain = [dropout_net()]
    assert _members.resolve_features(plain, ["a", "b", "c"], 3) == (["a", "b", "c"], [0, 1, 2])
    assert _members.resolve_features(plain, None, 3) == (["0", "1", "2"], [0, 1, 2])


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (["binding"], ValueError, "unknown feature 'binding': the model has exposure, outcome"),
        ([2], ValueError, "unknown feature column 2: the model has 2 outputs"),
        ({"x": -1}, ValueError, "unknown feature column -1"),
        ("exposure", TypeError, r"a list of names \(str\) or .*; got 'exposure' \(str\)"),
        (["exposure", "exposure"], ValueError, "must be distinct"),
        ([], ValueError, "at least one"),
    ],
)
def test_bad_features_raise(features, error, message):
    with pytest.raises(error, match=message):
        _members.resolve_features([SimulationCNN(30)], features, 2)


def test_unnamed_outputs_must_all_be_named():
    with pytest.raises(ValueError, match="3 unnamed outputs; name all of them"):
        _members.resolve_features([dropout_net()], ["a"], 3)


def test_bad_devices_raise():
    with pytest.raises(ValueError, match="unknown device 'gpu': use auto, cpu, cuda"):
        predict.resolve_device("gpu")
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        predict.resolve_device("cuda:99")
    for device in ("meta", 0, None):
        with pytest.raises(ValueError, match=f"unknown device {device!r}"):
            predict.resolve_device(device)
    assert predict.resolve_device("auto").type in ("cpu", "cuda")


def test_bad_members_raise():
    with pytest.raises(TypeError, match=r"got \[\] \(list\)"):
        predict.as_members([])
    with pytest.raises(TypeError, match=r"got \['model.pt'\] \(list\)"):
        predict.as_members(["model.pt"])
    with pytest.raises(TypeError, match=r"got <class .*Linear'> \(type\)"):
        predict.as_members(nn.Linear)
    with pytest.raises(TypeError, match=r"adapt makes a module of a function of arrays"):
        predict.as_members([dropout_net(), np.asarray])
    with pytest.raises(TypeError, match=r"got \{.* \(dict\)"):
        predict.as_members({"a": dropout_net()})
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0; got 'a'"):
        predict.MCDropout(dropout_net(), 2, "a")
    with pytest.raises(TypeError, match=r"nn.Module; got list"):
        predict.MCDropout([dropout_net()])
    with pytest.raises(ValueError, match="Linear has none: use an ensemble"):
        predict.MCDropout(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="n_draws must be a whole number of at least 1; got 0"):
        predict.MCDropout(dropout_net(), 0)
    with pytest.raises(ValueError, match="one dtype"):
        predict.predict([dropout_net(), dropout_net().float()], sequences(), device="cpu")


def test_models_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="takes sequences of 30 bp; got 12 bp"):
        predict.predict(SimulationCNN(30), sequences().float(), device="cpu")
    with pytest.raises(
        ValueError, match=r"batch_size must be a whole number of at least 1; got 2.5"
    ):
        predict.predict(SimulationCNN(12, width=3), sequences(), batch_size=2.5, device="cpu")
    with pytest.raises(ValueError, match="distinct names, at least one; got 'exposure'"):
        SimulationCNN(30, "exposure")
    with pytest.raises(ValueError, match=r"labels must be \(N, 2\), N at least 2; got \(9, 1\)"):
        SimulationCNN(30).set_output_scale(torch.ones(9, 1))
    with pytest.raises(ValueError, match="need sequences of at least 19 bp; got length 10"):
        SimulationCNN(10)
    short = nn.Sequential(nn.Conv1d(4, 2, 20), nn.Flatten())
    with pytest.raises(ValueError, match=r"refused sequences of shape \(7, 4, 12\).*shorter than"):
        predict.predict(short, sequences().float(), device="cpu")
    with pytest.raises(
        ValueError, match=r"must map \(7, 4, L\) to \(7, K\), or .*; got \(7, 4, 12\)"
    ):
        predict.predict(nn.Identity(), sequences(), device="cpu")


def test_model_hash_sees_weights_order_and_draws():
    torch.manual_seed(0)
    a, b = SimulationCNN(30), SimulationCNN(30)
    hashes = {
        predict.model_hash(members)
        for members in ([a], [b], [a, b], [b, a], predict.MCDropout(dropout_net(), 2).members())
    }
    assert len(hashes) == 5
    assert predict.model_hash([a]) == predict.model_hash([a])


def test_model_hash_sees_extra_state():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return self.scale

    hashes = set()
    for scale in (torch.ones(1), torch.zeros(1), {"scale": "logit"}, {"scale": "probability"}):
        torch.manual_seed(0)
        model = Extra(2, 2)
        model.scale = scale
        hashes |= {predict.model_hash([model]), predict.model_hash([model])}
    assert len(hashes) == 4
