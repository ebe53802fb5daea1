"""``python -m deepmr_utils report``: the notebook run with parameters, and a page made of it."""

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from .._checks import check_installed

NOTEBOOK = Path(__file__).with_name("deep_mr.ipynb")
SAID = ("ValueError", "TypeError", "FileNotFoundError", "ModuleNotFoundError", "FileExistsError",
        "BlockingIOError")  # fmt: skip


def defaults() -> dict[str, tuple[Any, str]]:
    """Parameters of the notebook: value and explanation by name, read off its first cell."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    cell = next(c for c in cells if "parameters" in c["metadata"].get("tags", ()))
    source = "".join(cell["source"])
    lines = source.splitlines()
    return {
        line.target.id: (
            ast.literal_eval(line.value),
            lines[line.end_lineno - 1][line.end_col_offset :].strip().removeprefix("# "),
        )
        for line in ast.parse(source).body
        if isinstance(line, ast.AnnAssign)
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deepmr_utils report", allow_abbrev=False,
        description="Deep MR of a model, as a report: report.html, report.ipynb and tables.",
    )  # fmt: skip
    for name, (value, words) in defaults().items():
        several = isinstance(value, list | dict)
        shown = "NAME=VALUE" if isinstance(value, dict) else name.upper()
        given = "" if value in ("", [], {}) else f" (default: {value})"
        parser.add_argument(
            f"--{name}", help=(words + given).replace("%", "%%") or None, metavar=shown,
            default=argparse.SUPPRESS, nargs="*" if several else None,
            type=int if isinstance(value, int) else str,
        )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report, or say why not; the exit status."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    for name, (value, _) in defaults().items():
        if isinstance(value, dict) and name in given:
            wrong = [text for text in given[name] if "=" not in text]
            if wrong:
                parser.error(f"argument --{name}: NAME=VALUE is wanted; got {wrong[0]}")
            given[name] = dict(text.split("=", 1) for text in given[name])
    try:
        check_installed("report", "papermill", "nbconvert", "ipykernel", "zarr", "pyarrow")
        return _write(given)
    except (ModuleNotFoundError, OSError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is stored", file=sys.stderr)
        return 130
    return 1


def _write(given: dict[str, Any]) -> int:
    """Run the notebook under another name, and move it and its page into place once both are."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    folder = Path(given.get("results_directory", defaults()["results_directory"][0]))
    folder.mkdir(parents=True, exist_ok=True)
    partial = [folder / f".{uuid4().hex}.partial-report.{kind}" for kind in ("ipynb", "html")]
    try:
        try:
            papermill.execute_notebook(
                str(NOTEBOOK), str(partial[0]), given, kernel_name="python3", log_output=False,
                stderr_file=sys.stderr, progress_bar=sys.stderr.isatty(),
            )  # fmt: skip
        except PapermillExecutionError as error:
            if error.ename not in SAID:
                print(*error.traceback, sep="\n", file=sys.stderr)
            print(f"no report: {error.evalue}", file=sys.stderr)
            return 1
        partial[1].write_text(_page(partial[0]))
        for path in partial:
            path.replace(folder / f"report{path.suffix}")
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    print(folder / "report.html")
    return 0


def _page(path: Path) -> str:
    """The page of an executed notebook, without its code and progress bars, in one file."""
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    quiet = {"enabled": True, "remove_cell_tags": ["remove-cell", "parameters",
                                                   "injected-parameters"]}  # fmt: skip
    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True,
        embed_images=True, mathjax_url="", require_js_url="", mermaid_js_url="",
        config=Config(TagRemovePreprocessor=quiet),
    )  # fmt: skip
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["title"] = "Deep MR: a report"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return exporter.from_notebook_node(notebook)[0]
