import gzip
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepmr_utils import sequences
from deepmr_utils.regions import read_fasta, read_regions, unique

CHR1 = "ACGTTGCAACGGATCCATTANNCTAGgtac"  # 30 bases, soft-masked at the end
CHR2 = "TTTTTCCCCC"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    lines = [CHR1[i : i + 10] for i in range(0, 30, 10)]
    path.write_text("\n".join([">chr1 first", *lines, ">chr2", CHR2, ""]))
    return path


def bed(*rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "name", "strand"][: len(rows[0])])


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_fasta_records_become_rows(tmp_path, opener):
    path = tmp_path / "sequences"
    with opener(path, "wt") as file:
        file.write("\n>a one\nACgt\nNN\n\n>b\nTT\r\n>a two\nG\n")
    table = read_fasta(path)
    assert table["sequence_id"].tolist() == ["a", "b", "a_2"]
    assert table["sequence"].tolist() == ["ACGTNN", "TT", "G"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no FASTA record"),
        (">a\nAC\n>b\n", "line 3: FASTA record 'b' has no sequence"),
        (
            "chr1\t0\t10\n",
            r"line 1: a FASTA record begins with a header '>name'; got 'chr1\\t0\\t10'",
        ),
        (">a\nAC\n> \nAC\n", "line 3: a FASTA header needs a name"),
        (">a\nAC\n>b\n\nAC\nAcr\n", r"bad.fa, line 6: unknown base 'r' in sequence b at position 4 \(0-based\)"),
        (">a\nAC\n>b\n>c\nA\n", "bad.fa, line 3: FASTA record 'b' has no sequence"),
        (">a\nMKLVE\n", r"bad.fa, line 2: unknown base 'M' in sequence a at position 0 \(0-based\)"),
    ],
)  # fmt: skip
def test_bad_fasta_raises(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_fasta(write(tmp_path / "bad.fa", text))


def test_a_byte_order_mark_and_line_ends_of_all_systems_are_no_part_of_names(tmp_path, genome):
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "sequences.fa"
        path.write_bytes(f"\ufeff>a{end}ACGT{end}>b{end}TT{end}".encode())
        assert read_fasta(path)["sequence_id"].tolist() == ["a", "b"]
        assert read_fasta(path)["sequence"].tolist() == ["ACGT", "TT"]
        (tmp_path / "r.bed").write_bytes(f"\ufeffchr1\t0\t5{end}chr1\t1\t6{end}".encode())
        assert read_regions(tmp_path / "r.bed", genome)["chrom"].tolist() == ["chr1", "chr1"]


def test_text_that_cannot_be_read_is_named_with_its_line(tmp_path, genome):
    path = tmp_path / "bad"
    path.write_bytes(b">a\nAC\n>\xe9\nAC\n")
    with pytest.raises(ValueError, match=r"bad, line 3: the text must be UTF-8; got the byte 0xe9"):
        read_fasta(path)
    path.write_bytes(">a\nAC\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"bad, line 1: the text must be UTF-8"):
        read_fasta(path)
    for cut in (15, -9, -30):
        path.write_bytes(gzip.compress(b"chr1\t0\t5\n" * 2000)[:cut])
        with pytest.raises(
            ValueError, match=r"bad is cut short or damaged after line \d+ \(.*copy"
        ):
            read_regions(path, genome)
        path.write_bytes(gzip.compress(b">a\nACGT\n" * 2000)[:cut])
        with pytest.raises(
            ValueError, match=r"bad is cut short or damaged after line \d+ \(.*copy"
        ):
            read_fasta(path)


KEYWORDS = (
    "NA",
    "nan",
    "NULL",
    "None",
    "1",
    "1.0",
    "inf",
    "True",
    "track",
    "browser",
    "train",
    "N/A",
)


def test_names_that_look_like_something_else_stay_text(tmp_path):
    path = tmp_path / "keywords.fa"
    letters = np.random.default_rng(0).choice(list("ACGT"), (len(KEYWORDS), 12))
    texts = ["".join(row) for row in letters]
    path.write_text("".join(f">{k}\n{s}\n" for k, s in zip(KEYWORDS, texts, strict=True)))
    assert read_fasta(path)["sequence_id"].tolist() == list(KEYWORDS)
    lines = "".join(f"{k}\t2\t9\t{k}\n" for k in KEYWORDS)
    table = read_regions(
        write(tmp_path / "k.bed", "track name=x\nbrowser hide all\n" + lines), path
    )
    for column in ("chrom", "sequence_id"):
        assert table[column].tolist() == list(KEYWORDS)
    assert table["sequence"].tolist() == [s[2:9] for s in texts]
    numbers = read_regions(bed((1, 2, 9)), path)
    assert numbers[["chrom", "sequence"]].to_numpy().tolist() == [["1", texts[4][2:9]]]
    with pytest.raises(ValueError, match=r"unknown chromosome '2.0': .* such as 2;"):
        read_regions(bed((2.0, 2, 9)), write(tmp_path / "n.fa", ">2\nACGTACGTAC\n"))
    with pytest.raises(ValueError, match=r"every region needs a chrom \(.*keep_default_na.*row 1"):
        read_regions(bed(("1", 2, 9), (None, 2, 9)), path)


def test_missing_files_raise(tmp_path, genome):
    with pytest.raises(FileNotFoundError, match=r"absent\.fa"):
        read_fasta(tmp_path / "absent.fa")
    with pytest.raises(FileNotFoundError, match=r"absent\.bed"):
        read_regions(tmp_path / "absent.bed", genome)
    with pytest.raises(FileNotFoundError, match=r"no FASTA file at .*absent\.fa"):
        read_regions(bed(("chr1", 0, 5)), tmp_path / "absent.fa")


def test_names_are_made_unique_without_taking_one_that_exists():
    names = ["a", "a", "a_2", "b", "a", "b"]
    assert unique(names) == ["a", "a_3", "a_2", "b", "a_4", "b_2"]


def test_regions_are_zero_based_half_open_and_stranded(tmp_path, genome):
    text = (
        "# a comment\ntrack name=x\nbrowser position\n\n"
        "chr1\t0\t5\tpeak\t0\t+\n"
        "chr1\t0\t5\tpeak\t0\t-\t12.5\t3\t2\t1\n"  # as a narrowPeak
        "chr1\t8\t13\t.\t0\t.\n"
        "chr1 22 27\n"
        "chr2\t5\t10\t.\t0\t-\n"
    )
    table = read_regions(write(tmp_path / "regions.bed", text), genome)
    assert table.columns.tolist() == ["sequence_id", "chrom", "start", "end", "strand", "sequence"]
    expected = [
        ("peak", "chr1", 0, 5, "+", "ACGTT"),
        ("peak_2", "chr1", 0, 5, "-", "AACGT"),
        ("chr1:8-13", "chr1", 8, 13, "+", "ACGGA"),
        ("chr1:22-27", "chr1", 22, 27, "+", "CTAGG"),
        ("chr2:5-10(-)", "chr2", 5, 10, "-", "GGGGG"),
    ]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert table.attrs["counts"] == {"regions": 5, "padded": 0, "dropped": 0}
    with gzip.open(tmp_path / "regions.bed.gz", "wt") as file:
        file.write(text)
    pd.testing.assert_frame_equal(read_regions(tmp_path / "regions.bed.gz", genome), table)
    assert sequences.one_hot(table["sequence"]).shape == (5, 4, 5)


def test_a_table_of_regions_does_as_well(genome):
    regions = bed(("chr1", 0, 5, None, "-"), ("chr1", 0.0, 5, "x", None)).iloc[::-1]
    table = read_regions(regions, genome)
    assert table["sequence_id"].tolist() == ["x", "chr1:0-5(-)"]
    assert table["sequence"].tolist() == ["ACGTT", "AACGT"]
    assert table.index.tolist() == [0, 1]
    assert table["start"].dtype == np.int64


@pytest.mark.parametrize(("start", "end"), [(10, 14), (10, 15), (12, 13), (4, 21)])
@pytest.mark.parametrize("length", [1, 6, 7])
def test_windows_stand_around_the_centre(genome, start, end, length):
    forward, reverse = (
        read_regions(bed(("chr1", start, end, ".", strand)), genome, length).iloc[0]
        for strand in "+-"
    )
    centre = (start + end) // 2
    assert forward["start"] + length // 2 == centre
    assert forward["sequence"] == CHR1.upper()[forward["start"] : forward["start"] + length]
    assert forward["sequence"][length // 2] == CHR1.upper()[centre]
    assert (reverse["start"], reverse["end"]) == (forward["start"], forward["end"])
    assert sequences.reverse_complement(reverse["sequence"]) == forward["sequence"]
    # position p of strand "-" is base end - 1 - p of the chromosome
    complement = dict(zip("ACGTN", "TGCAN", strict=True))
    for p, base in enumerate(reverse["sequence"]):
        assert base == complement[CHR1.upper()[reverse["end"] - 1 - p]]


EDGE = bed(
    ("chr1", 1, 2, "left", "+"), ("chr1", 12, 14, "inside", "+"),
    ("chr1", 28, 30, "right", "-"), ("chr2", 4, 6, "both", "+"),
)  # fmt: skip


def test_windows_off_the_chromosome_raise_by_default(genome):
    message = (
        r"windows must lie within their chromosome; 3 of 4 do not, "
        r"the first chr1:-5-7 \(chr1 has 30 bases\): choose edge='pad' or 'drop', a shorter length, or"
    )
    with pytest.raises(ValueError, match=message):
        read_regions(EDGE, genome, 12)
    with pytest.raises(ValueError, match="the first chr2:8-11"):
        read_regions(bed(("chr2", 8, 11)), genome)


def test_windows_off_the_chromosome_can_be_padded(genome, caplog):
    table = read_regions(EDGE, genome, 12, edge="pad").set_index("sequence_id")
    assert table.loc["left", "sequence"] == "NNNNN" + CHR1[:7]
    assert table.loc["inside", "sequence"] == CHR1[7:19]
    assert table.loc["right", "sequence"] == "NNNNN" + sequences.reverse_complement(
        CHR1[23:].upper()
    )
    assert table.loc["both", "sequence"] == "N" + CHR2 + "N"
    assert table.loc["left", ["start", "end"]].tolist() == [-5, 7]
    assert (table["sequence"].str.len() == 12).all()
    assert table.attrs["counts"] == {"regions": 4, "padded": 3, "dropped": 0}
    assert caplog.messages == ["3 of 4 regions run off their chromosome and were padded"]
    with pytest.raises(
        ValueError, match="reach into their chromosome; 1 of 1 do not, the first chr2:40-45"
    ):
        read_regions(bed(("chr2", 40, 45)), genome, edge="pad")


def test_windows_off_the_chromosome_can_be_dropped(genome, caplog):
    caplog.set_level(logging.WARNING)
    table = read_regions(EDGE, genome, 12, edge="drop")
    assert table["sequence_id"].tolist() == ["inside"]
    assert table.attrs["counts"] == {"regions": 4, "padded": 0, "dropped": 3}
    assert caplog.messages == ["3 of 4 regions run off their chromosome and were dropped"]
    with pytest.raises(ValueError, match=r"1 of 1 do not, the first chr2:40-45 .*: choose"):
        read_regions(bed(("chr2", 40, 45)), genome, edge="drop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no region"),
        ("# only\ntrack x\n", "holds no region"),
        ("chr1\t0\t5\ntrack1\t5\t10\n", "unknown chromosome 'track1'"),
        ("chr1\t9\t5\n", r"bad.bed: a region needs end > start \(half-open\); line 1 has start 9, end 5"),
        ("chr1\t\t5\n", "bad.bed: start must be a whole number.*; line 1 has start $"),
        ("\t0\t5\n", "bad.bed: every region needs a chrom .*; line 1"),
        ("chr1\t5\n", r"line 1: a BED line needs chromosome, start and end, separated by tabs; got 'chr1\\t5'"),
        ("chrom\tstart\tend\nchr1\t0\t5\n", r"start must be a whole number, 0 or more \(0-based; no header line\); line 1 has start start"),
        ("#\nchr1\t0\t5\nchr1\t-1\t5\n", "start must be a whole number.*; line 3 has start -1"),
        ("chr1\t0\t5.5\n", "end must be a whole number.*; line 1 has end 5.5"),
        ("chr1\t5\t5\n", r"a region needs end > start \(half-open\); line 1 has start 5, end 5"),
        ("chr1\t0\t5\tx\t0\t*\n", r"strand must be '\+', '-' or '.'; line 1 has strand \*"),
        ("chr1\t0\t5\nchr1\t0\t6\n", "all regions must have one length; got 5 to 6 bases: give length"),
        ("1\t0\t5\nX\t1\t6\n", r"unknown chromosome '1': .*genome.fa has 2 sequences, such as chr1; 2 regions"),
        ("scaffold\t0\t5\n", r"unknown chromosome 'scaffold': .* such as chr1, chr2; 1 regions"),
    ],
)  # fmt: skip
def test_bad_bed_raises(tmp_path, genome, text, message):
    with pytest.raises(ValueError, match=message):
        read_regions(write(tmp_path / "bad.bed", text), genome)


@pytest.mark.parametrize(
    ("regions", "options", "message"),
    [
        (pd.DataFrame({"chrom": ["chr1"], "chromStart": [0]}), {}, r"a table of regions needs the columns chrom, start, end; got \['chrom', 'chromStart'\] and 1 rows; \['start', 'end'\] missing: add \['start', 'end'\]"),
        (bed(("chr1", 0, 5)).iloc[:0], {}, "at least one row; got .* and 0 rows"),
        (bed(("chr1", 0, 5), ("chr1", np.nan, 5)), {}, "row 1 has start nan"),
        (bed(("chr1", 0, 5), ("chr1", None, 5)).astype({"start": "Int64"}), {}, "row 1 has start <NA>"),
        (bed(("chr1", 0, 1e30)), {}, r"end must be a whole number.*; row 0 has end 1e\+30"),
        (bed(("chr1", np.inf, 5)), {}, "row 0 has start inf"),
        (bed(("chr1", 0, 5)), {"edge": "clip"}, "unknown edge 'clip': choose one of raise, pad, drop"),
        (bed(("chr1", 0, 5)), {"length": 0}, "length must be a whole number of at least 1; got 0"),
    ],
)  # fmt: skip
def test_bad_regions_and_options_raise(genome, regions, options, message):
    with pytest.raises(ValueError, match=message):
        read_regions(regions, genome, **options)


def test_an_unknown_letter_names_its_window(tmp_path):
    path = write(tmp_path / "iupac.fa", ">chr3\nACGTMACG\n")
    assert read_regions(bed(("chr3", 0, 4)), path)["sequence"].tolist() == ["ACGT"]
    with pytest.raises(ValueError, match="unknown base 'M' in sequence chr3:2-6 at position 2"):
        read_regions(bed(("chr3", 0, 4, "x", "-"), ("chr3", 2, 6, "y", "-")), path)


def test_the_index_is_made_once_and_made_again_after_a_change(genome):
    read_regions(bed(("chr1", 0, 5)), genome)
    index = genome.with_name("genome.fa.fai")
    assert index.exists()
    genome.write_text(">chr1\nTTTTTTTT\n")
    os.utime(index, (1, 1))
    assert read_regions(bed(("chr1", 0, 5)), genome)["sequence"].tolist() == ["TTTTT"]


A, B = "ACGTTGCAACGGATCCATTAGGCTAGGTAC", "TTGACCATGCAAGTCGATTCACGGATATCC"  # 30 bases each
BOTH = f">chr1\n{A}\n>chr2\n{B}\n"
WRAPPED = f">chr1\n{A[:15]}\n{A[15:]}\n>chr2\n{B[:15]}\n{B[15:]}\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BOTH, BOTH.replace("chr1", "chr1 another version")),
        (BOTH, f">chr2\n{B}\n>chr1\n{A}\n"),
        (BOTH, WRAPPED),
        (WRAPPED, f">chr1\n{A[:20]}\n{A[20:]}\n>chr2\n{B[:20]}\n{B[20:]}\n"),  # as many lines
        (f">chr2\n{B[:20]}\n", f">chr2\n{B}\n"),
        (f">chr2\n{B + A}\n", f">chr2\n{B}\n"),
        (f">chr1\n{A}\n", BOTH),
        (f">chr2\n{B}\n", BOTH),
        (BOTH, BOTH.replace("\n", "\r\n")),
        (BOTH, "; a comment\n" + BOTH),
    ],
)
def test_an_index_of_another_file_is_noticed_whatever_the_times(tmp_path, caplog, old, new):
    """As cp -p, rsync -t and unpacked archives leave it: the FASTA is older than the index."""
    path = tmp_path / "g.fa"
    for text in (old, new):
        path.write_bytes(text.encode())
        os.utime(path, (1e9, 1e9))
        name = "chr2" if text == new or "chr2" in old else "chr1"
        table = read_regions(bed((name, 8, 20)), path)
    assert table["sequence"].tolist() == [B[8:20]]
    assert [m.partition("g.fa.fai")[2] for m in caplog.messages] == [
        " did not fit its FASTA and was built anew"
    ]


