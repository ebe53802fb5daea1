import json
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from deepmr_utils import _atlas_plan, _atlas_sums, analysis
from deepmr_utils.atlas import causal_atlas
from deepmr_utils.effects import load_effects, save_effects
from deepmr_utils.instruments import eligible, select_instruments
from deepmr_utils.intervals import add_intervals, member_global, member_local
from deepmr_utils.meta import global_effects, random_effects, random_means
from deepmr_utils.mr import local_mr
from deepmr_utils.mutagenesis import saturation_mutagenesis


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products: on a busy machine threads would wait for each other far longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


COLUMNS = ["causal_effect", "se"]


def make_effects(seed=0, n=6, length=12, k=4, members=3, spread=1.0):
    """Effects of n windows on k features that drive each other, unknown bases and all."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(k) + 0.6 * rng.normal(size=(k, k))
    scale = np.exp(spread * rng.normal(size=(n, length, 4, 1)))  # some positions matter more
    truth = scale * (rng.normal(size=(n, length, 4, k)) @ mixing)
    draws = (
        truth
        + 0.3 * scale * rng.normal(size=(members, *truth.shape))
        + 0.02 * rng.normal(size=(members, *truth.shape))
    )
    codes = rng.integers(0, 5, size=(n, length))
    reference = np.array(list("ACGTN"))[codes]
    known = (np.arange(4) != codes[..., None]) & (codes < 4)[..., None]
    draws[:, ~known] = np.nan
    dims = ("sequence", "position", "allele", "feature")
    return xr.Dataset(
        {
            "effect": (dims, draws.mean(0)),
            "se": (dims, draws.std(0, ddof=1)),
            "member_effect": (("member", *dims), draws),
        },
        {
            "sequence": [f"s{i}" for i in range(n)], "position": range(length),
            "allele": list("ACGT"), "feature": [f"f{i}" for i in range(k)],
            "reference": (("sequence", "position"), reference),
        },
        {"n_members": members, "schema_version": 1},
    )  # fmt: skip


def local_effects(effects, rule="pooled", threshold=1.0, device="cpu"):
    """What the atlas makes of every window: `COLUMNS` (method, window, A, B), counts (window, A)."""
    plan = _atlas_plan.make_plan(effects, rule, threshold, _atlas_plan.METHODS, None, None, 2**62)
    if rule == "pooled":
        plan = plan._replace(moments=_atlas_plan.moments(plan))
    plan = plan._replace(device=torch.device(device))
    lowest = cache(lambda: _atlas_plan.floors(plan, 2**62))
    windows = list(plan.all_windows())
    fits = np.stack([_atlas_sums.fit_window(window, plan, lowest) for window in windows], axis=2)
    fits = np.where(np.isfinite(fits[:2].sum(axis=0)), fits, np.nan)
    dims = ("estimator", "sequence", "exposure", "outcome")
    arrays = {name: (dims, fits[i]) for i, name in enumerate(COLUMNS)}
    counts = [plan.instruments(window).sum(axis=0) for window in windows]
    return xr.Dataset(
        arrays | {"n_instruments": (dims[1:3], np.array(counts))},
        {"estimator": list(plan.methods), "exposure": plan.exposures, "outcome": plan.outcomes},
    )


def assert_equal_to_the_ordinary_path(effects, **rules):
    """Every pair of every window; differences of sums are judged beside the standard error."""
    found = local_effects(effects, **rules)
    seen = 0
    for exposure in effects["feature"].to_numpy():
        for outcome in effects["feature"].to_numpy():
            pair = found.sel(exposure=exposure, outcome=outcome)
            if exposure == outcome:
                assert all(np.isnan(pair[name]).all() for name in COLUMNS)
                continue
            instruments = select_instruments(effects, exposure, outcome, **rules)
            for method in ("ivw", "egger"):
                expected = local_mr(instruments, method)
                got = pair.sel(estimator=method)
                np.testing.assert_array_equal(got["n_instruments"], expected["n_instruments"])
                se = expected["se"].to_numpy()
                for name in COLUMNS:
                    want = expected[name].to_numpy()
                    np.testing.assert_array_equal(np.isnan(got[name]), np.isnan(want))
                    ok = ~np.isnan(want)
                    error = np.abs(got[name].to_numpy() - want)[ok]
                    assert (error <= 1e-9 * (np.abs(want[ok]) + se[ok])).all(), (name, error)
                seen += np.isfinite(se).sum()
    return seen, found


@pytest.mark.parametrize("rule", ["pooled", "wald"])
def test_equals_select_instruments_and_local_mr_pair_by_pair(rule):
    threshold = {"pooled": 0.7, "wald": 2.0}[rule]
    seen, found = assert_equal_to_the_ordinary_path(make_effects(), rule=rule, threshold=threshold)
    assert seen > 100
    assert found["n_instruments"].mean() > 5


def test_windows_of_few_instruments_follow_the_same_rules():
    effects = make_effects(length=4, n=20)
    seen, found = assert_equal_to_the_ordinary_path(effects, rule="pooled", threshold=1.2)
    assert set(range(5)) <= set(found["n_instruments"].to_numpy().ravel().tolist())
    assert seen > 50


def test_exposure_effects_of_exactly_zero():
    effects = make_effects()
    effects["effect"][:, ::3, :, 0] = effects["effect"][:, ::3, :, 0] * 0
    assert_equal_to_the_ordinary_path(effects, rule="wald", threshold=0.0)
    effects["effect"][:, :, :, 1] += 3.0  # pooled: 0 is far from the mean
    effects["effect"][:, ::4, :, 1] = effects["effect"][:, ::4, :, 1] * 0
    assert_equal_to_the_ordinary_path(effects, rule="pooled", threshold=0.5)


def test_outcome_se_of_zero_is_floored_by_pair_and_frozen_exposures_are_left_out():
    effects = make_effects()
    rng = np.random.default_rng(1)
    still = rng.random(effects["se"].shape) < 0.1
    still[:, 2] = True  # nothing moves here
    still[..., 3] = still[:, :1, :1, 3]
    values = effects["se"].to_numpy()
    effects["se"] = effects["se"].dims, np.where(still & ~np.isnan(values), 0.0, values)
    for rule, threshold in (("pooled", 0.5), ("wald", 1.0)):
        seen, _ = assert_equal_to_the_ordinary_path(effects, rule=rule, threshold=threshold)
        assert seen > 100
    with pytest.raises(ValueError, match=r"floor takes those of 4 features .* raise it"):
        causal_atlas(effects, max_memory=2**12, interval="plain", store=None)
    effects["se"][..., 3] = effects["se"][..., 3] * 0
    assert np.isnan(local_effects(effects).sel(outcome="f3")["se"]).all()
    assert np.isnan(local_effects(effects).sel(exposure="f3")["se"]).all()
    with pytest.raises(ValueError, match="no substitution moves the outcome"):
        select_instruments(effects, "f0", "f3")


def test_what_cancels_is_fitted_from_centred_values(monkeypatch):
    again = []
    estimate = _atlas_sums.estimate
    monkeypatch.setattr(_atlas_sums, "estimate", lambda *a: again.append(len(a[0])) or estimate(*a))
    effects = make_effects(spread=0.3)
    x = effects["effect"].to_numpy()
    x[..., 0] = 5 + 1e-7 * x[..., 0]  # nearly constant: MR-Egger's line is in the last digits
    x[..., 2] = 3 * x[..., 1] * (1 + 1e-6 * x[..., 3])  # nearly exact: the scale is
    effects["se"][..., 2] = 1e-7
    assert_equal_to_the_ordinary_path(effects, rule="wald", threshold=1.0)
    assert sum(again) > 10
    again.clear()
    assert_equal_to_the_ordinary_path(make_effects(), rule="wald", threshold=1.0)
    assert not again  # sums are good where nothing is extreme


def test_exposures_a_few_at_a_time(monkeypatch):
    effects = make_effects()
    expected = local_effects(effects)
    monkeypatch.setattr(_atlas_sums, "EXPOSURES", 3)
    xr.testing.assert_allclose(local_effects(effects), expected, rtol=1e-12)


def test_scale_of_effects_does_not_matter():
    effects = make_effects()
    for factor in (1e-12, 1e12):
        scaled = effects.copy()
        scaled["effect"], scaled["se"] = effects["effect"] * factor, effects["se"] * factor
        assert_equal_to_the_ordinary_path(scaled)


@pytest.fixture(scope="module")
def real():
    """Effects of a small network's ensemble by mutagenesis, float32."""
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(
            torch.nn.Sequential(
                torch.nn.Conv1d(4, 6, 5),
                torch.nn.ReLU(),
                torch.nn.MaxPool1d(4),
                torch.nn.Flatten(),
                torch.nn.Linear(6 * 9, 5),
            )
        )
    rng = np.random.default_rng(0)
    one_hot = np.eye(4, dtype=np.float32)[rng.integers(0, 4, (8, 40))].transpose(0, 2, 1).copy()
    one_hot[0, :, 3] = 0
    return members, one_hot, saturation_mutagenesis(members, one_hot, keep_members=True)


