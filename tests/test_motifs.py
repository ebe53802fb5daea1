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
