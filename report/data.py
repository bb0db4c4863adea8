"""Everything that a report tells, read or computed when it is first asked for; every network is run once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset.labelled_images import Split
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import outputs_of
from models.graph import Graph, GraphNetwork, Units, flops_of
from models.strong_model import graph_of, load_strong_model
from models.trained_on import check_trained_on, image_order
from models.training import Epoch
from models.weights import count_parameters
from modules import files as module_files
from modules.modularization import Modularization
from modules.on_disk import load_kernel_mask, load_modularization, load_module
from patching import files as patch_files
from patching.data import PatchData, load_patch_data
from patching.metrics import confusion_matrix
from patching.on_disk import OwnPatch, load_own_patches, load_patched_weak_models, load_weak_model
from patching.report import BEFORE, PatchedWeakModel, common_calibrations
from patching.weak_models import WeakKind
from report.figures_of_patching import PatchAnswers
from search.genetic import files as genetic_files
from search.genetic.log import Generation, best_generation
from search.gradient import files as gradient_files
from search.gradient.log import Round
from search.methods import METHODS
from utils.errors import UserError
from utils.files import sha256_of
from utils.stage import Stage

MAX_OTHER_ANSWERS = 4  # entries of a confusion matrix: another batch size or machine may turn a tie or two


@dataclass(frozen=True)
class Answers:
    """What strong and composed model answer to the test images."""

    labels: np.ndarray  # (images,) int64
    strong: np.ndarray  # (images, classes) float32 logits
    composed: np.ndarray  # (images, classes) float32: column c is the module of class c


class ReportData:
    """The artifacts of one configuration. Each property raises UserError where what it needs is missing or damaged."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.config, self.artifacts = stage, stage.config, stage.artifacts

    @cached_property
    def split(self) -> Split:
        """The dataset."""
        return load_split(self.config, image_order(self.artifacts), say_copies=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes' names; their numbers where the dataset is not there to name them."""
        try:
            return self.split.classes
        except UserError:
            return self.config.classes or tuple(map(str, range(self.config.num_classes)))

    @cached_property
    def units(self) -> Units:
        """The strong model's kernels, and which of them go together."""
        return graph_of(self.config).units

    @cached_property
    def layer_names(self) -> dict[int, str]:
        """Conv layer that can be cut -> its name, with the layers that are cut alike: `1=3`."""
        return {layer: "=".join(map(str, tied)) for layer, tied in self.units.tied_layers.items()}

    @cached_property
    def history(self) -> list[Epoch]:
        """The training of the strong model."""
        return model_files.training_log(self.artifacts).load()

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """Layer's name -> importance (classes, kernels)."""
        shape = (self.config.num_classes, self.units.num_kernels)
        importance = module_files.kernel_importance(self.artifacts).load(*shape)
        layers = self.units.layers
        return {name: importance[:, layers[layer].kernels] for layer, name in self.layer_names.items()}

    @cached_property
    def sensitivity(self) -> dict[int, np.ndarray]:
        """Layer -> (ratios, 2): ratio, accuracy; of the layers that were measured, at least one."""
        files = {layer: module_files.layer_sensitivity(self.artifacts, layer) for layer in self.layer_names}
        measured = {layer: file for layer, file in files.items() if file.exists()}
        if not measured:
            next(iter(files.values())).check_is_there()
        return {layer: file.load(len(self.config.sensitivity_ratios), 2) for layer, file in measured.items()}

    @cached_property
    def generations(self) -> list[Generation]:
        """The genetic search's log, at least one row."""
        return genetic_files.log(self.artifacts).load()

    @cached_property
    def rounds(self) -> list[Round]:
        """The gradient search's log; empty where there was none."""
        return gradient_files.log(self.artifacts).load_if_there()

    @property
    def chosen_round(self) -> int:
        """The round that the modules are of, or the last one where they are of none."""
        return self._chosen("round", len(self.rounds), len(self.rounds) - 1)

    @property
    def chosen_generation(self) -> int:
        """The generation that the modules are of, or the best one where they are of none."""
        return self._chosen("generation", len(self.generations), best_generation(self.generations).generation)

    def _chosen(self, name: str, count: int, otherwise: int) -> int:
        try:
            chosen = self.modularization.search.get(name)
        except UserError:  # its own section says so
            return otherwise
        return chosen if isinstance(chosen, int) and 0 <= chosen < count else otherwise

    @cached_property
    def search_settings(self) -> dict[str, Any]:
        """What the genetic search wrote down of its settings; nothing where it wrote nothing."""
        file = genetic_files.settings(self.artifacts)
        return file.load() if file.exists() else {}

    @property
    def method(self) -> str:
        """The search that the modules are of; the genetic one where there are none."""
        try:
            method = self.modularization.search.get("method")
        except UserError:  # its own section says so
            method = None
        return method if isinstance(method, str) and method in METHODS else "genetic"

    @property
    def settings_of_modules(self) -> dict[str, Any]:
        """What the search that the modules are of wrote down of its settings; nothing where it wrote nothing."""
        file = gradient_files.settings(self.artifacts)
        if self.method != "gradient" or not file.exists():
            return self.search_settings
        return file.load()

    @cached_property
    def modularization(self) -> Modularization:
        """What the search said of its modules."""
        return load_modularization(self.config, self.artifacts)

    @cached_property
    def masks(self) -> np.ndarray:
        """(classes, K) bool, True = kept."""
        return np.stack([load_kernel_mask(self.config, self.artifacts, c) for c in range(self.config.num_classes)])

    @cached_property
    def strong(self) -> Graph:
        """The strong model."""
        return load_strong_model(self.config, self.artifacts, self.stage.device)

    @cached_property
    def modules(self) -> list[GraphNetwork]:
        """The module of every class."""
        classes = range(self.config.num_classes)
        return [load_module(self.config, self.artifacts, c, self.stage.device) for c in classes]

    @cached_property
    def answers(self) -> Answers:
        """The test images, and what strong and composed model answer to them."""
        check_trained_on(self.split, self.artifacts)
        test = self.split.test
        strong, *modules = outputs_of([self.strong.network, *self.modules], test, self.stage.device)
        composed = np.concatenate(modules, 1)
        for name, outputs in (("strong model", strong), ("composed model", composed)):
            if not np.isfinite(outputs).all():
                raise UserError(f"the {name} gives NaN or infinity; make it again")
        return Answers(test.labels, strong, composed)

    @cached_property
    def confusions(self) -> dict[str, np.ndarray]:
        """Model's name -> (classes, classes) counts of test images, rows = true classes."""
        answers, classes = self.answers, self.config.num_classes
        return {
            f"{name} model": confusion_matrix(answers.labels, getattr(answers, name).argmax(1), classes)
            for name in ("strong", "composed")
        }

    @cached_property
    def costs(self) -> tuple[tuple[int, int, int], np.ndarray]:
        """Kernels, FLOPs of one image and parameters: of the strong model, and (classes, 3) of the modules."""
        image = self.strong.image_shape
        kept, networks = [self.units.num_kernels, *self.masks.sum(1).tolist()], [self.strong.network, *self.modules]
        costs = [
            (kernels, flops_of(network, image), count_parameters(network))
            for kernels, network in zip(kept, networks, strict=True)
        ]
        return costs[0], np.array(costs[1:])

    @cached_property
    def patch_data(self) -> PatchData:
        """The images of the weak models."""
        return load_patch_data(self.config, image_order(self.artifacts))

    @cached_property
    def own_patches(self) -> list[OwnPatch]:
        """The patches of weak models that were not made here; none where there are none."""
        return load_own_patches(self.artifacts)

    def has_modules_of(self, own: OwnPatch) -> bool:
        """Whether the modules on the disk are those that a patch was made with."""
        for number, checksum in own.modules_sha256.items():
            place = self.artifacts.for_patch(number) if own.for_patch else self.artifacts
            file = module_files.module(place, number)
            if not file.exists() or sha256_of(file.path) != checksum:
                return False
        return True

    def patched(self, kind: WeakKind) -> list[PatchedWeakModel]:
        """The weak models of a kind that were patched, at least one."""
        models = load_patched_weak_models(self.artifacts, kind)
        out_of_range = [model for model in models if not 0 <= model.target_class < self.config.num_classes]
        if out_of_range:
            folder = patch_files.weak_models_folder(self.artifacts, kind)
            raise UserError(
                f"{folder}: target class {out_of_range[0].target_class} is not one of the {self.config.num_classes} "
                f"classes of {self.config.name}; set it aside"
            )
        return models

    def patch_answers(self, kind: WeakKind) -> tuple[str, list[PatchAnswers]]:
        """The best calibration tried, and what the last reported epoch of each weak model of a kind says by it.

        Raises UserError where the networks on the disk do not answer as the reports say.
        """
        models = list({model.target_class: model for model in self.patched(kind)}.values())
        method = max(common_calibrations(models), key=lambda method: sum(model.scores(method).f1 for model in models))
        return method, [self._answers_of(model, kind, method) for model in models]

    def _answers_of(self, model: PatchedWeakModel, kind: WeakKind, method: str) -> PatchAnswers:
        test, target_class = self.patch_data.split_for(model.target_class).test, model.target_class
        weak = load_weak_model(self.config, self.artifacts, kind, target_class, model.epoch, self.stage.device)
        logits, module_outputs = outputs_of([weak, self.modules[target_class]], test, self.stage.device)
        changed = UserError(
            f"the weak model or the module of class {target_class} has changed since it was patched; "
            f"patch again with: {patch_files.patch_command(self.artifacts, kind)} --calibration {method}"
        )
        if logits.shape[1] != len(model.classes):
            raise changed
        scores = model.rule(method)(torch.tensor(logits), torch.tensor(module_outputs[:, 0]))
        before, after = logits.argmax(1), scores.argmax(1).numpy()
        for predictions, reported in ((before, BEFORE), (after, method)):
            found = confusion_matrix(test.labels, predictions, len(model.classes))
            if np.abs(found - model.confusion(reported)).sum() > MAX_OTHER_ANSWERS:
                raise changed
        return PatchAnswers(model.classes, test.pixels, test.labels, before, after, module_outputs[:, 0])
