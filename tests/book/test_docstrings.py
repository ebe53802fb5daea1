"""Docstrings are complete, and the API pages of the book show every public module.

The rule, which CONTRIBUTING.md states in words: every public name has a docstring of one sentence
at least. One that takes more than four parameters describes all of them, in a section
"Parameters"; wherever there is that section it is complete and in order, and what comes back is
described, too, unless it is a result class, a figure or a number, which describe themselves.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
from numpydoc.validate import validate

import deepmr_utils

ROOT = Path(__file__).parents[2]
MODULES = [
    info.name
    for info in pkgutil.walk_packages(deepmr_utils.__path__, "deepmr_utils.")
    if not any(part.startswith("_") for part in info.name.split("."))
]
PROMISED = {  # by module: what its `__all__` names
    name: set(module.__all__)
    for name, module in ((name, importlib.import_module(name)) for name in MODULES)
    if hasattr(module, "__all__")
}
SHORT = 4  # parameters that a docstring without sections may leave to names and types
# Of numpydoc's checks: form of the text, sections known and in order, parameters, returns. Left out
# are a verb first (SS05: "The mean of ..." reads better), a type and a description for each
# parameter (PR04, PR07: signatures are typed, and `seed : int` says it all), and sections
# "See Also", "Examples" and "Notes" everywhere (SA01, EX01, ES01: the book has them).
FORM = {"GL01", "GL03", "GL05", "GL06", "GL07", "GL08", "GL10", "SS01", "SS02", "SS03", "SS04"} | {
    "SS06"
}
PARAMETERS = {"PR01", "PR02", "PR03", "PR05", "PR06", "PR08", "PR09", "PR10"}
RETURNS = {"RT02", "RT04", "RT05"}
DESCRIBED = ("DataFrame", "Dataset", "ndarray", "tuple", "dict", "list", "Iterator")


def public_names():
    """Functions, classes, methods and properties that a module defines itself."""
    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module:
                continue
            if inspect.isclass(value):
                yield f"{module}.{name}", value
                for key, member in vars(value).items():
                    if not key.startswith("_") and is_method(member):
                        yield f"{module}.{name}.{key}", getattr(member, "__func__", member)
            elif callable(value) and hasattr(value, "__qualname__"):
                yield f"{module}.{name}", inspect.unwrap(value)


def is_method(member):
    return inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)


def problems(name, value):
    doc = inspect.getdoc(value) or ""
    sections = set(re.findall(r"^(\w+)\n-+$", doc, re.MULTILINE))
    long = "Parameters" in sections
    checks = FORM | RETURNS | (PARAMETERS if long else set())
    found = [f"{code}: {text}" for code, text in validate(name)["errors"] if code in checks]
    if not inspect.isfunction(value):
        return found
    signature = inspect.signature(value)
    n = len(set(signature.parameters) - {"self", "cls"})
    if n > SHORT and not long:
        found.append(f'{n} parameters and no section "Parameters"')
    returned = str(signature.return_annotation)
    evident = "deepmr_utils" in returned or not any(word in returned for word in DESCRIBED)
    if long and not evident and not sections & {"Returns", "Yields"}:
        found.append(f'gives {returned} and has no section "Returns" or "Yields"')
    return found


@pytest.mark.parametrize(("name", "value"), [pytest.param(n, v, id=n) for n, v in public_names()])
def test_docstring_is_complete(name, value):
    assert not problems(name, value)


def test_the_rule_finds_what_it_should(monkeypatch):
    def scores(a, b, c, d, e):
        """Scores of everything"""

    def table(a: int, b: int) -> dict:
        """A table.

        Parameters
        ----------
        b : int
        """

    for function in (scores, table):
        function.__module__ = "deepmr_utils._checks"
        monkeypatch.setattr("deepmr_utils._checks." + function.__name__, function, raising=False)
    wrong = problems("deepmr_utils._checks.scores", scores)
    assert len(wrong) == 2
    assert wrong[0].startswith("SS03")
    wrong = problems("deepmr_utils._checks.table", table)
    assert [text[:4] for text in wrong] == ["PR01", "give"]


def test_the_api_pages_show_every_promised_name_once():
    index = (ROOT / "book" / "api.md").read_text()
    listed = re.findall(r"^   ([\w.]+)$", index, re.MULTILINE)
    assert sorted(f"deepmr_utils.{name}" for name in listed) == sorted(PROMISED)
    contents = re.findall(r"file: book/api/(\w+)$", (ROOT / "_toc.yml").read_text(), re.MULTILINE)
    assert contents == [name.replace(".", "_") for name in listed]
    for name, page in zip(listed, contents, strict=True):
        text = (ROOT / "book" / "api" / f"{page}.md").read_text()
        assert text.startswith(f"# `{name}`\n")
        assert re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE) == [
            f"deepmr_utils.{name}"
        ]
    assert len(list((ROOT / "book" / "api").iterdir())) == len(listed)
    promised = [getattr(sys.modules[m], name) for m, names in PROMISED.items() for name in names]
    assert sum(map(callable, promised)) < 100, "a newcomer reads them all"


def test_a_module_that_promises_nothing_belongs_to_a_package_that_does():
    for name in set(MODULES) - set(PROMISED):
        assert name.rpartition(".")[0] in PROMISED
