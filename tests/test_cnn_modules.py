"""A network in memory: what comes out is exact where it must be, and what goes in stays as it was."""

import functools
import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import TOP, assert_near
from hypothesis import given, settings
from random_modules import kernel_masks, network_layers
from torch import nn

import cnn_modules as cm
from models.rescnn import ResCNN
from utils.seeds import randomise

CLASSES, SIDE = 4, 8
RANDOM = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(60, 2, SIDE, SIDE, generator=RANDOM), torch.arange(60) % CLASSES
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
FEW_STEPS = {"mask_steps": 8, "mask_batch_size": 20}


def cnn(width: int = 6, seed: int = 0) -> nn.Sequential:
    """A classifier with batch norm, dropout and a hook, in training mode."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * width, CLASSES),
    )
    randomise(network, SIDE, channels=2)
    network.register_forward_hook(lambda *_: None)
    return network.train()


@functools.cache
def strong() -> cm.Graph:
    return cm.trace(cnn(), IMAGES[:1])


@functools.cache
def some_masks() -> np.ndarray:
    return cm.importance_masks(strong(), cm.kernel_importance(strong(), IMAGES, LABELS), 0.5)


# What must be exact
@settings(max_examples=5, deadline=None)
@given(layers=network_layers(max_layers=4), seed=st.integers(0, 99), data=st.data())
def test_whole_modules_answer_as_the_network_and_a_modules_weights_load(layers, seed, data):
    torch.manual_seed(seed)
    network = ResCNN(CLASSES, layers=layers)
    randomise(network, 32)
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    whole_network, graph = cm.predict(network, images), cm.trace(network, images)
    masks = np.ones((CLASSES, graph.units.num_kernels), bool)
    modules = cm.extract_modules(graph, masks)
    assert_near(cm.predict(cm.ComposedModel(modules), images), whole_network)
    record = cm.evaluate(graph, masks[[2]], [modules[2]], images, whole_network.argmax(1), [2])  # its own replacement
    assert record.valid_right_composed == record.valid_right_strong == len(images)
    assert record.kernels_kept == (record.kernels,) and 0 < record.flops[0] <= 1
    assert_near(record.explained, [1])

    mask = data.draw(kernel_masks(graph.units))
    (module,) = cm.extract_modules(graph, mask[None], target_classes=[1])
    loaded = cm.module_of_weights(graph, mask, 1, module.state_dict())
    assert np.array_equal(cm.predict(loaded, images), cm.predict(module, images))


@pytest.mark.parametrize("keep", [0.01, 0.5, 1.0])
def test_the_most_important_kernels_of_each_layer_are_kept(keep):
    importance = cm.kernel_importance(strong(), IMAGES, LABELS)
    masks = cm.importance_masks(strong(), importance, keep)
    for layer in strong().units.layers:
        kept = max(1, int(keep * layer.width))
        expected = np.argsort(-importance[:, layer.kernels], axis=1)[:, :kept]
        for mask, kernels in zip(masks[:, layer.kernels], expected, strict=True):
            assert sorted(np.flatnonzero(mask)) == sorted(kernels)


def test_a_search_keeps_no_more_than_it_may_and_repeats_itself():
    search = functools.partial(cm.gradient_search, strong(), IMAGES, LABELS, 0.4, **FEW_STEPS)
    masks, modules = search()
    assert masks.shape == (CLASSES, strong().units.num_kernels) and (masks.mean(1) <= 0.4).all()
    again, other = search(), search(seed=1)
    answers = [cm.predict(cm.ComposedModel(each), IMAGES) for each in (modules, again[1], other[1])]
    assert np.array_equal(masks, again[0]) and np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])
    loaded = cm.module_of_weights(strong(), masks[2], 2, modules[2].state_dict())
    assert np.array_equal(cm.predict(loaded, IMAGES), cm.predict(modules[2], IMAGES))
    assert not any(part.training for module in modules for part in module.modules())
    with torch.no_grad():  # of the user's program
        some_masks, some = search(target_classes=[2, 1])
    assert np.array_equal(some_masks, masks[[2, 1]])
    assert np.array_equal(cm.predict(some[0], IMAGES), cm.predict(modules[2], IMAGES))


def test_a_trace_keeps_the_weights_as_they_were():
    network = cnn()
    graph = cm.trace(network, IMAGES)
    before = cm.predict(graph.network, IMAGES)
    with torch.no_grad():
        network[0].weight.zero_()
    assert np.array_equal(cm.predict(graph.network, IMAGES), before)


def test_a_patched_network_answers_as_the_patch_of_its_outputs():
    weak, modules = cnn(2, seed=1), cm.extract_modules(strong(), some_masks())
    labels = cm.predict(strong().network, IMAGES).argmax(1)
    outputs = {k: cm.predict(modules[k], IMAGES)[:, 0] for k in np.unique(labels)[:2].tolist()}
    fitted = cm.patch(cm.predict(weak, IMAGES), outputs, labels)
    patched = cm.PatchedNetwork(weak, dict(enumerate(modules)), fitted)
    assert_near(cm.predict(patched, IMAGES), fitted(cm.predict(weak, IMAGES), outputs))


# What goes in stays as it was
def everything_of(network: nn.Module) -> list[Any]:
    tensors = network.state_dict(keep_vars=True).values()
    parts = [(part, part.training, dict(part._forward_hooks)) for part in network.modules()]
    return [[(v.data_ptr(), v.device, v.tolist(), v.requires_grad, v.grad) for v in tensors], parts]


def everything_of_the_process() -> list[Any]:
    random = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    return [random, torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()]


@pytest.mark.parametrize("device", DEVICES)
def test_the_networks_and_the_process_are_left_as_they_were(device, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cm.show_progress(False)
    network, weak = cnn().to(device), cnn(2, seed=1).to(device)
    before = [everything_of(network), everything_of(weak), everything_of_the_process()]

    graph = cm.trace(network, IMAGES[:1])
    masks, modules = cm.gradient_search(graph, IMAGES.to(device), LABELS.to(device), 0.5, **FEW_STEPS)
    record = cm.evaluate(graph, masks, modules, IMAGES, LABELS)
    cm.importance_masks(graph, cm.kernel_importance(graph, IMAGES.numpy(), LABELS.numpy()), 0.5)
    fitted = cm.patch(cm.predict(weak, IMAGES), {3: cm.predict(modules[3], IMAGES)[:, 0]}, LABELS)
    patched = cm.PatchedNetwork(weak, {3: modules[3]}, fitted)

    assert record.valid_images == len(IMAGES) and len(record.flops) == CLASSES
    for each in (graph.network, *modules, patched):
        assert {value.device.type for value in each.state_dict().values()} == {device}
    assert [everything_of(network), everything_of(weak), everything_of_the_process()] == before
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


# What does not fit is one line
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no network of kernels": (lambda: cm.trace(nn.Flatten(), IMAGES), "no convolution"),
    "not square": (lambda: cm.trace(cnn(), IMAGES[..., 1:]), "expected square images, given 8 x 7"),
    "float64": (lambda: cm.trace(cnn().double(), IMAGES), "expected float32 weights, given torch.float64"),
    "pixels": (lambda: cm.predict(cnn(), (IMAGES > 0).byte()), "floating-point numbers, normalised"),
    "one image": (lambda: cm.predict(cnn(), IMAGES[0]), r"given float32 of shape \(2, 8, 8\)"),
    "words": (lambda: cm.predict(cnn(), ["a.png"]), r"expected \(n, channels, side, side\)"),
    "NaN": (lambda: cm.predict(cnn(), IMAGES / 0), "NaN or infinity"),
    "channels": (lambda: cm.predict(cnn(), IMAGES[:, :1]), "does not run on images .60, 1, 8, 8.: "),
    "other side": (lambda: cm.kernel_importance(strong(), IMAGES[..., :4, :4], LABELS), r"expected \(n, 2, 8, 8\)"),
    "few labels": (lambda: cm.kernel_importance(strong(), IMAGES, LABELS[1:]), "labels: expected a whole number for"),
    "real labels": (lambda: cm.kernel_importance(strong(), IMAGES, LABELS / 2), "given float32"),
    "labels from 1": (lambda: cm.kernel_importance(strong(), IMAGES, LABELS + 1), "from 0 to 3, given 1 to 4"),
    "a class without images": (
        lambda: cm.kernel_importance(strong(), IMAGES[LABELS != 2], LABELS[LABELS != 2]),
        "class 2",
    ),
    "a target without images": (
        lambda: cm.gradient_search(strong(), IMAGES[LABELS != 2], LABELS[LABELS != 2], 0.5, target_classes=[2]),
        "labels: expected images of class 2, given none",
    ),
    "confidence": (lambda: cm.kernel_importance(strong(), IMAGES, LABELS, 5), "from 0 to 1, given 5"),
    "importance": (lambda: cm.importance_masks(strong(), np.ones(18), 0.5), r"expected \(classes, 18\)"),
    "keep nothing": (lambda: cm.importance_masks(strong(), np.ones((4, 18)), 0.0), "keep: expected a share above 0"),
    "keep words": (lambda: cm.gradient_search(strong(), IMAGES, LABELS, "half"), "given 'half'"),
    "setting": (lambda: cm.gradient_search(strong(), IMAGES, LABELS, 0.5, mask_step=3), "unknown setting mask_step"),
    "value": (lambda: cm.gradient_search(strong(), IMAGES, LABELS, 0.5, mask_steps=0), "mask_steps"),
    "masks of numbers": (lambda: cm.extract_modules(strong(), 1 * some_masks()), "given int64 of shape"),
    "one mask": (lambda: cm.extract_modules(strong(), some_masks()[0]), r"expected \(modules, 18\) bool"),
    "few masks": (lambda: cm.extract_modules(strong(), some_masks()[:2]), "target_classes"),
    "empty layer": (lambda: cm.extract_modules(strong(), ~some_masks() & some_masks()), "at least one kept kernel"),
    "class": (lambda: cm.extract_modules(strong(), some_masks()[:1], target_classes=[7]), "from 0 to 3, given .7."),
    "one class": (lambda: cm.extract_modules(strong(), some_masks()[:1], target_classes=3), "one or more classes"),
    "a class twice": (lambda: cm.extract_modules(strong(), some_masks()[:2], target_classes=[3, 3]), "each once"),
    "a selection": (lambda: cm.extract_modules(strong(), some_masks()[:2], np.array([True, False])), "given .*False"),
    "answer": (
        lambda: cm.evaluate(strong(), some_masks(), CLASSES * [cnn()], IMAGES, LABELS, answer="odds"),
        "given 'odds'",
    ),
    "no network": (lambda: cm.trace(None, IMAGES), "network: expected networks, of torch.nn.Module, given NoneType"),
    "modules that are numbers": (
        lambda: cm.evaluate(strong(), some_masks(), [1, 2, 3, 4], IMAGES, LABELS),
        "modules: expected networks, .* given int",
    ),
    "whole networks": (
        lambda: cm.evaluate(strong(), some_masks(), CLASSES * [cnn()], IMAGES, LABELS),
        "expected one output of each, given 4",
    ),
    "not in a list": (lambda: cm.compose(cnn(), IMAGES, LABELS), "networks: expected a list of networks"),
    "beyond float32": (lambda: cm.predict(cnn(), np.full((2, 2, 8, 8), 1e300)), "finite numbers in float32"),
    "no importance": (lambda: cm.importance_masks(strong(), np.full((4, 18), np.nan), 0.5), "given NaN"),
    "importance in words": (lambda: cm.importance_masks(strong(), np.full((4, 18), "much"), 0.5), "real numbers"),
    "seed": (lambda: cm.gradient_search(strong(), IMAGES, LABELS, 0.5, seed=1.5), "seed: expected a whole number"),
    "few modules": (lambda: cm.evaluate(strong(), some_masks(), [], IMAGES, LABELS), "one for each of 4 masks"),
    "outputs": (lambda: cm.patch(np.ones((60, 4)), {3: np.ones(59)}, LABELS), r"module_logits\[3\]: expected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name):
    call, message = WRONG[name]
    with pytest.raises((cm.UserError, ValueError), match=message) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


def test_a_patch_without_its_module_is_one_line():
    random = np.random.default_rng(0)
    labels = np.arange(300) % CLASSES
    fitted = cm.patch(random.normal(size=(300, CLASSES)), {2: random.normal(size=300)}, labels)
    with pytest.raises(cm.UserError, match="expected one of class 2"):
        cm.PatchedNetwork(cnn(), {1: cnn()}, fitted)
    right = np.eye(CLASSES)[labels] * 20
    useless = cm.patch(right, {2: random.normal(size=300)}, labels, auto=True)
    with pytest.raises(cm.UserError, match="no module that helps"):
        cm.PatchedNetwork(cnn(), {2: cnn()}, useless)


# The page
@pytest.mark.slow
def test_the_ten_lines_run_print_their_table_and_write_nothing(tmp_path, root_dir, monkeypatch, capsys):
    page = (TOP / "docs" / "python.md").read_text(encoding="utf-8")
    (ten_lines,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    set_up = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in ten_lines.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(f"{set_up[1]}\n{ten_lines}", {})  # noqa: S102
    said = capsys.readouterr()
    assert "class  name  kernels kept" in said.out and not said.err, said
    assert not list(tmp_path.iterdir()) and not list(root_dir.iterdir())


def test_all_that_is_public_is_documented():
    exported = {name for name in cm.__all__ if getattr(cm, name).__module__ == "cnn_modules"}
    assert len(exported) > 6
    for name in exported:
        text = " ".join(getattr(cm, name).__doc__.split())
        assert "Args:" in text and "Raises:" in text and "Example" in text, name
