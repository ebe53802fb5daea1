"""Models that others made: what they are, what they name, and how a call leaves them."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

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
Features = Sequence[str] | Sequence[int] | Mapping[str, int] | None


class Heads(NamedTuple):
    """Outputs of a model: a list of (N, K), and names of all columns where it has several heads.

    `left_out` says of every other head, by its name, why it is no table of features.
    """

    parts: list[torch.Tensor]
    names: list[str] | None
    left_out: dict[str, str]

    @property
    def values(self) -> torch.Tensor:
        """All columns side by side, (N, K)."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)


# what a module is, and what it names


def as_module(module: Any) -> nn.Module:
    """A module that computes the same without a wrapper that spreads or compiles it.

    Raises
    ------
    ValueError
        If it has no weights yet.
    """
    inner = getattr(module, "_orig_mod", None)  # of torch.compile
    if isinstance(module, _PARALLEL) and "feature_names" not in vars(module):
        inner = module.module
    if isinstance(inner, nn.Module):
        return as_module(inner)
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
    if isinstance(names, str) or not (names is None or hasattr(names, "__iter__")):
        raise TypeError(
            f"feature_names of {type(module).__name__} must be a list of names; got {names!r}"
        )
    if names is not None:
        return [str(name) for name in names]
    inner = getattr(module, "_orig_mod", None)  # of torch.compile
    if isinstance(module, (*_PARALLEL, AveragedModel)):
        inner = module.module
    elif isinstance(module, nn.Sequential):
        inner = next((part for part in reversed(module) if not isinstance(part, _SAME_ORDER)), None)
    return declared_names(inner) if isinstance(inner, nn.Module) else None


def find_features(
    members: Sequence[nn.Module], heads: Sequence[Heads], features: Features
) -> tuple[list[str], list[list[int]]]:
    """Names of the requested features, and their output columns in each member.

    Members are matched by the names that they give to their outputs, so that each may have an order
    of its own; outputs without names are matched by their place.
    """
    for h in heads:
        _check_left_out(h, features)
    labels = [declared_names(member) or h.names for member, h in zip(members, heads, strict=True)]
    widths = [sum(part.shape[1] for part in h.parts) for h in heads]
    first = leading(labels)
    names, wanted = resolve_features(members[first:], features, widths[first], heads[first].names)
    if None in labels:
        check_places(labels, widths)
        return names, [wanted] * len(members)
    return names, match_names(labels, [h.names for h in heads], wanted, features is None)


def _check_left_out(heads: Heads, features: Features) -> None:
    """Raise a ValueError where a head is wanted that is no table, or may be."""
    asked = [] if features is None else [f for f in _asked(features) if isinstance(f, str)]
    for name, why in heads.left_out.items():
        if any(f == name or f.startswith(f"{name}:") for f in asked if f not in heads.names):
            raise ValueError(why)
        if not asked:
            names = listed(heads.names, most=5)
            raise ValueError(f"{why}; or give features, the names of what is wanted, of {names}")


def resolve_features(
    members: Sequence[nn.Module],
    features: Features,
    n_outputs: int,
    names: Sequence[str] | None = None,
) -> tuple[list[str], list[int]]:
    """Names and output columns of the requested features.

    ``features`` is None (all outputs), a mapping of name to column, a list of columns, or a list of
    names. Names are looked up in the members' ``feature_names``, else in ``names``, those of the
    heads; where there are none, a list of names must name all outputs in order.
    """
    declared = declared_names(members[0])
    names = names if declared is None else declared
    if names is not None and len(names) != n_outputs:
        raise ValueError(f"the model names {len(names)} features but gives {n_outputs} outputs")
    asked = list(range(n_outputs)) if features is None else _asked(features)
    by_name = bool(asked) and isinstance(asked[0], str)
    if by_name and names is None:
        if len(asked) != n_outputs:
            raise ValueError(
                f"unknown features {asked}: the model has {n_outputs} unnamed outputs; name all "
                "of them, or give a mapping of name to output column"
            )
        names = asked
    unknown = [f for f in asked if names.count(f) != 1] if by_name else []
    if unknown:
        raise ValueError(
            f"{'ambiguous' if unknown[0] in names else 'unknown'} feature {unknown[0]!r}: the "
            f"model has {listed(names, unknown[0])}"
        )
    columns = [names.index(f) for f in asked] if by_name else asked
    beyond = [c for c in columns if not 0 <= c < n_outputs]
    if beyond:
        raise ValueError(f"unknown feature column {beyond[0]}: the model has {n_outputs} outputs")
    chosen = [names[c] if names else str(c) for c in columns]
    chosen = [str(name) for name in features] if isinstance(features, Mapping) else chosen
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"features must be distinct and at least one; got {chosen}")
    return chosen, columns


def _asked(features: Any) -> list[str] | list[int]:
    """Names or columns that are asked for."""
    mapping = isinstance(features, Mapping)
    listing = hasattr(features, "__iter__") and not isinstance(features, str | set | frozenset)
    asked = list(features.values() if mapping else features) if listing else [None]
    whole = [isinstance(f, int | np.integer) and not isinstance(f, bool) for f in asked]
    by_name = not mapping and all(isinstance(f, str) for f in asked)
    if not by_name and not all(whole):
        raise TypeError(
            "features must be a list of names (str) or of columns (int), or a mapping of name to "
            f"column; got {features!r} ({type(features).__name__})"
        )
    return asked if by_name else [int(f) for f in asked]


