"""Work on many items by threads that use one core each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


def each_on_a_core(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """What `work` gives for every item, in their order: on the CPU by as many threads as torch may use.

    Half as fast again as one item after the other whose operations share the cores: threads that each work on images of
    their own never wait for each other. And an item's result does not depend on the number of threads. torch's
    inference mode is a thread's own: `work` enters it itself.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield from map(work, items)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(threads)
