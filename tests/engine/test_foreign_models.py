"""Models and arrays as other people make them: right numbers, or an error that says what to do."""

import copy
import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from deepmr_utils import predict
from deepmr_utils._members import copied, float32_products
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

LENGTH = 20


def sequences(n=2, length=LENGTH, dtype=torch.float32, seed=0):
    rng = np.random.default_rng(seed)
    return one_hot(rng.integers(0, 4, (n, length)).astype(np.uint8), dtype)


def network(outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2), nn.ReLU(), nn.MaxPool1d(4),
        nn.Flatten(), nn.Linear(6 * LENGTH // 4, outputs),
    )  # fmt: skip


def effects_of(members, x=None, **options):
    x = sequences() if x is None else x
    return saturation_mutagenesis(members, x, device="cpu", **options)


def brute_force(model, x):
    """Effects (N, L, 4, K) in float64, one mutant at a time."""
    model, x = copied(model).eval().double(), x.double()
    with torch.no_grad():
        references = torch.cat([model(one[None]) for one in x])
        effects = np.full((len(x), x.shape[2], 4, references.shape[1]), np.nan)
        for i, position, allele in torch.nonzero(x.transpose(1, 2) == 0).tolist():
            mutant = x[i : i + 1].clone()
            mutant[0, :, position] = 0
            mutant[0, allele, position] = 1
            effects[i, position, allele] = model(mutant)[0] - references[i]
    return effects


def assert_close(effects, expected, share=2e-6):
    """As brute force has it: to the rounding of float32 in predictions some 10 times the effects."""
    scale = np.nanmax(np.abs(expected))
    assert scale > 0.01
    np.testing.assert_allclose(effects["effect"], expected, rtol=0, atol=share * 10 * scale)


class Named(nn.Module):
    """A network whose outputs have names, in any order."""

    def __init__(self, net, names, order):
        super().__init__()
        self.net, self.feature_names, self.order = net, names, order

    def forward(self, x):
        return self.net(x)[:, self.order]


class Heads(nn.Module):
    """A network with a head a key."""

    def __init__(self, net, columns):
        super().__init__()
        self.net, self.columns = net, columns

    def forward(self, x):
        y = self.net(x)
        return {key: y[:, column] for key, column in self.columns.items()}


def orders():
    """Pairs of members that are one network, with outputs in two orders."""
    net = network(3)
    straight, turned = {"a": [0, 1], "b": [2]}, {"b": [2], "a": [0, 1]}
    return {
        "names": [
            Named(net, ["Oct4", "Sox2", "Klf4"], [0, 1, 2]),
            Named(net, ["Klf4", "Oct4", "Sox2"], [2, 0, 1]),
        ],
        "heads": [Heads(net, straight), Heads(net, turned)],
    }


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("kind", ["names", "heads"])
def test_members_are_matched_by_name(kind, propagate):
    members, x = orders()[kind], sequences()
    effects = effects_of(members, x, propagate=propagate)
    assert_close(effects, brute_force(network(3), x))
    assert effects["se"].max() < 1e-7 * abs(effects["effect"]).max()
    last = effects["feature"].values[2]
    chosen = effects_of(members[::-1], x, features=[last, effects["feature"].values[0]])
    np.testing.assert_allclose(chosen["effect"], effects["effect"][..., [2, 0]], atol=1e-6)
    both = predict.predict(members, x, features=[last], device="cpu")
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_allclose(both[0, :, 0], network(3)(x)[:, 2].detach(), rtol=1e-6)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Named(network(), ["Oct4", "Klf4"], [0, 1]), "'Sox2' occurs 0 times in member 1"),
        (Named(network(3), ["Oct4", "Sox2", "Klf4"], [0, 1, 2]), "'Klf4' occurs 1 times in mem"),
        (network(3), "member 1 has the outputs 3 without names"),
        (Heads(network(), {"Oct4": [0, 1]}), "member 1, which has Oct4:0, Oct4:1"),
    ],
)
def test_members_with_other_features_are_refused(second, message):
    members = [Named(network(), ["Oct4", "Sox2"], [0, 1]), second]
    for call in (effects_of, lambda m: predict.predict(m, sequences(), device="cpu")):
        with pytest.raises(ValueError, match=message):
            call(members)


def test_heads_and_names_that_contradict_each_other_are_refused():
    members = [Heads(network(), keys) for keys in ({"a": [0], "b": [1]}, {"b": [1], "a": [0]})]
    for member in members:
        member.feature_names = ["x", "y"]
    with pytest.raises(ValueError, match="give its heads b, a other names than those of member 0"):
        effects_of(members)


