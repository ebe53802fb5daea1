"""The project's files agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement

import deepmr_utils

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


STUDIES = tomllib.loads((ROOT / "experiments" / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements():
    groups = [PROJECT["dependencies"], *EXTRAS.values(), STUDIES["dependencies"]]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_within_its_range_and_installed():
    pins = {canonical(name): pin for name, pin in PINS.items()}
    for requirement in requirements():
        pin = pins[canonical(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} but pinned {pin}"
        assert version(requirement.name).split("+")[0] == pin, f"{requirement.name} is not the pin"


def test_environment_yml_takes_its_packages_from_the_same_place():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-c constraints.txt", "-e .[all]", "-e ./experiments"]
    assert EXTRAS["all"] == [f"deepmr-utils[{','.join(sorted(set(EXTRAS) - {'all'}))}]"]


def test_make_uses_the_conda_environment_that_is_active():
    environment = os.environ | {"CONDA_DEFAULT_ENV": "deepmr", "CONDA_PREFIX": "/opt/deepmr"}
    said = subprocess.run(
        ["make", "-n", "lint"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/opt/deepmr/bin/ruff check" in said.stdout
    assert ".venv" not in said.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Names of the files in the source distribution and in the wheel, and the folder of both."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "_build", "executed", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    build = "import sys; from setuptools.build_meta import build_{0} as b; b(sys.argv[1])"
    for kind in ("sdist", "wheel"):
        command = [sys.executable, "-c", build.format(kind), folder]
        subprocess.run(command, cwd=source, capture_output=True, check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    with zipfile.ZipFile(wheel) as archive:
        return names, archive.namelist(), wheel


def test_distributions_hold_the_library_and_its_data_alone(distributions):
    names, packed, wheel = distributions
    assert {name.split("/")[0] for name in packed if "dist-info" not in name} == {"deepmr_utils"}
    shipped = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "deepmr_utils").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped - set(packed) == {"deepmr_utils/_engine/README.md"} & shipped
    assert not [name for name in names if name.startswith(("tests", "experiments", "book"))]
    assert {"LICENSE", "README.md", "pyproject.toml"} < set(names)
    assert wheel.stat().st_size < 5e6


def test_the_snippet_of_the_readme_runs_as_printed(distributions, tmp_path):
    """From the wheel, unpacked, in an empty folder: what `pip install .` gives."""
    readme = (ROOT / "README.md").read_text()
    snippet, printed = re.search(r"```python\n(.*?)```\s+```\n(.*?)```", readme, re.DOTALL).groups()
    with zipfile.ZipFile(distributions[2]) as archive:
        archive.extractall(tmp_path / "site")
    said = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said.stdout.split() == printed.split()
    assert len(snippet.splitlines()) <= 26


def test_a_report_is_made_by_the_wheel_in_an_empty_folder(distributions, tmp_path):
    with zipfile.ZipFile(distributions[2]) as archive:
        archive.extractall(tmp_path / "site")
    folder = tmp_path / "empty"
    folder.mkdir()
    said = subprocess.run(
        [sys.executable, "-m", "deepmr_utils", "report", "--n_windows", "12", "--null_windows", "0"],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert [path.name for path in folder.iterdir()] == ["results"]
    page = (folder / "results" / "deep_mr" / "report.html").read_text()
    assert "5 networks" in page
    effects = pd.read_csv(folder / "results" / "deep_mr" / "effects.csv")
    sox2 = effects.set_index(["exposure", "outcome"]).loc[("Sox2", "Oct4")]
    assert sox2["verdict"] == "acts"


def test_versions_agree():
    assert deepmr_utils.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    studies = tomllib.loads((ROOT / "experiments" / "pyproject.toml").read_text())["project"]
    assert studies["version"] == PROJECT["version"]
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert changes in (PROJECT["version"], "Unreleased")


def test_readme_names_the_commands_that_ci_runs():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in (
        "book",
        "test",
        "portable",
        "results",
        "outputs",
        "lint",
        "unit",
        "unit-3.13",
        "notebooks",
    ):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()
    assert f"torch=={PINS['torch']}" in readme


def test_directives_of_the_book_open_as_directives():
    """Backticks after ```{name} are no fence in CommonMark: use ::: where a caption needs them."""
    lost = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in sorted((ROOT / "book").glob("*.md"))
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r"`{3,}\{[^`]*`", line)
    ]
    assert not lost, f"shown as plain text, without a warning: {', '.join(lost)}"


def test_every_reference_can_be_found_and_is_cited():
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}", text, re.DOTALL))
    pages = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "book").glob("*.md")))
    cited = {k for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", pages) for k in keys.split(",")}
    assert set(entries) == cited
    nowhere = {key for key, entry in entries.items() if not re.search(r"doi *=|https?://", entry)}
    assert nowhere == {"platt1999", "finkelstein2020"}  # a chapter, a workshop paper: no DOI


def test_stored_results_take_at_most_25_mb():
    """They are in every clone, for ever."""
    folder = "book/results"
    command = ["git", "-C", str(ROOT), "ls-files", "-z", folder]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in found.split("\0") if name]
    sizes = {path: path.stat().st_size for path in paths if path.exists()}
    assert len(sizes) > 1000
    assert sum(sizes.values()) <= 25e6, max(sizes, key=sizes.get)
