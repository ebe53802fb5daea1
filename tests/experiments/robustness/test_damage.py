"""Files that are cut short, altered or hostile are named, and never taken for a result."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from deepmr_utils._files import write_text
from deepmr_utils.atlas import causal_atlas
from deepmr_utils.effects import load_effects, save_effects
from experiments import DATA
from experiments.__main__ import main
from experiments.binding import genomes, one_genome
from experiments.chromatin import draws, one_draw
from experiments.cooperativity import one_round, rounds, sweeps
from experiments.study import Unit, run_units, write_or_compare_settings


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path, monkeypatch):
    """No file's code was run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("hostile").exists()


def truncated(content):
    return content[: len(content) // 2]


def altered(content):
    """One bit of a value in the middle, which no format notices without a checksum."""
    content = bytearray(content)
    content[len(content) // 3] ^= 4
    return bytes(content)


def hostile(_):
    return pickle.dumps({"record": Hostile()}, protocol=2)  # torch reads no other


DAMAGE = [truncated, altered, hostile, lambda _: b"", lambda _: None]
IDS = ["truncated", "altered", "hostile", "empty", "missing"]


def damage(path, how):
    content = how(path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("how", DAMAGE, ids=IDS)
def test_a_damaged_table_names_the_record_to_remove(tmp_path, stored_round, how):
    rounds.store_round(tmp_path, stored_round)
    damage(tmp_path / "none" / "round-000.parquet", how)
    message = r"round-000\.parquet is damaged or missing .* remove .*round-000\.json and make"
    with pytest.raises(ValueError, match=message):
        rounds.load_round(tmp_path, "none", 0)
    rounds.store_round(tmp_path, stored_round)
    assert rounds.load_round(tmp_path, "none", 0).local.equals(stored_round.local)


@pytest.mark.parametrize("how", [truncated, hostile, lambda _: b"", lambda _: b"[1, 2]"])
def test_a_damaged_record_is_not_a_result(tmp_path, stored_round, how):
    write_or_compare_settings(tmp_path, one_round.Settings())
    rounds.store_round(tmp_path, stored_round)
    damage(tmp_path / "none" / "round-000.json", how)
    with pytest.raises(ValueError, match=r"round-000\.json is damaged .* remove .*000\.json and"):
        rounds.load_round(tmp_path, "none", 0)
    damage(tmp_path / "settings.json", how)
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        write_or_compare_settings(tmp_path, one_round.Settings())


def test_another_version_is_told_where_something_is_missing(tmp_path):
    def store(folder):
        write_text(folder / "a.csv", "a\n1\n")

    units = {"a": Unit(("a.csv",), store, {"": one_round.Settings()})}
    write_or_compare_settings(tmp_path, one_round.Settings())
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"deepmr_utils": "0.0.9"}))
    before = path.read_text()
    with pytest.warns(UserWarning, match=r"begun by deepmr_utils 0\.0\.9; what is missing is"):
        run_units(units, tmp_path)
    assert path.read_text() == before
    assert (tmp_path / "a.csv").exists()
    run_units(units, tmp_path)  # nothing is missing: a warning would fail the test
    with pytest.raises(ValueError, match=r"other settings \(epochs: 12 there, 13 now\)"):
        write_or_compare_settings(tmp_path, one_round.Settings(epochs=13))


@pytest.mark.parametrize("how", DAMAGE, ids=IDS)
def test_damaged_runs_of_the_other_studies(tmp_path, how):
    table = pd.DataFrame({"a": np.linspace(0, 1, 200), "b": ["x", "y"] * 100})
    one = one_genome.Run(table, table, table, {"graph": "empty", "run": 0})
    genomes.store(tmp_path, one)
    damage(tmp_path / "empty" / "run-000-globals.parquet", how)
    with pytest.raises(ValueError, match=r"run-000-globals.* remove .*run-000\.json"):
        genomes.stored(tmp_path)
    draws.store(tmp_path, one_draw.Run(table, table, {"run": 0}))
    damage(tmp_path / "run-000-local.parquet", how)
    with pytest.raises(ValueError, match=r"run-000-local.* remove .*run-000\.json"):
        draws.stored(tmp_path)


@pytest.mark.parametrize("size", [0, 25, 60, -1])
def test_a_table_of_a_sweep_that_lost_its_end(tmp_path, size):
    path = tmp_path / "round-000.csv"
    text = "effect,seconds,git_revision\n1.5,2,abc\n2.5,2,abc\n3.5,2,abc\n4.5,2,abcdefghijklmn\n"
    path.write_text(text)
    assert len(sweeps.read_sweep_table(path)) == 4
    path.write_text(text[:size])
    with pytest.raises(ValueError, match=r"round-000\.csv is damaged .* remove .*csv and make"):
        sweeps.read_sweep_table(path)


