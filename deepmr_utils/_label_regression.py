"""What labels say of sites beside a prediction: the regression behind `held_out`."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from ._checks import check_rows, numbers

FEWEST = 10  # sequences with sites of a motif, and without
FEWEST_EACH = 20  # sequences for each regressor
STEPS, CLOSE = 50, 1e-10  # of Newton's method
SITE = ["sequence_id", "factor", "start"]


class Estimates(NamedTuple):
    """Of one exposure, by feature (T,): corrected ratios, at its own place the learned response.

    With standard errors; the relative error of its own response; mean changes that the model
    predicts and that it misses; the model's ratios.
    """

    values: np.ndarray
    errors: np.ndarray
    own: float
    response: np.ndarray
    missed: np.ndarray
    before: np.ndarray


def check_labels(labels: pd.DataFrame, head: str) -> np.ndarray:
    """Labels (N, T), or an error where one cannot be of the head."""
    values = numbers(labels, "labels")
    good = {
        "gaussian": np.isfinite(values), "poisson": np.isfinite(values) & (values >= 0),
        "logistic": np.isin(values, (0, 1)),
    }[head]  # fmt: skip
    for column, ok in zip(labels, good.T, strict=True):
        rule = {"gaussian": "finite", "poisson": "counts, 0 or more", "logistic": "0 or 1"}[head]
        check_rows(labels, pd.Series(~ok), f"labels of the head {head!r} must be {rule}", column)
    return values


def regressors(
    edits: xr.Dataset, scores: pd.DataFrame, factors: list[str], ids: pd.Index, interactions: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What sites there are in sequences (N, P), and how edits change it (E, P)."""
    sequence = edits["sequence_id"].to_numpy()
    everyone = pd.Index(pd.unique(np.concatenate([ids, sequence])))
    sites = scores[scores["sequence_id"].isin(everyone)]
    factors = list(dict.fromkeys([*factors, *scores["factor"]]))  # all motifs there are
    sites = sites.drop_duplicates(SITE).sort_values("score", ascending=False)
    at = everyone.get_indexer(sites["sequence_id"]), pd.Index(factors).get_indexer(sites["factor"])
    rank = sites.groupby(["sequence_id", "factor"]).cumcount().to_numpy()
    shape, score = (len(everyone), len(factors)), sites["score"].to_numpy(float)
    n, best, second = (np.zeros(shape) for _ in range(3))
    np.add.at(n, at, 1)
    for array, place in ((best, rank == 0), (second, rank == 1)):
        array[at[0][place], at[1][place]] = score[place]
    centre = best.sum(0) / np.maximum((n > 0).sum(0), 1)

    def table(n: np.ndarray, best: np.ndarray) -> np.ndarray:
        there = (n > 0).astype(float)
        pairs = combinations(range(len(factors)), 2) if interactions else ()
        both = [there[:, a] * there[:, b] for a, b in pairs]
        return np.column_stack([there, (best - centre) * there, np.maximum(n - 1, 0), *both])

    row, kind = everyone.get_indexer(sequence), pd.Index(factors).get_indexer(edits["factor"])
    keys = pd.MultiIndex.from_arrays([edits[name].to_numpy() for name in SITE])
    lost = sites.set_index(SITE)["score"].reindex(keys).to_numpy()
    if np.isnan(lost).any():
        bad = ", ".join(map(str, keys[np.isnan(lost)][0]))
        raise ValueError(
            f"an edited site is not in the table of scores: {bad}; give all sites of all sequences "
            "with labels or edits, by find_instances"
        )
    edit, left, rest = np.arange(len(row)), n[row], best[row]
    left[edit, kind] -= 1
    gone = lost >= rest[edit, kind]
    rest[edit, kind] = np.where(gone, second[row, kind], rest[edit, kind])
    before = table(n, best)
    return before[: len(ids)], table(left, rest) - before[row]


