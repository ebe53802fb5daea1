"""Variant effects on disk: saved whole, or written block by block by a run that can be resumed."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

SCHEMA_VERSION = 1
DIMENSIONS = {
    "effect": ("sequence", "position", "allele", "feature"),
    "se": ("sequence", "position", "allele", "feature"),
    "reference_prediction": ("sequence", "feature"),
    "member_effect": ("member", "sequence", "position", "allele", "feature"),
    "covariance": ("sequence", "position", "allele", "feature", "other_feature"),
}


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
    partial = _partial(path)
    # Zarr 2 because fixed-width strings have no stable form in Zarr 3 yet
    effects.to_zarr(partial, mode="w", zarr_format=2, consolidated=True)
    partial.replace(path)  # a store that was cut short never carries the final name


def load_effects(
    path: str | Path, features: Sequence[str] | None = None, *, lazy: bool = False
) -> xr.Dataset:
    """Read variant effects.

    Parameters
    ----------
    path : path
        Of `save_effects`, or of a run with a store.
    features : sequence of str, optional
        Features to read; all by default.
    lazy : bool
        Leave the values on disk until they are used.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If it was written under another schema version, or lacks a feature.
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
    if features is not None:
        there = effects["feature"].to_numpy().tolist()
        missing = [name for name in features if name not in there]
        if missing:
            raise ValueError(f"no feature {missing[0]!r} in {path}: it has {', '.join(there)}")
        effects = effects.sel(feature=list(features))
    return effects if lazy else effects.load()


class EffectsWriter:
    """Collects the effects of blocks of sequences, in memory or in a store that can be resumed.

    Parameters
    ----------
    coordinates : mapping
        Coordinates of the whole data set.
    attributes : mapping
        Its attributes.
    path : path, optional
        Of the store; in memory without.
    fingerprint : str
        Of everything that the effects depend on; a store with another one is refused.
    """

    def __init__(
        self,
        coordinates: Mapping[str, Any],
        attributes: Mapping[str, Any],
        path: str | Path | None = None,
        fingerprint: str = "",
    ) -> None:
        self.whole = xr.Dataset(coords=coordinates, attrs=attributes)
        self.path = None if path is None else Path(path)
        self.arrays: dict[str, Any] = {}
        self.block: int | None = None  # sequences a block, where an earlier run has decided
        self.finished = False
        if self.path is not None:
            self._resume(fingerprint)

    def _resume(self, fingerprint: str) -> None:
        partial = _partial(self.path)
        self.whole.attrs["fingerprint"] = fingerprint
        self.finished = self.path.exists()
        for store in filter(Path.exists, (self.path, partial)):
            if zarr.open_group(store, mode="r").attrs.get("fingerprint") != fingerprint:
                raise FileExistsError(
                    f"{store} holds other effects (another model, sequences or options): choose "
                    "another path or remove it"
                )
        self.done = partial.with_name(f"{partial.name}-blocks")  # one empty file a finished block
        if self.finished:
            return
        group = zarr.open_group(
            partial, mode="a", zarr_format=2, attributes={"fingerprint": fingerprint}
        )
        self.done.mkdir(exist_ok=True)
        if (self.done / "size").exists():
            self.block = int((self.done / "size").read_text())
            self.arrays = {name: group[name] for name in DIMENSIONS if name in group}

    def needs(self, start: int) -> bool:
        """Whether the block that starts with this sequence is still to be computed."""
        return self.path is None or not (self.done / str(start)).exists()

    def write(self, start: int, size: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the effects of a block of at most `size` sequences."""
        if not self.arrays:
            self._create(size, values)
        for name, value in values.items():
            axis = DIMENSIONS[name].index("sequence")
            where = (slice(None),) * axis + (slice(start, start + value.shape[axis]),)
            self.arrays[name][where] = value
        if self.path is not None:
            (
                self.done / str(start)
            ).touch()  # after the values: a block that was cut short is redone

    def _create(self, size: int, values: Mapping[str, np.ndarray]) -> None:
        n = self.whole.sizes["sequence"]
        group = None if self.path is None else zarr.open_group(_partial(self.path), mode="r+")
        for name, value in values.items():
            dimensions = DIMENSIONS[name]
            axis = dimensions.index("sequence")
            shape = (*value.shape[:axis], n, *value.shape[axis + 1 :])
            if group is None:
                self.arrays[name] = np.full(shape, np.nan, value.dtype)
                continue
            chunks = [*shape[:axis], min(size, n), *shape[axis + 1 :]]
            chunks[dimensions.index("feature")] = min(64, shape[dimensions.index("feature")])
            self.arrays[name] = group.create_array(
                name, shape=shape, chunks=tuple(chunks), dtype=value.dtype, fill_value=np.nan,
                attributes={"_ARRAY_DIMENSIONS": list(dimensions)}, overwrite=True,
            )  # fmt: skip
        if group is not None:
            (self.done / "size").write_text(str(size))

    def finish(self) -> xr.Dataset:
        """The whole data set; from a store it is read when it is used."""
        if self.path is None:
            arrays = {name: (DIMENSIONS[name], array) for name, array in self.arrays.items()}
            return self.whole.assign(arrays)
        if not self.finished:
            partial = _partial(self.path)
            self.whole.to_zarr(partial, mode="a", zarr_format=2, consolidated=False)
            zarr.consolidate_metadata(partial, zarr_format=2)
            partial.replace(self.path)
            shutil.rmtree(self.done)
        return load_effects(self.path, lazy=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
