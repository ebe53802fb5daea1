"""Which feature a substitution is an instrument for, where one feature moves another as much."""

import numpy as np
import pytest
import xarray as xr

from deepmr_utils.instruments import _border, _half_of_total, eligible, own_responses

DIMS = ("sequence", "position", "allele", "feature")
X_SITE, Y_SITE = slice(5, 15), slice(25, 35)
S, P = 200, 40


def cooperative(slope, seed=0, noise=0.0, share=0.75):
    """Effects of sites of x and y: y is there where both are, and lost, all of it, with either.

    ``slope`` is that of y on x, and the response of y to its own site is as large as to that of x,
    in whatever units: no scale of the two features can tell whose a substitution of x is.
    """
    rng = np.random.default_rng(seed)
    has = rng.random((S, 2)) < share
    damage = rng.uniform(0.1, 1, (S, P, 4, 2))
    effect = np.zeros((S, P, 4, 2))
    effect[:, X_SITE, :, 0] = -damage[:, X_SITE, :, 0] * has[:, :1, None]
    effect[..., 1] = slope * effect[..., 0] * has[:, 1, None, None]
    effect[:, Y_SITE, :, 1] = -slope * damage[:, Y_SITE, :, 1] * has.all(1)[:, None, None]
    # a mutation makes a site of y now and then, where there is one of x
    gain = (rng.random((S, P)) < 1 / P) & (has[:, 0] & ~has[:, 1])[:, None]
    gain[:, X_SITE] = False
    effect[gain, 1, 1] += slope * 0.9
    effect += noise * rng.normal(size=effect.shape) * [1, slope]
    effect[..., 0, :] = np.nan  # the reference allele
    coords = {"sequence": np.arange(S), "feature": ["x", "y"]}
    return xr.Dataset({"effect": xr.DataArray(effect, coords, DIMS)}), has


def slope_through_origin(effects, allowed, exposure, outcome, rows):
    x, y = (effects["effect"].sel(feature=name).to_numpy() for name in (exposure, outcome))
    used = allowed.sel(feature=exposure).to_numpy() & rows[:, None, None]
    return (x[used] * y[used]).sum() / (x[used] ** 2).sum()


