"""Streams of windows against arrays they were written from, and what is said of bad files."""

import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pybigtools
import pytest
import torch
import yaml

from deepmr_utils import sequences
from deepmr_utils.models.bpnet import BPNet
from experiments.binding import chip_nexus, track_files, tracks

SIZES = {"chr2": 700, "chr5": 900, "chrX": 300}
TASKS = ("A", "B")


def write_bigwig(path, values, sizes=SIZES):
    """Write arrays by chromosome; zeros are left out, as in real tracks."""
    runs = [
        (c, int(i), int(i) + 1, float(v[i])) for c, v in values.items() for i in np.flatnonzero(v)
    ]
    pybigtools.open(str(path), "w").write(dict(sizes), runs)


@pytest.fixture
def data(tmp_path):
    """Arrays, and the files they are written to: the specification's path, sequences, reads."""
    rng = np.random.default_rng(0)
    genome = {c: "".join(rng.choice(list("ACGTacgt"), n)) for c, n in SIZES.items()}
    (tmp_path / "genome.fa").write_text("".join(f">{c}\n{s}\n" for c, s in genome.items()))
    raw = {"fasta": "genome.fa", "tasks": {}}
    reads = {}
    for name in (*TASKS, "control"):
        (tmp_path / name).mkdir()
        files = {strand: f"{name}/{strand}.bw" for strand in ("plus", "minus")}
        for strand, file in files.items():
            reads[name, strand] = {c: rng.poisson(0.5, n).astype(float) for c, n in SIZES.items()}
            write_bigwig(tmp_path / file, reads[name, strand])
        if name in TASKS:
            files["peaks"] = f"{name}/peaks.bed"
            raw["tasks"][name] = files
        else:
            raw["control"] = files
    write_peaks(tmp_path, "A", "chr5\t150\t151\nchr5\t400\t402\nchr2\t350\t351\nchrX\t150\t151\n")
    write_peaks(tmp_path, "B", "chr5\t600\t601\nchr5\t400\t402\n")
    path = tmp_path / "dataspec.yml"
    path.write_text(yaml.safe_dump(raw))
    return path, genome, reads


def write_peaks(folder, task, text):
    (folder / task / "peaks.bed").write_text(text)


def expected(genome, reads, rows):
    """What windows hold, cut from the arrays: sequences, reads and control."""
    x = sequences.one_hot([genome[c][s:e] for c, s, e in rows])
    tables = [
        [
            [reads[name, strand][c][s:e] for strand in ("plus", "minus")]
            for name in (*TASKS, "control")
        ]
        for c, s, e in rows
    ]
    y = torch.tensor(np.array(tables), dtype=torch.float32)
    return x, y[:, :-1], y[:, -1]


def spans(windows):
    return list(windows[["chrom", "start", "end"]].itertuples(index=False, name=None))


def test_windows_are_centred_on_peaks_and_split_by_chromosome(data):
    spec = track_files.read_specification(data[0])
    train = tracks.peak_windows(spec, "train", length=101)  # not chrX, as published
    assert spans(train) == [
        ("chr5", 100, 201),
        ("chr5", 351, 452),
        ("chr5", 550, 651),
        ("chr5", 351, 452),
    ]
    assert train["task"].tolist() == ["A", "A", "B", "B"]
    assert train["sequence_id"].is_unique
    assert train["sequence_id"][0] == "chr5:100-201"
    assert spans(tracks.peak_windows(spec, "validation", length=100, margin=20)) == [
        ("chr2", 280, 420)
    ]
    mine = {"train": ["chrX"], "test": ["chr5", "chr2"]}
    assert len(tracks.peak_windows(spec, "train", length=100, splits=mine, excluded=())) == 1
    assert len(tracks.peak_windows(spec, "test", length=100, splits=mine, excluded=())) == 5
    assert tracks.SPLITS == {
        "validation": ("chr2", "chr3", "chr4"),
        "test": ("chr1", "chr8", "chr9"),
    }


