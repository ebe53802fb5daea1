"""Saturation in-silico mutagenesis: the effect of every substitution, with its standard error."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

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
from .sequences import ALPHABET, UNKNOWN, base_codes, check_one_hot

SCHEMA_VERSION = 1
Transform = Callable[[np.ndarray], np.ndarray]


def saturation_mutagenesis(
    members: Members,
    one_hot: np.ndarray | torch.Tensor,
    *,
    sequence_ids: Sequence[str] | None = None,
    features: Features = None,
    transform: Transform | None = None,
    batch_size: int = 2048,
    device: str | torch.device = "auto",
    progress: bool = False,
    keep_members: bool = False,
) -> xr.Dataset:
    """Predict the effect of all 3 L substitutions of every sequence.

    Parameters
    ----------
    members : nn.Module, list of nn.Module or MCDropout
        Each maps (N, 4, L) to (N, K); used in evaluation mode. A member sees a reference and all
        its mutants under the same weights and the same dropout mask.
    one_hot : array or tensor (N, 4, L)
        Reference sequences; unknown bases are all-zero columns and are not mutated.
    sequence_ids : sequence of str (N,), optional
        Unique identifiers; ``sequence-0`` ... by default.
    features : optional
        Names or columns of the outputs to keep, see `deepmr_utils.predict.resolve_features`.
    transform : callable, optional
        Recalibration: maps predictions (M, n, K) of all members to recalibrated ones, applied to
        references and mutants before differencing.
    batch_size : int
        Mutants predicted at a time, across sequences; bounds the memory beside the result.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    progress : bool
        Show a progress bar.
    keep_members : bool
        Also return the effect of every member.

    Returns
    -------
    xr.Dataset
        Dimensions sequence, position, allele (A, C, G, T), feature. ``effect`` and ``se`` are NaN
        at the reference allele and at unknown bases; ``se`` is NaN for a single member.
        ``reference_prediction`` (sequence, feature) is the mean over members, coordinate
        ``reference`` (sequence, position) the reference base. With ``keep_members`` also
        ``member_effect`` (member, sequence, position, allele, feature).

    Notes
    -----
    For member m, feature k and substitution v, ``d = f(x with v) - f(x)``; the effect is the mean
    over members and its standard error their standard deviation (ddof 1).
    """
    one_hot = check_one_hot(one_hot)
    dropout_seed = members.seed if isinstance(members, MCDropout) else None
    members = as_members(members)
    device = resolve_device(device)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    n, _, length = one_hot.shape
    ids = _check_ids(sequence_ids, n)
    codes = base_codes(one_hot)
    one_hot = one_hot.to(device, member_dtype(members, one_hot.dtype))
    mutants = np.argwhere((codes[:, :, None] != np.arange(4)) & (codes[:, :, None] != UNKNOWN))

    with evaluating(members, device):
        n_outputs = forward(members[0], one_hot[:1]).shape[1]
        names, columns = resolve_features(members, features, n_outputs)

        def predict(batch: torch.Tensor) -> np.ndarray:
            outputs = torch.stack([forward(member, batch)[:, columns] for member in members])
            outputs = outputs.cpu().numpy()
            return outputs if transform is None else transform(outputs)

        references = np.concatenate([predict(batch) for batch in one_hot.split(batch_size)], axis=1)
        shape = (n, length, len(ALPHABET), len(names))
        effect = np.full(shape, np.nan, dtype=references.dtype)
        se = effect.copy()
        kept = np.full((len(members), *shape), np.nan, references.dtype) if keep_members else None
        chunks = range(0, len(mutants), batch_size)
        for start in progress_bar(chunks, progress, desc="mutagenesis"):
            where = tuple(mutants[start : start + batch_size].T)
            difference = predict(_mutate(one_hot, *where)) - references[:, where[0]]
            effect[where] = difference.mean(0)
            if len(members) > 1:
                se[where] = difference.std(0, ddof=1)
            if keep_members:
                kept[:, *where] = difference

    dims = ("sequence", "position", "allele", "feature")
    data = {
        "effect": (dims, effect),
        "se": (dims, se),
        "reference_prediction": (("sequence", "feature"), references.mean(0)),
    }
    if keep_members:
        data["member_effect"] = (("member", *dims), kept)
    coordinates = {
        "sequence": ids,
        "position": np.arange(length),
        "allele": list(ALPHABET),
        "feature": names,
        "reference": (("sequence", "position"), np.array(list(ALPHABET + "N"))[codes]),
    }
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "model_hash": model_hash(members),
        "n_members": len(members),
        "dropout_seed": "none" if dropout_seed is None else dropout_seed,
        "calibration": "none" if transform is None else type(transform).__name__,
        "versions": f"deepmr_utils {__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }
    return xr.Dataset(data, coordinates, attributes)


def _mutate(
    one_hot: torch.Tensor, sequence: np.ndarray, position: np.ndarray, allele: np.ndarray
) -> torch.Tensor:
    """Mutants (B, 4, L) of references (N, 4, L), one substitution each."""
    device = one_hot.device
    mutants = one_hot[torch.from_numpy(sequence).to(device)]
    row = torch.arange(len(mutants), device=device)
    position = torch.from_numpy(position).to(device)
    mutants[row, :, position] = 0
    mutants[row, torch.from_numpy(allele).to(device), position] = 1
    return mutants


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


def save_effects(effects: xr.Dataset, path: str | Path) -> None:
    """Write variant effects to a Zarr store (a new directory).

    Raises
    ------
    FileExistsError
        If the path exists.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another path or remove it first")
    partial = path.with_name(f"{path.name}.partial")
    # Zarr 2 because fixed-width strings have no stable form in Zarr 3 yet
    effects.to_zarr(partial, mode="w", zarr_format=2, consolidated=True)
    partial.replace(path)  # a store that was cut short never carries the final name


def load_effects(path: str | Path) -> xr.Dataset:
    """Read variant effects that `save_effects` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If it was written under another schema version.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no variant effects at {path}")
    effects = xr.open_zarr(path, consolidated=True, chunks=None)
    version = effects.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this version of deepmr_utils reads "
            f"{SCHEMA_VERSION}: compute the effects again"
        )
    return effects.load()
