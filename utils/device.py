"""This machine: the device and the arithmetic that `global_configure.py` names, cores, memory, processor, versions.

Threads that use one core each never wait for each other, so many small pieces of work take two thirds of the time that
they take one after the other on all cores. The result of a piece does not depend on the number of threads.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from utils.errors import UserError, reason

Item = TypeVar("Item")
Result = TypeVar("Result")
KEPT_BYTES = 30 * 2**20  # below 32 MiB, glibc's DEFAULT_MMAP_THRESHOLD_MAX
TOP = Path(__file__).resolve().parent.parent
# Settings travel with the tasks; where files live is each machine's own.
LEFT_OUT = ("configures", "tests", "data", "build")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; anything else is torch's own name of a device.

    Not `mps`, which nobody has tried: who names it has it. Raises UserError for a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        # torch's own words for a kind of device that it was built without fill a page.
        why = "this torch has none" if isinstance(error, NotImplementedError) else reason(error)
        raise UserError(
            f"device {name} cannot be used: {why}; expected auto, cpu, cuda or mps, where there is one"
        ) from None
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16. Raises UserError for another name, and for bfloat16 on MPS, where it was never tried."""
    if name not in PRECISIONS:
        raise UserError(f"precision {name}: expected one of {', '.join(PRECISIONS)}")
    if device.type == "mps" and PRECISIONS[name] != torch.float32:
        raise UserError(f"precision {name}: expected float32 on device mps; set precision in global_configure.py")
    return PRECISIONS[name]


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 what comes from `device`: there, but for MPS, which has no float64, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def is_fast_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has instructions for `dtype`: without them, bfloat16 takes ten times as long."""
    if dtype != torch.bfloat16:
        return True
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, the first with them
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_tiles() -> bool:
    """Whether the processor multiplies whole tiles of bfloat16 (AMX), as far as this torch can tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def precision_name(dtype: torch.dtype) -> str:
    """The name of this dtype, as `resolve_precision` takes it."""
    return str(dtype).removeprefix("torch.")


def num_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_deterministic(seed: int) -> None:
    """Seed torch's global generators and ask for algorithms that give the same bits every time."""
    torch.manual_seed(seed)
    # What `use_deterministic_algorithms` does, too, but that imports torch's compiler first: a second of each process.
    torch.set_deterministic_debug_mode("warn")
    # Else new tensors are written twice, first with NaN. torch makes the attribute when it is imported.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before the first product


def through_compiler(network: nn.Module) -> nn.Module:
    """The network through torch's compiler, which is told where torch has to give the same bits every time."""
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
    return cast(nn.Module, torch.compile(network))  # of a module torch makes a module, but types a function


def keep_freed_memory() -> None:
    """Let the C library use the memory of one batch's feature maps again for the next one's.

    glibc gives large blocks back to the system when they are freed, and has every page of the next one zeroed; but once
    a block of its own mapping was freed, it keeps blocks up to that size, and twice as much in all (malloc/malloc.c, on
    the dynamic threshold). A fifth of the time of one thread that evaluates a population in float32, and some 7 % of
    that of a step of the gradient search. Does nothing to other libraries.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


@contextmanager
def core_threads(device: torch.device, workers: int | None = None) -> Iterator[Executor]:
    """A pool of `workers` threads (default: as many as torch may use) of one core each; off the CPU, of one thread."""
    threads = torch.get_num_threads()
    workers = (workers or threads) if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def each_on_a_core(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """The results of `work` in the items' order. `work` enters inference mode itself: torch keeps it per thread."""
    if device.type != "cpu" or torch.get_num_threads() == 1:
        yield from map(work, items)
        return
    with core_threads(device) as pool:
        yield from pool.map(work, items)


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def machine_facts(*packages: str) -> dict[str, str]:
    """The commit of the code, versions of Python and of packages, the system, the processor, its number of cores."""
    return {
        "commit": commit(),
        "Python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
    }


def commit() -> str:
    """The commit of the code, with a + behind it where the code differs from it; "unknown" without git."""
    if not (TOP / ".git").exists():  # else another project's, in which this one is installed
        return "unknown"
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def utc_now() -> str:
    """The date and time, as ISO 8601 writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Node:
    """One machine, as far as results depend on it."""

    host: str
    processor: str
    project: str  # a digest of the sources
    torch: str
    numpy: str


@functools.cache
def this_node() -> Node:
    """The machine that this process runs on."""
    return Node(platform.node(), processor_and_instructions(), sources_digest(TOP), torch.__version__, np.__version__)


def difference(expected: Node, found: Node) -> str:
    """What of `found` has to be fixed before it may work for `expected`; empty where nothing has."""
    pairs = {name: (getattr(expected, name), getattr(found, name)) for name in ("project", "torch", "numpy")}
    return "; ".join(
        f"{name}: {found} there, {wanted} here" for name, (wanted, found) in pairs.items() if wanted != found
    )


def processor_and_instructions() -> str:
    """The processor's name, and the vector instructions that torch and our own C++ use of it."""
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"


def sources_digest(top: Path) -> str:
    """A number (hexadecimal) of all Python and C++ files of the rooms below `top`."""
    digest = hashlib.sha256()
    for package in sorted(path.parent for path in top.glob("*/__init__.py") if path.parent.name not in LEFT_OUT):
        for path in sorted([*package.rglob("*.py"), *package.rglob("*.cpp")]):
            digest.update(f"{path.relative_to(top).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