@pytest.mark.parametrize(
    "text",
    [BOTH, WRAPPED, BOTH[:-1], BOTH.replace("\n", "\r\n"), BOTH.replace(">chr2", "\n>chr2 x"),
     BOTH.replace(">chr2", ">empty\n>chr2"), "; x\n" + BOTH + ">empty\n\n"],
)  # fmt: skip
def test_an_index_that_fits_is_kept(tmp_path, caplog, text):
    path = tmp_path / "g.fa"
    path.write_bytes(text.encode())
    for _ in range(2):
        assert read_regions(bed(("chr2", 8, 20)), path)["sequence"].tolist() == [B[8:20]]
    assert not caplog.messages


@pytest.mark.parametrize(
    "index", ["", "<html>", "chr1\t30\t6\t30\t31\n", "chr1\tx\t6\t30\t31\n", "chr1\t30\t6\t30\t31\n" * 2]
)  # fmt: skip
def test_an_index_that_is_none_is_built_anew(tmp_path, index):
    path = write(tmp_path / "g.fa", BOTH)
    write(tmp_path / "g.fa.fai", index)
    assert read_regions(bed(("chr2", 8, 20)), path)["sequence"].tolist() == [B[8:20]]


def test_an_index_that_does_not_fit_and_cannot_be_replaced_is_explained(tmp_path, monkeypatch):
    path = write(tmp_path / "g.fa", BOTH)
    write(tmp_path / "g.fa.fai", "")

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        PermissionError, match=r"g.fa has no current index, and .* cannot be written"
    ):
        read_regions(bed(("chr2", 8, 20)), path)


