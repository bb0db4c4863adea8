"""The training loop: of the strong model, and of the weak ones."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.images import Crop, Images, Normalisation, augment, normalise, to_device
from models.autocast import autocast
from models.evaluation import accuracy, cpu_state, predict
from models.graph.errors import refused
from models.graph.evaluating import OneAnswer, first_logits
from models.modular import activity, modular_loss
from utils.artifacts import CheckpointFile
from utils.device import precision_name, processor_and_instructions, through_compiler
from utils.errors import UserError, reason
from utils.estimate import Estimate
from utils.files import damaged
from utils.progress import say, steps
from utils.recorded_settings import differences
from utils.seeds import torch_seed
from utils.tensorboard import scalar


@dataclass(frozen=True)
class TrainingSettings:
    """What one training is made of."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "step"  # or one_cycle
    milestones: tuple[int, ...] = ()
    momentum: float = 0.0
    weight_decay: float = 0.0
    augmented: bool = False
    mirror: bool = False
    crop: Crop = "shifted"
    modular: str = "none"  # or moda or mwt, with the weights of its loss
    moda_affinity: float = 1.0
    moda_dispersion: float = 1.0
    moda_compactness: float = 0.3
    mwt_cohesion: float = 0.5
    mwt_coupling: float = 1.5

    @property
    def modular_weights(self) -> tuple[float, float, float]:
        """The weights of the modular loss, in its order."""
        if self.modular == "mwt":
            return self.mwt_cohesion, self.mwt_coupling, 0.0
        return self.moda_affinity, self.moda_dispersion, self.moda_compactness


