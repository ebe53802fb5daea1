"""Saturation in-silico mutagenesis: the effect of every substitution, with its standard error."""

import copy
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import nn

from . import __version__
from .predict import (
    Features,
    MCDropout,
    Members,
    as_members,
    evaluating,
    forward,
    member_dtype,
    model_hash,
    progress_bar,
    resolve_device,
    resolve_features,
)
from .propagation import Engine, engines_of
from .sequences import ALPHABET, UNKNOWN, base_codes, check_one_hot
from .storage import SCHEMA_VERSION, EffectsWriter, load_effects, save_effects

__all__ = ["SCHEMA_VERSION", "load_effects", "saturation_mutagenesis", "save_effects"]

PRECISIONS = ("float32", "float64", "tf32", "bfloat16")
MAX_COVARIANCE = 64  # features of which all covariances may be asked for
MAX_SITES = 2**14  # sites a block, so that progress is seen, and stored
Transform = Callable[[np.ndarray], np.ndarray]
log = logging.getLogger(__name__)


def saturation_mutagenesis(
    members: Members,
    one_hot: np.ndarray | torch.Tensor,
    *,
    sequence_ids: Sequence[str] | None = None,
    features: Features = None,
    transform: Transform | None = None,
    positions: ArrayLike | None = None,
    reverse_complement: bool = False,
    batch_size: int | None = None,
    max_memory: int = 2**31,
    precision: str | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    keep_members: bool = False,
    covariance: bool = False,
    store: str | Path | None = None,
    propagate: bool = True,
) -> xr.Dataset:
    """Predict the effect of all 3 L substitutions of every sequence.

    Only what a substitution changes of each layer is computed again, exactly (see
    `deepmr_utils.propagation`); a network for which that is not possible is predicted in full for
    every mutant, and a log line says which part of it is the reason.

    Parameters
    ----------
    members : nn.Module, list of nn.Module or MCDropout
        Each maps (N, 4, L) to (N, K), or to several heads (see `deepmr_utils.predict.forward`);
        used in evaluation mode. A member sees a reference and all its mutants under the same
        weights and the same dropout mask.
    one_hot : array or tensor (N, 4, L)
        Reference sequences. Unknown bases, all-zero or soft columns, are not mutated.
    sequence_ids : sequence of str (N,), optional
        Unique identifiers; ``sequence-0`` ... by default.
    features : optional
        Names or columns of the outputs to keep, see `deepmr_utils.predict.resolve_features`.
    transform : callable, optional
        Maps predictions (M, n, K) of all members to the scale on which effects are taken, before
        differencing: a recalibrator; `scipy.special.logit` where a model gives probabilities and
        effects are wanted on the logit scale, `scipy.special.expit` the other way.
    positions : array_like, optional
        What to mutate: positions, int (P,), of all sequences, for instance
        ``np.r_[100:120, 180:200]``; or a mask, bool (N, L). All by default.
    reverse_complement : bool
        Average every prediction with that of the reverse complement, on the scale of the model.
    batch_size : int, optional
        Mutants predicted at a time, across sequences and positions; by default as many as
        `max_memory` allows. It does not change the result.
    max_memory : int
        Bytes that may be used beside weights and result. Where a GPU has less, batches are halved
        until they fit.
    precision : {"float32", "float64", "tf32", "bfloat16"}, optional
        Type of the computation; that of the members by default. "tf32" (GPU only) and "bfloat16"
        round the factors of matrix products.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    progress : bool
        Show a progress bar.
    keep_members : bool
        Also return the effect of every member.
    covariance : bool
        Also return the covariance over members between the effects on each two features.
    store : path, optional
        Write the effects to a Zarr store at this path as they are computed, and return them lazily.
        A run that was interrupted goes on where it stopped; a finished one is found again.
    propagate : bool
        False predicts every mutant in full.

    Returns
    -------
    xr.Dataset
        Dimensions sequence, position, allele (A, C, G, T), feature. ``effect`` and ``se`` are NaN
        at the reference allele, at unknown bases and where nothing was to be mutated; ``se`` is NaN
        for a single member. ``reference_prediction`` (sequence, feature) is the mean over members,
        coordinate ``reference`` (sequence, position) the reference base. With ``keep_members`` also
        ``member_effect`` (member, sequence, position, allele, feature), with ``covariance`` also
        ``covariance`` (sequence, position, allele, feature, other_feature).

    Raises
    ------
    ValueError, TypeError
        If an argument or the model does not fit.
    FileExistsError
        If the store holds effects of something else.
    BlockingIOError
        If another process is writing the store.

    Notes
    -----
    For member m, feature k and substitution v, ``d = f(x with v) - f(x)``; the effect is the mean
    over members, its standard error their standard deviation and its covariance theirs (ddof 1).

    Against float64, relative to the largest prediction, float32 is exact to 1e-6 on networks of
    the size of DeepSEA, BPNet and Basset. With "bfloat16" effects are off by up to 0.6 % of the
    largest effect there, because only differences are rounded; in full prediction, which rounds
    the predictions themselves, the error can exceed every effect (`benchmarks/ism.py --precision`).
    """
    one_hot = check_one_hot(one_hot)
    dropout_seed = members.seed if isinstance(members, MCDropout) else None
    members = as_members(members)
    device = resolve_device(device)
    ids = _check_ids(sequence_ids, len(one_hot))
    codes = base_codes(one_hot)
    mask = _check_positions(positions, codes.shape)
    together = keep_members or covariance or transform is not None
    limits = _Limits(batch_size, max_memory, device)
    members, dtype = _of_precision(members, precision, one_hot.dtype, device)
    shown = np.flatnonzero(mask.any(0))
    with evaluating(members, device, tf32=precision == "tf32"):
        one_hot = one_hot.to(device, dtype)
        heads = forward(members[0], one_hot[:1])
        widths = [part.shape[1] for part in heads.parts]
        names, columns = resolve_features(members, features, sum(widths), heads.names)
        if covariance and len(names) > MAX_COVARIANCE:
            raise ValueError(
                f"the covariance of {len(names)} features takes {len(names)} times their space: "
                f"name at most {MAX_COVARIANCE} features"
            )
        letters = np.array(list(ALPHABET + "N"))[codes[:, shown]]
        coordinates = {
            "sequence": ids,
            "position": shown,
            "allele": list(ALPHABET),
            "feature": names,
            "reference": (("sequence", "position"), letters),
        }
        attributes = {
            "schema_version": SCHEMA_VERSION,
            "model_hash": model_hash(members),
            "n_members": len(members),
            "dropout_seed": "none" if dropout_seed is None else dropout_seed,
            "calibration": "none" if transform is None else _name(transform),
            "strands": "both" if reverse_complement else "forward",
            "precision": precision or str(dtype).removeprefix("torch."),
            "versions": f"deepmr_utils {__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
        }
        key = (attributes, names, columns, ids, mask, one_hot.cpu().numpy(), transform)
        fingerprint = joblib.hash((*key, keep_members, covariance)) if store is not None else ""
        with EffectsWriter(coordinates, attributes, store, fingerprint) as writer:
            if writer.finished:
                return writer.finish()
            engines = engines_of(
                members, one_hot[0], widths, columns, propagate, precision == "bfloat16"
            )
            held = 9 * len(names) * (len(members) if together else 1)  # numbers held for a site
            limits.bytes_per_site = max(e.bytes_per_site for e in engines) + held * dtype.itemsize
            size = writer.block or limits.sequences(engines, mask.sum(1).max(), len(names))
            for start in progress_bar(range(0, len(one_hot), size), progress, desc="mutagenesis"):
                if writer.needs(start):
                    rows = slice(start, start + size)
                    sites = _Sites(one_hot[rows], codes[rows], mask[rows], reverse_complement)
                    moments = _moments(sites, engines, limits, transform, together)
                    values = sites.spread(moments, shown, keep_members, covariance)
                    writer.write(start, size, values)
            return writer.finish()


