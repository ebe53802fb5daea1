"""Models that do what they should not, and what they may: exact, or refused, and never silent."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from deepmr_utils import predict
from deepmr_utils._engine import engines
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

LENGTH = 40


def sequences(n=2, length=LENGTH, seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    return one_hot(rng.integers(0, 4, (n, length)).astype(np.uint8), dtype)


def network(outputs=2, length=LENGTH):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(),
        nn.Linear(8 * (length // 4), outputs),
    )  # fmt: skip


class Call(nn.Module):
    """A module around a network, with a forward pass of its own."""

    def __init__(self, function, net=None):
        super().__init__()
        self.net, self.function = net or network(), function

    def forward(self, x):
        return self.function(self.net, x)


def mutate(members, x, **options):
    return saturation_mutagenesis(members, x, device="cpu", **options)


def brute_force(model, x):
    """Effects (N, L, 4, K) in float64, by a forward pass a mutant."""
    model, x = copy.deepcopy(model).eval().double(), x.double()
    effects = []
    with torch.no_grad():
        for one in x:
            mutants = one.repeat(x.shape[2], 4, 1, 1)
            for position, base in np.ndindex(*mutants.shape[:2]):
                mutants[position, base, :, position] = torch.eye(4)[base]
            alone = [model(m[None].clone()) for m in mutants.flatten(0, 1)]
            values = torch.cat(alone) - model(one[None].clone())
            values = values.view(*mutants.shape[:2], -1)
            values[one.T == 1] = torch.nan
            effects.append(values.numpy())
    return np.stack(effects)


def assert_right(model, x, **options):
    """Every effect equals brute force, to rounding: of predictions some ten times the effects."""
    right = brute_force(model, x)
    got = mutate(model, x, **options)["effect"].to_numpy()
    share = 1e-10 if x.dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(got, right, rtol=0, atol=share * np.nanmax(np.abs(right)))


def shift(net, x):
    x -= 0.25
    return net(x)


@pytest.mark.parametrize("propagate", [True, False])
def test_a_model_may_change_its_input(propagate):
    x = sequences()
    assert_right(Call(shift), x, propagate=propagate)
    np.testing.assert_array_equal(x, sequences())
    got = predict.predict(Call(shift), x, device="cpu")[0]
    np.testing.assert_array_equal(x, sequences())
    with torch.no_grad():
        np.testing.assert_allclose(got, network()(x - 0.25), rtol=1e-5)


RANDOM = [
    lambda net, x: net(F.dropout(x, 0.3)),
    lambda net, x: net(x) + torch.randn(2),
    lambda net, x: net(x) + torch.randn_like(net(x)),
    lambda net, x: {"large": 1e6 * net(x), "small": net(x) * (1 + 0.1 * torch.rand(1))},
    lambda net, x: torch.cat([1e6 * net(x), net(x) * (1 + 0.1 * torch.rand(1))], dim=1),
]


@pytest.mark.parametrize("function", RANDOM)
def test_random_predictions_are_refused(function):
    message = "Call gives different predictions for the same sequence in evaluation mode, .* and"
    for members in (Call(function), [network(), Call(function)]):
        if isinstance(members, list) and function in RANDOM[3:]:
            continue  # members would have other heads
        torch.manual_seed(0)
        for propagate in (True, False):
            with pytest.raises(ValueError, match=message):
                mutate(members, sequences(), propagate=propagate)
    for n in (1, 2):
        with pytest.raises(ValueError, match=message):
            predict.predict(Call(function), sequences(n), device="cpu")


BATCHWISE = [
    lambda net, x: net(x) - net(x).mean(0),
    lambda net, x: net(x) / len(x),
    lambda net, x: F.batch_norm(net(x).repeat(2, 1), None, None, training=True)[: len(x)],
    lambda net, x: torch.cat([1e5 * net(x), 1e-2 * net(x).softmax(0)], dim=1),
]


@pytest.mark.parametrize("function", BATCHWISE)
def test_predictions_that_depend_on_the_batch_are_refused(function):
    message = "Call predicts a sequence differently alone and beside others, .* on the batch"
    for propagate in (True, False):
        with pytest.raises(ValueError, match=message):
            mutate(Call(function), sequences(), propagate=propagate)
    with pytest.raises(ValueError, match=message):
        predict.predict(Call(function), sequences(3), device="cpu")


def test_rounding_of_values_near_0_is_no_dependence(caplog):
    """The first sequence is predicted as 0, from terms of order 1."""
    net, x = network(1), sequences(5)
    with torch.no_grad():
        offset = net(x[:1]).item()
    model = Call(lambda net, x: (1000 + net(x) - offset) - 1000, net)
    predict.predict(model, x, device="cpu")
    mutate(model, x)


class Writer(nn.Module):
    """A convolution whose output is written through a view, in one of several ways."""

    def __init__(self, write):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.write = nn.Conv1d(4, 8, 7, padding=3), write
        self.linear = nn.Linear(8, 2)

    def forward(self, x):
        h = self.conv(x)
        h = self.write(h)
        return self.linear(h.mean(-1))


def through_slice(h):
    h[:, :, :].clamp_(max=0.35)
    return h


def through_base(h):
    view = h[:, :, 3:]
    h.clamp_(max=0.35)
    return view


def through_chunks(h):
    first, second = h.chunk(2, dim=1)
    first.tanh_()
    return torch.cat([second.sigmoid_(), first], dim=1) + h


def into_out(h):
    torch.clamp(h, max=0.35, out=h)
    return h


def into_a_constant(h):
    scale = torch.ones(8, 1)
    twice = h * scale
    scale *= 3
    return twice.tanh() * scale


def plainly(h):
    return h.clamp_(max=0.35).add_(1)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (through_slice, "a tensor is read after a view of it was written"),
        (through_base, "a tensor is read after a view of it was written"),
        (through_chunks, "a tensor is read after a view of it was written"),
        (into_out, "clamp writes into another argument than its first"),
        (into_a_constant, "mul changes a constant that was read before"),
        (plainly, None),
    ],
)
def test_writing_through_views(write, reason, caplog):
    x = sequences(3, 60, seed=4, dtype=torch.float64)
    with caplog.at_level(logging.WARNING):
        assert_right(Writer(write).double(), x)
    assert [reason in line for line in caplog.messages] == ([True] if reason else [])


def test_each_column_is_checked_on_its_own_scale(monkeypatch, caplog):
    """An error of 1 % in a column of small values is found beside a column of large ones."""
    model, x = Call(lambda net, x: net(x) * torch.tensor([1e6, 1.0])), sequences()
    right = mutate(model, x, propagate=False)["effect"]
    mutants = engines.Propagator.mutants

    def wrong(self, *arguments):
        return mutants(self, *arguments) * torch.tensor([1, 1.01])

    monkeypatch.setattr(engines.Propagator, "mutants", wrong)
    with caplog.at_level(logging.WARNING):
        effects = mutate(model, x)["effect"]
    np.testing.assert_allclose(effects, right, rtol=0, atol=1e-6 * np.nanmax(right))
    (line,) = caplog.messages
    assert "mutants come out differently, by 0.01 of the largest prediction" in line


def test_effects_at_the_rounding_of_the_type_are_said(caplog):
    model = Call(lambda net, x: net(x) * torch.tensor([1e-4, 1.0]) + torch.tensor([1e3, 0]))
    with caplog.at_level(logging.WARNING):
        mutate(model, sequences())
    (line,) = caplog.messages
    assert line.startswith(
        "effects on 1 of 2 features are 0 or near the rounding of float32, first on '0': at "
    )
    assert line.endswith("predictions reach 1e+03; precision='float64' gives them exactly")
    caplog.clear()
    # in float64 as it is: torch promotes its float32 constants there
    right = mutate(Call(model.function, network().double()), sequences(dtype=torch.float64))
    assert not caplog.messages
    exact = mutate(network(), sequences(), precision="float64")
    np.testing.assert_allclose(
        right["effect"][..., 0], 1e-4 * exact["effect"][..., 0], rtol=1e-6, atol=1e-12
    )


class Keeps(nn.Module):
    """Makes a tensor at its first use, as rotary embeddings and masks are made."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.kept = nn.Conv1d(4, 8, 7, padding=3), nn.Linear(8, 2), None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.linspace(0, 1, x.shape[-1])
        return self.linear((self.conv(x) * self.kept).mean(-1))


