"""How a script ends: on errors that a user can fix with one clear line and exit code 2, never a traceback.

On Ctrl-C, SIGTERM and a closed terminal it ends in order: it closes its files and ends its children.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from configures.setting import SettingError
from utils.tables import EscapingStream, for_stream, printable

EXIT_BAD_INPUT = 2
EXIT_WAITED_TOO_LONG = 3
EXIT_BROKEN_PIPE = 141  # as a shell says of a program that SIGPIPE ended
ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
# What errors for want of memory say: Python's threads, C++, the system, and torch's allocators of the CPU and of GPUs.
OUT_OF_MEMORY = (
    "can't start new thread",
    "Resource temporarily unavailable",  # as C++ says that no thread can be started
    "bad_alloc",
    "Cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
)
MEMORY_ADVICE = "end other programs, raise the limit (ulimit -v), or use fewer processes, images or a smaller batch"


class UserError(Exception):
    """Invalid input. The message is one line: expected, given, what to do next."""


class DamagedFile(UserError):
    """A file that is not what its stage writes."""


class MissingFile(UserError):
    """A file that its stage has not written yet."""


class WaitedTooLong(Exception):
    """Another process did not deliver in time; the state on disk is whole."""


def reason(error: BaseException) -> str:
    """The first line of what an error says, without the number and the path of the operating system's errors."""
    said = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or the room for one more thread, is exhausted."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`, turning what the user can fix into one line on stderr and an exit code."""
    _prepare_streams()
    stdout = sys.stdout
    # stderr is left alone: progress bars of libraries move their cursor on it.
    sys.stdout = EscapingStream(stdout)
    try:
        with ended_by_signals():
            main()
        sys.stdout.flush()
    except (UserError, SettingError) as error:
        _end(f"error: {error}", EXIT_BAD_INPUT)
    except WaitedTooLong as error:
        _end(f"error: {error}", EXIT_WAITED_TOO_LONG)
    except KeyboardInterrupt:
        _end("interrupted: the same command goes on from the last whole state", 130)
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        _end("", EXIT_BROKEN_PIPE)
    except SystemExit as end:  # after `--help`, for example, whose reader may have left, too
        _end("", end.code)
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            _end(f"error: out of memory: {reason(error)}; {MEMORY_ADVICE}", EXIT_BAD_INPUT)
        if not isinstance(error, OSError):
            raise
        # A lost permission, a name too long, a disk that went away: wherever a path is touched.
        _end(f"error: {error.filename or 'the system'}: {reason(error)}; fix that and try again", EXIT_BAD_INPUT)
    finally:
        sys.stdout = stdout


def _prepare_streams() -> None:
    """Escape what a stream's encoding lacks, for example in a path, and let a closed stream lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the closed stream's number: else a file of results could get that, and a library's messages.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (stays open)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(line: str, exit_code: int | str | None) -> NoReturn:
    with contextlib.suppress(OSError):
        text = for_stream(printable(" ".join(line.split())), sys.stderr)
        print(text, end="\n" if line else "", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter flushes once more when it ends, and would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(exit_code)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit (KeyboardInterrupt on Ctrl-C) at the first signal, and ignore all later ones.

    So a second signal breaks off neither the clean-up after the first one nor the end of the interpreter, which follows
    the outermost block: signals stay ignored behind it. Signals that are ignored before, as under nohup, are ignored
    all along. For the main thread, which alone receives signals.
    """
    before = {number: signal.getsignal(number) for number in _heeded()}
    arrived: list[int] = []

    def end(number: int, _: FrameType | None) -> NoReturn:
        arrived.append(number)
        for each in before:
            # Not SIG_IGN: Python complains about a signal that came just before it was set.
            signal.signal(each, lambda *_: None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, earlier in before.items():
            if earlier in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, signal.SIG_IGN)  # which holds to the very end, as Python's own handlers do not
            elif not arrived:  # a script that runs another one
                signal.signal(number, earlier)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals wait until the block is done, for steps that must not be broken off."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in _heeded()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        if arrived:
            signal.raise_signal(arrived[0])


def _heeded() -> list[int]:
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
