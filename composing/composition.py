"""A classifier composed of sources: the outputs of all networks, the rule, the controls, and the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from composing.composed_model import ComposedClassifier
from composing.controls import Whole, largest_softmax, mean_softmax, restricted, stacked
from composing.images import PARTS, datasets_of, load_images
from composing.one_network import one_network
from composing.outdated import source_checksums
from composing.report import (
    AS_THEY_ARE,
    COMPOSED,
    LARGEST,
    MEAN,
    RESTRICTED,
    STACKED,
    STANDARDISED,
    WHOLE_RULE,
    ComposedRecord,
    methods_of,
)
from composing.rule import LinearRule, fitted, standardised
from composing.sources import Source, check_classes
from models.evaluation import outputs_of
from models.graph import Graph
from models.strong_model import load_strong_model
from modules.own_class import auc_by_class
from patching.as_reported import Reported, checked_places, tolerance_on
from patching.members import Columns, Member
from search.gradient.goal import goal_of
from search.gradient.trainer import search_settings
from utils.device import machine_facts, utc_now
from utils.errors import UserError


@dataclass(frozen=True)
class NamedNetwork:
    """A network, and the classes of its outputs."""

    network: nn.Module
    names: tuple[str, ...]

    def only(self, names: Sequence[str]) -> nn.Module:
        """The network with the outputs of some of its classes alone."""
        places = [self.names.index(name) for name in names]
        return self.network if places == list(range(len(self.names))) else Columns(self.network, places)


@dataclass(frozen=True)
class Said:
    """The networks' outputs for the images of one part."""

    labels: np.ndarray  # (images,) int64
    members: list[np.ndarray]  # of each source, (images, its classes) float32
    whole: dict[str, Whole]  # strong model's name -> its outputs


