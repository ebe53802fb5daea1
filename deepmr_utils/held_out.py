"""Correction by held-out labels: what observed data say that the model has not learned.

Members that learned from the same data can all have the same error, which no interval over members
sees. Labels of sequences that no member was trained on do see it: where a motif is there, they are
on average higher than predicted by what the model has missed of its sites.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ._checks import check_choice, check_columns, check_names, numbers
from ._label_regression import SITE, Estimates, check_labels, fit, ratios, regressors, usable
from .intervals import intervals
from .knockouts import KNOCKOUTS

__all__ = ["correct"]

HEADS = ("gaussian", "poisson", "logistic")
TOLD = 2.0  # standard errors of the exposure's own response from 0, below which a ratio is none
NORMAL = 1.959964  # its 0.975 quantile
DIMENSIONS = ("member", "sequence", "feature")
UNTOLD = "the exposure's own response, corrected, is not significant"


def correct(
    edits: xr.Dataset, predictions: xr.DataArray, labels: pd.DataFrame, scores: pd.DataFrame, *,
    head: str, trained_on: Sequence[str] = (), covariates: pd.DataFrame | None = None,
    groups: pd.Series | None = None, interactions: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Knock-out ratios of what was predicted and what labels say is missing, for all pairs.

    Parameters
    ----------
    edits : xr.Dataset
        Effects of destroyed sites, of `deepmr_utils.edits.edit_effects`, on the head's own scale;
        best of the sequences with labels.
    predictions : xr.DataArray (member, sequence, feature)
        Of the same members on the head's own scale: values, log rates or logits.
    labels : pd.DataFrame
        What was observed, a row a sequence (the index names it) and a column a feature. All must
        be sequences that no member was trained on.
    scores : pd.DataFrame
        ``sequence_id, factor, start, score`` of all sites in sequences with labels or edits, of
        `deepmr_utils.motifs.find_instances`; motifs that are no feature are regressed on, too.
    head : {"gaussian", "poisson", "logistic"}
        How labels lie about predictions: a value with an error, a count of mean ``exp``, or 0 and 1
        with the logistic of the prediction as probability.
    trained_on : sequence of str
        Sequences that a member was trained on, none of which may have a label.
    covariates : pd.DataFrame, optional
        What else labels may depend on and sites go with, such as the share of G and C: rows as in
        `labels`.
    groups : pd.Series, optional
        By sequence: those of one value, such as windows that overlap, are one draw.
    interactions : bool
        Whether what is missed of a site may depend on the other motifs in the sequence.

    Returns
    -------
    pd.DataFrame
        One row a pair: ``exposure, outcome``; ``knockout``, corrected, with ``se, ci_low, ci_high,
        p`` and ``status``, "ok" or why there is none; ``learned_response`` of the exposure, with
        ``learned_ci_low, learned_ci_high``; ``response`` and ``missed``, the mean change of the
        outcome that the model predicts for a destroyed site, and what labels add to it;
        ``model_knockout``, the ratio before; ``k`` sequences with edits, ``n_labels`` with labels.

    Raises
    ------
    ValueError
        If tables do not belong together, a label was trained on or does not fit the head, or there
        are too few sequences for the regression.

    Notes
    -----
    Labels are regressed on sites with the prediction as offset: for each motif its presence, the
    score of its best site and the number of further ones, and presence times presence of every two.
    What is missed of an edit is what the regression says of the sequence after it, less what it
    says before. A site that acts only beside another so counts where both are, and not as a main
    effect of either: the mean over edits is over the sequences as they are. Of changes x of the
    exposure and y of the outcome, corrected, the ratio is ``sum(x y) / sum(x^2)``, as in
    `deepmr_utils.knockouts.knockout_effects`. The learned response is ``sum(m) / sum(x)``, with m
    the change of the exposure that the model predicts.

    W is the sum of squares, over sequences or groups, of influences on the ratio by edits and by
    labels (HC1), so that errors that both changes share cancel. The variance between members is
    that of the pseudo-values ``M R - (M - 1) R(-m)``; both make an interval by
    `deepmr_utils.intervals.total_variance`, W alone for a single network. W alone is that of the
    learned response, too: it is a property of these members.

    It is assumed that sites lie as at random, given the other motifs and covariates. Edits of
    sequences without labels give the same ratio on average, but what is missed of these very
    sequences is then not in the interval. Logits of a logistic head are of sequences with equal
    sites: odds ratios are not collapsible.

    Prediction-powered inference: Angelopoulos et al. (2023), Science 382:669.
    """
    check_choice("head", head, HEADS)
    names, factors, edits = _check(edits, predictions, labels, scores, trained_on)
    ids, sequence = labels.index, edits["sequence_id"].to_numpy()
    observed = check_labels(labels[names], head)
    change = edits["member_effect"].sel(feature=names).transpose("member", "edit", "feature")
    offset = predictions.sel(feature=names, sequence=ids.to_numpy())
    change, offset = change.to_numpy().astype(float), offset.transpose(*DIMENSIONS).to_numpy()
    x, difference = regressors(edits, scores, factors, ids, interactions)
    if covariates is not None:
        more = numbers(_rows(covariates, ids, "covariates"), "covariates")
        x = np.column_stack([x, more])
        difference = np.pad(difference, ((0, 0), (0, more.shape[1])))
    x, difference = usable(x, difference, factors)
    everyone = pd.Index(pd.unique(np.concatenate([ids, sequence])))
    unit = everyone if groups is None else _rows(groups.to_frame(), everyone, "groups").iloc[:, 0]
    units = pd.Series(pd.factorize(unit)[0], everyone)
    at, members = edits["factor"].to_numpy(), len(change)

    def estimates(chosen: np.ndarray) -> list[Estimates]:
        found, tables = fit(x, observed, offset[chosen].mean(0), head), []
        for factor in factors:
            own = at == factor
            both = units[sequence[own]].to_numpy(), units[ids].to_numpy()
            parts = change[chosen][:, own], difference[own], both, *found
            tables.append(ratios(*parts, names.index(factor), freed=members > 2))
        return tables

    whole = estimates(np.arange(members))
    others = [estimates(np.delete(np.arange(members), m)) for m in range(members) if members > 1]
    tables = []
    for i, (factor, one) in enumerate(zip(factors, whole, strict=True)):
        pseudo = [members * one.values - (members - 1) * left[i].values for left in others]
        between = np.std(pseudo, 0, ddof=1) if others else 0.0
        rule, own = "rubin" if others else "plain", names.index(factor)
        found = pd.DataFrame(intervals(one.values, one.errors, between, members, rule))
        learned = one.values[own] + NORMAL * one.errors[own] * np.array([0, -1, 1])
        found.columns = found.columns.str.removeprefix("total_")
        table = found[["se", "ci_low", "ci_high", "p", "status"]].assign(knockout=one.values)
        table = table[["knockout", *table.columns.drop("knockout")]]
        table[["learned_response", "learned_ci_low", "learned_ci_high"]] = learned
        if not one.own < 1 / TOLD:
            table[:] = np.nan
            table["status"] = UNTOLD
        table = table.assign(
            response=one.response, missed=one.missed, model_knockout=one.before,
            k=len(np.unique(sequence[at == factor])), n_labels=len(ids),
        )  # fmt: skip
        table.insert(0, "outcome", names)
        table.insert(0, "exposure", factor)
        tables.append(table[table["outcome"] != factor])
    return pd.concat(tables, ignore_index=True)


