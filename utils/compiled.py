"""C++ beside the Python that calls it, compiled by the machine's own compiler when it is first needed."""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from utils.errors import UserError, reason
from utils.files import write_whole

VARIABLE = "CXX"  # the environment variable that names the compiler, as everywhere; empty: do without
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC")
# By what torch finds the processor capable of. Not -march=native: a library outlives its machine in a shared folder.
VECTOR_FLAGS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
}


def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler; None where there is none, or CXX is empty.

    Raises UserError where CXX names one that is not there.
    """
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return next(((name,) for name in COMPILERS if shutil.which(name)), None)
    command = tuple(shlex.split(asked))
    if command and not shutil.which(command[0]):
        raise UserError(f"environment variable {VARIABLE}: expected a C++ compiler, or nothing, given {asked!r}")
    return command or None


@functools.cache
def compiled(source: Path, compiler: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a C++ file: from `__pycache__` beside it, where it was compiled before, else compiled now.

    Raises UserError where that fails.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    command = [*compiler, *FLAGS, *VECTOR_FLAGS.get(capability, ()), str(source)]
    made_of = _digest("\0".join([*command, source.read_text(encoding="utf-8")]).encode())
    name = f"{source.stem}.{capability.lower()}.{made_of}"
    cache = source.parent / "__pycache__"
    try:
        for library in cache.glob(f"{name}.*.so"):
            if library.name == f"{name}.{_digest(library.read_bytes())}.so":  # else damaged
                return ctypes.CDLL(str(library))
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "library.so"
            _compile([*command, "-o", str(made)], source)
            library = cache / f"{name}.{_digest(made.read_bytes())}.so"
            try:
                write_whole(library, lambda file: file.write(made.read_bytes()))
            except UserError:  # a folder of somebody else's: the next process compiles again
                library = made
            return ctypes.CDLL(str(library))
    except OSError as error:
        raise _failed(source, command, reason(error)) from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(command: list[str], source: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise _failed(source, command, next((line for line in said if "error:" in line), said[0]))


def _failed(source: Path, command: list[str], why: str) -> UserError:
    return UserError(
        f"{source.name} could not be compiled by {command[0]}: {why}; mend that, or set {VARIABLE}= to do without"
    )
