"""The report: what is refused, before a network is evaluated, and what is said of what was found."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepmr_utils import _report as report
from deepmr_utils._report import analysis, command
from deepmr_utils._report.parameters import KINDS

CODE = '''
import torch
from torch import nn


class Network(nn.Module):
    """Never to be evaluated."""

    feature_names = ["a", "b", "c"]

    def __init__(self, p=0.0):
        super().__init__()
        self.dropout, self.last = nn.Dropout(p), nn.Linear(4, 3)

    def forward(self, x):
        raise AssertionError("evaluated")


def load():
    return Network()


def ensemble():
    return [Network(), Network(), Network()]


def with_dropout():
    return Network(0.5)


def unnamed():
    network = Network()
    network.feature_names = None
    return network


def read(weights):
    network = Network()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def broken():
    raise RuntimeError("no such layer")


def text():
    return "network"


NUMBER = 1
'''
MEME = """MEME version 4
ALPHABET= ACGT

MOTIF a
letter-probability matrix: alength= 4 w= 6
1 0 0 0
0 1 0 0
0 0 1 0
0 0 1 0
1 0 0 0
0 0 0 1
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A model, weights, regions of a genome, sequences, labels and motifs, in the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "syntax.py").write_text("def load(:\n")
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(12)]
    fasta = "".join(f">s{i}\n{text}\n" for i, text in enumerate(texts))
    (tmp_path / "s.fa").write_text(fasta)
    (tmp_path / "klf4.fa").write_text(">one\nAAAATGGGTGGGGCAAAA\n>two\nAAAATGGGTGGGGCTTTT\n")
    (tmp_path / "ragged.fa").write_text(fasta + ">s\nACGT\n")
    (tmp_path / "letters.fa").write_text(">s\nACGX\n")
    pd.DataFrame({"sequence_id": ["x", "x"], "sequence": texts[:2]}).to_csv("twice.csv")
    (tmp_path / "genome.fa").write_text(">chr1\n" + "".join(texts) + "\n")
    rows = [["chr1", 60 * i, 60 * i + 60, f"p{i}", 0, ".", 1, 1, 1, 5 + i] for i in range(12)]
    pd.DataFrame(rows).to_csv("peaks.narrowPeak", sep="\t", header=False, index=False)
    (tmp_path / "chr2.bed").write_text("chr2\t0\t60\n")
    (tmp_path / "m.meme").write_text(MEME)
    ids = [f"s{i}" for i in range(12)]
    pd.DataFrame({"sequence_id": ids, "a": rng.normal(size=12)}).to_csv("labels.csv", index=False)
    pd.DataFrame({"sequence_id": ["z"], "a": [1.0]}).to_csv("others.csv", index=False)
    pd.DataFrame({"sequence_id": ids, "z": 1.0}).to_csv("no_feature.csv", index=False)
    pd.DataFrame({"sequence_id": ids, "a": "high"}).to_csv("words.csv", index=False)
    (tmp_path / "plain").write_text("")
    torch.save({"last.weight": torch.zeros(3, 4), "last.bias": torch.zeros(3)}, "w.pt")
    return tmp_path


def parameters(**changed):
    values = {name: value for name, (value, _) in command.defaults().items()}
    mine = {"model": "mine.py:load", "sequences": "s.fa", "results_directory": "out"}
    return values | mine | changed


def asked(**changed):
    return report.check(parameters(**changed))


