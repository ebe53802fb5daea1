"""Intervals that negative controls calibrate: effects that are known to be zero.

An error that all members of an ensemble share, no spread between them shows. Effects that should be
zero do show it: by where they lie, and by how far they spread.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ._checks import check_choice, require
from .intervals import PAIR, intervals, q_values

__all__ = ["calibrate", "check_nulls"]

Nulls = pd.DataFrame | Sequence[tuple[str, str]] | str
MOST = "most"  # in the place of nulls: most pairs are, it is not known which
FEWEST, FEW = 5, 20  # clusters of nulls that are needed, and below which they are called few
FAR, FAR_SHARE = 3, 0.1  # robust standard deviations from the median; share of pairs beyond
IQR, EFFICIENCY = 1.349, 0.37  # interquartile range of a normal, in sd; its efficiency


class _Null(NamedTuple):
    """Distribution of null effects, in own responses."""

    mean: float
    parts: tuple[tuple[float, float], ...]  # of a new null's variance about the mean, with their df
    drift: float  # variance of the mean
    sampling: float  # mean squared standard error of the nulls


def calibrate(table: pd.DataFrame, nulls: Nulls) -> pd.DataFrame:
    """Intervals, p-values and q-values that hold for effects which are known to be zero.

    Parameters
    ----------
    table : pd.DataFrame
        ``exposure, outcome, effect, se, df, own_effect``, as `deepmr_utils.analysis.Result.effects`
        has them; ``total_se, total_df`` in the place of ``se, df`` where they are there.
        ``own_effect`` is ``effect * own(X) / own(Y)``, see
        `deepmr_utils.instruments.own_responses`. Optional: ``scale``, that factor, which an effect
        of exactly 0 does not tell; and ``network``, where rows are of several.
    nulls : pd.DataFrame, sequence of (exposure, outcome), or "most"
        Null effects: a table of ``exposure, outcome, own_effect, se``, both in own responses, and
        ``network``, of other networks or of the same; or pairs of ``table``. A source of nulls is a
        head that was trained on a motif planted at random. "most" says that nine in ten pairs of
        ``table`` or more are null, and takes their median and interquartile range. That is wrong
        where instruments are chosen by their strength alone.

    Returns
    -------
    pd.DataFrame
        ``table``, where ``effect`` and ``own_effect`` are without the mean of the nulls, with new
        ``se, df, ci_low, ci_high, p`` (or ``total_se`` and so on) and ``q_value``, and with
        ``null_mean``, what was taken off the effect. NaN where there was no standard error.
        ``attrs["nulls"]`` has ``mean`` and ``sd`` of a null in own responses, how many ``nulls`` in
        how many ``clusters``, and a ``note`` that says so.

    Raises
    ------
    ValueError
        If columns or pairs are not there, nulls make fewer than 5 clusters (20 of "most"), or more
        than one in ten of "most" lies far out.

    Notes
    -----
    An empirical null N(mu, s^2) (Efron 2004, JASA 99:96; Schuemie et al. 2014, Stat Med 33:209),
    predictive. Nulls of one network, or of one exposure where no ``network`` is given, are a
    cluster. With N nulls in K clusters of n_c, mu is the mean of the cluster means, A their
    variance and B the variance within clusters: a new null has variance
    ``(1 + 1/K) A + (1 - mean(1/n_c)) B`` about mu, with K - 1 and N - K degrees of freedom. An
    effect whose squared standard error v is above m, the mean of the nulls', has ``v - m`` more.
    Degrees of freedom of the sum are Satterthwaite's (1946, Biometrics Bull 2:110). The effect's
    own error, ``v + A/K``, is kept where it gives the wider interval, so that calibration narrows
    none. A null that is tested is left out of its own fit, with its cluster.
    """
    total = "total_" if "total_se" in table else ""
    given = [f"{total}se", f"{total}df"]
    require(table, [*PAIR, "effect", *given, "own_effect"], "the table of effects")
    effect, se, df, own = (table[n].to_numpy(float) for n in ("effect", *given, "own_effect"))
    with np.errstate(all="ignore"):
        scale = table["scale"].to_numpy(float) if "scale" in table else own / effect
    known = table.assign(se=se * np.abs(scale))
    check_nulls(nulls, list(zip(*(table[n] for n in PAIR), strict=True)))
    rows, cluster, out = _choose(nulls, known)
    fit = _most if isinstance(nulls, str) else _fit
    mean, variance, freedom = np.full((3, len(table)), np.nan)
    for code in np.unique(out):
        here, kept = out == code, cluster != code
        null = fit(rows[kept], cluster[kept])
        mean[here] = null.mean
        variance[here], freedom[here] = _predict(null, (se * scale)[here] ** 2, df[here])
    shift = mean / scale
    found = intervals(effect - shift, variance**0.5 / np.abs(scale), np.nan, 0, "plain", freedom)
    columns = {f"{total}{n}": found[f"total_{n}"] for n in ("se", "df", "ci_low", "ci_high", "p")}
    columns |= {"effect": effect - shift, "own_effect": own - mean, "null_mean": shift}
    by = [name for name in ("network", "method") if name in table]
    columns["q_value"] = q_values(table.assign(total_p=found["total_p"]), by)
    table = table.assign(**columns)
    null, n = fit(rows, cluster), len(np.unique(cluster))
    controls = f"most of {len(rows)} pairs" if fit is _most else f"{len(rows)} negative controls"
    note = f"calibrated by {controls} in {n} clusters" + (", which are few" if n < FEW else "")
    sd = sum(part for part, _ in null.parts) ** 0.5
    facts = {"mean": null.mean, "sd": sd, "nulls": len(rows), "clusters": n, "note": note}
    table.attrs = {**table.attrs, "nulls": facts}
    return table


def check_nulls(nulls: Nulls, pairs: Sequence[tuple[str, str]], design: str = "") -> None:
    """Raise a ValueError where `calibrate` cannot take these nulls for these pairs.

    Instruments of the designs "all" and "strongest" are chosen by strength alone, and "most" is
    refused.
    """
    if isinstance(nulls, str):
        check_choice("nulls", nulls, [MOST])
        if design in ("all", "strongest"):
            raise ValueError(
                f'the design "{design}" chooses instruments by strength alone, which gives effects '
                'to pairs that have none: nulls="most" needs the design "motif", or edits'
            )
        n, least = len({exposure for exposure, _ in pairs}), FEW
    elif isinstance(nulls, pd.DataFrame):
        require(nulls, [*PAIR, "own_effect", "se"], "the table of nulls")
        n, least = len(np.unique(_clusters(_finite(nulls)))), FEWEST
    else:
        strange = [tuple(pair) for pair in nulls if tuple(pair) not in pairs]
        if strange:
            raise ValueError(
                f"null pairs must be among the pairs (exposure, outcome); {strange[:5]} are not: "
                "ask for them, too, or give a table of nulls of other networks"
            )
        n, least = len({exposure for exposure, _ in nulls}), FEWEST
    if n < least:
        raise ValueError(
            f"nulls must make at least {least} clusters, of a network or an exposure each; got {n}: "
            "their spread would not be known. Add nulls of other exposures or networks"
        )


def _finite(nulls: pd.DataFrame) -> pd.DataFrame:
    return nulls[np.isfinite(nulls[["own_effect", "se"]]).all(axis=1)]


def _clusters(nulls: pd.DataFrame) -> np.ndarray:
    """A number a row, the same for nulls that share an error."""
    return pd.factorize(nulls["network" if "network" in nulls else "exposure"])[0]


def _choose(nulls: Nulls, known: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Nulls, their clusters, and by row of the table the cluster to leave out, or -1."""
    rows = known if not isinstance(nulls, pd.DataFrame) else nulls
    if not isinstance(nulls, pd.DataFrame | str):
        asked = set(map(tuple, nulls))
        rows = rows[[pair in asked for pair in zip(*(rows[n] for n in PAIR), strict=True)]]
    rows = _finite(rows)
    cluster = _clusters(rows)
    n, least = len(np.unique(cluster)), FEW if isinstance(nulls, str) else FEWEST
    if n < least:
        raise ValueError(f"only {n} clusters of nulls have an effect and a standard error")
    same = "network" in rows and "network" in known
    if isinstance(nulls, str) or (isinstance(nulls, pd.DataFrame) and not same):
        return rows, cluster, np.full(len(known), -1)
    keys = [*PAIR, "network"] if same else PAIR
    of = dict(zip(zip(*(rows[n] for n in keys), strict=True), cluster, strict=True))
    out = [of.get(key, -1) for key in zip(*(known[n] for n in keys), strict=True)]
    return rows, cluster, np.array(out)


