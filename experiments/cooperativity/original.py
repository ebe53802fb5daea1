"""What the original study's code does otherwise, to measure what each correction changes.

Nothing else in the package uses these functions; the corrections page of the book says why.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.isotonic import IsotonicRegression
from torch import nn

from deepmr_utils.calibration import N_LEVELS, IsotonicRecalibrator, observed_proportions
from deepmr_utils.instruments import select_instruments
from deepmr_utils.mr import local_mr
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.sequences import one_hot

from . import simulation
from .sequences import STARTS


def training_mode_effects(
    members: Sequence[nn.Module], one_hot: torch.Tensor, effects: xr.Dataset
) -> xr.Dataset:
    """Variant effects by members left in training mode.

    Batch normalisation then takes its statistics from the batch, which here is one reference
    sequence with all its mutants.

    Parameters
    ----------
    members : sequence of nn.Module
        Left as they are: copies are set to training mode.
    one_hot : torch.Tensor (N, 4, L)
    effects : xr.Dataset
        Effects of the same sequences in evaluation mode, of
        `deepmr_utils.mutagenesis.saturation_mutagenesis`: the labels of the result.

    Returns
    -------
    xr.Dataset
        `effects` with other ``effect`` and ``se``.
    """
    members = [copy.deepcopy(member).train() for member in members]
    effect, se = np.full((2, *effects["effect"].shape), np.nan)
    for s, reference in enumerate(one_hot):
        position, allele = np.nonzero(reference.T.numpy() == 0)
        rows = np.arange(len(position))
        mutants = reference.repeat(len(rows), 1, 1)
        mutants[rows, :, position] = 0
        mutants[rows, allele, position] = 1
        batch = torch.cat([reference[None], mutants])
        with torch.no_grad():
            predictions = torch.stack([member(batch) for member in members]).double().numpy()
        change = predictions[:, 1:] - predictions[:, :1]
        effect[s, position, allele] = change.mean(0)
        se[s, position, allele] = change.std(0, ddof=1)
    dims = effects["effect"].dims
    return effects.drop_vars("member_effect", errors="ignore").assign(
        effect=(dims, effect), se=(dims, se)
    )


def slipped_augmentation(data: simulation.Round, seed: int) -> simulation.Round:
    """A round whose augmented sequences are mutated at the motif positions of other sequences."""
    rng = np.random.default_rng(seed)
    train = data.split("train").reset_index(drop=True)
    n = (data.sequences["split"] == "augmented").sum()
    slipped = train.copy()
    slipped[STARTS] = train[STARTS].iloc[rng.permutation(len(train))].to_numpy()
    slipped[STARTS] = slipped[STARTS].astype("Int64")
    mutants = simulation.augment(slipped, data.parameters, int(n), rng)
    mutants = simulation.label(mutants, data.parameters, data.rates, rng)
    kept = data.sequences[data.sequences["split"] != "augmented"]
    table = pd.concat([kept, mutants.assign(split="augmented")], ignore_index=True)
    return data._replace(sequences=table.astype({"split": pd.CategoricalDtype(simulation.SPLITS)}))


def interval_recalibrator(predictions: np.ndarray, labels: np.ndarray) -> IsotonicRecalibrator:
    """Recalibrator fitted to the coverage of central intervals, though it is applied to quantiles.

    Predictions (M, N, K), labels (N, K), as in `deepmr_utils.calibration.fit_isotonic`.
    """
    levels = np.linspace(0, 1, N_LEVELS)
    mean, sd = predictions.mean(0), predictions.std(0)
    maps = []
    for k in range(labels.shape[1]):
        observed = observed_proportions(mean[:, k], sd[:, k], labels[:, k], levels, "interval")
        maps.append(IsotonicRegression(out_of_bounds="clip").fit(observed, levels))
    return IsotonicRecalibrator(tuple(maps), len(labels))


def instruments_by_strength(effects: xr.Dataset) -> pd.DataFrame:
    """Instruments as in the original code, wherever they lie, for `deepmr_utils.mr.local_mr`.

    The standard deviation between members stands for the standard error of their mean.
    """
    table = select_instruments(effects, "exposure", "outcome")
    table = table.assign(se_exposure=table["sd_exposure"], se_outcome=table["sd_outcome"])
    return table.drop(columns="covariance", errors="ignore")


def mispaired_coverage(local: pd.DataFrame) -> float:
    """Share of local intervals that hold the truth that stands at their place in another list.

    Parameters
    ----------
    local : pd.DataFrame
        Local effects of one round, calibration and method, in the order of the sequences:
        ``ci_low, ci_high, truth, stratum``. Intervals are those of all sequences, truths of those
        with both motifs only, as in the original code.
    """
    truths = local.loc[local["stratum"] == "both motifs", "truth"].to_numpy()
    low, high = (local[name].to_numpy()[: len(truths)] for name in ("ci_low", "ci_high"))
    usable = np.isfinite(truths) & np.isfinite(low)
    return float(((low <= truths) & (truths <= high))[usable].mean())


def effects_of_the_rules(
    scenarios: Sequence[str], rounds: int, parameters: simulation.Parameters, seed: int = 0
) -> pd.DataFrame:
    """Global effects that a network without error would give, beside both truths.

    The rules of the simulation take the network's place, in test sequences with both motifs, with
    equal standard errors; local effects are by inverse-variance weighting, and averaged.

    Parameters
    ----------
    scenarios : sequence of str
    rounds : int
        Of each scenario, with data and rates of their own.
    parameters : simulation.Parameters
        Their scenario is replaced.
    seed : int

    Returns
    -------
    pd.DataFrame
        ``scenario, round, effect, truth, truth_published``.
    """
    rows = []
    for scenario, number in itertools.product(scenarios, range(rounds)):
        data = simulation.simulate_round(
            replace(parameters, scenario=scenario), np.random.SeedSequence([seed, number])
        )
        test = data.split("test").query("exposure_start.notna() and outcome_start.notna()")
        rules = simulation.Oracle(data.parameters, data.rates)
        effects = saturation_mutagenesis(
            rules, one_hot(test["sequence"].tolist(), torch.float64), propagate=False,
            sequence_ids=test["sequence_id"], device="cpu",
        )  # fmt: skip
        effects = effects.assign(se=xr.full_like(effects["effect"], 0.01))
        local = local_mr(select_instruments(effects, "exposure", "outcome"), "ivw")
        truth = simulation.local_truth(test, data.parameters, data.rates)
        both = local.merge(truth, on="sequence_id").dropna(subset=["causal_effect", "truth"])
        mean = both[["causal_effect", "truth", "truth_published"]].mean()
        rows.append([scenario, number, *mean])
    return pd.DataFrame(rows, columns=["scenario", "round", "effect", "truth", "truth_published"])