REGIONS = {"sequences": "", "regions": "peaks.narrowPeak", "genome": "genome.fa"}
BAD = [
    ({"modle": "x"}, "unknown parameter 'modle' .did you mean 'model'.*: choose one of model, "),
    ({"n_windows": "ten"}, r"n_windows: must be of type int .*got 'ten'"),
    ({"n_windows": -1}, "n_windows: must be a whole number of at least 0; got -1"),
    ({"seed": True}, "seed: must be of type int"),
    ({"features": "a"}, r"features: must be of type list .a list, as in -y 'NAME: \[a, b\]'"),
    ({"features": [1]}, "features: must be a list of texts; got .1."),
    ({"motif_of": ["a"]}, r"motif_of: must be of type dict .names and values"),
    ({"max_memory": 5}, "max_memory: must be a whole number of at least 1e.06; got 5"),
    ({"model": "gone.py:load"}, "model: there is no file .*gone.py; got 'gone.py:load'"),
    ({"model": "mine.py:laod"}, "has no function 'laod'; it has .*load.* .did you mean 'load'"),
    ({"model": "mine.py:NUMBER"}, "mine.py has no function 'NUMBER'"),
    ({"model": "mine.py"}, "a Python file needs the function that makes it"),
    ({"model": "mine"}, "a model must be 'demo', 'file.py:function'"),
    ({"model": "no_such_package:load"}, "no_such_package must be Python .*ModuleNotFoundError"),
    ({"model": "syntax.py:load"}, "syntax.py must be Python that can be imported; .*SyntaxError"),
    ({"model": "mine.py:broken"}, r"broken\(\) must return a network; it raised RuntimeError: no"),
    ({"model": "mine.py:text"}, "text must return a torch.nn.Module, or a list of them; got str"),
    ({"model": "mine.py:read"}, "must take no argument; .*or give weights"),
    ({"model": "mine.py:load", "weights": ["w.pt"]}, "must take one argument, a file of weights"),
    ({"model": "mine.py:read", "weights": ["gone.pt"]}, "weights must be files; there is no gone"),
    ({"model": "mine.py:read", "weights": ["s.fa"]}, r"read\('s.fa'\) must return a network"),
    ({"model": "w.pt"}, "w.pt holds no network, but weights alone .*: name the code, too"),
    ({"model": "gone.pt2"}, "there is no file gone.pt2"),
    ({"model": "demo", "weights": ["w.pt"]}, "the demo has weights of its own"),
    ({"draws": 5}, "draws: MC-dropout needs a module with dropout layers"),
    ({"model": "mine.py:ensemble", "draws": 5}, "draws are of one network; the model has 3"),
    ({"sequences": ""}, "sequences: a model of yours needs windows"),
    ({"sequences": "gone.fa"}, "sequences: there is no file gone.fa"),
    ({"sequences": "ragged.fa"}, "sequences: .*one length|sequences: .*lengths"),
    ({"sequences": "letters.fa"}, "letters.fa, line 2: unknown base 'X'"),
    ({"sequences": "twice.csv"}, "every sequence_id must be there once; twice: x"),
    ({"sequences": "labels.csv"}, "needs the columns sequence_id, sequence"),
    ({"regions": "peaks.narrowPeak", "genome": "genome.fa"}, "of regions or of sequences: give one"),
    ({**REGIONS, "genome": ""}, "genome: regions need the genome that they are of"),
    ({**REGIONS, "genome": "gone.fa"}, "genome: there is no such file"),
    ({**REGIONS, "regions": "chr2.bed"}, "regions: unknown chromosome 'chr2'"),
    ({"genome": "genome.fa"}, "genome goes with regions: give regions, or leave it out"),
    ({"length": 40}, "length goes with regions"),
    ({**REGIONS, "centre": "top", "length": 40}, "unknown centre 'top': choose one of middle"),
    ({**REGIONS, "centre": "summit"}, "windows around summits need regions and a length"),
    ({**REGIONS, "regions": "chr2.bed", "centre": "summit", "length": 20}, "summit must be a whole"),
    ({"features": ["d"]}, "unknown feature 'd': choose one of a, b, c"),
    ({"model": "mine.py:unnamed", "exposures": ["a"]}, "features: exposures names features, but the"),
    ({"exposures": ["d"]}, "exposures: unknown exposures? ?'d'|exposures: unknown feature 'd'"),
    ({"outcomes": ["a", "a"]}, "outcomes: feature must be given once each"),
    ({"exposures": ["a"], "outcomes": ["a"]}, "exposures: effects need a pair of 2 features"),
    ({"motif_of": {"d": "Klf4"}}, "motif_of: unknown feature 'd'"),
    ({"motif_of": {"a": "Klf5"}}, "motif_of: unknown motif 'Klf5': choose .*did you mean 'Klf4'"),
    ({"motif_of": {"a": "Klf4"}}, "none of 12 windows has one of Klf4 .TGGGTGGGGC, 10 bases."),
    ({"motifs": "gone.meme"}, "motifs: there is no such file"),
    ({"motifs": "s.fa"}, "motifs: s.fa holds no motif in MEME minimal format"),
    ({"motifs": "m.meme", "features": ["b", "c"]}, "no motif has the name of a feature: give motif"),
    ({"motif_of": {"a": "Klf4"}, "exposures": ["b"]}, "exposures: b has no motif"),
    ({"design": "motif"}, "'motif' takes instruments from the motif of every exposure; a has none"),
    ({"design": "best"}, "unknown design 'best': choose one of motif, strongest, all"),
    ({"method": "eger"}, "method: .*eger"),
    ({"labels": ["gone.csv"]}, "labels: there is no file gone.csv"),
    ({"labels": ["labels.csv", "others.csv"]}, "must be one table, or a bigWig of each feature"),
    ({"labels": ["others.csv"]}, "no sequence_id is that of a window, such as s0"),
    ({"labels": ["no_feature.csv"]}, "no column has the name of a feature: there are z"),
    ({"labels": ["words.csv"]}, "labels of a must hold numbers; got 'high'"),
    ({"labels": ["a=reads.bw"]}, "bigWigs are read at regions: give regions and genome"),
    ({**REGIONS, "labels": ["a=gone.bw"]}, "there is no file gone.bw"),
    ({"null_pairs": ["a, b"]}, "a null pair is written 'exposure -> outcome'"),
    ({"null_pairs": ["a -> b"]}, "nulls must make .* clusters or more"),
    ({"null_pairs": ["most"]}, 'nulls="most" needs the design "motif"'),
    ({"device": "gpu"}, "device: unknown device 'gpu': use auto, cpu, cuda or cuda:N"),
    ({"device": "cuda:99"}, "device: device 'cuda:99' is not there"),
    ({"results_directory": "plain"}, "results_directory: must be a folder that can be written"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_said_before_a_network_is_evaluated(files, changed, message):
    with pytest.raises(ValueError, match=message):
        asked(**changed)


def test_all_that_is_wrong_is_said_at_once(files):
    with pytest.raises(ValueError) as error:
        asked(model="mine.py:laod", design="best", device="gpu", sequences="gone.fa")
    names = [line.split()[1] for line in str(error.value).splitlines()]
    assert sorted(names) == ["design:", "device:", "model:", "sequences:"]


def test_members_come_from_code_and_weights(files):
    assert asked().n_members == 1
    assert asked(model="mine.py:ensemble").n_members == 3
    read = asked(model="mine.py:read", weights=["w.pt", "w.pt"])
    assert read.n_members == 2
    assert float(read.members[0].last.weight.detach().sum()) == 0
    drawn = asked(model="mine.py:with_dropout", draws=7)
    assert drawn.n_members == 7
    assert asked(model="mine:ensemble").n_members == 3  # as a module of the working directory


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_networks_come_from_files(files):
    network = nn.Sequential(nn.Flatten(), nn.Linear(240, 2))
    x = torch.rand(3, 4, 60)
    torch.jit.script(network).save("scripted.pt")
    batch = {0: torch.export.Dim("n", min=1, max=512)}
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=(batch,)), "model.pt2")
    for file in ("scripted.pt", "model.pt2"):
        (member,) = asked(model=file, features=["a", "b"]).members
        torch.testing.assert_close(member(x), network(x))


