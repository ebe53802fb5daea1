"""What views, crops, padding, and choosing or joining channels do to windows (see `layers`)."""

from typing import Any

import torch

from .recording import Step
from .windows import Action, Batch, Network, Place, Tensor, Window, is_flat, union


def reshape(net: Network, step: Step) -> Action:
    """Views that keep channels and positions apart, and flattening, channel-major."""
    source, output = step.inputs[0], step.outputs[0]
    channels, length = net.shapes[source]
    shape = tuple(net.values[output].shape[1:])
    if shape not in ((channels, length), (channels, 1, length), (channels * length,)):
        raise step.unsupported(f"turns {channels} channels x {length} positions into {shape}")
    net.declare(step)

    def act(batch: Batch) -> None:
        batch.windows[output] = batch.windows[source]

    return act


def crop(net: Network, step: Step) -> Action:
    """Positions from one to another."""
    dim, start, end, *pace = step.args[1:]
    ndim, source = net.values[step.inputs[0]].ndim, step.inputs[0]
    size = net.values[source].shape[dim]
    start, end, _ = slice(start, end).indices(size)
    if (start, end) == (0, size) and pace in ([], [1]):
        return reshape(net, step)
    if dim % ndim != ndim - 1 or ndim == 2 or pace not in ([], [1]):
        raise step.unsupported("takes anything but a range of positions")
    return _move(net, step, start)


def pad(net: Network, step: Step) -> Action:
    """Padding of positions with a constant."""
    sizes = step.args[1]
    if any(sizes[2:]) or is_flat(net, step.inputs[0]):
        raise step.unsupported("pads another dimension than positions")
    return _move(net, step, -sizes[0])


def _move(net: Network, step: Step, start: int) -> Action:
    """A value whose position 0 is position `start` of its source."""
    source, output = step.inputs[0], step.outputs[0]
    _, length = net.declare(step)

    def act(batch: Batch) -> None:
        window = batch.windows[source]
        place = Place(window.place.start - start, window.place.width, length)
        data = place.fill_outside(batch.difference_at(window, window.place), 0)
        batch.windows[output] = Window(output, place, data, True)

    return act


def choose(net: Network, step: Step) -> Action:
    """A choice or permutation of channels."""
    source, output = step.inputs[0], step.outputs[0]
    index: Any = None
    if step.name == "flip":
        if [d % net.values[source].ndim for d in step.args[1]] == [1]:
            index = torch.arange(net.shapes[source][0]).flip(0)
    elif step.name == "index_select":
        index = step.args[2] if step.args[1] == 1 else None
    elif len(step.args[1]) == 2 and step.args[1][0] is None:
        index = step.args[1][1]
    if not isinstance(index, Tensor) or index.ndim != 1 or is_flat(net, source):
        raise step.unsupported("chooses anything but channels")
    net.declare(step)
    index = index.to(net.values[source].device)

    def act(batch: Batch) -> None:
        window = batch.windows[source]
        data = batch.difference(window)[..., index]
        batch.windows[output] = Window(output, window.place, data, True)

    return act


def join(net: Network, step: Step) -> Action:
    """Channels of several values, one after the other."""
    parts, *dim = step.args
    if dim != [1] or len(step.inputs) != len(parts) or is_flat(net, step.inputs[0]):
        raise step.unsupported("joins anything but channels")
    net.declare(step)
    output = step.outputs[0]

    def act(batch: Batch) -> None:
        windows = [batch.windows[i] for i in step.inputs]
        place = union([w.place for w in windows])
        data = torch.cat([batch.difference_at(w, place) for w in windows], dim=3)
        batch.windows[output] = Window(output, place, data, True)

    return act
