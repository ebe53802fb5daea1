"""Diagnostic figures draw what they are given: values are read back from the Axes."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from deepmr_utils import meta, mr, plots
from deepmr_utils.mr import benchmark, diagnostics

matplotlib.use("Agg")
NAMES = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


def sequence(instruments=30, seed=3):
    data = benchmark.simulate("outliers", 1, instruments, seed=seed)
    return [a[0] for a in data[:4]]


def by_label(ax, start):
    return next(line for line in ax.lines if str(line.get_label()).startswith(start))


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("instruments", [30, 500])
def test_funnel_shows_every_instrument_and_line(instruments):
    arrays = sequence(instruments)
    single = diagnostics.single_instruments(*arrays)
    estimates = pd.concat([mr.estimate(*arrays, m).assign(method=m) for m in ("ivw", "conmix")])
    ax = plots.funnel(single, estimates)
    inside, beyond = by_label(ax, "instrument"), by_label(ax, "beyond")
    low, high = ax.get_xlim()
    shown = single["ratio"].between(low, high)
    np.testing.assert_array_equal(inside.get_xdata(), single["ratio"][shown])
    np.testing.assert_array_equal(inside.get_ydata(), single["precision"][shown])
    assert set(beyond.get_xdata()) <= {low, high}
    assert len(inside.get_xdata()) + len(beyond.get_xdata()) == instruments
    for _, row in estimates.iterrows():
        assert by_label(ax, row["method"]).get_xdata()[0] == row["causal_effect"]
    curve = by_label(ax, "95 %").get_xydata()
    centre = estimates["causal_effect"].iloc[0]
    np.testing.assert_allclose((curve[:, 0] - centre) * curve[:, 1], 1.959964, rtol=1e-6)


def test_radial_slope_is_ivw_and_outliers_are_those_of_q():
    arrays = sequence()
    single = diagnostics.single_instruments(*arrays)
    ax = plots.radial(single)
    line = by_label(ax, "ivw").get_xydata()
    slope = line[1, 1] / line[1, 0]
    assert slope == pytest.approx(mr.estimate(*arrays, "ivw")["causal_effect"].item())
    outlier = single["q_p"] * len(single) < 0.05
    assert by_label(ax, "outlier").get_label() == f"outlier ({outlier.sum()})"
    np.testing.assert_array_equal(by_label(ax, "outlier").get_xdata(), single["radial_x"][outlier])
    clean = diagnostics.single_instruments(*(a[0] for a in benchmark.simulate("valid", 1)[:4]))
    assert not any(label.startswith("outlier") for label in labels(plots.radial(clean)))


@pytest.mark.parametrize("instruments", [30, 500])
def test_leave_one_out_is_sorted_and_names_what_matters(instruments):
    arrays = sequence(instruments)
    table, whole = diagnostics.leave_one_out(*arrays, "ivw"), mr.estimate(*arrays, "ivw").iloc[0]
    table["left_out"] = [f"position {i}" for i in table["left_out"]]
    ax = plots.leave_one_out(table, whole)
    expected = table.sort_values("causal_effect")
    points = by_label(ax, "one instrument left out")
    np.testing.assert_array_equal(points.get_xdata(), expected["causal_effect"])
    assert by_label(ax, "all instruments").get_xdata()[0] == whole["causal_effect"]
    ticks = [t.get_text() for t in ax.get_yticklabels()]
    if instruments == 30:
        assert ticks == expected["left_out"].tolist()
    else:
        change = (table["causal_effect"] - whole["causal_effect"]).abs()
        most = ", ".join(f"position {i}" for i in change.nlargest(5).index)
        assert ticks == []
        assert f"matter most: {most}" in labels(ax)


def test_method_scores_places_every_method():
    methods, scenarios = ["ivw", "egger", "median_simple"], ["valid", "directional"]
    scores = benchmark.score(methods, scenarios, datasets=20)
    ax, *_ = plots.method_scores(scores).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == scenarios
    assert [label.get_text() for label in ax.get_yticklabels()] == methods
    one = scores.set_index(["method", "scenario"])
    for text in ax.texts:
        x, y = text.get_position()
        row = one.loc[(methods[y], scenarios[x])]
        assert text.get_text() == f"{row['coverage']:.0%}\n{row['bias']:+z.2f}"
        assert ax.images[0].get_array()[y, x] == row["coverage"]
    assert len(ax.texts) == len(scores)
    assert len(ax.patches) == scores["assumed"].sum()


def test_scatter_draws_every_method_apart():
    arrays = sequence()
    points = pd.DataFrame(dict(zip(NAMES, arrays, strict=True)))
    names = [name for name in mr.REGISTRY if not name.startswith(("hetpen", "mode", "median"))]
    local = pd.concat([mr.estimate(*arrays, name).assign(method=name) for name in names])
    ax = plots.effect_scatter(points, local)
    lines = [by_label(ax, f"{name}:") for name in names]
    styles = {(matplotlib.colors.to_hex(x.get_color()), str(x._dash_pattern)) for x in lines}
    assert len(styles) == len(names) > 15
    assert by_label(ax, "conmix:").get_label() == f"conmix: {local.set_index('method').loc['conmix', 'causal_effect']:.2f}"  # fmt: skip


def test_forest_of_500_sequences_is_readable():
    data = benchmark.simulate("balanced", 500)
    local = mr.estimate(*data[:4], "ivw").assign(method="ivw")
    pooled = meta.global_effects(local).iloc[0]
    ax = plots.forest(local, pooled)
    assert any(f"I² {pooled['i2']:.0%}" in label for label in labels(ax))
    assert ax.lines[0].get_markersize() <= 1
    handles = [h for h in ax.get_legend().legend_handles if hasattr(h, "get_markersize")]
    assert min(handle.get_markersize() for handle in handles) >= 6