def test_equals_the_ordinary_path_on_mutagenesis(real, device):
    effects = real[2]
    assert_equal_to_the_ordinary_path(effects, rule="pooled", threshold=1.0)
    assert_equal_to_the_ordinary_path(effects, rule="wald", threshold=2.0)
    on_device = local_effects(effects, device=device)
    xr.testing.assert_allclose(on_device, local_effects(effects), rtol=1e-9)


def test_global_effects_and_intervals_are_those_of_the_ordinary_path(real):
    effects = real[2]
    table = causal_atlas(effects, threshold=0.8)
    assert len(table) == 2 * 5 * 4
    some = table[table["exposure"].isin(table["exposure"].unique()[:2])]
    for (exposure, outcome), rows in some.groupby(["exposure", "outcome"], sort=False):
        instruments = select_instruments(effects, exposure, outcome, threshold=0.8)
        for row in rows.itertuples():
            local = local_mr(instruments, row.method)
            whole = global_effects(local)
            members = member_local(effects, instruments, row.method)
            again = member_global(local, members)
            expected = add_intervals(whole, again, ["method"], "effect").iloc[0]
            names = ["effect", "se", "ci_low", "ci_high", "between_se", "total_se", "total_df"]
            names += ["total_ci_low", "total_ci_high", "tau2"]
            np.testing.assert_allclose(
                [getattr(row, name) for name in names],
                expected[names].astype(float),
                rtol=1e-6,
                atol=1e-8 * expected["se"],
            )
            assert row.k == expected["k"]
            assert row.status == "ok"
            # the same t: p below 5 % where the interval leaves 0 out
            assert (row.total_p < 0.05) == (row.total_ci_low * row.total_ci_high > 0)


