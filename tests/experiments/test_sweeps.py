"""Sweeps: settings that share an ensemble give what they give alone; stored ones are found again."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.cooperativity import one_round, round_scores, simulation, sweeps

BASE = one_round.Settings(
    simulation.Parameters(n_train=800, n_augmented=200, n_test=40, effect_ratio=3.0),
    n_members=2,
    epochs=8,
    max_excess=2.0,
    methods=("ivw",),
)


def test_settings_differ_in_one_thing():
    changes = {
        "instruments": [["wald", 2]],
        "n_members": [3],
        "methods": [["egger"]],
        "confounding": [0.5],
        "n_train": [400],
    }
    settings = sweeps.one_at_a_time(BASE, changes)
    assert list(settings) == ["baseline", "instruments wald 2", "n_members 3", "methods egger",
                              "confounding 0.5", "n_train 400"]  # fmt: skip
    assert settings["baseline"] is BASE
    assert settings["instruments wald 2"] == replace(BASE, rule="wald", threshold=2.0)
    assert settings["methods egger"].methods == ("egger",)
    weak = settings["confounding 0.5"].parameters
    assert (weak.eta, weak.nu, weak.tau1, weak.tau2) == (10, 15, 12.5, 12.5)
    assert settings["n_train 400"].parameters.n_train == 400
    with pytest.raises(ValueError, match="unknown setting 'n_member': choose one of instruments"):
        sweeps.one_at_a_time(BASE, {"n_member": [3]})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    settings = sweeps.one_at_a_time(
        BASE,
        {
            "n_members": [3],
            "direction": ["reverse"],
            "n_train": [600],
            "instruments": [["wald", 1e6]],
        },
    )
    directory = tmp_path_factory.mktemp("sweep")
    return settings, directory, sweeps.run_sweep(settings, ["none"], 1, directory)


def test_a_smaller_ensemble_is_the_first_part_of_a_larger_one(sweep):
    """The baseline was read off three members; alone, two are trained: the same to float32."""
    settings, _, table = sweep
    alone = round_scores.global_table([one_round.run_round(settings["baseline"], "none", 0)])
    shared = table[table["setting"] == "baseline"].set_index("stratum")
    for name in ("effect", "truth", "total_se", "local_total_coverage"):
        np.testing.assert_allclose(
            shared[name], alone.set_index("stratum")[name][shared.index].astype(float), rtol=1e-3
        )
    three = table[table["setting"] == "n_members 3"].set_index("stratum").loc[shared.index]
    assert (three["effect"] != shared["effect"]).all()
    # the same sequences, but for those without an estimate, which weak exposures may lack
    truths = [t.loc["both motifs", "truth"] for t in (three, shared)]
    np.testing.assert_allclose(*truths, rtol=0.05)
    assert set(table.loc[table["setting"] == "direction reverse", "stratum"]) == {
        "all", "both motifs", "outcome motif only"
    }  # fmt: skip


def test_stored_settings_are_found_again_and_others_refused(sweep):
    settings, directory, table = sweep
    stamps = {p: p.stat().st_mtime_ns for p in directory.rglob("*.csv")}
    assert len(stamps) == len(settings)
    again = sweeps.run_sweep(settings, ["none"], 1, directory)
    assert again.equals(table)
    assert stamps == {p: p.stat().st_mtime_ns for p in directory.rglob("*.csv")}
    other = {"baseline": replace(BASE, threshold=2.0)}
    with pytest.raises(ValueError, match=r"other settings \(threshold: 1.0 there, 2.0 now\)"):
        sweeps.run_sweep(other, ["none"], 1, directory)
    with pytest.raises(ValueError, match="names that differ"):
        sweeps.run_sweep({"a b": BASE, "a-b": BASE}, ["none"], 1, directory)
    with pytest.raises(ValueError, match="unknown scenario 'batch'"):
        sweeps.run_sweep(settings, ["batch"], 1, directory)
    with pytest.raises(ValueError, match="nothing to run: 0 rounds"):
        sweeps.run_sweep(settings, ["none"], 0, directory)


def test_a_setting_without_instruments_is_stored_and_has_no_row(sweep):
    settings, directory, table = sweep
    assert "instruments wald 1000000.0" in settings
    (path,) = directory.glob("instruments*/none/round-000.csv")
    assert len(path.read_text().splitlines()) == 1  # names of columns
    assert set(table["setting"]) == set(settings) - {"instruments wald 1000000.0"}
    last = {name: settings[name] for name in settings if name.startswith("instruments")}
    assert sweeps.run_sweep(last, ["none"], 1, directory).empty
