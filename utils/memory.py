"""Memory that many tensors of a few megabytes take one after the other."""

import torch

KEPT_BYTES = 30 * 2**20  # below 32 MiB, glibc's DEFAULT_MMAP_THRESHOLD_MAX


def keep_freed_memory() -> None:
    """Let the C library use the memory of one batch's feature maps again for the next one's.

    glibc gives large blocks back to the system when they are freed, and has every page of the next one zeroed; but once
    a block of its own mapping was freed, it keeps blocks up to that size, and twice as much in all (malloc/malloc.c, on
    the dynamic threshold). A fifth of the time of one thread that evaluates a population in float32, and some 7 % of
    that of a step of the gradient search. Does nothing to other libraries.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)
