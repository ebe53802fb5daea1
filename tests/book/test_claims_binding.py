"""The numbers of the take-aways on BPNet and DeepSEA, computed again from what is stored.

None of the code that glues them is used, but what reads runs and the library's test of directions.
"""

import functools
import json
import re
from pathlib import Path

import notebook_numbers
import pandas as pd
import pytest

from deepmr_utils.pairs import direction_test
from experiments.binding import genomes
from experiments.chromatin import one_draw
from experiments.study import load_result

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "book" / "results"
GLUED = re.compile(r"\{glue:text\}`/executed/(\w+)\.ipynb::(.+?)(?::[^:`]*)?`")
FIRST = 3  # run of a world that had no say in the rule of verdicts
ABSENT = 0.01  # a true effect below this is none


def glued(page):
    """Keys that the take-aways of a page show."""
    text = (ROOT / "book" / f"{page}.md").read_text()
    box = text[text.index("Take-aways") :]
    return {key for name, key in GLUED.findall(box[: box.index("\n:::\n")]) if name == page}


def stored(folder, name, load=genomes.load):
    parts = []
    for path in sorted(folder.glob("run-*.json")):
        run = int(path.stem.split("-")[1])
        parts.append(getattr(load(path), name).assign(run=run))
    return pd.concat(parts, ignore_index=True)


def inside(table, truth, low, high):
    return (table[low] <= table[truth]) & (table[truth] <= table[high])


def directions(members, table):
    """Edges of the default graph with the stronger way along them, p below 0.05."""
    edges = [("Sox2", "Oct4"), ("Sox2", "Nanog"), ("Oct4", "Nanog"), ("Nanog", "Klf4")]
    found = 0
    for run, own in table.groupby("run"):
        test = direction_test(own, members[members["run"] == run])
        told = test[test["p"] < 0.05]
        found += len(set(edges) & set(zip(told["exposure"], told["outcome"], strict=True)))
    return found, len(edges) * table["run"].nunique()


def bpnet():
    folder = RESULTS / "bpnet" / "graphs"
    effects = {}
    for graph in ("default", "reverse"):
        table = stored(folder / graph, "globals_")
        effects[graph] = table[(table["chain"] == "motif") & (table["bin"] == "all")]
    default, absent = effects["default"], {g: t["truth"].abs() < ABSENT for g, t in effects.items()}
    false = {g: (t["total_p"] < 0.05)[absent[g]].mean() for g, t in effects.items()}
    members = stored(folder / "default", "members")
    members = members[(members["chain"] == "motif") & (members["bin"] == "all")]
    way, edges = directions(members, default)
    local = stored(folder / "default", "local")
    local = local[(local["chain"] == "motif") & (local["total"].abs() >= ABSENT)]
    verdicts = pd.read_csv(RESULTS / "verdicts.csv")
    reverse = verdicts[(verdicts["world"] == "reverse") & (verdicts["run"] >= FIRST)]
    by = dict(list(reverse.groupby("analysis")))
    rmse = {
        name: ((own["knockout"] - own["knockout_truth"]) ** 2).mean() ** 0.5
        for name, own in by.items()
    }
    labels = by["deep_mr, labels"]
    covered = inside(labels, "knockout_truth", "knockout_ci_low", "knockout_ci_high")
    own = labels.drop_duplicates(["run", "exposure"]).set_index("exposure")["learned_response"]
    local_hits = inside(local, "total", "ci_low", "ci_high")[local["ci_low"].notna()]
    return {
        "default.runs": default["run"].nunique(),
        "default.found": (default["total_p"] < 0.05)[~absent["default"]].mean(),
        "every.default.false.value": false["default"],
        "default.way": way,
        "default.edges": edges,
        "every.reverse.false.value": false["reverse"],
        "learned.reverse.Sox2.value": own["Sox2"].mean(),
        "held.reverse.without.knockout_rmse.value": rmse["deep_mr"],
        "held.reverse.with.knockout_rmse.value": rmse["deep_mr, labels"],
        "held.reverse.with.knockout_covered.value": covered.mean(),
        "every.default.members.value": local_hits.mean(),
    }


ROLES = {  # by the names that factors were stored with
    "Oct4": 1, "Sox2": 1, "GATA": -1, "Nanog": 0, "Klf4": 0, "TAL1": 0, "decoy": 0,
    "pioneer 1": 1, "pioneer 2": 1, "repressor": -1,
}  # fmt: skip
FOLLOWERS = {"Nanog", "Klf4", "follower 1", "follower 2"}


def deepsea():
    folder = RESULTS / "deepsea"
    table = stored(folder, "globals_", functools.partial(load_result, one_draw.Run))
    low, high = table["total_ci_low"], table["total_ci_high"]
    table["sign"] = (low > 0).astype(int) - (high < 0)
    table["hit"] = inside(table, "truth", "total_ci_low", "total_ci_high")
    default = table[table["chain"] == "strongest"]
    zero = default["truth"] == 0
    forward = default[default["outcome"] == "accessibility"].set_index(["run", "exposure"])
    back = default[default["exposure"] == "accessibility"].set_index(["run", "outcome"])
    right = 0
    for (run, factor), sign in forward["sign"].items():
        follows = back.loc[(run, factor), "sign"] != 0
        role = ROLES.get(factor, 0)
        right += sign == role and (role != 0 or follows == (factor in FOLLOWERS))
    aurocs = {}
    for path in folder.glob("run-*.json"):
        record = json.loads(path.read_text())
        for row in record["quality"]:
            aurocs[record["run"], row["feature"]] = row["auroc"]
    own = forward[forward.index.get_level_values("exposure").isin(["Sox2", "pioneer 2"])]
    ratio = own["effect"] / own["truth"]
    auroc = pd.Series(aurocs).reindex(ratio.index)
    absent = (table["exposure"] == "accessibility") & ~table["outcome"].isin(FOLLOWERS)
    covered = table[absent].groupby("chain")["hit"].mean()
    return {
        "seeds.strongest.roles": right / len(forward),
        "seeds.strongest.runs": default["run"].nunique(),
        "zeros.n": zero.sum(),
        "zeros.covered": default["hit"][zero].mean(),
        "effects.n": (~zero).sum(),
        "effects.covered": default["hit"][~zero].mean(),
        "pioneer 2.largest_ratio": ratio.max(),
        "pioneer 2.rank": auroc.corr(ratio, method="spearman"),
        "seeds.all.covers_zero_reverse": covered["all"],
        "seeds.strongest.covers_zero_reverse": covered["strongest"],
    }


@pytest.mark.parametrize("recompute", [bpnet, deepsea])
def test_the_take_aways_are_what_is_stored(recompute):
    page = recompute.__name__
    claims, shown = recompute(), notebook_numbers.read(page)
    assert claims.keys() == glued(page)
    for key, value in claims.items():
        assert float(shown[key].value) == pytest.approx(value, rel=0.01, abs=1e-6), key
