"""Transcription-factor cooperativity with a known causal effect (experiment 1).

Two factors bind simulated DNA; the exposure raises the outcome's binding. A round is one draw of
the rates, the sequences and their labels. Everything is a field of `Parameters`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from deepmr_utils._checks import check_choice
from deepmr_utils.motifs import log_odds, occupancy
from deepmr_utils.sequences import encode, one_hot

from ..planting import site_mutants
from .parameters import FEATURES, Parameters, Rates, draw_rates
from .parameters import PUBLISHED_SCENARIOS as PUBLISHED_SCENARIOS
from .parameters import SCENARIOS as SCENARIOS
from .sequences import augment, simulate_sequences

DIRECTIONS = {"forward": FEATURES, "reverse": FEATURES[::-1]}  # exposure and outcome analysed
SPLITS = ("train", "augmented", "validation", "calibration", "test")
UNBIASED_GC = 0.5  # share of G and C at which a GC bias leaves counts as they are
MIN_EXPOSURE_CHANGE = 1.0  # Anscombe units: one sd of the label noise; below it slopes explode


class Round(NamedTuple):
    """One simulated round: its parameters, its rates and its sequence table.

    ``sequences`` has one row a sequence: ``sequence_id``, ``split``, ``sequence``, the 0-based
    starts of embedded motifs (``exposure_start`` ..., missing where not embedded), the occupancies
    ``q_exposure, q_outcome, q_confounder`` and the share of G and C ``q_gc`` (0 for what does not
    act), the unseen ``batch``, the expected counts ``rate_exposure, rate_outcome`` and the labels
    ``exposure, outcome`` (Anscombe units).
    """

    parameters: Parameters
    rates: Rates
    sequences: pd.DataFrame

    def split(self, name: str) -> pd.DataFrame:
        """Sequences of one split (or ``"fit"``: training sequences with their augmentations)."""
        names = ("train", "augmented") if name == "fit" else (name,)
        return self.sequences[self.sequences["split"].isin(names)]


def anscombe(counts: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Variance-stabilise Poisson counts: ``2 sqrt(n + 3/8)`` (Anscombe, 1948)."""
    return 2 * (counts + 0.375) ** 0.5


def label(
    sequences: pd.DataFrame, parameters: Parameters, rates: Rates, rng: np.random.Generator
) -> pd.DataFrame:
    """Add occupancies, the unseen batch, expected counts and noisy labels to sequences.

    Labels are Anscombe-transformed Poisson draws of the expected counts (see `expected_counts`).
    """
    table = sequences.copy()
    q = occupancies(one_hot(encode(table["sequence"]), torch.float64), parameters)
    for name in ("exposure", "outcome", "confounder", "gc"):
        table[f"q_{name}"] = q[name].numpy() if name in q else 0.0
    table["batch"] = (rng.random(len(table)) < parameters.p_batch) & parameters.batch_confounded
    counts = expected_counts(q, rates, torch.from_numpy(table["batch"].to_numpy(np.float64)))
    for name, rate in zip(FEATURES, counts.T.numpy(), strict=True):
        table[f"rate_{name}"] = rate
        table[name] = anscombe(rng.poisson(rate))
    return table


def occupancies(sequences: torch.Tensor, parameters: Parameters) -> dict[str, torch.Tensor]:
    """Occupancy q (N,) of each motif at work, for one-hot sequences (N, 4, L).

    With a GC bias also, under "gc", the share of G and C.
    """
    q = {
        name: occupancy(sequences, log_odds(motif, parameters.background))
        for name, motif in parameters.motifs.items()
    }
    if parameters.gc_biased:
        q["gc"] = sequences[:, 1:3].mean(-1).sum(-1)
    return q


def expected_counts(
    q: dict[str, torch.Tensor], rates: Rates, batch: torch.Tensor | float
) -> torch.Tensor:
    """Expected counts (N, 2) of exposure and outcome.

    ::

        c_exposure = 1 + alpha q_exp       + eta q_conf + tau1 B
        c_outcome  = 1 + beta  q_exp q_out + nu  q_conf + tau2 B

    Each times ``exp(gc (q_gc - 1/2))`` where there is a GC bias.
    """
    confounder = q.get("confounder", 0.0)
    exposure = 1 + rates.alpha * q["exposure"] + rates.eta * confounder + rates.tau1 * batch
    outcome = (
        1 + rates.beta * q["exposure"] * q["outcome"] + rates.nu * confounder + rates.tau2 * batch
    )
    counts = torch.stack([exposure, outcome], -1)
    if "gc" in q and rates.gc:
        counts = counts * (rates.gc * (q["gc"] - UNBIASED_GC)).exp()[..., None]
    return counts


