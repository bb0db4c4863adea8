"""What every script of the pipeline opens with: its command line, its configuration, its files, its device."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

import global_configure
from configures.base import Config, load
from utils.artifacts import Artifacts
from utils.device import is_fast_in, make_deterministic, precision_name, resolve_device, resolve_precision
from utils.errors import EXIT_BAD_INPUT


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


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line, and whose help is the script's docstring."""

    def __init__(self, documentation: str | None) -> None:
        super().__init__(
            description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        print(f"error: {line}; {self.prog} --help lists the options", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def stage_parser(documentation: str | None) -> OneLineParser:
    """A parser with what all stages take."""
    parser = OneLineParser(documentation)
    parser.add_argument("--model", required=True, help="the network: simcnn, rescnn, simcnn_x0_25 ...")
    parser.add_argument("--dataset", required=True, help="the dataset: cifar10, svhn, svhn_5, digits ...")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting of the configuration file"
    )
    return parser


def open_stage(arguments: argparse.Namespace, *, announce: bool = True) -> Stage:
    """Everything that a script needs; prints where its files are. Raises UserError or SettingError."""
    config = load(arguments.model, arguments.dataset, arguments.set)
    root_dir = Path(global_configure.root_dir).resolve()
    device = resolve_device(global_configure.device)
    dtype = resolve_precision(global_configure.precision, device)
    make_deterministic(global_configure.seed)
    if announce:
        print(f"root_dir: {root_dir}  configuration: {config.name}  device: {device}", flush=True)
    if announce and not is_fast_in(dtype, device):
        print(f"{precision_name(dtype)}: this {device.type} has no instructions for it; float32 is faster", flush=True)
    if arguments.set:
        print(f"for this run: {' '.join(arguments.set)}", flush=True)
    artifacts = Artifacts(root_dir, config.model, config.dataset, tuple(arguments.set))
    return Stage(config, artifacts, device, dtype, global_configure.seed)
