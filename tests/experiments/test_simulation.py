"""The simulation against hand-computed values and against its own definition."""

import time
import timeit
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr

from deepmr_utils.instruments import select_instruments
from deepmr_utils.motifs import log_odds, occupancy
from deepmr_utils.mr import local_mr
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import ALPHABET, one_hot
from experiments.cooperativity import simulation

N = 10_000
PARAMETERS = simulation.Parameters(scenario="both", effect_ratio=3.0)
WIDTH = {"exposure": 10, "outcome": 16, "confounder": 15}


@pytest.fixture(scope="module")
def table():
    return simulation.simulate_sequences(PARAMETERS, N, np.random.default_rng(7))


@pytest.fixture(scope="module")
def small_round():
    parameters = replace(PARAMETERS, n_train=1000, n_augmented=250, n_test=200)
    return simulation.simulate_round(parameters, 3)


def binomial_bounds(p, n=N):
    """Counts that a binomial leaves with probability 1e-6 only."""
    return scipy.stats.binom.interval(1 - 1e-6, n, p)


def test_embedding_proportions(table):
    exposure, outcome = table["exposure_start"].notna(), table["outcome_start"].notna()
    for count in (
        (exposure & ~outcome).sum(),
        (outcome & ~exposure).sum(),
        (exposure & outcome).sum(),
    ):
        low, high = binomial_bounds(0.25)
        assert low <= count <= high
    low, high = binomial_bounds(0.5)
    assert low <= table["confounder_start"].notna().sum() <= high


def test_background_is_in_acgt_order():
    skewed = replace(PARAMETERS, scenario="none", p_motif=0.0, background=(0.4, 0.3, 0.2, 0.1))
    drawn = simulation.simulate_sequences(skewed, 1000, np.random.default_rng(0))
    counts = pd.Series(list("".join(drawn["sequence"]))).value_counts()[list(ALPHABET)]
    chi2 = scipy.stats.chisquare(counts, 100_000 * np.array([0.4, 0.3, 0.2, 0.1]))
    assert chi2.pvalue > 1e-6


def test_embedded_instances_are_sampled_from_the_matrix(table):
    for name, motif in PARAMETERS.motifs.items():
        rows = table[table[f"{name}_start"].notna()]
        instances = [
            s[start : start + motif.width]
            for s, start in zip(rows["sequence"], rows[f"{name}_start"], strict=True)
        ]
        shares = one_hot(instances).mean(0).T.numpy()
        # five standard deviations of a share at most, rounded matrices included
        np.testing.assert_allclose(shares, motif.probabilities, atol=2.5 / np.sqrt(len(rows)))


def test_motifs_never_overlap_and_stay_inside(table):
    starts = {n: table[f"{n}_start"].to_numpy(np.float64, na_value=np.nan) for n in WIDTH}
    for name, start in starts.items():
        assert np.nanmin(start) == 0
        assert np.nanmax(start) == 100 - WIDTH[name]
        for other in WIDTH:
            if other != name:
                both = ~np.isnan(start) & ~np.isnan(starts[other])
                apart = (start + WIDTH[name] <= starts[other]) | (
                    starts[other] + WIDTH[other] <= start
                )
                assert apart[both].all()


def test_gap_is_uniform_where_it_fits(table):
    pairs = table.dropna(subset=["exposure_start", "outcome_start"])
    gap = (pairs["outcome_start"] - pairs["exposure_start"] - 10).to_numpy(np.int64)
    assert gap.min() == 16
    assert gap.max() == 74
    assert scipy.stats.chisquare(np.bincount(gap, minlength=75)[16:]).pvalue > 1e-6


def test_single_motif_position_is_uniform(table):
    single = table["exposure_start"][table["outcome_start"].isna()].dropna().to_numpy(np.int64)
    assert scipy.stats.chisquare(np.bincount(single, minlength=91)).pvalue > 1e-6


def test_expected_counts_by_hand():
    q = {name: torch.tensor([v]) for name, v in {"exposure": 0.8, "outcome": 0.5, "confounder": 0.25}.items()}  # fmt: skip
    rates = simulation.Rates(100, 300, 20, 30, 25, 25)
    # 1 + 100 * .8 + 20 * .25 + 25 = 111;  1 + 300 * .8 * .5 + 30 * .25 + 25 = 153.5
    np.testing.assert_allclose(simulation.expected_counts(q, rates, 1.0), [[111, 153.5]])
    np.testing.assert_allclose(simulation.expected_counts(q, rates, 0.0), [[86, 128.5]])
    assert simulation.anscombe(np.array(111.0)) == pytest.approx(2 * np.sqrt(111.375))


