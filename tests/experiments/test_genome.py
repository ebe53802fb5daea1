"""The demo genome: its files, its rules, and its truth against brute force."""

import filecmp
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils import motifs, regions, sequences
from experiments import planting
from experiments.binding import genome, rules, track_files, tracks

SMALL = genome.Parameters(n_windows=190, length=300, margin=20)
PAIRS = list(permutations(genome.FACTORS, 2))
ROUNDING = 1e-12  # sums are taken in another order in another row of a matrix product


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return genome.make_genome(tmp_path_factory.mktemp("demo"), SMALL, seed=1)


@pytest.fixture(scope="module")
def windows(demo):
    """All windows of the small genome with their sequences."""
    spec = track_files.read_specification(demo.specification)
    return read_windows(spec)


def read_windows(spec, length=SMALL.length):
    table = tracks.peak_windows(spec, "test", length=length, splits={"test": genome.CHROMOSOMES})
    table = table.rename(columns={"sequence_id": "name"})
    return regions.read_regions(table, spec.fasta).assign(task=table["task"])


def effects(windows, demo, graph, n=20, column="total"):
    parameters = genome.Parameters(graph=graph, n_windows=190, length=300, margin=20)
    table = genome.true_effects(windows.head(n), demo.sites, parameters)
    return table.groupby(["exposure", "outcome"])[column].mean()


def edges(**strengths):
    return rules.Graph({tuple(k.split("_")): rules.Edge(v) for k, v in strengths.items()})


def test_files_are_read_by_the_loader_as_they_were_made(demo, windows):
    spec = track_files.read_specification(demo.specification)
    assert tuple(spec.tasks) == genome.FACTORS
    assert len(windows) == SMALL.n_windows
    assert windows["sequence_id"].is_unique
    for split, n in (("train", 130), ("validation", 30), ("test", 30)):
        assert len(tracks.peak_windows(spec, split, length=300, margin=20)) == n
    table = tracks.peak_windows(spec, "train", length=300, margin=20)
    held = tracks.hold(spec, table)
    # reads are Poisson draws of what the rules expect: chi-square by window and task
    expected = genome.expected_reads(held.one_hot, SMALL).sum(-1)
    z = (held.reads.sum(-1) - expected) / expected.sqrt()
    assert abs(z.mean()) < 4 / z.numel() ** 0.5
    assert abs(z.square().mean() - 1) < 4 * (2 / z.numel()) ** 0.5
    rate = SMALL.background / SMALL.length
    control = held.control.double()
    assert abs(control.mean() - rate) < 4 * (rate / control.numel()) ** 0.5
    # peaks belong to the task with most reads
    most = [genome.FACTORS[k] for k in expected.sum(-1).argmax(1)]
    assert table["task"].tolist() == most


def test_sites_stand_where_the_file_says(demo, windows):
    sites = demo.sites
    assert set(sites["factor"]) == set(genome.FACTORS)
    pd.testing.assert_frame_equal(genome.read_sites(demo.specification.parent), sites)
    share = len(sites) / (4 * SMALL.n_windows)
    assert abs(share - SMALL.p_site) < 4 * (0.75 * 0.25 / (4 * SMALL.n_windows)) ** 0.5
    ordered = sites.sort_values(["chrom", "start"])
    same = ordered["chrom"].eq(ordered["chrom"].shift())
    assert (ordered["start"] >= ordered["end"].shift())[same].all()
    found = regions.read_regions(
        sites.rename(columns={"factor": "name"}).query("name == 'Klf4'"),
        demo.specification.with_name("genome.fa"),
    )
    x = sequences.one_hot(found["sequence"].tolist())
    scores = motifs.match_scores(x, motifs.log_odds(motifs.get_motif("Klf4")))
    mean = planting.site_affinity(motifs.get_motif("Klf4"), SMALL.sharpness)[1]
    assert abs(scores.mean() - mean) < 4 * scores.std() / len(scores) ** 0.5


