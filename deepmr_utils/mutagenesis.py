"""Saturation in-silico mutagenesis: the effect of every substitution, with its standard error."""

import inspect
import logging
import pickle
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import joblib
import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import nn

from . import __version__, predict
from ._checks import check_number, check_options, listed
from ._effects_store import EffectsWriter
from ._engine.blocks import Block, Limits, Rounding, Transform, block_moments, transform_name
from ._engine.engines import Engine, OtherStrand, engines_of
from ._engine.fingerprint import computation_hash
from ._engine.windows import Options
from ._members import of_dtype
from ._memory import memory_for
from .effects import SCHEMA_VERSION
from .sequences import ALPHABET, UNKNOWN, base_codes, check_one_hot

__all__ = ["saturation_mutagenesis"]

log = logging.getLogger(__name__)
_ALONE = (
    "one member gives effects without standard errors: give several networks that differ in their "
    "seed or data, or MCDropout(network) where it has dropout layers, or strands='members'"
)
MAX_COVARIANCE = 64  # features of which all covariances may be asked for
Strands = Literal["forward", "mean", "members"]
Precision = Literal["float32", "float64", "tf32", "bfloat16"]


def saturation_mutagenesis(
    members: predict.Members,
    one_hot: np.ndarray | torch.Tensor,
    *,
    sequence_ids: Sequence[str] | None = None,
    features: predict.Features = None,
    transform: Transform | None = None,
    positions: ArrayLike | None = None,
    strands: Strands = "forward",
    strand_pairs: Sequence[tuple[str, str]] | None = None,
    batch_size: int | None = None,
    max_memory: int | None = None,
    precision: Precision | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    keep_members: bool = False,
    covariance: bool = False,
    store: str | Path | None = None,
    propagate: bool = True,
) -> xr.Dataset:
    """Predict the effect of all 3 L substitutions of every sequence.

    Only what a substitution changes of each layer is computed again, exactly (see
    `deepmr_utils._engine.propagation`); a network for which that is not possible is predicted in
    full for every mutant, and a log line says which part of it is the reason.

    Parameters
    ----------
    members : nn.Module, list of nn.Module or MCDropout
        Each maps (N, 4, L) to (N, K), or to several heads (see `deepmr_utils.predict.forward`);
        models of another form go through `deepmr_utils.adapters.adapt`. They are used in evaluation
        mode. A member sees a reference and all its mutants under the same weights and the same
        dropout mask. Members that name their outputs are matched by name.
    one_hot : array or tensor (N, 4, L)
        Reference sequences. Unknown bases, all-zero or soft columns, are not mutated; a column
        within 0.001 of one base is taken as that base.
    sequence_ids : sequence of str (N,), optional
        Unique identifiers; ``sequence-0`` ... by default.
    features : optional
        Outputs to keep: a list of names, a list of columns, or a mapping of name to column.
    transform : callable, optional
        Maps predictions (M, n, K) of all members to the scale on which effects are taken, before
        differencing: a recalibrator; `scipy.special.logit` where a model gives probabilities and
        effects are wanted on the logit scale, `scipy.special.expit` the other way.
    positions : array_like, optional
        What to mutate: positions, int (P,), of all sequences, for instance
        ``np.r_[100:120, 180:200]``; or a mask, bool (N, L). All by default.
    strands : {"forward", "mean", "members"}
        "mean" averages every prediction with that of the reverse complement, on the scale of the
        model. "members" keeps the two apart, as predictions of two members: first those of all
        members for the sequences as they are, then for their reverse complements.
    strand_pairs : sequence of tuple of str, optional
        Pairs of `features` that change places on the reverse complement: ``[("plus", "minus")]``.
        Outputs that belong to one strand have to be named here: else they are mixed.
    batch_size : int, optional
        Mutants predicted at a time, across sequences and positions; by default as many as
        `max_memory` allows. It does not change the result.
    max_memory : int, optional
        Bytes that may be used beside weights and result; by default 2 GiB on the CPU, and four
        fifths of what is free on a GPU, which is the most there. Where a GPU runs out all the same,
        batches are halved until they fit.
    precision : {"float32", "float64", "tf32", "bfloat16"}, optional
        Type of the computation; that of the members by default, float32 where their weights are of
        a narrower type. "tf32" (GPU only) and "bfloat16" round the factors of matrix products: of
        those of differences alone, wherever a network is propagated.
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
        A run that was interrupted goes on where it stopped; a finished one is found again. Where
        torch or Python were updated in between, that is logged and recorded in ``versions``.
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
    largest effect there, with "tf32" by 0.1 %, because only differences are rounded; in full
    prediction, which rounds the predictions themselves, errors follow these and can exceed every
    effect (`benchmarks/ism.py --precision`).
    """
    batch_size = check_options(
        saturation_mutagenesis,
        {
            "strands": strands, "precision": precision, "progress": progress,
            "keep_members": keep_members, "covariance": covariance, "propagate": propagate,
            "batch_size": batch_size,
        },
        {"batch_size": (1, np.inf, True)},
    )["batch_size"]  # fmt: skip
    if max_memory is not None:
        max_memory = check_number("max_memory, in bytes,", max_memory, 1e6, whole=True)
    one_hot, device = check_one_hot(one_hot), predict.resolve_device(device)
    ids, codes = check_ids(sequence_ids, len(one_hot)), base_codes(one_hot)
    mask = _check_positions(positions, codes)
    pairs = _check_pairs(strand_pairs, strands != "forward")
    transform_key = _transform_key(transform, store is not None)
    settings = {"dropout_seed": members.seed if isinstance(members, predict.MCDropout) else "none"}
    members, dtype = _of_precision(predict.as_members(members), precision, one_hot.dtype, device)
    with predict.evaluating(members, device):
        one_hot = one_hot.to(device, dtype)
        heads = [predict.forward(member, one_hot[:1]) for member in members]
        names, columns = predict.find_features(members, heads, features)
        exchange = None if strands == "forward" else _exchanged(pairs, names)
        try_transform(transform, [h.values[:, c] for h, c in zip(heads, columns, strict=True)])
        if covariance and len(names) > MAX_COVARIANCE:
            raise ValueError(
                f"the covariance of {len(names)} features takes {len(names)} times their space: "
                f"name at most {MAX_COVARIANCE} features"
            )
        exchanged = f", exchanging {', '.join(map(' and '.join, pairs))}" if pairs else ""
        settings |= {
            "schema_version": SCHEMA_VERSION,
            "model_hash": predict.model_hash(members),
            "n_members": len(members) * (2 if strands == "members" else 1),
            "calibration": "none" if transform is None else transform_name(transform),
            "strands": strands + exchanged,
            "precision": precision or str(dtype).removeprefix("torch."),
            "versions": f"deepmr_utils {__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
        }
        fingerprint = ""
        if store is not None:
            # an update of torch or Python is no other computation: the writer says so instead
            key = (settings | {"versions": __version__}, names, columns, ids, mask)
            done = [computation_hash(member, one_hot[:1]) for member in members]
            key += (one_hot.cpu().numpy(), transform_key, keep_members, covariance, done)
            fingerprint = joblib.hash(key)
        apart = strands == "members"
        averaged = None if apart else exchange
        plan = _Plan(one_hot, codes, mask, names, averaged, transform, keep_members, covariance)
        with EffectsWriter(plan.coordinates(ids), settings, store, fingerprint) as writer:
            if not writer.finished:
                each = [(m, h.parts, c) for m, h, c in zip(members, heads, columns, strict=True)]
                memory = memory_for(max_memory, device)
                rounded = {name: precision == name for name in ("bfloat16", "tf32")}
                options = Options({}, max_memory=memory, **rounded)
                lasting = keep_members or covariance or store is not None
                if settings["n_members"] == 1 and lasting:
                    log.warning(_ALONE)
                engines = engines_of(each, one_hot[0], propagate, options)
                engines += [OtherStrand(e, exchange) for e in engines] if apart else []
                _compute(plan, engines, Limits(batch_size, memory, device), writer, progress)
            return writer.finish()


