import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from deepmr_utils import _atlas_plan, _atlas_sums
from deepmr_utils.atlas import _means, causal_atlas
from deepmr_utils.effects import load_effects, save_effects
from deepmr_utils.instruments import places, select_instruments
from deepmr_utils.intervals import add_intervals, q_values
from deepmr_utils.meta import global_effects, random_effects, random_means
from deepmr_utils.mutagenesis import saturation_mutagenesis


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products: on a busy machine threads would wait for each other far longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


METHODS = ("ivw", "egger")


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


def line(x, y, method, error=0.0, *, correct=True):
    """Slope and standard error of what members say of instruments (M, n), by the equations."""
    m, n = x.shape
    a, b = x.mean(0), y.mean(0)
    v_x, c = 0.0, 0.0
    v_y = np.mean(error**2) if m == 1 else y.var(0, ddof=1).mean() / m
    if correct:
        v_x = x.var(0, ddof=1).mean() / m
        c = np.mean([np.cov(x[:, v], y[:, v])[0, 1] for v in range(n)]) / m
    if method == "egger":
        a, b = np.abs(a), np.sign(a) * b
        a, b = a - a.mean(), b - b.mean()
    total = (a**2).sum()
    if total - n * v_x <= 1e-12 * (x.mean(0) ** 2).sum():
        return np.nan, np.nan
    slope = ((a * b).sum() - n * c) / (total - n * v_x)
    residual = v_y + slope**2 * v_x - 2 * slope * c
    noise = residual
    if method == "egger" or n >= 4:
        freedom = n - (2 if method == "egger" else 1)
        noise = max(residual, ((b - slope * a) ** 2).sum() / freedom)
    variance = (total * noise + n * (c - slope * v_x) ** 2) / (total - n * v_x) ** 2
    return slope, np.sqrt(variance)


def expected_local(effects, exposure, outcome, method, **rules):
    """Effect, standard error and what members say (windows, 2 + M), pair by pair; and counts."""
    instruments = select_instruments(effects, exposure, outcome, **rules)
    place = places(effects, instruments)
    name = "member_effect" if "member_effect" in effects else "effect"
    values = effects[name].transpose(..., "sequence", "position", "allele", "feature")
    values = values.to_numpy().reshape(-1, *effects["effect"].shape)[:, *place].astype(float)
    x, y = (values[..., effects.indexes["feature"].get_loc(f)] for f in (exposure, outcome))
    error = effects["se"].sel(feature=outcome).to_numpy()[place]
    error = error / np.sqrt(effects.attrs.get("n_members", 1))
    m, rows = len(x), np.full((effects.sizes["sequence"], 2 + len(x) * (len(x) > 1)), np.nan)
    counts = np.bincount(place[0], minlength=len(rows))
    for i in np.flatnonzero(counts >= {"ivw": 1, "egger": 3}[method]):
        here = place[0] == i
        a, b, known = x[:, here], y[:, here], {"correct": m > 2}
        rows[i, :2] = line(a, b, method, error[here], **known)
        if m == 2:
            rows[i, 2:] = [line(a[[j]], b[[j]], method, **known)[0] for j in range(m)]
        elif m > 2:
            others = [
                line(np.delete(a, j, 0), np.delete(b, j, 0), method, **known)[0] for j in range(m)
            ]
            rows[i, 2:] = m * rows[i, 0] - (m - 1) * np.array(others)
    return rows, counts


def local_effects(effects, rule="pooled", threshold=1.0, device="cpu"):
    """What the atlas makes of every window: (method, window, A, B, 2 + M), counts (window, A)."""
    plan = _atlas_plan.make_plan(effects, rule, threshold, METHODS, None, None, 2**62)
    if rule == "pooled":
        plan = plan._replace(moments=_atlas_plan.moments(plan))
    plan = plan._replace(device=torch.device(device))
    windows = list(plan.windows(0, members=plan.members > 0))
    fits = np.stack([_atlas_sums.fit_window(window, plan) for window in windows], axis=2)
    counts = [plan.instruments(window).sum(axis=0) for window in windows]
    dims = ("estimator", "sequence", "exposure", "outcome", "value")
    return xr.Dataset(
        {"fit": (dims, np.moveaxis(fits, 0, -1)), "n": (dims[1:3], np.array(counts))},
        {"estimator": list(METHODS), "exposure": plan.exposures, "outcome": plan.outcomes},
    )


