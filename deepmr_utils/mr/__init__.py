"""Mendelian randomization: from instruments to local causal effects."""

from .estimation import COLUMNS, EFFECTS, estimate, local_mr, methods
from .multivariable import correlation_from_members, multivariable
from .registry import REGISTRY

__all__ = ["COLUMNS", "EFFECTS", "REGISTRY", "correlation_from_members", "estimate"]
__all__ += ["local_mr", "methods", "multivariable"]
