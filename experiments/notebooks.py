"""What the notebooks share: checked parameters, numbers for the book, reproducible files."""

import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import nbformat
from IPython import get_ipython

from deepmr_utils import _report
from deepmr_utils._checks import check_choice, check_writable, did_you_mean
from deepmr_utils._report.glued import glue as glue

from .parameter_files import assignments

INJECTED = "# Parameters"  # the first line of the cell that papermill adds
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}

PICTURES = ("image/svg+xml", "image/png")
LARGEST_SVG = 300_000  # characters, of which a server sends about a fifth, compressed

LIMITS = {
    ">=": (operator.ge, "{} or more"),
    ">": (operator.gt, "more than {}"),
    "<=": (operator.le, "{} or less"),
    "<": (operator.lt, "less than {}"),
}

Rule = str | Iterable[str] | Callable[[Any], Any]


def check_parameters(**rules: Rule) -> None:
    """Stop where a parameter has an unknown name, another type than declared, or breaks a rule.

    Papermill itself only warns of a misspelt ``-p``, and the run then uses the default; a value
    that makes no sense would be noticed after minutes, in the words of whatever it reached.

    Parameters
    ----------
    **rules : str, iterable of str, or callable
        By name of a parameter, beside those of `COMMON`: limits, such as ``">= 0, <= 1"``; the
        choices there are; or what raises a ValueError, and may return what is used instead:
        `optional`, `fields_of`, `accepted_by`, `existing`, `writable`. Every element of a list has
        to follow the rule, and there must be one.

    Raises
    ------
    ValueError
        With the parameter's name, the rule, the value and the default.
    """
    namespace = get_ipython().user_ns  # ``In`` holds the sources of the cells run so far
    types = {name: _words(kind) for name, kind in namespace["__annotations__"].items()}
    defaults = {}
    for cell in namespace["In"]:
        injected = cell.startswith(INJECTED)
        for name, value in assignments(cell).items():
            if injected:
                check_choice("parameter", name, list(types))
            elif name in types:
                defaults.setdefault(name, value)
    for name in rules:
        check_choice("parameter", name, list(types))
    values = {name: namespace[name] for name in types}
    rules = {name: COMMON[name] for name in types if name in COMMON} | rules
    for name, kind in types.items():
        _explained(name, values[name], defaults, _check_type, kind)
        found = _explained(name, values[name], defaults, _apply, rules.get(name, _given))
        if found is not None:
            namespace[name] = found


