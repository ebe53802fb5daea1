"""How the mutants of a network are predicted: by propagation where that is exact, else in full.

An engine offers `reference` and `mutants`, and says what memory they take. A `Propagator` is taken
only after it gave the same as full prediction for mutants at the ends and in the middle.
"""

import itertools
import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from .._members import float32_products, is_device_error
from .._memory import bytes_per_sequence
from ..predict import check_repeatable, differs, forward, in_float64
from .propagation import Propagator
from .recording import UnsupportedError
from .windows import Options, Sites, Tensor, on_device

log = logging.getLogger(__name__)


def propagator(
    member: nn.Module, sequence: Tensor, alone: list[Tensor], columns: list[int], options: Options
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
    options : Options

    Raises
    ------
    UnsupportedError
        If the member cannot be propagated, or a mutant at either end or in the middle of the
        sequence would come out differently.
    """
    probe, sites = _probe(sequence)
    starts = np.cumsum([0, *(head.shape[1] for head in alone)])
    # neighbouring columns of one head are one output
    heads = itertools.groupby(columns, lambda c: int(np.searchsorted(starts, c, side="right")) - 1)
    wanted = [(head, [c - int(starts[head]) for c in run]) for head, run in heads]
    try:
        net = Propagator(member, probe, wanted, options)
        net.tf32 = False  # the way is checked, not the rounding
        references, _ = net.reference(sequence[None])
        got = net.mutants(references, sites, 2**20)[:, 0]
        net.tf32 = options.tf32
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        if is_device_error(error):
            raise
        raise UnsupportedError(f"the attempt failed ({error})") from error
    got = torch.cat([torch.cat(alone, dim=1)[:, columns], got])
    worst = _worst(member, probe, columns, got, net.recorded, options.bfloat16)
    if worst is not None:
        raise UnsupportedError(
            f"mutants come out differently, by {worst:.1g} of the largest prediction"
        )
    return net


def _worst(
    member: nn.Module, probe: Tensor, columns: list[int], got: Tensor, full: Tensor, bfloat16: bool
) -> float | None:
    """Largest error over the largest prediction of its column; None where all is rounding."""
    error, scale = (got - full).abs().amax(0), full.abs().amax(0)
    wrong = ~(error <= 0.1 * scale) if bfloat16 else differs(got, full) | ~torch.isfinite(error)
    exact = in_float64(member, probe) if wrong.any() and full.dtype != torch.float64 else None
    if exact is not None:  # where values are near 0, full predictions are off by as much
        exact = exact[:, columns]
        wrong &= ~((got - exact).abs().amax(0) <= 10 * (full - exact).abs().amax(0))
    return (error / scale)[wrong].max().item() if wrong.any() else None


def _probe(sequence: Tensor) -> tuple[Tensor, Sites]:
    """A sequence (4, L) and mutants at its ends and in its middle; what is mutated in these."""
    length = sequence.shape[1]
    positions = np.unique([0, length // 2, length - 1])
    old = sequence[:, positions].T
    change = torch.roll(old, 1, dims=1) + (old.sum(1, keepdim=True) == 0) * 0.5 - old
    sites = Sites(np.zeros(len(positions), int), positions, change[:, None])
    return torch.cat([sequence[None], _mutated(sequence[None], sites)]), sites


def _mutated(x: Tensor, sites: Sites) -> Tensor:
    """Mutants (S * A, 4, L) of sequences (N, 4, L)."""
    alleles = sites.change.shape[1]
    sequence, position = (on_device(index.repeat(alleles), x.device) for index in sites[:2])
    mutants = x[sequence]
    mutants[torch.arange(len(mutants), device=x.device), :, position] += sites.change.flatten(0, 1)
    return mutants


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
    options : Options
        Never fewer sequences than one are predicted at a time, whatever memory that takes.
    """

    def __init__(
        self, member: nn.Module, sequence: Tensor, columns: list[int], options: Options
    ) -> None:
        self.member, self.columns = member, columns
        self.half, self.tf32 = options.bfloat16, options.tf32
        self.bytes_per_sequence = bytes_per_sequence(partial(forward, member), sequence)
        self.bytes_per_site = 3 * self.bytes_per_sequence
        self.rows = int(max(1, min(options.max_memory / self.bytes_per_sequence, 2**20)))
        probe = _probe(sequence)[0][: self.rows]
        check_repeatable(member, probe, forward(member, probe).values, columns)

    def _predict(self, x: Tensor) -> Tensor:
        half = torch.autocast(x.device.type, torch.bfloat16, enabled=self.half)
        with half, float32_products(x.device, self.tf32):
            parts = (forward(self.member, rows).values for rows in x.split(self.rows))
            return torch.cat([part[:, self.columns] for part in parts]).to(x.dtype)

    def reference(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Propagator.reference`: what `mutants` needs, and predictions (N, K)."""
        return x, self._predict(x)

    def mutants(self, references: Tensor, sites: Sites, window_bytes: float) -> Tensor:
        """Predictions (S, A, K), as `Propagator.mutants` gives them; `window_bytes` is not used."""
        return self._predict(_mutated(references, sites)).view(*sites.change.shape[:2], -1)


class OtherStrand:
    """What an engine predicts for reverse complements, as predictions of a further member.

    Parameters
    ----------
    engine : Propagator or FullPrediction
    exchange : list of int
        Which feature takes the place of each on the reverse strand.
    """

    def __init__(self, engine: Propagator | FullPrediction, exchange: list[int]) -> None:
        self.engine, self.exchange = engine, exchange
        self.bytes_per_sequence = engine.bytes_per_sequence
        self.bytes_per_site = engine.bytes_per_site

    def reference(self, x: Tensor) -> tuple[Any, Tensor]:
        """As `Propagator.reference`."""
        state, values = self.engine.reference(x.flip(1, 2))
        return (state, x.shape[2]), values[:, self.exchange]

    def mutants(self, references: Any, sites: Sites, window_bytes: float) -> Tensor:
        """As `Propagator.mutants`."""
        state, length = references
        # in A, C, G, T order the complement is the reverse
        there = Sites(sites.sequence, length - 1 - sites.position, sites.change.flip(2))
        return self.engine.mutants(state, there, window_bytes)[..., self.exchange]


Engine = Propagator | FullPrediction | OtherStrand
# a module, what it predicts for a sequence, by head, and its outputs to predict
Member = tuple[nn.Module, list[Tensor], list[int]]


def engines_of(
    members: list[Member], sequence: Tensor, propagate: bool, options: Options
) -> list[Engine]:
    """One engine a member; full prediction for all where one cannot be propagated.

    Parameters
    ----------
    members : list of (nn.Module, list of Tensor (1, K), list of int)
        Each with what it predicts for the sequence, by head, and its outputs to predict, counted
        over all its heads.
    sequence : Tensor (4, L)
        An input, of which the layers are recorded.
    propagate : bool
        False asks for full prediction.
    options : Options

    Returns
    -------
    list of Engine
    """
    if propagate:
        try:
            # of a probe's four sequences
            size = 2 * bytes_per_sequence(partial(forward, members[0][0]), sequence)
            if size > options.max_memory:
                raise UnsupportedError(f"recording takes {_mebibytes(size, options)}")
            # one half for what is kept, beside what an operation takes
            half = options._replace(max_memory=options.max_memory / 2)
            engines = [propagator(m, sequence, alone, c, half) for m, alone, c in members]
            if engines[0].summary is not None:
                log.warning("%s", engines[0].summary)
            return engines
        except UnsupportedError as reason:
            log.warning("every mutant is predicted in full: %s", reason)
    if options.bfloat16 or options.tf32:
        log.warning(
            "in full prediction errors of %s follow the predictions, and may exceed every effect: "
            "compare with precision='float32'", "bfloat16" if options.bfloat16 else "tf32"
        )  # fmt: skip
    engines = [FullPrediction(m, sequence, c, options) for m, _, c in members]
    size = max(engine.bytes_per_sequence for engine in engines)
    if size > options.max_memory:
        log.warning("one prediction takes %s: no less is possible", _mebibytes(size, options))
    return engines


def _mebibytes(size: float, options: Options) -> str:
    most = options.max_memory / 2**20
    return f"about {size / 2**20:.0f} MiB, more than max_memory, {most:.0f} MiB"
