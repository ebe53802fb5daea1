"""Models that others made: what they are, what they name, and how a call leaves them."""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import AveragedModel

from ._checks import listed

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# layers that leave the outputs of a network where they are
_SAME_ORDER = (
    *(nn.Identity, nn.Sigmoid, nn.LogSigmoid, nn.Softmax, nn.LogSoftmax, nn.Softplus, nn.ReLU),
    *(nn.Tanh, _DropoutNd),
)

# what a module is, and what it names


def as_module(module: Any) -> nn.Module:
    """A module that computes the same without a wrapper that spreads or compiles it.

    Raises
    ------
    ValueError
        If it has no weights yet.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)  # of torch.compile
        if isinstance(module, _PARALLEL) and "feature_names" not in vars(module):
            module = module.module
        elif isinstance(inner, nn.Module):
            module = inner
        else:
            break
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{type(module).__name__} has no weights yet ({name} takes its shape from the "
                "first input): call it once on a sequence, and train it or load its weights"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{type(module).__name__} holds no numbers ({name} is on the device 'meta'): load "
                "its weights, with load_state_dict(..., assign=True), before it predicts"
            )
    return module


def declared_names(module: nn.Module) -> list[str] | None:
    """Names that a module, or the one that it wraps, gives to its outputs."""
    names = getattr(module, "feature_names", None)
    if names is not None:
        if isinstance(names, str) or not hasattr(names, "__iter__"):
            raise TypeError(
                f"feature_names of {type(module).__name__} must be a list of names; got {names!r}"
            )
        return [str(name) for name in names]
    if isinstance(module, (*_PARALLEL, AveragedModel)):
        return declared_names(module.module)
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):
        return declared_names(module._orig_mod)
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            if not isinstance(layer, _SAME_ORDER):
                return declared_names(layer)
    return None


def match_names(
    labels: Sequence[list[str] | None],
    heads: Sequence[list[str] | None],
    widths: Sequence[int],
    columns: Sequence[int],
    everything: bool,
) -> list[list[int]]:
    """Columns of the same features in every member.

    Parameters
    ----------
    labels : sequence of list of str or None
        Names of each member's outputs, where it has names.
    heads : sequence of list of str or None
        Names after its heads, where it has several.
    widths : sequence of int
        Numbers of outputs.
    columns : sequence of int
        Wanted columns of the first member that has names, or else of the first.
    everything : bool
        Whether all outputs are wanted, so that all must have the same names.
    """
    leader = leading(labels)
    first = labels[leader]
    unnamed = [m for m, names in enumerate(labels) if names is None]
    found = []
    for m, names in enumerate(labels):
        if first is None or unnamed:
            if widths[m] != widths[leader] or names not in (None, first):
                raise ValueError(
                    f"member {m} has the outputs {_outputs(names, widths[m])}, and member {leader} "
                    f"{_outputs(first, widths[leader])}: members must have the same features; "
                    "give all of them feature_names, and they are matched by name"
                )
            found.append(list(columns))
            continue
        wanted = [first[c] for c in columns]
        bad = [n for n in wanted if names.count(n) != 1]
        others = sorted(set(names).symmetric_difference(first)) if everything else []
        if bad or others:
            name = (bad or others)[0]
            raise ValueError(
                f"members must name the same features, each once; {name!r} occurs "
                f"{names.count(name)} times in member {m}, which has {listed(names, name)}, and "
                f"{first.count(name)} times in member {leader}, which has {listed(first, name)}"
            )
        found.append([names.index(n) for n in wanted])
        theirs, ours = heads[m], heads[leader]
        if theirs and ours and sorted(theirs) == sorted(ours):
            by_head = [theirs.index(ours[c]) for c in columns]
            if by_head != found[-1]:
                raise ValueError(
                    f"feature_names of member {m} give its heads {listed(theirs)} other names than "
                    f"those of member {leader}: give the heads one order in all members"
                )
    return found


def leading(labels: Sequence[list[str] | None]) -> int:
    """The member by which the others are matched: the first that has names, or else the first."""
    return next((m for m, names in enumerate(labels) if names is not None), 0)


def _outputs(names: list[str] | None, width: int) -> str:
    return f"{width} without names" if names is None else listed(names)


def leaves(value: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """What is of these kinds in nested tuples, lists and dicts."""
    if isinstance(value, kinds):
        return [value]
    if not isinstance(value, dict | list | tuple):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in leaves(part, kinds)]


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """What `module.state_dict()` holds; some authors write the weights over that method."""
    found: dict[str, Any] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        part._save_to_state_dict(found, f"{prefix}.".removeprefix("."), False)
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):  # extra state
            found[name] = torch.tensor(bytearray(joblib.hash(value).encode()))
    return found


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor's values, for a hash."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


# copies, and what a call leaves behind


def copied(module: Any) -> Any:
    """A deep copy of a module or a list of modules.

    Copies of tensors that carry a gradient, as the old `torch.nn.utils.weight_norm` and layers
    that keep their activations hold them, do not: torch copies no such tensor.
    """
    parts = [module] if isinstance(module, nn.Module) else module
    held = [t for m in parts for p in m.modules() for t in leaves(vars(p), torch.Tensor)]
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in held if not t.is_leaf})


def of_dtype(members: list[nn.Module], dtype: torch.dtype, always: bool = False) -> list[nn.Module]:
    """Members of which all weights have a type: themselves where they have it, or else copies."""
    weights = [p.dtype for member in members for p in member.parameters() if p.is_floating_point()]
    if not always and all(kind == dtype for kind in weights):
        return members
    if any(t.is_complex() for m in members for t in (*m.parameters(), *m.buffers())):
        raise ValueError(
            f"weights are partly complex, and cannot be converted to {dtype}: leave precision out"
        )
    return [member.to(dtype) for member in copied(members)]


@contextmanager
def left_as_they_were(members: Sequence[nn.Module]) -> Iterator[None]:
    """Put modes, devices and buffers of members back, whatever a call makes of them."""
    parts = list({id(part): part for member in members for part in member.modules()}.values())
    modes = [part.training for part in parts]
    buffers = [
        {name: value.detach().clone() for name, value in part.named_buffers(recurse=False)}
        for part in parts
    ]
    homes = [
        next((t.device for t in (*m.parameters(), *m.buffers())), torch.device("cpu"))
        for m in members
    ]
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
        for member, home in zip(members, homes, strict=True):
            member.to(home)
        for part, before in zip(parts, buffers, strict=True):
            for name, now in part.named_buffers(recurse=False):
                _restore(now, before.get(name))


def _restore(now: torch.Tensor, before: torch.Tensor | None) -> None:
    """Undo a change of a buffer; one of another shape is a cache that was made anew."""
    if before is None or now.shape != before.shape or now.dtype != before.dtype:
        return
    if now.layout == torch.strided and not torch.equal(now, before):
        with torch.inference_mode(now.is_inference()), torch.no_grad():
            now.copy_(before)


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Multiply float32 on a GPU in full precision, or in TF32; then as before.

    A switch that has not been set follows the one above it. It is not set here either, as long as
    it follows to the wanted value, so that it goes on following when the call is over.
    """
    backends = torch.backends
    switches, wanted, name = (backends.cuda.matmul, backends.cudnn), tf32, "allow_tf32"
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # since torch 2.9
        switches = (backends, backends.cudnn, backends.cuda.matmul, backends.cudnn.conv)
        switches += (backends.cudnn.rnn,)
        wanted, name = "tf32" if tf32 else "ieee", "fp32_precision"
    changed = []
    try:
        for switch in switches if device.type == "cuda" else ():
            before = getattr(switch, name)
            if before != wanted:
                setattr(switch, name, wanted)
                changed.append((switch, before))
        yield
    finally:
        for switch, before in reversed(changed):
            setattr(switch, name, before)


def is_device_error(error: Exception) -> bool:
    """Whether the device failed or is full: nothing that another way of predicting would mend."""
    kinds = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
    return isinstance(error, kinds) or bool(
        re.search(r"(CUDA|HIP) (driver )?error|CUBLAS_STATUS|CUDNN_STATUS|device-side", str(error))
    )
