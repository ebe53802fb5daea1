"""The project's files agree with each other."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

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


def requirements():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


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
    assert pip == ["-c constraints.txt", "-e .[book,test,workflow]"]
    assert set(PROJECT["optional-dependencies"]) == {"book", "test", "workflow"}


def test_versions_agree():
    assert deepmr_utils.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_readme_names_the_commands_that_ci_runs():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in ("book", "test", "portable", "results", "outputs", "lint", "unit", "notebooks"):
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
