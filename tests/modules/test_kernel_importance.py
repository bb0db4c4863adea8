"""Kernel importance against a slow computation, image by image and layer by layer."""

import shutil
from pathlib import Path

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
import torch
from conftest import even_out
from hypothesis import given
from random_modules import tied_units
from shuffled_engine import ShuffledEngine

import engines.opening
from configures.base import load
from dataset.images import IMAGENET, Images, Normalisation, normalise
from models import files as model_files
from models.graph import Graph, trace
from models.rescnn import ResCNN
from models.resnet20 import ResNet20
from models.simcnn import SimCNN
from models.strong_model import load_strong_model
from modules import files as module_files
from modules import kernel_importance as module
from modules.evaluation_inputs import strong_inputs
from modules.kernel_importance import confident_images, kernel_importance, kernel_importance_on, random_importance
from utils.artifacts import ArrayFile, Artifacts, JsonFile
from utils.errors import UserError
from utils.files import sha256_of
from utils.locks import held
from utils.seeds import randomise

SCRIPT = "preprocess/kernel_importance_analyzer.py"
# Norms sum absolute values of up to 1,024 pixels in float32, behind up to 13 layers, of maps with values of about 1.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
NETWORKS = {"simcnn": SimCNN, "rescnn": ResCNN}
HALVES = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def network_and_images(name: str, normalisation: Normalisation) -> tuple[SimCNN | ResCNN, Graph, torch.Tensor]:
    """A narrow network, its kernels' biases drawn so that some maps are all zero, and noise of any brightness."""
    torch.manual_seed(1)
    network = NETWORKS[name](3, 1 / 32).eval()
    with torch.no_grad():
        for layer in network.convs:
            layer.bias.normal_()
    random = np.random.default_rng(0)
    pixels = torch.tensor((random.integers(0, 256, (30, 32, 32, 3)) * random.random((30, 1, 1, 1))).astype(np.uint8))
    even_out(network, normalise(pixels, normalisation))
    return network, trace(network, 32), pixels


@pytest.mark.parametrize("name", ["simcnn", "rescnn"])
@pytest.mark.parametrize(("batch", "normalisation"), [(7, IMAGENET), (500, HALVES)])
@pytest.mark.parametrize("confident", ["half", "one", "none"])
def test_importance_image_by_image(name, batch, normalisation, confident, monkeypatch):
    """Also of a class with one confident image, of one with none, which uses all of its images, and of one without."""
    monkeypatch.setattr(module, "EVALUATION_BATCH", batch)
    network, graph, pixels = network_and_images(name, normalisation)
    images = normalise(pixels, normalisation)
    with torch.no_grad():
        probability = network(images).softmax(1)
    labels = probability.argmax(1)
    surest, next_one = probability[labels == 0, 0].sort(descending=True).values[:2].tolist()
    labels[::5] = (labels[::5] + 1) % 3  # so that some are wrong, with whatever confidence
    if confident == "one":
        labels = torch.where(probability[:, 0] >= next_one, 0, 2)
        threshold = (surest + next_one) / 2
    else:
        labels[labels == 2] = 0  # class 2 has one image, which is wrong
        labels[int(probability[:, 2].argmin())] = 2
        threshold = 1.1 if confident == "none" else float(probability.max(1).values.quantile(0.5))  # between two images
    found, counts = kernel_importance(graph, pixels, labels, threshold, normalisation)

    expected, count_of_class = naive.kernel_importance(network, images.split(1), labels.tolist(), 3, threshold)
    assert counts == count_of_class
    least, most = {"half": (1, int((labels == 0).sum()) - 1), "one": (1, 1), "none": (0, 0)}[confident]
    assert least <= counts[0] <= most and (counts[2] == 0 or confident == "one")
    assert confident != "one" or (found[1] == 0).all()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **ROUNDING)
    of_layer = [found[:, layer.kernels] for layer in graph.units.layers]
    for first, tied in graph.units.tied_layers.items():
        assert all(np.array_equal(of_layer[layer], of_layer[first]) for layer in tied)


@given(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_confident_images(confidence):
    logits = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [1, 0, 0], [0, 0, 200], [200, 0, 0]])
    labels = torch.tensor([0, 0, 0, 0, 2, 1])
    found = confident_images(logits, labels, confidence).tolist()
    for row, label, answer in zip(logits, labels, found, strict=True):
        share = np.exp(row.double().numpy() - float(row.max()))
        share /= share.sum()
        assert answer == bool(int(share.argmax()) == label and share[label] >= confidence)


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_BATCH", 7)
    _, graph, pixels = network_and_images("rescnn", IMAGENET)
    labels = torch.arange(len(pixels)) % 3
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(kernel_importance(graph, pixels, labels, 0.4, IMAGENET))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for importance, counts in found[1:]:
        assert np.array_equal(importance, found[0][0])
        assert counts == found[0][1]


