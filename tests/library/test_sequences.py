import numpy as np
import pytest
import torch

from deepmr_utils import sequences


def test_one_hot_is_n4l_in_acgt_order_with_zeros_for_n():
    x = sequences.one_hot(["ACGTN", "ttttt"])
    assert x.shape == (2, 4, 5)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x[0, :, :4], np.eye(4))
    assert (x[0, :, 4] == 0).all()
    assert (x[1, 3] == 1).all()
    assert x[1].sum() == 5


def test_encode_and_decode_are_inverse():
    texts = ["ACGTN", "GATTA"]
    assert sequences.decode(sequences.encode(texts)) == texts
    assert sequences.decode(sequences.base_codes(sequences.one_hot(texts))) == texts


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ACGT", "ACXT"], "unknown base 'X' in sequence 1 at position 2"),
        (["ACGT", "ACéT"], "unknown base 'é' in sequence 1 at position 2"),
        (["ACGT", "ACG"], "sequence 0 has 4 bases and sequence 1 has 3"),
        ([], "at least one sequence"),
    ],
)
def test_bad_sequences_raise(texts, message):
    with pytest.raises(ValueError, match=message):
        sequences.one_hot(texts)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((2, 5, 4), np.float32), ValueError, r"shape \(N, 4, L\).*; got \(2, 5, 4\): transpose"),
        (np.zeros((4, 5), np.float32), ValueError, r"shape \(N, 4, L\).*; got \(4, 5\)"),
        (np.zeros((0, 4, 5), np.float32), ValueError, r"a position at least; got \(0, 4, 5\)"),
        (np.zeros((2, 4, 5), complex), TypeError, "got ndarray of complex128"),
        (torch.zeros(2, 4, 5, dtype=torch.cfloat), TypeError, "got Tensor of torch.complex64"),
        (["ACGT"], TypeError, "got list of no numbers: encode strings"),
        (np.array(["ACGT"]), TypeError, "got ndarray of <U4: encode strings"),
        (np.ma.zeros((1, 4, 2)), TypeError, "got MaskedArray of float64"),
        (np.zeros((4, 7), np.float32), ValueError, r"\(4, 7\): a single sequence is one_hot\[None\]"),
        (np.zeros((7, 4)), ValueError, r"\(7, 4\): a single sequence is one_hot.T\[None\]"),
        (np.zeros((2, 4, 0)), ValueError, r"at least; got \(2, 4, 0\)"),
        (torch.zeros(2, 4, 3, device="meta"), TypeError, "on meta"),
        (np.full((1, 4, 2), [[255], [0], [0], [0]]), ValueError, r"holds \[255.0, 0.0, 0.0, 0.0\]"),
        (np.full((1, 4, 2), [[0.997], [0], [0], [0]]), ValueError, "sequence 0, position 0 holds"),
        (np.full((1, 4, 2), [[1.0], [-0.002], [0], [0]]), ValueError, "sequence 0, position 0 holds"),
        (np.full((1, 4, 2), 0.2, np.float32), ValueError, "sequence 0, position 0 holds"),
        (np.full((1, 4, 2), np.nan, np.float32), ValueError, "sequence 0, position 0 holds"),
        (np.ones((1, 4, 2), np.float32), ValueError, "probabilities of A, C, G, T that sum to 1"),
    ],
)  # fmt: skip
def test_bad_one_hot_raises(array, error, message):
    with pytest.raises(error, match=message):
        sequences.check_one_hot(array)


EXACT = sequences.one_hot(["GATTACANA", "TTTTNACGC"])


@pytest.mark.parametrize(
    "given",
    [
        EXACT.numpy().astype(">f4"),
        EXACT.numpy()[:, ::-1, ::-1][:, ::-1, ::-1],
        EXACT.numpy().astype(np.uint8),
        EXACT.numpy().astype(np.float16),
        EXACT.bool(),
        EXACT.bfloat16(),
        EXACT.to_sparse(),
        EXACT.clone().requires_grad_(),
        EXACT * 0.9992,
        (EXACT + 2.4e-4) / (1 + 4 * 2.4e-4),
        EXACT - 1e-7,
    ],
    ids=lambda x: f"{type(x).__module__}-{x.dtype}",
)
def test_numbers_of_any_kind_become_exact_one_hot(given):
    got = sequences.check_one_hot(given)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert torch.equal(got, EXACT)
    assert not torch.signbit(got).any()


def test_one_hot_that_needs_no_change_is_not_copied():
    for x in (EXACT, EXACT.double(), EXACT.numpy()):
        got = sequences.check_one_hot(x)
        address = x.data_ptr() if isinstance(x, torch.Tensor) else x.ctypes.data
        assert got.data_ptr() == address
        assert str(got.dtype).endswith(str(x.dtype).removeprefix("torch."))
    fixed = EXACT.numpy().copy()
    fixed.flags.writeable = False  # torch has no such tensors
    assert sequences.check_one_hot(fixed).data_ptr() != fixed.ctypes.data


@pytest.mark.parametrize("kind", [str, np.str_, object, "S4"])
def test_arrays_of_strings(kind):
    expected = sequences.one_hot(["ACGT", "TTNA"])
    assert torch.equal(sequences.one_hot(np.array(["ACGT", "TTNA"], dtype=kind)), expected)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("ACGT", TypeError, "got a single string: put it in a list"),
        ([["A", "C"]], TypeError, "sequence 0 is .* join letters"),
        (["A", None], TypeError, "sequence 1 is None"),
        (["A", np.nan], TypeError, r"sequence 1 is nan \(float\)"),
        (np.array([[0, 5]]), ValueError, "sequence 0, position 1 holds 5"),
        (np.array([[0, -1]]), ValueError, "0 to 3 for A, C, G, T or 4 for N"),
        (np.array([[0.5, 1]]), ValueError, r"codes must be integers \(N, L\).*; got float64 \(1, 2\)"),
        (np.array([0, 1]), ValueError, r"got int64 \(2,\)"),
    ],
)  # fmt: skip
def test_bad_letters_and_codes_raise(given, error, message):
    for function in (sequences.one_hot, *([sequences.check_letters] if error is TypeError else [])):
        with pytest.raises(error, match=message):
            function(given)


def test_soft_columns_are_sequences_with_unknown_bases():
    soft = sequences.one_hot(["ACGT"])
    soft[0, :, 1] = 0.25
    soft[0, :, 2] = torch.tensor([0.1, 0.9, 0, 0])
    assert sequences.decode(sequences.base_codes(sequences.check_one_hot(soft))) == ["ANNT"]


def test_letters_of_sequences_of_any_length_are_checked():
    assert sequences.check_letters(["acgN", "T", ""]) == ["ACGN", "T", ""]
    with pytest.raises(ValueError, match="unknown base 'U' in sequence 1 at position 0"):
        sequences.check_letters(["ACG", "UA"])
    with pytest.raises(ValueError, match="unknown base 'R' in sequence b at position 1"):
        sequences.check_letters(["ACG", "AR"], ["a", "b"])


def test_reverse_complement_flips_both_axes_of_one_hot():
    assert sequences.reverse_complement("ACGTTN") == "NAACGT"
    forward, reverse = sequences.one_hot(["GATTN", sequences.reverse_complement("GATTN")])
    assert torch.equal(forward.flip(0, 1), reverse)
