"""What pooling, over bins or over all positions, does to windows (see `layers`)."""

import torch

from .layout import Layout, N
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


Bins = tuple[int, int, int, int]  # kernel, stride, padding and dilation


def bins(net: Network, place: Place, sizes: Bins, output: int) -> tuple[Place, Place, Place]:
    """Place of the pooled windows, of the rows that they read, and of these and the windows'."""
    kernel, stride, padding, dilation = sizes
    reach = dilation * (kernel - 1)
    first = -((reach - place.start - padding) // stride)  # the ceiling of a quotient
    last = (place.start + place.width - 1 + padding) // stride
    width = max(1, int((last - first).max()) + 1)
    pooled, _ = net.trim(Place(first, width, net.layouts[output].length), output)
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
    net.declare_pooled(step, dilation * (kernel - 1) + 1, stride, padding)
    sizes, output = (kernel, stride, padding, dilation), step.outputs[0]

    def act(batch: Batch, window: Window) -> Window:
        pooled, read, cover = bins(net, window.place, sizes, output)
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
        return Window(output, pooled, data, is_difference=False)

    return act


def average_pool(net: Network, step: Step) -> Action:
    """Means of bins; linear."""
    kernel, stride, padding = _pooling(net, step)
    _, length = net.declare_pooled(step, kernel, stride, padding)
    sizes, output = (kernel, stride, padding, 1), step.outputs[0]
    # the divisor depends on options for padding and for the last bin: the step itself, applied to
    # ones, gives the number of valid positions over the divisor
    like = net.values[step.inputs[0]]
    share = step.function(torch.ones_like(like[:1, :1]), *step.args[1:], **step.kwargs).flatten()
    begin = torch.arange(length, device=like.device) * stride - padding
    valid = (begin + kernel).clamp(max=like.shape[-1]) - begin.clamp(min=0)
    factor = (share / valid)[:, None]

    def act(batch: Batch, window: Window) -> Window:
        pooled, read, cover = bins(net, window.place, sizes, output)
        values = take(batch.difference_at(window, cover), cover.row_of(read), read.width)
        first, *others = _bin_rows(values, kernel, stride, 1, pooled.width)
        data = first.clone()
        for rows in others:
            data += rows
        data *= batch.constant(factor, pooled)
        return Window(output, pooled, pooled.fill_outside(data, 0))

    return act


def upsample(net: Network, step: Step) -> Action:
    """Every position several times."""
    source, output = net.layouts[step.inputs[0]], step.outputs[0]
    length = net.values[output].shape[-1]
    step.refuse_if(not source.is_channels_first or length % source.length, "resamples positions")
    times = length // source.length
    layout = Layout(source.axes, length)
    net.declare(step, layout, 1, lambda read: (read[0] // times, (read[1] - 1) // times + 1))

    def act(batch: Batch, window: Window) -> Window:
        place = window.place
        place = Place(place.start * times, place.width * times, length)
        return Window(output, place, batch.difference(window).repeat_interleave(times, 0))

    return act


def reduced_dims(net: Network, step: Step) -> tuple[list[int], bool]:
    """Axes over which a reduction runs, and whether positions are among them."""
    source = net.layouts[step.inputs[0]]
    given = step.args[1] if len(step.args) > 1 else step.kwargs.get("dim")
    given = [given] if isinstance(given, int) else given
    dims = [d % len(source.axes) for d in given or range(len(source.axes))]
    step.refuse_if(any(N in source.axes[d] for d in dims), "reduces over sequences")
    return dims, source.position_axis in dims


def global_sum(net: Network, step: Step) -> Action:
    """Sum or mean over positions, and maybe channels; linear."""
    step.refuse_if(step.kwargs.get("dtype") is not None, "changes the type")
    source, output = net.layouts[step.inputs[0]], step.outputs[0]
    factor = 1 / source.length if step.name == "mean" else 1

    def act(batch: Batch, window: Window) -> Tensor:
        change = batch.difference(window).sum(0).mul_(factor)
        reference = batch.of_sequences(batch.references.values[output])
        change = change.reshape(source.columns(change.shape[0] * change.shape[1]))
        change = step.function(change, *step.args[1:], **step.kwargs)
        return (reference + change.reshape(len(reference), -1, *reference.shape[2:])).flatten(0, 1)

    return act


def global_max(net: Network, step: Step) -> Action:
    """Maximum over positions: of the window, and of the reference before and behind it."""
    if step.name.startswith("adaptive") and any(size != 1 for size in step.args[1]):
        raise step.unsupported("pools to more than one position")
    source = step.inputs[0]
    layout = net.layouts[source]

    def act(batch: Batch, window: Window) -> Tensor:
        place = window.place
        values = place.fill_outside(batch.absolute_at(window, place), -torch.inf).amax(0)
        sequence = on_device(batch.sequence, values.device)
        start = on_device(place.start, values.device)
        before, behind = batch.references.running_maxima(source)
        for maxima, row in ((before, start), (behind, start + place.width)):
            chosen = maxima[row.clamp(0, layout.length), sequence]
            values = torch.maximum(values, chosen[:, None])
        values = values.reshape(layout.columns(values.shape[0] * values.shape[1]))
        result = step.function(values, *step.args[1:], **step.kwargs)
        return result[0] if isinstance(result, tuple) else result

    return act
