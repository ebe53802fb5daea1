"""Networks of all sources, and two strands of one network as readings of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deepmr_utils.models.bpnet import BPNet
from deepmr_utils.predict import predict
from deepmr_utils.sequences import one_hot
from experiments.binding import genome, one_genome, sources

RANDOM = Path(__file__).parents[1] / "reference" / "models" / "bpnet" / "bpnet_oskn_random.h5"
SMALL = genome.Parameters(n_windows=190, length=120, margin=5)


def test_every_source_opens(tmp_path):
    demo = sources.open_source("demo", tmp_path / "a", parameters=SMALL)
    assert len(demo.members) == 3
    assert demo.parameters is SMALL
    again = sources.open_source(
        "published", tmp_path / "b", weights=RANDOM, parameters=SMALL, seed=2
    )
    assert len(again.members) == 1
    assert again.members[0].control_profile.shape == (4, 4)
    assert again.parameters is None  # it never saw the planted graph
    one_genome.save_members(tmp_path / "mine.pt", demo.members[:2], one_genome.SHIPPED)
    spec = tmp_path / "b" / "dataspec.yml"
    mine = sources.open_source("path", tmp_path, weights=tmp_path / "mine.pt", specification=spec)
    assert len(mine.members) == 2
    assert mine.spec == again.spec
    assert mine.sites is None
    with pytest.raises(ValueError, match="unknown source 'kipoi': choose one of demo, published"):
        sources.open_source("kipoi", tmp_path)
    with pytest.raises(ValueError, match="source 'path' needs weights and a specification"):
        sources.open_source("path", tmp_path, weights=RANDOM)


def test_both_strands_are_two_readings():
    """Brute force: one mutant, predicted as it is and as its reverse complement."""
    torch.manual_seed(0)
    model = BPNet(filters=4, layers=2).eval()
    rng = np.random.default_rng(0)
    windows = pd.DataFrame({
        "sequence_id": ["a", "b"], "sequence": ["".join(rng.choice(list("ACGT"), 60)) for _ in "ab"],
    })  # fmt: skip
    effects = sources.mutate([model], windows)
    assert effects.attrs["doubt"] == "strands"
    reference = windows["sequence"][1]
    new = "A" if reference[10] != "A" else "C"
    x = one_hot([reference, reference[:10] + new + reference[11:]])
    there, back = predict([model], x)[0], predict([model], x.flip(1, 2))[0]
    expected = np.stack([there[1] - there[0], back[1] - back[0]])
    got = effects.sel(sequence="b", position=10, allele=new)
    np.testing.assert_allclose(got["member_effect"], expected, atol=2e-6)
    np.testing.assert_allclose(got["effect"], expected.mean(0), atol=2e-6)
    np.testing.assert_allclose(got["se"], expected.std(0, ddof=1), atol=2e-6)
    middle = (there[0] + back[0]) / 2
    np.testing.assert_allclose(effects["reference_prediction"].sel(sequence="b"), middle, atol=2e-6)
    both = sources.mutate([model, model], windows)
    assert both.attrs["doubt"] == "members"


def test_both_strands_of_a_knocked_out_site():
    torch.manual_seed(0)
    model = BPNet(filters=4, layers=2).eval()
    text = "ACGTTGCA" * 8
    windows = pd.DataFrame({"sequence_id": ["a"], "sequence": [text]})
    sites = pd.DataFrame({"sequence_id": ["a"], "factor": ["Sox2"], "start": [20], "end": [30]})
    effects = sources.knock_out([model], windows, sites)
    new = effects["replacement"].to_numpy()[0]
    x = one_hot([text, text[:20] + new + text[30:]])
    expected = [np.diff(predict([model], one)[0], axis=0)[0] for one in (x, x.flip(1, 2))]
    np.testing.assert_allclose(effects["member_effect"][:, 0], expected, atol=2e-6)
    assert sources.knock_out([model, model], windows, sites).sizes["member"] == 2


def test_published_effects_are_as_printed():
    table = sources.published_effects()
    assert len(table) == 48
    row = table.query("exposure == 'Sox2' and outcome == 'Oct4' and bin == '(150, 1000]'").iloc[0]
    assert (row["effect"], row["tau"]) == (1.16479, 0.427241135705162)
    np.testing.assert_allclose(row["upper"] - row["effect"], 1.959964 * row["se"], rtol=1e-5)
