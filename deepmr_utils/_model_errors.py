"""What a call says of arguments and models that do not fit."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ._members import is_device_error

# arguments


def whole_number(name: str, value: Any, least: int = 1, unit: str = "") -> int:
    """An argument as an int, or an error where it is none or too small."""
    whole = isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        kind = TypeError if not isinstance(value, float | np.floating) else ValueError
        raise kind(f"{name} must be a whole number{unit}; got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return int(value)


def check_flags(**flags: Any) -> None:
    """Raise a TypeError where an option is neither True nor False: "False" would count as True."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
            raise TypeError(f"{name} must be True or False; got {value!r}")


def feature_list(features: Any) -> list:
    """Features that a caller asks for, which are all names or all columns."""
    if isinstance(features, str):
        raise TypeError(f"features must be a list of names; got the single string {features!r}")
    if isinstance(features, set | frozenset) or not hasattr(features, "__iter__"):
        raise TypeError(
            "features must be a list of names or columns, or a mapping of name to column; got "
            f"{features!r} ({type(features).__name__})"
        )
    features = list(features)
    if not features:
        raise ValueError("features must be distinct and at least one; got []")
    names = [isinstance(f, str) for f in features]
    if not all(names) and (any(names) or not all(map(_is_column, features))):
        raise TypeError(
            f"features must be all names (str) or all columns (int); got {features}: give names as "
            "strings, or a mapping of name to column"
        )
    return features


def feature_mapping(features: Any) -> tuple[list[str], list[int]]:
    """Names and columns of a mapping."""
    for name, column in features.items():
        if not _is_column(column):
            raise TypeError(
                "features as a mapping gives the column (int) of each name; got "
                f"{column!r} ({type(column).__name__}) for {name!r}"
            )
    return [str(name) for name in features], [int(column) for column in features.values()]


def _is_column(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


# what a model says when it fails


_LENGTH = (
    "Sequences shorter than its receptive field, or of a length its dense layers do not expect, "
    "are the usual reason; a model of (N, L, 4) is another: wrap it in one that swaps axes"
)
# what an error of torch says, and what to do; the first that fits
_ADVICE = (
    (
        r"same device|expected device|torch\.cuda\.\w*Tensor",
        "A tensor that it holds did not move to the device with its weights: register it as a "
        "buffer, with register_buffer",
    ),
    (
        r"dtype|scalar type|Tensor\) and weight type",
        "Tensors that it holds or makes have another type than its weights: register them as "
        "buffers, or convert them to the type of the input",
    ),
    (
        "more than 1 value per channel",
        "A layer takes its mean and variance from the batch, in evaluation mode, too",
    ),
    ('"forward" function|not implemented', "It must have a forward for this device and type"),
    ("[Kk]ernel size|too small", _LENGTH),
)


def refusal(member: nn.Module, shape: Sequence[int], error: Exception) -> str | None:
    """What to say of an error of a model; None where its own words are to be heard."""
    text = str(error)
    pattern = r"missing (?:\d+ required .*arguments?:|value for argument) (.+?)(?:\.\s|$)"
    missing = re.search(pattern, text, re.MULTILINE)
    optional = ", ".join(map(repr, _other_inputs(member)))
    ours = isinstance(error, RuntimeError) or missing or (optional and "NoneType" in text)
    if is_device_error(error) or not ours:
        return None
    known = [advice for words, advice in _ADVICE if re.search(words, text)]
    if missing:
        advice = (
            f"It takes more than sequences, {missing[1]}, and is given sequences alone: wrap it in "
            "a module that supplies the rest"
        )
    elif known:
        advice = known[0]
    elif optional:
        advice = (
            f"It can take more than sequences, {optional}, and is given sequences alone: if it "
            "needs the rest, wrap it in a module that supplies it"
        )
    elif re.search("to have [0-9]+ channels", text):
        advice = (
            "Sequences have the 4 channels A, C, G and T: wrap it in a module that supplies what "
            "else it expects, or swaps axes"
        )
    else:
        advice = _LENGTH
    return f"the model refused sequences of shape {tuple(shape)} (N, 4, L): {text}. {advice}"


def _other_inputs(member: nn.Module) -> list[str]:
    """Arguments that may be inputs, beside the first, of a module's forward or of its parts'."""
    member = member.module if hasattr(member, "draw") else member  # of MC-dropout
    if isinstance(member, nn.Sequential):
        return [name for part in member for name in _other_inputs(part)]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        parameters = list(inspect.signature(member.forward).parameters.values())
    except (TypeError, ValueError):  # not to be had, of a compiled one
        return []
    empty = (None, inspect.Parameter.empty)
    return [p.name for p in parameters[1:] if p.kind in named and p.default in empty]


def wrong_output(head: Any, n: int, where: str) -> str | None:
    """What is wrong with an output for n sequences, if anything."""
    is_tensor = isinstance(head, torch.Tensor)
    if is_tensor and head.ndim == 2 and len(head) == n:
        if head.is_floating_point():
            return None
        advice = "give probabilities or logits, or convert counts with .float()"
        if head.is_complex():
            advice = "give its real part, or size and phase, as features"
        return f"a model must give real, floating-point numbers; got {head.dtype}{where}: {advice}"
    got = tuple(head.shape) if is_tensor else type(head).__name__
    squeezed = " (.squeeze() also takes away an axis of one sequence or one feature: name the axis)"
    return (
        f"a model must map ({n}, 4, L) to ({n}, K), or to a dict or tuple of such heads; got "
        f"{got}{where}: wrap the model in a module that reduces it, or leaves it out"
        + squeezed
        * (is_tensor and head.ndim < 2)
    )