# A state of an earlier version does not name these, so their defaults are not recorded.
NEWER = (
    "crop",
    "modular",
    "moda_affinity",
    "moda_dispersion",
    "moda_compactness",
    "mwt_cohesion",
    "mwt_coupling",
)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave; accuracies are shares of images."""

    number: int  # from 0
    learning_rate: float
    train_loss: float  # with all of its terms
    train_accuracy: float
    valid_accuracy: float
    seconds: float


def best_epoch(history: list[Epoch]) -> int:
    """The first epoch of the best validation accuracy."""
    return max(history, key=lambda epoch: epoch.valid_accuracy).number


@dataclass
class Training:
    """The state of a training between two epochs."""

    history: list[Epoch]
    best_epoch: int
    best_weights: dict[str, Tensor]


def learning_rate_at(settings: TrainingSettings, progress: float) -> float:
    """The step size after `progress` epochs.

    `step`: divided by ten after each milestone. `one_cycle`: linearly from 1/10 of the largest over the first fifth,
    then a cosine down to 0 (Smith and Topin, 2017, with the cosine that torch's OneCycleLR uses).
    """
    if settings.schedule == "step":
        return settings.learning_rate * 0.1 ** sum(progress >= milestone for milestone in settings.milestones)
    share, rise = progress / settings.epochs, 0.2
    if share < rise:
        return settings.learning_rate * (0.1 + 0.9 * share / rise)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise)))


def this_machine() -> dict[str, Any]:
    """What the last bits of a training on the CPU depend on: they decide which way rounding goes, and so add up."""
    return {
        "threads": torch.get_num_threads(),
        "processor": processor_and_instructions(),
        "torch": str(torch.__version__),
    }


def train(
    model: nn.Module,
    train_images: Images,
    valid_images: Images,
    settings: TrainingSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    state_file: CheckpointFile | None = None,
    patience: int | None = None,
    compiled: bool = False,
    num_classes: int | None = None,
    name: str = "training",
    after_epoch: Callable[[Epoch, nn.Module], None] = lambda epoch, model: None,
) -> Training:
    """Train `model` in place with SGD and cross-entropy; return every epoch and the weights of the best one.

    `modular` adds a term to the loss: see `models/modular.py`.

    Args:
        model: on the device, in channels-last layout where that helps. Images -> logits (n, classes), alone or among
            several outputs; the others, such as those of auxiliary classifiers, get no loss.
        train_images, valid_images: what to learn from, what to choose the best epoch by.
        settings: what the training is made of.
        device, dtype: bfloat16 runs the forward pass in autocast; weights stay float32.
        seed: of shuffling, augmentation and dropout; each epoch has its own, so a resumed training is the same.
        state_file: written after each epoch and taken up again where it exists.
        patience: end after so many epochs without a better validation accuracy.
        compiled: run the training step through torch.compile.
        num_classes: of several outputs the first that is so wide counts; None: the first (n, any).
        name: of the training, for people who wait for it.
        after_epoch: called with the epoch and the model, before the state is written.

    Raises UserError where the loss is no longer finite, the state is of a training with other settings or images, or a
    modular training is to be compiled.
    """
    if compiled and settings.modular != "none":
        raise UserError(f"--compile: not with modular={settings.modular}, whose loss compiled code hides")
    data, normalisation = to_device(train_images, device), train_images.normalisation
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    training = Training([], -1, {})
    images = [train_images.fingerprint, valid_images.fingerprint]
    made_of = asdict(settings)
    made_of = {n: value for n, value in made_of.items() if n not in NEWER or value != getattr(TrainingSettings, n)}
    description = {**made_of, "seed": seed, "precision": precision_name(dtype), "images_crc32": images}
    if state_file is not None and state_file.exists():
        training = _resume(state_file, model, optimizer, description, device)
    forward = through_compiler(model) if compiled else model
    batches = len(batch_sizes(len(train_images), settings.batch_size))
    estimate = Estimate(name, (settings.epochs - len(training.history)) * batches)
    with steps(name, settings.epochs * batches, len(training.history) * batches) as advance:

        def after_step() -> None:
            advance()
            estimate.advance()

        for number in range(len(training.history), settings.epochs):
            if patience is not None and number - training.best_epoch > patience and training.history:
                break
            epoch = _train_epoch(
                forward, data, normalisation, settings, number, optimizer, dtype, seed, after_step, num_classes
            )
            logits = predict(OneAnswer(model, num_classes), valid_images, device, dtype)
            if not logits.isfinite().all():  # the last steps' losses do not enter the epoch's
                raise UserError(f"epoch {number}: the validation logits are not finite; {_lower_the_rate(settings)}")
            valid_accuracy = accuracy(logits, valid_images.labels)
            epoch = Epoch(**{**asdict(epoch), "valid_accuracy": valid_accuracy})
            if not training.history or epoch.valid_accuracy > training.history[training.best_epoch].valid_accuracy:
                training.best_epoch = number
                training.best_weights = cpu_state(model)
            training.history.append(epoch)
            scalar("loss/train", epoch.train_loss, epoch.number)
            scalar("accuracy/train", epoch.train_accuracy, epoch.number)
            scalar("accuracy/valid", epoch.valid_accuracy, epoch.number)
            after_epoch(epoch, model)
            if state_file is not None:
                state = {"description": description, "made_on": this_machine(), **vars(training)}
                state["history"] = [asdict(epoch) for epoch in training.history]
                state_file.save({**state, "weights": model.state_dict(), "optimizer": optimizer.state_dict()})
    return training


def _train_epoch(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    normalisation: Normalisation | None,
    settings: TrainingSettings,
    number: int,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype,
    seed: int,
    advance: Callable[[], object],
    num_classes: int | None,
) -> Epoch:
    start, (pixels, labels) = time.perf_counter(), data
    torch.manual_seed(torch_seed(seed, "dropout", number))
    generator = torch.Generator().manual_seed(torch_seed(seed, "batches", number))
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    batches = order.split(batch_sizes(len(order), settings.batch_size))
    model.train()
    loss_sum = torch.zeros((), device=labels.device)
    right = torch.zeros((), dtype=torch.long, device=labels.device)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(settings, number + step / len(batches))
        images = pixels[batch]
        if settings.augmented:
            images = augment(images, mirror=settings.mirror, generator=generator, crop=settings.crop)
        with autocast(labels.device, dtype), activity(model, settings.modular) as activities:
            logits = _logits(model, normalise(images, normalisation), num_classes)
        loss = F.cross_entropy(logits.float(), labels[batch])
        if activities:
            loss = loss + modular_loss(activities, labels[batch], *settings.modular_weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(batch)
        right += (logits.detach().argmax(1) == labels[batch]).sum()
        advance()
    mean_loss = float(loss_sum) / len(labels)
    if not math.isfinite(mean_loss):
        raise UserError(f"epoch {number}: the training loss is {mean_loss}; {_lower_the_rate(settings)}")
    rate = learning_rate_at(settings, number)
    return Epoch(number, rate, mean_loss, int(right) / len(labels), math.nan, time.perf_counter() - start)


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """How many images each batch of an epoch has.

    The last one has the rest; a single image, of which batch norm can make no statistics, goes with those before it.
    """
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    is_rest = len(sizes) > 1 and sizes[-1] == 1 < batch_size
    return [*sizes[:-2], batch_size + 1] if is_rest else sizes


def _logits(model: nn.Module, images: Tensor, classes: int | None) -> Tensor:
    """The model's logits (n, classes): of several outputs the first one of that width, as everywhere.

    GoogLeNet and Inception give auxiliary classifiers' logits as well in training mode; these are not trained.
    """
    try:
        logits = first_logits(model(images), len(images), classes)
    except Exception as error:  # whatever somebody's network raises in training mode alone
        form = f"{len(images)} images of {images.shape[2]} pixels"
        raise refused(f"the network does not train on a batch of {form}", error) from error
    if logits is None:
        raise UserError(
            f"the network gives no logits (n, {classes or 'classes'}) in training mode: give them as its first output"
        )
    if not logits.requires_grad:
        raise UserError(
            "the network's logits have no gradient in training mode: expected a forward without torch.no_grad, "
            "torch.inference_mode and detach"
        )
    return logits


def _lower_the_rate(settings: TrainingSettings) -> str:
    return f"lower the learning rate, now {settings.learning_rate}"


def _resume(
    file: CheckpointFile,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    description: dict[str, Any],
    device: torch.device,
) -> Training:
    state: dict[str, Any] = file.load()
    if not isinstance(state.get("description"), dict):
        raise damaged(file.path, file.made_by, "expected the state of a training")
    if different := differences(state["description"], description):
        raise UserError(
            f"{file.path} is of a training with other settings ({different}): "
            "use the same, or set that folder aside with --fresh"
        )
    try:
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        training = Training(
            [Epoch(**epoch) for epoch in state["history"]], state["best_epoch"], dict(state["best_weights"])
        )
        last, _ = training.history[-1], training.history[training.best_epoch]
        for weights in (state["weights"], training.best_weights):
            if not all(torch.isfinite(value).all() for value in weights.values()):
                raise ValueError("it holds NaN or infinity")
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise damaged(file.path, file.made_by, f"not the state of such a training: {reason(error)}") from None
    say(f"resuming after epoch {last.number}")
    if device.type == "cpu" and len(training.history) < description["epochs"]:
        made_on = state.get("made_on")
        different = differences(made_on, this_machine()) if isinstance(made_on, dict) else ""  # of an earlier version
        if different:
            say(f"results differ slightly from those of an uninterrupted training ({different})")
    return training
