"""Everything that a report tells, read or computed when it is first asked for; every network is run once."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np

from configures.base import Config, known_configurations, load
from dataset.datasets import load_dataset
from dataset.images import Split
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import count_parameters, outputs_of, predict
from models.graph import Graph, GraphNetwork, Units, flops_of
from models.opening import Stage, default_config
from models.strong_model import check_network_settings, check_trained_on, graph_of, image_order, load_strong_model
from models.training import Epoch
from modules import files as module_files
from modules.module import as_answers, predict_modules, replaced
from modules.module_set import ModuleSet, SetRecord
from modules.module_sets import open_set
from patching import files as patch_files
from patching.data import PatchData, load_patch_data
from patching.members import Form
from patching.metrics import confusion_matrix
from patching.on_disk import load_own_patches, load_patched_weak_models, load_weak_model
from patching.report import BEFORE, PatchedWeakModel, common_calibrations
from patching.weak_models import WeakKind
from report import made_with
from report.figures_of_patching import ChangedImages
from report.made_with import IMAGE_FORM, MadeWith, as_text, dict_in, set_in_words
from search.files import OnDemand
from search.method import Method
from utils.errors import UserError

MAX_OTHER_ANSWERS = 4  # entries of a confusion matrix: another batch size or machine may turn a tie or two


@dataclass(frozen=True)
class TestAnswers:
    """What strong and composed model answer to the test images."""

    labels: np.ndarray  # (images,) int64
    strong: np.ndarray  # (images, classes) float32 logits
    modules: np.ndarray  # (images, modules) float32: the modules' own logits
    composed: np.ndarray  # (images, classes) float32: the strong model's logits, those of modules replaced


class ReportData:
    """The artifacts of one configuration, with one module set, the most recent one where none is named.

    Each property raises UserError where what it needs is missing or damaged.
    """

    def __init__(self, stage: Stage, set_name: str | None = None) -> None:
        self.stage, self.config, self.artifacts, self._set_name = stage, stage.config, stage.artifacts, set_name
        self.damaged_records: list[str] = []  # what is wrong with each, once `made_with` was asked for
        with contextlib.suppress(UserError):  # a damaged record: the sections that need the strong model say so
            self.config = made_with.as_recorded(stage.config, stage.artifacts)

    @cached_property
    def configured(self) -> Config:
        """What the configuration file says, without the settings that were given to the report."""
        return load(self.config.model, self.config.dataset, None, default_config)

    @property
    def configured_without_files(self) -> Config:
        """The same before there was a strong model, whose files say what a configuration file does not."""
        if self.config.name in known_configurations():
            return self.configured
        form: dict[str, Any] = {
            each.name: each.default for each in dataclasses.fields(Config) if each.name in IMAGE_FORM
        }
        return dataclasses.replace(self.configured, network="", **form)

    @cached_property
    def made_with(self) -> dict[str, MadeWith]:
        """Stage -> what it recorded of its settings; without the stages whose records are missing or damaged."""
        found = {}
        for name, read in made_with.records(self.configured, self.artifacts, self.sets):
            with self._noting_damage():
                found[name] = read()
        return found

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.damaged_records.append(str(error))

    @cached_property
    def weak_made_with(self) -> dict[WeakKind, dict[int, MadeWith]]:
        """Kind -> target class -> what its weak model was trained with; without those whose record is missing."""
        found: dict[WeakKind, dict[int, MadeWith]] = {kind: {} for kind in self.patched_kinds}
        for kind, of_kind in found.items():
            for target_class in range(self.config.num_classes):
                file = patch_files.weak_model_settings(self.artifacts, kind, target_class)
                with self._noting_damage():
                    if file.exists():
                        content = file.load()
                        of_kind[target_class] = MadeWith.of(content, dict_in(content, "configured"))
        return found

    def recorded(self, stage: str, setting: str) -> Any:
        """The value that a stage recorded of a setting; None where it recorded none."""
        return self.made_with[stage].settings.get(setting) if stage in self.made_with else None

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
        check_network_settings(self.config, self.artifacts)
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
        """Layer -> (ratios, 2): ratio, accuracy; of the layers that were measured, at least one.

        They were measured at the ratios that stand in their own record, which need not be the configuration's.
        """
        files = {layer: module_files.layer_sensitivity(self.artifacts, layer) for layer in self.layer_names}
        measured = {layer: file for layer, file in files.items() if file.exists()}
        if not measured:
            next(iter(files.values())).check_is_there()
        ratios = self.recorded(made_with.SENSITIVITY, "sensitivity_ratios")
        return {layer: file.load(ratios and len(ratios), 2) for layer, file in measured.items()}

    @cached_property
    def sets(self) -> list[ModuleSet]:
        """All module sets of the strong model, the oldest first."""
        return made_with.sets_here(self.config, self.artifacts)

    @cached_property
    def module_set(self) -> ModuleSet:
        """The module set that the report is on."""
        return open_set(self.config, self.artifacts, self._set_name, ())

    @property
    def record(self) -> SetRecord:
        """What is known of it."""
        return self.module_set.record

    @property
    def target_classes(self) -> list[int]:
        """The classes of its modules."""
        return list(self.module_set.target_classes)

    @property
    def targets(self) -> list[str]:
        """Their names."""
        return [self.classes[number] for number in self.target_classes]

    @property
    def _record(self) -> SetRecord | None:
        """What is known of the module set; None where there is none, or it is damaged: its own section says so."""
        try:
            return self.record
        except UserError:
            return None

    def set_setting(self, method: str, setting: str) -> Any:
        """The value that a search recorded of a setting; None where it recorded none, or the set is of another one."""
        is_of_it = self._record is not None and self._record.method == method
        return self.recorded(set_in_words(self.module_set), setting) if is_of_it else None

    @property
    def searched_classes(self) -> tuple[int, ...]:
        """The classes of the set, as searches name them: () = all, which is so, too, where there is no set."""
        targets = () if self._record is None else self._record.target_classes
        return () if len(targets) == self.config.num_classes else targets

    def chosen_row(self, method: Method, rows: Sequence[Any]) -> int | None:
        """The row of a method's log that the set's modules are of; None where they are of another search."""
        if (record := self._record) is None or record.method != method.name:
            return None
        row, file = record.search.get(method.course.row), method.files(self.artifacts, self.searched_classes).settings
        if not isinstance(row, int) or not 0 <= row < len(rows):
            return None
        settings = dict_in(record.search, "settings")
        return row if not settings or not file.exists() or settings.items() >= file.load().items() else None

    @cached_property
    def masks(self) -> np.ndarray:
        """(modules, K) bool, True = kept."""
        return self.module_set.masks()

    @cached_property
    def strong(self) -> Graph:
        """The strong model."""
        return load_strong_model(self.config, self.artifacts, self.stage.device)

    @cached_property
    def modules(self) -> Sequence[GraphNetwork]:
        """The modules of the set, each read when it is asked for."""
        return OnDemand(self.target_classes, partial(self.module_set.module, device=self.stage.device))

    @cached_property
    def answers(self) -> TestAnswers:
        """The test images, and what strong and composed model answer to them."""
        check_trained_on(self.split, self.artifacts)
        test, device = self.split.test, self.stage.device
        strong = as_answers(predict(self.strong.network, test, device), self.module_set.record.answer)
        own = predict_modules(self.modules, test, device)
        for name, outputs in (("strong model", strong), ("composed model", own)):
            if not outputs.isfinite().all():
                raise UserError(f"the {name} gives NaN or infinity; make it again")
        composed = replaced(strong, own, self.target_classes).numpy()
        return TestAnswers(test.labels, strong.numpy(), own.numpy(), composed)

    @cached_property
    def confusions(self) -> dict[str, np.ndarray]:
        """Model's name -> (classes, classes) counts of test images, rows = true classes."""
        labels, classes = self.answers.labels, self.config.num_classes
        logits = {"strong model": self.answers.strong, "composed model": self.answers.composed}
        return {name: confusion_matrix(labels, given.argmax(1), classes) for name, given in logits.items()}

    @cached_property
    def costs(self) -> tuple[tuple[int, int, int], np.ndarray]:
        """Kernels, FLOPs of one image and parameters: of the strong model, and (modules, 3) of the modules."""
        image = self.strong.image_shape
        kept = [self.units.num_kernels, *self.masks.sum(1).tolist()]
        networks = chain([self.strong.network], self.modules)
        costs = [(flops_of(network, image), count_parameters(network)) for network in networks]
        strong, *modules = [(kernels, *cost) for kernels, cost in zip(kept, costs, strict=True)]
        return strong, np.array(modules)

    @cached_property
    def patch_data(self) -> PatchData:
        """The images of the weak models."""
        return load_patch_data(self.config, image_order(self.artifacts))

    @cached_property
    def own_patches(self) -> dict[str, PatchedWeakModel]:
        """The patches of weak models that were not made here, by name; none where there are none."""
        return load_own_patches(self.artifacts)

    def own_changed_images(self, name: str) -> ChangedImages:
        """The test images that a patch of the user's own weak model gained and lost.

        Raises UserError where they are not recorded, or the dataset no longer has them.
        """
        model = self.own_patches[name]
        again = f"patch again with: {model.details.get('command', 'scripts/patch_weak_model.py')}"
        try:
            changed, form = model.details["changed"], Form.of_plain(model.details["changed"]["form"])
            values = (np.array(changed[each], np.int64) for each in ("places", "labels", "before", "after"))
            places, labels, before, after = values
            dataset = load_dataset(changed["images"], form.side, form.resize, form.normalisation)
            names = [dataset.classes[label] for label in dataset.test.labels[places]]
            is_same = changed["fingerprint"] == dataset.test.fingerprint
            if not is_same or names != [model.classes[label] for label in labels]:
                raise UserError(f"the images have changed since; {again}")
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"they are not recorded; {again}") from None
        pixels = dataset.test.pixels[places]
        return ChangedImages(name, model.test_images, model.classes, pixels, labels, before, after, places=places)

    @property
    def patched_kinds(self) -> list[WeakKind]:
        """The kinds of weak models that the configuration has, or that were patched with settings given to a stage."""
        return [kind for kind in WeakKind if self.config.weak_classes or patch_files.reports(self.artifacts, kind)]

    def patched(self, kind: WeakKind) -> list[PatchedWeakModel]:
        """The weak models of a kind that were patched, at least one."""
        models = load_patched_weak_models(self.artifacts, kind)
        if out_of_range := [model for model in models if not 0 <= model.target_class < self.config.num_classes]:
            folder = patch_files.weak_models_folder(self.artifacts, kind)
            raise UserError(
                f"{folder}: target class {out_of_range[0].target_class} is not one of the {self.config.num_classes} "
                f"classes of {self.config.name}; set it aside"
            )
        return models

    def patch_answers(self, kind: WeakKind) -> tuple[str, list[ChangedImages]]:
        """The best calibration tried, and what the last reported epoch of each weak model of a kind says by it.

        Raises UserError where the networks on the disk do not answer as the reports say.
        """
        models = list({model.target_class: model for model in self.patched(kind)}.values())
        method = max(common_calibrations(models), key=lambda method: sum(model.scores(method).f1 for model in models))
        return method, [self._answers_of(model, kind, method) for model in models]

    def _check_settings_of(self, model: PatchedWeakModel, kind: WeakKind) -> None:
        """Raises UserError where a weak model is of another network or of other classes than the settings say."""
        patched: dict[str, Any] = {"weak_classes": model.classes[:-1]}
        if kind is WeakKind.SIMPLE:
            patched["weak_model"] = model.weak_model
        given = [f"{name}={as_text(value)}" for name, value in patched.items() if getattr(self.config, name) != value]
        if given:
            raise UserError(
                f"the {kind.words} models were patched with other settings than those given now: "
                f"run: {self._report_command(*given)}"
            )

    def _report_command(self, *assignments: str) -> str:
        """What makes this report, with further settings."""
        artifacts = dataclasses.replace(self.artifacts, assignments=(*self.artifacts.assignments, *assignments))
        return artifacts.command("scripts/make_report.py")

    def _answers_of(self, model: PatchedWeakModel, kind: WeakKind, method: str) -> ChangedImages:
        self._check_settings_of(model, kind)
        test, target_class = self.patch_data.split_for(model.target_class).test, model.target_class
        if len(test) != model.test_images:
            raise UserError(
                f"the weak model of class {target_class} was tested on {model.test_images} images, the settings weak_* "
                f"now give {len(test)}: give those that it was patched with to: {self._report_command()}"
            )
        device = self.stage.device
        weak = load_weak_model(self.config, self.artifacts, kind, target_class, model.epoch, device)
        module = open_set(self.config, self.artifacts, model.modules, [target_class]).module(target_class, device)
        logits, module_outputs = outputs_of([weak, module], test, device)
        again = f"{patch_files.patch_command(self.artifacts, kind)} --calibration {method} --modules {model.modules}"
        whose = f"the weak model or the module of class {target_class}"
        changed = UserError(f"{whose} has changed since it was patched; patch again with: {again}")
        if logits.shape[1] != len(model.classes):
            raise changed
        scores = model.rule(method)(logits, module_outputs)
        before, after = logits.argmax(1).numpy(), scores.argmax(1).numpy()
        for predictions, reported in ((before, BEFORE), (after, method)):
            found = confusion_matrix(test.labels, predictions, len(model.classes))
            if np.abs(found - model.confusion(reported)).sum() > MAX_OTHER_ANSWERS:
                raise changed
        shown = len(test), model.classes, np.asarray(test.pixels), test.labels, before, after
        return ChangedImages(model.classes[-1], *shown, outputs=module_outputs[:, 0].numpy())
