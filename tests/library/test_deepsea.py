"""DeepSEA and Beluga: readers against the original architectures, mutagenesis, and bad files."""

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepmr_utils import instruments, models, mr, predict
from deepmr_utils.mutagenesis import saturation_mutagenesis

FOLDER = Path(__file__).parents[1] / "reference" / "models" / "deepsea"
PREDICT, BELUGA = FOLDER / "deepsea_predict_small.pth", FOLDER / "deepsea_beluga_small_zip.pth"
# float32 sums in another order: the golden values themselves are up to 9e-7 (small networks) and
# 1.1e-6 (full size) from float64, and the original layers come out 2.3e-6 from them here as ours do
OTHER_ORDER = 4e-6
FLOAT32_LOGITS = 2e-5  # 1.1e-5 seen, of logits up to 7
LOADERS = {"deepsea": (models.load_deepsea, PREDICT), "beluga": (models.load_beluga, BELUGA)}


def load_npz(name):
    with np.load(FOLDER / name) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def golden():
    arrays = load_npz("deepsea_small.golden.npz")
    arrays["one_hot"] = torch.tensor(arrays["one_hot"]).float() / 4  # stored in quarters
    arrays["beluga_one_hot"] = torch.tensor(arrays["beluga_one_hot"]).float()
    return arrays


@pytest.fixture
def variant_effects(tmp_path):
    """The other published layout: the same numbers under another prefix."""
    path = tmp_path / "deepsea_variant_effects.pth"
    state = {f"1{key[1:]}": value for key, value in torch.load(PREDICT).items()}
    state = collections.OrderedDict(state)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def close(given, expected, tolerance):
    np.testing.assert_allclose(given, expected, atol=tolerance, rtol=0)


def run(network, x):
    with torch.inference_mode():
        return network(x)


def test_both_files_give_what_their_networks_give(golden, variant_effects, device):
    x = golden["one_hot"]
    forward = golden["variant_effects_logits_f64"]
    exact = {"variant_effects": 1 / (1 + np.exp(-forward))}
    for path, name in ((variant_effects, "variant_effects"), (PREDICT, "predict")):
        network = models.load_deepsea(path)
        assert not network.training
        close(predict.predict(network, x, device=device)[0], golden[name], OTHER_ORDER)
        # in float32 every processor rounds in its own way, so that the exact test is in float64
        given = predict.predict(network.double(), x.double(), device=device)[0]
        if name == "predict":
            other = models.load_deepsea(variant_effects).double()
            exact[name] = (exact["variant_effects"] + run(other, x.flip(1, 2).double()).numpy()) / 2
            close(run(other, x.flip(1, 2).double()), golden["variant_effects_of_rc"], OTHER_ORDER)
        close(given, exact[name], 1e-12)
    # one strand or both, whatever the file
    for path, both in ((PREDICT, False), (variant_effects, True)):
        other = models.load_deepsea(path, both_strands=both).double()
        close(run(other, x.double()), exact["predict" if both else "variant_effects"], 1e-12)


def test_logits_in_float64_tell_the_threshold_from_a_rectifier(golden, variant_effects):
    network = models.load_deepsea(variant_effects, output="logit")
    close(run(network, golden["one_hot"]), golden["variant_effects_logits_f64"], FLOAT32_LOGITS)
    exact = golden["variant_effects_logits_f64"]
    given = run(network.double(), golden["one_hot"].double())
    close(given, exact, 1e-12)
    network.apply(lambda m: m.__dict__.update(value=0.0) if isinstance(m, nn.Threshold) else None)
    rectified = run(network, golden["one_hot"].double())
    close(rectified.sigmoid(), golden["relu_instead_of_threshold"], 2e-6)  # that is float32
    assert (rectified - given).abs().max() > 1e-6


