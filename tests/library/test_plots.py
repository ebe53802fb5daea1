"""Figures draw what they are given: values are read back from the Axes."""

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from deepmr_utils import deep_mr, meta, mr, plots
from deepmr_utils.atlas import causal_atlas
from deepmr_utils.instruments import select_instruments
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot
from experiments.cooperativity import simulation

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def analysis():
    parameters = simulation.Parameters(effect_ratio=3.0, n_train=10, n_augmented=0, n_test=30)
    data = simulation.simulate_round(parameters, 5)
    test = data.split("test").dropna(subset=["exposure_start", "outcome_start"])
    effects = saturation_mutagenesis(
        [simulation.Oracle(parameters, data.rates._replace(beta=b)) for b in (290, 300, 310)],
        one_hot(test["sequence"].tolist(), torch.float64),
        sequence_ids=test["sequence_id"], device="cpu",
    )  # fmt: skip
    # the oracles agree on the exposure: give it a standard error
    effects["se"].loc[{"feature": "exposure"}] = effects["se"].sel(feature="exposure") + 0.1
    selected = select_instruments(effects, "exposure", "outcome")
    local = mr.local_mr(selected, "ivw")
    return parameters, test.iloc[0], effects, selected, local


def test_logo_letters_are_as_tall_as_the_effects(analysis):
    parameters, row, effects, _, _ = analysis
    spans = simulation.motif_spans(row, parameters)
    ax = plots.sequence_logo(effects, row["sequence_id"], "outcome", spans)
    heights = [p.get_path().get_extents().height for p in ax.patches if hasattr(p, "get_path")]
    mean = effects["effect"].sel(sequence=row["sequence_id"], feature="outcome").mean("allele")
    assert max(heights[len(spans) :]) == pytest.approx(np.abs(mean).max().item(), rel=1e-6)
    assert [t.get_text() for t in ax.texts] == ["exposure motif", "outcome motif"]
    assert plots.effect_heatmap(effects, row["sequence_id"], "outcome").get_xlim() == (0, 100)


def test_scatter_is_oriented_and_draws_the_line(analysis):
    _, row, _, selected, local = analysis
    mine = selected[selected["sequence_id"] == row["sequence_id"]]
    one = local[local["sequence_id"] == row["sequence_id"]]
    ax = plots.effect_scatter(mine, one, truth=1.7)
    points = np.concatenate([c.lines[0].get_xydata() for c in ax.containers])
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(mine["beta_exposure"].abs()))
    line = next(x for x in ax.lines if x.get_label().startswith("ivw")).get_xydata()
    slope = (line[1, 1] - line[0, 1]) / (line[1, 0] - line[0, 0])
    assert slope == pytest.approx(one["causal_effect"].item())
    assert ax.get_xlabel() == "effect on exposure (oriented)"


def test_forest_shows_every_estimate_and_counts_the_missing(analysis):
    *_, local = analysis
    local = local.assign(truth=1.7)
    missing = int(local["causal_effect"].isna().sum())
    assert missing > 0
    pooled = meta.global_effects(local).iloc[0]
    ax = plots.forest(local, pooled)
    assert ax.get_ylabel() == f"{len(local) - missing} sequences ({missing} without estimate)"
    np.testing.assert_allclose(
        ax.lines[0].get_xdata(), local["causal_effect"].dropna().sort_values()
    )


def test_rounds_and_reliability():
    table = pd.DataFrame({"truth": [1.0, 3.0], "effect": [1.1, 2.9], "ci_low": [1.0, 2.8], "ci_high": [1.2, 3.0]})  # fmt: skip
    ax = plots.global_against_truth(table)
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[1] == pytest.approx(1.05 * 3.0)
    names = {"truth": "true", "ci_low": "low", "ci_high": "high"}
    low, high = table.rename(columns=names), table.rename(columns=names).assign(effect=[1.2, 2.8])
    ax = plots.global_against_truth({"a": low, "b": high}, truth="true", interval=("low", "high"))
    one, two = (container.lines[0].get_xydata() for container in ax.containers)
    np.testing.assert_array_equal(one[:, 1], table["effect"])
    np.testing.assert_allclose((one[:, 0] + two[:, 0]) / 2, table["truth"])  # beside each other
    assert (one[:, 0] < two[:, 0]).all()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    curve = pd.DataFrame({"feature": "x", "expected": [0, 1], "observed": [0.1, 0.9]})
    assert plots.reliability(curve).get_xlabel() == "predicted quantile"


