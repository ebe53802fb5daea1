"""Rounds of the simulation study: one round end to end, many rounds stored as they finish."""

import json
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch

from . import __version__, calibration, meta, mr, simulation
from .instruments import select_instruments
from .models import SimulationCNN
from .mutagenesis import saturation_mutagenesis
from .predict import predict, progress_bar
from .sequences import one_hot
from .training import Ensemble, train_ensemble

CALIBRATIONS = ("none", "isotonic")
FEATURES = list(simulation.FEATURES)
LOCAL_COLUMNS = [
    "sequence_id",
    "method",
    "causal_effect",
    "se",
    "ci_low",
    "ci_high",
    "intercept",
    "intercept_p",
    "i2_gx",
    "n_instruments",
    "status",
]


@dataclass(frozen=True)
class Settings:
    """What is done in a round; `simulation.Parameters` says on what data.

    The scenario of ``parameters`` is replaced by that of the round. Every method (a name of
    `deepmr_utils.mr.methods`) is run on the effects of every calibration, ``"none"`` or
    ``"isotonic"``.
    """

    parameters: simulation.Parameters = field(default_factory=simulation.Parameters)
    n_members: int = 5
    epochs: int = 12
    max_excess: float = 0.1
    calibrations: tuple[str, ...] = ("none", "isotonic")
    rule: str = "pooled"
    threshold: float = 1.0
    methods: tuple[str, ...] = ("egger_robust", "ivw")
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [name for name in self.calibrations if name not in CALIBRATIONS]
        if wrong or not self.calibrations:
            raise ValueError(f"unknown calibration {wrong}: choose from {', '.join(CALIBRATIONS)}")
        known = mr.methods()["name"].tolist()
        unknown = [name for name in self.methods if name not in known]
        if unknown or not self.methods:
            raise ValueError(f"unknown method {unknown}: choose from {', '.join(known)}")
        if self.n_members < 2:
            raise ValueError(f"standard errors need 2 members or more; got {self.n_members}")


class RoundResult(NamedTuple):
    """Results of one round.

    ``local`` has one row a sequence, calibration and method: ``scenario, round, calibration,
    sequence_id, stratum, truth, truth_published, truth_status, naive`` (mean ratio over
    instruments) and `LOCAL_COLUMNS` of `deepmr_utils.mr.local_mr`. ``quality`` has one row a
    feature: error, noise floor, correlation, calibration metrics before and after. ``record`` holds
    rates, seeds, seconds a stage and versions.
    """

    local: pd.DataFrame
    quality: pd.DataFrame
    record: dict[str, Any]


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
    data: simulation.Round,
    seed: int,
    settings: Settings,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> Ensemble:
    """Train the ensemble of a round; members are judged against the round's own noise floor."""
    validation = data.split("validation")
    floor = simulation.noise_floor(validation, data.parameters, data.rates).to_numpy()
    return train_ensemble(
        lambda: SimulationCNN(data.parameters.length),
        *arrays(data.split("fit")),
        arrays(validation),
        n_members=settings.n_members,
        seed=seed,
        noise_floor=floor,
        workers=workers,
        device=device,
        progress=progress,
        epochs=settings.epochs,
        max_excess=settings.max_excess,
    )


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
    clock = _Clock()
    with clock("simulate"):
        data, seed = draw_round(settings, scenario, round_)
    with clock("train"):
        ensemble = fit_round(data, seed, settings, workers=workers, device=device)
    with clock("assess"):
        quality, recalibrate = assess(ensemble, data, device)
    analysed = data.split("test").query("exposure_start.notna()")
    x = one_hot(analysed["sequence"].tolist())
    tables, counts = [], {}
    for name in settings.calibrations:
        with clock("mutagenesis"):
            effects = saturation_mutagenesis(
                ensemble.members,
                x,
                sequence_ids=analysed["sequence_id"],
                transform=recalibrate if name == "isotonic" else None,
                device=device,
            )
        with clock("mr"):
            instruments = select_instruments(effects, *FEATURES, settings.rule, settings.threshold)
            naive = naive_effects(instruments)
            for method in settings.methods:
                table = mr.local_mr(instruments, method)[LOCAL_COLUMNS]
                table = table.astype({"sequence_id": str})
                naive_column = table["sequence_id"].map(naive)
                tables.append(table.assign(calibration=name, naive=naive_column))
        counts[name] = instruments.attrs["counts"]
    with clock("truth"):
        truth = simulation.local_truth(analysed, data.parameters, data.rates)
    truth["stratum"] = np.asarray(simulation.stratum(analysed), dtype=str)
    local = truth.merge(pd.concat(tables), on="sequence_id", validate="1:m")
    local.insert(0, "scenario", scenario)
    local.insert(1, "round", round_)
    record = {
        "scenario": scenario,
        "round": round_,
        "rates": data.rates._asdict(),
        "model_seed": seed,
        "attempts": ensemble.report["attempts"].tolist(),
        "instruments": counts,
        "seconds": clock.seconds,
        **provenance(),
    }
    return RoundResult(local, quality.assign(scenario=scenario, round=round_), record)


