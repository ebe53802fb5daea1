"""Commands that are given what they do not know, and a machine without a network."""

import socket
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.cooperativity import one_round
from experiments.study import open_study, write_or_compare_settings

from .conftest import ROOT, TINY


@pytest.mark.parametrize(
    ("study", "text", "arguments", "message"),
    [
        ("simulatoin", "rounds: 1", [], r"unknown study .*\(did you mean 'simulation'"),
        ("simulation", "n_trian: 100", [], r"unknown parameter 'n_trian'.* \(did you mean 'n_train'"),
        ("simulation", "other_parameters: {et: 1}", [], r"unknown parameter 'et': .*alpha_mean"),
        ("simulation", "rounds: [", [], r"file\.yml is no YAML file"),
        ("simulation", "- 1\n- 2", [], r"must hold parameters, name: value; got list"),
        ("simulation", "scenarios: [batch]", [], "unknown scenario 'batch'"),
        ("simulation", "rounds: 0", [], "nothing to run: 0 rounds"),
        ("simulation", "rounds: 1", ["--unit", "none/round-001"],
         r"unknown unit 'none/round-001' \(did you mean 'none/round-000'"),
        ("sweeps", "rounds: 1", ["--unit", "n-members-7/*"], "unknown unit 'n-members-7/"),
        ("sweeps", "analyses: {n_member: [3]}", [], "unknown setting 'n_member'"),
        ("shared_error", "rounds: 1", [], "lacks 'scenarios', which the study shared_error needs"),
        ("bpnet", "sets: {a: {graphs: [empty], runs: 1}}", ["--unit", "b/*"], "unknown unit 'b/"),
        ("bpnet", "sets: {a: {graphs: [star], runs: 1}}", [], "unknown graph 'star'"),
        ("bpnet", "sets: {a: {graphs: [empty], runs: 1, filter: 3}}", [],
         "unknown parameter 'filter'"),
        ("deepsea", "runs: 0", [], "nothing to run"),
        ("deepsea", "runs: 1\nepoch: 3", [], r"'epoch'.*\(did you mean 'epochs'"),
        ("atlas", "effects: x\ntreshold: 1.0", [], r"'treshold'.*\(did you mean 'threshold'"),
        ("atlas", "effects: absent.zarr", [], "no variant effects at absent.zarr"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_said_before_anything_is_written(
    tmp_path, monkeypatch, study, text, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("file.yml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([study, "file.yml", "--directory", "results", *arguments])
    assert [p.name for p in tmp_path.iterdir()] == ["file.yml"]


@pytest.mark.parametrize(
    ("study", "file"),
    [("simulation", "simulation_paper_scale"), ("simulation", "calibration"), ("bpnet", "bpnet_demo_scale"),
     ("sweeps", "sweeps_paper_scale"), ("deepsea", "deepsea_demo_scale"),
     ("own_responses", "own_responses"), ("shared_error", "shared_error"),
     ("simulation", "simulation_motif")],
)  # fmt: skip
def test_what_the_book_shows_is_what_the_commands_compute(capsys, study, file):
    """The stored results are of these parameters, and nothing is missing."""
    path = ROOT / "book" / "parameters" / f"{file}.yml"
    units, directory = open_study(study, path)
    for unit in units.values():
        for folder, settings in unit.settings.items():  # raises where they differ
            write_or_compare_settings(ROOT / directory / unit.folder / folder, settings)
    main([study, str(path), "--directory", str(ROOT / directory), "--dry-run"])
    assert capsys.readouterr().out.startswith(f"0 of {len(units)} units are missing in ")


def test_a_notebooks_defaults_hold_for_what_a_file_does_not_say(tmp_path):
    (tmp_path / "file.yml").write_text("method: ivw\nother_parameters: {eta: 40.0}")
    units, _ = open_study("simulation", tmp_path / "file.yml")
    (settings,) = units["none/round-000"].settings.values()
    assert settings.methods == ("ivw", "egger_robust")
    assert settings.parameters.eta == 40
    assert (settings.n_members, settings.epochs) == (3, 15)  # the notebook's, not the package's


def test_a_round_needs_no_network(monkeypatch):
    def refuse(*_):
        raise OSError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(one_round.run_round(TINY, "none", 0).local)


@pytest.mark.parametrize(
    ("study", "text"),
    [
        ("bpnet", "graphs: [empty]\nruns: 1\nn_windows: 190\nlength: 160\nmargin: 10\nn_analysed: 4"),
        ("own_responses", "graphs: [empty]\nruns: 1\nn_windows: 190\nlength: 160\nmargin: 10"),
        ("deepsea", "runs: 1\nn_train: 100"),
        ("simulation", "rounds: 1\nscenarios: [none]\nn_train: 100\nn_augmented: 10"),
    ],
)  # fmt: skip
def test_every_study_trains_where_it_is_told(tmp_path, study, text):
    file = tmp_path / "file.yml"
    file.write_text(text)
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        main([study, str(file), "--directory", str(tmp_path / "results"), "--device", "cuda:99"])
