"""Variant effects, the data set that everything here makes or reads: stored, and as tables.

Tables bring effects from elsewhere in, and take effects and instruments out. How a run writes a
store block by block is in `deepmr_utils._effects_store`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from ._checks import (
    check_installed,
    check_names,
    check_number,
    check_rows,
    distinct_text,
    numbers,
    require,
    whole_numbers,
)
from ._files import land, undamaged
from .mr import local_mr
from .sequences import ALPHABET, UNKNOWN, decode, encode

__all__ = ["effects_table", "export_twosamplemr", "import_effects", "load_effects", "save_effects"]

SCHEMA_VERSION = 1
DIMENSIONS = {
    "effect": ("sequence", "position", "allele", "feature"),
    "se": ("sequence", "position", "allele", "feature"),
    "reference_prediction": ("sequence", "feature"),
    "member_effect": ("member", "sequence", "position", "allele", "feature"),
    "covariance": ("sequence", "position", "allele", "feature", "other_feature"),
}
EFFECT_COLUMNS = ["sequence_id", "position", "reference", "alternate", "feature", "effect", "se"]
KEY = ["sequence_id", "position", "alternate", "feature"]
# as the dimensions of variant effects are called, and so columns of their `to_dataframe()`
OTHER_NAMES = {"sequence": "sequence_id", "allele": "alternate"}
# without sequences: more positions than this, and than a hundred times those in the table, are
# coordinates on a chromosome
MAX_UNLISTED = 100_000
MAX_EMPTY = 2_000_000  # so many effects may be NaN for want of a row: 32 MB


def save_effects(effects: xr.Dataset, path: str | Path) -> None:
    """Write effects of substitutions or of edits to a Zarr store (a new directory).

    Raises
    ------
    FileExistsError
        If the path exists.
    """
    check_installed("store", "zarr", "numcodecs")
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another path or remove it first")
    encoding = {name: codecs(effects[name].dtype) for name in effects.variables}
    # Zarr 2 because fixed-width strings have no stable form in Zarr 3 yet
    options = {"zarr_format": 2, "consolidated": True, "encoding": encoding}
    land(path, lambda partial: effects.to_zarr(partial, mode="w", **options))


def load_effects(
    path: str | Path, features: Sequence[str] | None = None, *, lazy: bool = False
) -> xr.Dataset:
    """Read effects of substitutions or of edits.

    Parameters
    ----------
    path : path
        Of `save_effects`, or of a run with a store.
    features : sequence of str, optional
        Features to read; all by default.
    lazy : bool
        Leave the values on disk until they are used.

    Returns
    -------
    xr.Dataset
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` or `deepmr_utils.edits.edit_effects`
        gives it.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If it was written under another schema version, is damaged, or lacks a feature.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no variant effects at {path}")
    check_installed("store", "zarr", "numcodecs")
    with undamaged(path):
        effects = xr.open_zarr(path, consolidated=True, chunks=None)
    version = effects.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this version of deepmr_utils reads "
            f"{SCHEMA_VERSION}: compute the effects again"
        )
    if features is not None:
        there = effects["feature"].to_numpy().tolist()
        effects = effects.sel(feature=check_names("feature", features, there))
    if not lazy:
        with undamaged(path):
            effects.load()
    return effects


def codecs(dtype: np.dtype) -> dict[str, list]:
    """Zarr's usual compression, over a checksum: a block cut short may read as other numbers."""
    from numcodecs import CRC32, Blosc

    return {"filters": [CRC32()], "compressors": [Blosc(typesize=dtype.itemsize)]}


def import_effects(
    table: pd.DataFrame, sequences: pd.DataFrame | None = None, *, n_members: int | None = None
) -> xr.Dataset:
    """Turn a table of variant effects from elsewhere into variant effects.

    Parameters
    ----------
    table : pd.DataFrame
        One row a substitution and feature, in any order. Names are text: read a CSV with
        ``dtype={"sequence_id": str, "feature": str}, keep_default_na=False``, so that NA and 1.0
        stay what they are. The columns are

        ``sequence_id``
            Which sequence.
        ``position``
            Where in it, 0-based: the first base of the sequence is 0, the last L - 1.
        ``reference``, ``alternate``
            Two different bases of A, C, G, T.
        ``feature``
            Name of the predicted feature. Every substitution needs all features.
        ``effect``
            Prediction for the alternate minus prediction for the reference.
        ``se``, optional
            Standard error of the effect, 0 or more; NaN with a NaN effect, for a missing one. With
            ``n_members`` the standard deviation over members. Without it, or where all are NaN,
            effects have no standard errors, and what is made of them no intervals.
        ``reference_prediction``, optional
            Prediction for the unchanged sequence, the same for all its substitutions.

        as `effects_table` gives them. What ``effects.to_dataframe()`` gives is taken, too: its
        ``sequence`` and ``allele`` are ``sequence_id`` and ``alternate``, and its rows of reference
        bases, which have no effect, are left out.
    sequences : pd.DataFrame, optional
        Sequence table, whose ``sequence_id``, ``sequence`` (of one length) and, where they exist,
        ``chrom``, ``start``, ``end``, ``strand`` say which sequences were analysed; references are
        checked against it. Without it sequences stand in order of appearance, end at the last
        position in the table, and have unknown bases N where the table has no row; positions that
        look like coordinates on a chromosome are refused.
    n_members : int, optional
        The effect is the mean of so many members, and ``se`` the standard deviation (ddof 1) over
        them, as in `effects_table`: the standard error of the effect is ``se / sqrt(n_members)``.

    Returns
    -------
    xr.Dataset
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` gives it: substitutions that the table
        does not have are NaN, and so are unknown reference predictions. Where a table lists few
        substitutions of many long sequences, positions that it lists for none are left out, as
        `saturation_mutagenesis` does for positions that are not mutated.

    Raises
    ------
    ValueError
        If a column is missing, a value is malformed (see above), a substitution is listed twice
        or lacks a feature, references disagree with each other or with ``sequences``, or two
        identifiers are the same as text (1 and "1"). Says so where positions look 1-based, of the
        chromosome, or of the other strand.
    """
    if n_members is not None:
        n_members = check_number("n_members", n_members, low=2, whole=True)
    table = _check_table(_with_one_set_of_names(table))
    ids, codes = _references(table, sequences)
    features = table["feature"].drop_duplicates().tolist()
    shown = np.arange(codes.shape[1])
    if codes.size * len(ALPHABET) * len(features) > MAX_EMPTY + 100 * len(table):
        shown = np.unique(table["position"])  # nearly all others would be empty
    codes = codes[:, shown]
    at = (
        pd.Index(ids).get_indexer(table["sequence_id"]),
        np.searchsorted(shown, table["position"]),
        pd.Index(list(ALPHABET)).get_indexer(table["alternate"]),
        pd.Index(features).get_indexer(table["feature"]),
    )
    effect = np.full((*codes.shape, len(ALPHABET), len(features)), np.nan)
    se, prediction = effect.copy(), np.full((len(ids), len(features)), np.nan)
    effect[at], se[at] = table["effect"], table["se"]
    if "reference_prediction" in table.columns:
        prediction[at[0], at[3]] = table["reference_prediction"]
    data = {"effect": effect, "se": se, "reference_prediction": prediction}
    coordinates = {
        "sequence": ids,
        "position": shown,
        "allele": list(ALPHABET),
        "feature": features,
        "reference": (("sequence", "position"), np.array(list(ALPHABET + "N"))[codes]),
    }
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "model_hash": "unknown",
        "dropout_seed": "none",
        "calibration": "unknown",
        "versions": "imported",
    }
    if n_members is not None:
        attributes["n_members"] = n_members
    return xr.Dataset(
        {name: (DIMENSIONS[name], array) for name, array in data.items()},
        coordinates if sequences is None else coordinates | _regions(sequences),
        attributes,
    )


def _regions(sequences: pd.DataFrame) -> dict[str, tuple[str, np.ndarray]]:
    """Coordinates that say where sequences come from; names of chromosomes are text."""
    coordinates = {}
    for name in ("chrom", "start", "end", "strand"):
        if name in sequences.columns:
            values = sequences[name].to_numpy()
            number = name in ("start", "end") and values.dtype.kind in "iu"
            coordinates[name] = ("sequence", values if number else values.astype(str))
    return coordinates


def effects_table(effects: xr.Dataset) -> pd.DataFrame:
    """Turn variant effects into a table, which `import_effects` turns back.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, position, reference, alternate, feature, effect, se`` and
        ``reference_prediction``, one row a substitution that has an effect and feature. ``se`` is
        the standard deviation over members; their number, ``effects.attrs["n_members"]``, is no
        column: it is to be given to `import_effects`.
    """
    names = [*EFFECT_COLUMNS, "reference_prediction"]
    table = effects[[name for name in names if name in effects.data_vars]].to_dataframe()
    table = _with_one_set_of_names(table).dropna(subset=["effect"])
    return table[[name for name in names if name in table.columns]].reset_index(drop=True)


def _with_one_set_of_names(table: pd.DataFrame) -> pd.DataFrame:
    """A table of effects under the names of `EFFECT_COLUMNS`, without rows of no substitution."""
    require(table, (), "an effect table")
    table = table.reset_index() if table.index.nlevels > 1 else table
    old = {o: n for o, n in OTHER_NAMES.items() if o in table.columns and n not in table.columns}
    table = table.rename(columns=old)
    if "se" not in table.columns:  # effects of a single network, for instance
        table = table.assign(se=np.nan)
    require(table, EFFECT_COLUMNS, "an effect table")
    changed = (table["reference"] != "N") & (table["reference"] != table["alternate"])
    kept = changed | table["effect"].notna() | table["se"].notna()
    return table[kept] if old else table


def _check_table(table: pd.DataFrame) -> pd.DataFrame:
    """Effects with checked values, bases in upper case and whole positions."""
    table = table.reset_index(drop=True)
    for name in ("sequence_id", "feature"):
        hint = ". Where one is called NA, read the CSV with keep_default_na=False"
        check_rows(table, table[name].isna(), f"every row needs a {name}", name, hint=hint)
        table[name] = distinct_text(table, name)
    table["position"] = whole_numbers(table, "position", "0-based")
    for name in ("reference", "alternate"):
        table[name] = table[name].astype(str).str.upper()
        unknown = ~table[name].isin(list(ALPHABET))
        check_rows(table, unknown, f"{name} must be one of A, C, G, T", name)
    same = table["reference"] == table["alternate"]
    check_rows(table, same, "reference and alternate must differ", "reference", "alternate")
    twice = table.duplicated(KEY)
    check_rows(table, twice, "a substitution may be listed once a feature", *KEY)

    predicted = "reference_prediction" in table.columns
    for name in ("effect", "se", *["reference_prediction"] * predicted):
        table[name] = numbers(table[name], name)
        check_rows(table, np.isinf(table[name]), f"{name} must be finite", name)
    check_rows(table, table["se"] < 0, "se must be 0 or more", "se")
    half = (table["effect"].isna() != table["se"].isna()) & table["se"].notna().any()
    check_rows(table, half, "effect and se must be NaN together", "effect", "se")

    features = table["feature"].unique()
    fewer = table.groupby(KEY[:3])["feature"].transform("size") < len(features)
    rule = f"every substitution needs all features ({', '.join(features)})"
    check_rows(table, fewer, rule, *KEY[:3])
    if predicted:
        of_one = ["sequence_id", "feature"]
        groups = table.groupby(of_one)["reference_prediction"]
        differs = table["reference_prediction"] != groups.transform("first")
        differs &= groups.transform("count") > 0  # not given at all is given alike
        rule = "reference_prediction must be the same for all substitutions of a sequence"
        check_rows(table, differs, rule, *of_one, "reference_prediction")
    return table


def _references(
    table: pd.DataFrame, sequences: pd.DataFrame | None
) -> tuple[list[str], np.ndarray]:
    """Identifiers and base codes (S, L) of the analysed sequences, which the table must fit."""
    if sequences is None:
        ids, codes = _unknown_sequences(table)
    else:
        require(sequences, ("sequence_id", "sequence"), "sequences")
        odd = sequences["sequence_id"].isna() | sequences["sequence_id"].duplicated()
        rule = "each of sequences needs a sequence_id of its own"
        check_rows(sequences, odd, rule, "sequence_id")
        ids = distinct_text(sequences, "sequence_id").tolist()
        codes = encode(sequences["sequence"])
    row, position = pd.Index(ids).get_indexer(table["sequence_id"]), table["position"].to_numpy()
    alleles = encode(table["reference"])[:, 0]
    hint = "" if sequences is None else _hint(sequences, codes, row, position, alleles)
    beyond = pd.Series((row < 0) | (position >= codes.shape[1]))
    rule = f"sequences has {len(ids)} of {codes.shape[1]} bases, and no such place"
    check_rows(table, beyond, rule, "sequence_id", "position", hint=hint)
    if sequences is None:
        codes[row, position] = alleles
    found = table.assign(found=decode(codes[row, position][:, None]))
    rule = (
        f"reference must be the base found in {'another row' if sequences is None else 'sequences'}"
        " (are positions 0-based, on the same strand?)"
    )
    columns = ("sequence_id", "position", "reference", "found")
    check_rows(found, found["found"] != found["reference"], rule, *columns, hint=hint)
    return ids, codes


def _unknown_sequences(table: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Identifiers of a table's sequences, and unknown bases up to its last position."""
    ids, last = table["sequence_id"].drop_duplicates().tolist(), int(table["position"].max())
    listed = len(table[["sequence_id", "position"]].drop_duplicates())
    if len(ids) * (last + 1) > MAX_UNLISTED + 100 * listed:
        raise ValueError(
            f"position must count within the sequence; got {last} in a table of {len(ids)} "
            "sequences: subtract the start where it is a coordinate on a chromosome (positions "
            f"are 0-based within a sequence, and {listed} are listed). Where sequences are that "
            "long, give sequences"
        )
    return ids, np.full((len(ids), last + 1), UNKNOWN, dtype=np.uint8)


