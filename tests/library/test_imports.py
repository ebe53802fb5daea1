"""What is read and chosen without a model is there without waiting for torch."""

import subprocess
import sys

import pytest
import xarray as xr

import deepmr_utils
from deepmr_utils import models

LIGHT = ["sequences", "regions", "instruments", "mr", "_files", "_numerics"]


@pytest.mark.parametrize("module", LIGHT)
def test_torch_and_xarray_are_imported_where_they_are_needed(module):
    code = f"import sys, deepmr_utils.{module}; print(*({{'torch', 'xarray'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_what_an_extra_brings_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    effects = xr.Dataset({"effect": ("sequence", [1.0])})
    with pytest.raises(
        ModuleNotFoundError, match=r"needs zarr.*pip install 'deepmr-utils\[store\]'"
    ):
        deepmr_utils.save_effects(effects, tmp_path / "effects.zarr")
    with pytest.raises(ModuleNotFoundError, match=r"needs h5py.*deepmr-utils\[files\]'"):
        models.load_bpnet_oskn(tmp_path / "weights.h5")
