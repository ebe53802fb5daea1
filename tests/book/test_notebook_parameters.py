"""Parameters of notebooks: what is refused in the first second, and in which words."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from papermill.translators import PythonTranslator

from experiments import notebooks
from experiments.parameter_files import read_parameters

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Run the first two code cells of a notebook, with parameters as papermill injects them."""
    monkeypatch.chdir(tmp_path)

    def run(name, **parameters):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = [c.source for c in notebook.cells if c.cell_type == "code"][:2]
        lines = [f"{k} = {PythonTranslator.translate(v)}" for k, v in parameters.items()]
        cells.insert(1, "\n".join(["# Parameters", *lines]))
        namespace = {"In": [""]}
        shell = SimpleNamespace(user_ns=namespace)
        monkeypatch.setattr(notebooks, "get_ipython", lambda: shell)
        for cell in cells:
            namespace["In"].append(cell)
            exec(cell, namespace)
        return namespace

    return run


@pytest.mark.parametrize("name", NAMES)
def test_defaults_pass(check, name):
    check(name)


BAD = [
    (
        "quickstart",
        {"n_sequence": 30},
        "unknown parameter 'n_sequence': .*mean 'n_sequences'",
    ),
    ("quickstart", {"n_sequences": 1}, "n_sequences must be 2 or more; got 1; its default is 60"),
    ("quickstart", {"n_sequences": "two"}, "n_sequences must be of type int; got 'two'"),
    ("quickstart", {"n_sequences": 30.5}, "n_sequences must be of type int; got 30.5"),
    ("quickstart", {"n_sequences": True}, "n_sequences must be of type int; got True"),
    ("quickstart", {"n_sequences": None}, "n_sequences must not be left out"),
    ("quickstart", {"true_effect": None}, "true_effect must not be left out"),
    ("quickstart", {"disagreement": 0}, "disagreement must be more than 0; got 0"),
    ("quickstart", {"disagreement": -0.1}, "disagreement must be more than 0; got -0.1"),
    ("quickstart", {"method": "eger"}, "method must be one of ivw, .*did you mean 'egger'"),
    ("quickstart", {"n_members": 1}, "n_members must be 2 or more; got 1"),
    ("quickstart", {"seed": -1}, "seed must be 0 or more; got -1"),
    ("estimators", {"methods": "ivw"}, "must be of type list.*-y gives lists, as in -y 'methods: "),
    ("estimators", {"methods": []}, "methods must not be left out; got \\[\\]"),
    ("estimators", {"methods": ["ivw", "egr"]}, "methods must be one of .*did you mean 'egger'"),
    ("estimators", {"methods": ["ivw", "ivw"]}, "methods must not name 'ivw' twice"),
    ("estimators", {"methods": [1]}, "methods must be of type list.str.; got .1."),
    ("estimators", {"n_instruments": 3}, "n_instruments must be 4 or more; got 3"),
    ("estimators", {"n_datasets": 1}, "n_datasets must be 2 or more; got 1"),
    ("one_sample", {"correlation": 1.5}, "correlation must be -1 or more and 1 or less; got 1.5"),
    ("one_sample", {"strengths": [10, 1]}, "strengths must be more than 1; got"),
    ("one_sample", {"n_members": 3}, "n_members must be 4 or more; got 3"),
    ("one_sample", {"n_windows": 101}, "n_windows must be 8 or more and 100 or less; got 101"),
    ("one_sample", {"n_exons": 1}, "n_exons must be 2 or more and 12 or less; got 1"),
    ("exon_definition", {"exons": ["chr3_0001"]}, "exons must be one of .*mean 'chr3_001'"),
    ("exon_definition", {"every": 0}, "every must be 1 or more and 100 or less; got 0"),
    ("exon_definition", {"stored_directory": "book"}, "stored_directory must "),
    ("splicing", {"exposure": "Brain"}, "exposure must be one of Retina"),
    ("splicing", {"outcome": "Cortex - Brain"}, "outcome must be one of"),
    ("splicing", {"exon": 58}, "exon must be 0 or more and 57 or less; got 58"),
    ("splicing", {"rule": "walt"}, "rule must be one of pooled, wald .did you mean 'wald'"),
    ("splicing", {"threshold": -1}, "threshold must be 0 or more; got -1"),
    ("splicing", {"rule": "pooled", "threshold": 1000}, "threshold must be .* 100 or less"),
    ("splicing", {"n_null": 0}, "n_null must be 1 or more; got 0"),
    ("splicing", {"device": "gpu"}, "device is not accepted: unknown device 'gpu'"),
    ("splicing", {"example": "SNRC"}, "example must be one of .*did you mean 'SNRK'"),
    ("corrections", {"scenario": "nine"}, "scenario must be one of none, .*did you mean 'none'"),
    ("corrections", {"stored_rounds": "no/such"}, "stored_rounds must be a path that exists"),
    ("corrections", {"stored_calibration": str(ROOT)}, "stored_calibration must be a store"),
    ("corrections", {"effect_ratio": -1}, "effect_ratio must be 0 or more; got -1"),
    ("corrections", {"max_excess": float("nan")}, "max_excess must be a finite number"),
    ("simulation", {"rounds": 0}, "rounds must be 1 or more; got 0"),
    ("simulation", {"workers": 0}, "workers must be 1 or more; got 0"),
    ("simulation", {"epochs": 0}, "epochs must be 1 or more; got 0"),
    ("simulation", {"n_train": 10}, "n_train must be 100 or more; got 10"),
    ("simulation", {"threshold": 1000}, "threshold must be 0 or more and 100 or less; got 1000"),
    ("simulation", {"scenarios": "none"}, "scenarios must be of type list.*-y 'scenarios: .a, b.'"),
    ("simulation", {"scenarios": ["nine"]}, "scenarios must be one of none, "),
    ("simulation", {"calibrations": ["iso"]}, "calibrations must be one of none, isotonic"),
    ("simulation", {"other_methods": ["ivw"]}, "other_methods must be one of "),
    ("simulation", {"design": "own"}, "design must be one of motif, strongest, all"),
    ("simulation", {"weights": "inverse"}, "weights must be one of equal, simple; got"),
    ("sweeps", {"design": "own"}, "design must be one of motif, strongest, all"),
    ("simulation", {"other_parameters": "eta"}, "other_parameters must be of type dict"),
    ("simulation", {"other_parameters": {"etta": 1.0}}, "unknown key 'etta'.*did you mean 'eta'"),
    ("simulation", {"other_parameters": {"n_train": 500}}, "has the unknown key 'n_train'"),
    ("simulation", {"other_parameters": {"eta": "a"}}, "a value of eta that must be of type float"),
    ("simulation", {"other_parameters": {"length": 30}}, "motifs are longer than the sequence"),
    ("simulation", {"other_parameters": {"p_motif": 2}}, "p_motif must lie between 0 and 1"),
    ("sweeps", {"analyses": {"member": [2]}}, "analyses is not accepted: unknown setting 'member'"),
    ("sweeps", {"analyses": {"direction": ["back"]}}, "analyses is not accepted: .*back"),
    ("sweeps", {"stored_error": "none.csv"}, "stored_error must be a path that exists: there is"),
    ("sweeps", {"training_scenarios": []}, "training_scenarios must not be left out"),
    ("bpnet", {"results_directory": "no/such"}, "results_directory must be a path that exists"),
    ("bpnet", {"results_directory": "."}, "results_directory must be a store: .* holds no"),
    ("bpnet", {"source": "path"}, "weights must not be left out"),
    ("bpnet", {"weights": str(ROOT)}, "weights must be a file"),
    ("bpnet", {"graph": "defalt"}, "graph must be one of .*did you mean 'default'"),
    ("bpnet", {"chain": "all"}, "chain must be one of motif, "),
    ("bpnet", {"length": 10}, "length must be 200 or more; got 10"),
    ("bpnet", {"n_genome": 190}, "n_genome must be 1000 or more; got 190"),
    ("corrections", {"n_augmented": 0}, "n_augmented must be 1 or more; got 0"),
    ("deepsea", {"source": "published"}, "sequences must not be left out"),
    ("deepsea", {"outcome": 3}, "outcome must be of type str: -r of papermill gives text"),
    ("deepsea", {"factors": ["CTCF"]}, "factors must be of type list.int.; got"),
    ("deepsea", {"scale": "log"}, "scale must be one of logit, probability .did you mean 'logit'"),
    (
        "deepsea",
        {"source": "published", "sequences": "README.md", "calibrated": True},
        "calibrated is not accepted: calibration needs labels",
    ),
    ("deepsea", {"stored_directory": "no/such"}, "stored_directory must be a path that exists"),
    ("verdicts", {"stored": "no/such.csv"}, "stored must be a path that exists: there is no"),
    ("verdicts", {"analysis": "paper"}, "analysis must be one of deep_mr, deep_mr, labels, pub"),
    ("verdicts", {"tuning": -1}, "tuning must be 0 or more; got -1"),
]


