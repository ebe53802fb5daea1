"""What DeepSEA's outputs are: their names, how to choose among them, and scales for effects.

Names are ``cell|target|treatment`` and repeat, so that the index of an output identifies it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from deepmr_utils._files import text_lines
from deepmr_utils.models import downloads

from .. import DATA

COLUMNS = ["index", "cell", "target", "treatment", "name"]
SCALES = ("probability", "logit", "normalised")
PRIOR = 0.05  # share of positives that published normalised probabilities assume
ACCESSIBILITY = "DNase"
_NO_FACTOR = re.compile(r"H[234][AB]?[KZ.].*|H2A.*|DNase|Control|NA")


def fetch_features(folder: str | Path | None = None) -> pd.DataFrame:
    """Download the names of the 919 published outputs, checked, or find them again.

    Parameters
    ----------
    folder : path, optional
        As in `deepmr_utils.models.downloads.fetch`, whose errors are raised.

    Returns
    -------
    pd.DataFrame
        As `read_features`.
    """
    return read_features(downloads.fetch("predictor.names", folder))


def read_features(path: str | Path) -> pd.DataFrame:
    """Read the names of outputs, one a line, in their order.

    Parameters
    ----------
    path : path
        Lines ``cell|target|treatment``; ``NA`` stands for what is not known, ``None`` for none.

    Returns
    -------
    pd.DataFrame
        One row an output: ``index`` (0-based), ``cell``, ``target``, ``treatment`` ("" where there
        is none), and ``name``, distinct, with the index before the rest.

    Raises
    ------
    ValueError
        If a line does not have three parts.
    """
    lines = [line for _, line in text_lines(path)]
    parts = [[part.strip() for part in line.split("|")] for line in lines]
    for number, (line, part) in enumerate(zip(lines, parts, strict=True), 1):
        if len(part) != 3 or not all(part):
            raise ValueError(
                f"{path}, line {number}: a feature is cell|target|treatment; got {line!r}"
            )
    if not lines:
        raise ValueError(f"{path} names no feature")
    table = pd.DataFrame(parts, columns=["cell", "target", "treatment"])
    table["treatment"] = table["treatment"].replace("None", "")
    names = table["cell"] + " " + table["target"] + " " + table["treatment"]
    table.insert(0, "index", range(len(table)))
    table["name"] = table["index"].astype(str) + " " + names.str.strip()
    return table


def select_features(
    features: pd.DataFrame,
    *,
    cell: str | None = None,
    target: str | None = None,
    treatment: str | None = None,
    index: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """Rows of a table of features that are all of what is asked for.

    Parameters
    ----------
    features : pd.DataFrame
        Of `read_features`.
    cell, target : str, optional
        Compared without regard to case and hyphens: USF1 is USF-1.
    treatment : str, optional
        "" for none.
    index : int or sequence of int, optional

    Returns
    -------
    pd.DataFrame
        The columns of `read_features`.

    Raises
    ------
    ValueError
        If there is none.
    """
    kept = np.ones(len(features), bool)
    wanted = {"cell": cell, "target": target, "treatment": treatment}
    for column, value in wanted.items():
        if value is not None:
            kept &= (features[column].map(_plain) == _plain(value)).to_numpy()
    if index is not None:
        numbers = np.atleast_1d(index)
        beyond = [int(i) for i in numbers if i not in set(features["index"])]
        if beyond:
            raise ValueError(f"no feature has the index {beyond[0]}: there are {len(features)}")
        kept &= features["index"].isin(numbers).to_numpy()
    if not kept.any():
        asked = {k: v for k, v in (wanted | {"index": index}).items() if v is not None}
        others = (
            features if cell is None else features[features["cell"].map(_plain) == _plain(cell)]
        )
        targets = (
            ", ".join(sorted(others["target"].unique())[:12]) or "none, as the cell is unknown"
        )
        raise ValueError(f"no feature is {asked}: targets are for instance {targets}")
    return features[kept]


def select_feature(features: pd.DataFrame, **wanted: str | int | None) -> pd.Series:
    """The one row that is all of what is asked for, see `select_features`.

    Raises
    ------
    ValueError
        If there is none, or more than one: then it lists their indices.
    """
    found = select_features(features, **wanted)
    if len(found) > 1:
        listed = "; ".join(found["name"])
        raise ValueError(f"{len(found)} features are {wanted} ({listed}): say which by index")
    return found.iloc[0]


def select_factors(features: pd.DataFrame, cell: str) -> pd.DataFrame:
    """Profiles of proteins on DNA in one cell: all but DNase, histones, controls and unknown ones.

    A factor that was measured more than once has several rows.
    """
    rows = select_features(features, cell=cell)
    return rows[~rows["target"].str.fullmatch(_NO_FACTOR)]


def _plain(text: str) -> str:
    return text.replace("-", "").casefold()


def positive_shares(features: pd.DataFrame) -> pd.Series:
    """Share of positives in training, by index of the feature.

    Parameters
    ----------
    features : pd.DataFrame
        Of `read_features`.

    Returns
    -------
    pd.Series
        NaN where it is not known: published are those of 47 profiles in HepG2, without indices, so
        that where a factor was measured more than once it is not known which share is whose.
    """
    path = DATA / "published_positive_shares.csv"
    published = pd.read_csv(path, keep_default_na=False, dtype={"positive_share": float})
    keys = ["cell", "target", "treatment"]
    there, here = ({k: t[k].map(_plain) for k in keys} for t in (published, features))
    there = pd.DataFrame(there).assign(share=published["positive_share"])
    here = pd.DataFrame(here).assign(index=features["index"])
    there, here = (table[~table.duplicated(keys, keep=False)] for table in (there, here))
    known = here.merge(there, on=keys).set_index("index")["share"]
    return known.reindex(features["index"]).rename("positive_share")


def normalised_probability(
    probability: ArrayLike, share: ArrayLike, prior: float = PRIOR
) -> np.ndarray:
    """What probabilities would be if positives had another share than in training.

    Parameters
    ----------
    probability : array_like, float (..., K)
    share : array_like, float (K,)
        Share c of positives in training.
    prior : float
        The share that is assumed instead.

    Returns
    -------
    np.ndarray, float (..., K)

    Notes
    -----
    By Bayes' rule the odds are the likelihood ratio times the prior odds, of which only the latter
    change: ``logit(P') = logit(P) + logit(prior) - logit(c)``. Effects on the logit scale do not.
    """
    return expit(logit(probability) + _shift(share, prior))


def _shift(share: ArrayLike, prior: float) -> np.ndarray:
    share = np.asarray(share, float)
    wrong = ~((share > 0) & (share < 1))
    if wrong.any() or not 0 < prior < 1:
        raise ValueError(
            f"shares of positives must lie in (0, 1); got {share[wrong][:3]} and prior {prior}. "
            "Where a share is not known there is no normalised probability: use the logit scale"
        )
    return logit(prior) - logit(share)


@dataclass(frozen=True)
class Scale:
    """A scale for effects, as a ``transform`` of predicted logits (M, n, K).

    Of `deepmr_utils.mutagenesis.saturation_mutagenesis`, for networks that give logits. ``slope``
    and ``intercept`` are those of Platt scaling, ``shift`` that of normalised probabilities.
    """

    name: str = "logit"
    slope: tuple[float, ...] | float = 1.0
    intercept: tuple[float, ...] | float = 0.0
    shift: tuple[float, ...] | float = 0.0

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Values on the scale, of the type of the logits."""
        values = logits * np.asarray(self.slope) + np.asarray(self.intercept)
        values = values if self.name == "logit" else expit(values + np.asarray(self.shift))
        return values.astype(logits.dtype)


def effect_scale(
    name: str = "logit",
    *,
    shares: ArrayLike | None = None,
    slope: ArrayLike = 1.0,
    intercept: ArrayLike = 0.0,
) -> Scale:
    """Scale on which effects are taken.

    Parameters
    ----------
    name : {"logit", "probability", "normalised"}
        The published study took differences of probabilities. Those of logits do not saturate.
    shares : array_like, float (K,)
        For "normalised", see `normalised_probability`; `positive_shares` of the features.
    slope, intercept : array_like, float (K,)
        Of Platt scaling, see `deepmr_utils.calibration.fit_platt_features`.

    Raises
    ------
    ValueError
        If the scale is unknown, or a share is.
    """
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}: choose from {', '.join(SCALES)}")
    if name == "normalised" and shares is None:
        raise ValueError("normalised probabilities need the features' shares of positives")
    shift = _shift(shares, PRIOR) if name == "normalised" else 0.0
    parts = (np.asarray(part, float).tolist() for part in (slope, intercept, shift))
    return Scale(name, *(tuple(part) if isinstance(part, list) else part for part in parts))
