"""Models as their authors left them: what they take, what they give, and their files."""

import os
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from deepmr_utils import predict
from deepmr_utils.adapters import FromFunction, adapt, load_model
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

LENGTH = 24


def sequences(n=2, length=LENGTH, seed=0):
    codes = np.random.default_rng(seed).integers(0, 4, (n, length)).astype(np.uint8)
    return one_hot(codes, torch.float64)


class Tracks(nn.Module):
    """Three tracks along a sequence, (N, 3, L - 4), and what a function makes of them."""

    def __init__(self, function=lambda tracks: tracks.mean(-1)):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv1d(4, 3, 5).double(), function

    def forward(self, x, *inputs, **named):
        return self.function(self.conv(x).relu(), *inputs, **named)


def predictions(model, x=None, **options):
    return predict.predict(model, sequences() if x is None else x, device="cpu", **options)[0]


def effects_of(model, **options):
    return saturation_mutagenesis(model, sequences(), device="cpu", **options)


def tracks(x=None):
    with torch.no_grad():
        return Tracks().conv(sequences() if x is None else x).relu().numpy()


class Pair(NamedTuple):
    profile: torch.Tensor
    counts: torch.Tensor


HEADS = {
    "NamedTuple": (
        lambda t: Pair(t.mean(-1), t.mean((1, 2))),
        ["profile:0", "profile:1", "profile:2", "counts"],
    ),
    "nested": (
        lambda t: {"human": {"atac": t.mean(-1)}, "mouse": [t.mean((1, 2))]},
        ["human:atac:0", "human:atac:1", "human:atac:2", "mouse:0"],
    ),
    "hugging face": (
        lambda t: SimpleNamespace(
            logits=torch.cat([t.mean(-1), t.mean((1, 2))[:, None]], 1), loss=None
        ),
        ["0", "1", "2", "3"],
    ),
    "last axes of 1": (
        lambda t: torch.cat([t.mean(-1), t.mean((1, 2))[:, None]], 1)[..., None, None],
        ["0", "1", "2", "3"],
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_every_form_are_columns(kind):
    function, names = HEADS[kind]
    right = tracks().mean(-1)
    right = np.concatenate([right, right.mean(1, keepdims=True)], 1)
    effects = effects_of(Tracks(function))
    assert effects["feature"].to_numpy().tolist() == names
    np.testing.assert_allclose(effects["reference_prediction"], right, rtol=1e-12)
    np.testing.assert_allclose(
        effects["effect"], effects_of(Tracks(function), propagate=False)["effect"], atol=1e-14
    )


def test_one_number_a_sequence_is_a_feature():
    np.testing.assert_allclose(
        predictions(Tracks(lambda t: t.mean((1, 2)))), tracks().mean((1, 2))[:, None], rtol=1e-12
    )


def test_two_heads_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two heads of the name 'a:b'"):
        predictions(Tracks(lambda t: {"a:b": t.mean(-1), "a": {"b": t.mean(-1)}}))


def with_profile(t):
    return {"profile": t, "counts": t.sum((1, 2)), "hidden": None}


@pytest.mark.parametrize("propagate", [True, False])
def test_a_head_that_is_not_wanted_may_be_random(propagate):
    model = Tracks(lambda t: (t.mean(-1), torch.randn(len(t), 2)))
    wanted = ["0:0", "0:2"]
    effects = effects_of(model, features=wanted, propagate=propagate)
    np.testing.assert_allclose(
        effects["effect"], effects_of(Tracks(), features=[0, 2])["effect"], atol=1e-14
    )
    np.testing.assert_allclose(predictions(model, features=wanted), tracks().mean(-1)[:, [0, 2]])
    with pytest.raises(
        ValueError, match=r"gives different predictions for the same .* in column 4"
    ):
        predictions(model, features=["0:0", "1:1"])


def test_a_head_that_is_not_wanted_need_not_be_valid():
    effects = effects_of(Tracks(with_profile), features=["counts"])
    np.testing.assert_allclose(
        effects["reference_prediction"][:, 0], tracks().sum((1, 2)), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            None,
            r"head 'profile': where its last axis is positions, .* give features, the names of what is wanted, of counts$",
        ),
        ([0], r"features, the names of what is wanted, of counts$"),
        ({"reads": 0}, r"features, the names of what is wanted, of counts$"),
        (["profile:1"], r"adapt\(model, reduce='mean'\) of .*function, too\)$"),
        (["counts", "hidden"], "got NoneType in head 'hidden'"),
        (["count"], "unknown feature 'count': .* mean 'counts'"),
    ],
)
def test_a_head_that_is_wanted_must_be_valid(features, message):
    with pytest.raises(ValueError, match=message):
        effects_of(Tracks(with_profile), features=features)


