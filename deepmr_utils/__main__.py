"""``python -m deepmr_utils report``: Deep MR of a model by parameters alone."""

import sys


def main(arguments: list[str]) -> int:
    """Run a command; the exit status."""
    if arguments[:1] != ["report"]:
        words = "python -m deepmr_utils report [--NAME VALUE ...]; report --help lists the names"
        print(f"usage: {words}", file=sys.stdout if arguments[:1] == ["--help"] else sys.stderr)
        return int(arguments[:1] != ["--help"]) * 2
    from ._report import command

    return command.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
