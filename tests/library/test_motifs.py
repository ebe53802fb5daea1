import numpy as np
import pytest
import torch

from deepmr_utils import motifs
from deepmr_utils.sequences import one_hot

BACKGROUND = (0.27, 0.23, 0.23, 0.27)


def test_shipped_motifs_have_the_stated_widths_and_consensus():
    shipped = motifs.shipped_motifs()
    assert {n: m.width for n, m in shipped.items()} == {
        "GATA_disc1": 10,
        "TAL1_known1": 16,
        "SOX2_1": 15,
        "Sox2_core": 8,
        "Oct4_core": 8,
        "Nanog": 12,
        "Klf4": 10,
    }
    assert shipped["Oct4_core"].consensus == "ATTTGCAT"
    assert shipped["GATA_disc1"].consensus[2:8] == "AGATAA"


def test_match_score_by_hand():
    # two positions, computed with a pocket calculator: log(p / b) after the pseudocount
    motif = motifs.Motif("toy", np.array([[1.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]]))
    weights = motifs.log_odds(motif, BACKGROUND, pseudocount=1e-5)
    total = 1 + 4e-5
    expected = [
        np.log((1 + 1e-5) / total / 0.27) + np.log((0.4 + 1e-5) / total / 0.27),  # A T
        np.log(1e-5 / total / 0.27) + np.log((0.3 + 1e-5) / total / 0.23),  # T G
    ]
    scores = motifs.match_scores(one_hot(["ATG"], torch.float64), weights)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-12)


def test_occupancy_is_one_minus_the_product_of_misses():
    motif = motifs.get_motif("GATA_disc1")
    weights = motifs.log_odds(motif, BACKGROUND)
    x = one_hot(["ACGTTAGATAAGACCTAGATAAGC", "A" * 24], torch.float64)
    scores = motifs.match_scores(x, weights).numpy()
    g = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(motifs.occupancy(x, weights), 1 - np.prod(1 - g, 1), atol=1e-12)


def test_unknown_bases_score_zero():
    weights = motifs.log_odds(motifs.get_motif("Klf4"))
    assert (motifs.match_scores(one_hot(["N" * 12], torch.float64), weights) == 0).all()


def test_bad_motifs_raise(tmp_path):
    with pytest.raises(ValueError, match="unknown motif 'GATA': choose one of GATA_disc1"):
        motifs.get_motif("GATA")
    with pytest.raises(ValueError, match=r"motif \(10 bp\) is longer than the sequences \(4 bp\)"):
        motifs.match_scores(one_hot(["ACGT"]), motifs.log_odds(motifs.get_motif("Klf4")))
    with pytest.raises(ValueError, match=r"must sum to 1; the sum is 1\.1"):
        motifs.log_odds(motifs.get_motif("Klf4"), (0.3, 0.3, 0.3, 0.2))
    with pytest.raises(ValueError, match="must be 0 or more"):
        motifs.check_probabilities((0.5, 0.6, -0.1, 0.0), "p")
    path = tmp_path / "bad.meme"
    path.write_text("MOTIF one\nletter-probability matrix: w= 2\n0.5 0.5 0 0\n")
    with pytest.raises(ValueError, match=r"motif one needs w= rows .*; got 1 rows after .* w= 2"):
        motifs.read_meme(path)
    path.write_text("MOTIF one\nletter-probability matrix: w= 1\n0.5 0.4 0 0\n")
    with pytest.raises(ValueError, match=r"row 0 of motif one must sum to 1; the sum is 0\.9"):
        motifs.read_meme(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="no motif"):
        motifs.read_meme(path)


HEAD = "MEME version 4\n\nALPHABET= ACGT\n\nMOTIF a\n"
MATRIX = "letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0\n"
ROWS = " 0.7 0.1 0.1 0.1\n 0.1 0.2 0.6 0.1\n 0.1 0.1 0.3 0.5\n"
ODDS = "log-odds matrix: alength= 4 w= 3 n= 9 bayes= 2 E= 1\n" + " 100 -20 -30 -40\n" * 3


