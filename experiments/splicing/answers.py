"""What exon definition looks like in the effects that networks predict: tables for the chapter."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from deepmr_utils.analysis import Result, deep_mr
from deepmr_utils.knockouts import local_knockouts
from deepmr_utils.pairs import PAIR, summarise

from .exons import BEFORE, SITES, load, read_exon, read_exons

N_BOOTSTRAP = 2000
SIZES = (1, 2, 4, 6, 8, 10, 14)  # log-odds that a site loses: borders of the curve
PLACES = ["further upstream", "polypyrimidine tract", "AG", "exon", "GT",
          "rest of the donor site", "further downstream"]  # fmt: skip


def stored_exons(directory: str | Path) -> list[str]:
    """The analysed exons that have been computed."""
    table, directory = read_exons(), Path(directory)
    return [e for e in table.index[table["analysed"]] if (directory / f"{e}.npz").exists()]


def with_exon(table: pd.DataFrame) -> pd.DataFrame:
    """A table by ``sequence_id``, with its exon's ``gene, length, length_class``."""
    return table.join(read_exons()[["gene", "length", "length_class"]], on="sequence_id")


def of_genes(
    table: pd.DataFrame, statistic: Callable[[np.ndarray], float], seed: int
) -> tuple[float, float, float]:
    """A statistic of rows, given by number, and its 95 % interval by the bootstrap of genes."""
    rng, rows = np.random.default_rng(seed), np.arange(len(table))
    parts = [rows[table["gene"] == gene] for gene in table["gene"].unique()]
    draws = rng.integers(0, len(parts), (N_BOOTSTRAP, len(parts)))
    values = [statistic(np.concatenate([parts[i] for i in draw])) for draw in draws]
    return statistic(rows), *np.percentile(values, [2.5, 97.5])


def rank_correlation(local: pd.DataFrame, seed: int) -> tuple[float, float, float]:
    """Spearman's correlation of local effects with the lengths of exons."""
    table = with_exon(local).dropna(subset="causal_effect")
    values = table[["length", "causal_effect"]].to_numpy()
    return of_genes(table, lambda rows: stats.spearmanr(values[rows]).statistic, seed)


def by_length(result: Result) -> pd.DataFrame:
    """Global effects by class of length, with intervals that carry the members."""
    pairs = result.pairs
    local = with_exon(pairs.local)
    members = pairs.members.merge(local[[*PAIR, "sequence_id", "length_class"]])
    grouped = pairs._replace(local=local, members=members)
    return summarise(grouped, [*PAIR, "length_class"])[0]


