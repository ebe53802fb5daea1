"""Correction by held-out labels: networks that learned a known share, and what it gives back."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import special
from scipy.stats import binom

from deepmr_utils.held_out import correct
from deepmr_utils.knockouts import knockout_effects
from deepmr_utils.pairs import PAIR

NAMES = ["A", "B", "C"]
# what a site of the row adds to the feature of the column: A acts on B
TRUE = np.array([[1.0, 0.4, 0.0], [0.0, 1.2, 0.0], [0.0, 0.0, 0.8]])
SHARE = np.array([[0.5, 0.75, 1.0], [1.0, 0.9, 1.0], [1.0, 1.0, 0.8]])  # that is learned
NOISE = 0.4  # of labels of the Gaussian head


def world(n=500, members=1, head=None, seed=0, spread=0.0, both=0.0, level=0.5):
    """Edits, predictions, labels and scores; labels without noise if no head is given.

    Sites of a factor act by presence and strength; ``both``: more of B beside A, of which nothing
    is learned. Every sequence has up to two sites of a factor; the stronger one acts.
    """
    rng = np.random.default_rng(seed)
    number = (rng.random((n, 3)) < 0.6) * rng.integers(1, 3, (n, 3))
    score = -np.sort(-rng.normal(8, 1, (n, 3, 2)), axis=-1)
    score[np.arange(2) >= number[..., None]] = -np.inf
    learned = TRUE * SHARE * (1 + spread * rng.normal(size=(members, 3, 3)))

    def response(best, weights, more):
        there = np.isfinite(best)
        strength = np.where(there, 1 + 0.2 * (np.where(there, best, 8) - 8), 0)
        value = level + strength @ weights
        value[..., 1] += more * (there[..., 0] & there[..., 1])
        return value

    ids = np.array([f"s{i}" for i in range(n)])
    row, kind, which = np.nonzero(np.isfinite(score))
    scores = pd.DataFrame({
        "sequence_id": ids[row], "factor": np.array(NAMES)[kind], "start": 20 * which + kind,
        "score": score[row, kind, which],
    })  # fmt: skip
    best = score.max(-1)
    after = best[row].copy()
    after[np.arange(len(row)), kind] = score[row, kind, 1 - which]
    truth = response(best, TRUE, both)
    change = response(after, TRUE, both) - truth[row]
    predicted = np.stack([response(best, w, 0) for w in learned])
    member = np.stack([response(after, w, 0) for w in learned]) - predicted[:, row]
    labels = {
        None: lambda: truth, "gaussian": lambda: rng.normal(truth, NOISE),
        "poisson": lambda: rng.poisson(np.exp(truth)),
        "logistic": lambda: rng.binomial(1, special.expit(truth)),
    }[head]()  # fmt: skip
    edits = xr.Dataset(
        {"member_effect": (("member", "edit", "feature"), member)},
        {"feature": NAMES, "sequence": ids, "kind": ("edit", np.full(len(row), "shuffled"))}
        | {name: ("edit", np.full(len(row), "A")) for name in ("reference", "replacement")}
        | {name: ("edit", scores[name].to_numpy()) for name in ("sequence_id", "factor", "start")},
    )
    dims, coordinates = ("member", "sequence", "feature"), {"sequence": ids, "feature": NAMES}
    exact = {
        (x, y): (change[a, i] @ change[a, j]) / (change[a, i] @ change[a, i])
        for i, x in enumerate(NAMES) for j, y in enumerate(NAMES) if i != j
        for a in [kind == i]
    }  # fmt: skip
    learned = {x: float(member.mean(0)[kind == i, i].sum() / change[kind == i, i].sum())
               for i, x in enumerate(NAMES)}  # fmt: skip
    parts = edits, xr.DataArray(predicted, coordinates, dims), pd.DataFrame(labels, ids, NAMES)
    return (*parts, scores), pd.Series(exact), pd.Series(learned)


def corrected(parts, head="gaussian", **options):
    return correct(*parts, head=head, **options).set_index(PAIR)


@pytest.mark.parametrize("head", ["gaussian", "poisson"])
@pytest.mark.parametrize("both", [0.0, 0.7])
def test_labels_without_noise_give_the_truth_back(head, both):
    """Also where A helps B: what happens beside both counts where both are."""
    parts, exact, learned = world(both=both, members=3)
    if head == "poisson":
        parts = (*parts[:2], np.exp(parts[2]), parts[3])
    found = corrected(parts, head)
    assert found["knockout"].to_numpy() == pytest.approx(exact.loc[found.index], abs=1e-7)
    shares = found.groupby("exposure")["learned_response"].first()
    assert shares.to_numpy() == pytest.approx(learned.to_numpy(), abs=1e-7)
    assert shares["A"] == pytest.approx(0.5, abs=1e-7)
    assert both or shares["B"] == pytest.approx(0.9, abs=1e-7)
    row = found.loc["A", "B"]
    before = knockout_effects(parts[0]).set_index(PAIR).loc[("A", "B"), "knockout"]
    assert row["model_knockout"] == pytest.approx(before, rel=1e-12)
    assert before == pytest.approx(0.6, rel=0.01)
    if both:
        # six in ten sequences with A have a site of B; some keep another site of A
        assert 0.4 + 0.4 * both < row["knockout"] < 0.4 + 0.6 * both
        main = corrected(parts, head, interactions=False).loc["A", "B"]
        off = main["knockout"] / row["knockout"] - 1
        assert abs(off) < 0.05 if head == "gaussian" else off > 0.15  # weights go with counts


def test_mean_response_and_what_is_missed():
    parts, _, _ = world()
    row = corrected(parts).loc["A", "B"]
    assert row["missed"] / row["response"] == pytest.approx(0.25 / 0.75, abs=1e-7)
    assert row["response"] < 0
    assert row[["k", "n_labels"]].tolist() == [parts[3].query("factor == 'A'").sequence_id.nunique(), 500]  # fmt: skip


@pytest.mark.parametrize(
    ("head", "n", "rounds"),
    [("gaussian", 400, 100), ("poisson", 400, 50), ("logistic", 2500, 25)],
)
def test_intervals_cover(head, n, rounds):
    """All six ratios and three learned responses; errors as large as they are said to be."""
    errors, inside, learned = [], [], []
    for seed in range(rounds):
        parts, exact, share = world(n, head=head, seed=seed)
        found = corrected(parts, head)
        truth = exact.loc[found.index]
        errors.append(((found["knockout"] - truth) / found["se"]).to_numpy())
        inside.append(found["ci_low"].le(truth) & found["ci_high"].ge(truth))
        one = found.groupby("exposure").first()
        learned.append(one["learned_ci_low"].le(share) & one["learned_ci_high"].ge(share))
        if head == "logistic" and not seed:
            assert found["learned_response"]["A"].iloc[0] == pytest.approx(0.5, abs=0.12)
    for covered in (inside, learned):
        rate = np.mean(covered, 0)  # of each, by chance 95 of 100
        low, high = binom.ppf([2e-3, 1 - 2e-3], rounds, 0.95) / rounds
        assert (rate >= low).all()
        assert rate.mean() <= min(high, 0.985)
    assert np.std(errors) == pytest.approx(1, abs=0.08)
    assert abs(np.mean(errors)) < 3 / np.sqrt(rounds)


def test_members_widen_intervals_and_stay_covered():
    """Those of ratios; the learned response is that of these members."""
    inside, wider, learned = [], [], []
    for seed in range(20):
        parts, exact, share = world(400, members=4, head="gaussian", seed=seed, spread=0.1)
        found = corrected(parts)
        truth = exact.loc[found.index]
        inside.append(found["ci_low"].le(truth) & found["ci_high"].ge(truth))
        mean = parts[0].mean("member").expand_dims("member"), parts[1].mean("member").expand_dims("member")  # fmt: skip
        wider.append(found["se"] / corrected((*mean, *parts[2:]))["se"])
        one = found.groupby("exposure").first()
        learned.append(one["learned_ci_low"].le(share) & one["learned_ci_high"].ge(share))
    assert np.mean(inside) >= 0.93
    assert np.mean(wider) > 1
    assert 0.86 < np.mean(learned) < 1


def test_the_standard_error_is_that_of_leaving_out_sequences():
    parts, _, _ = world(220, head="gaussian", seed=3)
    edits, predictions, labels, scores = parts
    whole, left = corrected(parts, interactions=False), []
    for one in labels.index:
        kept = edits.isel(edit=edits["sequence_id"].to_numpy() != one)
        left.append(
            corrected((kept, predictions, labels.drop(one), scores), interactions=False)["knockout"]
        )
    jackknife = np.sqrt(219 / 220 * ((left - np.mean(left, 0)) ** 2).sum(0))
    # the jackknife is a little too wide, by the leverage of sequences
    assert (whole["se"] / jackknife).between(0.95, 1.01).all()


def test_sequences_of_one_group_count_once():
    edits, predictions, labels, scores = world(head="gaussian")[0]
    twin = str.upper
    double = (
        xr.concat([edits.drop_vars("sequence"),
                   edits.drop_vars("sequence").assign_coords(
                       sequence_id=("edit", [twin(i) for i in edits["sequence_id"].to_numpy()]))],
                  "edit"),
        xr.concat([predictions, predictions.assign_coords(sequence=list(map(twin, labels.index)))],
                  "sequence"),
        pd.concat([labels, labels.rename(index=twin)]),
        pd.concat([scores, scores.assign(sequence_id=scores["sequence_id"].map(twin))]),
    )  # fmt: skip
    groups = pd.Series(double[2].index.str.lower(), double[2].index)
    one, two = corrected((edits, predictions, labels, scores)), corrected(double, groups=groups)
    assert two["knockout"].to_numpy() == pytest.approx(one["knockout"], rel=1e-9)
    assert two["se"].to_numpy() == pytest.approx(one["se"], rel=0.02)
    assert corrected(double)["se"].to_numpy() == pytest.approx(one["se"] / 2**0.5, rel=0.02)


def test_tables_are_joined_by_their_names():
    parts, _, _ = world(head="gaussian", members=3, spread=0.1)
    edits, predictions, labels, scores = parts
    rng = np.random.default_rng(0)
    mixed = (
        edits.isel(edit=rng.permutation(edits.sizes["edit"]), feature=[2, 0, 1]),
        predictions.isel(sequence=rng.permutation(500), feature=[1, 2, 0]).transpose(),
        labels.sample(frac=1, random_state=0)[["B", "C", "A"]],
        scores.sample(frac=1, random_state=0),
    )
    one, other = corrected(parts), corrected(mixed)
    pd.testing.assert_frame_equal(other.loc[one.index], one, rtol=1e-8)


def test_a_covariate_that_sites_go_with_is_taken_out():
    (edits, predictions, labels, scores), exact, _ = world()
    gc = pd.DataFrame({"gc": np.random.default_rng(1).normal(size=500)}, labels.index)
    gc.loc[scores.query("factor == 'C'")["sequence_id"].unique(), "gc"] += 1
    parts = edits, predictions, labels.add(0.5 * gc["gc"], axis=0), scores
    assert corrected(parts).loc[("C", "A"), "knockout"] > 0.3
    found = corrected(parts, covariates=gc)["knockout"]
    assert found.to_numpy() == pytest.approx(exact.loc[found.index], abs=1e-7)


def test_an_exposure_without_a_response_has_no_ratio():
    edits, predictions, labels, scores = world(head="gaussian")[0]
    dead = labels.copy()
    dead["A"] = np.random.default_rng(0).normal(size=500)
    edits = edits.copy(deep=True)
    edits["member_effect"].loc[{"feature": "A"}] = 0
    predictions = predictions.copy(deep=True)
    predictions.loc[{"feature": "A"}] = 0
    found = corrected((edits, predictions, dead, scores))
    assert found.loc["A", ["knockout", "se", "p", "learned_response"]].isna().all(axis=None)
    assert (found.loc["A", "status"] == "the exposure's own response, corrected, is not significant").all()  # fmt: skip
    assert found.loc["B", "knockout"].notna().all()


def broken(change):
    parts = list(world(head="poisson")[0])
    options = {"head": "poisson"} | (change(parts) or {})
    return lambda: correct(*parts, **options)


def put(i, value):
    def change(parts):
        parts[i] = value(parts[i])

    return change  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: {"trained_on": ["x", "s3"]}, "no member was trained on; 1 of 500.*s3"),
        (lambda parts: {"head": "probit"}, "unknown head 'probit'"),
        (lambda parts: {"head": "logistic"}, "must be 0 or 1; row s.* has A"),
        (put(2, lambda y: y - 1), "must be counts, 0 or more; row s.* has A -1"),
        (put(2, lambda y: y.assign(A=y["A"].where(y.index != "s4"))), "row s4 has A nan"),
        (put(2, lambda y: y.rename(columns={"C": "D"})), "unknown feature of labels 'D'"),
        (put(2, lambda y: pd.concat([y, y[:1]])), "sequence once; twice: s0"),
        (put(2, lambda y: y[:150]), "13 regressors and needs 260 labels; got 150"),
        (put(1, lambda p: p.isel(sequence=slice(9))), "491 labels have no prediction"),
        (put(1, lambda p: p.rename(member="m")), "dimensions member, sequence, feature"),
        (put(1, lambda p: xr.concat([p, p], "member")), "of 2 members, edits of 1"),
        (put(3, lambda t: t[t["factor"] != "B"]), "not in the table of scores: s.*B"),
        (put(3, lambda t: t.drop(columns="score")), "'score'"),
        (put(0, lambda e: e.assign_coords(kind=("edit", ["moved"] * e.sizes["edit"]))),
         "no site of A, B, C was destroyed"),
        (put(0, lambda e: e.drop_vars("member_effect")), "with member_effect"),
        (lambda parts: {"covariates": parts[2][:-1]}, "covariates must have all sequences; 1"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        broken(change)()


def test_a_motif_needs_sequences_with_and_without_sites():
    edits, predictions, labels, scores = world(head="gaussian")[0]
    without = scores.query("factor == 'A'")["sequence_id"]
    kept = labels.loc[labels.index.isin(without)]
    with pytest.raises(ValueError, match=r"missed of A needs 10 .* got \d+ and 0"):
        corrected((edits, predictions, kept, scores))


def test_labels_that_a_motif_separates_are_refused():
    edits, predictions, labels, scores = world(head="logistic")[0]
    labels["A"] = labels.index.isin(scores.query("factor == 'A'")["sequence_id"]).astype(int)
    with pytest.raises(ValueError, match="does not converge"):
        corrected((edits, predictions, labels, scores), "logistic")
