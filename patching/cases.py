"""One patch and its controls: what the networks say about a weak model's images, and what each rule makes of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from dataset.labelled_images import Images
from engines.engine import Engine, in_order
from models import files as model_files
from models.graph import Graph, GraphNetwork
from models.strong_model import load_strong_model
from models.trained_on import check_trained_on, image_order
from models.training import best_epoch, predict
from modules import files as module_files
from modules.evaluation_inputs import strong_inputs
from modules.on_disk import load_kernel_mask, load_module
from patching import files as patch_files
from patching.answers import Answers, PatchImages, PatchNetworks, answers, answers_on_worker
from patching.as_reported import Reported, checked_places, tolerance_on
from patching.calibration import TAKEN_FOR_PROBABILITIES, probability_floor
from patching.confidence import Change, change_of
from patching.data import PatchData, load_patch_data, of_class
from patching.metrics import confusion_matrix
from patching.on_disk import check_weak_model, load_weak_model
from patching.patched_model import Origin, PatchedModel
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, PatchedWeakModel, method_entry
from patching.rules import RULES, Rule
from patching.weak_models import WeakKind, weak_network_name
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import sha256_of
from utils.progress import say
from utils.stage import Stage

CHECKED_OUTPUTS = 10  # of the collected outputs are compared with the module on the disk


@dataclass(frozen=True)
class Outputs:
    """What the networks say about the images of one part."""

    labels: np.ndarray  # (images,) int64, the target class last
    weak: Tensor  # (images, classes) logits
    module: Tensor  # (images,) the module's logit
    strong: Tensor  # (images,) the whole strong model's logit of the target class


@dataclass(frozen=True)
class PatchParts:
    """What a weak model is patched with, as it is read from the disk."""

    target_class: int
    classes: tuple[str, ...]  # the weak model's; the target class last
    epoch: int
    weak: nn.Module
    module: GraphNetwork
    kernels: np.ndarray  # (K,) bool: those that the module keeps
    module_outputs: np.ndarray  # (validation images of the class,) float32


@dataclass(frozen=True)
class PatchCase(PatchParts):
    """All that patching one weak model needs, every network evaluated once."""

    valid: Outputs
    test: Outputs
    strong_outputs: np.ndarray  # as `module_outputs`, of the whole strong model


@dataclass(frozen=True)
class Patched:
    """What one rule made of a weak model."""

    confusion: np.ndarray  # (classes, classes) int64 on the test images, rows = labels
    rule: Rule | None  # None = the weak model as it is
    change: Change | None = None  # against the weak model as it is
    over_no_module: Change | None = None  # against the control without a module


class PatchCases:
    """The cases of one configuration and one kind of weak model; what they share is loaded and evaluated once.

    With `for_patch` their modules are those that were searched alone, in place of the joint search's.
    """

    def __init__(self, stage: Stage, kind: WeakKind, *, for_patch: bool = False) -> None:
        self.stage, self.kind, self.for_patch = stage, kind, for_patch

    @cached_property
    def data(self) -> PatchData:
        """The images of all weak models."""
        data = load_patch_data(self.stage.config, image_order(self.stage.artifacts))
        check_trained_on(data.strong, self.stage.artifacts)
        return data

    @cached_property
    def strong(self) -> Graph:
        """The whole strong model, for the control."""
        return load_strong_model(self.stage.config, self.stage.artifacts, self.stage.device)

    @cached_property
    def _weak_images(self) -> dict[str, Images]:
        """The weak classes' images, by part."""
        return {"valid": self.data.weak.valid, "test": self.data.weak.test}

    @cached_property
    def _strong_logits(self) -> dict[str, Tensor]:
        """The strong model's logits (images, its classes) on the weak classes' images, by part."""
        return {
            part: predict(self.strong.network, images, self.stage.device) for part, images in self._weak_images.items()
        }

    def place(self, target_class: int) -> Artifacts:
        """Where the module of a class lies."""
        return self.stage.artifacts.for_patch(target_class) if self.for_patch else self.stage.artifacts

    def epoch(self, target_class: int, wanted: str) -> int:
        """The epoch that `best`, `last` or a number means. Raises UserError where there is no such training."""
        if wanted.isdecimal():
            return int(wanted)
        if wanted not in ("best", "last"):
            raise UserError(f"--target_epoch {wanted}: expected best, last, or an epoch counted from 0")
        history = patch_files.weak_model_log(self.stage.artifacts, self.kind, target_class).load()
        return best_epoch(history) if wanted == "best" else history[-1].number

    def check(self, target_classes: list[int], wanted_epoch: str) -> None:
        """Raises UserError, naming the command that makes it, for the first file that is missing."""
        artifacts = self.stage.artifacts
        files = (module_files.module, module_files.module_kernels, module_files.module_outputs)
        needed = [file(self.place(target_class), target_class) for file in files for target_class in target_classes]
        for file in (model_files.entire_model(artifacts), *needed):
            file.check_is_there()
        for target_class in target_classes:
            check_weak_model(artifacts, self.kind, target_class, self.epoch(target_class, wanted_epoch))

    def load(self, target_class: int, wanted_epoch: str) -> PatchCase:
        """One case. Raises UserError where a file is missing, damaged, or of another module."""
        patch, images = self._read(target_class, wanted_epoch)
        networks = patch.weak, patch.module, self.strong.network
        return self._case(patch, images, answers(*networks, self._weak_images, images, self.stage.device))

    def load_all(self, target_classes: list[int], wanted_epoch: str, engine: Engine | None) -> Iterator[PatchCase]:
        """The case of each class, in this order; on an engine their networks are evaluated by its workers."""
        if engine is None:
            yield from (self.load(target_class, wanted_epoch) for target_class in target_classes)
            return
        config, patches = self.stage.config, [self._read(target_class, wanted_epoch) for target_class in target_classes]
        shared = engine.share(strong_inputs(config, self.strong)), engine.share(self._weak_images)
        for number, (patch, images) in enumerate(patches):
            networks = PatchNetworks.of(config, self.kind, patch.weak, patch.module, patch.kernels)
            engine.submit(number, answers_on_worker, networks, *shared, images, engine.device)
        for (patch, images), said in zip(patches, in_order(engine.results()), strict=True):
            yield self._case(patch, images, said)

    def _read(self, target_class: int, wanted_epoch: str) -> tuple[PatchParts, PatchImages]:
        config, artifacts, device = self.stage.config, self.stage.artifacts, self.stage.device
        epoch = self.epoch(target_class, wanted_epoch)
        weak = load_weak_model(config, artifacts, self.kind, target_class, epoch, device)
        place = self.place(target_class)
        module = load_module(config, place, target_class, device)
        of_target = of_class(self.data.strong.valid, target_class)
        file = module_files.module_outputs(place, target_class)
        module_outputs = file.load(len(of_target))
        first = of_target.take(np.arange(min(CHECKED_OUTPUTS, len(of_target))))
        now = predict(module, first, device)[:, 0].numpy()
        if not np.allclose(now, module_outputs[: len(first)], rtol=1e-2, atol=1e-2):
            raise file.damaged(f"it is of another module than {module_files.module(place, target_class).path}")
        split, own = self.data.split_for(target_class), {}
        for part, shared in self._weak_images.items():
            images: Images = getattr(split, part)
            own[part] = images.take(np.arange(len(shared), len(images)))  # the target class's images come last
        kernels = load_kernel_mask(config, place, target_class)
        patch = PatchParts(target_class, split.classes, epoch, weak, module, kernels, module_outputs)
        return patch, PatchImages(target_class, own, of_target)

    def _case(self, patch: PatchParts, images: PatchImages, said: Answers) -> PatchCase:
        valid, test = (self._outputs(part, images, said) for part in ("valid", "test"))
        if probability_floor(valid.weak.numpy()) is not None:
            say(TAKEN_FOR_PROBABILITIES)
        return PatchCase(**vars(patch), valid=valid, test=test, strong_outputs=said.strong_of_class)

    def report(self, case: PatchCase, results: dict[str, Patched]) -> PatchedWeakModel:
        """What `evaluate` made of a case, as it is written down."""
        return PatchedWeakModel(
            configuration=self.stage.config.name,
            target_class=case.target_class,
            classes=case.classes,
            weak_model=weak_network_name(self.stage.config, self.kind),
            kind=self.kind.folder,
            epoch=case.epoch,
            validation_images=len(case.valid.labels),
            test_images=len(case.test.labels),
            methods={
                method: method_entry(result.confusion, result.rule, result.change, result.over_no_module)
                for method, result in results.items()
            },
            module_sha256=sha256_of(module_files.module(self.place(case.target_class), case.target_class).path),
        )

    def patched_model(self, case: PatchCase, rule: Rule) -> PatchedModel:
        """The case's networks and a rule as one network."""
        config = self.stage.config
        origin = Origin(
            weak_network=weak_network_name(config, self.kind),
            strong_network=config.network_name,
            strong_classes=config.num_classes,
            target_class=case.target_class,
            kernels=case.kernels,
            image_side=config.image_side,
            mean=config.mean,
            std=config.std,
            resize=config.resize,
        )
        return PatchedModel(case.weak, case.module, rule, case.classes, origin)

    def reported(self, case: PatchCase, rule: Rule) -> Reported:
        """Test images as a saved patched model takes them, and the scores that are reported of them."""
        places = checked_places(len(case.test.labels))
        images = self.data.split_for(case.target_class).test.take(places)
        scores = rule(case.test.weak, case.test.module).numpy()[places]
        return Reported({"pixels": images.pixels}, scores, tolerance_on(self.stage.device))

    def _outputs(self, part: str, images: PatchImages, said: Answers) -> Outputs:
        labels = np.concatenate([self._weak_images[part].labels, images.own[part].labels])
        strong = torch.cat([self._strong_logits[part][:, images.target_class], torch.tensor(said.strong[part])])
        outputs = Outputs(labels, torch.tensor(said.weak[part]), torch.tensor(said.module[part]), strong)
        for name, values in (("weak model", outputs.weak), ("module", outputs.module)):
            if not torch.isfinite(values).all():
                raise UserError(f"target class {images.target_class}: the {name} gives NaN or infinity; train it again")
        return outputs


