"""Networks: our own definitions, and readers of published weights."""

from .cnn import SimulationCNN

__all__ = ["SimulationCNN"]