def assert_equal_to_the_equations(effects, rtol=1e-8, **rules):
    """Every pair of every window."""
    found = local_effects(effects, **rules)
    seen = 0
    for exposure in effects["feature"].to_numpy():
        for outcome in effects["feature"].to_numpy():
            pair = found.sel(exposure=exposure, outcome=outcome)
            if exposure == outcome:
                assert np.isnan(pair["fit"]).all()
                continue
            for method in METHODS:
                want, counts = expected_local(effects, exposure, outcome, method, **rules)
                np.testing.assert_array_equal(pair["n"], counts)
                scale = np.abs(want[:, [0]]) + want[:, [1]]  # digits of a pseudo-value
                got = pair["fit"].sel(estimator=method).to_numpy()
                bad = ~(np.abs(got - want) <= rtol * (np.abs(want) + scale))
                few = np.isnan(want)
                assert not (bad & ~few).any(), (got[bad & ~few], want[bad & ~few])
                assert np.isnan(got[few]).all()
                seen += (~few[:, 1]).sum()
    return seen, found


@pytest.mark.parametrize("members", [0, 2, 3, 5])
@pytest.mark.parametrize("rule", ["pooled", "wald"])
def test_equals_the_equations_pair_by_pair(rule, members):
    effects = make_effects(members=members or 4)
    if not members:
        effects = effects.drop_vars("member_effect")
    threshold = {"pooled": 0.7, "wald": 3.0}[rule]
    seen, found = assert_equal_to_the_equations(effects, rule=rule, threshold=threshold)
    assert seen > 100
    assert found["n"].mean() > 5
    assert found["fit"].sizes["value"] == 2 + members


def test_windows_of_few_instruments_follow_the_same_rules():
    effects = make_effects(length=4, n=20)
    seen, found = assert_equal_to_the_equations(effects, rule="pooled", threshold=1.2)
    assert set(range(5)) <= set(found["n"].to_numpy().ravel().tolist())
    assert seen > 50


def test_exposure_effects_of_exactly_zero():
    effects = make_effects().drop_vars("member_effect")
    effects["effect"][:, ::3, :, 0] = effects["effect"][:, ::3, :, 0] * 0
    assert_equal_to_the_equations(effects, rule="wald", threshold=0.0)
    effects["effect"][:, :, :, 1] += 3.0  # pooled: 0 is far from the mean
    effects["effect"][:, ::4, :, 1] = effects["effect"][:, ::4, :, 1] * 0
    assert_equal_to_the_equations(effects, rule="pooled", threshold=0.5)


def test_exposure_effects_of_nearly_one_size():
    effects = make_effects().drop_vars("member_effect")
    x = effects["effect"].to_numpy()
    x[..., 0] = 5 + 1e-3 * x[..., 0]
    assert_equal_to_the_equations(effects, rule="wald", threshold=1.0)
    x[..., 0] = 5 + 1e-9 * x[..., 0]  # MR-Egger's line is in digits that sums do not have
    effects["se"][..., 0] = 1.0
    found = local_effects(effects, rule="wald").sel(exposure="f0", outcome="f1")["fit"]
    assert np.isfinite(found.sel(estimator="ivw")).all()
    assert np.isnan(found.sel(estimator="egger")).all()