@pytest.mark.parametrize("slope", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_own_movers_are_found_where_no_scale_tells_them(slope, share):
    effects, has = cooperative(slope, noise=0.01, share=share)
    both = has.all(1)
    allowed = eligible(effects, "strongest")
    assert allowed.dims == DIMS
    assert allowed.dtype == bool
    assert slope_through_origin(effects, allowed, "x", "y", both) == pytest.approx(slope, rel=0.01)
    assert abs(slope_through_origin(effects, allowed, "y", "x", both)) < 0.01 / slope
    own = allowed.to_numpy()[both][..., 1:, :]
    assert own[:, X_SITE, :, 0].all()
    assert own[:, Y_SITE, :, 1].all()
    assert not own[:, X_SITE, :, 1].any()
    assert not own[:, Y_SITE, :, 0].any()
    assert not allowed.all("feature").any()
    assert not allowed.isel(allele=0).any()


def test_one_sd_as_the_scale_fails():
    effects, has = cooperative(3.0, share=0.3)
    size = np.abs(effects["effect"]) / effects["effect"].std(DIMS[:3])
    wrong = (size.sel(feature="y") > size.sel(feature="x")).to_numpy()
    assert wrong[has.all(1)][:, X_SITE, 1:].all()


def test_does_not_depend_on_units_or_order():
    effects, _ = cooperative(3.0, noise=0.01)
    allowed = eligible(effects, "strongest")
    rescaled = effects * xr.DataArray([2.0**-20, -(2.0**11)], dims="feature")
    assert (eligible(rescaled, "strongest") == allowed).all()
    shuffled = np.random.default_rng(0).permutation(S)
    other = eligible(effects.isel(feature=[1, 0], sequence=shuffled), "strongest")
    assert (other.sel(feature=["x", "y"]) == allowed.isel(sequence=shuffled)).all()
    other = eligible(effects.transpose("feature", "allele", "position", "sequence"), "strongest")
    assert other.dims == DIMS
    assert (other == allowed).all()


def test_a_third_feature_keeps_its_own():
    effects, _ = cooperative(2.0)
    third = np.zeros((S, P, 4))
    third[:, 17:22] = 1.0
    third[..., 0] = np.nan
    values = np.concatenate([effects["effect"].to_numpy(), third[..., None]], -1)
    values[:, 17:22, 1:, 0] += 0.5  # it helps x
    coords = {"sequence": np.arange(S), "feature": ["x", "y", "z"]}
    allowed = eligible(xr.Dataset({"effect": xr.DataArray(values, coords, DIMS)}), "strongest")
    here = allowed.isel(position=slice(17, 22), allele=slice(1, None))
    assert here.sel(feature="z").all()
    assert not here.sel(feature="x").any()


def test_a_feature_that_nothing_moves_takes_no_instruments():
    effects, _ = cooperative(2.0)
    effects["effect"].loc[{"feature": "y"}] *= 0
    allowed = eligible(effects, "strongest")
    moves = np.abs(effects["effect"].sel(feature="x")) > 0
    assert (allowed.sel(feature="x") == moves).all()
    assert not allowed.sel(feature="y").any()
    own = own_responses(effects, allowed)
    assert own["x"] > 0
    assert np.isnan(own["y"])


@pytest.mark.parametrize(
    ("groups", "border"),
    [
        ({0: 50, 90: 50}, 45), ({45: 80, 90: 20}, 67.5), ({0: 30, 45: 10}, 22.5),
        ({40: 50, 60: 50}, 45), ({20: 9}, 45), ({10: 1}, 45), ({}, 45), ({0: 1, 60: 1}, 30),
    ],
)  # fmt: skip
def test_border_is_halfway_between_two_groups(groups, border):
    angle = np.radians(np.repeat(list(groups), list(groups.values())).astype(float))
    assert np.degrees(_border(angle)) == pytest.approx(border)


def test_border_is_that_of_2_means():
    rng = np.random.default_rng(1)
    for _ in range(20):
        angle = np.concatenate([rng.normal(0.3, 0.2, 30), rng.normal(1.3, 0.1, 12)]).clip(0, 1.57)
        ordered = np.sort(angle)
        within = [ordered[:k].var() * k + ordered[k:].var() * (42 - k) for k in range(1, 42)]
        k = np.argmin(within) + 1
        expected = (ordered[:k].mean() + ordered[k:].mean()) / 2
        assert _border(angle) == pytest.approx(expected, rel=1e-12)


def test_half_of_total():
    assert _half_of_total(np.array([1.0, 4, 2, 3])) == 3  # 4 + 3 >= 5
    assert _half_of_total(np.array([2.0, 2, 2, 2])) == 2
    assert _half_of_total(np.repeat([1.0, 0.01], [6, 194])) == 1  # sites are rare
    assert _half_of_total(np.repeat([20.0, 1], [1, 199])) == 1  # one sequence is odd
    assert _half_of_total(np.zeros(5)) == 0


def test_own_response_is_that_to_the_own_site():
    slope = 4.0
    effects, has = cooperative(slope)
    allowed = eligible(effects, "strongest")
    own = own_responses(effects, allowed)
    size = np.abs(effects["effect"].to_numpy())
    largest = {"x": size[has[:, 0]][:, X_SITE, 1:, 0].max((1, 2))}
    largest["y"] = size[has.all(1)][:, Y_SITE, 1:, 1].max((1, 2))
    # sites of y that mutations make are a fifth of the sequences that enter
    assert own["x"] == pytest.approx(np.median(largest["x"]), rel=1e-12)
    assert own["y"] == pytest.approx(np.median(largest["y"]), rel=0.02)
    effect = slope_through_origin(effects, allowed, "x", "y", has.all(1))
    assert effect * own["x"] / own["y"] == pytest.approx(1, rel=0.02)
