"""Tasks on a Ray cluster, or on one that is started on this machine for as long as the driver runs.

Large values go into Ray's object store, which brings them to every node once. Ray runs nothing again by itself here:
the engine does, and so knows a task that fails from a node that is gone. When the driver ends, however it does, Ray
ends its workers.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a library that reports to its makers does so when it is asked
os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster of our own: not behind all else, as explorers are not
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning in every start
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else a page of a raylet's log for every node that dies

import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, RayError, RayTaskError

import global_configure
from engines.engine import Engine, Lost, Returned, Task, run_task
from utils.device import TOP, Node, make_deterministic, this_node
from utils.errors import UserError, reason
from utils.progress import say

GPU_SHARE = 0.5  # of a GPU that a task asks for: one computes while the other one copies
STORE_BYTES = 512 * 2**20  # for a cluster of our own: weights, images and a generation's outputs take less
PATIENCE = 30.0  # seconds that a head may be away: half of what Ray itself gives it
PAUSE = 1.0  # seconds between two looks
LONGEST_ANSWER = 5.0  # seconds


class RayHead:
    """The head of a cluster at HOST:PORT.

    Where it does not answer, Ray's calls wait for it, and after a minute Ray ends the process, whatever that is at.
    Asked before them, it is an error like others, and the process ends in order.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._host, _, self._port = address.rpartition(":")
        self._last_look, self._gone_since = float("-inf"), float("inf")

    def wait(self) -> None:
        """Return as soon as it answers. Raises UserError if it does not answer for long."""
        while not self._look():
            time.sleep(PAUSE)

    def check(self) -> None:
        """Raises UserError if the head does not answer for long. Checks at most once a second."""
        if time.monotonic() - self._last_look >= PAUSE:
            self._look()

    def _look(self) -> bool:
        self._last_look = now = time.monotonic()
        is_there = _somebody_listens(self._host, int(self._port))
        self._gone_since = float("inf") if is_there else min(self._gone_since, now)
        if now - self._gone_since > PATIENCE:
            raise UserError(
                f"the head of the Ray cluster, {self.address}, has not answered for {PATIENCE:.0f} s; "
                "start a cluster, then type the same command again: it goes on"
            )
        return is_there


def _somebody_listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), port), timeout=LONGEST_ANSWER).close()
        return True
    return False


@dataclass
class RayEngine(Engine):
    """`address`: of a running cluster, or "auto"; "" starts one of `count` workers here."""

    address: str = ""
    count: int = 1
    running: dict[ray.ObjectRef, Hashable] = field(default_factory=dict)  # the task's key

    def __post_init__(self) -> None:
        _check_answers(self.address)
        options: dict[str, Any] = {"address": self.address or "local", "log_to_driver": False, "logging_level": "ERROR"}
        if not self.address:
            options |= {"num_cpus": self.count, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        handler, folder = signal.getsignal(signal.SIGTERM), Path.cwd()
        try:
            os.chdir(
                TOP
            )  # Ray's workers look for packages where the driver stood: ours, not a user's of the same names
            context = ray.init(**options)
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _no_cluster(self.address, reason(error)) from None
        finally:
            os.chdir(folder)
        signal.signal(signal.SIGTERM, handler)  # ours ends the search in order; Ray has put its own in its place
        self._head = RayHead(ray.get_runtime_context().gcs_address)
        self.on_gpus = self.on_gpus and ray.cluster_resources().get("GPU", 0) > 0
        gpus = {"num_gpus": GPU_SHARE} if self.on_gpus else {}
        self._remote = ray.remote(_run_task).options(num_cpus=1, max_retries=0, **gpus)
        if context.dashboard_url:
            say(f"Ray's dashboard: http://{context.dashboard_url}")

    @property
    def workers(self) -> int:
        """The cluster's cores, or shares of GPUs."""
        self._head.wait()
        there = ray.cluster_resources()
        return int(there.get("GPU", 0) / GPU_SHARE) if self.on_gpus else int(there.get("CPU", 0))

    def where(self) -> str:
        self._head.wait()
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        return f"{self.workers} workers on {len(alive)} Ray node{'' if len(alive) == 1 else 's'}"

    def share(self, value: Any) -> ray.ObjectRef:
        """In the object store; a task finds the value in its place."""
        return ray.put(value)

    def close(self) -> None:
        """Leave the cluster, or end our own."""
        ray.shutdown()

    def _start(self, key: Hashable, task: Task) -> None:
        self.running[self._remote.remote(task.function, this_node(), *task.arguments)] = key

    def _wait(self, seconds: float) -> tuple[Hashable, Returned | Lost] | None:
        self._head.check()
        ended, _ = ray.wait(list(self.running), num_returns=1, timeout=seconds)
        if not ended:
            return None
        (result,) = ended
        key = self.running.pop(result)
        try:
            return key, ray.get(result, timeout=global_configure.wait_limit)
        except (NodeDiedError, ObjectLostError) as error:  # the latter: a result on a node that died before we had it
            return key, Lost(f"a Ray node is gone ({_first_sentence(error)})", with_node=True)
        except RayTaskError as error:  # not even `run_task` could be called there
            return key, Lost(
                f"a Ray worker cannot run this project ({reason(error.cause or error)}): "
                "install the same version on every node",
                with_node=False,
            )
        except RayError as error:
            return key, Lost(f"a Ray worker ended ({_first_sentence(error)})", with_node=False)

    def _stop(self, keys: list[Hashable]) -> None:
        dropped = set(keys)
        for result, key in list(self.running.items()):
            if key in dropped:
                ray.cancel(result, force=True)
                del self.running[result]


def _first_sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0]}"


def _run_task(function: Callable[..., Any], expected: Node, *arguments: Any) -> Returned:
    """`run_task` on a worker of Ray, which is made alike before each task: it may be another one."""
    torch.set_num_threads(1)
    make_deterministic(0)
    return run_task(function, expected, *arguments)


def _check_answers(address: str) -> None:
    """Raises UserError where nobody listens at HOST:PORT, which Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not address or address == "auto":
        return
    if not colon or not port.isdecimal() or "/" in host:
        raise UserError(f"--address {address}: expected auto, or HOST:PORT as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, reason(error)) from None


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address or 'this machine'}: {why}; "
        "start one with `ray start --head` (if it has a token: RAY_AUTH_MODE=token here, too), "
        "or leave --address out for one of this machine alone"
    )
