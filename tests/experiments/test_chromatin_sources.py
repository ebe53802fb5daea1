"""What the DeepSEA notebook analyses: the demo and published weights, by index."""

from pathlib import Path

import numpy as np
import pytest

from deepmr_utils import models
from deepmr_utils.predict import predict
from deepmr_utils.sequences import decode, one_hot
from experiments.chromatin import simulated, sources

WEIGHTS = Path(__file__).parents[1] / "reference/models/deepsea/deepsea_predict_small.pth"
TARGETS = ["DNase", "CTCF", "FOXA1", "FOXA1", "H3K27ac"]


@pytest.fixture
def files(tmp_path):
    """Names for the 46 outputs of a network of few channels, and windows."""
    lines = [f"HepG2|{target}|None" for target in TARGETS] + ["K562|CTCF|None"] * 41
    (tmp_path / "names").write_text("\n".join(lines))
    codes = np.random.default_rng(0).integers(0, 4, (6, 1000)).astype(np.uint8)
    records = [f">w{i}\n{text}\n" for i, text in enumerate(decode(codes))]
    (tmp_path / "windows.fa").write_text("".join(records))
    return {"sequences": tmp_path / "windows.fa", "names": tmp_path / "names"}, codes


def test_the_demo_has_bound_windows_of_every_factor():
    data = sources.demo(3, n_test=200)
    assert set(data.bound) == set(simulated.FACTORS)
    rows = data.windows.set_index("sequence_id")
    assert all((rows.loc[ids, factor] == 1).all() for factor, ids in data.bound.items())
    assert all(len(ids) == 3 for ids in data.bound.values())


def test_only_windows_with_labels_calibrate():
    sources.check_labels("demo", True)
    sources.check_labels("published", False)
    with pytest.raises(ValueError, match="needs labels, which windows of source 'path' lack"):
        sources.check_labels("path", True)


def test_published_weights_are_taken_by_index(files):
    names, codes = files
    data = sources.published(2, weights=WEIGHTS, **names)
    assert data.outcome == "0 HepG2 DNase"
    assert list(data.bound) == ["1 HepG2 CTCF", "2 HepG2 FOXA1", "3 HepG2 FOXA1"]
    assert dict(data.features) == {**{n: int(n[0]) for n in data.bound}, "0 HepG2 DNase": 0}
    network = models.load_deepsea(WEIGHTS, output="logit", both_strands=False)
    logits = predict(network, one_hot(codes))[0]
    for name, ids in data.bound.items():
        best = np.argsort(-logits[:, int(name[0])])[:2]
        assert set(ids) == {f"w{i}" for i in best}


def test_factors_and_outcome_by_index(files):
    data = sources.published(
        2, weights=WEIGHTS, outcome="4", factors=(3, 1), **files[0]
    )  # fmt: skip
    assert data.outcome == "4 HepG2 H3K27ac"
    assert list(data.bound) == ["1 HepG2 CTCF", "3 HepG2 FOXA1"]


def test_an_ambiguous_outcome_is_refused(files):
    with pytest.raises(ValueError, match=r"2 HepG2 FOXA1; 3 HepG2 FOXA1.*by index"):
        sources.published(2, weights=WEIGHTS, outcome="FOXA1", **files[0])
