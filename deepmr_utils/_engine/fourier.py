"""Convolutions that a network computes by a Fourier transform over all positions, as convolutions.

What lies between a transform and its inverse is run on single impulses. If the responses are short
and make up what was recorded, they are the kernel of a convolution, which is local.
"""

import torch
from torch.nn import functional

from .recording import Ref, Step

Tensor = torch.Tensor
LEAST = 1e-6  # of the largest response: less is rounding
AGREES = 1e-4  # of the largest recorded value, in float32


def as_convolutions(steps: list[Step], outputs: list[int], values: list[Tensor]) -> list[Step]:
    """Steps in which transforms and their inverses are replaced, where that is exact.

    Parameters
    ----------
    steps : list of Step
    outputs : list of int
        Values that are wanted.
    values : list of Tensor
        Recorded values; what a replacement needs is added.
    """
    makers = {value: step for step in steps for value in step.outputs}
    replaced: dict[int, list[Step]] = {}
    for step in steps:
        if step.name == "_fft_c2r":
            new = _convolution(step, makers, values, outputs, steps)
            replaced |= {id(step): new} if new else {}
    if not replaced:
        return steps
    needed, kept = set(outputs), []
    for step in reversed([new for s in steps for new in replaced.get(id(s), [s])]):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _convolution(
    last: Step,
    makers: dict[int, Step],
    values: list[Tensor],
    outputs: list[int],
    steps: list[Step],
) -> list[Step] | None:
    """Padding and convolution in place of all between a transform and its inverse, if so."""
    inside, sources, waiting = {id(last)}, set(), list(last.inputs)
    while waiting:
        step = makers.get(waiting.pop())
        if step is None:
            return None  # the input of the network, beside a transform
        inside.add(id(step))
        if step.name == "_fft_r2c":
            sources.update(step.inputs)
            if step.args[1] != [values[step.inputs[0]].ndim - 1]:
                return None  # over another axis
        else:
            waiting += step.inputs
    if len(sources) != 1:
        return None
    (source,), output = sources, last.outputs[0]
    x, y = values[source], values[output]
    if x.ndim != 3 or y.ndim != 3 or x.shape[2] != y.shape[2]:
        return None
    channels, length = x.shape[1:]
    impulses = x.new_zeros(channels, channels, length)
    impulses[torch.arange(channels), torch.arange(channels), length // 2] = 1
    run = {source: impulses}
    for step in steps:
        if id(step) in inside:
            step.run(run, channels)
    response = run[output].roll(-(length // 2), 2)  # (channels in, channels out, offset)
    large = (response.abs() > LEAST * response.abs().max()).any(0).any(0)
    if not large.any():
        return None
    offsets = large.nonzero().flatten()
    offsets = torch.where(offsets > length // 2, offsets - length, offsets)
    first, end = int(offsets.min()), int(offsets.max())
    if 2 * (end - first + 1) > length:
        return None
    # y[t] = sum over offsets e of k[e] x[t - e]
    order = torch.arange(end, first - 1, -1, device=x.device) % length
    weight = response[:, :, order].transpose(0, 1).contiguous()
    padded = functional.pad(x, (end, -first))
    read = _read(steps, output, outputs, length)
    error = (functional.conv1d(padded, weight) - y)[..., read].abs().max()
    if not error <= AGREES * y.abs().max():
        return None
    values.append(padded)
    pad = torch.ops.aten.constant_pad_nd.default
    convolve = torch.ops.aten.convolution.default
    arguments = (Ref(len(values) - 1), weight, None, [1], [0], [1], False, [0], 1)
    return [
        Step(pad, (Ref(source), [end, -first], 0.0), {}, last.module, [len(values) - 1]),
        Step(convolve, arguments, {}, last.module, [output]),
    ]


def _read(steps: list[Step], value: int, outputs: list[int], length: int) -> slice:
    """Positions of a value that are read: where the transform wraps around, it may not be."""
    readers = [step for step in steps if value in step.inputs]
    if len(readers) != 1 or value in outputs or readers[0].name != "slice":
        return slice(0, length)
    _, dim, start, end = (*readers[0].args, None, None)[:4]
    return slice(start, end) if dim in (2, -1) else slice(0, length)
