"""Lets nbval compare glued numbers, and printed ones to their last digit."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

pytest_plugins = ["notebook_numbers"]
