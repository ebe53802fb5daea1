"""One round of the simulation study, end to end."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from deepmr_utils import calibration, intervals
from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.instruments import DESIGNS, eligible
from deepmr_utils.motifs import find_instances
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.pairs import PairEffects, check_fits, pair_effects
from deepmr_utils.predict import predict
from deepmr_utils.sequences import one_hot

from ..study import Clock, check_choices, provenance
from ..training import Ensemble, train_ensemble
from . import simulation
from .network import SimulationCNN

CALIBRATIONS = ("none", "isotonic")
FEATURES = list(simulation.FEATURES)
LOCAL_COLUMNS = ["sequence_id", "method", "causal_effect", "se", "ci_low", "ci_high"]
LOCAL_COLUMNS += ["n_instruments", "status"]
INTERVAL_COLUMNS = ["between_se", "n_members", "total_ci_low", "total_ci_high"]
GLOBAL_KEYS = ["scenario", "round", "stratum", "calibration", "method"]
MEMBER_COLUMNS = [*GLOBAL_KEYS, "member", "effect"]


@dataclass(frozen=True)
class Settings:
    """What is done in a round; `simulation.Parameters` says on what data.

    The scenario of ``parameters`` is replaced by that of the round. Every method (a name of
    `deepmr_utils.mr.methods`) is run on the effects of every calibration, ``"none"`` or
    ``"isotonic"``. In direction ``"reverse"`` the simulation's outcome is taken for the exposure,
    and sequences with its motif are analysed. ``design, rule, threshold, weights`` choose and weigh
    instruments as in `deepmr_utils.analysis.deep_mr`; motifs are found by scanning. The local
    intervals of a round follow ``interval_rule`` and ``moderate``, see
    `deepmr_utils.intervals.add_intervals`.
    """

    parameters: simulation.Parameters = field(default_factory=simulation.Parameters)
    n_members: int = 5
    epochs: int = 12
    max_excess: float = 0.1
    calibrations: tuple[str, ...] = ("none",)
    design: str = "motif"
    rule: str = "pooled"
    threshold: float = 1.0
    methods: tuple[str, ...] = ("ivw", "egger_robust")
    weights: str = "equal"
    seed: int = 0
    direction: str = "forward"
    interval_rule: str = "rubin"
    moderate: bool = True

    def __post_init__(self) -> None:
        check_choices("calibration", self.calibrations, CALIBRATIONS)
        check_fits(self.methods, self.rule, self.threshold, self.weights)
        simulation.analysed_features(self.direction)  # raises where unknown
        check_choice("design", self.design, DESIGNS)
        check_choice("rule", self.interval_rule, intervals.RULES)
        check_number("n_members", self.n_members, 2)  # standard errors need two


class RoundResult(NamedTuple):
    """Results of one round.

    ``local`` has one row a sequence, calibration and method: ``scenario, round, calibration,
    sequence_id, stratum, truth, truth_published, truth_status, naive`` (mean ratio over
    instruments), `LOCAL_COLUMNS` of `deepmr_utils.mr.local_mr`, ``between_se, total_ci_low,
    total_ci_high`` of `deepmr_utils.intervals.add_intervals`, and ``n_members``, how many gave an
    estimate. ``quality`` has one row a feature: error, noise floor, correlation, calibration
    metrics before and after. ``record`` holds rates, seeds, seconds a stage and versions.
    ``members`` has one row a stratum, calibration, method and member: the global ``effect`` by that
    member alone.
    """

    local: pd.DataFrame
    quality: pd.DataFrame
    record: dict[str, Any]
    members: pd.DataFrame = pd.DataFrame(columns=MEMBER_COLUMNS)


def draw_round(settings: Settings, scenario: str, round_: int) -> tuple[simulation.Round, int]:
    """Simulated data of a round and the seed of its ensemble, from the study's seed."""
    parameters = replace(settings.parameters, scenario=scenario)
    key = [settings.seed, simulation.SCENARIOS.index(scenario), round_]
    data, models = np.random.SeedSequence(key).spawn(2)
    return simulation.simulate_round(parameters, data), int(models.generate_state(1)[0])


