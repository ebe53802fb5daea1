"""Private movers, in an additive world of sites whose arrows, and what they move, are known."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import special

from deepmr_utils import private_movers as module
from deepmr_utils.analysis import deep_mr
from deepmr_utils.instruments import eligible, own_responses
from deepmr_utils.intervals import total_variance
from deepmr_utils.private_movers import private_movers

MEMBERS, SITE = 5, 8
COLUMNS = ["private_share", "private_ci_low", "private_ci_high"]


def world(b=0.0, acting=1.0, seed=0, sequences=40, noise=0.02, shift=0.015, members=MEMBERS):
    """Effects, and which are 0 in truth.

    Of five places of a sequence, each of 8 positions, the first is X's site, the second Y's, the
    third moves both in 60 % of the sequences (a confounder), the others nothing. X acts on Y by b,
    in a share ``acting`` of the sequences. Each member has errors of its own: one a substitution,
    one a site, and one for all (a leak from X to Y), which do not average out over a sequence.
    """
    rng = np.random.default_rng(seed)
    shape = (sequences, 5, SITE, 4)
    size = -rng.beta(2, 2, (*shape, 2))
    size[..., 0] *= rng.random(shape) < 0.8
    x, y = np.zeros(shape), np.zeros(shape)
    x[:, 0], y[:, 1] = size[:, 0, ..., 0], size[:, 1, ..., 1]
    both = rng.random((sequences, 1, 1)) < 0.6
    x[:, 2] = both * size[:, 2, ..., 0]
    there = rng.random((sequences, 1, 1, 1)) < acting
    y[:, 2] = both * size[:, 2, ..., 0] * rng.uniform(0.4, 1.5, (sequences, 1, 1))
    y = y + there * b * rng.normal(1, 0.15, (sequences, 5, 1, 1)) * x
    reference = rng.integers(0, 4, shape[:-1])
    known = np.arange(4) != reference[..., None]
    truth = np.stack([x, y], -1)
    each = truth + noise * rng.normal(size=(members, *truth.shape))
    leak = shift * (
        rng.normal(size=(members, *shape[:2], 1, 1)) + rng.normal(size=(members, *[1] * 4))
    )
    each[..., 1] += leak * x
    each = np.where(known[..., None], each, np.nan).reshape(members, sequences, -1, 4, 2)
    dims = ("sequence", "position", "allele", "feature")
    data = {"effect": (dims, each.mean(0))}
    data["se"] = dims, each.std(0, ddof=1) if members > 1 else np.full(each.shape[1:], np.nan)
    if members > 1:
        data["member_effect"] = ("member", *dims), each
    names = {"sequence": [f"s{i}" for i in range(sequences)], "feature": ["X", "Y"]}
    effects = xr.Dataset(data, names | {"allele": list("ACGT")}, {"n_members": members})
    return effects, truth.reshape(sequences, -1, 4, 2)


def true_share(effects, truth, i, j):
    """Of the movers of i, the share whose true effect on j is 0."""
    own = own_responses(effects, eligible(effects, "all")).to_numpy()
    movers = np.abs(effects["effect"].to_numpy()[..., i]) >= 0.15 * own[i]
    return (truth[..., j][movers] == 0).mean()


@pytest.fixture(scope="module")
def replicates():
    """By arrow's strength and share of sequences where it acts, 40 worlds, both directions."""
    rows = []
    for b, acting in ((0.0, 1), (0.05, 1), (0.2, 1), (0.8, 1), (0.8, 0.5)):
        for seed in range(40):
            effects, truth = world(b, acting, seed)
            table = private_movers(effects)
            for i, row in table.iterrows():
                share = true_share(effects, truth, i, 1 - i)
                rows.append((b, acting, row["exposure"], share, *row[COLUMNS]))
    names = ["b", "acting", "exposure", "truth", *COLUMNS]
    return pd.DataFrame(rows, columns=names).set_index(["b", "acting", "exposure"])