def test_members_without_names_go_by_place_and_take_the_names_of_the_others():
    members = [network(), Named(network(), ["Oct4", "Sox2"], [0, 1])]
    assert effects_of(members)["feature"].values.tolist() == ["Oct4", "Sox2"]
    with pytest.raises(ValueError, match="member 2 has the outputs Sox2, Oct4, and member 1"):
        effects_of([*members, Named(network(), ["Sox2", "Oct4"], [1, 0])])


def test_smoothed_and_rounded_columns_are_bases():
    x = sequences()
    expected = brute_force(network(), x)
    rounded = x.clone()
    rounded[rounded == 1] = 1 - 1e-7
    for given in ((x + 1e-4) / (1 + 4e-4), rounded, x.half(), x.bfloat16(), x.int(), x.bool()):
        assert_close(effects_of(network(), given), expected)


def test_a_data_set_without_a_base_is_refused():
    for blurred in ((sequences() + 0.01) / 1.04, torch.zeros(2, 4, LENGTH)):
        with pytest.raises(ValueError, match="nothing to mutate: every base that is asked for is"):
            effects_of(network(), blurred)
    x = sequences()
    x[0, :, :3] = 0
    with pytest.raises(ValueError, match="nothing to mutate"):
        effects_of(network(), x[:1], positions=[0, 2])
    assert effects_of(network(), x, positions=[0, 2])["effect"].notnull().sum() == 2 * 3 * 2


class Strands(nn.Module):
    """Reads of the plus and the minus strand, and of both."""

    feature_names = ("plus", "both", "minus")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.ReLU(), nn.Dropout(0.3))
        self.dense = nn.Linear(6, 3)

    def forward(self, x):
        plus, one, two = self.dense(self.trunk(x).mean(-1)).T
        return torch.stack([plus, one + two, two], dim=1)


@pytest.mark.parametrize("propagate", [True, False])
def test_outputs_of_strands_change_places_on_the_reverse_complement(propagate):
    net, x = Strands().double(), sequences(2, 15, torch.float64)
    options = {"strands": "mean", "propagate": propagate}
    effects = effects_of(net, x, strand_pairs=[("plus", "minus")], **options)

    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return (self.net(x) + self.net(x.flip(1, 2))[:, [2, 1, 0]]) / 2

    expected = brute_force(Averaged(), x)
    np.testing.assert_allclose(effects["effect"], expected, rtol=0, atol=1e-13)
    assert effects.attrs["strands"] == "mean, exchanging plus and minus"
    draws = predict.MCDropout(net, 4, seed=1)
    chosen = effects_of(
        draws, x, strand_pairs=[("minus", "plus")], features=["minus", "plus"], covariance=True,
        **options,
    )  # fmt: skip
    singly = [effects_of(m, x, **options) for m in draws.members()]
    forward = [effects_of(m, x, propagate=propagate)["effect"] for m in draws.members()]
    # the mean over strands, twice, less the given strand is the other strand
    both = [
        (f[..., 2] + 2 * s["effect"][..., 0] - f[..., 0]) / 2
        for f, s in zip(forward, singly, strict=True)
    ]
    np.testing.assert_allclose(chosen["effect"][..., 0], sum(both) / 4, rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        chosen["covariance"][..., 0, 0], np.var(both, axis=0, ddof=1), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": ["plus"]}, ValueError, "'minus' occurs 1 times there, and the features are"),
        ({"strand_pairs": [("plus", "mins")]}, ValueError, r"mean 'minus'\?\): ask for both of a"),
        ({"strand_pairs": [("plus", "plus")]}, ValueError, "'plus' occurs 2 times"),
        (
            {"strand_pairs": ("plus", "minus")},
            TypeError,
            r"must be a list of pairs of names, \[\('plus'",
        ),
        ({"strand_pairs": 3}, TypeError, "got 3"),
        ({"strands": "forward"}, ValueError, "are for strands='mean'"),
    ],
)
def test_bad_strand_pairs_raise(change, error, message):
    options = {"strand_pairs": [("plus", "minus")], "strands": "mean", **change}
    with pytest.raises(error, match=message):
        effects_of(Strands(), sequences(1, 15), **options)


