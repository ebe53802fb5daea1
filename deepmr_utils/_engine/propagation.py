"""Exact propagation of substitutions: only what a substitution changes is computed again.

A substitution changes one input column. After a convolution the change spans a few positions, after
the next a few more; pooling narrows it again. `Propagator` records the operations of one forward
pass (`recording`) and carries, for every mutant, the window in which it differs from its reference
(`windows`) through them (`layers`). Behind the first dense layer or a global pool everything is
small, and is computed as usual. An operation that is not local along the sequence is computed over
all positions, and so is what follows from it; what comes before is not.
"""

import itertools
import math
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from . import windows
from .fourier import as_convolutions
from .layers import LAYERS, Dense, is_view, pointwise, reads_absolute
from .layout import LayoutError
from .recording import Step, UnsupportedError, narrow_last_layers, record
from .windows import (
    Action,
    Batch,
    Network,
    Options,
    Place,
    References,
    Sites,
    Tensor,
    Window,
    take,
    union,
)

MIN_SITES = 40  # sites below which matrix products become too small to run at full speed
MAX_WHOLE = 2**28  # bytes of values over all positions that are computed at a time
LEAST_SHARE = 0.01  # of the arithmetic: with less, nothing is won by propagation
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
        self.steps = as_convolutions(self.steps, self.outputs, self.values)
        self.columns = narrow_last_layers(self.steps, self.outputs, self.columns)
        self.length = probe.shape[2]
        self.dense: list[Dense] = []
        self._find_uses()
        self.refused: list[UnsupportedError] = []
        self.actions = [self._compile(step) for step in self.steps]
        self._find_whole()
        self._find_needed()
        self._last_use = {i: s for s, step in enumerate(self.steps) for i in step.inputs}
        self._last_use |= {dense.source: len(self.steps) for dense in self.dense}
        self._last_use |= dict.fromkeys((*self.completed, *self.outputs), len(self.steps))
        # activations, and their position-major copies, two for a rectifier
        sizes = {i: self.values[i].nbytes // len(probe) for i in range(len(self.values))}
        ours = sum(3 * size for i, size in sizes.items() if i in self.kept)
        self.whole_bytes = sum(sizes[i] for i in {*self.completed, *self.whole})
        self.bytes_per_sequence = ours + self.whole_bytes
        self.window_bytes = 0  # of a site's largest window, measured
        self.bytes_per_site = 0
        self.values = []  # the recorded pass is needed no more

    def reference(self, x: Tensor) -> tuple[References, Tensor]:
        """Activations of reference sequences (N, 4, L), and their predictions (N, K)."""
        values = {0: x}
        for s, step in enumerate(self.steps):
            step.run(values, len(x))
            for i in {*step.inputs, *step.outputs} - self.kept:
                if self._last_use.get(i, -1) <= s:
                    del values[i]
        predictions = self._gather(values)
        values = {i: value for i, value in values.items() if i in self.kept}
        return References(values, self.layouts, predictions, self.scratch), predictions

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
        size = max(1, int(window_bytes / self.window_bytes)) if self.window_bytes else 1
        order, ranges = self._order(sites.position, size)
        index = windows.on_device(order, sites.change.device)
        sites = Sites(sites.sequence[order], sites.position[order], sites.change[index])
        # values over all positions are large: then each batch is completed by itself
        groups = [[each] for each in ranges] if self.completed else [ranges]
        parts = [self._complete(references, sites, group) for group in groups]
        predictions, moved = (torch.cat(part) for part in zip(*parts, strict=True))
        # what no change reaches is the reference itself, whatever the rounding of another batch
        rows = windows.on_device(sites.sequence, index.device)
        windows.uploaded.cache_clear()
        same = references.predictions[rows][:, None]
        return torch.where(moved[..., None], predictions, same)[index.argsort()]

    def _complete(
        self, references: References, sites: Sites, ranges: Ranges
    ) -> tuple[Tensor, Tensor]:
        """Predictions (S, A, K) of the sites in some ranges, and which (S, A) differ."""
        batches: list[Batch] = []
        values: dict[int, Tensor] = {}
        first, last = ranges[0][0], ranges[-1][1]
        alleles, n = sites.change.shape[1], last - first
        for start, stop in ranges:
            batch = self._carry(references, Sites(*(part[start:stop] for part in sites)))
            # In one tensor for all sites: a small one a batch, kept among the large windows that
            # are freed, would scatter the heap of the process and multiply its memory.
            for i, value in batch.full.items():
                each = len(value) // (stop - start)
                if i not in values:
                    values[i] = value.new_empty(n * each, *value.shape[1:])
                values[i][(start - first) * each : (stop - first) * each] = value
            batch.full.clear()
            batches.append(batch)
        rows = windows.on_device(sites.sequence[first:last], sites.change.device)
        moved = self._head_inputs(batches, references, rows, values)
        if not self.completed:
            return self._finish(values, n * alleles).view(n, alleles, -1), moved
        (batch,), parts = batches, []
        moved = moved | self._moved(batch)
        size = max(1, MAX_WHOLE // (self.whole_bytes * alleles))
        for start in range(0, n, size):
            chosen = slice(start, min(start + size, n))
            part = {i: v.unflatten(0, (n, alleles))[chosen] for i, v in values.items()}
            part = {i: v.flatten(0, 1) for i, v in part.items()}
            part |= {i: self._whole(batch, i, chosen) for i in self.completed}
            parts.append(self._finish(part, (chosen.stop - start) * alleles))
        return torch.cat(parts).view(n, alleles, -1), moved

    def _finish(self, values: dict[int, Tensor], n: int) -> Tensor:
        """Predictions (n, K) of mutants from what windows end in."""
        for s, (step, action) in enumerate(zip(self.steps, self.actions, strict=True)):
            if action is None:
                step.run(values, n)
                for i in {*step.inputs, *step.outputs}:
                    if self._last_use.get(i, -1) <= s:
                        del values[i]
        return self._gather(values)

    def _whole(self, batch: Batch, value: int, chosen: slice) -> Tensor:
        """A windowed value over all positions, for some sites of a batch, (S * A, ...)."""
        window, layout = batch.windows[value], self.layouts[value]
        part = Batch(batch.references, batch.sequence[chosen])
        place = Place(window.place.start[chosen], window.place.width, layout.length)
        data = window.data[:, chosen]
        span = Place(np.zeros_like(place.start), layout.length, layout.length)
        cover = union([place, span])
        data = part.absolute_at(window._replace(place=place, data=data, is_own=False), cover)
        data = take(data, cover.row_of(span), span.width)
        return layout.whole(data.flatten(1, 2))

    def _moved(self, batch: Batch) -> Tensor:
        """Which (S, A) differ from their references in values over all positions."""
        moved = []
        for value in self.completed:
            window = batch.windows[value]
            if window.data.is_floating_point():
                moved.append((batch.difference(window) != 0).any(3).any(0))
            else:
                moved.append(torch.ones(window.data.shape[1:3], dtype=torch.bool))
        return torch.stack(moved).any(0)

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
                for window in result if isinstance(result, list) else [result]:
                    own = window.value in self.exclusive
                    batch.windows[window.value] = window._replace(is_own=own)
                    size = window.data.nbytes // len(start.start)
                    self.window_bytes = max(self.window_bytes, size)
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
                moved.append((value != reference).reshape(*value.shape[:2], -1).any(2))
            values[i] = value.flatten(0, 1)
        # what is held for all sites at once: rows of dense layers twice, and full values
        held += 8 * max((v.numel() for v in values.values()), default=0)
        self.bytes_per_site = max(self.bytes_per_site, 4 * held // len(rows))
        if not moved:
            return rows.new_zeros(len(rows), 1, dtype=torch.bool)
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
        reads.update(self.outputs)
        self.used = set(reads)
        for step in self.steps:
            if not is_view(step) or step.inputs[0] in self.exclusive:
                self.exclusive.update(i for i in step.outputs if reads[i] == 1)

    def _compile(self, step: Step) -> Action | None:
        """What a step does to windows; None where it works on full values."""
        windowed = [i for i in step.inputs if i in self.layouts]
        if not windowed:
            return None
        try:
            if len(windowed) < len(step.inputs):
                raise step.unsupported("joins values by position with values of a whole sequence")
            step.refuse_if(step.op._schema.is_mutable and not step.is_pointwise, "writes in place")
            layer = pointwise if step.is_pointwise else LAYERS.get(step.name)
            step.refuse_if(layer is None, "is not known to be local along the sequence")
            return layer(self, step)
        except (UnsupportedError, LayoutError) as error:
            for value in step.outputs:
                self.layouts.pop(value, None)
            reason = step.unsupported(str(error)) if isinstance(error, LayoutError) else error
            self.refused.append(reason)
            return None

    def _find_whole(self) -> None:
        """Find what is computed over all positions, and what of references is kept."""
        local = [step for step, action in zip(self.steps, self.actions, strict=True) if action]
        others = [step for step, action in zip(self.steps, self.actions, strict=True) if not action]
        read = {*self.outputs, *(i for step in others for i in step.inputs)}
        self.completed = sorted(read.intersection(self.layouts))
        self.whole = {i for step in others for i in step.outputs} if self.completed else set()
        self.kept = {0, *(i for step in local for i in step.outputs)}
        work = [self._work(step) for step in self.steps]
        done = sum(w for w, action in zip(work, self.actions, strict=True) if action)
        # what follows from a dense layer or a global pool is whole, too, and small
        self.share = done / max(1, sum(work))
        if self.completed and self.share < LEAST_SHARE:
            raise (
                self.refused[0]
                if self.refused
                else UnsupportedError("an output has one value a position")
            )

    def _work(self, step: Step) -> int:
        """Multiplications and additions of a step in the recorded pass, about."""
        output = [self.values[i] for i in step.outputs]
        count = flop_registry.get(step.op.overloadpacket)
        if count is None:
            return sum(value.numel() for value in output)
        args, kwargs = step.arguments(self.values, self.n_recorded)
        return count(*args, **kwargs, out_val=output[0])

    def _find_needed(self) -> None:
        """Find which positions of every windowed value are read by later steps."""
        ends = {*self.completed, *(dense.source for dense in self.dense)}
        self.needed = {i: (0, self.layouts[i].length) for i in ends}
        for step, action in reversed(list(zip(self.steps, self.actions, strict=True))):
            if action is None:
                continue
            for output in step.outputs:
                everything = output not in self.layouts and output not in self.reads
                for i in step.inputs:
                    span = (0, self.layouts[i].length)
                    if not everything:
                        if output in self.layouts and output not in self.needed:
                            continue  # nobody reads it
                        read = self.needed.get(output, span)
                        span = self.reads.get(output, lambda read: read)(read)
                    elif output not in self.used:
                        continue
                    old = self.needed.get(i, span)
                    self.needed[i] = (min(old[0], span[0]), max(old[1], span[1]))

    @property
    def summary(self) -> str | None:
        """What is computed over all positions, and what that costs; None where nothing is."""
        n = sum(action is None for action in self.actions)
        if not self.completed or not n:
            return None
        reason = self.refused[0] if self.refused else "an output has one value a position"
        return (
            f"{self.share:.1%} of the arithmetic is done only where a mutant differs; {n} of "
            f"{len(self.steps)} operations, {1 - self.share:.1%}, are done over all positions: "
            f"{reason}"
        )
