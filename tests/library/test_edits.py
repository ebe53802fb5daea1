"""Edits of sites: how they are drawn, what they do, and knock-out ratios of it."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn

from deepmr_utils import edits as edits_module
from deepmr_utils.edits import edit_effects, site_edits
from deepmr_utils.effects import load_effects, save_effects
from deepmr_utils.knockouts import knockout_effects, local_knockouts, response_curve
from deepmr_utils.motifs import Motif, find_instances, log_odds, match_threshold
from deepmr_utils.predict import MCDropout, model_hash
from deepmr_utils.sequences import encode, one_hot, reverse_complement

LETTERS = "ACGT"


def motif(name, text, sharp=0.91):
    return Motif(name, np.where(np.array(list(text))[:, None] == list(LETTERS), sharp, 0.03))


MOTIFS = {"X": motif("X", "TGACCATG"), "Y": motif("Y", "CCGGATTA")}
KINDS = ("shuffled", "destroyed", "replaced", "moved", "planted", "partial")
SCAN = {name: (log_odds(m), match_threshold(log_odds(m))) for name, m in MOTIFS.items()}
IDS = [f"s{i}" for i in range(12)]


def hits(text):
    """Places of sites, by brute force: factor, strand, start."""
    found = set()
    for factor, (weights, threshold) in SCAN.items():
        for i in range(len(text) - len(weights) + 1):
            part = text[i : i + len(weights)]
            for strand, read in (("+", part), ("-", reverse_complement(part))):
                score = sum(weights[j, LETTERS.index(base)] for j, base in enumerate(read))
                if score >= threshold:
                    found.add((factor, strand, i))
    return found


def texts(seed=0, n=12, length=90):
    """Random sequences with a site of X at 30, of Y at 60 in all but the first two, no other."""
    rng, result = np.random.default_rng(seed), []
    while len(result) < n:
        text = "".join(rng.choice(list(LETTERS), length))
        text = text[:30] + MOTIFS["X"].consensus + text[38:]
        second = MOTIFS["Y"].consensus if len(result) > 1 else text[60:68]
        text = text[:60] + second + text[68:]
        if len(hits(text)) == 1 + (len(result) > 1):
            result.append(text)
    return result


TEXTS = texts()
X = one_hot(TEXTS, torch.float64)
INSTANCES = find_instances(X, IDS, MOTIFS)


def draw(kind, n_draws=3, **options):
    return site_edits(X, IDS, INSTANCES, MOTIFS, kind, n_draws=n_draws, **options)


def edited(row):
    text = TEXTS[IDS.index(row.sequence_id)]
    return text[: row.start] + row.replacement + text[row.end :]


# drawing


@pytest.mark.parametrize("kind", KINDS)
def test_no_edit_makes_a_site(kind):
    table = draw(kind)
    assert list(table.columns) == [
        *("sequence_id", "factor", "start", "end", "kind", "draw", "replacement", "status")
    ]
    assert (table["status"] == "ok").all()
    assert (table["kind"] == kind).all()
    sites = 24 if kind == "planted" else 22
    assert len(table) == 3 * sites * (8 if kind == "partial" else 1)
    for row in table.itertuples():
        before, after = hits(TEXTS[IDS.index(row.sequence_id)]), hits(edited(row))
        assert len(row.replacement) == row.end - row.start
        own = {hit for hit in before if hit[0] == row.factor}
        if kind == "planted":
            assert before < after
            assert [(f, s) for f, _, s in after - before] == [(row.factor, row.start)]
        elif kind == "moved":
            new = after - before
            assert after - new == before - own
            assert [hit[:2] for hit in new] == [hit[:2] for hit in own]
        elif kind == "partial":
            assert before - own <= after <= before
        else:
            assert after == before - own


def test_what_kinds_do_to_the_bases():
    for kind in KINDS:
        for row in draw(kind).itertuples():
            whole = TEXTS[IDS.index(row.sequence_id)]
            old, new = whole[row.start : row.end], row.replacement
            if kind == "shuffled":
                assert sorted(old) == sorted(new)
            elif kind == "replaced":
                assert new in whole
            elif kind == "moved":
                # both ends of the span changed places, what lies between stayed
                assert (new[:8], new[8:-8], new[-8:]) == (old[-8:], old[8:-8], old[:8])
            elif kind == "partial":
                changed = sum(a != b for a, b in zip(old, new, strict=True))
                assert changed == row.draw // 3 + 1


def test_random_bases_are_uniform_but_for_sites():
    table = draw("destroyed", n_draws=100)
    bases = pd.Series(list("".join(table["replacement"]))).value_counts(normalize=True)
    np.testing.assert_allclose(bases, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / (2200 * 8)) + 0.002)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_nothing_but_its_site(kind, monkeypatch):
    table, some = draw(kind), [7, 2, 4]
    columns = list(table.columns)
    alone = site_edits(
        X[some], [IDS[i] for i in some], INSTANCES[INSTANCES["sequence_id"].isin(["s7", "s2", "s4"])]
        .iloc[::-1], MOTIFS, kind, n_draws=3,
    )  # fmt: skip
    kept = table[table["sequence_id"].isin(["s7", "s2", "s4"])]
    pd.testing.assert_frame_equal(
        *(t.sort_values(columns).reset_index(drop=True) for t in (kept, alone))
    )
    monkeypatch.setattr(edits_module, "CELLS", 1)  # one at a time
    pd.testing.assert_frame_equal(table, draw(kind))
    more, other = draw(kind, n_draws=4), draw(kind, seed=1)
    assert other["replacement"].ne(table["replacement"]).mean() > 0.5
    if kind != "partial":  # more draws keep those that there were
        pd.testing.assert_frame_equal(more[more["draw"] < 3].reset_index(drop=True), table)


def test_what_cannot_be_drawn_is_said():
    text = list(TEXTS[3])
    text[30:38] = "AAAAAAAA"
    unknown = text.copy()
    unknown[33] = "N"
    x = one_hot(["".join(text), "".join(unknown)])
    motifs = MOTIFS | {"X": motif("X", "AAAAAAAA"), "Z": motif("Z", "TTTTTTTTT")}
    sites = pd.DataFrame(
        [("a", "X", 30, 38), ("b", "X", 30, 38), ("a", "Y", 60, 68), ("a", "Z", 67, 76)],
        columns=["sequence_id", "factor", "start", "end"],
    )
    table = site_edits(x, ["a", "b"], sites, motifs, n_draws=1)
    assert table["status"].tolist() == [
        "no draw free of sites in 100 tries", "unknown bases", "overlaps a site of Z",
        "overlaps a site of Y",
    ]  # fmt: skip
    assert (table["replacement"] == "").all()
    with pytest.raises(ValueError, match="no edit has a replacement; the first is a, no draw free"):
        edit_effects([Sites()], x, table, sequence_ids=["a", "b"])
    everywhere = sites[:1].assign(start=0, end=90)
    full = site_edits(x, ["a", "b"], everywhere, motifs, "replaced", n_draws=1)
    assert full["status"].tolist() == ["no place free of sites"]
    assert site_edits(x, ["a", "b"], sites[:0], motifs).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "deleted"}, "unknown kind 'deleted': choose one of shuffled, destroyed"),
        ({"n_draws": 0}, "n_draws must be a whole number of at least 1; got 0"),
        ({"p": 1}, "p must lie between 0 and 1, both excluded"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"sequence_ids": IDS[1:]}, "must name all 12 sequences; got 11"),
        ({"sequence_ids": ["t", *IDS[1:]]}, "sequence_id must be among sequence_ids; row 0"),
        ({"motifs": {"Y": MOTIFS["Y"]}}, "instances need a motif each; there are motifs of Y; row"),
        ({"instances": INSTANCES.drop(columns="end")}, r"\['end'\] missing"),
        ({"instances": INSTANCES.assign(end=99)}, "must lie in 0 to 90, in order; row 0"),
        ({"instances": INSTANCES.assign(start=-1)}, "start must be a whole number, 0 or more"),
    ],
)
def test_malformed_sites_are_refused(change, message):
    options = {"one_hot": X, "sequence_ids": IDS, "instances": INSTANCES, "motifs": MOTIFS}
    with pytest.raises(ValueError, match=message):
        site_edits(**(options | change))


# effects


class Sites(nn.Module):
    """X and Y are a times and b times the soft number of X's sites; Z is that of Y's."""

    feature_names = ("X", "Y", "Z")

    def __init__(self, a=1.0, b=0.5, dropout=0.0):
        super().__init__()
        for name, m in MOTIFS.items():
            weights = torch.from_numpy(np.stack([log_odds(m), log_odds(m)[::-1, ::-1].copy()]))
            self.register_buffer(name, weights.transpose(1, 2))
        self.scale = nn.Parameter(torch.tensor([a, b, 1.0], dtype=torch.float64))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        # a site counts 1, and what is below the threshold nearly 0
        x, y = (
            (3 * nn.functional.conv1d(x, getattr(self, name)) - 18).sigmoid().sum((1, 2))
            for name in ("X", "Y")
        )
        return self.dropout(torch.stack([x, x, y], 1) * self.scale)


SCALES = [(1.0, 0.5), (1.4, 0.2), (0.8, 0.9), (1.1, 0.4)]


def members(scales=SCALES):
    return [Sites(*scale) for scale in scales]


def by_hand(member, table):
    values = one_hot([edited(row) for row in table.itertuples()], torch.float64)
    before = X[[IDS.index(i) for i in table["sequence_id"]]]
    return (member(values) - member(before)).detach().numpy()


def test_effects_are_those_of_the_edited_sequences():
    table = pd.concat([draw("moved"), draw("shuffled", 1)], ignore_index=True)
    effects = edit_effects(members(), X, table, sequence_ids=IDS, device="cpu")
    expected = np.stack([by_hand(member, table) for member in members()])
    np.testing.assert_allclose(effects["member_effect"], expected, atol=1e-13)
    np.testing.assert_allclose(effects["effect"], expected.mean(0), atol=1e-13)
    np.testing.assert_allclose(effects["se"], expected.std(0, ddof=1), atol=1e-13)
    whole = np.stack([member(X).detach().numpy() for member in members()])
    np.testing.assert_allclose(effects["reference_prediction"], whole.mean(0), atol=1e-13)
    assert dict(effects.sizes) == {"edit": 88, "feature": 3, "member": 4, "sequence": 12}
    for name in table.columns:
        assert effects[name].to_numpy().tolist() == table[name].tolist()
    old = [TEXTS[IDS.index(r.sequence_id)][r.start : r.end] for r in table.itertuples()]
    assert effects["reference"].to_numpy().tolist() == old
    assert effects.attrs["model_hash"] == model_hash(members())
    assert effects.attrs["n_members"] == 4
    assert effects.attrs["schema_version"] == 1
    assert effects.attrs["precision"] == "float64"
    assert effects.attrs["calibration"] == "none"


def test_batches_and_order_do_not_matter():
    table = draw("destroyed")
    whole = edit_effects(members(), X, table, sequence_ids=IDS, device="cpu")
    small = edit_effects(members(), X, table, sequence_ids=IDS, device="cpu", batch_size=5)
    xr.testing.assert_allclose(whole, small, rtol=0, atol=1e-12)
    back = edit_effects(members(), X.flip(0), table[::-1], sequence_ids=IDS[::-1], device="cpu")
    xr.testing.assert_allclose(whole, back.isel(edit=slice(None, None, -1)).sel(sequence=IDS),
                               rtol=0, atol=1e-12)  # fmt: skip
    for one, other in ((whole, small), (whole, back)):
        pd.testing.assert_frame_equal(
            knockout_effects(one), knockout_effects(other), rtol=1e-9, check_exact=False
        )


def test_a_dropout_member_sees_reference_and_edit_under_one_mask():
    network, table = Sites(dropout=0.4), draw("shuffled", 2)
    draws = MCDropout(network, n_draws=6, seed=3)
    effects = edit_effects(draws, X, table, sequence_ids=IDS, device="cpu", batch_size=7)
    full = by_hand(network.eval(), table)
    masks = effects["member_effect"].to_numpy() / np.where(np.abs(full) > 1e-3, full, np.nan)
    # the outputs that a member drops are 0 in all edits, the others are full / (1 - p)
    for member in masks.transpose(0, 2, 1):
        for feature in member:
            values = feature[~np.isnan(feature)]
            assert np.ptp(values) < 1e-9
            assert min(abs(values[0]), abs(values[0] - 1 / 0.6)) < 1e-6
    assert effects.attrs["dropout_seed"] == 3


def test_effects_are_taken_on_the_scale_of_the_transform():
    table = draw("destroyed", 1)
    effects = edit_effects(
        members(), X, table, sequence_ids=IDS, features=["Y"], transform=np.exp, device="cpu"
    )
    after = one_hot([edited(row) for row in table.itertuples()], torch.float64)
    before = X[[IDS.index(i) for i in table["sequence_id"]]]
    expected = np.mean(
        [(m(after)[:, 1].exp() - m(before)[:, 1].exp()).detach().numpy() for m in members()], 0
    )
    np.testing.assert_allclose(effects["effect"].sel(feature="Y"), expected, atol=1e-13)
    assert effects.attrs["calibration"] == "exp"


def test_edits_that_were_not_drawn_stay_in_the_table():
    table = draw("shuffled", 1)
    table.loc[[0, 5], ["replacement", "status"]] = "", "no draw free of sites in 100 tries"
    effects = edit_effects(members(), X, table, sequence_ids=IDS, device="cpu")
    assert np.flatnonzero(np.isnan(effects["effect"]).all("feature")).tolist() == [0, 5]
    assert effects["status"].to_numpy()[[0, 1]].tolist() == [table["status"][0], "ok"]
    found = knockout_effects(effects, [("X", "Y")]).iloc[0]
    assert (found["k"], found["n_not_drawn"], found["n_without_site"]) == (10, 2, 0)


EDITS = draw("shuffled", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edits": EDITS.drop(columns="kind")}, r"\['kind'\] missing"),
        ({"edits": EDITS[:0]}, "the table of edits needs at least one row"),
        ({"edits": EDITS.assign(replacement="ACGT")}, "must have end - start known bases"),
        ({"edits": EDITS.assign(replacement="ACGTACGN")}, "must have end - start known bases"),
        ({"edits": EDITS.assign(replacement="ACGTACGX")}, "unknown base 'X' in sequence 0"),
        ({"edits": EDITS.assign(end=1000)}, "must lie in 0 to 90"),
        ({"edits": EDITS.assign(draw=-1)}, "draw must be a whole number"),
        ({"sequence_ids": None}, "sequence_id must be among sequence_ids"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"features": ["Q"]}, "unknown feature 'Q'"),
    ],
)
def test_malformed_edits_are_refused(change, message):
    options = {"members": members(), "one_hot": X, "edits": EDITS, "sequence_ids": IDS}
    with pytest.raises(ValueError, match=message):
        edit_effects(**(options | change))


def test_a_data_set_of_edits_is_stored_and_read(tmp_path):
    effects = edit_effects(members(), X, draw("moved"), sequence_ids=IDS, device="cpu")
    save_effects(effects, tmp_path / "edits.zarr")
    xr.testing.assert_identical(load_effects(tmp_path / "edits.zarr"), effects)
    pd.testing.assert_frame_equal(
        knockout_effects(load_effects(tmp_path / "edits.zarr", lazy=True), kinds=["moved"]),
        knockout_effects(effects, kinds=["moved"]),
    )
    assert load_effects(tmp_path / "edits.zarr", ["Y"])["feature"].to_numpy().tolist() == ["Y"]
    save_effects(effects.assign_attrs(schema_version=0), tmp_path / "old.zarr")
    with pytest.raises(ValueError, match="schema version 0; this version of deepmr_utils reads 1"):
        load_effects(tmp_path / "old.zarr")


@pytest.mark.parametrize("name", ["member_effect", "replacement", "sequence_id"])
def test_a_damaged_store_is_refused(tmp_path, name):
    save_effects(edit_effects(members(), X, EDITS, sequence_ids=IDS), tmp_path / "a.zarr")
    (chunk,) = [f for f in (tmp_path / "a.zarr" / name).iterdir() if not f.name.startswith(".")]
    content = bytearray(chunk.read_bytes())
    content[-3] ^= 255
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or missing"):
        load_effects(tmp_path / "a.zarr")


# knock-out ratios


def data_set(change, ids, names=("X", "Y"), n=None, **coordinates):
    """Effects of edits of X's sites from changes (M, E, K)."""
    e, ids = change.shape[1], np.asarray(ids).astype(str)
    known = np.unique(ids).tolist()
    columns = {
        "sequence_id": ids, "factor": np.full(e, "X"), "kind": np.full(e, "shuffled"),
        "reference": np.full(e, "AC"), "replacement": np.full(e, "CA"),
    } | coordinates  # fmt: skip
    more = [f"more-{i}" for i in range((n or 0) - len(known))]
    return xr.Dataset(
        {"member_effect": (("member", "edit", "feature"), change)},
        {"sequence": [*known, *more], "feature": list(names)}
        | {name: ("edit", values) for name, values in columns.items()},
    )


