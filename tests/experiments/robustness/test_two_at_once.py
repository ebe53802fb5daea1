"""Two processes on one store: each result is whole, and nobody writes under other settings."""

import time

import pandas as pd
import pytest

from deepmr_utils import _files
from deepmr_utils._effects_store import EffectsWriter
from experiments.cooperativity import one_round, rounds
from experiments.study import write_or_compare_settings

from .conftest import TINY, Child


def at(moment, function, *arguments):
    """Begin in several processes at once."""
    time.sleep(max(0.0, moment - time.monotonic()))
    function(*arguments)


def test_files_written_by_two_are_whole(tmp_path):
    path = tmp_path / "file.txt"

    def write(letter):
        for _ in range(150):
            _files.write_text(path, letter * 5000)

    _files.write_text(path, "a" * 5000)
    children = [Child(write, letter) for letter in "ab"]
    seen = {path.read_text() for _ in range(300)}
    assert [child.wait() for child in children] == [0, 0]
    assert seen | {path.read_text()} <= {"a" * 5000, "b" * 5000}
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_of_two_settings_one_gets_the_directory(tmp_path):
    for i in range(10):
        moment = time.monotonic() + 0.02
        children = [
            Child(at, moment, write_or_compare_settings, tmp_path / str(i), one)
            for one in (one_round.Settings(seed=seed) for seed in range(3))
        ]
        codes = [child.wait() for child in children]
        assert sorted(codes) == [0, 1, 1]
        claimed = _files.read_record(tmp_path / str(i) / "settings.json")
        assert claimed["seed"] == codes.index(0)


def test_two_runs_on_one_store_give_what_one_gives(tmp_path):
    expected = rounds.run_rounds(TINY, ["none"], 2, tmp_path / "one")
    moment = time.monotonic() + 0.1
    children = [
        Child(at, moment, rounds.run_rounds, TINY, ["none"], 2, tmp_path / "two") for _ in range(2)
    ]
    assert [child.wait() for child in children] == [0, 0]
    for number, result in enumerate(expected):
        again = rounds.load_round(tmp_path / "two", "none", number)
        pd.testing.assert_frame_equal(again.local, result.local, check_exact=True)
        pd.testing.assert_frame_equal(again.members, result.members, check_exact=True)


def test_a_second_writer_of_effects_is_turned_away(tmp_path):
    path = tmp_path / "effects.zarr"
    first = EffectsWriter({"sequence": ["a"]}, {}, path, "mine")
    message = r"another process is writing .*effects\.zarr, .* wait until it has finished"
    with pytest.raises(BlockingIOError, match=message):
        EffectsWriter({"sequence": ["a"]}, {}, path, "mine")
    first.close()
    EffectsWriter({"sequence": ["a"]}, {}, path, "mine").close()
    with pytest.raises(FileExistsError, match="holds other effects"):
        EffectsWriter({"sequence": ["a"]}, {}, path, "another")
    EffectsWriter({"sequence": ["a"]}, {}, path, "mine").close()  # a refused one holds nothing
