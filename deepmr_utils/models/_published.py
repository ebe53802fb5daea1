"""What readers check of files of published weights, whose code is never run."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import check_installed

_UNREADABLE = (OSError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)
_PLAIN = (torch.strided, torch.device("cpu"))  # neither sparse nor without data


@contextmanager
def keras_file(path: str | Path) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Open a Keras 2 model in HDF5, with the description of its layers."""
    check_installed("files", "h5py")
    import h5py

    try:
        with h5py.File(path) as file:
            yield file, json.loads(file.attrs["model_config"])["config"]["layers"]
    except FileNotFoundError:
        raise
    except (*_UNREADABLE, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "a whole Keras model in HDF5", error) from error


def torch_file(path: str | Path) -> Mapping[str, Tensor]:
    """Tensors of a file of PyTorch, by name."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(
            path, "a whole file of PyTorch of tensors (code is not read)", error
        ) from error
    values = state.values() if isinstance(state, Mapping) else [None]
    if not all(isinstance(v, Tensor) and (v.layout, v.device) == _PLAIN for v in values):
        raise ValueError(f"{path} must hold plain tensors by name; got {type(state).__name__}")
    # a few bytes can claim to be a tensor of any size
    if sum(value.numel() for value in values) * 4 > Path(path).stat().st_size:
        raise ValueError(f"{path} must hold its tensors whole; they are larger than the file")
    return state


def _damaged(path: str | Path, expected: str, error: Exception) -> ValueError:
    reason = str(error).strip().partition("\n")[0].partition(". ")[0]
    return ValueError(
        f"{path} is not {expected}, or is cut short: {type(error).__name__}: {reason}. Get it again"
    )


def refusal(path: str | Path, network: str, what: str) -> ValueError:
    """An error that says why a file does not hold a network."""
    return ValueError(f"{path} does not hold {network}: {what}")


def checked(
    path: str | Path, network: str, name: str, value: Any, shape: tuple[int, ...]
) -> Tensor:
    """An array of a file, which must be float32, of this shape, in this very file and finite."""
    stored = not isinstance(value, Tensor)
    kind = value.dtype.newbyteorder("=") if stored else value.dtype
    if str(kind) not in ("float32", "torch.float32") or tuple(value.shape) != shape:
        got = f"{kind} {tuple(value.shape)}"
        raise refusal(path, network, f"{name} is {got}; expected float32 {shape}")
    if stored:
        if value.is_virtual or value.external or value.file.filename != str(path):
            raise refusal(path, network, f"{name} lies in another file, which is not read")
        value = torch.from_numpy(value[()].astype(np.float32))
    if not value.isfinite().all():
        raise refusal(path, network, f"{name} has numbers that are not finite")
    return value