def _check(
    edits: xr.Dataset, predictions: xr.DataArray, labels: pd.DataFrame, scores: pd.DataFrame,
    trained_on: Sequence[str],
) -> tuple[list[str], list[str], xr.Dataset]:  # fmt: skip
    """Features with labels, factors among them with destroyed sites, and the edits of these."""
    if "edit" not in edits.dims or "member_effect" not in edits:
        raise ValueError("edits must be those of edits.edit_effects, with member_effect")
    if sorted(predictions.dims) != sorted(DIMENSIONS):
        got = ", ".join(map(str, predictions.dims))
        raise ValueError(f"predictions must have dimensions {', '.join(DIMENSIONS)}; got {got}")
    if predictions.sizes["member"] != edits.sizes["member"]:
        raise ValueError(
            f"predictions are of {predictions.sizes['member']} members, edits of "
            f"{edits.sizes['member']}: predict both by the same"
        )
    check_columns(scores, [*SITE, "score"], "the table of scores")
    for what, ids in ("labels", labels.index), ("predictions", predictions["sequence"].to_index()):
        if ids.has_duplicates:
            raise ValueError(f"{what} must have a sequence once; twice: {ids[ids.duplicated()][0]}")
    if len(both := labels.index.intersection(pd.Index(list(trained_on)))):
        raise ValueError(
            f"labels must be of sequences that no member was trained on; {len(both)} of "
            f"{len(labels)} are in trained_on, such as {both[0]}: leave these out"
        )
    missing = labels.index.difference(predictions["sequence"].to_index())
    if len(missing):
        raise ValueError(f"{len(missing)} labels have no prediction, such as {missing[0]}")
    known = [n for n in edits["feature"].to_numpy() if n in predictions["feature"]]
    names = check_names("feature of labels", labels.columns, known)
    own = np.isin(edits["kind"], KNOCKOUTS) & np.isin(edits["factor"], names)
    own &= np.isfinite(edits["member_effect"].sel(feature=names)).all(("member", "feature"))
    used = edits.isel(edit=np.flatnonzero(own))
    factors = [n for n in names if n in used["factor"]]
    if not factors:
        raise ValueError(f"no site of {', '.join(names)} was destroyed: see edits.site_edits")
    return names, factors, used


def _rows(table: pd.DataFrame, ids: pd.Index, what: str) -> pd.DataFrame:
    """Rows of sequences, all of which must be there."""
    missing = ids.difference(table.index)
    if len(missing):
        raise ValueError(f"{what} must have all sequences; {len(missing)} missing: {missing[0]}")
    return table.loc[ids]