@pytest.mark.parametrize("scenario", simulation.SCENARIOS)
def test_labels_are_poisson_draws_of_the_rates(scenario):
    parameters = replace(PARAMETERS, scenario=scenario)
    rng = np.random.default_rng(5)
    rates = simulation.draw_rates(parameters, rng)
    data = simulation.label(
        simulation.simulate_sequences(parameters, 4000, rng), parameters, rates, rng
    )
    for name in simulation.FEATURES:
        counts = (data[name] / 2) ** 2 - 0.375
        np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
        z = (counts - data[f"rate_{name}"]).sum() / np.sqrt(data[f"rate_{name}"].sum())
        assert abs(z) < 5
        dispersion = ((counts - data[f"rate_{name}"]) ** 2 / data[f"rate_{name}"]).mean()
        assert dispersion == pytest.approx(1, abs=5 * np.sqrt(3 / 4000))
    assert data["batch"].any() == parameters.batch_confounded
    assert (data["q_confounder"] > 0).any() == parameters.sequence_confounded
    if scenario == "none":
        assert rates[2:] == (0, 0, 0, 0, 0)
    if scenario == "both":
        assert rates[2:] == (20, 30, 25, 25, 0)
    if scenario == "gc_bias":
        assert rates[2:] == (0, 0, 0, 0, 4)
        share = data["sequence"].str.count("[GC]") / 100
        np.testing.assert_allclose(data["q_gc"], share)
        unbiased = 1 + rates.alpha * data["q_exposure"]
        np.testing.assert_allclose(data["rate_exposure"], unbiased * np.exp(4 * (share - 0.5)))


def test_background_alone_gives_the_confounder_a_mean_occupancy_of_069():
    parameters = replace(PARAMETERS, p_motif=0.0, p_confounder=0.0)
    drawn = simulation.simulate_sequences(parameters, N, np.random.default_rng(0))
    q = simulation.occupancies(one_hot(drawn["sequence"].tolist(), torch.float64), parameters)
    assert q["confounder"].mean() == pytest.approx(0.69, abs=0.01)


def test_effect_ratio_mixture():
    draws = [
        simulation.draw_rates(simulation.Parameters(), np.random.default_rng(i))
        for i in range(4000)
    ]
    alpha = np.array([d.alpha for d in draws])
    ratio = np.array([d.beta for d in draws]) / alpha
    assert alpha.mean() == pytest.approx(100, abs=5 * 3 / np.sqrt(4000))
    assert alpha.std() == pytest.approx(3, rel=0.06)
    low, high = binomial_bounds(0.5, 4000)
    assert low <= (ratio > 5).sum() <= high
    assert ratio[ratio > 5].mean() == pytest.approx(10, abs=0.06)
    # Normal(1, 0.5) with negative draws at 0: mean = phi(2) / 2 + Phi(2) = 1.0042
    assert ratio[ratio < 5].mean() == pytest.approx(1.0042, abs=0.06)
    low, high = binomial_bounds(0.5 * scipy.stats.norm.cdf(-2), 4000)
    assert low <= (ratio == 0).sum() <= high


def test_round_is_reproducible_and_its_parts_have_streams_of_their_own(small_round):
    again = simulation.simulate_round(small_round.parameters, 3)
    pd.testing.assert_frame_equal(again.sequences, small_round.sequences)
    more = simulation.simulate_round(replace(small_round.parameters, n_train=1200), 3)
    pd.testing.assert_frame_equal(
        more.split("test").reset_index(drop=True), small_round.split("test").reset_index(drop=True)
    )
    other = simulation.simulate_round(small_round.parameters, 4)
    assert (other.sequences["sequence"] != small_round.sequences["sequence"]).all()


def test_splits_share_no_sequence(small_round):
    counts = small_round.sequences["split"].value_counts()
    assert counts.to_dict() == {
        "train": 850, "augmented": 250, "test": 200, "validation": 75, "calibration": 75
    }  # fmt: skip
    assert small_round.sequences["sequence_id"].is_unique
    parents = small_round.split("augmented")["sequence_id"].str.removesuffix("-mutant")
    assert parents.isin(small_round.split("train")["sequence_id"]).all()