def test_the_same_seed_gives_the_same_files_and_another_others(demo, tmp_path):
    folder = demo.specification.parent
    again = genome.make_genome(tmp_path / "again", SMALL, seed=1)
    names = [str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()]
    assert len([n for n in names if not n.endswith(".fai")]) == 1 + 1 + 1 + 4 * 3 + 2
    again.specification.with_name("genome.fa.fai").write_bytes(
        (folder / "genome.fa.fai").read_bytes()
    )
    assert filecmp.cmpfiles(folder, tmp_path / "again", names, shallow=False) == (names, [], [])
    other = genome.make_genome(tmp_path / "again", SMALL, seed=2)  # replaces what is there
    assert not other.sites.equals(demo.sites)
    reverse = genome.make_genome(
        tmp_path / "reverse", genome.Parameters("reverse", 190, 300, 20), seed=1
    )
    pd.testing.assert_frame_equal(reverse.sites, demo.sites)  # only reads differ
    fasta = reverse.specification.with_name("genome.fa")
    assert fasta.read_text() == (folder / "genome.fa").read_text()


def test_the_background_is_like_the_mouse():
    codes = genome._draw_background(300, 500, np.random.default_rng(0))
    pairs = np.bincount(codes[:, :-1].ravel() * 4 + codes[:, 1:].ravel(), minlength=16)
    share = pairs / pairs.sum()
    single = np.bincount(codes.ravel(), minlength=4) / codes.size
    # CpG is rare, CpA common, and both strands are alike
    assert share[1 * 4 + 2] < 0.5 * single[1] * single[2]
    assert share[1 * 4 + 0] > 1.1 * single[1] * single[0]
    np.testing.assert_allclose(single, single[::-1], atol=0.01)


def test_rules_do_not_depend_on_the_strand():
    codes = genome._draw_background(20, 200, np.random.default_rng(0))
    p, rng = genome.Parameters(), np.random.default_rng(1)
    by_factor = {name: motifs.get_motif(genome.MOTIFS[name]) for name in p.factors}
    planting.plant(codes, by_factor, p_site=p.p_site, sharpness=p.sharpness, rng=rng, margin=25)
    x = sequences.one_hot(codes, torch.float64)
    for graph in genome.GRAPHS:
        p = genome.Parameters(graph=graph, length=200, margin=0)
        there, back = genome.expected_reads(x, p), genome.expected_reads(x.flip(1, 2), p)
        torch.testing.assert_close(back.flip(2, 3), there, atol=1e-12, rtol=1e-12)


