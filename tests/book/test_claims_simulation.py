"""Every number of the take-aways on the simulation, recomputed from the stored rounds."""

import re
from functools import cache
from pathlib import Path

import notebook_numbers as numbers
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from deepmr_utils import meta
from experiments.cooperativity import rounds
from experiments.cooperativity.one_round import GLOBAL_KEYS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "book" / "results"
PAGES = ("simulation", "intervals_compared", "sweeps")
FOLDERS = {
    "without_mutants": "simulation_motif/without_mutants",
    "with_mutants": "simulation_motif/with_mutants",
    "published": "simulation",
}
SCENARIOS = ("none", "sequence_independent", "sequence_dependent", "both")
GLUED = re.compile(r"\{glue:text\}`/executed/(\w+)\.ipynb::(.+?):[^:`]*`")
WITHIN = 0.019  # so that what is 2 % off fails


def takeaways(page):
    text = (ROOT / "book" / f"{page}.md").read_text()
    return re.search(r"^:::\{admonition\} Take-aways\n(.*?)^:::$", text, re.S | re.M).group(1)


def claims():
    found = {match for page in PAGES for match in GLUED.findall(takeaways(page))}
    return sorted(found)


@cache
def stored(name, method):
    """Global effects in sequences with both motifs, a row a round, with both intervals."""
    results = rounds.load_rounds(RESULTS / FOLDERS[name])
    local = pd.concat([result.local for result in results])
    local = local[(local["stratum"] == "both motifs") & (local["method"] == method)]
    local = local.dropna(subset=["truth", "causal_effect"])
    table = meta.global_effects(local, by=GLOBAL_KEYS).set_index(["scenario", "round"])
    table["truth"] = local.groupby(["scenario", "round"])["truth"].mean()
    members = pd.concat([result.members for result in results])
    members = members[(members["stratum"] == "both motifs") & (members["method"] == method)]
    members = members.groupby(["scenario", "round"])["effect"]
    count = members.size()
    # Rubin's rule: within, and (1 + 1/M) times the variance between members
    between = (1 + 1 / count) * members.var()
    within = table["se"] ** 2
    freedom = (count - 1) * (1 + within / between) ** 2
    reach = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(within + between)
    ratios = {
        (r.record["scenario"], r.record["round"]): r.record["rates"]["beta"]
        / r.record["rates"]["alpha"]
        for r in results
    }
    return table.assign(
        error=table["effect"] - table["truth"],
        total=(table["effect"] - table["truth"]).abs() <= reach,
        plain=table["truth"].between(table["ci_low"], table["ci_high"]),
        size=np.where(pd.Series(ratios).reindex(table.index) > 5.5, "large", "small"),
    )


def slope(table):
    return (table["effect"] * table["truth"]).sum() / (table["truth"] ** 2).sum()


def of_analysis(name):
    return stored(name, "egger_robust" if name == "published" else "ivw")


@cache
def swept(setting):
    paths = sorted((RESULTS / "sweeps" / setting).glob("*/round-*.csv"))
    table = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    table = table[(table["stratum"] == "both motifs") & (table["method"] == "ivw")]
    held = table["truth"].between(table["total_ci_low"], table["total_ci_high"])
    return table.assign(held=held)


def recomputed(notebook, key):
    parts = key.split(".")
    if notebook == "sweeps":
        name = parts[0]
        if name in SCENARIOS:
            table = swept("baseline")
            table = table[table["scenario"] == name]
        else:
            table = swept(re.sub("[ _]", "-", name))
        return {"slope": slope, "total_coverage": lambda t: t["held"].mean()}[parts[2]](table)
    if parts[0] == "analyses":  # analyses.without_mutants.both.all.both.coverage
        return of_analysis(parts[1]).loc[parts[2], "total"].mean()
    if parts[0] == "rules":
        kind = {"plain": "plain", "rubin": "total"}[parts[3]]
        return stored("published", parts[1])[kind].mean()
    if parts[1:] == ["both", "ivw", "none", "total_coverage"]:
        return stored("published", "ivw").loc[parts[0], "total"].mean()
    name, size, score = parts
    table = of_analysis(name)
    table = table[table["size"] == size]
    if score in ("contained", "rounds"):
        return table["plain"].sum() if score == "contained" else len(table)
    slopes = [slope(table.loc[scenario]) for scenario in SCENARIOS]
    return {"lowest": min, "highest": max}[score](slopes)


def agrees(text, value):
    number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    return number == pytest.approx(value, rel=WITHIN, abs=1e-9)


@pytest.mark.parametrize(("notebook", "key"), claims(), ids=str)
def test_a_number_of_the_takeaways_is_what_the_stored_rounds_say(notebook, key):
    shown, value = numbers.read(notebook)[key].value, recomputed(notebook, key)
    assert agrees(shown, value), f"{key}: the page has {shown}, the stored rounds {value}"
    for factor in (0.98, 1.02):
        assert value == 0 or not agrees(shown, factor * value)


@pytest.mark.parametrize("page", PAGES)
def test_takeaways_have_numbers_that_are_glued_and_say_where_they_are_shown(page):
    points = re.findall(r"^- .*$", takeaways(page), re.M)
    assert 3 <= len(points) <= 4
    for point in points:
        assert "{numref}`" in point, point
        typed = re.findall(r"[\d.,]+%|\d+\.\d+", GLUED.sub("", point))
        assert set(typed) <= {"95%"}, point
