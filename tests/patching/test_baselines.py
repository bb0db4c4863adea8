"""Baselines of a patch: label shift undoes a shift, the linear layer learns, and fine-tuning leaves the given model."""

import copy

import numpy as np
import pytest
import torch
from conftest import random_images
from torch import nn

from dataset.images import Split
from models.training import Training, TrainingSettings
from patching import baselines
from patching.baselines import Way, fine_tuned, label_shift, linear

CPU, CLASSES = torch.device("cpu"), 3
OF_TRAINING = {"device": CPU, "dtype": torch.float32, "seed": 0}


def logits_and_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (count, CLASSES) that are calibrated: a label is drawn by their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, CLASSES)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(1)


def test_label_shift_finds_the_bias_of_each_class() -> None:
    (valid, labels), (test, _) = logits_and_labels(4000, 0), logits_and_labels(1000, 1)
    shift = np.array([3.0, 0.0, -2.0])
    found = label_shift(5 * (valid + shift), labels, 5 * (test + shift))
    assert (found == test.argmax(1)).mean() > 0.95 > 0.8 > ((test + shift).argmax(1) == test.argmax(1)).mean()


def test_the_linear_layer_learns_from_the_training_part() -> None:
    parts = {part: logits_and_labels(400, seed) for seed, part in enumerate(("train", "valid", "test"))}
    turned = {part: np.roll(logits, 1, axis=1) for part, (logits, _) in parts.items()}  # classes in a wrong order
    answers = linear(turned, {part: labels for part, (_, labels) in parts.items()}, CPU, seed=0)
    assert (answers == parts["test"][0].argmax(1)).mean() > 0.9


@pytest.mark.parametrize(("last_layer", "learns"), [(True, ["3.weight", "3.bias"]), (False, None)])
def test_fine_tuning_leaves_the_given_model(
    last_layer: bool, learns: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, CLASSES))
    before, trained, models = copy.deepcopy(weak.state_dict()), [], []
    train = baselines.train

    def noted(model: nn.Module, *args: object, **more: object) -> Training:
        trained.append([name for name, value in model.named_parameters() if value.requires_grad])
        models.append(model)
        return train(model, *args, **more)

    monkeypatch.setattr(baselines, "train", noted)
    split = Split(tuple("abc"), *(random_images(60, CLASSES, seed) for seed in range(3)))
    settings = TrainingSettings(epochs=8, batch_size=10, learning_rate=0.02)
    answers = fine_tuned(weak, split, settings, last_layer=last_layer, **OF_TRAINING)
    assert trained == [learns or [name for name, _ in weak.named_parameters()]]
    # Frozen batch norms keep their statistics.
    assert torch.equal(models[0].state_dict()["1.running_mean"], before["1.running_mean"]) is last_layer
    assert all(torch.equal(value, before[name]) for name, value in weak.state_dict().items())
    assert (answers == split.test.labels).mean() > 0.6


def test_the_patch_minus_itself_is_nothing() -> None:
    labels = np.array([0, 1, 2, 2])
    patch, other = Way(labels, 10, 5, 0.5), Way(np.array([0, 1, 2, 0]), 4, 0, 0.0)
    same, worse = patch.record(labels, 2, patch), other.record(labels, 2, patch)
    assert same["patch_minus_this"]["f1"] == [0, 0] and same["f1"] == 1 and same["flops_per_image"] == 10
    assert worse["right"] == 3 and worse["recall"] == 0.5 and worse["patch_minus_this"]["f1"][1] > 0
