"""What a network computes, as a hash: a store is found again only for the same computation."""

import hashlib
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .._members import bytes_of, leaves, state_of
from ..predict import forward
from .recording import BATCH_NORMS, memory_of, substitute

Tensor = torch.Tensor


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
        self.weights = {memory_of(tensor): name for name, tensor in state_of(module).items()}

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
        name = self.weights.get(memory_of(tensor))
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
