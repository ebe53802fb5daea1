"""From a demo genome to a causal graph: one run end to end, and an ensemble that is shipped."""

import pickle
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from deepmr_utils._checks import check_choice, check_number
from deepmr_utils.analysis import Result, deep_mr
from deepmr_utils.direct import direct_effects
from deepmr_utils.intervals import PAIR
from deepmr_utils.meta import global_effects
from deepmr_utils.models.bpnet import BPNet
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.pairs import PairEffects, summarise
from deepmr_utils.regions import read_regions
from deepmr_utils.sequences import one_hot

from .. import DATA
from ..analyses import ANALYSES
from ..study import Clock, check_choices, flat_settings, make_settings, provenance
from ..training import Ensemble
from . import genome, graph_scores, profiles, tracks
from .knock_outs import corrected_knockouts, factor_instances, knock_out, true_knockouts
from .track_files import Specification, read_specification

DIRECT = "direct"  # the chain of direct effects
CHAINS = ("motif", "strongest", "strong", "published")
MOTIF = "motif"  # the analysis that answers with knock-outs, too
LOCAL_COLUMNS = ["sequence_id", *PAIR, "chain", "causal_effect", "se", "ci_low", "ci_high"]
TRUTH_COLUMNS = ["total", "direct", "distance"]
GLOBAL_COLUMNS = ["chain", *PAIR, "bin", "effect", "se", "tau", "i2", "k", "between_se"]
GLOBAL_COLUMNS += ["total_se", "total_df", "total_ci_low", "total_ci_high", "total_p"]
GLOBAL_COLUMNS += ["truth", "total_effect"]
ANSWER_COLUMNS = ["knockout", "knockout_ci_low", "knockout_ci_high", "own_effect", "verdict"]
GLOBAL_COLUMNS += [*ANSWER_COLUMNS, "knockout_truth"]


@dataclass(frozen=True)
class Settings:
    """What is done in a run; `experiments.binding.genome.Parameters` says on what genome.

    The graph of ``parameters`` is replaced by that of the run. An ensemble of ``n_members`` BPNets
    with so many ``filters`` and ``layers`` is trained, each member on a bootstrap sample of the
    training windows if ``resample``; ``n_analysed`` validation windows are mutated. Every one of
    ``chains`` (names of `experiments.analyses.ANALYSES`) is run on all pairs, and direct effects
    with instruments in own motifs; all sites are knocked out, each `.knock_outs.N_DRAWS` times;
    local effects of the chains in ``kept`` are stored.
    """

    parameters: genome.Parameters = field(default_factory=genome.Parameters)
    n_members: int = 5
    filters: int = 32
    layers: int = 6
    epochs: int = 12
    batch_size: int = 32
    resample: bool = False
    n_analysed: int = 500
    chains: tuple[str, ...] = ("motif", "strongest", "published")
    kept: tuple[str, ...] = ("motif", "published", DIRECT)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices("chain", self.chains, list(ANALYSES))
        # nothing can be kept of what is not run
        for name in self.kept:
            check_choice("kept chain", name, (*self.chains, DIRECT))
        check_number("n_members", self.n_members, 2)  # standard errors need two


class Run(NamedTuple):
    """Results of one run.

    ``local``: `LOCAL_COLUMNS` and, a window and pair, the true effects and the motifs' distance;
    windows with a true effect only. ``globals_``: `GLOBAL_COLUMNS`, in all windows (bin "all");
    what `analyse` gives has them by distance, too. ``truth`` is the mean over the windows that
    enter, of direct effects for the chain "direct", whose ``total_effect`` is that of the first
    chain in the same windows. Of the chain "motif" in all windows the answer of
    `deepmr_utils.analysis.deep_mr`, too, `ANSWER_COLUMNS`, and ``knockout_truth``, what the same
    edits do by the genome's rules; NaN elsewhere, and in runs without knock-outs. ``members``:
    ``chain, exposure, outcome, bin, member, effect``. ``record``: graph, seeds, quality, seconds,
    versions.
    """

    local: pd.DataFrame
    globals_: pd.DataFrame
    members: pd.DataFrame
    record: dict[str, Any]


