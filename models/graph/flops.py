"""What a network costs: floating-point operations, by torch's own counter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.graph.evaluating import evaluating, floating_parameter


def count_flops(forward: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Floating-point operations of a forward on images (n, channels, side, side); a multiply-accumulate counts 2.

    Give it one image for the cost of an image. Convolutions and matrix products count, those of attention too, and
    nothing else.
    """
    with torch.no_grad(), _attention_written_out(), FlopCounterMode(display=False) as counter:
        forward(images)
    return int(counter.get_total_flops())


@contextmanager
def _attention_written_out() -> Iterator[None]:
    """Run attention as matrix products, which torch counts alike on every device.

    It does not count its fused operators for the CPU, and that for CUDA pads heads, which would count, too.
    """
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def flops_of(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Floating-point operations of one image (channels, height, width) in a network, in evaluation mode.

    The network is left as it was.
    """
    like = floating_parameter(network)
    with evaluating(network):
        return count_flops(network, torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype))
