"""From a network's name to the network."""

import pytest
import torch

from configures.setting import SettingError
from models.registry import architecture_of, build_network, known_networks
from models.rescnn import ARCHITECTURE as RESCNN
from models.simcnn import ARCHITECTURE as SIMCNN


def test_known_networks() -> None:
    assert {"simcnn", "rescnn"} <= set(known_networks())
    assert not {"cnn", "module", "registry", "strong_model"} & set(known_networks())


def test_a_suffix_is_a_width() -> None:
    assert architecture_of("simcnn") is SIMCNN
    assert architecture_of("simcnn_x0_25") == SIMCNN.scaled(0.25)
    assert architecture_of("rescnn_x1_5").num_kernels[0] == 96
    assert architecture_of("rescnn_x0_0625") == RESCNN.scaled(0.0625)


@pytest.mark.parametrize("name", ["vgg", "simcnn_x", "simcnn_x0", "simcnn_0_25", "cnn", "", "../simcnn", "vgg_x0_25"])
def test_unknown_networks_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingError, match=rf"unknown network {name}: expected one of .*rescnn.*simcnn.*simcnn_x0_25"):
        architecture_of(name)


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match=r"expected a width above 0, given 0\.0"):
        architecture_of("simcnn_x0_0")


def test_build_network_is_of_the_global_seed() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_network("rescnn_x0_0625", 4, dropout=0.1))
    assert torch.equal(models[0].fcs[0].weight, models[1].fcs[0].weight)
    assert not torch.equal(models[0].fcs[0].weight, models[2].fcs[0].weight)
    assert (models[0].dropout.p, len(models[0].fcs[-1].bias)) == (0.1, 4)
