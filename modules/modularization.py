"""What is known of the modules that a search left: how small they are, and how good composed."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.tables import show_table


@dataclass(frozen=True)
class Modularization:
    """What is known of a set of modules; accuracies are counts over images."""

    classes: tuple[str, ...]
    kernels: int  # K
    kernels_kept: tuple[int, ...]  # per module
    jaccard_distance: float  # mean over the pairs of modules
    valid_images: int
    valid_right_strong: int
    valid_right_composed: int
    test_images: int
    test_right_strong: int
    test_right_composed: int
    search: dict[str, Any]  # how they were found


def show_modularization(result: Modularization) -> None:
    """Print the modules and the composed model beside the strong one."""
    rows = [
        [number, name, kept, f"{kept / result.kernels:.1%}"]
        for number, (name, kept) in enumerate(zip(result.classes, result.kernels_kept, strict=True))
    ]
    show_table(["class", "name", "kernels kept", f"of {result.kernels}"], rows)
    print()
    rows = []
    for part in ("valid", "test"):
        images, strong, composed = (
            getattr(result, f"{part}_{name}") for name in ("images", "right_strong", "right_composed")
        )
        difference = f"{(composed - strong) / images * 100:+.2f}"
        rows.append([part, images, _share(strong, images), _share(composed, images), difference])
    show_table(["images", "count", "strong model", "composed model", "points"], rows)
    mean_kept = np.mean(result.kernels_kept) / result.kernels
    print(f"\nkernels kept, mean over modules: {mean_kept:.1%}; mean Jaccard distance: {result.jaccard_distance:.4f}")


def _share(right: int, images: int) -> str:
    return f"{right / images:.2%} ({right})"