def test_each_split_has_a_share_of_its_own():
    shares = {"validation_share": 0.2, "calibration_share": 0.05}
    p = simulation.Parameters(n_train=100, n_augmented=10, n_test=20, **shares)
    counts = simulation.simulate_round(p, 0).sequences["split"].value_counts()
    assert counts.to_dict() == {
        "train": 75, "augmented": 10, "test": 20, "validation": 20, "calibration": 5
    }  # fmt: skip


def test_augmentation_mutates_each_embedded_motif_once(small_round):
    mutants = small_round.split("augmented").copy()
    parents = small_round.split("train").set_index("sequence_id")
    for mutant in mutants.itertuples():
        parent = parents.loc[mutant.sequence_id.removesuffix("-mutant")]
        changed = [i for i in range(100) if mutant.sequence[i] != parent["sequence"][i]]
        spans = simulation.motif_spans(parent, small_round.parameters)
        if not spans:
            assert len(changed) == 1
            continue
        assert len(changed) == len(spans)
        for _, start, end in spans:
            assert sum(start <= i < end for i in changed) == 1


def test_oracle_is_the_mean_label(small_round):
    data, p, rates = small_round.split("test"), small_round.parameters, small_round.rates
    oracle = simulation.Oracle(p, rates)
    prediction = oracle(one_hot(data["sequence"].tolist(), torch.float64))
    assert prediction.shape == (len(data), 2)
    for batch, values in data.groupby("batch"):
        q = {n: torch.tensor(values[f"q_{n}"].to_numpy()) for n in WIDTH}
        rate = simulation.expected_counts(q, rates, float(batch))
        np.testing.assert_allclose(rate, values[["rate_exposure", "rate_outcome"]], rtol=1e-10)


def test_truth_by_brute_force(small_round):
    """One sequence, substitution by substitution, in plain Python."""
    p, rates = small_round.parameters, small_round.rates
    data = small_round.split("test").dropna(subset=["exposure_start"]).head(5)
    truth = simulation.local_truth(data, p, rates)

    def features(text, batch, q_confounder, confounded=True):
        q = {
            n: float(v)
            for n, v in simulation.occupancies(one_hot([text], torch.float64), p).items()
        }
        eta, nu, tau = (rates.eta, rates.nu, rates.tau1) if confounded else (0, 0, 0)
        counts = (
            1 + rates.alpha * q["exposure"] + eta * q_confounder + tau * batch,
            1 + rates.beta * q["exposure"] * q["outcome"] + nu * q_confounder + tau * batch,
        )
        return np.array([2 * np.sqrt(c + 0.375) for c in counts])

    for row, expected in zip(data.itertuples(), truth.itertuples(), strict=True):
        fixed, published = [], []
        for position in range(row.exposure_start, row.exposure_start + 10):
            for base in set(ALPHABET) - {row.sequence[position]}:
                mutant = row.sequence[:position] + base + row.sequence[position + 1 :]
                fixed.append(np.mean(
                    [features(mutant, b, row.q_confounder) - features(row.sequence, b, row.q_confounder)
                     for b in (0, 1)], axis=0))  # fmt: skip
                published.append(
                    features(mutant, 0, 0, False) - features(row.sequence, 0, 0, False)
                )
        for values, got in ((fixed, expected.truth), (published, expected.truth_published)):
            x, y = np.array(values).T
            if np.abs(x).max() >= 1:
                assert got == pytest.approx((x @ y) / (x @ x), rel=1e-9)
            else:
                assert np.isnan(got)


def test_truth_of_sequences_with_both_motifs_is_near_the_square_root_of_the_ratio():
    parameters = simulation.Parameters(effect_ratio=3.0, alpha_sd=0.0, n_train=100, n_augmented=0)
    data = simulation.simulate_round(parameters, 1)
    test = data.split("test")
    truth = simulation.local_truth(test, parameters, data.rates)
    both = truth[simulation.stratum(test) == "both motifs"]["truth"].dropna()
    assert both.mean() == pytest.approx(1.74, abs=0.04)  # sqrt(3) = 1.73, see the book
    assert both.std() < 0.1
    none = truth[test["exposure_start"].isna().to_numpy()]
    assert none["truth"].isna().all()
    assert set(none["truth_status"]) == {"no embedded exposure motif"}
    weak = truth[truth["truth_status"].str.startswith("no substitution")]
    assert len(weak) > 0
    assert weak["truth"].isna().all()


