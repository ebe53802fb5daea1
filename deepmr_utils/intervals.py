"""Intervals that carry the model's uncertainty, from what every ensemble member says alone.

The standard error of a local or global effect describes the spread of instruments or sequences
under one set of predictions. All of them come from one ensemble, so its error is shared and no
number of instruments or sequences averages it away. The analysis is therefore repeated with the
predictions of each member, and the variance between the answers is added.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from ._checks import as_list, check_choice, check_columns, numbers
from ._numerics import pad_groups
from .instruments import places, site_dimensions
from .meta import global_effects, why_left_out
from .mr.estimation import estimate_unchecked
from .mr.registry import REGISTRY, check_methods

__all__ = [
    "add_intervals", "intervals", "member_global", "member_local", "total_variance",
]  # fmt: skip

RULES = ("rubin", "rubin_few", "mean", "plain")
PAIR = ["exposure", "outcome"]


def total_variance(
    within: ArrayLike, between: ArrayLike, n_members: ArrayLike, rule: str = "rubin", *,
    complete_df: ArrayLike = np.inf, between_df: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Combine the variance of an estimate given the model with that between members.

    Parameters
    ----------
    within : array_like, float (S,)
        Squared standard errors of the estimates of the whole ensemble.
    between : array_like, float (S,)
        Variances (ddof 1) of the estimates over members.
    n_members : array_like, int (S,)
        Number of members M that gave an estimate.
    rule : {"rubin", "rubin_few", "mean", "plain"}
        ``"rubin"``: members are draws of what the model could have been, ``W + (1 + 1 / M) B``.
        ``"rubin_few"``: the same with the degrees of freedom of B, whatever W is: for a W that
        takes instruments that share a model for independent. ``"mean"``: the
        error of the mean of M members about that of infinitely many, ``W + B / M``; what all
        members have wrong, because they learned from the same data, is left out. ``"plain"``: W
        alone, normal.
    complete_df : array_like, float (S,)
        Degrees of freedom of W.
    between_df : array_like, float (S,), optional
        Degrees of freedom of B; M - 1 by default, more for `moderated_variance`.

    Returns
    -------
    tuple of np.ndarray, float64 (S,)
        Total variance and degrees of freedom of the t distribution; NaN below 2 members. The
        degrees of freedom are 0, which gives no interval, where W is 0 and `complete_df` finite: as
        W vanishes, so do the degrees of freedom that Barnard and Rubin leave.

    Notes
    -----
    Rubin (1987), Multiple Imputation for Nonresponse in Surveys, eq. 3.1.5 and 3.1.6, with the
    members in the place of imputations: ``df = (M - 1) (1 + W / (c B))^2`` where c is the factor of
    B. For a finite `complete_df` the degrees of freedom are those of Barnard and Rubin (1999),
    Biometrika 86:948, eq. 3.
    """
    check_choice("rule", rule, RULES)
    within, between, members, complete = _broadcast(
        within=within, between=between, n_members=n_members, complete_df=complete_df
    )
    if (within < 0).any() or (between < 0).any():
        raise ValueError("variances must be 0 or more: give squared standard errors")
    with np.errstate(all="ignore"):
        enough = np.where(members >= 2, 1.0, np.nan)
        if rule == "plain":
            return within.copy(), complete.copy()
        model = between * np.where(rule == "mean", 1 / members, 1 + 1 / members) * enough
        total = within + model
        df = (members - 1 if between_df is None else numbers(between_df, "between_df")) * enough
        if rule == "rubin_few":
            return total, df
        df = np.where(
            model > 0, df * (total / model) ** 2, np.where(np.isnan(model), model, np.inf)
        )
        observed = (complete + 1) / (complete + 3) * complete * within / total
        return total, np.where(np.isinf(complete), df, 1 / (1 / df + 1 / observed))


def _broadcast(**arrays: ArrayLike) -> list[np.ndarray]:
    return np.broadcast_arrays(*(numbers(array, name) for name, array in arrays.items()))