@pytest.mark.parametrize("key", [(0, 1), (0.2, 1), (0.8, 1), (0.8, 0.5)])
@pytest.mark.parametrize("exposure", ["X", "Y"])
def test_shares_are_the_true_ones_and_intervals_cover_them(replicates, key, exposure):
    part = replicates.loc[(*key, exposure)]
    truth, share = part["truth"], part["private_share"]
    if exposure == "X":
        expected = 0.63 * (1 - key[1] if key[0] else 1)
        assert truth.mean() == pytest.approx(expected, abs=0.02)
    assert share.mean() == pytest.approx(truth.mean(), abs=0.008)
    assert np.sqrt(((share - truth) ** 2).mean()) < 0.012  # noise is told from effects
    low, high = part["private_ci_low"] - 1e-4, part["private_ci_high"]
    assert ((low <= truth.mean()) & (truth.mean() <= high)).mean() >= 0.9
    width = (high - low).mean()
    assert 0.05 < width < 0.25
    if 0 < truth.mean() < 1 and key[1] < 1 and exposure == "X":  # not too wide, either
        assert 3 < width / share.std() < 5.5


def test_arrows_are_found_and_small_ones_count_as_none(replicates):
    share = replicates["private_share"]
    arrows = share[[(0.2, 1, "X"), (0.8, 1, "X")]]
    absent = share[replicates.index.get_level_values("exposure") == "Y"]
    assert arrows.max() < 0.01 < 0.3 < min(absent.min(), share[0.0].min())
    np.testing.assert_allclose(share[0.05, 1, "X"], share[0.0, 1, "X"], atol=0.04)
    high = replicates["private_ci_high"]
    assert high[[(0.2, 1, "X"), (0.8, 1, "X")]].max() < 0.2


def test_a_copy_has_no_private_movers():
    effects, _ = world(seed=1)
    for times in (3.0, -3.0):
        for name in ("effect", "se", "member_effect"):
            one = effects[name].sel(feature="X", drop=True)
            effects[name].loc[{"feature": "Y"}] = (abs(times) if name == "se" else times) * one
        table = private_movers(effects)
        assert table["private_share"].tolist() == pytest.approx([0, 0], abs=1e-4)
        assert (table["private_ci_high"] < 0.15).all()


def test_units_and_company_change_nothing():
    effects, _ = world(0.2, 0.5, seed=2)
    table = private_movers(effects)
    assert table[["exposure", "outcome"]].to_numpy().tolist() == [["X", "Y"], ["Y", "X"]]
    one = private_movers(effects, [("Y", "X")])
    pd.testing.assert_frame_equal(one, table.iloc[[1]].reset_index(drop=True))
    scaled = effects.copy(deep=True)
    scaled["effect"].loc[{"feature": "Y"}] *= -1000
    scaled["member_effect"].loc[{"feature": "Y"}] *= -1000
    scaled["se"].loc[{"feature": "Y"}] *= 1000
    pd.testing.assert_frame_equal(private_movers(scaled), table, rtol=1e-6)
    more = xr.concat([effects, effects.sel(feature=["X"]).assign_coords(feature=["Z"])], "feature")
    pd.testing.assert_frame_equal(private_movers(more, [("X", "Y"), ("Y", "X")]), table)


def test_sequences_one_by_one():
    effects, truth = world(0.8, 0.5, seed=3)
    table = private_movers(effects).set_index("exposure")
    local = private_movers(effects, by="sequence")
    assert local.columns.tolist() == [
        "exposure", "outcome", "sequence_id", "private_share", "n_movers",
    ]  # fmt: skip
    for name, part in local.groupby("exposure"):
        assert part["n_movers"].sum() == table.loc[name, "n_movers"]
        assert len(part) == table.loc[name, "k"]
        mean = np.average(part["private_share"], weights=part["n_movers"])
        assert mean == pytest.approx(table.loc[name, "private_share"], abs=1e-3)
    there = (truth[:, :8, :, 1] != 0).any((1, 2))  # X's site moves Y
    share = local[local["exposure"] == "X"].set_index("sequence_id")["private_share"]
    acting = np.array([there[int(name[1:])] for name in share.index])
    assert 10 < acting.sum() < 30
    assert share[acting].max() < 0.02 < 0.25 < share[~acting].min()


