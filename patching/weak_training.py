"""The training of weak models: which epochs are kept, what they take on the disk, and one training after the other."""

import argparse
import dataclasses

import torch
from torch import nn

from dataset.datasets import Split, fingerprint
from dataset.target_classes import HELP
from models.trained_on import check_trained_on
from models.training import Epoch, TrainingSettings, best_epoch, count_right, predict, train
from models.weights import count_parameters, cpu_state
from patching import files as patch_files
from patching.data import PatchData
from patching.weak_models import WeakKind, build_weak_network
from utils.disk import check_room, readable
from utils.files import set_aside
from utils.locks import held
from utils.progress import say
from utils.recorded_settings import record_or_compare
from utils.seeds import torch_seed
from utils.stage import Stage, stage_parser

BYTES_PER_PARAMETER = 4


def weak_training_arguments(documentation: str | None, kind: WeakKind) -> argparse.Namespace:
    """The command line of a script that trains weak models; its options stand as overrides in `set`."""
    parser = stage_parser(documentation)
    parser.add_argument("--target_class", default="all", help=f"one class of the strong model, {HELP}; all by default")
    parser.add_argument("--epochs", help="passes over the training images")
    parser.add_argument("--keep_epochs", help="epochs to keep, counted from 0: 84,169")
    parser.add_argument("--keep_every", help="keep every so-manyth epoch")
    parser.add_argument("--fresh", action="store_true", help="set what is there aside and train anew")
    arguments = parser.parse_args()
    for option, name in (("epochs", f"{kind}_epochs"), ("keep_epochs", "keep_epochs"), ("keep_every", "keep_every")):
        if getattr(arguments, option) is not None:
            arguments.set.append(f"{name}={getattr(arguments, option)}")
    return arguments


def epochs_to_keep(epochs: int, every: int, chosen: tuple[int, ...]) -> list[int]:
    """Which of `epochs` epochs, counted from 0, leave a checkpoint: every so-manyth, the chosen ones and the last."""
    return sorted({*range(every - 1, epochs, every), *(epoch for epoch in chosen if epoch < epochs), epochs - 1})


def bytes_to_write(parameters: int, kept: int, models: int) -> int:
    """What the checkpoints of `models` weak models take: the kept epochs and the best one, and one training's state."""
    state = 3  # its weights, the best weights, the optimizer's momentum
    return parameters * BYTES_PER_PARAMETER * ((kept + 1) * models + state)


def train_weak_models(
    stage: Stage,
    kind: WeakKind,
    target_classes: list[int],
    data: PatchData,
    settings: TrainingSettings,
    *,
    fresh: bool = False,
) -> None:
    """Train one weak model per target class, and keep the chosen epochs.

    Args:
        stage: configuration, files, device and seed.
        kind: of the weak models.
        target_classes: which ones.
        data: the images of all of them.
        settings: what the training is made of.
        fresh: set what is there aside, in place of going on or refusing.

    Raises UserError where the disk is too small, what is there was trained with other settings, or the images are not
    those of the strong model whose modules are to patch them.
    """
    check_trained_on(data.strong, stage.artifacts)
    keep = epochs_to_keep(settings.epochs, stage.config.keep_every, stage.config.keep_epochs)
    parameters = count_parameters(build_weak_network(stage.config, kind))
    logs = [patch_files.weak_model_log(stage.artifacts, kind, target_class) for target_class in target_classes]
    to_train = len(logs) if fresh else sum(not log.exists() for log in logs)
    needed = bytes_to_write(parameters, len(keep), to_train) if to_train else 0
    say(
        f"{to_train} of {len(target_classes)} weak models to train, {settings.epochs} epochs, {parameters:,} "
        f"parameters each; kept of each: {len(keep)} epochs and the best one; at the most {readable(needed)} below "
        f"{patch_files.weak_models_folder(stage.artifacts, kind)}"
    )
    advice = "keep fewer epochs (--keep_every, --keep_epochs), train one --target_class"
    check_room(patch_files.weak_models_folder(stage.artifacts, kind), needed, advice)
    for target_class in target_classes:
        with held(patch_files.weak_training_role(stage.artifacts, kind, target_class)):
            _train_weak_model(stage, kind, target_class, data.split_for(target_class), settings, keep, fresh)


def _train_weak_model(
    stage: Stage,
    kind: WeakKind,
    target_class: int,
    split: Split,
    settings: TrainingSettings,
    keep: list[int],
    fresh: bool,
) -> None:
    name = f"target class {target_class} ({split.classes[-1]})"
    folder = patch_files.weak_model_folder(stage.artifacts, kind, target_class)
    if fresh and folder.exists():
        print(f"{name}: the old folder is now {set_aside(folder)}")
    log = patch_files.weak_model_log(stage.artifacts, kind, target_class)
    torch.manual_seed(torch_seed(stage.seed, f"{kind} model", target_class))
    model = build_weak_network(stage.config, kind).to(stage.device, memory_format=torch.channels_last)
    described = {
        "classes": list(split.classes),
        "images": [len(split.train), len(split.valid), len(split.test)],
        "layers": [list(value.shape) for value in model.parameters()],
        "kept_epochs": keep,
        "seed": stage.seed,
        "precision": stage.precision,
        "images_crc32": [fingerprint(split.train), fingerprint(split.valid)],
        **dataclasses.asdict(settings),
    }
    record_or_compare(patch_files.weak_model_settings(stage.artifacts, kind, target_class), described)
    if log.exists():
        best = best_epoch(log.load())
        print(f"{name}: already trained; best: epoch {best}", flush=True)
        return

    def keep_epoch(epoch: Epoch, trained: nn.Module) -> None:
        if epoch.number in keep:
            patch_files.weak_model(stage.artifacts, kind, target_class, epoch.number).save(cpu_state(trained))

    state = patch_files.weak_model_state(stage.artifacts, kind, target_class)
    training = train(
        model,
        split.train,
        split.valid,
        settings,
        device=stage.device,
        dtype=stage.dtype,
        seed=int(torch_seed(stage.seed, f"training of the {kind} model", target_class) % 2**31),
        state_file=state,
        name=name,
        after_epoch=keep_epoch,
    )
    patch_files.weak_model(stage.artifacts, kind, target_class, training.best_epoch).save(training.best_weights)
    log.save(training.history)
    state.path.unlink(missing_ok=True)
    right = count_right(predict(model, split.test, stage.device), split.test.labels)
    last, best = training.history[-1], training.history[training.best_epoch]
    print(
        f"{name}: best epoch {best.number} (train {best.train_accuracy:.2%}, valid {best.valid_accuracy:.2%}), "
        f"last epoch {last.number} (train {last.train_accuracy:.2%}, valid {last.valid_accuracy:.2%}, "
        f"test {right / len(split.test):.2%}: {right} of {len(split.test)}); "
        f"{sum(epoch.seconds for epoch in training.history):.0f} s",
        flush=True,
    )
