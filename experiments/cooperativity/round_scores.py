"""How well global and local effects of many rounds meet the truth: tables of effects and scores."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from deepmr_utils import intervals, meta
from deepmr_utils._checks import as_list
from deepmr_utils._numerics import half_sample_mode

from .. import DATA
from . import simulation
from .one_round import GLOBAL_KEYS, RoundResult, with_truth


def global_table(results: Iterable[RoundResult], rule: str = "rubin") -> pd.DataFrame:
    """Global effects of each round, stratum and method beside the truth.

    Parameters
    ----------
    results : iterable of RoundResult
    rule : str
        How the variance between members enters, see
        `deepmr_utils.intervals.total_variance`.

    Returns
    -------
    pd.DataFrame
        One row a ``scenario, round, stratum, calibration, method``; stratum "all" pools the strata.
        The columns of `deepmr_utils.meta.global_effects`, whose ``ci_low, ci_high`` take the model
        for known. ``total_ci_low, total_ci_high`` (with ``between_se, total_se, total_df``) add the
        variance between members, for the mean of all sequences of the kind; ``sample_ci_low,
        sample_ci_high`` (with ``sample_se``) do so for the mean of the sequences analysed, which
        ``truth`` is (`deepmr_utils.meta.conditional_se`). ``effect_ratio`` is beta / alpha of the
        round. ``truth``, ``truth_published`` and ``naive`` are means of the local truths and naive
        effects, ``truth_median`` and ``truth_mode`` median and half-sample mode of the local
        truths. ``local_coverage, local_total_coverage``: shares of sequences whose own 95 %
        interval, given the model and in total, holds their own truth; ``local_below,
        local_total_below``: shares in which it ends below the truth; ``local_width,
        local_total_width``: median widths of these intervals; ``local_bias, local_mse``. Only
        sequences with a truth and an estimate enter, the same ones for estimate and truth.
    """
    results = list(results)
    local = with_truth(pd.concat([result.local for result in results], ignore_index=True))
    effects = meta.global_effects(local, by=GLOBAL_KEYS)
    members = pd.concat([result.members for result in results], ignore_index=True)
    members = members.astype({"round": local["round"].dtype, "effect": float})
    effects = intervals.add_intervals(effects, members, GLOBAL_KEYS, "effect", rule=rule)
    effects = effects.merge(_local_scores(local, effects), on=GLOBAL_KEYS, validate="1:1")
    sample = intervals.add_intervals(
        effects.assign(se=effects["sample_se"]), members, GLOBAL_KEYS, "effect", rule=rule
    )
    for end in ("low", "high"):
        effects[f"sample_ci_{end}"] = sample[f"total_ci_{end}"]
    return effects.assign(effect_ratio=_effect_ratios(results, effects))


def _local_scores(local: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Scores of the local effects of each group, and the standard error of their sample mean."""
    tau2 = local[GLOBAL_KEYS].merge(effects[[*GLOBAL_KEYS, "tau2"]], on=GLOBAL_KEYS)["tau2"]
    local = local.assign(error=local["causal_effect"] - local["truth"], tau2=tau2.to_numpy())
    names = ("coverage", "width", "below")
    columns = dict.fromkeys([*names, *(f"total_{name}" for name in names)], np.nan)
    local = local.assign(**columns)
    for prefix in ("", "total_"):
        if f"{prefix}ci_low" in local:
            low, high = local[f"{prefix}ci_low"], local[f"{prefix}ci_high"]
            held, below = local["truth"].between(low, high), high < local["truth"]
            local[f"{prefix}coverage"] = held.astype(float).where(low.notna())
            local[f"{prefix}width"] = high - low
            local[f"{prefix}below"] = below.astype(float).where(low.notna())
    groups = local.groupby(GLOBAL_KEYS, sort=False)
    table = groups.agg(
        truth=("truth", "mean"), truth_median=("truth", "median"),
        truth_mode=("truth", half_sample_mode), truth_published=("truth_published", "mean"),
        naive=("naive", "mean"),
        local_coverage=("coverage", "mean"), local_total_coverage=("total_coverage", "mean"),
        local_below=("below", "mean"), local_total_below=("total_below", "mean"),
        local_width=("width", "median"), local_total_width=("total_width", "median"),
        local_bias=("error", "mean"), local_mse=("error", lambda error: (error**2).mean()),
    )  # fmt: skip
    table["sample_se"] = [meta.conditional_se(g["se"], g["tau2"]) for _, g in groups]
    return table.reset_index()


def _effect_ratios(results: list[RoundResult], effects: pd.DataFrame) -> list[float]:
    """Ratio beta / alpha of the round of each row; NaN where its record does not say."""
    ratios = {
        (r.record["scenario"], r.record["round"]): r.record["rates"]["beta"]
        / r.record["rates"]["alpha"]
        for r in results
        if "rates" in r.record
    }
    keys = effects[["scenario", "round"]].itertuples(index=False)
    return [ratios.get(tuple(key), np.nan) for key in keys]