def test_the_interval_is_that_of_its_variances():
    """Over sequences as the jackknife has it; over members by Rubin's rule."""
    rng = np.random.default_rng(0)
    k, n = 60, 25
    unit = np.repeat(np.arange(k), n)
    free = rng.random(k)[unit] < 0.4
    ratio = np.where(free, 0, rng.normal(0.5, 0.1, k * n)) + rng.normal(0, 0.02, k * n)
    noise = np.full(k * n, 0.02**2)
    row, private = module._share(ratio, noise, unit, np.tile(ratio, (5, 1)))
    assert row["private_share"] == pytest.approx(free.mean(), abs=0.003)
    assert ((private > 0.5) == free).mean() > 0.995
    without = [
        module._share(ratio[unit != g], noise[unit != g], unit[unit != g] % (k - 1), None)[0]
        for g in range(k)
    ]
    shares = np.array([part["private_share"] for part in without])
    within = (k - 1) / k * ((shares - shares.mean()) ** 2).sum()
    spread = [np.clip(ratio + d, -1, 1) for d in (-0.03, -0.01, 0, 0.01, 0.03)]
    # two of five members have an effect everywhere
    spread[0], spread[1] = np.where(free, ratio + 0.5, ratio), np.where(free, ratio - 0.5, ratio)
    each = [module._share(r, noise * 5, unit, None)[0]["private_share"] for r in spread]
    for between, members in ((0, np.tile(ratio, (5, 1))), (np.var(each, ddof=1), np.array(spread))):
        total = within + 1.2 * between
        df = total_variance(within, between, 5, complete_df=k - 1)[1]
        p = (k * free.mean() + 1) / (k + 2)
        size = p * (1 - p) / total * (special.ndtri(0.975) / special.stdtrit(df, 0.975)) ** 2
        row, _ = module._share(ratio, noise, unit, members)
        hits = row["private_share"] * size
        low = special.betaincinv(hits, size - hits + 1, 0.025)
        high = special.betaincinv(hits + 1, size - hits, 0.975)
        assert row["private_ci_low"] == pytest.approx(low, rel=0.03)
        assert row["private_ci_high"] == pytest.approx(high, rel=0.03)


def test_what_cannot_be_said_has_a_reason():
    effects, _ = world(0.8, seed=4)
    whole = private_movers(effects)
    assert whole["status"].tolist() == ["ok", "ok"]
    alone = private_movers(effects.drop_vars("member_effect").drop_dims("member", errors="ignore"))
    np.testing.assert_allclose(alone["private_share"], whole["private_share"], atol=1e-9)
    assert alone[COLUMNS[1:]].isna().to_numpy().all()
    assert alone["status"].str.contains("no members").all()
    single, _ = world(0.8, seed=4, members=1, noise=0.004)
    assert private_movers(single)["private_share"].tolist() == pytest.approx([0, 0.44], abs=0.05)
    for n in range(8, 20, 2):
        few = private_movers(effects.isel(sequence=slice(n)))
        enough = few["k"] >= 10
        assert enough.all() or n < 18
        assert (few[COLUMNS].notna().all(axis=1) == enough).all()
        assert (few["status"] == np.where(enough, "ok", few["status"])).all()
        assert few.loc[~enough, "status"].str.contains("sequences have movers.*10 must").all()
        assert few["k"].between(1, n).all()
    still = effects.copy(deep=True)
    for name in ("effect", "member_effect"):
        still[name].loc[{"feature": "Y"}] *= 0
    nothing = private_movers(still)
    assert nothing["private_share"].isna().all()
    assert nothing["status"].str.startswith("0 sequences").all()
    assert private_movers(still, by="sequence").empty


def test_wrong_input():
    effects, _ = world()
    for options, why in (
        ({"pairs": [("X", "Q")]}, "unknown feature of a pair"),
        ({"pairs": [("X", "X")]}, "once each"),
        ({"pairs": [("X",)]}, "a pair is an exposure and an outcome"),
        ({"pairs": []}, "a pair is an exposure and an outcome"),
        ({"moved": -1}, "moved"),
        ({"by": "site"}, "unknown by"),
    ):
        with pytest.raises(ValueError, match=why):
            private_movers(effects, **options)
    with pytest.raises(ValueError, match="effects of edits"):
        private_movers(effects.rename(sequence="edit"))


def test_deep_mr_shows_them():
    effects, _ = world(0.8, seed=5)
    names = "reference", (("sequence", "position"), np.full((40, 40), "A"))
    effects = effects.assign_coords({names[0]: names[1], "position": np.arange(40)})
    table = deep_mr(effects, design="all").effects
    pd.testing.assert_frame_equal(
        table[["exposure", "outcome", *COLUMNS]],
        private_movers(effects)[["exposure", "outcome", *COLUMNS]],
    )
