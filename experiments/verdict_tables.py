"""Tables of the page on verdicts: counts and rates by world, in words."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .verdicts import DEFAULT, LABELS, LEAST, PUBLISHED, SAID, TARGETS, TRUTHS, VERDICTS

NAMES = {
    "simulation 10.7": "simulation, β/α = 10.7, confounded",
    "simulation 0.09": "simulation, β/α = 0.09, confounded",
    "unconfounded 10.7": "simulation, β/α = 10.7, not confounded",
    "unconfounded 0.09": "simulation, β/α = 0.09, not confounded",
    "default": "genome, default graph",
    "reverse": "genome, reverse graph",
    "confounded": "genome, confounded graph",
    "empty": "genome, empty graph",
    "chromatin": "simulated chromatin",
    "untrained": "untrained networks",
    "shuffled": "networks with shuffled weights",
    "tissues": "splicing in four tissues",
    "additive": "additive networks",
    "replicates": "additive networks, one output twice",
    "exon definition": "exon definition",
    "other genes": "splice sites of different genes",
}
KEYS = {DEFAULT: "deep_mr", LABELS: "labels", PUBLISHED: "published"}  # in names of glued numbers
PAPER = "paper"
SPLIT = {"undetermined": "undeter\u00admined", "not distinguishable": "not distin\u00adguishable"}
MISSED = "*"  # beside a share on the wrong side of its target


def named(world: str, analysis: str = DEFAULT) -> str:
    """A world's name on the page, with what is added in the analysis."""
    return NAMES.get(world, world) + (", with labels" if analysis == LABELS else "")


def count_table(counts: pd.DataFrame) -> pd.DataFrame:
    """Pairs by world and truth, with the verdicts of `deep_mr` and those of the paper beside.

    Parameters
    ----------
    counts : pd.DataFrame
        Of `.verdicts.confusion`.

    Returns
    -------
    pd.DataFrame
        Indexed by world and truth. Worlds with labels have rows of their own; the paper's analysis
        takes none, so its columns are empty there. Only truths that there are have rows, and a
        wrong sign has a column where a pair has it.
    """
    short = ["acts", "wrong sign", *VERDICTS[1:]]
    rows, keys = [], []
    for world in _worlds(counts.index.get_level_values("world")):
        for analysis in (DEFAULT, LABELS):
            for truth in TRUTHS:
                if (world, analysis, truth) not in counts.index:
                    continue
                own = counts.loc[(world, analysis, truth)].tolist()
                paper = [""] * len(SAID)
                if analysis == DEFAULT:
                    paper = counts.loc[(world, PUBLISHED, truth), SAID].tolist()
                rows.append(own + paper)
                keys.append((named(world, analysis), truth))
    columns = [(DEFAULT, SPLIT.get(name, name)) for name in short]
    columns += [(PAPER, name) for name in ("acts", "wrong sign", "else")]
    table = pd.DataFrame(
        rows, pd.MultiIndex.from_tuples(keys),
        pd.MultiIndex.from_tuples(columns, names=["", "truth"]), dtype=object,
    )  # fmt: skip
    wrong = table.columns.get_level_values(1) == "wrong sign"
    never = wrong & table.isin([0, ""]).all().to_numpy()
    return table.loc[:, ~never]


def rate_table(rates: pd.DataFrame) -> pd.DataFrame:
    """Rates of `deep_mr` by world, each as "share [low, high]" in percent.

    Parameters
    ----------
    rates : pd.DataFrame
        Of `.verdicts.rates`.

    Returns
    -------
    pd.DataFrame
        Indexed by world, as in `count_table`; a column a rate, under its target, and ``runs``. A
        share that misses its target is marked by `MISSED`; where no pair is asked, the cell is
        empty. A single run has no interval.
    """
    own = rates[rates["analysis"] != PUBLISHED]
    names = [
        named(world, analysis)
        for world, analysis in zip(own["world"], own["analysis"], strict=True)
    ]
    text = [_cell(row) for row in own.itertuples()]
    table = own.assign(name=names, text=text).pivot(index="name", columns="rate", values="text")
    order = [n for world in _worlds(own["world"]) for n in (named(world), named(world, LABELS))]
    order = [name for name in order if name in table.index]
    table = table.reindex(index=order, columns=list(TARGETS)).fillna("")
    table["runs"] = own.assign(name=names).groupby("name")["runs"].max()
    aims = [f"at {'least' if name == 'found' else 'most'} {t:.0%}" for name, t in TARGETS.items()]
    table.columns = pd.MultiIndex.from_tuples(
        [*zip(TARGETS, aims, strict=True), ("runs", "")], names=["", "target"]
    )
    return table.rename_axis(index=None)


def _worlds(given: Iterable[str]) -> list[str]:
    """Each world once, in the order of the page."""
    there = list(dict.fromkeys(given))
    return sorted(there, key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES))


def _cell(row: object) -> str:
    misses = row.share < row.target if row.rate == "found" else row.share > row.target
    mark = MISSED if misses else ""
    if pd.isna(row.low):
        return f"{row.share:.0%}{mark}"
    return f"{row.share:.0%}{mark} [{row.low:.0%}, {row.high:.0%}]"


def reasons(table: pd.DataFrame) -> pd.Series:
    """How many rows of a study's table have each reason, without the numbers of single pairs."""
    words = table["reason"].str.replace(r"; weak instruments \(F = [\d.]+\)", "", regex=True)
    words = words.str.replace(r"\d+% of", "a share of", regex=True)
    words = words.str.replace(r" \(correlation [\d.]+\)", "", regex=True)
    words = words.str.replace(r"only \d+ of", "too few of", regex=True)
    return words.value_counts().rename("pairs")


def mover_table(table: pd.DataFrame) -> pd.DataFrame:
    """How well the share of private movers alone tells arrows from pairs without one.

    Parameters
    ----------
    table : pd.DataFrame
        Rows of the study's, of one analysis.

    Returns
    -------
    pd.DataFrame
        By world with an answer: ``with a share``, of pairs; ``arrows`` of at least `LEAST` and
        ``absent`` pairs with a share, the median and the extreme of each, and ``auroc``, NaN where
        there are only pairs of one kind.
    """
    rows = {}
    for world, part in table.groupby("world", sort=False):
        part = part[part["truth"].isin(["acts", "absent"])]
        share, large = part["private_share"], part["size"].abs() >= LEAST
        there = share.notna()
        arrows, absent = share[there & large], share[there & (part["truth"] == "absent")]
        if not len(part):
            continue
        higher = absent.to_numpy()[:, None] - arrows.to_numpy()
        auroc = (np.sign(higher) + 1).mean() / 2 if higher.size else np.nan
        rows[world] = {
            "with a share": there.mean(), "arrows": len(arrows), "median": arrows.median(),
            "largest": arrows.max(), "absent": len(absent), "absent median": absent.median(),
            "smallest": absent.min(), "auroc": auroc,
        }  # fmt: skip
    return pd.DataFrame(rows).T
