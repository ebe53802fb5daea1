"""What pooling, over bins or over all positions, does to windows (see `layers`)."""

import torch

from .recording import Step
from .windows import Action, Batch, Network, Place, Tensor, Window, last, on_device, take, union


def _pooling(net: Network, step: Step) -> tuple[int, int, int]:
    """Kernel, stride and padding of a pooling step along positions."""
    _, kernel, *rest = step.args
    if net.values[step.inputs[0]].ndim == 4 and isinstance(kernel, list) and kernel[0] != 1:
        raise step.unsupported("pools over more than one row")
    kernel = last(kernel)
    stride = last(rest[0]) if rest and rest[0] else kernel
    return kernel, stride, last(rest[1]) if len(rest) > 1 else 0


def _bins(
    place: Place, kernel: int, stride: int, padding: int, dilation: int, length: int
) -> tuple[Place, Place, Place]:
    """Place of the pooled windows, of the rows that they read, and of these and the windows'."""
    reach = dilation * (kernel - 1)
    first = -((reach - place.start - padding) // stride)  # the ceiling of a quotient
    last = (place.start + place.width - 1 + padding) // stride
    pooled, _ = Place(first, max(1, int((last - first).max()) + 1), length).trimmed()
    width = (pooled.width - 1) * stride + reach + 1
    read = Place(pooled.start * stride - padding, width, place.length)
    return pooled, read, union([read, place])


def _bin_rows(values: Tensor, kernel: int, stride: int, dilation: int, width: int) -> list[Tensor]:
    """Of `width` bins the first rows, the second ones, and so on."""
    span = (width - 1) * stride + 1
    return [values[t * dilation :][:span:stride] for t in range(kernel)]


def max_pool(net: Network, step: Step) -> Action:
    """Maxima of bins, whose unchanged rows come from the reference."""
    kernel, stride, padding = _pooling(net, step)
    rest = step.args[4:]
    dilation = last(rest[0]) if rest else 1
    inside = padding == 0 and not (len(rest) > 1 and rest[1])  # no bin reaches over an end
    _, length = net.declare(step, stride)

    def act(batch: Batch, window: Window) -> Window:
        pooled, read, cover = _bins(window.place, kernel, stride, padding, dilation, length)
        values = batch.absolute_at(window, cover)
        if not inside:
            cover.fill_outside(values, -torch.inf)
        values = take(values, cover.row_of(read), read.width)
        if kernel == stride and dilation == 1:
            data = values.view(pooled.width, kernel, *values.shape[1:]).amax(1)
        else:
            first, *others = _bin_rows(values, kernel, stride, dilation, pooled.width)
            data = first.clone()
            for rows in others:
                torch.maximum(data, rows, out=data)
        return Window(step.outputs[0], pooled, data, is_difference=False)

    return act


def average_pool(net: Network, step: Step) -> Action:
    """Means of bins; linear."""
    kernel, stride, padding = _pooling(net, step)
    _, length = net.declare(step, stride)
    # the divisor depends on options for padding and for the last bin: the step itself, applied to
    # ones, gives the number of valid positions over the divisor
    like = net.values[step.inputs[0]]
    share = step.function(torch.ones_like(like[:1, :1]), *step.args[1:], **step.kwargs).flatten()
    begin = torch.arange(length, device=like.device) * stride - padding
    valid = (begin + kernel).clamp(max=like.shape[-1]) - begin.clamp(min=0)
    factor = (share / valid)[:, None]

    def act(batch: Batch, window: Window) -> Window:
        pooled, read, cover = _bins(window.place, kernel, stride, padding, 1, length)
        values = take(batch.difference_at(window, cover), cover.row_of(read), read.width)
        first, *others = _bin_rows(values, kernel, stride, 1, pooled.width)
        data = first.clone()
        for rows in others:
            data += rows
        data *= batch.constant(factor, pooled)
        return Window(step.outputs[0], pooled, pooled.fill_outside(data, 0))

    return act


def _check_over_positions(net: Network, step: Step) -> None:
    """A reduction must run over all positions, and rows of height 1, and nothing else."""
    ndim = net.values[step.inputs[0]].ndim
    dims = step.args[1] if len(step.args) > 1 else []
    dims = {d % ndim for d in ([dims] if isinstance(dims, int) else dims)}
    if ndim == 2 or ndim - 1 not in dims or not dims <= {2, 3}:
        raise step.unsupported("reduces another dimension than positions")


def global_sum(net: Network, step: Step) -> Action:
    """Sum or mean over positions; linear."""
    _check_over_positions(net, step)
    step.refuse_if(step.kwargs.get("dtype") is not None, "changes the type")
    factor = 1 / net.shapes[step.inputs[0]][1] if step.name == "mean" else 1

    def act(batch: Batch, window: Window) -> Tensor:
        change = batch.difference(window).sum(0).mul_(factor)
        reference = batch.of_sequences(batch.references.values[step.outputs[0]])
        return (reference + change.view(*change.shape[:2], *reference.shape[2:])).flatten(0, 1)

    return act


def global_max(net: Network, step: Step) -> Action:
    """Maximum over positions: of the window, and of the reference before and behind it."""
    if not step.name.startswith("adaptive"):
        _check_over_positions(net, step)
    elif any(size != 1 for size in step.args[1]):
        raise step.unsupported("pools to more than one position")
    source = step.inputs[0]
    length = net.shapes[source][1]
    shape = net.values[step.outputs[0]].shape[1:]

    def act(batch: Batch, window: Window) -> Tensor:
        place = window.place
        values = place.fill_outside(batch.absolute_at(window, place), -torch.inf).amax(0)
        sequence = on_device(batch.sequence, values.device)
        start = on_device(place.start, values.device)
        before, behind = batch.references.running_maxima(source)
        for maxima, row in ((before, start), (behind, start + place.width)):
            chosen = maxima[row.clamp(0, length), sequence]
            values = torch.maximum(values, chosen[:, None])
        return values.view(-1, *shape)

    return act
