"""Packages whose names are loaded when they are asked for, so that importing one costs nothing."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__, __dir__, __all__`` of a package.

    Parameters
    ----------
    package : str
    homes : mapping of str to str
        Its modules, with the names that it shows of each, separated by spaces.

    Returns
    -------
    tuple
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in home and name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{home.get(name, name)}")
        value = getattr(module, name) if name in home else module
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*home, *homes, *vars(sys.modules[package])}), sorted(home)
