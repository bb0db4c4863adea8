"""SimCNN: 13 conv layers and three FC layers, as in VGG16 (Simonyan and Zisserman, ICLR 2015), without batch norm.

Published in Qi et al., ASE 2022 (arXiv 2209.06116): 313.73 M multiply-accumulates, 4,224 kernels. The overly simple
networks beside it are weak models to patch; their layers are ours.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import classify, conv_layers, fc_layers, he_initialise, side_behind_pools, widened

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class SimCNN(nn.Module):
    """Blocks of 3x3 conv layers with ReLU, a 2x2 max-pool behind each block, then FC layers.

    Args:
        num_classes: logits.
        width: every conv layer has so many times its kernels; FC layers stay.
        image_side: in pixels.
        blocks: kernels of each conv layer, block by block.
        hidden: widths of the FC layers before the last one.
        dropout: behind each of these.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_side: int = 32,
        *,
        blocks: Sequence[Sequence[int]] = BLOCKS,
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        kernels = [widened(of_layer, width) for block in blocks for of_layer in block]
        self.block_sizes = [len(block) for block in blocks]
        self.convs = conv_layers(3, kernels)
        features = kernels[-1] * side_behind_pools(image_side, len(blocks)) ** 2
        self.fcs = fc_layers([features, *hidden, num_classes])
        self.dropout = nn.Dropout(dropout)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, 3, side, side)."""
        x, convs = images, iter(self.convs)
        for size in self.block_sizes:
            for _ in range(size):
                x = F.relu(next(convs)(x))
            x = F.max_pool2d(x, 2)
        return classify(x.flatten(1), self.fcs, self.dropout)


# Overly simple: for CIFAR, with four conv layers instead of thirteen, and for digits, with two.
simcnn_weak = partial(SimCNN, blocks=((16,), (32,), (64,), (64,)), hidden=(64,))
simcnn_tiny = partial(SimCNN, blocks=((8,), (16,)), hidden=(32,), dropout=0.0)
