"""Summary-data Mendelian randomization of many sequences at once.

`estimate` takes padded arrays, `local_mr` a tidy table of instruments; both know every method of
`methods`. All sequences of a call are fitted together, in blocks of about the same number of
instruments, and a sequence's result does not depend on what else is in the call.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .mr_consensus import conmix, median, mode
from .mr_linear import Distribution, Fit, Instruments, egger, ivw
from .mr_multivariable import correlation_from_members, multivariable
from .mr_selection import hetpen, presso
from .numerics import blocks, pad_groups
from .raps import divw, raps

__all__ = [
    "COLUMNS",
    "INSTRUMENT_COLUMNS",
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
    "scale",
    "q",
    "q_p",
    "i2_gx",
]
EFFECTS = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]
INSTRUMENT_COLUMNS = ["sequence_id", "position", "reference", "alternate", *EFFECTS]


class Method(NamedTuple):
    """An estimator: how it is fitted, and what a reader has to know about it."""

    fit: Callable[..., Fit]
    minimum: int
    assumption: str
    citation: str
    extras: tuple[str, ...] = ()
    maximum: int | None = None


_VALID = "all instruments valid, or pleiotropy balanced and independent of strength (InSIDE)"
_INSIDE = "pleiotropy independent of instrument strength (InSIDE), its mean estimated"
_BURGESS_2013 = "Burgess, Butterworth and Thompson 2013, Genet Epidemiol 37:658"
_BOWDEN_2015 = "Bowden, Davey Smith and Burgess 2015, Int J Epidemiol 44:512"
_REES_2019 = "Rees, Wood, Dudbridge and Burgess 2019, PLOS ONE 14:e0222362"
_YE_2021 = "Ye, Shao and Kang 2021, Ann Stat 49:2079"
_ZHAO_2020 = "Zhao, Wang, Hemani, Bowden and Small 2020, Ann Stat 48:1742"
_WEAK = "all instruments valid; weak instruments allowed"
_BALANCED = "pleiotropy balanced, normal and independent of strength; weak instruments allowed"
_RAPS = ("tau2", "tau2_se", "n_pruned")
_BOWDEN_2016 = "Bowden, Davey Smith, Haycock and Burgess 2016, Genet Epidemiol 40:304"
_HARTWIG_2017 = "Hartwig, Davey Smith and Bowden 2017, Int J Epidemiol 46:1985"
_PLURALITY = "the largest group of instruments with one ratio is the valid one"

REGISTRY: dict[str, Method] = {
    "ivw": Method(ivw, 1, _VALID, _BURGESS_2013, ("f_stat",)),
    "ivw_fixed": Method(
        partial(ivw, effects="fixed"), 1, "all instruments valid", _BURGESS_2013, ("f_stat",)
    ),
    "ivw_random": Method(partial(ivw, effects="random"), 2, _VALID, _BURGESS_2013, ("f_stat",)),
    "ivw_robust": Method(
        partial(ivw, robust=True), 3, _VALID + "; a minority of outliers", _REES_2019, ("f_stat",)
    ),
    "ivw_penalized": Method(
        partial(ivw, penalized=True),
        2,
        _VALID + "; a minority of outliers",
        _REES_2019,
        ("f_stat",),
    ),
    "egger": Method(egger, 3, _INSIDE, _BOWDEN_2015),
    "egger_robust": Method(
        partial(egger, robust=True), 3, _INSIDE + "; a minority of outliers", _REES_2019
    ),
    "egger_penalized": Method(
        partial(egger, penalized=True), 3, _INSIDE + "; a minority of outliers", _REES_2019
    ),
    "egger_robust_penalized": Method(
        partial(egger, robust=True, penalized=True),
        3,
        _INSIDE + "; a minority of outliers",
        _REES_2019,
    ),
    "egger_paper": Method(
        partial(egger, robust=10),
        3,
        _INSIDE + "; above 10 instruments a minority of outliers",
        "Malina, Cizin and Knowles 2022, PLOS Comput Biol 18:e1009880",
    ),
    "median_simple": Method(
        partial(median, weighting="simple"), 3, "half of the instruments valid", _BOWDEN_2016
    ),
    "median_weighted": Method(median, 3, "instruments with half of the weight valid", _BOWDEN_2016),
    "median_penalized": Method(
        partial(median, weighting="penalized"),
        3,
        "instruments with half of the weight valid",
        _BOWDEN_2016,
    ),
    "mbe_simple": Method(
        partial(mode, weighting="simple"), 3, _PLURALITY, _HARTWIG_2017, ("bandwidth",)
    ),
    "mbe_weighted": Method(mode, 3, _PLURALITY, _HARTWIG_2017, ("bandwidth",)),
    "conmix": Method(
        conmix,
        3,
        _PLURALITY,
        "Burgess, Foley, Allara, Staley and Howson 2020, Nat Commun 11:376",
        ("psi", "overdispersion", "n_valid", "n_intervals"),
    ),
    "hetpen": Method(
        hetpen,
        2,
        _PLURALITY,
        "Burgess, Zuber, Gkatzionis and Foley 2018, Int J Epidemiol 47:1242",
        ("n_intervals",),
        maximum=15,
    ),
    "presso": Method(
        presso,
        4,
        "half of the instruments valid, the others outliers independent of strength (InSIDE)",
        "Verbanck, Chen, Neale and Do 2018, Nat Genet 50:693",
        ("global_p", "n_outliers", "distortion", "distortion_p"),
    ),
    "divw": Method(divw, 1, _VALID + "; weak instruments allowed", _YE_2021, ("tau2",)),
    "raps_simple": Method(raps, 2, _WEAK, _ZHAO_2020, _RAPS),
    "raps_simple_huber": Method(
        partial(raps, loss="huber"), 2, _WEAK + "; a minority of outliers", _ZHAO_2020, _RAPS
    ),
    "raps_simple_tukey": Method(
        partial(raps, loss="tukey"), 2, _WEAK + "; a minority of outliers", _ZHAO_2020, _RAPS
    ),
    "raps_overdispersed": Method(
        partial(raps, overdispersion=True), 3, _BALANCED, _ZHAO_2020, _RAPS
    ),
    "raps_overdispersed_huber": Method(
        partial(raps, loss="huber", overdispersion=True),
        3,
        _BALANCED + "; a minority of outliers",
        _ZHAO_2020,
        _RAPS,
    ),
    "raps_overdispersed_tukey": Method(
        partial(raps, loss="tukey", overdispersion=True),
        3,
        _BALANCED + "; a minority of outliers",
        _ZHAO_2020,
        _RAPS,
    ),
}


def methods() -> pd.DataFrame:
    """List the estimators that `estimate` and `local_mr` know.

    Returns
    -------
    pd.DataFrame
        One row a method: `name`, `assumption`, `citation`, `minimum_instruments`,
        `maximum_instruments` (missing where there is no limit), `extra_columns`.
    """
    return pd.DataFrame(
        {
            "name": list(REGISTRY),
            "assumption": [m.assumption for m in REGISTRY.values()],
            "citation": [m.citation for m in REGISTRY.values()],
            "minimum_instruments": [m.minimum for m in REGISTRY.values()],
            "maximum_instruments": pd.array([m.maximum for m in REGISTRY.values()], dtype="Int64"),
            "extra_columns": [", ".join(m.extras) for m in REGISTRY.values()],
        }
    )


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
        Padding, anywhere in a row, is NaN in all four arrays.
    beta_outcome, se_outcome : array_like, float (V,) or (S, V)
        Outcome effects and their standard errors.
    method : str
        A name of `methods()`.
    distribution : {"normal", "t"}
        Reference distribution of intervals and p-values alike.
    **options
        Further keyword arguments of the method, as its own documentation lists them.

    Returns
    -------
    pd.DataFrame
        One row a sequence, NaN where a method has no such quantity: `causal_effect`, `se`,
        `ci_low`, `ci_high` (95 %), `p`, `intercept`, `intercept_se`, `intercept_p` (directional
        pleiotropy), `scale` (residual scale), `q`, `q_p` (Cochran's Q), `i2_gx`, then the extra
        columns of the method, `n_instruments` and `status`: "ok", or why the row is NaN.

    Raises
    ------
    ValueError
        If the arrays differ in shape, hold infinities, are NaN in some but not all four places,
        or hold a standard error that is not positive; if method, distribution or an option is
        unknown.
    """
    chosen, options = _method_and_options(method, distribution, options)
    arrays = check_effects(beta_exposure, se_exposure, beta_outcome, se_outcome)
    data = _canonical(*arrays)
    rows = len(data.n)
    columns = [*COLUMNS, *chosen.extras]
    table = {name: np.full(rows, np.nan) for name in columns}
    status = np.full(rows, "ok", dtype=object)
    for i in np.flatnonzero(data.n < chosen.minimum):
        status[i] = f"too few instruments: {data.n[i]} of at least {chosen.minimum}"
    if chosen.maximum is not None:
        for i in np.flatnonzero(data.n > chosen.maximum):
            status[i] = f"too many instruments: {data.n[i]} of at most {chosen.maximum}"
    # A row's block is as wide as its own n asks for, so its sums have one order in any batch.
    widths = -(-data.n // 16) * 16
    for width in np.unique(widths[status == "ok"]):
        rows_of_width = np.flatnonzero((widths == width) & (status == "ok"))
        for part in blocks(len(rows_of_width), int(width)):
            block = rows_of_width[part]
            with np.errstate(all="ignore"):
                fit = chosen.fit(
                    Instruments(*(a[block, :width] for a in data[:4]), data.n[block]), **options
                )
            status[block], good = _status(fit)
            for name in columns:
                if name in fit:
                    table[name][block[good]] = fit[name][good]
    return pd.DataFrame({**table, "n_instruments": data.n, "status": status.astype(str)})


def local_mr(
    instruments: pd.DataFrame,
    method: str = "egger_robust",
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
    method, distribution, **options
        As in `estimate`.

    Returns
    -------
    pd.DataFrame
        One row a sequence, in category order: `sequence_id` (the same categories), `method`, then
        the columns of `estimate`.

    Raises
    ------
    ValueError
        If a column is missing, an instrument has no sequence or is listed twice, and as `estimate`.
    """
    missing = [name for name in INSTRUMENT_COLUMNS if name not in instruments.columns]
    if missing:
        raise ValueError(
            f"an instrument table needs the columns {INSTRUMENT_COLUMNS}; {missing} missing from "
            f"{list(instruments.columns)}: rename or add them"
        )
    sequence = instruments["sequence_id"]
    if not isinstance(sequence.dtype, pd.CategoricalDtype):
        sequence = sequence.astype(pd.CategoricalDtype(sequence.dropna().unique()))
    codes = sequence.cat.codes.to_numpy().astype(np.intp)
    if (codes < 0).any():
        raise ValueError(
            f"each instrument must belong to a sequence; sequence_id is missing in row "
            f"{int(np.argmax(codes < 0))}: fill it in or drop the row"
        )
    repeated = instruments.duplicated(["sequence_id", "position", "alternate"]).to_numpy()
    if repeated.any():
        row = instruments.iloc[int(np.argmax(repeated))]
        raise ValueError(
            f"an instrument may be listed once; sequence {row['sequence_id']!r} has position "
            f"{row['position']} to {row['alternate']} twice: analyse one exposure-outcome pair at "
            "a time"
        )
    categories = sequence.cat.categories
    padded = pad_groups(codes, len(categories), *(instruments[name] for name in EFFECTS))
    table = estimate(*padded, method, distribution=distribution, **options)
    identity = pd.Categorical.from_codes(np.arange(len(categories)), dtype=sequence.dtype)
    table.insert(0, "sequence_id", identity)
    table.insert(1, "method", method)
    return table


def _status(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Say of each row of a fit whether it is "ok" or why not, and which rows are."""
    finite = np.isfinite(fit["causal_effect"])
    finite &= ~(np.isnan(fit["ci_low"]) | np.isnan(fit["ci_high"]))
    converged = fit.get("converged", np.ones(len(finite), bool))
    status = np.full(len(finite), "ok", dtype=object)
    status[~finite] = "no finite estimate: instruments without information, or overflow"
    status[~converged] = "not converged, or an exact fit without a scale"
    return status, finite & converged


def _method_and_options(
    name: str, distribution: str, options: dict[str, Any]
) -> tuple[Method, dict[str, Any]]:
    if name not in REGISTRY:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(REGISTRY)}")
    if distribution not in ("normal", "t"):
        raise ValueError(f"unknown distribution {distribution!r}: choose 'normal' or 't'")
    chosen = REGISTRY[name]
    bound = getattr(chosen.fit, "keywords", {})
    allowed = [
        parameter.name
        for parameter in inspect.signature(chosen.fit).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in bound
    ]
    if distribution == "t" and "distribution" not in allowed:
        raise ValueError(f"method {name!r} has no t interval: use distribution='normal'")
    if "distribution" in allowed:
        options = {**options, "distribution": distribution}
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]!r} of method {name!r}: choose among {allowed}"
        )
    return chosen, options


