"""Effects of factors on an outcome and back, on simulated chromatin or with published weights."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.special import expit
from torch import nn

from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.analysis import Result, deep_mr
from deepmr_utils.calibration import PlattRecalibrator, classifier_metrics, fit_platt_features
from deepmr_utils.models.deepsea import DeepSEA
from deepmr_utils.motifs import log_odds
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.pairs import PAIR, PairEffects, summarise
from deepmr_utils.predict import MCDropout, predict
from deepmr_utils.sequences import one_hot

from .. import DATA, training
from ..analyses import ANALYSES
from ..study import Clock, check_choices, provenance
from . import simulated
from .simulated import ACCESSIBILITY, FACTORS, FEATURES, Parameters

CHAINS = ("strongest", "strongest_egger", "all", "published_deepsea", "published_simulation")
CHANNELS, HIDDEN = (48, 48, 64), 64
GLOBAL_COLUMNS = ["chain", *PAIR, "effect", "se", "tau", "i2", "k", "between_se", "total_se"]
GLOBAL_COLUMNS += ["total_df", "total_ci_low", "total_ci_high", "total_p", "truth"]
LOCAL_COLUMNS = ["chain", *PAIR, "sequence_id", "causal_effect", "se", "n_instruments", "truth"]
_SHARP, _CUT = 0.25, 0.5  # of initial filters: their scale, and the share of a match that they need


@dataclass(frozen=True)
class Settings:
    """What is done with a seed; `.simulated.Parameters` says on what chromatin.

    A network is trained on ``n_train`` windows; of ``n_test`` others, ``n_windows`` are analysed
    for each factor that binds there, with ``n_draws`` of MC-dropout, by every one of ``chains``
    (names of `experiments.analyses.ANALYSES`); local effects of the chains in ``kept`` are stored.
    """

    parameters: Parameters = field(default_factory=Parameters)
    n_train: int = 20_000
    epochs: int = 12
    n_test: int = 1_000
    n_windows: int = 25
    n_draws: int = 50
    chains: tuple[str, ...] = CHAINS
    kept: tuple[str, ...] = ("strongest", "published_deepsea")
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices("chain", self.chains, list(ANALYSES))
        for name in self.kept:
            check_choice("kept chain", name, list(ANALYSES))
        check_number("n_draws", self.n_draws, 2)  # standard errors need two


class Run(NamedTuple):
    """Results of one seed: `GLOBAL_COLUMNS`, `LOCAL_COLUMNS`, and seeds, quality and seconds."""

    globals_: pd.DataFrame
    local: pd.DataFrame
    record: dict[str, Any]


def make_network(parameters: Parameters) -> DeepSEA:
    """An untrained DeepSEA with few channels for windows of simulated chromatin.

    Notes
    -----
    Gives logits. As in DanQ (Quang and Xie, 2016), more than half of the first filters begin as
    motifs, on both strands, so that it learns in minutes what these do rather than what they are.
    """
    network = DeepSEA(
        len(FEATURES), parameters.length, channels=CHANNELS, hidden=HIDDEN,
        feature_names=FEATURES, output="logit",
    )  # fmt: skip
    filters, k = network.convolutions[0], 0
    width = filters.kernel_size[0]
    with torch.no_grad():
        for factor in FACTORS:
            weights = log_odds(simulated.factor_motif(factor)).clip(-4)
            for strand in (weights, weights[::-1, ::-1]):
                for start in sorted({0, (len(strand) - width) // 2, len(strand) - width}):
                    part = torch.tensor(strand[start : start + width].T.copy()).float()
                    filters.weight[k] = _SHARP * part
                    filters.bias[k] = -_SHARP * _CUT * part.amax(0).sum()
                    k += 1
    return network


def train(settings: Settings, seed: int, device: str = "cpu") -> tuple[DeepSEA, pd.DataFrame]:
    """Train a network on windows of the training tiles.

    Returns
    -------
    tuple of DeepSEA and pd.DataFrame
        The network, and its quality on windows of the validation tiles, see `quality`.
    """
    p = settings.parameters
    windows = simulated.simulate(p, settings.n_train, split="train", seed=seed)
    labels = torch.tensor(windows[list(FEATURES)].to_numpy(), dtype=torch.float32)
    with training.one_thread(seed % 2**32, device):
        network = make_network(p)
        training.train(
            network, one_hot(windows["sequence"].tolist()), labels, seed=seed % 2**32,
            epochs=settings.epochs, batch_size=64, peak_lr=0.01, weight_decay=0.01,
            loss=nn.functional.binary_cross_entropy_with_logits, device=device,
        )  # fmt: skip
    held = simulated.simulate(p, 2_000, split="validation", seed=seed)
    return network, quality(network, held)


def quality(network: nn.Module, windows: pd.DataFrame) -> pd.DataFrame:
    """How well a network predicts labels, beside what the noise-free probabilities reach.

    Returns
    -------
    pd.DataFrame
        `deepmr_utils.calibration.classifier_metrics`, and ``auroc_possible, auprc_possible``.
    """
    names = list(FEATURES)
    x, labels = one_hot(windows["sequence"].tolist()), windows[names].to_numpy()
    logits = predict(network, x, device="cpu")[0].astype(float)
    table = classifier_metrics(expit(logits), labels, names)
    probabilities = windows[[f"{name}_probability" for name in names]].to_numpy()
    possible = classifier_metrics(probabilities, labels, names)
    return table.assign(auroc_possible=possible["auroc"], auprc_possible=possible["auprc"])


def calibrate(
    network: nn.Module,
    fitted: pd.DataFrame,
    judged: pd.DataFrame,
    *,
    n_draws: int = 50,
    seed: int = 0,
) -> tuple[PlattRecalibrator, pd.DataFrame]:
    """Platt scaling of each feature, and how reliable predictions are without and with it.

    Parameters
    ----------
    network : nn.Module
    fitted, judged : pd.DataFrame
        Windows with labels of `.simulated.simulate`: those that slopes and intercepts are fitted
        to, and others, on which predictions are compared with labels.
    n_draws : int
        Draws of dropout masks. Their mean logit is calibrated, whose differences are the effects.
    seed : int

    Returns
    -------
    tuple of PlattRecalibrator and pd.DataFrame
        The table has a row a feature: ``feature``, ``slope`` and ``intercept`` of Platt scaling;
        for the judged windows without and with it, ``log_loss`` a label, ``own_slope``, which
        Platt scaling fitted to them would have (1 where it is calibrated), and ``ece``, each with
        ``_before`` and ``_after``.
    """
    names, network = list(FEATURES), MCDropout(network, n_draws, seed)
    logits, own = (
        predict(network, one_hot(windows["sequence"].tolist()), device="cpu").mean(0, float)
        for windows in (fitted, judged)
    )
    platt, table = fit_platt_features(logits, fitted[names].to_numpy(), names)
    table, labels = table[["feature", "slope", "intercept"]].copy(), judged[names].to_numpy()
    for when, z in (("before", own), ("after", platt.slope * own + platt.intercept)):
        metrics = classifier_metrics(expit(z), labels, names)
        table[f"log_loss_{when}"] = (np.logaddexp(0, z) - labels * z).mean(0)
        table[f"own_slope_{when}"] = fit_platt_features(z, labels, names)[0].slope
        table[f"ece_{when}"] = metrics["ece"]
    return platt, table


def load_network() -> DeepSEA:
    """The trained network that comes with the package, in evaluation mode."""
    network = make_network(Parameters())
    state = torch.load(DATA / "demo_deepsea.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.eval()


def bound_windows(windows: pd.DataFrame, factors: Sequence[str], n: int) -> dict[str, list[str]]:
    """The first n windows that each factor binds, by their labels.

    Raises
    ------
    ValueError
        If a factor binds none.
    """
    found = {f: windows.loc[windows[f] == 1, "sequence_id"].iloc[:n].tolist() for f in factors}
    if empty := [factor for factor, ids in found.items() if not ids]:
        raise ValueError(f"no window is bound by {empty[0]}: give more windows, or leave it out")
    return found


def results_by_factor(
    effects: xr.Dataset, bound: Mapping[str, Sequence[str]], outcome: str, **options: Any
) -> list[Result]:
    """Analyse every factor with an outcome, both ways, in the sequences that it binds.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects on factors and outcome, with ``member_effect``.
    bound : mapping of str to sequence of str
        By factor, the sequences that it binds, in which its pair is analysed.
    outcome : str
    **options
        Of `deepmr_utils.analysis.deep_mr`. With the design "strongest", a substitution is an
        instrument for that one of the two which it moves more, on scales of these sequences.
    """
    return [
        deep_mr(effects.sel(sequence=list(ids), feature=[factor, outcome]), **options)
        for factor, ids in bound.items()
        if factor != outcome
    ]


def both_ways(
    effects: xr.Dataset, bound: Mapping[str, Sequence[str]], outcome: str, **options: Any
) -> PairEffects:
    """Local effects of `results_by_factor`."""
    parts = [one.pairs for one in results_by_factor(effects, bound, outcome, **options)]
    return PairEffects(
        *(pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    )


def analyse(
    effects: xr.Dataset,
    bound: Mapping[str, Sequence[str]],
    outcome: str = ACCESSIBILITY,
    chains: Sequence[str] = CHAINS,
    truth: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Global and local effects, both ways, by every chain, beside the truth where it is known.

    Parameters
    ----------
    effects : xr.Dataset
        Of `mutate`.
    bound : mapping of str to sequence of str
        As in `both_ways`.
    outcome : str
    chains : sequence of str
        Names in `experiments.analyses.ANALYSES`.
    truth : pd.DataFrame, optional
        ``sequence_id, exposure, outcome, truth``.

    Returns
    -------
    tuple of pd.DataFrame
        `GLOBAL_COLUMNS` and `LOCAL_COLUMNS`. The true global effect is the mean over the sequences
        that enter and have a true local one; intervals ``total_*`` carry the variance over draws.
    """
    if truth is None:
        truth = pd.DataFrame(columns=["sequence_id", *PAIR, "truth"]).astype({"truth": float})
    globals_, local = [], []
    for name in chains:
        pairs = both_ways(effects, bound, outcome, **ANALYSES[name])
        own = pairs.local.merge(
            truth[["sequence_id", *PAIR, "truth"]], on=["sequence_id", *PAIR], how="left"
        )
        used = own[own["causal_effect"].notna()]
        mean = used.groupby(PAIR, as_index=False)["truth"].mean()
        table = summarise(pairs)[0].merge(mean, on=PAIR, how="left")
        globals_.append(table.assign(chain=name)[GLOBAL_COLUMNS])
        local.append(own.assign(chain=name)[LOCAL_COLUMNS])
    return pd.concat(globals_, ignore_index=True), pd.concat(local, ignore_index=True)


