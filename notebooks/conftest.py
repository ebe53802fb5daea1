"""Lets nbval compare glued numbers, and printed ones to their last digit."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from notebook_numbers import pytest_collection_modifyitems  # noqa: F401 (a hook of pytest)
