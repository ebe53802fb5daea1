"""The ChIP-nexus data of the BPNet paper, downloaded and laid out as `tracks` reads them."""

import argparse
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from deepmr_utils.models.bpnet import OSKN
from deepmr_utils.models.downloads import Download, retrieve

from .track_files import Specification, Task, write_specification

CHIP_NEXUS = Download(  # 30.8 GB; address from the authors' README, its checksum is not known here
    "https://zenodo.org/record/3371216/files/data.tar.gz?download=1",
    None,
    "data of Avsec et al. (2021), doi:10.1038/s41588-021-00782-6",
)


def fetch_chip_nexus(
    folder: str | Path, *, url: str = CHIP_NEXUS.url, checksum: str | None = CHIP_NEXUS.checksum,
    fasta: str | Path | None = None, progress: bool = False,
) -> Path:  # fmt: skip
    """Download the authors' ChIP-nexus data of Oct4, Sox2, Nanog and Klf4 and lay them out.

    Parameters
    ----------
    folder : path
        Where ``data.tar.gz`` (30.8 GB) is put, the files needed are unpacked, and their
        specification is written. What is there already is not downloaded again.
    url : str
        From the README of the authors' manuscript repository.
    checksum : str, optional
        ``algorithm:digest``. It is not known to us, so that by default nothing is compared.
    fasta : path, optional
        The genome mm10, where the archive holds none; it is linked into the folder.
    progress : bool

    Returns
    -------
    Path
        Of the specification, for `read_specification`.

    Raises
    ------
    ValueError
        If the checksum differs, the archive is damaged, or lacks a file; says which.
    FileNotFoundError
        If there is no file at ``fasta``.
    """
    if fasta is not None and not Path(fasta).is_file():
        raise FileNotFoundError(f"no FASTA file at {fasta}")
    folder = Path(folder)
    archive = folder / "data.tar.gz"
    retrieve(CHIP_NEXUS._replace(url=url, checksum=checksum), archive, progress=progress)
    names = {"plus.bw": "counts.pos.bw", "minus.bw": "counts.neg.bw"}
    peaks = {"peaks.bed.gz": "idr-optimal-set.summit.bed.gz"}
    wanted = {
        f"chip-nexus/{source}/{old}": folder / target / new
        for source, target in [*zip(OSKN, OSKN, strict=True), ("patchcap", "control")]
        for new, old in (names if target == "control" else names | peaks).items()
    }
    genome = folder / "mm10.fa"
    if fasta is None:
        wanted["mm10_no_alt_analysis_set_ENCODE.fasta"] = genome
    elif not genome.exists():
        genome.symlink_to(Path(fasta).resolve())
    missing = dict(wanted)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:  # only files named above, to places named here
                key = next((k for k in missing if f"/{member.name}".endswith(f"/{k}")), None)
                if key and member.isfile():
                    target = missing.pop(key)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    tar.makefile(member, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{archive} is cut short or damaged ({error}): remove it and download it again"
        ) from error
    if missing:
        raise ValueError(
            f"{archive} lacks {', '.join(missing)}: is it the authors' archive? A FASTA can be "
            "given as fasta"
        )
    tasks = {task: Task(*(folder / task / name for name in (*names, *peaks))) for task in OSKN}
    control = folder / "control" / "plus.bw", folder / "control" / "minus.bw"
    return write_specification(Specification(genome, tasks, control), folder / "dataspec.yml")


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m experiments.binding.chip_nexus FOLDER``: download the authors' reads."""
    parser = argparse.ArgumentParser(
        prog="experiments.binding.chip_nexus", description=main.__doc__
    )
    parser.add_argument("folder")
    parser.add_argument("--url", default=CHIP_NEXUS.url, help="default: %(default)s")
    parser.add_argument("--checksum", help="algorithm:digest; by default nothing is compared")
    parser.add_argument("--fasta", help="mm10, where the archive holds none")
    print(fetch_chip_nexus(**vars(parser.parse_args(arguments)), progress=True))


if __name__ == "__main__":
    main()