def moderated_variance(between: ArrayLike, n_members: int) -> tuple[np.ndarray, float]:
    """Let the variances between members of many sequences inform each other.

    Parameters
    ----------
    between : array_like, float (S,)
        Variances (ddof 1) over members; NaN where there is none.
    n_members : int
        Members, the same for all.

    Returns
    -------
    tuple of np.ndarray, float64 (S,), and float
        Variances shrunk towards a common one, and their degrees of freedom: M - 1 and those that
        the common one is worth. A few members tell a variance badly, many sequences tell well
        how variances are spread, so that intervals of one nominal rate become narrower.

    Notes
    -----
    Smyth (2004), Stat Appl Genet Mol Biol 3:3, section 6.2: variances are scaled inverse
    chi-square around a prior, fitted to the mean and variance of their logarithms.
    """
    between, df = numbers(between, "between"), n_members - 1
    logs = np.log(between[between > 0])
    if len(logs) < 3 or df < 1:
        return between.copy(), float(df)
    spread = logs.var(ddof=1) - special.polygamma(1, df / 2)
    centre = logs.mean() - special.digamma(df / 2) + np.log(df / 2)
    if spread <= 0:  # no more than chance: one variance for all
        return np.where(np.isnan(between), np.nan, np.exp(centre)), np.inf
    ends = 0.5 / spread, (1 + np.sqrt(1 + 4 * spread)) / spread  # 1/x < trigamma < 1/x + 1/x^2
    half = optimize.brentq(lambda at: special.polygamma(1, at) - spread, *ends, xtol=1e-14)
    prior = np.exp(centre + special.digamma(half) - np.log(half))
    return (2 * half * prior + df * between) / (2 * half + df), 2 * half + df


def member_local(
    effects: xr.Dataset, instruments: pd.DataFrame, method: str | Sequence[str] = "ivw",
    **options: object,
) -> pd.DataFrame:  # fmt: skip
    """What each member says of local causal effects.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects with ``member_effect``, of `saturation_mutagenesis(..., keep_members=True)`.
    instruments : pd.DataFrame
        What `deepmr_utils.instruments.select_instruments` made of them.
    method, **options
        As in `deepmr_utils.mr.local_mr`.

    Returns
    -------
    pd.DataFrame
        ``member, sequence_id, method, causal_effect``, one row a member and sequence.

    Notes
    -----
    Instruments are those of the ensemble, so that what differs between members is what they
    predict. An estimator that is freed from the overlap of errors needs two members, which a single
    one is not. There, with three members or more, the effect of member m is its pseudo-value ``M t
    - (M - 1) t(-m)``, with t the estimate of the ensemble and t(-m) that of the others; their
    variance is that of a member, as it is for the plain estimates of each (Tukey 1958, Ann Math
    Stat 29:614; Efron and Stein 1981, Ann Stat 9:586). All members are one call of the estimator.
    """
    if "member_effect" not in effects:
        raise ValueError("effects have no member_effect: compute them with keep_members=True")
    place, ids = places(effects, instruments), instruments["sequence_id"]
    codes, groups = ids.cat.codes.to_numpy().astype(np.intp), len(ids.cat.categories)
    each = [
        effects["member_effect"].sel(feature=instruments.attrs[role])
        .transpose("member", *site_dimensions(effects)).to_numpy()[:, *place].astype(np.float64)
        for role in ("exposure", "outcome")
    ]  # fmt: skip
    m = len(each[0])
    errors = [np.tile(instruments[f"se_{role}"], (m, 1)) for role in ("exposure", "outcome")]
    tables = []
    for one in check_methods(method):
        leave_out = "covariance" in instruments and REGISTRY[one].overlap(**options) and m > 2
        x, y, se_x, se_y, c = *each, *errors, None
        if leave_out:
            mean_x, mean_y, var_x, c = leave_one_out(*each)
            columns = instruments[["beta_exposure", "beta_outcome", "se_exposure", "se_outcome"]]
            whole = [*columns.to_numpy().T, instruments["covariance"].to_numpy()]
            # the weights of methods that weight by errors stay those of the ensemble
            own = (mean_x, mean_y, np.sqrt(var_x), se_y, c)
            x, y, se_x, se_y, c = (np.vstack(pair) for pair in zip(whole, own, strict=True))
        rows = len(x)
        arrays = [
            np.concatenate([pad_groups(codes, groups, row)[0] for row in array])
            for array in (x, se_x, y, se_y, *([] if c is None else [c]))
        ]
        values = estimate_unchecked(arrays, one, **options)
        values = values["causal_effect"].to_numpy().reshape(rows, groups)
        if leave_out:
            values = m * values[0] - (m - 1) * values[1:]
        members, sequence = np.indices((m, groups)).reshape(2, -1)
        frame = pd.DataFrame({
            "member": members, "sequence_id": pd.Categorical.from_codes(sequence, dtype=ids.dtype),
            "method": one, "causal_effect": values.ravel(),
        })  # fmt: skip
        tables.append(frame)
    return pd.concat(tables, ignore_index=True)


