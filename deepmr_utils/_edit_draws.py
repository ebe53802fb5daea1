"""How edits of binding sites are drawn, and drawn again where one makes a site."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .motifs import Motif, log_odds, match_scores, match_threshold
from .sequences import ALPHABET, UNKNOWN, decode, one_hot

ATTEMPTS = 100
ELSEWHERE = ("replaced", "moved", "planted")  # kinds that need a place free of sites


class Site(NamedTuple):
    """Bases a to b of a sequence, by its row, that a factor's motif matches."""

    row: int
    factor: str
    a: int
    b: int


class Task(NamedTuple):
    """An edit to be drawn; `changed` says of how many bases if it is partial."""

    site: Site
    draw: int
    changed: int
    rng: np.random.Generator


class Scan:
    """Where sequences match motifs, on both strands."""

    def __init__(self, motifs: Mapping[str, Motif], p: float) -> None:
        self.motifs, self.factors, self.scans = motifs, list(motifs), []
        for motif in motifs.values():
            weights = log_odds(motif)
            both = (weights, weights[::-1, ::-1].copy())
            self.scans.append((both, match_threshold(weights, p)))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Whether a site begins, bool (N, F, 2, L), in base codes (N, L)."""
        x = one_hot(codes, torch.float64)
        found = np.zeros((len(codes), len(self.scans), 2, codes.shape[1]), bool)
        for k, (both, threshold) in enumerate(self.scans):
            for strand, weights in enumerate(both):
                scores = match_scores(x, weights).numpy()
                found[:, k, strand, : scores.shape[1]] = scores >= threshold
        return found

    def covered(self, found: np.ndarray) -> np.ndarray:
        """Which bases lie in sites, bool (N, L), that begin where `found` says."""
        covered = np.zeros((len(found), found.shape[-1]), bool)
        for k, motif in enumerate(self.motifs.values()):
            begin = found[:, k].any(1)
            for i in range(motif.width):
                covered[:, i:] |= begin[:, : begin.shape[1] - i]
        return covered


def draw_edits(
    tasks: list[Task], codes: np.ndarray, sites: Mapping[int, list[Site]], scan: Scan, kind: str
) -> list[tuple]:
    """Draw edits, each until it makes no site.

    Parameters
    ----------
    tasks : list of Task
    codes : np.ndarray (N, L)
        Base codes.
    sites : mapping of int to list of Site
        All sites of a sequence, by its row.
    scan : Scan
        Of the motifs whose sites are not to be made.
    kind : str
        As in `deepmr_utils.edits.site_edits`.

    Returns
    -------
    list of tuple
        Row, factor, start, end, kind, draw, replacement and status, one a task.
    """
    rows, which = np.unique([task.site.row for task in tasks], return_inverse=True)
    old = codes[rows]
    before = scan(old)
    taken = scan.covered(before) | (old == UNKNOWN)
    for i, row in enumerate(rows):
        for site in sites.get(row, []):
            taken[i, site.a : site.b] = True
    free, status = [], []
    for task, i in zip(tasks, which, strict=True):
        a, b = task.site[2:]
        held = np.concatenate([[0], taken[i].cumsum()])
        width = scan.motifs[task.site.factor].width if kind == "planted" else b - a
        free.append(np.flatnonzero(held[width:] == held[: len(held) - width]))
        others = [s.factor for s in sites.get(task.site.row, []) if s.a < b and s.b > a]
        others = [factor for factor in others if factor != task.site.factor]
        reasons = {
            "unknown bases": (old[i, a:b] == UNKNOWN).any(),
            f"overlaps a site of {', '.join(others)}": bool(others),
            "no place free of sites": kind in ELSEWHERE and not len(free[-1]),
        }
        status.append(next((reason for reason, true in reasons.items() if true), "ok"))
    new = old[which]
    spans = [task.site[2:] for task in tasks]
    left = [i for i, reason in enumerate(status) if reason == "ok"]
    for _ in range(ATTEMPTS):
        if not left:
            break
        made = []
        for i in left:
            new[i], place = _draw(kind, tasks[i], old[which[i]], free[i], scan)
            made.append(place)
            touched = [span for span in (tasks[i].site[2:], place) if span[0] < span[1]]
            spans[i] = min(span[0] for span in touched), max(span[1] for span in touched)
        after = scan(new[left])
        left = [
            i for i, place, found in zip(left, made, after, strict=True)
            if not _accepted(kind, tasks[i].site, place, before[which[i]], found, scan)
        ]  # fmt: skip
    for i in left:
        status[i] = f"no draw free of sites in {ATTEMPTS} tries"
    result = []
    for task, bases, span, reason in zip(tasks, new, spans, status, strict=True):
        ok = reason == "ok"
        a, b = span if ok else task.site[2:]
        text = decode(bases[None, a:b])[0] if ok else ""
        result.append((*task.site[:2], a, b, kind, task.draw, text, reason))
    return result


def _draw(
    kind: str, task: Task, old: np.ndarray, free: np.ndarray, scan: Scan
) -> tuple[np.ndarray, tuple[int, int]]:
    """Base codes (L,) of one try, and the span of the site that it makes."""
    (_, factor, a, b), rng, new = task.site, task.rng, old.copy()
    motif, letters = scan.motifs[factor], len(ALPHABET)
    width = motif.width if kind == "planted" else b - a
    c = int(rng.choice(free)) if kind in ELSEWHERE else 0
    if kind == "destroyed":
        new[a:b] = rng.integers(0, letters, width)
    elif kind == "shuffled":
        new[a:b] = rng.permutation(old[a:b])
    elif kind == "partial":
        at = a + rng.permutation(width)[: task.changed]
        new[at] = (old[at] + rng.integers(1, letters, task.changed)) % letters
    elif kind == "replaced":
        new[a:b] = old[c : c + width]
    elif kind == "moved":
        new[a:b], new[c : c + width] = old[c : c + width], old[a:b]
    else:
        limits = motif.probabilities.cumsum(1)[:, :-1]
        site = (rng.random((width, 1)) >= limits).sum(1)
        new[c : c + width] = site if rng.random() < 0.5 else 3 - site[::-1]
    return new, (c, c + width) if kind in ("moved", "planted") else (0, 0)


def _accepted(
    kind: str, site: Site, place: tuple[int, int], before: np.ndarray, after: np.ndarray, scan: Scan
) -> bool:
    """Whether of sites that begin, bool (F, 2, L), a try makes none but what it is to make."""
    own, width = scan.factors.index(site.factor), scan.motifs[site.factor].width
    made = after & ~before
    inside = slice(place[0], max(place[1] - width + 1, place[0]))
    made[own, :, inside] = False
    if made.any():
        return False
    if kind == "planted":
        return bool(after[own, :, inside].any())
    overlapping = slice(max(site.a - width + 1, 0), site.b)
    return kind == "partial" or not after[own, :, overlapping].any()