def simulate_round(parameters: Parameters, seed: int | np.random.SeedSequence) -> Round:
    """Simulate one round: rates, sequences of all splits, augmentation and labels.

    Augmented sequences descend from training sequences only, so that validation, calibration and
    test sequences share nothing with what a model is fitted to. The same seed gives the same round,
    and each part has a stream of its own: test sequences do not change with ``n_train``.
    """
    seeds = np.random.SeedSequence(seed).spawn(6) if isinstance(seed, int) else seed.spawn(6)
    names = ("rates", "train", "train_labels", "augment", "test", "test_labels")
    streams = dict(zip(names, map(np.random.default_rng, seeds), strict=True))
    p = parameters
    rates = draw_rates(p, streams["rates"])
    train = label(simulate_sequences(p, p.n_train, streams["train"], "train"), p, rates,
                  streams["train_labels"])  # fmt: skip
    n_validation = round(p.validation_share * p.n_train)
    n_calibration = round(p.calibration_share * p.n_train)
    n_fit = p.n_train - n_validation - n_calibration
    train["split"] = np.repeat(["train", "validation", "calibration"],
                               [n_fit, n_validation, n_calibration])  # fmt: skip
    parts = [train]
    if p.n_augmented:
        mutants = augment(train.iloc[:n_fit], p, p.n_augmented, streams["augment"])
        parts.append(label(mutants, p, rates, streams["augment"]).assign(split="augmented"))
    test = simulate_sequences(p, p.n_test, streams["test"], "test")
    parts.append(label(test, p, rates, streams["test_labels"]).assign(split="test"))
    table = pd.concat(parts, ignore_index=True)
    table["split"] = pd.Categorical(table["split"], categories=SPLITS)
    return Round(p, rates, table)


