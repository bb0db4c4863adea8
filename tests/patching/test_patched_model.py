"""A patched model computes what its two networks compute, and still does when it is saved, loaded and exported."""

import warnings

import numpy as np
import pytest
import torch

from models.registry import build_network
from modules.module import extract_module
from patching.patched_model import PatchedModel, load_patched_model, save_patched_model
from patching.rules import Learned, MinMax
from utils.errors import UserError

CLASSES = ("6", "7", "8", "9", "2")
NETWORKS = [("simcnn_tiny", "simcnn_x0_25"), ("rescnn_tiny", "rescnn_x0_25")]


def patched_model(weak_network: str = "simcnn_tiny", strong_network: str = "simcnn_x0_25", rule: str = "range"):
    torch.manual_seed(0)
    weak, strong = build_network(weak_network, 5), build_network(strong_network, 5)
    architecture = strong.architecture
    kernel_mask = np.random.default_rng(0).random(sum(architecture.num_kernels)) < 0.5
    for layer, first in enumerate(architecture.tied_to):
        kernel_mask[architecture.layer_slices[layer]] = kernel_mask[architecture.layer_slices[first]]
    module = extract_module(strong, kernel_mask, target_class=2)
    with torch.inference_mode():
        joined = MinMax.fit(weak(images()), None, None, module(images())[:, 0])
    if rule == "linear":
        joined = Learned(torch.randn(5, 6), torch.randn(5))
    return PatchedModel(weak, module, joined, CLASSES, weak_network, strong_network)


def images(n: int = 12) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("weak_network", "strong_network"), NETWORKS)
def test_forward_is_the_two_model_computation(weak_network, strong_network):
    model = patched_model(weak_network, strong_network)
    with torch.inference_mode():
        scores, weak, output = model(images()), model.weak(images()), model.module(images())[:, 0]
    low, high = output.min(), output.max()
    torch.testing.assert_close(scores[:, :4], torch.softmax(weak, 1)[:, :4])
    torch.testing.assert_close(scores[:, 4], (output - low) / (high - low))
    linear = patched_model(weak_network, strong_network, "linear")
    with torch.inference_mode():
        scores, weak, output = linear(images()), linear.weak(images()), linear.module(images())
    expected = torch.cat([weak, output], 1) @ linear.rule.weight.T + linear.rule.bias
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("rule", ["range", "linear"])
@pytest.mark.parametrize(("weak_network", "strong_network"), NETWORKS)
def test_saved_and_loaded(tmp_path, weak_network, strong_network, rule):
    model = patched_model(weak_network, strong_network, rule)
    path = tmp_path / "patched.pth"
    save_patched_model(model, path)
    state = torch.load(path, weights_only=True)
    assert list(state) == ["weak_network", "strong_network", "rule", "classes", "weights"]
    assert state["rule"] == rule
    buffers = {"range": ["rule.low", "rule.high"], "linear": ["rule.weight", "rule.bias"]}[rule]
    assert [name for name in state["weights"] if name.startswith("rule.")] == buffers
    loaded = load_patched_model(path)
    assert loaded.classes == CLASSES and not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images()), model(images()))


@pytest.mark.parametrize("rule", ["range", "linear"])
def test_exported_for_any_batch_size(rule):
    model = patched_model(rule=rule)
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},)).module()
    with torch.inference_mode():
        for n in (1, 12):
            torch.testing.assert_close(exported(images(n)), model(images(n)))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["range", "linear"])
@pytest.mark.parametrize(("weak_network", "strong_network"), NETWORKS)
def test_onnx_gives_the_same_predictions(tmp_path, weak_network, strong_network, rule):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install -e .[onnx]")
    import onnxruntime

    model, path = patched_model(weak_network, strong_network, rule), tmp_path / "patched.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.onnx.export(model, (images(4),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    with torch.inference_mode():
        expected = model(images()).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1))


def damage_network(state):
    state["weak_network"] = "vgg"


def damage_weights(state):
    del state["weights"]["module.convs.0.bias"]


def damage_shape(state):
    state["strong_network"] = "rescnn"


def damage_rule(state):
    state["rule"] = "circle"


def damage_value(state):
    state["weights"]["rule.low"] = torch.tensor(float("nan"))


@pytest.mark.parametrize("damage", [damage_network, damage_weights, damage_shape, damage_rule, damage_value])
def test_a_file_that_is_no_patched_model_is_refused(tmp_path, damage):
    path = tmp_path / "patched.pth"
    save_patched_model(patched_model(), path)
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"patched\.pth.*apply_patch\.py --save"):
        load_patched_model(path)


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"missing .*none\.pth.*apply_patch\.py --save"):
        load_patched_model(tmp_path / "none.pth")


def test_the_old_name_gives_the_same():
    from models.patched_model import load_patched_model as by_the_old_name

    assert by_the_old_name is load_patched_model
