"""Summary-data Mendelian randomization of many sequences at once.

`estimate` takes padded arrays, `local_mr` a tidy table of instruments; both know every method of
`methods`. All sequences of a call are fitted together, in blocks of about the same number of
instruments, and a sequence's result does not depend on what else is in the call.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._checks import check_choice, check_columns, check_options, check_rows, numbers
from .._numerics import blocks, pad_groups
from ._canonical import canonical, restore, with_ratios
from ._rows import Array
from .linear import Distribution, Fit
from .registry import DIAGNOSTICS, RANGES, REGISTRY, Method, check_methods, method_name

COLUMNS = ["causal_effect", "se", "ci_low", "ci_high", "p"]
COLUMNS += ["intercept", "intercept_se", "intercept_p", "scale", "q", "q_p", "i2_gx"]
EFFECTS = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]
INSTRUMENT_COLUMNS = ["sequence_id", "position", "reference", "alternate", *EFFECTS]
COVARIANCE = "covariance"
MOST_MEMBERS = 100  # that an ensemble has
FEW = 10  # instruments of whose covariances nothing can be said
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
        the documentation of its function in `deepmr_utils.mr.registry` explains, and `overlap`:
        whether it uses the covariance of the errors; the others leave it unread.
    """
    rows = [
        (name, m.assumption, m.citation, m.minimum, m.maximum, ", ".join(m.extras), m.options)
        for name, m in REGISTRY.items()
    ]
    columns = ["name", "assumption", "citation", "minimum_instruments", "maximum_instruments"]
    table = pd.DataFrame(rows, columns=[*columns, "extra_columns", "options"])
    table["options"] = table["options"].str.join(", ")
    table["overlap"] = [method.overlap() for method in REGISTRY.values()]
    return table.astype({"maximum_instruments": "Int64"})