def check_effects(*values: ArrayLike) -> list[np.ndarray]:
    """Check summary data.

    Parameters
    ----------
    *values : array_like, float (V,) or (S, V)
        Exposure effects, their standard errors, outcome effects, theirs.

    Returns
    -------
    list of np.ndarray, float64 (S, V)
        The same four, padding NaN in all.

    Raises
    ------
    ValueError
        As `estimate`, saying which rule is broken, where, by what value, and what to do.
    """
    arrays = [np.asarray(value, dtype=np.float64) for value in values]
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
                f"{name} must be finite; got {array[where]} at {_place(where)}: drop the "
                "instrument or find what made it infinite (a saturated prediction?)"
            )
    absent = np.stack([np.isnan(a) for a in arrays])
    half = absent.any(axis=0) & ~absent.all(axis=0)
    if half.any():
        where = _where(half)
        names = [name for name, a in zip(EFFECTS, absent, strict=True) if a[where]]
        raise ValueError(
            f"half-missing instrument: {', '.join(names)} is NaN at {_place(where)} but the "
            "others are not; an instrument needs all four, padding is NaN in all four: complete "
            "or drop it"
        )
    for name, array in zip(EFFECTS, arrays, strict=True):
        if name.startswith("se_") and (array <= 0).any():
            where = _where(array <= 0)
            raise ValueError(
                f"{name} must be greater than 0; got {array[where]} at {_place(where)}: a "
                "substitution that moves no ensemble member is no instrument, drop it"
            )
    return arrays


