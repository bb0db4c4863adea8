"""Masks that are learned straight through a step: gradients, phases, cutting, and modules as users get them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward_networks import PaddedShortcuts
from conftest import assert_near, files_below, fit_last_layer, keep_few_images, random_images, refusal_of
from exactness import traced
from random_modules import random_graph
from torch import Tensor

from configures.base import load
from dataset.images import Split
from dataset.splits import load_split
from models import files as model_files
from models.graph import Graph
from models.names import network_of
from models.opening import Stage
from models.rescnn import Conv
from modules.module import extract_modules
from search import gradsplitter, seam
from search.files import Found
from search.gradsplitter import GradSplitter, KernelMasks
from search.methods import METHODS
from search.seam import SeaM, WeightMasks
from search.straight_through import AboveZero, LearningModule, MaskLearning
from utils.artifacts import Artifacts, CheckpointFile
from utils.device import core_threads

CLASSES, CPU = 3, torch.device("cpu")
LAYERS = (Conv(6, pool=True), Conv(5), Conv(5, add=1))
METHOD_NAMES = ("gradsplitter", "seam")
Method = GradSplitter | SeaM


@pytest.fixture(scope="module")
def graph() -> Graph:
    return random_graph(LAYERS, CLASSES, seed=0, hidden=(7,)).to(dtype=torch.float32)


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(tuple("abc"), *(random_images(60, CLASSES, seed) for seed in range(3)))


def stage_at(folder: Path, **settings: float) -> Stage:
    config = replace(load("simcnn_x0_25", "digits"), mask_batch_size=8, **settings)
    return Stage(config, Artifacts(folder, "a", "b"), CPU, torch.float32, 0)


def frozen(graph: Graph) -> Graph:
    return graph.with_constants({name: value.detach() for name, value in graph.constants.items()})


def with_random_numbers(module: LearningModule, seed: int = 0) -> LearningModule:
    """The module with masks that keep about half, and a head of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in (module.numbers, module.head):
            for value in values.values():
                value.copy_(torch.randn(value.shape, generator=generator))
    return module


def test_the_gradient_is_passed_straight_through_and_clipped() -> None:
    values = torch.tensor([-2.0, -0.1, 0.0, 1e-9, 3.0], requires_grad=True)
    above = torch.tensor([0.5, -3.0, 7.0, -0.25, 1.5])
    kept = AboveZero.apply(values)
    assert kept.tolist() == [0, 0, 0, 1, 1]
    (kept * above).sum().backward()
    assert values.grad.tolist() == [0.5, -1.0, 1.0, -0.25, 1.0]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_numbers_of_units_have_the_gradient_of_factors(graph: Graph, scale: float) -> None:
    """By differences of the masked model's logit, which is as good as linear in a factor over a small distance."""
    exact = frozen(graph.to(dtype=torch.float64))
    module, images = with_random_numbers(KernelMasks(exact, 1)), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    logits, share = module.answer(images, torch.float32, learns_masks=True)
    (scale * logits.sum() + share).backward()
    weights, factors, _ = module._masked_by(False)
    of_module, step = exact.with_constants({**exact.constants, **weights}), 1e-6
    slopes = exact.units.sizes / exact.units.num_kernels
    for unit in range(exact.num_units):
        way = torch.zeros(exact.num_units, dtype=torch.float64)
        way[unit] = step
        with torch.no_grad():
            ends = [of_module.forward(images, factors + sign * way)[:, 1].sum() for sign in (1, -1)]
        slopes[unit] += scale * float(ends[0] - ends[1]) / (2 * step)
    found = module.numbers["units"].grad.numpy()
    assert_near(found, np.clip(slopes, -1, 1))
    assert (np.abs(found).max() == 1) == (scale > 1)


def test_numbers_of_weights_have_the_gradient_of_weights_times_the_weights(graph: Graph) -> None:
    module, images = WeightMasks(frozen(graph), 2), torch.randn(4, 3, 32, 32)
    logits, share = module.answer(images, torch.float32, learns_masks=True)
    (50 * logits.sum() + share).backward()
    weights = {name: graph.constants[name].detach().clone().requires_grad_() for name in module.numbers}
    (50 * graph.with_constants({**graph.constants, **weights}).forward(images)[:, 2].sum()).backward()
    count = sum(value.numel() for value in weights.values())
    clipped = 0
    for name, weight in weights.items():
        expected = weight.grad * weight.detach() + 1 / count
        assert_near(module.numbers[name].grad, expected.clamp(-1, 1))
        clipped += int((expected.abs() > 1).sum())
    assert 0 < clipped < count and not weights.keys() & module.head.keys()