def test_streamed_windows_are_those_of_the_arrays(data):
    path, genome, reads = data
    spec = track_files.read_specification(path)
    windows = tracks.peak_windows(spec, "train", length=100, margin=10)
    batches = list(tracks.stream(spec, windows, length=100, batch_size=3))
    assert [len(b.reads) for b in batches] == [3, 1]
    rows = [(c, s + 10, e - 10) for c, s, e in spans(windows)]
    for part, wanted in zip(zip(*batches, strict=True), expected(genome, reads, rows), strict=True):
        assert torch.equal(torch.cat(part), wanted)
    # an odd spare base falls on the right
    one = next(tracks.stream(spec, windows, length=119))
    assert torch.equal(
        one.reads, expected(genome, reads, [(c, s, s + 119) for c, s, _ in spans(windows)])[1]
    )


def test_augmentation_shifts_and_turns_all_parts_together(data):
    path, genome, reads = data
    spec = track_files.read_specification(path)
    windows = tracks.peak_windows(spec, "train", length=100, margin=3)
    candidates = {}
    for chrom, start, _ in spans(windows):
        for shift in range(7):
            x, y, control = expected(genome, reads, [(chrom, start + shift, start + shift + 100)])
            candidates[x.numpy().tobytes()] = (y, control, shift, False)
            text = genome[chrom][start + shift : start + shift + 100].upper()
            x = sequences.one_hot([sequences.reverse_complement(text)])
            # the other strand: last base first, and plus reads are what were minus reads
            candidates[x.numpy().tobytes()] = (
                y.flip(-1)[:, :, [1, 0]],
                control.flip(-1)[:, [1, 0]],
                shift,
                True,
            )
    seen = set()
    for seed in range(30):
        for batch in tracks.stream(spec, windows, length=100, batch_size=2, seed=seed):
            for i in range(len(batch.reads)):
                y, control, shift, turned = candidates[batch.one_hot[i : i + 1].numpy().tobytes()]
                assert torch.equal(batch.reads[i : i + 1], y)
                assert torch.equal(batch.control[i : i + 1], control)
                seen.add((shift, turned))
    assert seen == {(shift, turned) for shift in range(7) for turned in (False, True)}


def test_a_seed_gives_the_same_batches_held_or_streamed(data):
    spec = track_files.read_specification(data[0])
    windows = tracks.peak_windows(spec, "train", length=100, margin=20)
    held = tracks.hold(spec, windows)

    def same(a, b):
        return all(
            torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
        )

    first = list(tracks.stream(spec, windows, length=100, batch_size=2, seed=1))
    assert same(first, tracks.stream(spec, windows, length=100, batch_size=2, seed=1))
    assert same(first, tracks.stream_held(held, length=100, batch_size=2, seed=1))
    assert not same(first, tracks.stream_held(held, length=100, batch_size=2, seed=2))
    plain = list(tracks.stream_held(held, length=100, batch_size=2))
    assert same(plain, tracks.stream(spec, windows, length=100, batch_size=2))


def test_memory_does_not_grow_with_the_number_of_windows(data):
    spec = track_files.read_specification(data[0])
    few = tracks.peak_windows(spec, "train", length=100)

    def peak(repeats):
        windows = few.loc[few.index.repeat(repeats)]
        tracemalloc.start()
        n = sum(len(b.reads) for b in tracks.stream(spec, windows, length=100, batch_size=32))
        assert n == 4 * repeats
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # arrays of a batch of 32 take 32 * 6 * 100 * 8 bytes = 154 kB; of 1600 windows 7.7 MB
    peak(8)
    assert peak(400) < peak(8) + 400_000


def test_control_reads_become_what_a_network_takes(data):
    spec = track_files.read_specification(data[0])
    windows = tracks.peak_windows(spec, "train", length=120)
    batch = next(tracks.stream(spec, windows, length=120))
    control = tracks.control_inputs(batch.control)
    assert torch.equal(control.profile[:, 0, :2], batch.control)
    smooth = torch.stack([batch.control[..., i - 25 : i + 25].mean(-1) for i in (25, 60, 95)], -1)
    torch.testing.assert_close(control.profile[:, 0, 2:, [25, 60, 95]], smooth)
    torch.testing.assert_close(control.counts[:, 0], torch.log1p(batch.control.sum(-1)))
    heads = BPNet(TASKS, filters=2, layers=1, control_tracks=(4, 2)).heads(batch.one_hot, control)
    assert heads.profile.shape == batch.reads.shape
    path = data[0]
    raw = yaml.safe_load(path.read_text())
    del raw["control"]
    path.write_text(yaml.safe_dump(raw))
    assert (
        next(tracks.stream(track_files.read_specification(path), windows, length=120)).control
        is None
    )


