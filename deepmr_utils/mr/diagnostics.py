"""What to look at before an estimate is believed: strength, heterogeneity, influence, direction."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from .estimation import check_effects, estimate
from .linear import Distribution, chi2_tail


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
    if not (exposure_sd > 0 and outcome_sd > 0):
        raise ValueError(
            f"standard deviations must be greater than 0; got {exposure_sd} and {outcome_sd}"
        )
    arrays = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    lines = {name: estimate(*arrays, name) for name in ("ivw", "egger")}
    table = lines["ivw"][["n_instruments"]].copy()
    table["f_mean"] = lines["ivw"]["f_stat"]
    table["i2_gx"] = lines["egger"]["i2_gx"]
    for name, lost in (("ivw", 1), ("egger", 2)):
        q, df = lines[name]["q"], lines[name]["n_instruments"] - lost
        table[f"q_{name}"], table[f"q_{name}_p"] = q, lines[name]["q_p"]
        i2 = ((q - df) / q.where(q > 0)).clip(lower=0)
        table[f"i2_{name}"] = i2.mask(q == 0, 0.0)  # perfect agreement is no heterogeneity
    table["intercept"] = lines["egger"]["intercept"]
    table["intercept_p"] = lines["egger"]["intercept_p"]
    bx, sx, by, sy = arrays
    r2, variance = {}, 0.0
    with np.errstate(all="ignore"):
        for name, b, s in (
            ("exposure", bx / exposure_sd, sx / exposure_sd),
            ("outcome", by / outcome_sd, sy / outcome_sd),
        ):
            square = b**2 - s**2  # unbiased for the square of the effect
            r2[name] = np.nansum(square, axis=1)
            variance = variance + np.nansum(4 * np.fmax(square, 0) * s**2 + 2 * s**4, axis=1)
            table[f"r2_{name}"] = np.where(table["n_instruments"] > 0, r2[name], np.nan)
        table["steiger_z"] = (r2["exposure"] - r2["outcome"]) / np.sqrt(variance)
        table["steiger_p"] = 2 * special.ndtr(-np.abs(table["steiger_z"]))
    return table


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
    bx, sx, by, sy = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    if len(bx) != 1:
        raise ValueError(f"expected one sequence, arrays (V,); got {len(bx)}: select a row")
    slope = estimate(bx, sx, by, sy, "ivw")["causal_effect"].to_numpy()[0]
    x, sx, y, sy = (a[0] for a in (bx, sx, by, sy))
    x = np.where(x == 0, np.nan, x)
    with np.errstate(all="ignore"):
        ratio, se = y / x, sy / np.abs(x)
        q = ((ratio - slope) / se) ** 2
        return pd.DataFrame(
            {
                "ratio": ratio,
                "se": se,
                "se_delta": np.hypot(se, y * sx / x**2),
                "p": 2 * special.ndtr(-np.abs(ratio / se)),
                "f": (x / sx) ** 2,
                "precision": 1 / se,
                "radial_x": 1 / se,
                "radial_y": ratio / se,
                "q": q,
                "q_p": chi2_tail(np.ones(len(q)), q),
            }
        )


def leave_one_out(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    method: str = "egger_robust",
    *,
    distribution: Distribution = "normal",
    **options: object,
) -> pd.DataFrame:
    """Estimate of one sequence without each of its instruments in turn.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array_like, float (V,)
        As in `deepmr_utils.mr.estimate`.
    method, distribution, **options
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
    arrays = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    if len(arrays[0]) != 1:
        raise ValueError(f"expected one sequence, arrays (V,); got {len(arrays[0])}: select a row")
    left_out = np.flatnonzero(~np.isnan(arrays[0][0]))
    repeated = np.repeat(np.stack(arrays), max(len(left_out), 0), axis=1)
    repeated[:, np.arange(len(left_out)), left_out] = np.nan
    table = estimate(*repeated, method, distribution=distribution, **options)
    table.insert(0, "left_out", left_out)
    return table
