"""A patched model computes what its two networks compute, and still does when it is saved, loaded and exported."""

import dataclasses
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import assert_near
from random_modules import random_patched_model

import patching.patched_model
from models.strong_model import untrained_graph
from patching.as_reported import TOLERANCE, Reported
from patching.patched_model import (
    PatchedModel,
    check_save_path,
    is_patched_model,
    load_patched_model,
    save_as_reported,
    save_patched_model,
)
from patching.rules import Learned, MinMax
from utils.errors import UserError

CLASSES = ("6", "7", "8", "9", "2")
NETWORKS = [
    ("simcnn_tiny", "simcnn_x0_25"),
    ("rescnn_tiny", "rescnn_x0_25"),
    pytest.param("resnet20_x0_25", "torchvision:shufflenet_v2_x0_5", marks=pytest.mark.slow),  # with batch norm
]


def patched_model(weak_network: str = "simcnn_tiny", strong_network: str = "simcnn_x0_25", rule: str = "range"):
    torch.manual_seed(0)
    model = random_patched_model(Learned(torch.randn(5, 6), torch.randn(5)), CLASSES, weak_network, strong_network)
    if rule == "range":
        with torch.inference_mode():
            model.rule = MinMax.fit(model.weak(images()), None, None, model.module(images())[:, 0])
    return model


def images(n: int = 12) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("weak_network", "strong_network"), NETWORKS)
def test_forward_is_the_two_model_computation(weak_network, strong_network):
    model = patched_model(weak_network, strong_network)
    with torch.inference_mode():
        scores, weak, output = model(images()), model.weak(images()), model.module(images())[:, 0]
    low, high = output.min(), output.max()
    assert_near(scores[:, :4], torch.softmax(weak, 1)[:, :4])
    assert_near(scores[:, 4], (output - low) / (high - low))
    linear = patched_model(weak_network, strong_network, "linear")
    with torch.inference_mode():
        scores, weak, output = linear(images()), linear.weak(images()), linear.module(images())
    expected = torch.cat([weak, output], 1) @ linear.rule.weight.T + linear.rule.bias
    assert_near(scores, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weak_network", "strong_network", "rule"),
    [
        ("simcnn_tiny", "simcnn_x0_25", "range"),
        ("simcnn_tiny", "simcnn_x0_25", "linear"),
        ("rescnn_tiny", "rescnn_x0_25", "range"),
        ("resnet20_x0_25", "torchvision:shufflenet_v2_x0_5", "linear"),
        pytest.param("rescnn_tiny", "rescnn_x0_25", "linear", marks=pytest.mark.long),
        pytest.param("resnet20_x0_25", "torchvision:shufflenet_v2_x0_5", "range", marks=pytest.mark.long),
    ],
)
def test_saved_and_loaded(tmp_path, weak_network, strong_network, rule):
    model = patched_model(weak_network, strong_network, rule)
    path = tmp_path / "patched.pth"
    save_patched_model(model, path)
    state = torch.load(path, weights_only=True)
    plain = {"weak_network": weak_network, "strong_network": strong_network, "strong_classes": 5, "target_class": 0}
    assert {name: state[name] for name in plain} == plain
    assert list(state) == [*plain, "kernels", "image_side", "mean", "std", "resize", "rule", "classes", "weights"]
    assert state["rule"] == rule
    buffers = {"range": ["rule.low", "rule.high"], "linear": ["rule.weight", "rule.bias"]}[rule]
    assert [name for name in state["weights"] if name.startswith("rule.")] == buffers
    loaded = load_patched_model(path)
    assert loaded.classes == CLASSES and not loaded.training
    assert np.array_equal(loaded.origin.kernels, model.origin.kernels)
    assert dataclasses.replace(loaded.origin, kernels=None) == dataclasses.replace(model.origin, kernels=None)
    model.to(memory_format=torch.channels_last)  # as it is loaded
    with torch.inference_mode():
        assert_near(loaded(images()), model(images()))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["range", "linear"])