def test_windows_names_and_motifs(files):
    found = asked(
        **REGIONS,
        length=20,
        centre="summit",
        n_windows=5,
        motif_of={"b": "Klf4"},
        design="strongest",
        exposures=["b"],
    )
    assert len(found.pool) == 11  # the first would begin before its chromosome
    assert len(found.windows) == 5
    assert (found.pool["start"] == found.pool["end"] - 20).all()
    assert found.pool["start"].iloc[0] == 60 + 6 - 10
    assert (found.exposures, found.outcomes) == (["b"], ["a", "b", "c"])
    assert found.motifs["b"].name == "Klf4"
    found = asked(motif_of={"b": "Klf4"}, sequences="klf4.fa")
    assert (found.exposures, found.outcomes) == (["b"], ["a", "b", "c"])
    by_name = asked(motifs="m.meme", labels=["labels.csv"], design="strongest")
    assert list(by_name.motifs) == ["a"]
    assert by_name.labels.shape == (12, 1)
    free = asked(motif_of={"a": "Klf4"}, exposures=["a", "b"], design="strongest")
    assert free.exposures == ["a", "b"]


def test_labels_are_read_off_bigwigs(files):
    pybigtools = pytest.importorskip("pybigtools")
    entries = [("chr1", 60 * i, 60 * i + 2, float(i)) for i in range(12)]
    pybigtools.open("a.bw", "w").write({"chr1": 720}, entries)
    labels = asked(**REGIONS, labels=["a=a.bw"]).labels
    np.testing.assert_allclose(labels["a"], np.log1p(2 * np.arange(12)), rtol=1e-6)


