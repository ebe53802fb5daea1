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
from scipy.special import expit

from deepmr_utils._checks import check_choice
from deepmr_utils._files import text_lines

COLUMNS = ["index", "cell", "target", "treatment", "name"]
ACCESSIBILITY = "DNase"
_NO_FACTOR = re.compile(r"H[234][AB]?[KZ.].*|H2A.*|DNase|Control|NA")


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
    features: pd.DataFrame, *, cell: str | None = None, target: str | None = None,
    treatment: str | None = None, index: int | Sequence[int] | None = None,
) -> pd.DataFrame:  # fmt: skip
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
    wanted = {column: value for column, value in wanted.items() if value is not None}
    for column, value in wanted.items():
        kept &= (features[column].map(_without_case) == _without_case(value)).to_numpy()
    if index is not None:
        beyond = sorted(set(np.atleast_1d(index).tolist()) - set(features["index"]))
        if beyond:
            raise ValueError(f"no feature has the index {beyond[0]}: there are {len(features)}")
        kept &= features["index"].isin(np.atleast_1d(index)).to_numpy()
    if not kept.any():
        same_cell = features["cell"].map(_without_case) == _without_case(cell or "")
        others = features[same_cell] if cell else features
        targets = ", ".join(sorted(others["target"].unique())[:12])
        raise ValueError(
            f"no feature is {wanted | ({} if index is None else {'index': index})}: targets are "
            f"for instance {targets or 'none, as the cell is unknown'}"
        )
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


def _without_case(text: str) -> str:
    return text.replace("-", "").casefold()


@dataclass(frozen=True)
class Scale:
    """A scale for effects, as a ``transform`` of predicted logits (M, n, K).

    Of `deepmr_utils.mutagenesis.saturation_mutagenesis`, for networks that give logits. ``slope``
    and ``intercept`` are those of Platt scaling.
    """

    name: str = "logit"
    slope: tuple[float, ...] | float = 1.0
    intercept: tuple[float, ...] | float = 0.0

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Values on the scale, of the type of the logits."""
        values = logits * np.asarray(self.slope) + np.asarray(self.intercept)
        return (values if self.name == "logit" else expit(values)).astype(logits.dtype)


def effect_scale(
    name: str = "logit", *, slope: ArrayLike = 1.0, intercept: ArrayLike = 0.0
) -> Scale:
    """Scale on which effects are taken.

    Parameters
    ----------
    name : {"logit", "probability"}
        The published study took differences of probabilities. Those of logits do not saturate.
    slope, intercept : array_like, float (K,)
        Of Platt scaling, see `deepmr_utils.calibration.fit_platt_features`.

    Raises
    ------
    ValueError
        If the scale is unknown.
    """
    check_choice("scale", name, ("logit", "probability"))
    parts = (np.asarray(part, float).tolist() for part in (slope, intercept))
    return Scale(name, *(tuple(part) if isinstance(part, list) else part for part in parts))
