"""ResNet-20 for CIFAR: 19 conv layers with batch norm, strides in place of pools, shortcuts without weights.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, option A: 0.27 M parameters.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import he_initialise, widened

STAGES = (16, 32, 64)  # kernels of the conv layers of each stage
BLOCKS = 3  # of two conv layers, in a stage


class ResidualBlock(nn.Module):
    """Two conv layers, and what they are given added to what they make of it."""

    def __init__(self, before: int, kernels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, kernels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(kernels)
        self.conv2 = nn.Conv2d(kernels, kernels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(kernels)
        self.stride, self.new_channels = stride, kernels - before

    def forward(self, maps: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(maps)))
        x = self.bn2(self.conv2(x))
        if self.stride > 1:  # every other pixel, and zeros for the new channels
            before = self.new_channels // 2
            maps = F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(x + maps)


class ResNet20(nn.Module):
    """The network.

    Args:
        num_classes: logits.
        width: every conv layer has so many times its kernels.
        image_side: any; the last maps are averaged.
    """

    def __init__(self, num_classes: int, width: float = 1.0, image_side: int = 32) -> None:
        super().__init__()
        first, *_ = stages = [widened(kernels, width) for kernels in STAGES]
        self.conv = nn.Conv2d(3, first, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        blocks, before = [], first
        for stage, kernels in enumerate(stages):
            for block in range(BLOCKS):
                blocks.append(ResidualBlock(before, kernels, stride=2 if stage and not block else 1))
                before = kernels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(before, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, 3, side, side)."""
        x = F.relu(self.bn(self.conv(images)))
        return self.fc(self.blocks(x).mean((2, 3)))
