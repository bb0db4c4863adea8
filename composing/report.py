"""What is known of a composed classifier: what it is made of, and how it compares with its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patching.confidence import accuracy_change, accuracy_p, interval_in_words, is_significant
from patching.metrics import confusion_matrix

COMPOSED = "composed"
AS_THEY_ARE = "outputs as they are, no rule"
STANDARDISED = "standardised by own validation images"
RESTRICTED = "control: {}, whole, restricted"
WHOLE_RULE = "control: whole strong models, the same rule"
LARGEST = "control: whole strong models, max of softmax"
MEAN = "control: whole strong models, mean of softmax"
STACKED = "control: stacking on all strong logits"

HEADINGS = ("", "accuracy, %", "right", "composed is better by", "McNemar's p", "FLOPs, %")


@dataclass(frozen=True)
class ComposedRecord:
    """One composed classifier."""

    task: str  # sub-task, merge, or best of
    classes: tuple[str, ...]
    members: dict[str, Any]  # class -> the source that it is taken from, and the number and AUC there
    sources: dict[str, Any]  # label -> configuration, checksums of strong model and module set, FLOPs of the model
    images: dict[str, Any]  # the datasets, and how many images of each part
    methods: dict[str, Any]  # see `methods_of`
    rule: dict[str, Any]
    made_with: dict[str, Any] = field(default_factory=dict)  # date, versions, machine, seconds

    def __post_init__(self) -> None:
        if COMPOSED not in self.methods:
            raise ValueError("expected what the composed classifier answers")
        for name in self.methods:
            self.rows_of(name)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A row per method under HEADINGS; changes are in percentage points."""
        return [self.rows_of(name) for name in self.methods]

    def rows_of(self, name: str) -> tuple[str, ...]:
        """The row of a method. Raises KeyError, TypeError or ValueError if it has none."""
        entry = self.methods[name]
        accuracy, right, flops = entry["accuracy"], int(entry["right"]), float(entry["flops"])
        if name == COMPOSED:
            sure, p = "", ""
        else:
            interval = (float(entry["composed_better_by"][0]), float(entry["composed_better_by"][1]))
            verdict = "significant" if is_significant(interval, entry["p"]) else "not significant"
            sure, p = f"{interval_in_words(interval)} ({verdict})", f"{entry['p']:.2g}"
        return name, f"{100 * accuracy:.2f}", str(right), sure, p, f"{100 * flops:.1f}"


def methods_of(
    labels: np.ndarray, found: Mapping[str, tuple[np.ndarray, float]], num_classes: int, seed: int = 0
) -> dict[str, Any]:
    """The methods of a `ComposedRecord`: each with its counts, and how far the composed classifier is above it.

    Args:
        labels: (images,) int64, of test images.
        found: method -> its answers (images,) int64, and its FLOPs of one image, as a share of that of all strong
            models together; COMPOSED is among them.
        num_classes: of the composed classifier.
        seed: of the bootstrap.
    """
    entries: dict[str, Any] = {}
    composed = found[COMPOSED][0]
    for name, (answers, flops) in found.items():
        right = answers == labels
        confusion = confusion_matrix(labels, answers, num_classes).tolist()
        entries[name] = {"accuracy": float(right.mean()), "right": int(right.sum()), "flops": flops}
        entries[name]["confusion_matrix"] = confusion
        if name != COMPOSED:
            sure = accuracy_change(labels, answers, composed, seed)
            entries[name] |= {"composed_better_by": list(sure), "p": accuracy_p(labels, answers, composed)}
    return entries


def best_table(labels: Sequence[str], classes: Sequence[str], auc: np.ndarray) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the AUC (sources, classes) of each class, and the source that is best at it."""
    rows = [
        [name, *(f"{value:.4f}" for value in column), labels[int(column.argmax())]]
        for name, column in zip(classes, auc.T, strict=True)
    ]
    return ["valid AUC", *labels, "taken from"], rows
