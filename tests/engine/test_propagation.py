"""Propagation against full predictions: random networks, every layer, both ends of a sequence."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deepmr_utils._engine import windows
from deepmr_utils._engine.engines import propagator
from deepmr_utils._engine.recording import UnsupportedError
from deepmr_utils._engine.spectral import spectral_convolution, spectrum
from deepmr_utils._engine.windows import Options, Sites
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.predict import MCDropout, as_members
from deepmr_utils.sequences import one_hot

LENGTH = 37
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest prediction


def sequences(n=2, length=LENGTH, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    return one_hot(rng.integers(0, 4, (n, length)).astype(np.uint8), dtype)


def assert_exact(module, x, window_bytes=2**14, columns=None):
    """Every substitution of every sequence, propagated and predicted in full."""
    module = module.eval()
    n, _, length = x.shape
    with torch.inference_mode():
        references = module(x)
        columns = list(range(references.shape[1])) if columns is None else columns
        net = propagator(module, x[0], [references[:1]], columns, Options({}))
        state, got_references = net.reference(x)
        sequence, position = (i.ravel() for i in np.indices((n, length)))
        change = torch.eye(4, dtype=x.dtype)[None] - x[sequence, :, position][:, None]
        got = net.mutants(state, Sites(sequence, position, change), window_bytes)
        mutants = x[sequence][:, None].repeat(1, 4, 1, 1)
        mutants[np.arange(len(mutants)), :, :, position] += change
        full = module(mutants.flatten(0, 1))[:, columns].view(n * length, 4, -1)
    scale = TOLERANCE[x.dtype] * full.abs().max().item()
    np.testing.assert_allclose(got, full, rtol=0, atol=scale)
    np.testing.assert_allclose(got_references, references[:, columns], rtol=0, atol=scale)
    return net


class Branches(nn.Module):
    def __init__(self, left, right, join):
        super().__init__()
        self.left, self.right, self.join = left, right, join

    def forward(self, x):
        return self.join(self.left(x), self.right(x))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def as_2d(layer):
    return nn.Sequential(Call(lambda x: x.unsqueeze(2)), layer, Call(lambda x: x.squeeze(2)))


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.Threshold(0.1, 1e-6), nn.ELU(), nn.SELU(), nn.GELU(),
    nn.GELU(approximate="tanh"), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.LeakyReLU(0.2), nn.Softplus(),
    nn.Hardtanh(), nn.Hardswish(), nn.Mish(), nn.CELU(), nn.Softsign(), nn.Identity(),
    Call(torch.exp), Call(torch.abs), Call(lambda x: x**2), Call(lambda x: 0.3 * x - 1),
    Call(lambda x: 1 - x), Call(lambda x: x.clamp(-0.5, 0.7)), Call(lambda x: x / 3),
]  # fmt: skip


@st.composite
def convolutions(draw, channels):
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    out = 2 * draw(st.integers(1, 4))
    kernel = draw(st.integers(1, 7))
    options = {
        "stride": draw(st.sampled_from([1, 1, 1, 2, 3])),
        "dilation": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 8)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if draw(st.booleans()):
        return nn.Conv1d(channels, out, kernel, **options), out
    options = {k: (1, v) if k in ("stride", "dilation") else v for k, v in options.items()}
    options["padding"] = (0, options["padding"])
    return as_2d(nn.Conv2d(channels, out, (1, kernel), **options)), out


@st.composite
def poolings(draw):
    kernel = draw(st.integers(1, 5))
    options = {
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, kernel // 2)),
        "ceil_mode": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options["count_include_pad"] = draw(st.booleans())
        return nn.AvgPool1d(kernel, **options)
    options["dilation"] = draw(st.integers(1, 2))
    if draw(st.booleans()):
        return nn.MaxPool1d(kernel, **options)
    options = {k: v if k == "ceil_mode" else (v, v) for k, v in options.items()}
    options["padding"], options["stride"] = (0, options["padding"][0]), (1, options["stride"][0])
    return as_2d(nn.MaxPool2d((1, kernel), **options))


class Bins(nn.Module):
    """Softmax pooling in bins, as in the stem of Enformer."""

    def __init__(self, channels, size):
        super().__init__()
        self.size, self.weight = size, nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        x = x[..., : x.shape[-1] // self.size * self.size]
        x, weight = (y.unflatten(-1, (-1, self.size)) for y in (x, self.weight(x)))
        return (x * weight.softmax(-1)).sum(-1)


class Fourier(nn.Module):
    """A convolution over all channels by a transform of all positions, as in Puffin."""

    def __init__(self, channels, width=5):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, channels, width, dtype=torch.float64))

    def forward(self, x):
        n, width = x.shape[-1], self.kernel.shape[-1]
        kernel = torch.fft.rfft(self.kernel.to(x.dtype), n + 2 * width)
        x = torch.fft.rfft(F.pad(x, (width, width)), dim=-1)
        x = torch.einsum("ncf,cof->nof", x, kernel)
        return torch.fft.irfft(x, n + 2 * width)[..., width : width + n]


def last(layer):
    """A layer of the last axis, on the channels of each position."""
    return nn.Sequential(
        Call(lambda x: x.transpose(1, 2)), layer, Call(lambda x: x.permute(0, 2, 1))
    )


def channel_layer(kind, channels):
    """A layer on the channels of each position, or on the axes; and its channels."""
    layer = {
        "norm": last(nn.LayerNorm(channels)),
        "rms": last(nn.RMSNorm(channels)),
        "dense": last(nn.Linear(channels, 6)),
        "softmax": Call(lambda x: x.softmax(1)),
        "log": Call(lambda x: x.log_softmax(1)),
        "glu": Call(lambda x: F.glu(x, 1)),
        "chunk": Call(lambda x: torch.sub(*x.chunk(2, 1))),
        "centred": Call(lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1)),
        "where": Call(lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
        "fill": Call(lambda x: x.masked_fill(x < -0.2, 0.3)),
        "strand": Call(lambda x: x + x.flip([1, 2])),
        "paced": Call(lambda x: x[:, ::2, 1::2]),
        "positions": Call(
            lambda x: x + torch.arange(x.shape[-1]).to(x).sin().expand(len(x), 1, -1)
        ),
        "controls": Call(lambda x: torch.cat([x, x.new_zeros(len(x), 2, x.shape[-1])], 1)),
        "bins": Bins(channels, 3),
        "fourier": Fourier(channels),
        "up": nn.Upsample(scale_factor=2),
        "squeeze": Call(lambda x: x * x.mean(-1, keepdim=True).sigmoid()),
        "along": Call(lambda x: x.softmax(-1)),
        "cumulative": Call(lambda x: x.cumsum(-1) / 10),
        "groups": nn.GroupNorm(1, channels),
    }[kind]
    halved = kind in ("glu", "chunk", "paced")
    new = {"dense": 6, "controls": channels + 2}.get(kind, channels // 2 if halved else channels)
    return layer, new


LOCAL = ["norm", "rms", "dense", "softmax", "log", "glu", "chunk", "centred", "where", "fill",
         "strand", "paced", "positions", "controls", "bins",
         "up", "fourier"]  # fmt: skip
ALONG = ["squeeze", "along", "cumulative", "groups"]
SIMPLE = ["conv", "conv", "conv", "act", "act", "pool", "norm", "skip", "join", "gate", "cut", "pad",
          "permute", "dropout"]  # fmt: skip


@st.composite
def networks(draw, others=()):
    """A network of up to six layers on (N, 4, LENGTH), and what its ends are."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers, channels = [], 4
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(SIMPLE if draw(st.booleans()) else others or SIMPLE))
        if others and kind in others:
            if channels % 2:
                kind = "dense"
            layer, channels = channel_layer(kind, channels)
            layers.append(layer)
            continue
        if kind == "conv":
            layer, channels = draw(convolutions(channels))
        elif kind == "act":
            layer = draw(st.sampled_from(ACTIVATIONS))
        elif kind == "pool":
            layer = draw(poolings())
        elif kind == "norm":
            layer = nn.BatchNorm1d(channels, affine=draw(st.booleans()))
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
        elif kind in ("skip", "gate", "join"):
            width = draw(st.integers(1, 4))
            inner = nn.Conv1d(channels, channels, 2 * width + 1, padding="same", dilation=width)
            inner = nn.Sequential(inner, draw(st.sampled_from(ACTIVATIONS)))
            outer = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 1)]))
            join = {
                "skip": draw(st.sampled_from([torch.add, torch.sub, torch.maximum])),
                "gate": torch.mul,
                "join": lambda a, b: torch.cat([a, b], dim=1),
            }[kind]
            sides = [inner, outer] if draw(st.booleans()) else [outer, inner]
            layer = Branches(*sides, join)
            channels *= 2 if kind == "join" else 1
        elif kind == "cut":
            a, b = draw(st.integers(0, 3)), draw(st.integers(1, 3))
            layer = Call(lambda x, a=a, b=b: x[:, :, a:-b])
        elif kind == "pad":
            sides = draw(st.tuples(st.integers(-1, 4), st.integers(-1, 4)))
            layer = Call(lambda x, sides=sides: F.pad(x, sides))
        elif kind == "permute":
            order = draw(st.permutations(range(channels)))
            layer = Call(lambda x, order=order: x[:, order])
        else:
            layer = draw(st.sampled_from([nn.Dropout(0.4), nn.Dropout1d(0.4)]))
        layers.append(layer)
    body = nn.Sequential(*layers)
    with torch.no_grad():
        try:
            shape = body.double().eval()(sequences(2)).shape
        except RuntimeError:
            shape = (2, 0, 0)
    if 0 in shape or shape[1] * shape[2] > 4000:
        return nn.Sequential(
            nn.Conv1d(4, 2, 3), nn.Flatten(), nn.Linear(2 * (LENGTH - 2), 3)
        ).double()
    features = shape[1]
    end = draw(
        st.sampled_from(["flat", "flat", "mean", "sum", "max", "amax", "adaptive", "adaptive max"])
    )
    if end == "flat":
        head, features = nn.Flatten(), shape[1] * shape[2]
    else:
        head = {
            "mean": Call(lambda x: x.mean(-1)),
            "sum": Call(lambda x: x.sum(dim=2)),
            "max": Call(lambda x: x.max(-1).values),
            "amax": Call(lambda x: x.amax(2)),
            "adaptive": nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            "adaptive max": nn.Sequential(nn.AdaptiveMaxPool1d(1), Call(lambda x: x.squeeze(-1))),
        }[end]
    last = [nn.Dropout(0.3)] if draw(st.booleans()) else []
    last += [nn.Linear(features, 5), draw(st.sampled_from(ACTIVATIONS)), nn.Linear(5, 3)]
    if draw(st.booleans()):
        last.append(nn.Sigmoid())
    return nn.Sequential(body, head, *last).double()


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(networks(), st.sampled_from([2**8, 2**14, 2**22]), st.booleans())
def test_random_networks_are_propagated_exactly(network, window_bytes, masked):
    if masked and any(isinstance(m, nn.Dropout | nn.Dropout1d) for m in network.modules()):
        network = as_members(MCDropout(network, 1, seed=3))[0]
    assert_exact(network, sequences(), window_bytes)


@settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(networks(LOCAL), st.sampled_from([2**8, 2**14, 2**22]))
def test_layers_of_channels_are_propagated_exactly(network, window_bytes):
    net = assert_exact(network, sequences(), window_bytes)
    assert not net.completed


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(networks(LOCAL + ALONG * 3), st.sampled_from([2**8, 2**22]))
def test_what_is_not_local_is_computed_over_all_positions(network, window_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepmr_utils._engine.propagation.LEAST_SHARE", 0)
        patch.setattr("deepmr_utils._engine.propagation.MAX_WHOLE", 2**14)
        assert_exact(network, sequences(), window_bytes)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks())
def test_random_networks_in_single_precision(network):
    assert_exact(network.float(), sequences(dtype=torch.float32))


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_short_sequences(length):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 6, 7, padding=3), nn.ReLU(), nn.Conv1d(6, 4, 3, padding="same", dilation=2),
        nn.Tanh(), nn.Flatten(), nn.Linear(4 * length, 2),
    ).double()  # fmt: skip
    assert_exact(net, sequences(3, length))


def test_a_change_that_reaches_no_output_has_no_effect():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 3, 2, stride=5), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 8, 2)
    ).double()
    assert_exact(net, sequences())
    effects = saturation_mutagenesis(net, sequences(), device="cpu")["effect"]
    reached = np.isin(np.arange(LENGTH) % 5, [0, 1]) & (np.arange(LENGTH) < 37)
    largest = np.abs(effects).max(("sequence", "allele", "feature")).to_numpy()
    np.testing.assert_array_equal(largest > 0, reached)  # exactly 0, not up to rounding