def classify(table: pd.DataFrame, outcome: str = ACCESSIBILITY) -> pd.DataFrame:
    """What each factor is, by its effect on the outcome and the outcome's on it.

    Parameters
    ----------
    table : pd.DataFrame
        Of `analyse`, one chain.
    outcome : str

    Returns
    -------
    pd.DataFrame
        A row a factor: ``factor, forward, reverse, role``: "pioneer" or "repressor" where the total
        interval of its effect lies above or below 0; else "follower" where that of the reverse
        effect does not hold 0; else "bystander".
    """
    there = table[table["outcome"] == outcome].set_index("exposure")
    back = table[table["exposure"] == outcome].set_index("outcome").loc[there.index]
    told = (back["total_ci_low"] > 0) | (back["total_ci_high"] < 0)
    role = np.where(told, "follower", "bystander")
    role = np.where(there["total_ci_low"] > 0, "pioneer", role)
    role = np.where(there["total_ci_high"] < 0, "repressor", role)
    return pd.DataFrame({
        "factor": there.index, "forward": there["effect"].to_numpy(),
        "reverse": back["effect"].to_numpy(), "role": role,
    })  # fmt: skip


def mutate(
    network: nn.Module, windows: pd.DataFrame, *, n_draws: int = 50, seed: int = 0, **options: Any
) -> xr.Dataset:
    """Effects of all substitutions in windows under MC-dropout, with those of every draw.

    Parameters
    ----------
    network : nn.Module
    windows : pd.DataFrame
        ``sequence_id, sequence``.
    n_draws : int
        Draws of dropout masks, the members. A draw's masks are those of the reference and of all
        its mutants.
    seed : int
    **options
        Of `deepmr_utils.mutagenesis.saturation_mutagenesis`.

    Returns
    -------
    xr.Dataset
        With ``member_effect``.
    """
    return saturation_mutagenesis(
        MCDropout(network, n_draws, seed), one_hot(windows["sequence"].tolist()),
        sequence_ids=windows["sequence_id"].tolist(), keep_members=True, **options,
    )  # fmt: skip


