from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepmr_utils import plots
from deepmr_utils.plots import pairs
from deepmr_utils.plots.pairs import PAIR

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    with matplotlib.rc_context():
        plots.use_style()
        yield
    matplotlib.pyplot.close("all")


def make_table(k=12, seed=0):
    """Two groups of features, which are mixed in the table, act within their group."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"f{i}", f"f{j}", (1.0 if i % 2 == j % 2 else -0.1) + 0.05 * rng.normal(), 0.01 * (j + 1))
        for i in range(k)
        for j in range(k)
        if i != j
    ]
    return pd.DataFrame(rows, columns=["exposure", "outcome", "effect", "q_value"])


def test_matrix_has_one_order_and_nothing_on_its_diagonal():
    table = make_table()
    matrix = pairs.effect_matrix(table)
    assert matrix.index.tolist() == matrix.columns.tolist() == [f"f{i}" for i in range(12)]
    assert np.isnan(np.diag(matrix)).all()
    for row in table.itertuples():
        assert matrix.loc[row.exposure, row.outcome] == row.effect
    with pytest.raises(ValueError, match="rows of one method"):
        pairs.effect_matrix(pd.concat([table, table]))
    some = pairs.effect_matrix(table[table["outcome"].isin(["f0", "f1"])].iloc[::-1])
    assert some.columns.tolist() == ["f1", "f0"]  # as exposures stand
    other = pairs.effect_matrix(table.assign(outcome=table["outcome"].replace("f3", "g")))
    assert other.columns.tolist()[-1] == "g"


def test_clustered_heat_map_puts_groups_together_beside_their_tree():
    table = make_table()
    figure = plots.effect_clustermap(table)
    figure.canvas.draw()
    tree, ax = figure.axes[:2]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == [label.get_text() for label in ax.get_xticklabels()]
    parity = [int(name[1:]) % 2 for name in rows]
    assert sum(a != b for a, b in pairwise(parity)) == 1
    values = ax.collections[0].get_array().reshape(12, 12)
    matrix = pairs.effect_matrix(table).loc[rows, rows].to_numpy()
    np.testing.assert_array_equal(np.ma.filled(values, np.nan), matrix)
    assert values.mask.diagonal().all()
    dots = ax.lines[0].get_xydata() - 0.5
    assert {(rows[int(i)], rows[int(j)]) for j, i in dots} == set(
        table[table["q_value"] < 0.05][["exposure", "outcome"]].itertuples(index=False, name=None)
    )
    assert tree.get_ylim() == (120, 0)  # the first leaf on top, as the first row of the heat map
    assert ax.yaxis_inverted()


def test_heat_map_of_other_outcomes_many_features_and_nothing():
    table = make_table()
    some = table[table["outcome"].isin(["f0", "f1"])]
    assert plots.effect_clustermap(some).axes[1].get_xlim() == (0, 2)
    large = plots.effect_clustermap(make_table(k=61))
    assert large.axes[1].get_yticklabels() == []
    pair = plots.effect_clustermap(make_table(k=2))
    assert len(pair.axes[1].get_yticklabels()) == 2
    plots.effect_clustermap(table.assign(effect=np.nan)).canvas.draw()


def test_of_several_methods_one_is_drawn_and_named():
    ivw = make_table(k=4).assign(method="ivw")
    egger = ivw.assign(method="egger", effect=-ivw["effect"])
    both = pd.concat([ivw, egger], ignore_index=True)
    for method, table in ((None, ivw), ("egger", egger)):
        figure = plots.effect_clustermap(both, method=method, unit="log reads")
        values = np.ma.filled(figure.axes[1].collections[0].get_array(), np.nan)
        alone = plots.effect_clustermap(table).axes[1].collections[0].get_array()
        np.testing.assert_array_equal(values, np.ma.filled(alone, np.nan))
        assert figure.axes[2].get_ylabel() == f"effect, {method or 'ivw'} (log reads)"
    assert len(arrows(plots.effect_graph(both, method="egger", significance=None))) == 12
    with pytest.raises(ValueError, match="unknown method 'mm': choose one of ivw, egger"):
        plots.effect_clustermap(both, method="mm")


def test_forest_of_pairs_draws_the_largest_of_many():
    table = make_table(k=9).assign(ci_low=-2.0, ci_high=2.0)
    ax = plots.pair_forest(table, unit="log reads")
    largest = table.loc[table["effect"].abs().nlargest(60).index].sort_index()
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), largest["effect"])
    names = [f"{row.exposure} → {row.outcome}" for row in largest.itertuples()]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert ax.get_ylabel() == "60 largest of 72 pairs"
    assert ax.get_xlabel() == "causal effect of exposure on outcome (log reads)"


def test_no_arrow_where_no_pair_is_told():
    ax = plots.effect_graph(make_table(k=3).assign(q_value=1.0))
    assert ax.get_title() == "no pair has q below 0.05"


def arrows(ax):
    return [p for p in ax.patches if isinstance(p, matplotlib.patches.FancyArrowPatch)]


def test_graph_draws_the_strongest_effects_from_exposure_to_outcome():
    table = make_table()
    ax = plots.effect_graph(table, edges=10)
    ax.figure.canvas.draw()
    assert len(arrows(ax)) == 10
    assert {text.get_text() for text in ax.texts} == {f"f{i}" for i in range(12)}
    place = dict(
        zip(
            [text.get_text() for text in ax.texts],
            [line.get_xydata()[0] for line in ax.lines],
            strict=True,
        )
    )
    strongest = table[table["q_value"] < 0.05].nlargest(10, "effect")
    ends = {tuple(np.round([*a._posA_posB[0], *a._posA_posB[1]], 6)) for a in arrows(ax)}
    assert ends == {
        tuple(np.round([*place[row.exposure], *place[row.outcome]], 6))
        for row in strongest.itertuples()
    }


def test_graph_leaves_out_features_without_an_arrow():
    table = make_table(k=4)
    large = plots.effect_graph(make_table(k=50), edges=5)
    assert 2 <= len(large.texts) <= 10
    assert len(arrows(plots.effect_graph(table, significance=None))) == 12
    assert not arrows(plots.effect_graph(table, significance=0.0))
    with pytest.raises(ValueError, match="needs the columns q_value"):
        plots.effect_graph(table.drop(columns="q_value"))


def test_graphs_of_any_features_lie_on_a_circle():
    ax = plots.causal_graph({("a", "b"): 1.0, ("b", "c"): 0.5, ("c", "a"): 0.0}, nodes=["d", "c"])
    places = np.array([line.get_xydata()[0] for line in ax.lines])
    assert [text.get_text() for text in ax.texts] == ["d", "c", "a", "b"]
    np.testing.assert_allclose(places, [[0, 1], [1, 0], [0, -1], [-1, 0]], atol=1e-9)
    assert [a.get_linewidth() for a in arrows(ax)] == pytest.approx([3.0, 1.74, 0.48])


def test_graphs_lie_where_they_are_told_to():
    edges = {("Oct4", "Sox2"): 1.0, ("Sox2", "Oct4"): -0.5}
    by_hand = plots.causal_graph(edges, places={"Sox2": (0, 1), "Oct4": (-1, 0), "Nanog": (1, 0)})
    assert [a.get_linewidth() for a in arrows(by_hand)] == pytest.approx([5.0, 2.9])
    assert {t.get_text(): tuple(t.xy) for t in by_hand.texts} == {"Oct4": (-1, 0), "Sox2": (0, 1)}
    with pytest.raises(ValueError, match="unknown feature 'Oct4': choose one of Sox2"):
        plots.causal_graph(edges, places={"Sox2": (0, 1)})


@pytest.mark.parametrize("k", [2, 3, 12, 13, 40])
@pytest.mark.parametrize("given", [False, True])
def test_names_in_graphs_overlap_neither_each_other_nor_nodes_nor_the_frame(k, given):
    names = [f"chromatin_of_the_cell_line_{i:03d}" for i in range(k)]
    ax = plt.subplots(figsize=(9, 9))[1] if given else None
    ax = plots.causal_graph({(names[0], names[1]): 1.0}, nodes=names, ax=ax)
    ax.figure.draw_without_rendering()
    frame = ax.figure.bbox
    corners = []
    for text in ax.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        corners.append(_corners(text))
    nodes = [ax.transData.transform(line.get_xydata()[0]) for line in ax.lines]
    reach = 3 * ax.figure.dpi / 72
    for i, one in enumerate(corners):
        assert all(not _inside(one, node, reach) for node in nodes)
        assert all(not _inside(one, point, 0) for other in corners[i + 1 :] for point in other)


def _corners(text):
    """Points along the middle of a name, which may be turned."""
    angle = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(angle)
    x, y = text.get_transform().transform(text.get_position())
    turn = np.exp(1j * np.radians(angle))
    along = np.linspace(box.x0, box.x1, 9) + 1j * (box.y0 + box.y1) / 2
    points = (along - (x + 1j * y)) * turn + (x + 1j * y)
    return np.column_stack([points.real, points.imag])


def _inside(name, point, reach):
    """Whether a point is within half the height of letters, and this, of a name."""
    first, last = name[0], name[-1]
    share = np.clip((point - first) @ (last - first) / ((last - first) @ (last - first)), 0, 1)
    return np.hypot(*(first + share * (last - first) - point)) < 4 + reach


def test_effects_stand_against_the_reverse_of_the_same_sequence():
    table = pd.DataFrame({
        "sequence_id": ["s", "t", "t", "u"], "exposure": ["a", "a", "b", "b"],
        "outcome": ["b", "b", "a", "a"], "causal_effect": [0.1, 0.2, 0.3, 0.4],
        "distance": [5.0, 6.0, 7.0, 8.0],
    })  # fmt: skip
    ax = plots.effects_against_reverse(table).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.2, 0.3]])  # t
    assert ax.collections[0].get_array() == [6.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a → b", "b → a")


def test_private_movers_are_drawn_once_for_two_features():
    rows = [("a", "b", 0.0, 0.0, 0.1), ("b", "a", 0.6, 0.5, 0.8), ("c", "a", 0.3, 0.2, 0.4)]
    names = [*PAIR, "private_share", "private_ci_low", "private_ci_high"]
    table = pd.DataFrame(rows, columns=names)
    ax = plots.private_movers(table)
    (dot,) = ax.lines[0].get_xydata()
    assert dot.tolist() == [0.0, 0.6]  # of a and b; c has no share back
    assert [text.get_text() for text in ax.texts] == ["a, b"]
    across, upright = (bars.get_segments()[0].tolist() for bars in ax.collections)
    np.testing.assert_allclose(across, [[0.0, 0.6], [0.1, 0.6]])
    np.testing.assert_allclose(upright, [[0.0, 0.5], [0.0, 0.8]])
    alone = plots.private_movers(table.iloc[[2]])
    assert alone.texts[0].get_text().startswith("nothing to draw")
    assert plots.private_movers(table.assign(private_ci_low=np.nan), ax=alone) is alone
