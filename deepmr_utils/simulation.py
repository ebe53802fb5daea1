"""Transcription-factor cooperativity with a known causal effect (experiment 1).

Two factors bind simulated DNA; the exposure raises the outcome's binding. A round is one draw of
the rates, the sequences and their labels. Everything is a field of `Parameters`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from .motifs import Motif, check_probabilities, get_motif, log_odds, occupancy
from .sequences import ALPHABET, decode, encode, one_hot

FEATURES = ("exposure", "outcome")
PUBLISHED_SCENARIOS = ("none", "sequence_dependent", "sequence_independent", "both")
SCENARIOS = (*PUBLISHED_SCENARIOS, "gc_bias")
DIRECTIONS = {"forward": FEATURES, "reverse": FEATURES[::-1]}  # exposure and outcome analysed
SPLITS = ("train", "augmented", "validation", "calibration", "test")
UNBIASED_GC = 0.5  # share of G and C at which a GC bias leaves counts as they are
MIN_EXPOSURE_CHANGE = 1.0  # Anscombe units: one sd of the label noise; below it slopes explode


@dataclass(frozen=True)
class Parameters:
    """All parameters of the simulation; the defaults are those of the published study.

    ``effect_ratio`` fixes beta / alpha; by default it is drawn, once a round, from an equal mixture
    of Normal(10, 0.5) and Normal(1, 0.5) with negative draws set to 0. ``n_train`` counts the
    sequences that are split into training, validation and calibration sequences. In scenario
    ``gc_bias`` all counts rise with the share of G and C, by ``exp(gc_slope)`` per unit of it: the
    default is half as much again for 10 percentage points.
    """

    scenario: str = "none"
    exposure_motif: str = "GATA_disc1"
    outcome_motif: str = "TAL1_known1"
    confounder_motif: str = "SOX2_1"
    length: int = 100
    background: tuple[float, float, float, float] = (0.27, 0.23, 0.23, 0.27)
    p_motif: float = 0.75
    p_confounder: float = 0.5
    alpha_mean: float = 100.0
    alpha_sd: float = 3.0
    effect_ratio: float | None = None
    ratio_means: tuple[float, float] = (10.0, 1.0)
    ratio_sd: float = 0.5
    eta: float = 20.0
    nu: float = 30.0
    tau1: float = 25.0
    tau2: float = 25.0
    gc_slope: float = 4.0
    p_batch: float = 0.5
    n_train: int = 10_000
    n_augmented: int = 2_500
    n_test: int = 1_000
    validation_share: float = 0.075
    calibration_share: float = 0.075

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(
                f"unknown scenario {self.scenario!r}: choose one of {', '.join(SCENARIOS)}"
            )
        check_probabilities(self.background, "the background")
        for name in ("p_motif", "p_confounder", "p_batch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)}")
        for name in ("alpha_mean", "eta", "nu", "tau1", "tau2"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is a rate, 0 or more; got {getattr(self, name)}")
        if self.effect_ratio is not None and self.effect_ratio < 0:
            raise ValueError(f"effect_ratio must be 0 or more; got {self.effect_ratio}")
        if min(self.n_train, self.n_test) < 1 or self.n_augmented < 0:
            raise ValueError(
                "n_train and n_test must be at least 1 and n_augmented at least 0; got "
                f"{self.n_train}, {self.n_test} and {self.n_augmented}"
            )
        shares = self.validation_share, self.calibration_share
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                "validation_share and calibration_share must be 0 or more and leave "
                f"training sequences (sum below 1); got {shares}"
            )
        needed = self.embedding_length
        if needed > self.length:
            raise ValueError(
                f"the motifs are longer than the sequence: exposure, gap and outcome need {needed} "
                f"bp, length is {self.length}: use longer sequences or shorter motifs"
            )

    @property
    def sequence_confounded(self) -> bool:
        """Whether a confounder motif acts on both features."""
        return self.scenario in ("sequence_dependent", "both")

    @property
    def batch_confounded(self) -> bool:
        """Whether an unseen binary variable acts on both features."""
        return self.scenario in ("sequence_independent", "both")

    @property
    def gc_biased(self) -> bool:
        """Whether counts of both features rise with the share of G and C."""
        return self.scenario == "gc_bias"

    @property
    def motifs(self) -> dict[str, Motif]:
        """The motifs at work: exposure, outcome and, where it acts, confounder."""
        motifs = {
            "exposure": get_motif(self.exposure_motif),
            "outcome": get_motif(self.outcome_motif),
        }
        if self.sequence_confounded:
            motifs["confounder"] = get_motif(self.confounder_motif)
        return motifs

    @property
    def min_gap(self) -> int:
        """Smallest gap between the two motifs: the widest motif, so a confounder always fits."""
        return max(motif.width for motif in self.motifs.values())

    @property
    def embedding_length(self) -> int:
        """Bases that exposure motif, smallest gap and outcome motif need."""
        motifs = self.motifs
        return motifs["exposure"].width + self.min_gap + motifs["outcome"].width


class Rates(NamedTuple):
    """Rate parameters of one round (expected counts); confounders that do not act are 0."""

    alpha: float
    beta: float
    eta: float
    nu: float
    tau1: float
    tau2: float
    gc: float = 0.0


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


def draw_rates(parameters: Parameters, rng: np.random.Generator) -> Rates:
    """Draw the rate parameters of one round."""
    p = parameters
    alpha = max(rng.normal(p.alpha_mean, p.alpha_sd), 0.0)
    ratio = max(rng.normal(rng.choice(p.ratio_means), p.ratio_sd), 0.0)
    if p.effect_ratio is not None:
        ratio = p.effect_ratio
    eta, nu = (p.eta, p.nu) if p.sequence_confounded else (0.0, 0.0)
    tau1, tau2 = (p.tau1, p.tau2) if p.batch_confounded else (0.0, 0.0)
    return Rates(alpha, alpha * ratio, eta, nu, tau1, tau2, p.gc_slope if p.gc_biased else 0.0)


def simulate_sequences(
    parameters: Parameters, n: int, rng: np.random.Generator, prefix: str = "sequence"
) -> pd.DataFrame:
    """Draw sequences with embedded motifs.

    Parameters
    ----------
    parameters : Parameters
    n : int
        Number of sequences.
    rng : np.random.Generator
    prefix : str
        Sequence identifiers are ``prefix-0``, ``prefix-1``, ...

    Returns
    -------
    pd.DataFrame
        ``sequence_id, sequence, exposure_start, outcome_start, confounder_start``.

    Notes
    -----
    An i.i.d. background; with probability ``p_motif`` one of exposure motif, outcome motif or both,
    each instance drawn from the motif's matrix. The gap of a pair is uniform on [widest motif, what
    fits], positions are uniform over where the embedding fits, and a confounder motif never
    overlaps another.
    """
    motifs, length = parameters.motifs, parameters.length
    codes = _draw_bases(np.asarray(parameters.background), (n, length), rng)
    kind = np.where(rng.random(n) < parameters.p_motif, rng.integers(1, 4, n), 0)
    has = {"exposure": kind % 2 == 1, "outcome": kind >= 2}  # 1 exposure, 2 outcome, 3 both
    width = {name: motif.width for name, motif in motifs.items()}

    gap = rng.integers(
        parameters.min_gap, length - width["exposure"] - width["outcome"] + 1, size=n
    )
    both = kind == 3
    span = has["exposure"] * width["exposure"] + has["outcome"] * width["outcome"] + both * gap
    start = rng.integers(0, length - span + 1)
    starts = {
        "exposure": np.where(has["exposure"], start, -1),
        "outcome": np.where(has["outcome"], start + both * (width["exposure"] + gap), -1),
        "confounder": np.full(n, -1),
    }
    if "confounder" in motifs:
        free = np.ones((n, length - width["confounder"] + 1), dtype=bool)
        offsets = np.arange(free.shape[1])
        for name in FEATURES:
            left, right = starts[name] - width["confounder"], starts[name] + width[name]
            clash = (offsets > left[:, None]) & (offsets < right[:, None])
            free &= ~(clash & has[name][:, None])
        place = np.where(free, rng.random(free.shape), -1).argmax(1)  # uniform over what is free
        has["confounder"] = rng.random(n) < parameters.p_confounder
        starts["confounder"] = np.where(has["confounder"], place, -1)

    for name, motif in motifs.items():
        rows = np.flatnonzero(has[name])
        columns = starts[name][rows, None] + np.arange(motif.width)
        codes[rows[:, None], columns] = _draw_bases(
            motif.probabilities, (len(rows), motif.width), rng
        )
    table = pd.DataFrame({
        "sequence_id": [f"{prefix}-{i}" for i in range(n)],
        "sequence": decode(codes),
    })  # fmt: skip
    for name, values in starts.items():
        table[f"{name}_start"] = pd.arrays.IntegerArray(values, values < 0)
    return table


def _draw_bases(
    probabilities: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Base codes of a shape, by inversion of the cdf over A, C, G, T ((4,) or a row a column)."""
    thresholds = np.cumsum(probabilities, axis=-1)[..., :-1]
    uniform = rng.random(shape)
    return sum((uniform >= thresholds[..., k]).astype(np.uint8) for k in range(3))


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