class _Plan(NamedTuple):
    """What is computed, and what of it is kept."""

    one_hot: torch.Tensor
    codes: np.ndarray
    mask: np.ndarray
    names: list[str]
    exchange: list[int] | None
    transform: Transform | None
    keep_members: bool
    covariance: bool

    @property
    def shown(self) -> np.ndarray:
        """Positions of which any sequence is mutated."""
        return np.flatnonzero(self.mask.any(0))

    def coordinates(self, ids: list[str]) -> dict[str, Any]:
        """Of the data set."""
        letters = np.array(list(ALPHABET + "N"))[self.codes[:, self.shown]]
        return {
            "sequence": ids,
            "position": self.shown,
            "allele": list(ALPHABET),
            "feature": self.names,
            "reference": (("sequence", "position"), letters),
        }


def _compute(
    plan: _Plan, engines: list[Engine], limits: Limits, writer: EffectsWriter, progress: bool
) -> None:
    """Compute what a writer still needs, a block of sequences at a time."""
    dtype, shown = plan.one_hot.dtype, plan.shown
    together = plan.keep_members or plan.covariance or plan.transform is not None
    held = 9 * len(plan.names) * (len(engines) if together else 1)  # numbers held for a site
    limits.bytes_per_site = max(e.bytes_per_site for e in engines) + held * dtype.itemsize
    size = writer.block or limits.sequences(engines, plan.mask.sum(1).max(), len(plan.names))
    rounding = Rounding(plan.names, dtype)
    starts = range(0, len(plan.one_hot), size)
    for start in predict.progress_bar(starts, progress, desc="mutagenesis"):
        if writer.needs(start):
            rows = slice(start, start + size)
            sites = Block(plan.one_hot[rows], plan.codes[rows], plan.mask[rows], plan.exchange)
            moments = block_moments(sites, engines, limits, plan.transform, together)
            rounding.see(moments)
            values = sites.spread(moments, shown, plan.keep_members, plan.covariance)
            writer.write(start, size, values)
    rounding.warn()


