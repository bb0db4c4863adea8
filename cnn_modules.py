"""Decompose a CNN in memory into one module per class: no files, no configuration; docs/python.md shows how.

import cnn_modules as cm
strong = cm.trace(network, images[:1])
masks, modules = cm.gradient_search(strong, images, labels, keep=0.4)

`network` is any CNN classifier of torch; `images` are float tensors (n, channels, side, side), normalised as the
network takes them; `labels` (n,) are whole numbers. Everything runs on the device of the network's parameters, and the
network is left as it is. Only `show` prints; `show_progress(True)` enables progress lines of long computations.

Errors have a message of one line. A `UserError` is no ValueError and a `SettingError` (a ValueError) is no UserError;
`NetworkRefused` is both. So catch `(cm.UserError, ValueError)`.
"""

import copy
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from composing.rule import LinearRule, fitted
from configures.base import Config
from configures.base import gradient as gradient_settings
from configures.setting import SettingError
from dataset.images import Images, Split, to_device
from models.evaluation import predict as outputs_of_images
from models.graph import Graph, GraphNetwork, NetworkRefused
from models.graph import trace as trace_network
from models.graph.evaluating import OneAnswer, floating_parameter
from modules.kernel_importance import kernel_importance as importance_of_images
from modules.layer_sensitivity import top_ratio_masks
from modules.module import ComposedModel, module_of_weights
from modules.module import extract_modules as extract_modules_of_masks
from modules.module_set import SetRecord
from modules.module_set import show_module_set as show
from modules.module_sets import evaluate_set
from patching.from_arrays import Patch, patch
from patching.report import PatchedWeakModel
from patching.rules import Rule
from search.gradient.goal import goal_of
from search.gradient.groups import group_size, train_in_groups
from search.gradient.trainer import ModuleTraining, search_settings
from utils.device import core_threads
from utils.errors import UserError, reason
from utils.progress import show_progress

__all__ = [
    "ComposedModel",
    "ComposedNetwork",
    "Graph",
    "GraphNetwork",
    "NetworkRefused",
    "Patch",
    "PatchedNetwork",
    "PatchedWeakModel",
    "SetRecord",
    "SettingError",
    "UserError",
    "compose",
    "evaluate",
    "extract_modules",
    "gradient_search",
    "importance_masks",
    "kernel_importance",
    "module_of_weights",
    "patch",
    "predict",
    "show",
    "show_progress",
    "trace",
]


def trace(network: nn.Module, example_images: Any) -> Graph:
    """Trace a CNN classifier: the strong model, as all other functions take it.

    Example: `strong = trace(network, images[:1])`; `strong.units.num_kernels` is K, `strong.num_classes` the classes.

    Args:
        network: images (n, channels, side, side) -> logits (n, classes), of float32. It is read in evaluation mode.
        example_images: (n, channels, side, side) float, one or more; only the shape counts.

    Returns:
        The graph, with a copy of the network's weights as they are now.

    Raises:
        NetworkRefused: a ValueError, one line; the network cannot be traced, or has no kernel that can be dropped.
        UserError: the images are not square or not float, or the weights are not float32.
    """
    _check_networks([network], "network")
    _, channels, side, width = _checked_images(example_images).shape
    if side != width:
        raise UserError(f"example_images: expected square images, given {side} x {width} pixels; pad or crop them")
    dtype = floating_parameter(network).dtype
    if dtype != torch.float32:
        raise UserError(f"network: expected float32 weights, given {dtype}; call network.float()")
    graph = trace_network(network, side, channels)
    if not graph.num_units:
        layer = graph.units.layers[0]
        raise NetworkRefused(f"expected kernels that can be dropped, found none ({layer.name}: {layer.reason})")
    return graph.with_constants({name: value.clone() for name, value in graph.constants.items()}).channels_last()


