"""The training of weak models: which epochs are kept, what they take on the disk, and one training after the other."""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from configures.base import Config
from dataset.images import Split
from dataset.target_classes import HELP, chosen_classes
from engines.engine import Engine
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models.evaluation import count_parameters, count_right, cpu_state, predict
from models.graph.evaluating import OneAnswer
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import check_trained_on, image_order
from models.training import Epoch, TrainingSettings, best_epoch, train
from patching import files as patch_files
from patching.data import PatchData, load_patch_data
from patching.weak_models import WeakKind, build_weak_network
from utils.artifacts import CheckpointFile
from utils.device import PRECISIONS
from utils.errors import UserError
from utils.files import set_aside
from utils.given_places import check_room, readable
from utils.locks import held
from utils.progress import progress, say
from utils.recorded_settings import record_or_compare
from utils.seeds import torch_seed
from utils.tensorboard import add_tensorboard, tensorboard

BYTES_PER_PARAMETER = 4
LEARNED = 1 / 18  # of the way from guessing to all right: 15 % of ten classes' images, 53 % of two classes'


def train_from_command_line(documentation: str | None, kind: WeakKind) -> None:
    """What the scripts that train weak models do."""
    arguments = _arguments(documentation, kind)
    stage = open_stage(arguments)
    config = stage.config
    target_classes = chosen_classes([arguments.target_class], config)
    data = load_patch_data(config, image_order(stage.artifacts))
    settings = weak_settings(config, kind)
    print(f"weak model: {config.weak_model if kind is WeakKind.SIMPLE else f'{config.model}, poorly fitted'}")
    with chosen_engine(arguments, stage.device) as engine:
        train_weak_models(
            stage,
            kind,
            target_classes,
            data,
            settings,
            fresh=arguments.fresh,
            curves=arguments.tensorboard,
            engine=engine,
        )


def weak_settings(config: Config, kind: WeakKind) -> TrainingSettings:
    """The settings of the training of weak models of a kind, as the configuration has them."""
    epochs, batch_size, rate = (getattr(config, f"{kind}_{name}") for name in ("epochs", "batch_size", "learning_rate"))
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size, learning_rate=rate)
    if kind is not WeakKind.SIMPLE:
        return settings
    regularised = {name: getattr(config, name) for name in ("momentum", "weight_decay", "mirror")}
    return dataclasses.replace(settings, augmented=config.weak_augmented, **regularised)


