"""FLOPs against a count by hand."""

import torch

from models.graph import flops_of
from models.resnet20 import ResNet20


def test_images_count_by_their_size_and_precision_does_not() -> None:
    network = ResNet20(10, 1 / 4)
    small = flops_of(network, (3, 32, 32))
    last = 2 * 16 * 10  # the FC layer, which reads one value of a map whatever its size
    assert flops_of(network, (3, 64, 64)) - last == 4 * (small - last)
    assert flops_of(network.to(torch.float64), (3, 32, 32)) == small
