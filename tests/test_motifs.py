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
    with pytest.raises(ValueError, match="unknown motif 'GATA': the shipped motifs are GATA_disc1"):
        motifs.get_motif("GATA")
    with pytest.raises(ValueError, match=r"motif \(10 bp\) is longer than the sequences \(4 bp\)"):
        motifs.match_scores(one_hot(["ACGT"]), motifs.log_odds(motifs.get_motif("Klf4")))
    with pytest.raises(ValueError, match=r"must sum to 1; the sum is 1\.1"):
        motifs.log_odds(motifs.get_motif("Klf4"), (0.3, 0.3, 0.3, 0.2))
    with pytest.raises(ValueError, match="must be 0 or more"):
        motifs.check_probabilities((0.5, 0.6, -0.1, 0.0), "p")
    path = tmp_path / "bad.meme"
    path.write_text("MOTIF one\nletter-probability matrix: w= 2\n0.5 0.5 0 0\n")
    with pytest.raises(ValueError, match="motif one should have 2 rows"):
        motifs.read_meme(path)
    path.write_text("MOTIF one\nletter-probability matrix: w= 1\n0.5 0.4 0 0\n")
    with pytest.raises(ValueError, match=r"sum in row 0 is 0\.9"):
        motifs.read_meme(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="no motif"):
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
    with pytest.raises(ValueError, match=r"p is a probability, in \(0, 1\); got 0"):
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