def _where(bad: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _place(where: tuple[int, ...]) -> str:
    return f"row {where[0]}, column {where[1]}"


def _canonical(bx: np.ndarray, sx: np.ndarray, by: np.ndarray, sy: np.ndarray) -> Instruments:
    """Orient, sort and compact each row, so that results depend on its instruments alone."""
    n = (~np.isnan(bx)).sum(axis=1)
    x = np.abs(bx)
    y = np.where(bx < 0, -by, np.where(bx == 0, np.abs(by), by))
    order = np.argsort(x, axis=1)  # NaN goes last
    sorted_x = np.take_along_axis(x, order, axis=1)
    tied = np.flatnonzero((sorted_x[:, 1:] == sorted_x[:, :-1]).any(axis=1))
    if len(tied):
        order[tied] = np.lexsort((sy[tied], sx[tied], y[tied], x[tied]), axis=1)
    largest = int(n.max(initial=0))
    width = max(16, -(-largest // 16) * 16)
    packed = []
    for array, padding in zip((x, sx, y, sy), (0.0, 1.0, 0.0, np.inf), strict=True):
        full = np.full((len(n), width), padding)
        values = np.take_along_axis(array, order[:, :largest], axis=1)
        full[:, :largest] = np.where(np.isnan(values), padding, values)
        packed.append(full)
    return Instruments(*packed, n)
