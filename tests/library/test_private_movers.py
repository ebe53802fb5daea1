"""Private movers, in an additive world of sites whose arrows, and what they move, are known."""

import numpy as np
import xarray as xr

from deepmr_utils.instruments import eligible, own_responses

MEMBERS, SITE = 5, 8
COLUMNS = ["private_share", "private_ci_low", "private_ci_high"]


def world(b=0.0, acting=1.0, seed=0, sequences=40, noise=0.02, shift=0.015, members=MEMBERS):
    """Effects, and which are 0 in truth.

    Of five places of a sequence, each of 8 positions, the first is X's site, the second Y's, the
    third moves both in 60 % of the sequences (a confounder), the others nothing. X acts on Y by b,
    in a share ``acting`` of the sequences. Each member has errors of its own: one a substitution,
    one a site, and one for all (a leak from X to Y), which do not average out over a sequence.
    """
    rng = np.random.default_rng(seed)
    shape = (sequences, 5, SITE, 4)
    size = -rng.beta(2, 2, (*shape, 2))
    size[..., 0] *= rng.random(shape) < 0.8
    x, y = np.zeros(shape), np.zeros(shape)
    x[:, 0], y[:, 1] = size[:, 0, ..., 0], size[:, 1, ..., 1]
    both = rng.random((sequences, 1, 1)) < 0.6
    x[:, 2] = both * size[:, 2, ..., 0]
    there = rng.random((sequences, 1, 1, 1)) < acting
    y[:, 2] = both * size[:, 2, ..., 0] * rng.uniform(0.4, 1.5, (sequences, 1, 1))
    y = y + there * b * rng.normal(1, 0.15, (sequences, 5, 1, 1)) * x
    reference = rng.integers(0, 4, shape[:-1])
    known = np.arange(4) != reference[..., None]
    truth = np.stack([x, y], -1)
    each = truth + noise * rng.normal(size=(members, *truth.shape))
    leak = shift * (
        rng.normal(size=(members, *shape[:2], 1, 1)) + rng.normal(size=(members, *[1] * 4))
    )
    each[..., 1] += leak * x
    each = np.where(known[..., None], each, np.nan).reshape(members, sequences, -1, 4, 2)
    dims = ("sequence", "position", "allele", "feature")
    data = {"effect": (dims, each.mean(0))}
    data["se"] = dims, each.std(0, ddof=1) if members > 1 else np.full(each.shape[1:], np.nan)
    if members > 1:
        data["member_effect"] = ("member", *dims), each
    names = {"sequence": [f"s{i}" for i in range(sequences)], "feature": ["X", "Y"]}
    effects = xr.Dataset(data, names | {"allele": list("ACGT")}, {"n_members": members})
    return effects, truth.reshape(sequences, -1, 4, 2)


def true_share(effects, truth, i, j):
    """Of the movers of i, the share whose true effect on j is 0."""
    own = own_responses(effects, eligible(effects, "all")).to_numpy()
    movers = np.abs(effects["effect"].to_numpy()[..., i]) >= 0.15 * own[i]
    return (truth[..., j][movers] == 0).mean()