def test_the_parameters_of_the_notebook_have_words():
    cell = command.defaults()
    assert all(words for name, (_, words) in cell.items() if name != "seed")


def test_what_papermill_injects_is_seen():
    namespace = dict.fromkeys(KINDS, 1) | {"modle": "x", "_": 0}
    namespace["In"] = ["", "seed: int = 0", '# Parameters\nmodle = "x"\nseed = 3\n', "other = 5"]
    assert set(report.given(namespace)) == {*KINDS, "modle"}


class Chain(nn.Module):
    """Feature a is a count of ACGGAT; b is half of it, and what a second motif adds."""

    feature_names = ("a", "b")

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        codes = [[0, 1, 2, 2, 0, 3], [3, 3, 1, 0, 1, 1]]
        kernel = torch.stack([torch.eye(4)[code].T for code in codes])
        self.scan = nn.Parameter(kernel + 0.02 * torch.randn(kernel.shape))

    def forward(self, x):
        first, second = torch.relu(torch.conv1d(x, self.scan) - 3).sum(2).T
        return torch.stack([first, 0.5 * first + second], 1)


def small(members, **changed):
    """A report on windows with ACGGAT, of members that are given."""
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("ACGT"), 13)) for _ in range(24)]
    texts = [text + "ACGGAT" + text[::-1] for text in texts]
    pd.DataFrame({"sequence_id": [f"w{i}" for i in range(24)], "sequence": texts}).to_csv(
        "w.csv", index=False
    )
    found = asked(sequences="w.csv", motifs="m.meme", **changed)
    return found._replace(members=members, names=["a", "b"], exposures=["a"], outcomes=["b"])