def _fit(nulls: pd.DataFrame, cluster: np.ndarray) -> _Null:
    """What nulls in clusters say of a new one of a new cluster."""
    groups = nulls["own_effect"].astype(float).groupby(cluster)
    means, n, k = groups.mean(), groups.size(), groups.ngroups
    between = means.var()
    parts = [((1 + 1 / k) * between, k - 1.0)]
    if len(nulls) > k:
        within = ((groups.size() - 1) * groups.var().fillna(0)).sum() / (len(nulls) - k)
        parts.append(((1 - (1 / n).mean()) * within, float(len(nulls) - k)))
    return _Null(means.mean(), tuple(parts), between / k, (nulls["se"].astype(float) ** 2).mean())


def _most(nulls: pd.DataFrame, cluster: np.ndarray) -> _Null:
    """The same of effects most of which are null."""
    effect, k = nulls["own_effect"].to_numpy(float), len(np.unique(cluster))
    low, mean, high = np.quantile(effect, [0.25, 0.5, 0.75])
    sd = (high - low) / IQR
    far = np.mean(np.abs(effect - mean) > FAR * sd)
    if far > FAR_SHARE:
        raise ValueError(
            f"{far:.0%} of the effects lie beyond {FAR} robust standard deviations of their median, "
            f"more than the {FAR_SHARE:.0%} that may not be null: name null pairs"
        )
    part = ((1 + 1 / k) * sd**2, EFFICIENCY * (k - 1))
    return _Null(mean, (part,), sd**2 / k, np.median(nulls["se"].to_numpy(float) ** 2))


def _predict(null: _Null, own: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and degrees of freedom of effects, given their own; those of the wider interval."""
    parts = [*null.parts, (np.clip(own - null.sampling, 0, None), df)]
    total = sum(part for part, _ in parts)
    with np.errstate(all="ignore"):
        total_df = total**2 / sum(part**2 / n for part, n in parts)
    alone = own + null.drift
    wider = _reach(alone, df) > _reach(total, total_df)
    return np.where(wider, alone, total), np.where(wider, df, total_df)


def _reach(variance: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Half the width of a 95 % interval."""
    quantile = np.where(np.isinf(df), special.ndtri(0.975), special.stdtrit(df, 0.975))
    return np.sqrt(variance) * quantile