def leave_one_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means of all members but one, with the variance and the covariance of their errors.

    Parameters
    ----------
    x, y : np.ndarray, float64 (M, V)
        Effects by member, of three members or more.

    Returns
    -------
    tuple of np.ndarray, float64 (M, V)
        Mean of x, mean of y, variance of the mean of x, and its covariance with that of y; row m
        leaves out member m.
    """
    m = len(x)
    dx, dy = x - x.mean(0), y - y.mean(0)
    mean_x, mean_y = (a.mean(0) - d / (m - 1) for a, d in ((x, dx), (y, dy)))

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # sum over the others about their own mean, which lies a / (m - 1) off that of all
        squares = (a * b).sum(0) - a * b * (1 + 1 / (m - 1))
        return squares / ((m - 1) * (m - 2))

    # where the others agree, rounding may leave less than nothing
    return mean_x, mean_y, np.maximum(covariance(dx, dx), 0), covariance(dx, dy)


def member_global(
    local: pd.DataFrame, members: pd.DataFrame, by: Sequence[str] = ("method",), **options: object
) -> pd.DataFrame:  # fmt: skip
    """What each member says of global causal effects.

    Parameters
    ----------
    local : pd.DataFrame
        Local effects of the ensemble, `deepmr_utils.mr.local_mr`: the sequences that enter, their
        standard errors, and the columns of `by`.
    members : pd.DataFrame
        `member_local` of the same sequences and methods.
    by : sequence of str
        Columns of `local` whose values make the groups; "method" among them where there are
        several.
    **options
        As in `deepmr_utils.meta.random_effects`.

    Returns
    -------
    pd.DataFrame
        The columns of `by`, ``member`` and ``effect``: the mean of the member's local effects, with
        the weights that sequences have in the random-effects mean of the ensemble. Only sequences
        with an estimate of the ensemble and of every member enter. Rows of both tables belong
        together by sequence and method, and by exposure and outcome and those of `by` that both
        have.

    Raises
    ------
    ValueError
        If a column is missing, or rows of a member are not told apart.
    """
    by, keys = as_list(by), ["sequence_id", "method"]
    check_columns(local, [*by, *keys, "causal_effect", "se"], "the table of local effects")
    check_columns(members, [*keys, "member", "causal_effect"], "the table of effects by member")
    both = [name for name in (*PAIR, *by) if name in local and name in members]
    keys = list(dict.fromkeys([*keys, *both]))
    if members.duplicated([*keys, "member"]).any():
        raise ValueError(
            f"members must have one row each for every {', '.join(keys)}; got more: name the "
            "column that tells them apart in by"
        )
    values = members["causal_effect"].replace([np.inf, -np.inf], np.nan)
    grouped = members.assign(member_effect=values).groupby([*keys, "member"], observed=True)
    wide = grouped["member_effect"].mean().unstack().dropna()
    enters = why_left_out(*(numbers(local[n], n) for n in ("causal_effect", "se"))) == ""
    columns = list(dict.fromkeys([*by, *keys, "causal_effect", "se"]))
    used = local.loc[enters, columns].merge(wide.reset_index(), on=keys)
    if not len(used):  # no sequence has an estimate
        return used[by].assign(member=0, effect=0.0)
    tau2 = global_effects(used, by, **options)[[*by, "tau2"]]
    used = used.merge(tau2, on=by) if by else used.assign(tau2=tau2["tau2"].iloc[0])
    weight = 1 / (used["se"] ** 2 + used["tau2"].fillna(0))
    groups = [used[name] for name in by] or [np.zeros(len(used))]
    sums = used[wide.columns].mul(weight, axis=0).groupby(groups, observed=True, sort=False).sum()
    total = weight.groupby(groups, observed=True, sort=False).sum()
    mean = sums.div(total, axis=0).rename_axis(columns="member")
    mean = mean.stack().rename("effect").reset_index()
    return mean[[*by, "member", "effect"]]


def add_intervals(
    estimates: pd.DataFrame, members: pd.DataFrame, on: Sequence[str],
    effect: str = "causal_effect", *, rule: str = "rubin", moderate: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Add 95 % intervals that carry the variance between members.

    Parameters
    ----------
    estimates : pd.DataFrame
        Local or global effects of the ensemble, with their standard errors ``se``.
    members : pd.DataFrame
        The same by member: `member_local` or `member_global`.
    on : sequence of str
        Columns that tell the estimates apart; none for one row.
    effect : str
        Column of the estimates in both tables: "causal_effect" if local, "effect" if global.
    rule : str
        As in `total_variance`.
    moderate : bool
        Shrink the variances between members by `moderated_variance`, among the sequences that
        agree in the other columns of ``on``.

    Returns
    -------
    pd.DataFrame
        `estimates`, in their order, with ``between_se`` (standard deviation over members),
        ``total_se``, ``total_df``, ``total_ci_low, total_ci_high`` and the two-sided ``total_p`` of
        the same t distribution, and ``total_status``, "ok" or why there is no interval. ``ci_low,
        ci_high`` stay what they were: intervals given the model.
    """
    on = as_list(on)
    check_columns(estimates, [*on, effect, "se"], "the table of estimates")
    check_columns(members, [*on, effect], "the table of effects by member")
    keys = [*on, "_all"]  # there is a key, then, also without `on`
    groups = members.assign(_all=0).groupby(keys, observed=True, dropna=False)[effect]
    spread = groups.agg(["std", "count"]).reset_index()
    table = estimates[on].assign(_all=0).merge(spread, on=keys, how="left", validate="m:1")
    known = pd.DataFrame({
        "effect": estimates[effect].to_numpy(), "se": estimates["se"].to_numpy(),
        "between_se": table["std"], "n_members": table["count"],
    })  # fmt: skip
    alike = [table[name] for name in on if name != "sequence_id"] if moderate else []
    groups = known.groupby(alike, dropna=False, sort=False) if alike else [(None, known)]
    parts = [
        pd.DataFrame(intervals(**part, rule=rule, moderate=moderate), part.index)
        for _, part in groups
    ]
    columns = pd.concat(parts).reindex(known.index)
    return estimates.assign(**{name: columns[name].to_numpy() for name in columns})