@pytest.mark.parametrize("use", [mutate, lambda m, x: predict.predict(m, x, device="cpu")])
def test_a_model_can_be_trained_afterwards(use):
    model = Keeps()
    use(model, sequences())
    model.train()(sequences()).sum().backward()
    assert model.conv.weight.grad.abs().sum() > 0


def column(i):
    return lambda net, x: net(x)[:, i : i + 1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (column(0), column(1)),
        (lambda net, x: net(x), lambda net, x: net(x).sigmoid()),
        (lambda net, x: net(x).clamp(max=9), lambda net, x: net(x).clamp(max=8)),
        (lambda net, x: net(x) * torch.tensor([1.0, 2]), lambda net, x: net(x) * torch.tensor([1.0, 3])),
        (lambda net, x: {"a": net(x), "b": net(x) + 1}, lambda net, x: {"a": net(x) + 1, "b": net(x)}),
    ],
)  # fmt: skip
def test_a_store_of_another_computation_with_the_same_weights_is_refused(first, second, tmp_path):
    net, path = network(), tmp_path / "effects.zarr"
    expected = mutate(Call(first, net), sequences(), store=path).load()
    with pytest.raises(FileExistsError, match="holds other effects"):
        mutate(Call(second, net), sequences(), store=path)
    again = mutate(Call(first, net), sequences(), store=path).load()
    np.testing.assert_array_equal(again["effect"], expected["effect"])