def pairs_of_members(x, y):
    """Sum over edits of the mean over m != m' of x_m y_m'."""
    return np.mean([(x[a] * y[b]).sum() for a, b in permutations(range(len(x)), 2)])


def test_ratio_of_a_network_that_is_linear_in_the_number_of_sites():
    effects = edit_effects(members(), X, draw("destroyed"), sequence_ids=IDS, device="cpu")
    table = knockout_effects(effects)
    assert len(table) == 6
    found = table.set_index(["exposure", "outcome"])["knockout"]
    a, b = np.array(SCALES).T
    different = [(i, j) for i, j in permutations(range(4), 2)]
    ratio = sum(a[i] * b[j] for i, j in different) / sum(a[i] * a[j] for i, j in different)
    assert found["X", "Y"] == pytest.approx(ratio, rel=1e-12)
    # Z does not depend on X's sites, but for what a soft count sees in other bases
    assert abs(found["X", "Z"]) < 0.02
    none = table[table["exposure"] == "Z"]
    assert none["knockout"].isna().all()
    assert (none["k"] == 0).all()
    assert (none["knockout_status"].str.contains("no site of the exposure was edited")).all()
    local = local_knockouts(effects, [("X", "Y")])
    np.testing.assert_allclose(local["knockout"], ratio, rtol=1e-12)
    assert local["sequence_id"].tolist() == IDS
    assert (local["n_edits"] == 3).all()
    # features without sites of their own have no rows
    assert set(local_knockouts(effects)["exposure"]) == {"X", "Y"}
    # three features, Y's sites are in ten sequences
    sites = effects.isel(edit=(effects["factor"] == "Y").to_numpy()).assign_coords(
        feature=["Z", "X", "Y"]
    )
    row = knockout_effects(sites, [("Y", "Z")]).iloc[0]
    assert (row["k"], row["n_edits"], row["n_without_site"], row["n_not_drawn"]) == (10, 30, 2, 0)


