"""Calibration of predictive uncertainty: recalibration maps and metrics.

Proportions count truths below predicted quantiles, ``F(y) <= p`` (Kuleshov et al., 2018). Libraries
that count (prediction - truth) mirror them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy.special import expit, logit, ndtr, ndtri
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from ._checks import check_choice, check_number

__all__ = [
    "IsotonicRecalibrator", "PlattRecalibrator", "calibration_metrics", "fit_isotonic",
    "fit_platt_features", "reliability_curve",
]  # fmt: skip

N_LEVELS = 100


@dataclass(frozen=True)
class IsotonicRecalibrator:
    """Isotonic maps from observed proportion to predicted quantile, one a feature.

    Fitted by `fit_isotonic`; call it on predictions (M, n, K) of all members to recalibrate them.
    A member at predicted quantile ``u = F(member)`` moves to ``F^-1(R^-1(u))``, with F the normal
    distribution of the members' mean and sd (ddof 0), so an overconfident ensemble is widened and
    an underconfident one narrowed. ``R^-1(u)`` is clipped to [1 / (2 n), 1 - 1 / (2 n)], n the
    number of sequences fitted to, so that no member becomes infinite.
    """

    maps: tuple[IsotonicRegression, ...]
    n: int

    def __call__(self, predictions: np.ndarray) -> np.ndarray:
        """Recalibrated predictions (M, n, K); where all members agree they are unchanged."""
        if predictions.ndim != 3 or predictions.shape[2] != len(self.maps):
            raise ValueError(
                f"the recalibrator was fitted to {len(self.maps)} features and takes predictions "
                f"(members, sequences, {len(self.maps)}); got shape {predictions.shape}"
            )
        mean, sd = predictions.mean(0), predictions.std(0)
        z = (predictions - mean) / np.where(sd > 0, sd, 1)
        moved = np.empty(z.shape)
        for k, isotonic in enumerate(self.maps):
            u = isotonic.predict(ndtr(z[..., k], dtype=np.float64).ravel()).reshape(z.shape[:2])
            moved[..., k] = ndtri(np.clip(u, 0.5 / self.n, 1 - 0.5 / self.n))
        return np.where(sd > 0, mean + sd * moved, predictions).astype(predictions.dtype)


def fit_isotonic(predictions: np.ndarray, labels: np.ndarray) -> IsotonicRecalibrator:
    """Fit isotonic quantile recalibration on a split of its own.

    Parameters
    ----------
    predictions : np.ndarray (M, N, K)
        Members' predictions for sequences on which nothing else is fitted or reported.
    labels : np.ndarray (N, K)

    Notes
    -----
    Isotonic regression of p on R(p), the observed share of labels with F(y) <= p: R^-1 of Kuleshov
    et al. (2018). Levels where R is 0 or 1 throughout carry no information; the innermost is kept.
    """
    levels = np.linspace(0, 1, N_LEVELS)
    maps = []
    for moments in _moments(predictions, labels):
        observed = observed_proportions(*moments, levels)
        first = np.flatnonzero(observed == 0).max(initial=0)
        last = np.flatnonzero(observed == 1).min(initial=len(levels) - 1)
        isotonic = IsotonicRegression(out_of_bounds="clip")
        maps.append(isotonic.fit(observed[first : last + 1], levels[first : last + 1]))
    return IsotonicRecalibrator(tuple(maps), len(labels))


def observed_proportions(
    mean: np.ndarray, sd: np.ndarray, labels: np.ndarray, levels: np.ndarray, kind: str = "quantile"
) -> np.ndarray:
    """Share of labels inside the predicted normal distributions' regions of each level.

    Parameters
    ----------
    mean, sd, labels : np.ndarray (N,)
    levels : np.ndarray (P,)
    kind : {"quantile", "interval"}
        The region of level p: all below the p-quantile, or the central interval of probability p.

    Returns
    -------
    np.ndarray (P,)
    """
    check_choice("kind", kind, ("quantile", "interval"))
    u = ndtr((labels - mean) / sd)
    reached = u if kind == "quantile" else np.abs(2 * u - 1)
    return np.sort(reached).searchsorted(levels, side="right") / len(labels)


def reliability_curve(
    predictions: np.ndarray, labels: np.ndarray, features: list[str], kind: str = "quantile"
) -> pd.DataFrame:
    """Observed against expected proportions.

    Parameters
    ----------
    predictions : np.ndarray (M, N, K)
    labels : np.ndarray (N, K)
    features : list of str (K,)
    kind : {"quantile", "interval"}
        See `observed_proportions`.

    Returns
    -------
    pd.DataFrame
        ``feature, expected, observed``, a row a feature and level.
    """
    moments, levels = _moments(predictions, labels), np.linspace(0, 1, N_LEVELS)
    observed = [observed_proportions(*one, levels, kind) for one in moments]
    return pd.DataFrame({
        "feature": np.repeat(features, N_LEVELS),
        "expected": np.tile(levels, len(features)),
        "observed": np.concatenate(observed),
    })  # fmt: skip


def calibration_metrics(
    predictions: np.ndarray, labels: np.ndarray, features: list[str], kind: str = "interval"
) -> pd.DataFrame:
    """Calibration of each feature, one row each.

    Returns
    -------
    pd.DataFrame
        ``feature``; ``mace`` and ``rmsce``, mean absolute and root-mean-square difference of
        observed and expected proportion; ``miscalibration_area`` between the reliability curve and
        the diagonal; ``sharpness``, root mean predicted variance in label units.
    """
    curves = reliability_curve(predictions, labels, features, kind)
    error = (curves["observed"] - curves["expected"]).to_numpy().reshape(-1, N_LEVELS)
    return pd.DataFrame({
        "feature": features,
        "mace": np.abs(error).mean(1),
        "rmsce": np.sqrt((error**2).mean(1)),
        "miscalibration_area": _area(error),
        "sharpness": [np.sqrt((sd**2).mean()) for _, sd, _ in _moments(predictions, labels)],
    })  # fmt: skip


def _area(error: np.ndarray) -> np.ndarray:
    """Integrals over [0, 1] of absolute values of piecewise linear functions (K, P)."""
    left, right = error[:, :-1], error[:, 1:]
    total = np.abs(left) + np.abs(right)
    crossing = (left**2 + right**2) / np.where(total > 0, total, 1)
    return np.where(left * right < 0, crossing, total).mean(1) / 2


def _moments(predictions: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Mean and sd over members, and labels, of each feature (N,), in float64, or a clear error."""
    predictions, labels = np.asarray(predictions, float), np.asarray(labels, float)
    if predictions.ndim != 3 or labels.shape != predictions.shape[1:]:
        raise ValueError(
            "predictions must be (members, sequences, features) and labels (sequences, features); "
            f"got {predictions.shape} and {labels.shape}"
        )
    mean, sd = predictions.mean(0), predictions.std(0)
    if not (sd > 0).all():
        raise ValueError(
            f"calibration needs members that differ; {int((sd == 0).sum())} of {sd.size} "
            "predictions have a standard deviation of 0 (a single member?)"
        )
    return list(zip(mean.T, sd.T, labels.T, strict=True))


