"""Variant effects that a run writes block by block, in memory or to a store that can be resumed."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr

from ._checks import check_installed
from ._files import explained, undamaged
from .effects import DIMENSIONS, codecs, load_effects

CONTINUED = "; continued with "  # between the versions that wrote a store, one after the other
_LOGGER = logging.getLogger(__name__)


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
        self.lock = None
        if self.path is not None:
            check_installed("store", "zarr", "numcodecs", "filelock")
            self._resume(fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write the store."""
        if self.lock is not None:
            self.lock.release()

    def _resume(self, fingerprint: str) -> None:
        import zarr

        self.whole.attrs["fingerprint"] = fingerprint
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        # one empty file a finished block
        self.done = self.path.with_name(f"{self.partial.name}-blocks")
        if not self.path.exists():
            self._take()
        self.finished = self.path.exists()
        for store in filter(Path.exists, (self.path, self.partial)):
            with undamaged(store):
                attributes = dict(zarr.open_group(store, mode="r").attrs)
            self._compare(store, attributes, fingerprint)
        if self.finished:
            return
        with explained(self.path):
            self.group = zarr.open_group(self.partial, mode="a", zarr_format=2)
            versions = self.whole.attrs.get("versions", "unknown")
            self.group.attrs.update(fingerprint=fingerprint, versions=versions)
        if (self.done / "size").exists():
            self.block = int((self.done / "size").read_text())
            self.arrays = {name: self.group[name] for name in DIMENSIONS if name in self.group}

    def _take(self) -> None:
        """Keep other processes out: their blocks would replace what is written here."""
        from filelock import FileLock, Timeout

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

    def _compare(self, store: Path, attributes: Mapping[str, Any], fingerprint: str) -> None:
        """Refuse a store of other effects; say where other versions of software wrote it."""
        theirs = attributes.get("versions", "unknown")
        mine = self.whole.attrs.get("versions", "unknown")
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

    def needs(self, start: int) -> bool:
        """Whether the block that starts with this sequence is still to be computed."""
        return self.path is None or not (self.done / str(start)).exists()

    def write(self, start: int, size: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the effects of a block of at most `size` sequences."""
        with explained(self.path):
            if not self.arrays:
                self._create(size, values)
            for name, value in values.items():
                axis = DIMENSIONS[name].index("sequence")
                where = (slice(None),) * axis + (slice(start, start + value.shape[axis]),)
                self.arrays[name][where] = value
            if self.path is not None:
                # after the values: a block that was cut short is redone
                (self.done / str(start)).touch()

    def _create(self, size: int, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            sizes = dict(zip(DIMENSIONS[name], value.shape, strict=True))
            sizes["sequence"] = self.whole.sizes["sequence"]
            shape = tuple(sizes.values())
            if self.path is None:
                self.arrays[name] = np.full(shape, np.nan, value.dtype)
                continue
            most = {"sequence": size, "feature": 64}
            self.arrays[name] = self.group.create_array(
                name, shape=shape, chunks=tuple(min(most.get(d, n), n) for d, n in sizes.items()),
                dtype=value.dtype, fill_value=np.nan, overwrite=True,
                attributes={"_ARRAY_DIMENSIONS": list(sizes)}, **codecs(value.dtype),
            )  # fmt: skip
        if self.path is not None:
            (self.done / "size").write_text(str(size))

    def finish(self) -> xr.Dataset:
        """The whole data set; from a store it is read when it is used."""
        if self.path is None:
            arrays = {name: (DIMENSIONS[name], array) for name, array in self.arrays.items()}
            return self.whole.assign(arrays)
        if not self.finished:
            import zarr

            with explained(self.path):
                self.whole.to_zarr(self.partial, mode="a", zarr_format=2, consolidated=False)
                zarr.consolidate_metadata(self.partial, zarr_format=2)
                self.partial.replace(self.path)
            self.close()
            shutil.rmtree(self.done, ignore_errors=True)
        return load_effects(self.path, lazy=True)