def test_an_index_that_fits_is_kept_though_it_is_older(tmp_path, caplog):
    path = write(tmp_path / "g.fa", BOTH)
    read_regions(bed(("chr2", 8, 20)), path)
    os.utime(tmp_path / "g.fa.fai", (1e9, 1e9))
    assert read_regions(bed(("chr2", 8, 20)), path)["sequence"].tolist() == [B[8:20]]
    assert (tmp_path / "g.fa.fai").stat().st_mtime == 1e9
    assert not caplog.messages


def test_lines_of_different_lengths_are_refused(tmp_path):
    path = write(tmp_path / "g.fa", f">chr1\n{A[:10]}\n{A[10:20]}\n{A}\n")
    with pytest.raises(ValueError, match=r"g.fa does not fit its index at chr1:5-45: lines of"):
        read_regions(bed(("chr1", 5, 45)), path)


def test_a_genome_of_another_form_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"g.fa begins with a byte order mark: save it"):
        read_regions(bed(("chr1", 0, 5)), write(tmp_path / "g.fa", "\ufeff" + BOTH))
    (tmp_path / "g.fa").write_bytes(gzip.compress(BOTH.encode()))
    with pytest.raises(ValueError, match=r"g.fa is compressed, which its name must say: unpack"):
        read_regions(bed(("chr1", 0, 5)), tmp_path / "g.fa")


def test_an_index_that_cannot_be_written_is_explained(genome):
    genome.with_name("genome.fa.fai").symlink_to(
        "/nonexistent/genome.fa.fai"
    )  # as a read-only folder
    with pytest.raises(
        PermissionError,
        match=r"genome.fa has no current index, and .*genome.fa.fai cannot be written: make it by 'samtools faidx', or link",
    ):
        read_regions(bed(("chr1", 0, 5)), genome)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nAC\nACGT\nAC\n", "cannot be indexed: Line length of fasta file is not consistent"),
        (">a\nAC\n>a\nAC\n", "cannot be indexed: Duplicate key"),
        ("ACGT\n", "cannot be indexed: Unexpected text before the first"),
    ],
)
def test_a_malformed_genome_is_explained(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_regions(bed(("a", 0, 1)), write(tmp_path / "bad.fa", text))


def test_a_compressed_genome_needs_biopython(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "Bio", None)
    with gzip.open(tmp_path / "genome.fa.gz", "wt") as file:
        file.write(">chr1\nACGT\n")
    with pytest.raises(ImportError, match="needs Biopython: pip install biopython, or unpack"):
        read_regions(bed(("chr1", 0, 4)), tmp_path / "genome.fa.gz")
