"""Several exposures at once, and instruments whose effects are correlated."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._checks import check_options, numbers
from .._numerics import least_squares
from ._rows import Array
from .estimation import check_effects
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
    effects: Literal["random", "fixed"] = "random",
    distribution: Distribution = "normal",
) -> pd.DataFrame:
    """Direct effects of P exposures on an outcome, by one set of V instruments.

    With one exposure and a correlation it is the estimate of correlated instruments.

    Parameters
    ----------
    beta_exposures, se_exposures : array_like, float (V,) or (V, P)
        Exposure effects and standard errors. The columns of a DataFrame name the exposures; where
        both have the same names, standard errors are taken by name.
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
    check_options(
        multivariable, {"method": method, "effects": effects, "distribution": distribution}
    )
    names = getattr(beta_exposures, "columns", None)
    if names is not None and set(names) == set(getattr(se_exposures, "columns", ())):
        se_exposures = se_exposures[names] if names.is_unique else se_exposures
    x, sx, y, sy, used = _checked(beta_exposures, se_exposures, beta_outcome, se_outcome)
    exposures = x.shape[1]
    rho = _correlation("correlation", correlation, used)
    error_rho = _correlation("exposure_correlation", exposure_correlation, np.ones(exposures, bool))
    design = x
    if method == "egger":
        # By the first exposure that is affected; without any, an outcome effect has no direction.
        first = x[np.arange(len(x)), (x != 0).argmax(axis=1)]
        sign = np.where(first < 0, -1.0, 1.0)
        x, y, rho = x * sign[:, None], y * sign * (first != 0), rho * sign[:, None] * sign
        design = np.column_stack([np.ones(len(y)), x])
    count, columns = design.shape
    table = pd.DataFrame(np.nan, range(exposures), COLUMNS)
    table.insert(0, "exposure", [f"exposure {k}" for k in table.index] if names is None else names)
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
    design: Array, y: Array, sy: Array, rho: Array, *, effects: str, distribution: Distribution
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


def correlation_from_members(member_effects: ArrayLike) -> Array:
    """Correlation of the effects of V instruments, from M ensemble members.

    M is far below V as a rule, so the sample correlation is singular. It is shrunk towards no
    correlation by the amount that minimises the expected error.

    Parameters
    ----------
    member_effects : array_like, float (M, V)
        Effect of every instrument in every member.

    Returns
    -------
    np.ndarray, float64 (V, V)
        Positive definite, with unit diagonal.

    Raises
    ------
    ValueError
        If there are fewer than 3 members, or an effect is not finite or does not vary.

    Notes
    -----
    Ledoit and Wolf (2004), J Multivar Anal 88:365.
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    effects = numbers(member_effects, "member_effects")
    if effects.ndim != 2 or len(effects) < 3 or not effects.size:
        raise ValueError(
            "member_effects must be of shape (M, V) with at least 3 members; got shape "
            f"{effects.shape}"
        )
    sd = effects.std(axis=0)
    bad = np.flatnonzero(~(np.isfinite(sd) & (sd > 0)))
    if len(bad):
        raise ValueError(
            f"member_effects must be finite, and differ between members; got {effects[:, bad[0]]} "
            f"of instrument {bad[0]}: drop it"
        )
    return ledoit_wolf((effects - effects.mean(axis=0)) / sd, assume_centered=True)[0]


def _conditional_f(x: Array, sx: Array, rho: Array) -> Array:
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


def _checked(*values: ArrayLike) -> tuple[Array, ...]:
    """Arrays of the instruments in use, and which of all rows they are."""
    names = ("beta_exposures", "se_exposures", "beta_outcome", "se_outcome")
    x, sx, y, sy = (numbers(value, name) for value, name in zip(values, names, strict=True))
    x, sx = (a[:, None] if a.ndim == 1 else a for a in (x, sx))
    if x.ndim != 2 or sx.shape != x.shape or y.shape != x.shape[:1] or sy.shape != y.shape:
        shapes = f"{x.shape}, {sx.shape}, {y.shape} and {sy.shape}"
        raise ValueError(f"expected exposures (V, P) and outcomes (V,); got {shapes}")
    for k in range(x.shape[1]):
        labels = [f"{i} of exposure {k}" for i in range(len(y))]
        check_effects(x[:, k], sx[:, k], y, sy, labels=labels)
    used = ~np.isnan(y)
    return x[used], sx[used], y[used], sy[used], used


def _correlation(name: str, value: ArrayLike | None, used: Array) -> Array:
    """The part (N, N) of a correlation that belongs to what is in use, N of S (S,)."""
    size, known = len(used), np.flatnonzero(used)
    if value is None:
        return np.eye(len(known))
    rho = numbers(value, name)
    if rho.shape != (size, size):
        raise ValueError(f"{name} must have shape ({size}, {size}); got {rho.shape}")
    inner = rho[np.ix_(known, known)]
    # Rounding of a correlation computed elsewhere is no error.
    unlike = ~np.isclose(inner, inner.T, atol=1e-8)
    np.fill_diagonal(unlike, ~np.isclose(np.diag(inner), 1, atol=1e-8))
    for rule, bad in (
        ("hold a number for each pair in use", ~np.isfinite(inner)),
        ("be symmetric with ones on its diagonal", unlike),
    ):
        if bad.any():
            i, j = (known[k] for k in np.argwhere(bad)[0])
            raise ValueError(
                f"{name} must {rule}; got {rho[i, j]} in row {i}, column {j}, and {rho[j, i]} the "
                "other way: complete it, or leave one of the two out"
            )
    least = np.linalg.eigvalsh(inner).min(initial=np.inf)
    if least <= 0:
        raise ValueError(
            f"{name} must be positive definite; its smallest eigenvalue is {least:.3g}: shrink it, "
            "see correlation_from_members"
        )
    return inner
