"""Networks: our own definitions, and readers of published weights."""

from .cnn import SimulationCNN
from .mtsplice import MTSplice, load_mtsplice

__all__ = ["MTSplice", "SimulationCNN", "load_mtsplice"]
