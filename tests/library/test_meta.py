"""Meta-analysis against R's meta and metafor, statsmodels, and its own closed forms."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from mr_reference import META_DATASETS, META_EXPECTED
from statsmodels.stats.meta_analysis import combine_effects

from deepmr_utils import meta

FIELDS = {
    "estimate": "effect",
    "se": "se",
    "ci_lower": "ci_low",
    "ci_upper": "ci_high",
    "p": "p",
    "tau2": "tau2",
    "tau": "tau",
    "pi_lower": "pi_low",
    "pi_upper": "pi_high",
}
CONTRACT = {"effect", "se", "ci_low", "ci_high", "p", "tau2", "tau", "i2", "q", "pi_low", "pi_high"}


def close(actual, expected, rtol, atol=0.0):
    assert actual == pytest.approx(
        np.nan if expected is None else float(expected), rel=rtol, abs=atol, nan_ok=True
    )


@pytest.mark.parametrize("name", META_DATASETS)
@pytest.mark.parametrize("tau2_method", ["dl", "reml", "pm"])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("", {}),
        ("_hk", {"hartung_knapp": True, "prediction": "hk"}),
        ("_hk_adhoc_se", {"hartung_knapp": "adhoc"}),
    ],
)
def test_random_effects_of_r(name, tau2_method, key, options):
    expected = META_EXPECTED[name][f"random_{tau2_method}{key}"]
    result = meta.random_effects(*META_DATASETS[name], tau2_method, **options)
    # DL is a closed form; REML and PM are iterated to 1e-12 in R, where the likelihood is flat
    # enough to leave 4e-11 in tau2 (k3_het). Both are exactly 0 where R's are.
    rtol = 1e-9 if tau2_method == "dl" else 1e-8
    for field, column in FIELDS.items():
        # Identical effects have a Hartung-Knapp SE of 0 but for the rounding of their mean.
        close(result[column], expected[field], rtol, atol={"p": 1e-12, "se": 1e-15}.get(column, 0))
    for field, column in (("tau2_ci_lower", "tau2_low"), ("tau2_ci_upper", "tau2_high")):
        # metafor finds these roots only to its default tolerance, and searches up to about 100.
        if expected.get(field) is not None and expected[field] < 90:
            close(result[column], expected[field], 1e-2, 1e-4)


@pytest.mark.parametrize("name", META_DATASETS)
def test_heterogeneity_common_effect_and_other_prediction_interval(name):
    effect, se = META_DATASETS[name]
    common = meta.random_effects(effect, se, "common")
    expected = META_EXPECTED[name]
    for field, column in (("q", "q"), ("q_p", "q_p"), ("i2", "i2"), ("h", "h")):
        close(common[column], expected["heterogeneity"][field], 1e-9, 1e-12)
    for field in ("estimate", "se", "ci_lower", "ci_upper", "p"):
        close(common[FIELDS[field]], expected["common"][field], 1e-9, 1e-12)
    v = meta.random_effects(effect, se, "dl", prediction="v")
    close(v["pi_low"], expected["random_dl"]["pi_v"]["lower"], 1e-9)
    close(v["pi_high"], expected["random_dl"]["pi_v"]["upper"], 1e-9)
    for method in ("dl", "reml", "pm"):
        close(
            meta.random_effects(effect, se, method)["effect"],
            expected[f"metafor_{method}"]["estimate"],
            1e-8,
        )


@pytest.mark.parametrize("name", ["k8_het", "k25_outlier", "k250_het"])
def test_statsmodels_agrees(name):
    effect, se = META_DATASETS[name]
    # At its default `atol` statsmodels' Paule-Mandel loop ends 1e-8 from the root or nearer; at
    # 1e-12 rounding carries it below 0 on many processors, and it returns tau2 = 0.
    for ours, theirs in (("dl", "dl"), ("pm", "pm")):
        other = combine_effects(effect, se**2, method_re=theirs)
        result = meta.random_effects(effect, se, ours)
        knapp = meta.random_effects(effect, se, ours, hartung_knapp=True)
        close(result["tau2"], other.tau2, 1e-7)
        close(result["effect"], other.mean_effect_re, 1e-7)
        close(result["se"], other.sd_eff_w_re, 1e-7)
        close(knapp["se"], other.sd_eff_w_re_hksj, 1e-7)
        close(result["q"], other.q, 1e-9)


def test_result_has_the_contracted_fields():
    result = meta.random_effects(*META_DATASETS["k8_het"])
    assert isinstance(result, pd.Series)
    assert {*CONTRACT, "k", "n_excluded"} <= set(result.index)
    assert result.status == "ok"
    assert result.heterogeneity_low == result.effect - 2 * result.tau
    assert result.heterogeneity_high == result.effect + 2 * result.tau
    assert result.tau2_low <= result.tau2 <= result.tau2_high


@pytest.mark.parametrize("tau2_method", meta.TAU2_METHODS)
def test_batched_equals_one_by_one(tau2_method):
    names = list(META_DATASETS)
    width = max(len(effect) for effect, _ in META_DATASETS.values())
    padded = np.full((2, len(names), width), np.nan)
    for i, name in enumerate(names):
        padded[:, i, : len(META_DATASETS[name][0])] = META_DATASETS[name]
    table = meta.random_effects(*padded, tau2_method)
    assert table.shape[0] == len(names)
    for i, name in enumerate(names):
        alone = meta.random_effects(*META_DATASETS[name], tau2_method)
        for column in meta.COLUMNS:
            # A sum over padding may round otherwise; a root moves by little more.
            close(table[column][i], alone[column], 1e-11, 1e-13)


def test_few_effects():
    none = meta.random_effects([np.nan, 1.0], [0.1, np.nan])
    assert none.status == "no effects"
    assert (none.k, none.n_excluded) == (0, 2)
    assert none[meta.COLUMNS].isna().all()
    one = meta.random_effects([2.0, np.nan], [0.5, np.nan])
    assert one.status.startswith("one effect")
    assert (one.effect, one.se, one.k, one.n_excluded) == (2.0, 0.5, 1, 1)
    assert one.ci_high == pytest.approx(2 + 1.959963984540054 * 0.5)
    assert np.isnan(one.tau2)
    assert np.isnan(one.pi_low)
    assert meta.random_effects([], []).status == "no effects"
    assert len(meta.random_effects(np.empty((0, 3)), np.empty((0, 3)))) == 0


@pytest.mark.parametrize("tau2_method", meta.TAU2_METHODS)
def test_metamorphic(tau2_method):
    effect, se = META_DATASETS["k50_het"]
    base = meta.random_effects(effect, se, tau2_method)
    moved = meta.random_effects(-3 * effect[::-1] + 1, 3 * se[::-1], tau2_method)
    assert moved.effect == pytest.approx(-3 * base.effect + 1, rel=1e-10)
    assert moved.se == pytest.approx(3 * base.se, rel=1e-10)
    assert moved.tau2 == pytest.approx(9 * base.tau2, rel=1e-10)
    assert moved.i2 == pytest.approx(base.i2, rel=1e-10)
    assert moved.pi_low == pytest.approx(-3 * base.pi_high + 1, rel=1e-10)


def test_global_effects_groups_counts_and_order():
    rng = np.random.default_rng(0)
    local = pd.DataFrame(
        {
            "method": np.repeat(["b", "a", "c"], 10),
            "round": np.tile([1, 2], 15),
            "causal_effect": rng.normal(1, 0.3, 30),
            "se": rng.uniform(0.1, 0.2, 30),
            "status": "ok",
        }
    )
    local.loc[[3, 4], ["causal_effect", "se"]] = np.nan
    local.loc[local["method"] == "c", ["causal_effect", "se"]] = np.nan
    table = meta.global_effects(local)
    assert table["method"].tolist() == ["b", "a", "c"]
    assert table["k"].tolist() == [8, 10, 0]
    assert table["n_excluded"].tolist() == [2, 0, 10]
    assert table["status"].tolist() == ["ok", "ok", "no effects"]
    rows = local[local["method"] == "b"]
    alone = meta.random_effects(rows["causal_effect"], rows["se"])
    assert table["effect"][0] == pytest.approx(alone.effect, rel=1e-12)
    both = meta.global_effects(local, by=["method", "round"], tau2_method="dl")
    assert both.columns[:2].tolist() == ["method", "round"]
    assert len(both) == 6
    assert len(meta.global_effects(local, by=[])) == 1
    shuffled = meta.global_effects(local.sample(frac=1, random_state=1), by="method")
    pd.testing.assert_frame_equal(
        shuffled.set_index("method").loc[["b", "a", "c"]], table.set_index("method"), rtol=1e-11
    )


def test_subgroup_differences_are_the_q_of_subgroup_effects():
    local = pd.DataFrame({"group": list("aabb"), "causal_effect": [1, 1.2, 3, 3.1], "se": 0.1})
    groups = meta.global_effects(local, by=["group"], tau2_method="common")
    between = meta.random_effects(groups["effect"], groups["se"], "common")
    whole = meta.random_effects(local["causal_effect"], local["se"], "common")
    assert between.q == pytest.approx(whole.q - groups["q"].sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("effect", "se", "message"),
    [
        ([1, 2], [1], r"one shape.*\(2,\) and \(1,\)"),
        ([1, np.inf], [1, 1], "effect must be finite; got inf at index"),
        ([1, 2], [1, np.inf], "se must be finite"),
        ([1, 2], [1, 0], "se must be greater than 0; got 0.0 at index"),
    ],
)
def test_bad_input(effect, se, message):
    with pytest.raises(ValueError, match=message):
        meta.random_effects(effect, se)


def test_unknown_options():
    for option, value in (("tau2_method", "ml"), ("hartung_knapp", "yes"), ("prediction", "x")):
        with pytest.raises(ValueError, match=f"unknown {option} '{value}': choose one of"):
            meta.random_effects([1, 2], [1, 1], **{option: value})
    with pytest.raises(ValueError, match=r"\['task'\] missing"):
        meta.global_effects(pd.DataFrame({"causal_effect": [1.0], "se": [1.0]}), by=["task"])


# The mean of the others' weights, to which a study a billion times less precise adds nothing.
HUGE = (0.046667, 0.045142, 0.0097267)


@pytest.mark.parametrize("size", [1e6, 1e7, 1e8, 1e12])
def test_one_huge_and_imprecise_study_decides_nothing(size):
    effect, se = np.r_[0.12, -0.05, 0.08, 0.2, -0.1, 0.03, size], np.r_[[0.05] * 6, size]
    one = meta.random_effects(effect, se)
    np.testing.assert_allclose([one.effect, one.se, one.tau2], HUGE, rtol=1e-4)
    batch = meta.random_means(effect[:, None], se[:, None])
    found = [batch[name].item() for name in ("effect", "classic_se", "tau2")]
    np.testing.assert_allclose(found, HUGE, rtol=1e-4)


@pytest.mark.parametrize("tau2_method", ["reml", "dl"])
def test_batches_equal_single_ones_whatever_the_scale(tau2_method):
    """Standard errors over up to 16 decades, in columns of their own and together."""
    rng = np.random.default_rng(0)
    decades = rng.uniform(0, 16, 400)
    se = 10 ** (rng.random((7, 400)) * decades) * 10 ** rng.uniform(-3, 3, 400)
    effect = se * rng.normal(size=se.shape) + 10 ** rng.uniform(-2, decades) * rng.normal(size=400)
    means = meta.random_means(effect, se, tau2_method)
    table = meta.random_effects(effect.T, se.T, tau2_method)
    error = np.abs(means["effect"] - table["effect"]) / table["se"]
    assert error.max() < 1e-9
    np.testing.assert_allclose(means["classic_se"], table["se"], rtol=1e-9)
    np.testing.assert_allclose(means["tau2"], table["tau2"], rtol=1e-8, atol=0)
    on_torch = meta.random_means(effect, se, tau2_method, device="cpu:0")  # tensors, as on a GPU
    np.testing.assert_allclose(on_torch["classic_se"], means["classic_se"], rtol=1e-9)
    np.testing.assert_allclose(on_torch["tau2"], means["tau2"], rtol=1e-8)
    for i in range(0, 400, 40):
        alone = meta.random_means(effect[:, [i]], se[:, [i]], tau2_method)
        np.testing.assert_allclose(alone["classic_se"], means["classic_se"][i], rtol=1e-12)


def score(effect, variance, tau2):
    """Derivative of the restricted likelihood, in fractions."""
    weight = [1 / (v + tau2) for v in variance]
    total = sum(weight)
    mean = sum(w * a for w, a in zip(weight, effect, strict=True)) / total
    fit = sum((w * (a - mean)) ** 2 for w, a in zip(weight, effect, strict=True))
    return fit - total + sum(w * w for w in weight) / total


def test_sums_beside_a_study_that_is_all_but_exact():
    """Fractions as a reference: the sums of weights cancel to 1e-18 of themselves."""
    effect, se = [0.3, 1.5, -0.75, 2.5], [2.0**-30, 1.0, 0.5, 0.25]
    y, v = [Fraction(a) for a in effect], [Fraction(a) ** 2 for a in se]
    weight = [1 / a for a in v]
    total = sum(weight)
    mean = sum(w * a for w, a in zip(weight, y, strict=True)) / total
    q = sum(w * (a - mean) ** 2 for w, a in zip(weight, y, strict=True))
    tau2 = (q - 3) / (total - sum(w * w for w in weight) / total)
    got = meta.random_effects(effect, se, "dl")
    assert got.tau2 == pytest.approx(float(tau2), rel=1e-12)
    assert got.q == pytest.approx(float(q), rel=1e-12)
    root = meta.random_effects(effect, se, "reml").tau2
    assert score(y, v, Fraction(root * (1 - 1e-9))) > 0 > score(y, v, Fraction(root * (1 + 1e-9)))


@pytest.mark.parametrize("tau2_method", ["reml", "dl", "pm"])
@pytest.mark.parametrize("unit", [1e-150, 1e-100, 1e100, 1e150])
def test_units_change_no_digit(tau2_method, unit):
    effect, se = META_DATASETS["k8_het"]
    options = {"hartung_knapp": True, "prediction": "hk"}
    base = meta.random_effects(effect, se, tau2_method, **options)
    other = meta.random_effects(effect * unit, se * unit, tau2_method, **options)
    assert other.status == "ok"
    for name in ("effect", "se", "ci_low", "tau", "pi_high", "heterogeneity_low"):
        assert other[name] / unit == pytest.approx(base[name], rel=1e-9)
    for name in ("p", "i2", "q", "q_p", "h"):
        assert other[name] == pytest.approx(base[name], rel=1e-9)
    for name in ("tau2", "tau2_low", "tau2_high"):
        assert other[name] / unit / unit == pytest.approx(base[name], rel=1e-9)


def test_what_float64_cannot_hold_is_refused():
    for unit in (1e-200, 1e200):
        table = meta.random_effects(np.array([0.1, 0.9]) * unit, np.array([0.1, 0.1]) * unit)
        assert table.status == "no finite estimate: overflow, change the units"
        assert table[meta.COLUMNS].isna().all()
        means = meta.random_means(np.array([[0.1], [0.9]]) * unit, np.full((2, 1), 0.1 * unit))
        assert np.isnan([means["effect"], means["classic_se"], means["tau2"]]).all()


@pytest.mark.parametrize("value", [0.5, 0.0, 0.1])
def test_identical_effects_have_no_hartung_knapp_standard_error(value):
    effect, se = [value] * 5, [0.1, 0.3, 0.07, 0.2, 0.1]
    table = meta.random_effects(effect, se, hartung_knapp=True)
    assert table.status.startswith("effects agree exactly")
    assert "hartung_knapp='adhoc'" in table.status
    assert meta.random_effects(effect, se, prediction="hk").status == table.status
    adhoc = meta.random_effects(effect, se, hartung_knapp="adhoc")
    assert adhoc.status == "ok"
    assert adhoc.se == pytest.approx(1 / np.sqrt((1 / np.array(se) ** 2).sum()))


def test_masked_and_nullable_values_are_missing():
    mask = [False, False, True]
    masked = meta.random_effects(np.ma.array([0.1, 0.2, 50], mask=mask), [0.1] * 3)
    assert (masked.effect, masked.k, masked.n_excluded) == (pytest.approx(0.15), 2, 1)
    nullable = pd.Series([0.1, 0.2, None], dtype="Float64")
    pd.testing.assert_series_equal(meta.random_effects(nullable, [0.1] * 3), masked)
    integers = meta.random_effects(np.ma.array([1, 2, 50], mask=mask), np.ma.array([1] * 3))
    assert integers.effect == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"se must hold numbers; got 'x' at index \(1,\)"):
        meta.random_effects([1, 2], ["0.1", "x"])


def test_effects_that_cannot_enter_are_left_out_with_a_reason():
    local = pd.DataFrame({"method": "ivw", "causal_effect": [1.0, 1.2, 0.9, 5, 5, 5, np.nan],
                          "se": [0.1, 0.1, 0.1, np.inf, 0, np.nan, np.nan]})  # fmt: skip
    table = meta.global_effects(local, by="method").iloc[0]
    assert table["effect"] == pytest.approx(meta.random_effects([1, 1.2, 0.9], [0.1] * 3).effect)
    assert (table["k"], table["n_excluded"], table["status"]) == (3, 4, "ok")
    assert table["excluded"] == (
        "1 without an estimate, 1 without a standard error, 1 with an infinite standard error, "
        "1 with a standard error that is not above 0"
    )
    assert meta.global_effects(local.iloc[:3])["excluded"].tolist() == [""]
    with pytest.raises(ValueError, match="'se' is there 2 times"):
        meta.global_effects(pd.concat([local, local[["se"]]], axis=1))


def test_true_is_true_of_any_kind():
    """np.True_ and 1 were taken for "adhoc"."""
    effect, se = META_DATASETS["k30_under"]
    plain = meta.random_effects(effect, se, hartung_knapp=True)
    assert plain.se < meta.random_effects(effect, se, hartung_knapp="adhoc").se
    assert meta.random_effects(effect, se, hartung_knapp=np.True_).se == plain.se
    with pytest.raises(ValueError, match="unknown hartung_knapp 1: choose one of False, True"):
        meta.random_effects(effect, se, hartung_knapp=1)
