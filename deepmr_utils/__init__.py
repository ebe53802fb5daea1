"""Deep Mendelian randomization: causal effects between the features that a network predicts.

The names below are what one analysis needs, in its order; each is loaded when it is first used. The
modules hold the rest.
"""

from ._lazy import attach

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "sequences": "one_hot",
        "regions": "read_fasta read_regions",
        "predict": "MCDropout",
        "mutagenesis": "saturation_mutagenesis",
        "effects": "save_effects load_effects import_effects",
        "instruments": "select_instruments",
        "mr": "local_mr methods",
        "meta": "global_effects",
        "intervals": "add_intervals",
        "analysis": "deep_mr",
        "atlas": "causal_atlas",
        "plots": "use_style",
    },
)
