"""What each kind of layer does to windows.

Every function here checks one recorded step and returns what it does to a `Batch`, or raises
`UnsupportedError`. Linear layers carry differences; pointwise functions and maxima look the
reference
up.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from .recording import RESHAPES, Ref, Step, substitute
from .windows import Batch, Place, Tensor, Window, put, take, union

Action = Callable[[Batch], None]


class Network(Protocol):
    """What layers may know of the network that they are in."""

    values: list[Tensor]  # of the recorded pass
    shapes: dict[int, tuple[int, int]]  # channels and length of windowed values
    wants_absolute: set[int]  # values of which absolute windows are read
    exclusive: set[int]  # values whose windows are read by one step alone, which may overwrite them
    bfloat16: bool

    def declare(self, step: Step, stride: int = 1) -> tuple[int, int]:
        """Note that the output of a step is windowed; its channels and length."""

    def prepare(self, weight: Tensor, key: tuple, make: Callable[[], Any]) -> Any:
        """Make a rearranged form of a weight, once."""


def is_sum(step: Step) -> bool:
    """A sum or difference whose first term depends on the input."""
    return step.name in ("add", "sub") and isinstance(step.args[0], Ref)


def is_scaling(step: Step) -> bool:
    """A product with, or division by, a constant."""
    return (
        step.name in ("mul", "div")
        and isinstance(step.args[0], Ref)
        and len(step.inputs) == 1
        and step.kwargs.get("rounding_mode") is None
    )


def reads_absolute(step: Step) -> bool:
    """Whether a step reads absolute values rather than differences."""
    if step.is_pointwise:
        return not (is_sum(step) or is_scaling(step))
    return step.name in MAXIMA


def _last(value: list[int] | int) -> int:
    """A hyperparameter along positions, which may be given for (height, width)."""
    return int(value[-1]) if isinstance(value, list | tuple) else int(value)


def _is_flat(net: Network, value: int) -> bool:
    return net.values[value].ndim == 2


def convolution(net: Network, step: Step) -> Action:
    """``W * difference``: only the changed positions, without their surroundings."""
    source, weight, _bias, stride, padding, dilation, transposed, _, groups = step.args
    if transposed:
        raise step.unsupported("is a transposed convolution")
    if not isinstance(source, Ref) or len(step.inputs) > 1:
        raise step.unsupported("has weights that depend on the sequence")
    if weight.ndim == 4 and (weight.shape[2] != 1 or padding[0] != 0):
        raise step.unsupported("has a kernel higher than 1")
    stride, padding, dilation = _last(stride), _last(padding), _last(dilation)
    channels, length = net.declare(step, stride)
    kind = torch.bfloat16 if net.bfloat16 else weight.dtype
    taps = net.prepare(weight, ("taps", groups, kind), lambda: _taps(weight, groups).to(kind))
    reach, output = dilation * (len(taps) - 1), step.outputs[0]
    spectral = stride == dilation == groups == 1 and not net.bfloat16

    def act(batch: Batch) -> None:
        window = batch.windows[source.index]
        place, difference = window.place, batch.difference(window)
        lead = (place.start + padding) % stride
        if (lead != lead[0]).any():  # bring every site to a multiple of the stride
            place = Place(place.start - lead, place.width + int(lead.max()), place.length)
            difference, lead = batch.difference_at(window, place), 0 * lead
        lead = int(lead[0])
        first = -((reach - lead) // stride)  # output row of the first input row, from the base
        base = (place.start + padding - lead) // stride
        width = max(1, (place.width - 1 + lead) // stride - first + 1)
        place, low = Place(base + first, width, length).trimmed()
        if spectral and spectral_pays(len(difference), taps):
            make = lambda: spectrum(taps, len(difference))  # noqa: E731
            matrices = net.prepare(weight, ("spectrum", len(difference)), make)
            out = spectral_convolution(difference, *matrices, low, place.width)
        else:
            products = []
            for t, tap in enumerate(taps):
                skip = (dilation * t - lead) % stride
                used = difference[skip::stride]
                offset = (lead + skip - dilation * t) // stride - first - low
                a, b = max(0, -offset), min(len(used), place.width - offset)
                if a < b:
                    products.append((slice(offset + a, offset + b), used[a:b], tap))
            out = difference.new_empty(place.width, *difference.shape[1:3], channels)
            _sum_products(out, products)
        place.fill_outside(out, 0)
        batch.windows[output] = Window(output, place, out, True)

    return act


def _taps(weight: Tensor, groups: int) -> Tensor:
    """Weights (O, I, [1,] k) as taps (k, I, O), or (k, groups, I, O / groups)."""
    weight = weight[:, :, 0] if weight.ndim == 4 else weight
    taps = weight.permute(2, 1, 0)
    if groups > 1:
        taps = taps.reshape(*taps.shape[:2], groups, -1).transpose(1, 2)
    return taps.contiguous()


def _sum_products(out: Tensor, products: list[tuple[slice, Tensor, Tensor]]) -> None:
    """Fill out (width, S, A, O) with sums of rows (n, S, A, I) @ tap (I, O) at slices.

    A tap by groups is (groups, I, O / groups); a tap of bfloat16 rounds the rows, too.
    """
    simple = products and products[0][2].ndim == 2 and products[0][2].dtype == out.dtype
    done = slice(0, 0)
    if simple:  # the first product is written, not added
        done, rows, tap = products.pop(0)
        torch.mm(rows.reshape(-1, len(tap)), tap, out=out[done].view(-1, out.shape[-1]))
    out[: done.start].zero_()
    out[done.stop :].zero_()
    for where, rows, tap in products:
        flat = out[where].view(-1, out.shape[-1])
        rows = rows.reshape(len(flat), -1)
        if simple:
            flat.addmm_(rows, tap)
        elif tap.ndim == 2:
            flat += rows.to(tap.dtype) @ tap
        else:
            grouped = rows.view(len(rows), len(tap), -1).transpose(0, 1).to(tap.dtype)
            flat += torch.bmm(grouped, tap).transpose(0, 1).reshape(flat.shape)


def spectral_pays(width: int, taps: Tensor) -> bool:
    """Whether `spectral_convolution` needs clearly fewer multiplications than tap by tap."""
    k, i, o = taps.shape
    n = width + k - 1
    products = 3 * (n // 2) + n % 2 - 2 * (n % 2 == 0)
    # the small transforms run at the speed of memory: each counts about three times
    transforms = 3 * products * (width * i + n * o)
    return products * i * o + transforms < width * k * i * o


def spectrum(taps: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices of `spectral_convolution` for windows of a width.

    Returns
    -------
    analysis : Tensor (F, width)
    weights : Tensor (F, I, O)
    synthesis : Tensor (n, F), n = width + k - 1
    """
    k = len(taps)
    n = width + k - 1
    turn = lambda f, steps: 2 * math.pi * f * torch.arange(steps, dtype=torch.float64) / n  # noqa: E731
    kernel = taps.flip(0).double().reshape(k, -1)
    analysis, weights, synthesis = [], [], []
    for f in range(n // 2 + 1):
        angle, tap_angle, back = (turn(f, steps) for steps in (width, k, n))
        real, imaginary = tap_angle.cos().to(kernel) @ kernel, -tap_angle.sin().to(kernel) @ kernel
        if f == 0 or 2 * f == n:  # a real point
            analysis.append(angle.cos())
            weights.append(real)
            synthesis.append(back.cos() / n)
        else:  # (a + ib)(c + id) by the three products (a + b)c, a(d - c), b(c + d)
            analysis += [angle.cos() - angle.sin(), angle.cos(), -angle.sin()]
            weights += [real, imaginary - real, real + imaginary]
            scale = 2 / n
            synthesis += [
                (back.cos() - back.sin()) * scale, -back.sin() * scale, -back.cos() * scale,
            ]  # fmt: skip
    stack = lambda rows, dim: torch.stack(rows, dim).to(taps)  # noqa: E731
    return stack(analysis, 0), stack(weights, 0).view(-1, *taps.shape[1:]), stack(synthesis, 1)


def spectral_convolution(
    difference: Tensor,
    analysis: Tensor,
    weights: Tensor,
    synthesis: Tensor,
    low: int,
    width: int,
) -> Tensor:
    """Full convolution of short windows through a discrete Fourier transform of their own length.

    A window of w positions and a kernel of k taps need w * k products of matrices tap by tap, and
    about 1.5 (w + k) of them here: one for each real frequency, three for each complex one.

    Parameters
    ----------
    difference : Tensor (w, S, A, I)
    analysis, weights, synthesis : Tensor
        Of `spectrum`.
    low, width : int
        First output row and number of rows wanted.

    Returns
    -------
    Tensor (width, S, A, O)
    """
    w, sites, alleles, channels = difference.shape
    points = (analysis @ difference.reshape(w, -1)).view(len(analysis), -1, channels)
    products = torch.bmm(points, weights).view(len(analysis), -1)
    return (synthesis[low : low + width] @ products).view(width, sites, alleles, -1)


def batch_norm(net: Network, step: Step) -> Action:
    """A factor a channel; the shift cancels in a difference."""
    source, weight, _bias, _mean, variance, *rest = step.args
    if (rest[0] is True) or len(step.inputs) > 1 or variance is None:
        raise step.unsupported("uses the statistics of the batch")
    if _is_flat(net, source.index):
        raise step.unsupported("normalises flattened features")
    net.declare(step)
    scale = torch.rsqrt(variance + rest[-1])
    scale = scale if weight is None else scale * weight
    output = step.outputs[0]

    def act(batch: Batch) -> None:
        window = batch.windows[source.index]
        own = source.index in net.exclusive
        data = batch.difference_at(window, window.place, overwrite=own).mul_(scale)
        batch.windows[output] = Window(output, window.place, data, True)

    return act


def pointwise(net: Network, step: Step) -> Action:
    """Any function of values at the same position: activations, sums, products, dropout masks."""
    output, first = step.outputs[0], step.inputs[0]
    like = net.values[first].shape
    if any(net.values[i].shape != like for i in (*step.inputs, output)):
        raise step.unsupported("joins values of different shapes")
    net.declare(step)
    constants = {id(c): _constant(step, c, like, net.shapes[first]) for c in step.constants}

    def evaluate(batch: Batch, place: Place, data: dict[int, Tensor], function: Callable) -> Tensor:
        def fill(leaf: Ref | Tensor) -> Tensor:
            if isinstance(leaf, Ref):
                return data[leaf.index]
            value = constants[id(leaf)]
            return batch.constant(value, place) if value.ndim == 2 else value

        args, kwargs = substitute((step.args, step.kwargs), (Ref, Tensor), fill)
        return function(*args, **kwargs)

    def scale(batch: Batch) -> None:
        window = batch.windows[first]
        data = evaluate(batch, window.place, {first: batch.difference(window)}, step.function)
        batch.windows[output] = Window(output, window.place, data, True)

    def add(batch: Batch) -> None:
        windows = [batch.windows[i] for i in step.inputs]
        place = union([w.place for w in windows])
        if len(windows) == 1:  # a constant cancels
            data = batch.difference(windows[0])
        else:
            factor = step.kwargs.get("alpha", 1) * (-1 if step.name == "sub" else 1)
            terms = [(windows[0], 1), (windows[1], factor)]
            terms.sort(key=lambda term: term[0].place is not place)
            (wide, factor), (other, other_factor) = terms
            own = wide.value in net.exclusive
            data = _times(batch.difference_at(wide, place, overwrite=own), factor)
            term = _times(batch.difference(other), other_factor)
            put(data, term, place.row_of(other.place), accumulate=True)
        batch.windows[output] = Window(output, place, data, True)

    def general(batch: Batch) -> None:
        windows = {i: batch.windows[i] for i in step.inputs}
        place = union([w.place for w in windows.values()])
        keep = output in net.wants_absolute
        reference = {} if keep else {i: batch.reference(i, place) for i in windows}
        data = {
            i: batch.absolute_at(w, place, reference.get(i), overwrite=i in net.exclusive)
            for i, w in windows.items()
        }
        data = evaluate(batch, place, data, in_place)
        if not keep:
            data -= evaluate(batch, place, reference, in_place)
            place.fill_outside(data, 0)
        batch.windows[output] = Window(output, place, data, not keep)

    in_place = _in_place(step)
    return scale if is_scaling(step) else add if is_sum(step) else general


def _times(data: Tensor, factor: float) -> Tensor:
    return data if factor == 1 else data * factor


def _in_place(step: Step) -> Callable:
    """The form of a function that overwrites its first argument, where there is one."""
    packet = getattr(torch.ops.aten, step.name + "_", None)
    overload = step.op._overloadname
    if len(step.inputs) > 1 or not isinstance(step.args[0], Ref) or packet is None:
        return step.function
    return getattr(packet, overload) if overload in packet.overloads() else step.function


def _constant(step: Step, tensor: Tensor, like: torch.Size, shape: tuple[int, int]) -> Tensor:
    """A constant as a number, a vector (channels,) or a table (length, channels)."""
    if tensor.numel() == 1:
        return tensor.reshape(())
    channels, length = shape
    dims = (1,) * (len(like) - tensor.ndim) + tuple(tensor.shape)
    if dims[0] != 1:
        raise step.unsupported(f"joins positions with a constant of shape {tuple(tensor.shape)}")
    if len(like) > 2 and dims[-1] == 1:
        return tensor.reshape(-1).expand(channels).contiguous()
    table = tensor.reshape(dims).expand(1, *like[1:]).reshape(channels, length)
    return table.t().contiguous()


def _pooling(net: Network, step: Step) -> tuple[int, int, int]:
    """Kernel, stride and padding of a pooling step along positions."""
    _, kernel, *rest = step.args
    if net.values[step.inputs[0]].ndim == 4 and isinstance(kernel, list) and kernel[0] != 1:
        raise step.unsupported("pools over more than one row")
    kernel = _last(kernel)
    stride = _last(rest[0]) if rest and rest[0] else kernel
    return kernel, stride, _last(rest[1]) if len(rest) > 1 else 0


def _bins(
    place: Place, kernel: int, stride: int, padding: int, dilation: int, length: int
) -> tuple[Place, Place]:
    """Place of the pooled windows, and of the rows that they read."""
    reach = dilation * (kernel - 1)
    first = -((reach - place.start - padding) // stride)  # the ceiling of a quotient
    last = (place.start + place.width - 1 + padding) // stride
    pooled, _ = Place(first, max(1, int((last - first).max()) + 1), length).trimmed()
    width = (pooled.width - 1) * stride + reach + 1
    return pooled, Place(pooled.start * stride - padding, width, place.length)


def max_pool(net: Network, step: Step) -> Action:
    """Maxima of bins, whose unchanged rows come from the reference."""
    kernel, stride, padding = _pooling(net, step)
    rest = step.args[4:]
    dilation = _last(rest[0]) if rest else 1
    inside = padding == 0 and not (len(rest) > 1 and rest[1])  # no bin reaches over an end
    _, length = net.declare(step, stride)
    source, output = step.inputs[0], step.outputs[0]

    def act(batch: Batch) -> None:
        window = batch.windows[source]
        pooled, read = _bins(window.place, kernel, stride, padding, dilation, length)
        cover = union([read, window.place])
        values = batch.absolute_at(window, cover, overwrite=source in net.exclusive)
        if not inside:
            cover.fill_outside(values, -torch.inf)
        values = take(values, cover.row_of(read), read.width)
        if kernel == stride and dilation == 1:
            data = values.view(pooled.width, kernel, *values.shape[1:]).amax(1)
        else:
            span = (pooled.width - 1) * stride + 1
            data = values[:span:stride].clone()
            for t in range(1, kernel):
                torch.maximum(data, values[t * dilation :][:span:stride], out=data)
        batch.windows[output] = Window(output, pooled, data, False)

    return act


def average_pool(net: Network, step: Step) -> Action:
    """Means of bins; linear."""
    kernel, stride, padding = _pooling(net, step)
    _, length = net.declare(step, stride)
    source, output = step.inputs[0], step.outputs[0]
    # the divisor depends on options for padding and for the last bin: the step itself, applied to
    # ones, gives the number of valid positions over the divisor
    like = net.values[source]
    share = step.function(torch.ones_like(like[:1, :1]), *step.args[1:], **step.kwargs).flatten()
    begin = torch.arange(length, device=like.device) * stride - padding
    valid = (begin + kernel).clamp(max=like.shape[-1]) - begin.clamp(min=0)
    factor = (share / valid)[:, None]

    def act(batch: Batch) -> None:
        window = batch.windows[source]
        pooled, read = _bins(window.place, kernel, stride, padding, 1, length)
        cover = union([read, window.place])
        values = take(batch.difference_at(window, cover), cover.row_of(read), read.width)
        span = (pooled.width - 1) * stride + 1
        data = values[:span:stride].clone()
        for t in range(1, kernel):
            data += values[t:][:span:stride]
        data *= batch.constant(factor, pooled)
        batch.windows[output] = Window(output, pooled, pooled.fill_outside(data, 0), True)

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
    if step.kwargs.get("dtype") is not None:
        raise step.unsupported("changes the type")
    source, output = step.inputs[0], step.outputs[0]
    factor = 1 / net.shapes[source][1] if step.name == "mean" else 1
    shape = net.values[output].shape[1:]

    def act(batch: Batch) -> None:
        change = batch.difference(batch.windows[source]).sum(0).mul_(factor)
        reference = batch.of_sequences(batch.references.values[output])
        batch.full[output] = (reference + change.view(*change.shape[:2], *shape)).flatten(0, 1)

    return act


def global_max(net: Network, step: Step) -> Action:
    """Maximum over positions: of the window, and of the reference before and behind it."""
    if step.name.startswith("adaptive"):
        if any(size != 1 for size in step.args[1]):
            raise step.unsupported("pools to more than one position")
    else:
        _check_over_positions(net, step)
    source, output = step.inputs[0], step.outputs[0]
    channels, length = net.shapes[source]
    shape = net.values[output].shape[1:]

    def act(batch: Batch) -> None:
        window = batch.windows[source]
        place = window.place
        values = place.fill_outside(batch.absolute_at(window, place), -torch.inf).amax(0)
        table = batch.references.table(source).view(length, -1, channels)
        edge = table.new_full((1, *table.shape[1:]), -torch.inf)
        before = torch.cat([edge, table.cummax(0).values])
        behind = torch.cat([table.flip(0).cummax(0).values.flip(0), edge])
        for maxima, row in ((before, place.start), (behind, place.start + place.width)):
            chosen = maxima[row.clip(0, length), batch.sequence]
            values = torch.maximum(values, chosen[:, None])
        batch.full[output] = values.view(-1, *shape)

    return act


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
    if any(sizes[2:]) or _is_flat(net, step.inputs[0]):
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
    if not isinstance(index, Tensor) or index.ndim != 1 or _is_flat(net, source):
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
    if dim != [1] or len(step.inputs) != len(parts) or _is_flat(net, step.inputs[0]):
        raise step.unsupported("joins anything but channels")
    net.declare(step)
    output = step.outputs[0]

    def act(batch: Batch) -> None:
        windows = [batch.windows[i] for i in step.inputs]
        place = union([w.place for w in windows])
        data = torch.cat([batch.difference_at(w, place) for w in windows], dim=3)
        batch.windows[output] = Window(output, place, data, True)

    return act


class Dense:
    """The first dense layer behind flattened positions: products by position, summed by site."""

    def __init__(self, net: Network, step: Step) -> None:
        *_bias, source, weight = step.args
        if len(step.inputs) > 1 or not isinstance(source, Ref):
            raise step.unsupported("has weights that depend on the sequence")
        if step.kwargs.get("alpha", 1) != 1:
            raise step.unsupported("scales its product")
        self.source, self.output = source.index, step.outputs[0]
        self.channels, self.length = net.shapes[self.source]
        kind = torch.bfloat16 if net.bfloat16 else weight.dtype
        rows = net.prepare(weight, ("rows", kind), lambda: weight.to(kind).contiguous())
        self.weight = rows.view(self.channels, self.length, -1)

    def __call__(self, differences: list[Tensor], places: list[Place]) -> Tensor:
        """Change (S, A, H) of the output, from windows of all sites in their order."""
        sites = np.split(np.arange(sum(len(p.start) for p in places)),
                         np.cumsum([len(p.start) for p in places])[:-1])  # fmt: skip
        alleles, kind = differences[0].shape[2], differences[0].dtype
        rows = [d.view(-1, alleles, self.channels) for d in differences]
        rows = rows[0] if len(rows) == 1 else torch.cat(rows)
        positions = np.concatenate([p.positions.ravel() for p in places])
        site = np.concatenate([np.tile(s, p.width) for s, p in zip(sites, places, strict=True)])
        inside = np.flatnonzero((positions >= 0) & (positions < self.length))
        order = inside[np.argsort(positions[inside], kind="stable")]
        edges = np.searchsorted(positions[order], np.arange(self.length + 1))
        order, site = (torch.from_numpy(i).to(rows.device) for i in (order, site[order]))
        out = rows.new_zeros(sites[-1][-1] + 1, alleles, self.weight.shape[2])
        for position, (a, b) in enumerate(itertools.pairwise(edges)):
            if a < b:
                taken = rows.index_select(0, order[a:b]).view(-1, self.channels)
                product = taken.to(self.weight.dtype) @ self.weight[:, position]
                out.index_add_(0, site[a:b], product.to(kind).view(-1, *out.shape[1:]))
        return out


MAXIMA = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices"), max_pool),
    **dict.fromkeys(("amax", "max", "adaptive_max_pool2d"), global_max),
}
LAYERS: dict[str, Callable[[Network, Step], Action]] = {
    **MAXIMA,
    "convolution": convolution,
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "cudnn_batch_norm": batch_norm,
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), average_pool),
    **dict.fromkeys(("mean", "sum"), global_sum),
    **dict.fromkeys((*RESHAPES, "squeeze", "unsqueeze", "clone", "detach", "alias"), reshape),
    "slice": crop,
    "constant_pad_nd": pad,
    **dict.fromkeys(("index", "index_select", "flip"), choose),
    "cat": join,
}