def seeds(settings: Settings, graph: str, number: int) -> tuple[int, int]:
    """Seeds of genome and ensemble of a run, from the study's seed."""
    key = [settings.seed, list(genome.GRAPHS).index(graph), number]
    return tuple(int(x) for x in np.random.SeedSequence(key).generate_state(2))


def read_windows(spec: Specification, length: int, n: int | None = None) -> pd.DataFrame:
    """Validation windows with their sequences; a sample of n of them, in their order.

    Parameters
    ----------
    spec : Specification
    length : int
    n : int, optional
        All by default, or where there are fewer.

    Returns
    -------
    pd.DataFrame
        ``sequence_id, chrom, start, end, sequence`` and more, as `deepmr_utils.regions` gives them.
    """
    table = tracks.peak_windows(spec, "validation", length=length)
    if n is not None and n < len(table):
        table = table.sample(n, random_state=42).sort_index()  # 42 as in the published study
    return read_regions(table.rename(columns={"sequence_id": "name"}), spec.fasta)


def train(
    spec: Specification, settings: Settings, seed: int, *, workers: int = 1,
    only: Sequence[int] | None = None, device: str = "cpu",
) -> tuple[Ensemble, pd.DataFrame]:  # fmt: skip
    """Train the ensemble of a run.

    Parameters
    ----------
    spec : Specification
        Of the genome that the settings describe.
    settings : Settings
    seed : int
    workers : int
        Members trained at the same time.
    only : sequence of int, optional
        Some of the members, where these are resampled.
    device : str

    Returns
    -------
    tuple of Ensemble and pd.DataFrame
        And its quality on the validation windows, a row a task, see
        `experiments.binding.profiles.evaluate`.
    """
    p = settings.parameters
    held = {
        split: tracks.hold(
            spec, tracks.peak_windows(spec, split, length=p.length, margin=p.margin, edge="drop")
        )
        for split in ("train", "validation")
    }
    make = partial(BPNet, tuple(spec.tasks), filters=settings.filters, layers=settings.layers)
    jobs = [(held["train"], settings.n_members, seed)]
    if settings.resample:
        drawn = np.random.SeedSequence(seed).generate_state(settings.n_members).tolist()
        drawn = drawn if only is None else [drawn[i] for i in only]
        jobs = [(_bootstrap(held["train"], s), 1, s) for s in drawn]
    validation = partial(_epoch, held["validation"], p.length, settings.batch_size)
    parts = [
        profiles.fit_ensemble(
            make, partial(_epoch, data, p.length, settings.batch_size), validation,
            n_members=n, seed=s, workers=workers, device=device, epochs=settings.epochs,
        )
        for data, n, s in jobs
    ]  # fmt: skip
    members = [member for part in parts for member in part.members]
    report = pd.concat([part.report for part in parts], ignore_index=True)
    report["member"] = np.arange(len(members))
    return Ensemble(members, report), profiles.evaluate(members, validation, device=device)


def _epoch(
    held: tracks.Batch, length: int, batch_size: int, seed: int | None
) -> Iterable[tracks.Batch]:
    return tracks.stream_held(held, length=length, batch_size=batch_size, seed=seed)


def _bootstrap(held: tracks.Batch, seed: int) -> tracks.Batch:
    n = len(held.reads)
    rows = torch.from_numpy(np.random.default_rng(seed).integers(0, n, n))
    return tracks.Batch(*(None if part is None else part[rows] for part in held))


class Observed(NamedTuple):
    """What a run analyses: windows, effects on them by the members of an ensemble, and the truth.

    ``effects`` of substitutions, ``instances`` of motifs, ``edits`` of `knock_out`, ``truth`` of
    `.genome.true_effects`, ``labels`` of `.knock_outs.corrected_knockouts`, if they were asked for,
    ``quality`` of `train`, None where the members were given.
    """

    windows: pd.DataFrame
    members: Sequence[torch.nn.Module]
    quality: pd.DataFrame | None
    effects: xr.Dataset
    instances: pd.DataFrame
    edits: xr.Dataset
    truth: pd.DataFrame
    labels: pd.DataFrame | None