class Around(nn.Module):
    """A network and what is done with it."""

    def __init__(self, function, net=None):
        super().__init__()
        self.net, self.function = net or network(), function

    def forward(self, x):
        return self.function(self.net, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda net, x: net(x) * 1j, "got torch.complex64: give its real part"),
        (lambda net, x: net(x) > 0, "got torch.bool: give probabilities or logits"),
        (lambda net, x: net(x).int(), "got torch.int32: give probabilities or logits"),
        (lambda net, x: net(x).squeeze(), r"got \(2,\).* \(.squeeze\(\) also takes away an axis"),
        (lambda net, x: None, "got NoneType: wrap the model"),
    ],
)
def test_outputs_that_are_no_numbers_a_sequence_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        effects_of(Around(function))


def test_predict_meets_a_sequence_alone_at_the_start():
    seen = []
    model = Around(lambda net, x: (seen.append(len(x)), net(x).squeeze())[1])
    with pytest.raises(ValueError, match=r"squeeze\(\) also takes"):
        predict.predict(model, sequences(5), batch_size=2, device="cpu")
    assert seen == [2, 1]


def test_modes_and_buffers_come_back():
    net = nn.Sequential(
        nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    model = Around(lambda net, x: net.train()(x), net.eval())
    mean, before = net[1].running_mean, copy.deepcopy(net[1].state_dict())
    with pytest.raises(ValueError, match="Statistics of the batch are the usual reason"):
        predict.predict(model, sequences(3), device="cpu")
    assert net[1].running_mean is mean
    assert not any(part.training for part in net.modules())
    for name, value in net[1].state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_computed_with_in_float32(dtype):
    model, x = network().to(dtype), sequences()
    effects = effects_of(model, x)
    assert_close(effects, brute_force(model, x))
    assert effects["effect"].dtype == np.float32
    assert effects.attrs["precision"] == "float32"
    assert {p.dtype for p in model.parameters()} == {dtype}  # the caller's stays as it is
    got = predict.predict(model, x, device="cpu")
    np.testing.assert_allclose(got[0], effects["reference_prediction"], rtol=1e-6)
    model[0].float()  # types may also be mixed
    np.testing.assert_allclose(effects_of(model, x)["effect"], effects["effect"], atol=1e-6)


def test_a_precision_is_that_of_buffers_too():
    class Motif(nn.Module):  # no parameters
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("weights", torch.randn(2, 4, 5))

        def forward(self, x):
            return nn.functional.conv1d(x, self.weights).relu().sum(-1)

    effects = effects_of(Motif(), precision="float64")
    assert effects["effect"].dtype == np.float64
    assert_close(effects, brute_force(Motif(), sequences()), share=1e-13)


def test_complex_weights_are_not_converted():
    model = network()
    model.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="weights are partly complex, and cannot be converted"):
        effects_of(model, precision="float64")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript(tmp_path):
    x = sequences()
    expected = brute_force(network(), x)
    for model in (torch.jit.script(network()), torch.jit.trace(network(), x)):
        for _ in range(3):  # a script changes its operations when it has seen some calls
            assert_close(effects_of(model, x, store=tmp_path / type(model).__name__), expected)


def test_a_state_dict_that_was_written_over():
    model = network()
    expected = predict.model_hash([model])
    model.state_dict = model.state_dict()
    assert effects_of(model).attrs["model_hash"] == expected


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_layers_that_keep_tensors_with_gradients_are_copied():
    model, x = network(), sequences()
    expected = brute_force(model, x)
    nn.utils.weight_norm(model[0])
    model.kept = {"last": [model(x)]}
    effects = effects_of(model, x, precision="float64")
    assert effects["effect"].dtype == np.float64
    assert_close(effects, expected, share=1e-8)


def both_named():
    return Named(network(), ["Oct4", "Sox2"], [0, 1])


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        torch.optim.swa_utils.AveragedModel,
        lambda net: nn.Sequential(nn.Sequential(net), nn.Identity()),
        lambda net: nn.ModuleList([net, net]),
    ],
)
def test_names_and_numbers_behind_a_wrapper(wrap):
    effects = effects_of(wrap(both_named()), features=["Sox2"])
    assert_close(effects, brute_force(network(), sequences())[..., 1:])


def test_names_are_not_taken_from_behind_layers_that_mix_outputs():
    with pytest.raises(ValueError, match="2 unnamed outputs"):
        effects_of(nn.Sequential(both_named(), nn.Linear(2, 2)), features=["Sox2"])
    bad = network()
    bad.feature_names = "ab"
    with pytest.raises(TypeError, match="feature_names of Sequential must be a list of names"):
        effects_of(bad)
    with pytest.raises(ValueError, match="ambiguous feature 'a': the model has a, a"):
        effects_of(Named(network(), ["a", "a"], [0, 1]), features=["a"])