def _hint(
    sequences: pd.DataFrame,
    codes: np.ndarray,
    row: np.ndarray,
    position: np.ndarray,
    alleles: np.ndarray,
) -> str:
    """What positions look like if they are not 0-based: where all references agree then."""
    length = codes.shape[1]
    ways = {
        "The references agree at position - 1: positions look 1-based, subtract 1": position - 1,
        "The references agree on the other strand: count from its end": length - 1 - position,
    }
    if "start" in sequences.columns and pd.api.types.is_integer_dtype(sequences["start"]):
        within = position - sequences["start"].to_numpy()[row]
        ways["Positions look like those of a chromosome: subtract start"] = within
        ways["Positions look 1-based and of a chromosome: subtract start + 1"] = within - 1
    for words, place in ways.items():
        bases = len(ALPHABET) - 1 - alleles if "strand" in words else alleles
        inside = (row >= 0) & (place >= 0) & (place < length)
        if inside.all() and (codes[row, place] == bases).all():
            return f". {words}"
    one_based = position.min() >= 1 and (position == length).any()
    return ". Positions look 1-based: the first base is position 0" if one_based else ""


def export_twosamplemr(
    instruments: pd.DataFrame,
    path: str | Path | None = None,
    *,
    exposure: str | None = None,
    outcome: str | None = None,
) -> pd.DataFrame:
    """Give instruments the columns of harmonised data in R's TwoSampleMR.

    Parameters
    ----------
    instruments : pd.DataFrame
        As `deepmr_utils.instruments.select_instruments` gives it, for one pair of features.
    path : path, optional
        Also write the table there, as CSV with missing values and logicals as R spells them.
    exposure, outcome : str, optional
        Names of the features; by default those in ``instruments.attrs``.

    Returns
    -------
    pd.DataFrame
        One row an instrument: ``SNP`` (``<sequence_id>:<position>:<reference>><alternate>``), for
        exposure and outcome alike ``exposure``, ``id.exposure`` (``<sequence_id>|<exposure>``),
        ``effect_allele.exposure`` (the alternate), ``other_allele.exposure`` (the reference),
        ``beta.exposure``, ``se.exposure``, ``pval.exposure`` (two-sided, normal),
        ``eaf.exposure`` and ``samplesize.exposure`` (NaN: a model has no population), and
        ``mr_keep``. Sequences without instruments have no row.

    Raises
    ------
    ValueError
        If a column or a feature's name is missing, an instrument is listed twice, and for malformed
        values as `deepmr_utils.mr.estimate`.

    Notes
    -----
    Read it in R and hand it to ``mr()``, which gives one estimate a sequence, the identifiers being
    those of a sequence::

        library(TwoSampleMR)
        mr(read.csv("instruments.csv"), method_list = c("mr_ivw", "mr_egger_regression"))

    Both effects are those of the alternate allele on the sequence's own strand, so there is nothing
    to harmonise; ``harmonise_data()`` would drop palindromic substitutions for want of frequencies.
    """
    local_mr(instruments, "ivw")  # checks columns, values and repeated rows
    ids, position = distinct_text(instruments, "sequence_id"), instruments["position"].astype(str)
    reference, alternate = (
        instruments[name].astype(str).str.upper() for name in ("reference", "alternate")
    )
    table = {"SNP": ids + ":" + position + ":" + reference + ">" + alternate}
    for role, name in (("exposure", exposure), ("outcome", outcome)):
        name = name if name is not None else instruments.attrs.get(role)
        if name is None:
            raise ValueError(
                f"the {role} needs a name, which the table has lost: give {role}='...'"
            )
        beta, se = (numbers(instruments[f"{n}_{role}"], f"{n}_{role}") for n in ("beta", "se"))
        table |= {
            role: name,
            f"id.{role}": ids + f"|{name}",
            f"effect_allele.{role}": alternate,
            f"other_allele.{role}": reference,
            f"beta.{role}": beta,
            f"se.{role}": se,
            f"pval.{role}": 2 * scipy.stats.norm.sf(np.abs(beta / se)),
            f"eaf.{role}": np.nan,
            f"samplesize.{role}": np.nan,
        }
    table["mr_keep"] = ~np.isnan(table["beta.exposure"])
    exported = pd.DataFrame(table).reset_index(drop=True)
    if path is not None:
        # R's read.csv takes TRUE for a logical, but not Python's True
        logical = exported["mr_keep"].map({True: "TRUE", False: "FALSE"})
        exported.assign(mr_keep=logical).to_csv(path, index=False, na_rep="NA")
    return exported
