"""The contract of estimate and local_mr: columns, bad input, invariances."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from deepmr_utils import mr
from deepmr_utils.mr import registry

METHODS = list(mr.REGISTRY)
CONTRACT = [*mr.COLUMNS, "n_instruments", "status"]


def instruments(rows=4, width=15, seed=0):
    rng = np.random.default_rng(seed)
    bx = rng.normal(0, 0.5, (rows, width))
    sx, sy = rng.uniform(0.02, 0.1, (2, rows, width))
    by = 1.5 * bx + rng.normal(0, sy) + 0.5 * (rng.random((rows, width)) < 0.2)
    return bx + rng.normal(0, sx), sx, by, sy


def tidy(arrays):
    """Long table of the instruments of padded arrays (S, V)."""
    rows, columns = np.nonzero(~np.isnan(arrays[0]))
    table = pd.DataFrame({"sequence_id": [f"sequence {i}" for i in rows], "position": columns})
    table["reference"], table["alternate"] = "A", "C"
    for name, array in zip(mr.EFFECTS, arrays, strict=True):
        table[name] = array[rows, columns]
    return table


@pytest.mark.parametrize("method", METHODS)
def test_one_row_a_sequence_with_the_contracted_columns(method):
    table = mr.estimate(*instruments(), method)
    assert [name for name in table.columns if name in CONTRACT] == CONTRACT
    assert set(table.columns) == {*CONTRACT, *mr.REGISTRY[method].extras}
    assert len(table) == 4
    assert (table["status"] == "ok").all()
    assert np.isfinite(table[["causal_effect", "ci_low", "ci_high"]]).all(axis=None)
    assert (table["n_instruments"] == 15).all()
    assert (table.drop(columns=["n_instruments", "status"]).dtypes == np.float64).all()


@pytest.mark.parametrize("method", METHODS)
def test_too_few_instruments_is_a_status(method):
    minimum = mr.REGISTRY[method].minimum
    arrays = np.array(instruments(rows=3))
    arrays[:, 0, minimum - 1 :] = np.nan
    arrays[:, 1] = np.nan
    table = mr.estimate(*arrays, method)
    assert table["status"].tolist() == [
        f"too few instruments: {minimum - 1} of at least {minimum}",
        f"too few instruments: 0 of at least {minimum}",
        "ok",
    ]
    assert table[mr.COLUMNS].iloc[:2].isna().all(axis=None)


@pytest.mark.parametrize("method", METHODS)
def test_alone_in_a_batch_in_any_order_and_padding(method):
    arrays = np.array(instruments(rows=6, width=mr.REGISTRY[method].maximum or 40))
    arrays[:, 1, 12:] = np.nan
    arrays[:, 2, 17:] = np.nan
    arrays[:, 4, 5:] = np.nan
    together = mr.estimate(*arrays, method)
    rng = np.random.default_rng(1)
    for i in range(6):
        alone = arrays[:, i, ~np.isnan(arrays[0, i])]
        shuffled = alone[:, rng.permutation(alone.shape[1])]
        spread = np.full((4, 97), np.nan)
        spread[:, rng.permutation(97)[: alone.shape[1]]] = alone
        for row in (alone, shuffled, spread, spread[:, None]):
            pd.testing.assert_frame_equal(
                mr.estimate(*row, method),
                together.iloc[[i]].reset_index(drop=True),
                rtol=1e-12,
                atol=1e-14,
            )


@pytest.mark.parametrize("method", METHODS)
def test_no_instruments_at_all(method):
    assert len(mr.estimate(*np.empty((4, 0, 5)), method)) == 0
    table = mr.estimate(*np.empty((4, 0)), method)
    assert table["status"].str.startswith("too few instruments: 0").all()


BAD = [
    (lambda a: (a[0], a[1], a[2], a[3][:, :5]), r"one shape.*\(4, 15\).*\(4, 5\)"),
    (lambda a: [x[None] for x in a], r"\(V,\) or \(S, V\)"),
    (lambda a: put(a, 0, np.inf), "beta_exposure must be finite; got inf at row 1, column 2"),
    (lambda a: put(a, 3, -np.inf), "se_outcome must be finite"),
    (
        lambda a: put(a, 2, np.nan),
        r"beta_outcome must be known.*half-missing instrument.; got nan at row 1, column 2",
    ),
    (lambda a: put(a, 1, 0.0), "se_exposure must be greater than 0; got 0.0 at row 1, column 2"),
    (lambda a: put(a, 3, -1.0), "se_outcome must be greater than 0; got -1.0"),
]


def put(arrays, which, value):
    arrays[which][1, 2] = value
    return arrays


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_malformed_arrays_are_errors(spoil, message):
    with pytest.raises(ValueError, match=message):
        mr.estimate(*spoil([a.copy() for a in instruments()]))


def test_unknown_names_are_errors_that_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown method 'eggar'.*egger_robust"):
        mr.estimate(*instruments(), "eggar")
    with pytest.raises(ValueError, match="unknown distribution 'z': choose one of normal, t"):
        mr.estimate(*instruments(), distribution="z")
    with pytest.raises(
        ValueError, match="unknown option of egger_robust 'robust': choose one of pen"
    ):
        mr.estimate(*instruments(), robust=False)


def test_degenerate_fits_are_a_status():
    x = np.linspace(0.1, 1, 12)
    line = mr.estimate(x, 0 * x + 0.1, 0.5 + 2 * x, 0 * x + 0.1, "egger_robust")
    assert line["status"][0].startswith("not converged, or an exact fit")
    same = mr.estimate(0 * x + 1, 0 * x + 0.1, np.sin(9 * x), 0 * x + 0.1, "egger")
    assert same["status"][0].startswith("no finite estimate")
    assert same[mr.COLUMNS].isna().all(axis=None)


def test_too_many_instruments_is_a_status():
    table = mr.estimate(*instruments(width=16), "hetpen")
    assert (table["status"] == "too many instruments: 16 of at most 15").all()


def test_registry_table():
    table = mr.methods()
    assert table["name"].tolist() == METHODS
    assert (table["citation"].str.len() > 10).all()
    assert (table["assumption"].str.len() > 10).all()
    assert (table["minimum_instruments"] >= 1).all()
    assert table.set_index("name")["options"]["ivw_robust"] == (
        "effects, penalized, weights, distribution"
    )


def test_local_mr_equals_estimate():
    arrays = np.array(instruments(rows=5))
    arrays[:, 3, 4:] = np.nan
    table = tidy(arrays)
    local = mr.local_mr(table, "egger")
    assert local.columns[:2].tolist() == ["sequence_id", "method"]
    assert local["sequence_id"].tolist() == [f"sequence {i}" for i in range(5)]
    assert (local["method"] == "egger").all()
    pd.testing.assert_frame_equal(local.iloc[:, 2:], mr.estimate(*arrays, "egger"))


def test_local_mr_keeps_categories_and_ignores_row_order():
    table = tidy(instruments(rows=3))
    categories = ["empty first", "sequence 2", "sequence 0", "sequence 1", "empty last"]
    table["sequence_id"] = pd.Categorical(table["sequence_id"], categories)
    local = mr.local_mr(table)
    assert local["sequence_id"].cat.categories.tolist() == categories
    assert local["sequence_id"].tolist() == categories
    assert local["status"].str.startswith("too few").tolist() == [True, False, False, False, True]
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(mr.local_mr(shuffled), local, rtol=1e-12)
    empty = mr.local_mr(table.iloc[:0])
    assert empty["sequence_id"].tolist() == categories


def test_local_mr_rejects_bad_tables():
    table = tidy(instruments(rows=2))
    with pytest.raises(ValueError, match=r"\['se_outcome'\] missing"):
        mr.local_mr(table.drop(columns="se_outcome"))
    with pytest.raises(
        ValueError, match="belong to a sequence; row 3 has sequence_id nan: fill it in"
    ):
        mr.local_mr(table.assign(sequence_id=table["sequence_id"].where(table.index != 3)))
    with pytest.raises(
        ValueError, match=r"listed once; row 0 has .* position 0, alternate C as a row before"
    ):
        mr.local_mr(pd.concat([table, table.iloc[:1]]))


def test_masked_instruments_are_padding():
    mask = np.array([0, 0, 0, 0, 0, 1], bool)
    values = (
        [0.5, 0.8, 1.1, 0.9, 0.7, 1.3],
        [0.05] * 6,
        [0.22, 0.29, 0.45, 0.4, 0.26, 50],
        [0.06] * 6,
    )
    masked = mr.estimate(*(np.ma.array(v, mask=mask) for v in values), "ivw")
    assert masked["causal_effect"][0] == pytest.approx(0.405588, rel=1e-5)
    assert masked["n_instruments"][0] == 5
    half = [np.ma.array(values[0], mask=mask), *values[1:]]
    with pytest.raises(ValueError, match=r"beta_exposure must be known.*half-missing instrument"):
        mr.estimate(*half, "ivw")
    several = mr.multivariable(*(np.ma.array(v, mask=mask) for v in values))
    assert several["causal_effect"][0] == pytest.approx(0.405588, rel=1e-5)


def test_several_methods():
    table = tidy(instruments(rows=2))
    both = mr.local_mr(table, ["ivw", "egger"])
    for part, method in zip((both[:2], both[2:]), ("ivw", "egger"), strict=True):
        alone = mr.local_mr(table, method)
        got = part.reset_index(drop=True)[alone.columns]
        pd.testing.assert_frame_equal(got, alone)
    with pytest.raises(
        TypeError, match=r"method must be one of ivw.*; got \['ivw'\]: give one at a time"
    ):
        mr.estimate(*instruments(), ["ivw"])
    with pytest.raises(ValueError, match="unknown method 'eger'"):
        mr.local_mr(table, ["ivw", "eger"])
    with pytest.raises(ValueError, match="method must name one at least"):
        mr.local_mr(table, [])


def test_tables_from_elsewhere():
    table = tidy(instruments(rows=2))
    text = table.astype(dict.fromkeys(mr.EFFECTS, str))
    pd.testing.assert_frame_equal(mr.local_mr(text, "ivw"), mr.local_mr(table, "ivw"))
    nullable = table.convert_dtypes()
    got = mr.local_mr(nullable, "ivw")["causal_effect"]
    np.testing.assert_array_equal(got, mr.local_mr(table, "ivw")["causal_effect"])
    text.loc[4, "beta_outcome"] = "."
    with pytest.raises(ValueError, match=r"beta_outcome must be known.* got nan at row 4:"):
        mr.local_mr(text, "ivw")
    text.loc[4, mr.EFFECTS] = "."
    assert mr.local_mr(text, "ivw")["n_instruments"].tolist() == [14, 15]
    text.loc[7, "se_outcome"] = "low"
    with pytest.raises(ValueError, match="se_outcome must hold numbers; got 'low' at row 7"):
        mr.local_mr(text, "ivw")
    with pytest.raises(ValueError, match="an instrument table must have each column once"):
        mr.local_mr(pd.concat([table, table[["se_outcome"]]], axis=1))
    lower = pd.concat([table, table.iloc[:1].assign(alternate="c")])
    with pytest.raises(ValueError, match=r"may be listed once; .* position 0, alternate c"):
        mr.local_mr(lower)


def test_it_loads_neither_torch_nor_xarray():
    code = "import sys, deepmr_utils.mr; print({'torch', 'xarray', 'sklearn'} & set(sys.modules))"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "set()"


@pytest.mark.parametrize("weighting", ["simple", "weighted"])
def test_names_of_the_modes_that_were(weighting):
    arrays, new = instruments(rows=2), f"mode_{weighting}"
    with pytest.warns(FutureWarning, match=f"method 'mbe_{weighting}' is called '{new}' now"):
        old = mr.estimate(*arrays, f"mbe_{weighting}", draws=20)
    pd.testing.assert_frame_equal(old, mr.estimate(*arrays, new, draws=20))
    with pytest.warns(FutureWarning, match=new):
        local = mr.local_mr(tidy(arrays), f"mbe_{weighting}", draws=20)
    assert (local["method"] == new).all()
    with pytest.warns(FutureWarning, match=new):
        assert registry.check_methods(["ivw", f"mbe_{weighting}", new]) == ["ivw", new]
