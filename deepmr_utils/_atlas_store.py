"""Where the parts of a causal atlas land: a directory that can be resumed and shared, or memory."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ._effects_store import CONTINUED
from ._files import land, read_record, read_table, undamaged

_LOGGER = logging.getLogger(__name__)
FINISHED = "atlas.parquet"


class Folder:
    """Where local effects wait and tables land: a directory that can be resumed, or memory.

    Parameters
    ----------
    path : path, optional
        Of the directory; memory without.
    settings : dict
        Everything that the atlas depends on; a directory with other settings is refused.
    max_memory : int
        Bytes for what is held.
    versions : str
        Of the software that gave the effects. A directory that was begun with others is continued,
        which is logged and recorded.
    """

    def __init__(
        self, path: str | Path | None, settings: dict, max_memory: int, versions: str = "unknown"
    ) -> None:
        self.path = None if path is None else Path(path)
        self.max_memory = max_memory
        self.held: dict[str, np.ndarray] = {}
        if self.path is None:
            return
        manifest = self.path / "manifest.json"

        def write(versions: str, *, only_if_new: bool) -> None:
            text = json.dumps(settings | {"versions": versions}, indent=1)
            land(manifest, lambda f: f.write_text(text), only_if_new=only_if_new)

        if not manifest.exists():
            if self.path.exists() and any(self.path.glob("[!.]*")):
                raise FileExistsError(f"{path} holds something else: choose another directory")
            write(versions, only_if_new=True)
        found = read_record(manifest)
        wanted = json.loads(json.dumps(settings))
        theirs = found.pop("versions", versions)
        if found != wanted:
            names = [key for key in wanted if found.get(key) != wanted[key]]
            raise FileExistsError(
                f"{path} holds an atlas with other {', '.join(names)}: choose another directory or "
                "remove it"
            )
        if theirs.split(CONTINUED)[-1] != versions:
            _LOGGER.warning("%s was begun with other versions: %s; now %s", path, theirs, versions)
            if not self.has(FINISHED):
                write(theirs + CONTINUED + versions, only_if_new=False)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self.path is not None and (self.path / name).exists()

    def array(self, name: str, compute: Callable[[], np.ndarray], parts: int = 1) -> np.ndarray:
        """An array, one of so many alike: that of a file, or else computed and kept."""
        if self.path is None:
            if name not in self.held:
                new = compute()
                if (size := new.nbytes * parts) > self.max_memory:
                    raise ValueError(
                        f"local effects take about {size} bytes and max_memory is "
                        f"{self.max_memory}: give a store, or raise max_memory"
                    )
                self.held[name] = new
            return self.held[name]
        path = self.path / name
        if not path.exists():
            new = compute()
            land(path, lambda f: np.save(f, new))
        with undamaged(path):  # numbers alone: a file with Python objects is refused
            return np.load(path, mmap_mode="r")

    def table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table: that of a file, or else computed and written."""
        if self.has(name):
            return read_table(self.path / name)
        table = compute()
        if self.path is not None:
            # no statistics, which checksums do not cover
            options = {"write_page_checksum": True, "write_statistics": False}
            land(self.path / name, lambda f: table.to_parquet(f, **options))
        return table

    def tidy(self) -> None:
        """Remove what the whole table was made from."""
        if self.path is not None:
            for path in self.path.glob("pairs-*.parquet"):
                path.unlink(missing_ok=True)  # another call may tidy up too
            shutil.rmtree(self.path / "local", ignore_errors=True)
