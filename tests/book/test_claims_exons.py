"""The take-aways of the chapter on exon definition, from the stored effects."""

import re
from pathlib import Path

import notebook_numbers as numbers
import numpy as np
import pytest
from scipy import stats

from deepmr_utils import deep_mr
from experiments.splicing import answers, exons

ROOT = Path(__file__).parents[2]
STORED = ROOT / "book/results/exon_definition"


@pytest.fixture(scope="module")
def claims():
    chosen = answers.stored_exons(STORED)
    effects, edits = exons.load(STORED, chosen)
    result = deep_mr(effects, edits=edits)
    row = result.effects.set_index("exposure").loc["donor"]
    local = result.local[result.local["exposure"] == "donor"].set_index("sequence_id")
    lengths = exons.read_exons().loc[local.index, "length"]
    near = exons.load(STORED, chosen, [*exons.SITES, "next acceptor"])[0]
    intron = deep_mr(near, pairs=[("donor", "acceptor"), ("donor", "next acceptor")]).effects
    own = edits.isel(edit=np.flatnonzero(edits["factor"] == "donor"))["effect"]
    lost = own.sel(feature="donor").to_numpy(), own.sel(feature="acceptor").to_numpy()
    predicted = answers.predicted_knock_outs(result, edits, "donor", "acceptor")
    return {
        "donor.effect": row["effect"], "donor.ci_low": row["ci_low"],
        "donor.ci_high": row["ci_high"], "donor.k": len(chosen),
        "donor.positive": (local["causal_effect"] > 0).mean(),
        "donor.rank.rank": stats.spearmanr(lengths, local["causal_effect"]).statistic,
        "donor.across.intron": intron.set_index("outcome").loc["next acceptor", "effect"],
        "donor.knockout": (lost[0] * lost[1]).sum() / (lost[0] ** 2).sum(),
        "donor.error.predicted": (predicted["predicted"] / predicted["actual"] - 1).abs().median(),
    }  # fmt: skip


def test_every_take_away_is_recomputed(claims):
    page = (ROOT / "book/exon_definition.md").read_text(encoding="utf-8")
    top = page.split(":::")[1]
    keys = set(re.findall(r"exon_definition.ipynb::([^`:]+):", top))
    bootstrap = {"donor.rank.low", "donor.rank.high"}  # seeded; see test_exon_definition
    assert keys - bootstrap == claims.keys()
    front = (ROOT / "book/index.md").read_text(encoding="utf-8")
    there = set(re.findall(r"exon_definition.ipynb::([^`:]+):", front))
    assert there
    assert there <= claims.keys()
    shown = numbers.read("exon_definition")
    for key, value in claims.items():
        assert float(shown[key].value) == pytest.approx(value, rel=0.02), key
