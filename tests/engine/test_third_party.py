"""Networks of other packages, as they are, with random weights: propagated, and exact.

Each package is optional; `make .venv/.installed` installs the light ones.
"""

import logging
import os

import pytest
import torch
from test_propagation import assert_exact, sequences
from torch import nn

LENGTH = 120


class Part(nn.Module):
    """One output of a model of several."""

    def __init__(self, model, part):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, x):
        return self.part(self.model(x))


def bpnet(**options):
    bpnetlite = pytest.importorskip("bpnetlite.bpnet", reason="bpnet-lite is not installed")
    given = {"n_filters": 8, "n_layers": 3, "n_outputs": 2, "n_control_tracks": 0, "trimming": 20}
    torch.manual_seed(0)
    return bpnetlite, bpnetlite.BPNet(**(given | options), verbose=False)


def test_counts_of_bpnet_lite():
    module, net = bpnet()
    net = assert_exact(module.CountWrapper(net).double(), sequences(2, LENGTH))
    assert not net.completed


def test_zero_control_tracks_of_bpnet_lite():
    module, net = bpnet(n_control_tracks=2)
    wrapped = module.CountWrapper(module.ControlWrapper(net))  # its tracks are float32
    net = assert_exact(wrapped, sequences(2, LENGTH, torch.float32))
    assert not net.completed


def test_profiles_of_bpnet_lite_are_computed_over_all_positions_at_the_end_alone():
    module, net = bpnet()
    net = assert_exact(module.ProfileWrapper(net).double(), sequences(2, LENGTH))
    assert net.completed
    assert net.share > 0.97


def test_chrombpnet():
    chrombpnet = pytest.importorskip("bpnetlite.chrombpnet", reason="bpnet-lite is not installed")
    bias, accessibility = bpnet(n_outputs=1)[1], bpnet(n_outputs=1, n_filters=12)[1]
    net = chrombpnet.ChromBPNet(bias=bias, accessibility=accessibility)
    net = assert_exact(Part(net, lambda parts: parts[1]).double(), sequences(2, LENGTH))
    assert not net.completed


def test_keras_on_torch(monkeypatch, caplog):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    from keras import layers

    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend")
    keras.utils.set_random_seed(0)
    bases = keras.Input((LENGTH, 4))
    x = layers.Conv1D(8, 7, padding="same")(bases)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.MaxPooling1D(2)(x)
    x = layers.LayerNormalization()(layers.Conv1D(8, 5, padding="same")(x))
    x = layers.Dense(6, activation="gelu")(x)
    x = layers.Dense(3)(layers.Flatten()(x))
    model = keras.Model(bases, x)

    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.transpose(1, 2))

    with caplog.at_level(logging.WARNING):
        net = assert_exact(Swapped(), sequences(2, LENGTH, torch.float32))
    assert not net.completed
    assert not caplog.messages
    assert net.share > 0.99