@pytest.mark.parametrize(("name", "given", "message"), BAD)
def test_odd_values_are_refused(check, name, given, message):
    with pytest.raises(ValueError, match=message):
        check(name, **given)


@pytest.mark.parametrize("name", ["simulation", "sweeps", "deepsea"])
def test_a_folder_that_cannot_be_written_is_refused(check, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="results_directory must be a folder that can be written"):
        check(name, results_directory="file/below")


def test_what_may_be_left_out(check):
    check("corrections", effect_ratio=None, stored_rounds=None, stored_calibration=None)
    check("simulation", other_methods=[], other_parameters={"eta": 40, "background": [0.25] * 4})
    check("sweeps", analyses={})
    check("bpnet", results_directory=None, stored_verdicts=None)
    check("deepsea", stored_directory=None)


STORES = {
    "corrections": ("stored_rounds", "stored_calibration"),
    "simulation": ("other_rounds", "stored_rounds"),
    "sweeps": ("stored_error", "stored_sweeps"),
    "bpnet": ("results_directory", "stored_verdicts"),
    "deepsea": ("stored_directory",),
    "verdicts": ("stored",),
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("where", ["", "notebooks", "book/results", "elsewhere"])
def test_stores_are_found_from_any_directory(check, monkeypatch, tmp_path, name, where):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(notebooks, "writable", lambda value: None)  # not into the clone
    monkeypatch.chdir(tmp_path / where if where == "elsewhere" else ROOT / where)
    for parameter in STORES[name]:
        given = check(name)
        assert Path(given[parameter]).exists()
        assert Path(given[parameter]).is_relative_to(ROOT / "book" / "results")


def test_a_path_is_looked_up_in_the_working_directory_first(tmp_path, monkeypatch):
    mine = tmp_path / "book" / "results" / "shared_error.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    monkeypatch.chdir(tmp_path)
    assert notebooks.existing()("book/results/shared_error.csv") == str(mine)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")  # a clone is found from anywhere in it
    assert notebooks.existing()("book/results/shared_error.csv") == str(mine)
    with pytest.raises(ValueError, match=f"there is no x.csv in {tmp_path / 'below'} nor in "):
        notebooks.existing()("x.csv")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("simulation", "book/parameters/simulation_paper_scale.yml"),
        ("simulation", "book/parameters/calibration.yml"),
        ("simulation", "workflow/small/rounds.yml"),
        ("sweeps", "book/parameters/sweeps_paper_scale.yml"),
    ],
)
def test_our_own_parameter_files_pass(check, name, file):
    check(name, **(read_parameters(ROOT / file) | {"results_directory": "mine"}))
