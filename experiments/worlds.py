"""Worlds whose answers are known, each as `deepmr_utils.analysis.deep_mr` sees it.

A world is a function of its parameters, the number of a run and a device, and gives `Case`s.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn

from deepmr_utils._checks import check_choice
from deepmr_utils.edits import edit_effects, site_edits
from deepmr_utils.knockouts import knockout_effects
from deepmr_utils.models import mtsplice
from deepmr_utils.models.bpnet import BPNet
from deepmr_utils.motifs import Motif, find_instances, get_motif, log_odds, occupancy
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.null import shuffled_weights
from deepmr_utils.pairs import PAIR
from deepmr_utils.sequences import decode, one_hot

from .binding import knock_outs, one_genome
from .chromatin import one_draw
from .chromatin.simulated import ACCESSIBILITY
from .cooperativity.knock_outs import true_knockouts
from .cooperativity.one_round import FEATURES, Settings, draw_round, fit_round
from .cooperativity.rounds import simulation_settings
from .cooperativity.simulation import Round, local_truth
from .planting import plant
from .splicing import answers, exons
from .study import make_settings
from .training import one_thread, train_ensemble

ABSENT = 0.01  # a true effect below this is none, as in `.binding.graph_scores.answers`
NULLS = ("untrained", "shuffled")
AGAIN = ", again"
NOT_THE_WORLDS = ("kind", "runs", "tuning")  # how much to run, and what is scored


class Case(NamedTuple):
    """One call of `deep_mr`, and what it should answer.

    ``given``: its options; ``truth``: ``exposure, outcome, truth, true_effect``, see `_truth`;
    ``published``: a name in `.analyses.ANALYSES`, the paper's analysis of such data; ``labels``,
    where there are some: what `deepmr_utils.held_out.correct` says.
    """

    effects: xr.Dataset
    given: dict[str, Any]
    truth: pd.DataFrame
    published: str = "published"
    labels: pd.DataFrame | None = None


def _truth(effects: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """By pair "acts" or "absent", from its true effect; a pair without one does not answer."""
    table = pd.DataFrame([(*pair, value) for pair, value in effects.items()],
                         columns=[*PAIR, "true_effect"])  # fmt: skip
    table = table.dropna(ignore_index=True)
    return table.assign(truth=np.where(table["true_effect"].abs() < ABSENT, "absent", "acts"))


def _no_answer(names: Sequence[str], truth: str) -> pd.DataFrame:
    """All pairs: "same" where features are one thing, "none" where nothing was learnt."""
    table = pd.DataFrame(permutations(names, 2), columns=PAIR)
    return table.assign(true_effect=np.nan, truth=truth)


def _sites(
    x: torch.Tensor, ids: Sequence[str], instances: pd.DataFrame, motifs: Mapping[str, Motif],
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    return site_edits(x, ids, instances, motifs, n_draws=knock_outs.N_DRAWS, seed=seed)


def _mutated(
    members: Sequence[nn.Module], sequences: Sequence[str], motifs: Mapping[str, Motif],
    truth: pd.DataFrame, seed: int, device: str, published: str,
) -> Case:  # fmt: skip
    """Effects of substitutions and of lost sites, where every feature has a motif."""
    x, ids, names = one_hot(sequences), [f"s{i}" for i in range(len(sequences))], list(motifs)
    effects = saturation_mutagenesis(
        members, x, sequence_ids=ids, features=names, keep_members=True, device=device
    )
    instances = find_instances(x, ids, motifs)
    sites = _sites(x, ids, instances, motifs, seed)
    edits = edit_effects(members, x, sites, sequence_ids=ids, features=names, device=device)
    return Case(effects, {"instances": instances, "edits": edits}, truth, published)


class _Test(NamedTuple):
    """A round of the simulation, with the test sequences that are analysed."""

    data: Round
    seed: int
    settings: Settings
    test: pd.DataFrame
    motifs: dict[str, Motif]


def _draw(values: Mapping[str, Any], run: int, **others: Any) -> _Test:
    values = {**values, **others}
    scenario, n = values.pop("scenario"), values.pop("n_analysed")
    settings = simulation_settings(values)
    data, seed = draw_round(settings, scenario, run)
    test = data.split("test")
    test = test[test[["exposure_start", "outcome_start"]].notna().any(axis=1)].head(n)
    motifs = {name: data.parameters.motifs[name] for name in FEATURES}
    return _Test(data, seed, settings, test, motifs)


def simulation(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """A round of the simulation, both ways; nothing leads from its outcome to its exposure."""
    data, seed, settings, test, motifs = _draw(values, run)
    members = fit_round(data, seed, settings, device=device).members
    there = local_truth(test, data.parameters, data.rates)["truth"].mean()
    truth = _truth({("exposure", "outcome"): there, ("outcome", "exposure"): 0.0})
    sequences = test["sequence"].tolist()
    return [_mutated(members, sequences, motifs, truth, run, device, "published_simulation")]


def simulation_knock_outs(values: Mapping[str, Any], run: int) -> pd.DataFrame:
    """Knock-outs of `simulation` with a perfect model: `true_knockouts` of the same edits."""
    values = {name: value for name, value in values.items() if name not in NOT_THE_WORLDS}
    data, _, _, test, motifs = _draw(values, run, n_train=100, n_augmented=0)  # nothing is trained
    x, ids = one_hot(test["sequence"].tolist()), [f"s{i}" for i in range(len(test))]
    edits = _sites(x, ids, find_instances(x, ids, motifs), motifs, run)
    return true_knockouts(x, ids, edits, data.parameters, data.rates)


def genome(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """A demo genome. ``weights``, a folder, keeps ensembles from one call to the next."""
    values = dict(values)
    graph, weights = values.pop("graph"), values.pop("weights", None)
    settings = make_settings(one_genome.Settings, values)
    path = Path(weights) / f"{graph}-{run:03d}.pt" if weights else None
    kept = one_genome.load_members(path) if path and path.exists() else None
    seen = one_genome.observe(settings, graph, run, members=kept, labels=True, device=device)
    if path and kept is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        one_genome.save_members(path, seen.members, settings)
    truth = _truth(seen.truth.groupby(PAIR, sort=False)["total"].mean().to_dict())
    truth = truth.merge(knock_outs.true_knockouts(seen.edits), on=PAIR)
    given = {"instances": seen.instances, "edits": seen.edits}
    return [Case(seen.effects, given, truth, labels=seen.labels)]


def null_models(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """The shipped demo networks without what they learnt, on windows of a demo genome."""
    values = dict(values)
    kind = check_choice("null", values.pop("null"), NULLS)
    settings, members = make_settings(one_genome.Settings, values), one_genome.load_members()
    for i, member in enumerate(members):
        with one_thread(100 * run + i):
            p = one_genome.SHIPPED
            new = BPNet(filters=p.filters, layers=p.layers).eval()
        members[i] = new if kind == "untrained" else shuffled_weights(member, 100 * run + i)
    seen = one_genome.observe(settings, "default", run, members=members, device=device)
    truth = _no_answer(seen.effects["feature"].to_numpy().tolist(), "none")
    return [Case(seen.effects, {"instances": seen.instances, "edits": seen.edits}, truth)]


def chromatin(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """A seed of simulated chromatin: every factor and accessibility, both ways."""
    seen = one_draw.observe(make_settings(one_draw.Settings, values), run, device=device)
    return [
        Case(
            seen.effects.sel(sequence=ids, feature=[factor, ACCESSIBILITY]), {},
            _truth({
                pair: float(own.loc[own["sequence_id"].isin(ids), "truth"].mean())
                for pair, own in seen.truth.groupby(PAIR, sort=False) if factor in pair
            }), "published_deepsea",
        )
        for factor, ids in seen.bound.items()
    ]  # fmt: skip


def tissues(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """Splicing in ``size`` tissues by MTSplice, others in each run: one regulation, read twice."""
    order, size = np.random.default_rng(0).permutation(mtsplice.TISSUES), values["size"]
    chosen = order[size * run : size * (run + 1)].tolist()
    (exons, _), networks = mtsplice.example_exons(), mtsplice.load_ensemble()
    near, edge, parts = values["near"], mtsplice.INTRON, []
    sides = np.r_[edge - near : edge + near // 5, -edge - near // 5 : near - edge]  # splice sites
    for row in exons.itertuples():
        part = saturation_mutagenesis(
            networks, one_hot([row.sequence]), sequence_ids=[row.sequence_id],
            positions=sides % len(row.sequence), features=mtsplice.TISSUES, keep_members=True,
            device=device,
        )  # fmt: skip
        part = part.sel(feature=chosen)
        parts.append(part.assign_coords(position=np.arange(len(sides))))
    effects = xr.concat(parts, "sequence")
    return [
        Case(effects.sel(feature=list(pair)), {}, _no_answer(pair, "same"), "published_deepsea")
        for pair in combinations(chosen, 2)
    ]


def separate_network(size: int, filters: int, width: int) -> nn.Module:
    """A network (N, 4, L) to (N, size): each output adds up scores by filters of its own."""
    return nn.Sequential(
        nn.Conv1d(4, filters * size, width), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Conv1d(filters * size, size, 1, groups=size), nn.Flatten(),
    )  # fmt: skip


def additive(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """Networks in which no feature can act: each has filters of its own, whose scores add up.

    What is in ``again`` is measured twice, with other noise, and has two outputs, by name and with
    `AGAIN`: one thing, whose effect on itself is 1.
    """
    length, n, planted = 60, values["n_train"], {m: get_motif(m) for m in values["motifs"]}
    rng = np.random.default_rng([values["seed"], run])
    codes = rng.integers(0, 4, (n + 500, length), dtype=np.uint8)
    plant(codes, planted, p_site=0.6, sharpness=2.0, rng=rng)
    motifs = planted | {name + AGAIN: planted[name] for name in values.get("again", [])}
    x = one_hot(codes)
    true = torch.stack([occupancy(x, log_odds(motif)) for motif in motifs.values()], 1)
    labels = true + values["noise"] * torch.from_numpy(rng.normal(size=true.shape)).float()
    width = max(motif.width for motif in motifs.values())
    make = partial(separate_network, len(motifs), values["filters"], width)
    members = train_ensemble(
        make, x[:n], labels[:n], (x[n:], labels[n:]), n_members=values["n_members"],
        seed=int(rng.integers(2**31)), epochs=values["epochs"], batch_size=64,
        weight_decay=0.01, device=device,
    ).members  # fmt: skip
    sequences = decode(codes[n : n + values["n_analysed"]])
    truth = _truth(
        {pair: float(motifs[pair[0]] is motifs[pair[1]]) for pair in permutations(motifs, 2)}
    )
    truth["truth"] = truth["truth"].replace("acts", "same")
    return [_mutated(members, sequences, motifs, truth, run, device, "published_simulation")]


def exon_definition(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """Both sites of human exons by CI-SpliceAI, exons of a class of length in each run.

    That a site helps the other is known from experiments; how much, by `true_effect`, is what the
    networks answer to its knock-out.
    """
    stored, table = values["stored"], exons.read_exons()
    kind = exons.LENGTH_CLASSES[run]
    chosen = [e for e in answers.stored_exons(stored) if table["length_class"][e] == kind]
    effects, edits = exons.load(stored, chosen)
    knocked = knockout_effects(edits).set_index(PAIR)["knockout"]
    return [Case(effects, {"edits": edits}, _truth(knocked.to_dict()))]


def other_genes(values: Mapping[str, Any], run: int, device: str) -> list[Case]:
    """Sites of an exon and sites of another gene, within reach of the networks: one exon a run."""
    exon_id = answers.with_other_genes(values["stored"])[run]
    effects, edits, pairs = answers.load_other_genes(values["stored"], exon_id)
    return [Case(effects, {"edits": edits, "pairs": pairs}, _truth(dict.fromkeys(pairs, 0.0)))]


WORLDS: dict[str, Callable[[Mapping[str, Any], int, str], list[Case]]] = {
    "simulation": simulation, "genome": genome, "chromatin": chromatin, "null": null_models,
    "tissues": tissues, "additive": additive, "exon_definition": exon_definition,
    "other_genes": other_genes,
}  # fmt: skip