@pytest.mark.slow
def test_an_engine_gives_the_same_bytes_in_whatever_order(strong_roots, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_BATCH", 7)
    root, config, device = strong_roots("rescnn_x0_25", "digits_5"), load("rescnn_x0_25", "digits_5"), "cpu"
    strong = load_strong_model(config, Artifacts(root, config.model, config.dataset), torch.device(device))
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 95)
    images = Images(random.integers(0, 256, (95, 32, 32, 3)).astype(np.uint8), labels, IMAGENET)
    pixels = torch.tensor(images.pixels)
    expected, confident = kernel_importance(strong, pixels, torch.tensor(labels), 0.3, IMAGENET)
    assert 0 < sum(confident) < 95
    for block, seed in ((1, 0), (1, 1), (4, 2), (99, 3)):
        monkeypatch.setattr(module, "BLOCK", block)
        engine = ShuffledEngine(count=block, seed=seed)
        found, counts = kernel_importance_on(engine, strong_inputs(config, strong), strong, images, 0.3)
        assert found.tobytes() == expected.tobytes() and counts == confident
        assert len(engine.waiting) == len(engine.tasks) == 0


@pytest.mark.slow
def test_the_script_writes_the_same_file_with_an_engine(strong_roots, run_main, tmp_path, monkeypatch):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    args = [SCRIPT, "--model", "simcnn_x0_25", "--dataset", "digits_5", "--quiet"]
    file = module_files.kernel_importance(Artifacts(root, "simcnn_x0_25", "digits_5"))
    here = run_main(*args, root=root)
    assert here.exit_code == 0, here
    written = file.path.read_bytes()
    file.path.unlink()
    monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(engines.opening, "LocalEngine", lambda **_: ShuffledEngine(count=2, seed=1))
    done = run_main(*args, "--engine", "local", root=root)
    assert (done.exit_code, file.path.read_bytes()) == (0, written), done
    assert done.stdout == here.stdout
    run_main(*args, "--address", "auto", root=root).refused("--address auto: only with --engine ray")


@pytest.mark.slow
def test_importance_is_of_the_strong_model_that_was_read(strong_roots, run_main, tmp_path, monkeypatch):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    artifacts = Artifacts(root, "simcnn_x0_25", "digits_5")
    args = [SCRIPT, "--model", "simcnn_x0_25", "--dataset", "digits_5", "--quiet"]
    with held(module_files.importance_role(artifacts)):
        run_main(*args, root=root).refused("the kernel importance of simcnn_x0_25_digits_5 is already running")
    strong, measure = model_files.entire_model(artifacts), module.kernel_importance
    before = sha256_of(strong.path)

    def measure_while_it_is_replaced(*given):
        found = measure(*given)
        strong.save({name: 1.01 * value for name, value in strong.load().items()})
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "kernel_importance", measure_while_it_is_replaced)
        assert run_main(*args, root=root).exit_code == 0
    assert module_files.importance_settings(artifacts).load()["strong_model_sha256"] == before
    assert sha256_of(strong.path) != before
    with pytest.raises(UserError, match="is of another strong model"):
        module.check_importance_fits(artifacts)

    def stop(*_):
        raise KeyboardInterrupt

    for kind in (ArrayFile, JsonFile):  # an array is never next to the settings of another one
        with monkeypatch.context() as patch:
            patch.setattr(kind, "save", stop)
            assert run_main(*args, root=root).exit_code == 130
        assert not module_files.kernel_importance(artifacts).exists()
    assert run_main(*args, root=root).exit_code == 0
    assert module.check_importance_fits(artifacts) == sha256_of(strong.path)


def test_any_network_is_measured_where_its_maps_are_read():
    """Behind batch norm and ReLU; layers whose maps are added share one importance."""
    torch.manual_seed(0)
    network = ResNet20(3, 1 / 4)
    randomise(network, 32)
    graph = trace(network, 32)
    read: list[torch.Tensor] = []
    network.blocks[0].conv2.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].double()))
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    found, _ = kernel_importance(graph, pixels, torch.zeros(5, dtype=torch.long), 1.1, IMAGENET)
    with torch.no_grad():
        network(normalise(pixels, IMAGENET))
    of_layer = {layer.name: found[0, layer.kernels] for layer in graph.units.layers}
    (maps,) = read
    np.testing.assert_allclose(of_layer["blocks.0.conv1"], maps.abs().sum((2, 3)).mean(0), **ROUNDING)
    assert np.array_equal(of_layer["conv"], of_layer["blocks.2.conv2"])


def test_random_mode_sorts_kernels_by_index():
    importance = random_importance(2, tied_units((3, 2), (0, 1)))
    assert importance.dtype == np.float32
    assert importance.shape == (2, 5)
    for kernels in (slice(0, 3), slice(3, 5)):
        for row in importance[:, kernels]:
            assert np.argsort(-row, kind="stable").tolist() == list(range(len(row)))
