"""What views, crops, padding, and choosing or joining channels do to windows (see `layers`)."""

import torch

from . import channels
from .layout import Layout, N, P
from .pooling import bins
from .recording import PerSequence, Ref, Step
from .windows import Action, Batch, Network, Place, Range, Tensor, Window, on_device, take, union

RESHAPES = (
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "expand"),
    *("squeeze", "unsqueeze", "clone", "detach", "alias", "lift_fresh"),
)
# operations whose windows may lie in the memory of the windows that they read
VIEWS = (*RESHAPES, "permute", "transpose", "t", "slice", "select")


def reshape(net: Network, step: Step) -> Action:
    """Views: axes taken apart and put together, positions gathered in bins."""
    source = net.layouts[step.inputs[0]]
    shape, before = tuple(net.values[step.outputs[0]].shape), source.shape(net.n_recorded)
    if step.name == "expand" and shape != before:
        return _expand(net, step, shape)
    layout, size = source.viewed(shape, net.n_recorded)
    step.refuse_if(size > 256, f"puts {size} positions together")
    if size == 1:
        net.declare(step, layout)
        return lambda batch, window: window._replace(value=step.outputs[0])
    net.declare(step, layout, size, lambda read: (read[0] * size, read[1] * size))
    left, right = source.split

    def act(batch: Batch, window: Window) -> Window:
        output = step.outputs[0]
        place, read, cover = bins(net, window.place, (size, size, 0, 1), output)
        data = take(batch.difference_at(window, cover), cover.row_of(read), read.width)
        data = data.view(place.width, size, *data.shape[1:3], left, right)
        data = data.permute(0, 2, 3, 4, 1, 5).flatten(3)
        return Window(output, place, place.fill_outside(data, 0))

    return act


def _expand(net: Network, step: Step, shape: tuple[int, ...]) -> Action:
    """One channel in place of many."""
    source = net.layouts[step.inputs[0]]
    step.refuse_if(len(shape) != len(source.axes), "adds an axis")
    before = source.shape(net.n_recorded)
    sizes = {d: size for d, size in enumerate(shape) if size != before[d]}
    layout = net.declare(step, source.replaced(sizes))
    inner, narrow = layout.inner(), source.inner()

    def act(batch: Batch, window: Window) -> Window:
        data = window.data.reshape(*window.data.shape[:3], *narrow)
        data = data.expand(*data.shape[:3], *inner).flatten(3)
        return window._replace(value=step.outputs[0], data=data.contiguous())

    return act


def permute(net: Network, step: Step) -> Action:
    """Axes in another order."""
    source = net.layouts[step.inputs[0]]
    ndim = len(source.axes)
    order = list(range(ndim))
    if step.name == "permute":
        order = [d % ndim for d in step.args[1]]
    else:
        a, b = step.args[1:] if step.name == "transpose" else (0, ndim - 1)
        order[a % ndim], order[b % ndim] = b % ndim, a % ndim
    layout, moved = source.permuted(order)
    net.declare(step, layout)
    if moved is None:
        return lambda batch, window: window._replace(value=step.outputs[0])
    sizes = source.channel_factors()

    def act(batch: Batch, window: Window) -> Window:
        data = window.data.reshape(*window.data.shape[:3], *sizes)
        data = data.permute(0, 1, 2, *(3 + m for m in moved)).flatten(3)
        return window._replace(value=step.outputs[0], data=data)

    return act


def crop(net: Network, step: Step) -> Action:
    """A range of an axis, in steps, or one place of it."""
    source = net.layouts[step.inputs[0]]
    shape = source.shape(net.n_recorded)
    axis = step.args[1] % len(shape)
    if step.name == "select":
        first = step.args[2] % shape[axis]
        if source.axes[axis] == (P,):
            return _at(net, step, torch.tensor([first]), axis, keep=False)
        return channels.linear(net, step, [axis])
    start, end, pace = (*step.args[2:], None, None, None)[:3]
    start, end, pace = slice(start, end, pace or step.kwargs.get("step", 1)).indices(shape[axis])
    if (start, end, pace) == (0, shape[axis], 1):
        return reshape(net, step)
    if P not in source.axes[axis]:
        return channels.linear(net, step, [axis])
    step.refuse_if(source.axes[axis] != (P,), "takes a part of positions beside channels")
    if pace == 1:
        return _move(net, step, start)
    return _paced(net, step, start, pace)


def _paced(net: Network, step: Step, start: int, pace: int) -> Action:
    """Every so many positions."""
    source, output = net.layouts[step.inputs[0]], step.outputs[0]
    length = net.values[output].shape[source.position_axis]
    net.declare(
        step,
        Layout(source.axes, length),
        pace,
        lambda read: (start + read[0] * pace, start + (read[1] - 1) * pace + 1),
    )

    def act(batch: Batch, window: Window) -> Window:
        place, read, cover = bins(net, window.place, (1, pace, -start, 1), output)
        data = take(batch.difference_at(window, cover), cover.row_of(read), read.width)[::pace]
        return Window(output, place, place.fill_outside(data.contiguous(), 0))

    return act


