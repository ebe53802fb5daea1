"""Effects from elsewhere in, instruments for R out."""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from ._checks import check_rows, distinct_text, is_missing, numbers, require, whole_numbers
from .mr import local_mr
from .mutagenesis import SCHEMA_VERSION
from .sequences import ALPHABET, UNKNOWN, decode, encode

UNKNOWN_BASE = "N"
EFFECT_COLUMNS = ["sequence_id", "position", "reference", "alternate", "feature", "effect", "se"]
# as the dimensions of variant effects are called, and so columns of their `to_dataframe()`
OTHER_NAMES = {"sequence": "sequence_id", "allele": "alternate"}
KEY = ["sequence_id", "position", "alternate", "feature"]
# without sequences: more positions than this, and than a hundred times those in the table, are
# coordinates on a chromosome
MAX_UNLISTED = 100_000
MAX_EMPTY = 2_000_000  # so many effects may be NaN for want of a row: 32 MB
REGION_COLUMNS = ("chrom", "start", "end", "strand")


def import_effects(
    table: pd.DataFrame,
    sequences: pd.DataFrame | None = None,
    *,
    n_members: int | None = None,
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
        ``se``
            Standard error of the effect, 0 or more; NaN with a NaN effect, for a missing one.
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
        Number of models or draws that the standard errors come from, for the record.

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
    table = _with_one_set_of_names(table)
    require(table, EFFECT_COLUMNS, "an effect table")
    table = _check_table(table)
    ids, codes = _references(table, sequences)
    features = table["feature"].drop_duplicates().tolist()
    shown = _shown(table, codes, len(features))
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
    dims = ("sequence", "position", "allele", "feature")
    coordinates = {
        "sequence": ids,
        "position": shown,
        "allele": list(ALPHABET),
        "feature": features,
        "reference": (("sequence", "position"), np.array(list(ALPHABET + "N"))[codes]),
    }
    coordinates |= {} if sequences is None else _regions(sequences)
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "model_hash": "unknown",
        "dropout_seed": "none",
        "calibration": "unknown",
        "versions": "imported",
    }
    if n_members is not None:
        attributes["n_members"] = n_members
    data = {
        "effect": (dims, effect),
        "se": (dims, se),
        "reference_prediction": (("sequence", "feature"), prediction),
    }
    return xr.Dataset(data, coordinates, attributes)


def _shown(table: pd.DataFrame, codes: np.ndarray, n_features: int) -> np.ndarray:
    """Positions of the data set: all, or those in the table where nearly all would be empty."""
    cells = codes.size * len(ALPHABET) * n_features
    if cells <= MAX_EMPTY + 100 * len(table):
        return np.arange(codes.shape[1])
    return np.unique(table["position"])