def test_windows_with_unknown_bases_are_left_out_and_counted(data, caplog):
    path, genome, _ = data
    text = genome["chr5"]
    masked = text[:160] + "n" + text[161:]
    fasta = path.with_name("genome.fa")
    fasta.write_text(fasta.read_text().replace(text, masked))
    spec = track_files.read_specification(path)
    assert len(tracks.peak_windows(spec, "train", length=100)) == 3
    assert caplog.messages == ["1 of 4 windows hold N and were dropped"]
    assert len(tracks.peak_windows(spec, "train", length=20)) == 4
    assert len(tracks.peak_windows(spec, "train", length=20, margin=5)) == 3
    fasta.write_text(fasta.read_text().replace(masked, "N" * len(text)))
    fasta.with_name("genome.fa.fai").unlink()
    with pytest.raises(ValueError, match=r"all 4 windows of split 'train' hold unknown bases"):
        tracks.peak_windows(spec, "train", length=100)


@pytest.mark.parametrize("code", "MrnY")
def test_windows_with_other_codes_are_left_out_and_counted(data, caplog, code):
    path, genome, _ = data
    text = genome["chr5"]
    fasta = path.with_name("genome.fa")
    changed = text[:160] + code + text[161:]
    fasta.write_text(fasta.read_text().replace(text, changed))
    spec = track_files.read_specification(path)
    windows = tracks.peak_windows(spec, "train", length=100)
    assert windows.attrs["counts"] == {"regions": 4, "dropped": 0, "unknown": 1}
    assert tracks.hold(spec, windows).one_hot.sum() == 300
    what = "N" if code == "n" else f"unknown bases ({code.upper()} in 1)"
    assert caplog.messages == [f"1 of 4 windows hold {what} and were dropped"]
    fasta.write_text(fasta.read_text().replace(changed, changed.replace(code, "E", 1)))
    if code == "M":
        with pytest.raises(ValueError, match=r"genome.fa holds 'E' in chr5:100-200: a genome has"):
            tracks.peak_windows(spec, "train", length=100)


def test_a_specification_can_be_written_and_read_again(data, tmp_path):
    spec = track_files.read_specification(data[0])
    again = track_files.write_specification(spec, tmp_path / "again.yml")
    assert track_files.read_specification(again) == spec
    assert "again" not in again.read_text()
    assert "/" + str(tmp_path) not in again.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("fasta"), r"the specification needs the fields fasta, tasks and may have control; got \['control', 'tasks'\]: add or remove fasta"),
        (lambda raw: raw.update(extra=1), "add or remove extra"),
        (lambda raw: raw.update(tasks=[]), r"tasks must name at least one task; got \[\]"),
        (lambda raw: raw["tasks"]["A"].pop("minus"), "tasks.A needs the fields plus, minus, peaks; got .* add or remove minus"),
        (lambda raw: raw["tasks"].update(B="B.bw"), "tasks.B needs the fields plus, minus, peaks; got 'B.bw'"),
        (lambda raw: raw["tasks"]["A"].update(plus=3), "tasks.A.plus must be a path; got 3"),
        (lambda raw: raw["tasks"]["A"].update(minus="A/plus.bw"), "tasks.A.minus and tasks.A.plus name the same file"),
        (lambda raw: raw["control"].update(peaks="x"), "control needs the fields plus, minus; got .* add or remove peaks"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(data, change, message):
    raw = yaml.safe_load(data[0].read_text())
    change(raw)
    data[0].write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=message):
        track_files.read_specification(data[0])


