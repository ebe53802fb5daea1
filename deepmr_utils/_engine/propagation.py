"""Exact propagation of substitutions: only what a substitution changes is computed again.

A substitution changes one input column. After a convolution the change spans a few positions, after
the next a few more; pooling narrows it again. `Propagator` records the operations of one forward
pass (`recording`) and carries, for every mutant, the window in which it differs from its reference
(`windows`) through them (`layers`). Behind the first dense layer or a global pool everything is
small, and is computed as usual.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from .layers import LAYERS, Dense, is_sum, pointwise, reads_absolute
from .recording import Function, Step, UnsupportedError, narrow_last_layers, record
from .reshaping import reshape
from .windows import Action, Batch, Place, References, Tensor, Window

MIN_SITES = 40  # sites below which matrix products become too small to run at full speed


class Propagator:
    """Predictions for the mutants of one network.

    Parameters
    ----------
    function : callable
        Maps one-hot sequences (N, 4, L) to a list of outputs (N, K); calls `module`.
    module : nn.Module
        In evaluation mode; its parts give their names to messages.
    probe : Tensor (P, 4, L)
        Sequences with which the operations are recorded.
    columns : list of list of int
        Columns wanted of each output; predictions hold them side by side.
    prepared : dict, optional
        Rearranged weights, shared between networks that share weights (draws of dropout masks).
    bfloat16 : bool
        Multiply differences in bfloat16; references, sums and all else keep their type.
    max_memory : float
        Bytes that the activations of the probe may take.

    Raises
    ------
    UnsupportedError
        If the network holds an operation through which differences cannot be carried.
    """

    def __init__(
        self,
        function: Function,
        module: nn.Module,
        probe: Tensor,
        columns: list[list[int]],
        prepared: dict[tuple, Any] | None = None,
        bfloat16: bool = False,
        max_memory: float = math.inf,
    ) -> None:
        recording = record(function, module, probe, max_memory)
        self.recorded = [recording.values[o] for o in recording.outputs]
        self.columns = narrow_last_layers(recording, columns)
        self.order: list[int] | None = None  # of predictions, where not by output
        self.steps, self.outputs, self.values = recording.steps, recording.outputs, recording.values
        self.n_probe, self.length, self.bfloat16 = len(probe), probe.shape[2], bfloat16
        self.shapes: dict[int, tuple[int, int]] = {0: (4, self.length)}
        self.strides: dict[int, int] = {0: 1}
        self.dense: list[Dense] = []
        self._prepared = {} if prepared is None else prepared
        self.wants_absolute: set[int] = set()
        for step in reversed(self.steps):
            passed_on = _is_view(step) and step.outputs[0] in self.wants_absolute
            if reads_absolute(step) or passed_on:
                self.wants_absolute.update(step.inputs)
        reads = Counter(i for step in self.steps for i in step.inputs)
        self.exclusive: set[int] = set()
        for step in self.steps:
            shares = _is_view(step) or (is_sum(step) and len(step.inputs) == 1)
            if not shares or step.inputs[0] in self.exclusive:
                self.exclusive.update(i for i in step.outputs if reads[i] == 1)
        self.actions = [self._compile(step) for step in self.steps]
        if any(o in self.shapes for o in self.outputs):
            raise UnsupportedError("an output has one value a position")
        self._last_use = {i: s for s, step in enumerate(self.steps) for i in step.inputs}
        self._last_use |= {dense.source: len(self.steps) for dense in self.dense}
        # activations, and their position-major copies
        self.bytes_per_sequence = 2 * sum(v.nbytes for v in self.values) // len(probe)
        self.window_bytes = 0  # of a site's largest window, measured
        self.bytes_per_site = 0
        self._dense_outputs = {dense.output for dense in self.dense}
        self.values = []  # the recorded pass is needed no more

    def reference(self, x: Tensor) -> tuple[References, Tensor]:
        """Activations of reference sequences (N, 4, L), and their predictions (N, K)."""
        values = {0: x}
        for step in self.steps:
            step.run(values, len(x), self.n_probe)
        references = References(values, self.shapes, len(x))
        references.predictions = self._gather(values)
        return references, references.predictions

    def mutants(
        self,
        references: References,
        sequence: np.ndarray,
        position: np.ndarray,
        change: Tensor,
        window_bytes: float,
    ) -> Tensor:
        """Predictions for mutants.

        Parameters
        ----------
        references : References
            Of `reference`.
        sequence, position : np.ndarray, int (S,)
            Row among the references, and position, of each mutated site.
        change : Tensor (S, A, 4)
            What each of A alternate alleles adds to the input column.
        window_bytes : float
            About the size of the largest windows of a batch: small enough for the cache of a CPU,
            large enough for fast matrix products.

        Returns
        -------
        Tensor (S, A, K)
        """
        batches: list[Batch] = []
        values: dict[int, Tensor] = {}
        order, groups = self._order(position)
        size = max(1, int(window_bytes / self.window_bytes)) if self.window_bytes else 1
        for start, stop in _ranges(groups, size):
            sites = order[start:stop]
            changes = change[torch.from_numpy(sites).to(change.device)]
            batch = self._carry(references, sequence[sites], position[sites], changes)
            # In one tensor for all sites: a small one a batch, kept among the large windows that
            # are freed, would scatter the heap of the process and multiply its memory.
            for i, value in batch.full.items():
                each = len(value) // len(sites)
                if i not in values:
                    values[i] = value.new_empty(len(order) * each, *value.shape[1:])
                values[i][start * each : stop * each] = value
            batch.full.clear()
            batches.append(batch)
        sites, alleles = change.shape[:2]
        moved = self._head_inputs(batches, references, sequence[order], values)
        for step, action in zip(self.steps, self.actions, strict=True):
            if action is None:
                step.run(values, sites * alleles, self.n_probe)
        predictions = self._gather(values).view(sites, alleles, -1)
        # what no change reaches is the reference itself, whatever the rounding of another batch
        same = references.predictions[torch.from_numpy(sequence[order]).to(change.device)]
        predictions = torch.where(moved[..., None], predictions, same[:, None])
        return predictions[torch.from_numpy(np.argsort(order)).to(change.device)]

    def _order(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An order of sites in which neighbours fall into bins alike, and the sizes of groups."""
        strides = sorted(set(self.strides.values()), reverse=True)
        stride = next((s for s in strides if len(position) >= s * MIN_SITES), 1)
        phase = position % stride
        return np.lexsort((position, phase)), np.bincount(phase, minlength=stride)

    def _carry(
        self, references: References, sequence: np.ndarray, position: np.ndarray, change: Tensor
    ) -> Batch:
        """Carry sites through the windowed layers."""
        batch = Batch(references, sequence)
        start = position.astype(np.int64)
        batch.windows[0] = Window(0, Place(start, 1, self.length), change[None], True)
        for s, (step, action) in enumerate(zip(self.steps, self.actions, strict=True)):
            if action is None:
                continue
            action(batch)
            for i in step.outputs:
                if i in batch.windows:
                    data = batch.windows[i].data
                    size = data.numel() * data.element_size() // len(position)
                    self.window_bytes = max(self.window_bytes, size)
            for i in {*step.inputs, *step.outputs}:
                if self._last_use.get(i, -1) <= s:
                    batch.windows.pop(i, None)
        batch.forget_places()
        return batch

    def _head_inputs(
        self,
        batches: list[Batch],
        references: References,
        sequence: np.ndarray,
        values: dict[int, Tensor],
    ) -> Tensor:
        """Complete values (S * A, ...) where windows end; say which (S, A) differ from references.

        Windows end behind global pools, whose values are given, and dense layers.
        """
        rows = torch.from_numpy(sequence)
        for dense in self.dense:
            windows = [batch.windows[dense.source] for batch in batches]
            differences = [b.difference(w) for b, w in zip(batches, windows, strict=True)]
            values[dense.output] = dense(differences, [w.place for w in windows])
        moved = []
        for i, value in values.items():
            reference = references.values[i][rows.to(value.device)][:, None]
            value = value.view(len(rows), -1, *reference.shape[2:])
            if i in self._dense_outputs:
                moved.append((value != 0).flatten(2).any(2))
                value += reference
            else:
                moved.append((value != reference).flatten(2).any(2))
            values[i] = value.flatten(0, 1)
        # what is held for all sites at once: rows of dense layers twice, and full values
        held = 2 * sum(d.numel() for d in differences) if self.dense else 0
        held += 8 * max(v.numel() for v in values.values())
        self.bytes_per_site = max(self.bytes_per_site, 4 * held // len(sequence))
        return torch.stack(moved).any(0)

    def _gather(self, values: dict[int, Tensor]) -> Tensor:
        parts = zip(self.outputs, self.columns, strict=True)
        joined = torch.cat([values[o] if c is None else values[o][:, c] for o, c in parts], dim=1)
        return joined if self.order is None else joined[:, self.order]

    # what layers need while they are prepared, see `windows.Network`

    def _compile(self, step: Step) -> Action | None:
        """What a step does to windows; None where it works on full values."""
        windowed = [i for i in step.inputs if i in self.shapes]
        if not windowed:
            return None
        if len(windowed) < len(step.inputs):
            raise step.unsupported("joins values by position with values of a whole sequence")
        if step.op._schema.is_mutable and not step.is_pointwise:
            raise step.unsupported("writes in place")
        if step.name in ("addmm", "mm"):
            self.dense.append(Dense(self, step))
            return lambda batch: None
        layer = pointwise if step.is_pointwise else LAYERS.get(step.name)
        if layer is None:
            raise step.unsupported("is not known to be local along the sequence")
        return layer(self, step)

    def declare(self, step: Step, stride: int = 1) -> tuple[int, int]:
        """Note that the output of a step is windowed; its channels and length."""
        output, source = step.outputs[0], step.inputs[0]
        shape = tuple(self.values[output].shape)
        if len(shape) == 2:
            self.shapes[output] = self.shapes[source]
        elif len(shape) == 3 or (len(shape) == 4 and shape[2] == 1):
            self.shapes[output] = (shape[1], shape[-1])
        else:
            raise step.unsupported(f"gives shape {shape}, not (N, C, L) or (N, C, 1, L)")
        self.strides[output] = stride * max(self.strides[i] for i in step.inputs)
        return self.shapes[output]

    def prepare(self, weight: Tensor, key: tuple, make: Callable[[], Any]) -> Any:
        """Make a rearranged form of a weight, once for all networks that share the weight."""
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), weight.dtype, *key)
        if key not in self._prepared:
            self._prepared[key] = (weight, make())  # the weight is kept, so its address is its own
        return self._prepared[key][1]


def _is_view(step: Step) -> bool:
    return LAYERS.get(step.name) is reshape and not step.is_pointwise


def _ranges(groups: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` sites that do not cross the boundary of a group."""
    end = 0
    for group in groups[groups > 0].tolist():
        start, end = end, end + group
        edges = np.linspace(start, end, math.ceil(group / size) + 1).astype(int).tolist()
        yield from itertools.pairwise(edges)