def _regions(sequences: pd.DataFrame) -> dict[str, tuple[str, np.ndarray]]:
    """Coordinates that say where sequences come from; names of chromosomes are text."""
    coordinates = {}
    for name in REGION_COLUMNS:
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
        ``reference_prediction``, one row a substitution that has an effect and feature.
    """
    names = ["effect", "se", "reference", "reference_prediction"]
    table = effects[[name for name in names if name in effects.variables]].to_dataframe()
    table = _with_one_set_of_names(table).dropna(subset=["effect"])
    columns = [name for name in (*EFFECT_COLUMNS, names[-1]) if name in table.columns]
    return table[columns].reset_index(drop=True)


def _with_one_set_of_names(table: pd.DataFrame) -> pd.DataFrame:
    """A table of effects under the names of `EFFECT_COLUMNS`, without rows of no substitution."""
    if isinstance(table, pd.DataFrame) and table.index.nlevels > 1:
        table = table.reset_index()
    old = {o: n for o, n in OTHER_NAMES.items() if o in table.columns and n not in table.columns}
    if not old:
        return table
    table = table.rename(columns=old)
    require(table, EFFECT_COLUMNS, "an effect table")
    unchanged = (table["alternate"] == table["reference"]) | (table["reference"] == UNKNOWN_BASE)
    return table[~unchanged | table["effect"].notna() | table["se"].notna()]


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

    for name in ("effect", "se", "reference_prediction"):
        if name in table.columns:
            number = pd.to_numeric(table[name], errors="coerce").astype(np.float64)
            missing = table[name].isna() | table[name].astype(str).map(is_missing)
            bad = (number.isna() & ~missing) | np.isinf(number)
            check_rows(table, bad, f"{name} must be a finite number", name)
            table[name] = number
    check_rows(table, table["se"] < 0, "se must be 0 or more", "se")
    half = table["effect"].isna() != table["se"].isna()
    check_rows(table, half, "effect and se must be NaN together", "effect", "se")

    features = table["feature"].unique()
    fewer = table.groupby(KEY[:3])["feature"].transform("size") < len(features)
    rule = f"every substitution needs all features ({', '.join(features)})"
    check_rows(table, fewer, rule, *KEY[:3])
    if "reference_prediction" in table.columns:
        groups = table.groupby(["sequence_id", "feature"])["reference_prediction"]
        rule = "reference_prediction must be the same for all substitutions of a sequence"
        differs = table["reference_prediction"] != groups.transform("first")
        differs &= groups.transform("count") > 0  # not given at all is given alike
        check_rows(table, differs, rule, "sequence_id", "feature", "reference_prediction")
    return table


def _references(
    table: pd.DataFrame, sequences: pd.DataFrame | None
) -> tuple[list[str], np.ndarray]:
    """Identifiers and base codes (S, L) of the analysed sequences."""
    if sequences is None:
        ids, codes = _unknown_sequences(table)
    else:
        require(sequences, ("sequence_id", "sequence"), "sequences")
        missing = sequences["sequence_id"].isna()
        check_rows(sequences, missing, "sequences needs a sequence_id a row", "sequence_id")
        twice = sequences["sequence_id"].duplicated()
        check_rows(sequences, twice, "sequence_id of sequences must be unique", "sequence_id")
        ids = distinct_text(sequences, "sequence_id").tolist()
        codes = encode(sequences["sequence"])
    row, position = pd.Index(ids).get_indexer(table["sequence_id"]), table["position"].to_numpy()
    alleles = encode(table["reference"])[:, 0]
    hint = "" if sequences is None else _hint(sequences, codes, row, position, alleles)
    for bad, what in ((row < 0, "no such sequence"), (position >= codes.shape[1], "no such base")):
        rule = f"sequences has {len(ids)} of {codes.shape[1]} bases, and {what}"
        check_rows(table, pd.Series(bad), rule, "sequence_id", "position", hint=hint)
    if sequences is None:
        codes[row, position] = alleles
    found = table.assign(found=decode(codes[row, position][:, None]))
    rule = (
        f"reference must be the base found in {'another row' if sequences is None else 'sequences'}"
        " (are positions 0-based, on the same strand?)"
    )
    differs = found["found"] != found["reference"]
    columns = ("sequence_id", "position", "reference", "found")
    check_rows(found, differs, rule, *columns, hint=hint)
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
    ids = distinct_text(instruments, "sequence_id")
    position = instruments["position"].astype(str)
    reference, alternate = (
        instruments[name].astype(str).str.upper() for name in ("reference", "alternate")
    )
    snp = ids + ":" + position + ":" + reference + ">" + alternate
    table = {"SNP": snp}
    for role, name in (("exposure", exposure), ("outcome", outcome)):
        name = name if name is not None else instruments.attrs.get(role)
        if name is None:
            raise ValueError(
                f"the {role} needs a name, which the table has lost: give {role}='...'"
            )
        beta, se = (numbers(instruments[f"{n}_{role}"], f"{n}_{role}") for n in ("beta", "se"))
        columns = {
            "": name,
            "id.": ids + f"|{name}",
            "effect_allele.": alternate,
            "other_allele.": reference,
            "beta.": beta,
            "se.": se,
            "pval.": 2 * scipy.stats.norm.sf(np.abs(beta / se)),
            "eaf.": np.nan,
            "samplesize.": np.nan,
        }
        table |= {f"{prefix}{role}": values for prefix, values in columns.items()}
    table["mr_keep"] = ~np.isnan(table["beta.exposure"])
    exported = pd.DataFrame(table).reset_index(drop=True)
    if path is not None:
        # R's read.csv takes TRUE for a logical, but not Python's True
        logical = exported["mr_keep"].map({True: "TRUE", False: "FALSE"})
        exported.assign(mr_keep=logical).to_csv(path, index=False, na_rep="NA")
    return exported
