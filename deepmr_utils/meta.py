"""Random-effects meta-analysis, of one set of effects or of many at once.

Local causal effects are the studies, and the global effect is their mean. `random_effects` takes
arrays, `global_effects` a tidy table of local effects.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from ._checks import as_list, check_choice, check_columns, numbers
from ._meta_variance import TAU2, q_root, standardise, weighted
from ._numerics import pad_groups

__all__ = ["global_effects", "random_effects"]

COLUMNS = [
    "effect", "se", "ci_low", "ci_high", "p", "tau2", "tau", "tau2_low", "tau2_high", "i2", "h",
    "q", "q_p", "pi_low", "pi_high", "heterogeneity_low", "heterogeneity_high",
]  # fmt: skip
TAU2_METHODS = tuple(TAU2)
LEFT_OUT = (
    "without an estimate", "with an infinite estimate", "without a standard error",
    "with an infinite standard error", "with a standard error that is not above 0",
)  # fmt: skip
STATUS = (
    "no effects",
    "no finite estimate: overflow, change the units",
    "one effect: no heterogeneity can be estimated",
    "effects agree exactly: Hartung-Knapp standard error of 0, take hartung_knapp='adhoc'",
    "ok",
)
# A Hartung-Knapp standard error that is this share of that of known variances is rounding.
SAME = 1e-8
CACHE = 2**16  # numbers of a block: they stay in a core's cache


def random_effects(
    effect: ArrayLike, se: ArrayLike, tau2_method: Literal["reml", "dl", "pm", "common"] = "reml",
    *, hartung_knapp: bool | Literal["adhoc"] = False,
    prediction: Literal["hts", "v", "hk"] = "hts",
) -> pd.Series | pd.DataFrame:  # fmt: skip
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
    check_choice("prediction", prediction, ("hts", "v", "hk"))
    effect, se = _checked(effect, se)
    fit = random_means(*(np.atleast_2d(a).T for a in (effect, se)), tau2_method, profile=True)
    frame = mean_table(fit, effect.shape[-1], hartung_knapp, prediction)
    return frame if effect.ndim == 2 else frame.iloc[0].rename(None)


def global_effects(
    local: pd.DataFrame, by: Sequence[str] = ("method",), *, effect: str = "causal_effect",
    se: str = "se", **options: object,
) -> pd.DataFrame:  # fmt: skip
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
    **options
        ``tau2_method``, ``hartung_knapp`` and ``prediction``, as in `random_effects`.

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
    check_columns(local, [*by, effect, se], "the table of local effects")
    keys = [local[name] for name in by] or [np.zeros(len(local))]
    grouped = local.groupby(keys, sort=False, observed=True, dropna=False)
    codes = grouped.ngroup().to_numpy().astype(np.intp)
    groups = int(codes.max(initial=-1)) + 1 if by else 1
    values = [numbers(local[name], name) for name in (effect, se)]
    reason = why_left_out(*values)
    values = [np.where(reason == "", value, np.nan) for value in values]
    table = random_effects(*pad_groups(codes, groups, *values), **options)
    table["n_excluded"] = np.bincount(codes, minlength=groups) - table["k"]  # without padding
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
    for rule, values, bad in (
        ("effect must be finite", effect, np.isinf(effect)),
        ("se must be finite", se, np.isinf(se)),
        ("se must be greater than 0", se, se <= 0),
    ):
        if bad.any():
            at = tuple(np.argwhere(bad)[0].tolist())
            raise ValueError(f"{rule}; got {values[at]} at index {at}: correct it or make it NaN")
    return effect, se


def random_means(
    effect: np.ndarray, se: np.ndarray, tau2_method: str = "reml", *, profile: bool = False,
    device: str = "cpu",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Means and variances of very many meta-analyses, a block at a time.

    Parameters
    ----------
    effect, se : np.ndarray, float64 (S, G)
        Studies are rows, so that sums over them run along contiguous memory. Pairs of which either
        is not finite, or se not positive, are left out.
    tau2_method : str
        As in `random_effects`; on other devices than the CPU "reml" or "dl".
    profile : bool
        Whether to look for the Q-profile interval, which takes longer than all else; NaN without.
    device : str
        Where to compute.

    Returns
    -------
    dict of np.ndarray, float64 (G,)
        ``effect``, ``classic_se`` and ``hk_se`` (given the variances, and of Hartung and Knapp),
        ``tau2``, ``tau2_low``, ``tau2_high``, ``tau``, ``q``, and ``k`` studies used; in the units
        that were given, and NaN where float64 cannot hold them.
    """
    if not len(effect):  # like a study that is left out
        effect, se = np.full((2, 1, effect.shape[1]), np.nan)
    step = max(1, (CACHE if str(device) == "cpu" else 2**25) // len(effect))
    with np.errstate(all="ignore"):
        parts = [
            _fit(effect[:, i : i + step], se[:, i : i + step], tau2_method, profile, device)
            for i in range(0, max(effect.shape[1], 1), step)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fit(
    effect: np.ndarray, se: np.ndarray, tau2_method: str, profile: bool, device: str
) -> dict[str, np.ndarray]:
    effect, se, xp = np.ascontiguousarray(effect), np.ascontiguousarray(se), np
    if str(device) != "cpu":
        import torch as xp  # who computes on the CPU needs no torch

        effect, se = (xp.from_numpy(a).to(device) for a in (effect, se))
    studies = standardise(effect, se, xp.isfinite(effect) & xp.isfinite(se) & (se > 0))
    y, variance, k, centre, unit = studies
    tau2 = xp.where(k > 1, TAU2[tau2_method](studies), np.nan)
    q = weighted(y, variance, 0 * unit)[2]
    mean, total, spread = weighted(y, variance, xp.where(k > 1, tau2, 0))
    values = (mean * unit + centre, total, spread, q, tau2, k, unit)
    if xp is not np:
        values = (a.cpu().numpy() for a in values)
    effect, total, spread, q, tau2, k, unit = values
    freedom = np.where(k > 1, k - 1.0, np.nan)
    low, high = np.full((2, len(k)), np.nan)
    if profile:
        low, high = (q_root(studies, special.chdtri(freedom, p)) for p in (0.025, 0.975))
    fit = {
        "effect": effect, "classic_se": unit / np.sqrt(total),
        "hk_se": unit * np.sqrt(spread / (freedom * total)), "tau": np.sqrt(tau2) * unit, "q": q,
        "tau2": _squared(tau2, unit), "tau2_low": _squared(low, unit),
        "tau2_high": _squared(high, unit),
    }  # fmt: skip
    good = np.isfinite(effect + q) & (fit["classic_se"] > 0) & np.isfinite(fit["classic_se"])
    good &= (k > 0) & ((k < 2) | np.isfinite(fit["tau2"]))
    return {name: np.where(good, values, np.nan) for name, values in fit.items()} | {"k": k}


def _squared(tau2: np.ndarray, unit: np.ndarray) -> np.ndarray:
    given = tau2 * unit * unit
    held = (given >= np.finfo(float).tiny) & np.isfinite(given)
    return np.where(held | (tau2 == 0), given, np.nan)


def mean_table(
    fit: dict[str, np.ndarray], studies: int, hartung_knapp: bool | str = False,
    prediction: str = "hts",
) -> pd.DataFrame:  # fmt: skip
    """The columns of `random_effects` by what `random_means` found in so many studies."""
    effect, classic_se, hk_se, tau, q, k = (
        fit[name] for name in ("effect", "classic_se", "hk_se", "tau", "q", "k")
    )
    freedom = np.where((k > 1) & ~np.isnan(effect), k - 1.0, np.nan)
    with np.errstate(all="ignore"):
        se, quantile, tail = classic_se, special.ndtri(0.975), special.ndtr
        if hartung_knapp:
            se = hk_se if hartung_knapp is True else np.fmax(hk_se, classic_se)
            quantile = special.stdtrit(freedom, 0.975)
            tail = partial(special.stdtr, freedom)
        beyond = np.where(k > 2, freedom - 1, np.nan) if prediction == "hts" else freedom
        reach = np.hypot(hk_se if prediction == "hk" else classic_se, tau)
        reach = reach * special.stdtrit(beyond, 0.975)
        columns = fit | {
            "se": se, "ci_low": effect - quantile * se, "ci_high": effect + quantile * se,
            "p": 2 * tail(-np.abs(effect / se)),
            "i2": np.where(q > 0, np.fmax(0, (q - freedom) / q), 0 * freedom),
            "h": np.where(freedom > 0, np.fmax(1, np.sqrt(q / freedom)), np.nan),
            "q_p": special.chdtrc(freedom, q),
            "pi_low": effect - reach, "pi_high": effect + reach,
            "heterogeneity_low": effect - 2 * tau, "heterogeneity_high": effect + 2 * tau,
        }  # fmt: skip
        exact = (k > 1) & (hk_se <= SAME * classic_se)
    exact &= hartung_knapp is True or prediction == "hk"
    frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
    reason = np.select([k == 0, np.isnan(effect), k == 1, exact], [0, 1, 2, 3], 4)
    return frame.assign(k=k, n_excluded=studies - k, status=np.array(STATUS, object)[reason])
