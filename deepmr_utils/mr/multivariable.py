"""Several exposures at once, and instruments whose effects are correlated."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._checks import as_list, check_choice, check_number, numbers
from .._numerics import least_squares
from .linear import Distribution, Fit, chi2_tail, summary

COLUMNS = ["causal_effect", "se", "ci_low", "ci_high", "p", "conditional_f"]
COLUMNS += ["intercept", "intercept_se", "intercept_p", "scale", "q", "q_p"]


def multivariable(
    beta_exposures: ArrayLike,
    se_exposures: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    method: Literal["ivw", "egger"] = "ivw",
    *,
    correlation: ArrayLike | None = None,
    exposure_correlation: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    effects: Literal["random", "fixed"] = "random",
    distribution: Distribution = "normal",
) -> pd.DataFrame:
    """Direct effects of P exposures on an outcome, by one set of V instruments.

    With one exposure and a correlation it is the estimate of correlated instruments.

    Parameters
    ----------
    beta_exposures, se_exposures : array_like, float (V,) or (V, P)
        Exposure effects and standard errors.
    beta_outcome, se_outcome : array_like, float (V,)
        Outcome effects and standard errors. Rows that are NaN throughout are padding.
    method : {"ivw", "egger"}
        Without or with an intercept for directional pleiotropy. For the latter every instrument is
        oriented so that its effect on the first exposure, or the first that it has an effect on, is
        positive.
    correlation : array_like, float (V, V), optional
        Correlation of the outcome effects between instruments; none if not given. See
        `correlation_from_members`.
    exposure_correlation : array_like, float (P, P), optional
        Correlation of the errors of one instrument's exposure effects; none if not given. It enters
        the conditional F only.
    names : sequence of str, optional
        Names of the exposures; by default those of the columns where `beta_exposures` is a
        DataFrame. Where `se_exposures` has columns of the same names, they are taken by name.
    effects : {"random", "fixed"}
        Whether over-dispersion widens the standard errors.
    distribution : {"normal", "t"}
        Reference distribution; t has V - P (Egger: V - P - 1) degrees of freedom.

    Returns
    -------
    pd.DataFrame
        One row an exposure: `exposure`, `causal_effect`, `se`, `ci_low`, `ci_high`, `p`,
        `conditional_f` (strength given the other exposures); then, the same in each row,
        `intercept`, `intercept_se`, `intercept_p`, `scale`, `q`, `q_p`, `n_instruments`, `status`.

    Raises
    ------
    ValueError
        If shapes do not match, a value is infinite or half-missing, a standard error is not
        positive, a correlation lacks a value, is not positive definite or not symmetric with unit
        diagonal, or an option is unknown.

    Notes
    -----
    Burgess and Thompson (2015), Am J Epidemiol 181:251; Egger: Rees, Wood and Burgess (2017), Stat
    Med 36:4705; correlated instruments: Burgess, Dudbridge and Thompson (2016), Stat Med 35:1880;
    conditional F: Sanderson, Spiller and Bowden (2021), Stat Med 40:5434, section 3. It is divided
    by V - P + 1, its degrees of freedom; R's MVMR 0.4.6 divides by V, and its value is smaller by
    (V - P + 1) / V.
    """
    for option, value, valid in (
        ("method", method, ("ivw", "egger")),
        ("effects", effects, ("random", "fixed")),
        ("distribution", distribution, ("normal", "t")),
    ):
        check_choice(option, value, valid)
    if isinstance(beta_exposures, pd.DataFrame):
        labels = beta_exposures.columns
        names = labels if names is None else names
        same = isinstance(se_exposures, pd.DataFrame) and labels.is_unique
        if same and set(se_exposures.columns) == set(labels):
            se_exposures = se_exposures[labels]
    x, sx, y, sy, used = _checked(beta_exposures, se_exposures, beta_outcome, se_outcome)
    exposures = x.shape[1]
    rho = _correlation("correlation", correlation, used)
    error_rho = _correlation("exposure_correlation", exposure_correlation, np.ones(exposures, bool))
    names = [f"exposure {k}" for k in range(exposures)] if names is None else as_list(names)
    if len(names) != exposures:
        raise ValueError(f"names must name the {exposures} exposures; got {names}")
    design = x
    if method == "egger":
        # By the first exposure that is affected; without any, an outcome effect has no direction.
        first = x[np.arange(len(x)), (x != 0).argmax(axis=1)]
        sign = np.where(first < 0, -1.0, 1.0)
        x, y, rho = x * sign[:, None], y * sign * (first != 0), rho * sign[:, None] * sign
        design = np.column_stack([np.ones(len(y)), x])
    count, columns = design.shape
    table = pd.DataFrame(np.nan, range(exposures), COLUMNS)
    table.insert(0, "exposure", names)
    table["n_instruments"], table["status"] = count, "ok"
    if count <= columns:
        table["status"] = f"too few instruments: {count} of at least {columns + 1}"
        return table
    with np.errstate(all="ignore"):
        fit = _fit(design, y, sy, rho, effects=effects, distribution=distribution)
        strength = _conditional_f(x, sx, error_rho)
    if fit is None:
        table["status"] = "exposure effects are collinear"
        return table
    for name in ("causal_effect", "se", "ci_low", "ci_high", "p"):
        table[name] = fit[name][-exposures:]
    if not (np.isfinite(fit["causal_effect"]) & np.isfinite(fit["se"])).all():
        table[COLUMNS], table["status"] = np.nan, "no finite estimate: overflow"
        return table
    if method == "egger":
        for name, source in (("", "causal_effect"), ("_se", "se"), ("_p", "p")):
            table[f"intercept{name}"] = fit[source][0]
    table["conditional_f"] = strength
    table[["scale", "q", "q_p"]] = [fit[name][0] for name in ("scale", "q", "q_p")]
    return table


def _fit(
    design: np.ndarray,
    y: np.ndarray,
    sy: np.ndarray,
    rho: np.ndarray,
    *,
    effects: str,
    distribution: Distribution,
) -> Fit | None:
    """Generalised least squares on a design (V, P): arrays (P,); None if it is collinear."""
    root = np.linalg.cholesky(rho)
    # Powers of two, so that no square of an outcome effect overflows.
    exponent = np.frexp(sy.min())[1]
    y, sy = np.ldexp(y, -exponent), np.ldexp(sy, -exponent)
    white_x, white_y = (np.linalg.solve(root, (a.T / sy).T) for a in (design, y))
    fit, unit, full = least_squares(white_x, white_y)
    if not full:
        return None
    count, columns = design.shape
    df, q = np.full(columns, count - columns), np.sum((white_y - white_x @ fit) ** 2)
    scale = np.sqrt(q / (count - columns))
    se = unit * (max(scale, 1) if effects == "random" else 1)
    fit, se = np.ldexp(fit, exponent), np.ldexp(se, exponent)
    result = summary(fit, se, distribution=distribution, df=df)
    return result | {"scale": 0 * df + scale, "q": 0 * df + q, "q_p": chi2_tail(df, q)}


def correlation_from_members(
    member_effects: ArrayLike,
    method: Literal["ledoit_wolf", "low_rank"] = "ledoit_wolf",
    *,
    rank: int = 5,
) -> np.ndarray:
    """Correlation of the effects of V instruments, from M ensemble members.

    M is far below V as a rule, so the sample correlation is singular and has to be regularised.

    Parameters
    ----------
    member_effects : array_like, float (M, V)
        Effect of every instrument in every member.
    method : {"ledoit_wolf", "low_rank"}
        Shrink towards no correlation by the amount that minimises the expected error, or keep the
        `rank` leading directions and let what is left be uncorrelated.
    rank : int
        Number of directions of the low-rank form.

    Returns
    -------
    np.ndarray, float64 (V, V)
        Positive definite, with unit diagonal.

    Raises
    ------
    ValueError
        If there are fewer than 3 members, an effect is not finite or does not vary, or method or
        rank is not valid.

    Notes
    -----
    Ledoit and Wolf (2004), J Multivar Anal 88:365.
    """
    check_choice("method", method, ("ledoit_wolf", "low_rank"))
    effects = numbers(member_effects, "member_effects")
    if effects.ndim != 2 or len(effects) < 3 or not effects.size:
        raise ValueError(
            "member_effects must be finite, of shape (M, V) with at least 3 members; got shape "
            f"{effects.shape}"
        )
    if not np.isfinite(effects).all():
        member, instrument = np.argwhere(~np.isfinite(effects))[0]
        raise ValueError(
            f"member_effects must be finite; got {effects[member, instrument]} of member {member} "
            f"and instrument {instrument}: leave one of them out"
        )
    sd = effects.std(axis=0)
    if (sd == 0).any():
        raise ValueError(
            f"instrument {int(np.argmax(sd == 0))} has the same effect in every member: drop it"
        )
    z = (effects - effects.mean(axis=0)) / sd
    if method == "ledoit_wolf":
        from sklearn.covariance import ledoit_wolf  # slow to import

        return ledoit_wolf(z, assume_centered=True)[0]
    if not 1 <= check_number("rank", rank, whole=True) < len(z):
        raise ValueError(f"rank must lie between 1 and M - 1 = {len(z) - 1}; got {rank}")
    _, singular, directions = np.linalg.svd(z / np.sqrt(len(z)), full_matrices=False)
    loadings = directions[:rank].T * singular[:rank]
    shared = loadings @ loadings.T
    # An instrument wholly within the kept directions would make the matrix singular.
    own = np.fmax(1 - np.diag(shared), 0.01)
    total = np.sqrt(np.diag(shared) + own)
    return (shared + np.diag(own)) / total[:, None] / total


def _conditional_f(x: np.ndarray, sx: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Strength (P,) of the instruments for each exposure, given the others."""
    count, exposures = x.shape
    exponent = np.frexp(np.abs(x).max(axis=0))[1]  # units do not matter; their squares may overflow
    x, sx = np.ldexp(x, -exponent), np.ldexp(sx, -exponent)
    result = np.empty(exposures)
    for k in range(exposures):
        others = np.delete(np.arange(exposures), k)
        delta = least_squares(x[:, others], x[:, k])[0] if len(others) else np.empty(0)
        contrast = np.zeros(exposures)
        contrast[k], contrast[others] = 1, -delta
        variance = np.einsum("p,vp,pq,vq,q->v", contrast, sx, rho, sx, contrast)
        result[k] = ((x @ contrast) ** 2 / variance).sum() / (count - exposures + 1)
    return result