def observe(
    settings: Settings, graph: str, number: int, *,
    members: Sequence[torch.nn.Module] | None = None, labels: bool = False,
    clock: Clock | None = None, device: str = "cpu",
) -> Observed:  # fmt: skip
    """Make the genome of a run, train its ensemble unless it is given, and mutate its windows.

    Parameters
    ----------
    settings : Settings
    graph : str
    number : int
        Of the run.
    members : sequence of nn.Module, optional
    labels : bool
        Whether to correct knock-outs by reads that were held out.
    clock : Clock, optional
    device : str
    """
    settings = replace(settings, parameters=replace(settings.parameters, graph=graph))
    p, clock, quality = settings.parameters, clock or Clock(), None
    genome_seed, model_seed = seeds(settings, graph, number)
    with TemporaryDirectory() as folder:
        with clock("genome"):
            demo = genome.make_genome(folder, p, genome_seed)
            spec = read_specification(demo.specification)
            windows = read_windows(spec, p.length, settings.n_analysed)
        if members is None:
            with clock("train"):
                (members, _), quality = train(spec, settings, model_seed, device=device)
        corrected = None
        if labels:
            with clock("labels"):
                corrected = corrected_knockouts(members, spec, p, seed=model_seed, device=device)
    with clock("mutagenesis"):
        effects = saturation_mutagenesis(
            members, one_hot(windows["sequence"].tolist()), sequence_ids=windows["sequence_id"],
            keep_members=True, device=device,
        )  # fmt: skip
    with clock("truth"):
        truth = genome.true_effects(windows, demo.sites, p)
    instances = factor_instances(windows)
    with clock("edits"):
        edits = knock_out(members, windows, instances, p, seed=model_seed, device=device)
    return Observed(windows, members, quality, effects, instances, edits, truth, corrected)


def run(settings: Settings, graph: str, number: int, *, device: str = "cpu") -> Run:
    """Run one graph end to end: genome, ensemble, mutagenesis, all pairs, comparison with truth."""
    clock = Clock()
    seen = observe(settings, graph, number, clock=clock, device=device)
    with clock("mr"):
        local, globals_, members = analyse(
            seen.effects, seen.instances, seen.truth, settings.chains, seen.edits
        )
    genome_seed, model_seed = seeds(settings, graph, number)
    record = {
        "graph": graph, "run": number, "genome_seed": genome_seed, "model_seed": model_seed,
        "windows": len(seen.windows), "quality": seen.quality.round(4).to_dict("records"),
        "device": device, "seconds": clock.seconds, **provenance(),
    }  # fmt: skip
    everywhere = (table[table["bin"] == "all"] for table in (globals_, members))
    return Run(local[local["chain"].isin(settings.kept)], *everywhere, record)


