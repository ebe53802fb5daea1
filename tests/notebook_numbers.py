"""Numbers of the notebooks, compared with stored ones: a plugin of nbval, and what stores them.

`notebooks/conftest.py` loads it, so that every run of nbval there compares, beside the outputs,

- glued numbers with `reference/notebooks/<name>.csv`, each within a tolerance of its own
  (|difference| <= atol + rtol |value|); a number that only one side has is a failure too;
- numbers that are printed with a decimal point, to one unit of their last digit, since a rounded
  number may fall either way; whole numbers and words must be the same. Glued outputs and pictures
  are not looked at here.

``python tests/notebook_numbers.py store run.ipynb`` stores the glued numbers of an executed
notebook and keeps the tolerances that there are; ``widen run.ipynb`` makes them hold for a run on
another processor, with margin.
"""

import csv
import functools
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbval.plugin import IPyNbCell

from deepmr_utils.mr.registry import REGISTRY

REFERENCE = Path(__file__).parent / "reference" / "notebooks"
GLUED = "application/papermill.record/text/plain"
TABLE = "application/papermill.record/text/html"  # of a DataFrame, which the notebook shows, too
# Of floating-point numbers in a new table; whole ones and words are exact. Networks round at 1e-7,
# and a ratio of two small effects of them at up to 2e-5, as seen between processors.
RTOL, ATOL = 1e-4, 1e-6
MARGIN = 4  # times the difference seen
TRAINED = (
    "corrections",
    "simulation",
    "sweeps",
)  # train networks, which no two processors do alike
STORED = ("shared", "stored", "pairs", "truth")  # first parts of names there of what is only read
DECIMAL = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")


class Number(NamedTuple):
    """A row of a table: a value as text, and how far from it another run may be."""

    value: str
    rtol: float = 0.0
    atol: float = 0.0


def glued(outputs):
    """Values of glued outputs as text, by name."""
    found = {}
    for output in outputs:
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            found[name] = "table" if TABLE in output["data"] else _text(output["data"][GLUED])
    return found


def _text(shown):
    if shown.startswith(("'", '"')):
        return shown[1:-1]
    if shown.startswith("<Figure"):
        return "figure"
    if not _is_float(shown):
        return shown
    digits = format(float(shown), ".10g")
    return digits if _is_float(digits) else digits + ".0"


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_float(text):
    return _is_number(text) and not re.fullmatch(r"[-+]?\d+", text)


def read(name):
    with (REFERENCE / f"{name}.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        return {
            r["name"]: Number(r["value"], float(r["rtol"] or 0), float(r["atol"] or 0))
            for r in rows
        }


def write(name, table):
    with (REFERENCE / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "value", "rtol", "atol"])
        for key, (value, *tolerances) in sorted(table.items()):
            writer.writerow([key, value, *(f"{t:g}" if t else "" for t in tolerances)])


def distance(value, expected):
    """How far a value is from an expected one; infinite where either is no number."""
    both = _is_number(value) and _is_number(expected)
    return abs(float(value) - float(expected)) if both else 0.0 if value == expected else math.inf


def holds(value, number):
    if number.atol == math.inf or value == number.value:
        return True
    if not (_is_number(value) and _is_number(number.value)):
        return False
    expected = float(number.value)
    return abs(float(value) - expected) <= number.atol + number.rtol * abs(expected)


def differences(values, table):
    """What differs between glued values and a table, a line each."""
    lines = [f"{name}: glued, but not stored" for name in sorted(values.keys() - table.keys())]
    lines += [f"{name}: stored, but not glued" for name in sorted(table.keys() - values.keys())]
    for name in sorted(values.keys() & table.keys()):
        if not holds(values[name], table[name]):
            value, rtol, atol = table[name]
            lines.append(
                f"{name}: {values[name]} is not within {atol:g} + {rtol:g} x of the stored {value}"
            )
    return lines


def same_text(one, other):
    """Whether texts are equal but for a unit of the last digit of numbers, and spaces."""
    words = [re.sub(r"\s+", " ", DECIMAL.sub("#", text)).strip() for text in (one, other)]
    if words[0].replace(" #", "#") != words[1].replace(" #", "#"):
        return False
    pairs = zip(DECIMAL.findall(one), DECIMAL.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * max(_unit(a), _unit(b)) for a, b in pairs)


def _unit(number):
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


# The plugin