@pytest.mark.parametrize("scenario", simulation.SCENARIOS)
def test_pipeline_is_unbiased_on_the_oracle(scenario):
    """Exact expected labels in place of an ensemble: what remains is the method's own error."""
    parameters = simulation.Parameters(
        scenario=scenario, effect_ratio=3.0, alpha_sd=0.0, n_train=100, n_augmented=0, n_test=300
    )
    data = simulation.simulate_round(parameters, 11)
    test = data.split("test").dropna(subset=["exposure_start", "outcome_start"])
    effects = saturation_mutagenesis(
        simulation.Oracle(parameters, data.rates),
        one_hot(test["sequence"].tolist(), torch.float64),
        sequence_ids=test["sequence_id"],
        device="cpu",
    )
    # the oracle is sure of itself; all effects get one weight
    effects["se"] = xr.ones_like(effects["effect"])
    truth = simulation.local_truth(test, parameters, data.rates).set_index("sequence_id")["truth"]

    def slope(used):
        local = local_mr(select_instruments(used, "exposure", "outcome", threshold=0.0), "ivw")
        local = local.set_index(local["sequence_id"].astype(str))["causal_effect"]
        pair = pd.concat([truth, local], axis=1).dropna()
        assert len(pair) > 50
        return (pair["truth"] * pair["causal_effect"]).sum() / (pair["truth"] ** 2).sum()

    start = xr.DataArray(test["exposure_start"].to_numpy(np.int64), dims="sequence")
    offset = effects["position"] - start.assign_coords(sequence=effects["sequence"])
    in_motif = effects.assign(effect=effects["effect"].where((offset >= 0) & (offset < 10)))
    assert slope(effects) == pytest.approx(1, abs=0.01)  # 0.998 to 1.000 seen
    # inside the exposure motif the estimate is the truth, but for confounders read off the sequence
    confounded = parameters.sequence_confounded or parameters.gc_biased
    assert slope(in_motif) == pytest.approx(1, abs=1e-3 if confounded else 1e-9)


def test_robust_egger_overshoots_on_a_perfect_model_where_the_relation_is_curved():
    """What the book says of the estimators: with the simulation itself as the model, IVW meets the
    truth, and robust MR-Egger's intercept takes up curvature (3.96 becomes 4.8)."""
    parameters = simulation.Parameters(
        scenario="both", effect_ratio=10.0, alpha_sd=0.0, n_train=100, n_augmented=0, n_test=150
    )
    data = simulation.simulate_round(parameters, 11)
    test = data.split("test").dropna(subset=["exposure_start", "outcome_start"])
    truth = simulation.local_truth(test, parameters, data.rates)["truth"].median()
    effects = saturation_mutagenesis(
        simulation.Oracle(parameters, data.rates),
        one_hot(test["sequence"].tolist(), torch.float64),
        device="cpu",
    )
    effects["se"] = xr.ones_like(effects["effect"])
    selected = select_instruments(effects, "exposure", "outcome", threshold=1.0)
    ivw, egger = (local_mr(selected, m)["causal_effect"].median() for m in ("ivw", "egger_robust"))
    assert ivw == pytest.approx(truth, rel=0.01)
    assert egger > 1.1 * truth


def test_noise_floor_is_the_error_of_the_oracle(small_round):
    parameters = replace(small_round.parameters, n_test=20_000)
    data = simulation.simulate_round(parameters, 3)
    test = data.split("test")
    floor = simulation.noise_floor(test, parameters, data.rates)
    q = {n: torch.tensor(test[f"q_{n}"].to_numpy()) for n in WIDTH}
    means = [
        simulation.anscombe_moments(simulation.expected_counts(q, data.rates, b).numpy())[0]
        for b in (0.0, 1.0)
    ]
    error = ((test[list(simulation.FEATURES)].to_numpy() - np.mean(means, axis=0)) ** 2).mean(0)
    np.testing.assert_allclose(floor, error, rtol=0.05)  # 5 standard errors of the mean
    assert floor["exposure"] == pytest.approx(4.4, abs=0.3)