@dataclass(frozen=True)
class PlattRecalibrator:
    """Platt scaling, one slope and intercept a feature: ``logit(p) -> slope logit(p) + intercept``.

    Call it on probabilities (M, n, K); ``slope`` and ``intercept`` are (K,).
    """

    slope: np.ndarray
    intercept: np.ndarray

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Recalibrated probabilities (M, n, K)."""
        recalibrated = expit(self.slope * logit(probabilities) + self.intercept)
        return recalibrated.astype(probabilities.dtype)


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Platt scaling of one classifier.

    Parameters
    ----------
    logits : np.ndarray (N,)
    labels : np.ndarray (N,)
        0 or 1, both present.

    Returns
    -------
    tuple of float
        Slope, intercept.

    Notes
    -----
    Logistic regression on the logit with Platt's smoothed targets (n1 + 1) / (n1 + 2) and
    1 / (n0 + 2), which keep the slope finite where the classes separate (Platt, 1999).
    """
    labels = np.asarray(labels, float)
    n, n1 = len(labels), int(labels.sum())
    if not np.isin(labels, (0, 1)).all() or not 0 < n1 < n:
        raise ValueError(
            f"Platt scaling needs labels 0 and 1, both present; got {n1} positives of {n}"
        )
    targets = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n - n1 + 2))
    design = sm.add_constant(np.asarray(logits, float))
    fit = sm.GLM(targets, design, family=sm.families.Binomial()).fit(tol=1e-12)
    intercept, slope = fit.params
    return float(slope), float(intercept)


