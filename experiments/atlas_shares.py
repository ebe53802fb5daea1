"""A causal atlas from stored variant effects, in shares that jobs of a cluster compute.

``python -m experiments.atlas_shares atlas.yml --share 3 8`` computes the fourth of eight shares of
the windows; without a share it computes what is missing and puts the atlas together. The file names
``effects``, a store of `saturation_mutagenesis`, ``directory``, and options of `causal_atlas`.
"""

import argparse
import inspect
from collections.abc import Sequence

from deepmr_utils.atlas import causal_atlas
from deepmr_utils.mutagenesis import load_effects

from .parameter_files import check_name, read_parameters

FROM_COMMAND = ("store", "share", "device", "progress")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute a share of the causal atlas that a YAML file names, or the whole."""
    parser = argparse.ArgumentParser(prog="experiments.atlas_shares", description=main.__doc__)
    parser.add_argument("parameters", help="YAML: effects, directory, options of causal_atlas")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--share", nargs=2, type=int, metavar=("I", "N"), help="I from 0 on")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    values = read_parameters(given.parameters)
    options = set(list(inspect.signature(causal_atlas).parameters)[1:]) - set(FROM_COMMAND)
    for name in values:
        check_name(name, sorted({"effects", "directory", *options}))
    effects = load_effects(values.pop("effects"), lazy=True)
    directory = values.pop("directory", None)
    share = tuple(given.share or (0, 1))
    causal_atlas(
        effects, store=given.directory or directory, share=share, device=given.device,
        progress=True, **values,
    )  # fmt: skip


if __name__ == "__main__":
    main()
