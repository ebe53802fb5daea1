import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepmr_utils.instruments import eligible, own_responses, places, select_instruments

REFERENCE = np.array([list("ACGTN"), list("GGGGG")])


def make_effects(seed=0):
    """Effects of two sequences of five bases, the last of the first unknown."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(2, 5, 4, 2))
    se = rng.uniform(0.1, 1, size=effect.shape)
    known = np.array(list("ACGT")) != REFERENCE[..., None]
    known &= (REFERENCE != "N")[..., None]
    effect[~known] = se[~known] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    return xr.Dataset(
        {"effect": (dims, effect), "se": (dims, se)},
        {
            "sequence": ["s1", "s2"], "position": range(5), "allele": list("ACGT"),
            "feature": ["x", "y"], "reference": (("sequence", "position"), REFERENCE),
        },
    )  # fmt: skip


def test_pooled_rule_by_hand():
    effects = make_effects()
    table = select_instruments(effects, "x", "y", threshold=1.0)
    rows = effects.to_dataframe().reset_index()
    x = rows[rows["feature"] == "x"].dropna(subset=["effect"])
    z = (x["effect"] - x["effect"].mean()) / x["effect"].std(ddof=0)
    expected = x[z.abs() >= 1].sort_values(["sequence", "position", "allele"])
    assert len(x) == 27
    assert table["alternate"].tolist() == expected["allele"].tolist()
    assert table["position"].tolist() == expected["position"].tolist()
    assert table["sequence_id"].tolist() == expected["sequence"].tolist()
    np.testing.assert_array_equal(table["beta_exposure"], expected["effect"])
    np.testing.assert_array_equal(table["sd_exposure"], expected["se"])
    for row in table.itertuples():
        cell = effects.sel(sequence=row.sequence_id, position=row.position, allele=row.alternate)
        assert row.beta_outcome == cell["effect"].sel(feature="y").item()
        assert row.sd_outcome == row.se_outcome == cell["se"].sel(feature="y").item()
        assert row.reference == cell["reference"].item() != row.alternate
    assert table.attrs["counts"] == {
        "substitutions": 27, "kept": len(table), "weak": 27 - len(table),
        "not eligible": 0, "exposure se 0": 0, "outcome se floored": 0,
    }  # fmt: skip


def test_wald_rule():
    effects = make_effects()
    table = select_instruments(effects, "x", "y", rule="wald", threshold=2.0)
    assert (table["beta_exposure"].abs() / table["se_exposure"] >= 2).all()
    everything = select_instruments(effects, "x", "y", rule="wald", threshold=0.0)
    strong = everything["beta_exposure"].abs() / everything["se_exposure"] >= 2
    pd.testing.assert_frame_equal(table, everything[strong].reset_index(drop=True))


def test_every_analysed_sequence_is_a_category():
    effects = make_effects()
    effects["effect"][1] *= 1e-6
    table = select_instruments(effects, "x", "y", threshold=1.0)
    assert table["sequence_id"].unique().tolist() == ["s1"]
    assert table["sequence_id"].cat.categories.tolist() == ["s1", "s2"]


def test_order_of_sequences_and_dimensions_does_not_matter():
    effects = make_effects()
    table = select_instruments(effects, "x", "y")
    shuffled = effects.isel(sequence=[1, 0]).transpose("feature", "allele", "sequence", "position")
    other = select_instruments(shuffled, "x", "y")
    columns = ["sequence_id", "position", "alternate"]
    pd.testing.assert_frame_equal(
        table.astype({"sequence_id": str}).sort_values(columns).reset_index(drop=True),
        other.astype({"sequence_id": str}).sort_values(columns).reset_index(drop=True),
        rtol=1e-12,
    )


def test_frozen_substitutions_are_counted_and_outcome_se_is_floored():
    effects = make_effects()
    effects["se"][1, 0, 0, 0] = 0  # no member's exposure moves: not an instrument
    effects["se"][1, 1, 0, 1] = 0  # only the outcome's se is 0: kept, with a floor
    table = select_instruments(effects, "x", "y", threshold=0.0)
    assert table.attrs["counts"]["exposure se 0"] == 1
    assert table.attrs["counts"]["outcome se floored"] == 1
    assert len(table) == 26
    row = table.query("sequence_id == 's2' and position == 1 and alternate == 'A'").iloc[0]
    se = effects["se"].sel(feature="y").to_numpy().copy()
    se[1, 0, 0] = np.nan  # the frozen substitution does not count
    assert row["se_outcome"] == pytest.approx(np.quantile(se[se > 0], 0.01), rel=1e-12)
    assert row["beta_outcome"] == effects["effect"][1, 1, 0, 1].item()


def test_no_variation_keeps_nothing():
    effects = make_effects()
    effects["effect"] = effects["effect"] * 0
    assert len(select_instruments(effects, "x", "y")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "x"), "exposure and outcome must be two features; both are 'x'"),
        (("z", "y"), "unknown exposure 'z': choose one of x, y"),
        (("x", "z"), "unknown outcome 'z'"),
        (("x", "y", "strong"), "unknown rule 'strong': choose one of pooled, wald"),
        (("x", "y", "pooled", -1.0), "threshold must be a number of at least 0; got -1.0"),
        (("x", "y", "pooled", np.nan), "threshold must be a number of at least 0; got nan"),
    ],
)
def test_bad_input_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_instruments(make_effects(), *arguments)


def test_errors_are_those_of_the_mean_of_members():
    """The number given is a mean of M: its variance and covariance are those of members over M."""
    members = np.random.default_rng(3).normal(size=(4, 2, 5, 4, 2))
    members[..., 1] += members[..., 0]
    effects = make_effects()
    known = effects["effect"].notnull()
    dims = effects["effect"].dims
    members = xr.DataArray(members, dims=("member", *dims)).where(known)
    effects = effects.assign(
        effect=members.mean("member"), se=members.std("member", ddof=1), member_effect=members
    ).assign_attrs(n_members=4)
    table = select_instruments(effects, "x", "y", threshold=0.5)
    assert len(table) > 5
    for row in table.itertuples():
        at = {"sequence": row.sequence_id, "position": row.position, "allele": row.alternate}
        x, y = members.assign_coords(effects.coords).sel(at).transpose("feature", "member").values
        assert row.sd_exposure == pytest.approx(x.std(ddof=1))
        assert row.se_exposure == pytest.approx(x.std(ddof=1) / 2)
        assert row.se_outcome == pytest.approx(y.std(ddof=1) / 2)
        assert row.covariance == pytest.approx(np.cov(x, y)[0, 1] / 4)
    wald = select_instruments(effects, "x", "y", "wald", 1.0)  # strength is by one member's doubt
    assert (wald["beta_exposure"].abs() / wald["sd_exposure"]).min() >= 1
    assert len(wald) < (table["beta_exposure"].abs() / table["se_exposure"] >= 1).sum() + 5
    del effects["member_effect"]
    assert "covariance" not in select_instruments(effects, "x", "y")


def test_only_what_is_allowed():
    effects = make_effects()
    allowed = xr.ones_like(effects["effect"], dtype=bool)
    allowed.loc[{"sequence": "s1", "feature": "x"}] = False
    allowed = allowed.transpose("feature", "allele", "sequence", "position")
    every = select_instruments(effects, "x", "y", threshold=0.5)
    table = select_instruments(effects, "x", "y", threshold=0.5, allowed=allowed)
    expected = every[every["sequence_id"] == "s2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)
    counts = table.attrs["counts"]
    assert counts["not eligible"] == (every["sequence_id"] == "s1").sum() > 0
    assert counts["kept"] + counts["not eligible"] + counts["weak"] == counts["substitutions"]


def edits_of(seed=0):
    """Effects of six edits of three sequences by three members."""
    rng = np.random.default_rng(seed)
    members = rng.normal(size=(3, 6, 2))
    return xr.Dataset(
        {"effect": (("edit", "feature"), members.mean(0)),
         "se": (("edit", "feature"), members.std(0, ddof=1)),
         "member_effect": (("member", "edit", "feature"), members)},
        {"feature": ["x", "y"], "sequence_id": ("edit", list("aabbcc")),
         "factor": ("edit", ["x", "y"] * 3), "start": ("edit", [3, 9] * 3),
         "reference": ("edit", ["ACGT", "GGCC"] * 3), "replacement": ("edit", ["TTTT", "AAAA"] * 3)},
        {"n_members": 3},
    )  # fmt: skip


def test_edits_are_instruments_of_the_factor_whose_site_they_change():
    effects = edits_of()
    allowed = eligible(effects, "motif")
    table = select_instruments(effects, "x", "y", threshold=0.0, allowed=allowed)
    assert table["sequence_id"].tolist() == ["a", "b", "c"]
    assert table["position"].tolist() == [3, 3, 3]
    assert table["reference"].tolist() == ["ACGT"] * 3
    assert table["alternate"].tolist() == ["TTTT"] * 3
    np.testing.assert_array_equal(table["beta_outcome"], effects["effect"][::2, 1])
    np.testing.assert_array_equal(places(effects, table)[0], [0, 2, 4])
    assert table["covariance"].notna().all()


def test_a_single_network_has_effects_without_errors():
    effects = make_effects()
    effects["se"] = effects["se"] * np.nan
    table = select_instruments(effects, "x", "y")
    np.testing.assert_array_equal(
        table["beta_exposure"], select_instruments(make_effects(), "x", "y")["beta_exposure"]
    )
    assert table[["se_exposure", "sd_exposure", "se_outcome"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="rule 'wald' needs standard errors"):
        select_instruments(effects, "x", "y", "wald")


def test_an_outcome_that_never_moves_is_refused():
    frozen = make_effects()
    frozen["se"].loc[{"feature": "y"}] = 0
    with pytest.raises(ValueError, match="no substitution moves the outcome 'y'"):
        select_instruments(frozen, "x", "y", threshold=0.0)


def test_own_responses_by_hand():
    """The median over sequences of the largest eligible effect, where one is a global sd or more."""
    effects = make_effects()
    allowed = xr.ones_like(effects["effect"], dtype=bool)
    sizes = np.abs(effects["effect"].to_numpy())
    found = own_responses(effects, allowed)
    np.testing.assert_allclose(found["x"], np.median(np.nanmax(sizes[..., 0], axis=(1, 2))))
    allowed.loc[{"sequence": "s1", "feature": "y"}] = False
    assert own_responses(effects, allowed)["y"] == np.nanmax(sizes[1, ..., 1])
    small = effects.copy(deep=True)
    small["effect"][0] *= 1e-3  # no site of its own in the first sequence
    assert own_responses(small, xr.ones_like(allowed))["x"] == np.nanmax(sizes[1, ..., 0])
