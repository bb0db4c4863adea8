"""Networks as people write them: what is not known stays whole, everything else is cut, and all of it is exact."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from awkward_networks import (
    TRACEABLE,
    CalledTwice,
    ChannelAndSpatialAttention,
    ChannelsLast,
    ClassToken,
    Coordinates,
    PaddedShortcuts,
    PreActivation,
    RepeatedChannels,
    SelfAttention,
    Shuffled,
    Standardised,
    UpAndDown,
    WrittenBehindDropout,
)
from exactness import check_exact, random_images, traced
from hypothesis import given, settings
from random_networks import RandomNetwork
from torch import nn

from models.graph import NetworkRefused

SIDE = 16
PROBABILITIES = (PreActivation, UpAndDown)  # end in a softmax, which a module does not have


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_cut_is_exact(network: type[nn.Module]) -> None:
    graph = check_exact(network(), SIDE, shares=(0.6, 0.4, 0.05), same_logits=network not in PROBABILITIES)
    assert graph.num_units > 0


def test_a_softmax_at_the_end_is_taken_off() -> None:
    network, graph = traced(PreActivation)
    images = random_images(SIDE)
    logits = graph.forward(images)
    assert (F.log_softmax(logits, 1) - network(images)).abs().max() <= 1e-12


def test_a_write_behind_a_dropout_is_known_or_refused() -> None:
    """torch 2.11 traces it wrongly."""
    try:
        check_exact(WrittenBehindDropout(), SIDE, shares=(0.6,))
    except NetworkRefused as error:
        assert torch.__version__ < "2.14" and "traces the network wrongly" in str(error)


@pytest.mark.parametrize(
    ("network", "cuttable", "units"),
    [
        (PaddedShortcuts, 7, 8 * 2 + 16 * 2 + 8),  # the stage of 8 is padded to the middle of 16
        (ChannelAndSpatialAttention, 2, 32 + 48),  # the one map for all channels stays
        (Shuffled, 4, 24 + 24 + 48),
        (CalledTwice, 2, 16),
        (SelfAttention, 3, 32 + 32 + 24),
        (ChannelsLast, 5, 16 + 40 + 12),
        (Standardised, 4, 16 + 16 + 24),  # the blur has kernels, though they are fixed
        (RepeatedChannels, 2, 12 + 12),  # those in front of a padding stay
        (Coordinates, 3, 16 + 16 + 12),
        (ClassToken, 1, 32),  # the maps next to the token stay
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_can_be_dropped(network: type[nn.Module], cuttable: int, units: int) -> None:
    _, graph = traced(network)
    assert sum(layer.is_cuttable for layer in graph.units.layers) == cuttable
    assert graph.num_units == units


def test_layers_say_why_they_stay_whole() -> None:
    reasons = {layer.name: layer.reason for layer in traced(UpAndDown)[1].units.layers}
    assert reasons["logits"] == "its kernels are the logits"
    assert reasons["down2"] == "conv_transpose2d reads it whole"
    assert reasons["down1"] is None


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_cut_is_exact_whatever_the_layers_and_their_order(seed: int) -> None:
    check_exact(RandomNetwork(seed), 8, shares=(0.6, 0.1), is_lively=False)
