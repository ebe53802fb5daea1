"""Runs on demo genomes: stored, found again, refused where they do not fit, and reproducible."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils.predict import predict
from deepmr_utils.sequences import one_hot
from experiments.__main__ import main
from experiments.binding import genome, genomes, one_genome, profiles, track_files, tracks
from experiments.study import (
    flat_settings,
    make_settings,
    stored_settings,
    write_or_compare_settings,
)

STORED = Path(__file__).parents[2] / "book" / "results" / "bpnet"
TINY = make_settings(one_genome.Settings, {
    "n_windows": 190, "length": 160, "margin": 10, "n_members": 2, "filters": 8, "layers": 2,
    "epochs": 2, "resample": True, "n_analysed": 12, "chains": ["motif"], "kept": ["motif", "direct"],
})  # fmt: skip
FILE = """
sets:
  tiny: {graphs: [default, empty], runs: 1, n_windows: 190, length: 160, margin: 10, n_members: 2,
         filters: 8, layers: 2, epochs: 2, resample: true, n_analysed: 12, chains: [motif],
         kept: [motif, direct]}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "file.yml").write_text(f"results_directory: {folder}\n{FILE}")
    main(["bpnet", str(folder / "file.yml")])
    return folder


def test_runs_are_stored_and_found_again(directory):
    found = genomes.stored(directory / "tiny")
    assert [one.record["graph"] for one in found] == ["default", "empty"]
    assert stored_settings(one_genome.Settings, directory / "tiny") == TINY
    again = one_genome.run(TINY, "default", 0)
    for name in ("local", "globals_", "members"):
        mine, held = getattr(again, name).reset_index(drop=True), getattr(found[0], name)
        assert held.columns.tolist() == mine.columns.tolist()
        # found again, of numbers that are rounded
        for end in {"ci_low", "ci_high", "total_ci_low", "total_ci_high"} & set(mine):
            effect = mine["causal_effect" if name == "local" else "effect"]
            half = (mine[end] - effect).abs()
            off = (held.pop(end) - mine.pop(end)).abs()
            assert (off.isna() == half.isna()).all()
            assert (off.fillna(0) <= 2e-5 * (effect.abs() + half).fillna(0)).all()
        for total in {"total_df", "total_p"} & set(mine):
            np.testing.assert_allclose(held.pop(total), mine.pop(total), rtol=1e-3)
        pd.testing.assert_frame_equal(held, mine, check_dtype=False, rtol=1e-5, atol=1e-6)
    assert {k: v for k, v in again.record.items() if k not in ("seconds", "git_revision")} == {
        k: v for k, v in found[0].record.items() if k not in ("seconds", "git_revision")
    }
    answers = again.globals_[again.globals_["verdict"].notna()]
    assert set(answers["chain"]) == {"motif"}
    assert set(answers["bin"]) == {"all"}
    assert answers[["knockout", "knockout_truth"]].notna().all(axis=None)
    assert set(again.globals_["bin"]) == set(again.members["bin"]) == {"all"}
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.parquet")}
    main(["bpnet", str(directory / "file.yml")])  # nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in directory.rglob("*.parquet")}
    # a run without its record was cut short, and is run again
    (directory / "tiny/empty/run-000.json").unlink()
    main(["bpnet", str(directory / "file.yml"), "--unit", "tiny/empty/*"])
    changed = {p for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert {path.parent.name for path in changed} == {"empty"}


def test_runs_without_answers_have_none(directory, tmp_path):
    [one, _] = genomes.stored(directory / "tiny")
    old = one.globals_.drop(columns=[*one_genome.ANSWER_COLUMNS, "knockout_truth"])
    genomes.store(tmp_path, one._replace(globals_=old))
    [again] = genomes.stored(tmp_path)
    assert again.globals_.columns.tolist() == one_genome.GLOBAL_COLUMNS
    scores = genomes.score_runs([again])
    assert scores["acts_absent"].isna().all()
    assert scores["width"].notna().all()
    assert genomes.score_runs([one]).query("chain == 'motif'")["acts_absent"].notna().all()


def test_what_does_not_fit_is_refused(directory):
    with pytest.raises(ValueError, match=r"written with other settings \(epochs: 2 there, 3 now\)"):
        write_or_compare_settings(directory / "tiny", replace(TINY, epochs=3))
    with pytest.raises(FileNotFoundError, match=r"no run-007\.json in .*default"):
        genomes.load(directory / "tiny" / "default" / "run-007.json")
    with pytest.raises(ValueError, match=r"'filter': choose one of background, .* mean 'filters'"):
        make_settings(one_genome.Settings, {"filter": 3})
    with pytest.raises(ValueError, match="unknown chain"):
        make_settings(one_genome.Settings, {"chains": ["mine"]})
    with pytest.raises(
        ValueError, match="unknown kept chain 'published': choose one of motif, direct"
    ):
        make_settings(one_genome.Settings, {"chains": ["motif"]})
    with pytest.raises(ValueError, match="n_members must be a number of at least 2; got 1"):
        make_settings(one_genome.Settings, {"n_members": 1})
    assert genomes.stored(directory / "nothing") == []


def test_settings_are_flat_and_come_back(directory):
    flat = flat_settings(TINY)
    assert flat["n_windows"] == 190
    assert "graph" not in flat
    assert flat == json.loads((directory / "tiny/settings.json").read_text())


def test_bootstrap_samples_differ_between_members(directory, tmp_path):
    p = TINY.parameters
    demo = genome.make_genome(tmp_path, p, seed=0)
    spec = track_files.read_specification(demo.specification)
    ensemble, quality = one_genome.train(spec, TINY, 3)
    assert len(ensemble.members) == 2
    assert ensemble.report["seed"].is_unique
    assert quality["task"].tolist() == list(genome.FACTORS)
    together, _ = one_genome.train(spec, replace(TINY, resample=False), 3)
    assert not torch.equal(together.members[0].first[0].weight, ensemble.members[0].first[0].weight)


@pytest.mark.parametrize(
    "path", sorted(STORED.glob("*/*/run-000.json")), ids=lambda p: p.parent.name
)
def test_windows_and_truth_of_a_stored_run_are_reproduced(path, tmp_path):
    directory, graph = path.parents[1], path.parent.name
    settings = stored_settings(one_genome.Settings, directory)
    held = genomes.load(path)
    seed, _ = one_genome.seeds(settings, graph, 0)
    assert seed == held.record["genome_seed"]
    parameters = replace(settings.parameters, graph=graph)
    demo = genome.make_genome(tmp_path, parameters, seed)
    spec = track_files.read_specification(demo.specification)
    windows = one_genome.read_windows(spec, parameters.length, settings.n_analysed)
    assert len(windows) == held.record["windows"]
    some = held.local[held.local["sequence_id"].isin(windows["sequence_id"].head(40))]
    truth = genome.true_effects(windows.head(40), demo.sites, parameters)
    keys = ["sequence_id", "exposure", "outcome"]
    both = some.merge(truth, on=keys, suffixes=("", "_again"), validate="m:1")
    assert len(both) == len(some) > 200
    # sets with more windows are older: their direct effects are slopes at the reference
    for name in ("total", "direct") if settings.n_analysed <= 250 else ("total",):
        np.testing.assert_allclose(both[name], both[f"{name}_again"], rtol=2.0**-17, atol=1e-7)
    assert set(held.local["sequence_id"]) <= set(windows["sequence_id"])


def test_the_shipped_ensemble_is_what_its_command_makes(tmp_path):
    """One of its members, trained again.

    It is the same to the last digit where it was made. On another processor sums round differently
    and training drifts apart, but less than members do that began elsewhere and saw other windows.
    """
    shipped = one_genome.load_members()
    settings, seed = one_genome.SHIPPED, one_genome.SHIPPED_SEED
    demo = genome.make_genome(tmp_path, settings.parameters, seed)
    spec = track_files.read_specification(demo.specification)
    windows = one_genome.read_windows(spec, settings.parameters.length, 60)
    x = one_hot(windows["sequence"].tolist())
    ensemble = one_genome.train(spec, settings, seed, only=[0])[0]
    assert len(ensemble.members) == 1
    old, *others, new = (predict([m], x)[0].ravel() for m in (*shipped, *ensemble.members))
    alike = np.corrcoef([old, *others])
    assert np.corrcoef(old, new)[0, 1] > alike[np.triu_indices(len(alike), 1)].max()
    counts = profiles.evaluate(
        shipped, lambda seed: tracks.stream(
            spec, tracks.peak_windows(spec, "validation", length=400), length=400, seed=seed)
    )  # fmt: skip
    assert (counts["pearson"] > 0.9).all()


def test_files_that_hold_no_ensemble_are_refused(tmp_path):
    one_genome.save_members(tmp_path / "good.pt", one_genome.load_members()[:2], one_genome.SHIPPED)
    assert len(one_genome.load_members(tmp_path / "good.pt")) == 2
    torch.save({"members": []}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="holds no ensemble of demo BPNets"):
        one_genome.load_members(tmp_path / "bad.pt")
    (tmp_path / "none.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="holds no ensemble of demo BPNets"):
        one_genome.load_members(tmp_path / "none.pt")
