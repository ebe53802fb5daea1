"""What each kind of layer does to windows.

Every function here checks one recorded step and returns what it does to the windows of its inputs,
or raises `UnsupportedError`. Linear layers carry differences; pointwise functions and maxima look
the reference up.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from . import pooling, reshaping
from .recording import BATCH_NORMS, RESHAPES, Ref, Step, overload, substitute
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
    """Whether the windows of the output are those of the input."""
    return LAYERS.get(step.name) is reshaping.reshape and not step.is_pointwise


def reads_absolute(step: Step) -> bool:
    """Whether a step reads absolute values rather than differences."""
    if step.is_pointwise:
        return not (is_sum(step) or is_scaling(step))
    return step.name in MAXIMA


def convolution(net: Network, step: Step) -> Action:
    """``W * difference``: only the changed positions, without their surroundings."""
    _, weight, _bias, stride, padding, dilation, transposed, _, groups = step.args
    step.refuse_if(transposed, "is a transposed convolution")
    step.refuse_if(not step.is_unary, "has weights that depend on the sequence")
    if weight.ndim == 4 and (weight.shape[2] != 1 or padding[0] != 0):
        raise step.unsupported("has a kernel higher than 1")
    stride, padding, dilation = last(stride), last(padding), last(dilation)
    channels, length = net.declare(step, stride)
    kind = torch.bfloat16 if net.bfloat16 else weight.dtype
    taps = net.prepare(weight, ("taps", groups, kind), lambda: _taps(weight, groups).to(kind))
    reach = dilation * (len(taps) - 1)
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
        place, low = Place(base + first, width, length).trimmed()
        if spectral and spectral_pays(len(difference), taps):
            make = lambda: spectrum(taps, len(difference))  # noqa: E731
            matrices = net.prepare(weight, ("spectrum", len(difference)), make)
            out = spectral_convolution(difference, *matrices, low, place.width)
        else:
            out = difference.new_empty(place.width, *difference.shape[1:3], channels)
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
    if simple:  # the first product is written, not added
        done, rows, tap = products.pop(0)
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
    step.refuse_if(net.is_flat(source.index), "normalises flattened features")
    net.declare(step)
    scale = torch.rsqrt(variance + rest[-1])
    scale = scale if weight is None else scale * weight

    def act(batch: Batch, window: Window) -> Window:
        data = batch.difference_at(window, window.place).mul_(scale)
        return Window(step.outputs[0], window.place, data)

    return act


def pointwise(net: Network, step: Step) -> Action:
    """Any function of values at the same position: activations, sums, products, dropout masks."""
    output, first = step.outputs[0], step.inputs[0]
    like = net.values[first].shape
    if any(net.values[i].shape != like for i in (*step.inputs, output)):
        raise step.unsupported("joins values of different shapes")
    net.declare(step)
    constants = {id(c): _constant(step, c, like, net.shapes[first]) for c in step.constants}
    if is_sum(step):
        return _sum(step)

    def evaluate(batch: Batch, place: Place, data: dict[int, Tensor], function: Callable) -> Tensor:
        def fill(leaf: Ref | Tensor) -> Tensor:
            if isinstance(leaf, Ref):
                return data[leaf.index]
            value = constants[id(leaf)]
            return batch.constant(value, place) if value.ndim == 2 else value

        args, kwargs = substitute((step.args, step.kwargs), (Ref, Tensor), fill)
        return function(*args, **kwargs)

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
            data -= evaluate(batch, place, reference, in_place)
            place.fill_outside(data, 0)
        return Window(output, place, data, not keep)

    keep = output in net.wants_absolute
    in_place = step.function
    if step.is_unary:  # it may overwrite its argument
        in_place = overload(step.name + "_", step.op._overloadname) or in_place
    return scale if is_scaling(step) else general


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


def _constant(step: Step, tensor: Tensor, like: torch.Size, shape: tuple[int, int]) -> Tensor:
    """A constant as a number, a vector (channels,) or a table (length, channels)."""
    if tensor.numel() == 1:
        return tensor.reshape(())
    dims = (1,) * (len(like) - tensor.ndim) + tuple(tensor.shape)
    step.refuse_if(dims[0] != 1, f"joins positions with a constant of shape {tuple(tensor.shape)}")
    table = tensor.reshape(dims).expand(1, *like[1:]).reshape(shape).t()
    return (table[0] if len(like) > 2 and dims[-1] == 1 else table).contiguous()


class Dense:
    """The first dense layer behind flattened positions: products by position, summed by site."""

    def __init__(self, net: Network, step: Step) -> None:
        *_bias, source, weight = step.args
        if len(step.inputs) > 1 or not isinstance(source, Ref):
            raise step.unsupported("has weights that depend on the sequence")
        step.refuse_if(step.kwargs.get("alpha", 1) != 1, "scales its product")
        self.source, self.output, self.products = source.index, step.outputs[0], net.products
        self.channels, self.length = net.shapes[self.source]
        kind = torch.bfloat16 if net.bfloat16 else weight.dtype
        rows = net.prepare(weight, ("rows", kind), lambda: weight.to(kind).contiguous())
        self.weight = rows.view(self.channels, self.length, -1)

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


MAXIMA = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices"), pooling.max_pool),
    **dict.fromkeys(("amax", "max", "adaptive_max_pool2d"), pooling.global_max),
}
LAYERS: dict[str, Callable[[Network, Step], Action]] = {
    **MAXIMA,
    "convolution": convolution,
    **dict.fromkeys((*BATCH_NORMS, "native_batch_norm"), batch_norm),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), pooling.average_pool),
    **dict.fromkeys(("mean", "sum"), pooling.global_sum),
    **dict.fromkeys(
        (*RESHAPES, "squeeze", "unsqueeze", "clone", "detach", "alias"), reshaping.reshape
    ),
    "slice": reshaping.crop,
    "constant_pad_nd": reshaping.pad,
    **dict.fromkeys(("index", "index_select", "flip"), reshaping.choose),
    "cat": reshaping.join,
}