def test_setting_scores_are_drawn_where_they_belong():
    scores = pd.DataFrame({
        "setting": ["baseline", "baseline", "n_members 3"], "method": ["ivw", "egger", "ivw"],
        "slope": [1.0, 1.2, 1.1], "total_width": [0.3, 2.0, 0.4],
    })  # fmt: skip
    figure = plots.setting_scores(
        scores, {"slope": "slope", "total_width": "width"}, {"slope": 1.0}
    )
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["baseline", "n_members 3"]
    assert left.yaxis_inverted()
    ivw, egger, target = left.lines
    np.testing.assert_array_equal(ivw.get_xdata(), [1.0, 1.1])
    np.testing.assert_array_equal(np.round(ivw.get_ydata()), [0, 1])
    np.testing.assert_array_equal(egger.get_xdata(), [1.2])
    assert target.get_xdata()[0] == 1.0
    assert len(right.lines) == 2


def test_labels_of_points_keep_away_from_their_neighbours():
    x = pd.Series({"a": 0.0, "b": 0.1, "c": 5.0})
    y = pd.Series({"c": 5.0, "b": 0.1, "a": 0.0})  # joined by name, not by place
    ax = matplotlib.figure.Figure().subplots()
    ax.scatter(x, y.loc[x.index])
    plots.label_points(ax, x, y)
    texts = {text.get_text(): text for text in ax.texts}
    assert {name: text.xy for name, text in texts.items()} == {n: (x[n], y[n]) for n in x.index}
    sides = {name: (text.get_ha(), text.get_va()) for name, text in texts.items()}
    assert sides == {"a": ("right", "top"), "b": ("left", "bottom"), "c": ("left", "bottom")}


NAMES = [f"expression_in_the_cell_line_{name}" for name in "abc"]  # of 29 letters


