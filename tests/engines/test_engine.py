"""What all engines do, tried on processes of this machine."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sample_tasks
import torch
from conftest import TOP

import global_configure
from engines.engine import Returned, in_order, run_task
from engines.local import LocalEngine
from engines.opening import open_engine
from utils.device import Node, difference, sources_digest, this_node
from utils.errors import UserError, WaitedTooLong

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("local engine")]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(count=2) as opened:
        yield opened


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_results_come_as_they_end_with_their_keys(engine, tmp_path):
    shared, go = engine.share(np.arange(3)), tmp_path / "go"
    engine.submit("slow", sample_tasks.waits, str(tmp_path / "notes"), str(go))
    for factor in range(5):
        engine.submit(factor, sample_tasks.scaled, shared, factor)
    results = []
    for result in engine.results():
        results.append(result)
        if len(results) == 5:
            go.touch()
    assert results[-1] == ("slow", "done")
    assert {key: value.tolist() for key, value in results[:-1]} == {f: [0, f, 2 * f] for f in range(5)}
    assert list(engine.results()) == []
    assert (engine.workers, engine.where(), engine.device) == (2, "2 processes of this machine", "cpu")
    assert engine.nodes == {this_node().host: this_node()}


def test_a_worker_that_dies_is_replaced_and_its_task_runs_again(engine, tmp_path):
    engine.submit(0, sample_tasks.dies_the_first_times, 2, str(tmp_path / "notes"))
    engine.submit(1, sample_tasks.scaled, np.ones(1), 2)
    assert dict(engine.results()) == {0: "done", 1: np.full(1, 2.0)}


@pytest.mark.long
def test_a_task_that_fails_three_times_ends_it_with_what_it_said(engine, tmp_path):
    notes = tmp_path / "notes"
    engine.submit(0, sample_tasks.fails, str(notes))
    engine.submit(1, sample_tasks.slow, 600)
    with pytest.raises(UserError, match=r"failed 3 times: sample_tasks.fails on .*: ZeroDivisionError: as always"):
        list(engine.results())
    assert notes.read_text() == "started\n" * 3
    assert engine.tasks == {}
    notes.unlink()
    engine.submit(0, sample_tasks.dies_the_first_times, 3, str(notes))
    with pytest.raises(UserError, match="failed 3 times: a worker was ended by SIGKILL"):
        list(engine.results())


@pytest.mark.long
def test_what_the_user_can_mend_is_not_tried_again(engine):
    engine.submit(0, sample_tasks.complains)
    with pytest.raises(UserError, match=r"^expected 1, given 2 \(on "):
        list(engine.results())


def test_no_wait_is_endless(engine, monkeypatch):
    monkeypatch.setattr(global_configure, "wait_limit", 1)
    engine.submit(0, sample_tasks.slow, 600)
    with pytest.raises(WaitedTooLong, match="the next of 1 tasks"):
        list(engine.results())


def test_one_gpu_that_is_named_is_the_only_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("engines.opening.LocalEngine", lambda count, gpus: (count, list(gpus)))
    local = Namespace(engine="local", address=None)
    found = [open_engine(local, torch.device(name), 3) for name in ("cuda", "cuda:1", "cpu")]
    assert found == [(3, [0, 1, 2, 3]), (3, [1]), (3, [])]


def test_a_stopped_worker_and_a_long_silence_are_mentioned(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("utils.processes.is_stopped", lambda pid: pid == 4321)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    engine = LocalEngine(count=0)
    monkeypatch.setattr(LocalEngine, "processes", lambda _: {"worker_0": 4320, "worker_1": 4321})

    def wait(_: LocalEngine, seconds: float) -> tuple[int, Returned] | None:
        clock[0] += seconds
        return (0, Returned(this_node(), "done")) if clock[0] > 70 else None

    monkeypatch.setattr(LocalEngine, "_wait", wait)
    engine.submit(0, sample_tasks.complains)
    assert list(engine.results()) == [(0, "done")]
    stopped, silence = capsys.readouterr().out.splitlines()
    assert stopped.startswith("worker_1 (pid 4321) is stopped: `kill -CONT 4321` continues it")
    assert silence == "no task of 1 has ended for 61 s (0 process of this machine)"


@pytest.mark.long
def test_tasks_can_be_cancelled(engine):
    for key in range(4):
        engine.submit(key, sample_tasks.slow, 600)
    with pytest.raises(ValueError, match="expected a key of its own, given 3 twice"):
        engine.submit(3, sample_tasks.slow, 600)
    engine.cancel()
    engine.submit(0, sample_tasks.scaled, np.ones(1), 1)
    assert len(list(engine.results())) == 1


KILLED_DRIVER = """
import os
import sample_tasks
from engines.local import LocalEngine
if __name__ == "__main__":
    engine = LocalEngine(count=1)
    engine.submit(0, sample_tasks.slow, 0)
    ((_, pid),) = engine.results()
    engine.submit(1, sample_tasks.slow, 600)
    print(pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def search_path() -> dict[str, str]:
    """The environment of a program that imports what the tests do."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "tests" / "engines")])}


def test_workers_end_with_the_engine_and_with_the_driver():
    with LocalEngine(count=1) as engine:
        engine.submit(0, sample_tasks.slow, 0)
        ((_, pid),) = engine.results()
        engine.submit(1, sample_tasks.slow, 600)
    assert not is_running(pid)
    # A driver that is killed, its worker in the middle of a task.
    driver = subprocess.run([sys.executable, "-c", KILLED_DRIVER], env=search_path(), capture_output=True, text=True)
    pid, deadline = int(driver.stdout), time.monotonic() + 20
    assert driver.returncode == -signal.SIGKILL
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def node(**other: str) -> Node:
    return Node(**{"host": "a", "processor": "p", "project": "1", "torch": "2", "numpy": "3", **other})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's status of processes")
def test_a_worker_ignores_ctrl_c_from_its_first_moment_on():
    """It is told to only after its imports, which take seconds; until then it would print a traceback."""
    heeded = signal.getsignal(signal.SIGINT)
    with LocalEngine(count=1) as engine:
        (number,) = engine.processes().values()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
        assert int(status["SigIgn"], 16) >> (signal.SIGINT - 1) & 1
    assert signal.getsignal(signal.SIGINT) == heeded


def test_a_node_of_another_version_is_refused_with_the_difference():
    assert difference(node(), node(host="b", processor="q")) == ""
    assert difference(node(), node(torch="9", project="8")) == "project: 8 there, 1 here; torch: 9 there, 2 here"
    here = this_node()
    returned = run_task(sample_tasks.slow, Node(here.host, here.processor, here.project, "9", here.numpy), 600.0)
    assert returned.is_final and f"torch: {here.torch} there, 9 here" in returned.failure


def test_mixed_processors_are_said_once(capsys):
    engine = LocalEngine(count=0)
    for host, processor in (("a", "p"), ("b", "p"), ("c", "q"), ("c", "q"), ("d", "q")):
        engine._meet(node(host=host, processor=processor))
    assert engine.processors == ["p", "q"]
    assert capsys.readouterr().out.count("mixed processors, whose float sums may differ in the last bits: p, q") == 1


def test_the_digest_is_of_the_rooms_sources(tmp_path):
    for room in ("models", "configures", "tests"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    first = sources_digest(tmp_path)
    (tmp_path / "configures" / "mine.py").write_text("")  # settings travel with tasks
    assert sources_digest(tmp_path) == first
    (tmp_path / "models" / "net.cpp").write_text("int x;")
    assert sources_digest(tmp_path) != first


def test_in_order_gives_each_value_as_soon_as_all_before_it_are_there():
    come: list[int] = []

    def results() -> Iterator[tuple[int, str]]:
        for number in (2, 0, 1, 4, 3):
            come.append(number)
            yield number, "abcde"[number]

    assert [(value, len(come)) for value in in_order(results())] == [("a", 2), ("b", 3), ("c", 3), ("d", 5), ("e", 5)]
    assert list(in_order([])) == []
