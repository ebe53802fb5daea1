"""Networks from what a parameter names: code of the user's, or a file that holds a network."""

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import predict
from .._checks import did_you_mean

DEMO = Path(__file__).parents[1] / "data" / "demo"
FORMS = "'file.py:function', 'package.module:function', 'model.pt2' or 'scripted.pt'"


def demo_members() -> list[nn.Module]:
    """The networks that come with the package; only numbers are read, no code."""
    from ..models.bpnet import BPNet

    held = torch.load(DEMO / "weights.pt", weights_only=True)
    members = [BPNet(filters=held["filters"], layers=held["layers"]) for _ in held["members"]]
    for member, state in zip(members, held["members"], strict=True):
        member.load_state_dict(state)
    return [member.eval() for member in members]


def load_members(model: str, weights: Sequence[str] = ()) -> list[nn.Module]:
    """Members of an ensemble; none of them is evaluated.

    Parameters
    ----------
    model : str
        "demo", one of `FORMS`.
    weights : sequence of path
        A function is called with each of them and returns a member, or with nothing and returns
        one, or a list.

    Raises
    ------
    ValueError, FileNotFoundError, ImportError
        If it names nothing, cannot be read, or does not give networks.
    """
    place, colon, name = model.rpartition(":")
    if model != "demo" and not (colon and name.isidentifier() and len(place) > 1):
        return [_load_file(Path(model), weights)]
    if model == "demo":
        if weights:
            raise ValueError(f"the demo has weights of its own: leave weights out, or name {FORMS}")
        return demo_members()
    make = _find_function(place, name)
    missing = [path for path in weights if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"weights must be files; there is no {missing[0]}")
    calls = [(path,) for path in weights] or [()]
    _check_call(make, calls[0], model)
    members: list[Any] = []
    for arguments in calls:
        try:
            made = make(*arguments)
        except Exception as error:
            given = ", ".join(map(repr, arguments))
            raise ValueError(
                f"{name}({given}) must return a network; it raised {type(error).__name__}: {error}"
            ) from error
        members += made if isinstance(made, list | tuple | nn.ModuleList) else [made]
    wrong = [type(m).__name__ for m in members if not isinstance(m, nn.Module)]
    if wrong or not members:
        raise ValueError(
            f"{name} must return a torch.nn.Module, or a list of them; got "
            f"{wrong[0] if wrong else 'an empty list'}"
        )
    return predict.as_members(members)


def _load_file(path: Path, weights: Sequence[str]) -> nn.Module:
    """A network from a file of torch.export or TorchScript."""
    if path.suffix == ".py":
        raise ValueError(f"a Python file needs the function that makes the network: {path}:NAME")
    if path.suffix not in (".pt2", ".pt", ".pth", ".ts", ".jit"):
        raise ValueError(f"a model must be 'demo', {FORMS}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if weights:
        raise ValueError(f"{path.name} holds its weights: leave weights out")
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the format: it is still in use
            return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError, KeyError, AttributeError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path.name} must hold a network of torch.export.save (.pt2) or torch.jit.save; "
            f"reading it failed ({why}). Where it holds weights alone, name the code, too: "
            "model 'file.py:function', weights ['" + path.name + "']"
        ) from error


def _find_function(place: str, name: str) -> Any:
    """A function of a Python file, or of a module that can be imported."""
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        sys.path.insert(0, str(path.parent))  # what stands beside it can be imported from it
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # so that its classes can be pickled
        run = spec.loader.exec_module
    else:
        module, run = None, None
    try:
        if run is None:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
        else:
            run(module)
    except Exception as error:
        raise ValueError(
            f"{place} must be Python that can be imported; it raised {type(error).__name__}: "
            f"{error}"
        ) from error
    if not callable(getattr(module, name, None)):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(
            f"{place} has no function {name!r}; it has {', '.join(names) or 'none'}"
            f"{did_you_mean(name, names)}"
        )
    return getattr(module, name)


def _check_call(make: Any, arguments: tuple, model: str) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # of code in C
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        rule = "one argument, a file of weights" if arguments else "no argument"
        hint = "" if arguments else ", or give weights, which are handed to it one by one"
        raise ValueError(
            f"{model} must take {rule}; its signature is {signature} ({error}){hint}"
        ) from None