def test_exported_for_any_batch_size(rule):
    model = patched_model(rule=rule)
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},)).module()
    with torch.inference_mode():
        for n in (1, 12):
            assert_near(exported(images(n)), model(images(n)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weak_network", "strong_network", "rule"),
    [
        ("simcnn_tiny", "rescnn_x0_25", "range"),
        ("resnet20_x0_25", "simcnn_x0_25", "linear"),
        *(
            pytest.param(weak, strong, rule, marks=pytest.mark.long)
            for rule in ("linear", "range")
            for weak, strong in (
                ("simcnn_tiny", "simcnn_x0_25"),
                ("rescnn_tiny", "rescnn_x0_25"),
                ("resnet20_x0_25", "torchvision:shufflenet_v2_x0_5"),
            )
        ),
    ],
)
def test_onnx_gives_the_same_predictions(tmp_path, weak_network, strong_network, rule):
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
    runner_up, best = np.sort(expected, 1)[:, -2:].T
    is_clear = best - runner_up > 0.01 * np.abs(expected).max()
    np.testing.assert_array_equal(scores.argmax(1)[is_clear], expected.argmax(1)[is_clear])
    assert is_clear.any()


@pytest.mark.slow
def test_a_module_whose_logit_is_mapped_behind_its_last_layer(tmp_path):
    """As the gradient search leaves it, of a network that ends in a convolution."""
    strong = "torchvision:squeezenet1_1"
    model, path = patched_model(strong_network=strong), tmp_path / "patched.pth"
    graph = untrained_graph(strong, 5, 32)
    unit_mask = graph.units.gather(model.origin.kernels)
    module = graph.cut(unit_mask, 0, logit_map=(-2.0, 0.5))
    model = PatchedModel(model.weak, module, model.rule, CLASSES, model.origin)
    save_patched_model(model, path)
    with torch.inference_mode():
        assert_near(module(images()), -2 * graph.cut(unit_mask, 0)(images()) + 0.5)
        assert_near(load_patched_model(path)(images()), model(images()))


def test_a_network_of_the_users_own_is_found_from_any_folder(tmp_path, monkeypatch):
    """The file names it by its whole path, as a program elsewhere loads it."""
    (tmp_path / "weak.py").write_text(
        "from models.simcnn import SimCNN\n\n\ndef build(num_classes):\n    return SimCNN(num_classes, 1 / 32)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = patched_model("weak.py:build")
    save_patched_model(model, tmp_path / "patched.pth")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with torch.inference_mode():
        assert_near(load_patched_model(tmp_path / "patched.pth")(images()), model(images()))


def test_a_model_of_no_known_origin_is_not_saved(tmp_path):
    model = patched_model()
    model.origin = None
    with pytest.raises(ValueError, match="expected a patched model with an origin"):
        save_patched_model(model, tmp_path / "patched.pth")


def with_form(model: PatchedModel) -> PatchedModel:
    """Another form of images than the default one."""
    form = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "resize": "crop"}
    model.origin = dataclasses.replace(model.origin, **form)
    return model


def test_the_file_knows_the_form_of_its_images(tmp_path):
    model = with_form(patched_model())
    save_patched_model(model, tmp_path / "patched.pth")
    loaded = load_patched_model(tmp_path / "patched.pth")
    origin = loaded.origin
    assert (origin.image_side, origin.resize, origin.mean, origin.std) == (32, "crop", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 32, 32, 3)
    black, white = loaded.normalise(pixels)[:, :, 0, 0]
    torch.testing.assert_close(black, torch.tensor([-0.1 / 0.4, -0.2 / 0.5, -0.3 / 0.6]))
    torch.testing.assert_close(white, torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]))


def test_a_file_that_does_not_say_the_form_is_refused(tmp_path, saved):
    state = torch.load(saved, weights_only=True)
    for name in ("mean", "std", "resize"):
        del state[name]
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"old\.pth is of an earlier version.*make it again with: .*--save"):
        load_patched_model(tmp_path / "old.pth")
    assert is_patched_model(tmp_path / "old.pth")  # and so may be replaced


def reported_of(model: PatchedModel) -> Reported:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        return Reported({"pixels": pixels}, model(model.normalise(torch.from_numpy(pixels))).numpy(), TOLERANCE)


def test_a_file_that_answers_otherwise_does_not_appear(tmp_path, monkeypatch):
    model, path, cpu = with_form(patched_model()), tmp_path / "new" / "patched.pth", torch.device("cpu")
    reported = reported_of(model)
    monkeypatch.setattr(
        patching.patched_model, "save_patched_model", lambda model, path: save_patched_model(patched_model(), path)
    )
    with pytest.raises(UserError, match="does not answer as reported"):  # in the default form
        save_as_reported(model, path, reported, cpu)
    assert not list((tmp_path / "new").iterdir())
    monkeypatch.undo()
    for _ in range(2):
        save_as_reported(model, path, reported, cpu)
    assert list((tmp_path / "new").iterdir()) == [path] and is_patched_model(path)


def test_only_patched_models_are_replaced(tmp_path):
    path = tmp_path / "mine.pth"
    for content in (b"", b"text", {"weak_network": "simcnn"}, [1]):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        before = path.read_bytes()
        with pytest.raises(UserError, match=r"mine\.pth is there, and is not a file that this option wrote"):
            check_save_path(path)
        assert path.read_bytes() == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a patched model; for reading only."""
    path = tmp_path_factory.mktemp("saved") / "patched.pth"
    save_patched_model(patched_model(), path)
    return path


def damage_network(state):
    state["weak_network"] = "vgg"


def damage_weights(state):
    del state["weights"]["module.convs.0.bias"]


def damage_shape(state):
    state["strong_network"] = "rescnn"


def damage_target_class(state):
    state["target_class"] = 5


def damage_kernels(state):
    state["kernels"] = state["kernels"][1:]


def damage_classes(state):
    state["classes"] = ["6"]


def damage_side(state):
    state["image_side"] = 16


def damage_mean(state):
    state["mean"] = [0.5, 0.5]


def damage_std(state):
    state["std"] = [0.5, 0.0, 0.5]


def damage_resize(state):
    state["resize"] = "tile"


def damage_rule(state):
    state["rule"] = "circle"


def damage_value(state):
    state["weights"]["rule.low"] = torch.tensor(float("nan"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        damage_network,
        damage_weights,
        damage_shape,
        damage_target_class,
        damage_kernels,
        damage_classes,
        damage_side,
        damage_mean,
        damage_std,
        damage_resize,
        damage_rule,
        damage_value,
    ],
)
def test_a_file_that_is_no_patched_model_is_refused(tmp_path, saved, damage):
    path = tmp_path / "patched.pth"
    state = torch.load(saved, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"patched\.pth.*apply_patch\.py --save") as refused:
        load_patched_model(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"missing .*none\.pth.*apply_patch\.py --save"):
        load_patched_model(tmp_path / "none.pth")