def test_ratio_and_interval_by_brute_force():
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 9, 40)
    x = rng.normal(2, 1, 40) + rng.normal(0, 0.7, (5, 40))
    y = 0.6 * x + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 0.5, (5, 40))
    row = knockout_effects(data_set(np.stack([x, y], 2), ids, n=20), [("X", "Y")]).iloc[0]

    def ratio(x, y):
        return pairs_of_members(x, y) / pairs_of_members(x, x)

    r, k = ratio(x, y), 9
    out = [ratio(x[:, ids != s], y[:, ids != s]) for s in range(k)]
    within = (k - 1) / k * ((np.array(out) - r) ** 2).sum()
    pseudo = [5 * r - 4 * ratio(np.delete(x, m, 0), np.delete(y, m, 0)) for m in range(5)]
    model = 1.2 * np.var(pseudo, ddof=1)
    assert row["knockout"] == pytest.approx(r, rel=1e-12)
    assert row["knockout_se"] == pytest.approx(np.sqrt(within + model), rel=1e-12)
    df = 4 * ((within + model) / model) ** 2
    half = stats.t.ppf(0.975, df) * np.sqrt(within + model)
    assert row["knockout_ci_low"] == pytest.approx(r - half, rel=1e-10)
    assert row["knockout_ci_high"] == pytest.approx(r + half, rel=1e-10)
    p = 2 * stats.t.sf(abs(r) / np.sqrt(within + model), df)
    assert row["knockout_p"] == pytest.approx(p, rel=1e-10)
    assert (row["k"], row["n_without_site"], row["knockout_status"]) == (9, 11, "ok")


