"""What a user can mend is one clear line and exit code 2, never a traceback."""

import os
import sys
from collections.abc import Callable

from configures.setting import SettingError
from utils.signals import ended_by_signals

EXIT_BAD_INPUT = 2
EXIT_WAITED_TOO_LONG = 3


class UserError(Exception):
    """Something that the user can mend; the message says what was expected, what was given and what to do next."""


class DamagedFile(UserError):
    """A file that is not what its stage writes."""


class WaitedTooLong(Exception):
    """Another process did not deliver in time; the state on disk is whole."""


def reason(error: BaseException) -> str:
    """The first line of what an error says, without the number and the path of the operating system's errors."""
    said = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`, turning what the user can mend into one line on stderr and an exit code."""
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
    except BrokenPipeError:  # the reader of a pipe left; point stdout away so that the interpreter's flush is silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a lost permission, a name too long, a disk that went away: wherever a path is touched
        _end(
            f"error: {error.filename or 'the system'}: {reason(error)}; mend that and try again",
            EXIT_BAD_INPUT,
        )


def _end(line: str, exit_code: int) -> None:
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(exit_code)