class Control(nn.Module):
    """A network that wants a second input."""

    def __init__(self, needed):
        super().__init__()
        self.conv = nn.Conv1d(6, 2, 5)
        if needed:
            self.forward = lambda x, control: None

    def forward(self, x, control=None, *, scale=1.0):
        x = x if control is None else torch.cat([x, control], 1)
        return scale * self.conv(x).mean(-1)


class Joined(nn.Module):
    def forward(self, x, control=None):
        return torch.cat([x, control], 1).sum(2)


class Length(nn.Module):
    def forward(self, x, *, control):
        return x.sum(2)


@pytest.mark.parametrize(
    "model",
    [
        Control(needed=False),
        Control(needed=True),
        Joined(),
        Length(),
        nn.Sequential(Length()),
        predict.MCDropout(nn.Sequential(Control(needed=False), nn.Dropout()), 2),
    ],
)
def test_a_second_input_is_named(model):
    message = (
        r"takes? more than sequences, 'control', and is given sequences alone: .*give it with adapt"
    )
    with pytest.raises(ValueError, match=message) as error:
        effects_of(model)
    assert "receptive field" not in str(error.value)


def raising(error):
    def function(net, x):
        raise error

    return Around(function)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Expected all tensors to be on the same device, but found at least two"),
         "register it as a buffer"),
        (RuntimeError("Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) "
                      "should be the same"), "register it as a buffer"),
        (RuntimeError("mat1 and mat2 must have the same dtype, but got Float and Double"),
         "have another type than its weights"),
        (RuntimeError("expected input[2, 4, 20] to have 20 channels, but got 4 channels instead"),
         "the 4 channels A, C, G and T"),
        (RuntimeError("Calculated padded input size per channel: (9). Kernel size: (20)"),
         "shorter than its receptive field"),
        (NotImplementedError('Module is missing the required "forward" function'),
         "must have a forward"),
    ],
)  # fmt: skip
def test_reasons_of_refusals(error, message):
    with pytest.raises(ValueError, match=message):
        predict.predict(raising(error), sequences(), device="cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        getattr(torch, "AcceleratorError", torch.OutOfMemoryError)("illegal memory access"),
        RuntimeError("CUDA error: device-side assert triggered"),
        TypeError("a bug of the model"),
    ],
)
@pytest.mark.parametrize("calls", [0, 1])  # in the first look, and while layers are recorded
def test_errors_of_the_device_and_of_the_model_are_not_explained_away(error, calls):
    seen = []

    def function(net, x):
        seen.append(0)
        if len(seen) > calls:
            raise error
        return net(x)

    with pytest.raises(type(error), match=str(error)):
        effects_of(Around(function))


def test_models_without_numbers_are_refused():
    with pytest.raises(ValueError, match=r"holds no numbers \(0.weight is on the device 'meta'\)"):
        effects_of(network().to("meta"))
    with pytest.raises(ValueError, match=r"has no weights yet .* call it once on a seq"):
        effects_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))


def doubled(p):
    return 2 * p


def test_a_store_knows_its_transform(tmp_path):
    store = tmp_path / "effects.zarr"
    effects = effects_of(network(), store=store, transform=doubled)
    np.testing.assert_allclose(effects["effect"], 2 * effects_of(network())["effect"], rtol=1e-5)
    with pytest.raises(ValueError, match="cannot look into '<lambda>': give a function") as error:
        effects_of(network(), store=store, transform=lambda p: 3 * p)
    assert len(str(error.value)) < 300


def test_a_store_tells_functions_of_one_name_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for factor in (2, 30):
        (tmp_path / "scales.py").write_text(f"def scale(p):\n    return {factor} * p\n")
        monkeypatch.delitem(sys.modules, "scales", raising=False)
        importlib.invalidate_caches()
        transform = importlib.import_module("scales").scale
        options = {"store": tmp_path / "effects.zarr", "transform": transform}
        if factor == 2:
            assert effects_of(network(), **options).equals(effects_of(network(), **options))
    with pytest.raises(FileExistsError, match="holds other effects"):
        effects_of(network(), **options)


