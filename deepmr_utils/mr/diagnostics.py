"""What to look at before an estimate is believed: strength, heterogeneity, influence, direction."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from .._checks import check_number
from ._rows import Array
from .estimation import check_effects, estimate
from .linear import Distribution, chi2_tail

__all__ = ["diagnostics", "leave_one_out", "single_instruments"]


def diagnostics(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    exposure_sd: float = 1.0,
    outcome_sd: float = 1.0,
) -> pd.DataFrame:
    """Strength, heterogeneity, pleiotropy and direction in every sequence.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array_like, float (V,) or (S, V)
        As in `deepmr_utils.mr.estimate`.
    exposure_sd, outcome_sd : float
        Standard deviations of the two features, for instance of their predictions over sequences:
        units in which their effects can be compared.

    Returns
    -------
    pd.DataFrame
        One row a sequence: `n_instruments`; `f_mean` (mean squared exposure z-score; weak below
        10); `i2_gx` (dilution of MR-Egger; trust it above 0.9); Cochran's `q_ivw`, `q_ivw_p`,
        `i2_ivw` and Ruecker's `q_egger`, `q_egger_p`, `i2_egger`; `intercept`, `intercept_p`
        (directional pleiotropy); `r2_exposure`, `r2_outcome`, `steiger_z`, `steiger_p`.

    Raises
    ------
    ValueError
        As `deepmr_utils.mr.estimate`, or if a standard deviation is not positive.

    Notes
    -----
    Steiger directionality (Hemani, Tilling and Davey Smith 2017, PLOS Genet 13:e1007081) asks
    whether instruments explain more of the exposure than of the outcome. Substitutions have no
    allele frequency, so what they explain is the sum of squared effects in units of the feature's
    standard deviation, less what error adds to it; `steiger_z` is the difference over its standard
    error by the delta method, and `steiger_p` is two-sided. A negative z speaks for the reverse.
    """
    for name, sd in (("exposure_sd", exposure_sd), ("outcome_sd", outcome_sd)):
        check_number(name, sd, 0, ends=False)
    arrays = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    ivw, egger = (estimate(*arrays, name) for name in ("ivw", "egger"))
    table = pd.DataFrame({"n_instruments": ivw["n_instruments"], "f_mean": ivw["f_stat"]})
    table["i2_gx"] = egger["i2_gx"]
    for name, line, lost in (("ivw", ivw, 1), ("egger", egger, 2)):
        q = table[f"q_{name}"] = line["q"]
        table[f"q_{name}_p"] = line["q_p"]
        i2 = ((q - (line["n_instruments"] - lost)) / q.where(q > 0)).clip(lower=0)
        table[f"i2_{name}"] = i2.mask(q == 0, 0.0)  # perfect agreement is no heterogeneity
    table[["intercept", "intercept_p"]] = egger[["intercept", "intercept_p"]]
    none, variance = ~(table["n_instruments"] > 0), 0.0
    with np.errstate(all="ignore"):
        for name, sd, b, s in (
            ("exposure", exposure_sd, *arrays[:2]),
            ("outcome", outcome_sd, *arrays[2:]),
        ):
            b, s = b / sd, s / sd
            square = b**2 - s**2  # unbiased for the square of the effect
            variance = variance + np.nansum(4 * np.fmax(square, 0) * s**2 + 2 * s**4, axis=1)
            table[f"r2_{name}"] = np.where(none, np.nan, np.nansum(square, axis=1))
        table["steiger_z"] = (table["r2_exposure"] - table["r2_outcome"]) / np.sqrt(variance)
        table["steiger_p"] = 2 * special.ndtr(-np.abs(table["steiger_z"]))
    return table


def _one_sequence(*effects: ArrayLike) -> Array:
    """Instruments (4, V), or with covariances (5, V), of one sequence, checked."""
    arrays = np.stack(check_effects(*effects))
    if arrays.shape[1] != 1:
        raise ValueError(f"expected one sequence, arrays (V,); got {arrays.shape[1]}: select a row")
    return arrays[:, 0]


def single_instruments(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
) -> pd.DataFrame:
    """Ratio of every instrument of one sequence, and its place in a funnel or radial plot.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array_like, float (V,)
        As in `deepmr_utils.mr.estimate`; padding may be NaN.

    Returns
    -------
    pd.DataFrame
        One row an instrument, NaN where it is padding or its exposure effect is 0: `ratio`; `se`
        (first order) and `se_delta` (with the error of the exposure effect); `p`; `f`, its squared
        exposure z-score; `precision` (1 / se, the height in a funnel plot); `radial_x` and
        `radial_y`, sqrt(weight) and ratio sqrt(weight); `q`, `q_p`, its part of Cochran's Q about
        the inverse-variance weighted estimate.

    Raises
    ------
    ValueError
        As `deepmr_utils.mr.estimate`, or if there are several sequences.

    Notes
    -----
    Radial quantities with first-order weights: Bowden et al. (2018), Int J Epidemiol 47:1264.
    """
    x, sx, y, sy = _one_sequence(beta_exposure, se_exposure, beta_outcome, se_outcome)
    slope = estimate(x, sx, y, sy, "ivw")["causal_effect"][0]
    x = np.where(x == 0, np.nan, x)
    with np.errstate(all="ignore"):
        ratio, se = y / x, sy / np.abs(x)
        q = ((ratio - slope) / se) ** 2
        table = pd.DataFrame({"ratio": ratio, "se": se, "se_delta": np.hypot(se, y * sx / x**2)})
        table["p"], table["f"] = 2 * special.ndtr(-np.abs(ratio / se)), (x / sx) ** 2
        table["precision"] = table["radial_x"] = 1 / se
        table["radial_y"], table["q"] = ratio / se, q
        table["q_p"] = chi2_tail(np.ones(len(q)), q)
    return table


def leave_one_out(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    method: str = "egger_robust",
    *,
    covariance: ArrayLike | None = None,
    distribution: Distribution = "normal",
    **options: object,
) -> pd.DataFrame:
    """Estimate of one sequence without each of its instruments in turn.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array_like, float (V,)
        As in `deepmr_utils.mr.estimate`.
    method, covariance, distribution, **options
        As in `deepmr_utils.mr.estimate`.

    Returns
    -------
    pd.DataFrame
        One row an instrument, in the order given, padding without a row: `left_out`, its index,
        then the columns of `estimate`.

    Raises
    ------
    ValueError
        As `deepmr_utils.mr.estimate`, or if there are several sequences.
    """
    given = [beta_exposure, se_exposure, beta_outcome, se_outcome]
    effects = _one_sequence(*given, *([] if covariance is None else [covariance]))
    left_out = np.flatnonzero(~np.isnan(effects[0]))
    repeated = np.repeat(effects[:, None], len(left_out), axis=1)
    repeated[:, np.arange(len(left_out)), left_out] = np.nan
    rest = None if covariance is None else repeated[4]
    table = estimate(*repeated[:4], method, covariance=rest, distribution=distribution, **options)
    table.insert(0, "left_out", left_out)
    return table
