"""What apply_patch.py left of each weak model, read back for the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from patching import files as patch_files
from patching.metrics import TargetClassScores, scores_of_target_class
from utils.artifacts import Artifacts
from utils.checked_text import load_json
from utils.errors import UserError
from utils.files import damaged, missing

EXPERIMENTS = {"weak": "weak", "poor": "poor_fit"}  # kind of weak model -> apply_patch.py's --exp_type
BEFORE = "before"


@dataclass(frozen=True)
class PatchResult:
    """What one method made of a weak model."""

    confusion: np.ndarray  # (classes, classes) int64 on the test images, rows = labels
    rule: Mapping[str, Any] | None  # low and high of a range, or weight and bias of a learned one


@dataclass(frozen=True)
class PatchedWeakModel:
    """One weak model at one epoch, and every method that was tried on it."""

    target_class: int
    classes: tuple[str, ...]  # the target class last
    epoch: int
    test_images: int
    results: dict[str, PatchResult] = field(default_factory=dict)

    def scores(self, method: str) -> TargetClassScores:
        """The target class's and the others' scores by one method."""
        return scores_of_target_class(self.results[method].confusion, len(self.classes) - 1)

    @property
    def calibrations(self) -> list[str]:
        """The methods that patch: neither the weak model as it was nor a control experiment."""
        return [name for name in self.results if name != BEFORE and not name.startswith("control")]


def patch_command(artifacts: Artifacts, kind: str) -> str:
    """What patches all weak models of a kind."""
    return artifacts.command("experiments/patch/apply_patch.py", "--exp_type", EXPERIMENTS[kind])


def load_patched_weak_models(artifacts: Artifacts, kind: str) -> list[PatchedWeakModel]:
    """All weak models of a kind that were patched, by class and epoch, whatever calibrations were tried on each.

    Raises UserError where there is none, or a report is damaged.
    """
    command = patch_command(artifacts, kind)
    folder = patch_files.weak_models_folder(artifacts, kind)
    found: dict[tuple[int, int], PatchedWeakModel] = {}
    for path in sorted(folder.glob("target_class_*/patch_epoch_*_*.json")):
        if not path.parent.name.removeprefix("target_class_").isdecimal():  # a folder that was set aside
            continue
        model = _read(path, command)
        key = (model.target_class, model.epoch)
        known = found.get(key, replace(model, results={}))
        if known.classes != model.classes:
            raise damaged(path, command, "its classes are not those of the other reports on the same weak model")
        found[key] = replace(model, results={**known.results, **model.results})
    if not found:
        raise missing(folder / "target_class_C" / "patch_epoch_E_CALIBRATION.json", command)
    return [found[key] for key in sorted(found)]


def _read(path: Path, command: str) -> PatchedWeakModel:
    try:
        content = load_json(path, command)
        classes = tuple(map(str, content["classes"]))
        results = {}
        for name, result in content["methods"].items():
            confusion = np.array(result["confusion_matrix"])
            if confusion.shape != (len(classes), len(classes)) or confusion.dtype.kind != "i":
                raise ValueError(f"the confusion matrix of {name} is not one of {len(classes)} classes")
            results[str(name)] = PatchResult(confusion.astype(np.int64), result["rule"])
        return PatchedWeakModel(
            int(content["target_class"]), classes, int(content["epoch"]), int(content["test_images"]), results
        )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, command, f"not a report on a patch: {error}") from None


def common_calibrations(models: list[PatchedWeakModel]) -> list[str]:
    """The calibrations that were tried on every one of the weak models. Raises UserError where there is none."""
    common = [name for name in models[0].calibrations if all(name in model.results for model in models)]
    if not common or not all(BEFORE in model.results for model in models):
        raise UserError("the weak models were patched with different calibrations; patch all with the same one")
    return common


def label_of(model: PatchedWeakModel, models: list[PatchedWeakModel]) -> str:
    """The target class's name, and the epoch where it is not the only one."""
    epochs = sum(other.target_class == model.target_class for other in models)
    return f"{model.classes[-1]}, epoch {model.epoch}" if epochs > 1 else model.classes[-1]
