"""The operations of one forward pass, recorded so that they can be run again on other inputs."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Tensor = torch.Tensor
Function = Callable[[Tensor], list[Tensor]]
# their second argument is a shape, whose first entry is the number of sequences
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "expand")

# pointwise functions that torch does not mark as such
UNTAGGED = ("hardswish", "_prelu_kernel", "logaddexp")


def substitute(value: Any, kinds: type | tuple[type, ...], function: Callable) -> Any:
    """Replace what is of these kinds in nested tuples, lists and dicts."""
    if isinstance(value, kinds):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)([substitute(v, kinds, function) for v in value])
    if isinstance(value, dict):
        return {k: substitute(v, kinds, function) for k, v in value.items()}
    return value


def leaves(value: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """What is of these kinds in nested tuples, lists and dicts."""
    found: list[Any] = []
    substitute(value, kinds, found.append)
    return found


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

    @cached_property
    def constants(self) -> list[Tensor]:
        """Tensors that do not depend on the input."""
        return leaves((self.args, self.kwargs), Tensor)

    @property
    def is_pointwise(self) -> bool:
        """Whether every element of the output depends on the same element of the inputs."""
        return torch.Tag.pointwise in self.op.tags or self.name in UNTAGGED

    @cached_property
    def function(self) -> Callable:
        """The operation, or its form that writes into no argument."""
        if not self.op._schema.is_mutable:
            return self.op
        packet = getattr(torch.ops.aten, self.name, None)
        if packet is None or self.op._overloadname not in packet.overloads():
            raise self.unsupported("writes in place")
        return getattr(packet, self.op._overloadname)

    def unsupported(self, why: str) -> UnsupportedError:
        """An error that names the operation and its module."""
        where = f" in module {self.module!r}" if self.module else ""
        return UnsupportedError(f"{self.name}{where} {why}")

    def run(self, values: dict[int, Tensor], n: int, n_recorded: int) -> None:
        """Run on `values` of n sequences, and add the outputs to them."""
        args, kwargs = substitute((self.args, self.kwargs), Ref, lambda r: values[r.index])
        if self.name in RESHAPES and args[1][0] == n_recorded:
            args = (args[0], [n, *args[1][1:]], *args[2:])
        outputs = leaves(self.function(*args, **kwargs), Tensor)
        values.update(zip(self.outputs, outputs, strict=True))


class _Recorder(TorchDispatchMode):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.values: list[Tensor] = [x]  # kept alive, so that no identity is used twice
        self.index = {id(x): 0}
        self.steps: list[Step] = []
        self.modules = [""]

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        refer = substitute((tuple(args), dict(kwargs or {})), Tensor, self._refer)
        step = Step(op, *refer, self.modules[-1])
        output = op(*args, **(kwargs or {}))
        if step.inputs:
            if leaves(output, (bool, int, float)):
                raise step.unsupported("turns data into a Python value")
            if op._schema.is_mutable and not isinstance(step.args[0], Ref):
                raise step.unsupported("writes into a tensor that does not depend on the input")
            for tensor in leaves(output, Tensor):
                step.outputs.append(len(self.values))
                self.index[id(tensor)] = len(self.values)
                self.values.append(tensor)
            self.steps.append(step)
        return output

    def _refer(self, tensor: Tensor) -> Tensor | Ref:
        index = self.index.get(id(tensor))
        return tensor if index is None else Ref(index)

    def enter(self, name: str) -> None:
        self.modules.append(name)

    def leave(self) -> None:
        self.modules.pop()


@dataclass(eq=False)
class Recording:
    """Steps between an input and outputs, and the values that were seen on the way."""

    steps: list[Step]
    outputs: list[int]
    values: list[Tensor]


def record(function: Function, module: nn.Module, x: Tensor) -> Recording:
    """Record a function of `x`, which calls `module`.

    Parameters
    ----------
    function : callable
        Maps sequences (N, 4, L) to a list of outputs, each (N, ...).
    module : nn.Module
        Its parts give their names to messages.
    x : Tensor (N, 4, L)

    Raises
    ------
    UnsupportedError
        If a Python value is read from data, or an output does not depend on the input.
    """
    with ExitStack() as stack:
        # in inference mode composite operations would not be taken apart
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        x = x.clone()
        recorder = _Recorder(x)
        for name, part in module.named_modules():
            hooks = (
                part.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)),
                part.register_forward_hook(lambda *_: recorder.leave()),
            )
            for hook in hooks:
                stack.callback(hook.remove)
        with recorder:
            outputs = function(x)
    indices = [recorder.index.get(id(output)) for output in outputs]
    if None in indices:
        raise UnsupportedError(f"output {indices.index(None)} does not depend on the sequence")
    needed, steps = set(indices), []
    for step in reversed(recorder.steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            steps.append(step)
    return Recording(steps[::-1], indices, recorder.values)


def narrow_last_layers(recording: Recording, columns: list[list[int]]) -> list[list[int] | None]:
    """Keep only the wanted columns of the dense layers in which outputs end.

    Returns, for each output, the columns still to be chosen: None where that has been done.
    """
    makers = {i: step for step in recording.steps for i in step.outputs}
    uses = [i for step in recording.steps for i in step.inputs] + recording.outputs
    left: list[list[int] | None] = list(columns)
    for k, output in enumerate(recording.outputs):
        step = makers.get(output)
        while step and uses.count(step.outputs[0]) == 1 and len(step.inputs) == 1:
            if step.name in ("addmm", "mm") and isinstance(step.args[-1], Tensor):
                *bias, source, weight = step.args
                bias = [b[..., columns[k]] if b.ndim and b.shape[-1] > 1 else b for b in bias]
                step.args = (*bias, source, weight[:, columns[k]])
                step.__dict__.pop("constants", None)
                left[k] = None
                break
            if not step.is_pointwise or any(c.numel() > 1 for c in step.constants):
                break
            step = makers.get(step.inputs[0])
    return left
