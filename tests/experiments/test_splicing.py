"""CI-SpliceAI in PyTorch against what TensorFlow gave for the published graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepmr_utils import one_hot
from experiments.splicing import network
from experiments.splicing.network import CONTEXT, ReadOut, SpliceNetwork, load_ensemble

GOLDEN = Path(__file__).parents[1] / "reference/models/cispliceai.npz"


@pytest.fixture(scope="module")
def members():
    return load_ensemble()


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def logits(members, sequence):
    with torch.no_grad():
        return np.stack([m(one_hot([str(sequence)]))[0].T.numpy() for m in members])


@pytest.mark.parametrize("name", ["real_2", "npad"])
def test_logits_are_those_of_tensorflow(members, golden, name):
    got = logits(members, golden[f"{name}.sequence"])
    # 1.3e-5 seen between frameworks; a wrong epsilon of batch norm gives 0.16
    np.testing.assert_allclose(got, golden[f"{name}.logits"], rtol=0, atol=1e-4)


def test_the_epsilon_of_batch_norm_is_seen(golden, monkeypatch):
    monkeypatch.setattr(network, "EPSILON", 1e-5)
    got = logits(load_ensemble()[:1], golden["real_2.sequence"])
    assert np.abs(got - golden["real_2.logits"][:1]).max() > 0.02


def test_members_are_five_different_networks(members):
    assert len(members) == 5
    weights = [m.blocks[15].conv2.weight.flatten() for m in members]
    for i, one in enumerate(weights):
        assert all(not torch.equal(one, other) for other in weights[:i])
    assert sum(p.numel() for p in SpliceNetwork().parameters()) == 698_787 - 32 * 2 * 32


def test_read_outs_are_log_odds_at_their_bases(members, golden):
    sequence = str(golden["real_2.sequence"])
    given = golden["real_2.logits"][0].astype(float)
    acceptor, donor = (int(golden[f"real_2.{k}"]) for k in ("acceptor", "donor"))
    read = ReadOut(members[0], [("acceptor", acceptor), ("donor", donor)])
    with torch.no_grad():
        got = read(one_hot([sequence]))[0].numpy()
    rows = [given[position - CONTEXT] for position in (acceptor, donor)]
    share = [np.exp(r) / np.exp(r).sum() for r in rows]
    expected = [np.log(p[k] / (1 - p[k])) for p, k in zip(share, (1, 2), strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert (got > 0).all()  # both sites are annotated


def test_a_prediction_reads_5000_bases_at_either_side(members, golden):
    sequence = str(golden["real_2.sequence"])
    acceptor = int(golden["real_2.acceptor"])
    read = ReadOut(members[0], [("acceptor", acceptor)])
    other = dict(zip("ACGT", "TGCA", strict=True))

    def changed(position):
        text = sequence[:position] + other[sequence[position]] + sequence[position + 1 :]
        with torch.no_grad():
            return read(one_hot([sequence, text])).diff(dim=0).item()

    assert changed(acceptor + CONTEXT + 1) == 0
    assert changed(acceptor - 2) < -5  # the A of its AG


def test_bases_alone_are_predicted_as_among_others(members, golden):
    x = one_hot([str(golden["npad.sequence"])])
    bases = [CONTEXT, CONTEXT + 123, x.shape[2] - CONTEXT - 1]
    for member in members[:2]:
        with torch.no_grad():
            every, some = member(x), member.at(x, bases)
        for base, logits in zip(bases, some, strict=True):
            np.testing.assert_allclose(logits, every[:, :, base - CONTEXT], rtol=0, atol=2e-5)
