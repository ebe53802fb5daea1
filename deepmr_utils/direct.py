"""Direct effects: what is left once that which passes through other features is taken off.

The effect of a feature is the slope, through the origin, of what its instruments do to the outcome
on what they do to the feature: near the secant of losing its site. The direct effect is the same
slope of what the other features do not explain. What they explain is not a straight line of their
change: an instrument that reaches a mediator through a helper moves it less than one in the
mediator's own site, and responses saturate. So each change of a mediator is compared with the
mediator's own instruments that move it about as much.
"""

import numpy as np
import pandas as pd
import xarray as xr

from ._checks import check_columns
from .instruments import places
from .intervals import PAIR

__all__ = ["call_direct", "direct_effects"]

MIN_OWN = 3  # instruments of each exposure in a sequence, below which others' cannot be told apart
COLLINEAR = 1e-5  # effects are float32: features equal but for its rounding determine no slopes
COMPARABLE = 0.05  # relative difference of two changes of a mediator that count as about as large
PLACE = ["sequence_id", "position", "alternate"]
OK, FEW = "ok", f"an exposure has fewer than {MIN_OWN} instruments of its own"
SAME = "exposures are collinear"


def direct_effects(
    effects: xr.Dataset, instruments: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Local effects of every feature on every other, without what passes through a third.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, see `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    instruments : pd.DataFrame
        Tables of `deepmr_utils.instruments.select_instruments`, of every ordered pair of features,
        put together behind ``exposure, outcome``. A substitution that is an instrument of two
        features is not used: it is nobody's own.

    Returns
    -------
    tuple of pd.DataFrame
        ``exposure, outcome, sequence_id, method, causal_effect, se, n_instruments, status``, a row
        a pair and sequence; and ``exposure, outcome, sequence_id, method, member, causal_effect``,
        without rows where effects have no ``member_effect``. Units are those of the outcome per
        unit of the exposure. Effects are NaN in a sequence where any exposure of the outcome has
        fewer than 3 instruments of its own, since what passes through it cannot then be told; and
        where two exposures respond alike to the instruments of both. ``n_instruments`` counts
        those of the exposure.

    Notes
    -----
    *Estimand.* Let x_v be what instrument v of X does to X, and y_v what it does to the outcome.
    The total effect is the slope sum x y / sum x^2 of y on x, through the origin. Here y_v is
    replaced by r_v = y_v - (what the outcome would do if all other features moved as v moves them,
    and X acted on it as unmutated): a total direct effect, which with the pure indirect effect adds
    up to the total (Robins and Greenland 1992, Epidemiology 3:143). It is a secant as the total is,
    and the same number where there is no mediator.

    *Estimate.* r_v = y_v - sum over the other features k of h_k(x_kv), where x_kv is what v does to
    k, and h_k(a) is ``a`` times the slope, through the origin, of r on x_k over the own instruments
    of k. Those that move k by about ``a`` count: one that moves it by b counts ``exp(-(d / 0.05)^2
    / 2)``, where d is the difference of a and b as a share of the larger, at most 1. As r of k's
    instruments is itself free of what passes through others, all r of a sequence are the solution
    of one linear system. It is exact where the parts of the other features add up, each is a
    function of what the feature predicts, and its own instruments move the feature as much as those
    of X do. It is sequential g-estimation (Vansteelandt 2009, Epidemiology 20:851), but what
    mediators do comes from their own instruments, so that no common cause of mediator and outcome
    biases it.

    Weights are equal, and standard errors are widened where r scatter around the slope by more than
    se_outcome says; they take the mediators' responses for known. Members keep the instruments of
    the ensemble, so that they differ by what they predict; their variance carries the error of the
    mediators' responses, too.
    """
    check_columns(instruments, [*PAIR, *PLACE, "se_outcome"], "the table of instruments")
    exposed = instruments.groupby(PLACE, observed=True)["exposure"].transform("nunique")
    alone = instruments[exposed == 1]
    features = effects["feature"].to_numpy().tolist()
    layers = [effects["effect"]]
    if "member_effect" in effects:
        layers += list(effects["member_effect"].transpose("member", ...))
    dims = ("sequence", "position", "allele", "feature")
    values = [one.transpose(*dims).to_numpy() for one in layers]
    ids = effects["sequence"].to_numpy()
    tables, members = [], []
    for outcome in features:
        exposures = [name for name in features if name != outcome]
        used = alone[alone["outcome"] == outcome]
        place = sequence, *_ = places(effects, used)
        at = [features.index(name) for name in (*exposures, outcome)]
        moves = np.stack([one[place][:, at] for one in values]).astype(np.float64)
        owner = pd.Index(exposures).get_indexer(used["exposure"])
        variance = used["se_outcome"].to_numpy(np.float64) ** 2
        count = np.zeros((len(ids), len(exposures)), dtype=np.int64)
        np.add.at(count, (sequence, owner), 1)
        found = np.full((2, len(values), *count.shape), np.nan)
        enough = count.min(1) >= MIN_OWN
        for s in np.flatnonzero(enough):
            rows = sequence == s
            x, y = moves[:, rows, :-1], moves[:, rows, -1]
            found[:, :, s] = _one_sequence(x, y, variance[rows].mean(), owner[rows])
        status = np.where(enough, np.where(np.isnan(found[0, 0, :, 0]), SAME, OK), FEW)
        frame = pd.MultiIndex.from_product([exposures, ids], names=["exposure", "sequence_id"])
        frame = frame.to_frame(index=False).assign(method="direct")
        frame.insert(1, "outcome", outcome)
        (effect, *by_member), (se, *_) = found.transpose(0, 1, 3, 2).reshape(2, len(values), -1)
        tables.append(frame.assign(
            causal_effect=effect, se=se, n_instruments=count.T.ravel(),
            status=np.tile(status, len(exposures)),
        ))  # fmt: skip
        members += [frame.assign(member=m, causal_effect=v) for m, v in enumerate(by_member)]
    by_member = pd.concat(members, ignore_index=True) if members else pd.DataFrame()
    return pd.concat(tables, ignore_index=True), by_member


def _one_sequence(
    x: np.ndarray, y: np.ndarray, variance: float, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Direct effects and standard errors (M, P) of exposures on one outcome in one sequence.

    ``x`` (M, V, P) and ``y`` (M, V) are effects by ensemble, first, and member; instrument v is one
    of exposure ``owner[v]`` (V,). ``variance`` is that of the errors of y.
    """
    one = np.arange(len(owner))
    own = owner[:, None] == np.arange(x.shape[2])
    changes, moved = x[:, :, owner], x[:, one, owner]  # of n's exposure, by v and by n itself
    larger = np.maximum(np.abs(changes[0]), np.abs(moved[0]))
    apart = np.divide(np.abs(changes[0] - moved[0]), larger, where=larger > 0, out=0 * larger)
    like = np.exp(-((np.minimum(apart, 1) / COMPARABLE) ** 2) / 2)
    with np.errstate(all="ignore"):  # a member may not move an exposure at all
        square = (like * moved[:, None] ** 2) @ own
        through = changes * like * moved[:, None] / square[:, :, owner]
        system = np.eye(len(one)) + np.where(owner[:, None] == owner, 0, through)
        fine = np.linalg.cond(system, 1) < 1 / COLLINEAR
        system[~fine] = np.eye(len(one))
        rest = np.linalg.solve(system, y[..., None])[..., 0]
        information = moved**2 @ own
        slope = (moved * rest) @ own / information
        spread = (rest - moved * slope[:, owner]) ** 2 @ own / (own.sum(0) - 1)
        se = np.sqrt(np.maximum(spread, variance) / information)
    return tuple(np.where(fine[:, None], part, np.nan) for part in (slope, se))


def call_direct(total: pd.DataFrame, direct: pd.DataFrame, least: float = 0.5) -> pd.DataFrame:
    """Tell direct effects from those that pass through other features.

    Parameters
    ----------
    total, direct : pd.DataFrame
        Of `summarise`, by pair: of all effects, and of those with other features held fixed, which
        also has ``total_effect``, the total one in the same sequences.
    least : float
        Share of the total effect that must be direct.

    Returns
    -------
    pd.DataFrame
        ``direct``, by exposure and outcome, with ``share`` and ``called``: both effects are told
        from 0, and the share is as large.
    """
    table = direct.set_index(PAIR)
    told = total.set_index(PAIR)["total_p"].reindex(table.index) < 0.05
    share = table["effect"] / table["total_effect"]
    called = told & (table["total_p"] < 0.05) & (share >= least)
    return table.assign(share=share, called=called)
