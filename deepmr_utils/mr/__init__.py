"""Mendelian randomization: from instruments to local causal effects."""

from .estimation import (
    COLUMNS,
    EFFECTS,
    INSTRUMENT_COLUMNS,
    check_effects,
    check_methods,
    estimate,
    local_mr,
    methods,
)
from .multivariable import correlation_from_members, multivariable
from .registry import REGISTRY

__all__ = [
    "COLUMNS",
    "EFFECTS",
    "INSTRUMENT_COLUMNS",
    "REGISTRY",
    "check_effects",
    "check_methods",
    "correlation_from_members",
    "estimate",
    "local_mr",
    "methods",
    "multivariable",
]
