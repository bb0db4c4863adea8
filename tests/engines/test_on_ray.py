"""The engine on Ray: a cluster of two nodes on this machine."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sample_tasks
from conftest import TOP
from ray_nodes import RayNodes, at_most, ray_nodes

import global_configure
from engines import on_ray
from engines.on_ray import RayEngine
from utils.errors import UserError

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
LONGEST = 600.0  # seconds of a test: they take half a minute, and minutes where others have the cores


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        # What workers import the tasks of the tests from; the rooms they find where the driver does.
        patch.setenv("PYTHONPATH", str(TOP / "tests" / "engines"))
        with contextlib.ExitStack() as stack:
            with at_most(LONGEST):
                opened = stack.enter_context(ray_nodes(2))
            yield opened
            with at_most(LONGEST):
                stack.close()


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An end to every test: where nothing comes for some minutes the engine says so; where Ray does not answer, we."""
    monkeypatch.setattr(global_configure, "wait_limit", LONGEST / 2)
    with at_most(LONGEST):
        yield


@pytest.fixture
def engine(nodes: RayNodes) -> Iterator[RayEngine]:
    with RayEngine(address=nodes.address) as opened:
        yield opened


def test_results_come_with_their_keys_and_large_values_by_the_store(engine):
    shared = engine.share(np.arange(1_000_000))
    for factor in range(6):
        engine.submit(factor, sample_tasks.scaled, shared, factor)
    assert {key: int(value[-1]) for key, value in engine.results()} == {f: 999_999 * f for f in range(6)}
    assert (engine.workers, engine.where(), engine.device) == (2, "2 workers on 2 Ray nodes", "cpu")


def test_dead_nodes_tasks_run_again(engine, nodes, tmp_path, capsys):
    notes, go = tmp_path / "notes", tmp_path / "go"
    engine.submit(0, sample_tasks.waits, str(notes), str(go))
    deadline = time.monotonic() + 120
    while not notes.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for place in (0, 1):  # on one of them it is running
        nodes.replace(place)
    go.touch()
    assert dict(engine.results()) == {0: "done"}
    assert notes.read_text() == "started\n" * 2
    assert "a Ray node is gone" in capsys.readouterr().out


def test_failures_end_with_one_line(engine, tmp_path):
    notes = str(tmp_path / "notes")
    engine.submit(0, sample_tasks.fails, notes)
    engine.submit(1, sample_tasks.slow, 600.0)
    with pytest.raises(UserError, match=r"failed 3 times: sample_tasks.fails on .*: ZeroDivisionError: as always"):
        list(engine.results())
    Path(notes).unlink()
    engine.submit(0, sample_tasks.dies_the_first_times, 3, notes)
    with pytest.raises(UserError, match=r"failed 3 times: a Ray worker ended \(WorkerCrashedError"):
        list(engine.results())
    engine.submit(0, sample_tasks.slow, 0.0)
    assert len(list(engine.results())) == 1  # those that were cancelled hold no worker


def test_a_cluster_that_is_not_there_is_named():
    for address, message in (
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: Connection refused; start one with `ray start"),
        ("here", "--address here: expected auto, or HOST:PORT"),
    ):
        with pytest.raises(UserError, match=message):
            RayEngine(address=address)


def test_a_cluster_of_its_own_ends_with_it():
    with RayEngine(count=2) as engine:
        assert engine.where() == "2 workers on 1 Ray node"


# A thread of Ray that listens for messages of the head may end with an error of its own when the head is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_head_that_died_is_said_in_one_line(monkeypatch):
    from ray._private import worker  # after `engines.on_ray`, which sets what Ray reads when it is imported

    monkeypatch.setattr(on_ray, "PATIENCE", 3.0)
    gone = r"the head of the Ray cluster, .*:\d+, has not answered for 3 s; start a cluster, then type"
    with RayEngine(count=1) as engine:
        engine.submit(0, sample_tasks.slow, 600.0)
        worker._global_node.kill_gcs_server(check_alive=False)
        with pytest.raises(UserError, match=gone):
            list(engine.results())
        with pytest.raises(UserError, match=gone):
            engine.where()
