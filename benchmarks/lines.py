"""Lines of code of the library and of the studies, by part, and which modules are long.

``python benchmarks/lines.py``, from the top level. Blank lines and docstrings do not count.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = 300


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor part of a docstring."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    numbered = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and i not in docstrings for i, line in numbered)


def parts(package: str) -> dict[str, int]:
    """Lines by module or folder right below a package."""
    counts: dict[str, int] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        first = path.relative_to(ROOT / package).parts[0]
        name = first.removesuffix(".py") + "/" * (not first.endswith(".py"))
        counts[name] = counts.get(name, 0) + lines_of_code(path)
    return counts


def main() -> None:
    """Print a line a part, the sums, and modules of more than 300 lines."""
    for package in ("deepmr_utils", "experiments"):
        counts = parts(package)
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            print(f"{count:6,}  {name}")
        print(f"{sum(counts.values()):6,}  {package} in all\n")
    for path in sorted([*ROOT.glob("deepmr_utils/**/*.py"), *ROOT.glob("experiments/**/*.py")]):
        if (count := lines_of_code(path)) > LONG:
            print(f"{count:6,}  {path.relative_to(ROOT)}: more than {LONG}")


if __name__ == "__main__":
    main()