def predict(network: nn.Module, images: Any) -> np.ndarray:
    """Run a network on images, batch by batch, in evaluation mode.

    Example: `predict(modules[3], images)[:, 0]` are the logits of module 3, (n,).

    Args:
        network: a classifier, a module, or any other network.
        images: (n, channels, side, side) float, as the network takes them.

    Returns:
        The outputs (n, outputs) float32; if the network returns several tensors, the first one of this shape.

    Raises:
        UserError: the images are not (n, channels, side, side) float, or the network does not run on them.
    """
    values = _checked_images(images)
    given = _as_images(values, np.zeros(len(values), np.int64))
    try:
        return outputs_of_images(OneAnswer(network, None), given, floating_parameter(network).device).numpy()
    except UserError:
        raise
    except Exception as error:  # whatever somebody's network raises
        raise UserError(f"network: it does not run on images {values.shape}: {reason(error)}") from error


def kernel_importance(strong: Graph, images: Any, labels: Any, confidence: float = 0.9) -> np.ndarray:
    """How strongly each kernel responds to the images of each class that are classified correctly and confidently.

    Example: `importance = kernel_importance(strong, images, labels)`; `importance[3].argmax()` is class 3's kernel.

    Args:
        strong: as `trace` returns it.
        images: (n, channels, side, side) float, validation images.
        labels: (n,) int.
        confidence: from 0 to 1. An image counts if it is classified correctly with a softmax of at least this; if a
            class has no such image, all its images count.

    Returns:
        (classes, K) float32: the mean L1 norm of each kernel's feature map; 0 of kernels that are always kept.

    Raises:
        UserError: images or labels do not fit, a class has no image, or `confidence` is not from 0 to 1.
    """
    if not isinstance(confidence, numbers.Real) or not 0 <= confidence <= 1:
        raise UserError(f"confidence: expected a softmax from 0 to 1, given {confidence!r}")
    given = _labelled(strong, images, labels)
    _check_has_images(given, range(strong.num_classes))
    device, _ = strong.device_and_dtype
    return importance_of_images(strong, *to_device(given, device), confidence, None)[0]


def importance_masks(strong: Graph, importance: np.ndarray, keep: float) -> np.ndarray:
    """Each class's mask that keeps the most important kernels of every layer: the simplest baseline of a search.

    Example: `masks = importance_masks(strong, kernel_importance(strong, images, labels), keep=0.5)`.

    Args:
        strong: as `trace` returns it.
        importance: (classes, K) float, as `kernel_importance` returns it, or any other ranking.
        keep: the share of each layer's kernels, above 0 and at most 1; at least one kernel of each layer is kept.

    Returns:
        Kernel masks (classes, K) bool, True = kept. A kernel of tied layers is kept only if every layer's ranking
        keeps it.

    Raises:
        UserError: the importance has another shape, or `keep` is no such share.
    """
    importance, units = _array(importance), strong.units
    if importance.ndim != 2 or importance.shape[1:] != (units.num_kernels,) or importance.dtype.kind not in "fiu":
        raise UserError(
            f"importance: expected (classes, {units.num_kernels}) real numbers, given {importance.dtype} of shape "
            f"{importance.shape}"
        )
    if not np.isfinite(importance).all():
        raise UserError("importance: expected finite numbers, given NaN or infinity")
    _check_share(keep)
    of_layers = [top_ratio_masks(importance, units, layer, keep) for layer in units.tied_layers]
    of_unit = importance[:, units.first_kernels]
    masks = np.logical_and.reduce(of_layers)
    return units.spread(np.stack([units.repair(mask, row) for mask, row in zip(masks, of_unit, strict=True)]))


