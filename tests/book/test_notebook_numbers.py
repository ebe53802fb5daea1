"""The comparison of notebooks with stored outputs and numbers: what is 2 % off makes it fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_numbers as numbers
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}

# Numbers that stand for what a notebook shows. Those of networks that are trained in it differ
# between processors; there it is the truth, a perfect network, and what is read from stored runs.
CENTRAL = {
    "quickstart": ["true_effect", "effect", "se", "ci_low", "ci_high", "knockout"],
    "estimators": [
        "global.ivw.effect", "global.ivw.ci_low", "global.egger_robust.effect",
        "directional.egger_robust.coverage", "outliers.ivw.coverage", "weak.F",
        "bent.both.10.egger_robust",
    ],
    "one_sample": [
        "known.10.null.plain.bias", "members.3.null.wrong.bias", "members.3.null.corrected.coverage",
        "selected.3.null.cross_fit.coverage", "weights.equal.3", "bpnet.Sox2.Oct4.corrected",
        "mtsplice.there.instruments",
    ],
    "splicing": [
        "forward.effect", "forward.se", "forward.tau", "reverse.effect", "lowest", "highest",
        "null.real.effect", "null.dna.effect", "null.sd_most", "null.pooled_highest",
    ],
    "exon_definition": [
        "donor.effect", "donor.ci_low", "acceptor.effect", "donor.knockout", "donor.rank.rank",
        "donor.across.intron", "donor.length.below.effect", "donor.error.predicted",
    ],
    "deep_mr": [
        "Sox2.Oct4.effect", "Sox2.Oct4.ci_low", "Sox2.Oct4.knockout", "Nanog.Klf4.effect",
        "truth.Sox2.Oct4", "pearson.Oct4", "null.weights_shuffled.spread",
    ],
    "corrections": [
        "truth", "pairs.both.own", "pairs.none.mispaired", "stored.none.ivw.local_coverage",
        "stored.none.egger_robust.slope", "stored.isotonic.ivw.local_width",
    ],
    "simulation": ["perfect.reverse.all", "perfect.reverse.motif",
                   "none.exposure.noise_floor", "none.outcome.noise_floor",
                   "without_mutants.large.highest", "without_mutants.local_coverage",
                   "published.large.highest", "rules.ivw.none.rubin.total_coverage"],
    "sweeps": ["baseline.ivw.total_coverage", "gc_bias.ivw.slope", "n_augmented 1250.ivw.slope",
               "n_members 10.ivw.total_coverage", "isotonic.width_ratio"],
    "bpnet": [
        "motif.Sox2.Oct4.effect", "motif.Sox2.Oct4.truth", "strong.Oct4.Sox2.effect",
        "perfect.motif.Sox2.Oct4", "mouse.Sox2.Oct4", "direct.Sox2.Klf4.effect", "reverse.slope",
    ],
    "verdicts": [
        "default.deep_mr.found.share", "reverse.deep_mr.false.share", "chromatin.deep_mr.open.share",
        "tissues.published.wrong.share", "reverse.labels.found.share", "target.found",
    ],
    "deepsea": [
        "pioneer 1.effect", "pioneer 1.truth", "repressor.effect", "pioneer 1.calibrated",
        "seeds.strongest.covers_nonzero", "pioneer 2.largest_ratio", "zeros.covered",
    ],
}  # fmt: skip

# What a startup file of IPython bends, notebook, and numbers that must be told to be off. The
# outcome's effects alone: a factor of all would leave every slope as it is.
WRAP = """
import functools
import deepmr_utils.{module} as module

def bend(call):
    @functools.wraps(call)
    def bent(*arguments, **options):
        result = call(*arguments, **options)
        {change}
        return result
    return bent

module.{function} = bend(module.{function})
"""
POOLED = "result[{!r}] = 1.02 * result[{!r}]"
OUTCOME = "result['effect'].loc[{'feature': 'outcome'}] *= 1.02"
BENT = [
    ("quickstart", ["effect", "ci_low", "ci_high"], "mutagenesis", "saturation_mutagenesis", OUTCOME),
    ("quickstart", ["effect", "within_se"], "meta", "global_effects", "result[['effect', 'se']] *= 1.02"),
    ("estimators", ["balanced.ivw.coverage", "weak.divw.coverage", "correlated.ivw_robust.coverage"],
     "mr.benchmark", "score", POOLED.format("coverage", "coverage")),
    ("one_sample", ["known.10.null.plain.bias"], "mr", "estimate", "result['causal_effect'] *= 1.02"),
    ("splicing", ["forward.tau", "forward.effect", "reverse.effect", "lowest", "highest"],
     "mr", "local_mr", "result[['causal_effect', 'se']] *= 1.02"),
]  # fmt: skip


def nbval(path, **environment):
    """Run nbval as the Makefile does, and give its exit status and output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
               "-W", "default", "--nbval", "--nbval-current-env", "--color", "no",
               "--nbval-sanitize-with", ROOT / "tests/nbval_sanitize.cfg", path]  # fmt: skip
    run = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return run.returncode, run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "off", "module", "function", "change"), BENT, ids=lambda x: str(x)[:20]
)
def test_what_is_bent_by_2_percent_is_noticed(tmp_path, name, off, module, function, change):
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    text = WRAP.format(module=module, function=function, change=change)
    (startup / "00-bend.py").write_text(text)
    code, output = nbval(ROOT / f"notebooks/{name}.ipynb", IPYTHONDIR=str(tmp_path))
    assert code == 1, output
    told = set(re.findall(r"^(\S.*): \S+ is not within", output, re.MULTILINE))
    assert set(off) <= told, output
    assert "Cell outputs differ" in output  # the printed numbers are off, too


