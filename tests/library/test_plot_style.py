"""What all figures share: they say when there is nothing to draw, one colour a sign, few imports."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepmr_utils import plots

matplotlib.use("Agg")


def row(**values):
    return pd.DataFrame([values])


LOCAL = row(method="ivw", causal_effect=0.3, se=0.1, intercept=np.nan, ci_low=0.1, ci_high=0.5)
INSTRUMENT = row(beta_exposure=0.5, se_exposure=0.1, beta_outcome=0.2, se_outcome=0.1, position=3)
RATIO = row(ratio=0.3, precision=10.0, radial_x=10.0, radial_y=3.0, q_p=0.3)
PAIR = row(exposure="a", outcome="b", effect=0.3, se=0.1, tau=0.1, total_ci_low=0.1,
           total_ci_high=0.4, truth=0.2, bin="near", q_value=0.01)  # fmt: skip
PAIR_LOCAL = row(exposure="a", outcome="b", sequence_id="s", causal_effect=0.3, distance=20.0)
PRIVATE = pd.DataFrame({
    "exposure": ["a", "b"], "outcome": ["b", "a"], "private_share": [0.0, 0.6],
    "private_ci_low": [0.0, 0.5], "private_ci_high": [0.1, 0.7],
})  # fmt: skip
FIGURES = {
    "effect_scatter": (lambda t: plots.effect_scatter(t, LOCAL), INSTRUMENT),
    "forest": (plots.forest, LOCAL),
    "reliability": (plots.reliability, row(feature="x", expected=0.1, observed=0.2)),
    "model_quality": (plots.model_quality, row(scenario="s", feature="x", mse=0.1, mse_member=0.2,
                                               noise_floor=0.05)),
    "global_against_truth": (plots.global_against_truth, row(truth=1.0, effect=0.9, ci_low=0.8,
                                                             ci_high=1.0)),
    "setting_scores": (lambda t: plots.setting_scores(t, {"slope": "slope"}, {}, "slope"),
                       row(setting="a", method="ivw", slope=1.0)),
    "funnel": (lambda t: plots.funnel(t, LOCAL), RATIO),
    "radial": (plots.radial, RATIO),
    "leave_one_out": (lambda t: plots.leave_one_out(t, LOCAL.iloc[0]), LOCAL.assign(left_out=0)),
    "method_scores": (plots.method_scores, row(scenario="s", method="ivw", bias=0.1, rmse=0.2,
                                                  coverage=0.9, assumed=True)),
    "pair_forest": (plots.pair_forest, PAIR),
    "private_movers": (plots.private_movers, PRIVATE),
    "local_densities": (plots.local_densities, PAIR_LOCAL),
    "effects_against_reverse": (plots.effects_against_reverse, PAIR_LOCAL),
    "distance_heatmap": (lambda t: plots.distance_heatmap(t, "near"), PAIR),
    "graphs_against_truth": (lambda t: plots.global_against_truth({"a": t, "b": t}), row(
        truth=1.0, effect=0.9, ci_low=0.8, ci_high=1.0)),
    "effect_clustermap": (plots.effect_clustermap, PAIR),
    "effect_graph": (plots.effect_graph, PAIR),
}  # fmt: skip


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(drawn):
    figure = drawn.figure if hasattr(drawn, "get_xlim") else drawn
    figure.canvas.draw()
    return [text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw(name):
    draw, table = FIGURES[name]
    numbers = table.select_dtypes("number").columns
    for nothing in (table.iloc[:0], pd.DataFrame(), table.assign(**dict.fromkeys(numbers, np.nan))):
        assert texts(draw(nothing)) == ["nothing to draw: no row has an estimate"]
    assert "nothing to draw: no row has an estimate" not in texts(draw(table))
    with pytest.raises(ValueError, match="the table of this figure needs the columns"):
        draw(table[table.columns[:1]].rename(columns=lambda _: "other"))


def test_lines_of_no_method_and_graphs_of_no_edge():
    for nothing in (LOCAL.iloc[:0], LOCAL.assign(causal_effect=np.nan)):
        texts(plots.effect_scatter(INSTRUMENT, nothing))
        texts(plots.funnel(RATIO, nothing))
    assert texts(plots.causal_graph({}))[0].startswith("nothing to draw")
    assert texts(plots.causal_graph({("a", "b"): np.nan}, nodes=["a", "b"])) == ["a", "b"]
    assert texts(plots.global_against_truth({}))[0].startswith("nothing to draw")
    infinite = plots.forest(LOCAL.assign(ci_low=-np.inf))
    assert np.isfinite(infinite.get_xlim()).all()


def test_three_features_against_the_reverse():
    """Three pairs do not fill two rows of panels."""
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")]
    table = pd.DataFrame(pairs, columns=["exposure", "outcome"])
    figure = plots.effects_against_reverse(
        table.assign(sequence_id="s", causal_effect=0.5, distance=9.0)
    )
    drawn = [len(ax.collections[0].get_offsets()) for ax in figure.axes[:3]]
    assert drawn == [1, 0, 0]


def sequence_effects(value):
    dims = ("sequence", "position", "allele", "feature")
    return xr.Dataset(
        {"effect": (dims, np.full((1, 5, 4, 1), value))},
        {"sequence": ["s"], "feature": ["x"], "allele": list("ACGT"), "position": np.arange(5),
         "reference": (("sequence", "position"), [list("ACGTA")])},
    )  # fmt: skip


def test_sequences_of_missing_effects():
    effects = sequence_effects(np.nan)
    for draw in (plots.sequence_logo, plots.effect_heatmap):
        assert texts(draw(effects, "s", "x"))[0].startswith("nothing to draw")
        texts(draw(effects.fillna(0.0), "s", "x"))
        with pytest.raises(ValueError, match="unknown feature 'y': choose one of x"):
            draw(effects, "s", "y")


SIGNED = row(exposure="a", outcome="b", effect=2.0, bin="near", q_value=0.01)
SIGNED = pd.concat([SIGNED, SIGNED.assign(exposure="b", outcome="a", effect=-2.0)])


def positive_and_negative():
    effects = sequence_effects(2.0)
    effects["effect"][0, 0] = -2.0
    yield "effect_heatmap", plots.effect_heatmap(effects, "s", "x"), [-2.0, 2.0]
    yield "distance_heatmap", plots.distance_heatmap(SIGNED, ["near"]), [2.0, -2.0]
    yield "effect_clustermap", plots.effect_clustermap(SIGNED).axes[1], [2.0, -2.0]
    yield "causal_graph", plots.causal_graph({("a", "b"): 2.0, ("b", "a"): -2.0}), [2.0, -2.0]
    yield "effect_graph", plots.effect_graph(SIGNED), [2.0, -2.0]


def test_one_colour_for_each_sign():
    """In heat maps, at full colour, a darker tint of it; in graphs the very colour."""
    hue = [matplotlib.colors.rgb_to_hsv(c[:3])[0] for c in (plots.NEGATIVE, plots.POSITIVE)]
    apart = abs((hue[0] - hue[1] + 0.5) % 1 - 0.5)  # red is both 0 and 1
    assert apart > 0.3
    drawn = set()
    for name, ax, signs in positive_and_negative():
        drawn.add(name)
        if ax.patches:
            colours = [patch.get_edgecolor()[:3] for patch in ax.patches]
        else:
            mesh = ax.collections[0]
            values = mesh.get_array().compressed()
            assert values[np.argsort(np.abs(values) < 2)][0] == signs[0]
            colours = mesh.to_rgba(signs)[:, :3]
        for colour, sign in zip(colours, signs, strict=True):
            expected = plots.POSITIVE if sign > 0 else plots.NEGATIVE
            if ax.patches:
                assert colour == expected[:3]
            h = matplotlib.colors.rgb_to_hsv(colour)[0]
            assert abs((h - hue[int(sign > 0)] + 0.5) % 1 - 0.5) < 0.05, name
    signed = {n for n in plots.__all__ if "heatmap" in n or "graph" in n or "map" in n}
    assert drawn == signed


def test_figures_import_nothing_that_they_do_not_draw_with():
    code = (
        "import sys; from deepmr_utils import plots; [getattr(plots, n) for n in plots.__all__];"
        "print([n for n in ('torch', 'xarray', 'statsmodels', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"forest", "POSITIVE", "effects"} <= set(dir(plots))
    with pytest.raises(AttributeError, match="has no attribute 'forrest'"):
        _ = plots.forrest
