"""Whatever the standard streams are, a script ends with its exit code and without a traceback."""

import os
import subprocess
import sys

import pytest
from conftest import TOP

SCRIPT = """
import sys
from utils.errors import UserError, run
def main():
    print("/tmp/\\u0141, \\udcff", flush=True)  # a Polish letter, and a file name's byte that is not UTF-8
    print("progress", file=sys.stderr)
    if sys.argv[1] == "refuse":
        raise UserError("expected \\u0141")
run(main)
"""


def result_of(task: str, *redirections: str, encoding: str = "utf-8") -> tuple[int, bytes, bytes]:
    command = " ".join(['exec "$@"', *redirections])
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-c", SCRIPT, task],
        cwd=TOP,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": str(TOP)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_letters_that_the_encoding_lacks_are_escaped(encoding: str) -> None:
    letter = "\u0141".encode(encoding, errors="backslashreplace")
    printed = b"/tmp/" + letter + rb", \udcff" + b"\n"
    assert result_of("end", encoding=encoding) == (0, printed, b"progress\n")
    assert result_of("refuse", encoding=encoding) == (2, printed, b"progress\nerror: expected " + letter + b"\n")


@pytest.mark.parametrize("redirections", [(">&-",), ("2>&-",), (">&-", "2>&-"), ("<&-", ">&-", "2>&-")])
def test_closed_streams_change_nothing_else(redirections: tuple[str, ...]) -> None:
    exit_code, output, error = result_of("end", *redirections)
    assert (exit_code, output == b"", error == b"") == (0, ">&-" in redirections, "2>&-" in redirections)
    exit_code, _, error = result_of("refuse", *redirections)
    assert exit_code == 2
    assert b"Traceback" not in error


def test_the_number_of_a_closed_stream_is_not_given_to_a_file() -> None:
    """Else what a library writes to its standard output would stand in a file of results."""
    script = SCRIPT.replace("def main():", 'def main():\n    assert open(sys.executable, "rb").fileno() > 2')
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script, "end"]
    assert subprocess.run(command, cwd=TOP, env={"PYTHONPATH": str(TOP)}, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_streams_that_are_full_are_an_exit_code() -> None:
    exit_code, _, error = result_of("end", ">/dev/full")
    assert (exit_code, error) == (2, b"error: the system: No space left on device; mend that and try again\n")
    assert result_of("end", ">/dev/full", "2>/dev/full")[0] == 2


def test_a_reader_that_left_ends_a_script_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", SCRIPT, "end"]
    done = subprocess.run(command, cwd=TOP, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