class Composition:
    """Sources, joined to a classifier of their classes.

    Args:
        sources: with `best_of`, all of the same classes; else with different ones.
        best_of: whether each class is taken from the source that is best at it.
        images: the dataset that it is fitted and judged on; None = those of the strong models.
        keep_flops: of a network for the classes of a source, as a share of the strong model's; None = sources without
            modules are whole strong models.
        calibration: `fitted` or `own`; None = `fitted` if images of all classes are there.

    Raises UserError if the classes or the images do not fit together.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        best_of: bool = False,
        images: str | None = None,
        keep_flops: float | None = None,
        calibration: str | None = None,
    ) -> None:
        self.sources, self.given, self.keep_flops = tuple(sources), images, keep_flops
        self.classes = check_classes(sources, best_of=best_of)
        models = {source.config.name for source in sources}
        self.task = "best of" if best_of else "merge" if len(models) > 1 else "sub-task"
        self.datasets = datasets_of(sources, images)
        self.calibration = calibration or ("fitted" if len(self.datasets) == 1 else "own")
        self.seed, self.device = sources[0].stage.seed, sources[0].stage.device
        if best_of and len(self.datasets) > 1:
            named = " and ".join(self.datasets)
            raise UserError(f"--best_of: the models are of {named}: give --images NAME to compare them on")
        if keep_flops is not None and min(len(source.names) for source in sources) < 2:
            raise UserError("--one_network: expected two or more classes of each model")

    @cached_property
    def images(self) -> Any:
        """Part -> form -> images; see `load_images`."""
        return load_images(self.sources, self.classes, self.given)

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """Strong model's name -> the strong model."""
        stages = {source.config.name: source.stage for source in self.sources}
        return {name: load_strong_model(stage.config, stage.artifacts, self.device) for name, stage in stages.items()}

    @cached_property
    def parts(self) -> list[list[NamedNetwork]]:
        """Of each source its networks: a module of each class, or one network of all of them."""
        return [self._parts_of(source, self.graphs[source.config.name]) for source in self.sources]

    def _parts_of(self, source: Source, graph: Graph) -> list[NamedNetwork]:
        if source.modules:
            modules = [source.modules.module(number, self.device) for number in source.numbers]
            return [NamedNetwork(module, (name,)) for module, name in zip(modules, source.names, strict=True)]
        if self.keep_flops is not None:
            return [NamedNetwork(one_network(source.stage, graph, source.numbers, self.keep_flops), source.names)]
        return [NamedNetwork(Columns(graph.network, source.numbers), source.names)]

    @cached_property
    def said(self) -> dict[str, Said]:
        """Part of the images -> the outputs of all networks."""
        return {part: self._said_of(part) for part in PARTS}

    def _said_of(self, part: str) -> Said:
        members, logits = [], {}
        for source, parts in zip(self.sources, self.parts, strict=True):
            images, name = self.images[part][source.form], source.config.name
            is_new, is_whole = name not in logits, not source.modules and self.keep_flops is None
            networks = [self.graphs[name].network] * is_new + [each.network for each in parts if not is_whole]
            outputs = [values.numpy() for values in outputs_of(networks, images, self.device)]
            if not all(np.isfinite(values).all() for values in outputs):
                raise UserError(f"{source.label}: a network gives NaN or infinity; make it again")
            if is_new:
                logits[name] = outputs.pop(0)
            members.append(logits[name][:, list(source.numbers)] if is_whole else np.concatenate(outputs, 1))
        whole = {}
        for name, values in logits.items():
            of_model = [source for source in self.sources if source.config.name == name]
            known = {n: source.number_of(n) for source in of_model for n in source.names}
            whole[name] = Whole(values, tuple(map(self.classes.index, known)), tuple(known.values()))
        return Said(next(iter(self.images[part].values())).labels, members, whole)

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
        best: list[int] = np.nanargmax(self.auc, 0).tolist()
        return best

    @property
    def sources_of_classes(self) -> list[int]:
        """Of each class the number of its source in the rule: classes of one model's one set share theirs."""
        labels = [source.label for source in self.sources]
        return [labels.index(labels[number]) for number in self.chosen]

    def outputs(self, part: str) -> np.ndarray:
        """(images, classes) float32: the output of each class that is taken."""
        taken = zip(self.chosen, self.classes, strict=True)
        of_sources = self.said[part].members
        return np.stack([of_sources[n][:, self.sources[n].names.index(name)] for n, name in taken], 1)

    @cached_property
    def rule(self) -> LinearRule:
        """What makes the outputs comparable."""
        return self._rule_of(self.outputs("valid"), self.sources_of_classes)

    def _rule_of(self, outputs: np.ndarray, sources: Sequence[int]) -> LinearRule:
        """The rule of outputs for the validation images (images, classes), and each class's source."""
        labels = self.said["valid"].labels
        if self.calibration == "own":
            return standardised(outputs, sources, labels)
        return fitted(outputs, labels, sources, self.seed)

    @cached_property
    def members(self) -> list[Member]:
        """The networks that are taken."""
        found = []
        for number, (source, parts) in enumerate(zip(self.sources, self.parts, strict=True)):
            for part in parts:
                if names := [name for name in part.names if self.chosen[self.classes.index(name)] == number]:
                    places = [self.classes.index(name) for name in names]
                    found.append(Member(part.only(names).to(self.device), source.form, places))
        return found

    def methods(self) -> dict[str, Any]:
        """The composed classifier and its controls, judged on the test images; see `ComposedRecord`."""
        valid, test = self.said["valid"], self.said["test"]
        outputs, count, whole = self.outputs("test"), len(self.classes), 1.0
        of_valid, of_test = list(valid.whole.values()), list(test.whole.values())
        total = sum(graph.flops for graph in self.graphs.values())
        members = sum(member.cost[0] for member in self.members) / total
        found = {COMPOSED: (self.rule.scores(outputs).argmax(1), members), AS_THEY_ARE: (outputs.argmax(1), members)}
        if self.task == "merge" and self.calibration != "own":
            own = standardised(self.outputs("valid"), self.sources_of_classes, valid.labels)
            found[STANDARDISED] = own.scores(outputs).argmax(1), members
        for name, strong in test.whole.items():
            if len(strong.places) == count:
                found[RESTRICTED.format(name)] = restricted(strong), self.graphs[name].flops / total
        if len(of_test) > 1:
            found[LARGEST] = largest_softmax(of_test, count), whole
            if all(len(each.places) == count for each in of_test):
                found[MEAN] = mean_softmax(of_test), whole
        if self.task == "merge" and (self.sources[0].modules or self.keep_flops):
            order = np.argsort([place for each in of_test for place in each.places])
            logits = [np.concatenate([each.of_classes for each in part], 1)[:, order] for part in (of_valid, of_test)]
            of_model = np.concatenate([[number] * len(each.places) for number, each in enumerate(of_test)])[order]
            of_whole = self._rule_of(logits[0], of_model.tolist())
            found[WHOLE_RULE] = of_whole.scores(logits[1]).argmax(1), whole
        logits = [np.concatenate([each.logits for each in part], 1) for part in (of_valid, of_test)]
        found[STACKED] = stacked(logits[0], valid.labels, logits[1], self.seed), whole
        return methods_of(test.labels, found, count, self.seed)

    def is_of(self, record: ComposedRecord) -> bool:
        """Whether a record is of the same classes, sources, images and settings as this composition."""
        taken = {name: member["source"] for name, member in record.members.items()}
        own = {name: source.label for source in self.sources for name in source.names}
        made_with = {"calibration": self.calibration, "keep_flops": self.keep_flops, "settings": self.settings}
        return (
            (record.task, record.classes, set(record.sources), record.images["datasets"])
            == (self.task, self.classes, {source.label for source in self.sources}, self.datasets)
            and (self.task == "best of" or taken == own)  # which source is best at a class is not known yet
            and all(record.made_with.get(name) == value for name, value in made_with.items())
        )

    @property
    def settings(self) -> list[dict[str, Any]] | None:
        """Of the training of each source's one network, as plain values; None where nothing is trained."""
        if self.keep_flops is None:
            return None
        configs = [source.config for source in self.sources]
        return [search_settings(each, "flops").recorded() | goal_of(each).recorded() for each in configs]

    def record(self, **made_with: Any) -> ComposedRecord:
        """All that is known of the composed classifier."""
        members = {
            name: {
                "source": self.sources[number].label,
                "number": self.sources[number].number_of(name),
                "auc": {each.label: value for each, value in zip(self.sources, column, strict=True) if value == value},
            }
            for name, number, column in zip(self.classes, self.chosen, self.auc.T.tolist(), strict=True)
        }
        sources = {
            source.label: {
                "configuration": source.config.name,
                "model": source.config.model,
                "dataset": source.config.dataset,
                "modules": (modules := source.modules.name if source.modules else ""),
                **source_checksums(source.stage.artifacts, modules),
                "strong_flops": self.graphs[source.config.name].flops,
            }
            for source in self.sources
        }
        images = {"datasets": self.datasets, **{part: len(said.labels) for part, said in self.said.items()}}
        made_with |= {"calibration": self.calibration, "keep_flops": self.keep_flops, "settings": self.settings}
        made_with["date"] = utc_now()
        made_with |= machine_facts("torch", "numpy", "scikit-learn")
        rule = self.rule.to_json()
        return ComposedRecord(self.task, self.classes, members, sources, images, self.methods(), rule, made_with)

    def model(self) -> ComposedClassifier:
        """All of it as one network."""
        return ComposedClassifier(self.members, self.rule, self.classes)

    def reported(self, model: ComposedClassifier) -> Reported:
        """Test images as a saved model takes them, and the scores that are reported of them."""
        scores, in_forms = self.rule.scores(self.outputs("test")), self.images["test"]
        some = checked_places(len(scores))
        by_size = {(form.side, form.resize): images for form, images in in_forms.items()}  # however normalised
        pixels = {name: by_size[form.side, form.resize].pixels[some] for name, form in model.forms.items()}
        return Reported(pixels, scores[some], tolerance_on(self.device))
