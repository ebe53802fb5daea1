"""One ensemble is one sample: what errors that exposure and outcome share do to their slope.

Members predict both features, so that their errors of both hang together. Here effects by member
are drawn with a known slope, and estimators are compared that know of this or do not; and the
errors of real ensembles are looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from deepmr_utils import mr
from deepmr_utils.instruments import select_instruments, site_dimensions
from deepmr_utils.intervals import leave_one_out
from deepmr_utils.meta import global_effects
from deepmr_utils.mr import local_mr
from deepmr_utils.mr.crossfit import cross_fit
from deepmr_utils.pairs import pair_effects, summarise

__all__ = [
    "after_selection", "draw", "error_correlations", "known", "of_members", "score",
    "weight_variances", "with_and_without",
]  # fmt: skip

PLAIN, CORRECTED, WRONG, CROSSED = "plain", "less c / M", "less c", "cross-fit"


class Drawn(NamedTuple):
    """Effects by member (M, S, V) on exposure and outcome; errors of a member have sd 1."""

    x: np.ndarray
    y: np.ndarray


def draw(
    strength: float, effect: float, correlation: float, *, members: int, datasets: int,
    instruments: int, seed: int,
) -> Drawn:  # fmt: skip
    """Draw effects whose slope is known, and whose errors exposure and outcome share.

    Parameters
    ----------
    strength : float
        F: the mean square of a mean exposure effect in units of a member's sd, at least
        ``1 / members``.
    effect : float
        Slope through the origin.
    correlation : float
        Of a member's two errors.
    members, datasets, instruments : int
    seed : int

    Returns
    -------
    Drawn
    """
    rng = np.random.default_rng(seed)
    true = rng.choice([-1.0, 1.0], (datasets, instruments)) * np.sqrt(strength - 1 / members)
    e, d = rng.normal(size=(2, members, datasets, instruments))
    d = correlation * e + np.sqrt(1 - correlation**2) * d
    return Drawn(true + e, effect * true + d)


def known(drawn: Drawn, correlation: float) -> pd.DataFrame:
    """Estimate from one member, whose error is its standard error, with and without covariance.

    Parameters
    ----------
    drawn : Drawn
        With one member.
    correlation : float
        As in `draw`.

    Returns
    -------
    pd.DataFrame
        ``estimator, estimate, half``, a row a data set and estimator; half a 95 % interval is the
        estimator's own.
    """
    x, y = drawn.x[0], drawn.y[0]
    ones, parts = np.ones_like(x), []
    for name, c in ((PLAIN, None), (CORRECTED, correlation * ones)):
        table = mr.estimate(x, ones, y, ones, "ivw", covariance=c, weights="equal")
        half = (table["ci_high"] - table["ci_low"]) / 2
        parts.append(_estimates(name, table["causal_effect"], half))
    return pd.concat(parts, ignore_index=True)


def of_members(drawn: Drawn, names: Sequence[str] = (PLAIN, CORRECTED, WRONG)) -> pd.DataFrame:
    """Estimate from the mean of members, with pseudo-values for intervals.

    Parameters
    ----------
    drawn : Drawn
        With three members or more.
    names : sequence of str
        `PLAIN`, `CORRECTED` by the covariance of the errors of means, or `WRONG`, by that of the
        errors of a member.

    Returns
    -------
    pd.DataFrame
        As `known`; half an interval of t over members, which are independent here.
    """
    m, (x, y) = len(drawn.x), drawn
    dx, dy = x - x.mean(0), y - y.mean(0)
    whole = [x.mean(0), y.mean(0), *((dx * d).sum(0) / (m - 1) / m for d in (dx, dy))]
    left_out = [a.reshape(x.shape) for a in leave_one_out(x.reshape(m, -1), y.reshape(m, -1))]
    parts = []
    for name in names:
        slope, rest = (
            _slope(*means, {PLAIN: 0, CORRECTED: 1, WRONG: n}[name])
            for means, n in ((whole, m), (left_out, m - 1))
        )
        parts.append(_estimates(name, slope, _half(m * slope - (m - 1) * rest)))
    return pd.concat(parts, ignore_index=True)


def after_selection(drawn: Drawn, threshold: float) -> tuple[pd.DataFrame, pd.Series]:
    """Estimate from instruments that the same members selected, or others (`cross_fit`).

    Parameters
    ----------
    drawn : Drawn
        With four members or more.
    threshold : float
        Instruments have a mean of that many standard deviations over members, at least.

    Returns
    -------
    tuple
        A table as `of_members` gives it, with the estimator "cross-fit"; and the mean number of
        instruments of the two ways, ``same members``, ``other members``.
    """
    x, y = drawn
    selected = np.abs(x.mean(0)) >= threshold * x.std(0, ddof=1)
    chosen = Drawn(np.where(selected, x, 0), np.where(selected, y, 0))
    ones = np.ones(selected.shape)
    slope, pseudo, count = cross_fit(x, y, ones, ones > 0, threshold)
    crossed = _estimates(CROSSED, slope, _half(pseudo))
    table = pd.concat([of_members(chosen, (PLAIN, CORRECTED)), crossed], ignore_index=True)
    counts = {"same members": selected.sum(1).mean(), "other members": count.mean()}
    return table, pd.Series(counts)


def _slope(
    x: np.ndarray, y: np.ndarray, var: np.ndarray, cov: np.ndarray, times: int
) -> np.ndarray:
    """Slopes of which the errors of means were taken away so many times."""
    return (x * y - times * cov).sum(-1) / (x * x - times * var).sum(-1)


def _half(pseudo: np.ndarray) -> np.ndarray:
    """Half a 95 % interval of independent members, from pseudo-values (M, S)."""
    members = len(pseudo)
    return stats.t.ppf(0.975, members - 1) * pseudo.std(0, ddof=1) / np.sqrt(members)


def _estimates(name: str, estimate: np.ndarray, half: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"estimator": name, "estimate": estimate, "half": half})


def score(estimates: pd.DataFrame, effect: float) -> pd.DataFrame:
    """Score estimates against the truth.

    Parameters
    ----------
    estimates : pd.DataFrame
        Of `known`, `of_members` or `after_selection`.
    effect : float

    Returns
    -------
    pd.DataFrame
        By estimator: ``bias, rmse, coverage`` of 95 % intervals and ``width``, their median.
    """
    error = estimates["estimate"] - effect
    wide = pd.DataFrame({
        "bias": error, "rmse": error**2, "coverage": error.abs() <= estimates["half"],
    })  # fmt: skip
    groups = wide.groupby(estimates["estimator"], sort=False)
    found = groups.mean().assign(rmse=lambda table: table["rmse"] ** 0.5)
    width = 2 * estimates.groupby("estimator", sort=False)["half"].median()
    return found.assign(width=width)


def weight_variances(
    members: int, *, effect: float, spread: float, datasets: int, instruments: int, seed: int
) -> pd.Series:  # fmt: skip
    """Variance of the slope by weights ``1 / s^2``, s over members, and by equal weights.

    Parameters
    ----------
    members : int
    effect : float
        Slope; exposure effects are known without error.
    spread : float
        Standard deviation of the logarithm of the true variances of instruments; 0 for equal ones.
    datasets, instruments : int
    seed : int

    Returns
    -------
    pd.Series
        ``simple``, ``equal``: variances over data sets; ``ratio``, the first over the second.
    """
    rng = np.random.default_rng([seed, members])
    x = rng.uniform(0.5, 1.5, (datasets, instruments))
    sd = np.exp(spread / 2 * rng.normal(size=x.shape))
    y = effect * x + sd * rng.normal(size=(members, *x.shape))
    se = y.std(0, ddof=1) / np.sqrt(members)
    found = {
        weights: mr.estimate(x, np.ones_like(x), y.mean(0), se, "ivw", weights=weights)
        for weights in ("simple", "equal")
    }
    variance = {name: table["causal_effect"].var() for name, table in found.items()}
    return pd.Series(variance | {"ratio": variance["simple"] / variance["equal"]})


def error_correlations(
    effects: xr.Dataset, allowed: xr.DataArray, pairs: list[tuple[str, str]]
) -> pd.DataFrame:
    """Correlation of the errors of two features over substitutions, as members show them.

    Parameters
    ----------
    effects : xr.Dataset
        With ``member_effect``.
    allowed : xr.DataArray
        Of `deepmr_utils.instruments.eligible`.
    pairs : list of (exposure, outcome)

    Returns
    -------
    pd.DataFrame
        By pair: ``all``, over all substitutions, ``instruments``, over those that `deep_mr` takes,
        and ``F``, their median of the squared exposure effect in units of the sd over members.
    """
    rows, dims = {}, ("member", *site_dimensions(effects))
    for x, y in pairs:
        own = effects["member_effect"].sel(feature=[x, y]).transpose("feature", *dims)
        own = own.to_numpy().reshape(2, effects.sizes["member"], -1).astype(float)
        own = own[..., np.isfinite(own).all((0, 1))]
        dx, dy = own - own.mean(1, keepdims=True)
        every = (dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum())
        table = select_instruments(effects, x, y, allowed=allowed)
        squares = (table["se_exposure"] ** 2).sum() * (table["se_outcome"] ** 2).sum()
        strength = (table["beta_exposure"] / table["sd_exposure"]) ** 2
        chosen = table["covariance"].sum() / np.sqrt(squares)
        rows[x, y] = {"all": every, "instruments": chosen, "F": strength.median()}
    return pd.DataFrame(rows).T.rename_axis(["exposure", "outcome"])


def with_and_without(
    effects: xr.Dataset, allowed: xr.DataArray, pairs: list[tuple[str, str]]
) -> pd.DataFrame:
    """Global effects of pairs, plain and corrected for errors that are shared.

    Parameters
    ----------
    effects, allowed, pairs
        As in `error_correlations`.

    Returns
    -------
    pd.DataFrame
        By pair: ``plain``, ``corrected`` and ``se``, the standard error of the latter.
    """
    found = pair_effects(effects, allowed, pairs)
    table, _ = summarise(found, ["exposure", "outcome"])
    table = table.set_index(["exposure", "outcome"])
    rows = {}
    for x, y in pairs:
        chosen = select_instruments(effects, x, y, allowed=allowed).drop(columns="covariance")
        local = local_mr(chosen, "ivw", weights="equal").assign(exposure=x, outcome=y)
        rows[x, y] = {"plain": global_effects(local)["effect"].iloc[0]}
    plain = pd.DataFrame(rows).T.rename_axis(["exposure", "outcome"])
    return plain.assign(corrected=table["effect"], se=table["total_se"])