def test_q_values_are_of_benjamini_and_hochberg_by_method():
    table = causal_atlas(make_effects(k=5))
    for _, rows in table.groupby("method"):
        p = np.sort(rows["total_p"])
        bound = p * len(p) / np.arange(1, len(p) + 1)
        expected = np.minimum.accumulate(bound[::-1])[::-1]
        np.testing.assert_allclose(np.sort(rows["q_value"]), np.minimum(expected, 1))


def test_without_members_intervals_are_given_the_model():
    effects = make_effects().drop_vars("member_effect")
    table = causal_atlas(effects)
    np.testing.assert_allclose(table["total_se"], table["se"])
    np.testing.assert_allclose(table["total_ci_low"], table["ci_low"])
    with pytest.raises(ValueError, match="keep_members=True"):
        causal_atlas(effects, interval="rubin")


def test_blocks_stores_and_functions_give_the_same_table(real, tmp_path):
    members, one_hot, effects = real
    whole = causal_atlas(effects, store=tmp_path / "whole")
    save_effects(effects, tmp_path / "effects.zarr")
    lazy = load_effects(tmp_path / "effects.zarr", lazy=True)
    small = causal_atlas(lazy, max_memory=2**15, store=tmp_path / "small")
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert manifest["blocks"] > 3
    ids = effects["sequence"].to_numpy().tolist()
    mutate = partial(saturation_mutagenesis, members, keep_members=True)
    blocks = [
        partial(mutate, one_hot[i : i + 3], sequence_ids=ids[i : i + 3]) for i in range(0, 8, 3)
    ]
    computed = causal_atlas(blocks)
    pd.testing.assert_frame_equal(small, whole, rtol=1e-9)
    pd.testing.assert_frame_equal(computed, whole, rtol=1e-4)  # float32 in other batches


