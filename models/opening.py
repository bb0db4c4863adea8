"""A script's command line, and a stage of the pipeline opened from it: its configuration, files and device.

A configuration file is needed only for what differs from the defaults. Without one the network is what the strong
model's files say, else the one called like the model; and the other settings are sized to the dataset.
"""

import argparse
import dataclasses
import re
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

import global_configure
from configures.base import Config, current_name, known_configurations, load
from configures.setting import SettingError
from dataset.datasets import outline
from models import files as model_files
from models.adapted import short_name
from models.names import is_own_network, torchvision_classifiers
from models.own_code import named, not_named
from utils.artifacts import Artifacts
from utils.device import is_fast_in, make_deterministic, precision_name, resolve_device, resolve_precision
from utils.errors import EXIT_BAD_INPUT, UserError
from utils.progress import say, show_progress
from utils.tables import for_stream, printable
from utils.tensorboard import check_tensorboard

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
FEW_IMAGES = 5_000  # training images; below, batches are smaller and populations, too
LEAST_STEPS = 2_000  # of a training


@dataclass(frozen=True)
class Stage:
    """The settings, files and device of one run of one script."""

    config: Config
    artifacts: Artifacts
    device: torch.device
    dtype: torch.dtype  # the arithmetic of training and of module evaluation
    seed: int

    @property
    def precision(self) -> str:
        """The name of `dtype`."""
        return precision_name(self.dtype)


def open_stage(arguments: argparse.Namespace, *, is_new: bool = False) -> Stage:
    """Everything that a script needs; prints where its files are. Raises UserError or SettingError.

    `is_new`: the script makes a new strong model, so the recorded settings of an earlier one do not count.
    """
    show_progress(not arguments.quiet)
    if getattr(arguments, "tensorboard", False):
        check_tensorboard()
    root_dir = Path(global_configure.root_dir).resolve()
    given = (each.partition("=") for each in arguments.set)
    arguments.set = [f"{current_name(name)}{equals}{value}" for name, equals, value in given]
    config = load(arguments.model, arguments.dataset, arguments.set, partial(default_config, is_new=is_new))
    is_named = config.name in known_configurations() or any(each.startswith("network=") for each in arguments.set)
    if is_named:
        named(config.network_name)
    else:
        not_named(config.network_name, f"--set {shlex.quote(f'network={config.network_name}')}")
    device = resolve_device(global_configure.device)
    dtype = resolve_precision(global_configure.precision, device)
    make_deterministic(global_configure.seed)
    say(f"root_dir: {root_dir}  configuration: {config.name}  device: {device}")
    artifacts = Artifacts(root_dir, config.model, config.dataset, tuple(arguments.set))
    if config.name not in known_configurations() and (is_new or not model_files.network_settings(artifacts).exists()):
        say(f"no file configures/{config.name}.py, so: {_in_words(config)}")
    if not is_fast_in(dtype, device):
        say(f"{precision_name(dtype)}: this {device.type} has no instructions for it; float32 is faster")
    if arguments.set:
        say(f"for this run: {' '.join(arguments.set)}")
    return Stage(config, artifacts, device, dtype, global_configure.seed)


def default_config(model: str, dataset: str, *, is_new: bool = False) -> Config:
    """The configuration of a model and a dataset that have no file; `is_new` as `open_stage` says.

    Raises SettingError for names that can be no folder's, UserError where the dataset is not there.
    """
    if not NAME.fullmatch(model):
        raise SettingError(
            f"--model {model}: expected letters, digits, _, - and . (it names the folder of the files); "
            f"name the network by --set network={model}"
        )
    artifacts = Artifacts(Path(global_configure.root_dir).resolve(), model, dataset)
    recorded = None if is_new else model_files.network_settings(artifacts).load_if_there()
    form = () if recorded is None else (recorded.image_side, recorded.resize)
    try:
        classes, num_images = outline(dataset, *form)
    except UserError as error:
        raise UserError(f"there is no file configures/{model}_{dataset}.py, and {error}") from None
    if len(classes) < 2:
        raise UserError(f"dataset {dataset} has one class, {classes[0]}: expected a folder each of 2 or more")
    config = sized_config(model, dataset, len(classes), num_images)
    if recorded is not None:
        return dataclasses.replace(config, **recorded.settings)
    if not is_own_network(model) and model in torchvision_classifiers():
        return dataclasses.replace(config, network=f"torchvision:{model}")
    return config


def sized_config(model: str, dataset: str, num_classes: int, num_images: int) -> Config:
    """The settings for a dataset of so many classes and training images, for a machine without a GPU."""
    few = num_images < FEW_IMAGES
    batch_size = 32 if few else 128
    steps_per_epoch = max(1, num_images // batch_size)
    return Config(
        model=model,
        dataset=dataset,
        num_classes=num_classes,
        epochs=int(np.clip(-(-LEAST_STEPS // steps_per_epoch), 30 if few else 60, 100)),
        schedule="one_cycle",
        learning_rate=0.01 if few else 0.025,
        batch_size=batch_size,
        weight_decay=5e-4,
        rank_scale=1.0,
        population=20 if few else 40,
        parents=10 if few else 20,
        elites=4 if few else 8,
        generations=15 if few else 40,
        search_images=2000,
        sensitivity_images=2000,
        accuracy_thresholds=((2, 0.90), (4, 0.80), (8, 0.70), (10, 0.65)),
        mask_steps=100 if few else 500,
        mask_batch_size=32 if few else 64,
    )


def _in_words(config: Config) -> str:
    """The settings that no file gives, those that most people want to know first."""
    names = ["num_classes", "image_side", "epochs", "batch_size", "learning_rate"]
    names += ["population", "generations", "mask_steps"]
    return ", ".join(
        [f"network={short_name(config.network_name)}", *(f"{name}={getattr(config, name)}" for name in names)]
    )


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line, and whose help is the script's docstring."""

    def __init__(self, documentation: str | None) -> None:
        super().__init__(
            description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        line = printable(" ".join(message.split()))
        text = f"error: {line}; {self.prog} --help lists the options"
        print(for_stream(text, sys.stderr), file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def stage_parser(documentation: str | None) -> OneLineParser:
    """A parser with what all stages take."""
    parser = OneLineParser(documentation)
    parser.add_argument("--model", required=True, help="the network: simcnn, rescnn, simcnn_x0_25 ...")
    parser.add_argument("--dataset", required=True, help="the dataset: cifar10, svhn, svhn_5, digits ...")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting of the configuration file"
    )
    add_quiet(parser)
    return parser


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """What all scripts take that may be at work for some seconds."""
    parser.add_argument("--quiet", action="store_true", help="print results and errors alone, not what is being done")