def make_effects():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(3, 6, 12, 4, 6))  # so many pairs that values outweigh a table's footer
    dims = ("sequence", "position", "allele", "feature")
    variables = {
        "effect": (dims, draws.mean(0)),
        "se": (dims, draws.std(0, ddof=1)),
        "member_effect": (("member", *dims), draws),
    }
    reference = np.full((6, 12), "N")
    coordinates = {
        "sequence": [f"s{i}" for i in range(6)], "position": range(12), "allele": list("ACGT"),
        "feature": [f"f{i}" for i in range(6)], "reference": (("sequence", "position"), reference),
    }  # fmt: skip
    return xr.Dataset(variables, coordinates, {"n_members": 3, "schema_version": 1})


@pytest.mark.parametrize("how", DAMAGE[:4], ids=IDS[:4])
def test_a_damaged_atlas(tmp_path, how):
    save_effects(make_effects(), "effects.zarr")
    Path("atlas.yml").write_text(
        "effects: effects.zarr\nrule: wald\nshares: 2\nresults_directory: atlas\n"
    )
    expected = causal_atlas(make_effects(), rule="wald")
    main(["atlas", "atlas.yml"])
    finished = Path("atlas/atlas.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(finished), expected)
    damage(finished, how)
    with pytest.raises(ValueError, match=r"atlas\.parquet is damaged .* remove .*atlas\.parquet"):
        main(["atlas", "atlas.yml"])
    Path("atlas/atlas.parquet").unlink()  # as the message says
    main(["atlas", "atlas.yml"])
    pd.testing.assert_frame_equal(pd.read_parquet(finished), expected)
    shutil.rmtree("atlas")
    main(["atlas", "atlas.yml", "--unit", "0-of-2"])
    main(["atlas", "atlas.yml", "--unit", "1-of-2"])
    assert not finished.exists()
    block = Path("atlas/local/000000.npy")
    if how is not altered:  # local effects wait for minutes, and have no checksum
        damage(block, how)
        with pytest.raises(ValueError, match=r"000000\.npy is damaged .* remove .*npy and make"):
            main(["atlas", "atlas.yml"])
        block.unlink()
    main(["atlas", "atlas.yml"])
    pd.testing.assert_frame_equal(pd.read_parquet(finished), expected)
    Path("atlas/manifest.json").write_bytes(how(Path("atlas/manifest.json").read_bytes()))
    with pytest.raises((ValueError, FileExistsError), match=r"is damaged|with other"):
        main(["atlas", "atlas.yml"])


def test_a_hostile_array_is_not_opened(tmp_path):
    save_effects(make_effects(), "effects.zarr")
    Path("atlas.yml").write_text(
        "effects: effects.zarr\nrule: wald\nshares: 2\nresults_directory: atlas\n"
    )
    main(["atlas", "atlas.yml", "--unit", "0-of-2"])
    np.save("atlas/local/000000.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"000000\.npy is damaged"):
        main(["atlas", "atlas.yml"])


@pytest.mark.parametrize("how", [truncated, lambda b: b[:-1], altered, hostile, lambda _: b""])
def test_damaged_effects(tmp_path, how):
    path = tmp_path / "effects.zarr"
    message = r"effects\.zarr is damaged or missing .* remove .*effects\.zarr and make the call"
    save_effects(make_effects(), path)
    chunk = max((path / "effect").glob("[0-9]*"), key=lambda p: p.stat().st_size)
    whole = chunk.read_bytes()
    damage(chunk, how)
    with pytest.raises(ValueError, match=message):
        load_effects(path)
    chunk.write_bytes(whole)
    xr.testing.assert_identical(load_effects(path), make_effects())
    if how is not altered:
        damage(path / ".zmetadata", how)
        with pytest.raises(ValueError, match=message):
            load_effects(path)
    file = tmp_path / "file.zarr"
    file.write_bytes(how(whole))
    with pytest.raises(ValueError, match=r"file\.zarr is damaged or missing"):
        load_effects(file)


@pytest.mark.parametrize("how", [truncated, hostile, lambda _: b"", lambda _: b"[]"])
def test_weights_of_demo_networks(tmp_path, how):
    path = tmp_path / "weights.pt"
    path.write_bytes(how((DATA / "bpnet_demo.pt").read_bytes()))
    with pytest.raises(ValueError, match=r"weights\.pt holds no ensemble of demo BPNets"):
        one_genome.load_members(path)
    torch.save({"settings": {}, "members": [Hostile()]}, path)
    with pytest.raises(ValueError, match=r"weights\.pt holds no ensemble of demo BPNets"):
        one_genome.load_members(path)


def test_records_are_json(tmp_path, stored_round):
    """Whatever reads a store runs no code: it is JSON, CSV, Parquet and plain arrays."""
    rounds.store_round(tmp_path, stored_round)
    assert isinstance(json.loads((tmp_path / "none" / "round-000.json").read_text()), dict)
