"""A block of mutated sequences: what is predicted at a time, and moments over members.

`mutagenesis` goes through its sequences block by block.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .._members import is_out_of_memory
from ..sequences import ALPHABET, UNKNOWN
from .engines import Engine
from .windows import Sites, on_device

# sites a block, so that progress is seen, and stored
MAX_SITES = {"cpu": 2**14, "cuda": 2**17}
MAX_RESULT = 2**31  # bytes of a block's result, on the host
Transform = Callable[[np.ndarray], np.ndarray]
Predictions = tuple[torch.Tensor, torch.Tensor]  # references (n, K), mutants (S, 3, K)
log = logging.getLogger(__name__)


class Limits:
    """How much is done at a time: by memory, by what the caller asked for, and after failures."""

    def __init__(self, batch_size: int | None, memory: int, device: torch.device) -> None:
        self.batch_size, self.memory, self.bytes_per_site = batch_size, memory, 1
        self.max_sites = MAX_SITES.get(device.type, MAX_SITES["cuda"])
        # a CPU works fastest on windows that stay in its cache, a GPU on large ones
        on_cpu = device.type == "cpu"
        self.window = min(2**22, memory // 16) if on_cpu else min(2**30, memory // 32)

    def sites(self) -> int:
        """Sites whose mutants are predicted at a time."""
        by_memory = self.memory / 2 / self.bytes_per_site
        by_caller = np.inf if self.batch_size is None else self.batch_size // 3
        return int(max(1, min(by_memory, by_caller)))

    def sequences(self, engines: list[Engine], sites: int, n_features: int) -> int:
        """Sequences of so many sites a block: as many as fill a batch and fit into memory."""
        result = 16 * len(ALPHABET) * sites * n_features
        by_memory = self.memory / 4 / max(result, *(e.bytes_per_sequence for e in engines))
        by_result = MAX_RESULT / result
        by_sites = min(self.max_sites, self.sites()) / max(1, sites)
        return int(max(1, min(by_memory, by_result, by_sites)))

    def halve(self, sites: int) -> None:
        """After a GPU ran out of memory."""
        torch.cuda.empty_cache()
        self.memory, self.window = self.memory // 2, self.window // 2
        self.batch_size = max(1, 3 * sites // 2)
        log.warning(
            "out of GPU memory with %d sites: going on with batches of half the size", sites
        )


class Moments(NamedTuple):
    """Over members: mean reference (n, K); mean and sd of effects (S, 3, K); each member's."""

    reference: np.ndarray
    effect: np.ndarray
    se: np.ndarray | None = None  # of several members
    members: np.ndarray | None = None  # (M, S, 3, K), where asked for


class Rounding:
    """Whether effects stand above the rounding of the predictions that they are differences of.

    Parameters
    ----------
    names : list of str
        Features.
    dtype : torch.dtype
        Of the computation.
    """

    LEAST = 100  # largest effect over rounding: 1 % of that effect is rounding then

    def __init__(self, names: list[str], dtype: torch.dtype) -> None:
        self.names, self.dtype = names, dtype
        self.effect = self.prediction = np.full(len(names), np.nan)  # NaN: nothing seen

    def see(self, moments: Moments) -> None:
        """Take the effects of a block."""
        if len(moments.effect):
            largest = np.fmax(moments.effect.max((0, 1)), -moments.effect.min((0, 1)))
            self.effect = np.fmax(self.effect, largest)
        self.prediction = np.fmax(self.prediction, np.abs(moments.reference).max(0))

    def warn(self) -> None:
        """Say which features have effects that are mostly rounding."""
        rounding = torch.finfo(self.dtype).eps * self.prediction
        poor = np.flatnonzero(self.effect < self.LEAST * rounding)
        if len(poor):
            k = poor[0]
            log.warning(
                "effects on %d of %d features are 0 or near the rounding of %s, first on %r: "
                "at most %.2g where predictions reach %.2g; precision='float64' gives them exactly",
                len(poor), len(self.names), str(self.dtype).removeprefix("torch."), self.names[k],
                self.effect[k], self.prediction[k],
            )  # fmt: skip


