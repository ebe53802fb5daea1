"""Notebooks: their anatomy, and that they run with other parameters."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_numbers
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepmr_utils._report import command
from experiments import notebooks
from experiments.parameter_files import notebook_defaults

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ENVIRONMENT = {
    **os.environ,
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}


def papermill(*arguments, cwd):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_notebooks_are_there():
    assert {p.name for p in NOTEBOOKS} == {
        "bpnet.ipynb",
        "corrections.ipynb",
        "deep_mr.ipynb",
        "deepsea.ipynb",
        "estimators.ipynb",
        "exon_definition.ipynb",
        "one_sample.ipynb",
        "quickstart.ipynb",
        "simulation.ipynb",
        "sweeps.ipynb",
        "verdicts.ipynb",
        "splicing.ipynb",
    }
    makefile = (ROOT / "Makefile").read_text()
    names = re.search(r"^NAMES \?= (.*)$", makefile, re.MULTILINE).group(1).split()
    assert sorted(names) == sorted(p.stem for p in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_anatomy(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    tags = [c.metadata.get("tags", []) for c in code]
    assert tags[0] == ["parameters"]
    types = re.findall(r"^\w+: (\S+) = ", code[0].source, re.MULTILINE)
    assert len(types) == len(notebook_defaults(path))  # papermill --help-notebook shows them
    assert {kind.split("[")[0] for kind in types} <= notebooks.TYPES.keys()
    assert "check_parameters(" in code[1].source or "report.check(" in code[1].source
    compared = [
        c for c, t in zip(code, tags, strict=True) if "nbval-ignore-output" not in t and c.outputs
    ]
    assert len(compared) >= 3
    if path.stem not in notebook_numbers.TRAINED:  # what is trained differs between processors
        # versions and hashes, of which each installation has its own
        versions = [c.id for c, t in zip(code, tags, strict=True) if "nbval-ignore-output" in t]
        assert versions == ["settings"] * (path.stem == "deep_mr")
    printed = "".join(o.get("text", "") for c in code for o in c.outputs)
    assert not re.search(r": (True|False)$", printed, re.MULTILINE)  # numbers say by how much
    assert all(len(c.source.splitlines()) <= 15 for c in code[1:])
    assert not any(
        line.startswith(("def ", "class ", "!")) for c in code for line in c.source.splitlines()
    )
    assert not any(o.output_type == "error" for c in code for o in c.outputs)
    for cell in code:
        figures = [o for o in cell.outputs if "<Figure" in o.get("data", {}).get("text/plain", "")]
        assert not any("image/png" in o.data for o in figures)  # the book has the pictures
        if figures:
            assert cell.metadata["mystnb"]["image"]["alt"], (
                f"figure of cell {cell.id} has no alt text"
            )


def test_quickstart_with_other_parameters(tmp_path):
    out = tmp_path / "out.ipynb"
    run = papermill(ROOT / "notebooks/quickstart.ipynb", out, "-p", "true_effect", "1.5",
                    "-p", "n_sequences", "30", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    cells = nbformat.read(out, as_version=4).cells
    glued = notebook_numbers.glued(o for c in cells for o in c.get("outputs", ()))
    assert glued["true_effect"] == "1.5"
    assert abs(float(glued["effect"]) - 1.5) < 0.1


def test_simulation_with_other_parameters_writes_its_tables(tmp_path):
    parameters = tmp_path / "mine.yml"
    parameters.write_text(
        "scenarios: [none]\nn_train: 1200\nn_augmented: 300\nn_test: 60\nn_members: 2\nepochs: 10\n"
        "max_excess: 2.0\neffect_ratio: 4.0\n"
        "other_parameters: {eta: 40.0, p_motif: 0.9}\nother_methods: []\nresults_directory: mine\n"
    )
    run = papermill(ROOT / "notebooks/simulation.ipynb", tmp_path / "out.ipynb",
                    "-f", parameters, "-p", "method", "ivw", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    names = {p.name for p in (tmp_path / "mine").iterdir()}
    assert names == {"settings.json", "none", "global_effects.csv", "scores.csv"}
    assert json.loads((tmp_path / "mine" / "settings.json").read_text())["eta"] == 40.0


def test_sweeps_with_other_parameters_find_their_settings_again(tmp_path):
    parameters = tmp_path / "mine.yml"
    parameters.write_text(
        "analyses: {direction: [reverse]}\ntraining: {confounding: [2.0]}\nscenarios: [none]\n"
        "training_scenarios: [none]\nmethods: [egger, ivw]\nn_train: 1200\nn_augmented: 300\n"
        "n_test: 60\nn_members: 2\nepochs: 8\nmax_excess: 2.0\nresults_directory: mine\n"
    )
    for _ in range(2):
        run = papermill(ROOT / "notebooks/sweeps.ipynb", tmp_path / "out.ipynb", "-f", parameters,
                        cwd=tmp_path)  # fmt: skip
        assert run.returncode == 0, run.stderr
    names = {p.name for p in (tmp_path / "mine").iterdir()}
    assert names == {"baseline", "direction-reverse", "confounding-2.0", "sweep_scores.csv"}


def test_bpnet_with_one_network_says_what_is_missing(tmp_path):
    weights = ROOT / "tests/reference/models/bpnet/bpnet_oskn_random.h5"
    out = tmp_path / "out.ipynb"
    run = papermill(ROOT / "notebooks/bpnet.ipynb", out, "-p", "source", "published", "-p", "weights",
                    weights, "-p", "n_genome", "190", "-p", "n_windows", "8", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    cells = {c.id: c for c in nbformat.read(out, as_version=4).cells}
    assert cells["alone"].outputs[0]["text"] == (
        "uncertainty that is missing: between members; strands alone give a lower bound\n"
    )
    assert cells["open"].outputs[0]["text"].startswith("8 windows, 1 networks")


def test_corrections_finds_its_stores_from_elsewhere(tmp_path):
    out, parameters = tmp_path / "out.ipynb", tmp_path / "small.yml"
    parameters.write_text(
        "n_train: 1200\nn_augmented: 300\nn_test: 60\nn_members: 2\nepochs: 10\nmax_excess: 2.0\n"
    )
    run = papermill(ROOT / "notebooks/corrections.ipynb", out, "-f", parameters, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    cells = nbformat.read(out, as_version=4).cells
    glued = notebook_numbers.glued(o for c in cells for o in c.get("outputs", ()))
    stored = notebook_numbers.read("corrections")
    for name in [name for name in stored if name.startswith(("stored.", "pairs."))]:
        assert notebook_numbers.holds(glued[name], stored[name]), name


MODEL = """
import torch
from torch import nn


