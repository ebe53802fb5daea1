"""The operations of one forward pass, recorded so that they can be run again on other inputs."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .._members import bytes_of, leaves, state_of
from ..predict import forward

Tensor = torch.Tensor
Kinds = type | tuple[type, ...]
# their second argument is a shape, whose first entry is the number of sequences
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "expand")
# pointwise functions that torch does not mark as such
UNTAGGED = ("hardswish", "_prelu_kernel", "logaddexp")
# one operation has other names on other devices
BATCH_NORMS = ("cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training")


def substitute(value: Any, kinds: Kinds, function: Callable) -> Any:
    """Replace what is of these kinds in nested tuples, lists and dicts."""
    if isinstance(value, kinds):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)([substitute(v, kinds, function) for v in value])
    if isinstance(value, dict):
        return {k: substitute(v, kinds, function) for k, v in value.items()}
    return value


class UnsupportedError(Exception):
    """An operation through which differences cannot be carried; says which, where and why."""


@dataclass(frozen=True)
class Ref:
    """A recorded value: a tensor that depends on the input. The input itself is value 0."""

    index: int


@dataclass(eq=False)
class Step:
    """One recorded operation: arguments hold a `Ref` where they depend on the input."""

    op: Any
    args: tuple
    kwargs: dict[str, Any]
    module: str
    outputs: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the operation, without the mark of an in-place one."""
        return self.op.overloadpacket.__name__.removesuffix("_")

    @cached_property
    def inputs(self) -> list[int]:
        """Values that are read."""
        return [v.index for v in leaves((self.args, self.kwargs), Ref)]

    @property
    def constants(self) -> list[Tensor]:
        """Tensors that do not depend on the input."""
        return leaves((self.args, self.kwargs), Tensor)

    @property
    def is_unary(self) -> bool:
        """Whether the first argument alone depends on the input."""
        return len(self.inputs) == 1 and isinstance(self.args[0], Ref)

    @property
    def is_pointwise(self) -> bool:
        """Whether every element of the output depends on the same element of the inputs."""
        # a copy is one, too, and handled as the view that it might as well be
        tagged = torch.Tag.pointwise in self.op.tags or self.name in UNTAGGED
        return tagged and self.name != "clone"

    @cached_property
    def function(self) -> Callable:
        """The operation, or its form that writes into no argument."""
        if not self.op._schema.is_mutable:
            return self.op
        found = overload(self.name, self.op._overloadname)
        self.refuse_if(found is None, "writes in place")
        return found

    def unsupported(self, why: str) -> UnsupportedError:
        """An error that names the operation and its module."""
        return UnsupportedError(f"{self.name}{_within(self.module)} {why}")

    def refuse_if(self, bad: object, why: str) -> None:
        """Raise an `UnsupportedError` where something is so."""
        if bad:
            raise self.unsupported(why)

    def run(self, values: dict[int, Tensor], n: int, n_recorded: int) -> None:
        """Run on `values` of n sequences, and add the outputs to them."""
        args, kwargs = substitute((self.args, self.kwargs), Ref, lambda r: values[r.index])
        if self.name in RESHAPES and args[1][0] == n_recorded:
            args = (args[0], [n, *args[1][1:]], *args[2:])
        outputs = leaves(self.function(*args, **kwargs), Tensor)
        values.update(zip(self.outputs, outputs, strict=True))


def overload(name: str, kind: str) -> Callable | None:
    """An operation of torch by the name of its overload, if there is one."""
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, kind) if packet and kind in packet.overloads() else None


def _within(module: str) -> str:
    return f" in module {module!r}" if module else ""


def _memory(tensor: Tensor) -> int:
    """What tensors have in common that are views of each other."""
    return tensor.untyped_storage()._cdata


class _Recorder(TorchDispatchMode):
    """Follows tensors by identity, and notices when one is written through another of its memory.

    `index` is the value that a tensor holds: None once its memory was written through another
    tensor (its base, or a view), because no step says what it holds then.
    """

    def __init__(self, x: Tensor, max_memory: float) -> None:
        super().__init__()
        self.room = max_memory
        self.values: list[Tensor] = [x]  # kept alive, so that no identity is used twice
        self.index: dict[int, int | None] = {id(x): 0}
        self.sharing: dict[int, set[int]] = {_memory(x): {id(x)}}  # tensors by their memory
        self.read: set[int] = set()  # memory of constants that steps read
        self.steps: list[Step] = []
        self.modules = [""]

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refer = substitute((tuple(args), dict(kwargs)), Tensor, self._refer)
        step = Step(op, *refer, self.modules[-1])
        named = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        names = [a.name for a in op._schema.arguments if a.alias_info and a.alias_info.is_write]
        written = leaves([named.get(name) for name in names], Tensor)
        if not step.inputs:
            if any(_memory(tensor) in self.read for tensor in written):
                raise step.unsupported("changes a constant that was read before")
            return op(*args, **kwargs)
        first = op._schema.arguments[0].name
        if names and (names != [first] or not isinstance(step.args[0], Ref)):
            raise step.unsupported("writes into another argument than its first, or a constant")
        output = op(*args, **kwargs)
        step.refuse_if(leaves(output, (bool, int, float)), "turns data into a Python value")
        for tensor in written:
            self.index.update(dict.fromkeys(self.sharing[_memory(tensor)]))
        for tensor in leaves(output, Tensor):
            self._follow(tensor, step)
        self.read.update(map(_memory, step.constants))
        self.steps.append(step)
        return output

    def _follow(self, tensor: Tensor, step: Step) -> None:
        sharing = self.sharing.setdefault(_memory(tensor), set())
        self.room -= 0 if sharing else tensor.nbytes
        step.refuse_if(self.room < 0, "would take more than max_memory, with what is before it")
        sharing.add(id(tensor))
        step.outputs.append(len(self.values))
        self.index[id(tensor)] = len(self.values)
        self.values.append(tensor)

    def _refer(self, tensor: Tensor) -> Tensor | Ref:
        return Ref(self.value_of(tensor)) if id(tensor) in self.index else tensor

    def value_of(self, tensor: Tensor) -> int:
        """Value that a followed tensor holds."""
        index, where = self.index[id(tensor)], _within(self.modules[-1])
        if index is None:
            raise UnsupportedError(f"a tensor{where} is read after a view of it was written")
        return index

    def leave(self, *_: Any) -> None:
        """Go back to the module around this one."""
        self.modules.pop()


