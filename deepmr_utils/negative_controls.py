"""Intervals that negative controls calibrate: effects that are known to be zero.

An error that all members of an ensemble share, no spread between them shows. Effects that should be
zero do show it: by where they lie, and by how far they spread.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ._checks import check_choice, require
from .intervals import PAIR, intervals, q_values

__all__ = ["calibrate"]

Nulls = pd.DataFrame | Sequence[tuple[str, str]] | str
FEWEST, FEW = 5, 20  # clusters of nulls that are needed, and below which they are called few
FAR, FAR_SHARE = 3, 0.1  # robust standard deviations from the median; share of pairs beyond
MAD, EFFICIENCY = 0.6745, 0.37  # median absolute deviation of a normal, in sd; its efficiency


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
        has them; ``total_se, total_df`` in the place of ``se, df`` where they are there. Optional:
        ``scale``, the factor ``own_effect / effect``, which an effect of exactly 0 does not tell;
        and ``network``, where rows are of several.
    nulls : pd.DataFrame, sequence of (exposure, outcome), or "most"
        A table of null effects, ``exposure, outcome, own_effect, se``, both in own responses, of
        other networks or, with ``network``, of the same; or pairs of `table`. One source is a head
        that was trained on a motif planted at random. "most" says that nine in ten pairs of `table`
        are null, and takes robust location and spread: not where instruments are chosen by strength
        alone, as the atlas does, which gives effects to pairs that have none.

    Returns
    -------
    pd.DataFrame
        `table`, with ``effect`` and ``own_effect`` less the mean of the nulls, ``se, df, ci_low,
        ci_high, p`` (or ``total_se`` and so on) and ``q_value`` calibrated, and ``null_mean``, what
        was taken off the effect. ``attrs["nulls"]`` has ``mean`` and ``sd`` of a new null in own
        responses, how many ``nulls`` in how many ``clusters``, and a ``note`` that says so.

    Raises
    ------
    ValueError
        If columns or pairs are not there, nulls make fewer than 5 clusters (20 of "most"), or more
        than one in ten of "most" lies far out.

    Notes
    -----
    An empirical null N(mu, s^2) (Efron 2004, JASA 99:96; Schuemie et al. 2014, Stat Med 33:209),
    predictive. Nulls of one ``network``, or of one exposure without it, are a cluster. With N nulls
    in K clusters of n_c, mu is the mean of the cluster means, A their variance and B the variance
    within clusters: a new null has variance ``(1 + 1/K) A + (1 - mean(1/n_c)) B`` about mu, with
    K - 1 and N - K degrees of freedom. An effect whose squared standard error v is above m, the
    mean of the nulls', has ``v - m`` more; the sum has Satterthwaite's degrees of freedom (1946,
    Biometrics Bull 2:110). The effect's own error, ``v + A/K``, is kept where its interval is the
    wider: calibration narrows none, and gives at most 5 % false. A null that is tested is left out
    of its own fit, with its cluster.
    """
    total = "total_" if "total_se" in table else ""
    given = [f"{total}se", f"{total}df"]
    require(table, [*PAIR, "effect", *given, "own_effect"], "the table of effects")
    effect, se, df, own = (table[n].to_numpy(float) for n in ("effect", *given, "own_effect"))
    with np.errstate(all="ignore"):
        scale = table["scale"].to_numpy(float) if "scale" in table else own / effect
    check_nulls(nulls, _keys(table, PAIR), table.attrs)
    rows, cluster, out = _choose(nulls, table.assign(se=se * np.abs(scale)))
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


def check_nulls(nulls: Nulls, pairs: Sequence[tuple], settings: Mapping[str, Any]) -> None:
    """Raise a ValueError where these pairs, of an analysis with these settings, lack such nulls."""
    if isinstance(nulls, str):
        check_choice("nulls", nulls, ["most"])  # of unknown pairs; an atlas has no design
        if settings.get("design", "methods" not in settings) in ("all", "strongest", False):
            raise ValueError(
                "instruments that are chosen by strength alone give effects to pairs that have "
                'none: nulls="most" needs the design "motif", or edits'
            )
        _check_count({exposure for exposure, _ in pairs}, FEW)
    elif isinstance(nulls, pd.DataFrame):
        require(nulls, [*PAIR, "own_effect", "se"], "the table of nulls")
        _check_count(nulls["network" if "network" in nulls else "exposure"])
    else:
        strange = [tuple(pair) for pair in nulls if tuple(pair) not in pairs]
        if strange:
            raise ValueError(
                f"null pairs must be among the pairs (exposure, outcome); {strange[:5]} are not: "
                "ask for them, too, or give a table of nulls of other networks"
            )
        _check_count({exposure for exposure, _ in nulls})


def _check_count(clusters: Iterable[Hashable], least: int = FEWEST) -> None:
    n = len(set(clusters))
    if n < least:
        raise ValueError(
            f"nulls must make {least} clusters or more, each of one exposure, or of one network "
            f"that the column network names; got {n}: add nulls of others"
        )


def _keys(table: pd.DataFrame, names: Sequence[str]) -> list[tuple]:
    return list(zip(*(table[name] for name in names), strict=True))


def _choose(nulls: Nulls, known: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Nulls, their clusters, and by row of the table the cluster to leave out, or -1."""
    given, most = isinstance(nulls, pd.DataFrame), isinstance(nulls, str)
    rows = nulls if given else known
    if not (given or most):
        asked = set(map(tuple, nulls))
        rows = rows[[pair in asked for pair in _keys(rows, PAIR)]]
    rows = rows[np.isfinite(rows[["own_effect", "se"]].astype(float)).all(axis=1)]
    cluster = pd.factorize(rows["network" if "network" in rows else "exposure"])[0]
    _check_count(cluster, FEW if most else FEWEST)  # of those that have an effect
    names = [*PAIR, "network"] if "network" in known else PAIR
    if most or (given and not {"network"} <= {*rows} & {*known}):
        return rows, cluster, np.full(len(known), -1)
    of = dict(zip(_keys(rows, names), cluster, strict=True))
    return rows, cluster, np.array([of.get(key, -1) for key in _keys(known, names)])


def _fit(nulls: pd.DataFrame, cluster: np.ndarray) -> _Null:
    """What nulls in clusters say of a new one of a new cluster."""
    groups = nulls["own_effect"].astype(float).groupby(cluster)
    means, n, k = groups.mean(), groups.size(), groups.ngroups
    between = means.var()
    parts = [((1 + 1 / k) * between, k - 1.0)]
    if len(nulls) > k:
        within = ((n - 1) * groups.var().fillna(0)).sum() / (len(nulls) - k)
        parts.append(((1 - (1 / n).mean()) * within, float(len(nulls) - k)))
    return _Null(means.mean(), tuple(parts), between / k, (nulls["se"].astype(float) ** 2).mean())


def _most(nulls: pd.DataFrame, cluster: np.ndarray) -> _Null:
    """The same of effects most of which are null."""
    effect, k = nulls["own_effect"].to_numpy(float), len(np.unique(cluster))
    mean = np.median(effect)
    sd = np.median(np.abs(effect - mean)) / MAD
    far = np.mean(np.abs(effect - mean) > FAR * sd)
    if far > FAR_SHARE:
        raise ValueError(
            f"{far:.0%} of the effects lie beyond {FAR} robust standard deviations of their "
            f"median, more than the {FAR_SHARE:.0%} that may not be null: name null pairs"
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
