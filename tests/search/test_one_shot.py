"""One-shot methods: what their scores say of units, which masks follow, and modules as a user gets them."""

from argparse import Namespace
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from awkward_networks import PaddedShortcuts
from conftest import assert_near, random_images
from exactness import traced
from random_modules import random_network

from configures.base import load
from dataset.images import Split
from models.graph import Graph, flops_of, trace
from models.opening import Stage
from models.rescnn import Conv
from modules.module import extract_modules
from modules.module_sets import open_set
from search import one_shot
from search.files import Found
from search.methods import METHODS
from search.one_shot import SCORES, masks_within
from utils.artifacts import Artifacts

CLASSES = 3
LAYERS = (Conv(30, pool=True), Conv(20), Conv(20, add=1))
UNITS = 50  # the last two layers are tied


@pytest.fixture(scope="module")
def split() -> Split:
    parts = (random_images(40, CLASSES, seed) for seed in range(3))
    return Split(tuple("abc"), *parts)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(random_network(LAYERS, CLASSES, seed=0).float(), 32)


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_of_every_unit_and_the_same_again(name: str, graph: Graph, split: Split) -> None:
    score = SCORES[name]
    found, again = (score.measure(graph, split, 0) for _ in range(2))
    assert found.shape == (CLASSES, graph.num_units) and torch.equal(found, again)
    masks = masks_within(found, graph, 0.5, of_layer=score.of_layer)
    for mask in masks:
        graph.units.gather(mask)
    assert (masks.mean(1) <= 0.5).all()
    if score.of_layer:  # the first layer, and the two that are tied
        assert [masks[0][layer.kernels].sum() for layer in graph.units.layers] == [15, 10, 10]


def test_taylor_is_the_squared_slope_of_the_logit(graph: Graph, split: Split) -> None:
    found = SCORES["taylor"].measure(graph.to(dtype=torch.float64), split, 0)
    (images, _), unit, step = next(one_shot._batches(graph.to(dtype=torch.float64), split, "")), 5, 1e-5
    factors = torch.ones(2, graph.num_units, dtype=torch.float64)
    factors[:, unit] += torch.tensor([step, -step])
    above, below = (graph.to(dtype=torch.float64).forward(images, each) for each in factors)
    assert len(images) == len(split.train)
    assert_near(found[:, unit], (((above - below) / (2 * step)).square().sum(0)))


def test_activation_rates_count_pixels_of_the_classs_images(split: Split) -> None:
    network = random_network(LAYERS, CLASSES, seed=0).float()
    with torch.no_grad():
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        first.weight[:2] = 0
        first.bias[:2] = torch.tensor([1.0, -1.0])
    found = SCORES["concern"].measure(trace(network, 32), split, 0)
    assert found[:, :2].tolist() == [[32.0 * 32, 0.0]] * CLASSES
    assert ((found[:, 2:30] > 0) & (found[:, 2:30] < 32 * 32)).any()


def test_mutants_of_dead_units_change_no_answer(split: Split) -> None:
    network = random_network(LAYERS, CLASSES, seed=0).float()
    with torch.no_grad():
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        first.weight[:10], first.bias[:10] = 0, 0
        first.weight[10:] += 1  # so that no other kernel is like these
    graph = trace(network, 32)
    clusters = [cluster.tolist() for cluster in one_shot._clusters(graph)]
    assert sorted(chain(*clusters)) == list(range(UNITS)) and list(range(10)) in clusters
    found = SCORES["incite"].measure(graph, split, 0)
    assert found[:, :10].amax() == 0 < found[:, 10:].amax()


def test_uniform_modules_have_one_mask(graph: Graph, split: Split) -> None:
    found = SCORES["uniform"].measure(graph, split, 0)
    masks = masks_within(found, graph, 0.6)
    assert (masks == masks[0]).all() and not masks.all()


def test_flops_are_within_the_share(graph: Graph) -> None:
    scores = torch.rand(CLASSES, UNITS, generator=torch.Generator().manual_seed(1))
    modules = extract_modules(graph, masks_within(scores, graph, 0.4, of_flops=True))
    assert all(0.3 < flops_of(module, graph.image_shape) / graph.flops <= 0.401 for module in modules)


@pytest.mark.parametrize(
    "wrong", [torch.ones(2, 3), -torch.ones(CLASSES, UNITS), torch.full((CLASSES, UNITS), torch.nan)]
)
def test_scores_that_do_not_fit_are_refused(graph: Graph, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected scores \(3, 50\), 0 or more"):
        masks_within(wrong, graph, 0.5)


def candidates(graph: Graph, split: Split, rows: list[object]) -> list[Found]:
    stage = Stage(load("simcnn_x0_25", "digits"), Artifacts(Path(), "a", "b"), torch.device("cpu"), torch.float32, 0)
    asked = METHODS["random"].as_asked(Namespace(keep=None, keep_flops=None, max_loss=None))
    return list(asked.find(stage, graph, split, rows))


def test_a_share_is_tried_once_and_batch_norms_have_statistics(graph: Graph, split: Split) -> None:
    _, whole = traced(PaddedShortcuts)
    normed = whole.to(dtype=torch.float32)
    images = [random_images(40, 10, seed) for seed in range(3)]
    small = Split(tuple("abcdefghij"), *(replace(each, pixels=each.pixels[:, ::2, ::2]) for each in images))
    found = candidates(normed, small, [Namespace(words="keep 60%")])
    assert [each.words for each in found] == ["keep 40%", "keep 20%"]
    for each in found:
        extract_modules(normed, each.masks, None, each.weights)
        assert each.weights is not None and any("running_mean" in name for name in each.weights[0])
    assert all(each.weights is None for each in candidates(graph, split, []))


@pytest.mark.slow
def test_a_user_gets_modules_of_the_share(strong_root: Path, run_main) -> None:
    command = ("scripts/run_module_search.py", "--model", "simcnn_x0_25", "--dataset", "digits", "--method", "taylor")
    run_main(*command, "--keep", 2, root=strong_root).refused("--keep 2: expected a share above 0, up to 1")
    sets, config, artifacts = [], load("simcnn_x0_25", "digits"), Artifacts(strong_root, "simcnn_x0_25", "digits")
    for share in (0.5, 0.7, 0.5):
        assert (done := run_main(*command, "--keep", share, root=strong_root)).exit_code == 0, done
        sets.append(open_set(config, artifacts))
    assert [each.name for each in sets] == ["taylor", "taylor-2", "taylor"]
    assert 0.65 < sets[1].record.kernel_share <= 0.7 and sets[0].record.search["options"][-2:] == ["--keep", "0.5"]
    log = METHODS["taylor"].files(artifacts).log.load()
    assert [row.words for row in log] == ["keep 50%", "keep 70%"]
    # What others have asked for is not chosen where no share is.
    some = replace(METHODS["taylor"], keeps=(0.7, 0.9), max_loss=100.0)
    assert some.chosen(log).words == "keep 70%"
    run_main(*command, "--jobs", 2, root=strong_root).refused("--jobs: only with --method genetic")