REDUCTIONS = {
    "mean": lambda t: t.mean(-1),
    "sum": lambda t: t.sum(-1),
    "center": lambda t: t[..., 10],
    "callable": lambda t: np.log(np.exp(t).sum(-1)),
}


@pytest.mark.parametrize("how", REDUCTIONS)
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_positions_are_reduced(how, layout):
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Tracks(lambda t: t if layout == "NCL" else t.mT)

        def forward(self, x):
            return self.net(x if layout == "NCL" else x.mT)

    reduce = (lambda head: head.logsumexp(-1)) if how == "callable" else how
    got = predictions(adapt(Given(), layout=layout, reduce=reduce))
    np.testing.assert_allclose(got, REDUCTIONS[how](tracks()), rtol=1e-12)


def test_a_reduction_by_the_name_of_a_head():
    model = adapt(Tracks(lambda t: (t[:, 0], t.mean(-1), t)), reduce={"0": "sum", "2": "center"})
    np.testing.assert_allclose(  # no other head could be meant
        predictions(adapt(Tracks(lambda t: t[:, 0]), reduce="mean"))[:, 0], tracks()[:, 0].mean(-1)
    )
    expected = [tracks()[:, 0].sum(-1)[:, None], tracks().mean(-1), tracks()[..., 10]]
    np.testing.assert_allclose(predictions(model), np.concatenate(expected, 1), rtol=1e-12)
    with pytest.raises(ValueError, match=r"reduce names the head 'a'; the model gives 0, 1$"):
        predictions(adapt(Tracks(lambda t: (t.mean(-1), t.sum(-1))), reduce={"a": "sum"}))
    with pytest.raises(ValueError, match="the head 'a'; the model gives one, without a name"):
        predictions(adapt(Tracks(), reduce={"a": "sum"}))


def test_functions_of_arrays(caplog):
    weights = Tracks().conv.weight.detach().numpy()
    bias = Tracks().conv.bias.detach().numpy()

    def function(x):
        assert isinstance(x, np.ndarray)
        windows = np.lib.stride_tricks.sliding_window_view(x, 5, axis=1)  # (N, P, 4, 5)
        scores = np.einsum("npcw,kcw->nkp", windows, weights) + bias[:, None]
        return {"mean": np.maximum(scores, 0).mean(-1), "none": None}

    names = ["mean:0", "mean:1", "mean:2"]
    effects = effects_of(adapt(function, layout="NLC"), features=names, precision="float64")
    np.testing.assert_allclose(effects["effect"], effects_of(Tracks())["effect"], atol=1e-14)
    assert caplog.messages == [
        "every mutant is predicted in full: output 0 is computed outside torch"
    ]
    caplog.clear()
    effects_of(FromFunction(lambda x: np.ones((len(x), 1), ">f4")))
    assert "output 0 does not depend on the sequence" in caplog.messages[0]


def test_other_orders_of_axes_and_bases():
    order = [0, 2, 1, 3]  # A G C T
    model = Tracks()

    class Foreign(nn.Module):
        def forward(self, x):
            assert x.is_contiguous()
            return model(x.mT[:, order])

    effects = effects_of(adapt(Foreign(), layout="NLC", alphabet="AGCT"))
    np.testing.assert_allclose(effects["effect"], effects_of(Tracks())["effect"], atol=1e-14)