def test_an_ensemble_is_answered(files):
    mine = small([Chain(i) for i in range(3)], null_windows=12)
    effects = report.mutate(mine)
    found = report.answer(mine, effects)
    row = found.result.effects.iloc[0]
    assert abs(row["knockout"] - 0.5) < 0.15
    assert report.strongest(found.result) == ("a", "b")
    table = report.verdict_table(mine, found)
    assert table.loc[0, ["exposure", "outcome", "sequences"]].tolist() == ["a", "b", 24]
    curve = analysis.curve(mine, found, "a", "b")
    assert curve["bases"].tolist() == [1, 2, 3, 4, 5, 6]
    nulls = report.nulls(mine, effects, found)
    assert nulls["networks"].tolist() == [
        "as given", "as given, DNA shuffled", "weights shuffled", "untrained"
    ]  # fmt: skip
    assert nulls["spread"].iloc[0] == 1
    assert "which is missing: the module itself (Chain)" in nulls["status"].iloc[3]
    said = "\n".join(report.limits(mine, found, None, nulls))
    assert "Null models, untrained: none, because layers are drawn anew" in said
    assert "No labels were given" in said
    settings = report.provenance(mine, effects, found)
    names = report.write_tables(mine, found, settings, nulls=nulls, quality=None)
    assert {path.name for path in (files / "out").glob("*.*")} - set(names) == {
        path.name for path in (files / "out").glob("effects-*.zarr")
    }
    stored = pd.read_parquet(files / "out" / "effects.parquet")
    pd.testing.assert_frame_equal(stored, found.result.effects, check_dtype=False)
    assert json.loads((files / "out" / "settings.json").read_text())["chosen design"] == "motif"
    (store,) = (files / "out").glob("effects-*.zarr")
    written = store.stat().st_mtime_ns
    again = report.mutate(mine)
    assert store.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again["effect"], effects["effect"])


def test_a_single_network_has_no_verdict_and_is_told_so(files):
    mine = small([Chain()], null_windows=0)
    effects = report.mutate(mine)
    found = report.answer(mine, effects)
    assert found.result.effects["verdict"].tolist() == ["undetermined"]
    assert report.nulls(mine, effects, found) is None
    said = "\n".join(report.limits(mine, found, None, None))
    assert "There is one network and so no standard error" in said
    assert "Null models were not made" in said
    assert report.verdict_table(mine, found).loc[0, "slope"].count("[") == 0
    for axes in (report.forest(mine, found), report.arrows(found), report.both_ways(found),
                 report.response(mine, found, "a", "b")):  # fmt: skip
        axes.figure.draw_without_rendering()
    report.logos(mine, effects, found, "a", "b").draw_without_rendering()


def test_many_labels_correct(files):
    mine = small([Chain(i) for i in range(3)])
    rng = np.random.default_rng(2)
    texts = ["".join(rng.choice(list("ACGT"), 32)) for _ in range(200)]
    texts = [
        text[:9] + "ACGGAT" * (i % 2) + text[9 + 6 * (i % 2) :] for i, text in enumerate(texts)
    ]
    pool = pd.DataFrame({"sequence_id": [f"p{i}" for i in range(200)], "sequence": texts})
    values = analysis.predict.predict(mine.members, analysis.one_hot(texts)).mean(0)
    labels = pd.DataFrame(
        values + rng.normal(0, 0.05, values.shape), pool["sequence_id"], ["a", "b"]
    )
    mine = mine._replace(pool=pd.concat([mine.windows, pool]), labels=labels)
    effects = report.mutate(mine)
    found = report.answer(mine, effects)
    assert found.corrected is not None
    assert abs(found.corrected["knockout"].iloc[0] - 0.5) < 0.15
    quality = report.quality(mine, effects)
    assert quality["feature"].tolist() == ["a", "b"]
    assert (quality["pearson"] > 0.95).all()
    assert "What all members have wrong" not in "\n".join(report.limits(mine, found, quality, None))


def test_the_demo_is_as_it_was_made():
    members = report.check(parameters(model="demo", sequences=""))
    assert members.n_members == 5
    assert members.names == ["Oct4", "Sox2", "Nanog", "Klf4"]
    assert (len(members.windows), members.x.shape[2]) == (48, 400)
    truth = members.truth.set_index(["exposure", "outcome"])["truth"]
    assert sorted(truth[truth > 0.01].index) == [
        ("Nanog", "Klf4"), ("Oct4", "Klf4"), ("Oct4", "Nanog"), ("Sox2", "Klf4"),
        ("Sox2", "Nanog"), ("Sox2", "Oct4"),
    ]  # fmt: skip