def augment(
    sequences: pd.DataFrame, parameters: Parameters, n: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Mutate n of the sequences, once inside each of their own embedded motifs.

    A sequence without an embedded motif is mutated once, anywhere. The new identifiers are
    ``<sequence_id>-mutant``; motif starts are kept. The result is unlabelled.
    """
    if n > len(sequences):
        raise ValueError(
            f"cannot augment {n} of {len(sequences)} sequences: n_augmented is too large"
        )
    rows = sequences.iloc[rng.choice(len(sequences), n, replace=False)]
    table = rows[["sequence_id", "sequence", *_starts()]].reset_index(drop=True)
    table["sequence_id"] += "-mutant"
    codes = encode(table["sequence"]).copy()
    every = np.arange(n)

    def mutate(which: np.ndarray, positions: np.ndarray) -> None:
        shift = rng.integers(1, len(ALPHABET), n)[which]
        codes[which, positions] = (codes[which, positions] + shift) % len(ALPHABET)

    embedded = table[_starts()].notna().any(axis=1).to_numpy()
    mutate(every[~embedded], rng.integers(0, parameters.length, n)[~embedded])
    for name, motif in parameters.motifs.items():
        start = table[f"{name}_start"].to_numpy(np.int64, na_value=-1)
        which = every[start >= 0]
        mutate(which, start[which] + rng.integers(0, motif.width, n)[which])
    table["sequence"] = decode(codes)
    return table


def _starts() -> list[str]:
    return ["exposure_start", "outcome_start", "confounder_start"]


def simulate_round(parameters: Parameters, seed: int | np.random.SeedSequence) -> Round:
    """Simulate one round: rates, sequences of all splits, augmentation and labels.

    Augmented sequences descend from training sequences only, so that validation, calibration and
    test sequences share nothing with what a model is fitted to. The same seed gives the same round,
    and each part has a stream of its own: test sequences do not change with ``n_train``.
    """
    seeds = np.random.SeedSequence(seed).spawn(6) if isinstance(seed, int) else seed.spawn(6)
    streams = dict(
        zip(
            ("rates", "train", "train_labels", "augment", "test", "test_labels"),
            map(np.random.default_rng, seeds),
            strict=True,
        )
    )
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
        return _mean_anscombe(occupancies(x, self.simulation), self.rates, self.simulation.p_batch)


def _mean_anscombe(q: dict[str, torch.Tensor], rates: Rates, p_batch: float) -> torch.Tensor:
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
    n_mutants = 3 * width
    position = start[rows, None] + np.repeat(np.arange(width), 3)
    row = np.arange(len(rows))[:, None]
    mutants = np.repeat(reference[:, None], n_mutants, axis=1)
    shifted = reference[row, position] + np.tile([1, 2, 3], width)
    mutants[row, np.arange(n_mutants), position] = shifted % len(ALPHABET)
    codes = np.concatenate([reference[:, None], mutants], axis=1)
    q = occupancies(one_hot(codes.reshape(-1, codes.shape[-1]), torch.float64), parameters)
    q = {name: values.view(len(rows), -1) for name, values in q.items()}

    unconfounded = rates._replace(eta=0.0, nu=0.0, tau1=0.0, tau2=0.0, gc=0.0)
    fixed = dict(q)
    for name in ("confounder", "gc"):
        if name in q:
            fixed[name] = q[name][:, :1].expand_as(q[name])
    for column, features in {
        "truth": _mean_anscombe(fixed, rates, parameters.p_batch),
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
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[direction]


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