def test_a_specification_that_cannot_be_read_is_refused(data):
    path = data[0]
    text = path.read_text()
    path.write_text("tasks: [")
    with pytest.raises(ValueError, match="is not YAML"):
        track_files.read_specification(path)
    path.write_text("just text")
    with pytest.raises(ValueError, match="got 'just text'"):
        track_files.read_specification(path)
    path.write_text(text.replace("  B:\n", "  A:\n"))
    with pytest.raises(ValueError, match="A stands twice"):
        track_files.read_specification(path)
    path.write_text(text.replace("A/plus.bw", "1.0"))
    with pytest.raises(ValueError, match=r"tasks.A.plus must be a path; got 1.0: put it in quotes"):
        track_files.read_specification(path)
    path.write_bytes(text.replace("A:", "\xe9:").encode("latin-1"))
    with pytest.raises(ValueError, match="is not YAML: 'utf-8' codec"):
        track_files.read_specification(path)
    path.write_text(text.replace("A/plus.bw", "A/absent.bw"))
    with pytest.raises(
        FileNotFoundError, match=r"tasks.A.plus names .*absent.bw, which does not exist"
    ):
        track_files.read_specification(path)


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("", "holds no region"),
        ("chr5\t5\n", "line 1: a BED line needs chromosome, start and end"),
        ("chrom\tstart\tend\nchr5\t1\t2\n", "start must be a whole number"),
        ("peak1\tchr5\t300\t301\n", "start must be a whole number.*got|start must be a whole number"),
        ("chr7\t300\t301\n", r"unknown chromosome 'chr7': .* such as chr"),
        ("5\t300\t301\n", "unknown chromosome '5': .* such as chr5"),
        ("chr5\t860\t861\n", r"windows must lie within their chromosome.* the first chr5:810-910 \(chr5 has 900 bases\)"),
    ],
)  # fmt: skip
def test_bad_peaks_are_refused(data, bed, message):
    write_peaks(data[0].parent, "B", bed)
    spec = track_files.read_specification(data[0])
    with pytest.raises(ValueError, match=message):
        tracks.peak_windows(spec, "train", length=100)


def test_windows_off_the_end_can_be_dropped(data, caplog):
    write_peaks(data[0].parent, "B", "chr5\t860\t861\nchr5\t10\t11\n")
    spec = track_files.read_specification(data[0])
    assert len(tracks.peak_windows(spec, "train", length=100, edge="drop")) == 2
    assert caplog.messages == ["2 of 4 regions run off their chromosome and were dropped"]
    with pytest.raises(ValueError, match=r"do not, the first .*: choose edge='drop', a shorter"):
        tracks.peak_windows(spec, "train", length=100)
    for edge in ("pad", "bogus", None, "Drop"):
        near = r" \(did you mean 'drop'\?\)" if edge == "Drop" else ""
        with pytest.raises(
            ValueError, match=rf"unknown edge {edge!r}: choose one of raise, drop{near}$"
        ):
            tracks.peak_windows(spec, "train", length=100, edge=edge)


def test_splits_and_lengths_are_checked(data):
    spec = track_files.read_specification(data[0])
    with pytest.raises(
        ValueError, match="unknown split 'val': choose one of validation, test, train"
    ):
        tracks.peak_windows(spec, "val")
    with pytest.raises(
        ValueError,
        match="no peak lies on the chromosomes of split 'test'; peaks are on chr5, chr2, chrX",
    ):
        tracks.peak_windows(spec, "test")
    with pytest.raises(
        ValueError, match="length must be at least 1, margin 0 or more; got 0 and 0"
    ):
        tracks.peak_windows(spec, "train", length=0)
    windows = tracks.peak_windows(spec, "train", length=100)
    with pytest.raises(ValueError, match="length must be at most 100, of the windows; got 101"):
        next(tracks.stream(spec, windows, length=101))


def bad_track(data, values, sizes=SIZES):
    path = data[0].with_name("B") / "minus.bw"
    path.unlink()
    write_bigwig(path, values, sizes)
    spec = track_files.read_specification(data[0])
    return spec, tracks.peak_windows(spec, "train", length=100)