def test_exposures_no_larger_than_their_errors_have_no_estimate():
    rng = np.random.default_rng(0)
    effects = make_effects(length=40)
    noise = rng.normal(size=(3, 6, 40, 4))
    noise -= noise.mean(0)  # members disagree, and their mean is small beside that
    effects["member_effect"][..., 0] = 0.01 * effects["effect"][..., 0].to_numpy() + noise
    each = effects["member_effect"]
    effects["effect"], effects["se"] = each.mean("member"), each.std("member", ddof=1)
    found = local_effects(effects, rule="wald", threshold=0.0)["fit"]
    assert np.isnan(found.sel(exposure="f0", outcome="f1")).all()
    assert np.isfinite(found.sel(exposure="f1", outcome="f0")).all()


@pytest.mark.parametrize("members", [3, 5])
@pytest.mark.parametrize(("slope", "correlation"), [(0.0, 0.8), (0.5, 0.8), (1.0, 0.0)])
def test_errors_that_exposure_and_outcome_share_do_not_bias(members, slope, correlation):
    """The known truth of windows without selection; that of the mean's error is off 1 / M of it."""
    rng = np.random.default_rng(members)
    effects = make_effects(n=40, length=200, k=2, members=members)
    shape = effects["effect"].shape[:-1]
    x = rng.normal(size=shape)
    truth = np.stack([x, slope * x], -1)
    root = np.linalg.cholesky([[1, correlation], [correlation, 1]]).T
    draws = truth + rng.normal(size=(members, *truth.shape)) @ root
    draws[:, np.isnan(effects["effect"].to_numpy())] = np.nan
    effects["member_effect"] = effects["member_effect"].dims, draws
    effects["effect"] = effects["effect"].dims, draws.mean(0)
    effects["se"] = effects["se"].dims, draws.std(0, ddof=1)

    def estimates(data):
        found = local_effects(data, rule="wald", threshold=0.0)["fit"]
        return found.sel(estimator="ivw", exposure="f0", outcome="f1").to_numpy()

    fits = estimates(effects)
    mean, spread = fits[:, 0].mean(), fits[:, 0].std(ddof=1)
    assert abs(mean - slope) < 3 * spread / np.sqrt(40)
    assert spread / np.sqrt(40) < 0.01
    np.testing.assert_allclose(np.sqrt((fits[:, 1] ** 2).mean()), spread, rtol=0.3)
    plain = estimates(effects.drop_vars("member_effect"))[:, 0].mean()
    biased = (slope + correlation / members) / (1 + 1 / members)
    assert abs(plain - biased) < 0.01
    assert abs(biased - slope) > 0.05


def test_members_that_disagree_on_slopes_alone_say_their_own():
    effects = make_effects(members=4)
    slopes = np.array([0.7, 1.0, 1.1, 1.6])
    each = effects["member_effect"]
    each[..., 0] = effects["effect"][..., 0]
    each[..., 1] = each[..., 0] * xr.DataArray(slopes, dims="member")
    effects["effect"], effects["se"] = each.mean("member"), each.std("member", ddof=1)
    effects["se"][..., 0] += 1.0  # or no exposure is an instrument
    found = local_effects(effects)["fit"].sel(exposure="f0", outcome="f1").to_numpy()
    found = found[np.isfinite(found).all(axis=-1)]
    assert len(found) > 8  # of 6 windows and two methods
    np.testing.assert_allclose(found[..., 0], slopes.mean())
    np.testing.assert_allclose(found[..., 2:], np.broadcast_to(slopes, found[..., 2:].shape))


def test_standard_errors_are_of_the_mean_of_members():
    """Below 4 instruments they decide; those of effects from elsewhere are as they are given."""
    effects = make_effects(length=4, n=20).drop_vars("member_effect")
    own = local_effects(effects.assign_attrs(n_members=4), threshold=1.2)
    del effects.attrs["n_members"]
    given = local_effects(effects, threshold=1.2)
    few = (own["n"] > 0) & (own["n"] < 4)
    ratio = (given["fit"] / own["fit"]).sel(estimator="ivw").where(few).isel(value=1).to_numpy()
    assert np.isfinite(ratio).sum() > 20
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 2)