def any_effects(length=40, n=6, members=3):
    """Effects on three features: each has a site, and the first moves the second."""
    rng = np.random.default_rng(0)
    effect = rng.normal(0, 0.02, (n, length, 4, 3))
    for i in range(3):
        effect[:, 10 * i + 3 : 10 * i + 9, :, i] += rng.normal(0, 1, (n, 6, 4))
    effect[..., 1] += 0.5 * effect[..., 0]
    each = effect + rng.normal(0, 0.05, (members, *effect.shape))
    bases = rng.integers(0, 4, (n, length))
    each[:, bases[..., None] == np.arange(4)] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    return xr.Dataset(
        {"effect": (dims, each.mean(0)), "se": (dims, each.std(0, ddof=1)),
         "member_effect": (("member", *dims), each)},
        {"sequence": [f"s{i}" for i in range(n)], "feature": NAMES, "allele": list("ACGT"),
         "position": np.arange(length),
         "reference": (("sequence", "position"), np.array(list("ACGT"))[bases])},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    effects = any_effects()
    return effects, deep_mr(effects), causal_atlas(effects)


def of_pair(table):
    return table[(table["exposure"] == NAMES[0]) & (table["outcome"] == NAMES[1])]


GIVEN = {
    "pair_forest": lambda e, r, a: plots.pair_forest(r.effects, unit="log reads"),
    "pair_forest of an atlas": lambda e, r, a: plots.pair_forest(a, method="egger"),
    "pair_forest of a meta-analysis": lambda e, r, a: plots.pair_forest(
        meta.global_effects(r.local, ["exposure", "outcome"])
    ),
    "pair_forest of one": lambda e, r, a: plots.pair_forest(r.effects.iloc[:1]),
    "pair_forest without intervals": lambda e, r, a: plots.pair_forest(
        r.effects.assign(ci_low=np.nan, ci_high=np.nan, tau=np.nan)
    ),
    "effect_clustermap": lambda e, r, a: plots.effect_clustermap(a, unit="log reads"),
    "effect_clustermap of some": lambda e, r, a: plots.effect_clustermap(
        r.effects.assign(effect=r.effects["effect"].where(r.effects.index > 1))
    ),
    "effect_graph": lambda e, r, a: plots.effect_graph(a),
    "causal_graph": lambda e, r, a: plots.causal_graph(
        r.effects.set_index(["exposure", "outcome"])["effect"].to_dict()
    ),
    "effects_against_reverse": lambda e, r, a: plots.effects_against_reverse(r.local),
    "local_densities": lambda e, r, a: plots.local_densities(r.local, unit="log reads"),
    "private_movers": lambda e, r, a: plots.private_movers(r.effects),
    "forest": lambda e, r, a: plots.forest(of_pair(r.local), r.effects.iloc[0], unit="log reads"),
    "effect_scatter": lambda e, r, a: plots.effect_scatter(
        of_pair(r.instruments).query("sequence_id == 's0'"),
        of_pair(r.local).query("sequence_id == 's0'"), units={NAMES[0]: "log reads"},
    ),
    "sequence_logo": lambda e, r, a: plots.sequence_logo(
        e, "s0", NAMES[0], [(NAMES[0], 3, 9)], instruments=r.instruments
    ),
    "effect_heatmap": lambda e, r, a: plots.effect_heatmap(e, "s0", NAMES[0], unit="log reads"),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("styled", [False, True])
def test_figures_of_what_the_library_gives_save_uncut(found, name, styled):
    with matplotlib.rc_context():
        if styled:
            plots.use_style()
        drawn = GIVEN[name](*found)
        figure = drawn.figure if hasattr(drawn, "get_xlim") else drawn
        figure.draw_without_rendering()
        box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert (box.min > -0.01).all()
    assert (box.max < size + 0.01).all()
    assert (size < 13).all()


def test_labels_name_features_and_the_unit_that_is_given(found):
    _, result, _ = found
    ax = plots.forest(of_pair(result.local), unit="log reads")
    text = f"causal effect of {NAMES[0]} on {NAMES[1]} (log reads)"
    assert ax.get_xlabel().replace("\n", " ") == text
    ax = GIVEN["effect_scatter"](*found)
    assert ax.get_xlabel().replace("\n", " ") == f"effect on {NAMES[0]} (log reads) (oriented)"
    with pytest.raises(ValueError, match="one pair; the table has 6: take one"):
        plots.forest(result.local)
    with pytest.raises(ValueError, match="one pair; the table has 6"):
        plots.effect_scatter(result.instruments, of_pair(result.local))


def letters(figure):
    return [p for ax in figure.axes for p in ax.patches if hasattr(p, "get_path")]


def test_long_sequences_are_drawn_in_rows_or_in_part():
    effects = any_effects(length=250)
    figure = plots.sequence_logo(effects, "s0", NAMES[0]).figure
    assert [ax.get_xlim() for ax in figure.axes] == [(-1, 100), (99, 200), (199, 300)]
    assert [len(ax.patches) for ax in figure.axes] == [100, 100, 50]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    part = plots.sequence_logo(effects, "s0", NAMES[0], positions=slice(-30, None))
    assert part.get_xlim() == (219, 250)
    whole, some = letters(figure), letters(part.figure)
    np.testing.assert_array_equal(
        [p.get_path().vertices.mean(0) for p in whole[220:]],
        [p.get_path().vertices.mean(0) for p in some],
    )
    for wrong in (slice(5, 5), slice(0, 10, 2)):
        with pytest.raises(ValueError, match=r"at least one of 250 bases.*give slice\(0, 100\)"):
            plots.sequence_logo(effects, "s0", NAMES[0], positions=wrong)


def test_letters_of_instruments_have_the_colour_of_their_motif(found):
    effects, _, _ = found
    rows = [("s0", 3, "x"), ("s0", 3, "x"), ("s0", 4, "y"), ("s0", 5, "x"), ("s0", 5, "y"),
            ("s0", 6, "z"), ("s1", 7, "x")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["sequence_id", "position", "motif"])
    ax = plots.sequence_logo(
        effects, "s0", NAMES[0], instruments=table, colours={"x": plots.BLUE, "y": plots.GREEN}
    )
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in letters(ax.figure)]
    assert colours[2:8] == ["#bfbfbf", plots.BLUE, plots.GREEN, "#000000", plots.BROWN, "#bfbfbf"]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["x", "y", "several", "others", "no instrument"]
    with pytest.raises(ValueError, match="table of instruments needs the columns"):
        plots.sequence_logo(effects, "s0", NAMES[0], instruments=table.drop(columns="position"))