def score_table(
    globals_: pd.DataFrame, by: Sequence[str] = ("scenario", "stratum", "calibration", "method")
) -> pd.DataFrame:
    """How well effects meet the truth, by scenario, stratum, calibration and method.

    Parameters
    ----------
    globals_ : pd.DataFrame
        `global_table` of several rounds.
    by : sequence of str
        Columns whose values make the groups. Add ``component`` of `with_component` to look within
        the components of the mixture of effect ratios: r over both is driven by their distance.

    Returns
    -------
    pd.DataFrame
        ``rounds``; ``r``, ``bias`` and ``rmse`` of the global effect against the true one,
        ``slope`` through the origin and ``relative_rmse``, the RMSE over the mean truth;
        ``r_naive`` and ``slope_naive``; shares of rounds whose 95 % intervals contain the truth
        (``ci_coverage``, given the model, ``total_coverage``, ``sample_coverage``, ``pi_coverage``,
        and ``heterogeneity_coverage`` of effect -/+ 2 tau) with their median widths (``ci_width``
        ...); over sequences ``local_coverage, local_total_coverage, local_below, local_total_below,
        local_width, local_total_width, local_bias, local_rmse``.
    """
    rows = []
    by = as_list(by)
    for key, group in globals_.groupby(by, sort=False):
        truth, error = group["truth"], group["effect"] - group["truth"]
        rmse = np.sqrt((error**2).mean())
        row = dict(zip(by, key, strict=True)) | {
            "rounds": len(group), "r": _correlation(group["effect"], truth),
            "r_naive": _correlation(group["naive"], truth), "bias": error.mean(), "rmse": rmse,
            "relative_rmse": _ratio(rmse, abs(truth.mean())),
            "slope": _ratio((group["effect"] * truth).sum(), (truth**2).sum()),
            "slope_naive": _ratio((group["naive"] * truth).sum(), (truth**2).sum()),
        }  # fmt: skip
        for name in ("ci", "total_ci", "sample_ci", "pi", "heterogeneity"):
            low, high = group[f"{name}_low"], group[f"{name}_high"]
            short = name.removesuffix("_ci")
            row[f"{short}_coverage"] = truth.between(low, high)[low.notna()].mean()
            row[f"{short}_width"] = (high - low).median()
        for name in ("coverage", "below", "width"):
            for prefix in ("local_", "local_total_"):
                row[prefix + name] = np.average(group[prefix + name], weights=group["k"])
        row["local_bias"] = np.average(group["local_bias"], weights=group["k"])
        row["local_rmse"] = np.sqrt(np.average(group["local_mse"], weights=group["k"]))
        rows.append(row)
    return pd.DataFrame(rows)


def rule_table(results: Iterable[RoundResult]) -> pd.DataFrame:
    """Coverage and width of intervals under every rule for the variance between members.

    Parameters
    ----------
    results : iterable of RoundResult

    Returns
    -------
    pd.DataFrame
        By ``method, calibration, rule``, a rule of `deepmr_utils.intervals.RULES` or one
        followed by ", moderated". Of global effects in sequences with both motifs
        ``total_coverage, total_width, sample_coverage, sample_width``, as in `score_table` (NaN for
        moderated rules: there is but one global effect a round); of the local effects of all
        sequences with a truth ``local_coverage`` and the median ``local_width``; the same in each
        stratum as ``both_coverage, both_width, exposure_coverage, exposure_width``.
    """
    results, keys = list(results), ["method", "calibration"]
    local = pd.concat([result.local for result in results], ignore_index=True)
    local = local.dropna(subset=["truth", "causal_effect", "between_se"])
    members = {(r.record["scenario"], r.record["round"]): r.members["member"] for r in results}
    rows = []
    for rule in intervals.RULES:
        table = global_table(results, rule)
        table = score_table(table[table["stratum"] == "both motifs"], keys).set_index(keys)
        for moderate in (False, True)[: 1 + rule.startswith("rubin")]:
            parts = []
            for key, group in local.groupby(["scenario", "round", *keys], sort=False):
                ends = intervals.intervals(
                    group["causal_effect"], group["se"], group["between_se"],
                    members[key[:2]].max() + 1, rule, moderate=moderate,
                )  # fmt: skip
                low, high = ends["total_ci_low"], ends["total_ci_high"]
                held = (low <= group["truth"]) & (group["truth"] <= high)
                parts.append(group.assign(coverage=held, width=high - low))
            every = pd.concat(parts)
            found = [_coverage(every, keys, "local")]
            for name, part in every.groupby("stratum"):
                found.append(_coverage(part, keys, str(name).split()[0]))
            names = [f"{kind}_{score}" for kind in ("total", "sample") for score in _SCORES]
            own = table[names].astype(float)
            row = pd.concat([own * np.nan if moderate else own, *found], axis=1)
            rows.append(row.assign(rule=f"{rule}, moderated" if moderate else rule))
    return pd.concat(rows).set_index("rule", append=True)


_SCORES = ("coverage", "width")


def _coverage(local: pd.DataFrame, keys: list[str], prefix: str) -> pd.DataFrame:
    groups = local.groupby(keys, sort=False)
    return groups.agg(**{
        f"{prefix}_coverage": ("coverage", "mean"), f"{prefix}_width": ("width", "median")
    })  # fmt: skip


def with_component(globals_: pd.DataFrame, parameters: simulation.Parameters) -> pd.DataFrame:
    """Add ``component``: "small" or "large", the nearer mean of the mixture of effect ratios."""
    large = globals_["effect_ratio"] > np.mean(parameters.ratio_means)
    return globals_.assign(component=np.where(large, "large", "small"))


def _ratio(numerator: float, denominator: float) -> float:
    """Quotient; NaN where all truths are 0."""
    return numerator / denominator if denominator else np.nan


def published_rounds() -> pd.DataFrame:
    """Published rounds of Malina, Cizin and Knowles (2022); columns in ``data/README.md``."""
    table = pd.read_csv(DATA / "published_simulation_rounds.csv")
    return table.rename(columns={"confounding": "scenario"})


def _correlation(x: pd.Series, y: pd.Series) -> float:
    """Pearson's r; NaN for fewer than three rounds or where one side does not vary."""
    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
