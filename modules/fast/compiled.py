"""C++ beside the Python that calls it, compiled by the machine's own compiler when it is first needed."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from utils.errors import UserError, reason
from utils.files import write_whole
from utils.progress import steps

VARIABLE = "CXX"  # the environment variable that names the compiler, as everywhere; empty: do without
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC")
# By what torch finds the processor capable of. Not -march=native: a library outlives its machine in a shared folder.
VECTOR_FLAGS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
}


def compiler() -> tuple[str, ...] | None:
    """The command of a C++ compiler that works: it makes libraries, that load, of the C++ files beside this one.

    None if there is none or CXX is empty, and if none works, for which the reason is printed once.
    """
    asked = os.environ.get(VARIABLE)
    commands = ((name,) for name in COMPILERS if shutil.which(name)) if asked is None else _named_by(asked)
    problems = []
    for command in commands:
        if (problem := _problem_of(command)) is None:
            return command
        problems.append(problem)
    if problems:
        _say_once(f"{problems[0]}; torch convolves in its place: fix that, or set {VARIABLE}= to do without")
    return None


def _named_by(asked: str) -> list[tuple[str, ...]]:
    """The command that CXX holds, or none; one that is no command is reported."""
    try:
        command = tuple(shlex.split(asked))
        if not command or shutil.which(command[0]):
            return [command] if command else []
    except ValueError:  # a quotation without an end, a null byte
        pass
    expected = f"environment variable {VARIABLE}: expected a C++ compiler, or empty for none, given {asked!r}"
    _say_once(f"{expected}; torch convolves in its place: name one that is there, or set {VARIABLE}= to do without")
    return []


@functools.cache
def _problem_of(command: tuple[str, ...]) -> str | None:
    """Why a compiler cannot build the C++ files of this folder; None if it can."""
    try:
        for source in sorted(Path(__file__).parent.glob("*.cpp")):
            compiled(source, command)
    except UserError as error:
        return str(error)
    return None


@functools.cache
def _say_once(line: str) -> None:
    print(" ".join(line.split()), flush=True)


@functools.cache
def compiled(source: Path, compiler: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a C++ file: from the `__pycache__` next to it if it was compiled before, else compiled now.

    Raises UserError if that fails.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    command = [*compiler, *FLAGS, *VECTOR_FLAGS.get(capability, ()), str(source)]
    content = source.read_text(encoding="utf-8")
    made_of = "\0".join([sys.platform, platform.machine(), capability, *command, content])
    name = f"{source.stem}.{_digest(os.fsencode(made_of))}"
    cache = source.parent / "__pycache__"
    for library in cache.glob(f"{name}.*.so"):
        with contextlib.suppress(OSError):  # somebody else's, or just removed
            if library.name == _name(name, library.read_bytes()):  # else damaged
                return ctypes.CDLL(str(library))
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            made = Path(folder) / "library.so"
            with steps(f"compiling {source.name}", None):
                _compile([*command, "-o", str(made)], source)
            library = cache / _name(name, made.read_bytes())
            with contextlib.suppress(UserError, OSError):
                write_whole(library, lambda file: file.write(made.read_bytes()))
                return ctypes.CDLL(str(library))
            return ctypes.CDLL(str(made))  # the next process compiles again
    except OSError as error:
        raise _failed(source, command, reason(error)) from None


def _name(name: str, library: bytes) -> str:
    return f"{name}.{_digest(library)}.so"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(command: list[str], source: Path) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",  # of its messages, or what comes nearest
        errors="backslashreplace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said.append(f"exit code {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}")
        raise _failed(source, command, next((line for line in said if "error:" in line), said[0]))


def _failed(source: Path, command: list[str], why: str) -> UserError:
    return UserError(f"{source.name} could not be compiled and loaded by {command[0]}: {why}")