def pytest_collection_modifyitems(items):
    cells = [item for item in items if isinstance(item, IPyNbCell)]
    for cell in cells:
        cell.compare_outputs = functools.partial(_compare, cell, cell.compare_outputs)
    last = {cell.parent: cell for cell in cells}
    for file, cell in last.items():
        numbers = GluedNumbers.from_parent(file, name="glued numbers")
        numbers.cells = [one for one in cells if one.parent is file]
        items.insert(items.index(cell) + 1, numbers)


def _compare(cell, compare, test, reference):
    shown = [o for o in test if "scrapbook" not in o.get("metadata", {})]
    if cell.cell.source.rstrip().endswith(";"):  # nbval keeps no history, which IPython asks for it
        shown = [o for o in shown if o["output_type"] != "execute_result"]
    for new, old in zip(shown, reference, strict=False):
        for key in ("text", "data"):
            if key in new and key in old:
                new[key] = _settled(new[key], old[key])
    return compare(shown, reference)


def _settled(new, old):
    """The old output where the new is the same but for last digits, else the new one."""
    if isinstance(new, str) and isinstance(old, str):
        return old if same_text(new, old) else new
    if isinstance(new, dict) and isinstance(old, dict):
        return {key: _settled(value, old.get(key)) for key, value in new.items()}
    return new


class GluedNumbers(pytest.Item):
    """Runs after the cells of a notebook, and compares all that they glued."""

    def runtest(self):
        name, values = self.path.stem, {}
        for cell in self.cells:
            values |= glued(cell.test_outputs or ())
        if not values and not (REFERENCE / f"{name}.csv").exists():
            return
        lines = differences(values, read(name))
        if lines:
            raise AssertionError("\n".join([f"{len(lines)} glued numbers differ", *lines]))

    def repr_failure(self, excinfo):
        return f"{self.path.name}: {excinfo.value}"

    def reportinfo(self):
        return self.path, 0, f"{self.path.name}: glued numbers"


# What stores


def store(name, values):
    """Store values; tolerances are kept, and a new name gets those of most others."""
    old = read(name) if (REFERENCE / f"{name}.csv").exists() else {}
    usual = [(n.rtol, n.atol) for n in old.values() if _is_float(n.value) and n.rtol]
    usual = max(usual, key=usual.count, default=(RTOL, ATOL))
    table = {}
    for key, value in values.items():
        kept = key in old and _is_float(value) == _is_float(old[key].value)
        tolerances = old[key][1:] if kept else usual if _is_float(value) else (0.0, 0.0)
        table[key] = Number(value, *tolerances)
    write(name, table)


def widen(name, values):
    """Widen tolerances that do not hold, with margin, to `MARGIN` times the difference.

    What comes of training in the notebook differs by chance: there every number of a kind (such as
    all biases of one estimator) gets the tolerance of the one that differs most.
    """
    table = read(name)
    worst = {}
    for key, value in values.items():
        number = table[key]
        apart = distance(value, number.value)
        strict = Number(number.value, number.rtol / MARGIN, number.atol / MARGIN)
        if not holds(value, strict):
            kind = _kind(key, number) if name in TRAINED else key
            worst[kind] = max(worst.get(kind, 0), apart)
    for key, number in table.items():
        for apart in (worst[k] for k in {key, _kind(key, number)} & worst.keys()):
            table[key] = _widened(number, MARGIN * apart, relative=name not in TRAINED)
    write(name, table)
    print(f"{name}: wider tolerances for {len(worst)} numbers or kinds")


def _kind(key, number):
    """What a number is of: its estimator, where it has one, and the last part of its name."""
    *parts, last = key.split(".")
    kind = ["*", *(part for part in parts if part in REGISTRY), last]
    words = [] if _is_number(number.value) else ["in words"]
    return key if key.startswith(STORED) else ".".join(kind + words)


def _widened(number, needed, relative):
    if needed == math.inf:
        return number._replace(atol=math.inf)
    size = abs(float(number.value))
    if relative and size > 0.1:
        return number._replace(rtol=max(number.rtol, _rounded_up(needed / size)))
    return number._replace(atol=max(number.atol, _rounded_up(needed)))


def _rounded_up(value):
    power = 10.0 ** math.floor(math.log10(value))
    return next(float(f"{d * power:.1g}") for d in (1, 2, 5, 10) if d * power >= value)


if __name__ == "__main__":
    command = {"store": store, "widen": widen}[sys.argv[1]]
    for path in map(Path, sys.argv[2:]):
        cells = nbformat.read(path, as_version=4).cells
        command(path.stem, glued(o for cell in cells for o in cell.get("outputs", ())))