def test_tokens():
    model, table = Tracks(), torch.zeros(12, 4, dtype=torch.float64)
    table[[7, 10, 8, 9]] = torch.eye(4, dtype=torch.float64)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, codes):
            return self.net(table[codes].mT)

    x, tokens = sequences(), {"A": 7, "C": 10, "G": 8, "T": 9, "N": 11}
    x[0, :, 3], x[1, :, 5] = 0, 0.25
    seen = x.clone()
    seen[1, :, 5] = 0
    np.testing.assert_allclose(
        predictions(adapt(Tokens(), tokens=tokens), x), predictions(Tracks(), seen), rtol=1e-12
    )
    tokens.pop("N")
    with pytest.raises(ValueError, match="have unknown bases: give N a number in tokens"):
        predictions(adapt(Tokens(), tokens=tokens), x)
    np.testing.assert_allclose(
        predictions(adapt(Tokens(), tokens=tokens)), predictions(Tracks()), rtol=1e-12
    )


@pytest.mark.parametrize("named", [True, False])
def test_further_inputs_are_constants(named):
    model = Tracks(lambda t, control, scale: scale * (t + control).mean(-1))
    control = np.random.default_rng(1).normal(size=(1, 20)).astype(np.float32)
    given = {"scale": 2.0, "control": control} if named else [torch.tensor(control), 2.0]
    got = predictions(adapt(model, constants=given))
    np.testing.assert_allclose(got, 2 * (tracks() + control).mean(-1), rtol=1e-12)
    others = {"scale": 2.0, "control": control + 1} if named else [torch.tensor(control + 1), 2.0]
    hashes = {predict.model_hash([adapt(model, constants=c)]) for c in (given, others)}
    assert len(hashes) == 2


def test_names_and_draws_come_through():
    model = nn.Sequential(Tracks(), nn.Dropout(0.5))
    model.feature_names = ["a", "b", "c"]
    adapted = adapt(model, reduce={})
    draws = predict.MCDropout(adapted, 3, seed=2)
    got = predict.predict(draws, sequences(), features=["b"], device="cpu")
    expected = predict.predict(predict.MCDropout(model, 3, seed=2), sequences(), device="cpu")
    np.testing.assert_array_equal(got[..., 0], expected[..., 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "must be an nn.Module or a function of arrays; got 3"),
        ({"model": Tracks}, TypeError, "make one of this class first"),
        ({"layout": "LCN"}, ValueError, "layout .*'LCN'"),
        ({"alphabet": "ACGU"}, ValueError, "A, C, G and T, each once; got 'ACGU'"),
        ({"tokens": {"A": 1}}, ValueError, "whole numbers to A, C, G, T, and to N .* {'A': 1}"),
        ({"tokens": dict.fromkeys("ACGT", 0.5)}, ValueError, "whole numbers"),
        (
            {"tokens": dict.fromkeys("ACGT", 1), "alphabet": "AGCT"},
            ValueError,
            "leave out alphabet",
        ),
        ({"constants": np.ones(3)}, TypeError, "got ndarray: put it into a list"),
        ({"reduce": "median"}, ValueError, "reduce .*'median'"),
        ({"reduce": {"a": 3}}, ValueError, "reduce .*3"),
    ],
)
def test_bad_options_raise(options, error, message):
    with pytest.raises(error, match=message):
        adapt(**{"model": Tracks(), **options})


@pytest.mark.parametrize("propagate", [True, False])
def test_strands_as_members(propagate):
    """As two members of which one reads the other strand."""
    model = Tracks()
    model.feature_names = ["plus", "both", "minus"]

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.flip(1, 2))[:, [2, 1, 0]]

    options = {"keep_members": True, "propagate": propagate}
    got = effects_of(model, strands="members", strand_pairs=[("plus", "minus")], **options)
    expected = effects_of([model, Other()], **options)
    for name in ("effect", "se", "member_effect", "reference_prediction"):
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-14)
    assert (got.attrs["strands"], got.attrs["n_members"]) == (
        "members, exchanging plus and minus",
        2,
    )