def test_a_store_is_found_again_whether_constants_are_made_or_kept(tmp_path):
    torch.manual_seed(0)
    kept = Keeps()
    draws = predict.MCDropout(nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(160, 2)), 3)
    for name, members in (("kept", kept), ("draws", draws)):
        first = mutate(members, sequences(), store=tmp_path / name).load()
        mutate(members, sequences(4), store=tmp_path / f"{name}-other")
        again = mutate(members, sequences(), store=tmp_path / name).load()
        np.testing.assert_array_equal(first["effect"], again["effect"])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv1d(4, 16, 7, padding=3), nn.Linear(16, 2)

    def forward(self, x):
        h = self.conv(x).transpose(1, 2)
        heads = h.view(len(x), -1, 8, 2).transpose(1, 2)
        weights = torch.softmax(heads @ heads.transpose(-1, -2), dim=-1)
        return self.last((weights @ heads).transpose(1, 2).flatten(2).mean(1))


def test_attention_keeps_to_max_memory(caplog):
    """Its tables of 8 x 300 x 300 numbers, 2.7 MiB a sequence, are no module's output."""
    model, x = Attention(), sequences(2, 300)
    options = {"positions": range(0, 300, 30), "max_memory": 16 * 2**20}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        effects = mutate(model, x, **options)
    events = seen.profiler.kineto_results.events()
    held = np.cumsum([e.nbytes() for e in events if e.name() == "[memory]"]).max()
    assert 2 * 8 * 300 * 300 * 4 < held < options["max_memory"]
    caplog.clear()
    small = mutate(model, x, **(options | {"max_memory": 2**21}))
    np.testing.assert_allclose(small["effect"], effects["effect"], rtol=0, atol=1e-6)
    assert [line.split(",")[0] for line in caplog.messages] == [
        "every mutant is predicted in full: recording takes about 22 MiB",
        "one prediction takes about 11 MiB",
    ]


def test_a_script_is_propagated(caplog):
    x = sequences()
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):  # still, files hold scripts
        script = torch.jit.script(network().eval())
    effects = mutate(script, x)
    np.testing.assert_allclose(effects["effect"], mutate(network(), x)["effect"], atol=1e-6)
    assert not caplog.messages