def intervals(
    effect: ArrayLike, se: ArrayLike, between_se: ArrayLike, n_members: ArrayLike,
    rule: str = "rubin", complete_df: ArrayLike = np.inf, *, moderate: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """95 % intervals of effects.

    Parameters
    ----------
    effect, se, between_se : array_like (S,)
        Effects, their standard errors, and the standard deviation of what members say.
    n_members : array_like (S,) or int
    rule : str
        One of `RULES`, see `total_variance`.
    complete_df : array_like (S,)
        Degrees of freedom of the standard errors.
    moderate : bool
        Shrink variances between members towards their common value, see `moderated_variance`.

    Returns
    -------
    dict of str to np.ndarray (S,)
        The columns of `add_intervals`.
    """
    effect, se, between_se, members = _broadcast(
        effect=effect, se=se, between_se=between_se, n_members=n_members
    )
    between, between_df = between_se**2, None
    if moderate:
        between, between_df = moderated_variance(between, int(np.nanmax(members, initial=0)))
    total, df = total_variance(
        se**2, between, members, rule, complete_df=complete_df, between_df=between_df
    )
    error, normal = np.sqrt(total), np.isinf(df)
    half = error * np.where(normal, special.ndtri(0.975), special.stdtrit(df, 0.975))
    with np.errstate(all="ignore"):
        size = -np.abs(effect / error)
    reasons = {
        "no estimate": np.isnan(effect),
        "no finite standard error given the model": ~(np.isfinite(se) & np.isfinite(effect)),
        "fewer than 2 members gave an estimate": (rule != "plain") & ~(members >= 2),
        "no variance, neither given the model nor between members": ~(total > 0),
        "no degrees of freedom: complete_df of a standard error of 0, leave it out": ~(df > 0),
    }
    return {
        "between_se": between_se,
        "total_se": error,
        "total_df": df,
        "total_ci_low": effect - half,
        "total_ci_high": effect + half,
        "total_p": 2 * np.where(normal, special.ndtr(size), special.stdtr(df, size)),
        "total_status": np.select(list(reasons.values()), list(reasons), "ok"),
    }


def q_values(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.Series:
    """Benjamini and Hochberg's q-values of ``total_p``, over all rows or those of each group.

    Parameters
    ----------
    table : pd.DataFrame
        Of `add_intervals`.
    by : sequence of str
        Columns whose values make the groups.

    Returns
    -------
    pd.Series, float64
        Of the rows of the table; NaN where there is no p-value, which counts as no test.
    """
    known = table["total_p"].dropna()
    keys = [table.loc[known.index, name] for name in by] or [np.zeros(len(known))]
    groups = known.groupby(keys, observed=True, dropna=False)
    return groups.transform(stats.false_discovery_control).reindex(table.index)