def member(weights):
    network = nn.Sequential(nn.Conv1d(4, 8, 6), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                            nn.Dropout(0.2), nn.Linear(8, 3))
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network
"""


@pytest.fixture
def mine(tmp_path):
    """A model, weights of three members, regions and a genome, in a folder of their own."""
    (tmp_path / "model.py").write_text(MODEL)
    for i in range(3):
        torch.manual_seed(i)
        layers = [nn.Conv1d(4, 8, 6), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        network = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(8, 3))
        torch.save(network.state_dict(), tmp_path / f"w{i}.pt")
    rng = np.random.default_rng(0)
    genome = "".join(rng.choice(list("ACGT"), 1200))
    (tmp_path / "genome.fa").write_text(f">chr1\n{genome}\n")
    lines = [f"chr1\t{80 * i + 20}\t{80 * i + 60}\tp{i}\n" for i in range(14)]
    (tmp_path / "peaks.bed").write_text("".join(lines))
    return tmp_path


def test_a_report_of_a_model_in_a_file(mine):
    run = subprocess.run(
        [sys.executable, "-m", "deepmr_utils", "report", "--model", "model.py:member", "--weights",
         "w0.pt", "w1.pt", "w2.pt", "--regions", "peaks.bed", "--genome", "genome.fa", "--length",
         "50", "--features", "a", "b", "c", "--null_windows", "10", "--results_directory", "out"],
        cwd=mine, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == "out/report.html\n"
    page = (mine / "out" / "report.html").read_text()
    assert "3 networks" in page
    assert "No motifs were named" in page
    assert "report.check(" not in page  # no code
    assert 'src="http' not in page
    assert page.count('src="data:image/png') == 5
    effects = pd.read_csv(mine / "out" / "effects.csv")
    assert len(effects) == 6
    nulls = pd.read_csv(mine / "out" / "nulls.csv")
    assert nulls["status"].tolist() == ["ok"] * 4
    assert not [path for path in (mine / "out").iterdir() if "partial" in path.name]
    cells = nbformat.read(mine / "out" / "report.ipynb", as_version=4).cells
    assert not any(o.output_type == "error" for c in cells for o in c.get("outputs", ()))


def test_a_report_by_papermill_of_one_network_with_dropout(mine):
    sequences = [f">s{i}\n{'ACGTTGCAAT'[i % 7 :]}{'GATTACAGGC' * 3}\n"[:45] for i in range(10)]
    (mine / "s.fa").write_text("".join(f"{text[:38].rstrip()}\n" for text in sequences))
    run = papermill(ROOT / "notebooks/deep_mr.ipynb", "out.ipynb", "-p", "model", "model.py:member",
                    "-y", "weights: [w0.pt]", "-p", "draws", "3", "-p", "sequences", "s.fa",
                    "-p", "null_windows", "0", cwd=mine)  # fmt: skip
    assert run.returncode == 0, run.stderr
    cells = {c.id: c for c in nbformat.read(mine / "out.ipynb", as_version=4).cells}
    said = cells["limits"].outputs[0]["text"]
    assert "Draws of dropout are of one training" in said
    assert (mine / "results" / "deep_mr" / "effects.parquet").exists()


def test_a_wrong_parameter_of_a_report_is_said_in_words(mine):
    run = subprocess.run(
        [sys.executable, "-m", "deepmr_utils", "report", "--model", "model.py:member",
         "--results_directory", "out", "--regions", "peaks.bed"],
        cwd=mine, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "no report: parameter genome: regions need the genome that they are of" in run.stderr
    assert "parameter model: model.py:member must take no argument" in run.stderr
    assert "Traceback" not in run.stderr
    assert list((mine / "out").iterdir()) == []


def test_a_report_that_is_stopped_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    import papermill as module

    def stopped(notebook, out, *_, **__):
        Path(out).write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "execute_notebook", stopped)
    assert command.main(["--results_directory", str(tmp_path / "out")]) == 130
    assert "the same command goes on from what is stored" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_report_without_its_extra_says_which(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "papermill" else found(n)
    )
    assert command.main([]) == 1
    assert "needs papermill, which is not installed: pip install 'deepmr-utils[report]'" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_the_package_ships_the_notebook_without_outputs():
    notebook = nbformat.read(ROOT / "notebooks/deep_mr.ipynb", as_version=4)
    assert notebooks.bare(notebook) == nbformat.read(command.NOTEBOOK, as_version=4)


def test_an_unknown_parameter_stops_the_run(tmp_path):
    run = papermill(ROOT / "notebooks/quickstart.ipynb", tmp_path / "out.ipynb",
                    "-p", "n_sequence", "30", cwd=tmp_path)  # fmt: skip
    assert run.returncode != 0
    assert "unknown parameter 'n_sequence'" in run.stderr
    assert "(did you mean 'n_sequences'?)" in run.stderr
    assert "choose one of true_effect, n_sequences, n_members" in run.stderr


def test_tidy_makes_executions_identical(tmp_path):
    files = [tmp_path / name for name in ("a.ipynb", "b.ipynb")]
    for file in files:
        run = papermill(ROOT / "notebooks/quickstart.ipynb", file, "-p", "seed", "1", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        notebooks.tidy(str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