def test_anscombe_moments_against_the_distribution():
    rate = np.array([0.3, 1.0, 17.3, 400.0])
    counts = np.arange(1000)
    for r, mean, variance in zip(rate, *simulation.anscombe_moments(rate), strict=True):
        weights = scipy.stats.poisson.pmf(counts, r)
        exact = weights @ simulation.anscombe(counts)
        assert mean == pytest.approx(exact, abs=1e-6)
        assert variance == pytest.approx(
            weights @ simulation.anscombe(counts) ** 2 - exact**2, abs=1e-5
        )


def test_ten_thousand_labelled_sequences_take_less_than_half_a_second_of_a_core(one_thread):
    rng = np.random.default_rng(0)
    rates = simulation.draw_rates(PARAMETERS, rng)

    def simulate():
        sequences = simulation.simulate_sequences(PARAMETERS, N, rng)
        assert len(simulation.label(sequences, PARAMETERS, rates, rng)) == N

    # processor time, which other tests at the same time do not change
    seconds = timeit.repeat(simulate, number=1, repeat=5, timer=time.process_time)
    assert min(seconds) < 0.5  # 0.3 s seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "gc"}, "unknown scenario 'gc': choose one of none, sequence_dependent"),
        ({"background": (0.3, 0.3, 0.3, 0.3)}, "background must sum to 1; the sum is 1.2"),
        ({"length": 30}, "motifs are longer than the sequence.*need 42 bp, length is 30"),
        ({"p_motif": 1.5}, "p_motif must lie between 0 and 1; got 1.5"),
        ({"eta": -1.0}, "eta must be a number of at least 0; got -1.0"),
        ({"effect_ratio": -1.0}, "effect_ratio must be a number of at least 0"),
        ({"n_test": 0}, "n_test must be a number of at least 1"),
        ({"validation_share": 0.9, "calibration_share": 0.1}, "leave training sequences"),
        ({"exposure_motif": "GATA"}, "unknown motif 'GATA'"),
    ],
)
def test_bad_parameters_raise(change, message):
    with pytest.raises(ValueError, match=message):
        simulation.Parameters(**change)


def test_truth_holds_the_share_of_g_and_c_by_brute_force():
    parameters = simulation.Parameters(scenario="gc_bias", n_train=100, n_augmented=0, n_test=30)
    data = simulation.simulate_round(parameters, 5)
    test = data.split("test").dropna(subset=["exposure_start"])
    row = test[test["outcome_start"].notna()].iloc[0]
    motifs = {name: log_odds(m, parameters.background) for name, m in parameters.motifs.items()}
    fold = np.exp(4 * (np.mean([base in "GC" for base in row["sequence"]]) - 0.5))

    def features(sequence):
        x = one_hot([sequence], torch.float64)
        q = {name: float(occupancy(x, scores)) for name, scores in motifs.items()}
        exposure = 1 + data.rates.alpha * q["exposure"]
        outcome = 1 + data.rates.beta * q["exposure"] * q["outcome"]
        return simulation.anscombe(fold * np.array([exposure, outcome]))

    start, sequence = row["exposure_start"], row["sequence"]
    change = np.array([
        features(sequence[:i] + base + sequence[i + 1 :]) - features(sequence)
        for i in range(start, start + WIDTH["exposure"])
        for base in set("ACGT") - {sequence[i]}
    ])  # fmt: skip
    slope = change.prod(1).sum() / (change[:, 0] ** 2).sum()
    truth = simulation.local_truth(test, parameters, data.rates).set_index("sequence_id")["truth"]
    assert truth[row["sequence_id"]] == pytest.approx(slope, rel=1e-9)


def test_nothing_leads_from_the_outcome_to_the_exposure(small_round):
    test = small_round.split("test")
    truth = simulation.local_truth(test, small_round.parameters, small_round.rates, "reverse")
    told = truth["truth_status"] == "no embedded outcome motif"
    assert (told.to_numpy() == test["outcome_start"].isna().to_numpy()).all()
    assert truth["truth"].notna().sum() > 20
    # an outcome motif may overlap a weak background site of the exposure's
    assert truth["truth"].abs().median() < 1e-3
    with pytest.raises(
        ValueError, match="unknown direction 'back': choose one of forward, reverse"
    ):
        simulation.local_truth(test, small_round.parameters, small_round.rates, "back")