class Block:
    """Some sequences, and what of them is to be mutated.

    Parameters
    ----------
    one_hot : torch.Tensor (n, 4, L)
    codes : np.ndarray, int (n, L)
    mask : np.ndarray, bool (n, L)
        What to mutate, where it is known.
    exchange : list of int or slice, optional
        Features on the reverse strand, which is predicted, too, where it is given.
    """

    def __init__(
        self,
        one_hot: torch.Tensor,
        codes: np.ndarray,
        mask: np.ndarray,
        exchange: list[int] | slice | None = None,
    ) -> None:
        self.one_hot, self.exchange = one_hot, exchange
        self.sequence, self.position = np.nonzero(mask & (codes != UNKNOWN))
        self.allele = (codes[self.sequence, self.position][:, None] + np.arange(1, 4)) % 4

    def predictions(self, engine: Engine, rows: slice, chosen: slice, window: int) -> Predictions:
        """References of some sequences, and mutants of the chosen sites, which lie in these."""
        x, position = self.one_hot[rows], self.position[chosen]
        sequence = self.sequence[chosen] - rows.start
        allele = torch.from_numpy(self.allele[chosen].astype(np.int64)).to(x.device)
        rows, columns = (on_device(index, x.device) for index in (sequence, position))
        change = nn.functional.one_hot(allele, len(ALPHABET)).to(x) - x[rows, :, columns][:, None]
        forward = _predicted(engine, x, Sites(sequence, position, change), window)
        if self.exchange is None:
            return forward
        # in A, C, G, T order the complement is the reverse
        sites = Sites(sequence, x.shape[2] - 1 - position, change.flip(2))
        reverse = _predicted(engine, x.flip(1, 2), sites, window)
        return tuple((a + b[..., self.exchange]) / 2 for a, b in zip(forward, reverse, strict=True))

    def spread(
        self, moments: Moments, shown: np.ndarray, keep_members: bool, covariance: bool
    ) -> dict[str, np.ndarray]:
        """Variables of the data set, NaN where nothing was mutated."""
        site = (self.sequence[:, None], np.searchsorted(shown, self.position)[:, None], self.allele)
        shape = (len(self.one_hot), len(shown), len(ALPHABET))

        def whole(values: np.ndarray) -> np.ndarray:
            result = np.full((*shape, *values.shape[2:]), np.nan, values.dtype)
            result[site] = values
            return result

        result = {"effect": whole(moments.effect)}
        alone = moments.se is None
        result["se"] = np.full_like(result["effect"], np.nan) if alone else whole(moments.se)
        result["reference_prediction"] = moments.reference
        if keep_members:
            result["member_effect"] = np.stack([whole(values) for values in moments.members])
        if covariance:
            centred = moments.members - moments.effect
            product = np.einsum("msak,msal->sakl", centred, centred)
            result["covariance"] = whole(product / (len(centred) - 1 or np.nan))
        return result


def _predicted(engine: Engine, x: torch.Tensor, sites: Sites, window: int) -> Predictions:
    state, reference = engine.reference(x)
    if not len(sites.sequence):
        return reference, reference.new_zeros(0, 3, reference.shape[1])
    return reference, engine.mutants(state, sites, window)


