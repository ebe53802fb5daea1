"""What the notebooks share: checked parameters, numbers for the book, reproducible files."""

import sys
from collections.abc import Sequence
from typing import Any

import nbformat
from IPython import get_ipython
from IPython.core.formatters import format_display_data
from IPython.display import display

from .parameter_files import assignments, check_name

GLUE_PREFIX = "application/papermill.record/"  # what myst-nb and scrapbook read
INJECTED = "# Parameters"  # the first line of the cell that papermill adds


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Stop where papermill set a parameter that the notebook does not have.

    Papermill itself only warns of a misspelt ``-p``, and the run then uses the default.

    Parameters
    ----------
    cells : sequence of str, optional
        The sources of the cells run so far, by default IPython's ``In``. The last is the caller's,
        which must directly follow the cell tagged ``parameters``.

    Raises
    ------
    ValueError
        For an unknown parameter, or a value of another type than the default's.
    """
    if cells is None:
        cells = get_ipython().user_ns["In"]
    if len(cells) < 3 or not cells[-2].startswith(INJECTED):
        return
    defaults, injected = assignments(cells[-3]), assignments(cells[-2])
    for name, value in injected.items():
        check_name(name, defaults)
        default = defaults[name]
        expected = (int, float) if isinstance(default, float) else type(default)
        if None not in (default, value) and not isinstance(value, expected):
            raise ValueError(
                f"parameter {name} must be of type {type(default).__name__}, like its default "
                f"{default!r}; got {value!r}"
            )


def glue(name: str, value: Any) -> None:
    """Record a value under a name in the cell's outputs, for the book to quote.

    Nothing shows in the notebook. The book quotes it by the role ``glue:text``, with the argument
    ``/executed/notebook.ipynb::name:.2f``. Writes what myst-nb reads without importing Sphinx.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # the repr of a NumPy scalar cannot be formatted by {glue:text}
    data, metadata = format_display_data(value)
    metadata["scrapbook"] = {"name": name, "mime_prefix": GLUE_PREFIX}
    display({GLUE_PREFIX + k: v for k, v in data.items()}, raw=True, metadata=metadata)


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
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
        if strip and cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if "scrapbook" not in o.get("metadata", {})]
            for output in cell.outputs:
                output.get("data", {}).pop("image/png", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if argument != "--strip":
            tidy(argument, strip="--strip" in sys.argv)
