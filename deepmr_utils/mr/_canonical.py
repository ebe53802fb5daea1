"""One form for all data that say the same: what a method sees does not depend on how they came.

Alleles, the order of instruments, the units of both features and the sign of the outcome are
conventions. Each row is brought into one form here, and its estimates back into the user's, so that
every method is equivariant, methods that draw random numbers included.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._rows import Array
from .linear import Fit, Instruments

# Quantities in units of the ratio of outcome and exposure, of the outcome, and of its square.
RATIOS = ("causal_effect", "se", "ci_low", "ci_high", "bandwidth", "psi")
OUTCOMES = ("intercept", "intercept_se")
SQUARES = ("tau2", "tau2_se")
ODD = ("causal_effect", "intercept", "distortion")  # change their sign with that of the outcome
ROUNDING = 1e-6  # of half an interval: what is left of an effect that is 0 by symmetry
LARGEST = 1e200  # variance of a ratio, in the row's units, whose square is still a number


class Canonical(NamedTuple):
    """Rows in canonical form, and the way back.

    Attributes
    ----------
    data : Instruments
        The rows, as `Instruments` describes them. The largest exposure effect of a row lies between
        0.5 and 1, and so does its smallest outcome standard error.
    sign : np.ndarray, float64 (S,)
        -1 where the outcome was turned round: its effect at the strongest instrument is positive.
    x_exponent, y_exponent : np.ndarray, int (S,)
        Units are powers of two, which round nothing.
    symmetric : np.ndarray, bool (S,)
        Rows that turning the outcome round does not change.
    """

    data: Instruments
    sign: Array
    x_exponent: Array
    y_exponent: Array
    symmetric: Array

    @property
    def unit_exponent(self) -> Array:
        """Exponent (S,) of the unit of a ratio."""
        return self.y_exponent - self.x_exponent

    def rows(self, part: Array, width: int) -> "Canonical":
        """Some rows, which are not wider than `width`."""
        *effects, n, c = self.data
        c = None if c is None else c[part, :width]
        data = Instruments(*(a[part, :width] for a in effects), n[part], c)
        return Canonical(data, *(a[part] for a in self[1:]))


def canonical(bx: Array, sx: Array, by: Array, sy: Array, c: Array | None = None) -> Canonical:
    """Orient, sort, scale and compact each row, so that results depend on its instruments alone.

    Parameters
    ----------
    bx, sx, by, sy : np.ndarray, float64 (S, V)
        Summary data; padding is NaN in all four.
    c : np.ndarray, float64 (S, V), optional
        Covariances of the errors of bx and by, padded likewise.

    Returns
    -------
    Canonical
    """
    if not bx.shape[1]:  # a column of padding, so that each row has a largest entry
        bx = sx = by = sy = np.full((len(bx), 1), np.nan)
        c = None if c is None else bx
    n, x = (~np.isnan(bx)).sum(axis=1), np.abs(bx)
    # Without an exposure effect there is no orientation, so that only the size of y can matter.
    y = np.where(bx < 0, -by, np.where(bx == 0, np.abs(by), by))
    # Another allele turns the signs of both effects, and leaves the covariance of their errors.
    shared = 0 * x if c is None else c
    sign, symmetric = _outcome_sign(x, sx, y, sy, shared)
    y, shared = np.where(x > 0, y * sign[:, None], y), shared * sign[:, None]
    order = np.argsort(x, axis=1)  # NaN goes last
    sorted_x = np.take_along_axis(x, order, axis=1)
    tied = np.flatnonzero((sorted_x[:, 1:] == sorted_x[:, :-1]).any(axis=1))
    if len(tied):
        order[tied] = np.lexsort([a[tied] for a in (shared, sy, sx, y, x)], axis=1)
    x_exponent = np.frexp(np.nan_to_num(x).max(axis=1, initial=0))[1]
    least = np.where(np.isnan(sy), np.inf, sy).min(axis=1, initial=np.inf)
    y_exponent = np.frexp(np.where(np.isfinite(least), least, 1))[1]
    with np.errstate(all="ignore"):  # a standard error far above all effects may overflow
        x, sx = (np.ldexp(a, -x_exponent[:, None]) for a in (x, sx))
        y, sy = (np.ldexp(a, -y_exponent[:, None]) for a in (y, sy))
        shared = np.ldexp(shared, -(x_exponent + y_exponent)[:, None])
    largest = int(n.max(initial=0))
    width = max(16, -(-largest // 16) * 16)
    arrays = (x, sx, y, sy) if c is None else (x, sx, y, sy, shared)
    data = _packed(arrays, order[:, :largest], n, width)
    return Canonical(data, sign, x_exponent, y_exponent, symmetric)


def _packed(arrays: Sequence[Array], order: Array, n: Array, width: int) -> Instruments:
    """The first n (S,) of each row (S, V) in an order, and padding as `Instruments` has it."""
    used, packed = np.arange(order.shape[1]) < n[:, None], []
    for array, padding in zip(arrays, (0.0, 1.0, 0.0, np.inf, 0.0), strict=False):
        full = np.full((len(n), width), padding)
        values = np.take_along_axis(array, order, axis=1)
        np.copyto(full[:, : order.shape[1]], values, where=used)
        packed.append(full)
    return Instruments(*packed[:4], n, *packed[4:])


def _outcome_sign(x: Array, sx: Array, y: Array, sy: Array, c: Array) -> tuple[Array, Array]:
    """Sign (S,) of the outcome at the strongest instrument, and rows where no sign is preferred.

    Instruments that differ in nothing but the sign of y, and with it that of c, cancel; then the
    next strongest decides.
    """
    rows, width = x.shape
    sign, symmetric = np.ones(rows), np.zeros(rows, bool)
    strength = np.where(np.isnan(x), -1, x)
    strongest = strength == strength.max(axis=1, keepdims=True)
    top = y[np.arange(rows), strongest.argmax(axis=1)]
    clear = (strongest.sum(axis=1) == 1) & (np.abs(top) > 0) & (strength.max(axis=1) > 0)
    sign[clear] = np.sign(top[clear])
    rest = np.flatnonzero(~clear)
    if not len(rest):
        return sign, symmetric
    turn = np.where((x > 0) & (y != 0), np.sign(y), np.sign(c))
    keys = [np.nan_to_num(a[rest], nan=-1.0) for a in (c * turn, sy, sx, np.abs(y), x)]
    order = np.lexsort(keys, axis=1)
    ordered = [np.take_along_axis(key, order, axis=1) for key in keys]
    new = np.any([key[:, 1:] != key[:, :-1] for key in ordered], axis=0)
    group = np.pad(np.cumsum(new, axis=1), ((0, 0), (1, 0)))
    votes = np.take_along_axis(np.nan_to_num(turn[rest]), order, axis=1)
    flat = (group + width * np.arange(len(rest))[:, None]).ravel()
    net = np.bincount(flat, votes.ravel(), width * len(rest)).reshape(-1, width)
    last = width - 1 - np.argmax(net[:, ::-1] != 0, axis=1)
    decided = net[np.arange(len(rest)), last]
    sign[rest] = np.where(decided < 0, -1, 1)
    symmetric[rest] = decided == 0
    return sign, symmetric


def with_ratios(form: Canonical) -> Canonical:
    """Leave out instruments whose ratio is no number, or is known to no digit at all.

    Parameters
    ----------
    form : Canonical
        Rows with all instruments.

    Returns
    -------
    Canonical
        The same rows without instruments whose exposure effect is 0, or so small that the variance
        of their ratio overflows.
    """
    x, sx, y, sy = form.data[:4]
    with np.errstate(all="ignore"):
        keep = form.data.mask & ((sy / x) ** 2 + (y / x * (sx / x)) ** 2 < LARGEST)
    if (keep == form.data.mask).all():
        return form
    order = np.argsort(~keep, axis=1, kind="stable")
    return form._replace(data=_packed(form.data[:4], order, keep.sum(axis=1), x.shape[1]))


def restore(fit: Fit, form: Canonical) -> Fit:
    """Bring what was estimated in canonical form back to the user's units and signs.

    Parameters
    ----------
    fit : dict of np.ndarray
        Columns (S,) of a fit.
    form : Canonical
        The rows that were fitted.

    Returns
    -------
    dict of np.ndarray
        The same columns, and `unique`: false in symmetric rows whose estimate is not 0, as its
        opposite fits them as well.
    """
    fit, low, high = dict(fit), fit["ci_low"], fit["ci_high"]
    half = (high - low) / 2
    rounding = ROUNDING * np.where(np.isfinite(half), half, 0)
    fit["unique"] = ~form.symmetric | ~(np.abs(fit["causal_effect"]) > rounding)
    for name in {*ODD} & fit.keys():
        zero = form.symmetric & (name != "distortion")
        fit[name] = form.sign * np.where(zero, 0 * fit[name], fit[name])
    turned = form.sign < 0
    fit["ci_low"], fit["ci_high"] = np.where(turned, -high, low), np.where(turned, -low, high)
    exponents = dict.fromkeys(RATIOS, form.unit_exponent)
    exponents |= dict.fromkeys(OUTCOMES, form.y_exponent)
    exponents |= dict.fromkeys(SQUARES, 2 * form.y_exponent)
    for name in fit.keys() & exponents.keys():
        fit[name] = np.ldexp(fit[name], exponents[name])
    return fit
