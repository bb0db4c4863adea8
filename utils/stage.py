"""What every script of the pipeline opens with: its command line, its configuration, its files, its device."""

import argparse
import sys
from dataclasses import dataclass
from typing import NoReturn

import torch

from configures.base import Config
from utils.artifacts import Artifacts
from utils.device import precision_name
from utils.errors import EXIT_BAD_INPUT
from utils.terminal import printable


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
        line = printable(" ".join(message.split()))
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
    add_quiet(parser)
    return parser


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """What all scripts take that may be at work for some seconds."""
    parser.add_argument("--quiet", action="store_true", help="print results and errors alone, not what is being done")
