"""What a round of the simulation is drawn from: its parameters, and the rates of one round."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.motifs import Motif, check_probabilities, get_motif

FEATURES = ("exposure", "outcome")
PUBLISHED_SCENARIOS = ("none", "sequence_dependent", "sequence_independent", "both")
SCENARIOS = (*PUBLISHED_SCENARIOS, "gc_bias")


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
        check_choice("scenario", self.scenario, SCENARIOS)
        check_probabilities(self.background, "the background")
        for name in ("p_motif", "p_confounder", "p_batch"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("alpha_mean", "eta", "nu", "tau1", "tau2", "effect_ratio", "n_augmented"):
            if getattr(self, name) is not None:  # an effect ratio that is drawn
                check_number(name, getattr(self, name), 0)
        for name in ("n_train", "n_test"):
            check_number(name, getattr(self, name), 1)
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
        names = {"exposure": self.exposure_motif, "outcome": self.outcome_motif}
        if self.sequence_confounded:
            names["confounder"] = self.confounder_motif
        return {role: get_motif(name) for role, name in names.items()}

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
