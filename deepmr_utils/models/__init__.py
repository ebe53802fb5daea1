"""Networks: our own definitions, and readers of published weights."""

from .bpnet import BPNet, bpnet_loss, load_bpnet_oskn, multinomial_nll
from .deepsea import Beluga, DeepSEA, load_beluga, load_deepsea
from .mtsplice import MTSplice, load_mtsplice

__all__ = [
    "BPNet",
    "Beluga",
    "DeepSEA",
    "MTSplice",
    "bpnet_loss",
    "load_beluga",
    "load_bpnet_oskn",
    "load_deepsea",
    "load_mtsplice",
    "multinomial_nll",
]
