"""Effects from elsewhere in, instruments for R out."""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from .mr import EFFECTS, INSTRUMENT_COLUMNS, check_effects
from .mutagenesis import SCHEMA_VERSION
from .sequences import ALPHABET, UNKNOWN, decode, encode

EFFECT_COLUMNS = ["sequence_id", "position", "reference", "alternate", "feature", "effect", "se"]
KEY = ["sequence_id", "position", "alternate", "feature"]
MAX_BASES = 100_000_000  # more than that, in all sequences, is a coordinate on a chromosome
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
        One row a substitution and feature, in any order, with the columns

        ``sequence_id``
            Which sequence.
        ``position``
            Where in it, 0-based.
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
    sequences : pd.DataFrame, optional
        Sequence table, whose ``sequence_id``, ``sequence`` (of one length) and, where they exist,
        ``chrom``, ``start``, ``end``, ``strand`` say which sequences were analysed; references are
        checked against it. Without it sequences stand in order of appearance, end at the last
        position in the table, and have unknown bases N where the table has no row.
    n_members : int, optional
        Number of models or draws that the standard errors come from, for the record.

    Returns
    -------
    xr.Dataset
        As `deepmr_utils.mutagenesis.saturation_mutagenesis` gives it: substitutions that the table
        does not have are NaN, and so are unknown reference predictions.

    Raises
    ------
    ValueError
        If a column is missing, a value is malformed (see above), a substitution is listed twice
        or lacks a feature, or references disagree with each other or with ``sequences``.
    """
    missing = [name for name in EFFECT_COLUMNS if name not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"an effect table needs the columns {EFFECT_COLUMNS} and at least one row; got "
            f"{list(table.columns)} and {len(table)} rows: rename or add {missing or 'rows'}"
        )
    table = _check_table(table)
    ids, codes = _references(table, sequences)
    features = table["feature"].drop_duplicates().tolist()
    at = (
        pd.Index(ids).get_indexer(table["sequence_id"]),
        table["position"].to_numpy(),
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
        "position": np.arange(codes.shape[1]),
        "allele": list(ALPHABET),
        "feature": features,
        "reference": (("sequence", "position"), np.array(list(ALPHABET + "N"))[codes]),
    }
    if sequences is not None:
        for name in REGION_COLUMNS:
            if name in sequences.columns:
                values = sequences[name].to_numpy()
                text = values.dtype.kind not in "iu"
                coordinates[name] = ("sequence", values.astype(str) if text else values)
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


def _check_table(table: pd.DataFrame) -> pd.DataFrame:
    """Effects with checked values, bases in upper case and whole positions."""
    table = table.reset_index(drop=True).copy()

    def check(bad: pd.Series, rule: str, *columns: str) -> None:
        if bad.any():
            row = table.iloc[int(bad.to_numpy().argmax())]
            got = ", ".join(f"{name} {row[name]}" for name in columns)
            raise ValueError(f"{rule}; row {row.name} has {got}")

    for name in ("sequence_id", "feature"):
        check(table[name].isna(), f"every row needs a {name}", name)
        table[name] = table[name].astype(str)
    position = pd.to_numeric(table["position"], errors="coerce")
    rule = "position must be a whole number, 0 or more (0-based)"
    check(~(position >= 0) | (position % 1 != 0), rule, "position")
    table["position"] = position.astype(np.int64)
    for name in ("reference", "alternate"):
        table[name] = table[name].astype(str).str.upper()
        check(~table[name].isin(list(ALPHABET)), f"{name} must be one of A, C, G, T", name)
    same = table["reference"] == table["alternate"]
    check(same, "reference and alternate must differ", "reference", "alternate")
    check(table.duplicated(KEY), "a substitution may be listed once a feature", *KEY)

    numbers = ["effect", "se", *({"reference_prediction"} & set(table.columns))]
    for name in numbers:
        number = pd.to_numeric(table[name], errors="coerce")
        check(number.isna() & table[name].notna(), f"{name} must be a number", name)
        check(np.isinf(number), f"{name} must be finite", name)
        table[name] = number.astype(np.float64)
    check(table["se"] < 0, "se must be 0 or more", "se")
    half = table["effect"].isna() != table["se"].isna()
    check(half, "effect and se must be NaN together", "effect", "se")

    counts = table.groupby(KEY[:3])["feature"].transform("size")
    features = table["feature"].unique().tolist()
    rule = f"every substitution needs all features ({', '.join(features)})"
    check(counts < len(features), rule, *KEY[:3])
    if "reference_prediction" in table.columns:
        groups = table.groupby(["sequence_id", "feature"])["reference_prediction"]
        rule = "reference_prediction must be the same for all substitutions of a sequence"
        differs = table["reference_prediction"] != groups.transform("first")
        differs &= groups.transform("count") > 0  # not given at all is given alike
        check(differs, rule, "sequence_id", "feature", "reference_prediction")
    return table


def _references(
    table: pd.DataFrame, sequences: pd.DataFrame | None
) -> tuple[list[str], np.ndarray]:
    """Identifiers and base codes (S, L) of the analysed sequences."""
    if sequences is None:
        ids, last = table["sequence_id"].drop_duplicates().tolist(), int(table["position"].max())
        if len(ids) * (last + 1) > MAX_BASES:
            raise ValueError(
                f"position must count within the sequence; got {last} in a table of {len(ids)} "
                "sequences: subtract the start where it is a coordinate on a chromosome"
            )
        codes = np.full((len(ids), last + 1), UNKNOWN, dtype=np.uint8)
    else:
        if not {"sequence_id", "sequence"} <= set(sequences.columns):
            raise ValueError(
                "sequences needs the columns sequence_id and sequence; got "
                f"{list(sequences.columns)}: rename or add them"
            )
        ids = sequences["sequence_id"].astype(str).tolist()
        if len(set(ids)) < len(ids):
            raise ValueError("sequence_id of sequences must be unique: remove the repeated rows")
        codes = encode(sequences["sequence"])
    row, position = pd.Index(ids).get_indexer(table["sequence_id"]), table["position"].to_numpy()
    unknown = row < 0
    beyond = position >= codes.shape[1]
    for bad, what in ((unknown, "no such sequence"), (beyond, "no such position")):
        if bad.any():
            first = table.iloc[int(np.argmax(bad))]
            raise ValueError(
                f"sequences has {what}: the table has position {first['position']} of "
                f"{first['sequence_id']!r}, sequences has {len(ids)} of {codes.shape[1]} bases"
            )
    alleles = encode(table["reference"])[:, 0]
    if sequences is None:
        codes[row, position] = alleles
    differs = codes[row, position] != alleles
    if differs.any():
        i = int(np.argmax(differs))
        there, first = decode(codes[row[i], position[i]].reshape(1, 1))[0], table.iloc[i]
        raise ValueError(
            f"reference must be the base of the sequence; row {i} has {first['reference']} at "
            f"position {position[i]} of {first['sequence_id']!r}, "
            + (f"sequences has {there}" if sequences is not None else f"another row has {there}")
            + ": are positions 0-based, and on the same strand?"
        )
    return ids, codes


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
    missing = [name for name in INSTRUMENT_COLUMNS if name not in instruments.columns]
    if missing:
        raise ValueError(
            f"an instrument table needs the columns {INSTRUMENT_COLUMNS}; {missing} missing from "
            f"{list(instruments.columns)}: rename or add them"
        )
    check_effects(*(instruments[name] for name in EFFECTS))
    ids = instruments["sequence_id"].astype(str)
    position, reference = instruments["position"].astype(str), instruments["reference"].astype(str)
    alternate = instruments["alternate"].astype(str)
    snp = ids + ":" + position + ":" + reference + ">" + alternate
    if snp.duplicated().any():
        raise ValueError(
            f"an instrument may be listed once; {snp[snp.duplicated()].iloc[0]!r} is there twice: "
            "export one exposure-outcome pair at a time"
        )
    table = {"SNP": snp}
    for role, name in (("exposure", exposure), ("outcome", outcome)):
        name = name if name is not None else instruments.attrs.get(role)
        if name is None:
            raise ValueError(
                f"the {role} needs a name, which the table has lost: give {role}='...'"
            )
        beta, se = instruments[f"beta_{role}"], instruments[f"se_{role}"]
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
    table["mr_keep"] = instruments["beta_exposure"].notna()
    exported = pd.DataFrame(table).reset_index(drop=True)
    if path is not None:
        # R's read.csv takes TRUE for a logical, but not Python's True
        logical = exported["mr_keep"].map({True: "TRUE", False: "FALSE"})
        exported.assign(mr_keep=logical).to_csv(path, index=False, na_rep="NA")
    return exported
