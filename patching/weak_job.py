"""One weak model's training as plain data and a function of it: the same in this process and on an engine's worker."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from configures.base import Config
from dataset.labelled_images import Split
from models.graph.evaluating import OneAnswer
from models.training import Epoch, TrainingSettings, count_right, predict, train
from models.weights import cpu_state
from patching.weak_models import WeakKind, build_weak_network
from utils.artifacts import CheckpointFile
from utils.device import PRECISIONS
from utils.seeds import torch_seed


@dataclass(frozen=True)
class WeakJob:
    """What a weak model's training is made of, beside its images."""

    config: Config
    kind: WeakKind
    target_class: int
    settings: TrainingSettings
    keep: tuple[int, ...]  # the epochs whose weights are kept, beside the best one's
    precision: str
    seed: int
    name: str  # for people


@dataclass(frozen=True)
class Trained:
    """What a training gave."""

    history: list[Epoch]
    best_epoch: int
    test_right: int  # images, by the weights of the last epoch
    weights: dict[int, dict[str, np.ndarray]]  # of the kept epochs and the best one, as far as nobody else kept them


def train_weak_model(
    job: WeakJob,
    split: Split,
    device: torch.device,
    keep_weights: Callable[[int, dict[str, Tensor]], None],
    state_file: CheckpointFile | None = None,
) -> Trained:
    """Train a weak model; `keep_weights` is given each epoch to keep with its weights, and the best one in the end."""
    torch.manual_seed(torch_seed(job.seed, f"{job.kind} model", job.target_class))
    num_classes = len(job.config.weak_classes) + 1
    model = build_weak_network(job.config, job.kind).to(device, memory_format=torch.channels_last)

    def after_epoch(epoch: Epoch, trained: nn.Module) -> None:
        if epoch.number in job.keep:
            keep_weights(epoch.number, cpu_state(trained))

    training = train(
        model,
        split.train,
        split.valid,
        job.settings,
        device=device,
        dtype=PRECISIONS[job.precision],
        seed=int(torch_seed(job.seed, f"training of the {job.kind} model", job.target_class) % 2**31),
        state_file=state_file,
        num_classes=num_classes,
        name=job.name,
        after_epoch=after_epoch,
    )
    keep_weights(training.best_epoch, training.best_weights)
    right = count_right(predict(OneAnswer(model, num_classes), split.test, device), split.test.labels)
    return Trained(training.history, training.best_epoch, right, {})


def train_on_worker(job: WeakJob, split: Split, device: str) -> Trained:
    """A task: the training from its beginning, with all weights that are to be kept."""
    weights: dict[int, dict[str, np.ndarray]] = {}

    def keep_weights(epoch: int, state: dict[str, Tensor]) -> None:
        weights[epoch] = {name: value.numpy() for name, value in state.items()}

    trained = train_weak_model(job, split, torch.device(device), keep_weights)
    return replace(trained, weights=weights)
