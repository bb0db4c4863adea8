"""Which network modules are of: what tells two apart, and what does not."""

import dataclasses

import torch

from configures.base import Config
from models.strong_model import graph_of
from modules.source_network import SourceNetwork

CONFIG = Config("simcnn_tiny", "digits", 4)
OURS = SourceNetwork.of(graph_of(CONFIG), CONFIG)


def test_it_says_what_it_is_of() -> None:
    assert (OURS.network, OURS.num_classes, OURS.image_side) == ("simcnn_tiny", 4, 32)
    assert OURS.digest == graph_of(CONFIG).digest
    assert torch.__version__.startswith(OURS.torch)
    assert OURS.torch.count(".") == 1  # a corrected version traces alike


def test_the_network_counts_and_not_what_the_configuration_is_called() -> None:
    renamed = dataclasses.replace(CONFIG, model="mine", network="simcnn_tiny")
    assert SourceNetwork.of(graph_of(renamed), renamed) == OURS


def test_changed_code_is_a_difference_under_the_same_version_of_torch_alone() -> None:
    changed = dataclasses.replace(OURS, digest="0" * 64)
    assert changed.difference_from(OURS) == (
        f"the code of simcnn_tiny has changed since (graph 000000000000 there, {OURS.digest[:12]} now)"
    )
    traced_otherwise = dataclasses.replace(changed, torch="2.6")
    assert traced_otherwise.difference_from(OURS) == ""
