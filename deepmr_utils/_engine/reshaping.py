"""What views, crops, padding, and choosing or joining channels do to windows (see `layers`)."""

from typing import Any

import torch

from .recording import Step
from .windows import Action, Batch, Network, Place, Tensor, Window, union


def reshape(net: Network, step: Step) -> Action:
    """Views that keep channels and positions apart, and flattening, channel-major."""
    channels, length = net.shapes[step.inputs[0]]
    shape = tuple(net.values[step.outputs[0]].shape[1:])
    if shape not in ((channels, length), (channels, 1, length), (channels * length,)):
        raise step.unsupported(f"turns {channels} channels x {length} positions into {shape}")
    net.declare(step)
    return lambda batch, window: window


def crop(net: Network, step: Step) -> Action:
    """Positions from one to another."""
    dim, start, end, *pace = step.args[1:]
    like = net.values[step.inputs[0]]
    start, end, _ = slice(start, end).indices(like.shape[dim])
    if (start, end) == (0, like.shape[dim]) and pace in ([], [1]):
        return reshape(net, step)
    if dim % like.ndim != like.ndim - 1 or like.ndim == 2 or pace not in ([], [1]):
        raise step.unsupported("takes anything but a range of positions")
    return _move(net, step, start)


def pad(net: Network, step: Step) -> Action:
    """Padding of positions with a constant."""
    sizes = step.args[1]
    if any(sizes[2:]) or net.is_flat(step.inputs[0]):
        raise step.unsupported("pads another dimension than positions")
    return _move(net, step, -sizes[0])


def _move(net: Network, step: Step, start: int) -> Action:
    """A value whose position 0 is position `start` of its source."""
    _, length = net.declare(step)

    def act(batch: Batch, window: Window) -> Window:
        place = Place(window.place.start - start, window.place.width, length)
        data = place.fill_outside(batch.difference_at(window, window.place), 0)
        return Window(step.outputs[0], place, data)

    return act


def choose(net: Network, step: Step) -> Action:
    """A choice or permutation of channels."""
    source = net.values[step.inputs[0]]
    index: Any = None
    if step.name == "flip":
        if [d % source.ndim for d in step.args[1]] == [1]:
            index = torch.arange(source.shape[1]).flip(0)
    elif step.name == "index_select":
        index = step.args[2] if step.args[1] == 1 else None
    elif len(step.args[1]) == 2 and step.args[1][0] is None:
        index = step.args[1][1]
    if not isinstance(index, Tensor) or index.ndim != 1 or source.ndim == 2:
        raise step.unsupported("chooses anything but channels")
    net.declare(step)
    index = index.to(source.device)

    def act(batch: Batch, window: Window) -> Window:
        return Window(step.outputs[0], window.place, batch.difference(window)[..., index])

    return act


def join(net: Network, step: Step) -> Action:
    """Channels of several values, one after the other."""
    parts, *dim = step.args
    if dim != [1] or len(step.inputs) != len(parts) or net.is_flat(step.inputs[0]):
        raise step.unsupported("joins anything but channels")
    net.declare(step)

    def act(batch: Batch, *windows: Window) -> Window:
        place = union([w.place for w in windows])
        data = torch.cat([batch.difference_at(w, place) for w in windows], dim=3)
        return Window(step.outputs[0], place, data)

    return act
