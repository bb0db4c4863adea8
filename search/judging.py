"""How good modules are on images: composed, compared with the strong model, and each for its own class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from dataset.images import Images
from models.evaluation import count_right, predict
from models.graph import Graph, flops_of
from modules.jaccard import mean_pairwise_distance
from modules.module import as_answers, predict_modules, replaced
from modules.own_class import auc_by_class, explained_variance
from utils.errors import UserError
from utils.tables import fitted

JudgedRow = TypeVar("JudgedRow", bound="Judged")


class Judged(ABC):
    """What a log's rows, which are dataclasses, have in common: `number`, `seconds`, and most of `Judgement`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    number: int
    seconds: float
    kernels_kept: float
    flops: float
    distance: float
    images: int
    right_strong: int
    right_composed: int
    auc_mean: float
    auc_below: float
    explained_least: float

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"{type(self).__name__.lower()} {self.number}: expected one image or more")

    @property
    def points_lost(self) -> float:
        """The composed model's accuracy below the strong model's, in percentage points."""
        return 100 * (self.right_strong - self.right_composed) / self.images

    @abstractmethod
    def asked_for(self: JudgedRow, rows: Sequence[JudgedRow]) -> str:
        """What was asked for of this row of `rows`, for people: "keep 40%"."""

    def targets(self, searched: tuple[int, ...]) -> tuple[int, ...]:
        """The classes of the row's modules, in the log of the search for `searched`; () = all classes."""
        return searched

    def describe(self, *names: str) -> str:
        """A row in a few lines, `names` first."""
        is_above = self.auc_below < 0
        auc = f"at {'least' if is_above else 'most'} {abs(self.auc_below):.4f} {'above' if is_above else 'below'}"
        return fitted(
            (
                *names,
                f"kept {self.kernels_kept:.1%}",
                f"accuracy {self.right_composed / self.images:.2%} ({-self.points_lost:+.2f} points)",
                f"distance {self.distance:.4f}",
                f"AUC {self.auc_mean:.4f}, {auc} the strong model's",
                f"logits explained at least {self.explained_least:.1%}",
                f"FLOPs {self.flops:.1%}",
                f"{self.seconds:.1f} s",
            )
        )


def smallest_within(rows: Sequence[JudgedRow], max_loss: float, row_name: str) -> JudgedRow:
    """The row that keeps the fewest kernels and loses at most `max_loss` points. Raises UserError if none does."""
    within = [row for row in rows if row.points_lost <= max_loss]
    if not within:
        nearest = min(rows, key=lambda row: row.points_lost)
        raise UserError(
            f"--max_loss {max_loss:g}: no {row_name} stays within; with {nearest.kernels_kept:.1%} of the kernels "
            f"{nearest.points_lost:.2f} points are lost: expected at least that"
        )
    return min(within, key=lambda row: (row.kernels_kept, row.points_lost))


@dataclass(frozen=True)
class Judgement:
    """Modules compared with the strong model; accuracies are counts of images."""

    kernels_kept: float  # the mean share over modules
    flops: float  # of a module, as a share of the strong model's; the mean over modules
    distance: float  # mean pairwise Jaccard distance
    images: int
    right_strong: int
    right_composed: int
    auc_mean: float  # of the modules' logits for their own classes
    auc_least: float
    auc_below: float  # how far the module that falls most below the strong model's AUC is below it
    explained_least: float  # the smallest share of a strong logit's variance that its module explains


class Judge:
    """Judges sets of modules of one strong model on the same images.

    Args:
        strong: the strong model, on the device.
        images: to judge on.
        device: where networks run.
        dtype: what they run in.
    """

    def __init__(self, strong: Graph, images: Images, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._strong, self._images, self._device, self._dtype = strong, images, device, dtype
        self._logits = predict(strong.network, images, device, dtype)
        self._right = count_right(self._logits, images.labels)
        self.labels = images.labels
        self.strong_predictions: np.ndarray = self._logits.argmax(1).numpy()  # (images,) classes

    def of(
        self, modules: Sequence[nn.Module], masks: np.ndarray, target_classes: Sequence[int], answer: str = "logit"
    ) -> Judgement:
        """Judge the modules of these classes, which were cut by masks (modules, K) bool, True = kept.

        The composed model's answers are the strong model's (`as_answers`), those of the target classes replaced by the
        modules'.
        """
        return self.with_predictions(modules, masks, target_classes, answer)[0]

    def with_predictions(
        self, modules: Sequence[nn.Module], masks: np.ndarray, target_classes: Sequence[int], answer: str = "logit"
    ) -> tuple[Judgement, np.ndarray]:
        """The judgement (`of`), and the classes (images,) that the composed model predicts."""
        targets, labels = list(target_classes), self.labels
        answers = as_answers(self._logits, answer)
        strong = answers[:, targets].numpy()
        own = predict_modules(modules, self._images, self._device, self._dtype)
        auc_strong, aucs = (auc_by_class(logits, labels, targets) for logits in (strong, own.numpy()))
        flops = [flops_of(module, self._strong.image_shape) for module in modules]
        composed = replaced(answers, own, targets)
        judgement = Judgement(
            kernels_kept=float(masks.mean()),
            flops=float(np.mean(flops)) / self._strong.flops,
            distance=mean_pairwise_distance(masks),
            images=len(labels),
            right_strong=self._right,
            right_composed=count_right(composed, labels),
            auc_mean=float(np.nanmean(aucs)),
            auc_least=float(np.nanmin(aucs)),
            auc_below=float(np.nanmax(auc_strong - aucs)),
            explained_least=float(explained_variance(own.numpy(), strong).min()),
        )
        return judgement, composed.argmax(1).numpy()
