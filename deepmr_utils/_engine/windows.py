"""Windows: what a substitution changes of a layer, for many substitutions at once.

A window holds, for S mutated sites with A alternate alleles each, the values of all channels at
`width` consecutive positions. Data are position-major, (width, S, A, channels): whatever the
dilation, one tap of a convolution is then a single matrix product added in place; and the alleles
of a site share one look-up of the reference.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from .._members import float32_products
from .layout import Layout, N, P
from .recording import Recording, Step

Tensor = torch.Tensor


class Sites(NamedTuple):
    """Mutated sites: what each of A alternate alleles adds to the input column of a position."""

    sequence: np.ndarray  # int (S,): row among the references
    position: np.ndarray  # int (S,)
    change: Tensor  # (S, A, 4)


def on_device(index: np.ndarray, device: torch.device) -> Tensor:
    """Indices int (S,) on a device, which is not waited for.

    What differs from other indices by a constant, as the starts of windows of one layer from those
    of the next, is uploaded once, until `uploaded.cache_clear` is called.
    """
    if device.type == "cpu":
        return torch.from_numpy(index)
    first = int(index[0]) if len(index) else 0
    return uploaded((index - first).astype(np.int64).tobytes(), device) + first


@lru_cache(maxsize=32)
def uploaded(index: bytes, device: torch.device) -> Tensor:
    """Indices, given as the bytes of int64, on a device."""
    tensor = torch.from_numpy(np.frombuffer(bytearray(index), np.int64))
    if device.type == "cuda":  # a copy from other memory would wait for all that is computed
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Place:
    """Where windows lie: row i of site s is position ``start[s] + i`` of ``length`` positions.

    Rows may hang over either end; there a difference is 0 and an absolute value undefined.
    """

    def __init__(self, start: np.ndarray, width: int, length: int) -> None:
        self.start, self.width, self.length = start, width, length
        self._clipped: Tensor | None = None

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of every row, int (width, S)."""
        return self.start + np.arange(self.width)[:, None]

    @cached_property
    def outside(self) -> np.ndarray:
        """Flat indices of the rows that hang over an end."""
        return np.flatnonzero((self.positions < 0) | (self.positions >= self.length))

    def _positions_on(self, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return torch.from_numpy(self.positions)
        return torch.arange(self.width, device=device)[:, None] + on_device(self.start, device)

    def clipped(self, device: torch.device) -> Tensor:
        """Positions (width, S) on a device, those outside moved to the nearest end."""
        if self._clipped is None:
            self._clipped = self._positions_on(device).clamp(0, self.length - 1)
        return self._clipped

    def fill_outside(self, data: Tensor, value: float) -> Tensor:
        """Fill the rows that hang over an end, in place."""
        before = min(self.width, max(0, -int(self.start.min())))
        behind = min(self.width, max(0, self.length - int(self.start.max())))
        if before == 0 and behind == self.width:
            return data
        if data.device.type == "cpu":
            rows = torch.from_numpy(self.outside)
            data.view(self.width * len(self.start), -1).index_fill_(0, rows, value)
            return data
        # which rows these are is left to the device: to upload them would take longer
        positions = self._positions_on(data.device)
        outside = ((positions < 0) | (positions >= self.length))[..., None, None]
        for end in (slice(before), slice(max(before, behind), None)):
            data[end].masked_fill_(outside[end], value)
        return data

    def trimmed(self, first: int = 0, stop: int | None = None) -> tuple["Place", int]:
        """The place without leading and trailing rows outside a range for all; first row kept."""
        stop = self.length if stop is None else stop
        low = min(max(0, first - int(self.start.max())), self.width - 1)
        high = max(low + 1, min(self.width, stop - int(self.start.min())))
        return Place(self.start + low, high - low, self.length), low

    def row_of(self, other: "Place") -> np.ndarray | int:
        """Row at which each window of another place starts here; an int if all alike."""
        row = other.start - self.start
        return int(row[0]) if (row == row[0]).all() else row


def union(places: list[Place]) -> Place:
    """The smallest place that holds all of these; one of themselves where possible."""
    start = np.minimum.reduce([p.start for p in places])
    width = int((np.maximum.reduce([p.start + p.width for p in places]) - start).max())
    for place in places:
        if place.width == width and (place.start == start).all():
            return place
    return Place(start, width, places[0].length)


def put(wide: Tensor, data: Tensor, row: np.ndarray | int, accumulate: bool = False) -> Tensor:
    """Copy or add windows into wider ones, from the same row of all or from each site's own."""
    if isinstance(row, int):
        target = wide[row : row + len(data)]
        target.add_(data) if accumulate else target.copy_(data)
        return wide
    rows = _flat_rows(row, *data.shape[:2], wide.device)
    flat = wide.view(wide.shape[0] * wide.shape[1], -1)
    write = flat.index_add_ if accumulate else flat.index_copy_
    write(0, rows, data.reshape(len(rows), -1))
    return wide


def take(data: Tensor, row: np.ndarray | int, width: int) -> Tensor:
    """`width` rows of each window, from the same row of all or from each site's own."""
    if isinstance(row, int):
        return data[row : row + width]
    rows = _flat_rows(row, width, data.shape[1], data.device)
    flat = data.view(data.shape[0] * data.shape[1], -1)
    return flat.index_select(0, rows).view(width, *data.shape[1:])


def _flat_rows(row: np.ndarray, width: int, sites: int, device: torch.device) -> Tensor:
    rows = torch.arange(width, device=device)[:, None] + on_device(row, device)
    return (rows * sites + torch.arange(sites, device=device)).view(-1)


class Window(NamedTuple):
    """Windows (width, S, A, channels) of one value: differences to the reference, or absolute."""

    value: int
    place: Place
    data: Tensor
    is_difference: bool = True
    is_own: bool = False  # read by one step alone, which may overwrite it


class References:
    """Values and predictions (N, K) of N reference sequences."""

    def __init__(
        self, values: dict[int, Tensor], layouts: dict[int, Layout], predictions: Tensor
    ) -> None:
        self.values, self.predictions = values, predictions
        self._layouts, self._tables = layouts, dict[int, Tensor]()
        self._maxima = dict[int, tuple[Tensor, Tensor]]()

    def table(self, value: int) -> Tensor:
        """Reference values by position and sequence, (length * N, channels)."""
        if value not in self._tables:
            table = self._layouts[value].table(self.values[value], len(self.predictions))
            self._tables[value] = table.flatten(0, 1)
        return self._tables[value]

    def running_maxima(self, value: int) -> tuple[Tensor, Tensor]:
        """Largest values before each position, and from it on, (length + 1, N, channels)."""
        if value not in self._maxima:
            layout = self._layouts[value]
            table = self.table(value).view(layout.length, -1, layout.channels)
            edge = table.new_full((1, *table.shape[1:]), -torch.inf)
            before = torch.cat([edge, table.cummax(0).values])
            behind = torch.cat([table.flip(0).cummax(0).values.flip(0), edge])
            self._maxima[value] = before, behind
        return self._maxima[value]


class Batch:
    """Sites that go through the windowed layers together, and their windows by value."""

    def __init__(self, references: References, sequence: np.ndarray) -> None:
        self.references, self.sequence = references, sequence
        self.device = references.predictions.device
        self.windows: dict[int, Window] = {}
        self.full: dict[int, Tensor] = {}
        self._rows: WeakKeyDictionary[Place, Tensor] = WeakKeyDictionary()

    def reference(self, value: int, place: Place) -> Tensor:
        """Reference values (width, S, 1, channels) at a place."""
        table = self.references.table(value)
        if place not in self._rows:
            rows = place.clipped(self.device) * len(self.references.predictions)
            self._rows[place] = rows + on_device(self.sequence, self.device)
        return _look_up(table, self._rows[place])

    def constant(self, table: Tensor, place: Place) -> Tensor:
        """Rows (width, S, 1, channels) of a constant (length, channels)."""
        return _look_up(table, place.clipped(self.device))

    def of_sequences(self, reference: Tensor) -> Tensor:
        """Reference values (N, ...) for every site, (S, 1, ...)."""
        return reference.index_select(0, on_device(self.sequence, self.device))[:, None]

    def difference(self, window: Window) -> Tensor:
        """Differences to the reference at a window's own place."""
        if window.is_difference:
            return window.data
        data = window.data - self.reference(window.value, window.place)
        return window.place.fill_outside(data, 0)

    def difference_at(self, window: Window, place: Place) -> Tensor:
        """Differences at a place that holds the window's; a new tensor, or the window's own."""
        data = self.difference(window)
        if place is window.place:
            return data.clone() if window.is_difference and not window.is_own else data
        return put(data.new_zeros(place.width, *data.shape[1:]), data, place.row_of(window.place))

    def absolute_at(self, window: Window, place: Place, reference: Tensor | None = None) -> Tensor:
        """Absolute values at a place that holds the window's; a new tensor, or the window's own."""
        if place is window.place and not window.is_difference:
            return window.data if window.is_own else window.data.clone()
        if reference is None:
            reference = self.reference(window.value, place)
        if place is window.place:
            return window.data.add_(reference) if window.is_own else window.data + reference
        wide = reference.repeat(1, 1, window.data.shape[2], 1)
        return put(wide, window.data, place.row_of(window.place), window.is_difference)


def _look_up(table: Tensor, rows: Tensor) -> Tensor:
    return table.index_select(0, rows.view(-1)).view(*rows.shape, 1, -1)


# what a step does to windows of its inputs; a tensor is a whole value (S * A, ...)
Action = Callable[..., Window | list[Window] | Tensor | None]
Range = tuple[int, int]
NOT_CHANNELS_FIRST = "works on other axes than (N, C, L)"


class Options(NamedTuple):
    """What engines are told of how to predict."""

    prepared: dict[tuple, Any]  # rearranged weights, shared between networks that share weights
    bfloat16: bool = False  # round the factors of matrix products; all else keeps its type
    max_memory: float = np.inf  # bytes that predictions may take
    tf32: bool = False  # round the factors of products of differences; on a GPU


class Network:
    """What layers know of the network that they are in, and what they tell it.

    Parameters
    ----------
    recording : Recording
    options : Options
    """

    def __init__(self, recording: Recording, options: Options) -> None:
        self.steps, self.outputs, self.values = recording
        self.prepared, self.bfloat16, _, self.tf32 = options
        self.n_recorded, channels, length = self.values[0].shape
        self.device = self.values[0].device
        # of windowed values, and positions of the input between two of theirs
        self.layouts = {0: Layout(((N,), (channels,), (P,)), length)}
        self.strides = {0: 1}
        self.wants_absolute: set[int] = set()  # values of which absolute windows are read
        # positions that a step reads of its input, of those that are read of its output
        self.reads: dict[int, Callable[[Range], Range]] = {}
        self.needed: dict[int, Range] = {}  # positions that are read of a value, see `Propagator`

    def declare(
        self,
        step: Step,
        layout: Layout | None = None,
        stride: int = 1,
        reads: Callable[[Range], Range] | None = None,
        output: int = 0,
    ) -> Layout:
        """Note that an output of a step is windowed; its layout, by default that of the input.

        `reads` says which positions of the input a range of positions of the output needs.
        """
        value = step.outputs[output]
        layout = layout or self.layouts[step.inputs[0]]
        if layout.shape(self.n_recorded) != tuple(self.values[value].shape):
            raise step.unsupported(f"gives shape {tuple(self.values[value].shape)}")
        self.layouts[value] = layout
        self.strides[value] = stride * max(self.strides[i] for i in step.inputs)
        if reads is not None:
            self.reads[value] = reads
        return layout

    def declare_pooled(self, step: Step, kernel: int, stride: int, padding: int) -> tuple[int, int]:
        """Note an output (N, C, L) or (N, C, 1, L) of a kernel along positions; C and L."""
        step.refuse_if(not self.layouts[step.inputs[0]].is_channels_first, NOT_CHANNELS_FIRST)
        shape = tuple(self.values[step.outputs[0]].shape)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[2] != 1):
            raise step.unsupported(f"gives shape {shape}, not (N, C, L) or (N, C, 1, L)")
        channels = (shape[1],) if shape[1] > 1 else ()
        layout = Layout(((N,), channels, *((),) * (len(shape) - 3), (P,)), shape[-1])
        length = self.layouts[step.inputs[0]].length

        def reads(needed: Range) -> Range:
            first, stop = needed
            stop = (stop - 1) * stride + kernel - padding
            return max(0, first * stride - padding), min(length, stop)

        self.declare(step, layout, stride, reads)
        return shape[1], shape[-1]

    def trim(self, place: Place, value: int) -> tuple[Place, int]:
        """A place of a value without the rows that no later step reads; first row kept."""
        return place.trimmed(*self.needed.get(value, (0, place.length)))

    def products(self) -> AbstractContextManager:
        """Products of differences within this may round their factors to TF32, if it is wanted.

        Only there are errors a share of the effects; elsewhere they would be one of predictions.
        """
        return float32_products(self.device, self.tf32)

    def prepare(self, weight: Tensor, key: tuple, make: Callable[[], Any]) -> Any:
        """Make a rearranged form of a weight, once for all networks that share the weight."""
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), weight.dtype, *key)
        if key not in self.prepared:
            self.prepared[key] = (weight, make())  # the weight is kept, so its address is its own
        return self.prepared[key][1]


def last(value: list[int] | int) -> int:
    """A hyperparameter along positions, which may be given for (height, width)."""
    return int(value[-1]) if isinstance(value, list | tuple) else int(value)
