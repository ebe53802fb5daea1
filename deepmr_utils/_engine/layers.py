"""What each kind of layer does to windows.

Every function here checks one recorded step and returns what it does to the windows of its inputs,
or raises `UnsupportedError`. Linear layers carry differences; pointwise functions and maxima look
the reference up.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from .._members import leaves
from . import channels, pooling, reshaping
from .layout import Layout, N, P
from .recording import BATCH_NORMS, Ref, Rows, Step, overload, substitute
from .spectral import spectral_convolution, spectral_pays, spectrum
from .windows import Action, Batch, Network, Place, Tensor, Window, last, on_device, put, union


def is_sum(step: Step) -> bool:
    """A sum or difference whose first term depends on the input."""
    return step.name in ("add", "sub") and isinstance(step.args[0], Ref)


def is_scaling(step: Step) -> bool:
    """A product with, or division by, a constant."""
    whole = step.kwargs.get("rounding_mode") is not None
    return step.name in ("mul", "div") and step.is_unary and not whole


def is_view(step: Step) -> bool:
    """Whether windows of the output may lie in the memory of the input's."""
    return step.name in reshaping.VIEWS or (is_sum(step) and len(step.inputs) == 1)


def reads_absolute(step: Step) -> bool:
    """Whether a step reads absolute values rather than differences."""
    if step.is_pointwise:
        return not (is_sum(step) or is_scaling(step))
    return step.name in ABSOLUTE


