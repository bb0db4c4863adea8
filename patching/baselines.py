"""What a user may do instead of patching with a module, given the same images: the baselines of a patch.

Each has its answers on the test images and its cost. What needs outputs alone is fitted on outputs.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dataset.images import Images, Split
from models.evaluation import predict
from models.training import TrainingSettings, train
from patching.confidence import accuracy_change, change_of
from patching.learned import least_loss, one_blas_thread
from patching.metrics import METRICS, TargetClassScores, confusion_matrix, metrics_of, scores_of_target_class

EPOCHS = 20  # of fine-tuning
# Of MODA's linear calibration (ICSE 2026); batch size and momentum are ours
LINEAR = TrainingSettings(epochs=5, batch_size=128, learning_rate=0.05, momentum=0.9)
RIDGE = 1e-6  # of the label shift, so that a class that is never right has a finite bias


@dataclass(frozen=True)
class Way:
    """One way to change a weak model, and what it costs."""

    answers: np.ndarray  # (test images,) int64
    flops: int  # of an image, in use
    fit_flops: (
        int  # to make it: three forward passes for an image that weights learn from, one for one that is evaluated
    )
    seconds: float  # to make it

    def scores(self, labels: np.ndarray, target: int) -> TargetClassScores:
        """How good it is at the target class and at the others; labels are (images,) int64."""
        return scores_of_target_class(confusion_matrix(labels, self.answers, target + 1), target)

    def record(self, labels: np.ndarray, target: int, patch: "Way") -> dict[str, Any]:
        """Metrics, counts, cost, and the 95 % intervals of the patch minus this one, as plain values.

        Args:
            labels: (images,) int64, of the test images.
            target: the target class, which is the last one.
            patch: that this way is compared with.
        """
        change = change_of(labels, self.answers, patch.answers, target)
        return {
            **dict(zip(METRICS, metrics_of(self.scores(labels, target)), strict=True)),
            "right": int((self.answers == labels).sum()),
            "confusion_matrix": confusion_matrix(labels, self.answers, target + 1).tolist(),
            "flops_per_image": self.flops,
            "fit_flops": self.fit_flops,
            "fit_seconds": self.seconds,
            "patch_minus_this": change.to_json() | {"accuracy": accuracy_change(labels, self.answers, patch.answers)},
        }


def timed(make: Callable[[], np.ndarray], flops: int, fit_flops: int) -> Way:
    """The way whose answers `make` gives, with the seconds that this takes."""
    start = time.perf_counter()
    answers = make()
    return Way(answers, flops, fit_flops, time.perf_counter() - start)


def fine_tuned(
    weak: nn.Module,
    split: Split,
    settings: TrainingSettings,
    *,
    last_layer: bool,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> np.ndarray:
    """The answers (test images,) of the weak model after more training, by its best epoch on validation images.

    Args:
        weak: stays as it is.
        split: its images; the training images have the target class as often as the others, if there are enough.
        settings: of the training.
        last_layer: whether only the last layer with weights learns.
        device, dtype, seed: of the training.
    """
    model = copy.deepcopy(weak)
    if last_layer:
        *others, _ = (layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None)
        for layer in others:
            for weight in layer.parameters(recurse=False):
                weight.requires_grad_(False)
            if isinstance(layer, _BatchNorm):  # its statistics stay, too
                vars(layer.eval())["train"] = partial(_stays, layer)
    of_training: dict[str, Any] = {"device": device, "dtype": dtype, "seed": seed, "num_classes": len(split.classes)}
    name = "fine-tuning of the last layer" if last_layer else "fine-tuning"
    trained = train(model, split.train, split.valid, settings, name=name, **of_training)
    model.load_state_dict(trained.best_weights)
    return predict(model, split.test, device).argmax(1).numpy()


def _stays(layer: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of a layer's `train`."""
    return layer


@one_blas_thread
def label_shift(valid: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The answers (test images,) of logits with one temperature and a bias per class, fitted on validation images.

    Bias-corrected temperature scaling (Alexandari et al., ICML 2020): all that another mix of classes can explain.

    Args:
        valid, test: (images, classes) float, the weak model's logits.
        labels: (validation images,) int64.
    """
    spread = float(valid.std()) or 1.0
    features, classes = valid.astype(np.float64) / spread, valid.shape[1]

    def gradient(of_scores: np.ndarray) -> np.ndarray:
        return np.append((of_scores * features).sum(), of_scores.sum(0))

    first = np.append(spread, np.zeros(classes))
    found = least_loss(lambda values: values[0] * features + values[1:], gradient, labels, RIDGE, first)
    answers: np.ndarray = (found[0] * test / spread + found[1:]).argmax(1)
    return answers


def linear(
    outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], device: torch.device, seed: int
) -> np.ndarray:
    """The answers (test images,) of a linear layer on the weak model's logits, the target class's by the module.

    The calibration of MODA (ICSE 2026): n outputs of n logits, learned on the weak model's training images.

    Args:
        outputs: of train, valid and test (images, classes) float: weak logits, in the last column the module's.
        labels: of each (images,) int64.
        device, seed: of the training.
    """
    parts = {part: Images(of[:, None, None].astype(np.float32), labels[part], None) for part, of in outputs.items()}
    classes = outputs["train"].shape[1]
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(classes, classes)).to(device)
    of_training: dict[str, Any] = {"device": device, "dtype": torch.float32, "seed": seed, "num_classes": classes}
    train(layer, parts["train"], parts["valid"], LINEAR, name="linear calibration", **of_training)
    return predict(layer, parts["test"], device).argmax(1).numpy()


def fine_tuning(settings: TrainingSettings, epochs: int) -> TrainingSettings:
    """The settings of a fine-tuning: those of the weak model's training, with a warm-up and a decay to 0."""
    return replace(settings, epochs=epochs, schedule="one_cycle")
