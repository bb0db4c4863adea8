"""What every engine does: tasks in, their results as they come, and an end to what nobody waits for any more.

A task is a function of one of our modules and plain data: no closures, nothing that a worker would have to be the
caller for. Its result may not depend on where it ran, so it can be run again anywhere. An engine's own file starts
tasks and says what became of them; what to do about failures is decided here, once for all engines.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import global_configure
from utils.device import Node, difference, this_node
from utils.errors import UserError, WaitedTooLong, reason
from utils.processes import REPORT_EVERY, Stopped
from utils.progress import say

Value = TypeVar("Value")

MOST_FAILURES = 3  # of one task; then the search ends with what it said
MOST_DEATHS = 20  # of nodes under one task: it may be the task that ends them


@dataclass
class Task:
    """A call that waits, runs, or is to run again."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # plain data, and what `Engine.share` returned
    failures: int = 0
    deaths: int = 0


@dataclass(frozen=True)
class Returned:
    """What a worker hands back: the function's value, or in words why there is none."""

    node: Node
    value: Any = None
    failure: str = ""
    is_final: bool = False  # whether it would only fail again: somebody has to fix something first


@dataclass(frozen=True)
class Lost:
    """What became of a task whose worker does not answer any more."""

    why: str
    with_node: bool  # the whole node is gone, which is not held against the task


def run_task(function: Callable[..., Any], expected: Node, *arguments: Any) -> Returned:
    """Call a task's function, on a worker.

    Refuses where the worker is another than the driver: of another version of the project or of torch.
    """
    node = this_node()
    if other := difference(expected, node):
        return Returned(
            node, failure=f"{node.host} is unlike {expected.host} ({other}): install the same", is_final=True
        )
    try:
        return Returned(node, function(*arguments))
    except UserError as error:
        return Returned(node, failure=f"{error} (on {node.host})", is_final=True)
    except Exception as error:
        said = f"{type(error).__name__}: {reason(error)}"
        return Returned(node, failure=f"{function.__module__}.{function.__name__} on {node.host}: {said}")


def in_order(results: Iterable[tuple[Hashable, Value]]) -> Iterator[Value]:
    """The values whose keys are 0, 1, 2 ..., in that order, each as soon as it and all before it are there."""
    early: dict[Hashable, Value] = {}
    following = 0
    for number, value in results:
        early[number] = value
        while following in early:
            yield early.pop(following)
            following += 1


@dataclass
class Engine(ABC):
    """Runs tasks on its workers. A context manager: whatever runs is ended when the block is left."""

    tasks: dict[Hashable, Task] = field(default_factory=dict)  # that have no result yet
    nodes: dict[str, Node] = field(default_factory=dict)  # that have answered, by host

    _stopped: Stopped = field(default_factory=Stopped)

    on_gpus: bool = False  # whether tasks have a GPU, or a share of one: torch's current one
    is_on_this_machine: ClassVar[bool] = False  # whether workers can read what lies on the driver's disk

    @property
    def device(self) -> str:
        """torch's name of the device that tasks compute on."""
        return "cuda" if self.on_gpus else "cpu"

    # An engine's own part
    @property
    @abstractmethod
    def workers(self) -> int:
        """How many tasks run at a time, now: nodes may come and go."""

    @abstractmethod
    def where(self) -> str:
        """The workers in words, for people."""

    @abstractmethod
    def share(self, value: Any) -> Any:
        """What to give tasks in place of a large value: it travels once to every machine, not with every task."""

    @abstractmethod
    def close(self) -> None:
        """End all workers and tasks of this driver."""

    @abstractmethod
    def _start(self, key: Hashable, task: Task) -> None:
        """Let a worker call `run_task(task.function, this_node(), *task.arguments)` as soon as one is free."""

    @abstractmethod
    def _wait(self, seconds: float) -> tuple[Hashable, Returned | Lost] | None:
        """The next task that has ended, whichever it is, and what became of it; None after so many seconds."""

    @abstractmethod
    def _stop(self, keys: list[Hashable]) -> None:
        """Drop tasks that were started; those that run are ended, or their results thrown away."""

    def processes(self) -> dict[str, int]:
        """The numbers of the workers' processes by their names, as far as they are of this machine and known."""
        return {}

    # The same for all
    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Hand in a task under a key of its own; see `results`."""
        if key in self.tasks:
            raise ValueError(f"expected a key of its own, given {key} twice")
        self.tasks[key] = Task(function, arguments)
        self._start(key, self.tasks[key])

    def cancel(self) -> None:
        """Forget all tasks that have no result yet."""
        self._stop(list(self.tasks))
        self.tasks.clear()

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Key and value of every task that was handed in, in the order in which they end.

        Raises UserError where a task fails for good, and WaitedTooLong where for `global_configure.wait_limit` seconds
        none has ended; the other tasks are cancelled then.
        """
        try:
            while self.tasks:
                key, returned = self._next()
                if key not in self.tasks:  # cancelled, and finished all the same
                    continue
                if isinstance(returned, Returned):
                    self._meet(returned.node)
                    if not returned.failure:
                        del self.tasks[key]
                        yield key, returned.value
                        continue
                self._again(key, returned)
        finally:
            self.cancel()

    def _next(self) -> tuple[Hashable, Returned | Lost]:
        since = time.monotonic()
        next_report = REPORT_EVERY
        while (ended := self._wait(1.0)) is None:
            waited = time.monotonic() - since
            for line in self._stopped.news(self.processes()):
                say(line)
            if waited > next_report:
                say(f"no task of {len(self.tasks)} has ended for {waited:.0f} s ({self.where()})")
                next_report = waited + REPORT_EVERY
            if waited > global_configure.wait_limit:
                raise WaitedTooLong(
                    f"waited {waited:.0f} s for the next of {len(self.tasks)} tasks ({self.where()}); "
                    "see to that, then type the same command again"
                )
        return ended

    def _again(self, key: Hashable, what: Returned | Lost) -> None:
        """Start a task again. Raises UserError where that is of no use."""
        task = self.tasks[key]
        if isinstance(what, Lost) and what.with_node:
            task.deaths += 1
            say(f"{what.why}: its task runs again")
            if task.deaths >= MOST_DEATHS:
                raise UserError(f"{MOST_DEATHS} nodes died with the same task: {what.why}; look for the cause there")
        else:
            task.failures += 1
            said = what.why if isinstance(what, Lost) else what.failure
            if isinstance(what, Returned) and what.is_final:
                raise UserError(said)
            say(f"{said}: failed {task.failures} of {MOST_FAILURES} times")
            if task.failures >= MOST_FAILURES:
                raise UserError(f"a task failed {MOST_FAILURES} times: {said}; fix that, then type the same command")
        self._start(key, task)

    def _meet(self, node: Node) -> None:
        """Remember who answers, and say once where processors differ, since the last bits of float sums may, too."""
        known = self.processors
        self.nodes[node.host] = node
        if known and node.processor not in known:
            say(f"mixed processors, whose float sums may differ in the last bits: {', '.join(self.processors)}")

    @property
    def processors(self) -> list[str]:
        """The kinds of processors that have answered."""
        return sorted({node.processor for node in self.nodes.values()})
