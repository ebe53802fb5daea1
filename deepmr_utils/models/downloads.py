"""Published weights: fetched on request, under their licences, and checked before use."""

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from .._checks import check_choice, check_installed

log = logging.getLogger(__name__)
_DEEPSEA = "https://zenodo.org/record/1466993/files/{}?download=1"
_CC_BY = "CC-BY 3.0: give credit to Zhou and Troyanskaya (2015), doi:10.1038/nmeth.3547"


class Download(NamedTuple):
    """A published file: its address, checksum as ``algorithm:digest`` if known, and licence."""

    url: str
    checksum: str | None
    licence: str
    must_accept: bool = False


FILES = {
    "deepsea_predict.pth": Download(
        _DEEPSEA.format("deepsea_predict.pth"), "md5:89e640bf6bdbe1ff165f484d9796efc7", _CC_BY
    ),
    "deepsea_variant_effects.pth": Download(
        _DEEPSEA.format("deepsea_variant_effects.pth"),
        "md5:35956ab9c28960b5a3693f470fe980c1",
        _CC_BY,
    ),
    "predictor.names": Download(  # of the 919 features of DeepSEA, in order
        "https://raw.githubusercontent.com/kipoi/models/master/DeepSEA/predictor.names",
        "sha256:b9e2a42dca123561dfbddce605a2521ff957ad1bd01c450307a3f512bec6b1f4",
        "MIT, the Kipoi model zoo",
    ),
    "deepsea.beluga.pth": Download(
        "https://zenodo.org/record/3402406/files/deepsea.beluga.pth?download=1",
        "md5:62360f2db4ac96554d28d058b50ab654",
        "Princeton University, academic: non-commercial use only, no redistribution",
        must_accept=True,
    ),
    "bpnet.model.h5": Download(
        "https://zenodo.org/record/4294904/files/bpnet.model.h5?download=1",
        "md5:bbe883baef261877bfad07d05feb627d",
        "MIT, Avsec et al. (2021), doi:10.1038/s41588-021-00782-6",
    ),
}


def fetch(
    name: str,
    folder: str | Path | None = None,
    *,
    accept_licence: bool = False,
    progress: bool = False,
) -> Path:
    """Get a published file, from the folder where it is there already, else from the network.

    Parameters
    ----------
    name : str
        A key of `FILES`.
    folder : path, optional
        Where files are kept; the user's cache by default.
    accept_licence : bool
        Accept the licence; needed for ``deepsea.beluga.pth``, whose use it restricts.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        Of the file, whose checksum is the published one.

    Raises
    ------
    PermissionError
        If the licence must be accepted and was not.
    ValueError
        If the name is unknown or the checksum differs; nothing that is there is overwritten.
    ConnectionError
        If the file cannot be downloaded; says from where, and where to put it by hand.
    """
    check_choice("file", name, list(FILES))
    check_installed("files", "pooch")
    import pooch  # not above: in a notebook without widgets it warns of tqdm

    file, path = FILES[name], Path(folder or pooch.os_cache("deepmr_utils")) / name
    if file.must_accept and not accept_licence:
        raise PermissionError(
            f"the licence of {name} must be accepted ({file.licence}): read it at "
            f"{file.url.partition('/files/')[0]}, and give accept_licence=True"
        )
    return retrieve(file, path, progress=progress)


def retrieve(file: Download, path: str | Path, *, progress: bool = False) -> Path:
    """Get a file that is not there yet, and compare its checksum where one is known.

    Raises
    ------
    ValueError, ConnectionError
        As `fetch` does.
    """
    import pooch

    path = Path(path)
    algorithm, _, expected = (file.checksum or "").partition(":")
    known = file.checksum is not None
    if known and (algorithm not in hashlib.algorithms_available or not expected):
        raise ValueError(
            f"a checksum is 'algorithm:digest', such as 'md5:{'0' * 32}'; got {file.checksum!r}"
        )
    if not path.exists():
        log.warning("downloading %s, licence: %s", path.name, file.licence)
        try:
            pooch.retrieve(file.url, file.checksum, path.name, path.parent, progressbar=progress)
        except OSError as error:
            raise ConnectionError(
                f"{path.name} cannot be downloaded ({error}). Get it from {file.url} and put it at "
                f"{path}"
            ) from error
    if known and (found := pooch.file_hash(path, algorithm)) != expected.lower():
        raise ValueError(
            f"{path} has the {algorithm} {found}; {expected} is published: remove it, and get it "
            f"again from {file.url}"
        )
    return path
