"""The paper's value stands next to its own networks on its own datasets alone."""

import dataclasses

import pytest

from configures.base import load
from report.figures_of_trade_off import is_of_the_paper


@pytest.mark.parametrize(
    ("model", "dataset", "is_of_it"),
    [
        ("simcnn", "cifar10", True),
        ("rescnn_x0_25", "cifar10", True),
        ("rescnn", "svhn", True),
        ("simcnn", "svhn_5", False),  # five of its classes
        ("resnet20", "cifar10", False),
        ("simcnn_x0_25", "digits", False),
        ("simcnn_x0_25", "digits_5", False),
    ],
)
def test_the_papers_value_is_of_its_networks_and_datasets(model: str, dataset: str, is_of_it: bool) -> None:
    assert is_of_the_paper(load(model, dataset)) == is_of_it


def test_the_network_counts_and_not_the_name_of_the_model() -> None:
    config = load("simcnn", "cifar10")
    assert not is_of_the_paper(dataclasses.replace(config, network="torchvision:resnet18"))
    assert is_of_the_paper(dataclasses.replace(config, dataset="mine", source="cifar10"))
