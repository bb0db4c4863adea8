"""A worker computes what the driver would, to the last bit, whatever chunk a module is in."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images
from shuffled_engine import ShuffledEngine

import modules.evaluation_inputs
from configures.base import load
from dataset.images import normalise
from dataset.pixels import PixelsInFile, PixelsOnDisk
from engines.local import LocalEngine
from models.graph import Graph
from models.names import network_of
from models.strong_model import graph_of, trace_classifier
from modules.evaluation_inputs import EvaluationInputs, evaluation_inputs, outputs_on_worker
from modules.fast.convolution import convolutions_for
from modules.population_outputs import population_outputs
from utils.errors import UserError
from utils.files import save_array

CONFIG = load("simcnn_x0_25", "digits_5")
IMAGES = random_images(20, 5)


@pytest.fixture(scope="module")
def strong() -> Graph:
    torch.manual_seed(3)
    return trace_classifier(network_of("simcnn_x0_25", 5).eval(), "simcnn_x0_25", 5, 32)


def masks_of(graph: Graph, count: int) -> np.ndarray:
    """Unit masks with equal beginnings in part, as those of a population."""
    random = np.random.default_rng(0)
    masks = random.random((count, graph.num_units)) < 0.6
    masks[1::2, : graph.num_units // 2] = masks[0, : graph.num_units // 2]
    return masks


def on_worker(inputs: EvaluationInputs) -> EvaluationInputs:
    """As it arrives there: other memory, read-only arrays."""
    arrived = copy.deepcopy(inputs)
    for array in (arrived.pixels, *arrived.weights.values()):
        array.flags.writeable = False
    return arrived


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_the_same_bits_in_any_chunk_and_block_of_images(strong, dtype, monkeypatch):
    masks, classes = masks_of(strong, 9), np.array([0, 0, 0, 1, 1, 2, 3, 4, 4])
    images = normalise(torch.tensor(IMAGES.pixels), IMAGES.normalisation, dtype)
    whole = population_outputs(strong, masks, classes.tolist(), images)
    inputs = on_worker(evaluation_inputs(CONFIG, strong, IMAGES, dtype))
    random = np.random.default_rng(1)
    for chunk_size in (1, 2, 5):
        order = random.permutation(9)
        for start in range(0, 9, chunk_size):
            chunk = order[start : start + chunk_size]
            outputs, first_image, seconds = outputs_on_worker(inputs, "cpu", masks[chunk], classes[chunk])
            assert outputs.tobytes() == whole[chunk].tobytes()
            assert first_image == 0 and seconds > 0
    monkeypatch.setattr(type(convolutions_for(images)), "batch_size", lambda *_: 8)  # of 20 images three batches
    whole = population_outputs(strong, masks, classes.tolist(), images)
    for count in (1, 2, 3, 5):
        found = np.full_like(whole, np.nan)
        for number in range(count):
            outputs, first, _ = outputs_on_worker(inputs, "cpu", masks, classes, (number, count))
            assert first % 8 == 0 and (outputs.shape[1] > 0 or count > 3)
            found[:, first : first + outputs.shape[1]] = outputs
        assert found.tobytes() == whole.tobytes()


def test_equal_inputs_are_prepared_once(strong: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        modules.evaluation_inputs, "untrained_graph", lambda *args: made.append(args[0]) or graph_of(CONFIG)
    )
    modules.evaluation_inputs._prepared.cache_clear()
    inputs = evaluation_inputs(CONFIG, strong, IMAGES, torch.float32)
    for arrived in (inputs, on_worker(inputs)):
        outputs_on_worker(arrived, "cpu", masks_of(strong, 1), [0])
    assert made == ["simcnn_x0_25"]
    other = evaluation_inputs(CONFIG, strong, IMAGES.first(3), torch.float32)
    assert other != inputs
    outputs_on_worker(other, "cpu", masks_of(strong, 1), [0])
    assert len(made) == 2


def test_a_worker_that_would_compute_something_else_refuses(strong: Graph) -> None:
    inputs = evaluation_inputs(CONFIG, strong, IMAGES, torch.float32)
    for other, message in (
        (replace(inputs, digest="1", graph_digest="0"), "network simcnn_x0_25 has another graph there than here"),
        (replace(inputs, digest="2", is_compiled=not inputs.is_compiled), "C\\+\\+ compiler"),
    ):
        with pytest.raises(UserError, match=message):
            outputs_on_worker(other, "cpu", masks_of(strong, 1), [0])


def test_workers_of_this_machine_read_pixels_that_stay_on_the_disk(strong: Graph, tmp_path: Path) -> None:
    save_array(tmp_path / "pixels.npy", IMAGES.pixels)
    source = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    places, none = np.random.default_rng(0).permutation(20), np.zeros(0, np.uint64)
    digest = (tmp_path / "pixels.npy").read_bytes()[-32:]
    images = replace(IMAGES, pixels=PixelsOnDisk(source, digest, places, np.zeros(20, np.uint32), none))
    inputs, there = (
        evaluation_inputs(CONFIG, strong, images, torch.float32, is_on_this_machine=local) for local in (False, True)
    )
    assert np.array_equal(inputs.images.pixels, IMAGES.pixels[places])
    assert isinstance(there.pixels, PixelsInFile) and isinstance(there.images.pixels, PixelsOnDisk)
    given = "cpu", masks_of(strong, 2), [0, 1]
    found = [outputs_on_worker(each, *given)[0] for each in (inputs, replace(there, digest="another"))]
    assert np.array_equal(*found)
    assert [engine.is_on_this_machine for engine in (LocalEngine, ShuffledEngine)] == [True, False]
    save_array(tmp_path / "pixels.npy", IMAGES.pixels[:-1])
    with pytest.raises(UserError, match=r"pixels\.npy was changed while it was read; run the command again"):
        outputs_on_worker(replace(there, digest="one more"), *given)
