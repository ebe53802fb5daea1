"""Who may import whom, read off the syntax trees; and what an import loads."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import deepmr_utils

ROOT = Path(__file__).parents[2]
# Each may import what stands before it, and what stands beside it where that makes no circle.
ORDER = (
    {"_checks", "_files", "_lazy", "_numerics"},
    {"sequences"},
    {
        "_members",
        "_memory",
        "_model_errors",
        "_label_regression",
        "adapters",
        "predict",
        "effects",
        "_effects_store",
        "instruments",
        "mr",
    }
    | {"regions", "motifs", "calibration", "null", "models"},
    {"_engine", "meta", "_meta_variance", "intervals"},
    {"mutagenesis", "_edit_draws", "edits", "knockouts", "held_out", "private_movers"},
    {"pairs", "analysis", "atlas", "direct", "_atlas_plan", "_atlas_sums", "_atlas_store"}
    | {"negative_controls", "_verdict"},
    {"plots"},
    {"_report"},
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
HEAVY = {"torch", "xarray", "matplotlib", "statsmodels", "sklearn"}


def imports(path):
    """Absolute names of what a file imports, at its top and inside functions."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def edges(package):
    """Pairs of a part of a package and a part of the project that it imports."""
    folder = ROOT / package
    return [
        (path.relative_to(folder).with_suffix("").parts[0], name)
        for path in sorted(folder.rglob("*.py"))
        for name in imports(path)
    ]


def parts_imported(part):
    names = (
        n.split(".")[1] for p, n in edges("deepmr_utils") if p == part and n.startswith("deepmr")
    )
    return {n for n in names if n in LEVEL and n != part}


def test_every_part_has_its_place():
    parts = {
        path.stem for path in (ROOT / "deepmr_utils").iterdir() if not path.name.startswith("__")
    }
    assert parts - {"data"} == set(LEVEL)


@pytest.mark.parametrize("part", sorted(LEVEL))
def test_parts_import_what_stands_before_them(part):
    above = {other for other in parts_imported(part) if LEVEL[other] > LEVEL[part]}
    assert not above, f"{part} imports {above}"


def test_no_circle():
    graph = {part: parts_imported(part) for part in LEVEL}
    while graph:
        free = [part for part, needed in graph.items() if not needed & set(graph)]
        assert free, f"these import each other: {graph}"
        for part in free:
            del graph[part]


def test_the_engine_is_mutagenesis_own():
    assert {part for part in LEVEL if "_engine" in parts_imported(part)} == {"mutagenesis"}


def test_the_library_knows_no_study_and_studies_not_each_other():
    assert not [e for e in edges("deepmr_utils") if e[1].startswith("experiments")]
    studies = {path.name for path in (ROOT / "experiments").iterdir() if path.is_dir()} - {"data"}
    crossed = [
        (part, name)
        for part, name in edges("experiments")
        if part in studies
        and name.startswith("experiments.")
        and name.split(".")[1] in studies - {part}
    ]
    assert not crossed


def test_mr_takes_arrays_and_tables_alone():
    names = {name.split(".")[0] for part, name in edges("deepmr_utils") if part == "mr"}
    assert not names & {"torch", "xarray"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("deepmr_utils", HEAVY),
        ("deepmr_utils.mr", {"torch", "xarray", "matplotlib"}),
        ("deepmr_utils.instruments", {"torch", "matplotlib"}),
        ("deepmr_utils.regions", {"torch", "xarray", "matplotlib"}),
        ("deepmr_utils.plots", {"torch"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print(*sorted({absent!r} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_the_top_level_is_small_and_loads_on_use():
    names = set(deepmr_utils.__all__)
    assert len(names) <= 16
    assert not names & set(LEVEL)
    assert names < set(dir(deepmr_utils))
    for name in names:
        assert getattr(deepmr_utils, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'deep'"):
        _ = deepmr_utils.deep