def convolution(net: Network, step: Step) -> Action:
    """``W * difference``: only the changed positions, without their surroundings."""
    _, weight, _bias, stride, padding, dilation, transposed, _, groups = step.args
    step.refuse_if(transposed, "is a transposed convolution")
    step.refuse_if(not step.is_unary, "has weights that depend on the sequence")
    if weight.ndim == 4 and (weight.shape[2] != 1 or padding[0] != 0):
        raise step.unsupported("has a kernel higher than 1")
    stride, padding, dilation = last(stride), last(padding), last(dilation)
    reach = dilation * (weight.shape[-1] - 1)
    channels, length = net.declare_pooled(step, reach + 1, stride, padding)
    kind = torch.bfloat16 if net.bfloat16 else weight.dtype
    taps = net.prepare(weight, ("taps", groups, kind), lambda: _taps(weight, groups).to(kind))
    spectral = stride == dilation == groups == 1 and not (net.bfloat16 or net.tf32)

    def act(batch: Batch, window: Window) -> Window:
        place, difference = window.place, batch.difference(window)
        lead = (place.start + padding) % stride
        if (lead != lead[0]).any():  # bring every site to a multiple of the stride
            place = Place(place.start - lead, place.width + int(lead.max()), place.length)
            difference, lead = batch.difference_at(window, place), 0 * lead
        lead = int(lead[0])
        first = -((reach - lead) // stride)  # output row of the first input row, from the base
        base = (place.start + padding - lead) // stride
        width = max(1, (place.width - 1 + lead) // stride - first + 1)
        place, low = net.trim(Place(base + first, width, length), step.outputs[0])
        if spectral and spectral_pays(len(difference), taps):
            make = lambda: spectrum(taps, len(difference))  # noqa: E731
            matrices = net.prepare(weight, ("spectrum", len(difference)), make)
            out = spectral_convolution(difference, *matrices, low, place.width)
        else:
            out = batch.empty(difference, (place.width, *difference.shape[1:3], channels))
            difference, products = difference.to(taps.dtype), []
            for t, tap in enumerate(taps):
                skip = (dilation * t - lead) % stride
                used = difference[skip::stride]
                offset = (lead + skip - dilation * t) // stride - first - low
                a, b = max(0, -offset), min(len(used), place.width - offset)
                if a < b:
                    products.append((slice(offset + a, offset + b), used[a:b], tap))
            with net.products():
                _sum_products(out, products)
        return Window(step.outputs[0], place, place.fill_outside(out, 0))

    return act


def _taps(weight: Tensor, groups: int) -> Tensor:
    """Weights (O, I, [1,] k) as taps (k, I, O), or (k, groups, I, O / groups)."""
    taps = weight.flatten(1, -2).permute(2, 1, 0)
    if groups > 1:
        taps = taps.reshape(*taps.shape[:2], groups, -1).transpose(1, 2)
    return taps.contiguous()


def _sum_products(out: Tensor, products: list[tuple[slice, Tensor, Tensor]]) -> None:
    """Fill out (width, S, A, O) with sums of rows (n, S, A, I) @ tap (I, O) at slices.

    A tap by groups is (groups, I, O / groups). Rows have the type of the taps.
    """
    simple = products and products[0][2].ndim == 2 and products[0][2].dtype == out.dtype
    done = slice(0, 0)
    if simple:  # the largest product is written, not added
        products.sort(key=lambda product: len(product[1]))
        done, rows, tap = products.pop()
        torch.mm(rows.reshape(-1, len(tap)), tap, out=out[done].view(-1, out.shape[-1]))
    out[: done.start].zero_()
    out[done.stop :].zero_()
    for where, rows, tap in products:
        flat = out[where].view(-1, out.shape[-1])
        if simple:
            flat.addmm_(rows.reshape(len(flat), -1), tap)
        else:
            tap = tap if tap.ndim == 3 else tap[None]
            grouped = rows.reshape(len(flat), len(tap), -1).transpose(0, 1)
            flat += _product(grouped, tap, out.dtype).transpose(0, 1).reshape(flat.shape)


def _product(rows: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Product of matrices, or of batches of them, in their type; in `dtype` where a GPU can."""
    multiply = torch.mm if rows.ndim == 2 else torch.bmm
    # sums of products of bfloat16 are float32 there, and need not be rounded
    exact = rows.device.type == "cuda" and "dtype" in torch.ops.aten.bmm.overloads()
    options = {"out_dtype": dtype} if exact and rows.dtype != dtype else {}
    return multiply(rows, weight, **options)


def batch_norm(net: Network, step: Step) -> Action:
    """A factor a channel; the shift cancels in a difference."""
    source, weight, _bias, _mean, variance, *rest = step.args
    if (rest[0] is True) or len(step.inputs) > 1 or variance is None:
        raise step.unsupported("uses the statistics of the batch")
    layout = net.layouts[source.index]
    step.refuse_if(layout.axes[0] != (N,), "normalises another axis than channels")
    net.declare(step)
    scale = torch.rsqrt(variance + rest[-1])
    scale = scale if weight is None else scale * weight
    scale = _Constant(scale.view(-1, *(1,) * (len(layout.axes) - 2)), layout, step)

    def act(batch: Batch, window: Window) -> Window:
        place = window.place
        data = batch.difference_at(window, place)
        spread = data.view(*data.shape[:3], *layout.inner())
        return Window(step.outputs[0], place, spread.mul_(scale.at(batch, place)).view_as(data))

    return act


class _Constant:
    """A constant beside windows of a layout, shaped as (width, S, A, channels in their axes)."""

    def __init__(self, tensor: Tensor, layout: Layout, step: Step) -> None:
        self.tensor, self.table = tensor, None
        missing = len(layout.axes) - tensor.ndim
        axis = layout.position_axis - missing
        step.refuse_if(missing < 0, "joins a constant of more axes")
        if tensor.ndim == 0:
            return
        first = next(d for d, factors in enumerate(layout.axes) if N in factors)
        before = max(0, first + 1 - missing)
        joined = any(size != 1 for size in tensor.shape[:before])
        step.refuse_if(joined, f"joins positions with a constant of shape {tuple(tensor.shape)}")
        if axis >= 0 and axis + missing > first and tensor.shape[axis] != 1:
            whole = tensor.expand(layout.shape(1))
            self.table = layout.table(whole, 1).flatten(0, 1).contiguous()
            self.inner = layout.inner()
        else:  # from the right, sizes fit to those of a column
            self.tensor = tensor.reshape(tensor.shape[before:])

    def at(self, batch: Batch, place: Place) -> Tensor:
        """Values at a place."""
        if self.table is None:
            return self.tensor
        rows = batch.constant(self.table, place)
        return rows.view(*rows.shape[:3], *self.inner)


def _joined_layout(net: Network, step: Step) -> Layout:
    """Layout of a pointwise function, whose arguments may have size 1 in axes of channels."""
    layouts = [net.layouts[i] for i in step.inputs]
    shape = tuple(net.values[step.outputs[0]].shape)
    first = layouts[0]
    kinds = {(len(o.axes), o.length, o.position_axis) for o in layouts}
    expected = (len(shape), first.length, first.position_axis)
    step.refuse_if(kinds != {expected}, "joins values of different shapes")
    axes = []
    for d, size in enumerate(shape):
        found = {o.axes[d] for o in layouts if o.shape(net.n_recorded)[d] == size}
        if len(found) > 1 and any(N in axis or P in axis for axis in found):
            raise step.unsupported("joins values of different shapes")
        axes.append(next(iter(found)) if found else (size,))
    return Layout(tuple(axes), first.length)


def pointwise(net: Network, step: Step) -> Action:
    """Any function of values at the same position: activations, sums, products, dropout masks."""
    output, first = step.outputs[0], step.inputs[0]
    arguments = step.of_one_sequence
    step.refuse_if(leaves(arguments, Rows), "depends on the number of sequences")
    layout = net.declare(step, _joined_layout(net, step))
    kinds = {net.values[i].dtype for i in (*step.inputs, output)}
    inner = {i: net.layouts[i].inner() for i in (*step.inputs, output)}
    alike = len(kinds) == len(set(inner.values())) == 1
    if is_sum(step) and alike:
        return _sum(step)
    if step.name == "relu" and alike and output not in net.wants_absolute:
        return _relu(step)
    constants = {id(c): _Constant(c, layout, step) for c in step.constants}

    def evaluate(batch: Batch, place: Place, data: dict[int, Tensor], function: Callable) -> Tensor:
        def fill(leaf: Ref | Tensor) -> Tensor:
            if not isinstance(leaf, Ref):
                return constants[id(leaf)].at(batch, place)
            return data[leaf.index].reshape(*data[leaf.index].shape[:3], *inner[leaf.index])

        args, kwargs = substitute(arguments, (Ref, Tensor), fill)
        return function(*args, **kwargs).reshape(place.width, len(place.start), -1, channels)

    def scale(batch: Batch, window: Window) -> Window:
        data = evaluate(batch, window.place, {first: batch.difference(window)}, step.function)
        return Window(output, window.place, data)

    def general(batch: Batch, *inputs: Window) -> Window:
        windows = dict(zip(step.inputs, inputs, strict=True))
        place = union([w.place for w in inputs])
        reference = {} if keep else {i: batch.reference(i, place) for i in windows}
        data = {i: batch.absolute_at(w, place, reference.get(i)) for i, w in windows.items()}
        data = evaluate(batch, place, data, in_place)
        if not keep:
            data -= evaluate(batch, place, reference, step.function)
            place.fill_outside(data, 0)
        return Window(output, place, data, not keep)

    channels = layout.channels
    # there are no differences of truth values and of whole numbers
    keep = output in net.wants_absolute or not net.values[output].is_floating_point()
    in_place = step.function
    if step.is_unary and alike:  # it may overwrite its argument
        in_place = overload(step.name + "_", step.op._overloadname) or in_place
    return scale if is_scaling(step) and net.values[output].is_floating_point() else general


def _relu(step: Step) -> Action:
    """``max(d + r, 0) - max(r, 0)`` for a difference d and a reference r, in two passes over d.

    It is ``max(d, -r) + min(r, 0)``: exactly d where both are positive, exactly 0 where neither is.
    """

    def act(batch: Batch, window: Window) -> Window:
        place, value = window.place, window.value
        data = batch.difference_at(window, place)
        torch.maximum(data, batch.reference(value, place, torch.neg), out=data)
        data += batch.reference(value, place, _negative_part)
        return Window(step.outputs[0], place, data)

    return act


def _negative_part(values: Tensor) -> Tensor:
    return values.clamp(max=0)


def _sum(step: Step) -> Action:
    """A sum or difference of two values, or of one and a constant, which cancels."""
    factor = step.kwargs.get("alpha", 1) * (-1 if step.name == "sub" else 1)

    def act(batch: Batch, *windows: Window) -> Window:
        place = union([w.place for w in windows])
        terms = zip(windows, (1, factor), strict=False)
        (wide, times), *others = sorted(terms, key=lambda term: term[0].place is not place)
        if not others:
            return Window(step.outputs[0], place, batch.difference(wide))
        data = _times(batch.difference_at(wide, place), times)
        for other, times in others:
            term = _times(batch.difference(other), times)
            put(data, term, place.row_of(other.place), accumulate=True)
        return Window(step.outputs[0], place, data)

    return act


def _times(data: Tensor, factor: float) -> Tensor:
    return data if factor == 1 else data * factor


def matrix_product(net: Network, step: Step) -> Action:
    """A dense layer, by position or over all positions, with constant weights."""
    source, weight = step.args[-2:]
    if len(step.inputs) > 1 or not isinstance(source, Ref) or not isinstance(weight, Tensor):
        raise step.unsupported("has weights that depend on the sequence")
    scaled = any(step.kwargs.get(name, 1) != 1 for name in ("alpha", "beta"))
    step.refuse_if(scaled, "scales its product")
    layout, axis = net.layouts[source.index], net.values[source.index].ndim - 1
    if layout.position_axis == axis:
        net.dense.append(Dense(net, step))
        return lambda *_: None
    step.refuse_if(N in layout.axes[axis], "multiplies sequences")
    net.declare(step, layout.replaced({axis: weight.shape[-1]}))
    step.refuse_if(weight.ndim == 3 and len(weight) > 1, "has weights of its own for each block")
    layout.columns(1)  # or it refuses
    kind = torch.bfloat16 if net.bfloat16 else weight.dtype
    weight = net.prepare(weight, ("columns", kind), lambda: weight.to(kind).contiguous())
    weight = weight.view(weight.shape[-2:])

    def act(batch: Batch, window: Window) -> Window:
        data = batch.difference(window)
        with net.products():
            rows = data.reshape(-1, len(weight)).to(kind) @ weight
        data = rows.to(data.dtype).view(*data.shape[:3], -1)
        return Window(step.outputs[0], window.place, data)

    return act


class Dense:
    """The first dense layer behind flattened positions: products by position, summed by site."""

    def __init__(self, net: Network, step: Step) -> None:
        source, weight = step.args[-2:]
        self.source, self.output, self.products = source.index, step.outputs[0], net.products
        layout = net.layouts[self.source]
        if layout.axes != ((N,), layout.axes[-1]) or weight.ndim != 2:
            raise step.unsupported("multiplies positions, and keeps other axes")
        self.channels, self.length = layout.channels, layout.length
        before, behind = layout.split
        kind = torch.bfloat16 if net.bfloat16 else weight.dtype

        def by_channel() -> Tensor:  # (channels, length, H)
            rows = weight.to(kind).view(before, self.length, behind, -1)
            return rows.transpose(1, 2).reshape(self.channels, self.length, -1).contiguous()

        self.weight = net.prepare(weight, ("rows", kind, self.length), by_channel)

    def __call__(self, differences: list[Tensor], places: list[Place]) -> Tensor:
        """Change (S, A, H) of the output, from windows of all sites in their order."""
        firsts = np.cumsum([0, *(len(p.start) for p in places)])
        alleles, kind = differences[0].shape[2], differences[0].dtype
        rows = [d.view(-1, alleles, self.channels) for d in differences]
        rows = rows[0] if len(rows) == 1 else torch.cat(rows)
        positions = np.concatenate([p.positions.ravel() for p in places])
        sites = (np.arange(*ends) for ends in itertools.pairwise(firsts))
        site = np.concatenate([np.tile(s, p.width) for s, p in zip(sites, places, strict=True)])
        inside = np.flatnonzero((positions >= 0) & (positions < self.length))
        order = inside[np.argsort(positions[inside], kind="stable")]
        edges = np.searchsorted(positions[order], np.arange(self.length + 1))
        order, site = (on_device(i, rows.device) for i in (order, site[order]))
        out = rows.new_zeros(firsts[-1], alleles, self.weight.shape[2])
        with self.products():
            for position, (a, b) in enumerate(itertools.pairwise(edges)):
                if a < b:
                    taken = rows.index_select(0, order[a:b]).view(-1, self.channels)
                    taken, factor = taken.to(self.weight.dtype), self.weight[:, position]
                    product = _product(taken, factor, kind).to(kind)
                    out.index_add_(0, site[a:b], product.view(-1, *out.shape[1:]))
        return out


def _over(axis: Callable, elsewhere: Callable) -> Callable[[Network, Step], Action]:
    """A reduction: one function where it runs over positions, another where over channels."""

    def layer(net: Network, step: Step) -> Action:
        if step.name.startswith("adaptive"):
            return axis(net, step)
        dims, over_positions = pooling.reduced_dims(net, step)
        return axis(net, step) if over_positions else elsewhere(net, step, dims)

    return layer


MAXIMA = ("amax", "max", "adaptive_max_pool2d")
# layers that read absolute values
ABSOLUTE: dict[str, Callable[[Network, Step], Action]] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices"), pooling.max_pool),
    **dict.fromkeys(MAXIMA, _over(pooling.global_max, channels.nonlinear)),
    **dict.fromkeys(channels.NONLINEAR, channels.over_one_axis),
    **dict.fromkeys(channels.NORMS, channels.layer_norm),
}
LAYERS: dict[str, Callable[[Network, Step], Action]] = {
    **ABSOLUTE,
    "convolution": convolution,
    **dict.fromkeys((*BATCH_NORMS, "native_batch_norm"), batch_norm),
    **dict.fromkeys(("addmm", "mm", "bmm"), matrix_product),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), pooling.average_pool),
    **dict.fromkeys(("mean", "sum"), _over(pooling.global_sum, channels.linear)),
    **dict.fromkeys(reshaping.RESHAPES, reshaping.reshape),
    **dict.fromkeys(("permute", "transpose", "t"), reshaping.permute),
    **dict.fromkeys(("slice", "select"), reshaping.crop),
    **dict.fromkeys(("split", "split_with_sizes", "unbind"), channels.split),
    **dict.fromkeys(("upsample_nearest1d", "_upsample_nearest1d"), pooling.upsample),
    "constant_pad_nd": reshaping.pad,
    "flip": reshaping.flip,
    **dict.fromkeys(("index", "index_select"), reshaping.choose),
    "cat": reshaping.join,
}
