"""How the mutants of a network are predicted: by propagation where that is exact, else in full.

An engine offers `reference` and `mutants`, and says what memory they take. A `Propagator` is taken
only after it gave the same as full prediction for mutants at the ends and in the middle.
"""

import logging
import weakref
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .._model_errors import is_device_error
from ..predict import check_repeatable, differs, forward, in_float64
from .propagation import Propagator
from .recording import UnsupportedError, leaves
from .windows import Tensor

log = logging.getLogger(__name__)


def propagator(
    member: nn.Module,
    sequence: Tensor,
    alone: list[Tensor],
    columns: list[int],
    prepared: dict[tuple, Any],
    bfloat16: bool = False,
    max_memory: float = np.inf,
) -> Propagator:
    """A `Propagator` for columns of a member's outputs, checked against full predictions.

    Parameters
    ----------
    member : nn.Module
        As `deepmr_utils.predict.forward` takes it, in evaluation mode.
    sequence : Tensor (4, L)
    alone : list of Tensor (1, K)
        What the member predicts for the sequence, by head.
    columns : list of int
        Wanted columns of all heads side by side.
    prepared, bfloat16, max_memory
        As for `Propagator`.

    Raises
    ------
    UnsupportedError
        If the member cannot be propagated, or a mutant at either end or in the middle of the
        sequence would come out differently.
    """
    probe, positions, change = _probe(sequence)
    starts = np.cumsum([0, *(head.shape[1] for head in alone)])
    heads = np.searchsorted(starts, columns, side="right") - 1
    by_head = np.argsort(heads, kind="stable")
    used = sorted(set(heads.tolist()))
    wanted = [(np.asarray(columns)[heads == h] - starts[h]).tolist() for h in used]

    def function(x: Tensor) -> list[Tensor]:
        parts = forward(member, x).parts
        return [parts[h] for h in used]

    try:
        net = Propagator(function, member, probe, wanted, prepared, bfloat16, max_memory)
        full = torch.cat([y[:, c] for y, c in zip(net.recorded, wanted, strict=True)], dim=1)
        if len(used) > 1:
            net.order = np.argsort(by_head).tolist()
            full = full[:, net.order]
        references, _ = net.reference(sequence[None])
        at = np.zeros(len(positions), int)
        got = net.mutants(references, at, positions, change[:, None], 2**20)[:, 0]
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        if is_device_error(error):
            raise
        raise UnsupportedError(f"the attempt failed ({error})") from error
    got = torch.cat([torch.cat(alone, dim=1)[:, columns], got])
    worst = _worst(member, probe, columns, got, full, bfloat16)
    if worst is not None:
        raise UnsupportedError(
            f"mutants come out differently, by {worst:.1g} of the largest prediction"
        )
    return net


def _worst(
    member: nn.Module,
    probe: Tensor,
    columns: list[int],
    got: Tensor,
    full: Tensor,
    bfloat16: bool,
) -> float | None:
    """Largest error over the largest prediction of its column; None where all is rounding."""
    error, scale = (got - full).abs().amax(0), full.abs().amax(0)
    wrong = ~(error <= 0.1 * scale) if bfloat16 else differs(got, full) | ~torch.isfinite(error)
    exact = in_float64(member, probe) if wrong.any() and full.dtype != torch.float64 else None
    if exact is not None:  # where values are near 0, full predictions are off by as much
        exact = exact[:, columns]
        wrong &= ~((got - exact).abs().amax(0) <= 10 * (full - exact).abs().amax(0))
    return (error / scale)[wrong].max().item() if wrong.any() else None


