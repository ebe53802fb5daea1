"""Summary-data Mendelian randomization of many sequences at once.

`estimate` takes padded arrays, `local_mr` a tidy table of instruments; both know every method of
`methods`. All sequences of a call are fitted together, in blocks of about the same number of
instruments, and a sequence's result does not depend on what else is in the call.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._checks import as_list, check_choice, check_columns, check_options, did_you_mean, numbers
from .._numerics import blocks, pad_groups
from ._canonical import canonical, restore, with_ratios
from .linear import Distribution, Fit
from .multivariable import correlation_from_members, multivariable
from .registry import DIAGNOSTICS, RANGES, REGISTRY, Method

__all__ = [
    "COLUMNS",
    "INSTRUMENT_COLUMNS",
    "REGISTRY",
    "check_effects",
    "correlation_from_members",
    "estimate",
    "local_mr",
    "methods",
    "multivariable",
]

COLUMNS = [
    "causal_effect",
    "se",
    "ci_low",
    "ci_high",
    "p",
    "intercept",
    "intercept_se",
    "intercept_p",
]
COLUMNS += ["scale", "q", "q_p", "i2_gx"]
EFFECTS = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]
INSTRUMENT_COLUMNS = ["sequence_id", "position", "reference", "alternate", *EFFECTS]
NOT_FINITE = (
    "no finite estimate: instruments without information (exposure effects of 0, or all equal "
    "where there is an intercept), or overflow"
)
NOT_CONVERGED = "not converged, or an exact fit without a scale"
NOT_UNIQUE = "not unique: an effect and its opposite fit equally well"


def methods() -> pd.DataFrame:
    """List the estimators that `estimate` and `local_mr` know.

    Returns
    -------
    pd.DataFrame
        One row a method: `name`, `assumption`, `citation`, `minimum_instruments`,
        `maximum_instruments` (missing where there is no limit), `extra_columns`, `options`, which
        the documentation of its function in `deepmr_utils.mr.registry` explains.
    """
    fields = {
        "assumption": "assumption",
        "citation": "citation",
        "minimum_instruments": "minimum",
        "maximum_instruments": "maximum",
    }
    table = pd.DataFrame(
        {column: [getattr(m, field) for m in REGISTRY.values()] for column, field in fields.items()}
    ).astype({"maximum_instruments": "Int64"})
    table["extra_columns"] = [", ".join(m.extras) for m in REGISTRY.values()]
    table["options"] = [", ".join(_options(m)) for m in REGISTRY.values()]
    table.insert(0, "name", list(REGISTRY))
    return table


def estimate(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    method: str = "egger_robust",
    *,
    distribution: Distribution = "normal",
    **options: Any,
) -> pd.DataFrame:
    """Causal effect of exposure on outcome in every sequence, from summary data.

    Parameters
    ----------
    beta_exposure, se_exposure : array_like, float (V,) or (S, V)
        Exposure effects of V instruments, and their standard errors, in one or S sequences.
        Padding, anywhere in a row, is NaN in all four arrays; so is what is masked, None or NA.
    beta_outcome, se_outcome : array_like, float (V,) or (S, V)
        Outcome effects and their standard errors.
    method : str
        A name of `methods()`.
    distribution : {"normal", "t"}
        Reference distribution of intervals and p-values alike.
    **options
        Further keyword arguments of the method, listed by `methods()`.

    Returns
    -------
    pd.DataFrame
        One row a sequence, NaN where a method has no such quantity: `causal_effect`, `se`,
        `ci_low`, `ci_high` (95 %), `p`, `intercept`, `intercept_se`, `intercept_p` (directional
        pleiotropy), `scale` (residual scale), `q`, `q_p` (Cochran's Q), `i2_gx`, then the extra
        columns of the method, `n_instruments` and `status`: "ok", or why the row is NaN. With "ok"
        a standard error is finite and above 0. Extra columns that say something of the instruments
        (`f_stat`, `condition`, `global_p`, `n_outliers` and such) are shown in any case.

    Raises
    ------
    ValueError
        If the arrays differ in shape, hold infinities, are NaN in some but not all four places,
        or hold a standard error that is not positive; if method, distribution or an option is
        unknown, or has none of the values that it may have.
    TypeError
        If there are several methods, which `local_mr` takes.

    Notes
    -----
    Signs of alleles and of the outcome, order and units change nothing but the sign and unit of the
    results. Methods of ratios (medians, modes, conmix, hetpen) leave out an instrument that has
    none, as its exposure effect is 0; `n_instruments` counts it.
    """
    chosen, options = _method_and_options(method, distribution, options)
    arrays = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    form = canonical(*arrays)
    instruments = form.data.n
    if chosen.ratios:
        form = with_ratios(form)
    n = form.data.n
    columns = [*COLUMNS, *chosen.extras]
    table = {name: np.full(len(n), np.nan) for name in columns}
    status = _count_status(instruments, n, chosen)
    # A row's block is as wide as its own n asks for, so its sums have one order in any batch.
    widths = -(-n // 16) * 16
    for width in np.unique(widths[status == "ok"]):
        rows_of_width = np.flatnonzero((widths == width) & (status == "ok"))
        for part in blocks(len(rows_of_width), int(width)):
            block = rows_of_width[part]
            rows = form.rows(block, width)
            units = {"unit_exponent": rows.unit_exponent} if chosen.units else {}
            with np.errstate(all="ignore"):
                fit = restore(chosen.fit(rows.data, **options, **units), rows)
            status[block], good = _status(fit, has_se=chosen.has_se)
            for name in columns:
                if name in fit:
                    shown = good | (name in DIAGNOSTICS)
                    table[name][block[shown]] = fit[name][shown]
    return pd.DataFrame({**table, "n_instruments": instruments, "status": status.astype(str)})


def local_mr(
    instruments: pd.DataFrame,
    method: str | Sequence[str] = "egger_robust",
    *,
    distribution: Distribution = "normal",
    **options: Any,
) -> pd.DataFrame:
    """Causal effect in every analysed sequence, from a tidy table of instruments.

    Parameters
    ----------
    instruments : pd.DataFrame
        One row an instrument, in any order: `sequence_id` (a categorical whose categories are all
        analysed sequences, also those without instruments; other values are taken as categories in
        order of appearance), `position`, `reference`, `alternate`, `beta_exposure`,
        `se_exposure`, `beta_outcome`, `se_outcome`.
    method : str or sequence of str
        One of `methods()`, or several, whose tables follow each other.
    distribution, **options
        As in `estimate`.

    Returns
    -------
    pd.DataFrame
        One row a method and sequence, in category order: `sequence_id` (the same categories),
        `method`, then the columns of `estimate`.

    Raises
    ------
    ValueError
        If a column is missing or there twice, an instrument has no sequence or is listed twice
        (bases in lower case are those in upper case), and as `estimate`.
    """
    if not isinstance(method, str):
        return pd.concat(
            [
                local_mr(instruments, name, distribution=distribution, **options)
                for name in check_methods(method)
            ],
            ignore_index=True,
        )
    check_columns(instruments, INSTRUMENT_COLUMNS, "an instrument table")
    sequence = instruments["sequence_id"]
    if not isinstance(sequence.dtype, pd.CategoricalDtype):
        sequence = sequence.astype(pd.CategoricalDtype(sequence.dropna().unique()))
    codes = sequence.cat.codes.to_numpy().astype(np.intp)
    if (codes < 0).any():
        raise ValueError(
            f"each instrument must belong to a sequence; sequence_id is missing in row "
            f"{int(np.argmax(codes < 0))}: fill it in or drop the row"
        )
    keys = pd.DataFrame({"sequence": codes})
    keys["position"] = numbers(instruments["position"], "position")
    keys["alternate"] = instruments["alternate"].astype(str).str.upper().to_numpy()
    repeated = keys.duplicated().to_numpy()
    if repeated.any():
        row = instruments.iloc[int(np.argmax(repeated))]
        raise ValueError(
            f"an instrument may be listed once; sequence {row['sequence_id']!r} has position "
            f"{row['position']} to {row['alternate']} twice: analyse one exposure-outcome pair at "
            "a time"
        )
    categories = sequence.cat.categories
    values = check_effects(*(instruments[name] for name in EFFECTS), labels=instruments.index)
    padded = pad_groups(codes, len(categories), *(array[0] for array in values))
    table = estimate(*padded, method, distribution=distribution, **options)
    identity = pd.Categorical.from_codes(np.arange(len(categories)), dtype=sequence.dtype)
    table.insert(0, "sequence_id", identity)
    table.insert(1, "method", method)
    return table


def _count_status(instruments: np.ndarray, n: np.ndarray, method: Method) -> np.ndarray:
    """Say "ok" of rows of as many instruments as a method takes; it can use n of them."""
    status = np.full(len(n), "ok", dtype=object)
    for i in np.flatnonzero(n < method.minimum):
        kind = "too few instruments" + (" with a ratio" if n[i] < instruments[i] else "")
        status[i] = f"{kind}: {n[i]} of at least {method.minimum}"
    if method.maximum is not None:
        for i in np.flatnonzero(n > method.maximum):
            status[i] = f"too many instruments: {n[i]} of at most {method.maximum}"
    return status


def _status(fit: Fit, *, has_se: bool) -> tuple[np.ndarray, np.ndarray]:
    """Say of each row of a fit whether it is "ok" or why not, and which rows are.

    An estimate without an error that is a positive number is none, whatever the method.
    """
    finite = np.isfinite(fit["causal_effect"])
    finite &= ~(np.isnan(fit["ci_low"]) | np.isnan(fit["ci_high"]))
    ok = np.ones(len(finite), bool)
    se = fit["se"] if has_se else ok
    status = np.full(len(finite), "ok", dtype=object)
    for reason, good in (
        (NOT_FINITE, finite & np.isfinite(se)),
        (NOT_UNIQUE, fit["unique"]),
        (NOT_CONVERGED, fit.get("converged", ok) & ~(se <= 0)),
        *((reason, ~where) for reason, where in fit.get("reasons", {}).items()),
    ):
        status[~good] = reason
    return status, status == "ok"


def _options(method: Method) -> list[str]:
    """Names of the keyword arguments that a method leaves to the user."""
    parameters = inspect.signature(method.fit.func).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in (*method.fit.keywords, "unit_exponent")
    ]


def _method_and_options(
    name: str, distribution: str, options: dict[str, Any]
) -> tuple[Method, dict[str, Any]]:
    if not isinstance(name, str):
        raise TypeError(
            f"method must be one name; got {name!r}: make a call for each, or give the table of "
            "instruments to local_mr, which takes several"
        )
    check_choice("method", name, tuple(REGISTRY))
    check_choice("distribution", distribution, ("normal", "t"))
    chosen = REGISTRY[name]
    allowed = _options(chosen)
    if distribution == "t" and "distribution" not in allowed:
        raise ValueError(f"method {name!r} has no t interval: use distribution='normal'")
    if "distribution" in allowed:
        options = {**options, "distribution": distribution}
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]!r} of method {name!r}: choose among {allowed}"
            + did_you_mean(unknown[0], allowed)
        )
    return chosen, check_options(chosen.fit.func, options, RANGES)


def check_methods(methods: str | Sequence[str]) -> list[str]:
    """Names of methods, each once, or a ValueError where one is unknown or there is none."""
    found = list(dict.fromkeys(as_list(methods)))
    if not found:
        raise ValueError(f"method must name one at least; got none: choose among {list(REGISTRY)}")
    return [check_choice("method", name, tuple(REGISTRY)) for name in found]


def check_effects(*values: ArrayLike, labels: pd.Index | None = None) -> list[np.ndarray]:
    """Check summary data.

    Parameters
    ----------
    *values : array_like, float (V,) or (S, V)
        Exposure effects, their standard errors, outcome effects, theirs.
    labels : pd.Index, optional
        What the rows of a table are called in errors, where the values are its columns.

    Returns
    -------
    list of np.ndarray, float64 (S, V)
        The same four, padding NaN in all.

    Raises
    ------
    ValueError
        As `estimate`, saying which rule is broken, where, by what value, and what to do.
    """
    arrays = [numbers(value, name) for name, value in zip(EFFECTS, values, strict=True)]
    shapes = {name: a.shape for name, a in zip(EFFECTS, arrays, strict=True)}
    if len(set(shapes.values())) > 1 or arrays[0].ndim not in (1, 2):
        raise ValueError(
            f"the four arrays must have one shape, (V,) or (S, V); got {shapes}: pad sequences "
            "with fewer instruments by NaN in all four"
        )
    arrays = [np.atleast_2d(a) for a in arrays]
    for name, array in zip(EFFECTS, arrays, strict=True):
        if np.isinf(array).any():
            where = _where(np.isinf(array))
            raise ValueError(
                f"{name} must be finite; got {array[where]} at {_place(where, labels)}: drop the "
                "instrument or find what made it infinite (a saturated prediction?)"
            )
    absent = np.stack([np.isnan(a) for a in arrays])
    half = absent.any(axis=0) & ~absent.all(axis=0)
    if half.any():
        where = _where(half)
        names = [name for name, a in zip(EFFECTS, absent, strict=True) if a[where]]
        raise ValueError(
            f"half-missing instrument: {', '.join(names)} is NaN at {_place(where, labels)} but "
            "the others are not; an instrument needs all four, padding is NaN in all four: "
            "complete or drop it"
        )
    for name, array in zip(EFFECTS, arrays, strict=True):
        if name.startswith("se_") and (array <= 0).any():
            where = _where(array <= 0)
            raise ValueError(
                f"{name} must be greater than 0; got {array[where]} at {_place(where, labels)}: a "
                "substitution that moves no ensemble member is no instrument, drop it"
            )
    return arrays


def _where(bad: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _place(where: tuple[int, ...], labels: pd.Index | None) -> str:
    if labels is not None:
        return f"row {labels[where[1]]}"
    return f"row {where[0]}, column {where[1]}"