def test_bad_tracks_are_refused(data):
    spec, windows = bad_track(data, {"chr5": np.ones(900)}, SIZES | {"chr5": 901})
    with pytest.raises(
        ValueError,
        match=r"minus.bw is of another genome than .*genome.fa: chr5 has 901 bases there and 900 in the FASTA",
    ):
        next(tracks.stream(spec, windows, length=100))
    spec, windows = bad_track(data, {"5": np.ones(900)}, {"5": 900})
    with pytest.raises(ValueError, match="5 has 900 bases there and none in the FASTA"):
        next(tracks.stream(spec, windows, length=100))
    both = {"5": np.ones(900), "chr2": np.ones(700)}
    spec, windows = bad_track(data, both, {"5": 900, "chr2": 700})
    with pytest.raises(ValueError, match="5 has 900 bases there and none in the FASTA"):
        next(tracks.stream(spec, windows, length=100))
    for value in (-2, np.inf, -np.inf, np.nan):
        values = np.ones(900)
        values[120] = value
        spec, windows = bad_track(data, {"chr5": values})
        with pytest.raises(
            ValueError,
            match=rf"minus.bw holds {value:g} at chr5:120 \(0-based\): counts must be 0 or more, and",
        ):
            next(tracks.stream(spec, windows, length=100))
    values[[120, 5]] = 1, np.nan  # no window is there
    spec, windows = bad_track(data, {"chr5": values})
    assert (tracks.hold(spec, windows).reads[:, 1, 1] == 1).all()
    for content in (b"", b"no bigWig" * 100):
        data[0].with_name("B").joinpath("minus.bw").write_bytes(content)
        with pytest.raises(ValueError, match=r"minus.bw is not a bigWig, or is cut short"):
            next(tracks.stream(spec, windows, length=100))


def test_only_chromosomes_with_windows_are_compared(data, caplog):
    """Contigs of an assembly that the FASTA lacks, and chromosomes on which a bigWig has no read."""
    values = {"chr2": np.ones(700), "chr5": np.full(900, 3.0), "chrEBV": np.ones(50)}
    sizes = {"chr2": 699, "chr5": 900, "chrEBV": 50}  # another chr2, which no window is on
    spec, windows = bad_track(data, values | {"chr2": np.ones(699)}, sizes)
    assert (tracks.hold(spec, windows).reads[:, 1, 1] == 3).all()
    assert not caplog.messages
    spec, windows = bad_track(data, {"chr2": np.ones(700)})
    reads = tracks.hold(spec, windows).reads
    assert (reads[:, 1, 1] == 0).all()
    assert reads[:, 1, 0].sum() == sum(
        data[2]["B", "plus"]["chr5"][s:e].sum() for _, s, e in spans(windows)
    )
    assert [m.partition("minus.bw")[2] for m in caplog.messages] == [
        " has no entry for chr5: its reads are 0 there"
    ]