@pytest.mark.parametrize("name", CENTRAL)
def test_tolerances_of_central_numbers_notice_2_percent(name):
    table = numbers.read(name)
    for key in CENTRAL[name]:
        value = float(table[key].value)
        assert abs(value) > 1e-3, key
        assert numbers.holds(table[key].value, table[key])
        for factor in (0.98, 1.02):
            assert not numbers.holds(str(factor * value), table[key]), key


def test_every_notebook_has_a_table_of_what_it_glues():
    paths = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert CENTRAL.keys() == paths.keys()
    assert {path.stem for path in numbers.REFERENCE.glob("*.csv")} == paths.keys()


@pytest.mark.parametrize("name", sorted(CENTRAL.keys() - set(numbers.TRAINED)))
def test_tolerances_are_tight_where_nothing_is_trained(name):
    for key, number in numbers.read(name).items():
        if numbers._is_float(number.value) and abs(float(number.value)) > 0.05:
            assert not numbers.holds(str(1.02 * float(number.value)), number), key


def test_differences_say_what_is_off():
    table = {
        "a": numbers.Number("0.5", 0.01, 0.0),
        "b": numbers.Number("3"),
        "c": numbers.Number("ivw"),
        "d": numbers.Number("1"),
        "e": numbers.Number("nan"),
        "f": numbers.Number("x", 0.0, float("inf")),
    }
    good = {"a": "0.5049", "b": "3", "c": "ivw", "d": "1", "e": "nan", "f": "y"}
    assert numbers.differences(good, table) == []
    bad = {"a": "0.5051", "b": "4", "c": "egger", "e": "0", "f": "y", "g": "1"}
    assert numbers.differences(bad, table) == [
        "g: glued, but not stored",
        "d: stored, but not glued",
        "a: 0.5051 is not within 0 + 0.01 x of the stored 0.5",
        "b: 4 is not within 0 + 0 x of the stored 3",
        "c: egger is not within 0 + 0 x of the stored ivw",
        "e: 0 is not within 0 + 0 x of the stored nan",
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("effect   0.506\n", "effect 0.507", True),
        ("effect 0.506", "effect 0.508", False),
        ("effect 0.506", "error 0.506", False),
        ("-0.00  1.2e-05", "0.00  1.3e-05", True),
        ("k 54", "k 55", False),
        ("k 54 0.5", "k 54 0.5 0.6", False),
        ("12.0", "13.0", False),
    ],
)
def test_printed_numbers_may_differ_in_their_last_digit(one, other, same):
    assert numbers.same_text(one, other) is same


def test_storing_keeps_tolerances(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "REFERENCE", tmp_path)
    numbers.store("x", {"a": "0.5", "n": "3", "word": "ivw"})
    fresh = {"a": ("0.5", 1e-4, 1e-6), "n": ("3", 0, 0), "word": ("ivw", 0, 0)}
    assert numbers.read("x") == fresh
    numbers.widen("x", {"a": "0.501", "n": "3", "word": "ivw"})
    assert numbers.read("x")["a"] == ("0.5", 0.01, 1e-6)  # 4 times 0.2 %, rounded up
    numbers.store("x", {"a": "0.7", "b": "1.5", "n": "4"})
    assert numbers.read("x") == {
        "a": ("0.7", 0.01, 1e-6),
        "b": ("1.5", 0.01, 1e-6),
        "n": ("4", 0, 0),
    }


def test_what_comes_of_training_gets_the_tolerance_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "REFERENCE", tmp_path)
    values = {"a.ivw.bias": "0.1", "b.ivw.bias": "0.2", "shared.bias": "0.3", "a.truth": "1.5"}
    numbers.store("sweeps", values)
    numbers.widen("sweeps", values | {"a.ivw.bias": "0.11"})
    tolerances = {name: number.atol for name, number in numbers.read("sweeps").items()}
    assert tolerances == {
        "a.ivw.bias": 0.05,
        "b.ivw.bias": 0.05,
        "shared.bias": 1e-6,
        "a.truth": 1e-6,
    }


def test_a_number_of_which_only_one_side_knows_fails(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook()
    source = "from experiments.notebooks import glue\nglue('a', 1.5)"
    notebook.cells = [nbformat.v4.new_code_cell(source, execution_count=1)]
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\nimport notebook_numbers\n"
        "notebook_numbers.REFERENCE = Path(__file__).parent\n"
        "from notebook_numbers import pytest_collection_modifyitems\n"
    )
    search = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    for rows, code, words in (
        ("a,1.5,,", 0, ""),
        ("a,1.53,,", 1, "a: 1.5 is not within"),
        ("a,1.5,,\nb,2,,", 1, "b: stored, but not glued"),
        ("b,2,,", 1, "a: glued, but not stored"),
    ):
        (tmp_path / "mine.csv").write_text(f"name,value,rtol,atol\n{rows}\n")
        result, output = nbval(tmp_path / "mine.ipynb", PYTHONPATH=search)
        assert result == code, output
        assert words in output
