"""Train a strong model, or evaluate the one that is there.

    python train.py --model simcnn_x0_25 --dataset digits
    python train.py --model simcnn --dataset cifar10 --epochs 200 --learning_rate 0.01 --early_stop
    python train.py --model simcnn --dataset cifar10 --evaluation

The weights of the best validation accuracy are kept in data/MODEL_DATASET/entire_model.pth. An interrupted training
goes on when the same command is given again. A training that goes on after its early stop sets the earlier weights
aside, as entire_model.pth.old_1: module sets and kernel importance are of those. Method: Qi et al., ASE 2022,
section 4.1.
"""

import argparse
import time

import torch

from dataset.images import Split, record_of
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import count_parameters, count_right, predict
from models.files import NetworkSettings
from models.input_forms import can_tell_from_chance, is_near_chance
from models.modular import check_can_be_modular
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import (
    build_strong_network,
    check_is_made_alike,
    check_network_settings,
    graph_of,
    load_strong_model,
    load_strong_split,
    set_folder_aside,
    set_other_model_aside,
    show_if_few,
    strong_model_training,
)
from models.training import Epoch, train
from utils.errors import UserError, run
from utils.files import check_writable
from utils.locks import held
from utils.progress import say, time_in_words
from utils.seeds import torch_seed
from utils.tensorboard import add_tensorboard, tensorboard


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--epochs", help="passes over the training images")
    parser.add_argument("--learning_rate", help="the SGD step size")
    parser.add_argument("--batch_size", help="images per training step")
    parser.add_argument("--schedule", help="step or one_cycle")
    parser.add_argument("--early_stop", action="store_true", help="end when `patience` epochs bring nothing better")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--evaluation", action="store_true", help="do not train: report the model that is there")
    add_tensorboard(parser)
    parser.add_argument("--fresh", action="store_true", help="set the folder's trained model aside and start anew")
    arguments = parser.parse_args()
    for name in ("epochs", "learning_rate", "batch_size", "schedule"):
        if getattr(arguments, name) is not None:
            arguments.set.append(f"{name}={getattr(arguments, name)}")
    stage = open_stage(arguments)
    # A published model has an order of its images; one that is trained here takes them as they are.
    split = load_strong_split(stage.config, stage.artifacts) if arguments.evaluation else load_split(stage.config)
    counts = f"{len(split.train)} train, {len(split.valid)} valid, {len(split.test)} test"
    say(f"images: {counts}; {len(split.classes)} classes")
    show_if_few(split.valid, split.classes)

    if arguments.evaluation:
        report(load_strong_model(stage.config, stage.artifacts, stage.device).network, split, stage)
        return
    if stage.config.modular != "none":
        network, shape = build_strong_network(stage.config), graph_of(stage.config).image_shape
        check_can_be_modular(network, stage.config.modular, shape)
    with held(model_files.training_role(stage.artifacts)), tensorboard(stage.artifacts.folder, arguments.tensorboard):
        train_strong_model(stage, split, arguments)


def train_strong_model(stage: Stage, split: Split, arguments: argparse.Namespace) -> None:
    """Train from the first epoch, or from where an earlier run ended, and write the best epoch's weights."""
    if arguments.fresh:
        set_folder_aside(stage.artifacts, model_files.training_role(stage.artifacts))
    check_writable(stage.artifacts.folder)
    trained = model_files.entire_model(stage.artifacts)
    if trained.exists() and not model_files.training_state(stage.artifacts).exists():
        raise UserError(f"{trained.path} was not trained here: --fresh sets it aside and trains anew")

    graph = graph_of(stage.config)  # a network that later stages cannot take is refused before it is trained
    if model_files.training_state(stage.artifacts).exists():
        check_network_settings(stage.config, stage.artifacts)
    model_files.network_settings(stage.artifacts).save(NetworkSettings.of(stage.config, graph))
    torch.manual_seed(torch_seed(stage.seed, "initial weights"))
    model = build_strong_network(stage.config)
    check_is_made_alike(stage.config, model)
    model = model.to(stage.device).to(memory_format=torch.channels_last)
    say(f"{stage.config.model}: {count_parameters(model):,} parameters")
    epochs: list[Epoch] = []

    def log(epoch: Epoch, _: torch.nn.Module) -> None:
        epochs.append(epoch)
        left = (stage.config.epochs - epoch.number - 1) * epoch.seconds
        say(
            f"epoch {epoch.number:3d}  loss {epoch.train_loss:.4f}  train {epoch.train_accuracy:.2%}  "
            f"valid {epoch.valid_accuracy:.2%}  {epoch.seconds:.1f} s, about {time_in_words(left)} left"
        )

    start = time.perf_counter()
    training = train(
        model,
        split.train,
        split.valid,
        strong_model_training(stage.config),
        device=stage.device,
        dtype=stage.dtype,
        seed=stage.seed,
        state_file=model_files.training_state(stage.artifacts),
        patience=stage.config.patience if arguments.early_stop else None,
        compiled=arguments.compile,
        num_classes=stage.config.num_classes,
        after_epoch=log,
    )
    print(f"trained {len(epochs)} epochs in {time.perf_counter() - start:.0f} s; best: epoch {training.best_epoch}")
    set_other_model_aside(stage.artifacts, training.best_weights, model_files.training_role(stage.artifacts))
    model_files.image_order(stage.artifacts).remove()  # of a published model, whose taking was interrupted
    model_files.trained_on(stage.artifacts).save(record_of(split))
    model_files.entire_model(stage.artifacts).save(training.best_weights)
    model_files.training_log(stage.artifacts).save(training.history)
    report(load_strong_model(stage.config, stage.artifacts, stage.device).network, split, stage)
    print(f"saved {model_files.entire_model(stage.artifacts).path}")


def report(model: torch.nn.Module, split: Split, stage: Stage) -> None:
    """Print the strong model's accuracy with its counts, and whether it has learnt anything."""
    for name, images in (("valid", split.valid), ("test", split.test)):
        logits = predict(model, images, stage.device)
        right = count_right(logits, images.labels)
        print(f"{name} accuracy {right / len(images):.2%} ({right} of {len(images)})")
        if name == "valid" and not can_tell_from_chance(images.labels):
            print("too few images to tell whether that is better than chance: add images")
        elif name == "valid" and is_near_chance(right, images.labels, logits.argmax(1).numpy()):
            print("that is hardly better than chance, and its modules would know nothing: train longer, or add images")


if __name__ == "__main__":
    run(main)
