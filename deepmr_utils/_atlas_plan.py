"""What a causal atlas estimates: checked options, blocks of windows, and what all these decide."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import joblib
import numpy as np
import torch
import xarray as xr

from ._checks import as_list, check_choice, check_number, did_you_mean
from .instruments import RULES, WALD_OF_ONE

METHODS = ("ivw", "egger")
Blocks = Sequence[Callable[[], xr.Dataset]]


class Window(NamedTuple):
    """The V substitutions of one window that have effects, on K features.

    Attributes
    ----------
    effect, se : np.ndarray, float64 (V, K)
        Effects and what comes as their standard errors; NaN without.
    members : np.ndarray, float (M, V, K)
        Effects by member.
    """

    effect: np.ndarray
    se: np.ndarray
    members: np.ndarray


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
    methods : list of str
    rule, threshold
        What makes instruments, as in `deepmr_utils.instruments.select_instruments`.
    members : int
        Members whose effects are there; 0 if it is one, which tells nothing of its errors.
    averaged : int
        Members whose mean an effect is, and whose standard deviation comes as its standard error.
        1 of effects from elsewhere, which have standard errors of their own.
    errors : bool
        Whether effects have standard errors.
    moments : np.ndarray, float64 (2, A)
        Of the rule "pooled": see `moments`.
    device : torch.device
    """

    blocks: Blocks
    first: xr.Dataset
    features: list[str]
    exposures: list[str]
    outcomes: list[str]
    methods: list[str]
    rule: str
    threshold: float
    members: int
    averaged: int
    errors: bool
    moments: np.ndarray = np.zeros((2, 0))
    device: torch.device = torch.device("cpu")

    @property
    def columns(self) -> tuple[list[int], list[int]]:
        """Where exposures and outcomes stand among the features."""
        place = {name: i for i, name in enumerate(self.features)}
        return [place[name] for name in self.exposures], [place[name] for name in self.outcomes]

    @property
    def itself(self) -> np.ndarray:
        """Which pairs are of a feature with itself, bool (A, B)."""
        return np.array(self.exposures)[:, None] == np.array(self.outcomes)

    def windows(self, i: int, *, members: bool = False) -> Iterator[Window]:
        """The windows of a block; the effects of the first are not computed twice."""
        block = self.first if i == 0 else self.blocks[i]()
        return windows(block, self, members=members)

    def instruments(self, window: Window) -> np.ndarray:
        """Which substitutions (V, A) are instruments, as `select_instruments` decides."""
        effect, se = (values[:, self.columns[0]] for values in (window.effect, window.se))
        usable = se != 0
        if self.rule == "pooled":
            mean, sd = self.moments
            strength = np.where(sd > 0, np.abs(effect - mean) / np.where(sd > 0, sd, 1), 0)
        else:
            strength = np.abs(effect) / np.where(usable, se, 1)
        return usable & (strength >= self.threshold)

    def all_windows(self) -> Iterator[Window]:
        """The windows of all blocks, without the effects of members."""
        return (window for i in range(len(self.blocks)) for window in self.windows(i))


def make_plan(
    effects: xr.Dataset | Blocks, rule: str, threshold: float, methods: Sequence[str],
    exposures: Sequence[str] | None, outcomes: Sequence[str] | None, max_memory: int,
) -> Plan:  # fmt: skip
    """Check what is asked for.

    Parameters
    ----------
    effects, rule, threshold, methods, exposures, outcomes, max_memory
        As `deepmr_utils.atlas.causal_atlas` takes them.
    """
    check_choice("rule", rule, RULES)
    check_number("threshold", threshold, low=0)
    whole = isinstance(effects, xr.Dataset)
    if not (effects.sizes["sequence"] if whole else len(effects)):
        raise ValueError("effects of at least one window are needed; got none")
    first = effects if whole else effects[0]()
    names = first["feature"].to_numpy().tolist()
    chosen = {
        "methods": (as_list(methods), METHODS),
        "features (assign_coords renames them)": (names, names),
        "exposures": (names if exposures is None else as_list(exposures), names),
        "outcomes": (names if outcomes is None else as_list(outcomes), names),
    }
    for role, (given, known) in chosen.items():
        wrong = [name for name in given if name not in known or given.count(name) > 1]
        if wrong or not given:
            raise ValueError(
                f"{role} must be some of {', '.join(map(str, known))}, each once; got "
                f"{wrong or given}{did_you_mean(wrong[0], known) if wrong else ''}"
            )
    methods, _, exposures, outcomes = (given for given, _ in chosen.values())
    if exposures == outcomes and len(exposures) == 1:
        raise ValueError(f"an atlas needs two features; exposure and outcome are {exposures}")
    features = [name for name in names if name in {*exposures, *outcomes}]
    members = first.sizes["member"] if "member_effect" in first else 0
    members, averaged = members * (members > 1), first.attrs.get("n_members", 1)
    blocks = effects
    if whole:
        blocks = _blocks_of(effects, len(features), len(exposures) * len(outcomes), max_memory)
        first = blocks[0]()
    some = first[["effect", "se"]].sel(feature=features[:1])  # `windows` refuses a mixture
    errors = not (some["effect"].notnull() & some["se"].isnull()).any().item()
    if rule == "wald" and not errors:
        raise ValueError(WALD_OF_ONE)
    return Plan(
        blocks, first, features, exposures, outcomes, methods, rule, threshold, members, averaged,
        errors,
    )  # fmt: skip


