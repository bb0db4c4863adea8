"""Which epochs of a weak model are kept, and what they take on the disk."""

from dataclasses import replace

import pytest

from configures.base import load
from models.training import Epoch
from patching.weak_models import WeakKind, build_weak_network
from patching.weak_training import bytes_to_write, epochs_to_keep, has_learned


@pytest.mark.parametrize(
    ("epochs", "every", "chosen", "expected"),
    [
        (200, 100, (84, 169), [84, 99, 169, 199]),
        (25, 10, (), [9, 19, 24]),
        (5, 10, (2, 84), [2, 4]),
        (1, 1, (0,), [0]),
    ],
)
def test_epochs_to_keep(epochs, every, chosen, expected):
    assert epochs_to_keep(epochs, every, chosen) == expected


def test_disk_space_is_counted():
    assert bytes_to_write(parameters=1000, kept=3, models=2) == 4000 * (4 * 2 + 3)


@pytest.mark.parametrize(("best", "expected"), [(0.1, False), (0.149, False), (0.15, True), (0.9, True)])
def test_a_training_that_was_none(best, expected):
    """Of ten classes; the last epoch does not count where another one is better."""
    history = [Epoch(number, 0.1, 2.3, 0.1, accuracy, 1.0) for number, accuracy in enumerate((0.1, best, 0.09))]
    assert has_learned(history, 10) == expected
    assert has_learned([replace(epoch, valid_accuracy=0.54) for epoch in history], 2)
    assert not has_learned([replace(epoch, valid_accuracy=0.52) for epoch in history], 2)


def test_a_poorly_fitted_model_is_the_strong_network_without_dropout():
    config = load("simcnn_x0_25", "digits_5")
    poor, weak = (build_weak_network(config, kind) for kind in (WeakKind.POOR, WeakKind.SIMPLE))
    assert (len(poor.convs), poor.dropout.p, poor.fcs[-1].out_features) == (13, 0.0, 5)
    assert len(weak.convs) < len(poor.convs) and weak.fcs[-1].out_features == 5