def _at(net: Network, step: Step, index: Tensor, axis: int, keep: bool) -> Action:
    """Some positions, complete: what is read at a place, or at a few."""
    source, output = step.inputs[0], step.outputs[0]
    layout, chosen = net.layouts[source], index.tolist()
    net.reads[output] = lambda _: (min(chosen), max(chosen) + 1)
    layout.columns(1)  # or it refuses

    def act(batch: Batch, window: Window) -> Tensor:
        place, change = window.place, batch.difference(window)
        rows = on_device(place.start, change.device)
        parts = []
        for position in chosen:
            row = position - rows
            inside = (row >= 0) & (row < place.width)
            row = row.clamp(0, place.width - 1)
            part = change[row, torch.arange(len(rows), device=row.device)]
            part = part * inside[:, None, None]  # (S, A, channels)
            parts.append(part.reshape(layout.columns(part.shape[0] * part.shape[1])))
        value = torch.cat(parts, dim=axis) if keep else parts[0].squeeze(axis)
        reference = batch.of_sequences(batch.references.values[output])
        return (reference + value.reshape(len(reference), -1, *reference.shape[2:])).flatten(0, 1)

    return act


def pad(net: Network, step: Step) -> Action:
    """Padding of positions with a constant."""
    sizes, source = step.args[1], net.layouts[step.inputs[0]]
    padded = len(source.axes) - 1 - source.position_axis
    others = [s for k, s in enumerate(sizes) if k // 2 != padded]
    step.refuse_if(any(others), "pads another dimension than positions")
    step.refuse_if(source.axes[source.position_axis] != (P,), "pads positions beside channels")
    return _move(net, step, -sizes[2 * padded])


def _move(net: Network, step: Step, start: int) -> Action:
    """A value whose position 0 is position `start` of its source."""
    source = net.layouts[step.inputs[0]]
    length = net.values[step.outputs[0]].shape[source.position_axis]

    def reads(needed: Range) -> Range:
        first, stop = (min(max(0, at + start), source.length) for at in needed)
        return first, max(stop, min(first + 1, source.length))

    net.declare(step, Layout(source.axes, length), reads=reads)

    def act(batch: Batch, window: Window) -> Window:
        place = Place(window.place.start - start, window.place.width, length)
        place, low = net.trim(place, step.outputs[0])
        data = batch.difference(window)[low : low + place.width]
        return Window(step.outputs[0], place, place.fill_outside(data.clone(), 0))

    return act


def flip(net: Network, step: Step) -> Action:
    """Channels or positions, or both, in reverse: the reverse complement, for one."""
    source = net.layouts[step.inputs[0]]
    axes = {axis % len(source.axes) for axis in step.args[1]}
    along = source.position_axis in axes
    step.refuse_if(along and source.axes[source.position_axis] != (P,), "flips more than positions")
    step.refuse_if(any(N in source.axes[axis] for axis in axes), "flips sequences")
    length = source.length
    net.declare(step, reads=(lambda read: (length - read[1], length - read[0])) if along else None)

    def act(batch: Batch, window: Window) -> Window:
        data, place = batch.difference(window), window.place
        columns = data.reshape(source.columns(data.shape[:3].numel()))
        data = columns.flip(tuple(axes)).reshape(data.shape)  # one position is flipped in place
        if along:
            place = Place(length - place.start - place.width, place.width, length)
            data = data.flip(0)
        return Window(step.outputs[0], place, data)

    return act


def choose(net: Network, step: Step) -> Action:
    """A choice or permutation of channels, or some positions."""
    source = net.layouts[step.inputs[0]]
    if step.name == "index_select":
        axis, index = step.args[1] % len(source.axes), step.args[2]
    else:
        given = [(d, i) for d, i in enumerate(step.args[1]) if i is not None]
        (axis, index), *more = given
        step.refuse_if(more, "chooses along two axes at once")
    fits = isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.int64
    step.refuse_if(not fits, "chooses anything but places by their numbers")
    if source.axes[axis] == (P,):
        return _at(net, step, index % source.length, axis, keep=True)
    return channels.linear(net, step, [axis])


def join(net: Network, step: Step) -> Action:
    """Channels of several values, one after the other; or positions, beside constant ones."""
    parts, *rest = step.args
    source = net.layouts[step.inputs[0]]
    axis = (rest[0] if rest else step.kwargs.get("dim", 0)) % len(source.axes)
    if source.axes[axis] == (P,):
        windowed = [k for k, part in enumerate(parts) if isinstance(part, Ref)]
        step.refuse_if(len(windowed) > 1, "joins positions of several values")
        before = [p.block if isinstance(p, PerSequence) else p for p in parts[: windowed[0]]]
        return _move(net, step, -sum(part.shape[axis] for part in before))
    layouts = [net.layouts[p.index] if isinstance(p, Ref) else None for p in parts]
    forms = {_without(layout, axis) for layout in layouts if layout}
    step.refuse_if(len(forms) > 1, "joins values of different shapes")
    step.refuse_if({N, P} & {*source.axes[axis]}, "joins sequences or positions")
    layout = source.replaced({axis: net.values[step.outputs[0]].shape[axis]})
    net.declare(step, layout)
    source.columns(1)  # or it refuses

    def act(batch: Batch, *windows: Window) -> Window:
        place = union([w.place for w in windows])
        wide = [batch.difference_at(w, place) for w in windows]
        wide = dict(zip(step.inputs, wide, strict=False))
        like = next(iter(wide.values()))
        columns = []
        for part, own in zip(parts, layouts, strict=True):
            if own:
                columns.append(wide[part.index].reshape(own.columns(like.shape[:3].numel())))
            else:  # a constant does not change
                shape = list(source.columns(like.shape[:3].numel()))
                shape[axis] = (part.block if isinstance(part, PerSequence) else part).shape[axis]
                columns.append(like.new_zeros(shape))
        data = torch.cat(columns, dim=axis).reshape(*like.shape[:3], -1)
        return Window(step.outputs[0], place, data)

    return act


def _without(layout: Layout, axis: int) -> tuple:
    """Axes but one, and the length."""
    return (*layout.axes[:axis], *layout.axes[axis + 1 :], layout.length)