def gradient_search(
    strong: Graph,
    images: Any,
    labels: Any,
    keep: float,
    *,
    target_classes: Sequence[int] | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[np.ndarray, list[GraphNetwork]]:
    """Search modules by gradient: they are trained while kernels are dropped, some of them at a time.

    Their weights are trained, so keep each module's `state_dict()` with the masks. A class's module does not depend on
    which others are searched: of many classes search some at a time, and save them, so that memory stays bounded.

    Example: `masks, modules = gradient_search(strong, images, labels, keep=0.4, mask_steps=200)`.

    Args:
        strong: as `trace` returns it.
        images: (n, channels, side, side) float, training images; they are not augmented.
        labels: (n,) int.
        keep: the share of the kernels that each module may keep, above 0 and at most 1.
        target_classes: whose modules; None = all.
        seed: of the batches.
        settings: of the search, as `configures/base.py` names and explains them; most of all `mask_steps`, the steps of
            the search (default: 500).

    Returns:
        Kernel masks (modules, K) bool, True = kept, and the modules, in evaluation mode, on the strong model's device:
        images (n, channels, side, side) -> logits (n, 1).

    Raises:
        UserError: something does not fit, a setting is unknown, or the loss is not finite.
        SettingError: a ValueError; a setting has a value that cannot work.
    """
    given, targets = _labelled(strong, images, labels), _targets(strong, target_classes)
    _check_has_images(given, targets)
    _check_share(keep)
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise UserError(f"seed: expected a whole number, 0 or more, given {seed!r}")
    config = Config("network", "images", strong.num_classes)
    known = config.part_of(gradient_settings).keys() - {"mirror", "crop"}
    if unknown := sorted(settings.keys() - known):
        raise UserError(f"unknown setting {unknown[0]}: expected one of {', '.join(sorted(known))}")
    config = Config("network", "images", strong.num_classes, **settings)
    device, dtype = strong.device_and_dtype
    training = ModuleTraining.on(device, given, goal_of(config), search_settings(config, "kernels"), dtype, seed)
    with torch.enable_grad(), core_threads(device) as workers:
        learned = train_in_groups(strong, targets, training, (1.0, keep), workers, size=group_size(strong, device))
        found = [(mask, module_of_weights(strong, mask, each, weights)) for each, mask, weights in learned]
    return np.stack([mask for mask, _ in found]), [module for _, module in found]


def extract_modules(strong: Graph, masks: Any, target_classes: Sequence[int] | None = None) -> list[GraphNetwork]:
    """Cut modules out of the strong model: small networks of their own, each with the logit of one class.

    Example: `modules = extract_modules(strong, numpy.load("masks.npy"))`.

    Args:
        strong: as `trace` returns it.
        masks: (modules, K) bool, True = kept: of a search, or loaded.
        target_classes: of these modules; None = module c belongs to class c.

    Returns:
        Modules in evaluation mode, on the strong model's device: images (n, channels, side, side) -> logits (n, 1).
        Their weights are copies, under the network's own names, and can be trained on.

    Raises:
        UserError: the masks have another shape or dtype, or there is not one for each class.
        ValueError: a mask leaves a layer without kernels, or drops one of several that belong together.
    """
    targets = _checked_targets(strong, masks, target_classes)
    return extract_modules_of_masks(strong, _array(masks), targets)


def evaluate(
    strong: Graph,
    masks: Any,
    modules: Sequence[GraphNetwork],
    images: Any,
    labels: Any,
    target_classes: Sequence[int] | None = None,
    answer: str = "logit",
) -> SetRecord:
    """Compare modules with the strong model: each by itself, and all of them as one classifier.

    Example: `show(evaluate(strong, masks, modules, test_images, test_labels))` prints a table.

    Args:
        strong: as `trace` returns it.
        masks: (modules, K) bool, True = kept: what the modules were cut out with.
        modules: as `extract_modules` returns them, also after further training.
        images: (n, channels, side, side) float, which neither the network nor the search has seen.
        labels: (n,) int.
        target_classes: of the modules; None = module c belongs to class c.
        answer: what the modules give: a `logit` or, if they were searched with `mask_answer="log_odds"`, `log_odds`.

    Returns:
        A `SetRecord`; its fields `valid_*` are measured on the images given here; `test_*` are 0.

    Raises:
        UserError: something does not fit, or a network's outputs are not finite.
    """
    targets = _checked_targets(strong, masks, target_classes)
    _check_networks(modules, "modules")
    if len(modules) != len(targets):
        raise UserError(f"modules: expected one for each of {len(targets)} masks, given {len(modules)}")
    if answer not in ("logit", "log_odds"):
        raise UserError(f"answer: expected logit or log_odds, given {answer!r}")
    given = _labelled(strong, images, labels)
    for module, each in zip(modules, targets, strict=True):
        if (outputs := predict(module, _array(images)[:1]).shape[1]) != 1:
            raise UserError(f"modules: expected one output of each, given {outputs} of the module of class {each}")
    none, names = given.take(np.arange(0)), tuple(map(str, range(strong.num_classes)))
    device, _ = strong.device_and_dtype
    return evaluate_set(strong, modules, _array(masks), targets, Split(names, none, given, none), device, {}, answer)


class ComposedNetwork(nn.Module):
    """Networks side by side, with a rule that makes their outputs comparable, as one classifier.

    `compose` fits and returns it; its attribute `rule` is a linear map of the outputs.

    Example: `compose([modules[3], modules[5]], images, labels)(images)` are scores (n, 2).

    Args:
        networks: images -> outputs; all outputs, one after the other, are those of the classes. They are copied.
        rule: outputs (n, classes) -> scores (n, classes).

    Raises:
        RuntimeError: torch's, in a call, if the images do not fit the networks.
    """

    def __init__(self, networks: Sequence[nn.Module], rule: LinearRule) -> None:
        super().__init__()
        device = floating_parameter(networks[0]).device
        self.class_networks = ComposedModel([OneAnswer(copy.deepcopy(each), None) for each in networks]).to(device)
        self.rule: LinearRule = copy.deepcopy(rule).to(device)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, classes) of images (n, channels, side, side): the largest one decides; softmax calibrates them."""
        return self.rule(self.class_networks(images).float())


def compose(
    networks: Sequence[nn.Module],
    images: Any,
    labels: Any,
    sources: Sequence[int] | None = None,
) -> ComposedNetwork:
    """Compose a classifier of modules, or of whole networks, of one or several strong models.

    Example: `cat_or_dog = compose([modules[3], modules[5]], images, labels)`; label 0 is of class 3, 1 of class 5.

    Args:
        networks: modules, with one output each, or networks with several. Their outputs, one after the other, are
            those of the classes 0, 1, 2 ... of the composed classifier.
        images: (n, channels, side, side) float, validation images, as all networks take them.
        labels: (n,) int, of the composed classifier's classes.
        sources: the number of the strong model that each network comes from, e.g. [0, 0, 1]; None = all from the same
            one. The fit gives each model a common scale and bias.

    Returns:
        A network in evaluation mode: images (n, channels, side, side) -> scores (n, classes). Its `rule` is what was
        fitted: a linear map of the outputs.

    Raises:
        UserError: something does not fit, a class has no images, or an output is not finite.
    """
    _check_networks(networks, "networks")
    if not networks or (sources is not None and len(sources) != len(networks)):
        raise UserError("networks: expected one or more, and a source of each if sources are given")
    outputs = [predict(network, images) for network in networks]
    count = sum(each.shape[1] for each in outputs)
    if count < 2:
        raise UserError("networks: expected two or more outputs, a classifier of one class has no choice")
    wanted = _checked_labels(labels, len(outputs[0]), count)
    of_networks = [0] * len(networks) if sources is None else list(sources)
    of_outputs = [source for source, each in zip(of_networks, outputs, strict=True) for _ in range(each.shape[1])]
    return ComposedNetwork(networks, fitted(np.concatenate(outputs, 1), wanted, of_outputs))


class PatchedNetwork(nn.Module):
    """A weak network, modules of a strong one, and the patch that was fitted on their outputs, as one network.

    Example, with validation images of the weak network:

        fitted = patch(predict(weak, images), {3: predict(modules[3], images)[:, 0]}, labels)
        scores = predict(PatchedNetwork(weak, {3: modules[3]}, fitted), new_images)  # (n, classes)

    Args:
        weak: images (n, channels, side, side) -> logits (n, classes). It is copied, and so are the modules.
        modules: by the target classes of the patch; they take the same images.
        fitted: as `patch` returns it.

    Raises:
        UserError: a target class has no module, or no module helps, so that there is no patch.
    """

    def __init__(self, weak: nn.Module, modules: Mapping[int, nn.Module], fitted: Patch) -> None:
        super().__init__()
        if fitted.rule is None:
            raise UserError("the patch has no module that helps: use the weak network as it is")
        if missing := [target for target in fitted.target_classes if target not in modules]:
            raise UserError(f"modules: expected one of class {missing[0]}, which the patch was fitted with, given none")
        composed = ComposedModel([modules[target] for target in fitted.target_classes])
        device = floating_parameter(weak).device
        self.weak = OneAnswer(copy.deepcopy(weak), fitted.weak_classes)
        self.modules_of_classes = copy.deepcopy(composed).to(device)
        self.rule: Rule = copy.deepcopy(fitted.rule).to(device)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, classes) of images (n, channels, side, side): the largest one decides."""
        return self.rule(self.weak(images).float(), self.modules_of_classes(images))


