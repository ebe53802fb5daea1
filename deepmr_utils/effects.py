"""Variant effects on disk: saved whole, or written block by block by a run that can be resumed."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from numcodecs import CRC32, Blosc

from ._files import explained

SCHEMA_VERSION = 1
CONTINUED = "; continued with "  # between the versions that wrote a store, one after the other
_LOGGER = logging.getLogger(__name__)
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
    partial = path.with_name(f".{uuid4().hex}.partial-{path.name}")  # processes do not meet
    try:
        with explained(path):
            # Zarr 2 because fixed-width strings have no stable form in Zarr 3 yet
            encoding = {name: _codecs(effects[name].dtype) for name in effects.data_vars}
            effects.to_zarr(partial, mode="w", zarr_format=2, consolidated=True, encoding=encoding)
            partial.replace(path)  # a store that was cut short never carries the final name
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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

    Returns
    -------
    xr.Dataset
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` gives it.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If it was written under another schema version, is damaged, or lacks a feature.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no variant effects at {path}")
    effects = _undamaged(path, lambda: xr.open_zarr(path, consolidated=True, chunks=None))
    version = effects.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this version of deepmr_utils reads "
            f"{SCHEMA_VERSION}: compute the effects again"
        )
    if features is not None:
        there = effects["feature"].to_numpy().tolist()
        features = [features] if isinstance(features, str) else features
        missing = [name for name in features if name not in there]
        if missing:
            raise ValueError(f"no feature {missing[0]!r} in {path}: it has {', '.join(there)}")
        effects = effects.sel(feature=list(features))
    return effects if lazy else _undamaged(path, effects.load)


def _codecs(dtype: np.dtype) -> dict[str, list]:
    """Zarr's usual compression, over a checksum: a block cut short may read as other numbers."""
    return {"filters": [CRC32()], "compressors": [Blosc(typesize=dtype.itemsize)]}


def _undamaged(path: str | Path, read: Callable[[], xr.Dataset]) -> xr.Dataset:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # Zarr's and Blosc's
        raise ValueError(
            f"{path} is no store of variant effects, or damaged ({type(error).__name__}: {error}): "
            "remove it and compute the effects again"
        ) from error


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
        Of everything that the effects depend on; a store with another one is refused. Versions of
        torch and Python are no part of it: those in ``attributes["versions"]`` are compared, and a
        store that others began is continued, which is logged and recorded.
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
        self.lock: FileLock | None = None
        if self.path is not None:
            self._resume(fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write the store."""
        if self.lock is not None:
            self.lock.release()

    def _resume(self, fingerprint: str) -> None:
        partial = _partial(self.path)
        self.whole.attrs["fingerprint"] = fingerprint
        self.done = partial.with_name(f"{partial.name}-blocks")  # one empty file a finished block
        if not self.path.exists():
            self._take()
        self.finished = self.path.exists()
        for store in filter(Path.exists, (self.path, partial)):
            self._compare(store, fingerprint)
        if self.finished:
            return
        with explained(self.path):
            group = zarr.open_group(partial, mode="a", zarr_format=2)
            group.attrs.update(fingerprint=fingerprint, versions=self._versions)
        if (self.done / "size").exists():
            self.block = int((self.done / "size").read_text())
            self.arrays = {name: group[name] for name in DIMENSIONS if name in group}

    @property
    def _versions(self) -> str:
        return self.whole.attrs.get("versions", "unknown")

    def _compare(self, store: Path, fingerprint: str) -> None:
        """Refuse a store of other effects; say where other versions of software wrote it."""
        attributes = _attributes(store)
        theirs, mine = attributes.get("versions", "unknown"), self._versions
        if attributes.get("fingerprint") != fingerprint:
            self.close()
            versions = "" if theirs in ("unknown", mine) else f"; by {theirs}, now {mine}"
            raise FileExistsError(
                f"{store} holds other effects (another model, sequences or options{versions}): "
                "choose another path or remove it"
            )
        if theirs.split(CONTINUED)[-1] != mine:
            verb = "was written" if self.finished else "was begun, and goes on,"
            _LOGGER.warning("%s %s with other versions: %s; now %s", store, verb, theirs, mine)
            theirs += CONTINUED + mine
        self.whole.attrs["versions"] = theirs

    def _take(self) -> None:
        """Keep other processes out: their blocks would replace what is written here."""
        with explained(self.path):
            self.done.mkdir(parents=True, exist_ok=True)
        # let go by the system when this process ends, however it does
        self.lock = FileLock(self.done / "lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise BlockingIOError(
                f"another process is writing {self.path}, and only one can: wait until it has "
                "finished and make the same call, or choose another path"
            ) from None

    def needs(self, start: int) -> bool:
        """Whether the block that starts with this sequence is still to be computed."""
        return self.path is None or not (self.done / str(start)).exists()

    def write(self, start: int, size: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the effects of a block of at most `size` sequences."""
        if self.path is None:
            self._write(start, size, values)
            return
        with explained(self.path):
            self._write(start, size, values)
            # after the values: a block that was cut short is redone
            (self.done / str(start)).touch()

    def _write(self, start: int, size: int, values: Mapping[str, np.ndarray]) -> None:
        if not self.arrays:
            self._create(size, values)
        for name, value in values.items():
            axis = DIMENSIONS[name].index("sequence")
            where = (slice(None),) * axis + (slice(start, start + value.shape[axis]),)
            self.arrays[name][where] = value

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
                **_codecs(value.dtype),
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
            with explained(self.path):
                self.whole.to_zarr(partial, mode="a", zarr_format=2, consolidated=False)
                zarr.consolidate_metadata(partial, zarr_format=2)
                partial.replace(self.path)
            self.close()
            shutil.rmtree(self.done, ignore_errors=True)
        return load_effects(self.path, lazy=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _attributes(store: Path) -> dict[str, Any]:
    try:
        return dict(zarr.open_group(store, mode="r").attrs)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{store} is no store of variant effects, or damaged ({type(error).__name__}): remove "
            "it, or choose another path"
        ) from error