def _probe(sequence: Tensor) -> tuple[Tensor, np.ndarray, Tensor]:
    """A sequence (4, L) and mutants at its ends and in its middle; their positions and changes."""
    length = sequence.shape[1]
    positions = np.unique([0, length // 2, length - 1])
    old = sequence[:, positions].T
    change = torch.roll(old, 1, dims=1) + (old.sum(1, keepdim=True) == 0) * 0.5 - old
    probe = sequence.repeat(len(positions) + 1, 1, 1)
    rows = torch.arange(len(positions), device=sequence.device)
    probe[rows + 1, :, torch.from_numpy(positions).to(sequence.device)] += change
    return probe, positions, change


class _PeakMemory(TorchDispatchMode):
    """Bytes that the results of operations take at their largest, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = op(*args, **(kwargs or {}))
        before = {t.untyped_storage()._cdata for t in leaves((args, kwargs or {}), Tensor)}
        for tensor in leaves(output, Tensor):
            memory = tensor.untyped_storage()
            key = memory._cdata
            if key not in before and key not in self.held:  # no view
                self.held[key] = memory.nbytes()
                self.now += memory.nbytes()
                weakref.finalize(memory, self._free, key)
        self.peak = max(self.peak, self.now)
        return output

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key)


def bytes_per_sequence(member: nn.Module, sequence: Tensor) -> int:
    """Memory that a forward pass of one sequence (4, L) takes, attention and scratch included."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation, whose inside would not be seen
    try:
        with _PeakMemory() as memory:
            forward(member, sequence[None])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    # convolutions and products take about as much again inside, which is not seen
    return 2 * (memory.peak + sequence.nbytes)


class FullPrediction:
    """Predicts mutants in full, where a `Propagator` cannot.

    Parameters
    ----------
    member : nn.Module
        In evaluation mode.
    sequence : Tensor (4, L)
        With which it is seen whether predictions can be repeated.
    columns : list of int
        Wanted columns of all heads side by side.
    half : bool
        Predict in bfloat16.
    size : int
        Bytes that a sequence takes, see `bytes_per_sequence`.
    max_memory : float
        Bytes that predictions may take; never fewer sequences than one are predicted at a time.
    """

    def __init__(
        self,
        member: nn.Module,
        sequence: Tensor,
        columns: list[int],
        half: bool,
        size: int,
        max_memory: float,
    ) -> None:
        self.member, self.columns, self.half = member, columns, half
        self.bytes_per_sequence, self.bytes_per_site = size, 3 * size
        self.rows = int(max(1, min(max_memory / size, 2**20)))
        probe, *_ = _probe(sequence)
        probe = probe[: self.rows]
        check_repeatable(member, probe, forward(member, probe).values)

    def _predict(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            parts = [
                forward(self.member, rows).values[:, self.columns] for rows in x.split(self.rows)
            ]
        return torch.cat(parts).to(x.dtype)

    def reference(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Propagator.reference`: what `mutants` needs, and predictions (N, K)."""
        return x, self._predict(x)

    def mutants(
        self,
        references: Tensor,
        sequence: np.ndarray,
        position: np.ndarray,
        change: Tensor,
        window_bytes: float,
    ) -> Tensor:
        """Predictions of mutants, as `Propagator.mutants` gives them.

        Parameters
        ----------
        references, sequence, position, change, window_bytes
            As for `Propagator.mutants`; the last is not needed here.
        """
        sites, alleles = change.shape[:2]
        device = references.device
        mutants = references[torch.from_numpy(sequence.repeat(alleles)).to(device)]
        row = torch.arange(len(mutants), device=device)
        at = torch.from_numpy(position.repeat(alleles)).to(device)
        mutants[row, :, at] += change.flatten(0, 1)
        return self._predict(mutants).view(sites, alleles, -1)


Engine = Propagator | FullPrediction


def engines_of(
    members: list[nn.Module],
    sequence: Tensor,
    alone: list[list[Tensor]],
    columns: list[list[int]],
    propagate: bool,
    bfloat16: bool,
    max_memory: float = np.inf,
) -> list[Engine]:
    """One engine a member; full prediction for all where one cannot be propagated.

    Parameters
    ----------
    members : list of nn.Module
    sequence : Tensor (4, L)
        An input, of which the layers are recorded.
    alone : list of list of Tensor (1, K)
        What each member predicts for the input, by head.
    columns : list of list of int
        Outputs of each member to predict, counted over all its heads.
    propagate : bool
        False asks for full prediction.
    bfloat16 : bool
        Round the factors of matrix products.
    max_memory : float
        Bytes that predictions may take.

    Returns
    -------
    list of Engine
    """
    each = list(zip(members, alone, columns, strict=True))
    if propagate:
        prepared: dict = {}
        try:
            size = 2 * bytes_per_sequence(members[0], sequence)  # of a probe's four sequences
            if size > max_memory:
                raise UnsupportedError(f"recording takes {_mebibytes(size, max_memory)}")
            room = max_memory / 2  # for what is kept, beside what an operation takes
            return [propagator(m, sequence, a, c, prepared, bfloat16, room) for m, a, c in each]
        except UnsupportedError as reason:
            log.warning("every mutant is predicted in full: %s", reason)
    size = max(bytes_per_sequence(member, sequence) for member in members)
    if size > max_memory:
        log.warning("one prediction takes %s: no less is possible", _mebibytes(size, max_memory))
    return [FullPrediction(m, sequence, c, bfloat16, size, max_memory) for m, _, c in each]


def _mebibytes(size: float, max_memory: float) -> str:
    return f"about {size / 2**20:.0f} MiB, more than max_memory, {max_memory / 2**20:.0f} MiB"
