"""The project's files agree with each other."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import deepmr_utils

ROOT = Path(__file__).parents[1]
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
    for command in ("book", "test", "results", "outputs", "lint", "unit", "notebooks"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()
    assert f"torch=={PINS['torch']}" in readme
