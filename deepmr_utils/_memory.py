"""How much memory a device has, and a forward pass takes."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ._members import leaves


def free_memory(device: torch.device) -> float:
    """Bytes of a GPU that may be planned with; without a bound on the CPU."""
    if device.type != "cuda":
        return np.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 0.8 * (torch.cuda.mem_get_info(device)[0] + unused)  # the rest is lost between tensors


def memory_for(wanted: float | None, device: torch.device) -> int:
    """Bytes to use: no more than is wanted or free; by default 2 GiB on the CPU."""
    default = np.inf if device.type == "cuda" else 2**31
    return int(min(default if wanted is None else wanted, free_memory(device)))


class _PeakMemory(TorchDispatchMode):
    """Bytes that the results of operations take at their largest, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.held: WeakKeyDictionary[torch.UntypedStorage, int] = WeakKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = op(*args, **(kwargs or {}))
        given = [t.untyped_storage() for t in leaves((args, kwargs), torch.Tensor)]
        for memory in (tensor.untyped_storage() for tensor in leaves(output, torch.Tensor)):
            if not any(memory is one for one in given):  # no view
                self.held[memory] = memory.nbytes()
        self.peak = max(self.peak, sum(self.held.values()))
        return output


def bytes_per_sequence(forward: Callable[[torch.Tensor], Any], sequence: torch.Tensor) -> int:
    """Memory that a forward pass of one sequence (4, L) takes, attention and scratch included."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation, whose inside would not be seen
    try:
        with _PeakMemory() as memory:
            forward(sequence[None])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    # convolutions and products take about as much again inside, which is not seen
    return 2 * (memory.peak + sequence.nbytes)
