"""One analysis: who acts on whom, from variant effects to an answer for each pair of features.

`deep_mr` makes the choices that hold in worlds whose answer is known: instruments that respect
direction, a line through the origin, intervals that carry the model, and the effect of a knock-out
beside the slope. `PUBLISHED` makes those of the paper.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import special

from . import __version__
from ._checks import as_list, check_choice, check_columns, check_names
from ._verdict import verdicts
from .instruments import DESIGNS, SITES, eligible, own_responses, sequences_of
from .intervals import PAIR, add_intervals
from .intervals import RULES as INTERVALS
from .negative_controls import Nulls, calibrate, check_nulls
from .pairs import PairEffects, check_fits, pair_effects, summarise
from .private_movers import private_movers

__all__ = ["PUBLISHED", "Result", "deep_mr"]

# Malina, Cizin and Knowles (2022): every substitution that is strong, by their threshold for BPNet
# (1 in the simulation), MR-Egger, and an interval that takes the model for known.
PUBLISHED = {
    "design": "all", "rule": "pooled", "threshold": 3.0, "method": "egger_paper",
    "weights": "simple", "interval": "plain",
}  # fmt: skip
MOVED = 0.15  # of its own response: what moves a feature
WEAK = 10  # mean squared effect over sd of a member, below which selection leaves a bias
ROUNDING = 100  # effects below so many roundings of float32 lose digits


class Result(NamedTuple):
    """What `deep_mr` found.

    ``effects`` has one row a pair: ``exposure, outcome``; the global ``effect`` with its ``se,
    ci_low, ci_high, p, q_value``, which carry the variance between members (Benjamini and Hochberg
    over all pairs); ``tau`` and ``pi_low, pi_high``, how much local effects differ and where one of
    a new sequence lies; ``k`` sequences and ``n_instruments`` that entered; ``knockout,
    knockout_ci_low, knockout_ci_high``, the effect of losing the exposure's site, corrected where
    there are labels; then also ``learned_response`` of the exposure and ``corrected``, the slope
    so corrected, with ``learned_ci_low, learned_ci_high, corrected_ci_low, corrected_ci_high``;
    ``own_effect, own_ci_low, own_ci_high``, in the features' own responses; ``private_share,
    private_ci_low, private_ci_high``, how much of what moves the exposure leaves the outcome alone
    (see `deepmr_utils.private_movers`; NaN for edits); ``correlation`` of the effects on both, in
    size, over what moves either; ``verdict`` and ``reason``; ``status``, "ok" or why there is no
    interval; then ``within_se, between_se, df``, what the standard error is made of. With null
    pairs the effect is less ``null_mean``, the last column, and ``within_se`` and ``between_se``
    are what the standard error was before calibration.

    ``local`` has one row a pair and sequence: ``causal_effect, se, ci_low, ci_high, p,
    n_instruments, status, within_se, between_se``, where intervals carry the members, too, and what
    else the method gives (see `deepmr_utils.mr.estimate`). ``instruments`` and ``members`` are
    those of `PairEffects`, ``settings`` is everything that was chosen.
    """

    effects: pd.DataFrame
    local: pd.DataFrame
    instruments: pd.DataFrame
    members: pd.DataFrame
    settings: dict[str, Any]

    @property
    def pairs(self) -> PairEffects:
        """What `summarise` takes: rows of ``local`` may be chosen and grouped in other ways."""
        local = self.local.assign(se=self.local["within_se"])
        return PairEffects(local, self.members, self.instruments)

    def report(self) -> str:
        """A sentence a pair: the verdict, the numbers and the reason."""
        known = ", given the model" if self.settings["interval"] == "plain" else ""
        return "\n".join(_sentence(row, known) for _, row in self.effects.iterrows())


def _sentence(row: pd.Series, known: str) -> str:
    def number(name: str, text: str = "") -> str:
        low, high = row[f"{text}ci_low"], row[f"{text}ci_high"]
        if np.isnan(row[name]):
            return "not estimated"
        return f"{row[name]:.3g}" + ("" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]")

    parts = [f"slope {number('effect')}{known}"]
    if not np.isnan(row["knockout"]):
        parts.append(f"knock-out {number('knockout', 'knockout_')}")
    if not np.isnan(row["q_value"]):
        parts.append(f"q = {row['q_value']:.2g}")
    return (
        f"{row['exposure']} -> {row['outcome']}: {row['verdict']}; {', '.join(parts)}; "
        f"{row['k']} sequences. {row['reason'][:1].upper()}{row['reason'][1:]}."
    )


def deep_mr(
    effects: xr.Dataset | object, one_hot: object = None, *,
    pairs: Sequence[tuple[str, str]] | None = None, exposures: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None, design: str | None = None, rule: str = "pooled",
    threshold: float | None = None, method: str = "ivw", weights: str = "equal",
    cross_fit: bool = False, interval: str = "rubin", instances: pd.DataFrame | None = None,
    motifs: Mapping[str, Any] | None = None, edits: xr.Dataset | None = None,
    labels: pd.DataFrame | None = None, null_pairs: Nulls | None = None, seed: int = 0,
    **mutagenesis: Any,
) -> Result:  # fmt: skip
    """Causal effects between the features of a model: all ordered pairs, or those asked for.

    Parameters
    ----------
    effects : xr.Dataset, or what `deepmr_utils.mutagenesis.saturation_mutagenesis` takes
        Variant effects, with ``member_effect`` for intervals; or the members of an ensemble, which
        are mutated first.
    one_hot : array or tensor (N, 4, L), optional
        Sequences, with members.
    pairs : sequence of (exposure, outcome), optional
        All of ``exposures`` and ``outcomes`` by default, and these are all features by default.
    exposures, outcomes : sequence of str, optional
    design : {"motif", "strongest", "all"}, optional
        Which substitutions may be instruments, see `deepmr_utils.instruments.eligible`. By default
        "motif" where instances, motifs or edits of sites are given, else "strongest".
    rule, threshold
        As in `deepmr_utils.instruments.select_instruments`; the threshold is 1 by default, and 0
        for edits, each of which was made to move its factor.
    method : str
        One of `deepmr_utils.mr.methods`.
    weights : {"equal", "simple", "delta"}
        Of instruments, for methods that take them. Few members tell the variance of a substitution
        so badly that ``1 / se^2`` is noise; with "equal" weights the line through the origin is the
        slope that the truth of the simulations is defined by.
    cross_fit : bool
        Select instruments by some members and take the products of others, where instruments are
        weak; needs 4 members, and the rule "wald". See `deepmr_utils.mr.crossfit.cross_fit`.
    interval : str
        Rule of `deepmr_utils.intervals.total_variance`. "plain" takes the model for known.
    instances : pd.DataFrame, optional
        Where the motifs of exposures lie: ``sequence_id, factor, start, end``, see
        `deepmr_utils.motifs.find_instances`.
    motifs : mapping of str to Motif, optional
        By exposure. With members, instances are searched for, if none are given, and knocked out.
    edits : xr.Dataset, optional
        Effects of knock-outs, see `deepmr_utils.edits.edit_effects`.
    labels : pd.DataFrame, optional
        What held-out labels say the model has missed, of `deepmr_utils.held_out.correct`.
    null_pairs : sequence of (exposure, outcome), DataFrame, or "most", optional
        Pairs, or effects of other networks, that are known to be null: negative controls. Effects
        are then less the mean of the nulls, and intervals, p, q and verdicts calibrated, see
        `deepmr_utils.negative_controls.calibrate`.
    seed : int
        Of the draws of knock-outs.
    **mutagenesis
        With members, options of `saturation_mutagenesis`.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If a feature, a pair or an option is unknown, an exposure has no motif instances where the
        design asks for them, or null pairs are not among the pairs or too few.

    Notes
    -----
    The effect is the slope through the origin, over the exposure's instruments, of the change of
    the outcome on the change of the exposure. Exposure and outcome are predicted by the same
    members, so that their errors overlap completely; with three members or more, estimators that
    can are freed from it (see `deepmr_utils.mr.estimate`). Local effects of a pair make a global
    one by random effects (`deepmr_utils.meta.random_effects`).

    With labels the share of the response to a lost site that the model missed is taken to be missed
    of every substitution alike: with the learned response L, the corrected slope is ``R + L (slope
    - R0)``, for R and R0 the knock-out with and without correction. Its interval takes the errors
    of R and of the slope for independent.

    The verdict on X -> Y is the first that holds. An effect in own responses is ``effect * own(X) /
    own(Y)``, see `deepmr_utils.instruments.own_responses`. Opposed by private movers means that
    ``private_ci_low`` is above 0.1; a direction is told if ``q_value`` is below 0.05 and, with
    labels, ``corrected_ci_low, corrected_ci_high`` exclude 0; negligible is a knock-out whose
    interval lies within 0.1 own responses around 0.

    - "not distinguishable": ``correlation`` above 0.95, in size, over the substitutions that move X
      or Y by 0.15 of its own response; or fewer than 10 sequences with instruments (``k``).
    - "undetermined": no standard error; or labels do not tell the response of X to its own sites.
    - If told: "no effect" where the knock-out is negligible and either is opposed by private movers
      or does not agree, that is, its interval contains 0 or it has the other sign; "undetermined"
      where a knock-out does not agree, or private movers oppose; "not distinguishable" where Y -> X
      is told, too, unopposed, and no site of X was knocked out; "undetermined" where Y -> X is told
      so, sites were knocked out, and ``own_effect`` is below 0.1 in size and smaller than that of
      Y -> X; else "acts".
    - If not told: "no effect" where ``own_ci_low, own_ci_high`` lie within 0.1 around 0, or the
      knock-out is negligible, or ``private_ci_low`` is above 0.5; else "undetermined".
    """
    (method,) = check_fits(method, rule, 1.0 if threshold is None else threshold, weights)
    check_choice("design", design or DESIGNS[0], DESIGNS)
    check_choice("interval", interval, INTERVALS)
    if not isinstance(effects, xr.Dataset):
        effects, found, knocked = _mutate(effects, one_hot, instances, motifs, seed, mutagenesis)
        instances = found if instances is None else instances
        edits = knocked if edits is None else edits
    elif one_hot is not None or mutagenesis:
        extra = "one_hot" if one_hot is not None else next(iter(mutagenesis))
        raise ValueError(f"effects are there already: {extra} goes with the members of a model")
    pairs = _check_pairs(effects, pairs, exposures, outcomes)
    edited = "edit" in effects.dims
    design = design or ("motif" if edited or instances is not None else "strongest")
    threshold = float(not edited) if threshold is None else threshold
    if null_pairs is not None:
        check_nulls(null_pairs, pairs, {"design": design})
    acting = list(dict.fromkeys(x for x, _ in pairs))
    allowed = eligible(
        effects.sel(feature=acting) if design == "motif" else effects, design, instances
    )
    chosen = {"method": method, "rule": rule, "threshold": threshold, "weights": weights,
              "cross_fit": cross_fit}  # fmt: skip
    found = pair_effects(effects, allowed, pairs, **chosen)
    _warn_of_rounding(effects, found.instruments)
    settings = {
        "design": design, **chosen, "interval": interval, "version": __version__,
        "members": effects.sizes.get("member", 0), "sequences": len(sequences_of(effects)),
    }  # fmt: skip
    settings |= {n: v for n, v in effects.attrs.items() if n in ("model_hash", "calibration")}
    table = _global_table(
        found, effects, allowed, edits, labels, interval, null_pairs, cross_fit=cross_fit
    )
    settings["null_pairs"] = table.attrs.pop("nulls", None)
    return Result(table, _local_table(found, interval), found.instruments, found.members, settings)


def _check_pairs(
    effects: xr.Dataset, pairs: Sequence[tuple[str, str]] | None,
    exposures: Sequence[str] | None, outcomes: Sequence[str] | None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Ordered pairs of two features each, once."""
    names = effects["feature"].to_numpy().tolist()
    if pairs is not None:
        if exposures is not None or outcomes is not None:
            raise ValueError("pairs say exposures and outcomes: give either pairs or these")
        pairs = [tuple(pair) for pair in pairs]
        for pair in pairs:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ValueError(f"a pair is an exposure and another feature; got {pair}")
            check_names("feature", list(pair), names)
        found = list(dict.fromkeys(pairs))
    else:
        acting = names if exposures is None else check_names("exposure", as_list(exposures), names)
        acted = names if outcomes is None else check_names("outcome", as_list(outcomes), names)
        found = [(x, y) for x in acting for y in acted if x != y]
    if not found:
        raise ValueError(f"effects on each other need at least 2 features; got {names}")
    return found