class Oracle(nn.Module):
    """The simulation itself as a model: one-hot (N, 4, L) to expected features (N, 2).

    Features are Anscombe-transformed expected counts, averaged over the unseen batch: what a
    perfect model would predict. Use it in place of a trained network to test a pipeline.
    """

    feature_names = FEATURES

    def __init__(self, parameters: Parameters, rates: Rates) -> None:
        super().__init__()
        self.simulation, self.rates = parameters, rates  # a module has `parameters` already

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expected features (N, 2)."""
        return mean_anscombe(occupancies(x, self.simulation), self.rates, self.simulation.p_batch)


def mean_anscombe(q: dict[str, torch.Tensor], rates: Rates, p_batch: float) -> torch.Tensor:
    """Anscombe-transformed expected counts (N, 2), averaged over the unseen batch."""
    return (1 - p_batch) * anscombe(expected_counts(q, rates, 0.0)) + p_batch * anscombe(
        expected_counts(q, rates, 1.0)
    )


def local_truth(
    sequences: pd.DataFrame, parameters: Parameters, rates: Rates, direction: str = "forward"
) -> pd.DataFrame:
    """True local causal effect of each sequence.

    Parameters
    ----------
    sequences : pd.DataFrame
        ``sequence_id, sequence, exposure_start`` (reverse: ``outcome_start``) of S sequences.
    parameters : Parameters
    rates : Rates
    direction : {"forward", "reverse"}
        ``"reverse"``: the effect of the simulation's outcome on its exposure, with the outcome's
        motif in the place of the exposure's. Nothing in the simulation leads that way, so it is 0
        but where a substitution also changes a site of the other factor.

    Returns
    -------
    pd.DataFrame
        One row a sequence: ``sequence_id``, ``truth``, ``truth_published`` (NaN where there is
        none) and ``truth_status``, "ok" or why there is no truth.

    Notes
    -----
    The slope, without intercept, of least squares of outcome changes on exposure changes over all
    substitutions inside the embedded exposure motif, both as differences of Anscombe-transformed
    expected counts. For ``truth`` confounders are held fixed: the confounder's occupancy and the
    share of G and C stay those of the reference sequence, and changes are averaged over the unseen
    batch. ``truth_published`` leaves the confounder terms out, as Malina, Cizin and Knowles (2022)
    do. No slope is given where no substitution changes the exposure by at least
    `MIN_EXPOSURE_CHANGE`.
    """
    table = sequences[["sequence_id"]].reset_index(drop=True)
    table = table.assign(truth=np.nan, truth_published=np.nan, truth_status="ok")
    role, other = analysed_features(direction)
    start = sequences[f"{role}_start"].to_numpy(np.int64, na_value=-1)
    rows = np.flatnonzero(start >= 0)
    table.loc[start < 0, "truth_status"] = f"no embedded {role} motif"
    if not len(rows):
        return table

    reference = encode(sequences["sequence"].iloc[rows])
    width = parameters.motifs[role].width
    mutants = site_mutants(reference, start[rows], width)
    codes = np.concatenate([reference[:, None], mutants], axis=1)
    q = occupancies(one_hot(codes.reshape(-1, codes.shape[-1]), torch.float64), parameters)
    q = {name: values.view(len(rows), -1) for name, values in q.items()}

    unconfounded = rates._replace(eta=0.0, nu=0.0, tau1=0.0, tau2=0.0, gc=0.0)
    fixed = dict(q)
    for name in ("confounder", "gc"):
        if name in q:
            fixed[name] = q[name][:, :1].expand_as(q[name])
    for column, features in {
        "truth": mean_anscombe(fixed, rates, parameters.p_batch),
        "truth_published": anscombe(expected_counts(q, unconfounded, 0.0)),
    }.items():
        change = (features[:, 1:] - features[:, :1]).numpy()
        exposure, outcome = change[..., FEATURES.index(role)], change[..., FEATURES.index(other)]
        slope = (exposure * outcome).sum(1) / np.maximum((exposure**2).sum(1), 1e-300)
        weak = np.abs(exposure).max(1) < MIN_EXPOSURE_CHANGE
        table.loc[rows, column] = np.where(weak, np.nan, slope)
        if column == "truth":
            table.loc[rows[weak], "truth_status"] = (
                f"no substitution changes the {role} by {MIN_EXPOSURE_CHANGE:g}"
            )
    return table


def analysed_features(direction: str) -> tuple[str, str]:
    """Features that are taken for exposure and outcome in a direction of `DIRECTIONS`."""
    return DIRECTIONS[check_choice("direction", direction, list(DIRECTIONS))]


def stratum(sequences: pd.DataFrame) -> pd.Categorical:
    """Which of exposure and outcome motif each sequence has embedded."""
    exposure, outcome = sequences["exposure_start"].notna(), sequences["outcome_start"].notna()
    names = ["neither", "exposure motif only", "outcome motif only", "both motifs"]
    return pd.Categorical.from_codes((exposure + 2 * outcome).to_numpy(np.int8), categories=names)


def motif_spans(sequence: pd.Series, parameters: Parameters) -> list[tuple[str, int, int]]:
    """Embedded motifs of a row of a sequence table, as (name, start, end), end exclusive."""
    return [
        (name, int(sequence[f"{name}_start"]), int(sequence[f"{name}_start"]) + motif.width)
        for name, motif in parameters.motifs.items()
        if pd.notna(sequence[f"{name}_start"])
    ]


def noise_floor(sequences: pd.DataFrame, parameters: Parameters, rates: Rates) -> pd.Series:
    """Smallest mean squared error that any model of the sequence can reach, by feature.

    The variance of the label given the sequence, over Poisson noise and the unseen batch, averaged
    over the sequences.
    """
    names = (*parameters.motifs, "gc")
    q = {name: torch.tensor(sequences[f"q_{name}"].to_numpy()) for name in names}
    means, variances = zip(
        *(anscombe_moments(expected_counts(q, rates, batch).numpy()) for batch in (0.0, 1.0)),
        strict=True,
    )
    p = parameters.p_batch
    variance = (1 - p) * variances[0] + p * variances[1] + p * (1 - p) * (means[1] - means[0]) ** 2
    return pd.Series(variance.mean(0), index=list(FEATURES), name="noise_floor")


def anscombe_moments(rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of an Anscombe-transformed Poisson count, for rates of any shape.

    Sums over the distribution on a grid of rates, interpolated by a cubic spline on the
    square-root scale (error below 1e-6).
    """
    root = np.linspace(0, np.sqrt(rate.max()), 512)
    top = rate.max() + 12 * np.sqrt(rate.max()) + 12
    counts = np.arange(np.ceil(top))
    weights = scipy.stats.poisson.pmf(counts, root[:, None] ** 2)
    values = anscombe(counts)
    mean = weights @ values
    variance = weights @ values**2 - mean**2
    return CubicSpline(root, mean)(np.sqrt(rate)), CubicSpline(root, variance)(np.sqrt(rate))
