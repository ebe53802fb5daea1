"""Which files hold the reads of several factors along a genome: a specification, checked.

A specification in YAML names the files; paths are relative to it::

    fasta: mm10.fa
    tasks:
      Oct4: {plus: Oct4/plus.bw, minus: Oct4/minus.bw, peaks: Oct4/peaks.bed.gz}
      Sox2: {plus: Sox2/plus.bw, minus: Sox2/minus.bw, peaks: Sox2/peaks.bed.gz}
    control: {plus: control/plus.bw, minus: control/minus.bw}  # or leave it out
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class _Loader(yaml.SafeLoader):
    """YAML in which names are as they are written (``on``, ``1``, ``NO``), and occur once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """The fields of a mapping."""
        self.flatten_mapping(node)
        fields: dict[str, Any] = {}
        for key, value in node.value:
            name = self.construct_scalar(key)
            if name in fields:
                problem = f"{name} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            fields[name] = self.construct_object(value, deep=deep)
        return fields


class Task(NamedTuple):
    """Files of one factor: reads of two strands and peaks."""

    plus: Path
    minus: Path
    peaks: Path


class Specification(NamedTuple):
    """What data there are: a FASTA, files by task, and reads of a control (plus, minus)."""

    fasta: Path
    tasks: dict[str, Task]
    control: tuple[Path, Path] | None = None


def read_specification(path: str | Path) -> Specification:
    """Read and check a specification.

    Parameters
    ----------
    path : path
        A YAML file, see the top of this module. Names of tasks are text as it is written, also
        where YAML would take them for something else (``on``, ``1``, ``NO``).

    Raises
    ------
    ValueError
        If it is no YAML, a field is missing, unknown or stands twice, or one file stands in two
        fields.
    FileNotFoundError
        If it names a file that does not exist.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    _check_fields(path, "the specification", raw, ("fasta", "tasks"), ("control",))
    if not isinstance(raw["tasks"], dict) or not raw["tasks"]:
        raise ValueError(f"{path}: tasks must name at least one task; got {raw['tasks']!r}")
    seen: dict[Path, str] = {}

    def file(value: Any, field: str) -> Path:
        if not isinstance(value, str):
            raise ValueError(f"{path}: {field} must be a path; got {value!r}: put it in quotes")
        found = path.parent / value
        if not found.is_file():
            raise FileNotFoundError(f"{path}: {field} names {found}, which does not exist")
        if found in seen and not field.endswith("peaks"):  # tasks may share their peaks
            raise ValueError(f"{path}: {field} and {seen[found]} name the same file, {found}")
        seen[found] = field
        return found

    tasks = {}
    for name, fields in raw["tasks"].items():
        _check_fields(path, f"tasks.{name}", fields, Task._fields)
        tasks[name] = Task(*(file(fields[f], f"tasks.{name}.{f}") for f in Task._fields))
    control = raw.get("control")
    if control is not None:
        _check_fields(path, "control", control, ("plus", "minus"))
        control = tuple(file(control[field], f"control.{field}") for field in ("plus", "minus"))
    return Specification(file(raw["fasta"], "fasta"), tasks, control)


def write_specification(spec: Specification, path: str | Path) -> Path:
    """Write a specification, with paths relative to it."""
    path = Path(path)

    def name(file: Path) -> str:
        return Path(os.path.relpath(file, path.parent)).as_posix()

    raw: dict[str, Any] = {"fasta": name(spec.fasta)}
    raw["tasks"] = {t: {f: name(p) for f, p in v._asdict().items()} for t, v in spec.tasks.items()}
    if spec.control:
        raw["control"] = dict(zip(("plus", "minus"), map(name, spec.control), strict=True))
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _check_fields(
    path: Path, what: str, got: Any, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    names = list(got) if isinstance(got, dict) else got
    wrong = [n for n in required if n not in names] if isinstance(got, dict) else required
    if isinstance(got, dict):
        wrong += [n for n in names if n not in (*required, *optional)]
    if wrong:
        extra = f" and may have {', '.join(optional)}" if optional else ""
        raise ValueError(
            f"{path}: {what} needs the fields {', '.join(required)}{extra}; got {names!r}: add or "
            f"remove {', '.join(map(str, wrong))}"
        )