def _checked(
    beta_exposures: ArrayLike,
    se_exposures: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
) -> tuple[np.ndarray, ...]:
    """Arrays of the instruments in use, and which of all rows they are."""
    given = {
        "beta_exposures": beta_exposures, "se_exposures": se_exposures,
        "beta_outcome": beta_outcome, "se_outcome": se_outcome,
    }  # fmt: skip
    x, sx, y, sy = (numbers(value, name) for name, value in given.items())
    x, sx = (a[:, None] if a.ndim == 1 else a for a in (x, sx))
    if x.ndim != 2 or sx.shape != x.shape or y.shape != x.shape[:1] or sy.shape != y.shape:
        raise ValueError(
            "expected exposures (V, P) and outcomes (V,); got "
            f"{x.shape}, {sx.shape}, {y.shape} and {sy.shape}"
        )
    table = np.column_stack([x, sx, y, sy])
    missing = np.isnan(table)
    half = missing.any(axis=1) & ~missing.all(axis=1)
    for problem, bad in (
        ("is half-missing: it needs all effects and standard errors", half),
        ("holds an infinite value", np.isinf(table).any(axis=1)),
        ("has a standard error that is not greater than 0", (sx <= 0).any(axis=1) | (sy <= 0)),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"instrument {row} {problem}; got {table[row]}: complete or drop it")
    used = ~missing.all(axis=1)
    return x[used], sx[used], y[used], sy[used], used