def evaluate(case: PatchCase, calibrations: list[str]) -> dict[str, Patched]:
    """By name: the weak model before, after each calibration, and the controls; all on the test images.

    The controls say what is owed to what: each calibration with the whole strong model's logit of the class in the
    module's place (what a perfect module could give), and the learned one without any module (what recalibrating the
    weak model alone gives).
    """
    valid, test = case.valid, case.test
    num_classes = len(case.classes)
    before = test.weak.argmax(1).numpy()

    def answers_of(
        calibration: str, valid_output: Tensor | None, class_outputs: np.ndarray | None, test_output: Tensor
    ) -> tuple[Rule, np.ndarray]:
        rule = RULES[calibration].fit(valid.weak, valid_output, valid.labels, class_outputs)
        return rule, rule(test.weak, test_output).argmax(1).numpy()

    def compared(rule: Rule, after: np.ndarray, over: np.ndarray | None) -> Patched:
        change, over_no_module = (
            None if old is None else change_of(test.labels, old, after, num_classes - 1) for old in (before, over)
        )
        return Patched(confusion_matrix(test.labels, after, num_classes), rule, change, over_no_module)

    module = (valid.module, case.module_outputs, test.module)
    whole_model = (valid.strong, case.strong_outputs, test.strong)
    no_module, without = answers_of("learned", None, None, torch.zeros(len(test.labels)))
    results = {BEFORE: Patched(confusion_matrix(test.labels, before, num_classes), None)}
    for calibration in calibrations:
        results[calibration] = compared(*answers_of(calibration, *module), without)
        results[WHOLE_MODEL.format(calibration)] = compared(*answers_of(calibration, *whole_model), without)
    results[NO_MODULE] = compared(no_module, without, None)
    if "learned" not in calibrations:
        results[WHOLE_MODEL.format("learned")] = compared(*answers_of("learned", *whole_model), without)
    return results
