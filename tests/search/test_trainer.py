"""Modules while they are trained: each the same wherever and in however many pieces, and the same as with masks."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_near, random_images
from torch import Tensor, nn

from configures.base import Config
from dataset.images import augment, normalise
from models.graph import Graph, flops_of, kernels_share, stream_maps, trace
from search.gradient.goal import Goal
from search.gradient.groups import first_steps
from search.gradient.trained_module import TrainedModule
from search.gradient.trainer import (
    LossNotFinite,
    ModuleTraining,
    ModuleTrainingSettings,
    Trainer,
    fine_tuning_settings,
    search_settings,
)
from search.gradient.weight_places import WeightPlaces
from utils.device import core_threads
from utils.seeds import torch_seed

CPU = torch.device("cpu")
ALL, ONE, SIDE = (0, 1, 2), (1,), 8
SETTINGS = ModuleTrainingSettings(steps=6, batch_size=8, step_size=0.01, mirror=False)
ROUND = (1.0, 0.5)
GOAL = Goal(0.5, 1.0, 1.0)


class Small(nn.Module):
    """Batch norm, an addition, and a pool in front of the logits; maps are multiplied by masks where they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Linear(6, 3)

    def forward(self, images: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        of_sum, of_third = masks or (torch.ones(8).to(images), torch.ones(6).to(images))
        maps = self.norm(self.first(images)).relu()
        maps = maps + self.second(maps * of_sum[:, None, None]).relu()
        maps = self.third(maps * of_sum[:, None, None]).relu()
        return self.last(maps.mean((2, 3)) * of_third)


class Plain(Small):
    """The same without masks and batch norm, to be traced."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.first(images)).relu()
        maps = maps + self.second(maps).relu()
        return self.last(self.third(maps).relu().mean((2, 3)))


def graph_of(dtype: torch.dtype = torch.float32) -> Graph:
    torch.manual_seed(0)
    network = Plain()
    network.norm.running_mean.add_(0.5)
    return trace(network.to(dtype), SIDE)


@contextmanager
def trainer_of(
    classes: Sequence[int],
    workers: int = 1,
    settings: ModuleTrainingSettings = SETTINGS,
    dtype: torch.dtype = torch.float32,
    goal: Goal = GOAL,
) -> Iterator[Trainer]:
    """The modules of a random network."""
    images = random_images(40, 3)
    given = torch.tensor(images.pixels[:, :SIDE, :SIDE]), torch.tensor(images.labels), images.normalisation
    training = ModuleTraining(goal, settings, *given, dtype, seed=0)
    with core_threads(CPU, workers) as threads:
        yield Trainer(graph_of(), [(target_class,) for target_class in classes], training, threads)


def test_a_module_of_log_odds_begins_with_the_difference_from_the_other_logits() -> None:
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with trainer_of(ALL, goal=replace(GOAL, answer="log_odds")) as trainer, torch.no_grad():
        of_strong = graph_of().network.eval()(images)
        for target_class, module in enumerate(trainer.modules):
            others = of_strong[:, [each for each in ALL if each != target_class]].mean(1)
            assert_near(module.network.eval()(images)[:, 0], of_strong[:, target_class] - others)
        before = trainer.goal.loss(trainer.modules[0].network(images), (0,), torch.tensor([0, 1, 2, 0]), of_strong)
        assert before.isfinite() and trainer.modules[0].unit_mask.all()


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a file gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs


def states_of(trainer: Trainer) -> list[dict[str, Any]]:
    """A copy of its modules' states."""
    return [saved(module.state()) for module in trainer.modules]


def after_steps(trainer: Trainer, last: int, keeps: tuple[float, float] = ROUND) -> list[dict[str, Any]]:
    """A copy of its modules' states after steps up to `last`."""
    while trainer.steps_done < last:
        trainer.step(*keeps)
    return states_of(trainer)


@pytest.mark.parametrize("keeps", [ROUND, (0.7, 0.7)], ids=["dropping", "training"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_and_pieces_change_nothing(dtype: torch.dtype, keeps: tuple[float, float]) -> None:
    found = []
    for workers in (1, 3):
        with trainer_of(ALL, workers, dtype=dtype) as trainer:
            start, strong = states_of(trainer), saved(trainer._strong.state_dict())
            found.append(after_steps(trainer, SETTINGS.steps, keeps))
            assert not same(start, found[-1]) and same(strong, trainer._strong.state_dict())
    for interrupted_at in (1, 4):
        with trainer_of(ALL, dtype=dtype) as first, trainer_of(ALL, dtype=dtype) as second:
            for module, state in zip(second.modules, after_steps(first, interrupted_at, keeps), strict=True):
                module.load_state(state)
            found.append(after_steps(second, SETTINGS.steps, keeps))
    assert all(same(found[0], other) for other in found[1:])


def test_a_module_is_trained_the_same_whichever_others_are() -> None:
    found = []
    for classes in (ALL, ONE):
        with trainer_of(classes) as trainer:
            state = after_steps(trainer, SETTINGS.steps)
            trainer.finish_round()
            found.append((state[classes.index(1)], trainer.weights()[classes.index(1)]))
    assert same(found[0][0], found[1][0]) and same(found[0][1], found[1][1])


def test_modules_that_are_behind_take_their_steps_first() -> None:
    """As where a search was interrupted while the states of a group were written."""
    with trainer_of(ALL) as together, trainer_of(ALL) as apart, trainer_of(ONE) as alone:
        expected = after_steps(together, 5)
        apart.modules[1].load_state(after_steps(alone, 3)[0])
        assert apart.steps_done == 0
        assert same(after_steps(apart, 5), expected)


def test_a_round_takes_as_long_as_its_first_step_times_a_number() -> None:
    assert first_steps([2, 1], 10, 1.0, 1.0) == pytest.approx(10 + 10 * (1 + 3) / (1 + 2 * 3))
    # A quarter of them before the last drop, with a second pass backwards
    assert (100 + 3 * 50) / 6 < first_steps([1], 100, 1.0, 0.5) < (100 + 25 * 5 + 75 * 3 / 2) / 6


@pytest.mark.parametrize("answer", ["logit", "log_odds"])
def test_the_loss_of_many_pixels_is_that_of_their_parts_together(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """And so are its gradients, which are added to those that are there; parts of 3 and 2 images."""
    goal = Goal(0.5, 1.0, answer=answer)
    monkeypatch.setattr("search.gradient.trainer.PIXELS_AT_ONCE", 3 * SIDE**2)
    monkeypatch.setattr(TrainedModule, "update", lambda *_, **__: None)
    with trainer_of(ONE, goal=goal) as trainer:
        (module,), (images, labels) = trainer.modules, trainer.batches.of_step(0)
        logits = torch.cat([module.answer(part, torch.float32)[0] for part in images.split([3, 3, 2])])
        expected = goal.loss(logits, module.classes, labels, trainer._strong_answer(images, [])[0])
        expected.backward()
        before = torch.cat([value.grad.flatten() for value in module.network.parameters()])
        assert trainer.step(1.0, 1.0) == pytest.approx(float(expected.detach()), rel=1e-5)
        assert_near(torch.cat([value.grad.flatten() for value in module.network.parameters()]), 2 * before)


def test_an_image_of_many_pixels_is_a_part_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.gradient.trainer.PIXELS_AT_ONCE", SIDE**2 - 1)
    with trainer_of(ONE) as trainer:
        assert math.isfinite(trainer.step(*ROUND))


def test_the_images_of_a_step_are_cropped_as_those_of_training_are() -> None:
    """As the setting says that the strong model's training, the search and the fine-tuning have in common."""
    config = Config("network", "images", 3, crop="resized", mirror=True)
    for settings in (search_settings(config, "kernels"), fine_tuning_settings(config)):
        with trainer_of(ONE, settings=settings) as trainer:
            images, labels = trainer.batches.of_step(3)
            generator = torch.Generator().manual_seed(torch_seed(0, "mask batch", 3))
            chosen = torch.randperm(40, generator=generator)[:64]
            cropped = augment(trainer.batches.pixels[chosen], mirror=True, generator=generator, crop="resized")
            assert torch.equal(labels, trainer.batches.labels[chosen])
            assert torch.equal(images, normalise(cropped, trainer.batches.normalisation))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_round_ends_within_its_budget(steps: int) -> None:
    settings = replace(SETTINGS, steps=steps)
    with trainer_of(ALL, settings=settings) as trainer:
        after_steps(trainer, steps, (1.0, 0.5))
        masks = trainer.masks()
        assert (masks.mean(1) <= 0.5).all() and (masks.mean(1) > 0.4).all()
        after_steps(trainer, 2 * steps, (0.5, 0.5))  # a round that only trains
        assert np.array_equal(trainer.masks(), masks)
    with trainer_of(ALL, settings=replace(settings, budget="flops")) as trainer:
        after_steps(trainer, steps, (1.0, 0.4))
        whole = trainer.modules[0].graph
        shares = [flops_of(module.network, whole.image_shape) / whole.flops for module in trainer.modules]
        assert max(shares) <= 0.4 + 1e-6 and min(shares) > 0.2


def test_modules_come_nearer_to_what_the_strong_model_says() -> None:
    with trainer_of(ALL, settings=replace(SETTINGS, steps=60, batch_size=40)) as trainer:
        after_steps(trainer, 30, (1.0, 0.5))
        losses = [trainer.step(1.0, 0.5) for _ in range(30)]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_loss_that_is_not_finite_is_one_line() -> None:
    with trainer_of(ONE) as trainer:
        with torch.no_grad():
            next(trainer.modules[0].network.parameters()).fill_(torch.inf)
        with pytest.raises(LossNotFinite, match="step 0: the loss is nan; use smaller steps"):
            trainer.step(*ROUND)


def test_what_is_no_state_of_the_module_is_refused() -> None:
    with trainer_of(ONE) as trainer:
        (state,) = after_steps(trainer, 2)
        spoiled = {name: value * torch.nan for name, value in state["weights"].items()}
        moments = {kind: {} for kind in state["moments"]}
        other = {"kept": torch.ones(3, dtype=torch.bool)}
        changes = ({"weights": {}}, {"weights": spoiled}, {"moments": moments}, {"saliency": torch.ones(2)}, other)
        for wrong in ({}, *({**state, **change} for change in changes)):
            with pytest.raises((KeyError, ValueError, RuntimeError)):
                trainer.modules[0].load_state(wrong)


def test_after_a_drop_training_goes_on_as_that_of_the_masked_strong_model() -> None:
    """Weights and Adam's moments: against torch's own modules, whose maps are multiplied by masks."""
    graph = graph_of(torch.double)
    torch.manual_seed(0)
    reference = Small()
    reference.norm.running_mean.add_(0.5)
    reference = reference.double().train()
    start = {name: value.clone() for name, value in graph.constants.items()}
    assert all(torch.equal(start[name], value) for name, value in reference.named_parameters())
    adam = torch.optim.Adam(reference.parameters(), betas=(0.9, 0.99))
    places = WeightPlaces(graph)
    module, masks = TrainedModule(graph, places, (1,)), None
    for step in range(6):
        images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(step)).double()
        adam.param_groups[0]["lr"] = step_size = 0.01 / (1 + step)
        adam.zero_grad()
        expected = reference(images, masks)[:, 1]
        (expected - 1).square().mean().backward()
        adam.step()
        found, _ = module.answer(images, torch.float64)
        torch.testing.assert_close(found[:, 0], expected.float())
        # The gradient of a float32 logit would be rounded.
        (module.network.run_graph(module._program, images)[:, 0] - 1).square().mean().backward()
        module.update(step_size)
        if step in (1, 3):
            module.saliency = torch.as_tensor(np.random.default_rng(step).random(graph.num_units)).float()
            module.drop(kernels_share(graph.units), 0.8 - step / 10)
            kernels = torch.as_tensor(graph.units.spread(module.unit_mask)).double()
            masks = kernels[:8], kernels[16:]
            assert 0 < module.unit_mask.sum() < graph.num_units
        whole = dict(reference.named_parameters())
        for name, of_weight in places.of(module.unit_mask, 1).items():
            assert (of_weight > 0).all()
            weight = module.network.get_parameter(name)
            expected_moments = adam.state[whole[name]]
            moments = module._optimizer.state[weight]
            for ours, theirs in (
                (weight.detach(), whole[name].detach()),
                *((moments[kind], expected_moments[kind]) for kind in ("exp_avg", "exp_avg_sq")),
            ):
                torch.testing.assert_close(ours.flatten(), theirs.flatten()[of_weight.flatten() - 1])
    assert not torch.equal(start["third.weight"], whole["third.weight"])


def test_layers_that_a_drop_leaves_whole_go_on_with_their_own_moments() -> None:
    """Their weights keep the strides of channels_last; fused Adam reads its moments in the same order of memory."""
    graph = graph_of().channels_last()
    module = TrainedModule(graph, WeightPlaces(graph), (1,))
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return (module.answer(images, torch.float32)[0] - 1).square().mean()

    loss().backward()
    module.update(0.01)
    module.saliency = torch.arange(graph.num_units, 0, -1).float()  # the last layer's go first
    module.drop(kernels_share(graph.units), 0.95)
    weights = dict(module.network.named_parameters())
    assert any(not weight.is_contiguous() for weight in weights.values())
    loss().backward()
    plain = {name: weight.detach().clone() for name, weight in weights.items()}
    for name, value in plain.items():
        value.grad = weights[name].grad
    adam = torch.optim.Adam(plain.values(), lr=0.001, betas=(0.9, 0.99), foreach=False)
    for name, value in plain.items():
        adam.state[value] = {key: each.clone() for key, each in module._optimizer.state[weights[name]].items()}
    adam.step()
    module.update(0.001)
    for name, value in plain.items():
        torch.testing.assert_close(weights[name].detach(), value, atol=1e-6, rtol=0)


def test_saliency_is_the_squared_gradient_of_the_logits_by_a_factor_of_each_units_maps() -> None:
    graph = graph_of()
    torch.manual_seed(0)
    reference = Small()
    reference.norm.running_mean.add_(0.5)
    reference.train()
    module = TrainedModule(graph, WeightPlaces(graph), (2,))
    images = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([[1.0], [-1], [-1], [1], [1], [1]])
    factors = [torch.ones(8, requires_grad=True), torch.ones(6, requires_grad=True)]
    answer = (reference(images, factors)[:, [2]] * signs).sum()
    expected = torch.cat(torch.autograd.grad(answer, factors)).square()
    gates = torch.ones(14, requires_grad=True)
    logits, _ = module.answer(images, torch.float32, gates=gates)
    module.note_saliency(logits, gates, signs)
    torch.testing.assert_close(module.saliency, 0.1 * expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    assert all(weight.grad is None for weight in module.network.parameters())
    logits.square().sum().backward()  # the loss can still be differentiated


def test_signs_of_logits_add_up_to_the_squares_of_each_images_gradient() -> None:
    with trainer_of(ONE) as trainer:
        signs = torch.stack([trainer.batches.signs_of_step(step, (5, 2)) for step in range(2000)]).flatten(1).float()
        assert torch.equal(signs.abs(), torch.ones(2000, 10))
        of_pairs = signs.T @ signs / len(signs)  # the mean of the squared sum is the sum of squares and of these
        assert float((of_pairs - torch.eye(10)).abs().max()) < 0.1
        assert torch.equal(trainer.batches.signs_of_step(3, (5, 1)), trainer.batches.signs_of_step(3, (5, 1)))


def test_saliency_is_noted_only_where_units_will_be_dropped() -> None:
    with trainer_of(ONE, settings=replace(SETTINGS, steps=8)) as trainer:
        trainer.step(1.0, 1.0)
        assert not trainer.modules[0].saliency.any()
        trainer.step(1.0, 0.5)
        assert trainer.modules[0].saliency.any()


def test_a_module_of_several_classes_answers_with_their_logits() -> None:
    graph = graph_of()
    module = TrainedModule(graph, WeightPlaces(graph), (2, 0))
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found, _ = module.answer(images, torch.float32)
    for column, target_class in enumerate((2, 0)):
        (alone, _) = TrainedModule(graph, WeightPlaces(graph), (target_class,)).answer(images, torch.float32)
        torch.testing.assert_close(found[:, [column]], alone)


def test_maps_are_explained_by_the_strong_model_itself_and_by_the_kept_channels_of_it() -> None:
    """Against the mean squared difference, computed here, of the kept channels of one layer that were changed."""
    graph = graph_of()
    observed = stream_maps(graph)
    assert [len(each.units) for each in observed] == [8, 8]  # in front of the addition, and behind it
    module = TrainedModule(graph, WeightPlaces(graph), (1,))
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    _, strong_maps = module.answer(images, torch.float32, observed)
    strong_maps = {name: value.detach() for name, value in strong_maps.items()}
    assert float(module.unexplained_maps(observed, strong_maps, strong_maps)) == 0
    module.saliency = torch.arange(graph.num_units).float()
    module.drop(kernels_share(graph.units), 0.8)
    assert not module.unit_mask.all()
    _, maps = module.answer(images, torch.float32, observed)
    assert float(module.unexplained_maps(observed, maps, strong_maps).detach()) > 0
    kept = {each.name: each.units[module.unit_mask[each.units]] for each in observed}
    assert {name: value.shape[1] for name, value in maps.items()} == {name: len(units) for name, units in kept.items()}
    shifted = {each.name: strong_maps[each.name][:, module.unit_mask[each.units]] + 2 for each in observed}
    variances = [
        float(strong_maps[each.name][:, module.unit_mask[each.units]].var((0, 2, 3), correction=0).mean())
        for each in observed
    ]
    expected = np.mean([4 / variance for variance in variances])
    assert float(module.unexplained_maps(observed, shifted, strong_maps)) == pytest.approx(expected, rel=1e-4)


def test_map_distillation_brings_the_maps_nearer_to_the_strong_models() -> None:
    found = []
    for weight in (0.0, 3.0):
        with trainer_of([1], goal=Goal(0.5, 1.0, weight)) as trainer:
            for _ in range(SETTINGS.steps):
                trainer.step(1.0, 0.6)
            (module,), graph = trainer.modules, graph_of()
            images, _ = trainer.batches.of_step(1000)
            observed = stream_maps(graph)
            _, maps = module.answer(images, torch.float32, observed)
            _, strong_maps = TrainedModule(graph, WeightPlaces(graph), (1,)).answer(images, torch.float32, observed)
            found.append(float(module.unexplained_maps(observed, maps, strong_maps).detach()))
    assert found[1] < found[0]
