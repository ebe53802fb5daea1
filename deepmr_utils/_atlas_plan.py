"""What a causal atlas estimates: checked options, blocks of windows, and what all these decide."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import joblib
import numpy as np
import xarray as xr

from ._atlas_sums import METHODS, Rules, instrument_mask, windows
from ._checks import check_choice, check_number, did_you_mean
from ._meta_batch import TAU2_METHODS
from .instruments import RULES, SE_FLOOR_QUANTILE
from .intervals import check_rule

Blocks = Sequence[Callable[[], xr.Dataset]]


class Plan(NamedTuple):
    """What is to be estimated, and from which blocks of windows.

    Attributes
    ----------
    blocks : sequence of functions
        Each gives the variant effects of some windows.
    first : xr.Dataset
        The first of them.
    features, exposures, outcomes : list of str
        Features that are read, and their roles.
    methods : tuple of str
    rules : Rules
    members : int
        Members whose effects are there.
    """

    blocks: Blocks
    first: xr.Dataset
    features: list[str]
    exposures: list[str]
    outcomes: list[str]
    methods: tuple[str, ...]
    rules: Rules
    members: int

    @property
    def columns(self) -> tuple[list[int], list[int]]:
        """Where exposures and outcomes stand among the features."""
        place = {name: i for i, name in enumerate(self.features)}
        return [place[name] for name in self.exposures], [place[name] for name in self.outcomes]

    @property
    def itself(self) -> np.ndarray:
        """Which pairs are of a feature with itself, bool (A, B)."""
        return np.array(self.exposures)[:, None] == np.array(self.outcomes)

    def block(self, i: int) -> xr.Dataset:
        """The effects of a block of windows; the first is not computed twice."""
        return self.first if i == 0 else self.blocks[i]()


def make_plan(
    effects: xr.Dataset | Blocks,
    rule: str,
    threshold: float,
    methods: Sequence[str],
    exposures: Sequence[str] | None,
    outcomes: Sequence[str] | None,
    max_memory: int,
) -> Plan:
    """Check what is asked for.

    Parameters
    ----------
    effects, rule, threshold, methods, exposures, outcomes, max_memory
        As `deepmr_utils.atlas.causal_atlas` takes them.
    """
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    check_choice("rule", rule, RULES)
    for method in methods:
        if method not in METHODS:
            raise ValueError(
                f"unknown method {method!r}: choose among {', '.join(METHODS)}; for others there "
                f"is robust_pairs{did_you_mean(method, METHODS)}"
            )
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods must be named, and once each; got {list(methods)}")
    check_number("threshold", threshold, low=0)
    whole = isinstance(effects, xr.Dataset)
    if not (effects.sizes["sequence"] if whole else len(effects)):
        raise ValueError("effects of at least one window are needed; got none")
    first = effects if whole else effects[0]()
    names = first["feature"].to_numpy().tolist()
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"features must have names of their own; {again!r} is there twice: rename them with "
            "effects.assign_coords(feature=...)"
        )
    if first.attrs.get("n_members", 2) < 2:
        raise ValueError(
            "effects of a single member have no standard errors, which instruments need: use an "
            "ensemble or MC-dropout"
        )
    sides = []
    for role, side in (("exposures", exposures), ("outcomes", outcomes)):
        chosen = names if side is None else [side] if isinstance(side, str) else list(side)
        unknown = [name for name in chosen if name not in names]
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"{role} must be features, each once; got {unknown or chosen}: the features are "
                f"{', '.join(map(str, names))}"
            )
        sides.append(chosen)
    if not (np.array(sides[0])[:, None] != np.array(sides[1])).any():
        raise ValueError(f"an atlas needs two features; exposure and outcome are {sides[0]}")
    features = [name for name in names if name in {*sides[0], *sides[1]}]
    members = first.sizes["member"] if "member_effect" in first else 0
    blocks = effects
    if whole:
        blocks = _blocks_of(effects, len(features), len(sides[0]) * len(sides[1]), max_memory)
        first = blocks[0]()
    rules = Rules(rule, threshold, np.zeros(0), np.zeros(0))
    return Plan(blocks, first, features, *sides, methods, rules, members)


def check_options(
    plan: Plan, tau2_method: str, interval: str, share: tuple[int, int], dtype: str
) -> None:
    """Check the options of the meta-analysis.

    Parameters
    ----------
    plan : Plan
    tau2_method, interval, share, dtype
        As `deepmr_utils.atlas.causal_atlas` takes them.
    """
    check_rule(interval)
    for name, value, valid in (
        ("tau2_method", tau2_method, TAU2_METHODS),
        ("dtype", dtype, ("float64", "float32")),
    ):
        check_choice(name, value, valid)
    if interval != "plain" and plan.members < 2:
        raise ValueError(
            f"interval {interval!r} needs the effects of at least 2 members; got {plan.members}: "
            "compute them with keep_members=True, or take interval='plain'"
        )
    if not 0 <= share[0] < share[1]:
        raise ValueError(f"share (i, n) must have 0 <= i < n; got {share}")


def _blocks_of(effects: xr.Dataset, features: int, pairs: int, max_memory: int) -> Blocks:
    """Blocks of windows that fill a quarter of the memory, whole chunks of a store where they can.

    The effects of a window take as much again while they are put in order, and so do results.
    """
    layers = 2 + effects.sizes.get("member", 0)
    numbers = 4 * effects.sizes["position"] * features + len(METHODS) * pairs
    size = max(1, int(max_memory / 4 / (8 * layers * numbers)))
    chunk = effects["effect"].encoding.get("preferred_chunks", {}).get("sequence", 1)
    size = size // chunk * chunk or size
    n = effects.sizes["sequence"]
    return [lambda rows=slice(i, i + size): effects.isel(sequence=rows) for i in range(0, n, size)]


def moments(plan: Plan) -> Rules:
    """Mean and sd (ddof 0) of the exposures' effects of all valid substitutions of all windows.

    Notes
    -----
    Windows are merged as Chan, Golub and LeVeque (1983), Am Stat 37:242, so that no digit is lost.
    """
    count, (columns, _) = 0, plan.columns
    mean, squares = np.zeros((2, len(columns)))
    for i in range(len(plan.blocks)):
        for window in windows(plan.block(i), plan.features, members=False):
            n, effect = len(window.effect), window.effect[:, columns]
            if n:
                centre = effect.mean(axis=0)
                step = centre - mean
                squares += ((effect - centre) ** 2).sum(axis=0) + step**2 * count * n / (count + n)
                count += n
                mean = mean + step * n / count
    return plan.rules._replace(mean=mean, sd=np.sqrt(squares / max(count, 1)))


def floors(plan: Plan, max_memory: int) -> np.ndarray:
    """Standard errors (A, B) in the place of an outcome's 0, as `select_instruments` sets them.

    Two passes: which pairs need one, and then the quantile of each, of the standard errors of all
    windows. NaN for pairs that need none, or have none above 0.
    """
    a, b = plan.columns
    needed, total = np.zeros((len(a), len(b)), bool), 0
    for i in range(len(plan.blocks)):
        for window in windows(plan.block(i), plan.features, members=False):
            kept = instrument_mask(window.effect[:, a], window.se[:, a], plan.rules)
            still = window.se[:, b] == 0
            needed |= (kept.T.astype(np.float32) @ still.astype(np.float32)) > 0
            total += len(window.se)
    needed &= ~plan.itself
    rows, columns = np.array(a)[needed.any(1)], np.array(b)[needed.any(0)]
    used = np.union1d(rows, columns).astype(int)
    if (size := 8 * total * len(used)) > max_memory:
        raise ValueError(
            f"outcomes have a standard error of 0 where an instrument of an exposure has not; the "
            f"floor takes those of {len(used)} features in memory, {size} bytes, and max_memory is "
            f"{max_memory}: raise it, or take effects on the logit scale, which does not saturate"
        )
    parts = [
        window.se[:, used]
        for i in range(len(plan.blocks))
        for window in windows(plan.block(i), plan.features, members=False)
    ]
    errors = dict(zip(used, np.concatenate(parts).T, strict=True))
    result = np.full(needed.shape, np.nan)
    for j in np.flatnonzero(needed.any(axis=0)):
        outcome = errors[b[j]]
        own = None  # that of all substitutions, for exposures that move wherever the outcome does
        for i in np.flatnonzero(needed[:, j]):
            frozen = (errors[a[i]] == 0) & (outcome > 0)
            if frozen.any() or own is None:
                positive = outcome[(outcome > 0) & ~frozen]
                value = np.quantile(positive, SE_FLOOR_QUANTILE) if len(positive) else np.nan
                own = own if frozen.any() else value
            else:
                value = own
            result[i, j] = value
    return result


def fingerprint(plan: Plan, effects: xr.Dataset | Blocks) -> str:
    """What tells effects from others: their attributes, windows, and values where they are there.

    Functions that compute effects are told by the attributes and windows of the first block, since
    computed values may differ in the last digit between machines. Versions of software are no part
    of it, so that an update does not end a run of days.
    """
    whole = isinstance(effects, xr.Dataset)
    ids = (effects if whole else plan.first)["sequence"].to_numpy().tolist()
    known = plan.first.attrs.items()
    key = [sorted((name, str(value)) for name, value in known if name != "versions"), ids]
    if whole:
        window = next(windows(plan.first.isel(sequence=[0]), plan.features, members=False))
        key += [window.effect, window.se]
    return joblib.hash(key)
