"""Random-effects meta-analysis, of one set of effects or of many at once.

Local causal effects are the studies, and the global effect is their mean. `random_effects` takes
arrays, `global_effects` a tidy table of local effects.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from .numerics import bisect, bisect_minimum, pad_groups

__all__ = ["COLUMNS", "conditional_se", "global_effects", "random_effects"]

COLUMNS = [
    "effect",
    "se",
    "ci_low",
    "ci_high",
    "p",
    "tau2",
    "tau",
    "tau2_low",
    "tau2_high",
    "i2",
    "h",
    "q",
    "q_p",
    "pi_low",
    "pi_high",
    "heterogeneity_low",
    "heterogeneity_high",
]
TAU2_METHODS = ("reml", "dl", "pm", "common")
PREDICTIONS = ("hts", "v", "hk")


def random_effects(
    effect: ArrayLike,
    se: ArrayLike,
    tau2_method: Literal["reml", "dl", "pm", "common"] = "reml",
    *,
    hartung_knapp: bool | Literal["adhoc"] = False,
    prediction: Literal["hts", "v", "hk"] = "hts",
) -> pd.Series | pd.DataFrame:
    """Mean of effects that differ between studies, and by how much they differ.

    Parameters
    ----------
    effect, se : array_like, float (S,) or (G, S)
        Effects and standard errors of S studies, in one or G meta-analyses. Pairs of which either
        is NaN are left out and counted.
    tau2_method : {"reml", "dl", "pm", "common"}
        Estimator of the between-study variance: restricted maximum likelihood, DerSimonian-Laird,
        Paule-Mandel, or "common": none, one effect for all (fixed effect).
    hartung_knapp : bool or "adhoc"
        False: standard error of known variances, normal interval. True: Hartung-Knapp standard
        error, t interval with k - 1 degrees of freedom. "adhoc": the same, but the standard error
        is never below that of known variances.
    prediction : {"hts", "v", "hk"}
        Prediction interval: t with k - 2 degrees of freedom (Higgins, Thompson and
        Spiegelhalter), with k - 1 ("v", the default of R's meta 8), or with k - 1 and the
        Hartung-Knapp standard error.

    Returns
    -------
    pd.Series or pd.DataFrame
        A Series for (S,), a DataFrame with one row a meta-analysis for (G, S). `effect`, `se`,
        `ci_low`, `ci_high` (95 %, of the mean), `p`; `tau2`, `tau`, and the Q-profile 95 % interval
        `tau2_low`, `tau2_high`; `i2`, `h`, `q`, `q_p`; `pi_low`, `pi_high` (95 % prediction
        interval); `heterogeneity_low`, `heterogeneity_high` (effect -/+ 2 tau: where most local
        effects lie, no confidence interval of the mean); `k` effects used, `n_excluded` left out,
        and `status`, "ok" or why values are NaN. One effect alone is returned as it is, without
        heterogeneity; no effect gives NaN.

    Raises
    ------
    ValueError
        If the shapes differ, a value is infinite, a standard error is not positive, or an option is
        unknown.

    Notes
    -----
    REML: Viechtbauer (2005), J Educ Behav Stat 30:261. DerSimonian and Laird (1986), Control Clin
    Trials 7:177. Paule and Mandel (1982), J Res NBS 87:377. Hartung and Knapp (2001), Stat Med
    20:3875. Prediction: Higgins, Thompson and Spiegelhalter (2009), JRSS A 172:137, eq. 12.
    Q-profile: Viechtbauer (2007), Stat Med 26:37. A test of subgroup differences is `q`, `q_p` of
    the subgroups' own effects.
    """
    _choice("tau2_method", tau2_method, TAU2_METHODS)
    _choice("hartung_knapp", hartung_knapp, (False, True, "adhoc"))
    _choice("prediction", prediction, PREDICTIONS)
    effect, se = _checked(effect, se)
    used = ~np.isnan(effect + se)
    y = np.where(used, effect, 0)
    variance = np.where(used, se, np.inf) ** 2
    k = used.sum(axis=-1)
    with np.errstate(all="ignore"):
        table = _fit(np.atleast_2d(y), np.atleast_2d(variance), np.atleast_1d(k), tau2_method)
        table |= _intervals(table, np.atleast_1d(k), hartung_knapp, prediction)
    frame = pd.DataFrame({name: table[name] for name in COLUMNS})
    frame["k"] = k
    frame["n_excluded"] = (~used).sum(axis=-1)
    status = np.where(frame["k"] > 1, "ok", "one effect: no heterogeneity can be estimated")
    status = np.where(frame["k"] > 0, status, "no effects")
    finite = np.isfinite(frame["effect"]) & np.isfinite(table["classic_se"])
    finite &= np.isfinite(frame["q"]) & ((frame["k"] < 2) | np.isfinite(frame["tau2"]))
    overflow = (frame["k"] > 0) & ~finite
    frame.loc[overflow, COLUMNS] = np.nan
    frame["status"] = np.where(overflow, "no finite estimate: overflow", status)
    return frame if effect.ndim == 2 else frame.iloc[0].rename(None)


def global_effects(
    local: pd.DataFrame,
    by: Sequence[str] = ("method",),
    *,
    effect: str = "causal_effect",
    se: str = "se",
    tau2_method: Literal["reml", "dl", "pm", "common"] = "reml",
    hartung_knapp: bool | Literal["adhoc"] = False,
    prediction: Literal["hts", "v", "hk"] = "hts",
) -> pd.DataFrame:
    """Global causal effect of every group of a tidy table of local effects.

    Parameters
    ----------
    local : pd.DataFrame
        One row a local effect, for instance what `deepmr_utils.mr.local_mr` returns, or several of
        them put together.
    by : sequence of str
        Columns whose values make the groups; none for one group.
    effect, se : str
        Columns of the effects and standard errors.
    tau2_method, hartung_knapp, prediction
        As in `random_effects`.

    Returns
    -------
    pd.DataFrame
        One row a group, in order of first appearance: the columns of `by`, then those of
        `random_effects`. `n_excluded` counts the rows without an estimate.

    Raises
    ------
    ValueError
        If a column is missing, and as `random_effects`.
    """
    by = [by] if isinstance(by, str) else list(by)
    missing = [name for name in [*by, effect, se] if name not in local.columns]
    if missing:
        raise ValueError(
            f"no column {missing[0]!r} in the table of local effects: choose among "
            f"{list(local.columns)}"
        )
    codes = np.zeros(len(local), np.intp)
    if by and len(local):
        grouped = local.groupby(by, sort=False, observed=True, dropna=False)
        codes = grouped.ngroup().to_numpy().astype(np.intp)
    groups = int(codes.max(initial=-1)) + 1 if by else 1
    effects, errors, member = pad_groups(
        codes, groups, local[effect], local[se], np.ones(len(local))
    )
    table = random_effects(
        effects, errors, tau2_method, hartung_knapp=hartung_knapp, prediction=prediction
    )
    table["n_excluded"] = (member == 1).sum(axis=1) - table["k"]  # padding is not left out
    first = np.unique(codes, return_index=True)[1]
    labels = local[by].iloc[first].reset_index(drop=True)
    return pd.concat([labels, table], axis=1)


def conditional_se(se: ArrayLike, tau2: ArrayLike) -> float:
    """Standard error of a random-effects mean as that of the studies at hand.

    Parameters
    ----------
    se : array_like, float (S,)
        Standard errors of the effects.
    tau2 : array_like, float () or (S,)
        The between-study variance that weighs them.

    Returns
    -------
    float
        ``sqrt(sum w^2 se^2) / sum w`` with ``w = 1 / (se^2 + tau2)``: the error of the weighted
        mean as an estimate of the same mean of these studies' own effects. That the studies are a
        sample of others is left out (Rice, Higgins and Lumley, 2018, JRSS A 181:205).
    """
    variance = np.asarray(se, np.float64) ** 2
    weight = 1 / (variance + np.nan_to_num(np.asarray(tau2, np.float64)))
    return float(np.sqrt((weight**2 * variance).sum()) / weight.sum())


def _choice(name: str, value: object, valid: tuple[object, ...]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}: choose one of {valid}")


def _checked(effect: ArrayLike, se: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    effect, se = np.asarray(effect, np.float64), np.asarray(se, np.float64)
    if effect.shape != se.shape or effect.ndim not in (1, 2):
        raise ValueError(
            f"effect and se must have one shape, (S,) or (G, S); got {effect.shape} and {se.shape}"
        )
    for name, bad in (
        ("effect must be finite", np.isinf(effect)),
        ("se must be finite", np.isinf(se)),
        ("se must be greater than 0", se <= 0),
    ):
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            value = (effect if name.startswith("effect") else se)[where]
            raise ValueError(f"{name}; got {value} at index {where}: correct it or make it NaN")
    return effect, se


def _fit(y: np.ndarray, variance: np.ndarray, k: np.ndarray, tau2_method: str) -> dict:
    """Estimates (G,) from effects and variances (G, S); left-out pairs have infinite variance."""
    freedom = np.where(k > 1, k - 1.0, np.nan)
    q = _weighted(y, variance, 0)[2]
    tau2 = np.where(k > 1, _TAU2[tau2_method](y, variance, freedom), np.nan)
    mean, total, spread = _weighted(y, variance, np.where(k > 1, tau2, 0))
    return {
        "effect": np.where(k > 0, mean, np.nan),
        "classic_se": np.where(k > 0, 1 / np.sqrt(total), np.nan),
        "hk_se": np.sqrt(spread / (freedom * total)),
        "tau2": tau2,
        "tau": np.sqrt(tau2),
        "tau2_low": _q_root(y, variance, special.chdtri(freedom, 0.025)),
        "tau2_high": _q_root(y, variance, special.chdtri(freedom, 0.975)),
        "i2": np.where(q > 0, np.fmax(0, (q - freedom) / q), 0 * freedom),
        "h": np.where(k > 1, np.fmax(1, np.sqrt(q / freedom)), np.nan),
        "q": np.where(k > 0, q, np.nan),
        "q_p": special.chdtrc(freedom, q),
    }


def _intervals(fit: dict, k: np.ndarray, hartung_knapp: bool | str, prediction: str) -> dict:
    """Intervals (G,) of the mean, of a new effect, and of most effects."""
    effect, classic_se, hk_se, tau = (
        fit[name] for name in ("effect", "classic_se", "hk_se", "tau")
    )
    freedom = np.where(k > 1, k - 1.0, np.nan)
    if hartung_knapp:
        se = hk_se if hartung_knapp is True else np.fmax(hk_se, classic_se)
        quantile = special.stdtrit(freedom, 0.975)
        p = 2 * special.stdtr(freedom, -np.abs(effect / se))
    else:
        se, quantile = classic_se, special.ndtri(0.975)
        p = 2 * special.ndtr(-np.abs(effect / se))
    prediction_freedom = np.where(k > 2, k - 2.0, np.nan) if prediction == "hts" else freedom
    prediction_se = np.hypot(hk_se if prediction == "hk" else classic_se, tau)
    reach = special.stdtrit(prediction_freedom, 0.975) * prediction_se
    return {
        "se": se,
        "ci_low": effect - quantile * se,
        "ci_high": effect + quantile * se,
        "p": p,
        "pi_low": effect - reach,
        "pi_high": effect + reach,
        "heterogeneity_low": effect - 2 * tau,
        "heterogeneity_high": effect + 2 * tau,
    }


def _weighted(
    y: np.ndarray, variance: np.ndarray, tau2: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean, total weight and weighted sum of squares (G,), weights 1 / (v + tau2)."""
    weight = 1 / (variance + np.reshape(tau2, (-1, 1)))
    total = weight.sum(axis=1)
    mean = (weight * y).sum(axis=1) / total
    return mean, total, (weight * (y - mean[:, None]) ** 2).sum(axis=1)


def _squares(y: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Unweighted sum of squares (G,) of the effects in use."""
    used = np.isfinite(variance)
    mean = y.sum(axis=1) / used.sum(axis=1)
    return (np.where(used, y - mean[:, None], 0) ** 2).sum(axis=1)


def _q_root(y: np.ndarray, variance: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Between-study variance (G,) at which Q equals the target; 0 where Q is smaller at 0."""
    # Q(tau2) <= sum of squares / tau2, so the root is below their quotient.
    high = _squares(y, variance) / target
    high = np.where(_weighted(y, variance, 0)[2] > target, high, 0 * target)
    return bisect(lambda tau2: _weighted(y, variance, tau2)[2] - target, 0 * high, high)


def _tau2_dl(y: np.ndarray, variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    weight = 1 / variance
    total = weight.sum(axis=1)
    excess = _weighted(y, variance, 0)[2] - freedom
    return np.fmax(0, excess / (total - (weight**2).sum(axis=1) / total))


def _tau2_reml(y: np.ndarray, variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Global maximum of the restricted likelihood over tau2 >= 0."""
    used = np.isfinite(variance)

    def likelihood(tau2: np.ndarray) -> np.ndarray:
        _, total, spread = _weighted(y, variance, tau2)
        terms = np.where(used, np.log(variance + tau2[:, None]), 0)
        return -(terms.sum(axis=1) + np.log(total) + spread) / 2

    def score(tau2: np.ndarray) -> np.ndarray:
        weight = 1 / (variance + tau2[:, None])
        mean, total, _ = _weighted(y, variance, tau2)
        fit = (weight**2 * (y - mean[:, None]) ** 2).sum(axis=1)
        return fit - total + (weight**2).sum(axis=1) / total

    # The likelihood may have several maxima: a grid over 8 decades below the sum of squares, which
    # no maximum exceeds by much, finds the highest, and bisection of the score its exact place.
    grid = _squares(y, variance)[:, None] * np.r_[0, np.logspace(-8, 1, 64)]
    values = np.stack([likelihood(tau2) for tau2 in grid.T], axis=1)
    return bisect_minimum(lambda tau2: -score(tau2), grid, -values)


_TAU2: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "reml": _tau2_reml,
    "dl": _tau2_dl,
    "pm": _q_root,
    "common": lambda y, variance, freedom: 0 * freedom,
}
