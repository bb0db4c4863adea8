"""Stopped processes are mentioned, each once."""

import subprocess
import sys
import time

import pytest

from utils import processes as module
from utils.processes import Stopped, is_stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")


def test_a_stopped_process_is_mentioned_once_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        stopped, processes = Stopped(), {"explorer_0": process.pid}
        assert stopped.news(processes) == [] and not is_stopped(process.pid)
        for turn in range(2):
            process.send_signal(19)
            while not is_stopped(process.pid):
                time.sleep(0.01)
            assert stopped.news(processes) == []
            clock[0] += 6
            (line,) = stopped.news(processes)
            assert line.startswith(f"explorer_0 (pid {process.pid}) is stopped: `kill -CONT {process.pid}` continues")
            clock[0] += 600
            assert stopped.news(processes) == []
            process.send_signal(18)
            while is_stopped(process.pid):
                time.sleep(0.01)
            assert stopped.news(processes) == [], turn
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)
