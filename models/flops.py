"""What a network costs: floating-point operations of one image, and parameters."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.cnn import IMAGE_CHANNELS, IMAGE_SIDE


def count_flops(model: nn.Module) -> int:
    """Floating-point operations of one 32x32 image, by torch's own counter.

    A multiply-accumulate counts 2. The counter sees convolutions and matrix products; biases, ReLU and pooling, about a
    hundredth of these, count nothing.
    """
    device = next(model.parameters()).device
    image = torch.zeros(1, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return int(counter.get_total_flops())