def block_moments(
    sites: Block, engines: list[Engine], limits: Limits, transform: Transform | None, together: bool
) -> Moments:
    """Predict, difference and take moments over members, as many sites at a time as fit.

    Parameters
    ----------
    sites : Block
    engines : list of Engine
        One a member.
    limits : Limits
        Halved where a GPU runs out of memory.
    transform : callable, optional
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` takes it.
    together : bool
        Hold the effects of all members at once, which a transform needs, and return them.
    """
    reduce = partial(_together, transform=transform) if together else _streamed
    parts, start, first, n = [], 0, 0, len(sites.sequence)
    while start < max(1, n):
        chosen = slice(start, min(n, start + limits.sites()))
        # only the sequences that these sites lie in, and those without a site between them
        begin = min(first, sites.sequence[start]) if n else 0
        end = len(sites.one_hot) if chosen.stop == n else sites.sequence[chosen.stop - 1] + 1
        rows, full = slice(begin, end), False
        try:
            predictions = (sites.predictions(e, rows, chosen, limits.window) for e in engines)
            part = reduce(predictions, sites.sequence[chosen] - begin)
        except RuntimeError as error:
            full = is_out_of_memory(error) and chosen.stop - start > 1
            if not full:
                raise
        if full:  # only here, when the error no longer holds what was computed
            limits.halve(chosen.stop - start)
            continue
        # of a sequence that goes on, the reference is predicted again
        part = part._replace(reference=part.reference[first - begin :])
        parts.append(part)
        start, first = max(1, chosen.stop), end
    if len(parts) == 1:
        return parts[0]
    joined = {"reference": 0, "effect": 0, "se": 0, "members": 1}
    for name, axis in joined.items():
        values = [getattr(p, name) for p in parts]
        joined[name] = None if values[0] is None else np.concatenate(values, axis)
    return Moments(**joined)


def _streamed(predictions: Iterator[Predictions], sequence: np.ndarray) -> Moments:
    """Moments of one member after the other (Welford 1962, Technometrics 4:419)."""
    squares: torch.Tensor | float = 0.0
    for m, (reference, mutants) in enumerate(predictions, start=1):
        rows = on_device(sequence, reference.device)
        difference = mutants - reference[rows][:, None]
        _check_finite(torch.isfinite(difference), "the model")
        if m == 1:
            mean, effect = reference, difference
            continue
        mean = mean + (reference - mean) / m
        deviation = difference - effect
        effect = effect + deviation / m
        squares = squares + deviation * (difference - effect)
    se = [(squares / (m - 1)).sqrt()] if m > 1 else []
    return Moments(*_on_host(mean, effect, *se))


def _on_host(*tensors: torch.Tensor) -> list[np.ndarray]:
    """Arrays of tensors, which leave a GPU through pinned memory and are waited for once."""
    if tensors[0].device.type != "cuda":
        return [tensor.numpy() for tensor in tensors]
    pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for home, tensor in zip(pinned, tensors, strict=True):
        home.copy_(tensor, non_blocking=True)
    torch.cuda.synchronize(tensors[0].device)
    return [home.numpy() for home in pinned]


def _together(
    predictions: Iterator[Predictions], sequence: np.ndarray, transform: Transform | None
) -> Moments:
    """Moments of all members at once, recalibrated together."""
    pairs = [_on_host(*pair) for pair in predictions]
    reference, mutants = (np.stack(values) for values in zip(*pairs, strict=True))
    shape, what = mutants.shape, "the model"
    if transform is not None:
        what = f"{transform_name(transform)} of the model"
        reference = transform(reference)
        mutants = transform(mutants.reshape(shape[0], -1, shape[3])).reshape(shape)
    difference = mutants - reference[:, sequence][:, :, None]
    _check_finite(np.isfinite(difference), what)
    se = difference.std(0, ddof=1) if len(difference) > 1 else None
    return Moments(reference.mean(0), difference.mean(0), se, difference)


def _check_finite(finite: torch.Tensor | np.ndarray, what: str) -> None:
    if not finite.all():
        raise ValueError(
            f"{what} gives NaN or infinity for a sequence or a mutant: check its weights; where "
            "probabilities saturate at 0 or 1, take effects from a model that gives logits"
        )


def transform_name(transform: Transform) -> str:
    """What an effect set's attributes and errors call a transform."""
    return getattr(transform, "__name__", type(transform).__name__)
