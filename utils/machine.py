"""The machine and the versions of packages that a result depends on."""

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path


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