def test_windows_that_are_not_of_the_genome_are_refused(data):
    spec = track_files.read_specification(data[0])
    windows = tracks.peak_windows(spec, "train", length=100)
    for change, message in (
        ({"chrom": "chr7"}, "unknown chromosome 'chr7'"),
        ({"chrom": 1}, "unknown chromosome '1'"),  # not the second record
        ({"start": windows["start"] - 300, "end": windows["end"] - 300}, "windows must lie within their chromosome"),
        ({"end": windows["end"] + [0, 1, 0, 0]}, "all windows must have one length; got 100 to 101"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tracks.hold(spec, windows.assign(**change))
    for none in (windows.iloc[:0], windows.drop(columns="end")):
        with pytest.raises(
            ValueError, match=r"windows needs (the columns chrom, start, end|at least one row)"
        ):
            tracks.hold(spec, none)


@pytest.mark.parametrize("name", ["NA", "nan", "None", "1", "1.0", "inf", "True", "train"])
def test_chromosomes_named_like_keywords_are_chromosomes(tmp_path, name):
    rng = np.random.default_rng(0)
    (tmp_path / "g.fa").write_text(f">{name}\n{''.join(rng.choice(list('ACGT'), 300))}\n")
    (tmp_path / "k.bed").write_text(f"{name}\t150\t151\n")
    for file, value in (("p.bw", 2.0), ("m.bw", 1.0)):
        write_bigwig(tmp_path / file, {name: np.full(300, value)}, {name: 300})
    (tmp_path / "s.yml").write_text(
        f"fasta: g.fa\ntasks:\n  {name}: {{plus: p.bw, minus: m.bw, peaks: k.bed}}\n"
    )
    spec = track_files.read_specification(tmp_path / "s.yml")
    assert list(spec.tasks) == [name]
    for split, splits in (("train", {}), ("test", {"test": [name]}), ("test", {"test": name})):
        windows = tracks.peak_windows(spec, split, length=100, splits=splits)
        assert windows[["task", "chrom"]].to_numpy().tolist() == [[name, name]]
        assert tracks.hold(spec, windows).reads.sum((2, 3)).tolist() == [[300]]
    with pytest.raises(ValueError, match="no peak lies on the chromosomes of split 'train'"):
        tracks.peak_windows(spec, "train", length=100, splits={"test": name})
    with pytest.raises(ValueError, match="no peak lies on the chromosomes of split 'train'"):
        tracks.peak_windows(spec, "train", length=100, excluded=name)


@pytest.mark.parametrize("name", ["on", "NO", "1", "1e5", "0x10", "null", "~", "2024-01-01", "1.0"])
def test_names_of_tasks_are_text_as_written(data, tmp_path, name):
    path = data[0]
    path.write_text(path.read_text().replace("  A:\n", f"  {name}:\n"))
    spec = track_files.read_specification(path)
    assert set(spec.tasks) == {name, "B"}
    again = track_files.write_specification(spec, tmp_path / "again.yml")
    assert track_files.read_specification(again) == spec


def test_a_fasta_whose_index_cannot_be_made_is_explained(data):
    spec = track_files.read_specification(data[0])
    spec.fasta.with_name("genome.fa.fai").symlink_to("/nonexistent/genome.fa.fai")
    with pytest.raises(
        PermissionError, match=r"genome.fa has no current index, and .* make it by 'samtools faidx'"
    ):
        tracks.peak_windows(spec, "train", length=100)


def test_the_authors_archive_is_laid_out(data, tmp_path):
    """An archive in the layout of the authors' specification, from a folder instead of a server."""
    out = tmp_path / "nexus"
    out.mkdir()
    files = {"data/mm10_no_alt_analysis_set_ENCODE.fasta": b">chr5\nACGT\n", "data/other": b"x"}
    for name in ("Oct4", "Sox2", "Nanog", "Klf4", "patchcap"):
        for file in ("counts.pos.bw", "counts.neg.bw", "idr-optimal-set.summit.bed.gz"):
            files[f"data/chip-nexus/{name}/{file}"] = gzip.compress(f"{name}/{file}".encode())

    def pack(members):
        with tarfile.open(out / "data.tar.gz", "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    pack(files)
    spec = track_files.read_specification(chip_nexus.fetch_chip_nexus(out))
    assert list(spec.tasks) == ["Oct4", "Sox2", "Nanog", "Klf4"]
    assert gzip.decompress(spec.tasks["Sox2"].minus.read_bytes()) == b"Sox2/counts.neg.bw"
    assert gzip.decompress(spec.control[0].read_bytes()) == b"patchcap/counts.pos.bw"
    assert spec.fasta.read_bytes() == b">chr5\nACGT\n"
    assert not list(out.rglob("*other*"))
    with pytest.raises(ValueError, match=r"data.tar.gz has the md5 \w+; 123 is published"):
        chip_nexus.fetch_chip_nexus(out, checksum="md5:123")
    whole = (out / "data.tar.gz").read_bytes()
    (out / "data.tar.gz").write_bytes(whole[:-40])
    with pytest.raises(
        ValueError, match=r"data.tar.gz is cut short or damaged \(.*download it again"
    ):
        chip_nexus.fetch_chip_nexus(out)
    with pytest.raises(FileNotFoundError, match=r"no FASTA file at .*absent.fa"):
        chip_nexus.fetch_chip_nexus(out, fasta=tmp_path / "absent.fa")
    with pytest.raises(ValueError, match=r"a checksum is 'algorithm:digest'.*; got '123'"):
        chip_nexus.fetch_chip_nexus(out, checksum="123")
    pack({name: content for name, content in files.items() if "fasta" not in name})
    with pytest.raises(ValueError, match=r"lacks mm10_no_alt_analysis_set_ENCODE.fasta"):
        chip_nexus.fetch_chip_nexus(out)
    spec.fasta.unlink()
    chip_nexus.main([str(out), "--fasta", str(data[0].with_name("genome.fa"))])
    assert spec.fasta.read_bytes() == data[0].with_name("genome.fa").read_bytes()