def naive_effects(instruments: pd.DataFrame) -> pd.Series:
    """Mean ratio beta_outcome / beta_exposure over the instruments of each sequence."""
    ratio = instruments["beta_outcome"] / instruments["beta_exposure"]
    return ratio.groupby(instruments["sequence_id"].astype(str)).mean()


class _Clock:
    """Wall-clock seconds of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterable[None]:
        start = time.perf_counter()
        yield
        seconds = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.seconds[stage] = round(seconds, 3)


def provenance() -> dict[str, str]:
    """Versions, git revision and machine that a result comes from."""
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "deepmr_utils": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "git_revision": git.stdout.strip() if git.returncode == 0 else "not a git checkout",
    }


def run_rounds(
    settings: Settings,
    scenarios: Sequence[str],
    rounds: int,
    directory: str | Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> list[RoundResult]:
    """Run rounds 0 to ``rounds - 1`` of each scenario, or find them again.

    Each round is stored in ``directory`` as it finishes, so an interrupted run resumes where it
    stopped; a round that was cut short is run again.

    Parameters
    ----------
    settings : Settings
    scenarios : sequence of str
    rounds : int
    directory : str or Path
        Made if needed. It belongs to one `Settings`.
    workers : int
        Rounds at a time, each in a process of its own with one thread.
    device : str
    progress : bool

    Returns
    -------
    list of RoundResult
        By scenario, then round.

    Raises
    ------
    ValueError
        If a scenario is unknown or the directory was written with other settings.
    """
    for scenario in scenarios:
        replace(settings.parameters, scenario=scenario)  # raises where unknown
    if rounds < 1 or not scenarios:
        raise ValueError(f"nothing to run: {rounds} rounds of {len(scenarios)} scenarios")
    directory = Path(directory)
    _claim(directory, settings)
    keys = [(scenario, r) for scenario in scenarios for r in range(rounds)]
    missing = [key for key in keys if not _record_path(directory, *key).exists()]
    jobs = (
        joblib.delayed(_run_and_store)(settings, *key, directory, device, workers > 1)
        for key in missing
    )
    done = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    found = len(keys) - len(missing)
    for _ in progress_bar(done, progress, desc="rounds", total=len(keys), initial=found):
        pass
    return [load_round(directory, *key) for key in keys]


def _run_and_store(
    settings: Settings, scenario: str, round_: int, directory: Path, device: str, one_thread: bool
) -> None:
    if one_thread:
        torch.set_num_threads(1)
    store_round(directory, run_round(settings, scenario, round_, device=device))


def _claim(directory: Path, settings: Settings) -> None:
    """Write the settings into a new directory, or check them in one that has been used."""
    path = directory / "settings.json"
    mine = _plain(settings)
    if not path.exists():
        if directory.exists() and any(directory.glob("*/round-*")):
            raise ValueError(f"{directory} holds rounds but no settings.json: choose another one")
        directory.mkdir(parents=True, exist_ok=True)
        _write_text(path, json.dumps(mine, indent=1) + "\n")
        return
    theirs = json.loads(path.read_text())
    names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
    if names:
        differences = "; ".join(f"{n}: {theirs.get(n)} there, {mine.get(n)} now" for n in names)
        raise ValueError(
            f"{directory} was written with other settings ({differences}): choose another results "
            "directory, or remove it to run again"
        )


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings as flat JSON values, without the scenario, which is a round's own."""
    values = asdict(settings)
    values |= {k: v for k, v in values.pop("parameters").items() if k != "scenario"}
    return json.loads(json.dumps({"deepmr_utils": __version__, **values}))