def across_introns(
    directory: str | Path, exons: Sequence[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The effect on the exon's other site, next to that on the nearest site across the intron.

    Returns
    -------
    tuple of pd.DataFrame
        A row an ``exposure``: the global ``exon`` and ``intron`` effects with their intervals
        ``_low, _high``, over the ``k`` exons that have both; ``larger``, the share of exons in
        which the first is larger; ``difference`` of the local effects in the median, ``low,
        high``, genes resampled. And a row an exposure and exon: local effects ``exon, intron``.
    """
    rows, parts = [], []
    for exposure, outcomes in {
        "donor": ("acceptor", "next acceptor"), "acceptor": ("donor", "previous donor"),
    }.items():  # fmt: skip
        effects, _ = load(directory, exons, [*SITES, outcomes[1]])
        result = deep_mr(effects, pairs=[(exposure, outcome) for outcome in outcomes])
        local = result.local.pivot(index="sequence_id", columns="outcome", values="causal_effect")
        local = local.set_axis([("intron", "exon")[o in SITES] for o in local], axis=1)
        local = with_exon(local.dropna().reset_index()).assign(exposure=exposure)
        differences = (local["exon"] - local["intron"]).to_numpy()
        paired = of_genes(local, lambda rows, d=differences: np.median(d[rows]), seed)
        parts.append(local)
        row = {"exposure": exposure, "k": len(local)}
        table = result.effects.set_index("outcome")
        for name, outcome in zip(("exon", "intron"), outcomes, strict=True):
            numbers = table.loc[outcome, ["effect", "ci_low", "ci_high"]]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
        row["larger"] = (differences > 0).mean()
        rows.append(row | dict(zip(("difference", "low", "high"), paired, strict=True)))
    return pd.DataFrame(rows), pd.concat(parts, ignore_index=True)


def predicted_knock_outs(
    result: Result, edits: xr.Dataset, exposure: str, outcome: str
) -> pd.DataFrame:
    """The effect of losing a site, predicted from substitutions that leave its dinucleotide alone.

    Returns
    -------
    pd.DataFrame
        A row an exon with its ``gene``: the ``actual`` ratio of the changes of outcome and exposure
        when the dinucleotide is lost; the ``slope`` through the origin of the other instruments,
        and the ratio of the ``strongest`` of them; ``predicted``, the slope times the median of
        actual over slope in exons of *other* genes, and ``trivial``, the same of the strongest.
    """
    pair = (result.instruments[PAIR] == [exposure, outcome]).all(axis=1)
    others = placed(result.instruments[pair])
    others = others[~others["place"].isin(["AG", "GT"])].set_index("sequence_id")
    x, y = others["beta_exposure"], others["beta_outcome"]
    slope = (x * y).groupby(level=0).sum() / (x**2).groupby(level=0).sum()
    strongest = others[x.abs() == x.abs().groupby(level=0).transform("max")]
    strongest = (strongest["beta_outcome"] / strongest["beta_exposure"]).groupby(level=0).first()
    knocked = local_knockouts(edits, [(exposure, outcome)]).set_index("sequence_id")["knockout"]
    table = pd.DataFrame({"actual": knocked, "slope": slope, "strongest": strongest}).dropna()
    table = with_exon(table.rename_axis("sequence_id").reset_index())
    for name, raw in {"predicted": "slope", "trivial": "strongest"}.items():
        ratio = table["actual"] / table[raw]
        scale = {g: ratio[table["gene"] != g].median() for g in table["gene"].unique()}
        table[name] = table[raw] * table["gene"].map(scale)
    return table


def relative_errors(table: pd.DataFrame) -> pd.Series:
    """Median size of predicted / actual - 1, by column of `predicted_knock_outs`."""
    names = ["predicted", "trivial", "slope", "strongest"]
    return table[names].div(table["actual"], axis=0).sub(1).abs().median()


def curve(
    result: Result, edits: xr.Dataset, exposure: str, outcome: str, seed: int
) -> pd.DataFrame:
    """What an outcome loses for each unit that its exposure loses, by how much that is.

    Returns
    -------
    pd.DataFrame
        A row a class of instruments, and a last one of knock-outs: mean ``lost`` (log-odds of the
        exposure), ``ratio`` in the mean over exons with ``low, high`` (genes resampled), ``k``.
    """
    chosen = result.instruments[(result.instruments[PAIR] == [exposure, outcome]).all(axis=1)]
    chosen = chosen.assign(lost=-chosen["beta_exposure"])
    parts = [part for _, part in chosen.groupby(pd.cut(chosen["lost"], SIZES), observed=True)]
    own = edits.isel(edit=np.flatnonzero(edits["factor"] == exposure))["effect"]
    parts.append(pd.DataFrame({
        "sequence_id": own["sequence_id"], "lost": -own.sel(feature=exposure),
        "beta_exposure": own.sel(feature=exposure), "beta_outcome": own.sel(feature=outcome),
    }))  # fmt: skip
    rows = []
    for part in parts:
        x, y, ids = part["beta_exposure"], part["beta_outcome"], part["sequence_id"]
        ratio = (x * y).groupby(ids).sum() / (x**2).groupby(ids).sum()
        table = with_exon(ratio.rename("ratio").reset_index())
        values = table["ratio"].to_numpy()
        mean = of_genes(table, lambda rows, v=values: v[rows].mean(), seed)
        rows.append([part["lost"].mean(), *mean, len(table)])
    return pd.DataFrame(rows, columns=["lost", "ratio", "low", "high", "k"])


def placed(instruments: pd.DataFrame) -> pd.DataFrame:
    """Instruments with the ``place`` they have in their exon, one of `PLACES`."""
    table = with_exon(instruments)
    from_acceptor = table["position"] - BEFORE
    from_donor = from_acceptor - (table["length"] - 1)
    choices = [from_acceptor < -20, from_acceptor < -2, from_acceptor < 0, from_donor < -2,
               (from_donor == 1) | (from_donor == 2), from_donor < 7]  # fmt: skip
    return table.assign(place=np.select(choices, PLACES[:-1], PLACES[-1]))


def instrument_places(result: Result) -> pd.DataFrame:
    """Where instruments are: ``exposure, place``, how ``many`` an exon has, and their mean size."""
    table = placed(result.instruments)
    table["size"] = table["beta_exposure"].abs()
    found = table.groupby(["exposure", "place"]).agg(many=("size", "size"), size=("size", "mean"))
    found["many"] /= result.local.groupby("exposure")["sequence_id"].nunique()
    return found.reindex(PLACES, level="place").reset_index()


def with_other_genes(directory: str | Path) -> list[str]:
    """Exons that have been computed, with sites of another gene that the networks see from them."""
    found = [path.stem for path in sorted(Path(directory).glob("chr*.npz"))]
    return [e for e in found if any(is_foreign(name, e) for name in read_exon(e).sites)]


def is_foreign(name: str, exon_id: str) -> bool:
    """Whether a read-out of an exon is a site of another gene, of an exon that does not overlap."""
    _, other, other_id = name.partition(" of ")
    if not other:
        return False
    one, two = (read_exons().loc[e] for e in (exon_id, other_id))
    return bool(one["donor"] < two["acceptor"] or two["donor"] < one["acceptor"])


def load_other_genes(
    directory: str | Path, exon_id: str
) -> tuple[xr.Dataset, xr.Dataset, list[tuple[str, str]]]:
    """Effects and knock-outs of an exon, and its pairs of an own site and one of another gene."""
    foreign = [name for name in read_exon(exon_id).sites if is_foreign(name, exon_id)]
    effects, edits = load(directory, [exon_id], [*SITES, *foreign])
    return effects, edits, [(own, other) for own in SITES for other in foreign]


def other_genes(directory: str | Path) -> pd.DataFrame:
    """What sites do to sites of other genes on the same strand within reach of the networks.

    Returns
    -------
    pd.DataFrame
        A row a site of an ``exon`` and a site of the ``other``: ``exposure, outcome``, their
        ``distance`` in bases, the local effect with ``ci_low, ci_high``, and the ``knockout``.
    """
    table, parts = read_exons(), []
    for exon_id in with_other_genes(directory):
        effects, edits, pairs = load_other_genes(directory, exon_id)
        local = deep_mr(effects, pairs=pairs).local
        local = local.merge(local_knockouts(edits, pairs)[[*PAIR, "knockout"]], on=PAIR)
        local[["outcome", "other"]] = local["outcome"].str.split(" of ", expand=True).to_numpy()
        ends = zip(local["other"], local["outcome"], strict=True)
        distance = (
            np.array([table.loc[end] for end in ends]) - table.loc[exon_id, local["exposure"]]
        )
        parts.append(local.assign(exon=exon_id, distance=distance.to_numpy()))
    columns = ["exon", "other", *PAIR, "distance", "causal_effect", "ci_low", "ci_high", "knockout"]
    return pd.concat(parts, ignore_index=True)[columns]