def test_a_stored_run_goes_on_where_it_stopped(tmp_path):
    effects = make_effects()
    expected = causal_atlas(effects)
    computed = []

    def block(i):
        computed.append(i)
        if i == 4 and len(computed) < 20 and fail:
            raise RuntimeError("cut")
        return effects.isel(sequence=[i])

    blocks = [partial(block, i) for i in range(6)]
    fail = True
    path = tmp_path / "atlas"
    with pytest.raises(RuntimeError, match="cut"):
        causal_atlas(blocks, rule="wald", store=path)
    assert computed == [0, 1, 2, 3, 4]
    fail = False
    computed.clear()
    assert causal_atlas(blocks, rule="wald", store=path, share=(1, 2)) is None
    assert computed == [0, 5]
    table = causal_atlas(blocks, rule="wald", store=path)
    assert computed == [0, 5, 0, 4]
    pd.testing.assert_frame_equal(table, causal_atlas(effects, rule="wald"), rtol=1e-9)
    again = causal_atlas(blocks, rule="wald", store=path)
    pd.testing.assert_frame_equal(again, table)
    assert again.attrs == table.attrs
    assert sorted(f.name for f in path.iterdir()) == ["atlas.parquet", "manifest.json"]
    with pytest.raises(FileExistsError, match="an atlas with other threshold"):
        causal_atlas(blocks, rule="wald", store=path, threshold=2.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(FileExistsError, match="something else"):
        causal_atlas(effects, store=tmp_path / "other")
    assert len(expected)


def test_chosen_exposures_and_outcomes():
    effects = make_effects()
    table = causal_atlas(effects)
    some = causal_atlas(effects, exposures=["f2", "f0"], outcomes=["f0"], methods="egger")
    assert some["exposure"].tolist() == ["f2"]
    match = table.query("exposure == 'f2' and outcome == 'f0' and method == 'egger'")
    pd.testing.assert_series_equal(
        some.drop(columns="q_value").iloc[0], match.drop(columns="q_value").iloc[0],
        check_names=False,
    )  # fmt: skip


def test_all_pairs_have_one_table():
    """The same columns in the same order, and the same numbers, pair by pair and all at once."""
    effects = make_effects(n=20)
    table = causal_atlas(effects, rule="wald", threshold=2.0)
    chain = analysis.Chain("all", ["ivw", "egger"], "wald", 2.0)
    pairs = analysis.pair_effects(effects, chain, eligible(effects, "all"))
    expected, _ = analysis.summarise(pairs)
    assert table.columns.tolist() == expected.columns.drop("excluded").tolist()
    expected = expected.sort_values("method", ascending=False, kind="stable", ignore_index=True)
    assert table[["tau2_low", "tau2_high"]].isna().all(axis=None)
    shared = expected.columns.drop(["excluded", "tau2_low", "tau2_high"])
    pd.testing.assert_frame_equal(table[shared], expected[shared], rtol=1e-7, atol=1e-9)


def test_pairs_without_instruments_say_so():
    effects = make_effects()
    effects["effect"][..., 1] *= 0
    table = causal_atlas(effects, threshold=1.0).set_index("exposure")
    assert (table.loc["f1", "status"] == "no effects").all()
    assert table.loc["f1", ["effect", "total_p", "q_value"]].isna().all(axis=None)
    assert (table.loc["f0", "status"] == "ok").all()
    one = causal_atlas(make_effects(n=1), interval="plain", rule="wald")
    assert one["status"].str.startswith("one effect").all()
    assert one["tau2"].isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "unknown rule 'best': choose one of pooled, wald"),
        (
            {"methods": ["raps_simple"]},
            r"methods must be some of ivw, egger, each once; got \['raps_simple'\]",
        ),
        ({"methods": ["ivw", "ivw"]}, "each once"),
        ({"threshold": -1}, "at least 0"),
        ({"exposures": ["g"]}, r"exposures must be some of f0, f1, f2, f3, each once; got \['g'\]"),
        ({"exposures": ["f0"], "outcomes": ["f0"]}, "two features"),
        ({"interval": "narrow"}, "unknown rule"),
        ({"share": (2, 2)}, "0 <= i < n"),
        ({"max_memory": 100}, "give a store, or raise max_memory"),
    ],
)
def test_wrong_options_say_what_to_choose(options, message):
    with pytest.raises(ValueError, match=message):
        causal_atlas(make_effects(), **options)