@pytest.mark.parametrize(
    "text",
    [
        HEAD + MATRIX + ROWS,
        HEAD + MATRIX.replace("w= 3", "") + ROWS,
        HEAD + "letter-probability matrix:\n" + ROWS + "URL http://x.y/3\n\n",
        HEAD + MATRIX.replace("= ", "=") + ROWS,
        HEAD + MATRIX + "\n\n" + ROWS,
        HEAD + MATRIX + ROWS.replace("\n", "\n\n"),
        (HEAD + MATRIX + ROWS).replace("\n", "\r\n"),
        "\ufeff" + HEAD[HEAD.index("MOTIF") :].replace("a", "a other") + MATRIX + ROWS,
        HEAD + ODDS + MATRIX + ROWS,
        HEAD + MATRIX.replace("w= 3", "") + ROWS + ODDS,
        HEAD.replace("MOTIF", "strands: + -\nBackground\nA 0.2 C 0.3 G 0.3 T 0.2\nMOTIF") + MATRIX + ROWS,
        (HEAD.replace("ACGT", "ACGU") + MATRIX + ROWS).replace(" ", "\t"),
    ],
)  # fmt: skip
def test_meme_files_of_all_makes_are_read_alike(tmp_path, text):
    path = tmp_path / "m.meme"
    path.write_bytes((text + "MOTIF NA\n" + MATRIX.replace("w= 3", "w= 1") + " 0 0 0 1\n").encode())
    found = motifs.read_meme(path)
    assert list(found) == ["a", "NA"]
    expected = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.1, 0.1, 0.3, 0.5]]
    np.testing.assert_allclose(found["a"].probabilities, expected, rtol=1e-12)
    assert found["NA"].consensus == "T"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + MATRIX + ROWS + HEAD[HEAD.index("MOTIF") :] + MATRIX + ROWS, "line 10: motif a occurs a second time"),
        (HEAD + MATRIX.replace("= 4", "= 20") + ROWS, "line 6: motif a needs .* alength= 4 numbers, .*alength= 20"),
        (HEAD.replace("ACGT", "ACDEFGHIKLMNPQRSTVWY") + MATRIX + ROWS, "line 3: motifs must be of the letters ACGT"),
        ("MOTIF\n" + MATRIX + ROWS, "line 1: a motif needs a name; got 'MOTIF'"),
        (MATRIX + ROWS, "line 1: a matrix needs a line 'MOTIF name' before it"),
        (HEAD + "MOTIF b\n" + MATRIX + ROWS, "line 5: motif a needs one letter-probability matrix; got 0"),
        (HEAD + ODDS, "line 5: motif a needs one letter-probability matrix; got 0"),
        (HEAD + MATRIX + ROWS + MATRIX + ROWS, "line 5: motif a needs one .*; got 2"),
        (HEAD + MATRIX + ROWS[:34], "line 6: motif a needs w= rows .*; got 2 rows after .* w= 3"),
        (HEAD + MATRIX + ROWS + " 0 0 0 1\n", "line 6: motif a needs w= rows .*; got 4 rows after .* w= 3"),
        (HEAD + MATRIX.replace("w= 3", "w= x") + ROWS, "line 6: motif a needs w= rows .*; got 3 rows after .* w= x"),
        (HEAD + MATRIX.replace("w= 3", ""), "line 6: motif a needs w= rows .*; got 0 rows"),
        (HEAD + MATRIX + ROWS.replace("0.6", "0.5"), r"line 8: row 1 of motif a must sum to 1; the sum is 0\.9"),
        (HEAD + MATRIX + ROWS.replace("0.6", "nan"), "line 8: row 1 of motif a must be 0 or more"),
        (HEAD + MATRIX + ROWS.replace("0.2 0.6", "-0.2 1"), "line 8: row 1 of motif a must be 0 or more"),
        (HEAD + MATRIX + ROWS.replace("0.2 0.6", "0.8"), "line 8: row 1 of motif a should have 4 numbers; got '0.1 0.8 0.1'"),
        (HEAD + "letter-probability matrix:\n" + ROWS.replace(" 0.1 0.2", "x 0.2"), "line 8: row 1 of motif a should have 4"),
    ],
)  # fmt: skip
def test_a_wrong_meme_file_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "m.meme"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"m\.meme, {message}"):
        motifs.read_meme(path)


def test_a_meme_file_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "m.meme"
    path.write_bytes((HEAD.replace("MOTIF a", "MOTIF \xe9") + MATRIX + ROWS).encode("latin-1"))
    with pytest.raises(ValueError, match=r"m.meme, line 5: the text must be UTF-8"):
        motifs.read_meme(path)


def test_the_threshold_is_that_of_all_words():
    """Brute force over the 65,536 words of 8 bases."""
    for p in (1e-3, 5e-4, 0.2):
        weights = motifs.log_odds(motifs.get_motif("Sox2_core"))
        words = np.indices((4,) * 8).reshape(8, -1)
        scores = weights[np.arange(8)[:, None], words].sum(0)
        threshold = motifs.match_threshold(weights, p)
        assert (scores >= threshold).mean() <= p + 2e-5  # scores are rounded to hundredths
        assert (scores >= threshold - 0.1).mean() > p - 2e-5
    with pytest.raises(ValueError, match="p must lie between 0 and 1, both excluded; got 0"):
        motifs.match_threshold(weights, 0)


def test_instances_are_found_where_they_were_written():
    motif = motifs.get_motif("Sox2_core")
    word = motif.consensus
    turned = word[::-1].translate(str.maketrans("ACGT", "TGCA"))
    sequence = "A" * 10 + word + "C" * 20 + turned + "A" * 6
    table = motifs.find_instances(one_hot([sequence, "A" * 52]), ["s", "t"], {"Sox2": motif})
    assert table[["sequence_id", "factor", "start", "end", "strand"]].to_numpy().tolist() == [
        ["s", "Sox2", 10, 18, "+"],
        ["s", "Sox2", 38, 46, "-"],
    ]
    best = motifs.log_odds(motif).max(1).sum()
    np.testing.assert_allclose(table["score"], best)
