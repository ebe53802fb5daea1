"""The operations of one forward pass, recorded so that they can be run again on other inputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .._members import leaves
from ..predict import forward

Tensor = torch.Tensor
Kinds = type | tuple[type, ...]
# pointwise functions that torch does not mark as such
UNTAGGED = ("hardswish", "_prelu_kernel", "logaddexp", "_to_copy")
# what they give depends on the shape of their argument alone
MAKERS = {
    *("zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
}
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


@dataclass(frozen=True)
class Rows:
    """A number that is `each` times the number of sequences: part of a shape, mostly."""

    each: int


@dataclass(frozen=True)
class PerSequence:
    """A constant that is the same for each sequence: `block`, once for every one along `dim`."""

    block: Tensor
    dim: int

    def whole(self, n: int) -> Tensor:
        """The constant for n sequences."""
        times = [1] * self.block.ndim
        times[self.dim] = n
        # a copy: some kernels take it for granted that memory has no gaps and no repeats
        return self.block.repeat(times)


@dataclass(eq=False)
class Step:
    """One recorded operation: arguments hold a `Ref` where they depend on the input.

    What depends on the number of sequences is held as `Rows` and `PerSequence`.
    """

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
        """Tensors that do not depend on the input, for one sequence."""
        return leaves(self.of_one_sequence, Tensor)

    @property
    def of_one_sequence(self) -> tuple[tuple, dict[str, Any]]:
        """Arguments in which constants are those of one sequence."""
        return substitute((self.args, self.kwargs), PerSequence, lambda c: c.block)

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
        """The operation, or its form that writes into no argument; views may then be copies."""
        if self.name in ("view", "_unsafe_view") and self.op._overloadname == "default":
            return torch.ops.aten.reshape.default
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

    def arguments(
        self, values: Mapping[int, Tensor] | Sequence[Tensor], n: int
    ) -> tuple[tuple, dict[str, Any]]:
        """Arguments for `values` of n sequences."""

        def fill(leaf: Ref | Rows | PerSequence) -> Any:
            if isinstance(leaf, Ref):
                return values[leaf.index]
            return leaf.each * n if isinstance(leaf, Rows) else leaf.whole(n)

        return substitute((self.args, self.kwargs), (Ref, Rows, PerSequence), fill)

    def run(self, values: dict[int, Tensor], n: int) -> None:
        """Run on `values` of n sequences, and add the outputs to them."""
        args, kwargs = self.arguments(values, n)
        outputs = leaves(self.function(*args, **kwargs), Tensor)
        values.update(zip(self.outputs, outputs, strict=True))

    def compare(self, other: "Step", n: int, m: int) -> None:
        """Find what depends on the number of sequences: n here, m in another recording."""
        mine, form = tree_flatten((self.args, self.kwargs))
        theirs, other_form = tree_flatten((other.args, other.kwargs))
        self.refuse_if(form != other_form, "takes other arguments for fewer sequences")
        pairs = zip(mine, theirs, strict=True)
        merged = [a if _same(a, b) else self._scaled(a, b, n, m) for a, b in pairs]
        self.args, self.kwargs = tree_unflatten(merged, form)

    def _scaled(self, a: Any, b: Any, n: int, m: int) -> Rows | PerSequence:
        if type(a) is type(b) is int and a % n == 0 and a * m == b * n:
            return Rows(a // n)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim == b.ndim:
            dims = [d for d in range(a.ndim) if a.shape[d] != b.shape[d]]
            if len(dims) == 1 and a.shape[dims[0]] * m == b.shape[dims[0]] * n:
                blocks = a.split(a.shape[dims[0]] // n, dims[0])
                if all(torch.equal(block, blocks[0]) for block in blocks):
                    return PerSequence(blocks[0], dims[0])
        raise self.unsupported("depends on the number of sequences")


def _same(a: Any, b: Any) -> bool:
    """Whether an argument is the same in two recordings."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = (a.shape, a.dtype) == (b.shape, b.dtype)
        one = alike and (a.data_ptr(), a.stride()) == (b.data_ptr(), b.stride())
        return one or (alike and torch.equal(a, b))
    return type(a) is type(b) and (a == b or a != a)


def overload(name: str, kind: str) -> Callable | None:
    """An operation of torch by the name of its overload, if there is one."""
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, kind) if packet and kind in packet.overloads() else None


def _within(module: str) -> str:
    return f" in module {module!r}" if module else ""


def memory_of(tensor: Tensor) -> int:
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
        self.sharing: dict[int, set[int]] = {memory_of(x): {id(x)}}  # tensors by their memory
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
        if not step.inputs or step.name in MAKERS:
            if any(memory_of(tensor) in self.read for tensor in written):
                raise step.unsupported("changes a constant that was read before")
            return op(*args, **kwargs)
        first = op._schema.arguments[0].name
        if names and (names != [first] or not isinstance(step.args[0], Ref)):
            raise step.unsupported("writes into another argument than its first, or a constant")
        output = op(*args, **kwargs)
        step.refuse_if(leaves(output, (bool, int, float)), "turns data into a Python value")
        for tensor in written:
            self.index.update(dict.fromkeys(self.sharing[memory_of(tensor)]))
        for tensor in leaves(output, Tensor):
            self._follow(tensor, step)
        self.read.update(map(memory_of, step.constants))
        self.steps.append(step)
        return output

    def _follow(self, tensor: Tensor, step: Step) -> None:
        sharing = self.sharing.setdefault(memory_of(tensor), set())
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
    """Record what a member does with sequences, in two passes of different numbers of them.

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
    fewer = _record(member, heads, x[:-1], max_memory)[0]
    steps, outputs, values = _record(member, heads, x, max_memory)
    if [step.op for step in fewer] != [step.op for step in steps]:
        raise UnsupportedError("the model does other operations for another number of sequences")
    for step, other in zip(steps, fewer, strict=True):
        step.compare(other, len(x), len(x) - 1)
    return steps, outputs, values


def _record(member: nn.Module, heads: list[int], x: Tensor, max_memory: float) -> Recording:
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
                if any(isinstance(b, PerSequence) for b in bias):
                    break
                bias = [b[..., columns[k]] if b.ndim and b.shape[-1] > 1 else b for b in bias]
                step.args, left[k] = (*bias, source, weight[:, columns[k]]), None
                break
            if not step.is_pointwise or any(c.numel() > 1 for c in step.constants):
                break
            step = makers.get(step.inputs[0])
    return left
