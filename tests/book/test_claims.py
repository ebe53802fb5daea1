"""Every number in the abstract and in the take-aways, recomputed from stored results.

`CLAIMS` is a table: on which page a number is, what the sentence says, the notebook and the key of
its glue role, and how it is recomputed. Take-aways are the admonitions of class `takeaways`; the
abstract is the section of that name. The tests fail where

- a take-away or the abstract has a glue role that no row covers, or a row covers none;
- a number is off by 2 % (1 % is allowed, and for a number that is glued as text half a unit of
  its last digit).

To add a row, write `*claims(page, sentence, notebook, {key: recompute})` below, where `recompute`
is called without arguments and gives a number from `book/results`. The helpers cache what they
read. `stored(notebook, key)` is for what nothing in `book/results` holds: what a notebook computes
from its own data without training. `tests/reference/notebooks` has these numbers, and
`make notebooks` compares them with a fresh run.

What a page shows is read from `tests/reference/notebooks`, and for notebooks that are shown at the
scale of the paper from `executed`, which `make book` makes; before, these rows are skipped.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
import notebook_numbers as numbers
import numpy as np
import pandas as pd
import pytest

from deepmr_utils._files import read_table
from experiments.cooperativity import round_scores, rounds

ROOT = Path(__file__).parents[2]
BOOK, RESULTS, EXECUTED = ROOT / "book", ROOT / "book" / "results", ROOT / "executed"
ROLE = re.compile(r"\{glue:\w*\}`/executed/(\w+)\.ipynb::([^`]+?)(?::[^:`]*)?`")
TAKEAWAYS = re.compile(r"^(:{3,})\{admonition\}[^\n]*\n:class: takeaways\n(.*?)^\1$", re.M | re.S)
ABSTRACT = re.compile(r"^## Abstract\n(.*?)(?=^## )", re.M | re.S)
# whose take-aways test_claims_binding.py, _exons.py and _simulation.py recompute
ELSEWHERE = {
    "bpnet", "deepsea", "exon_definition", "intervals_compared", "simulation", "sweeps",
}  # fmt: skip
TUNING = 3  # runs of each world that chose the rule of verdicts, and are not scored
SCENARIOS = ("none", "sequence_independent", "sequence_dependent", "both")


class Claim(NamedTuple):
    """A number on a page, and how it is recomputed."""

    page: str
    sentence: str
    notebook: str
    key: str
    recompute: Callable[[], float]


def claims(page, sentence, notebook, values):
    return [Claim(page, sentence, notebook, key, value) for key, value in values.items()]


@functools.cache
def simulated(folder):
    """Rounds of a folder of `book/results`."""
    stored_rounds = sorted((RESULTS / folder).glob("*/round-*.json"))
    return [rounds.load_round(p.parents[1], p.parent.name, int(p.stem[6:])) for p in stored_rounds]


@functools.cache
def global_effects(folder):
    """Global effects by inverse-variance weighting, in sequences with both motifs."""
    table = round_scores.global_table(simulated(folder))
    return table.query("stratum == 'both motifs' and method == 'ivw' and calibration == 'none'")


def slope(folder, scenario):
    """Slope of global effects on true ones, through the origin."""
    table = global_effects(folder).query("scenario == @scenario")
    return (table["effect"] * table["truth"]).sum() / (table["truth"] ** 2).sum()


def coverage(folder, scenario=None, interval="total_ci"):
    """Share of rounds whose interval of the global effect contains the truth."""
    table = global_effects(folder)
    table = table if scenario is None else table.query("scenario == @scenario")
    return table["truth"].between(table[f"{interval}_low"], table[f"{interval}_high"]).mean()


def local_coverage(folder, interval):
    """Share of local effects whose interval contains the truth, of those that have both."""
    table = pd.concat([one.local for one in simulated(folder)], ignore_index=True)
    table = table.query("method == 'ivw' and calibration == 'none'")
    table = table.dropna(subset=["truth", "causal_effect", "between_se"])
    return table["truth"].between(table[f"{interval}_low"], table[f"{interval}_high"]).mean()


@functools.cache
def verdicts(world, analysis):
    table = pd.read_csv(RESULTS / "verdicts.csv")
    return table.query("world == @world and analysis == @analysis and run >= @TUNING")


def acts(table):
    """Whether each pair is said to act; for the published analysis, whether it is significant."""
    return (table["verdict"] == "acts").astype(float)


def false_share(world, analysis="deep_mr"):
    return acts(verdicts(world, analysis).query("truth == 'absent'")).mean()


def found_share(world, analysis="deep_mr"):
    table = verdicts(world, analysis).query("truth == 'acts' and abs(size) >= 0.1")
    right = np.sign(table["effect"]) == np.sign(table["true_effect"])
    return (acts(table) * right).mean()


def wrong_share_of_readings(analysis):
    """Of pairs that are two readings of one thing, the share that acts or has no effect."""
    return verdicts("tissues", analysis)["verdict"].isin(["acts", "no effect"]).mean()


def open_share(world):
    """Of pairs that have an answer, the share that is left open."""
    return (
        verdicts(world, "deep_mr")["verdict"].isin(["undetermined", "not distinguishable"]).mean()
    )


def knockout_rmse(world, analysis):
    table = verdicts(world, analysis)
    return np.sqrt(((table["knockout"] - table["knockout_truth"]) ** 2).mean())


@functools.cache
def chromatin():
    files = sorted((RESULTS / "deepsea").glob("run-*-globals.parquet"))
    return pd.concat([read_table(path) for path in files], ignore_index=True)


def absent_reverse_covered(chain):
    """Share of absent effects of accessibility on a factor whose interval contains 0."""
    table = chromatin().query("chain == @chain and exposure == 'accessibility' and truth == 0")
    return ((table["total_ci_low"] <= 0) & (table["total_ci_high"] >= 0)).mean()


@functools.cache
def local_spread(graph):
    """Spread of learned local effects over that of true ones, by pair of factors."""
    files = sorted((RESULTS / "bpnet" / "graphs" / graph).glob("run-*-local.parquet"))
    table = pd.concat([read_table(path) for path in files], ignore_index=True)
    table = table.query("chain == 'motif' and abs(total) >= 0.01")
    groups = table.groupby(["exposure", "outcome"])
    return groups["causal_effect"].std() / groups["total"].std()


@functools.cache
def reference(notebook):
    return numbers.read(notebook)


def stored(notebook, key):
    return float(reference(notebook)[key].value)


def rounds_each(folder):
    """How many rounds a scenario has; all have equally many."""
    [count] = set(global_effects(folder)["scenario"].value_counts())
    return count


def by_scenario(kind, score, recompute):
    """Rows of one score of an analysis, a scenario each."""
    return {
        f"analyses.{kind}.{one}.all.both.{score}": functools.partial(
            recompute, f"simulation_motif/{kind}", one
        )
        for one in SCENARIOS
    }


def kept(notebook, *keys):
    """Rows of numbers that a notebook computes without training."""
    return {key: functools.partial(stored, notebook, key) for key in keys}


SIMULATION, CALL = "simulation", functools.partial
CLAIMS = [
    *claims("index", "Networks learn average effects", SIMULATION,
            by_scenario("without_mutants", "slope", slope) | by_scenario("with_mutants", "slope", slope)),
    *claims("index", "Intervals contain the truth, with and without the mutants", SIMULATION,
            by_scenario("with_mutants", "coverage", coverage)
            | by_scenario("without_mutants", "coverage", coverage)
            | {f"analyses.{kind}.both.all.both.rounds": CALL(rounds_each, f"simulation_motif/{kind}")
               for kind in ("with_mutants", "without_mutants")}),
    *claims("index", "Intervals that take the networks as known", SIMULATION, {
        "rules.ivw.none.plain.total_coverage": CALL(coverage, "simulation", interval="ci"),
    }),
    *claims("index", "Intervals contain this 0", "deepsea", {
        f"seeds.{chain}.covers_zero_reverse": CALL(absent_reverse_covered, chain)
        for chain in ("all", "strongest")
    }),
    *claims("index", "A slope is not yet a cause", "verdicts", {
        "tissues.published.wrong.share": CALL(wrong_share_of_readings, "published"),
        "tissues.deep_mr.wrong.share": CALL(wrong_share_of_readings, "deep_mr"),
        "default.deep_mr.found.share": CALL(found_share, "default"),
        "chromatin.deep_mr.open.share": CALL(open_share, "chromatin"),
        "simulation 0.09.deep_mr.false.share": CALL(false_share, "simulation 0.09"),
    }),
    *claims("verdicts", "Of the effects and absent effects of the default graph", "verdicts", {
        "default.deep_mr.found.share": CALL(found_share, "default"),
        "default.deep_mr.false.share": CALL(false_share, "default"),
        "default.published.false.share": CALL(false_share, "default", "published"),
    }),
    *claims("verdicts", "Targets are missed in two worlds", "verdicts", {
        "chromatin.deep_mr.open.share": CALL(open_share, "chromatin"),
        "simulation 0.09.deep_mr.false.share": CALL(false_share, "simulation 0.09"),
    }),
    *claims("verdicts", "Where one thing is measured twice", "verdicts", {
        f"tissues.{name}.wrong.share": CALL(wrong_share_of_readings, name)
        for name in ("published", "deep_mr")
    }),
    *claims("estimators", "An effect that does not exist", "simulation",
            kept("simulation", "perfect.reverse.all", "perfect.reverse.motif")),
    *claims("estimators", "No estimator is right everywhere", "estimators",
            kept("estimators", "directional.ivw.coverage", "directional.egger_robust.coverage",
                 "correlated.egger.coverage")),
    *claims("corrections", "Times the published truth, and times ours", "corrections",
            kept("corrections", *(f"definition.both.{truth}.{end}" for truth in ("published", "truth")
                                  for end in ("min", "max")))),
    *claims("corrections", "A reverse effect that does not exist", "simulation",
            kept("simulation", "perfect.reverse.all")),
    *claims("splicing", "Effects of cortex on muscle, and of muscle on cortex", "splicing",
            kept("splicing", *(f"{way}.{end}" for way in ("forward", "reverse")
                               for end in ("effect", "ci_low", "ci_high")))),
    *claims("splicing", "The verdict acts is wrong", "splicing", kept("splicing", "acts")),
    *claims("one_sample", "Shared errors make a slope", "one_sample",
            kept("one_sample", "known.3.null.plain.bias", "members.3.null.plain.bias",
                 "members.3.null.corrected.bias")),
    *claims("one_sample", "The correction moves no slope", "one_sample",
            kept("one_sample", "bpnet.moved")),
    *claims("your_own_model", "Verdicts on the demo genome", "deep_mr",
            kept("deep_mr", "acts", "no_effect")),
    *claims("assumptions", "The absent effect of Oct4 on Sox2", "bpnet",
            kept("bpnet", "perfect.strong.Oct4.Sox2", "perfect.motif.Oct4.Sox2")),
    *claims("assumptions", "Networks without labelled mutants give ...", SIMULATION, {
        "analyses.without_mutants.both.all.both.slope":
            CALL(slope, "simulation_motif/without_mutants", "both"),
    }),
    *claims("assumptions", "A line through the origin, robust MR-Egger", "estimators",
            kept("estimators", "bent.both.10.ivw", "bent.both.10.egger_robust")),
    *claims("assumptions", "Intervals of local effects contain the truth", SIMULATION, {
        "rules.ivw.none.plain.local_coverage": CALL(local_coverage, "simulation", "ci"),
        "rules.ivw.none.rubin, moderated.local_coverage":
            CALL(local_coverage, "simulation", "total_ci"),
    }),
    *claims("discussion", "Networks learn average effects", SIMULATION, {
        f"analyses.without_mutants.{one}.all.both.slope":
            CALL(slope, "simulation_motif/without_mutants", one)
        for one in ("none", "both")
    }),
    *claims("discussion", "Learned local effects spread ...", "bpnet", {
        "pairs.default.spread.least": lambda: local_spread("default").min(),
        "pairs.default.spread.most": lambda: local_spread("default").max(),
    }),
    *claims("discussion", "Intervals of the absent effects of accessibility contain 0", "deepsea", {
        f"seeds.{chain}.covers_zero_reverse": CALL(absent_reverse_covered, chain)
        for chain in ("strongest", "strongest_egger", "all", "published_deepsea")
    }),
    *claims("discussion", "The error of knock-out ratios", "bpnet", {
        "held.reverse.without.knockout_rmse.value": CALL(knockout_rmse, "reverse", "deep_mr"),
        "held.reverse.with.knockout_rmse.value": CALL(knockout_rmse, "reverse", "deep_mr, labels"),
    }),
    *claims("discussion", "Absent effects that are called real", "verdicts", {
        "default.deep_mr.false.share": CALL(false_share, "default"),
        "default.published.false.share": CALL(false_share, "default", "published"),
    }),
]  # fmt: skip


@functools.cache
def shown(notebook):
    """What a notebook glues, as text by key, or None where it has not been executed."""
    if (numbers.REFERENCE / f"{notebook}.csv").exists():
        return {key: number.value for key, number in reference(notebook).items()}
    path = EXECUTED / f"{notebook}.ipynb"
    if not path.exists():
        return None
    cells = nbformat.read(path, as_version=4).cells
    return numbers.glued(output for cell in cells for output in cell.get("outputs", []))


def parse(text):
    """A glued number, and half a unit of its last digit where it is glued as rounded text."""
    digits = text.removesuffix("%")
    value, places = float(digits), len(digits.partition(".")[2])
    rounded = text.endswith("%") or 0 < places <= 4
    scale = 0.01 if text.endswith("%") else 1.0
    return scale * value, scale * 0.5 * 10.0**-places if rounded else 0.0


def agrees(text, value):
    said, rounding = parse(text)
    return abs(said - value) <= max(0.01 * abs(value), 1.001 * rounding)


def claimed():
    """Page, notebook and key of every glue role in a take-away or in the abstract."""
    found = set()
    for path in sorted(BOOK.glob("*.md")):
        if path.stem in ELSEWHERE:
            continue
        text = path.read_text(encoding="utf-8")
        parts = [match[2] for match in TAKEAWAYS.finditer(text)]
        parts += [match[1] for match in ABSTRACT.finditer(text)]
        found |= {(path.stem, *role) for part in parts for role in ROLE.findall(part)}
    return {one for one in found if one[1] != "exon_definition"}  # see test_claims_exons.py


def test_every_number_of_a_takeaway_has_a_row():
    assert claimed() == {(one.page, one.notebook, one.key) for one in CLAIMS}
    assert len(CLAIMS) == len(claimed())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: f"{one.page}-{one.key}".replace(" ", "_"))
def test_a_claim_is_what_the_stored_results_say(claim):
    glued = shown(claim.notebook)
    if glued is None:
        pytest.skip(f"executed/{claim.notebook}.ipynb is made by `make book`")
    value = claim.recompute()
    text = glued[claim.key]
    assert agrees(text, value), f"{claim.page}: {claim.sentence}: {text}, recomputed {value}"


@pytest.mark.parametrize("text", ["1.073", "0.9333333333", "55%", "-0.142857", "20"])
def test_a_number_that_is_off_by_2_percent_fails(text):
    value, _ = parse(text)
    assert agrees(text, value)
    assert not agrees(text, 1.02 * value)
    assert not agrees(text, 0.98 * value)


def test_roles_are_found_whatever_their_format():
    text = (
        "# A\n\n:::{admonition} Take-aways\n:class: takeaways\n\n"
        "- {glue:text}`/executed/a.ipynb::x y.z, w:.0%` and {glue:text}`/executed/a.ipynb::s:s`\n"
        ":::\n\n{glue:text}`/executed/a.ipynb::elsewhere:d`\n"
    )
    assert ROLE.findall(TAKEAWAYS.search(text)[2]) == [("a", "x y.z, w"), ("a", "s")]
