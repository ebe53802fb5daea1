"""``python -m experiments NAME FILE`` computes what is missing of a study.

``python -m experiments simulation book/parameters/simulation_paper_scale.yml`` goes on where it was
interrupted; ``--dry-run`` lists what is missing, and ``--unit none/round-003`` computes one unit.
"""

import argparse
from collections.abc import Mapping, Sequence
from fnmatch import filter as matching
from pathlib import Path

from deepmr_utils._checks import did_you_mean

from .study import STUDIES, Unit, open_study, run_units


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the study that a YAML file describes."""
    parser = argparse.ArgumentParser(prog="experiments", description=main.__doc__)
    parser.add_argument("study", help=", ".join(STUDIES))
    parser.add_argument("file", help="YAML: its parameters")
    parser.add_argument("--directory", help="where to, instead of what the file says")
    parser.add_argument("--workers", type=int, default=1, help="units at a time (default 1)")
    parser.add_argument(
        "--unit", "--units", dest="units", nargs="+", metavar="U",
        help="only these, as --dry-run names them; 'none/*' are all that begin so",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="as PyTorch names it (default cpu)")
    parser.add_argument("--dry-run", "-n", action="store_true", help="list what is missing")
    given = parser.parse_args(arguments)
    units, directory = open_study(given.study, given.file, given.device)
    directory = given.directory or directory
    if not directory:
        raise ValueError(f"{given.file} names no results_directory: give --directory")
    if given.units:
        units = _chosen(units, given.units)
    if not given.dry_run:
        run_units(units, directory, workers=given.workers, progress=True)
        return
    missing = [name for name, unit in units.items() if not unit.finished(Path(directory))]
    print(*missing, f"{len(missing)} of {len(units)} units are missing in {directory}", sep="\n")


def _chosen(units: Mapping[str, Unit], patterns: Sequence[str]) -> dict[str, Unit]:
    """Units of these names; they store their files also where something else holds the result."""
    names: list[str] = []
    for pattern in patterns:
        found = matching(units, pattern)
        if not found:
            near = did_you_mean(pattern, list(units))
            some = ", ".join(list(units)[:3])
            raise ValueError(
                f"unknown unit {pattern!r}{near}: there are {len(units)}, such as {some}; "
                "--dry-run lists what is missing"
            )
        names += found
    return {name: units[name]._replace(kept=None) for name in names}


if __name__ == "__main__":
    main()