def leading(labels: Sequence[list[str] | None]) -> int:
    """The member by which the others are matched: the first that has names, or else the first."""
    return next((m for m, names in enumerate(labels) if names is not None), 0)


def check_places(labels: Sequence[list[str] | None], widths: Sequence[int]) -> None:
    """Raise a ValueError where members, of which some have no names, cannot go by place."""
    first = leading(labels)
    for m, names in enumerate(labels):
        if widths[m] != widths[first] or names not in (None, labels[first]):
            theirs, ours = (
                listed(labels[i]) if labels[i] else f"{widths[i]} without names" for i in (m, first)
            )
            raise ValueError(
                f"member {m} has the outputs {theirs}, and member {first} {ours}: members must "
                "have the same features; give all of them feature_names, and they are matched by "
                "name"
            )


def match_names(
    labels: Sequence[list[str]],
    heads: Sequence[list[str] | None],
    columns: Sequence[int],
    everything: bool,
) -> list[list[int]]:
    """Columns of the same features in every member.

    Parameters
    ----------
    labels : sequence of list of str
        Names of each member's outputs.
    heads : sequence of list of str or None
        Names after its heads, where it has several.
    columns : sequence of int
        Wanted columns of the first member.
    everything : bool
        Whether all outputs are wanted, so that all must have the same names.
    """
    ours, found = labels[0], []
    for m, (theirs, head) in enumerate(zip(labels, heads, strict=True)):
        wrong = [ours[c] for c in columns if theirs.count(ours[c]) != 1]
        wrong += sorted(set(theirs).symmetric_difference(ours)) if everything else []
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"members must name the same features, each once; {name!r} occurs "
                f"{theirs.count(name)} times in member {m}, which has {listed(theirs, name)}, and "
                f"{ours.count(name)} times in member 0, which has {listed(ours, name)}"
            )
        found.append([theirs.index(ours[c]) for c in columns])
        by_head = found[-1]
        if head and heads[0] and sorted(head) == sorted(heads[0]):
            by_head = [head.index(heads[0][c]) for c in columns]
        if by_head != found[-1]:
            raise ValueError(
                f"feature_names of member {m} give its heads {listed(head)} other names than "
                "those of member 0: give the heads one order in all members"
            )
    return found


def heads_of(output: Any) -> dict[str, Any]:
    """What a model gives, by head: parts of a nested head are called ``outer:inner``.

    Heads go by their keys, by the fields of a NamedTuple, or by their numbers. A tensor alone, and
    the `logits` of an output of Hugging Face, has the name "".
    """
    if hasattr(output, "logits") and not isinstance(output, tuple):
        output = output.logits
    if isinstance(output, list | tuple):
        fields = getattr(output, "_fields", None) or range(len(output))
        output = dict(zip(fields, output, strict=True))
    if not isinstance(output, Mapping) or not output:
        return {"": output}
    found: dict[str, Any] = {}
    for key, part in output.items():
        for inner, head in heads_of(part).items():
            name = f"{key}:{inner}" if inner else str(key)
            if name in found:
                raise ValueError(f"a model gives two heads of the name {name!r}: rename one")
            found[name] = head
    return found


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


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Draw from a seed on the CPU and on a device; then all generators are as they were.

    `torch.manual_seed` would set those of all GPUs, and leave them so.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


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
    parts = dict.fromkeys(part for member in members for part in member.modules())
    modes = [(part, part.training) for part in parts]
    buffers = [
        (part, name, value.detach().clone())
        for part in parts
        for name, value in part.named_buffers(recurse=False)
    ]
    tensors = [[*member.parameters(), *member.buffers()] for member in members]
    homes = [held[0].device if held else torch.device("cpu") for held in tensors]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for member, home in zip(members, homes, strict=True):
            member.to(home)
        for part, name, before in buffers:
            now = getattr(part, name, None)
            # one of another shape is a cache that was made anew
            alike = now is not None and (now.shape, now.dtype) == (before.shape, before.dtype)
            if alike and now.layout == torch.strided and not torch.equal(now, before):
                with torch.inference_mode(now.is_inference()), torch.no_grad():
                    now.copy_(before)


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Multiply float32 on a GPU in full precision, or in TF32; then as before.

    A switch that has not been set follows the one above it. It is not set here either, as long as
    it follows to the wanted value, so that it goes on following when the call is over.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches, wanted, name = (cuda, cudnn), tf32, "allow_tf32"
    if hasattr(cuda, "fp32_precision"):  # since torch 2.9
        switches = (torch.backends, cudnn, cuda, cudnn.conv, cudnn.rnn)
        wanted, name = "tf32" if tf32 else "ieee", "fp32_precision"
    with ExitStack() as stack:
        for switch in switches if device.type == "cuda" else ():
            before = getattr(switch, name)
            if before != wanted:
                setattr(switch, name, wanted)
                stack.callback(setattr, switch, name, before)
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU was full: the libraries of CUDA say it in errors of their own."""
    full = r"CUDA out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|unable to find an engine"
    return isinstance(error, torch.OutOfMemoryError) or bool(re.search(full, str(error)))


def is_device_error(error: Exception) -> bool:
    """Whether the device failed or is full: nothing that another way of predicting would mend."""
    kinds = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
    words = r"(CUDA|HIP) (driver )?error|CUBLAS_STATUS|CUDNN_STATUS|device-side"
    known = isinstance(error, kinds) or is_out_of_memory(error)
    return known or bool(re.search(words, str(error)))
