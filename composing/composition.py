"""A classifier composed of sources: the images that it is fitted and judged on, what all networks say, its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from composing.composed_model import ComposedClassifier
from composing.controls import Whole, largest_softmax, mean_softmax, restricted, stacked
from composing.report import (
    AS_THEY_ARE,
    COMPOSED,
    LARGEST,
    MEAN,
    RESTRICTED,
    STACKED,
    STACKED_OUTPUTS,
    STANDARDISED,
    WHOLE_RULE,
    ComposedRecord,
    methods_of,
)
from composing.rule import Scaled, fitted, standardised
from composing.sources import Source, check_images_have, unseen
from dataset.images import Images, Split
from dataset.splits import load_evaluation_parts
from models.evaluation import outputs_of
from models.graph import Graph
from models.strong_model import image_order
from modules.own_class import auc_by_class
from patching.as_reported import Reported, checked_places, tolerance_on
from patching.members import Form, Member
from patching.on_disk import set_checksum
from patching.own_weak_model import with_labels_of
from utils.device import machine_facts, utc_now
from utils.errors import UserError
from utils.progress import say

PARTS = ("valid", "test")
InForms = dict[Form, Images]  # the same images in every form


@dataclass(frozen=True)
class Said:
    """What the networks say about the images of one part."""

    labels: np.ndarray  # (images,) int64
    members: list[
        np.ndarray
    ]  # of each source, (images, classes) float32: its output of each composed class that it has
    whole: list[Whole]  # of each strong model


class Composition:
    """Sources, joined to a classifier of their classes.

    Args:
        task: `sub-task`, `merge` or `best of`.
        sources: with `best of`, all of the same classes; else with different ones.
        classes: of the composed classifier.
        images: the dataset that it is fitted and judged on; None = those of the strong models.
        seed: of stacking's folds, and of bootstraps.
    """

    def __init__(
        self, task: str, sources: Sequence[Source], classes: Sequence[str], images: str | None, seed: int
    ) -> None:
        self.task, self.sources, self.classes, self.given = task, tuple(sources), tuple(classes), images
        self.seed, self.device = seed, sources[0].stage.device

    @property
    def datasets(self) -> list[str]:
        """Whose images it is fitted and judged on."""
        return [self.given] if self.given else list(dict.fromkeys(each.config.image_source for each in self.sources))

    @cached_property
    def _firsts(self) -> dict[str, Source]:
        """Strong model's name -> the first source of it."""
        return {source.config.name: source for source in reversed(self.sources)}

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Strong model's name -> its own images."""
        return {name: source.split() for name, source in self._firsts.items()}

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """Strong model's name -> the strong model."""
        return {name: source.graph() for name, source in self._firsts.items()}

    @cached_property
    def images(self) -> dict[str, InForms]:
        """Part -> the images of the composed classes that no strong model was trained on, labelled in their order.

        Raises UserError for a dataset that lacks a class, or a class without images.
        """
        if self.given is None and len(self._firsts) == 1:
            joined = self._of_own_split(self.sources[0])
        else:
            of_datasets = [self._of_dataset(dataset) for dataset in self.datasets]
            joined = {part: _joined([each[part] for each in of_datasets]) for part in PARTS}
        for part, in_forms in joined.items():
            labels = next(iter(in_forms.values())).labels
            if len(absent := np.setdiff1d(np.arange(len(self.classes)), labels)):
                raise UserError(
                    f"class {self.classes[absent[0]]} has no {part} images in {', '.join(self.datasets)} that no "
                    "strong model was trained on: add some, or give others with --images"
                )
        return joined

    def _of_own_split(self, source: Source) -> dict[str, InForms]:
        """The images of the only strong model."""
        split = self.splits[source.config.name]
        have = tuple(source.called.get(name, name) for name in split.classes)
        return {part: {source.form: with_labels_of(getattr(split, part), have, self.classes)[0]} for part in PARTS}

    def _of_dataset(self, dataset: str) -> dict[str, InForms]:
        """The images of a dataset, without those that a strong model was trained on, in the form of every source."""
        forms = list(dict.fromkeys(source.form for source in self.sources))
        own = [source for source in self.sources if source.config.image_source == dataset]
        orders = (image_order(source.stage.artifacts) for source in own)
        order = next((each for each in orders if each is not None), None)
        plain = [(form.side, form.resize, form.normalisation) for form in forms]
        have, of_forms = load_evaluation_parts(dataset, plain, order)
        needed = self.classes
        if self.given is None:  # they have the strong models' names
            have = tuple(next((each.called[name] for each in own if name in each.called), name) for name in have)
            needed = tuple(name for source in own for name in source.names)
        check_images_have(needed, have, dataset)
        others = [source for source in self._firsts.values() if not self._is_own_split(source, dataset, of_forms)]
        found = {}
        for part in PARTS:
            in_forms = {
                form: with_labels_of(parts[part], have, self.classes)[0]
                for form, parts in zip(forms, of_forms, strict=True)
            }
            new = unseen(in_forms, others, [self.splits[source.config.name] for source in others])
            if not new.all():
                say(f"left out: {(~new).sum():,} {part} images of {dataset} that a strong model was trained on")
            found[part] = {form: images.take(np.flatnonzero(new)) for form, images in in_forms.items()}
        return found

    def _is_own_split(self, source: Source, dataset: str, of_forms: Sequence[Mapping[str, Images]]) -> bool:
        """Whether a dataset's validation images are those of a strong model, and so none that it was trained on."""
        own = self.splits[source.config.name].valid.labels
        return source.config.image_source == dataset and np.array_equal(own, of_forms[0]["valid"].labels)

    def _outputs(self, source: Source, images: Images, graph_logits: np.ndarray | None = None) -> np.ndarray:
        """What a source says of the classes that it has (images, classes) float32, in the order of its names."""
        if source.modules is None:
            logits = self._logits(source, images) if graph_logits is None else graph_logits
            return logits[:, list(source.numbers)]
        modules = [source.modules.module(number, self.device) for number in source.numbers]
        return self._checked(torch.cat(outputs_of(modules, images, self.device), 1).numpy(), source)

    def _logits(self, source: Source, images: Images) -> np.ndarray:
        network = self.graphs[source.config.name].network
        return self._checked(outputs_of([network], images, self.device)[0].numpy(), source)

    @staticmethod
    def _checked(outputs: np.ndarray, source: Source) -> np.ndarray:
        if not np.isfinite(outputs).all():
            raise UserError(f"{source.label}: a network gives NaN or infinity; make it again")
        return outputs

    @cached_property
    def said(self) -> dict[str, Said]:
        """Part -> what all networks say; every network is run once."""
        found = {}
        for part, in_forms in self.images.items():
            logits = {name: self._logits(source, in_forms[source.form]) for name, source in self._firsts.items()}
            members = [
                self._outputs(source, in_forms[source.form], logits[source.config.name]) for source in self.sources
            ]
            whole = []
            for name, values in logits.items():
                of_model = [source for source in self.sources if source.config.name == name]
                known = {n: source.number_of(n) for source in of_model for n in source.names}
                whole.append(Whole(values, tuple(map(self.classes.index, known)), tuple(known.values())))
            labels = next(iter(in_forms.values())).labels
            found[part] = Said(labels, members, whole)
        return found

    @cached_property
    def auc(self) -> np.ndarray:
        """(sources, classes) float64: how well each source knows each class on validation images; NaN = it has none.

        The area under the ROC curve (AUC) depends on the order of an output's values alone, so that outputs of
        different units can be compared, and needs no threshold, as F1 does.
        """
        said, found = self.said["valid"], np.full((len(self.sources), len(self.classes)), np.nan)
        for row, source, outputs in zip(found, self.sources, said.members, strict=True):
            places = [self.classes.index(name) for name in source.names]
            row[places] = auc_by_class(outputs, said.labels, places)
        return found

    @cached_property
    def chosen(self) -> list[int]:
        """Of each class the number of the source that it is taken from: the one that is best at it."""
        return np.nanargmax(self.auc, 0).tolist()

    def outputs(self, part: str) -> np.ndarray:
        """(images, classes) float32: the outputs of the members that are taken."""
        return np.stack(self._taken(self.said[part].members), 1)

    def _taken(self, of_sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each class the output (images,) that is taken, of those (images, classes) of each source."""
        return [
            of_sources[number][:, self.sources[number].names.index(name)]
            for name, number in zip(self.classes, self.chosen, strict=True)
        ]

    @cached_property
    def by_own_images(self) -> Scaled:
        """The rule without common images: each source's outputs on its strong model's own validation images."""
        outputs = []
        for source in self.sources:
            valid = self.splits[source.config.name].valid
            valid = valid.take(np.flatnonzero(np.isin(valid.labels, source.numbers)))
            outputs.append(self._outputs(source, valid))
        return standardised(self._taken(outputs), self.chosen)

    @cached_property
    def by_common_images(self) -> Scaled:
        """The rule that is fitted on the validation images."""
        return fitted(self.outputs("valid"), self.said["valid"].labels, self.chosen, self.seed)

    def compare(self, rule: Scaled) -> tuple[dict[str, Any], dict[str, Any]]:
        """The methods and the sources of a `ComposedRecord`, judged on the test images."""
        valid, test = self.said["valid"], self.said["test"]
        outputs, count = self.outputs("test"), len(self.classes)
        costs = {name: graph.flops for name, graph in self.graphs.items()}
        total = sum(costs.values())
        members, whole = sum(member.cost[0] for member in self.members) / total, 1.0
        answers, flops = {}, {}

        def add(name: str, given: np.ndarray, cost: float) -> None:
            answers[name], flops[name] = given, cost

        add(COMPOSED, rule.scores(outputs).argmax(1), members)
        add(AS_THEY_ARE, outputs.argmax(1), members)
        if self.task == "merge" and rule is not self.by_own_images:
            add(STANDARDISED, self.by_own_images.scores(outputs).argmax(1), members)
        for (name, cost), strong in zip(costs.items(), test.whole, strict=True):
            if len(strong.places) == count:
                add(RESTRICTED.format(name), restricted(strong), cost / total)
        if len(test.whole) > 1:
            add(LARGEST, largest_softmax(test.whole, count), whole)
        if len(test.whole) > 1 and all(len(each.places) == count for each in test.whole):
            add(MEAN, mean_softmax(test.whole), whole)
        if self.task == "merge" and self.sources[0].modules:
            logits = {part: np.concatenate([each.of_classes for each in self.said[part].whole], 1) for part in PARTS}
            of_model = [number for number, each in enumerate(test.whole) for _ in each.places]
            places = np.argsort([place for each in test.whole for place in each.places])
            by = [of_model[place] for place in places]
            of_strong = fitted(logits["valid"][:, places], valid.labels, by, self.seed)
            add(WHOLE_RULE, of_strong.scores(logits["test"][:, places]).argmax(1), whole)
        by_outputs = self.outputs("valid"), valid.labels, outputs, self.seed
        add(STACKED_OUTPUTS, stacked(*by_outputs), members)
        all_logits = [np.concatenate([each.logits for each in said.whole], 1) for said in (valid, test)]
        add(STACKED, stacked(all_logits[0], valid.labels, all_logits[1], self.seed), whole)
        described = {
            source.label: {
                "configuration": source.config.name,
                "modules": source.modules.name if source.modules else "",
                "modules_sha256": set_checksum(source.stage.artifacts, source.modules.name) if source.modules else "",
                "strong_flops": costs[source.config.name],
            }
            for source in self.sources
        }
        return methods_of(test.labels, answers, flops, count, self.seed), described

    def record(self, rule: Scaled, **made_with: Any) -> ComposedRecord:
        """All that is known of the composed classifier."""
        methods, described = self.compare(rule)
        members = {
            name: {
                "source": self.sources[number].label,
                "number": self.sources[number].number_of(name),
                "auc": {each.label: value for each, value in zip(self.sources, column, strict=True) if value == value},
            }
            for name, number, column in zip(self.classes, self.chosen, self.auc.T.tolist(), strict=True)
        }
        counts = {part: len(said.labels) for part, said in self.said.items()}
        return ComposedRecord(
            self.task,
            self.classes,
            members,
            described,
            {"datasets": list(self.datasets), **counts},
            methods,
            rule.to_json(),
            {"date": utc_now(), **machine_facts("torch", "numpy", "scikit-learn"), **made_with},
        )

    @cached_property
    def _taken_from(self) -> list[tuple[Source, tuple[str, ...]]]:
        """Each member's source and classes: a module has one, a whole model has all that are taken from it."""
        pairs = [(self.sources[number], name) for number, name in zip(self.chosen, self.classes, strict=True)]
        if self.sources[0].modules:
            return [(source, (name,)) for source, name in pairs]
        used = dict.fromkeys(self.chosen)
        return [
            (self.sources[number], tuple(name for source, name in pairs if source is self.sources[number]))
            for number in used
        ]

    @cached_property
    def members(self) -> list[Member]:
        """The networks that are taken."""
        return [
            source.member(names[0], self.classes.index(names[0]))
            if source.modules
            else source.whole_member(
                self.graphs[source.config.name], names, [self.classes.index(name) for name in names]
            )
            for source, names in self._taken_from
        ]

    def model(self, rule: Scaled) -> ComposedClassifier:
        """All of it as one network."""
        origins = [source.origin(names) for source, names in self._taken_from]
        return ComposedClassifier(self.members, rule, self.classes, origins)

    def reported(self, model: ComposedClassifier) -> Reported:
        """Test images as a saved model takes them, and the scores that are reported of them."""
        scores, in_forms = model.rule.scores(self.outputs("test")), self.images["test"]
        some = checked_places(len(scores))
        pixels = {name: _of_form(in_forms, form).pixels[some] for name, form in model.forms.items()}
        return Reported(pixels, scores[some], tolerance_on(self.device))


def _of_form(in_forms: Mapping[Form, Images], form: Form) -> Images:
    """The images in a form's side, whatever their normalisation."""
    return next(images for each, images in in_forms.items() if (each.side, each.resize) == (form.side, form.resize))


def _joined(of_datasets: Sequence[InForms]) -> InForms:
    """The images of several datasets, one after the other."""
    return {
        form: replace(
            images,
            pixels=np.concatenate([each[form].pixels for each in of_datasets]),
            labels=np.concatenate([each[form].labels for each in of_datasets]),
        )
        for form, images in of_datasets[0].items()
    }
