"""One-shot methods: every unit gets a score for every class, and the units with the lowest scores are dropped at once.

`SCORES` is the table of these methods. A method of your own is a function that gives scores, and its line in the table;
`docs/methods.md` adds one. The strong model's weights stay as they are: `module_fine_tuner.py` trains the modules on.
"""

from argparse import Namespace
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from configures.base import Config
from dataset.images import Split, normalise, to_device
from models.evaluation import cpu_state
from models.graph import Graph, Size, flops_share, fold_batch_norm, has_batch_norm, kernels_share, unit_norms
from models.opening import Stage
from modules.kernel_importance import kernel_importance
from modules.module_sets import with_better_statistics
from search.driver import MAX_LOSS, DrivenMethod, Row
from search.files import Found
from search.gradient.log import words
from search.gradient.pruning import mask_within
from utils.errors import UserError
from utils.progress import progress

KEEPS = (0.6, 0.4, 0.2)  # the shares to keep, where none is asked for
IMAGES_PER_CLASS = 100  # training images of each class that scores are measured on
BATCH = 50
CONFIDENCE = 0.9  # the least softmax of an image that importance is measured on
CLUSTER = 10  # units of a cluster that is mutated, on average
MUTANTS = (1.1, 0.9, 0.0)  # factors of a cluster's maps

Measure = Callable[[Graph, Split, int], Tensor]


@dataclass(frozen=True)
class Score:
    """How a one-shot method scores units.

    Attributes:
        measure: strong model, images, seed -> scores (classes, units) float, not negative, larger = more needed. The
            strong model's batch norms are folded into its convolutions.
        of_layer: whether scores compare only within a layer: every layer then keeps the same share of its units. Else
            all units compare, by their score per kernel (or per FLOP) that they cost.
    """

    measure: Measure
    of_layer: bool = True


# The scores
def importance(strong: Graph, split: Split, seed: int) -> Tensor:
    """The mean L1 norm of a unit's maps on the class's confident validation images.

    As `preprocess/kernel_importance_analyzer.py` measures it (Qi et al., ASE 2022, section 3.1).
    """
    pixels, labels = to_device(split.valid, strong.device_and_dtype[0])
    found, _ = kernel_importance(strong, pixels, labels, CONFIDENCE, split.valid.normalisation)
    return torch.as_tensor(found[:, strong.units.first_kernels])  # the kernels of a unit have the unit's importance


def magnitude(strong: Graph, split: Split, seed: int) -> Tensor:
    """The L1 norm of a unit's kernels: the same for all classes (Li et al., ICLR 2017).

    Differs from the source in that batch norms are folded into the kernels, and all layers keep the same share.
    """
    norms = torch.zeros(strong.num_units)
    for units, rows in _kernel_rows(strong):
        norms.index_add_(0, units, rows[:, :-1].abs().sum(1))
    return norms.expand(strong.num_classes, -1)


def taylor(strong: Graph, split: Split, seed: int) -> Tensor:
    """The mean squared change of the class's logit where a unit is dropped, by a first-order Taylor expansion.

    The squared gradient with respect to a factor of the unit's maps, over training images of all classes alike. Differs
    from the source (Molchanov et al., CVPR 2019, equation 8) in that it is of the logit, not of the loss: the loss of a
    trained model, and with it the gradient, is nearly 0.
    """
    found = torch.zeros(strong.num_classes, strong.num_units)
    for images, _ in _batches(strong, split, "logit gradients, batches of images"):
        factors = images.new_ones(len(images), strong.num_units, requires_grad=True)
        for target_class, logit in enumerate(strong.forward(images, factors).sum(0)):
            (gradient,) = torch.autograd.grad(logit, factors, retain_graph=target_class < strong.num_classes - 1)
            found[target_class] += gradient.square().sum(0).cpu().float()
    return found


def uniform(strong: Graph, split: Split, seed: int) -> Tensor:
    """The mean `taylor` over classes: all modules have the same mask, as the whole network pruned once would.

    Each class's scores are first divided by their sum, so that classes with large logits do not decide alone.
    """
    found = taylor(strong, split, seed)
    shares = found / found.sum(1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)
    return shares.mean(0).expand_as(found)


def random(strong: Graph, split: Split, seed: int) -> Tensor:
    """Uniform random numbers: the floor that a method has to beat."""
    return torch.rand(strong.num_classes, strong.num_units, generator=torch.Generator().manual_seed(seed))


def concern(strong: Graph, split: Split, seed: int) -> Tensor:
    """How often a unit is active on the class's images: the share of the pixels of its maps that are above 0.

    After Pan and Rajan (ICSE 2022), who keep nodes that are active on images of the class, a node being one pixel of a
    map. Differs in that whole kernels are kept, by the mean over their pixels, and as many as are asked for.
    """
    return active_pixels(strong, split)  # as many for all units of a layer