@pytest.mark.parametrize("kind", [KernelMasks, WeightMasks])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_module_is_cut_as_it_has_learned(kind: type, is_empty: bool) -> None:
    """With batch norm, additions, and all kernels of a layer without weights."""
    _, whole = traced(PaddedShortcuts)
    module = with_random_numbers(kind(frozen(whole), 4))
    with torch.no_grad():
        for name, value in module.numbers.items():
            if name == "units":
                value[8:16] = -1 - torch.arange(8.0)  # those of a block's first layer
            elif is_empty and name == "blocks.0.conv1.weight":
                value.fill_(-1)
            elif value.dim() == 4:
                value[1:3] = -1
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    answer, share = module.answer(images, torch.float32, learns_masks=False)
    unit_mask, network = module.cut()
    assert_near(network(images)[:, 0].detach(), answer.detach())
    assert answer.std() > 0.01 and 0.2 < float(share) < 0.8 and not unit_mask.all()
    if kind is WeightMasks:
        inner = network.blocks.get_submodule("1").conv2.weight
        assert 0.3 < float((inner == 0).double().mean()) < 0.7


class Cumulative(PaddedShortcuts):
    """Each logit is made of those before it, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).cumsum(1)


def test_a_network_without_rows_for_classes_is_refused() -> None:
    _, whole = traced(Cumulative)
    assert "weights of its own for each class" in refusal_of(lambda: KernelMasks(frozen(whole), 0))


def test_phases_have_the_published_shares() -> None:
    for steps in (145, 1450):
        phases = [gradsplitter.phase_of(step, steps, 0.5) for step in range(steps)]
        lengths = [sum(each.number == number for each in phases) * 145 // steps for number in range(41)]
        assert lengths == [5, *20 * [5, 2]]
        assert [each.mask_step_size for each in phases if each.number == 2] == 2 * steps // 145 * [0]
        assert phases[0][1:] == (0.01, 0) and phases[-1][1:] == (0.001, 0) and phases[5 * steps // 145][2] == 0.5
    with_masks = [seam.phase_of(step, 600, 0.5).mask_step_size > 0 for step in range(600)]
    assert with_masks[:12] == [False, False, *8 * [True], False, False] and sum(with_masks) == 480
    for method, name in ((GradSplitter(), "gradsplitter_steps"), (SeaM(), "seam_steps")):
        for steps in (20, 21, 999):
            config = replace(load("simcnn_x0_25", "digits"), **{name: steps})
            ends = method.ends(config)
            assert len(ends) == 5 and ends[-1] == steps and all(a < b for a, b in pairwise([0, *ends]))
            for end in ends[:-1]:  # a new Adam begins there, so that its state need not be kept
                phase_of = gradsplitter.phase_of if name.startswith("g") else seam.phase_of
                assert phase_of(end - 1, steps, 1.0).number < phase_of(end, steps, 1.0).number


@pytest.mark.parametrize("at_once", [0, CLASSES])
def test_scores_have_one_loss_however_many_modules_there_are(
    graph: Graph, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(gradsplitter, "MODULES_AT_ONCE", at_once)
    stage, found = stage_at(tmp_path, gradsplitter_steps=145, gradsplitter_alpha=3.0), {}
    with core_threads(CPU, 2) as workers:
        learner = GradSplitter().learner(stage, frozen(graph), split.train, workers)
        for number, module in enumerate(learner.modules):
            with_random_numbers(module, number)
            monkeypatch.setattr(module, "update", lambda phase, of=module: found.update({of: (phase, *grads(of))}))
        expected_modules = [with_random_numbers(KernelMasks(frozen(graph), c), c) for c in range(CLASSES)]
        loss = learner.step(7)
    places = learner.drawn(torch.arange(60), 8, 7)
    assert len(set(places.tolist())) == 8
    images, labels = learner.images(places), learner.labels[places]
    answers = [module.answer(images, torch.float32, learns_masks=True) for module in expected_modules]
    scores = torch.stack([logits for logits, _ in answers], 1).sigmoid()
    entropy = F.cross_entropy(scores, labels)
    (entropy + 3.0 * torch.stack([share for _, share in answers]).mean()).backward()
    assert_near(loss, entropy.detach())
    for module, expected in zip(learner.modules, expected_modules, strict=True):
        for one, other in zip(found[module][1:], grads(expected), strict=True):
            assert_near(one, other)


def grads(module: LearningModule) -> list[Tensor]:
    return [value.grad for values in (module.numbers, module.head) for value in values.values()]


@pytest.mark.parametrize("method", [GradSplitter(), SeaM()], ids=METHOD_NAMES)
def test_an_interrupted_search_finds_the_same(method: MaskLearning, graph: Graph, split: Split, tmp_path: Path) -> None:
    """Its state is written when the next candidate is asked for: not of the last one that an end left."""
    settings = {f"{method.name}_{name}": value for name, value in (("steps", 20), ("step_size", 0.2))}

    def find(stage: Stage, rows: int, last: int) -> list[Found]:
        candidates = method.find(stage, graph, split, [None] * rows)
        found = [next(candidates) for _ in range(last - rows)]
        if last == 5:
            assert next(candidates, None) is None
        candidates.close()
        return found

    whole = find(stage_at(tmp_path / "whole", **settings), 0, 5)
    parts, stage = [], stage_at(tmp_path / "parts", **settings)
    for rows, last in ((0, 2), (2, 3), (3, 5), (5, 5)):
        parts += find(stage, rows, last)
    state = CheckpointFile(method.files(stage.artifacts).folder / "state.pth", "the search")
    assert not state.exists() and [each.words for each in whole] == [each.words for each in parts]
    without_state = find(stage_at(tmp_path / "lost", **settings), 4, 5)
    for one, other in zip([*whole, whole[-1]], [*parts, *without_state], strict=True):
        assert (one.masks == other.masks).all() and one.asked["weights_kept"] == other.asked["weights_kept"]
        for mine, others in zip(one.weights, other.weights, strict=True):
            assert all(torch.equal(value, others[name]) for name, value in mine.items())
    assert whole[-1].asked["weights_kept"] < 1 and (method.name == "seam" or not whole[-1].masks.all())
    extract_modules(graph, whole[-1].masks, None, whole[-1].weights)
    state.save({"candidates": 1, "modules": []})
    assert "not the state of such a search" in refusal_of(lambda: find(stage, 1, 2))


def test_the_state_of_another_number_of_weights_is_refused(graph: Graph) -> None:
    module = KernelMasks(frozen(graph), 0)
    state = module.state()
    state["numbers"]["units"] = torch.ones(3)
    with pytest.raises(RuntimeError):
        module.load_state(state)


MODEL, DATASET = "simcnn_tiny", "digits"
NAMES = ("--model", MODEL, "--dataset", DATASET)
FEW = {
    "gradsplitter": ["gradsplitter_steps=60", "gradsplitter_step_size=0.1"],
    "seam": ["seam_steps=50", "seam_step_size=0.1"],
}


@pytest.fixture
def root(root_dir: Path) -> Path:
    """The root_dir of a strong simcnn_tiny for digits, which looks trained."""
    config = load("simcnn_x0_25", DATASET)
    split = load_split(config)
    torch.manual_seed(0)
    network = network_of(MODEL, config.num_classes, config.image_side)
    fit_last_layer(network, split.train, config.num_classes)
    keep_few_images(root_dir)
    model_files.entire_model(Artifacts(root_dir, MODEL, DATASET)).save(network.state_dict())
    return root_dir


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_user_gets_smaller_modules_that_know_their_classes(name: str, root: Path, run_main: Callable) -> None:
    settings = [word for each in [*FEW[name], "mask_batch_size=16"] for word in ("--set", each)]
    command = ("scripts/run_module_search.py", *NAMES, "--method", name, *settings)
    artifacts = Artifacts(root, MODEL, DATASET)
    before = files_below(artifacts.folder)
    run_main(*command, "--keep", 0.5, root=root).refused("--keep: only with --method gradient or ")
    run_main(*command, "--max_loss", "nan", root=root).refused("--max_loss nan: expected percentage points")
    run_main(*command, "--set", f"{name}_steps=19", root=root).refused(f"{name}_steps: expected at least 20")
    run_main(*command, "--set", f"{name}_alpha=-1", root=root).refused(f"{name}_alpha: expected 0 or more")
    assert files_below(artifacts.folder) == before
    done = run_main(*command, "--max_loss", 100, root=root)
    assert done.exit_code == 0 and "loss" in done.stdout, done
    rows = METHODS[name].files(artifacts).log.load()
    assert [row.number for row in rows] == [0, 1, 2, 3, 4] and rows[0].kernels_kept == 1
    assert rows[-1].right_composed / rows[-1].images > 0.3  # 0.1 by chance
    assert rows[-1].weights_kept < (0.95 if name == "gradsplitter" else 0.5)
    assert name == "seam" or rows[-1].kernels_kept < 0.95