def _mutate(
    members: object, one_hot: object, instances: pd.DataFrame | None,
    motifs: Mapping[str, Any] | None, seed: int, options: dict[str, Any],
) -> tuple[xr.Dataset, pd.DataFrame | None, xr.Dataset | None]:  # fmt: skip
    """Effects of substitutions, motif instances, and effects of knock-outs of known motifs."""
    from .edits import edit_effects, site_edits  # who has effects needs no torch
    from .motifs import find_instances
    from .mutagenesis import saturation_mutagenesis

    if one_hot is None:
        raise ValueError("members of a model need sequences: deep_mr(members, one_hot)")
    if motifs is not None and options.get("strands", "forward") != "forward":
        raise ValueError(
            "knock-outs are predicted on the strand given: leave out strands, or give "
            "instances in the place of motifs"
        )
    effects = saturation_mutagenesis(members, one_hot, keep_members=True, **options)
    if motifs is None:
        return effects, instances, None
    ids = effects["sequence"].to_numpy().tolist()
    if instances is None:
        instances = find_instances(one_hot, ids, motifs)
    shared = {name: options[name] for name in EDIT_OPTIONS if name in options}
    edits = site_edits(one_hot, ids, instances, motifs, seed=seed)
    return effects, instances, edit_effects(members, one_hot, edits, sequence_ids=ids, **shared)