def test_logits_of_both_strands_are_of_the_mean_probability(golden):
    x = golden["one_hot"].double()
    double = models.load_deepsea(PREDICT, output="logit").double()
    close(run(double, x).sigmoid(), golden["predict"], OTHER_ORDER)
    probability = models.load_deepsea(PREDICT).double()
    close(run(double, x), run(probability, x).logit(), 1e-10)
    extreme = models.DeepSEA(
        1, 200, channels=(2, 2, 2), hidden=2, both_strands=True, output="logit"
    )
    nn.init.constant_(extreme.dense[-1].bias, 300.0)
    assert run(extreme, torch.zeros(1, 4, 200)).isfinite().all()


def test_beluga_gives_what_its_network_gives(golden, tmp_path, device):
    old, x = tmp_path / "old.pth", golden["beluga_one_hot"]
    torch.save(torch.load(BELUGA), old, _use_new_zipfile_serialization=False)
    for path in (BELUGA, old):
        network = models.load_beluga(path)
        assert not network.training
        close(predict.predict(network, x, device=device)[0], golden["beluga"], OTHER_ORDER)
        exact = predict.predict(network.double(), x.double(), device=device)[0]
        close(exact, golden["beluga"], 1e-6)  # that is float32; 8e-7 seen
        logits = run(models.load_beluga(path, output="logit"), x)
        close(logits, golden["beluga_logits"], FLOAT32_LOGITS)
    both, x = models.load_beluga(BELUGA, both_strands=True).double(), x.double()
    close(run(both, x), (run(network, x) + run(network, x.flip(1, 2))) / 2, 1e-12)


def test_sizes_of_the_published_networks():
    with torch.device("meta"):
        networks = models.DeepSEA(), models.Beluga()
    assert [sum(p.numel() for p in n.parameters()) for n in networks] == [52_843_119, 149_536_251]
    shape = [tuple(network.dense[1].weight.shape) for network in networks]
    assert shape == [(925, 50_880), (2003, 67_840)]
    dropout = [[m.p for m in n.modules() if isinstance(m, nn.Dropout)] for n in networks]
    assert dropout == [[0.2, 0.2, 0.5]] * 2
    order = ["".join(type(m).__name__[0] for m in network.convolutions) for network in networks]
    assert order == ["CTMDCTMDCTD", "CRCRDMCRCRDMCRCRD"]  # dropout behind, or before, the maximum


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("strands", ["one", "both"])
@pytest.mark.parametrize("members", ["network", "dropout"])
def test_mutagenesis_propagates(golden, caplog, name, strands, members, device):
    load, path = LOADERS[name]
    one = load(path, both_strands=False)
    x = golden["one_hot" if name == "deepsea" else "beluga_one_hot"][:2]
    length = x.shape[2]
    where = {"positions": np.r_[0:4, 480:490, length - 4 : length], "device": device}
    used = one if members == "network" else predict.MCDropout(one, 2)
    options = {**where, "strands": "mean" if strands == "both" else "forward"}
    fast = saturation_mutagenesis(used, x, **options)
    assert "predicted in full" not in caplog.text
    if strands == "both" and members == "network":  # the module that takes both strands itself
        used, options = load(path, both_strands=True), where
    full = saturation_mutagenesis(used, x, propagate=False, **options)
    scale = 1e-5 * np.abs(full["reference_prediction"]).max().item()
    np.testing.assert_allclose(fast["effect"], full["effect"], atol=scale, rtol=0)
    assert np.abs(full["effect"]).max() > 10 * scale
    if members == "dropout":
        assert (fast["se"] > 0).any()


def test_stored_effects_of_another_scale_are_not_taken_for_these(golden, tmp_path):
    x, where = golden["one_hot"][:1], {"positions": [500], "device": "cpu"}
    store = tmp_path / "effects"
    saturation_mutagenesis(models.load_deepsea(PREDICT), x, store=store, **where)
    for options in ({"output": "logit"}, {"both_strands": False}):
        with pytest.raises(FileExistsError):
            saturation_mutagenesis(models.load_deepsea(PREDICT, **options), x, store=store, **where)


