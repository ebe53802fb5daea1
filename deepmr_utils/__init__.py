"""Deep Mendelian randomization: causal effects between the features that a network predicts.

The names below are what one analysis needs, in its order; each is loaded when it is first used. The
modules hold the rest.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "one_hot": "sequences",
    "read_fasta": "regions",
    "read_regions": "regions",
    "MCDropout": "predict",
    "saturation_mutagenesis": "mutagenesis",
    "save_effects": "effects",
    "load_effects": "effects",
    "import_effects": "exchange",
    "select_instruments": "instruments",
    "local_mr": "mr",
    "methods": "mr",
    "global_effects": "meta",
    "add_intervals": "intervals",
    "causal_atlas": "atlas",
    "use_style": "plots",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """A name of `__all__`, from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