def arrays(sequences: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot sequences (N, 4, L) and labels (N, 2) of a sequence table."""
    labels = torch.tensor(sequences[FEATURES].to_numpy(), dtype=torch.float32)
    return one_hot(sequences["sequence"].tolist()), labels


def fit_round(
    data: simulation.Round, seed: int, settings: Settings, *, workers: int = 1, device: str = "cpu",
) -> Ensemble:  # fmt: skip
    """Train the ensemble of a round; members are judged against the round's own noise floor.

    Parameters
    ----------
    data : simulation.Round
    seed : int
        Of the ensemble, see `draw_round`.
    settings : Settings
    workers : int
        Processes that train members at the same time.
    device : str
    """
    validation = data.split("validation")
    floor = simulation.noise_floor(validation, data.parameters, data.rates).to_numpy()
    return train_ensemble(
        lambda: SimulationCNN(data.parameters.length), *arrays(data.split("fit")),
        arrays(validation), n_members=settings.n_members, seed=seed, noise_floor=floor,
        workers=workers, device=device, epochs=settings.epochs, max_excess=settings.max_excess,
    )  # fmt: skip


def assess(
    ensemble: Ensemble, data: simulation.Round, device: str = "cpu"
) -> tuple[pd.DataFrame, calibration.IsotonicRecalibrator]:
    """Quality of an ensemble on the test split, and its recalibrator.

    The recalibrator is fitted to the calibration split, of which nothing is reported.
    """
    recalibrate = calibration.fit_isotonic(*predict_split(ensemble, data, "calibration", device))
    predictions, labels = predict_split(ensemble, data, "test", device)
    floor = simulation.noise_floor(data.split("test"), data.parameters, data.rates)
    mean = predictions.mean(0)
    error = ((mean - labels) ** 2).mean(0)
    quality = pd.DataFrame({
        "feature": FEATURES,
        "mse": error,
        "mse_member": ((predictions - labels) ** 2).mean((0, 1)),
        "noise_floor": floor.to_numpy(),
        "r": [np.corrcoef(mean[:, k], labels[:, k])[0, 1] for k in range(len(FEATURES))],
        "r2": 1 - error / labels.var(0),
    })  # fmt: skip
    for name, values in {"before": predictions, "after": recalibrate(predictions)}.items():
        metrics = calibration.calibration_metrics(values, labels, FEATURES).set_index("feature")
        quality = quality.join(metrics.add_suffix(f"_{name}"), on="feature")
    return quality, recalibrate


def predict_split(
    ensemble: Ensemble, data: simulation.Round, split: str, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Members' predictions (M, N, 2) and labels (N, 2) of one split, in float64."""
    x, y = arrays(data.split(split))
    return predict(ensemble.members, x, device=device).astype(np.float64), y.double().numpy()


def run_round(
    settings: Settings, scenario: str, round_: int, *, workers: int = 1, device: str = "cpu"
) -> RoundResult:
    """Run one round end to end: simulate, train, calibrate, mutate, estimate, compare with truth.

    Parameters
    ----------
    settings : Settings
    scenario : str
        One of `simulation.SCENARIOS`.
    round_ : int
        Number of the round; with the study's seed it determines the result.
    workers : int
        Processes that train members at the same time.
    device : str
    """
    clock = Clock()
    with clock("simulate"):
        data, seed = draw_round(settings, scenario, round_)
    with clock("train"):
        ensemble = fit_round(data, seed, settings, workers=workers, device=device)
    result = analyse_round(ensemble, data, settings, round_, device=device, clock=clock)
    return result._replace(record={**result.record, "model_seed": seed})


def analyse_round(
    ensemble: Ensemble, data: simulation.Round, settings: Settings, round_: int, *,
    device: str = "cpu", clock: "Clock | None" = None, cache: dict[tuple, xr.Dataset] | None = None,
) -> RoundResult:  # fmt: skip
    """What `run_round` does with a trained ensemble: calibrate, mutate, estimate, compare.

    Parameters
    ----------
    ensemble : Ensemble
    data : simulation.Round
        What it was trained on, with the test sequences that are analysed.
    settings : Settings
    round_ : int
    device : str
    clock : Clock, optional
        Goes on counting the seconds of stages.
    cache : dict, optional
        Several analyses of one ensemble share its variant effects in it.
    """
    clock, cache = clock or Clock(), {} if cache is None else cache
    scenario = data.parameters.scenario
    with clock("assess"):
        quality, recalibrate = assess(ensemble, data, device)
    exposure, _ = simulation.analysed_features(settings.direction)
    test = data.split("test")
    analysed = test[test[f"{exposure}_start"].notna()]
    tables, member_tables, counts = [], [], {}
    for name in settings.calibrations:
        with clock("mutagenesis"):
            key = len(ensemble.members), settings.direction, name
            if key not in cache:
                cache[key] = saturation_mutagenesis(
                    ensemble.members, one_hot(analysed["sequence"].tolist()),
                    sequence_ids=analysed["sequence_id"], device=device, keep_members=True,
                    transform=recalibrate if name == "isotonic" else None,
                )  # fmt: skip
            effects = cache[key]
        with clock("mr"):
            pairs = local_effects(effects, scan(analysed, data.parameters), settings)
            tables.append(with_intervals(pairs, settings).assign(calibration=name))
            member_tables.append(pairs.members.assign(calibration=name))
        counts[name] = len(pairs.instruments)
    with clock("truth"):
        truth = simulation.local_truth(analysed, data.parameters, data.rates, settings.direction)
    truth["stratum"] = np.asarray(simulation.stratum(analysed), dtype=str)
    local = truth.merge(pd.concat(tables), on="sequence_id", validate="1:m")
    local.insert(0, "scenario", scenario)
    local.insert(1, "round", round_)
    with clock("mr"):
        members = intervals.member_global(with_truth(local), pd.concat(member_tables), GLOBAL_KEYS)
    record = {
        "scenario": scenario, "round": round_, "rates": data.rates._asdict(),
        "attempts": ensemble.report["attempts"].tolist(), "instruments": counts,
        "seconds": clock.seconds, **provenance(),
    }  # fmt: skip
    return RoundResult(local, quality.assign(scenario=scenario, round=round_), record, members)


def scan(sequences: pd.DataFrame, parameters: simulation.Parameters) -> pd.DataFrame:
    """Instances of the motifs of exposure and outcome, as a user finds them: by scanning."""
    motifs = {name: parameters.motifs[name] for name in FEATURES}
    x = one_hot(sequences["sequence"].tolist())
    return find_instances(x, sequences["sequence_id"].tolist(), motifs)


def local_effects(effects: xr.Dataset, instances: pd.DataFrame, settings: Settings) -> PairEffects:
    """Local effects by every method, those by member, and the instruments."""
    pair = simulation.analysed_features(settings.direction)
    return pair_effects(
        effects, eligible(effects, settings.design, instances), [pair], method=settings.methods,
        rule=settings.rule, threshold=settings.threshold, weights=settings.weights,
    )  # fmt: skip


def with_intervals(pairs: PairEffects, settings: Settings) -> pd.DataFrame:
    """Local effects with their intervals, and the naive effects beside."""
    keys = ["sequence_id", "method"]
    table = intervals.add_intervals(
        pairs.local, pairs.members, keys, rule=settings.interval_rule, moderate=settings.moderate
    )
    each = pairs.members.groupby(keys, observed=True)["causal_effect"].count()
    table = table.merge(each.rename("n_members").reset_index(), on=keys, how="left")
    table["n_members"] = table["n_members"].fillna(0).astype(int)
    naive = table["sequence_id"].map(naive_effects(pairs.instruments))
    return table[[*LOCAL_COLUMNS, *INTERVAL_COLUMNS]].assign(naive=naive)


def naive_effects(instruments: pd.DataFrame) -> pd.Series:
    """Mean ratio beta_outcome / beta_exposure over the instruments of each sequence."""
    ratio = instruments["beta_outcome"] / instruments["beta_exposure"]
    return ratio.groupby(instruments["sequence_id"].astype(str)).mean()


def with_truth(local: pd.DataFrame) -> pd.DataFrame:
    """Rows with a truth and an estimate, once in their own stratum and once in stratum "all"."""
    local = local[local["truth"].notna() & local["causal_effect"].notna()]
    return pd.concat([local.assign(stratum="all"), local], ignore_index=True)