def active_pixels(
    strong: Graph,
    split: Split,
    per_class: int | None = IMAGES_PER_CLASS,
    of_image: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Tensor:
    """(classes, units) float32: how many pixels of a unit's maps are above 0, the mean over training images of a class.

    Args:
        strong: the strong model.
        split: its images.
        per_class: the training images of each class; None = all.
        of_image: what the mean is of, made of the pixels of each image (n, units).
    """
    return class_means(
        strong,
        split,
        "activation rates, batches of images",
        per_class,
        lambda images: of_image(unit_norms(strong, images, of_value=lambda maps: maps > 0)[1]),
    )


def class_means(
    strong: Graph, split: Split, name: str, per_class: int | None, of_images: Callable[[Tensor], Tensor]
) -> Tensor:
    """(classes, values) float32: the mean over training images of each class of what is made of images.

    Args:
        strong: the strong model.
        split: its images.
        name: of what is done, for people.
        per_class: the training images of each class; None = all.
        of_images: from normalised images (n, channels, side, side) to (n, values).
    """
    found, counts = torch.zeros(()), torch.zeros(strong.num_classes, 1)
    with torch.inference_mode():
        for images, labels in _batches(strong, split, name, per_class):
            of_batch = of_images(images).cpu()
            sums = torch.zeros(strong.num_classes, of_batch.shape[1]).index_add_(0, labels.cpu(), of_batch)
            found, counts = found + sums, counts.index_add_(0, labels.cpu(), torch.ones(len(labels), 1))
    return found / counts.clamp(min=1)


def incite(strong: Graph, split: Split, seed: int) -> Tensor:
    """How many answers for or against the class change where a cluster of similar units is mutated.

    After Ghanbari (Incite, ISSTA 2024): units of a layer are clustered by their min-max-scaled weights and biases, ten
    in a cluster on average. Three mutants of each cluster have its weights times 1.1, 0.9 and 0. A cluster's score is
    the number of images whose answer changes from or to the class, over its mutants. Differs in that mutants multiply
    maps, so biases too; that a sample of the training images counts, not all; that as many units are kept as are asked
    for, not 60 % of the clusters; and that no last layer of two outputs is trained.
    """
    clusters = list(_clusters(strong))
    found = torch.zeros(strong.num_classes, strong.num_units)
    with torch.inference_mode():
        for images, _ in _batches(strong, split, "mutants, batches of images"):
            before = strong.forward(images).argmax(1)
            for cluster in clusters:
                for factor in MUTANTS:
                    factors = images.new_ones(strong.num_units)
                    factors[cluster] = factor
                    after = strong.forward(images, factors).argmax(1)
                    changed = torch.cat([answers[before != after] for answers in (before, after)])
                    counts = changed.bincount(minlength=strong.num_classes)
                    found[:, cluster] += counts.cpu().float()[:, None]
    return found


SCORES: dict[str, Score] = {
    "importance": Score(importance),
    "magnitude": Score(magnitude),
    "taylor": Score(taylor, of_layer=False),
    "uniform": Score(uniform, of_layer=False),
    "random": Score(random),
    "concern": Score(concern),
    "incite": Score(incite),
}


# From scores to masks
def masks_within(
    scores: Tensor, graph: Graph, keep: float, *, of_flops: bool = False, of_layer: bool = False
) -> np.ndarray:
    """The masks (classes, K) bool, True = kept, of the units with the highest scores.

    Example: `masks_within(torch.rand(strong.num_classes, strong.num_units), strong, keep=0.4)`.

    Args:
        scores: (classes, units) float, not negative.
        graph: the strong model.
        keep: the largest share to keep of its kernels, above 0 and at most 1.
        of_flops: whether it is a share of the FLOPs.
        of_layer: see `Score`.

    Raises ValueError for scores of another shape, negative ones, or NaN; UserError for a share that what always stays
    exceeds.
    """
    if scores.shape != (graph.num_classes, graph.num_units) or not (scores >= 0).all():
        expected = f"({graph.num_classes}, {graph.num_units})"
        raise ValueError(f"expected scores {expected}, 0 or more, given {tuple(scores.shape)}, least {scores.min()}")
    every, masks = torch.ones(graph.num_units, dtype=torch.bool), []
    for target_class, of_class in enumerate(scores.float().cpu()):
        size: Size = flops_share(graph, target_class) if of_flops else kernels_share(graph.units)
        if of_layer:  # `mask_within` divides by the cost
            of_class = _quantiles(of_class, graph) * torch.func.grad(size)(every.float())
        masks.append(mask_within(every, of_class, graph.units, size, keep).numpy())
    return np.asarray(graph.units.spread(np.stack(masks)))


def _quantiles(scores: Tensor, graph: Graph) -> Tensor:
    """(units,): a unit's rank by its score, over their number: of its layer, or of all layers that are tied to it.

    Of equal scores the first unit ranks lowest.
    """
    found = torch.zeros(len(scores))
    for group in graph.units.groups:
        units = torch.as_tensor(group.units)
        ranks = scores[units].argsort(stable=True).argsort()
        found[units] = (ranks + 1) / len(units)
    return found


# What scores are measured on
def _batches(
    strong: Graph, split: Split, name: str, per_class: int | None = IMAGES_PER_CLASS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised training images (n, channels, side, side) and their labels, on the device.

    As many of each class as are asked for, or all if that is None.
    """
    labels = split.train.labels
    chosen = [np.flatnonzero(labels == number)[:per_class] for number in range(strong.num_classes)]
    sample = split.train.take(np.sort(np.concatenate(chosen)))
    device, dtype = strong.device_and_dtype
    pixels, of_sample = to_device(sample, device)
    for start in progress(range(0, len(sample), BATCH), name):
        batch = slice(start, start + BATCH)
        yield normalise(pixels[batch], sample.normalisation, dtype), of_sample[batch]


def _kernel_rows(strong: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each conv layer the units (n,) of its kernels that may be dropped, and their weights and bias (n, weights)."""
    for layer in (each for each in strong.channels.layers if each.has_kernels):
        given, units = layer.value.given, torch.as_tensor(strong.units.unit_of_channel[layer.channels])
        weight = strong.constants[given.weight.name].detach().cpu().float().flatten(1)
        bias = weight.new_zeros(len(weight)) if given.bias is None else strong.constants[given.bias.name].cpu().float()
        yield units[units >= 0], torch.cat([weight, bias.detach()[:, None]], 1)[units >= 0]


def _clusters(strong: Graph) -> Iterator[Tensor]:
    """The units of each cluster of similar units of a layer; of tied layers, by the weights of all of them."""
    rows = list(_kernel_rows(strong))
    for group in strong.units.groups:
        units, parts = torch.as_tensor(group.units), []
        for of_kernels, values in rows:
            if torch.isin(of_kernels, units).any():
                of_units = torch.zeros(strong.num_units, values.shape[1]).index_add_(0, of_kernels, values)
                parts.append(of_units[units])
        features = torch.cat(parts, 1)
        features = features - features.amin(0)
        features = features / features.amax(0).clamp(min=torch.finfo(features.dtype).tiny)
        count = max(1, len(units) // CLUSTER)
        labels = AgglomerativeClustering(count).fit_predict(features) if len(units) > 1 else np.zeros(1, int)
        yield from (units[torch.as_tensor(labels == number)] for number in range(count))


@dataclass(frozen=True)
class OneShot(DrivenMethod):
    """The method of a score: a candidate for each share that is asked for.

    Attributes:
        name: of the method.
        score: how units are scored.
        keeps: the shares to keep.
        of_flops: whether they are of the FLOPs, not of the kernels.
        max_loss: the percentage points of validation accuracy to lose at most, where no share is asked for.
    """

    name: str
    score: Score
    keeps: tuple[float, ...] = KEEPS
    of_flops: bool = False
    max_loss: float = MAX_LOSS

    options = ("keep", "keep_flops", "max_loss")

    def as_asked(self, arguments: Namespace) -> "OneShot":
        """The method with the share, or the loss, of a command line. Raises UserError for what is no share."""
        asked = self if arguments.max_loss is None else replace(self, max_loss=arguments.max_loss)
        for option in ("keep", "keep_flops"):
            if (share := getattr(arguments, option)) is not None:
                if not 0 < share <= 1:
                    raise UserError(f"--{option} {share:g}: expected a share above 0, up to 1")
                asked = replace(asked, keeps=(share,), of_flops=option == "keep_flops")
        return asked

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Row]) -> Generator[Found, None, None]:
        """A candidate for each share that no earlier run has tried; scores are measured once."""
        there = {row.words for row in rows}
        if missing := [keep for keep in self.keeps if self._words(keep) not in there]:
            folded = fold_batch_norm(strong).channels_last()
            scores = self.score.measure(folded, split, stage.seed)
            for keep in missing:
                masks = masks_within(scores, strong, keep, of_flops=self.of_flops, of_layer=self.score.of_layer)
                yield Found(self._words(keep), masks, weights_of(strong, masks, split, stage.device))

    def settings(self, config: Config) -> dict[str, Any]:
        """What the scores depend on."""
        return {"images_per_class": IMAGES_PER_CLASS}

    def configured(self, config: Config) -> dict[str, Any]:
        """No setting of the configuration."""
        return {}

    def chosen(self, rows: Sequence[Row]) -> Row:
        """The candidate of the share that was asked for; of several shares the smallest that loses little."""
        asked = [row for row in rows if row.words in map(self._words, self.keeps)]  # not what others have asked for
        return cast(Row, super().chosen(asked)) if len(self.keeps) > 1 else asked[0]

    def again(self) -> list[str]:
        """The options that find the same modules again."""
        if len(self.keeps) > 1:
            return super().again()
        return ["--method", self.name, "--keep_flops" if self.of_flops else "--keep", f"{self.keeps[0]:g}"]

    def _words(self, keep: float) -> str:
        return words(keep, "flops" if self.of_flops else "kernels")


def weights_of(strong: Graph, masks: np.ndarray, split: Split, device: torch.device) -> list[dict[str, Tensor]] | None:
    """The modules' weights where batch norms have statistics of their own; None = the strong model's."""
    if not has_batch_norm(strong.network.graph_program):
        return None
    return [cpu_state(each) for each in with_better_statistics(strong, masks, range(len(masks)), split, device)]
