"""All modules side by side give one logit each, in class order."""

import torch
from torch import nn

from modules.module import ComposedModel


def test_logits_stand_in_class_order() -> None:
    torch.manual_seed(0)
    modules = [nn.Sequential(nn.Flatten(), nn.Linear(12, 1)) for _ in range(3)]
    images = torch.randn(5, 3, 2, 2)
    logits = ComposedModel(modules)(images)
    assert logits.shape == (5, 3)
    for target_class, module in enumerate(modules):
        assert torch.equal(logits[:, target_class], module(images)[:, 0])