def _words(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _explained(
    name: str, value: Any, defaults: Mapping[str, Any], check: Callable[[Any, Any], Any], by: Any
) -> Any:
    """What a check gives; its error begins with the parameter, and ends with value and default."""
    try:
        return check(value, by)
    except ValueError as error:
        default = f"; its default is {defaults[name]!r}" if name in defaults else ""
        words = str(error).replace("NAME", name)
        raise ValueError(f"parameter {name} {words}; got {value!r}{default}") from None


def _check_type(value: Any, kind: str) -> None:
    outer, _, inner = kind.rstrip("]").partition("[")
    if value is None:
        return  # rules say where it may stand
    if not _is_of(value, outer):
        hint = {
            "list": ": -p of papermill gives text, -y gives lists, as in -y 'NAME: [a, b]'",
            "dict": ": -p of papermill gives text, -y gives these, as in -y 'NAME: {a: 1}'",
            "str": ": -r of papermill gives text, as in -r NAME 1",
        }
        raise ValueError(f"must be of type {kind}{hint.get(outer, '')}")
    if outer == "float" and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if outer == "list":
        for element in value:
            if inner and not _is_of(element, inner):
                raise ValueError(f"must be of type {kind}")
            if value.count(element) > 1:
                raise ValueError(f"must not name {element!r} twice")


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


def _given(value: Any) -> None:
    """Rule of a parameter of which nothing else is asked; it may be an empty list."""
    if value is None:
        raise ValueError("must not be left out")


_given.whole = True


def _apply(value: Any, rule: Rule) -> Any:
    """Apply a rule to a value, or to all elements of a list."""
    if callable(rule) and getattr(rule, "whole", False):
        return rule(value)
    if value in (None, [], ""):
        raise ValueError("must not be left out")
    if isinstance(value, list):
        for element in value:
            _apply(element, rule)
        return None
    if callable(rule):
        return rule(value)
    if isinstance(rule, str):
        return _compare(value, rule)
    return _choose(value, list(rule))


def _compare(value: float, rule: str) -> None:
    """Whether a number keeps limits, such as ">= 0, <= 1"."""
    limits = [limit.split() for limit in rule.split(",")]
    if not all(LIMITS[sign][0](value, float(limit)) for sign, limit in limits):
        words = (LIMITS[sign][1].format(limit) for sign, limit in limits)
        raise ValueError(f"must be {' and '.join(words)}")


def _choose(value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}{did_you_mean(value, choices)}")


def fields_of(kind: type, but: Iterable[str] = ()) -> Rule:
    """Rule of a parameter that is a dictionary: fields of a dataclass, which takes their values."""
    known = {field.name: field.default for field in fields(kind) if field.name not in but}

    def rule(value: Mapping[str, Any]) -> None:
        for key, element in value.items():
            try:
                _choose(key, list(known))
            except ValueError as error:
                raise ValueError(f"has the unknown key {key!r}: a key {error}") from None
            expected = type(known[key]).__name__
            if expected in TYPES:
                try:
                    _check_type(element, expected)
                except ValueError as error:
                    raise ValueError(f"has a value of {key} that {error}") from None
        accepted_by(lambda values: kind(**values))(value)

    return rule


def optional(rule: Rule) -> Rule:
    """Rule of a parameter that may be left out: None, empty, or as the rule says."""

    def either(value: Any) -> Any:
        return None if value in (None, "", [], {}) else _apply(value, rule)

    either.whole = True
    return either


def accepted_by(function: Callable[[Any], Any]) -> Rule:
    """Rule of a parameter: a function of the package takes it."""

    def rule(value: Any) -> None:
        try:
            function(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"is not accepted: {error}") from None

    return rule


def existing(pattern: str | None = None) -> Rule:
    """Rule of a parameter that is a path to read: a file, or a folder with files of a pattern.

    A relative path is looked up from the working directory and then, since notebooks are run from
    anywhere, from the top of the clone. The notebook gets the path that was found.
    """

    def rule(value: str) -> str:
        path = Path(value).expanduser()
        above_us = [*Path.cwd().parents, Path(__file__).resolve().parents[1]]
        clones = [folder for folder in above_us if (folder / "book" / "results").is_dir()]
        folders = list(dict.fromkeys([Path.cwd(), *clones]))
        found = next((folder / path for folder in folders if (folder / path).exists()), None)
        if found is None:
            looked = "" if path.is_absolute() else f" in {' nor in '.join(map(str, folders))}"
            raise ValueError(f"must be a path that exists: there is no {path}{looked}")
        if pattern is not None and next(found.glob(pattern), None) is None:
            raise ValueError(f"must be a store: {found} holds no {pattern}")
        if pattern is None and not found.is_file():
            raise ValueError(f"must be a file: {found} is a folder")
        return str(found)

    return rule


writable = check_writable  # a rule, too: of a folder that can be made, here, and written to


def _is_there(device: str) -> None:
    from deepmr_utils.predict import resolve_device

    accepted_by(resolve_device)(device)


COMMON: dict[str, Rule] = {  # rules of parameters that notebooks share
    "seed": ">= 0",
    "workers": ">= 1",
    "device": _is_there,
    "rounds": ">= 1",
    "n_train": ">= 100",  # of which a few have to be left to validate and calibrate
    "n_augmented": ">= 0",
    "n_test": ">= 20",  # so that some have both motifs
    "n_members": ">= 2",  # standard errors need two
    "epochs": ">= 1",
    "max_excess": "> 0",
    "effect_ratio": optional(">= 0"),
}


def tidy(path: str, *, strip: bool = False) -> None:
    """Make an executed notebook byte-reproducible: drop times, paths and random cell ids.

    With ``strip``, drop pictures and glued values too: notebooks under version control keep the
    text outputs that their tests compare, and the book has the figures.
    """
    notebook = nbformat.read(path, as_version=4)
    papermill = notebook.metadata.pop("papermill", {})
    if papermill.get("parameters"):
        notebook.metadata["papermill"] = {"parameters": papermill["parameters"]}
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):  # papermill leaves an empty list
            del cell.metadata["tags"]
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
        if strip and cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if "scrapbook" not in o.get("metadata", {})]
            for output in cell.outputs:
                for kind in PICTURES:
                    output.get("data", {}).pop(kind, None)
                    output.get("metadata", {}).pop(kind, None)
        for output in cell.get("outputs", []):
            _choose_picture(output)
    nbformat.write(notebook, path)


def _choose_picture(output: Mapping[str, Any]) -> None:
    """Of a figure as lines and as pixels keep the lines, unless its many points make it large."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    vector, pixels = ([key for key in data if key.endswith(kind)] for kind in PICTURES)
    if vector and pixels:
        small = len(data[vector[0]]) <= LARGEST_SVG
        for key in pixels if small else vector:
            del data[key]
            metadata.pop(key, None)


def bare(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook without outputs and without what a run left: what the package ships."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("papermill", None)
    return notebook


def pack(path: str) -> None:
    """Write the packaged copy of a notebook that the package ships, if it is one of these."""
    copy = Path(_report.__file__).with_name(Path(path).name)
    if copy.exists():
        nbformat.write(bare(nbformat.read(path, as_version=4)), copy)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if argument != "--strip":
            tidy(argument, strip="--strip" in sys.argv)
            if "--strip" in sys.argv:
                pack(argument)