def test_a_saved_state_keeps_the_scale_of_the_network_that_reads_it(tmp_path):
    sizes = {"n_features": 3, "length": 200, "channels": (2, 3, 4), "hidden": 5}
    mine, theirs = models.DeepSEA(**sizes), models.DeepSEA(**sizes, output="logit")
    torch.save(theirs.state_dict(), tmp_path / "state.pth")
    mine.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    x = torch.rand(2, 4, 200)
    assert torch.equal(run(mine.eval(), x), run(theirs.eval(), x).sigmoid())


def test_names_lengths_and_scales_are_checked():
    names = [f"{i} {label}" for i, label in enumerate(["HepG2|CTCF|None"] * 46)]
    network = models.load_deepsea(PREDICT, feature_names=names)
    assert network.feature_names == tuple(names)
    with pytest.raises(ValueError, match="46 distinct names; got 46, 1 of them distinct"):
        models.load_deepsea(PREDICT, feature_names=["HepG2|CTCF|None"] * 46)
    with pytest.raises(ValueError, match="takes sequences of 1000 bp; got 900 bp"):
        network(torch.zeros(1, 4, 900))
    with pytest.raises(ValueError, match="needs longer sequences; got length 30"):
        models.DeepSEA(length=30)
    with pytest.raises(ValueError, match="Beluga needs longer sequences; got length 300"):
        models.Beluga(length=300)
    with pytest.raises(ValueError, match="unknown output 'odds': choose one of probability, logit"):
        models.load_deepsea(PREDICT, output="odds")


def test_a_missing_file_is_missing(tmp_path):
    for load, _ in LOADERS.values():
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nothing.pth")


@pytest.mark.parametrize("share", [0, 1e-5, 0.001, 0.3, 0.99999])
@pytest.mark.parametrize("zipped", [False, True])  # the old and the present format of PyTorch
def test_a_truncated_file_is_refused(tmp_path, zipped, share):
    cut = tmp_path / "cut.pth"
    torch.save(torch.load(PREDICT), cut, _use_new_zipfile_serialization=zipped)
    assert models.load_deepsea(cut).both_strands
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut\.pth is not a whole file of PyTorch .* cut short"):
        models.load_deepsea(cut)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("malicious",)