def _check_positions(positions: ArrayLike | None, codes: np.ndarray) -> np.ndarray:
    """Mask (N, L) of what is to be mutated."""
    mask = np.full(codes.shape, positions is None)
    if positions is not None:
        try:
            positions = np.asarray(positions)
        except ValueError:  # lists of several lengths
            positions = np.asarray(positions, object)
        if positions.dtype == bool and positions.shape == codes.shape:
            mask = positions
        elif positions.size and (positions.ndim != 1 or positions.dtype.kind not in "iu"):
            raise ValueError(
                f"positions must be integers (P,) or a mask (N, L); got {positions.dtype} "
                f"{positions.shape} for sequences {codes.shape}"
            )
        else:
            beyond = positions[(positions < 0) | (positions >= codes.shape[1])]
            if len(beyond):
                raise ValueError(f"position {beyond[0]} is not among 0 to {codes.shape[1] - 1}")
            mask[:, positions.astype(int)] = True
    if not (mask & (codes != UNKNOWN)).any():
        raise ValueError(
            "there is nothing to mutate: every base that is asked for is unknown, an all-zero or "
            "soft column, or positions name none. A base is known where its column is within 0.001 "
            "of 1 for it and 0 for the others: round smoothed columns"
        )
    return mask


def _transform_key(transform: Transform | None, stored: bool) -> object:
    """What a store tells transforms apart by: what they hold, and their text."""
    if transform is not None and not callable(transform):
        raise TypeError(
            f"transform must be a function of predictions (M, n, K); got {transform!r}: "
            "scipy.special.logit, for instance"
        )
    if transform is None or not stored:
        return None
    try:
        key = joblib.hash(transform)
    except (pickle.PicklingError, AttributeError, TypeError):
        raise ValueError(
            f"a store must tell the transform from others, and cannot look into "
            f"{transform_name(transform)!r}: give a function that is defined with def in a module "
            "(no lambda, and not inside another function)"
        ) from None
    try:
        return key, inspect.getsource(transform)
    except (OSError, TypeError):  # a function of C, or an object
        return key


def try_transform(transform: Transform | None, outputs: list[torch.Tensor]) -> None:
    """Raise a ValueError where a transform gives another shape than it is given."""
    if transform is not None:
        given = torch.stack(outputs).cpu().numpy()
        got = transform(given)
        if not isinstance(got, np.ndarray) or got.shape != given.shape or got.dtype.kind != "f":
            shape = getattr(got, "shape", "")
            raise ValueError(
                f"transform must map predictions (M, n, K) to an array of numbers of that shape; "
                f"{transform_name(transform)} makes {type(got).__name__} {tuple(shape)} of "
                f"{given.shape}"
            )


def _check_pairs(pairs: Any, both_strands: bool) -> Sequence[tuple[str, str]]:
    if pairs is None:
        return ()
    kinds = [[type(name) for name in pair] if isinstance(pair, tuple | list) else None
             for pair in (pairs if isinstance(pairs, list | tuple) else ())]  # fmt: skip
    if not kinds or any(kind != [str, str] for kind in kinds):
        raise TypeError(
            f"strand_pairs must be a list of pairs of names, [('plus', 'minus')]; got {pairs!r}"
        )
    if not both_strands:
        raise ValueError("strand_pairs are for strands='mean' or 'members'")
    return pairs


def _exchanged(pairs: Sequence[tuple[str, str]], names: list[str]) -> list[int]:
    """Which feature takes the place of each on the reverse strand."""
    order = list(range(len(names)))
    times = Counter(name for pair in pairs for name in pair)
    for name in times:
        if name not in names or times[name] > 1:
            raise ValueError(
                f"strand_pairs must name features, each once; {name!r} occurs {times[name]} times "
                f"there, and the features are {listed(names, name)}: ask for both of a pair"
            )
    for a, b in (map(names.index, pair) for pair in pairs):
        order[a], order[b] = b, a
    return order


def _of_precision(
    members: list[nn.Module], precision: str | None, default: torch.dtype, device: torch.device
) -> tuple[list[nn.Module], torch.dtype]:
    """Members and input in the type asked for; the caller's own members stay as they are."""
    if precision == "tf32" and device.type != "cuda":
        raise ValueError("precision 'tf32' is a mode of GPUs: use float32 on the CPU")
    dtype = wanted = predict.member_dtype(members, default)
    if precision is not None:
        wanted = torch.float64 if precision == "float64" else torch.float32
    return of_dtype(members, wanted, always=dtype != wanted), wanted


def check_ids(ids: Sequence[str] | None, n: int) -> list[str]:
    """Identifiers of n sequences, each as text and once."""
    if ids is None:
        return [f"sequence-{i}" for i in range(n)]
    if isinstance(ids, str | set | frozenset) or not hasattr(ids, "__iter__"):
        raise TypeError(f"sequence_ids must be a list of names; got {ids!r}")
    ids = [str(i) for i in ids]
    twice = [i for i, times in Counter(ids).items() if times > 1]
    if len(ids) != n or twice:
        again = f", of which {twice[0]!r} occurs more than once" if twice else ""
        raise ValueError(f"sequence_ids must name all {n} sequences; got {len(ids)}{again}")
    return ids
