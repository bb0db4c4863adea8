"""All modules side by side: class c's logit comes from the module of class c."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ComposedModel(nn.Module):
    """A classifier made of one module per class, in class order."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_modules = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (batch, 3, 32, 32) -> logits (batch, classes)."""
        return torch.cat([module(images) for module in self.class_modules], dim=1)
