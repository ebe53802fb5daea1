"""How the mutants of a network are predicted: by propagation where that is exact, else in full.

An engine offers `reference` and `mutants`, and says what memory they take. A `Propagator` is taken
only after it gave the same as full prediction for mutants at the ends and in the middle.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import nn

from ._model_errors import is_device_error
from .predict import forward
from .propagation import Propagator
from .recording import UnsupportedError
from .windows import Tensor

log = logging.getLogger(__name__)


def propagator(
    member: nn.Module,
    sequence: Tensor,
    widths: list[int],
    columns: list[int],
    prepared: dict[tuple, Any],
    bfloat16: bool = False,
) -> Propagator:
    """A `Propagator` for columns of a member's outputs, checked against full predictions.

    Parameters
    ----------
    member : nn.Module
        As `deepmr_utils.predict.forward` takes it, in evaluation mode.
    sequence : Tensor (4, L)
    widths : list of int
        Columns of each head.
    columns : list of int
        Wanted columns of all heads side by side.
    prepared, bfloat16
        As for `Propagator`.

    Raises
    ------
    UnsupportedError
        If the member cannot be propagated, or a mutant at either end or in the middle of the
        sequence would come out differently.
    """
    length = sequence.shape[1]
    positions = np.unique([0, length // 2, length - 1])
    old = sequence[:, positions].T
    change = torch.roll(old, 1, dims=1) + (old.sum(1, keepdim=True) == 0) * 0.5 - old
    probe = sequence.repeat(len(positions) + 1, 1, 1)
    rows = torch.arange(len(positions), device=sequence.device)
    probe[rows + 1, :, torch.from_numpy(positions).to(sequence.device)] += change
    starts = np.cumsum([0, *widths])
    heads = np.searchsorted(starts, columns, side="right") - 1
    by_head = np.argsort(heads, kind="stable")
    used = sorted(set(heads.tolist()))
    wanted = [(np.asarray(columns)[heads == h] - starts[h]).tolist() for h in used]

    def function(x: Tensor) -> list[Tensor]:
        parts = forward(member, x).parts
        return [parts[h] for h in used]

    try:
        net = Propagator(function, member, probe, wanted, prepared, bfloat16)
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
    worst = ((got - full[1:]).abs().max() / full.abs().max().clamp_min(1e-30)).item()
    limit = 0.1 if bfloat16 else 1e-9 if sequence.dtype == torch.float64 else 1e-4
    if not worst <= limit:
        raise UnsupportedError(
            f"mutants come out differently, by {worst:.1g} of the largest prediction"
        )
    return net


class FullPrediction:
    """Predicts mutants in full, where a `Propagator` cannot."""

    def __init__(self, member: nn.Module, sequence: Tensor, columns: list[int], half: bool) -> None:
        self.member, self.columns, self.half = member, columns, half
        sizes = [sequence.numel()]
        hooks = [
            module.register_forward_hook(
                lambda _, __, out: sizes.append(out.numel()) if torch.is_tensor(out) else None
            )
            for module in member.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # takes no hook
        ]
        self._predict(sequence[None])
        for hook in hooks:
            hook.remove()
        # input, output and a working copy of the largest layer
        self.bytes_per_sequence = 4 * max(sizes) * sequence.element_size()
        self.bytes_per_site = 3 * self.bytes_per_sequence

    def _predict(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return forward(self.member, x).values[:, self.columns].to(x.dtype)

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
    widths: list[list[int]],
    columns: list[list[int]],
    propagate: bool,
    bfloat16: bool,
) -> list[Engine]:
    """One engine a member; full prediction for all where one cannot be propagated.

    Parameters
    ----------
    members : list of nn.Module
    sequence : Tensor (4, L)
        An input, of which the layers are recorded.
    widths : list of list of int
        Outputs of each head of each member.
    columns : list of list of int
        Outputs of each member to predict, counted over all its heads.
    propagate : bool
        False asks for full prediction.
    bfloat16 : bool
        Round the factors of matrix products.

    Returns
    -------
    list of Engine
    """
    prepared: dict = {}
    each = list(zip(members, widths, columns, strict=True))
    if propagate:
        try:
            return [propagator(m, sequence, w, c, prepared, bfloat16) for m, w, c in each]
        except UnsupportedError as reason:
            log.warning("every mutant is predicted in full: %s", reason)
    return [FullPrediction(member, sequence, c, bfloat16) for member, _, c in each]
