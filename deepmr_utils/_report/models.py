"""Networks from what a parameter names: code of the user's, or a file that holds a network."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import predict
from ..adapters import find_named, load_model, network_reader

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
        A class of networks takes each of them as its weights. A function is called with each of
        them and returns a member, or with nothing and returns one, or a list.

    Raises
    ------
    ValueError, FileNotFoundError, ImportError
        If it names nothing, cannot be read, or does not give networks.
    """
    place, colon, name = model.rpartition(":")
    if model != "demo" and not (colon and name.isidentifier() and len(place) > 1):
        path = Path(model)
        if path.suffix == ".py":
            raise ValueError(f"a Python file needs the function that makes it: {path}:NAME")
        if path.suffix not in (".pt2", ".pt", ".pth", ".ts", ".jit"):
            raise ValueError(f"a model must be 'demo', {FORMS}")
        if weights:
            raise ValueError(f"{path.name} holds its weights: leave weights out")
        if path.is_file() and network_reader(path) is None:
            raise ValueError(
                f"{path.name} holds no network, but weights alone or something else: name the "
                f"code, too: model 'file.py:function', weights ['{path.name}']"
            )
        return predict.as_members([load_model(path)])
    if model == "demo":
        if weights:
            raise ValueError(f"the demo has weights of its own: leave weights out, or name {FORMS}")
        return demo_members()
    make = find_named(place, name)
    missing = [path for path in weights if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"weights must be files; there is no {missing[0]}")
    if weights and isinstance(make, type) and issubclass(make, nn.Module):
        return predict.as_members([load_model(path, make) for path in weights])
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
