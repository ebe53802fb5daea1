"""Figures draw what they are given: values are read back from the Axes."""

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils import meta, mr, plots
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
    published = pd.DataFrame({"true_ce": [1.0], "ce_est": [0.9]})
    ax = plots.global_against_truth(table, published)
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