def _record_path(directory: Path, scenario: str, round_: int) -> Path:
    return directory / scenario / f"round-{round_:03d}.json"


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def store_round(directory: Path, result: RoundResult) -> None:
    """Write a round: tables as float32 parquet, then the record, which marks it as finished."""
    path = _record_path(directory, result.record["scenario"], result.record["round"])
    path.parent.mkdir(parents=True, exist_ok=True)
    local = result.local.astype({
        name: "float32" for name in result.local.columns if result.local[name].dtype == "float64"
    })  # fmt: skip
    partial = path.with_suffix(".parquet.partial")
    local.to_parquet(partial, index=False, compression="zstd")
    partial.replace(path.with_suffix(".parquet"))
    quality = json.loads(result.quality.to_json(orient="records", double_precision=6))
    _write_text(path, json.dumps({**result.record, "quality": quality}, indent=1) + "\n")


def load_round(directory: str | Path, scenario: str, round_: int) -> RoundResult:
    """Read a round that `store_round` wrote."""
    path = _record_path(Path(directory), scenario, round_)
    if not path.exists():
        raise FileNotFoundError(f"round {round_} of {scenario} is not in {directory}")
    record = json.loads(path.read_text())
    quality = pd.DataFrame(record.pop("quality"))
    return RoundResult(pd.read_parquet(path.with_suffix(".parquet")), quality, record)


def global_table(results: Iterable[RoundResult]) -> pd.DataFrame:
    """Global effects of each round, stratum and method beside the truth.

    Returns
    -------
    pd.DataFrame
        One row a ``scenario, round, stratum, calibration, method``; stratum "all" pools the strata.
        The columns of `deepmr_utils.meta.global_effects`, ``truth`` and ``truth_published`` (means
        of the local truths), ``naive`` (mean of the local naive effects), ``local_coverage``, the
        share of sequences whose own 95 % interval holds their own truth, and ``local_mse``. Only
        sequences with a truth and an estimate enter, the same ones for estimate and truth.
    """
    local = pd.concat([result.local for result in results], ignore_index=True)
    local = local[local["truth"].notna() & local["causal_effect"].notna()]
    local = pd.concat([local.assign(stratum="all"), local], ignore_index=True)
    local["covered"] = (local["ci_low"] <= local["truth"]) & (local["truth"] <= local["ci_high"])
    local["squared_error"] = (local["causal_effect"] - local["truth"]) ** 2
    by = ["scenario", "round", "stratum", "calibration", "method"]
    means = local.groupby(by, sort=False).agg(
        truth=("truth", "mean"),
        truth_published=("truth_published", "mean"),
        naive=("naive", "mean"),
        local_coverage=("covered", "mean"),
        local_mse=("squared_error", "mean"),
    )
    effects = meta.global_effects(local, by=by)
    return effects.merge(means.reset_index(), on=by, validate="1:1")


def score_table(globals_: pd.DataFrame) -> pd.DataFrame:
    """How well effects meet the truth, by scenario, stratum, calibration and method.

    Parameters
    ----------
    globals_ : pd.DataFrame
        `global_table` of several rounds.

    Returns
    -------
    pd.DataFrame
        ``rounds``; ``r``, ``bias`` and ``rmse`` of the global effect against the true one;
        ``r_naive``; shares of rounds whose 95 % confidence interval, prediction interval and
        heterogeneity interval (effect -/+ 2 tau) hold the truth; ``local_coverage`` and
        ``local_rmse`` over sequences.
    """
    rows = []
    by = ["scenario", "stratum", "calibration", "method"]
    for key, group in globals_.groupby(by, sort=False):
        truth, error = group["truth"], group["effect"] - group["truth"]
        row = dict(zip(by, key, strict=True))
        row |= {
            "rounds": len(group),
            "r": _correlation(group["effect"], truth),
            "r_naive": _correlation(group["naive"], truth),
            "bias": error.mean(),
            "rmse": np.sqrt((error**2).mean()),
            "ci_coverage": truth.between(group["ci_low"], group["ci_high"]).mean(),
            "pi_coverage": truth.between(group["pi_low"], group["pi_high"]).mean(),
            "heterogeneity_coverage": truth.between(
                group["heterogeneity_low"], group["heterogeneity_high"]
            ).mean(),
            "local_coverage": np.average(group["local_coverage"], weights=group["k"]),
            "local_rmse": np.sqrt(np.average(group["local_mse"], weights=group["k"])),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def published_rounds() -> pd.DataFrame:
    """Published rounds of Malina, Cizin and Knowles (2022); columns in ``data/README.md``."""
    with resources.as_file(
        resources.files(__package__) / "data" / "published_simulation_rounds.csv"
    ) as path:
        return pd.read_csv(path).rename(columns={"confounding": "scenario"})


def _correlation(x: pd.Series, y: pd.Series) -> float:
    """Pearson's r; NaN for fewer than three rounds or where one side does not vary."""
    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
