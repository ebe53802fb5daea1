"""What is read and chosen without a model is there without waiting for torch."""

import subprocess
import sys

import pytest

LIGHT = ["sequences", "regions", "instruments", "mr", "_files", "_numerics"]


@pytest.mark.parametrize("module", LIGHT)
def test_torch_and_xarray_are_imported_where_they_are_needed(module):
    code = f"import sys, deepmr_utils.{module}; print(*({{'torch', 'xarray'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
