"""Lines of code of the package, by the groups of the API page.

``python benchmarks/lines.py``, from the top level. Blank lines and docstrings do not count.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


def main() -> None:
    """Print a line a group, and the sum."""
    page = (ROOT / "book" / "api.md").read_text()
    total, rest = 0, set((ROOT / "deepmr_utils").rglob("*.py"))
    for section in page.split("\n## ")[1:]:
        modules = re.findall(r"automodule:: (\S+)", section)
        files = [ROOT / f"{name.replace('.', '/')}.py" for name in modules]
        count = sum(map(lines_of_code, files))
        rest -= set(files)
        total += count
        print(f"{count:6,}  {section.splitlines()[0]} ({len(modules)} modules)")
    private = sum(map(lines_of_code, rest))
    print(f"{private:6,}  Private ({len(rest)} modules)")
    print(f"{total + private:6,}  in all")


if __name__ == "__main__":
    main()