def test_a_transform_gives_what_it_takes():
    with pytest.raises(ValueError, match=r"makes ndarray \(1, 2\) of \(1, 1, 2\)"):
        effects_of(network(), transform=lambda p: p.mean(0))
    with pytest.raises(TypeError, match="must be a function of predictions"):
        effects_of(network(), transform="logit")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": {"x": "0"}}, TypeError, r"mapping of name to column; got {'x': '0'} \(dict\)"),
        ({"features": {"x": True}}, TypeError, "got {'x': True}"),
        ({"features": 0}, TypeError, r"a list of names .*; got 0 \(int\)"),
        ({"features": [True, False]}, TypeError, r"got \[True, False\]"),
        ({"features": ["0", 1]}, TypeError, r"got \['0', 1\]"),
        ({"features": {"a", "b"}}, TypeError, r"\(set\)"),
        ({"max_memory": "4GB"}, ValueError, "max_memory, in bytes, must be a whole number .*; got '4GB'"),
        ({"batch_size": 10.5}, ValueError, "batch_size must be a whole number .*; got 10.5"),
        ({"batch_size": -1}, ValueError, "at least 1; got -1"),
        ({"batch_size": True}, ValueError, "got True"),
        ({"positions": 5}, ValueError, r"must be integers \(P,\) or a mask \(N, L\); got int64 \(\)"),
        ({"positions": [[1, 2], [3]]}, ValueError, "got object"),
        ({"positions": []}, ValueError, "or positions name none"),
        ({"strands": "both"}, ValueError, "'both': choose one of"),
        ({"sequence_ids": "ab"}, TypeError, "must be a list of names; got 'ab'"),
        ({"precision": "half"}, ValueError, "unknown precision 'half': choose one of float32"),
    ],
)  # fmt: skip
def test_arguments_of_another_type_raise(options, error, message):
    with pytest.raises(error, match=message):
        effects_of(network(), **options)


SWITCHES = """
import os, sys, torch
from deepmr_utils._members import float32_products
b = torch.backends
read = ("b.fp32_precision", "b.cudnn.fp32_precision", "b.cuda.matmul.fp32_precision",
        "b.cudnn.conv.fp32_precision", "b.cudnn.rnn.fp32_precision", "b.mkldnn.fp32_precision",
        "b.mkldnn.matmul.fp32_precision", "b.cuda.matmul.allow_tf32", "b.cudnn.allow_tf32",
        "torch.get_float32_matmul_precision()")
def state():
    values = []
    for name in read:
        try:
            values.append(eval(name))
        except RuntimeError:  # of a mixture that the user's own calls made
            values.append("mixed")
    return values
def later():
    found = [state()]
    for value in ("ieee", "tf32", "none"):  # what follows the switch above goes on following it
        b.fp32_precision = value
        found.append(state())
    return found
PRIOR = ("pass", "b.fp32_precision = 'tf32'", "b.fp32_precision = 'ieee'",
         "b.cuda.matmul.fp32_precision = 'tf32'", "b.cudnn.fp32_precision = 'ieee'",
         "b.cudnn.conv.fp32_precision = 'ieee'", "torch.set_float32_matmul_precision('medium')",
         "b.cuda.matmul.allow_tf32 = True", "b.cudnn.allow_tf32 = False")
for prior in PRIOR:
    for tf32 in (False, True):
        if os.fork():
            if os.wait()[1]:
                sys.exit(prior)
            continue
        reader, writer = os.pipe()
        if not os.fork():  # never called
            exec(prior)
            os.write(writer, repr(later()).encode())
            os._exit(0)
        os.wait()
        exec(prior)
        with float32_products(torch.device("cpu"), tf32):
            left = state()
        with float32_products(torch.device("cuda"), tf32):
            inside = [b.cuda.matmul.fp32_precision, b.cudnn.conv.fp32_precision,
                      b.cudnn.rnn.fp32_precision]
        right = [["ieee", "tf32"][tf32]] * 3
        after = later()
        bad = inside != right or left != after[0] or repr(after) != os.read(reader, 9999).decode()
        os._exit(bad)
print("nine states")
"""


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="switches of torch 2.9"
)
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_switches_of_precision_are_left_as_they_were():
    done = subprocess.run(
        [sys.executable, "-c", SWITCHES], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "nine states\n", done.stderr


def test_older_switches_of_precision(monkeypatch):
    class Switch:
        allow_tf32 = True

    matmul, cudnn = Switch(), Switch()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    with float32_products(torch.device("cuda"), False):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
