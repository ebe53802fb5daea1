"""Parameters of a study from a YAML file, over the defaults of the notebook that shows it."""

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deepmr_utils import __version__
from deepmr_utils._checks import check_choice

# What says how much is run, where and by what, but not what a run is; and the version of a store
NOT_SETTINGS = (
    "scenarios", "training_scenarios", "rounds", "runs", "graphs", "workers", "device", "shares",
    "results_directory", "analyses", "training", "stored_error", "other_rounds", "sets",
    "stored_rounds", "stored_sweeps", "deepmr_utils", "tuning",
)  # fmt: skip


def read_parameters(path: str | Path, notebook: str | Path | None = None) -> dict[str, Any]:
    """Read parameters, and take what a file does not say from a notebook's cell of them.

    Parameters
    ----------
    path : path
        YAML, as papermill takes it by ``-f``.
    notebook : path, optional

    Returns
    -------
    dict
        Values by name.

    Raises
    ------
    ValueError
        If the file is no mapping of names to values, or the notebook has no parameter of a name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold parameters, name: value; got {type(values).__name__}")
    defaults = {} if notebook is None else notebook_defaults(notebook)
    sets = values.get("sets", {}).values()
    names = [name for one in (values, *sets) for name in one if name != "sets"]
    for name in names if defaults else ():
        check_choice("parameter", name, list(defaults))
    return defaults | values


def notebook_defaults(notebook: str | Path) -> dict[str, Any]:
    """Parameters of a notebook, from its cell tagged ``parameters``."""
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return assignments("".join(cell["source"]))
    raise ValueError(f"{notebook} has no cell tagged 'parameters'")


def assignments(source: str) -> dict[str, Any]:
    """Literal values assigned at the top level of a cell, by name; None for other values."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # IPython's own, such as a shell command
        return {}
    return {
        target.id: _literal(statement.value)
        for statement in body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
        if isinstance(target, ast.Name)
    }


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:  # papermill writes float('nan')
        return None


def settings_key(values: Mapping[str, Any]) -> str:
    """Eight digits that change with every value that a run depends on, and with the version."""
    kept = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
    text = json.dumps([__version__, kept], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
