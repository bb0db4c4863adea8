"""The first signal ends a process in order, and a second one does not disturb that."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import TOP

from utils.signals import ended_by_signals, signals_held_back

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


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as end, ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_held_back_comes_at_the_end() -> None:
    steps = []
    with pytest.raises(SystemExit) as end, ended_by_signals(), signals_held_back():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        steps.append("done")
    assert steps == ["done"]
    assert end.value.code == 143