def analyse(
    effects: xr.Dataset,
    instances: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    chains: Sequence[str] = CHAINS,
    edits: xr.Dataset | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Local and global effects of all pairs by every chain, and direct ones.

    Parameters
    ----------
    effects : xr.Dataset
        Variant effects, with ``member_effect``.
    instances : pd.DataFrame
        Of `deepmr_utils.motifs.find_instances`.
    truth : pd.DataFrame, optional
        Of `.genome.true_effects`; windows without a true effect then do not enter.
    chains : sequence of str
        Names of `experiments.analyses.ANALYSES`. Direct effects are estimated with instruments in
        own motifs.
    edits : xr.Dataset, optional
        Of `knock_out`, for the answers of the chain "motif".

    Returns
    -------
    tuple of pd.DataFrame
        ``local``, ``globals_`` and ``members`` as `Run` describes them.
    """
    distances = graph_scores.motif_distances(instances)
    results = {
        name: deep_mr(
            effects, instances=instances, edits=edits if name == MOTIF else None, **ANALYSES[name]
        )
        for name in dict.fromkeys([MOTIF, *chains])
    }
    found = {name: results[name].pairs for name in chains}
    found[DIRECT] = PairEffects(*direct_effects(effects, results[MOTIF].instruments))
    keys = ["sequence_id", *PAIR]
    locals_, globals_, members = [], [], []
    for name, effect in found.items():
        local = effect.local.merge(distances, on=keys, how="left")
        if truth is None:
            local = local.assign(total=np.nan, direct=np.nan)
        else:
            known = truth.loc[truth["status"] == "ok", [*keys, "total", "direct"]]
            local = local.merge(known, on=keys)
        local = local[local["causal_effect"].notna() & (local["se"] > 0)].assign(chain=name)
        locals_.append(local.reindex(columns=[*LOCAL_COLUMNS, *TRUTH_COLUMNS]))
        used = PairEffects(local, effect.members)
        binned = graph_scores.by_distance(used._replace(local=local.drop(columns="distance")),
                                          distances)  # fmt: skip
        for table, by_member in (summarise(used, PAIR), binned):
            column = "direct" if name == DIRECT else "total"
            globals_.append(_with_truth(table.assign(chain=name), local, column))
            members.append(by_member.assign(chain=name))
    same = locals_[0].merge(locals_[-1][keys], on=keys)
    total = global_effects(same, PAIR)[[*PAIR, "effect"]]
    table = pd.concat(globals_, ignore_index=True)
    total = total.rename(columns={"effect": "total_effect"}).assign(chain=DIRECT, bin="all")
    table = table.assign(bin=table["bin"].fillna("all")).merge(
        total, on=["chain", *PAIR, "bin"], how="left"
    )
    if edits is not None:
        answers = _answers(results[MOTIF], edits)
        table = table.merge(answers, on=["chain", *PAIR, "bin"], how="left")
    members = pd.concat(members, ignore_index=True)
    members = members.assign(bin=members["bin"].fillna("all") if "bin" in members else "all")
    return pd.concat(locals_, ignore_index=True), table.reindex(columns=GLOBAL_COLUMNS), members


def _answers(result: Result, edits: xr.Dataset) -> pd.DataFrame:
    """Knock-outs, beside what they truly do where it is known, and verdicts."""
    table = result.effects[[*PAIR, *ANSWER_COLUMNS]].assign(chain=MOTIF, bin="all")
    if "true_effect" not in edits:
        return table
    return table.merge(true_knockouts(edits), on=PAIR, how="left")


def _with_truth(table: pd.DataFrame, local: pd.DataFrame, column: str) -> pd.DataFrame:
    """Add the mean true effect of the windows that enter each row."""
    local, by = (graph_scores.in_bins(local), [*PAIR, "bin"]) if "bin" in table else (local, PAIR)
    mean = local.groupby(by, as_index=False)[column].mean().rename(columns={column: "truth"})
    return table.merge(mean, on=by, how="left", validate="1:1")


SHIPPED = Settings(n_members=3, filters=16, resample=True)
SHIPPED_SEED = 1  # of the genome and of the ensemble


def save_members(path: str | Path, members: Sequence[BPNet], settings: Settings) -> None:
    """Write the weights of an ensemble, with the settings it was trained by."""
    states = [member.state_dict() for member in members]
    torch.save({"settings": flat_settings(settings), "members": states}, path)


def load_members(path: str | Path | None = None) -> list[BPNet]:
    """Read an ensemble of demo BPNets; only numbers are read, no code.

    Parameters
    ----------
    path : path, optional
        A file of `save_members`. By default three members that learned the demo genome of seed 1;
        ``python -m experiments.binding.one_genome FILE`` trains them again.

    Raises
    ------
    ValueError
        If the file is none of `save_members`.
    """
    if path is None:
        return load_members(DATA / "bpnet_demo.pt")
    try:
        held = torch.load(path, weights_only=True)
        settings = make_settings(Settings, held["settings"])
        members = [BPNet(filters=settings.filters, layers=settings.layers) for _ in held["members"]]
        for member, state in zip(members, held["members"], strict=True):
            member.load_state_dict(state)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (
        KeyError, TypeError, RuntimeError, AttributeError, EOFError, OSError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} holds no ensemble of demo BPNets: {error}") from error
    return [member.eval() for member in members]


def main() -> None:
    """``python -m experiments.binding.one_genome FILE``: train the shipped ensemble, write it."""
    with TemporaryDirectory() as folder:
        demo = genome.make_genome(folder, SHIPPED.parameters, SHIPPED_SEED)
        spec = read_specification(demo.specification)
        ensemble, quality = train(spec, SHIPPED, SHIPPED_SEED)
    save_members(sys.argv[1], ensemble.members, SHIPPED)
    print(quality.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
