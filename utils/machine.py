"""The machine and the versions of packages that a result depends on: what machines that work together must share."""

import functools
import hashlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

TOP = Path(__file__).resolve().parent.parent
# Settings travel with the tasks; where files live is each machine's own.
LEFT_OUT = ("configures", "tests", "data", "build")


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def machine_facts(*packages: str) -> dict[str, str]:
    """Versions of Python and of packages, the system, the processor and its number of cores."""
    return {
        "Python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
    }


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
    """What of `found` has to be mended before it may work for `expected`; empty where nothing has."""
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
