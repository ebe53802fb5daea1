"""SIGKILL, at any moment: what is there is whole, and the same call gives the same result."""

import os
import signal
import time

import numpy as np
import pytest
import torch
import xarray as xr

from deepmr_utils import _effects_store, _files
from deepmr_utils.mutagenesis import saturation_mutagenesis
from experiments.cooperativity import sweeps

from .conftest import TINY, Child

SETTINGS = sweeps.one_at_a_time(TINY, {"n_members": [3], "epochs": [2]})


def run_sweep(directory):
    return sweeps.run_sweep(SETTINGS, ["none"], 2, directory)


def results(directory):
    """Text of all tables but for the times that runs took."""
    tables = {}
    for path in sorted(directory.glob("*/*/round-*.csv")):
        table = sweeps.read_sweep_table(path).drop(columns="seconds")
        tables[path.relative_to(directory).as_posix()] = table.to_csv()
    return tables


def test_a_sweep_killed_at_random_moments_gives_the_identical_result(tmp_path):
    start = time.monotonic()
    run_sweep(tmp_path / "whole")
    seconds = time.monotonic() - start
    expected = results(tmp_path / "whole")
    assert len(expected) == 6
    rng, there = np.random.default_rng(0), {}
    for _ in range(4):
        child = Child(run_sweep, tmp_path / "cut")
        time.sleep(rng.uniform(0.1, 0.6) * seconds)
        child.kill()
        before, there = there, results(tmp_path / "cut")
        assert there.items() >= before.items()  # what was finished stays
        assert there.items() <= expected.items()  # and what is there is whole and right
    run_sweep(tmp_path / "cut")
    assert results(tmp_path / "cut") == expected
    for name in ("baseline", "n-members-3", "epochs-2"):
        texts = [(tmp_path / d / name / "settings.json").read_text() for d in ("whole", "cut")]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_whose_writer_is_killed_is_as_it_was(tmp_path, old):
    path = tmp_path / "file.json"
    if old:
        path.write_text(old)

    def half(partial):
        partial.write_text("ne")
        os.kill(os.getpid(), signal.SIGKILL)

    assert Child(_files.land, path, half).wait() == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == old
    _files.write_text(path, "new")
    assert path.read_text() == "new"
    assert not list(tmp_path.glob("file*.partial"))  # leftovers are hidden, and nobody's input


def test_a_killed_mutagenesis_goes_on(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(4, 3, 3), torch.nn.Flatten(), torch.nn.Linear(18, 2)
    )
    x = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (6, 8))]
    x = x.transpose(0, 2, 1).copy()
    members = [network.eval(), network.eval()]
    expected = saturation_mutagenesis(members, x, batch_size=24)
    write = _effects_store.EffectsWriter.write

    def fatal(writer, start, size, values):
        if start >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write(writer, start, size, values)

    path = tmp_path / "effects.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(_effects_store.EffectsWriter, "write", fatal)
        child = Child(lambda: saturation_mutagenesis(members, x, batch_size=24, store=path))
        assert child.wait() == -signal.SIGKILL
    assert not path.exists()
    resumed = saturation_mutagenesis(members, x, batch_size=24, store=path).load()
    xr.testing.assert_equal(resumed, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["effects.zarr"]