def estimate(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    method: str = "egger_robust",
    *,
    covariance: ArrayLike | None = None,
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
    covariance : array_like, float (V,) or (S, V), optional
        Covariances of the errors of exposure and outcome effects, of the very numbers that are
        given: for means over M members, the covariance between members divided by M. Methods of
        `overlap` in `methods()` allow for it and for the errors of the exposure effects, so that
        neither the overlap nor the errors bias the estimate; the others, and robust and penalized
        fits, leave it unread. 0 says that the errors are independent.
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
        If the arrays differ in shape, hold infinities, are NaN in some but not all places,
        or hold a standard error that is not positive or a covariance above the product of both;
        if method, distribution or an option is unknown, or has none of the values that it may have.
    TypeError
        If there are several methods, which `local_mr` takes.

    Notes
    -----
    Signs of alleles and of the outcome, order and units change nothing but the sign and unit of the
    results. Methods of ratios (medians, modes, conmix, hetpen) leave out an instrument that has
    none, as its exposure effect is 0; `n_instruments` counts it.

    Errors and their covariance are taken as known. Where each instrument has those of a few members
    they hang together by chance: of five members, weights 1 / se_outcome^2 leave two fifths of the
    bias by overlap in IVW, MR-Egger and dIVW. Give one `se_outcome` to all instruments then; RAPS
    needs one `se_exposure` and one `covariance` as well.
    """
    method, options = _options(method, distribution, options)
    effects = [beta_exposure, se_exposure, beta_outcome, se_outcome]
    arrays = check_effects(*effects, *([] if covariance is None else [covariance]))
    return _fit(arrays, method, options)


def estimate_unchecked(arrays: Sequence[Array], method: str, **options: Any) -> pd.DataFrame:
    """`estimate` of arrays that our own code made.

    Parameters
    ----------
    arrays : sequence of np.ndarray, float64 (S, V)
        Effects, errors and perhaps covariances; the latter may exceed what the errors allow, where
        weights by the errors of all members go with the covariance of some.
    method, **options
        As in `estimate`.

    Returns
    -------
    pd.DataFrame
        As of `estimate`.
    """
    return _fit(arrays, *_options(method, "normal", options))


def _options(method: str, distribution: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Today's name of a method, and its checked options."""
    method = method_name(method)
    chosen, options = REGISTRY[method], dict(options)
    if check_choice("distribution", distribution, ("normal", "t")) == "t":
        if "distribution" not in chosen.options:
            raise ValueError(f"method {method!r} has no t interval: use distribution='normal'")
        options["distribution"] = distribution
    for option in options:
        check_choice(f"option of {method}", option, chosen.options)
    return method, check_options(chosen.fit.func, options, RANGES)


def _fit(arrays: Sequence[Array], method: str, options: dict[str, Any]) -> pd.DataFrame:
    chosen = REGISTRY[method]
    form = canonical(*arrays if chosen.overlap(**options) else arrays[:4])
    instruments = form.data.n
    if chosen.ratios:
        form = with_ratios(form)
    n = form.data.n
    table = {name: np.full(len(n), np.nan) for name in (*COLUMNS, *chosen.extras)}
    status = _count_status(instruments, n, chosen)
    # A row's block is as wide as its own n asks for, so its sums have one order in any batch.
    widths = -(-n // 16) * 16
    for width in np.unique(widths[status == "ok"]):
        rows_of_width = np.flatnonzero((widths == width) & (status == "ok"))
        for part in blocks(len(rows_of_width), int(width)):
            block = rows_of_width[part]
            rows = form.rows(block, width)
            units = {} if chosen.has_se else {"unit_exponent": rows.unit_exponent}
            with np.errstate(all="ignore"):
                fit = restore(chosen.fit(rows.data, **options, **units), rows)
            status[block], good = _status(fit, has_se=chosen.has_se)
            for name in table.keys() & fit.keys():
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
        `se_exposure`, `beta_outcome`, `se_outcome`; and, where it has one, `covariance`, as in
        `estimate`. Drop that column for estimates that do not allow for overlap.
    method : str or sequence of str
        One of `methods()`, or several, whose tables follow each other.
    distribution, **options
        As in `estimate`.

    Returns
    -------
    pd.DataFrame
        One row a method and sequence, in category order: `sequence_id` (the same categories),
        `method`, then the columns of `estimate`. Where the table has `sd_exposure`, the standard
        deviation over members, `f_stat` is the mean squared `beta_exposure / sd_exposure`: the
        strength by which instruments are selected, that of one member.

    Raises
    ------
    ValueError
        If a column is missing or there twice, an instrument has no sequence or is listed twice
        (bases in lower case are those in upper case), and as `estimate`.
    """
    if not isinstance(method, str):
        rule = {"distribution": distribution, **options}
        tables = [local_mr(instruments, name, **rule) for name in check_methods(method)]
        return pd.concat(tables, ignore_index=True)
    method = method_name(method)
    optional = [name for name in (COVARIANCE, "sd_exposure") if name in instruments]
    check_columns(instruments, [*INSTRUMENT_COLUMNS, *optional], "an instrument table")
    sequence = instruments["sequence_id"]
    if not isinstance(sequence.dtype, pd.CategoricalDtype):
        sequence = sequence.astype(pd.CategoricalDtype(sequence.dropna().unique()))
    codes = sequence.cat.codes
    rule = "each instrument must belong to a sequence"
    check_rows(instruments, codes < 0, rule, "sequence_id", hint=": fill it in or drop the row")
    position = numbers(instruments["position"], "position")
    alternate = instruments["alternate"].astype(str).str.upper()
    keys = pd.DataFrame({"sequence": codes, "position": position, "alternate": alternate})
    rule, shown = "an instrument may be listed once", ("sequence_id", "position", "alternate")
    hint = " as a row before: analyse one exposure-outcome pair at a time"
    check_rows(instruments, keys.duplicated(), rule, *shown, hint=hint)
    names = [name for name in (*EFFECTS, COVARIANCE) if name in instruments]
    values = check_effects(*(instruments[name] for name in names), labels=instruments.index)
    group, categories = codes.to_numpy(np.intp), sequence.cat.categories
    *padded, covariance = pad_groups(group, len(categories), *(a[0] for a in values))
    if COVARIANCE not in names:
        padded, covariance = [*padded, covariance], None
    rule = {"covariance": covariance, "distribution": distribution, **options}
    table = estimate(*padded, method, **rule)
    if {"f_stat", "sd_exposure"} <= {*table, *instruments}:
        sd = numbers(instruments["sd_exposure"], "sd_exposure")
        bad = pd.Series(~(sd > 0), index=instruments.index)
        check_rows(instruments, bad, "a standard deviation must be greater than 0", "sd_exposure")
        (square,) = pad_groups(group, len(categories), (values[0][0] / sd) ** 2)
        strength = np.nansum(square, axis=1) / table["n_instruments"]
        table["f_stat"] = strength.where(table["f_stat"].notna())
    identity = pd.Categorical.from_codes(np.arange(len(categories)), dtype=sequence.dtype)
    table.insert(0, "sequence_id", identity)
    table.insert(1, "method", method)
    return table


def _count_status(instruments: Array, n: Array, method: Method) -> Array:
    """Say "ok" of rows of as many instruments as a method takes; it can use n of them."""
    status = np.full(len(n), "ok", dtype=object)
    for i in np.flatnonzero(n < method.minimum):
        kind = "too few instruments" + (" with a ratio" if n[i] < instruments[i] else "")
        status[i] = f"{kind}: {n[i]} of at least {method.minimum}"
    for i in np.flatnonzero(n > (method.maximum or np.inf)):
        status[i] = f"too many instruments: {n[i]} of at most {method.maximum}"
    return status


def _status(fit: Fit, *, has_se: bool) -> tuple[Array, Array]:
    """Say of each row of a fit whether it is "ok" or why not, and which rows are.

    An estimate without an error that is a positive number is none, whatever the method.
    """
    finite = np.isfinite(fit["causal_effect"])
    finite &= ~(np.isnan(fit["ci_low"]) | np.isnan(fit["ci_high"]))
    se = fit["se"] if has_se else np.ones(len(finite))
    reasons = {
        NOT_FINITE: ~(finite & np.isfinite(se)),
        NOT_UNIQUE: ~fit["unique"],
        NOT_CONVERGED: np.logical_not(fit.get("converged", True)) | (se <= 0),
    }
    status = np.full(len(finite), "ok", dtype=object)
    for reason, bad in (reasons | fit.get("reasons", {})).items():
        status[bad] = reason
    return status, status == "ok"


def check_effects(*values: ArrayLike, labels: Sequence[Hashable] | None = None) -> list[Array]:
    """Check summary data.

    Parameters
    ----------
    *values : array_like, float (V,) or (S, V)
        Exposure effects, their standard errors, outcome effects, theirs, and, if a fifth is given,
        the covariances of the errors.
    labels : sequence, optional
        What the rows of a table are called in errors, where the values are its columns.

    Returns
    -------
    list of np.ndarray, float64 (S, V)
        The same, padding NaN in all.

    Raises
    ------
    ValueError
        As `estimate`, saying which rule is broken, where, by what value, and what to do.
    """
    names = EFFECTS if len(values) == 4 else [*EFFECTS, COVARIANCE]
    count = "four" if len(values) == 4 else "five"
    arrays = [numbers(value, name) for name, value in zip(names, values, strict=True)]
    shapes = {name: a.shape for name, a in zip(names, arrays, strict=True)}
    if len(set(shapes.values())) > 1 or arrays[0].ndim not in (1, 2):
        raise ValueError(
            f"the {count} arrays must have one shape, (V,) or (S, V); got {shapes}: pad sequences "
            f"with fewer instruments by NaN in all {count}"
        )
    arrays = [np.atleast_2d(a) for a in arrays]
    absent = np.array([np.isnan(a) for a in arrays])
    half = f"known, or NaN in all {count} (a half-missing instrument)"
    broken = {
        "finite": [np.isinf(a) for a in arrays],
        half: absent & ~absent.all(axis=0),
        "greater than 0": [(a <= 0) & ("se_" in names[i]) for i, a in enumerate(arrays)],
    }
    fixes = (
        "drop the instrument or find what made it so (a saturated prediction?)",
        "complete or drop it",
        "a substitution that moves no ensemble member is no instrument, drop it",
    )
    for (rule, bad), fix in zip(broken.items(), fixes, strict=True):
        if np.any(bad):
            which, row, column = (int(i) for i in np.argwhere(bad)[0])
            place = f"row {row}, column {column}" if labels is None else f"row {labels[column]}"
            got = arrays[which][row, column]
            raise ValueError(f"{names[which]} must be {rule}; got {got} at {place}: {fix}")
    if len(values) == 5:
        _check_covariance(*arrays[1::2], arrays[4])
    return arrays


def _check_covariance(se_exposure: Array, se_outcome: Array, covariance: Array) -> None:
    """Raise where covariances are above what such errors can have, as other numbers would be.

    Of single instruments they may be: of standard errors that were moderated, and with few members.
    """
    with np.errstate(all="ignore"):
        times = np.abs(covariance) / se_exposure / se_outcome
    size, times = (a[~np.isnan(a)] for a in (np.abs(covariance), times))
    if len(times) < FEW or np.median(times) <= 1 + 1e-6:
        return
    looks = {
        "correlations, to be multiplied by both": np.median(size) > 0.05 and size.max() <= 1,
        "covariances between members, to be divided by their number": times.max() <= MOST_MEMBERS,
    }
    likely = " or ".join(what for what, does in looks.items() if does) or "those of other numbers"
    raise ValueError(
        "covariance must be at most se_exposure * se_outcome in size; half of the instruments have "
        f"{np.median(times):.3g} times that or more: they look like {likely}"
    )