@pytest.mark.parametrize("width", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("kernel", [1, 2, 5, 8, 11])
def test_spectral_convolution_is_convolution(width, kernel):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(width, 3, 2, 5)))
    taps = torch.from_numpy(rng.normal(size=(kernel, 5, 4)))
    n = width + kernel - 1
    expected = torch.zeros(n, 3, 2, 4, dtype=torch.float64)
    for i in range(width):
        for t in range(kernel):
            expected[i + kernel - 1 - t] += x[i] @ taps[t]
    matrices = spectrum(taps, width)
    assert len(matrices[0]) == (3 * n - 1) // 2 - (n % 2 == 0) * 0  # 1.5 n products, not w k
    got = spectral_convolution(x, *matrices, 0, n)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    part = spectral_convolution(x, *matrices, n // 2, 1)
    np.testing.assert_allclose(part, expected[n // 2 : n // 2 + 1], rtol=0, atol=1e-13)


def test_wide_layers_take_the_spectral_way():
    torch.manual_seed(0)
    layers = [nn.Conv1d(4, 96, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(96, 96, 8), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 21, 3))
    net = assert_exact(net, sequences(2, 120, torch.float32))
    assert any("spectrum" in key for key in net.prepared)


def test_only_wanted_columns_of_the_last_layer_are_computed():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 33, 8), nn.ReLU(),
        nn.Linear(8, 50), nn.Sigmoid(),
    ).double()  # fmt: skip
    narrow = assert_exact(net, sequences(), columns=[7, 3])
    assert narrow.columns == [None]
    assert narrow.steps[-2].args[-1].shape == (8, 2)


class Around(nn.Module):
    """A convolution, an odd module, and a dense layer."""

    def __init__(self, module):
        super().__init__()
        self.conv, self.odd, self.last = nn.Conv1d(4, 8, 5, padding=2), module, nn.LazyLinear(2)

    def forward(self, x):
        x = self.odd(self.conv(x).relu())
        return self.last((x[0] if isinstance(x, tuple) else x).flatten(1))


def around(module, length=12):
    torch.manual_seed(0)
    net, x = Around(module).eval(), sequences(2, length, torch.float32)
    net(x)
    return net, x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.LSTM(12, 3, batch_first=True), "rnn_layer in module 'odd'"),
        (nn.Softmax(dim=2), "_softmax in module 'odd' mixes positions"),
        (nn.ConvTranspose1d(8, 3, 5), "convolution in module 'odd' is a transposed"),
        (Call(lambda x: x.cumsum(-1)), "cumsum in module 'odd' is not known to be local"),
        (Call(lambda x: x * x.mean(-1, keepdim=True)), "mul in module 'odd' joins values by"),
        (nn.GroupNorm(2, 8), "native_group_norm in module 'odd'"),
    ],
)
def test_the_log_says_what_is_computed_over_all_positions(module, reason, caplog):
    net, x = around(module)
    with caplog.at_level(logging.WARNING):
        effects = saturation_mutagenesis(net, x, device="cpu")
    (line,) = caplog.messages
    assert "% of the arithmetic is done only where a mutant differs" in line
    assert reason in line, line
    full = saturation_mutagenesis(net, x, device="cpu", propagate=False)
    np.testing.assert_allclose(effects["effect"], full["effect"], rtol=0, atol=1e-6)