def _arguments(documentation: str | None, kind: WeakKind) -> argparse.Namespace:
    """The command line; its options are overrides in `set`."""
    parser = stage_parser(documentation)
    parser.add_argument("--target_class", default="all", help=f"one class of the strong model, {HELP}; all by default")
    parser.add_argument("--epochs", help="passes over the training images")
    parser.add_argument("--keep_epochs", help="epochs to keep, counted from 0: 84,169")
    parser.add_argument("--checkpoint_every", help="keep every n-th epoch")
    parser.add_argument("--fresh", action="store_true", help="set what is there aside and train again")
    add_tensorboard(parser)
    add_engine_options(parser, "weak models are trained one after the other, by this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    if arguments.tensorboard and arguments.engine:
        raise UserError("--tensorboard: not with --engine, whose workers write nothing")
    for option in ("epochs", "keep_epochs", "checkpoint_every"):
        if getattr(arguments, option) is not None:
            name = f"{kind}_epochs" if option == "epochs" else option
            arguments.set.append(f"{name}={getattr(arguments, option)}")
    return arguments


def epochs_to_keep(epochs: int, every: int, chosen: tuple[int, ...]) -> list[int]:
    """Which of `epochs` epochs, counted from 0, leave a checkpoint: every n-th, the chosen ones and the last."""
    return sorted({*range(every - 1, epochs, every), *(epoch for epoch in chosen if epoch < epochs), epochs - 1})


def has_learned(history: list[Epoch], num_classes: int) -> bool:
    """Whether the best epoch is right on more images than guessing would be, by LEARNED of what guessing lacks."""
    guessing = 1 / num_classes
    return history[best_epoch(history)].valid_accuracy > guessing + LEARNED * (1 - guessing) - 1e-9


def bytes_to_write(parameters: int, kept: int, models: int) -> int:
    """What the checkpoints of `models` weak models take: the kept epochs and the best one, and one training's state."""
    state = 3  # its weights, the best weights, the optimizer's momentum
    return parameters * BYTES_PER_PARAMETER * ((kept + 1) * models + state)


@dataclass(frozen=True)
class WeakJob:
    """What a weak model's training is made of, besides its images."""

    config: Config
    kind: WeakKind
    target_class: int
    settings: TrainingSettings
    keep: tuple[int, ...]  # the epochs whose weights are kept, besides the best one's
    precision: str
    seed: int
    name: str  # for people


@dataclass(frozen=True)
class Trained:
    """What a training gave."""

    history: list[Epoch]
    best_epoch: int
    test_right: int  # images, by the weights of the last epoch
    weights: dict[int, dict[str, np.ndarray]]  # of the kept epochs and the best one, if they are not on the disk yet


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
    model = build_weak_network(job.config, job.kind).to(device).to(memory_format=torch.channels_last)

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
    return dataclasses.replace(trained, weights=weights)


def train_weak_models(
    stage: Stage,
    kind: WeakKind,
    target_classes: list[int],
    data: PatchData,
    settings: TrainingSettings,
    *,
    fresh: bool = False,
    curves: bool = False,
    engine: Engine | None = None,
) -> None:
    """Train one weak model per target class, and keep the chosen epochs.

    Args:
        stage, kind, target_classes, settings: what is trained, and how.
        data: the images of all of them.
        fresh: set what is there aside, instead of going on or refusing.
        curves: write them for TensorBoard, next to each weak model that is trained here.
        engine: where to train them at the same time; None = here, one after the other.

    Raises UserError if the disk is too small, what is there was trained with other settings, or the images are not
    those of the strong model whose modules are to patch them.
    """
    check_trained_on(data.strong, stage.artifacts)
    keep = epochs_to_keep(settings.epochs, stage.config.checkpoint_every, stage.config.keep_epochs)
    parameters = count_parameters(build_weak_network(stage.config, kind))
    logs = [patch_files.weak_model_log(stage.artifacts, kind, target_class) for target_class in target_classes]
    to_train = len(logs) if fresh else sum(not log.exists() for log in logs)
    needed = bytes_to_write(parameters, len(keep), to_train) if to_train else 0
    say(
        f"{to_train} of {len(target_classes)} weak models to train, {settings.epochs} epochs, {parameters:,} "
        f"parameters each\nkept of each: {len(keep)} epochs and the best one; at most {readable(needed)} below\n"
        f"{patch_files.weak_models_folder(stage.artifacts, kind)}"
    )
    advice = "keep fewer epochs (--checkpoint_every, --keep_epochs), train one --target_class"
    check_room(patch_files.weak_models_folder(stage.artifacts, kind), needed, advice)
    jobs = [
        WeakJob(
            *(stage.config, kind, target_class, settings, tuple(keep), stage.precision, stage.seed),
            name=f"target class {target_class} ({data.strong.classes[target_class]})",
        )
        for target_class in target_classes
    ]
    if engine is None:
        for job in jobs:
            with held(patch_files.weak_training_role(stage.artifacts, kind, job.target_class)):
                _train_here(stage, job, data.split_for(job.target_class), fresh, curves)
    else:
        with held(*(patch_files.weak_training_role(stage.artifacts, kind, job.target_class) for job in jobs)):
            _train_on(engine, stage, jobs, data, fresh)


def _train_here(stage: Stage, job: WeakJob, split: Split, fresh: bool, curves: bool) -> None:
    if not _is_to_train(stage, job, split, fresh):
        return
    state = patch_files.weak_model_state(stage.artifacts, job.kind, job.target_class)

    def save(epoch: int, weights: dict[str, Tensor]) -> None:
        patch_files.weak_model(stage.artifacts, job.kind, job.target_class, epoch).save(weights)

    with tensorboard(patch_files.weak_model_folder(stage.artifacts, job.kind, job.target_class), curves):
        trained = train_weak_model(job, split, stage.device, save, state)
    _record(stage, job, split, trained)
    state.path.unlink(missing_ok=True)


def _train_on(engine: Engine, stage: Stage, jobs: list[WeakJob], data: PatchData, fresh: bool) -> None:
    """One task a weak model, whose files are written once it is trained."""
    kind = jobs[0].kind
    splits = {job.target_class: data.split_for(job.target_class) for job in jobs}
    to_train = {job.target_class: job for job in jobs if _is_to_train(stage, job, splits[job.target_class], fresh)}
    for target_class, job in to_train.items():
        engine.submit(target_class, train_on_worker, job, splits[target_class], engine.device)
    for target_class, trained in progress(engine.results(), f"weak models, {engine.where()}", len(to_train)):
        for epoch, weights in trained.weights.items():
            file = patch_files.weak_model(stage.artifacts, kind, target_class, epoch)
            file.save({name: torch.tensor(value) for name, value in weights.items()})
        _record(stage, to_train[target_class], splits[target_class], trained)
        patch_files.weak_model_state(stage.artifacts, kind, target_class).remove()  # of one that was interrupted here


def _is_to_train(stage: Stage, job: WeakJob, split: Split, fresh: bool) -> bool:
    """Whether a weak model is not trained yet; its settings are recorded, or compared with those that are there."""
    kind, target_class = job.kind, job.target_class
    folder = patch_files.weak_model_folder(stage.artifacts, kind, target_class)
    if fresh and folder.exists():
        print(f"{job.name}: the old folder is now {set_aside(folder)}")
    described = {
        "classes": list(split.classes),
        "images": [len(split.train), len(split.valid), len(split.test)],
        "layers": [list(value.shape) for value in build_weak_network(stage.config, kind).parameters()],
        "kept_epochs": list(job.keep),
        "seed": stage.seed,
        "precision": stage.precision,
        "images_crc32": [split.train.fingerprint, split.valid.fingerprint],
        **dataclasses.asdict(job.settings),
    }
    file = patch_files.weak_model_settings(stage.artifacts, kind, target_class)
    record_or_compare(file, described, stage.config.part_of("weak models"))
    log = patch_files.weak_model_log(stage.artifacts, kind, target_class)
    if log.exists():
        print(f"{job.name}: already trained; best: epoch {best_epoch(log.load())}", flush=True)
    return not log.exists()


def _record(stage: Stage, job: WeakJob, split: Split, trained: Trained) -> None:
    """Write the log, which says that a weak model is trained, and print how good it is."""
    patch_files.weak_model_log(stage.artifacts, job.kind, job.target_class).save(trained.history)
    last, best = trained.history[-1], trained.history[trained.best_epoch]
    right, count = trained.test_right, len(split.test)
    print(
        f"{job.name}: best epoch {best.number} (train {best.train_accuracy:.2%}, valid {best.valid_accuracy:.2%}), "
        f"{sum(epoch.seconds for epoch in trained.history):.0f} s\n"
        f"    last epoch {last.number} (train {last.train_accuracy:.2%}, valid {last.valid_accuracy:.2%}, "
        f"test {right / count:.2%}: {right} of {count})",
        flush=True,
    )
    if not has_learned(trained.history, len(split.classes)):
        slower = f"{job.kind}_learning_rate={job.settings.learning_rate / 2:g}"
        print(
            f"{job.name}: it has learned nothing, so a patch of it says nothing; train it again (--target_class "
            f"{job.target_class} --fresh) with another seed (CNNMOD_SEED) or step size (--set {slower})",
            flush=True,
        )