EDIT_OPTIONS = ("features", "transform", "device")


def _warn_of_rounding(effects: xr.Dataset, instruments: pd.DataFrame) -> None:
    """Say where effects are at the rounding of the predictions whose differences they are."""
    if effects.attrs.get("precision") != "float32" or "reference_prediction" not in effects:
        return
    for name, size in instruments.groupby("exposure")["beta_exposure"]:
        size = np.sqrt((size**2).mean())
        prediction = np.abs(effects["reference_prediction"].sel(feature=name)).median().item()
        if size < ROUNDING * np.finfo(np.float32).eps * prediction:
            warnings.warn(
                f"effects on {name!r} are {size:.2g}, of predictions of {prediction:.2g}: float32 "
                "holds few digits of such differences; compute them with precision='float64'",
                stacklevel=3,
            )


CORRECTED = [
    "learned_response", "learned_ci_low", "learned_ci_high", "corrected", "corrected_ci_low",
    "corrected_ci_high",
]  # fmt: skip
PRIVATE = ["private_share", "private_ci_low", "private_ci_high"]
TOTAL = {
    "total_se": "se", "total_ci_low": "ci_low", "total_ci_high": "ci_high", "total_p": "p",
    "total_df": "df",
}  # fmt: skip


def _with_total(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose standard errors, intervals and p-values are those that carry the model."""
    given = table.rename(columns={"se": "within_se"}).drop(columns=["ci_low", "ci_high", "p"])
    return given.rename(columns=TOTAL)


def _local_table(found: PairEffects, interval: str) -> pd.DataFrame:
    keys = [*PAIR, "sequence_id"]
    members = found.members if len(found.members) else found.local.iloc[:0]
    table = _with_total(add_intervals(found.local, members, keys, rule=interval, moderate=True))
    first = ["method", "causal_effect", "se", "ci_low", "ci_high", "p", "n_instruments", "status"]
    first = [*keys, *first, "within_se", "between_se"]
    return table[[*first, *table.columns.drop([*first, "df", "total_status"])]]


def _global_table(
    found: PairEffects, effects: xr.Dataset, allowed: xr.DataArray, edits: xr.Dataset | None,
    labels: pd.DataFrame | None, interval: str, null_pairs: Nulls | None, *, cross_fit: bool,
) -> pd.DataFrame:  # fmt: skip
    """The table of `Result.effects`."""
    table, _ = summarise(found, PAIR, rule=interval)
    table = _with_total(table).drop(columns="status").rename(columns={"total_status": "status"})
    entered = found.local[found.local["causal_effect"].notna()]
    counts = entered.groupby(PAIR)["n_instruments"].sum()
    table = table.set_index(PAIR)
    table["n_instruments"] = counts.reindex(table.index, fill_value=0)
    names = ["knockout", "knockout_ci_low", "knockout_ci_high"]
    if edits is None:
        table[names] = np.nan
    else:
        from .knockouts import knockout_effects

        here = [pair for pair in table.index if pair[0] in edits["factor"].to_numpy()]
        table[names] = knockout_effects(edits, here).set_index(PAIR)[names].reindex(table.index)
    own = own_responses(effects, allowed)
    x, y = (own.reindex(table.index.get_level_values(name)).to_numpy() for name in PAIR)
    table["own_effect"] = table["effect"] * x / y
    if null_pairs is not None:
        table = _apply_nulls(table, x / y, null_pairs)
    table[["own_ci_low", "own_ci_high"]] = table[["ci_low", "ci_high"]].mul(x / y, axis=0)
    table[CORRECTED] = np.nan
    if labels is not None:
        _correct(table, labels)
    beyond = np.minimum(table["df"], np.where(table["k"] > 2, table["k"] - 2.0, np.nan))
    reach = special.stdtrit(beyond, 0.975) * np.hypot(table["se"], table["tau"])
    table["pi_low"], table["pi_high"] = table["effect"] - reach, table["effect"] + reach
    table[PRIVATE] = np.nan
    if "edit" not in effects.dims:  # whose sites are changed is chosen there
        table[PRIVATE] = private_movers(effects, list(table.index)).set_index(PAIR)[PRIVATE]
    table["correlation"] = [_correlation(effects, *pair, own) for pair in table.index]
    if "member_effect" not in effects and interval != "plain":
        table["status"] = "effects have no members that could differ"
    nulls, table = table.attrs.get("nulls"), table.reset_index()
    table[["verdict", "reason"]] = verdicts(table)
    notes = _notes(found, effects, interval, cross_fit=cross_fit)
    calibrated = "" if nulls is None else f"; {nulls['note']}"
    pairs = zip(*(table[name] for name in PAIR), strict=True)
    table["reason"] += [notes.get(pair, "") + calibrated for pair in pairs]
    columns = ["effect", "se", "ci_low", "ci_high", "p", "q_value", "tau", "pi_low", "pi_high", "k"]
    columns += ["n_instruments", *names, *CORRECTED, "own_effect", "own_ci_low", "own_ci_high"]
    columns += [*PRIVATE, "correlation", "verdict", "reason", "status"]
    columns += ["within_se", "between_se", "df", *(["null_mean"] if nulls else [])]
    return table[[*PAIR, *columns]]


def _apply_nulls(table: pd.DataFrame, scale: np.ndarray, nulls: Nulls) -> pd.DataFrame:
    """Effects calibrated by negative controls; ``scale`` brings them into own responses."""
    found = calibrate(table.reset_index().assign(scale=scale), nulls)
    return found.set_index(PAIR).drop(columns="scale")


def _correct(table: pd.DataFrame, labels: pd.DataFrame) -> None:
    """Fill in what `deepmr_utils.held_out.correct` says of the pairs of a table, in place."""
    names = ["knockout", "ci_low", "ci_high", "model_knockout", *CORRECTED[:3], "status"]
    check_columns(labels, [*PAIR, *names], "labels, of held_out.correct,")
    given = labels.set_index(PAIR)[names].reindex(table.index)
    there = given["knockout"].notna()
    table["status"] = given["status"].where(given["status"].notna() & ~there, table["status"])
    for name in CORRECTED[:3]:
        table[name] = given[name]
    for name in ("knockout", "ci_low", "ci_high"):
        own = name if name == "knockout" else f"knockout_{name}"
        table[own] = given[name].where(there, table[own])
    learned = given["learned_response"]
    table["corrected"] = given["knockout"] + learned * (table["effect"] - given["model_knockout"])
    for name, sign in (("ci_low", -1), ("ci_high", 1)):
        of_slope = learned * (table["effect"] - table[name])
        half = np.hypot(given["knockout"] - given[name], of_slope)
        table[f"corrected_{name}"] = table["corrected"] + sign * half


def _notes(
    found: PairEffects, effects: xr.Dataset, interval: str, *, cross_fit: bool
) -> dict[tuple[str, str], str]:
    """By pair, what limits its effect."""
    pairs = found.local.groupby(PAIR, sort=False)
    two = effects.sizes.get("member") == 2
    limits = "; the interval takes the model as known" if interval == "plain" else ""
    limits += "; two members: errors that exposure and outcome share stay in" if two else ""
    notes = dict.fromkeys(pairs.groups, limits)
    if "f_stat" in found.local and not cross_fit:
        strength = pairs["f_stat"].median()
        for pair, f in strength[strength < WEAK].items():
            notes[pair] += f"; weak instruments (F = {f:.1f})"
    return notes


def _correlation(effects: xr.Dataset, exposure: str, outcome: str, own: pd.Series) -> float:
    """Of the effects on two features, in size, over the substitutions that move either."""
    if "edit" in effects.dims:  # says whose site it changes
        return np.nan
    pair = [exposure, outcome]
    values = effects["effect"].sel(feature=pair).transpose("feature", *SITES)
    values = values.to_numpy().reshape(2, -1).astype(np.float64)
    values = values[:, np.isfinite(values).all(0)] / own[pair].to_numpy()[:, None]
    moved = (np.abs(values) >= MOVED).any(0)
    if moved.sum() < 3 or not values[:, moved].std(1).all():
        return np.nan
    return abs(float(np.corrcoef(values[:, moved])[0, 1]))
