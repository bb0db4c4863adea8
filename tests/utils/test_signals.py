"""The first signal ends a process in order, and a second one does not disturb that."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import TOP

from utils.errors import ENDING, ended_by_signals, signals_held_back

CLEAN_UP = """
import signal, sys, time
from utils.errors import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it may be ignored
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(1)
        print("clean", flush=True)
run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_break_off_the_clean_up(first: signal.Signals, second: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLEAN_UP], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(second)
    output, error = process.communicate(timeout=60)
    assert output == "clean\n"
    assert process.returncode == (143 if first == signal.SIGTERM else 130)
    assert "Traceback" not in error


AT_EXIT = """
import atexit, signal, time
from utils.errors import run
signal.signal(signal.SIGINT, signal.default_int_handler)
@atexit.register
def at_exit():
    print("at exit", flush=True)
    time.sleep(0.3)
def main():
    print("ready", flush=True)
    time.sleep({seconds})
run(main)
"""


@pytest.mark.parametrize("seconds", [60, 0], ids=["interrupted", "at its own end"])
def test_a_signal_while_the_interpreter_ends_says_nothing(seconds: int) -> None:
    """Libraries clean up then, and a KeyboardInterrupt in them would be a traceback."""
    script = [sys.executable, "-c", AT_EXIT.format(seconds=seconds)]
    process = subprocess.Popen(script, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    if seconds:
        process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "at exit\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, error = process.communicate(timeout=60)
    said = "interrupted: the same command goes on from the last whole state\n"
    assert (process.returncode, error) == ((130, said) if seconds else (0, ""))


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_the_end_signals_are_ignored() -> None:
    with pytest.raises(SystemExit) as end, ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    for number in ENDING:
        signal.raise_signal(number)


def test_a_script_that_runs_another_one_is_still_ended_by_signals() -> None:
    with pytest.raises(SystemExit) as end, ended_by_signals():
        with ended_by_signals():
            pass
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143


def test_a_signal_that_is_held_back_comes_at_the_end() -> None:
    steps = []
    with pytest.raises(SystemExit) as end, ended_by_signals(), signals_held_back():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        steps.append("done")
    assert steps == ["done"]
    assert end.value.code == 143
