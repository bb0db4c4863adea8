"""Tasks on processes of this machine, each with one thread: nothing needs to be installed for it.

A worker is told the large values once, and the tasks one after the other, through a pipe of its own. A worker that dies
is replaced; all of them end with the driver, however that ends.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, ClassVar

import torch

from engines.engine import Engine, Lost, Returned, Task, run_task
from utils.device import make_deterministic, this_node
from utils.errors import signals_held_back
from utils.progress import show_progress

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along, but not the threads


@dataclass(frozen=True)
class Shared:
    """A value that every worker has been told, by its number."""

    number: int


@dataclass(frozen=True)
class SharedValue:
    """How a worker is told a shared value."""

    value: Any


@dataclass(eq=False)
class Worker:
    """One process, and what it is at."""

    process: SpawnProcess
    pipe: Connection
    key: Hashable = None  # of its task
    is_busy: bool = False
    known: int = 0  # how many of the shared values it was told


@dataclass
class LocalEngine(Engine):
    """`count` processes; of several GPUs, given by their numbers, each gets one in turn."""

    count: int = 1
    gpus: Sequence[int] = ()
    staff: list[Worker] = field(default_factory=list)
    shared: list[Any] = field(default_factory=list)
    queue: deque[tuple[Hashable, Task]] = field(default_factory=deque)
    is_on_this_machine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.on_gpus = len(self.gpus) > 0
        with signals_held_back():  # so that none is started and missing in the list
            self.staff.extend(self._hire(number) for number in range(self.count))

    @property
    def workers(self) -> int:
        return self.count

    def where(self) -> str:
        return f"{self.count} process{'es' if self.count > 1 else ''} of this machine"

    def processes(self) -> dict[str, int]:
        return {f"{worker.process.name} of the engine": worker.process.pid or 0 for worker in self.staff}

    def share(self, value: Any) -> Shared:
        """Each worker is told it with its next task."""
        self.shared.append(value)
        return Shared(len(self.shared) - 1)

    def close(self) -> None:
        with signals_held_back():
            for worker in self.staff:
                worker.process.terminate()
            for worker in self.staff:
                worker.process.join(GRACE)
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
            self.staff.clear()
            self.queue.clear()

    def _hire(self, number: int) -> Worker:
        ours, theirs = _context.Pipe()
        gpu = self.gpus[number % len(self.gpus)] if self.gpus else None
        process = _context.Process(target=_work, args=(theirs, gpu), name=f"worker_{number}", daemon=True)
        heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `_work`, but from the worker's start on
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, heeded)
        theirs.close()
        return Worker(process, ours)

    def _start(self, key: Hashable, task: Task) -> None:
        self.queue.append((key, task))
        self._occupy()

    def _occupy(self) -> None:
        """Give the free workers what waits."""
        for worker in self.staff:
            if worker.is_busy or not self.queue:
                continue
            worker.key, task = self.queue.popleft()
            worker.is_busy = True
            with contextlib.suppress(OSError):  # it has died: `_wait` finds the pipe closed
                for value in self.shared[worker.known :]:
                    worker.pipe.send(SharedValue(value))
                    worker.known += 1
                worker.pipe.send((task.function, this_node(), task.arguments))

    def _wait(self, seconds: float) -> tuple[Hashable, Returned | Lost] | None:
        self._occupy()
        busy: dict[Any, Worker] = {worker.pipe: worker for worker in self.staff if worker.is_busy}
        for pipe in wait(list(busy), seconds):
            worker = busy[pipe]
            try:
                returned = worker.pipe.recv()
            except (EOFError, OSError):
                returned = self._replace(worker)
            worker.is_busy = False
            return worker.key, returned
        return None

    def _replace(self, worker: Worker) -> Lost:
        worker.process.join()
        code, place = worker.process.exitcode or 0, self.staff.index(worker)
        worker.pipe.close()
        with signals_held_back():
            self.staff[place] = self._hire(place)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Lost(f"a worker {how}", with_node=False)

    def _stop(self, keys: list[Hashable]) -> None:
        dropped = set(keys)
        self.queue = deque((key, task) for key, task in self.queue if key not in dropped)
        for place, worker in enumerate(self.staff):
            if worker.is_busy and worker.key in dropped:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
                self.staff[place] = self._hire(place)


def _work(pipe: Connection, gpu: int | None) -> None:
    """A worker's life: it is told values and tasks, and answers tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C meets the driver, which ends its workers
    threading.Thread(target=_end_with_driver, daemon=True).start()
    show_progress(False)  # the driver says how far all of them are
    if gpu is not None:
        torch.cuda.set_device(gpu)
    torch.set_num_threads(1)
    make_deterministic(0)
    values: list[Any] = []
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        while True:
            told = pipe.recv()
            if isinstance(told, SharedValue):
                values.append(told.value)
                continue
            function, expected, arguments = told
            given = [values[argument.number] if isinstance(argument, Shared) else argument for argument in arguments]
            pipe.send(run_task(function, expected, *given))


def _end_with_driver() -> None:
    if driver := multiprocessing.parent_process():
        wait([driver.sentinel])
    os._exit(1)  # in the middle of a task, too
