"""A patched model computes what its members compute, whatever their form, and so does its saved file."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import assert_near
from hypothesis import given, settings
from random_modules import random_patched_model

from dataset.images import IMAGENET, Normalisation, normalise
from patching.members import Form, Member
from patching.patched_model import PatchedModel, load_patched_model, save_patched_model
from patching.rules import Learned, RangeRule
from utils.errors import UserError

CLASSES = ("6", "7", "8", "9", "2")
FORM = Form(32, "stretch", IMAGENET)
RULES = {
    "range": RangeRule(-1.0, 2.0),
    "linear": Learned(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.ones(5)),
}


def patched_model(weak_network: str = "simcnn_tiny", strong_network: str = "simcnn_x0_25", rule: str = "range"):
    return random_patched_model(RULES[rule], CLASSES, weak_network, strong_network)


def pixels(n: int = 12, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def scores_of(model: PatchedModel, side: int = 32) -> torch.Tensor:
    """What the networks and the rule say by themselves."""
    weak_side = model.weak.form.side
    with torch.inference_mode():
        weak = model.weak.network(normalise(pixels(side=weak_side), model.weak.form.normalisation))
        outputs = [part.network(normalise(pixels(side=side), part.form.normalisation)) for part in model.parts]
        return model.rule(weak, torch.cat(outputs, 1))


def answer(model: PatchedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(*(pixels(side=shape[0]) for shape in model.inputs.values()))


@pytest.mark.parametrize(
    ("weak_network", "strong_network", "rule"),
    [
        ("simcnn_tiny", "simcnn_x0_25", "range"),
        ("rescnn_tiny", "rescnn_x0_25", "linear"),
        pytest.param("resnet20_x0_25", "torchvision:shufflenet_v2_x0_5", "linear", marks=pytest.mark.slow),
    ],
)
def test_saved_and_loaded(tmp_path, weak_network, strong_network, rule):
    model = patched_model(weak_network, strong_network, rule)
    assert_near(answer(model), scores_of(model))
    path = tmp_path / "patched.pth"
    save_patched_model(model, path)
    state = torch.load(path, weights_only=True)
    plain = {"weak_network": weak_network, "strong_network": strong_network, "strong_classes": 5, "rule": rule}
    assert {name: state[name] for name in plain} == plain and state["target_classes"] == [0]
    loaded = load_patched_model(path)
    assert (loaded.classes, loaded.form, loaded.weak.form) == (CLASSES, FORM, FORM) and not loaded.training
    assert np.array_equal(loaded.origin.kernels, model.origin.kernels)
    assert replace(loaded.origin, kernels=None) == replace(model.origin, kernels=None)
    model.to(memory_format=torch.channels_last)  # as it is loaded
    assert_near(answer(loaded), answer(model))


colours = st.tuples(*[st.floats(0.05, 0.95)] * 3)
forms = st.builds(
    Form,
    st.sampled_from([32, 40]),
    st.sampled_from(["stretch", "crop"]),
    st.builds(Normalisation, colours, colours),
)


@pytest.mark.slow
@settings(max_examples=8)
@given(form=forms, weak_form=forms, is_alike=st.booleans())
def test_a_saved_model_answers_as_before_in_any_form(tmp_path_factory, form, weak_form, is_alike):
    """It knows mean, std, side and resize of its images: a call needs pixels alone."""
    model = random_patched_model(RULES["linear"], form=form, weak_form=form if is_alike else weak_form)
    path = tmp_path_factory.mktemp("form") / "patched.pth"
    save_patched_model(model, path)
    loaded = load_patched_model(path)
    assert (loaded.form, loaded.weak.form, loaded.inputs) == (model.form, model.weak.form, model.inputs)
    assert_near(answer(loaded), scores_of(model, form.side))


def test_several_modules_and_logits_alone(tmp_path):
    """A weak model of four classes that is known by its logits; one class is patched, and one is added."""
    one = patched_model()
    parts = [Member(one.parts[0].network, FORM, [target]) for target in (1, 4)]
    origin = replace(one.origin, weak_network="", target_classes=(0, 0), kernels=one.origin.kernels.repeat(2, 0))
    model = PatchedModel(None, parts, RangeRule([0, 1], [2, 3], [1, 4]), CLASSES, origin, weak_classes=4)
    assert model.inputs == {"weak_logits": (4,), "pixels": (32, 32, 3)}
    save_patched_model(model, tmp_path / "patched.pth")
    loaded, logits = load_patched_model(tmp_path / "patched.pth"), torch.randn(12, 4)
    with torch.inference_mode():
        found = loaded(logits, pixels())
        assert found.shape == (12, 5)
        assert_near(found, model(logits, pixels()))
        assert_near(found[:, [0, 2, 3]], torch.softmax(logits, 1)[:, [0, 2, 3]])


@pytest.mark.parametrize("given", [torch.zeros(2, 32, 32, 3), torch.zeros(2, 16, 16, 3, dtype=torch.uint8)])
def test_images_that_are_normalised_or_of_another_side_are_refused(given):
    with pytest.raises(ValueError, match=r"expected pixels \(n, 32, 32, 3\) of torch.uint8, given \(2, "):
        patched_model()(given)


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
    assert_near(answer(load_patched_model(tmp_path / "patched.pth")), answer(model))


def test_a_model_of_no_known_origin_is_not_saved(tmp_path):
    model = patched_model()
    model.origin = None
    with pytest.raises(ValueError, match="expected a patched model with an origin"):
        save_patched_model(model, tmp_path / "patched.pth")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a patched model; for reading only."""
    path = tmp_path_factory.mktemp("saved") / "patched.pth"
    save_patched_model(patched_model(), path)
    return path


def changed(**values):
    return lambda state: state.update(values)


def changed_form(**values):
    return lambda state: state.update(form={**state["form"], **values})


def without_a_form(state):
    del state["form"]


def without_weights(state):
    del state["weights"]["parts.0.network.convs.0.bias"]


def without_a_kernel(state):
    state["kernels"] = state["kernels"][:, 1:]


def not_finite(state):
    state["weights"]["rule.low"] = torch.tensor([float("nan")])


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        changed(weak_network="vgg"),
        changed(strong_network="rescnn"),
        changed(target_classes=[5]),
        changed(targets=[]),
        changed(classes=["6"]),
        changed(weak_classes=4),
        changed(rule="circle"),
        changed_form(side=16),
        changed_form(normalisation=[[0.5, 0.5], [0.5, 0.5, 0.5]]),
        changed_form(normalisation=[[0.5, 0.5, 0.5], [0.5, 0.0, 0.5]]),
        changed_form(resize="tile"),
        without_a_form,
        without_weights,
        without_a_kernel,
        not_finite,
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
