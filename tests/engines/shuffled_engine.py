"""An engine for tests: tasks run in this process, end in a random order, and now and then a node dies under one."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from engines.engine import Engine, Lost, Returned, Task, run_task
from utils.device import this_node


@dataclass
class ShuffledEngine(Engine):
    count: int = 1
    seed: int = 0
    deaths: float = 0.2  # the share of starts
    waiting: dict[Hashable, Task] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    @property
    def workers(self) -> int:
        return self.count

    def where(self) -> str:
        return "this process"

    def share(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        self.log.append("closed")

    def _start(self, key: Hashable, task: Task) -> None:
        self.waiting[key] = task

    def _wait(self, seconds: float) -> tuple[Hashable, Returned | Lost] | None:
        key = list(self.waiting)[self.random.integers(len(self.waiting))]
        task = self.waiting.pop(key)
        if self.random.random() < self.deaths:
            self.log.append("died")
            return key, Lost("a node is gone", with_node=True)
        self.before_task()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a worker has: the bits depend on it
        try:
            return key, run_task(task.function, this_node(), *task.arguments)
        finally:
            torch.set_num_threads(threads)

    def before_task(self) -> None:
        """For tests to put something in its place."""

    def _stop(self, keys: list[Hashable]) -> None:
        for key in keys:
            self.waiting.pop(key, None)