def _correlation(name: str, value: ArrayLike | None, used: np.ndarray) -> np.ndarray:
    """The part (N, N) of a correlation that belongs to what is in use, N of S (S,)."""
    size, known = len(used), np.flatnonzero(used)
    if value is None:
        return np.eye(len(known))
    rho = numbers(value, name)
    if rho.shape != (size, size):
        raise ValueError(f"{name} must have shape ({size}, {size}); got {rho.shape}")
    inner = rho[np.ix_(known, known)]
    if not np.isfinite(inner).all():
        row, column = (known[i] for i in np.argwhere(~np.isfinite(inner))[0])
        raise ValueError(
            f"{name} must hold a number for each pair in use; got {rho[row, column]} in row {row}, "
            f"column {column}: complete it, or leave one of the two out"
        )
    # Rounding of a correlation computed elsewhere is no error.
    unlike = ~np.isclose(inner, inner.T, atol=1e-8)
    np.fill_diagonal(unlike, ~np.isclose(np.diag(inner), 1, atol=1e-8))
    if unlike.any():
        row, column = (known[i] for i in np.argwhere(unlike)[0])
        raise ValueError(
            f"{name} must be symmetric with ones on its diagonal; got {rho[row, column]} in row "
            f"{row}, column {column}, and {rho[column, row]} the other way"
        )
    if len(inner) and np.linalg.eigvalsh(inner)[0] <= 0:
        raise ValueError(
            f"{name} must be positive definite; its smallest eigenvalue is "
            f"{np.linalg.eigvalsh(inner)[0]:.3g}: shrink it, see correlation_from_members"
        )
    return inner
