"""What is known of the modules that a search left: how small they are, and how good composed."""

import math
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from modules.own_class import MOST_BELOW, free_riders
from utils.tables import WIDTH, show_table


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
    # Each class's AUC by its own logit, on the validation images; none where an earlier version wrote it.
    valid_auc_strong: tuple[float, ...] = ()
    valid_auc_modules: tuple[float, ...] = ()

    @property
    def free_riders(self) -> list[int]:
        """The classes whose modules know them much less well than the strong model does."""
        return free_riders(self.valid_auc_modules, self.valid_auc_strong)


def show_modularization(result: Modularization) -> None:
    """Print the modules and the composed model beside the strong one."""
    unknown = (math.nan,) * len(result.classes)
    aucs = result.valid_auc_modules or unknown, result.valid_auc_strong or unknown
    rows = [
        [number, name, kept, f"{kept / result.kernels:.1%}", f"{module:.4f}", f"{strong:.4f}"]
        for number, (name, kept, module, strong) in enumerate(
            zip(result.classes, result.kernels_kept, *aucs, strict=True)
        )
    ]
    show_table(["class", "name", "kernels kept", f"of {result.kernels}", "valid AUC", "strong model's"], rows)
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
    if result.free_riders:
        names = ", ".join(f"{number} ({result.classes[number]})" for number in result.free_riders)
        advice = (
            f"uninformative modules, whose AUC is more than {MOST_BELOW:g} below the strong model's: class {names}. "
            "Before you patch with them, fine-tune the modules (module_fine_tuner.py), search each alone "
            "(module_gradient_search.py --for_patch), or keep more kernels (a larger --keep of the gradient search)."
        )
        print(textwrap.fill(advice, WIDTH))


def _share(right: int, images: int) -> str:
    return f"{right / images:.2%} ({right})"
