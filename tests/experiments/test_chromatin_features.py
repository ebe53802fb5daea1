"""Names of DeepSEA's outputs, selection by index, and scales against Bayes' rule."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from deepmr_utils import instruments, models, mr, predict
from deepmr_utils.mutagenesis import saturation_mutagenesis
from experiments.chromatin import deepsea_features as cf

# made up, in the published format
LINES = """\
K562|DNase|None
HepG2|DNase|None
HepG2|CTCF|None
HepG2|FOXA2|None
HepG2|CTCF|None
HepG2|USF-1|None
HepG2|CEBPB|forskolin
HepG2|CEBPB|None
K562|USF-1|None
NA|NA|NA
HepG2|H3K27ac|None
HepG2|H2A.Z|None
HepG2|HNF4A|None
"""


@pytest.fixture
def features(tmp_path):
    path = tmp_path / "predictor.names"
    path.write_text(LINES)
    return cf.read_features(path)


def test_names_are_distinct_and_begin_with_the_index(features):
    assert features["index"].tolist() == list(range(13))
    assert features["name"].is_unique
    assert features["name"].iloc[6] == "6 HepG2 CEBPB forskolin"
    assert features["treatment"].iloc[7] == ""


def test_selection_by_cell_target_treatment_and_index(features):
    assert cf.select_feature(features, cell="HepG2", target="DNase")["index"] == 1
    assert cf.select_feature(features, cell="hepg2", target="USF1")["index"] == 5
    assert cf.select_feature(features, target="CEBPB", treatment="")["index"] == 7
    assert cf.select_feature(features, index=4)["target"] == "CTCF"
    assert cf.select_features(features, index=[4, 2])["index"].tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"2 HepG2 CTCF; 4 HepG2 CTCF.*by index"):
        cf.select_feature(features, cell="HepG2", target="CTCF")
    with pytest.raises(ValueError, match=r"'FOXA1'.*for instance CEBPB, CTCF"):
        cf.select_features(features, cell="HepG2", target="FOXA1")
    with pytest.raises(ValueError, match="index 919: there are 13"):
        cf.select_features(features, index=919)


def test_factors_are_no_histones_nor_accessibility(features):
    assert cf.select_factors(features, "HepG2")["index"].tolist() == [2, 3, 4, 5, 6, 7, 12]


def test_a_line_without_three_parts_is_refused(tmp_path):
    path = tmp_path / "names"
    path.write_text("HepG2|DNase|None\nHepG2 DNase\n")
    with pytest.raises(ValueError, match=r"line 2.*got 'HepG2 DNase'"):
        cf.read_features(path)
    path.write_text("")
    with pytest.raises(ValueError, match="names no feature"):
        cf.read_features(path)


def test_scales_of_logits():
    logits = np.array([[[-2.0, 0.5]]])
    np.testing.assert_array_equal(cf.effect_scale()(logits), logits)
    np.testing.assert_allclose(cf.effect_scale("probability")(logits), expit(logits))
    platt = cf.effect_scale(slope=[2, 1], intercept=[0.5, 0])
    np.testing.assert_allclose(platt(logits), [[[-3.5, 0.5]]])
    assert platt(logits.astype(np.float32)).dtype == np.float32
    slope, intercept = np.array([2, 0.5]), np.array([0.5, -1])
    scale = cf.effect_scale("probability", slope=slope.tolist(), intercept=intercept.tolist())
    np.testing.assert_allclose(scale(logits), expit(slope * logits + intercept), rtol=1e-12)
    with pytest.raises(ValueError, match="unknown scale 'odds'"):
        cf.effect_scale("odds")


@pytest.mark.slow
def test_full_size_architecture_through_features_mutagenesis_and_mr(request, features):
    """The 919 outputs of the full-size network, with the weights of a recipe, by index."""
    if "slow" not in request.config.getoption("markexpr"):
        pytest.skip("takes 1.2 GB: run it by pytest -m slow")
    network = models.DeepSEA(output="logit").eval()
    rs = np.random.RandomState(7)
    with torch.no_grad():
        for parameter in network.parameters():
            u = rs.random_sample(parameter.numel())
            fan_in = np.prod(parameter.shape[1:])
            u = (2 * u - 1) * np.sqrt(6 / fan_in) if parameter.ndim > 1 else (u - 0.5) * 0.2
            parameter.copy_(torch.tensor(u).reshape(parameter.shape))
    codes = np.random.default_rng(0).integers(0, 4, (2, 1000))
    x = torch.nn.functional.one_hot(torch.tensor(codes), 4).float().transpose(1, 2).contiguous()
    chosen = cf.select_features(features, cell="HepG2", index=[3, 1])
    columns = dict(zip(chosen["name"], chosen["index"], strict=True))
    effects = saturation_mutagenesis(
        predict.MCDropout(network, 3), x, features=columns, positions=np.arange(490, 500),
        transform=cf.effect_scale("probability"), keep_members=True,
    )  # fmt: skip
    assert effects["feature"].to_numpy().tolist() == ["1 HepG2 DNase", "3 HepG2 FOXA2"]
    table = instruments.select_instruments(effects, "3 HepG2 FOXA2", "1 HepG2 DNase", "wald", 0.0)
    assert mr.local_mr(table, "egger")["status"].eq("ok").all()
