"""What users give: numbers that are missing or text, options, columns."""

import numpy as np
import pandas as pd
import pytest

from deepmr_utils import _checks, mr

NAN = np.nan


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ma.array([1, 2, 3], mask=[0, 0, 1]), [1, 2, NAN]),
        ([1.5, np.ma.masked], [1.5, NAN]),
        ([np.ma.array([1, 2], mask=[0, 1]), [3, 4]], [[1, NAN], [3, 4]]),
        (pd.Series([1, None], dtype="Int64"), [1, NAN]),
        (pd.array([1, None], dtype="Int64"), [1, NAN]),
        (pd.DataFrame({"a": [1, 2], "b": pd.Series([pd.NA, 4], dtype="Int64")}), [[1, NAN], [2, 4]]),
        (["0.5", " . ", "NA", ""], [0.5, NAN, NAN, NAN]),
        (pd.Series(["1e-3", None], dtype="string"), [1e-3, NAN]),
        ([None, pd.NA, 2], [NAN, NAN, 2]),
        (3, 3.0),
        ([], []),
    ],
)  # fmt: skip
def test_numbers(value, expected):
    got = _checks.numbers(value, "x")
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["1", "two"], r"x must hold numbers; got 'two' at index \(1,\)"),
        (pd.Series(["1", "?"], index=["a", "b"]), r"got '\?' at row b: correct it, or make it NaN"),
        (pd.DataFrame({"u": [1, 2], "v": ["3", "q"]}), "got 'q' at row 1, column v"),
        (np.array(["2026-01-01"], "M8[D]"), r"got values of type datetime64\[D\]"),
        ([1 + 2j], "got values of type complex128"),
    ],
)
def test_what_is_no_number_is_named_with_its_place(value, message):
    with pytest.raises(ValueError, match=message):
        _checks.numbers(value, "x")


DATA = ([0.5, 0.8, 1.1, 0.9, 0.7, 1.3], [0.05] * 6, [0.22, 0.29, 0.45, 0.4, 0.26, 0.5], [0.06] * 6)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ivw", {"weights": "Delta"}, "unknown weights 'Delta': choose one of simple, delta, equal .did you mean 'delta'"),
        ("ivw", {"effects": "fixd"}, "choose one of auto, fixed, random .did you mean 'fixed'"),
        ("ivw", {"penalized": "yes"}, "unknown penalized 'yes': choose one of True, False"),
        ("ivw", {"weigths": "delta"}, "unknown option of ivw 'weigths'.*did you mean 'weights'"),
        ("mode_simple", {"stderror": "Delta"}, "unknown stderror 'Delta'"),
        ("mode_simple", {"phi": -1}, "phi must be a number greater than 0; got -1"),
        ("mode_simple", {"phi": NAN}, "phi must be a number greater than 0; got nan"),
        ("conmix", {"psi": -1}, "psi must be a number greater than 0; got -1"),
        ("median_simple", {"draws": 1}, "draws must be a whole number of at least 2; got 1"),
        ("median_simple", {"draws": "99"}, "draws must be a whole number of at least 2; got '99'"),
        ("median_simple", {"seed": None}, "seed must be a whole number of at least 0; got None"),
        ("presso", {"draws": 0}, "draws must be a whole number of at least 2; got 0"),
        ("presso", {"significance": 2}, "significance must lie between 0 and 1, both excluded; got 2"),
        ("presso", {"significance": True}, "significance must lie between"),
        ("ivw", {"distribution": "T"}, "unknown distribution 'T': choose one of normal, t .did you mean 't'"),
        ("Egger", {}, "unknown method 'Egger'.*did you mean 'egger'"),
    ],
)  # fmt: skip
def test_misspelt_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        mr.estimate(*DATA, method, **options)


@pytest.mark.parametrize("method", list(mr.REGISTRY))
def test_every_option_of_every_method_is_checked(method):
    for name in mr.methods().set_index("name").loc[method, "options"].split(", "):
        if name:
            with pytest.raises(ValueError, match=f"{name}.* must |unknown {name} 'nonsense'"):
                mr.estimate(*DATA, method, **{name: "nonsense"})


def test_valid_options_still_change_what_they_should():
    delta = mr.estimate(*DATA, "ivw", weights="delta")
    assert delta["se"][0] != mr.estimate(*DATA, "ivw")["se"][0]
    whole = mr.estimate(*DATA, "median_simple", draws=1e3)
    pd.testing.assert_frame_equal(whole, mr.estimate(*DATA, "median_simple", draws=1000))
    assert mr.estimate(*DATA, "conmix", psi=None)["status"][0] == "ok"


def test_columns():
    table = pd.DataFrame({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match=r"x needs the columns a, c; got .* \['c'\] missing"):
        _checks.check_columns(table, ["a", "c"], "x")
    with pytest.raises(ValueError, match="x must have each column once; 'a' is there 2 times"):
        _checks.require(pd.concat([table, table], axis=1), ["a"], "x")
    with pytest.raises(TypeError, match="x must be a pandas DataFrame; got dict"):
        _checks.check_columns({"a": 1}, ["a"], "x")


def test_names_are_known_and_given_once():
    assert _checks.check_names("feature", "ab", ["ab", "a"]) == ["ab"]
    assert _checks.check_names("feature", ("a", "ab"), ["ab", "a"]) == ["a", "ab"]
    with pytest.raises(ValueError, match=r"unknown feature 'Sox': choose one of Sox2, Oct4 .*Sox2"):
        _checks.check_names("feature", ["Oct4", "Sox"], ["Sox2", "Oct4"])
    with pytest.raises(ValueError, match=r"feature must be given once each; got .*: drop a 'ab'"):
        _checks.check_names("feature", ["ab", "cd", "ab"], ["ab", "cd"])