def _check_has_images(images: Images, classes: Iterable[int]) -> None:
    if missing := sorted({*classes} - {*images.labels.tolist()}):
        raise UserError(f"labels: expected images of class {missing[0]}, given none")


def _array(values: Any) -> np.ndarray:
    """Anything array-like; real numbers of a tensor as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def _checked_images(images: Any) -> np.ndarray:
    """(n, channels, side, side) float32. Raises UserError."""
    values = _array(images)
    if values.ndim != 4 or not values.size or values.dtype.kind != "f":
        raise UserError(
            "images: expected (n, channels, side, side) floating-point numbers, normalised as the network takes them, "
            f"given {values.dtype} of shape {values.shape}"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise UserError("images: expected finite numbers in float32, given NaN or infinity")
    return values


def _as_images(values: np.ndarray, labels: np.ndarray) -> Images:
    return Images(np.moveaxis(values, 1, 3), labels, None)


def _labelled(strong: Graph, images: Any, labels: Any) -> Images:
    """Checked images with their labels. Raises UserError."""
    values = _checked_images(images)
    if values.shape[1:] != strong.image_shape:
        expected = ", ".join(map(str, strong.image_shape))
        raise UserError(f"images: expected (n, {expected}), as the network was traced, given {values.shape}")
    return _as_images(values, _checked_labels(labels, len(values), strong.num_classes))


def _checked_labels(labels: Any, images: int, classes: int) -> np.ndarray:
    """(images,) int64. Raises UserError."""
    wanted = _array(labels)
    if wanted.shape != (images,) or wanted.dtype.kind not in "iu":
        raise UserError(
            f"labels: expected a whole number for each of {images} images, given {wanted.dtype} of shape {wanted.shape}"
        )
    if wanted.min() < 0 or wanted.max() >= classes:
        raise UserError(f"labels: expected classes from 0 to {classes - 1}, given {wanted.min()} to {wanted.max()}")
    return wanted.astype(np.int64)


def _check_share(keep: float) -> None:
    if not isinstance(keep, numbers.Real) or not 0 < keep <= 1:
        raise UserError(f"keep: expected a share above 0 and at most 1, given {keep!r}")


def _checked_targets(strong: Graph, masks: Any, target_classes: Sequence[int] | None) -> tuple[int, ...]:
    """The class of each mask. Raises UserError unless they are (modules, K) bool, one for each class."""
    masks, num_kernels = _array(masks), strong.units.num_kernels
    if masks.ndim != 2 or masks.shape[1] != num_kernels or masks.dtype != bool:
        raise UserError(
            f"masks: expected (modules, {num_kernels}) bool, True = kept, given {masks.dtype} of shape {masks.shape}"
        )
    targets = _targets(strong, target_classes)
    if len(masks) != len(targets):
        raise UserError(
            f"masks: expected one for each of {len(targets)} classes, given {len(masks)}; name the modules' classes "
            "with target_classes"
        )
    return targets


def _targets(strong: Graph, target_classes: Sequence[int] | None) -> tuple[int, ...]:
    """The classes, all by default. Raises UserError for one that the strong model does not have, or given twice."""
    every = range(strong.num_classes)
    given = _array(every if target_classes is None else target_classes)
    targets: list[int] = given.tolist() if given.ndim == 1 and given.dtype.kind in "iu" else []
    if not targets or set(targets) - set(every) or len(set(targets)) < len(targets):
        raise UserError(
            f"target_classes: expected one or more classes, each once, from 0 to {strong.num_classes - 1}, given "
            f"{target_classes}"
        )
    return tuple(targets)


def _check_networks(networks: Any, name: str) -> None:
    """Raises UserError for anything but several networks."""
    given = networks if isinstance(networks, Sequence | nn.ModuleList) else [networks]
    if wrong := [each for each in given if not isinstance(each, nn.Module)]:
        raise UserError(f"{name}: expected networks, of torch.nn.Module, given {type(wrong[0]).__name__}")
    if given is not networks:
        raise UserError(f"{name}: expected a list of networks, given {type(networks).__name__}")
