"""What effects between all pairs say: direction, recovery of a known graph, distance of motifs."""

import numpy as np
import pandas as pd

from deepmr_utils.pairs import PAIR, PairEffects, summarise

BINS = (0, 35, 70, 150, 1000)  # bases between motifs, as published
BIN_NAMES = {  # the last ends with the window
    "(0, 35]": "to 35", "(35, 70]": "to 70", "(70, 150]": "to 150", "(150, 1000]": "beyond",
}  # fmt: skip
# in figures of graphs: helpers above what they help; a fifth factor aside
PLACES = {"Sox2": (0, 1), "Oct4": (-1, 0), "Nanog": (1, 0), "Klf4": (0, -1), "hidden": (-2, -1)}


def recovery(table: pd.DataFrame, truth: str = "truth", least: float = 0.01) -> dict[str, float]:
    """How well global effects of all pairs meet the true ones.

    Parameters
    ----------
    table : pd.DataFrame
        Of `summarise`, with a column of true effects.
    truth : str
        Its name.
    least : float
        A true effect is one if it is as large as this.

    Returns
    -------
    dict
        ``auroc`` of absolute effects and ``auroc_z`` of them over their standard errors (NaN where
        no effect or every effect is one), ``rank_correlation``, ``bias`` and ``slope`` through the
        origin over the pairs with an effect, ``found``, the share of them that is told from 0, and
        ``false``, the share of the others that is; ``coverage`` of the total intervals, and
        ``width``, their median width.
    """
    true, size = table[truth].to_numpy(), table["effect"].abs().to_numpy()
    is_one, told = np.abs(true) >= least, (table["total_p"] < 0.05).to_numpy()
    some = table[is_one]
    scores = {"auroc": size, "auroc_z": size / table["total_se"].to_numpy()}
    result = {name: _auroc(values, is_one) for name, values in scores.items()}
    ranks = some[["effect", truth]].corr("spearman").iloc[0, 1] if len(some) > 2 else np.nan
    square = (some[truth] ** 2).sum()
    return result | {
        "rank_correlation": float(ranks),
        "bias": float((some["effect"] - some[truth]).mean()),
        "slope": float((some["effect"] * some[truth]).sum() / square) if square else np.nan,
        "found": float(told[is_one].mean()) if is_one.any() else np.nan,
        "false": float(told[~is_one].mean()) if not is_one.all() else np.nan,
        "coverage": float(
            table[truth].between(table["total_ci_low"], table["total_ci_high"]).mean()
        ),
        "width": float((table["total_ci_high"] - table["total_ci_low"]).median()),
    }


def answers(table: pd.DataFrame, least: float = 0.1, absent: float = 0.01) -> dict[str, float]:
    """How well verdicts and knock-out effects of all pairs meet the true ones.

    Parameters
    ----------
    table : pd.DataFrame
        ``truth, verdict, knockout, knockout_ci_low, knockout_ci_high, knockout_truth``.
    least : float
        True effects as large as this should have the verdict "acts".
    absent : float
        True effects smaller than this should not.

    Returns
    -------
    dict
        ``acts`` and ``acts_absent``, the shares of effects that are there, or absent, with the
        verdict "acts"; ``knockout_rmse`` and ``knockout_coverage`` over all pairs. NaN where there
        are no such pairs, verdicts or knock-outs.
    """
    size, acts = table["truth"].abs(), table["verdict"] == "acts"
    answered = table["verdict"].notna()
    wrong = table["knockout"] - table["knockout_truth"]
    covered = table["knockout_truth"].between(table["knockout_ci_low"], table["knockout_ci_high"])
    return {
        "acts": acts[answered & (size >= least)].mean(),
        "acts_absent": acts[answered & (size < absent)].mean(),
        "knockout_rmse": (wrong**2).mean() ** 0.5,
        "knockout_coverage": covered[wrong.notna()].mean(),
    }


def _auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative; a tie counts half."""
    if positive.all() or not positive.any():
        return np.nan
    difference = score[positive][:, None] - score[~positive]
    return float(((difference > 0) + (difference == 0) / 2).mean())


def motif_distances(instances: pd.DataFrame) -> pd.DataFrame:
    """Distance between the nearest instances of each two factors, by sequence.

    Parameters
    ----------
    instances : pd.DataFrame
        See `deepmr_utils.motifs.find_instances`.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, exposure, outcome, distance``, in bases between their centres, both ways;
        only sequences that hold both.
    """
    centre = (instances["start"] + instances["end"]) / 2
    table = instances[["sequence_id", "factor"]].assign(centre=centre)
    both = table.merge(table, on="sequence_id", suffixes=("", "_other"))
    both = both[both["factor"] != both["factor_other"]]
    both["distance"] = (both["centre"] - both["centre_other"]).abs()
    both = both.rename(columns={"factor": "exposure", "factor_other": "outcome"})
    return both.groupby(["sequence_id", *PAIR], as_index=False, sort=False)["distance"].min()


def in_bins(local: pd.DataFrame) -> pd.DataFrame:
    """Local effects with the ``bin`` of their ``distance``, lower end excluded."""
    local = local[local["distance"].between(BINS[0], BINS[-1], inclusive="right")]
    return local.assign(bin=pd.cut(local["distance"], BINS).astype(str))


def by_distance(pairs: PairEffects, distances: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`summarise` by pair and ``bin``, that of `motif_distances`."""
    local = in_bins(pairs.local.merge(distances, on=["sequence_id", *PAIR]))
    return summarise(pairs._replace(local=local), [*PAIR, "bin"])
