"""Threads that use one core each.

Half as fast again as one piece of work after the other whose operations share the cores: threads that each work on
something of their own never wait for each other. And a piece's result does not depend on the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


@contextmanager
def core_threads(device: torch.device, workers: int | None = None) -> Iterator[Executor]:
    """So many threads, or as many as torch may use, each of which keeps to one core; for a device but the CPU, one."""
    threads = torch.get_num_threads()
    workers = (workers or threads) if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def each_on_a_core(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """What `work` gives for every item, in their order. torch's inference mode is a thread's own: `work` enters it."""
    if device.type != "cpu" or torch.get_num_threads() == 1:
        yield from map(work, items)
        return
    with core_threads(device) as pool:
        yield from pool.map(work, items)
