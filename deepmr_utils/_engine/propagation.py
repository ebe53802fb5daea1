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

import numpy as np
import torch
from torch import nn

from . import windows
from .layers import LAYERS, Dense, is_sum, is_view, pointwise, reads_absolute
from .recording import Step, UnsupportedError, narrow_last_layers, record
from .windows import Action, Batch, Network, Options, Place, References, Sites, Tensor, Window

MIN_SITES = 40  # sites below which matrix products become too small to run at full speed
Ranges = list[tuple[int, int]]


class Propagator(Network):
    """Predictions for the mutants of one network.

    Parameters
    ----------
    member : nn.Module
        As `deepmr_utils.predict.forward` takes it, in evaluation mode.
    probe : Tensor (P, 4, L)
        Sequences with which the operations are recorded.
    wanted : list of (int, list of int)
        Heads, and columns of each; predictions hold them side by side.
    options : Options

    Raises
    ------
    UnsupportedError
        If the network holds an operation through which differences cannot be carried.
    """

    def __init__(
        self,
        member: nn.Module,
        probe: Tensor,
        wanted: list[tuple[int, list[int]]],
        options: Options,
    ) -> None:
        heads, self.columns = map(list, zip(*wanted, strict=True))
        super().__init__(record(member, heads, probe, options.max_memory), options)
        self.recorded = self._gather(dict(enumerate(self.values)))
        self.columns = narrow_last_layers(self.steps, self.outputs, self.columns)
        self.n_probe, self.length = len(probe), probe.shape[2]
        self.dense: list[Dense] = []
        self._find_uses()
        self.actions = [self._compile(step) for step in self.steps]
        if any(o in self.shapes for o in self.outputs):
            raise UnsupportedError("an output has one value a position")
        self._last_use = {i: s for s, step in enumerate(self.steps) for i in step.inputs}
        self._last_use |= {dense.source: len(self.steps) for dense in self.dense}
        # activations, and their position-major copies
        self.bytes_per_sequence = 2 * sum(v.nbytes for v in self.values) // len(probe)
        self.window_bytes = 0  # of a site's largest window, measured
        self.bytes_per_site = 0
        self.values = []  # the recorded pass is needed no more

    def reference(self, x: Tensor) -> tuple[References, Tensor]:
        """Activations of reference sequences (N, 4, L), and their predictions (N, K)."""
        values = {0: x}
        for step in self.steps:
            step.run(values, len(x), self.n_probe)
        predictions = self._gather(values)
        return References(values, self.shapes, predictions), predictions

    def mutants(self, references: References, sites: Sites, window_bytes: float) -> Tensor:
        """Predictions for mutants.

        Parameters
        ----------
        references : References
            Of `reference`.
        sites : Sites
        window_bytes : float
            About the size of the largest windows of a batch: small enough for the cache of a CPU,
            large enough for fast matrix products.

        Returns
        -------
        Tensor (S, A, K)
        """
        n, alleles = sites.change.shape[:2]
        size = max(1, int(window_bytes / self.window_bytes)) if self.window_bytes else 1
        order, ranges = self._order(sites.position, size)
        index = windows.on_device(order, sites.change.device)
        sites = Sites(sites.sequence[order], sites.position[order], sites.change[index])
        batches: list[Batch] = []
        values: dict[int, Tensor] = {}
        for start, stop in ranges:
            batch = self._carry(references, Sites(*(part[start:stop] for part in sites)))
            # In one tensor for all sites: a small one a batch, kept among the large windows that
            # are freed, would scatter the heap of the process and multiply its memory.
            for i, value in batch.full.items():
                each = len(value) // (stop - start)
                if i not in values:
                    values[i] = value.new_empty(n * each, *value.shape[1:])
                values[i][start * each : stop * each] = value
            batch.full.clear()
            batches.append(batch)
        rows = windows.on_device(sites.sequence, index.device)
        moved = self._head_inputs(batches, references, rows, values)
        for step, action in zip(self.steps, self.actions, strict=True):
            if action is None:
                step.run(values, n * alleles, self.n_probe)
        windows.uploaded.cache_clear()
        predictions = self._gather(values).view(n, alleles, -1)
        # what no change reaches is the reference itself, whatever the rounding of another batch
        same = references.predictions[rows][:, None]
        return torch.where(moved[..., None], predictions, same)[index.argsort()]

    def _order(self, position: np.ndarray, size: int) -> tuple[np.ndarray, Ranges]:
        """An order of sites in which neighbours fall into bins alike; ranges of at most `size`."""
        strides = sorted(set(self.strides.values()), reverse=True)
        stride = next((s for s in strides if len(position) >= s * MIN_SITES), 1)
        phase = position % stride
        ranges: Ranges = []
        for group in np.unique(phase, return_counts=True)[1]:
            start = ranges[-1][1] if ranges else 0
            edges = np.linspace(start, start + group, math.ceil(group / size) + 1).astype(int)
            ranges += itertools.pairwise(edges.tolist())
        return np.lexsort((position, phase)), ranges

    def _carry(self, references: References, sites: Sites) -> Batch:
        """Carry sites through the windowed layers."""
        batch = Batch(references, sites.sequence)
        start = Place(sites.position.astype(np.int64), 1, self.length)
        batch.windows[0] = Window(0, start, sites.change[None])
        for s, (step, action) in enumerate(zip(self.steps, self.actions, strict=True)):
            if action is None:
                continue
            result = action(batch, *(batch.windows[i] for i in step.inputs))
            if isinstance(result, Tensor):
                batch.full[step.outputs[0]] = result
            elif result is not None:
                own = step.outputs[0] in self.exclusive
                batch.windows[step.outputs[0]] = result._replace(is_own=own)
                self.window_bytes = max(self.window_bytes, result.data.nbytes // len(start.start))
            for i in {*step.inputs, *step.outputs}:
                if self._last_use.get(i, -1) <= s:
                    batch.windows.pop(i, None)
        return batch

    def _head_inputs(
        self, batches: list[Batch], references: References, rows: Tensor, values: dict[int, Tensor]
    ) -> Tensor:
        """Complete values (S * A, ...) where windows end; say which (S, A) differ from references.

        Windows end behind global pools, whose values are given, and dense layers.
        """
        moved, held = [], 0
        for dense in self.dense:
            windows = [batch.windows[dense.source] for batch in batches]
            differences = [b.difference(w) for b, w in zip(batches, windows, strict=True)]
            held = sum(2 * d.numel() for d in differences)
            values[dense.output] = dense(differences, [w.place for w in windows])
        dense_outputs = {dense.output for dense in self.dense}
        for i, value in values.items():
            reference = references.values[i][rows][:, None]
            value = value.view(len(rows), -1, *reference.shape[2:])
            if i in dense_outputs:
                moved.append((value != 0).flatten(2).any(2))
                value += reference
            else:
                moved.append((value != reference).flatten(2).any(2))
            values[i] = value.flatten(0, 1)
        # what is held for all sites at once: rows of dense layers twice, and full values
        held += 8 * max(v.numel() for v in values.values())
        self.bytes_per_site = max(self.bytes_per_site, 4 * held // len(rows))
        return torch.stack(moved).any(0)

    def _gather(self, values: dict[int, Tensor]) -> Tensor:
        parts = zip(self.outputs, self.columns, strict=True)
        return torch.cat([values[o] if c is None else values[o][:, c] for o, c in parts], dim=1)

    def _find_uses(self) -> None:
        """Find values of which absolute windows are read, and those that are read only once."""
        for step in reversed(self.steps):
            passed_on = is_view(step) and step.outputs[0] in self.wants_absolute
            if reads_absolute(step) or passed_on:
                self.wants_absolute.update(step.inputs)
        self.exclusive: set[int] = set()
        reads = Counter(i for step in self.steps for i in step.inputs)
        for step in self.steps:
            shares = is_view(step) or (is_sum(step) and len(step.inputs) == 1)
            if not shares or step.inputs[0] in self.exclusive:
                self.exclusive.update(i for i in step.outputs if reads[i] == 1)

    def _compile(self, step: Step) -> Action | None:
        """What a step does to windows; None where it works on full values."""
        windowed = [i for i in step.inputs if i in self.shapes]
        if not windowed:
            return None
        if len(windowed) < len(step.inputs):
            raise step.unsupported("joins values by position with values of a whole sequence")
        step.refuse_if(step.op._schema.is_mutable and not step.is_pointwise, "writes in place")
        if step.name in ("addmm", "mm"):
            self.dense.append(Dense(self, step))
            return lambda *_: None
        layer = pointwise if step.is_pointwise else LAYERS.get(step.name)
        step.refuse_if(layer is None, "is not known to be local along the sequence")
        return layer(self, step)
