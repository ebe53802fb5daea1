"""Edits of binding sites, the library's do(): a site is destroyed, and every feature answers."""

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

from . import __version__, _members, predict
from ._checks import check_columns, check_number, check_options, check_rows, require, whole_numbers
from ._edit_draws import Scan, Site, Task, draw_edits
from .effects import SCHEMA_VERSION
from .motifs import Motif
from .mutagenesis import Transform, check_ids, transform_name, try_transform
from .sequences import base_codes, check_letters, check_one_hot, decode, one_hot

__all__ = ["edit_effects", "site_edits"]

CELLS = 2**23  # scores of motifs at a time
SITE = ["sequence_id", "factor", "start", "end"]
EDIT = [*SITE, "kind", "draw", "replacement"]
Kind = Literal["shuffled", "destroyed", "replaced", "moved", "planted", "partial"]


def site_edits(
    one_hot: np.ndarray | torch.Tensor,
    sequence_ids: Sequence[str],
    instances: pd.DataFrame,
    motifs: Mapping[str, Motif],
    kind: Kind = "shuffled",
    *,
    n_draws: int = 5,
    p: float = 5e-4,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw edits of motif instances, none of which makes a site of any scanned motif.

    Every instance is a site of its own: an edit leaves the factor's other instances in the sequence
    as they are, as a substitution does.

    Parameters
    ----------
    one_hot : array or tensor (N, 4, L)
    sequence_ids : sequence of str (N,)
        Unique identifiers.
    instances : pd.DataFrame
        ``sequence_id, factor, start, end`` of all sites, as `deepmr_utils.motifs.find_instances`
        gives them.
    motifs : mapping of str to Motif
        By the name of the factor; those of all instances, and others whose sites an edit must not
        make.
    kind : {"shuffled", "destroyed", "replaced", "moved", "planted", "partial"}
        What becomes of a site. ``"shuffled"``: its own bases in another order. ``"destroyed"``:
        random bases, each A, C, G, T alike. ``"replaced"``: a stretch of the same sequence that is
        free of sites is copied over it. ``"moved"``: it changes places with such a stretch; the
        edit spans both. ``"planted"``: a site of each of `motifs`, drawn from its probabilities, is
        written over such a stretch of every sequence, on either strand. ``"partial"``: 1, 2, ..., W
        of its W bases become others, `n_draws` times each, and the draws of k bases are numbered
        from ``(k - 1) * n_draws``.
    n_draws : int
        Edits of a site.
    p : float
        What a site is: see `find_instances`.
    seed : int
        A draw depends on it, on `motifs`, and on the identifier, bases and sites of its sequence,
        not on other sequences or the order.

    Returns
    -------
    pd.DataFrame
        One row a site and draw: ``sequence_id, factor, start, end`` of what is replaced, ``kind``,
        ``draw``, ``replacement`` (its new bases) and ``status``: "ok" or why there is none, which
        then is an empty text. A site that shares bases with one of another factor is not edited:
        the edit would be of both. Nor is one with unknown bases, or where 100 tries make a site
        each.

    Raises
    ------
    ValueError
        If instances are malformed, or their factor has no motif.

    Notes
    -----
    A new site is a place and strand that reaches `match_threshold` after the edit and not before.
    For all kinds but "partial" and "planted", no site of the own motif may be left that overlaps
    the place, either.
    """
    options = {"kind": kind, "n_draws": n_draws, "p": p, "seed": seed}
    limits = {"n_draws": (1, np.inf, True), "p": (0, 1, False), "seed": (0, np.inf, True)}
    options = check_options(site_edits, options, limits)
    n_draws, seed = options["n_draws"], options["seed"]
    codes = base_codes(check_one_hot(one_hot))
    ids = check_ids(sequence_ids, len(codes))
    sites = _check_sites(instances, ids, codes.shape[1])
    unknown = ~sites["factor"].isin(list(motifs))
    rule = f"instances need a motif each; there are motifs of {', '.join(motifs) or 'no factor'}"
    check_rows(sites, unknown, rule, "factor")
    places = [Site(*place) for place in sites[["row", *SITE[1:]]].itertuples(index=False)]
    by_row: dict[int, list[Site]] = {}
    for place in places:
        by_row.setdefault(place.row, []).append(place)
    if kind == "planted":
        places = [Site(row, factor, 0, 0) for row in range(len(ids)) for factor in motifs]
    tasks, drawn = _tasks(places, ids, kind, n_draws, seed), []
    scan = Scan(motifs, p)
    size = max(1, CELLS // (2 * len(motifs) * codes.shape[1]))
    while some := list(islice(tasks, size)):
        drawn += draw_edits(some, codes, by_row, scan, kind)
    table = pd.DataFrame(drawn, columns=["row", *EDIT[1:], "status"])
    table.insert(0, "sequence_id", np.array(ids)[table.pop("row").to_numpy(int)])
    return table


def _check_sites(table: pd.DataFrame, ids: list[str], length: int) -> pd.DataFrame:
    """Spans of sequences, with their row in `ids`."""
    check_columns(table, SITE, "the table of sites")
    table = table.reset_index(drop=True).assign(row=pd.Index(ids).get_indexer(table["sequence_id"]))
    check_rows(table, table["row"] < 0, "sequence_id must be among sequence_ids", "sequence_id")
    for name in ("start", "end"):
        table[name] = whole_numbers(table, name, "0-based")
    bad = (table["end"] < table["start"]) | (table["end"] > length)
    check_rows(table, bad, f"start and end must lie in 0 to {length}, in order", "start", "end")
    return table


def _tasks(places: list[Site], ids: list[str], kind: str, n: int, seed: int) -> Iterator[Task]:
    """The edits to be drawn, each with random numbers of its own."""
    for site in places:
        for draw in range(n * (site.b - site.a) if kind == "partial" else n):
            key = repr((seed, ids[site.row], str(site.factor), int(site.a), kind, draw)).encode()
            entropy = int.from_bytes(hashlib.sha256(key).digest()[:16], "little")
            yield Task(site, draw, draw // n + 1, np.random.default_rng(entropy))


def edit_effects(
    members: predict.Members,
    one_hot: np.ndarray | torch.Tensor,
    edits: pd.DataFrame,
    *,
    sequence_ids: Sequence[str] | None = None,
    features: predict.Features = None,
    transform: Transform | None = None,
    batch_size: int = 256,
    device: str | torch.device = "auto",
) -> xr.Dataset:
    """Predict what edits do to every feature.

    Parameters
    ----------
    members, one_hot
        As in `deepmr_utils.mutagenesis.saturation_mutagenesis`.
    edits : pd.DataFrame
        ``sequence_id, factor, start, end, kind, draw, replacement`` of E edits, as `site_edits`
        gives them, or one's own; ``status`` where there is one. Tables are joined by `pd.concat`.
    sequence_ids, features, transform
        As in `saturation_mutagenesis`.
    batch_size : int
        Sequences predicted at a time; bounds the memory and does not change the result.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns
    -------
    xr.Dataset
        Dimensions edit, feature, member, sequence. ``effect`` and ``se`` (edit, feature), the mean
        and the standard deviation (ddof 1; NaN for a single member) over members of the change,
        ``member_effect`` (member, edit, feature), and ``reference_prediction`` (sequence, feature).
        The columns of `edits` are coordinates, ``reference`` the bases that were replaced. Effects
        of edits that could not be drawn, which have no replacement, are NaN.

    Raises
    ------
    ValueError, TypeError
        If an argument or the model does not fit, or an edit does not fit its sequence.
    """
    batch_size = check_number("batch_size", batch_size, 1, whole=True)
    x, device = check_one_hot(one_hot), predict.resolve_device(device)
    ids, codes = check_ids(sequence_ids, len(x)), base_codes(x)
    edits = _check_edits(edits, ids, codes)
    seed = members.seed if isinstance(members, predict.MCDropout) else "none"
    members = predict.as_members(members)
    dtype = predict.member_dtype(members, x.dtype)
    members, x = _members.of_dtype(members, dtype), x.to(dtype)
    done = np.flatnonzero(edits["replacement"] != "")
    with predict.evaluating(members, device):
        first = x[:batch_size].to(device)
        heads = [predict.forward(member, first) for member in members]
        names, columns = predict.find_features(members, heads, features)
        for member, outputs, wanted in zip(members, heads, columns, strict=True):
            predict.check_repeatable(member, first, outputs.values, wanted)
        try_transform(transform, [h.values[:1, c] for h, c in zip(heads, columns, strict=True)])

        def predicted(batch: torch.Tensor) -> np.ndarray:
            batch, wanted = batch.to(device), zip(members, columns, strict=True)
            outputs = [predict.forward(member, batch).values[:, c] for member, c in wanted]
            values = torch.stack(outputs).cpu().numpy()
            return values if transform is None else transform(values)

        before = np.concatenate([predicted(batch) for batch in x.split(batch_size)], axis=1)
        change = np.full((len(members), len(edits), len(names)), np.nan, before.dtype)
        for at in np.split(done, np.arange(batch_size, len(done), batch_size)):
            if len(at):
                some = edits.iloc[at]
                change[:, at] = predicted(_edited(x, some)) - before[:, some["row"]]
    spread = change.std(0, ddof=1) if len(members) > 1 else np.full_like(change[0], np.nan)
    versions = (
        f"deepmr_utils {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    table = edits.drop(columns="row")
    return xr.Dataset(
        {
            "effect": (("edit", "feature"), change.mean(0)),
            "se": (("edit", "feature"), spread),
            "member_effect": (("member", "edit", "feature"), change),
            "reference_prediction": (("sequence", "feature"), before.mean(0)),
        },
        {"sequence": ids, "feature": names}
        | {
            name: ("edit", column.to_numpy(int if name in ("start", "end", "draw") else str))
            for name, column in table.items()
        },
        {
            "dropout_seed": seed, "schema_version": SCHEMA_VERSION,
            "model_hash": predict.model_hash(members), "n_members": len(members),
            "calibration": "none" if transform is None else transform_name(transform),
            "strands": "forward", "precision": str(dtype).removeprefix("torch."),
            "versions": versions,
        },
    )  # fmt: skip


def _edited(x: torch.Tensor, edits: pd.DataFrame) -> torch.Tensor:
    """Sequences (E, 4, L) with their replacements."""
    batch = x[edits["row"].tolist()]
    for i, (a, b, text) in enumerate(edits[["start", "end", "replacement"]].to_numpy()):
        batch[i, :, a:b] = one_hot([text], x.dtype)[0]
    return batch


def _check_edits(edits: pd.DataFrame, ids: list[str], codes: np.ndarray) -> pd.DataFrame:
    """Edits that fit their sequences, with the row and the bases of each."""
    require(edits, EDIT, "the table of edits")
    table = _check_sites(edits, ids, codes.shape[1])
    table["draw"] = whole_numbers(table, "draw", "a number of the draw")
    table["replacement"] = check_letters(table["replacement"])
    drawn = table["replacement"].str.len()
    wrong = (drawn > 0) & (drawn != table["end"] - table["start"])
    wrong |= table["replacement"].str.contains("N")
    rule = "a replacement must have end - start known bases, or none where there is no edit"
    check_rows(table, wrong, rule, "start", "end", "replacement")
    if not drawn.any():
        raise ValueError(
            f"no edit has a replacement; the first is {table['sequence_id'][0]}, "
            f"{table.get('status', pd.Series(['of no status']))[0]}: ask for another kind of edit"
        )
    if "status" not in table:
        table["status"] = np.where(drawn > 0, "ok", "no replacement")
    spans = table[["row", "start", "end"]].to_numpy()
    table["reference"] = [decode(codes[r : r + 1, a:b])[0] if b > a else "" for r, a, b in spans]
    return table[["row", *EDIT, "reference", "status"]]
