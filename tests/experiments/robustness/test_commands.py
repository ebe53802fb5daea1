"""Commands that are given what they do not know, and a machine without a network."""

import socket
from pathlib import Path

import pytest

from experiments import atlas_shares
from experiments.binding import genomes
from experiments.chromatin import draws
from experiments.cooperativity import rounds, sweeps
from experiments.parameter_files import read_parameters

from .conftest import ROOT, TINY

SIMULATION = str(ROOT / "notebooks" / "simulation.ipynb")
SWEEPS = str(ROOT / "notebooks" / "sweeps.ipynb")


@pytest.mark.parametrize(
    ("command", "text", "arguments", "message"),
    [
        (rounds, "n_trian: 100", ["--notebook", SIMULATION], r"'n_trian' \(did you mean n_train"),
        (rounds, "n_trian: 100", [], r"unknown parameter 'n_trian' .* the parameters are .*alpha"),
        (rounds, "rounds: [", [], r"file\.yml is no YAML file"),
        (rounds, "- 1\n- 2", [], r"must hold parameters, name: value; got list"),
        (rounds, "rounds: 1", ["--notebook", SIMULATION, "--scenario", "batch"],
         "unknown scenario 'batch'"),
        (rounds, "rounds: 0", ["--notebook", SIMULATION], "nothing to run: 0 rounds"),
        (sweeps, "rounds: 1", ["--notebook", SWEEPS, "--settings", "n_members 7"],
         r"unknown setting 'n_members 7': choose among baseline"),
        (sweeps, "analyses: {n_member: [3]}", ["--notebook", SWEEPS], "unknown setting 'n_member'"),
        (genomes, "sets: {a: {graphs: [empty], runs: 1}}", ["--sets", "b"],
         "unknown set 'b': choose among a"),
        (genomes, "sets: {a: {graphs: [empty], runs: 1, filter: 3}}", [],
         "unknown setting 'filter'"),
        (draws, "runs: 1\nsettings: {epoch: 3}", [], "unknown setting 'epoch'"),
        (atlas_shares, "effects: x\ntreshold: 1.0", [], r"'treshold' \(did you mean threshold"),
        (atlas_shares, "effects: absent.zarr", [], "no variant effects at absent.zarr"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_said_before_anything_is_written(
    tmp_path, monkeypatch, command, text, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("file.yml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command.main(["file.yml", "--directory", "results", *arguments])
    assert [p.name for p in tmp_path.iterdir()] == ["file.yml"]


def test_a_notebooks_defaults_hold_for_what_a_file_does_not_say(tmp_path):
    """The command and the notebook find each other's rounds."""
    for name in ("simulation_paper_scale", "calibration"):
        values = read_parameters(ROOT / f"book/parameters/{name}.yml", SIMULATION)
        settings = rounds.make_settings(values)
        rounds.claim(ROOT / values["results_directory"], settings)  # raises where they differ
    (tmp_path / "file.yml").write_text("method: ivw\nother_parameters: {eta: 40.0}")
    settings = rounds.make_settings(read_parameters(tmp_path / "file.yml", SIMULATION))
    assert settings.methods == ("ivw", "ivw")
    assert settings.parameters.eta == 40
    assert (settings.n_members, settings.epochs) == (3, 15)  # the notebook's, not the package's


def test_a_round_needs_no_network(monkeypatch):
    def refuse(*_):
        raise OSError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(rounds.run_round(TINY, "none", 0).local)
