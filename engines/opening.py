"""From an engine's name on the command line to the engine."""

import argparse
import contextlib
import importlib.util
from collections.abc import Iterator

import torch

import global_configure
from engines.engine import Engine
from engines.local import LocalEngine
from utils.device import num_cores
from utils.errors import UserError

ENGINES = ("local", "ray")
PIP_LINE = 'pip install "ray>=2.40"'


def add_engine_options(parser: argparse.ArgumentParser, without: str) -> None:
    """What scripts take whose work can run on an engine; `without` says in words what happens without one."""
    parser.add_argument("--engine", choices=ENGINES, help=f"where tasks run; without it, {without}")
    parser.add_argument("--address", help="with --engine ray: a running cluster's, or auto; without it one starts here")


def check_engine_options(arguments: argparse.Namespace) -> None:
    """Raises UserError for an option of another engine, and for Ray where it is not installed."""
    if arguments.address is not None and arguments.engine != "ray":
        given = arguments.engine or "no engine"
        raise UserError(f"--address {arguments.address}: only with --engine ray, given {given}")
    if arguments.engine == "ray":
        check_ray_is_there("--engine ray")


def check_ray_is_there(wanted_by: str) -> None:
    """Raises UserError, with the command that installs it, where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"{wanted_by}: Ray is not installed; type: {PIP_LINE}")


def open_engine(arguments: argparse.Namespace, device: torch.device, jobs: int = 0) -> Engine:
    """The engine that the command line names, its workers started: `jobs` on this machine, 0 = as it has cores or GPUs.

    Raises UserError where there is no such engine.
    """
    check_engine_options(arguments)
    if arguments.engine == "ray":
        from engines.on_ray import RayEngine  # an extra: not everybody has it

        on_gpus = global_configure.device in ("auto", "cuda")
        if not on_gpus and device.type == "cuda":
            raise UserError(f"--engine ray: it chooses its GPUs itself; give CNNMOD_DEVICE=cuda instead of {device}")
        return RayEngine(address=arguments.address or "", count=jobs or num_cores(), on_gpus=on_gpus)
    gpus = [] if device.type != "cuda" else range(torch.cuda.device_count()) if device.index is None else [device.index]
    return LocalEngine(count=jobs or len(gpus) or num_cores(), gpus=gpus)


@contextlib.contextmanager
def chosen_engine(arguments: argparse.Namespace, device: torch.device) -> Iterator[Engine | None]:
    """The engine that the command line names, for as long as the block runs, or None where it names none."""
    if arguments.engine is None:
        yield None
        return
    with open_engine(arguments, device) as engine:
        yield engine
