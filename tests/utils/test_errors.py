"""Whatever the standard streams are, a script ends with its exit code and without a traceback."""

import os
import subprocess
import sys

import pytest
from conftest import TOP

from utils.errors import run

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

HELP = """
import argparse
from utils.errors import run
run(lambda: argparse.ArgumentParser().parse_args(["--help"]))
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
    assert (exit_code, error) == (2, b"error: the system: No space left on device; fix that and try again\n")
    assert result_of("end", ">/dev/full", "2>/dev/full")[0] == 2


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.replace("print(", "print(100000 * ", 1), HELP])
def test_a_reader_that_left_ends_a_script_in_silence(script: str) -> None:
    """With the exit code of a program that SIGPIPE ended; 0 where all was said when the reader left."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", script, "end"]
    done = subprocess.run(command, cwd=TOP, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    # argparse's own printing of help hides it from Python 3.11 on.
    assert done.returncode in ((0, 141) if script is HELP else (141,)) and done.stderr == b""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        RuntimeError("Resource temporarily unavailable"),
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_exhausted_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: out of memory: ") and "ulimit -v" in line


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_no_room_for_another_thread_is_one_line() -> None:
    script = """
import resource, threading, time
from utils.errors import run
def main():
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**26, -1))
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: out of memory: can't start new thread; ")
