"""Disks that are full, directories that cannot be written to: nothing is lost, and it says so."""

import errno
import os
import resource
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deepmr_utils import _files
from deepmr_utils._atlas_store import Folder
from experiments.cooperativity import one_round, rounds
from experiments.study import write_or_compare_settings

from .conftest import Child

SAID = r"cannot write .* what is stored is as it was\. Mend the cause .* it goes on from here"


def fails(function, *arguments, error=OSError):
    with pytest.raises(error, match=SAID):
        function(*arguments)


def with_little_space(limit, function, *arguments):
    """The system stops files at a size, as a full disk does: from within any library."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    fails(function, *arguments)


def test_a_round_that_does_not_fit_on_the_disk(tmp_path, stored_round):
    rounds.store_round(tmp_path, stored_round)
    before = {p.name: p.read_bytes() for p in (tmp_path / "none").iterdir()}
    size = len(before["round-000.parquet"])
    for limit in (0, 2000, size - 1):  # nothing, part of the table, nearly all of it
        child = Child(with_little_space, limit, rounds.store_round, tmp_path, stored_round)
        assert child.wait() == 0
        assert {p.name: p.read_bytes() for p in (tmp_path / "none").iterdir()} == before
    other = tmp_path / "other"
    assert Child(with_little_space, 2000, rounds.store_round, other, stored_round).wait() == 0
    assert not list((other / "none").iterdir())
    rounds.store_round(other, stored_round)  # there is space again
    assert {p.name for p in (other / "none").iterdir()} == set(before)


def test_local_effects_of_an_atlas_that_do_not_fit(tmp_path):
    folder = Folder(tmp_path / "atlas", {"rule": "wald"}, 2**20)
    first, second = "local/000000.npy", "local/000001.npy"
    folder.array(first, lambda: np.ones((3, 1, 4, 2, 2)))
    arguments = second, partial(np.ones, (3, 1, 4, 2, 2))
    assert Child(with_little_space, 100, folder.array, *arguments).wait() == 0
    assert folder.has(first)
    assert not folder.has(second)
    assert [p.name for p in (tmp_path / "atlas" / "local").iterdir()] == ["000000.npy"]


def test_the_error_of_the_system_is_kept(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _files.write_text(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=r"No space left on device.*as it was") as caught:
            _files.write_text(tmp_path / "file", "new")
    assert caught.value.errno == errno.ENOSPC
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # a disk of the network may say it only at the end
        fails(_files.write_text, tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_results_directory_below_a_file(tmp_path, stored_round):
    (tmp_path / "results").write_text("a file")
    fails(rounds.store_round, tmp_path / "results" / "simulation", stored_round)
    fails(write_or_compare_settings, tmp_path / "results", one_round.Settings())
    assert (tmp_path / "results").read_text() == "a file"


def test_a_directory_that_may_not_be_written_to(tmp_path, stored_round):
    """Permissions do not stop root, so the process becomes somebody else; reading goes on."""
    write_or_compare_settings(tmp_path / "results", one_round.Settings())
    rounds.store_round(tmp_path / "results", stored_round)
    tmp_path.chmod(0o755)
    for path in (tmp_path / "results", *(tmp_path / "results").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def as_somebody_else():
        os.chdir(tmp_path)  # the folders above need not be open to everybody
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        results = Path("results")
        assert not os.access(results, os.W_OK)
        fails(rounds.store_round, results, stored_round, error=PermissionError)
        fails(
            write_or_compare_settings, results / "new", one_round.Settings(), error=PermissionError
        )
        write_or_compare_settings(results, one_round.Settings())
        assert rounds.load_round(results, "none", 0).local.equals(stored_round.local)

    try:
        assert Child(as_somebody_else).wait() == 0
    finally:
        (tmp_path / "results").chmod(0o755)
        (tmp_path / "results" / "none").chmod(0o755)
        shutil.rmtree(tmp_path / "results")