def test_a_network_that_cannot_be_recorded_is_predicted_in_full(caplog):
    net, x = around(Call(lambda x: x if x.sum() > 0 else -x))
    with caplog.at_level(logging.WARNING):
        effects = saturation_mutagenesis(net, x, device="cpu")
    (line,) = caplog.messages
    assert line.startswith("every mutant is predicted in full: ")
    assert "turns data into a Python value" in line
    full = saturation_mutagenesis(net, x, device="cpu", propagate=False)
    np.testing.assert_allclose(effects["effect"], full["effect"], rtol=0, atol=1e-6)


class Reader(nn.Module):
    """Three wide dilated layers, of which the last is read at two positions."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv1d(4, 6, 5, padding=2)]
        for _ in range(3):
            layers += [nn.ReLU(), nn.Conv1d(6, 6, 11, dilation=3, padding=15)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).softmax(1)[:, 1:3, [100, 104]].flatten(1)


def test_what_is_read_bounds_the_windows_from_behind(monkeypatch):
    torch.manual_seed(0)
    rows = []
    fill = windows.Place.fill_outside
    monkeypatch.setattr(
        windows.Place, "fill_outside", lambda p, *a: (rows.append(p.width), fill(p, *a))[1]
    )
    net = assert_exact(Reader().double(), sequences(1, 200))
    assert not net.completed
    widths = {net.needed[step.outputs[0]] for step in net.steps if step.name == "convolution"}
    assert widths == {(55, 150), (70, 135), (85, 120), (100, 105)}
    assert max(rows) < 60  # 95 without: the window of a site meets what is read


def test_a_transform_that_is_no_short_convolution_is_computed_over_all_positions():
    torch.manual_seed(0)
    parts = {
        "long": Fourier(8, 30),
        "wraps": Call(lambda x: torch.fft.irfft(torch.fft.rfft(x) * 1j, x.shape[-1])),
        "squared": Call(lambda x: torch.fft.irfft(torch.fft.rfft(x) ** 2, x.shape[-1])),
    }
    for name, part in parts.items():
        net, x = around(part, LENGTH)
        net = assert_exact(net.double(), x.double())
        assert bool(net.completed) == (name != "long"), name


class Placed(nn.Module):
    """Reads one place of a convolution."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.last, self.read = nn.Conv1d(4, 6, 5, padding=2), nn.Conv1d(6, 3, 3), read

    def forward(self, x):
        return self.read(self.last(self.conv(x).relu()))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[:, :, 17],
        lambda x: x[..., -1],
        lambda x: x[:, 1:, 10:13].flatten(1),
        lambda x: x[:, 0],
        lambda x: x.view(len(x), 1, -1).select(1, 0),
        lambda x: x[:, :, torch.tensor([3, -2])].sum(1),
        lambda x: x.index_select(2, torch.tensor([3, 30])).flatten(1),
        # numbers, without an axis of channels: log-odds of single entries
        lambda x: torch.stack([x[:, 1, 5], x[:, 2, -1]], 1),
        lambda x: torch.stack([x[:, 1, 5] - x[:, [0, 2], 5].logsumexp(1), x[:, 0, 9]], 1),
    ],
)
def test_what_is_read_at_a_place(read):
    torch.manual_seed(0)
    assert_exact(Placed(read).double(), sequences())


def test_the_number_of_sequences_may_be_part_of_the_computation():
    torch.manual_seed(0)
    parts = [
        Call(lambda x: x.reshape(len(x) * 8, 1, -1).cumsum(-1).reshape(len(x), 8, -1)),
        Call(lambda x: x * torch.ones(len(x), 1, 1).to(x) + x.new_ones(len(x), 8, 1)),
    ]
    for part in parts:
        net, x = around(part)
        assert_exact(net.double(), x.double())
    net, x = around(Call(lambda x: x + torch.arange(len(x)).to(x)[:, None, None]))
    with torch.no_grad(), pytest.raises(UnsupportedError, match="on the number of sequences"):
        propagator(net, x[0], [net(x[:1])], [0], Options({}))


def test_a_wrong_propagation_is_noticed_before_it_is_used(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 6, 5), nn.Flatten(), nn.Linear(6 * 33, 2)).double().eval()
    monkeypatch.setattr(
        "deepmr_utils._engine.layers._taps", lambda weight, groups: weight.permute(2, 1, 0) * 1.01
    )
    with torch.inference_mode(), pytest.raises(UnsupportedError, match="come out differently, by"):
        propagator(net, sequences()[0], [net(sequences()[:1])], [0], Options({}))
