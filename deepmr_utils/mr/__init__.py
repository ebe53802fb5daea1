"""Mendelian randomization: from instruments to local causal effects."""

from .estimation import COLUMNS, EFFECTS, check_methods, estimate, local_mr, methods
from .multivariable import correlation_from_members, multivariable
from .registry import REGISTRY

__all__ = ["COLUMNS", "EFFECTS", "REGISTRY", "check_methods", "correlation_from_members"]
__all__ += ["estimate", "local_mr", "methods", "multivariable"]