def usable(
    x: np.ndarray, difference: np.ndarray, factors: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Regressors with an intercept, without those that hardly occur; an error if too few rows."""
    for factor, there in zip(factors, x.T, strict=False):
        with_site, without = int(there.sum()), int((there == 0).sum())
        if min(with_site, without) < FEWEST:
            raise ValueError(
                f"what is missed of {factor} needs {FEWEST} sequences with labels that have a site "
                f"and {FEWEST} that have none; got {with_site} and {without}: label more"
            )
    kept = ((x != x[:1]).any(0)) & ((x != 0).sum(0) >= FEWEST)
    x = np.column_stack([np.ones(len(x)), x[:, kept]])
    if len(x) < FEWEST_EACH * x.shape[1]:
        raise ValueError(
            f"the regression has {x.shape[1]} regressors and needs {FEWEST_EACH * x.shape[1]} "
            f"labels; got {len(x)}: label more, or leave out interactions"
        )
    if np.linalg.matrix_rank(x / np.abs(x).max(0)) < x.shape[1]:
        raise ValueError(
            "sites of the motifs, or covariates, go together in all sequences with labels: what "
            "is missed of each cannot be told; leave out interactions, or a covariate"
        )
    return x, np.pad(difference[:, kept], ((0, 0), (1, 0)))


def fit(
    x: np.ndarray, observed: np.ndarray, offset: np.ndarray, head: str
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (P, T) of the canonical regressions, and influences (N, P, T) on them."""
    mean = {"gaussian": lambda v: v, "poisson": np.exp, "logistic": special.expit}[head]
    slope = {"gaussian": np.ones_like, "poisson": np.copy, "logistic": lambda m: m * (1 - m)}[head]
    beta = np.zeros((x.shape[1], observed.shape[1]))
    influence = np.empty((*x.shape, observed.shape[1]))
    for j, (y, known) in enumerate(zip(observed.T, offset.T.astype(float), strict=True)):
        for _ in range(STEPS):
            fitted = mean(known + x @ beta[:, j])
            inverse = np.linalg.pinv((x * slope(fitted)[:, None]).T @ x)
            step = inverse @ (x.T @ (y - fitted))
            beta[:, j] += step / max(1, np.abs(x @ step).max() / 3) if head != "gaussian" else step
            if np.abs(x @ step).max() < CLOSE * max(1, np.abs(known).max()):
                break
        else:
            raise ValueError(
                "the regression of labels on sites does not converge: a label is the same wherever "
                "a motif is, or is not; label more sequences"
            )
        influence[:, :, j] = (x @ inverse) * (y - fitted)[:, None]
    return beta, influence * np.sqrt(len(x) / (len(x) - x.shape[1]))


@np.errstate(divide="ignore", invalid="ignore")  # exposures that nothing moves have no ratio
def ratios(
    change: np.ndarray, difference: np.ndarray, units: tuple[np.ndarray, np.ndarray],
    beta: np.ndarray, influence: np.ndarray, k: int, *, freed: bool,
) -> Estimates:  # fmt: skip
    """Ratios for exposure k, from changes (M, E, T) and how edits change the regressors (E, P).

    ``units`` say which draw an edit and a label belong to; ``freed`` takes products of different
    members, as `deepmr_utils.knockouts` does.
    """
    model, missed = change.mean(0), difference @ beta
    shared = np.zeros_like(model)
    if freed:
        off = change - model
        shared = (off * off[:, :, [k]]).sum(0) / (len(change) - 1) / len(change)
    z, m = model + missed, model[:, [k]]
    x = z[:, [k]]
    products, squares = x * z - shared, x**2 - shared[:, [k]]
    total, own = squares.sum(), x.sum()
    values, learned = products.sum(0) / total, m.sum() / own
    by_edit = (products - values * squares) / total
    by_edit[:, k] = (m - learned * x)[:, 0] / own
    relative = influence[:, :, k] @ difference.sum(0) / own
    by_label = np.einsum("npt,p->nt", influence, (x * difference).sum(0))
    by_label += influence[:, :, k] @ (difference.T @ (z - 2 * values * x))
    by_label /= total
    by_label[:, k], values[k] = -learned * relative, learned
    n = 1 + max(unit.max() for unit in units)
    whole = np.zeros((n, len(values)))
    np.add.at(whole, units[0], by_edit)
    np.add.at(whole, units[1], by_label)
    return Estimates(
        values, np.sqrt((whole**2).sum(0)), np.sqrt((np.bincount(units[1], relative) ** 2).sum()),
        model.mean(0), missed.mean(0), (m * model - shared).sum(0) / (m**2 - shared[:, [k]]).sum(),
    )  # fmt: skip