def choose(windows: pd.DataFrame, bound: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The windows that any factor binds, once each, in their order."""
    return windows[windows["sequence_id"].isin({i for ids in bound.values() for i in ids})]


class Observed(NamedTuple):
    """What a seed's analysis takes: windows, those that each factor binds, effects and truth."""

    windows: pd.DataFrame
    bound: dict[str, list[str]]
    effects: xr.Dataset
    truth: pd.DataFrame
    quality: pd.DataFrame
    seed: int


def observe(
    settings: Settings, number: int, *, clock: Clock | None = None, device: str = "cpu"
) -> Observed:
    """Train the network of a seed, and mutate windows that its factors bind."""
    clock = clock or Clock()
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    with clock("train"):
        network, table = train(settings, seed, device)
    p = settings.parameters
    windows = simulated.simulate(p, settings.n_test, split="test", seed=seed)
    bound = bound_windows(windows, FACTORS, settings.n_windows)
    windows = choose(windows, bound)
    with clock("mutagenesis"):
        effects = mutate(network, windows, n_draws=settings.n_draws, seed=number, device=device)
    with clock("truth"):
        truth = simulated.true_effects(windows, p)
    return Observed(windows, bound, effects, truth, table, seed)


def run(settings: Settings, number: int, device: str = "cpu") -> Run:
    """Run one seed end to end, from chromatin to effects both ways beside the truth."""
    clock = Clock()
    seen = observe(settings, number, clock=clock, device=device)
    with clock("mr"):
        globals_, local = analyse(
            seen.effects, seen.bound, ACCESSIBILITY, settings.chains, seen.truth
        )
    record = {
        "run": number, "seed": seen.seed, "windows": len(seen.windows), "device": device,
        "quality": seen.quality.round(4).to_dict("records"), "seconds": clock.seconds,
        **provenance(),
    }  # fmt: skip
    return Run(globals_, local[local["chain"].isin(settings.kept)], record)


def main() -> None:
    """``python -m experiments.chromatin.one_draw FILE``: train the shipped network, write it."""
    network, table = train(Settings(), seed=0)
    torch.save(network.state_dict(), sys.argv[1])
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