class _Limits:
    """How much is done at a time: by memory, by what the caller asked for, and after failures."""

    def __init__(self, batch_size: int | None, max_memory: int, device: torch.device) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if max_memory < 2**20:
            raise ValueError(f"max_memory is in bytes, at least a mebibyte; got {max_memory}")
        self.batch_size, self.memory, self.bytes_per_site = batch_size, max_memory, 1
        # a CPU works fastest on windows that stay in its cache, a GPU on large ones
        self.window = min(2**23 if device.type == "cpu" else 2**28, max_memory // 16)

    def sites(self, alleles: int = 3) -> int:
        """Sites whose mutants are predicted at a time."""
        most = max(1, int(self.memory / 2 / self.bytes_per_site))
        if self.batch_size is not None:
            most = min(most, max(1, self.batch_size // alleles))
        return most

    def sequences(self, engines: list[Engine], sites: int, n_features: int) -> int:
        """Sequences of so many sites a block: as many as fill a batch and fit into memory."""
        result = 16 * len(ALPHABET) * sites * n_features
        by_memory = self.memory / 4 / max(result, *(e.bytes_per_sequence for e in engines))
        by_sites = min(MAX_SITES, self.sites()) / max(1, sites)
        return max(1, int(min(by_memory, by_sites)))

    def halve(self, error: torch.OutOfMemoryError, sites: int) -> None:
        """After a GPU ran out of memory."""
        if sites == 1:
            raise error
        torch.cuda.empty_cache()
        self.memory, self.window = self.memory // 2, self.window // 2
        self.batch_size = max(1, 3 * sites // 2)
        log.warning(
            "out of GPU memory with %d sites: going on with batches of half the size", sites
        )


class _Moments(NamedTuple):
    """Over members: mean reference (n, K); mean and sd of effects (S, 3, K); each member's."""

    reference: np.ndarray
    effect: np.ndarray
    se: np.ndarray
    members: np.ndarray | None = None  # (M, S, 3, K), where asked for


class _Sites:
    """What is to be mutated of a block of sequences."""

    def __init__(
        self, one_hot: torch.Tensor, codes: np.ndarray, mask: np.ndarray, both_strands: bool
    ) -> None:
        self.one_hot, self.both_strands = one_hot, both_strands
        self.sequence, self.position = np.nonzero(mask & (codes != UNKNOWN))
        self.allele = (codes[self.sequence, self.position][:, None] + np.arange(1, 4)) % 4

    def predictions(
        self, engine: Engine, chosen: slice, window: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """References (n, K), and mutants (S, 3, K) of the chosen sites."""
        sequence, position = self.sequence[chosen], self.position[chosen]
        device, length = self.one_hot.device, self.one_hot.shape[2]
        rows, columns = (torch.from_numpy(index).to(device) for index in (sequence, position))
        allele = torch.from_numpy(self.allele[chosen].astype(np.int64)).to(device)
        change = nn.functional.one_hot(allele, len(ALPHABET)).to(self.one_hot)
        change = change - self.one_hot[rows, :, columns][:, None]
        strands = [(self.one_hot, position, change)]
        if self.both_strands:  # in A, C, G, T order the complement is the reverse
            strands.append((self.one_hot.flip(1, 2), length - 1 - position, change.flip(2)))
        sums = []
        for one_hot, where, what in strands:
            state, reference = engine.reference(one_hot)
            mutants = reference.new_zeros(*change.shape[:2], reference.shape[1])
            if len(sequence):
                mutants = engine.mutants(state, sequence, where, what, window)
            sums.append((reference, mutants))
        if self.both_strands:
            return tuple((a + b) / 2 for a, b in zip(*sums, strict=True))
        return sums[0]

    def spread(
        self, moments: _Moments, shown: np.ndarray, keep_members: bool, covariance: bool
    ) -> dict[str, np.ndarray]:
        """Variables of the data set, NaN where nothing was mutated."""
        site = (self.sequence[:, None], np.searchsorted(shown, self.position)[:, None], self.allele)
        shape = (len(self.one_hot), len(shown), len(ALPHABET))

        def whole(values: np.ndarray) -> np.ndarray:
            result = np.full((*shape, *values.shape[2:]), np.nan, values.dtype)
            result[site] = values
            return result

        result = {
            "effect": whole(moments.effect),
            "se": whole(moments.se),
            "reference_prediction": moments.reference,
        }
        if keep_members:
            result["member_effect"] = np.stack([whole(values) for values in moments.members])
        if covariance:
            centred = moments.members - moments.effect
            product = np.einsum("msak,msal->sakl", centred, centred)
            result["covariance"] = whole(product / (len(centred) - 1 or np.nan))
        return result


def _moments(
    sites: _Sites,
    engines: list[Engine],
    limits: _Limits,
    transform: Transform | None,
    together: bool,
) -> _Moments:
    """Predict, difference and take moments over members, as many sites at a time as fit."""
    parts, start = [], 0
    while start < max(1, len(sites.sequence)):
        chosen = slice(start, start + limits.sites())
        sequence = sites.sequence[chosen]
        try:
            predictions = (sites.predictions(e, chosen, limits.window) for e in engines)
            if together:
                parts.append(_together(predictions, sequence, transform))
            else:
                parts.append(_streamed(predictions, sequence))
        except torch.OutOfMemoryError as error:
            limits.halve(error, len(sequence))
            continue
        start = chosen.stop
    if len(parts) == 1:
        return parts[0]
    effect, se = (np.concatenate([getattr(p, name) for p in parts]) for name in ("effect", "se"))
    members = np.concatenate([p.members for p in parts], axis=1) if together else None
    return _Moments(parts[0].reference, effect, se, members)


def _streamed(
    predictions: Iterator[tuple[torch.Tensor, torch.Tensor]], sequence: np.ndarray
) -> _Moments:
    """Moments of one member after the other (Welford 1962, Technometrics 4:419)."""
    mean = effect = squares = torch.zeros(())
    for m, (reference, mutants) in enumerate(predictions, start=1):
        rows = torch.from_numpy(sequence).to(reference.device)
        difference = mutants - reference[rows][:, None]
        if not torch.isfinite(difference).all():
            raise _not_finite("the model")
        mean = mean + (reference - mean) / m
        deviation = difference - effect
        effect = effect + deviation / m
        squares = squares + deviation * (difference - effect)
    se = (squares / (m - 1)).sqrt() if m > 1 else torch.full_like(effect, torch.nan)
    return _Moments(*(values.cpu().numpy() for values in (mean, effect, se)))


def _together(
    predictions: Iterator[tuple[torch.Tensor, torch.Tensor]],
    sequence: np.ndarray,
    transform: Transform | None,
) -> _Moments:
    """Moments of all members at once, recalibrated together."""
    pairs = [[values.cpu().numpy() for values in pair] for pair in predictions]
    reference, mutants = (np.stack(values) for values in zip(*pairs, strict=True))
    shape = mutants.shape
    if transform is not None:
        reference = transform(reference)
        mutants = transform(mutants.reshape(shape[0], -1, shape[3])).reshape(shape)
    difference = mutants - reference[:, sequence][:, :, None]
    if not np.isfinite(difference).all():
        raise _not_finite("the model" if transform is None else f"{_name(transform)} of the model")
    se = np.full_like(difference[0], np.nan)
    if len(difference) > 1:
        se = difference.std(0, ddof=1)
    return _Moments(reference.mean(0), difference.mean(0), se, difference)


def _not_finite(what: str) -> ValueError:
    return ValueError(
        f"{what} gives NaN or infinity for a sequence or a mutant: check its weights; where "
        "probabilities saturate at 0 or 1, take effects from a model that gives logits"
    )


def _check_positions(positions: ArrayLike | None, shape: tuple[int, int]) -> np.ndarray:
    """Mask (N, L) of what is to be mutated."""
    length = shape[1]
    mask = np.zeros(shape, bool)
    if positions is None:
        return ~mask
    positions = np.asarray(positions)
    if positions.dtype == bool:
        if positions.shape != shape:
            raise ValueError(f"a mask of positions must be (N, L) = {shape}; got {positions.shape}")
        mask = positions
    elif positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(
            f"positions must be integers (P,) or a mask (N, L); got {positions.dtype} "
            f"{positions.shape}"
        )
    else:
        beyond = positions[(positions < 0) | (positions >= length)]
        if len(beyond):
            raise ValueError(f"position {beyond[0]} is not among 0 to {length - 1}")
        mask[:, positions] = True
    if not mask.any():
        raise ValueError("positions name nothing to mutate: give at least one")
    return mask


def _of_precision(
    members: list[nn.Module], precision: str | None, default: torch.dtype, device: torch.device
) -> tuple[list[nn.Module], torch.dtype]:
    """Members and input in the type asked for; the caller's own members stay as they are."""
    dtype = member_dtype(members, default)
    if precision is None:
        return members, dtype
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError("precision 'tf32' is a mode of GPUs: use float32 on the CPU")
    wanted = torch.float64 if precision == "float64" else torch.float32
    if dtype != wanted:
        members = [member.to(wanted) for member in copy.deepcopy(members)]
    return members, wanted


def _name(transform: Transform) -> str:
    return getattr(transform, "__name__", type(transform).__name__)


def _check_ids(sequence_ids: Sequence[str] | None, n: int) -> list[str]:
    if sequence_ids is None:
        return [f"sequence-{i}" for i in range(n)]
    ids = [str(i) for i in sequence_ids]
    if len(ids) != n:
        raise ValueError(f"sequence_ids must name all {n} sequences; got {len(ids)}")
    if len(set(ids)) != n:
        repeated = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"sequence_ids must be unique; {repeated!r} occurs more than once")
    return ids
