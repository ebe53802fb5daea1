"""A causal atlas from stored variant effects, in shares that jobs of a cluster compute.

The file names ``effects``, a store of `saturation_mutagenesis`, ``results_directory``, how many
``shares`` of the windows there are, and options of `causal_atlas`.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deepmr_utils._checks import check_choice
from deepmr_utils._files import write_text
from deepmr_utils.atlas import causal_atlas
from deepmr_utils.effects import load_effects

from .study import Study, Unit

OF_THE_COMMAND = {"store", "share", "device", "progress"}


def _units(values: Mapping[str, Any], device: str) -> dict[str, Unit]:
    options = set(list(inspect.signature(causal_atlas).parameters)[1:]) - OF_THE_COMMAND
    for name in values:
        known = ["effects", "results_directory", "shares", *sorted(options)]
        check_choice("parameter", name, known)
    effects = load_effects(values["effects"], lazy=True)
    chosen = {name: value for name, value in values.items() if name in options}
    atlas = partial(causal_atlas, effects, device=device, progress=True, **chosen)
    n = values.get("shares", 1)

    def compute(folder: Path, share: int) -> None:
        atlas(store=folder, share=(share, n))
        write_text(folder / "shares" / f"{share}-of-{n}", "")

    units = {
        f"{share}-of-{n}": Unit(
            (f"shares/{share}-of-{n}",), partial(compute, share=share),
            kept=lambda folder: (folder / "atlas.parquet").exists(),
        )
        for share in range(n)
    }  # fmt: skip
    return units | {"atlas": Unit(("atlas.parquet",), lambda f: atlas(store=f), last=True)}


STUDY = Study(_units)