def test_a_window_whose_outcome_never_moves_is_left_out():
    effects = make_effects()
    for name in ("effect", "se", "member_effect"):
        effects[name][{"sequence": 1, "feature": 3}] *= 0
    table = causal_atlas(effects, threshold=0.5, methods="ivw")
    still = (table[["exposure", "outcome"]] == "f3").any(axis=1)
    np.testing.assert_array_equal(table["k"], np.where(still, 5, 6))
    assert (table["total_status"] == "ok").all()


def test_exposures_a_few_at_a_time(monkeypatch):
    effects = make_effects()
    expected = local_effects(effects)
    monkeypatch.setattr(_atlas_sums, "EXPOSURES", 3)
    xr.testing.assert_allclose(local_effects(effects), expected, rtol=1e-9)


def test_scale_of_effects_does_not_matter():
    effects = make_effects()
    for factor in (1e-12, 1e12):
        scaled = effects.copy()
        for name in ("effect", "se", "member_effect"):
            scaled[name] = effects[name] * factor
        assert_equal_to_the_equations(scaled)


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


def test_equals_the_equations_on_mutagenesis(real, device):
    effects = real[2]
    assert_equal_to_the_equations(effects, rule="pooled", threshold=1.0)
    assert_equal_to_the_equations(effects, rule="wald", threshold=2.0)
    on_device = local_effects(effects, device=device)
    xr.testing.assert_allclose(on_device, local_effects(effects), rtol=1e-6)


def test_global_effects_and_intervals_are_those_of_their_parts(real):
    effects = real[2]
    table = causal_atlas(effects, threshold=0.8)
    assert len(table) == 2 * 5 * 4
    seen = 0
    for row in table.itertuples():
        parts, _ = expected_local(effects, row.exposure, row.outcome, row.method, threshold=0.8)
        local = pd.DataFrame(parts[:, :2], columns=["causal_effect", "se"])
        whole = global_effects(local, [])
        common = np.isfinite(parts).all(axis=1)
        if not common.any():  # without a member or two no exposure effect is above its errors
            assert np.isnan(row.total_p)
            assert row.total_status in ("no estimate", "fewer than 2 members gave an estimate")
            continue
        seen += 1
        weight = 1 / (parts[common, 1] ** 2 + whole["tau2"].iloc[0])
        members = weight @ parts[common, 2:] / weight.sum()
        expected = add_intervals(whole, pd.DataFrame({"effect": members}), [], "effect").iloc[0]
        names = ["effect", "se", "ci_low", "ci_high", "between_se", "total_se", "total_df"]
        names += ["total_ci_low", "total_ci_high", "tau2"]
        np.testing.assert_allclose(
            [getattr(row, name) for name in names],
            expected[names].astype(float),
            rtol=1e-6,
            atol=1e-6 * expected["se"],
        )
        assert row.k == expected["k"]
        assert row.status == "ok"
        # the same t: p below 5 % where the interval leaves 0 out
        assert (row.total_p < 0.05) == (row.total_ci_low * row.total_ci_high > 0)
    assert seen > 10


def test_only_windows_of_which_all_members_say_something_enter_their_means():
    values = np.array([[1.0, 3.0, 9.0], [1.0, 0.5, 1.0], [1.0, 4.0, 2.0], [2.0, 2.0, np.nan]])
    plan = _atlas_plan.make_plan(make_effects(), "pooled", 1.0, METHODS, None, None, 2**30)
    means, members = _means(values[..., None], plan)
    expected = random_effects(values[0], values[1])
    weight = 1 / (values[1, :2] ** 2 + expected["tau2"])
    np.testing.assert_allclose(means["effect"], expected["effect"])
    np.testing.assert_allclose(np.ravel(members), values[2:, :2] @ weight / weight.sum())