def windows(effects: xr.Dataset, plan: Plan, *, members: bool) -> Iterator[Window]:
    """Substitutions of each window of a block of variant effects.

    Raises
    ------
    ValueError
        If a substitution has an effect on some features only, or a standard error where others
        have none.
    """
    names = ["effect", "se", *(["member_effect"] if members else [])]
    block = effects[names]
    features = plan.features
    if block["feature"].to_numpy().tolist() != features:
        block = block.sel(feature=features)
    block = block.load()
    order = ("sequence", "position", "allele", "feature")
    effect, se = (block[name].transpose(*order).to_numpy() for name in names[:2])
    each = block["member_effect"].transpose("member", *order).to_numpy() if members else None
    for i, name in enumerate(block["sequence"].to_numpy().tolist()):
        finite = np.isfinite(effect[i])
        valid = finite.all(axis=-1)
        if (finite.any(axis=-1) != valid).any():
            feature = features[int(np.argmin(finite[finite.any(axis=-1)].all(axis=0)))]
            raise ValueError(
                f"all features must have effects of the same substitutions; window {name!r} lacks "
                f"some of {feature!r}: leave that feature out, or use select_instruments"
            )
        error = se[i][valid].astype(np.float64)
        wrong = ~(np.isfinite(error) & (error >= 0)) if plan.errors else ~np.isnan(error)
        if wrong.any():
            raise ValueError(
                "standard errors must be finite and at least 0 where there is an effect, or NaN in "
                f"all windows; window {name!r} has {error[wrong][0]}: compute it again"
            )
        own = each[:, i][:, valid] if members else np.zeros((0, 0, 0))
        yield Window(effect[i][valid].astype(np.float64), error, own)


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


def moments(plan: Plan) -> np.ndarray:
    """Mean and sd (ddof 0) of the exposures' effects (2, A) of all substitutions of all windows.

    Notes
    -----
    Windows are merged as Chan, Golub and LeVeque (1983), Am Stat 37:242, so that no digit is lost.
    """
    count, (columns, _) = 0, plan.columns
    mean, squares = np.zeros((2, len(columns)))
    for window in plan.all_windows():
        n, effect = len(window.effect), window.effect[:, columns]
        if n:
            centre = effect.mean(axis=0)
            step = centre - mean
            squares += ((effect - centre) ** 2).sum(axis=0) + step**2 * count * n / (count + n)
            count += n
            mean = mean + step * n / count
    return np.stack([mean, np.sqrt(squares / max(count, 1))])


def fingerprint(plan: Plan, effects: xr.Dataset | Blocks) -> str:
    """What tells effects from others: their attributes, windows, and values where they are there.

    Functions that compute effects are told by the attributes and windows of the first block, since
    computed values may differ in the last digit between machines. Versions of software are no part
    of it, so that an update does not end a run of days.
    """
    whole = isinstance(effects, xr.Dataset)
    ids = (effects if whole else plan.first)["sequence"].to_numpy().tolist()
    known = {name: str(value) for name, value in plan.first.attrs.items() if name != "versions"}
    key = [sorted(known.items()), ids]
    if whole:
        window = next(windows(plan.first.isel(sequence=[0]), plan, members=False))
        key += [window.effect, window.se]
    return joblib.hash(key)
