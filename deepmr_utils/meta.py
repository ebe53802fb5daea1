"""Random-effects meta-analysis, of one set of effects or of many at once.

Local causal effects are the studies, and the global effect is their mean. `random_effects` takes
arrays, `global_effects` a tidy table of local effects.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from ._checks import as_list, check_choice, check_columns, numbers
from ._meta_variance import (
    Studies,
    dersimonian_laird,
    restricted_likelihood,
    squared_unit,
    squares,
    standardise,
    weighted,
)
from ._numerics import bisect, pad_groups

__all__ = ["COLUMNS", "conditional_se", "global_effects", "random_effects", "why_left_out"]

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
LEFT_OUT = (
    "without an estimate",
    "with an infinite estimate",
    "without a standard error",
    "with an infinite standard error",
    "with a standard error that is not above 0",
)
# A Hartung-Knapp standard error that is this share of that of known variances is rounding.
SAME = 1e-8


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
        is missing (NaN, masked, None or NA) are left out and counted.
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
        and `status`, "ok" or why values are NaN or not to be used. One effect alone is returned as
        it is, without heterogeneity; no effect gives NaN. Where effects agree exactly, the
        Hartung-Knapp standard error is 0 (so in R), which the standard errors do not allow: the
        status says so.

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
    check_choice("tau2_method", tau2_method, TAU2_METHODS)
    hartung_knapp = check_choice("hartung_knapp", hartung_knapp, (False, True, "adhoc"))
    check_choice("prediction", prediction, PREDICTIONS)
    effect, se = _checked(effect, se)
    used = ~np.isnan(effect + se)
    k = np.atleast_1d(used.sum(axis=-1))
    with np.errstate(all="ignore"):
        studies = standardise(*(np.atleast_2d(a).T for a in (effect, se, used)))
        table = _fit(studies, tau2_method)
        table |= _intervals(table, k, hartung_knapp, prediction)
    frame = pd.DataFrame({name: table[name] for name in COLUMNS})
    frame["k"] = k
    frame["n_excluded"] = np.atleast_1d((~used).sum(axis=-1))
    finite = np.isfinite(frame[["effect", "q"]]).all(axis=1) & (table["classic_se"] > 0)
    finite &= np.isfinite(table["classic_se"]) & ((k < 2) | np.isfinite(frame["tau2"]))
    frame.loc[(k > 0) & ~finite, COLUMNS] = np.nan
    exact = (k > 1) & (table["hk_se"] <= SAME * table["classic_se"])
    exact &= hartung_knapp is True or prediction == "hk"
    frame["status"] = np.select(
        [k == 0, ~finite, k == 1, exact],
        [
            "no effects",
            "no finite estimate: overflow, change the units",
            "one effect: no heterogeneity can be estimated",
            "effects agree exactly: Hartung-Knapp standard error of 0, take hartung_knapp='adhoc'",
        ],
        "ok",
    )
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
        them put together. Rows that cannot enter, see `why_left_out`, are left out.
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
        `random_effects`. `n_excluded` counts the rows that were left out, and the last column,
        `excluded`, says why: "" or for instance "2 without an estimate".

    Raises
    ------
    ValueError
        If a column is missing, there twice, or holds what is no number, and as `random_effects`.
    """
    by = as_list(by)
    missing = [name for name in [*by, effect, se] if name not in local.columns]
    if missing:
        raise ValueError(
            f"no column {missing[0]!r} in the table of local effects: choose among "
            f"{list(local.columns)}"
        )
    check_columns(local, [*by, effect, se], "the table of local effects")
    codes = np.zeros(len(local), np.intp)
    if by and len(local):
        grouped = local.groupby(by, sort=False, observed=True, dropna=False)
        codes = grouped.ngroup().to_numpy().astype(np.intp)
    groups = int(codes.max(initial=-1)) + 1 if by else 1
    values = [numbers(local[name], name) for name in (effect, se)]
    reason = why_left_out(*values)
    values = [np.where(reason == "", value, np.nan) for value in values]
    effects, errors, member = pad_groups(codes, groups, *values, np.ones(len(local)))
    table = random_effects(
        effects, errors, tau2_method, hartung_knapp=hartung_knapp, prediction=prediction
    )
    table["n_excluded"] = (member == 1).sum(axis=1) - table["k"]  # padding is not left out
    counts = {text: np.bincount(codes[reason == text], minlength=groups) for text in LEFT_OUT}
    table["excluded"] = [
        ", ".join(f"{n[i]} {text}" for text, n in counts.items() if n[i]) for i in range(groups)
    ]
    first = np.unique(codes, return_index=True)[1]
    labels = local[by].iloc[first].reset_index(drop=True)
    return pd.concat([labels, table], axis=1)


def why_left_out(effect: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Say of each local effect why it cannot enter a global one: a text of `LEFT_OUT`, or ""."""
    bad = [np.isnan(effect), np.isinf(effect), np.isnan(se), np.isinf(se), se <= 0]
    return np.select(bad, LEFT_OUT, "")


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
    variance = numbers(se, "se") ** 2
    weight = 1 / (variance + np.nan_to_num(numbers(tau2, "tau2")))
    return float(np.sqrt((weight**2 * variance).sum()) / weight.sum())


def _checked(effect: ArrayLike, se: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    effect, se = numbers(effect, "effect"), numbers(se, "se")
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


def _fit(studies: Studies, tau2_method: str) -> dict[str, np.ndarray]:
    """Estimates (G,), in the units that were given."""
    y, variance, k, *_ = studies
    freedom = np.where(k > 1, k - 1.0, np.nan)
    q = np.where(k > 0, weighted(y, variance, np.zeros(len(k)))[2], np.nan)
    tau2 = np.where(k > 1, _tau2(studies, tau2_method, freedom), np.nan)
    mean, total, spread = weighted(y, variance, np.where(k > 1, tau2, 0))
    q_low, q_high = (_q_root(studies, special.chdtri(freedom, p)) for p in (0.025, 0.975))
    unit = studies.unit
    return {
        "effect": np.where(k > 0, mean * unit + studies.centre, np.nan),
        "classic_se": np.where(k > 0, unit / np.sqrt(total), np.nan),
        "hk_se": unit * np.sqrt(spread / (freedom * total)),
        "tau2": squared_unit(tau2, unit),
        "tau": np.sqrt(tau2) * unit,
        "tau2_low": squared_unit(q_low, unit),
        "tau2_high": squared_unit(q_high, unit),
        "i2": np.where(q > 0, np.fmax(0, (q - freedom) / q), 0 * freedom),
        "h": np.where(k > 1, np.fmax(1, np.sqrt(q / freedom)), np.nan),
        "q": q,
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


def _tau2(studies: Studies, tau2_method: str, freedom: np.ndarray) -> np.ndarray:
    """Between-study variance (G,) by the method asked for."""
    if tau2_method == "reml":
        return restricted_likelihood(studies)
    if tau2_method == "dl":
        return dersimonian_laird(studies)
    return _q_root(studies, freedom) if tau2_method == "pm" else 0 * freedom


def _q_root(studies: Studies, target: np.ndarray) -> np.ndarray:
    """Between-study variance (G,) at which Q equals the target; 0 where Q is smaller at 0."""
    y, variance = studies.y, studies.variance
    # Q(tau2) <= sum of squares / tau2, so the root is below their quotient.
    high = squares(studies) / target
    high = np.where(weighted(y, variance, np.zeros(len(target)))[2] > target, high, 0 * target)
    return bisect(lambda tau2: weighted(y, variance, tau2)[2] - target, 0 * high, high)