def test_one_and_two_members():
    rng = np.random.default_rng(6)
    x = rng.normal(2, 1, (2, 30))
    change = np.stack([x, 0.5 * x + rng.normal(0, 0.1, (2, 30))], 2)
    one = knockout_effects(data_set(change[:1], range(30)), [("X", "Y")]).iloc[0]
    x, y = change[0].T
    assert one["knockout"] == pytest.approx((x * y).sum() / (x**2).sum(), rel=1e-12)
    assert np.isnan(one["knockout_ci_low"])
    assert np.isnan(one["knockout_se"])
    assert one["knockout_status"] == "fewer than 2 members gave an estimate"
    two = knockout_effects(data_set(change, range(30)), [("X", "Y")]).iloc[0]
    x, y = change.mean(0).T
    assert two["knockout"] == pytest.approx((x * y).sum() / (x**2).sum(), rel=1e-12)
    assert np.isfinite(two["knockout_ci_low"])
    assert two["knockout_status"].startswith("2 members: not corrected")


def test_what_gives_no_ratio_says_why():
    still = knockout_effects(data_set(np.zeros((4, 6, 2)), range(6)), [("X", "Y")]).iloc[0]
    assert np.isnan(still["knockout"])
    assert "do not move the exposure" in still["knockout_status"]
    rng = np.random.default_rng(1)
    alone = knockout_effects(data_set(rng.normal(2, 1, (4, 5, 2)), [0] * 5), [("X", "Y")]).iloc[0]
    assert np.isfinite(alone["knockout"])
    assert np.isnan(alone["knockout_ci_low"])
    assert alone["knockout_status"].startswith("one alone")
    assert alone["k"] == 1
    effects = data_set(rng.normal(2, 1, (4, 5, 2)), range(5))
    for call, message in (
        (lambda: knockout_effects(effects, kinds=["moved"]), "unknown kind 'moved'"),
        (lambda: knockout_effects(effects, [("X", "Q")]), "unknown feature of a pair 'Q'"),
        (lambda: knockout_effects(effects, [("X", "X")]), "must be given once each"),
        (lambda: knockout_effects(effects.rename(edit="position")), "effects of edits"),
        (lambda: response_curve(effects, "X", "Y"), "edits of the kind 'partial'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def simulate(rng, truth, n_members, n_edits, f, correlation, model_sd):
    """Members and the truth differ alike in the ratio; noise is shared by exposure and outcome."""
    real = rng.normal(0, 1, n_edits)
    sd = np.sqrt(n_members / f)  # the mean of members has the variance 1 / f
    cov = sd**2 * np.array([[1, correlation], [correlation, 1]])
    noise = rng.multivariate_normal([0, 0], cov, (n_members, n_edits))
    slope = truth + rng.normal(0, model_sd, (n_members, 1))
    # what sequences differ in, the same for all members
    y = slope * real + np.abs(real) * rng.normal(0, 0.2, n_edits)
    return np.stack([real + noise[..., 0], y + noise[..., 1]], 2)


def test_shared_errors_of_members_are_no_cause():
    rng, found, naive = np.random.default_rng(8), [], []
    for _ in range(150):
        change = simulate(rng, 0, 5, 300, 3, 0.8, 0.05)
        found.append(knockout_effects(data_set(change, range(300)), [("X", "Y")])["knockout"][0])
        x, y = change.mean(0).T
        naive.append((x * y).sum() / (x**2).sum())
    # mean(x) mean(y) has the covariance 0.8 / 3 of the means, mean(x)^2 the variance 1 + 1 / 3
    assert np.mean(naive) == pytest.approx(0.2, abs=0.02)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(150) < 0.02


@pytest.mark.parametrize(("f", "correlation"), [(10, 0.8), (3, 0.8), (10, 0.0)])
def test_intervals_cover_a_truth_that_members_are_draws_around(f, correlation):
    rng, covered, rounds = np.random.default_rng(9), 0, 400
    for _ in range(rounds):
        # the truth is one more draw of what members are draws of
        truth = 0.4 + rng.normal(0, 0.1)
        change = simulate(rng, 0.4, 5, 120, f, correlation, 0.1)
        row = knockout_effects(data_set(change, np.arange(120) // 2), [("X", "Y")]).iloc[0]
        covered += row["knockout_ci_low"] <= truth <= row["knockout_ci_high"]
    assert 0.92 <= covered / rounds <= 0.985


class Squared(nn.Module):
    """X is the share of X's bases that are there, Y its square: a response that is not a line."""

    feature_names = ("X", "Y")

    def __init__(self, a=1.0):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x):
        site = one_hot([MOTIFS["X"].consensus], torch.float64)
        share = (x[:, :, 30:38] * site).sum((1, 2)) / 8
        return torch.stack([share, self.a * share**2], 1)


def test_the_curve_goes_from_the_slope_to_the_knockout():
    table = draw("partial", 2)
    networks = [Squared(a) for a in (0.8, 1.0, 1.2)]
    effects = edit_effects(networks, X, table, sequence_ids=IDS, device="cpu")
    curve = response_curve(effects, "X", "Y")
    lost = np.arange(1, 9) / 8
    np.testing.assert_array_equal(curve["bases"], np.arange(1, 9))
    np.testing.assert_allclose(curve["exposure_change"], -lost, rtol=1e-12)
    np.testing.assert_allclose(curve["share"], lost, rtol=1e-12)
    np.testing.assert_allclose(curve["outcome_change"], (1 - lost) ** 2 - 1, rtol=1e-12)
    # ((1 - s)^2 - 1) / -s: the slope at the site is 2, the knock-out ratio 1
    np.testing.assert_allclose(curve["knockout"], 2 - lost, rtol=1e-12)
    # members say a (2 - s), whose variance is 0.04 (2 - s)^2; sequences do not differ
    np.testing.assert_allclose(curve["knockout_se"], (2 - lost) * 0.2 * np.sqrt(4 / 3), rtol=1e-9)
    assert (curve["k"] == 12).all()
    ratio = knockout_effects(effects, [("X", "Y")], ["partial"])["knockout"][0]
    assert ratio == pytest.approx((lost**2 * (2 - lost)).sum() / (lost**2).sum(), rel=1e-12)


def test_ratios_of_the_demo_genome_are_those_of_its_rules():
    from deepmr_utils.motifs import get_motif
    from experiments.binding.genome import Oracle, _draw_background
    from experiments.binding.rules import (
        FACTORS,
        Parameters,
        intrinsic_log_odds,
        log_counts,
        occupancies,
    )
    from experiments.binding.rules import (
        MOTIFS as NAMES,
    )
    from experiments.planting import plant

    p, rng = Parameters("default"), np.random.default_rng(4)
    motifs = {name: get_motif(NAMES[name]) for name in FACTORS}
    codes = _draw_background(40, p.length, rng)
    plant(codes, motifs, p_site=0.75, sharpness=p.sharpness, rng=rng, margin=50)
    x, ids = one_hot(codes, torch.float64), [f"w{i}" for i in range(40)]
    table = site_edits(x, ids, find_instances(x, ids, motifs), motifs, "destroyed", n_draws=2)
    effects = edit_effects(Oracle(p), x, table, sequence_ids=ids, device="cpu")
    found = knockout_effects(effects).set_index(["exposure", "outcome"])["knockout"]
    reference = {name: intrinsic_log_odds(x, name, p) for name in FACTORS}
    before = log_counts(occupancies(reference, p.network), p)
    for exposure in FACTORS:
        own = table[(table["factor"] == exposure) & (table["status"] == "ok")]
        row = [ids.index(i) for i in own["sequence_id"]]
        new = codes[row].copy()
        for i, edit in enumerate(own.itertuples()):
            new[i, edit.start : edit.end] = encode([edit.replacement])[0]
        scores = {name: value[row] for name, value in reference.items()}
        scores[exposure] = intrinsic_log_odds(one_hot(new, torch.float64), exposure, p)
        change = (log_counts(occupancies(scores, p.network), p) - before[row]).numpy()
        dx = change[:, FACTORS.index(exposure)]
        for k, outcome in enumerate(FACTORS):
            if outcome != exposure:
                truth = (dx * change[:, k]).sum() / (dx**2).sum()
                # what the edit does to other motifs, below the threshold of a site, is left
                assert found[exposure, outcome] == pytest.approx(truth, abs=0.02)
    assert found["Sox2", "Oct4"] > 0.1 > abs(found["Klf4", "Sox2"])


def test_edits_of_other_kinds_and_factors_do_not_enter():
    rng = np.random.default_rng(3)
    change = rng.normal(2, 1, (4, 30, 2))
    kind = np.repeat(["shuffled", "moved", "partial", "replaced"], [10, 5, 5, 10])
    factor = np.repeat(["X", "Y"], [25, 5])
    effects = data_set(change, np.arange(30) % 10, kind=kind, factor=factor)
    own = np.r_[0:10, 20:25]
    row = knockout_effects(effects, [("X", "Y")]).iloc[0]
    x, y = change[:, own].transpose(2, 0, 1)
    assert row["knockout"] == pytest.approx(pairs_of_members(x, y) / pairs_of_members(x, x))
    assert (row["n_edits"], row["k"]) == (15, 10)
    moved = knockout_effects(effects, [("X", "Y")], "moved").iloc[0]
    x, y = change[:, 10:15].transpose(2, 0, 1)
    assert moved["knockout"] == pytest.approx(pairs_of_members(x, y) / pairs_of_members(x, x))
    assert (moved["n_edits"], moved["n_without_site"]) == (5, 5)