# steps between an input and outputs, and the values that were seen on the way
Recording = tuple[list[Step], list[int], list[Tensor]]
Columns = list[list[int] | None]


def record(member: nn.Module, heads: list[int], x: Tensor, max_memory: float) -> Recording:
    """Record what a member does with sequences.

    Parameters
    ----------
    member : nn.Module
        As `deepmr_utils.predict.forward` takes it; its parts give their names to messages.
    heads : list of int
        Outputs.
    x : Tensor (N, 4, L)
    max_memory : float
        Bytes that the values on the way may take.

    Raises
    ------
    UnsupportedError
        If a Python value is read from data, or an output does not depend on the input.
    """
    # in inference mode composite operations would not be taken apart
    with ExitStack() as stack, torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        recorder = _Recorder(x, max_memory)
        for name, part in member.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):  # takes no hooks
                enter = lambda *_, name=name: recorder.modules.append(name)  # noqa: E731
                stack.callback(part.register_forward_pre_hook(enter).remove)
                stack.callback(part.register_forward_hook(recorder.leave).remove)
        with recorder:
            parts = forward(member, x).parts
    outputs = [parts[head] for head in heads]
    for k, output in enumerate(outputs):
        if id(output) not in recorder.index:
            same = torch.equal(output, output[:1].expand_as(output))
            why = "does not depend on the sequence" if same else "is computed outside torch"
            raise UnsupportedError(f"output {k} {why}")
    indices = [recorder.value_of(output) for output in outputs]
    needed, steps = set(indices), []
    for step in reversed(recorder.steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            steps.append(step)
    return steps[::-1], indices, recorder.values


class _Trace(TorchDispatchMode):
    """Digests every operation on the input: its name, its numbers, and the values that it reads.

    Tensors are named by the operation that gave them, weights by their names in the module (their
    values are hashed elsewhere), and all others, which depend neither on the input nor are weights,
    by their values; so it does not matter whether a mask is made at each call or kept.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self.labels, self.kept = {id(x): "input"}, [x]
        self.weights = {_memory(tensor): name for name, tensor in state_of(module).items()}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (tuple(args), dict(kwargs or {}))
        depends = any(id(tensor) in self.labels for tensor in leaves(given, Tensor))
        if depends:
            name = op.overloadpacket.__name__
            self.add(("native_batch_norm" if name in BATCH_NORMS else name, given))
        output = op(*args, **given[1])
        if depends:
            for k, tensor in enumerate(leaves(output, Tensor)):
                self.labels[id(tensor)] = f"{len(self.kept)}.{k}"
            self.kept.append(output)  # alive, so that no identity is used twice
        return output

    def add(self, value: Any) -> None:
        """Digest nested tuples, lists and dicts."""
        value = substitute(value, (torch.device, torch.Generator), lambda _: "")
        self.digest.update(repr(substitute(value, Tensor, self._label)).encode())

    def _label(self, tensor: Tensor) -> str:
        if id(tensor) in self.labels:
            return self.labels[id(tensor)]
        form = (str(tensor.dtype), tuple(tensor.shape))
        name = self.weights.get(_memory(tensor))
        if name is not None:
            return repr((name, *form, tensor.stride(), tensor.storage_offset()))
        return repr((*form, hashlib.sha256(bytes_of(tensor)).hexdigest()))


def computation_hash(member: nn.Module, x: Tensor) -> str:
    """SHA-256 of what a member does with a sequence: operations, in order, and their constants.

    Parameters
    ----------
    member : nn.Module
        Its weights are told from constants; the hash does not depend on their values.
    x : Tensor (N, 4, L)
        Operations may depend on the shape.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        with _Trace(member, x) as trace:
            outputs = forward(member, x).parts
    trace.add(outputs)
    return trace.digest.hexdigest()


def narrow_last_layers(steps: list[Step], outputs: list[int], columns: Columns) -> Columns:
    """Keep only the wanted columns of the dense layers in which outputs end.

    Returns, for each output, the columns still to be chosen: None where that has been done.
    """
    makers = {i: step for step in steps for i in step.outputs}
    uses = [i for step in steps for i in step.inputs] + outputs
    left = list(columns)
    for k, output in enumerate(outputs):
        step = makers.get(output)
        while step and uses.count(step.outputs[0]) == 1 and len(step.inputs) == 1:
            if step.name in ("addmm", "mm") and isinstance(step.args[-1], Tensor):
                *bias, source, weight = step.args
                bias = [b[..., columns[k]] if b.ndim and b.shape[-1] > 1 else b for b in bias]
                step.args, left[k] = (*bias, source, weight[:, columns[k]]), None
                break
            if not step.is_pointwise or any(c.numel() > 1 for c in step.constants):
                break
            step = makers.get(step.inputs[0])
    return left
