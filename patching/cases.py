"""The patches of weak models that were trained here: what each needs, read from the disk and evaluated once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from dataset.images import Images, Split
from engines.engine import Engine, in_order
from models import files as model_files
from models.evaluation import predict
from models.graph import Graph, GraphNetwork
from models.opening import Stage
from models.strong_model import check_trained_on, image_order, load_strong_model
from models.training import best_epoch
from modules.evaluation_inputs import strong_inputs
from modules.module import as_answers
from modules.module_set import ModuleSet
from modules.module_sets import collected_outputs
from patching import files as patch_files
from patching.answers import PatchImages, PatchNetworks, answers, answers_on_worker
from patching.as_reported import Reported, checked_places, tolerance_on
from patching.calibration import TAKEN_FOR_PROBABILITIES, probability_floor
from patching.comparison import Answers
from patching.data import PatchData, load_patch_data, of_class
from patching.from_arrays import Patch
from patching.members import Form, Logits, Member
from patching.on_disk import check_weak_model, load_weak_model, set_checksum
from patching.patched_model import PatchedModel, PatchOrigin
from patching.report import PatchedWeakModel
from patching.rules import Rule
from patching.weak_models import WeakKind, weak_network_name
from utils.device import machine_facts
from utils.errors import UserError
from utils.progress import say
from utils.recorded_settings import differences


@dataclass(frozen=True)
class PatchMembers:
    """The networks of one patch, as they are read, and its images."""

    classes: tuple[str, ...]  # the weak model's; the target class last
    epoch: int
    weak: nn.Module
    module: GraphNetwork
    kernels: np.ndarray  # (K,) bool: those that the module keeps
    images: PatchImages

    @property
    def target_class(self) -> int:
        """Of the strong model."""
        return self.images.target_class


@dataclass(frozen=True)
class PatchCase(PatchMembers):
    """All that patching one weak model needs: the networks and their outputs for validation and test images."""

    valid: Answers
    test: Answers


class PatchCases:
    """The cases of one configuration and one kind of weak model; what they share is loaded and evaluated once.

    `modules` patch them; None if no case is loaded.
    """

    def __init__(self, stage: Stage, kind: WeakKind, modules: ModuleSet | None = None) -> None:
        self.stage, self.kind, self._modules = stage, kind, modules

    @property
    def modules(self) -> ModuleSet:
        """The modules that patch the weak models. Raises TypeError if none were given."""
        if self._modules is None:
            raise TypeError("expected modules, with which cases are loaded")
        return self._modules

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
    def _strong_answers(self) -> dict[str, np.ndarray]:
        """What modules take the place of (images, strong classes), on the weak classes' images, by part."""
        return {
            part: as_answers(
                predict(self.strong.network, images, self.stage.device), self.modules.record.answer
            ).numpy()
            for part, images in self._weak_images.items()
        }

    def epoch(self, target_class: int, wanted: str) -> int:
        """The epoch that `best`, `last` or a number means. Raises UserError if there is no such training."""
        if wanted.isdecimal():
            return int(wanted)
        if wanted not in ("best", "last"):
            raise UserError(f"--target_epoch {wanted}: expected best, last, or an epoch counted from 0")
        history = patch_files.weak_model_log(self.stage.artifacts, self.kind, target_class).load()
        return best_epoch(history) if wanted == "best" else history[-1].number

    def check(self, target_classes: list[int], wanted_epoch: str) -> None:
        """Raises UserError, naming the command that makes it, for the first file that is missing."""
        artifacts = self.stage.artifacts
        model_files.entire_model(artifacts).check_is_there()
        for target_class in target_classes:
            self.modules.file(target_class).check_is_there()
            self.modules.kernels_file(target_class).check_is_there()
            check_weak_model(artifacts, self.kind, target_class, self.epoch(target_class, wanted_epoch))

    def load(self, target_class: int, wanted_epoch: str) -> PatchCase:
        """One case. Raises UserError if a file is missing or damaged."""
        return next(self.load_all([target_class], wanted_epoch))

    def load_all(
        self, target_classes: list[int], wanted_epoch: str, engine: Engine | None = None
    ) -> Iterator[PatchCase]:
        """The case of each class, in this order; on an engine their networks are evaluated by its workers."""
        read = (self._read(number, self.epoch(number, wanted_epoch)) for number in target_classes)
        if engine is None:
            for case in read:
                own = case.weak, case.module, self.strong.network
                yield _answered(case, answers(*own, self._weak_images, case.images, self.stage.device))
            return
        config, cases = self.stage.config, list(read)
        shared = engine.share(strong_inputs(config, self.strong)), engine.share(self._weak_images)
        for number, case in enumerate(cases):
            networks = PatchNetworks.of(config, self.kind, case.weak, case.module, case.kernels)
            engine.submit(number, answers_on_worker, networks, *shared, case.images, engine.device)
        for case, found in zip(cases, in_order(engine.results()), strict=True):
            yield _answered(case, found)

    def weak_model(self, target_class: int, epoch: int) -> tuple[nn.Module, Split]:
        """A weak model, and its images.

        Raises UserError if it is missing or damaged, or was trained on other images or classes than today's settings
        name, which could be judged on images that it learned from.
        """
        config, artifacts, split = self.stage.config, self.stage.artifacts, self.data.split_for(target_class)
        weak = load_weak_model(config, artifacts, self.kind, target_class, epoch, self.stage.device)
        file = patch_files.weak_model_settings(artifacts, self.kind, target_class)
        there = file.load() if file.exists() else {}  # of one that was put there by hand nothing is known
        now = {"classes": list(split.classes), "images_crc32": [split.train.fingerprint, split.valid.fingerprint]}
        known = {name: there[name] for name in now.keys() & there.keys()}
        if different := differences(known, {name: now[name] for name in known}):
            raise UserError(
                f"{file.path.parent} was trained with other settings ({different}): use the same, or train it again "
                f"with: {file.made_by}"
            )
        return weak, split

    def _read(self, target_class: int, epoch: int) -> PatchMembers:
        """What a case needs before its networks are evaluated."""
        device = self.stage.device
        weak, split = self.weak_model(target_class, epoch)
        module, kernels = self.modules.module(target_class, device), self.modules.mask(target_class)
        of_target = of_class(self.data.strong.valid, target_class)
        collected = collected_outputs(self.stage, self.modules, target_class, of_target)
        own = {}
        for part, shared in self._weak_images.items():
            images: Images = getattr(split, part)
            own[part] = images.take(np.arange(len(shared), len(images)))  # the target class's images come last
        shared_strong = {part: answers[:, target_class] for part, answers in self._strong_answers.items()}
        of_patch = PatchImages(target_class, own, of_target, shared_strong, self.modules.record.answer, collected)
        return PatchMembers(split.classes, epoch, weak, module, kernels, of_patch)

    def report(self, case: PatchCase, methods: dict[str, Any]) -> PatchedWeakModel:
        """What `compare` made of a case, as it is written down."""
        return PatchedWeakModel(
            case.classes,
            (len(case.classes) - 1,),
            len(case.test.labels),
            methods,
            configuration=self.stage.config.name,
            target_classes=(case.target_class,),
            modules=self.modules.name,
            modules_sha256=set_checksum(self.stage.artifacts, self.modules.name),
            weak_model=weak_network_name(self.stage.config, self.kind),
            kind=self.kind.folder,
            epoch=case.epoch,
            validation_images=len(case.valid.labels),
            made_with=machine_facts("torch", "numpy"),
        )

    def patched_model(self, case: PatchCase, rule: Rule) -> PatchedModel:
        """The case's networks and a rule as one network."""
        config, count = self.stage.config, len(case.classes)
        form = Form.of(config)
        weak = Member(Logits(case.weak, count), form, range(count))
        names = weak_network_name(config, self.kind), config.network_name
        origin = PatchOrigin(*names, config.num_classes, (case.target_class,), case.kernels[None])
        return PatchedModel(weak, [Member(case.module, form, [count - 1])], rule, case.classes, origin)

    def reported(self, case: PatchCase, patch: Patch) -> Reported:
        """Test images as a saved patched model takes them, and the scores that are reported of them."""
        places = checked_places(len(case.test.labels))
        images = self.data.split_for(case.target_class).test.take(places)
        scores = patch(case.test.weak, case.test.modules)[places]
        return Reported({"pixels": np.asarray(images.pixels)}, scores, tolerance_on(self.stage.device))


def _answered(case: PatchMembers, found: dict[str, Answers]) -> PatchCase:
    """The case with its networks' outputs. Raises UserError if one is NaN or infinite."""
    for said in found.values():
        for name, values in (("weak model", said.weak), ("module", said.modules[len(case.classes) - 1])):
            if not np.isfinite(values).all():
                raise UserError(f"target class {case.target_class}: the {name} gives NaN or infinity; train it again")
    if probability_floor(found["valid"].weak) is not None:
        say(TAKEN_FOR_PROBABILITIES)
    return PatchCase(**vars(case), valid=found["valid"], test=found["test"])