def test_a_single_network_is_told_at_once(caplog):
    effects_of(Tracks())
    effects_of([Tracks(), Tracks()], keep_members=True)
    assert not caplog.messages
    effects_of(Tracks(), keep_members=True)
    (line,) = caplog.messages
    assert line.startswith("one member gives effects without standard errors: give several")


# files


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 5, 7), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 2)
    )


class Lit(nn.Module):
    """As a module of Lightning, made from hyperparameters."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv1d(4, channels, 7), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(channels, outputs),
        )  # fmt: skip

    def forward(self, x):
        return self.model(x)


def weights():
    return network().state_dict()


def behind(prefix):
    return {f"{prefix}{name}": value for name, value in weights().items()}


def checkpoint():
    hyperparameters = {"channels": 5, "outputs": 2}
    return {"epoch": 3, "state_dict": behind("model."), "hyper_parameters": hyperparameters}


def same(model):
    x = sequences().float()
    np.testing.assert_allclose(predictions(model, x), predictions(network(), x), rtol=1e-5)
    assert not model.training or isinstance(model, torch.fx.GraphModule)


@pytest.mark.parametrize(
    ("content", "made_by"),
    [
        (weights, network),
        (weights, network()),
        (lambda: behind("module."), network),
        (checkpoint, Lit),
        (checkpoint, f"{__name__}:Lit"),
        (checkpoint, network),
        (lambda: {"model_state_dict": weights(), "loss": 0.1}, "made.py:network"),
    ],
)
def test_weights_are_read(content, made_by, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.py").write_text(f"from {__name__} import network\n")
    torch.save(content(), "weights.pt")
    same(load_model("weights.pt", made_by))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_networks_are_read(tmp_path):
    x = sequences().float()
    torch.jit.script(network().eval()).save(tmp_path / "scripted.pt")
    same(load_model(tmp_path / "scripted.pt"))
    with pytest.raises(ValueError, match="holds a network of its own: leave out network"):
        load_model(tmp_path / "scripted.pt", network)
    shapes = {"any": ({0: torch.export.Dim("n")},), "two": None}
    for name, dynamic in shapes.items():
        program = torch.export.export(network().eval(), (x,), dynamic_shapes=dynamic)
        torch.export.save(program, tmp_path / f"{name}.pt2")
    same(load_model(tmp_path / "any.pt2"))
    with pytest.raises(
        ValueError, match=r"exported for this number .*: export it with dynamic_sha"
    ):
        predictions(load_model(tmp_path / "two.pt2"), sequences(3).float())


@pytest.mark.parametrize(
    ("content", "made_by", "message"),
    [
        (network, network, r"holds an object of torch.nn.*Sequential, and .*model.state_dict\(\)"),
        (weights, None, "holds weights alone: give the network"),
        (lambda: [1.0], network, "must hold tensors by name; got list"),
        (lambda: {"epoch": 3}, network, "must hold tensors by name; got epoch"),
        (lambda: behind("a."), lambda: nn.Linear(2, 2), "it lacks bias, weight, and holds beside"),
        (weights, lambda: nn.Sequential(nn.Conv1d(4, 5, 7)), "beside it 4.bias, 4.weight"),
        (lambda: weights() | {"4.bias": torch.ones(3)}, network, "size mismatch for 4.bias"),
        (weights, Lit, "cannot be made of the hyperparameters of the file, which has none: .*chan"),
        (weights, "Lit", "must be 'package.module:Class' or 'file.py:function'; got 'Lit'"),
        (weights, "nowhere.to_be:Found", "nowhere.to_be must be Python that can be imported"),
        (weights, f"{__name__}:Lid", "has no function 'Lid'"),
    ],
)
def test_bad_files_raise(content, made_by, message, tmp_path):
    torch.save(content(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "weights.pt", made_by)


def test_other_files_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere.pt"):
        load_model("nowhere.pt")
    for name, message in {"a.keras": "keras.saving.load_model", "b.pt": "no whole file"}.items():
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / name, network)
    torch.save(weights(), tmp_path / "c.pt")
    for made, message in ((3, "or make one; got 3"), (dict, "must make an nn.Module; got dict")):
        with pytest.raises(TypeError, match=message):
            load_model(tmp_path / "c.pt", made)


# classes of others, with random weights


def library(name, why):
    return pytest.importorskip(name, reason=f"{name}: {why}", exc_type=ImportError)


def assert_both_ways(model, length, **options):
    """Effects as predictions of mutants give them, one by one."""
    x = sequences(1, length).float()
    effects = saturation_mutagenesis(model, x, positions=[length // 2], device="cpu", **options)
    changed = x.repeat(4, 1, 1)
    changed[:, :, length // 2] = torch.eye(4)
    names = effects["feature"].to_numpy().tolist()
    got = predict.predict(model, torch.cat([x, changed]), features=names, device="cpu")[0]
    expected = (got[1:] - got[0])[None, None]
    known = ~np.isnan(effects["effect"].to_numpy())
    assert known.sum() == 3 * len(names)
    scale = np.abs(got).max()
    np.testing.assert_allclose(
        effects["effect"].to_numpy()[known], expected[known], rtol=0, atol=2e-6 * scale
    )
    return names


@pytest.mark.filterwarnings("ignore")
def test_bpnet_lite():
    bpnetlite = library("bpnetlite", "bpnet-lite installs macs3, and imports tangermeme with numba")

    def bpnet(outputs, controls=0, trimming=30):
        torch.manual_seed(0)
        return bpnetlite.BPNet(
            n_filters=6, n_layers=2, n_outputs=outputs, n_control_tracks=controls,
            trimming=trimming, verbose=False,
        )  # fmt: skip

    assert assert_both_ways(bpnet(2), 200, features=["1"]) == ["1"]
    names = assert_both_ways(adapt(bpnet(2), reduce="mean"), 200)
    assert names == ["0:0", "0:1", "1"]
    control = {"X_ctl": torch.ones(2, 200)}
    assert_both_ways(adapt(bpnet(2, 2), constants=control), 200, features=["1"])
    model = bpnetlite.ChromBPNet(bpnet(1, trimming=20), bpnet(1), name="chrombpnet")
    assert assert_both_ways(model, 200, features=["1"]) == ["1"]
    assert assert_both_ways(adapt(model, reduce="sum"), 200) == ["0", "1"]


@pytest.mark.filterwarnings("ignore")
def test_grelu():
    library("grelu.model.models", "gReLU installs 26 packages, of wandb and others")
    from grelu.model.models import ConvModel

    torch.manual_seed(0)
    model = ConvModel(
        n_tasks=3, stem_channels=8, stem_kernel_size=5, n_conv=2, channel_init=8, channel_mult=1,
        kernel_size=3, final_pool_func="avg",
    ).eval()  # fmt: skip
    assert model(sequences().float()).shape == (2, 3, 1)
    assert assert_both_ways(model, 60) == ["0", "1", "2"]


@pytest.mark.filterwarnings("ignore")
def test_keras(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    keras = library("keras", "of the extra models")
    if keras.backend.backend() != "torch":
        pytest.skip("keras is used with another backend than torch")
    layers = keras.layers
    given = keras.Input((60, 4))
    trunk = layers.Conv1D(6, 7, padding="same", activation="relu")(given)
    pooled = layers.BatchNormalization()(layers.GlobalAveragePooling1D()(trunk))
    heads = {"open": layers.Dense(2)(pooled), "profile": layers.Conv1D(1, 3)(trunk)}
    model = keras.Model(given, heads)
    with pytest.raises(ValueError, match=r"It takes \(N, L, 4\): adapt\(model, layout='NLC'\)"):
        predictions(model, sequences(1, 60).float())
    names = assert_both_ways(adapt(model, layout="NLC"), 60, features=["open:0", "open:1"])
    assert names == ["open:0", "open:1"]
    profile = predictions(adapt(model, layout="NLC", reduce="mean"), sequences(1, 60).float())
    function = adapt(lambda x: model.predict(x, verbose=0), layout="NLC", reduce="mean")
    np.testing.assert_allclose(
        predictions(function, sequences(1, 60).float()), profile, rtol=1e-5, atol=1e-7
    )