def test_the_oracle_sums_the_expected_reads(windows):
    x = sequences.one_hot(windows["sequence"].head(30).tolist())
    for graph in ("default", "indirect"):
        p = genome.Parameters(graph=graph, length=300)
        reads = genome.expected_reads(x, p).sum(-1)
        torch.testing.assert_close(
            genome.Oracle(p)(x).double(), reads.log1p().mean(2), atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("graph", genome.GRAPHS)
def test_effects_follow_the_graph(demo, windows, graph):
    network = genome.GRAPHS[graph]
    total, direct = (effects(windows, demo, graph, 40, column) for column in ("total", "direct"))
    reached = {(a, b) for a, b in network.edges}
    if not network.reciprocal:  # there help does not travel on
        for _ in genome.FACTORS:
            reached |= {(a, d) for a, b in reached for c, d in reached if b == c}
    for pair in PAIRS:
        assert (direct[pair] > 0.01) == (pair in network.edges or pair in network.borrowed)
        assert (total[pair] > 0.01) == (pair in reached or pair in network.borrowed)
        if pair not in reached and pair not in network.borrowed:
            assert max(abs(total[pair]), abs(direct[pair])) < ROUNDING


def test_removing_an_edge_removes_its_effect(demo, windows):
    chain = edges(Sox2_Oct4=7, Oct4_Nanog=6)
    total = effects(windows, demo, chain)
    assert (total["Sox2"][["Oct4", "Nanog"]] > 0.01).all()
    assert abs(effects(windows, demo, chain, column="direct")["Sox2", "Nanog"]) < ROUNDING
    cut = effects(windows, demo, edges(Oct4_Nanog=6))
    assert (cut["Sox2"].abs() < ROUNDING).all()
    assert cut["Oct4", "Nanog"] > 0.1
    # and stronger edges do more
    strengths = [effects(windows, demo, edges(Sox2_Oct4=s))["Sox2", "Oct4"] for s in (1, 3, 6)]
    assert strengths == sorted(strengths)


def test_truth_is_the_slope_of_the_oracle_where_nothing_else_changes(demo, windows):
    """Brute force: mutate, and ask the oracle; it also sees other factors' matches change.

    So they are put out of sight: other factors' log-odds come from the reference.
    """
    table = genome.true_effects(windows.head(12), demo.sites, SMALL)
    seen = 0
    for _, window in windows.head(12).iterrows():
        at = demo.sites.query("chrom == @window.chrom and factor == 'Sox2'")
        at = at[(at["start"] >= window["start"]) & (at["end"] <= window["end"])]
        rows = table.query("sequence_id == @window.sequence_id and exposure == 'Sox2'")
        if at.empty:
            assert (rows["status"] == "no planted Sox2 site").all()
            assert rows[["total", "direct"]].isna().all(axis=None)
            continue
        reference = window["sequence"]
        mutants = []
        for i in range(at["start"].iloc[0] - window["start"], at["end"].iloc[0] - window["start"]):
            mutants += [reference[:i] + b + reference[i + 1 :] for b in "ACGT" if b != reference[i]]
        scores = {
            name: rules.intrinsic_log_odds(
                sequences.one_hot(mutants if name == "Sox2" else [reference] * len(mutants)),
                name,
                SMALL,
            )
            for name in genome.FACTORS
        }
        logs = rules.log_counts(rules.occupancies(scores, SMALL.network), SMALL).numpy()
        change = logs - genome.Oracle(SMALL)(sequences.one_hot([reference], torch.float64)).numpy()
        x, y = change[:, genome.FACTORS.index("Sox2")], change[:, genome.FACTORS.index("Nanog")]
        row = rows[rows["outcome"] == "Nanog"].iloc[0]
        if row["status"] == "ok":
            np.testing.assert_allclose(row["total"], (x @ y) / (x @ x), rtol=1e-10)
            assert 0 < row["direct"] < row["total"]
            seen += 1
    assert seen >= 5


def test_help_decays_and_turns_with_the_helix():
    x = rules._kernel(rules.Edge(4.0, 50.0), 200)[60]
    assert x[60] == 4
    assert torch.allclose(x[110], torch.tensor(4.0, dtype=x.dtype) * np.exp(-1))
    turning = rules._kernel(rules.Edge(4.0, 50.0, 10.0), 200)[60]
    assert turning[65] < 1e-12
    assert turning[70] == x[70]


def test_an_instance_of_one_factor_is_hardly_one_of_another():
    """At most 5 % more of them than of background hold a match as good as 95 % of the other's own."""
    rng = np.random.default_rng(0)
    names = list(genome.MOTIFS)
    p = genome.Parameters()
    drawn = {}
    for name in names:
        matrix = motifs.get_motif(genome.MOTIFS[name]).probabilities ** p.sharpness
        cumulative = (matrix / matrix.sum(1, keepdims=True)).cumsum(1)[:, :-1]
        codes = genome._draw_background(1000, 40, rng)
        codes[:, 14 : 14 + len(matrix)] = (rng.random((1000, len(matrix), 1)) >= cumulative).sum(2)
        drawn[name] = sequences.one_hot(codes)
    plain = sequences.one_hot(genome._draw_background(1000, 40, rng))
    for name in names:
        best = {
            other: rules.intrinsic_log_odds(x, name, p).amax((1, 2)) for other, x in drawn.items()
        }
        threshold = best[name].quantile(0.05)
        base = (rules.intrinsic_log_odds(plain, name, p).amax((1, 2)) >= threshold).double().mean()
        for other in set(names) - {name}:
            assert (best[other] >= threshold).double().mean() <= base + 0.05, (other, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "star"}, "unknown graph 'star': choose one of default, reverse, empty, confounded"),
        ({"graph": edges(Oct4_Sox3=1)}, "edges are pairs of two of Oct4, Sox2, Nanog, Klf4, hidden"),
        ({"graph": edges(Oct4_Oct4=1)}, "edges are pairs of two of"),
        ({"graph": edges(Oct4_Sox2=1, Sox2_Oct4=1)}, "the graph has a cycle, .*: remove an edge, or let"),
        ({"p_site": 1.2}, "p_site must lie between 0 and 1"),
        ({"depth": 0}, "depth must be a number greater than 0"),
        ({"n_windows": 3}, "n_windows must be a number of at least 19"),
        ({"length": 40}, "the sites need 38 bases in the middle of a window, length is 40"),
    ],
)  # fmt: skip
def test_bad_parameters_raise(options, message):
    with pytest.raises(ValueError, match=message):
        genome.Parameters(**options)


def test_the_rules_compute_where_their_input_is():
    x = torch.empty(2, 4, 200, device="meta")  # whose tensors cannot come back to the host
    assert genome.Oracle(genome.Parameters())(x).shape == (2, 4)
    reads = rules.expected_reads(x, genome.Parameters())
    assert (reads.shape, reads.device.type) == ((2, 4, 2, 200), "meta")
