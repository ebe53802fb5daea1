"""What effects between all pairs say: direction, recovery of a known graph, distance of motifs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from deepmr_utils.analysis import PAIR, PairEffects, summarise
from deepmr_utils.intervals import total_variance

BINS = (0, 35, 70, 150, 1000)  # bases between motifs, as published


def direction_test(table: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """Ask whether the effect of one feature on another is larger than the reverse one.

    Parameters
    ----------
    table, members : pd.DataFrame
        Of `summarise`, by pair.

    Returns
    -------
    pd.DataFrame
        A row an unordered pair, the stronger way first: ``exposure, outcome, forward, reverse,
        difference`` of their absolute values, ``total_se, total_df, p``.

    Notes
    -----
    Both ways come from one ensemble, so that the variance between members is that of each member's
    own difference; the errors given the model, of different instruments, are added. Combined as
    global effects are (`deepmr_utils.intervals.total_variance`, "rubin"). Effects must be
    on comparable scales.
    """
    ways = table.set_index(PAIR)
    wide = members.pivot_table("effect", PAIR, "member")
    rows = []
    for a, b in ways.index:
        if (b, a) not in ways.index:
            raise ValueError(f"a direction needs both ways; there is no effect of {b} on {a}")
        there, back = ways.loc[(a, b)], ways.loc[(b, a)]
        if not abs(there["effect"]) > abs(back["effect"]):
            continue
        own = np.sign(there["effect"]) * wide.loc[(a, b)]
        own = own - np.sign(back["effect"]) * wide.loc[(b, a)]
        within = there["se"] ** 2 + back["se"] ** 2
        variance, df = total_variance(within, own.var(), len(own))
        difference = abs(there["effect"]) - abs(back["effect"])
        rows.append([a, b, there["effect"], back["effect"], difference, np.sqrt(variance), df])
    names = [*PAIR, "forward", "reverse", "difference", "total_se", "total_df"]
    found = pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[2:], float))
    return found.assign(
        p=2 * stats.t.sf(found["difference"] / found["total_se"], found["total_df"])
    )


def call_direct(total: pd.DataFrame, direct: pd.DataFrame, least: float = 0.5) -> pd.DataFrame:
    """Tell direct effects from those that pass through other features.

    Parameters
    ----------
    total, direct : pd.DataFrame
        Of `summarise`, by pair: of all effects, and of those with other features held fixed, which
        also has ``total_effect``, the total one in the same sequences.
    least : float
        Share of the total effect that must be direct.

    Returns
    -------
    pd.DataFrame
        ``direct``, by exposure and outcome, with ``share`` and ``called``: both effects are told
        from 0, and the share is as large.
    """
    table = direct.set_index(PAIR)
    told = total.set_index(PAIR)["total_p"].reindex(table.index) < 0.05
    share = table["effect"] / table["total_effect"]
    called = told & (table["total_p"] < 0.05) & (share >= least)
    return table.assign(share=share, called=called)


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
        ``false``, the share of the others that is; ``coverage`` of the total intervals.
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


def by_distance(
    pairs: PairEffects, distances: pd.DataFrame, bins: Sequence[float] = BINS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`summarise` by pair and ``bin``: that of `motif_distances`, lower end excluded."""
    local = pairs.local.merge(distances, on=["sequence_id", *PAIR])
    local = local[local["distance"].between(bins[0], bins[-1], inclusive="right")]
    local["bin"] = pd.cut(local["distance"], bins).astype(str)
    return summarise(pairs._replace(local=local), [*PAIR, "bin"])
