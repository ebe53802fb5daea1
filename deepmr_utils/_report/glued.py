"""Numbers that a notebook records for the book."""

from typing import Any

from IPython.core.formatters import format_display_data
from IPython.display import display

GLUE_PREFIX = "application/papermill.record/"  # what myst-nb and scrapbook read


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
