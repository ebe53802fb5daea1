"""One way to run a study: units with settings, each stored whole, and the missing ones computed.

A folder belongs to one choice of settings. A unit that is cut short leaves nothing that is taken
for a result, the same call goes on where it stopped, and processes may fill one folder together.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from deepmr_utils import __version__
from deepmr_utils._files import land, read_record
from deepmr_utils.predict import progress_bar


class Clock:
    """Wall-clock seconds of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds that the body of a ``with`` takes to those of a stage."""
        start = time.perf_counter()
        yield
        seconds = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.seconds[stage] = round(seconds, 3)


def provenance() -> dict[str, str]:
    """Versions, git revision and machine that a result comes from."""
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "deepmr_utils": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "git_revision": git.stdout.strip() if git.returncode == 0 else "not a git checkout",
    }


def claim_values(
    directory: Path, mine: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Write settings into a new directory, or compare them with those of one that has been used.

    Parameters
    ----------
    directory : Path
    mine : mapping
        Settings, as JSON values.
    defaults : mapping, optional
        Of what an earlier version need not have written down.

    Raises
    ------
    ValueError
        If the directory was written with other settings.
    """
    path = directory / "settings.json"
    if not path.exists():
        write = json.dumps(mine, indent=1) + "\n"
        land(path, lambda partial: partial.write_text(write), only_if_new=True)
    theirs = {**(defaults or {}), **read_record(path)}
    names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
    if names:
        differences = "; ".join(f"{n}: {theirs.get(n)} there, {mine.get(n)} now" for n in names)
        raise ValueError(
            f"{directory} was written with other settings ({differences}): choose another results "
            "directory, or remove it to run again"
        )


def which(runs: int | Sequence[int]) -> list[int]:
    """Numbers of runs: so many from 0 on, or these."""
    return list(range(runs)) if isinstance(runs, int) else list(runs)


def run_missing(
    run: Callable[..., object],
    jobs: Mapping[Hashable, tuple],
    finished: Callable[[Hashable], bool],
    *,
    workers: int = 1,
    progress: bool = False,
    desc: str = "runs",
) -> None:
    """Call a function for every job that is not finished, several at a time.

    Parameters
    ----------
    run : callable
        Computes and stores a job from its arguments.
    jobs : mapping
        Arguments by key.
    finished : callable
        Whether the job of a key is stored. It is asked again right before a job begins, since
        another process may have been there in the meantime.
    workers : int
        Jobs at a time, each in a process of its own.
    progress : bool
    desc : str
        What the progress bar counts.
    """
    missing = [key for key in jobs if not finished(key)]
    calls = (joblib.delayed(_unless_finished)(run, jobs[key], finished, key) for key in missing)
    done = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    found = len(jobs) - len(missing)
    for _ in progress_bar(done, progress, desc=desc, total=len(jobs), initial=found):
        pass


def _unless_finished(
    run: Callable[..., object], job: Iterable, finished: Callable[[Hashable], bool], key: Hashable
) -> None:
    if not finished(key):
        run(*job)