def fit_platt_features(
    logits: np.ndarray, labels: np.ndarray, features: list[str]
) -> tuple[PlattRecalibrator, pd.DataFrame]:
    """Platt scaling of many classifiers, one a feature.

    Parameters
    ----------
    logits : np.ndarray (N, K)
        Predictions for sequences on which nothing else is fitted or reported.
    labels : np.ndarray (N, K)
        0 or 1; NaN where there is none.
    features : list of str (K,)

    Returns
    -------
    tuple of PlattRecalibrator and pd.DataFrame
        A feature that cannot be fitted is left as it is. The table has one row a feature:
        ``feature, slope, intercept, n, status``, "ok" or why it was skipped.
    """
    logits, labels = _check_classes(logits, labels, features)
    rows = []
    for k, name in enumerate(features):
        known = ~np.isnan(labels[:, k])
        slope, intercept, status = 1.0, 0.0, "ok" if known.any() else "no labels"
        if len(np.unique(labels[known, k])) == 1:
            status = "all labels are the same"
        if status == "ok":
            slope, intercept = fit_platt(logits[known, k], labels[known, k])
        rows.append((name, slope, intercept, int(known.sum()), status))
    table = pd.DataFrame(rows, columns=["feature", "slope", "intercept", "n", "status"])
    return PlattRecalibrator(table["slope"].to_numpy(), table["intercept"].to_numpy()), table


def classifier_reliability(
    probabilities: np.ndarray, labels: np.ndarray, features: list[str], bins: int = 10
) -> pd.DataFrame:
    """Share of positives against predicted probability, in bins of equal width.

    Parameters
    ----------
    probabilities, labels : np.ndarray (N, K)
        Labels are 0 or 1; NaN where there is none.
    features : list of str (K,)
    bins : int
        Lower ends excluded, but for 0; empty bins have no row.

    Returns
    -------
    pd.DataFrame
        ``feature, bin, predicted, observed, n``: means of probabilities and labels.
    """
    probabilities, labels = _check_classes(probabilities, labels, features)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]; give predictions, not logits")
    check_number("bins", bins, 1, whole=True)
    table = pd.DataFrame({
        "feature": pd.Categorical(np.repeat(features, len(labels)), features),
        "bin": np.clip(np.ceil(probabilities.T.ravel() * bins) - 1, 0, None).astype(int),
        "predicted": probabilities.T.ravel(),
        "observed": labels.T.ravel(),
    }).dropna()  # fmt: skip
    groups = table.groupby(["feature", "bin"], observed=True)
    return groups.mean().assign(n=groups.size()).reset_index().astype({"feature": str})


def classifier_metrics(
    probabilities: np.ndarray, labels: np.ndarray, features: list[str], bins: int = 10
) -> pd.DataFrame:
    """How well each classifier predicts, and how well it is calibrated.

    Parameters
    ----------
    probabilities, labels, features, bins
        As in `classifier_reliability`.

    Returns
    -------
    pd.DataFrame
        One row a feature: ``feature, n, positives, auroc, auprc`` (NaN where all labels are the
        same), ``brier``, the mean squared difference of probability and label, and ``ece``, the
        mean absolute difference of predicted and observed in bins, weighted by their sizes (Naeini,
        Cooper and Hauskrecht, 2015).
    """
    curve = classifier_reliability(probabilities, labels, features, bins)
    off = (curve["predicted"] - curve["observed"]).abs() * curve["n"]
    probabilities, labels = _check_classes(probabilities, labels, features)
    rows = []
    for k, name in enumerate(features):
        known = ~np.isnan(labels[:, k])
        p, y = probabilities[known, k], labels[known, k]
        both = len(np.unique(y)) == 2
        rows.append({
            "feature": name, "n": len(y), "positives": int(y.sum()),
            "auroc": roc_auc_score(y, p) if both else np.nan,
            "auprc": average_precision_score(y, p) if both else np.nan,
            "brier": ((p - y) ** 2).mean() if len(y) else np.nan,
            "ece": off[curve["feature"] == name].sum() / len(y) if len(y) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _check_classes(
    values: np.ndarray, labels: np.ndarray, features: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values, float), np.asarray(labels, float)
    if values.ndim != 2 or values.shape != labels.shape or values.shape[1] != len(features):
        raise ValueError(
            "predictions and labels must be (sequences, features), with a name a feature; got "
            f"{values.shape}, {labels.shape} and {len(features)} names"
        )
    if not np.isfinite(values).all() or not (np.isnan(labels) | np.isin(labels, (0, 1))).all():
        raise ValueError("predictions must be finite, and labels 0, 1 or NaN where there is none")
    return values, labels
