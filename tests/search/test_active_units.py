"""The modules of MODA and MwT: the rules on rates by hand, the rates of a network, and modules as a user gets them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, keep_few_images, random_images
from random_modules import random_graph, random_network

from configures.base import load
from dataset.images import Split
from models.graph import trace
from models.rescnn import Conv
from modules.module_sets import open_set
from search.active_units import often_active, often_masked_in
from search.methods import METHODS
from search.one_shot import active_pixels
from utils.artifacts import Artifacts

LAYERS = (Conv(30, pool=True), Conv(20), Conv(20, add=1))  # the last two layers are tied
CLASSES = 3


def test_units_of_nearly_all_images_are_kept_and_no_layer_is_empty() -> None:
    units = random_graph(LAYERS, CLASSES, seed=0).units
    rates = np.zeros((CLASSES, 50), np.float32)
    rates[0, [1, 4, 30]] = 0.9  # of class 0 two units of the first layer
    rates[1, [2, 3, 5, 31]] = 0.85, 0.5, 0.8, 0.89  # of class 1 none: the two most active ones, and one
    rates[2, [29, 49]] = 1.0
    found = often_active(rates, units)
    assert [np.flatnonzero(mask).tolist() for mask in found] == [[1, 4, 30], [2, 5, 31], [29, 49]]
    assert found.dtype == bool
    nothing = often_active(np.zeros_like(rates), units)
    assert nothing.sum(1).tolist() == [2, 2, 2]  # one of each layer, of tied ones together
    for mask in (*found, *nothing):
        units.check(mask)


def test_the_rate_that_a_mask_needs_falls_until_a_layer_has_a_kernel() -> None:
    """The second layer needs 90 %; of class 1 it falls to 85 and 60 %; tied kernels stay where one of them does."""
    units = random_graph(LAYERS, 2, seed=0).units
    names = [layer.name for layer in units.layers]
    rates = {name: np.zeros((2, 20)) for name in names[1:]}
    rates[names[1]][0, [3, 7]] = 0.95, 0.89
    rates[names[2]][0, [3, 8]] = 0.9, 1.0
    rates[names[1]][1, [1, 2]] = 0.86, 0.84
    rates[names[2]][1, 4] = 0.6
    found = often_masked_in(rates, units)
    assert found[:, :30].all()  # the first layer has no masks
    assert [np.flatnonzero(mask[30:]).tolist() for mask in found] == [[3, 8], [1, 4]]
    with pytest.raises(ValueError, match="else: the network has no such conv layer"):
        often_masked_in({"else": np.zeros((2, 20))}, units)
    never = often_masked_in({name: np.zeros((2, 20)) for name in names[1:]}, units)
    assert never.all()  # at 0 all pass


def test_rates_are_shares_of_the_classs_images() -> None:
    """A unit that is always active, one that never is, and one that needs a bright pixel somewhere."""
    network = random_network(LAYERS, CLASSES, seed=0).float()
    images = random_images(40, CLASSES)
    images.pixels[:] = 0
    images.pixels[images.labels == 1, 5, 7] = 255
    images.pixels[np.flatnonzero(images.labels == 2)[0], 0, 0] = 255
    with torch.no_grad():
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        first.weight[:3] = 0
        first.weight[2, :, 1, 1], first.bias[:3] = 1.0, torch.tensor([1.0, -1.0, 0.0])
    found = active_pixels(
        trace(network, 32), Split(tuple("abc"), images, images, images), None, lambda pixels: (pixels > 0).float()
    )
    of_class_2 = 1 / (images.labels == 2).sum()
    np.testing.assert_allclose(found[:, :3], [[1, 0, 0], [1, 0, 1], [1, 0, of_class_2]], rtol=1e-6)


@pytest.mark.slow
def test_a_model_that_is_trained_for_it_is_searched(strong_root: Path, run_main: Callable[..., Run]):
    """As a user runs it; the strong model is an ordinary one for all other stages."""
    keep_few_images(strong_root)
    names = ("--model", "simcnn_tiny", "--dataset", "digits")
    search = ("scripts/run_module_search.py", *names, "--method", "moda")
    options = (*names, "--epochs", 2, "--set", "modular=moda", "--set", "moda_compactness=0.1")
    done = run_main("train.py", *options, root=strong_root)
    assert done.exit_code == 0 and "test accuracy" in done.stdout, done
    run_main("train.py", *options, "--set", "moda_dispersion=2", root=strong_root).refused(
        "moda_dispersion: none there"
    )
    run_main(*search, "--max_loss", 3, root=strong_root).refused("--max_loss: only with --method gradient or ")
    for _ in range(2):  # the second time it is there
        done = run_main(*search, root=strong_root)
        assert done.exit_code == 0 and "active on 90% of the images" in done.stdout, done
    config, artifacts = (
        replace(load("simcnn_x0_25", "digits"), model="simcnn_tiny"),
        Artifacts(strong_root, *names[1::2]),
    )
    (row,) = METHODS["moda"].files(artifacts).log.load()
    found = open_set(config, artifacts)
    assert found.record.method == "moda" and found.record.search["options"] == ["--method", "moda"]
    assert 0 < row.kernels_kept <= 1 and found.record.kernel_share == pytest.approx(row.kernels_kept)


@pytest.mark.slow
def test_a_network_with_mask_generators_is_trained_and_searched(strong_root: Path, run_main: Callable[..., Run]):
    keep_few_images(strong_root)
    names = ("--model", "masked", "--dataset", "digits")
    training = ("train.py", *names, "--epochs", 2, "--set", "modular=mwt", "--set")
    run_main(*training, "network=simcnn_tiny", root=strong_root).refused("network=mwt:simcnn_x0_25 names one")
    done = run_main(*training, "network=mwt:simcnn_tiny", root=strong_root)
    assert done.exit_code == 0 and "test accuracy" in done.stdout, done
    search = ("scripts/run_module_search.py", *names, "--method", "mwt")
    done = run_main(*search, root=strong_root)
    assert done.exit_code == 0 and "active on 90% of the images" in done.stdout, done
    artifacts = Artifacts(strong_root, *names[1::2])
    (row,) = METHODS["mwt"].files(artifacts).log.load()
    found = open_set(replace(load("simcnn_x0_25", "digits"), model="masked", network="mwt:simcnn_tiny"), artifacts)
    assert found.record.method == "mwt" and 0 < row.kernels_kept <= 1
    plain = ("scripts/run_module_search.py", "--model", "simcnn_x0_25", "--dataset", "digits", "--method", "mwt")
    run_main(*plain, root=strong_root).refused("modular=mwt: expected a network with mask generators")