def test_q_values_are_of_benjamini_and_hochberg_by_method():
    table = causal_atlas(make_effects(k=5))
    for _, rows in table.groupby("method"):
        p = np.sort(rows["total_p"])
        bound = p * len(p) / np.arange(1, len(p) + 1)
        expected = np.minimum.accumulate(bound[::-1])[::-1]
        np.testing.assert_allclose(np.sort(rows["q_value"]), np.minimum(expected, 1))


def test_without_members_there_is_no_interval_unless_the_model_is_taken_for_known():
    effects = make_effects().drop_vars("member_effect")
    table = causal_atlas(effects)
    assert np.isfinite(table[["effect", "se", "ci_low", "p"]]).all(axis=None)
    columns = ["between_se", "total_se", "total_ci_low", "total_ci_high", "total_p", "q_value"]
    assert table[columns].isna().all(axis=None)
    assert table["total_status"].str.contains("keep_members=True").all()
    plain = causal_atlas(effects, interval="plain")
    np.testing.assert_allclose(plain["total_se"], plain["se"])
    np.testing.assert_allclose(plain["total_ci_low"], table["ci_low"])
    assert (plain["total_status"] == "ok").all()
    assert np.isfinite(plain["q_value"]).all()


@pytest.mark.parametrize("interval", ["rubin", "plain"])
def test_effects_without_standard_errors_give_means_and_say_so(interval):
    effects = make_effects(n=8).drop_vars("member_effect").assign_attrs(n_members=1)
    effects["se"] = effects["se"] * np.nan
    table = causal_atlas(effects, threshold=0.7, interval=interval)
    for row in table.itertuples():
        local = local_effects(effects, threshold=0.7)["fit"]
        each = local.sel(estimator=row.method, exposure=row.exposure, outcome=row.outcome)[:, 0]
        assert row.k == np.isfinite(each).sum() >= 6
        np.testing.assert_allclose(row.effect, np.nanmean(each))
        assert row.n_excluded == 8 - row.k
    nothing = ["se", "ci_low", "p", "tau2", "i2", "h", "q", "total_se", "total_p", "q_value"]
    assert table[nothing].isna().all(axis=None)
    assert table["status"].str.startswith("no standard errors").all()
    assert table["total_status"].str.startswith("no standard errors").all()
    with pytest.raises(ValueError, match="rule 'wald' needs standard errors"):
        causal_atlas(effects, rule="wald")
    effects["se"][2] = 1.0
    with pytest.raises(ValueError, match=r"or NaN in all windows; window 's2' has 1\.0"):
        causal_atlas(effects)


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


def test_all_pairs_have_the_columns_of_one():
    local = pd.DataFrame({"exposure": "a", "outcome": "b", "method": "ivw", "se": [0.1, 0.2, 0.3]})
    local = local.assign(causal_effect=[1.0, 1.1, 1.2])
    one = global_effects(local, ["exposure", "outcome", "method"])
    members = one.loc[[0, 0], ["exposure", "outcome", "method", "effect"]]
    one = add_intervals(one, members, ["exposure", "outcome", "method"], "effect")
    one = one.assign(q_value=q_values(one))
    table = causal_atlas(make_effects(n=20), rule="wald", threshold=2.0)
    assert table.columns.tolist() == one.columns.drop("excluded").tolist()
    assert table[["tau2_low", "tau2_high"]].isna().all(axis=None)


def test_pairs_without_instruments_say_so():
    effects = make_effects()
    effects["effect"][..., 1] *= 0
    effects["member_effect"][..., 1] *= 0
    table = causal_atlas(effects, threshold=1.0).set_index("exposure")
    assert (table.loc["f1", "status"] == "no effects").all()
    assert table.loc["f1", ["effect", "total_p", "q_value"]].isna().all(axis=None)
    assert (table.query("exposure != 'f1' and outcome != 'f1'")["k"] > 0).all()
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
        ({"interval": "narrow"}, "unknown interval 'narrow': choose one of rubin"),
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
