"""What a call says of models that do not fit."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._members import is_device_error

_LENGTH = (
    "Sequences shorter than its receptive field, or of a length its dense layers do not expect, "
    "are the usual reason; a model of (N, L, 4) is another: adapt(model, layout='NLC') of "
    "deepmr_utils.adapters"
)
_CHANNELS = (
    "Sequences have the 4 channels A, C, G and T: deepmr_utils.adapters.adapt gives a model what "
    "else it expects, as constants, or swaps axes, layout='NLC'"
)
_INPUTS = (
    "It takes more than sequences, {}, and is given sequences alone: where it needs the rest, give "
    "it with adapt(model, constants={{...}}) of deepmr_utils.adapters"
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
    (
        r"expected shape=\(None, \w+, 4\)",  # of Keras
        "It takes (N, L, 4): adapt(model, layout='NLC') of deepmr_utils.adapters",
    ),
    (
        "Guard failed",  # of torch.export
        "It was exported for this number or length of sequences alone: export it with "
        "dynamic_shapes, ({0: torch.export.Dim('n')},)",
    ),
    ("[Kk]ernel size|too small", _LENGTH),
    ("to have [0-9]+ channels", _CHANNELS),
)
_MISSING = r"missing (?:\d+ required .*arguments?:|value for argument) (.+?)(?:\.\s|$)"


def refusal(member: nn.Module, shape: Sequence[int], error: Exception) -> str | None:
    """What to say of an error of a model; None where its own words are to be heard."""
    text = str(error)
    missing = re.search(_MISSING, text, re.MULTILINE)
    inputs = missing[1] if missing else ", ".join(map(repr, _other_inputs(member)))
    ours = isinstance(error, RuntimeError) or missing or (inputs and "NoneType" in text)
    ours = ours or re.search("incompatible with the layer|Guard failed", text)
    if is_device_error(error) or not ours:
        return None
    advice = next((advice for words, advice in _ADVICE if re.search(words, text)), None)
    if missing or (inputs and advice in (None, _CHANNELS)):
        advice = _INPUTS.format(inputs)
    return (
        f"the model refused sequences of shape {tuple(shape)} (N, 4, L): {text}. "
        f"{advice or _LENGTH}"
    )


def _other_inputs(member: nn.Module) -> list[str]:
    """Arguments that may be inputs, beside the first, of a module's forward or of its parts'."""
    if hasattr(member, "draw") or hasattr(member, "supplied"):  # of MC-dropout, or adapted
        given = getattr(member, "supplied", ())
        return [name for name in _other_inputs(member.module) if name not in given]
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
    advice = "wrap the model in a module that reduces it, or leaves it out"
    if is_tensor and head.ndim < 2:
        advice += " (.squeeze() also takes away an axis of one sequence or feature: name the axis)"
    elif is_tensor and head.ndim == 3 and len(head) == n:
        advice = (
            "where its last axis is positions, adapt(model, reduce='mean') of "
            "deepmr_utils.adapters takes their mean ('sum', 'center' or a function, too)"
        )
    return (
        f"a model must map ({n}, 4, L) to ({n}, K), or to a dict or tuple of such heads; got "
        f"{got}{where}: {advice}"
    )
