"""What is known of a module that was searched alone, for a patch: how small it is, and how well it knows its class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.tables import show_table


@dataclass(frozen=True)
class ModuleForPatch:
    """One class's module beside the strong model, by that class's logit on the strong model's validation images."""

    target_class: int
    name: str  # of the class
    kernels: int  # K
    kernels_kept: int
    flops: float  # of the module, as a share of the strong model's
    valid_images: int
    valid_auc_strong: float
    valid_auc_module: float
    explained: float  # the share of the strong logit's variance that the module's logit explains
    search: dict[str, Any]  # how it was found


def show_modules_for_patches(modules: Sequence[ModuleForPatch]) -> None:
    """Print them, a line each."""
    rows = [
        [
            module.target_class,
            module.name,
            f"{module.kernels_kept / module.kernels:.1%}",
            f"{module.flops:.1%}",
            f"{module.valid_auc_module:.4f}",
            f"{module.valid_auc_strong:.4f}",
            f"{module.explained:.1%}",
        ]
        for module in modules
    ]
    show_table(["class", "name", "kernels kept", "FLOPs", "valid AUC", "strong model's", "logit explained"], rows)
