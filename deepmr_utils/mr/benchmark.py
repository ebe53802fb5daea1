"""Simulated instruments, valid and invalid, and how well each estimator does on them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import mr
from .._checks import as_list, check_choice
from ._rows import Array
from .registry import BALANCED, INSIDE, OUTLIERS, REGISTRY, VERBANCK_2018, WEAK, check_methods

__all__ = ["SummaryData", "score", "simulate"]

SCENARIOS = {
    "valid": "every instrument is valid",
    "balanced": "all have direct effects, which cancel on average",
    "directional": "all have direct effects, most of them positive",
    "outliers": "a fifth have large positive direct effects",
    "correlated": "a fifth act through a confounder, which makes them stronger (no InSIDE)",
    "weak": "valid, but their effects on the exposure are poorly known",
}


class SummaryData(NamedTuple):
    """Simulated effects of instruments.

    Attributes
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : np.ndarray, float64 (S, V)
        As `deepmr_utils.mr.estimate` takes them.
    direct : np.ndarray, float64 (S, V)
        The part of the outcome effect that does not pass through the exposure.
    """

    beta_exposure: Array
    se_exposure: Array
    beta_outcome: Array
    se_outcome: Array
    direct: Array


def simulate(
    scenario: str, datasets: int, instruments: int = 30, *, effect: float = 0.1, seed: int = 0
) -> SummaryData:
    """Draw summary data of many sequences with one causal effect.

    Parameters
    ----------
    scenario : str
        A key of `SCENARIOS`.
    datasets, instruments : int
        Number of sequences S, and of instruments V in each.
    effect : float
        Causal effect of exposure on outcome.
    seed : int
        The same seed gives all scenarios the same strengths and errors.

    Returns
    -------
    SummaryData

    Raises
    ------
    ValueError
        If the scenario is not known.

    Notes
    -----
    Exposure effects are uniform from 0.2 to 1, as selection by a threshold leaves them, with either
    sign; standard errors are 0.05, for the exposure of `weak` 0.4. Direct
    effects, oriented like the exposure's, have mean 0 and sd 0.1 (`balanced`), mean 0.1 and sd 0.05
    (`directional`), or in 20 % of the instruments mean 0.5 and sd 0.2 (`outliers`). In
    `correlated` 20 % move a confounder by an amount uniform from 0.2 to 0.8, which adds to both
    effects alike. The design follows Slob and Burgess (2020), Genet Epidemiol 44:313.
    """
    check_choice("scenario", scenario, tuple(SCENARIOS))
    rng = np.random.default_rng(seed)
    shape = (datasets, instruments)
    strength, sign = rng.uniform(0.2, 1, shape), rng.choice([-1.0, 1.0], shape)
    noise_x, noise_y, normal = rng.standard_normal((3, *shape))
    uniform = rng.random(shape)
    direct = {
        "balanced": 0.1 * normal,
        "directional": 0.1 + 0.05 * normal,
        "outliers": np.where(uniform < 0.2, 0.5 + 0.2 * normal, 0),
        "correlated": np.where(uniform < 0.2, 0.2 + 3 * uniform, 0),
    }.get(scenario, np.zeros(shape))
    strength = strength + (direct if scenario == "correlated" else 0)
    sx, sy = np.full(shape, 0.4 if scenario == "weak" else 0.05), np.full(shape, 0.05)
    x, y = strength + sx * noise_x, effect * strength + direct + sy * noise_y
    return SummaryData(sign * x, sx, sign * y, sy, sign * direct)


def assumed(method: str, scenario: str) -> bool:
    """Whether what a method assumes (`deepmr_utils.mr.methods`) holds in a scenario."""
    assumption = REGISTRY[method].assumption
    tolerant = "half" in assumption or "largest group" in assumption or OUTLIERS in assumption
    return {
        "valid": True,
        "balanced": assumption.startswith((BALANCED, INSIDE)),
        "directional": assumption.startswith(INSIDE),
        "outliers": tolerant or assumption.startswith(INSIDE),
        "correlated": tolerant and REGISTRY[method].citation != VERBANCK_2018,
        "weak": WEAK in assumption,
    }[scenario]


def score(
    methods: Sequence[str],
    scenarios: Sequence[str] = tuple(SCENARIOS),
    *,
    datasets: int = 400,
    instruments: int = 30,
    effect: float = 0.1,
    seed: int = 0,
    options: Mapping[str, Mapping[str, object]] | None = None,
) -> pd.DataFrame:
    """Bias, error, coverage and power of methods in scenarios.

    Parameters
    ----------
    methods, scenarios : sequence of str
        Names of `deepmr_utils.mr.methods`, and keys of `SCENARIOS`.
    datasets, instruments, effect, seed
        As in `simulate`. A method that takes fewer instruments gets the first that it can take.
    options : mapping, optional
        Further arguments of `deepmr_utils.mr.estimate`, by method.

    Returns
    -------
    pd.DataFrame
        One row a scenario and method: `scenario`, `method`; `assumed`, whether the method's
        assumptions hold there; `bias`, `rmse`; `coverage` of the 95 % interval; `mc_error`, the
        Monte-Carlo standard error of the coverage; `power`, the share of intervals that exclude 0;
        `failed`, the share of data sets without an estimate, which count in no other column.
    """
    rows, methods = [], check_methods(methods)
    for scenario in as_list(scenarios):
        data = simulate(scenario, datasets, instruments, effect=effect, seed=seed)
        for method in methods:
            arrays = [a[:, : REGISTRY[method].maximum] for a in data[:4]]
            table = mr.estimate(*arrays, method, **(options or {}).get(method, {}))
            good = table[table["status"] == "ok"]
            error = good["causal_effect"] - effect
            covered = (good["ci_low"].le(effect) & good["ci_high"].ge(effect)).mean()
            mc_error = np.sqrt(covered * (1 - covered) / max(len(good), 1))
            power = (good["ci_low"].gt(0) | good["ci_high"].lt(0)).mean()
            row = scenario, method, assumed(method, scenario), error.mean()
            row += np.sqrt((error**2).mean()), covered, mc_error, power, 1 - len(good) / datasets
            rows.append(row)
    columns = ["scenario", "method", "assumed", "bias", "rmse", "coverage", "mc_error", "power"]
    return pd.DataFrame(rows, columns=[*columns, "failed"])
