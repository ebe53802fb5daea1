"""Where the parts of a causal atlas land: a directory that can be resumed and shared, or memory."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ._atlas_sums import Rules
from ._effects_store import CONTINUED
from ._files import land, read_record, read_table, undamaged

_LOGGER = logging.getLogger(__name__)


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
        self.held: dict[int, np.ndarray] = {}
        if self.path is None:
            return
        manifest = self.path / "manifest.json"
        if not manifest.exists():
            if self.path.exists() and any(self.path.glob("[!.]*")):
                raise FileExistsError(f"{path} holds something else: choose another directory")
            self.path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(settings | {"versions": versions}, indent=1)
            land(manifest, lambda f: f.write_text(text), only_if_new=True)
        found = read_record(manifest)
        wanted = json.loads(json.dumps(settings))
        theirs = found.pop("versions", versions)
        if found != wanted:
            names = [key for key in wanted if found.get(key) != wanted[key]]
            raise FileExistsError(
                f"{path} holds an atlas with other {', '.join(names)}: choose another directory or "
                "remove it"
            )
        updated = theirs.split(CONTINUED)[-1] != versions
        if updated:
            _LOGGER.warning("%s was begun with other versions: %s; now %s", path, theirs, versions)
        if self.finished() is None:
            (self.path / "local").mkdir(exist_ok=True)
            if updated:
                text = json.dumps(found | {"versions": theirs + CONTINUED + versions}, indent=1)
                land(manifest, lambda f: f.write_text(text))

    def finished(self) -> pd.DataFrame | None:
        """The table of a run that was finished."""
        if self.path is None or not (self.path / "atlas.parquet").exists():
            return None
        return read_table(self.path / "atlas.parquet")

    def rules(self, rules: Rules, compute: Callable[[], Rules]) -> Rules:
        """What selects instruments; of the rule "pooled" computed once a directory."""
        if rules.rule != "pooled":
            return rules
        if self.path is None:
            return compute()
        path = self.path / "moments.npy"
        if not path.exists():
            new = compute()
            land(path, lambda f: np.save(f, np.stack([new.mean, new.sd])))
        mean, sd = _load(path)
        return rules._replace(mean=mean, sd=sd)

    def has(self, block: int) -> bool:
        """Whether the local effects of a block of windows are there."""
        return self.path is not None and self._local(block).exists()

    def put(self, block: int, local: np.ndarray, blocks: int) -> None:
        """Take the local effects (2 + M, methods, n, A, B) of one of so many blocks of windows."""
        if self.path is not None:
            land(self._local(block), lambda f: np.save(f, local))
        elif not self.held and local.nbytes * blocks > self.max_memory:
            raise ValueError(
                f"local effects take about {local.nbytes * blocks} bytes and max_memory is "
                f"{self.max_memory}: give a store, raise max_memory, or take dtype='float32'"
            )
        else:
            self.held[block] = local

    def exposures_at_a_time(self) -> int:
        """Exposures whose local effects, with the work on them, fit into memory."""
        each = [a[:, :, :, :1].size for a in self._arrays()]
        return max(1, self.max_memory // (3 * 8 * sum(each)))

    def gather(self, chosen: slice) -> np.ndarray:
        """Local effects (2 + M, methods, N, a, B) of some exposures in all windows."""
        return np.concatenate([a[:, :, :, chosen] for a in self._arrays()], axis=2)

    def part(self, chosen: slice) -> pd.DataFrame | None:
        """The table of a block of exposures where it is finished."""
        path = self._part(chosen)
        return read_table(path) if path is not None and path.exists() else None

    def put_part(self, chosen: slice, table: pd.DataFrame) -> None:
        """Take the table of a block of exposures."""
        if self.path is not None:
            land(self._part(chosen), lambda f: table.to_parquet(f, write_page_checksum=True))

    def finish(self, table: pd.DataFrame, *, keep_local: bool) -> pd.DataFrame:
        """Store the whole table, and remove what it was made from."""
        if self.path is not None:
            land(
                self.path / "atlas.parquet",
                lambda f: table.to_parquet(f, write_page_checksum=True),
            )
            for path in self.path.glob("pairs-*.parquet"):
                path.unlink(missing_ok=True)  # another call may tidy up too
            if not keep_local:
                shutil.rmtree(self.path / "local", ignore_errors=True)
        return table

    def _arrays(self) -> list[np.ndarray]:
        if self.path is None:
            return [self.held[i] for i in sorted(self.held)]
        return [_load(f) for f in sorted((self.path / "local").glob("[0-9]*.npy"))]

    def _local(self, block: int) -> Path:
        return self.path / "local" / f"{block:06d}.npy"

    def _part(self, chosen: slice) -> Path | None:
        return self.path and self.path / f"pairs-{chosen.start:06d}-{chosen.stop:06d}.parquet"


def _load(path: Path) -> np.ndarray:
    with undamaged(path):
        return np.load(path, mmap_mode="r")  # numbers alone: a file with Python objects is refused
