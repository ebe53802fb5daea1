"""What operations on the channels of each position do to windows (see `layers`).

A window is a list of columns of channels. An operation that leaves positions and sequences alone
is run on these columns as it was recorded: with another number of sequences, and one position.
"""

from collections.abc import Iterable

from .._members import leaves
from .layout import N, P
from .recording import Step
from .windows import Action, Batch, Network, Tensor, Window

# functions of one axis, which is their second argument
NONLINEAR = (
    *("_softmax", "_log_softmax", "logsumexp", "glu", "cummax", "cumprod", "logcumsumexp"),
    *("amin", "prod", "var", "std", "linalg_vector_norm"),
)
NORMS = ("native_layer_norm", "_fused_rms_norm", "rms_norm")


def _axes(step: Step, position: int = 1) -> list[int]:
    """The axes that an operation names."""
    name = step.op._schema.arguments[position].name
    given = step.args[position] if len(step.args) > position else step.kwargs.get(name)
    if given is None:
        default = step.op._schema.arguments[position]
        given = default.default_value if default.has_default_value() else None
    step.refuse_if(given is None, "runs over all axes")
    return [given] if isinstance(given, int) else list(given)


def _act_on_columns(net: Network, step: Step, axes: Iterable[int], is_linear: bool) -> Action:
    source = net.layouts[step.inputs[0]]
    step.refuse_if(len(step.inputs) > 1, "joins several values")
    axes = sorted(axis % len(source.axes) for axis in axes)
    for axis in axes:
        step.refuse_if(P in source.axes[axis], "mixes positions")
        step.refuse_if(N in source.axes[axis], "mixes sequences")
    used = [k for k, value in enumerate(step.outputs) if value in net.used]
    for k in used:
        shape = tuple(net.values[step.outputs[k]].shape)
        gone = len(shape) < len(source.axes)
        sizes = {axis: None if gone else shape[axis] for axis in axes}
        net.declare(step, source.replaced(sizes), output=k)
    source.columns(1)  # or it refuses
    floating = all(net.values[step.outputs[k]].is_floating_point() for k in used)

    def run(data: Tensor) -> list[Tensor]:
        columns = data.reshape(source.columns(data.shape[:3].numel()))
        outputs = leaves(step.function(columns, *step.args[1:], **step.kwargs), Tensor)
        return [outputs[k].reshape(*data.shape[:3], -1) for k in used]

    def act(batch: Batch, window: Window) -> list[Window]:
        place, values = window.place, [step.outputs[k] for k in used]
        if is_linear:
            parts = run(batch.difference(window))
            return [Window(v, place, p.contiguous()) for v, p in zip(values, parts, strict=True)]
        parts = run(batch.absolute_at(window, place))
        if not floating or all(value in net.wants_absolute for value in values):
            return [Window(v, place, p, False) for v, p in zip(values, parts, strict=True)]
        before = run(batch.reference(window.value, place))
        pairs = zip(values, parts, before, strict=True)
        return [Window(v, place, place.fill_outside(p - b, 0)) for v, p, b in pairs]

    return act


def nonlinear(net: Network, step: Step, axes: Iterable[int]) -> Action:
    """A function of channels: softmax, a maximum, a norm."""
    return _act_on_columns(net, step, axes, is_linear=False)


def linear(net: Network, step: Step, axes: Iterable[int]) -> Action:
    """A linear function of channels: their sum, a choice of them."""
    return _act_on_columns(net, step, axes, is_linear=True)


def over_one_axis(net: Network, step: Step) -> Action:
    """A function of the axes that its second argument names."""
    return nonlinear(net, step, _axes(step, 2 if step.name == "linalg_vector_norm" else 1))


def layer_norm(net: Network, step: Step) -> Action:
    """Layer norm or RMS norm of the last axes."""
    return nonlinear(net, step, range(-len(step.args[1]), 0))


def split(net: Network, step: Step) -> Action:
    """Channels taken apart: chunks, halves of a gate."""
    position = 1 if step.name == "unbind" else 2
    return linear(net, step, _axes(step, position))