@pytest.mark.parametrize("form", ["pickle", "zip", "old", "module"])
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    content = nn.Linear(2, 2) if form == "module" else {**torch.load(PREDICT), "0": Malicious()}
    if form == "pickle":
        Path("bad.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, "bad.pth", _use_new_zipfile_serialization=form != "old")
    with pytest.raises(ValueError, match="code is not read"):
        models.load_deepsea("bad.pth")
    assert not Path("malicious").exists()


def resize(key, *shape, dtype=torch.float32):
    return lambda state: state.update({key: torch.ones(shape, dtype=dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.8.bias"), r"2\.8\.bias is missing"),
        (resize("2.9.weight", 1), r"2\.9\.weight is not part of it"),
        (resize("2.0.weight", 16, 4, 1, 9), r"expected float32 \(16, 4, 1, 8\)"),
        (resize("2.0.weight", 16, 4, 8), r"2\.0\.weight has shape \(16, 4, 8\)"),
        (resize("2.0.weight", 0, 4, 1, 8), r"2\.0\.weight has shape \(0, 4, 1, 8\)"),
        (resize("2.4.weight", 24, 15, 1, 8), r"expected float32 \(24, 16, 1, 8\)"),
        (resize("2.4.bias", 23), r"expected float32 \(24,\)"),
        (resize("2.12.1.weight", 47, 2496), r"expected float32 \(47, 2544\)"),
        (resize("2.14.1.weight", 46, 47, dtype=torch.float64), r"is torch\.float64 \(46, 47\)"),
        (lambda state: state["2.4.bias"].fill_(torch.nan), "numbers that are not finite"),
        (
            lambda state: state.update({"2.0.weight": torch.ones(()).expand(10**9, 4, 1, 8)}),
            "larger than the file",
        ),
        (lambda state: state.update({"2.0.bias": torch.eye(16).to_sparse()}), "plain tensors"),
        (lambda state: state.update({"2.0.bias": [1.0]}), "plain tensors by name; got dict"),
    ],
)
def test_another_state_is_refused(tmp_path, change, message):
    state = dict(torch.load(PREDICT))
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth .*{message}"):
        models.load_deepsea(tmp_path / "other.pth")


def test_other_files_of_tensors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not hold DeepSEA"):
        models.load_deepsea(BELUGA)
    with pytest.raises(ValueError, match="does not hold Beluga"):
        models.load_beluga(PREDICT)
    state = torch.load(BELUGA)  # the second convolution before a pooling has as many filters
    resize("model.0.2.weight", 17, 16, 1, 8)(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"hold Beluga: model\.0\.2\.weight is torch\.float32 \(17"
    ):
        models.load_beluga(tmp_path / "other.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"does not hold DeepSEA: 1\.0\.bias is missing"):
        models.load_deepsea(tmp_path / "other.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="plain tensors by name; got Tensor"):
        models.load_deepsea(tmp_path / "tensor.pth")


# The full-size networks, with weights from a recipe


def recipe(seed, keys, sums, shapes):
    """A state of seeded random weights, checked against sum, first and last of each tensor."""
    generator, state = np.random.RandomState(seed), {}
    for key, shape, check in zip(keys, shapes, sums, strict=True):
        u = generator.random_sample(np.prod(shape))
        bound = np.sqrt(6 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        u = ((2 * u - 1) * bound).astype(np.float32)
        np.testing.assert_allclose([u.sum(dtype=float), u[0], u[-1]], check, rtol=1e-6, atol=1e-6)
        state[str(key)] = torch.tensor(u).reshape(shape)
    return state


def shapes_of(network):
    for parameter in network.parameters():
        shape = tuple(parameter.shape)
        yield (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_full_size(tmp_path, request, caplog, name):
    """Full-size predictions, mutagenesis and MR: 1.2 GB (DeepSEA) and 3 GB (Beluga)."""
    if "slow" not in request.config.getoption("markexpr"):
        pytest.skip("takes 3 GB: run it by pytest -m slow")
    golden = load_npz("deepsea_fullsize.golden.npz")
    key, kind, seed, probability, x = {
        "deepsea": ("veff", models.DeepSEA, "seed", "variant_effects", "onehot_ACGT"),
        "beluga": ("beluga", models.Beluga, "seed_beluga", "beluga", "beluga_onehot_ACGT"),
    }[name]
    with torch.device("meta"):
        shapes = list(shapes_of(kind()))
    state = recipe(golden[seed], golden[f"{key}_keys"], golden[f"{key}_sum_first_last"], shapes)
    torch.save(state, tmp_path / "full.pth")
    del state
    network = LOADERS[name][0](tmp_path / "full.pth", output="logit")
    x = torch.tensor(golden[x]).float().transpose(1, 2).contiguous()
    logits = run(network, x)
    close(logits, golden[f"{probability}_logits"], FLOAT32_LOGITS)
    close(logits.sigmoid(), golden[probability], OTHER_ORDER)
    if name == "deepsea":
        both = models.load_deepsea(tmp_path / "full.pth", both_strands=True)
        close(run(both, x), golden["predict"], OTHER_ORDER)
        del both
    where = {"positions": np.arange(490, 500), "features": [3, 5], "device": "cpu"}
    members = predict.MCDropout(network, 2)
    effects = saturation_mutagenesis(members, x[:2], **where)
    assert "predicted in full" not in caplog.text
    full = saturation_mutagenesis(members, x[:2], propagate=False, **where)
    scale = 1e-5 * np.abs(full["reference_prediction"]).max().item()
    np.testing.assert_allclose(effects["effect"], full["effect"], atol=scale, rtol=0)
    chosen = instruments.select_instruments(effects, "3", "5", "wald", 0.0)
    local = mr.local_mr(chosen, "ivw")
    assert local["status"].eq("ok").all()