def test_effects_that_do_not_fit_are_refused():
    effects = make_effects()
    lacking = effects.copy(deep=True)
    lacking["effect"][1, :, :, 2] = np.nan
    with pytest.raises(ValueError, match="window 's1' lacks some of 'f2'"):
        causal_atlas(lacking)
    negative = effects.copy()
    negative["se"] = -effects["se"]
    with pytest.raises(ValueError, match="at least 0"):
        causal_atlas(negative)
    twice = effects.assign_coords(feature=["a", "b", "a", "c"])
    with pytest.raises(ValueError, match=r"each once; got \['a', 'a'\]"):
        causal_atlas(twice)
    with pytest.raises(ValueError, match="single member"):
        causal_atlas(effects.assign_attrs(n_members=1))
    with pytest.raises(ValueError, match="at least one window"):
        causal_atlas([])


@pytest.mark.parametrize("tau2_method", ["reml", "dl"])
@pytest.mark.parametrize("studies", [1, 2, 3, 25, 300])
def test_means_equal_those_of_random_effects(tau2_method, studies):
    rng = np.random.default_rng(studies)
    groups = 200
    truth = rng.normal(0.7, rng.choice([0, 0.05, 1, 30], groups), (studies, groups))
    se = np.exp(rng.normal(-1, rng.choice([0.1, 1, 2], groups), (studies, groups)))
    effect = truth + se * rng.normal(size=se.shape)
    effect[rng.random(se.shape) < 0.1] = np.nan
    means = random_means(effect, se, tau2_method)
    table = random_effects(effect.T, se.T, tau2_method)
    np.testing.assert_array_equal(means["k"], table["k"])
    # a sum over other blocks may round otherwise; noise in a score is of 1 / v
    for name, unit in (("effect", table["se"]), ("se", table["se"]), ("tau2", table["se"] ** 2)):
        want, got = table[name].to_numpy(), means["classic_se" if name == "se" else name]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        error = np.abs(got - want) / (np.abs(want) + unit)
        assert not (error > 1e-9).any()


def test_of_two_maxima_of_a_likelihood_the_higher_is_taken():
    # one precise study far from two that agree: the restricted likelihood has two maxima
    effect = np.array([[0.0], [0.0], [4.4], [4.3]])
    se = np.array([[0.01], [0.011], [1.0], [1.1]])
    means, table = random_means(effect, se), random_effects(effect.T, se.T)

    def likelihood(tau2):
        weight = 1 / (se**2 + tau2)
        mean = (weight * effect).sum(0) / weight.sum(0)
        terms = -np.log(weight).sum(0) + np.log(weight.sum(0))
        return -terms - (weight * (effect - mean) ** 2).sum(0)

    grid = np.r_[0, np.logspace(-6, 2, 20_001)]
    best = grid[np.argmax(likelihood(grid))]
    np.testing.assert_allclose(means["tau2"], best, rtol=1e-3)
    np.testing.assert_allclose(means["tau2"], table["tau2"], rtol=1e-12)
    assert len(random_means(np.zeros((3, 0)), np.ones((3, 0)))["effect"]) == 0


def test_a_stored_run_outlives_an_update_of_software_and_says_so(tmp_path, caplog):
    def block(i, versions):
        if i == 3 and versions == "torch 1":
            raise RuntimeError("cut")
        return make_effects().isel(sequence=[i]).assign_attrs(versions=versions)

    path = tmp_path / "atlas"
    first, second = ([partial(block, i, v) for i in range(6)] for v in ("torch 1", "torch 2"))
    with pytest.raises(RuntimeError, match="cut"):
        causal_atlas(first, rule="wald", store=path)
    assert not caplog.messages
    table = causal_atlas(second, rule="wald", store=path)
    assert [m.partition("atlas ")[2] for m in caplog.messages] == [
        "was begun with other versions: torch 1; now torch 2"
    ]
    versions = json.loads((path / "manifest.json").read_text())["versions"]
    assert versions == "torch 1; continued with torch 2"
    pd.testing.assert_frame_equal(table, causal_atlas(make_effects(), rule="wald"), rtol=1e-9)
    caplog.clear()
    causal_atlas(second, rule="wald", store=path)
    assert not caplog.messages
