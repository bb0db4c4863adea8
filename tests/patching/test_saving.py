"""Patched models that leave: they answer as reported, of whatever network, or nothing is written."""

import contextlib
import copy
import dataclasses
import io
import json
import runpy
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, ImageOps
from random_modules import random_patched_model
from safetensors import safe_open
from torch import nn

from dataset.image_files import ORIENTATION, decode_image
from dataset.images import IMAGENET, Normalisation, normalise
from patching import saving
from patching.as_reported import TOLERANCE, Reported
from patching.members import LUMA, Form, Logits, Member, takes_grey
from patching.patched_model import PatchedModel
from patching.rules import Learned, RangeRule, Rule
from patching.saving import check_member_leaves, check_save_paths, is_saved_patch, save_as_reported
from utils.errors import UserError

CLASSES = ("a", "b", "c")
FORM = Form(12, "stretch", IMAGENET)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)


def network(channels: int = 3, outputs: int = 3) -> nn.Module:
    """With batch norm whose statistics are not those of these images."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).append(nn.Linear(4, outputs))
    made[1].running_mean.fill_(0.3)
    return made.eval()


class Answering(nn.Module):
    """A network that wraps its logits."""

    def __init__(self, wrap: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = network(), wrap

    def forward(self, images: torch.Tensor) -> Any:
        return self.wrap(images.mean((2, 3))[:, :2], self.network(images))


LEARNED = Learned(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(3))


def saved_with(weak: nn.Module | None, form: Form = FORM, rule: Rule = LEARNED) -> PatchedModel:
    member = None if weak is None else Member(Logits(weak, 3, is_grey=form.is_grey), form, range(3))
    return PatchedModel(member, [Member(network(outputs=1), FORM, [2])], copy.deepcopy(rule), CLASSES, None, 3)


def reported_of(model: PatchedModel, **inputs: np.ndarray) -> Reported:
    """What the networks say by themselves, not by what is exported."""
    if not inputs:
        known = {} if model.weak else {"weak_logits": torch.randn(len(PIXELS), 3).numpy()}
        inputs = {**known, "pixels": PIXELS}
    first, last = [torch.from_numpy(list(inputs.values())[place]) for place in (0, -1)]
    with torch.no_grad():
        weak = model.weak.network(normalise(first, model.weak.form.normalisation)) if model.weak else first
        outputs = [part.network(normalise(last, part.form.normalisation)) for part in model.parts]
        scores = model.rule(weak.float(), torch.cat(outputs, 1))
    return Reported(inputs, scores.numpy(), TOLERANCE)


@dataclasses.dataclass
class Record:
    features: torch.Tensor
    logits: torch.Tensor


class Pair(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


class Named(dict):
    """As the outputs of some libraries: a dict of their own."""


def as_dict(features: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    return {"features": features, "loss": None, "logits": logits}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda _, logits: logits,
        as_dict,
        lambda features, logits: Named(features=features, logits=[logits]),
        Pair,
        Record,
        lambda *values: (values,),
    ],
)
def test_logits_are_found_in_whatever_a_network_answers(wrap: Callable[..., Any]) -> None:
    images = normalise(torch.from_numpy(PIXELS), FORM.normalisation)
    with torch.no_grad():
        found = Logits(Answering(wrap), 3)(images)
        assert torch.equal(found, network()(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [as_dict, Record, lambda _, logits: logits.double(), lambda _, logits: logits.bfloat16().view(len(logits), 3)],
)
def test_a_weak_model_is_saved_whatever_it_answers(tmp_path: Path, wrap: Callable[..., Any]) -> None:
    model = saved_with(Answering(wrap).eval())
    check_member_leaves(model.weak)
    files = save_as_reported(model, tmp_path / "new" / "patched.py", reported_of(model))
    assert files == [tmp_path / "new" / "patched.py", tmp_path / "new" / "patched.safetensors"]
    assert sorted(files) == sorted((tmp_path / "new").iterdir()) and all(map(is_saved_patch, files))


@pytest.mark.slow
def test_logits_alone_and_the_same_path_again(tmp_path: Path) -> None:
    """What this option wrote itself is replaced."""
    model, path = saved_with(None), tmp_path / "patched.py"
    for _ in range(2):
        save_as_reported(model, path, reported_of(model))
    text = path.read_text()
    assert "weak_logits: (n, 3) float32, the weak model's logits, in the order of CLASSES\n" in text
    assert "both sides resized to it" in text
    module = runpy.run_path(str(path))
    logits, pixels = torch.zeros(2, 3), torch.zeros(2, 12, 12, 3, dtype=torch.uint8)
    assert module["scores"](module["load"](), logits, pixels).shape == (2, 3)
    for wrong in (pixels.float(), pixels.char(), pixels[:, 1:], pixels[..., :1]):
        with pytest.raises(ValueError, match=r"pixels: expected \(n, 12, 12, 3\) uint8, given"):
            module["scores"](module["load"](), logits, wrong)
    model.rule.probability_floor = torch.tensor(0.1)
    of_probabilities = PatchedModel(None, list(model.parts), model.rule, CLASSES, weak_classes=3)
    assert saving.description(of_probabilities, {})["inputs"].count("the weak model's probabilities") == 1
    with_added = PatchedModel(None, list(model.parts), model.rule, (*CLASSES, "new"), weak_classes=3)
    assert "probabilities, in the order of the first 3 of classes" in saving.description(with_added, {})["inputs"]


LAYERS = """
        self.weak = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        )
"""
FORWARD = """
        permute = torch.permute((pixels.to(torch.float32) - self.weak_mean) / self.weak_std, [0, 3, 1, 2])
        weak = self.weak(permute)
"""


@pytest.mark.slow
def test_the_python_file_has_layers_and_a_short_forward_the_same_each_time(tmp_path: Path) -> None:
    model, texts = saved_with(network()), set()
    for name in ("a.py", "b.py"):
        code, weights = save_as_reported(model, tmp_path / name, reported_of(model))
        texts.add((code.read_text(), weights.read_bytes()))
    ((text, _),) = texts
    assert LAYERS in text and FORWARD in text and "aten" not in text
    classifier = runpy.run_path(str(tmp_path / "a.py"))["load"]()
    assert not classifier.training and classifier(torch.from_numpy(PIXELS)).shape == (60, 3)


class Awkward(nn.Module):
    """A convolution that is used twice, layers with rare arguments, and what is written in place while others read."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2)
        self.norm, self.seven = nn.BatchNorm2d(4, eps=0.1, affine=False), nn.Conv2d(3, 4, (3, 1), (1, 2), (0, 1))
        self.pool = nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False)
        self.fc, self.of_rows = nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)
        self.act = nn.LeakyReLU(0.3, inplace=True)
        self.where = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.norm.running_mean.fill_(0.2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.seven(images))
        view = maps.flatten(2)
        before = view.sum(2) + 1
        self.act(maps)  # changes `view` too
        maps = nn.functional.relu6(self.shared(self.shared(maps)), inplace=True)
        maps += view.view_as(maps)
        rows = self.fc(self.pool(maps).mean((2, 3)) + view.amax(2) * before)
        return self.of_rows(nn.functional.dropout(rows, 0.5, self.training))[:, self.where]


@pytest.mark.slow
def test_what_is_no_chain_of_layers_is_computed_in_its_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = saved_with(Awkward().eval())
    code, _ = save_as_reported(model, tmp_path / "patched.py", reported_of(model))
    text = code.read_text()
    assert "nn.Conv2d(3, 4, (3, 1), stride=(1, 2), padding=(0, 1)), nn.BatchNorm2d(4, eps=0.1, affine=False)" in text
    assert "self.weak_shared_weight = nn.Buffer(torch.empty([4, 2, 3, 3]))" in text and "nn.BatchNorm1d(3)" in text
    assert text.count("torch.conv2d(") == 2 and "leaky_relu_" in text and "dropout" not in text


@pytest.mark.slow
def test_onnx_of_a_network_with_batch_norm_a_dict_and_len_of_its_images(tmp_path: Path) -> None:
    answering = Answering(lambda features, logits: as_dict(features, logits.view(len(logits), 3)))
    model, path = saved_with(answering.eval()), tmp_path / "patched.onnx"
    assert save_as_reported(model, path, reported_of(model)) == [path]
    assert is_saved_patch(path) and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_the_network_that_is_saved_is_left_as_it_was(tmp_path: Path) -> None:
    weak, reported = network(), reported_of(saved_with(network()))
    model = saved_with(weak)
    weak[1].train()
    flags, before = [module.training for module in weak.modules()], {k: v.clone() for k, v in weak.state_dict().items()}
    save_as_reported(model, tmp_path / "patched.py", reported)
    assert [module.training for module in weak.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in weak.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("colours", [IMAGENET, Normalisation((0.13,) * 3, (0.3,) * 3)])
def test_a_network_of_one_channel_is_fed_grey_images(tmp_path: Path, colours: Normalisation) -> None:
    grey = network(channels=1)
    assert takes_grey(grey, 12) and not takes_grey(network(), 12)
    form = dataclasses.replace(FORM, normalisation=colours).in_grey
    (mean, *means), (std, *_) = form.normalisation
    assert means == [mean, mean]
    model = saved_with(grey, form)
    luma = (PIXELS.astype(np.float64) * LUMA).sum(-1, keepdims=True) / 255
    images = torch.tensor((luma - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(model.weak(torch.from_numpy(PIXELS)), grey(images), rtol=1e-4, atol=1e-5)
    save_as_reported(model, tmp_path / "patched.py", reported_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".py", ".onnx"])
@pytest.mark.parametrize("rule", [LEARNED, RangeRule([0.0, -1.0], [0.5, 2.0], [0, 2])], ids=["linear", "ranges"])
def test_members_of_any_form_and_rule_are_saved(tmp_path: Path, rule: Rule, suffix: str) -> None:
    """Each has a mean and std of its own; the weak model also has images of another side, in an input of its own."""
    form = Form(12, "crop", Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    weak = Member(Logits(network(), 3), dataclasses.replace(form, side=9), range(3))
    parts = [Member(network(outputs=1), each, [n]) for n, each in zip((0, 2), (form, FORM), strict=True)]
    model = PatchedModel(weak, parts if isinstance(rule, RangeRule) else parts[1:], rule, CLASSES)
    path = tmp_path / f"patched{suffix}"
    save_as_reported(model, path, reported_of(model, weak_pixels=PIXELS[:, :9, :9], module_pixels=PIXELS))
    assert list(model.inputs) == ["weak_pixels", "module_pixels"] and path.exists()


def test_a_network_without_convolutions_may_be_grey_too() -> None:
    assert takes_grey(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), 12)
    assert not takes_grey(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), 12)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_one_line_that_names_no_side(channels: int) -> None:
    with pytest.raises(UserError, match=rf"images of {channels} channels: expected 3 \(RGB\) or 1 \(grey\)") as refused:
        takes_grey(network(channels), 12)
    assert "--weak_side" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "save"), [(".pth", "write"), (".onnx", "_save_onnx"), (".py", "_save_code")])
def test_a_file_that_answers_otherwise_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, save: str
) -> None:
    model, path = random_patched_model(RangeRule(0, 1)), tmp_path / "new" / f"patched{suffix}"
    other = random_patched_model(RangeRule(0, 1), form=Form(32, "stretch", Normalisation((0.5,) * 3, (0.5,) * 3)))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        reported = Reported({"pixels": pixels}, model(torch.from_numpy(pixels)).numpy(), TOLERANCE)
    owner, before = (PatchedModel if suffix == ".pth" else saving), {}
    write = getattr(owner, save)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, save, lambda _, *given: write(other, *given))  # in another form of images
            with pytest.raises(UserError, match="does not answer as reported: other scores on") as refused:
                save_as_reported(model, path, reported)
        assert "\n" not in str(refused.value)
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
        files = save_as_reported(model, path, reported)
        before = {file: file.read_bytes() for file in files}
    assert all(map(is_saved_patch, files))


MADE_OF = {"modules": "gradient", "weak_model": '"""\\ model.pth', "target_classes": ["c"]}


@pytest.mark.slow
def test_a_saved_model_states_what_it_is_and_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX, the Python file and its weights, for images of two sides; the file's lines of use prepare an image."""
    form = Form(9, "crop", Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    model = PatchedModel(
        Member(Logits(network(), 3), form, range(3)), [Member(network(outputs=1), FORM, [2])], LEARNED, CLASSES
    )
    reported = reported_of(model, weak_pixels=PIXELS[:, :9, :9], module_pixels=PIXELS)
    for suffix in (".onnx", ".py"):
        save_as_reported(model, tmp_path / f"patched{suffix}", reported, made_of=MADE_OF)
    found = {each.key: each.value for each in onnx.load(tmp_path / "patched.onnx").metadata_props}
    with safe_open(tmp_path / "patched.safetensors", "pt") as file:
        assert file.metadata() == found
    assert tuple(json.loads(found["classes"])) == CLASSES and json.loads(found["made_of"]) == MADE_OF
    assert json.loads(found["versions"])["torch"] == torch.__version__.partition("+")[0]
    of_weak, of_module = json.loads(found["inputs"]).values()
    assert of_weak["normalised_inside"] == [{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}]
    assert of_module["shape"] == ["n", 12, 12, 3] and of_module["resize"].startswith("stretch")
    rotated = Image.Exif()
    rotated[ORIENTATION] = 6
    photo = np.random.default_rng(1).integers(0, 256, (30, 20, 4), dtype=np.uint8)  # with transparency
    Image.fromarray(photo).save(tmp_path / "photo.png", exif=rotated)
    module = runpy.run_path(str(tmp_path / "patched.py"))
    assert module["MADE_OF"] == MADE_OF and module["VERSIONS"] == json.loads(found["versions"])
    lines = textwrap.dedent("\n".join(line for line in module["__doc__"].splitlines() if line.startswith("    ")))
    used = {**module, "numpy": np, "Image": Image, "ImageOps": ImageOps}
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(lines, used)  # noqa: S102
    content = (tmp_path / "photo.png").read_bytes()
    for name, each in model.forms.items():
        assert np.array_equal(used[name][0], decode_image(content, each.side, each.resize).pixels)
    with torch.no_grad():
        expected = model(used["weak_pixels"], used["module_pixels"]).argmax()
    assert printed.getvalue() == f"{CLASSES[expected]}\n"


@pytest.mark.slow
def test_weights_of_another_model_are_not_loaded(tmp_path: Path) -> None:
    for name, weak in (("a.py", network()), ("b.py", None)):
        model = saved_with(weak)
        save_as_reported(model, tmp_path / name, reported_of(model))
    (tmp_path / "b.safetensors").replace(tmp_path / "a.safetensors")
    program: dict[str, Any] = {"__file__": str(tmp_path / "a.py"), "__name__": "a"}
    exec((tmp_path / "a.py").read_text(), program)  # noqa: S102
    with pytest.raises(ValueError, match=r"a\.safetensors: expected the weights that were saved together with a\.py"):
        program["load"]()


def test_a_network_that_cannot_be_exported_is_found_before_the_work() -> None:
    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    with pytest.raises(UserError, match="--save: the network cannot be exported"):
        check_member_leaves(Member(Branching(), FORM, range(3)))


def test_inputs_and_files_of_others_are_refused_before_the_work(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weak.safetensors"
    checkpoint.write_bytes(b"a user's")
    with pytest.raises(UserError, match=r"weak\.safetensors is an input of this command"):
        check_save_paths([tmp_path / "weak.py"], [checkpoint])
    with pytest.raises(UserError, match=r"weak\.safetensors is there, and is not a file that this option wrote"):
        check_save_paths([tmp_path / "weak.py"])
    for name in ("mine.py", "mine.onnx"):
        (tmp_path / name).write_text("import torch\n")
        with pytest.raises(UserError, match=f"{name} is there, and is not a file that this option wrote"):
            check_save_paths([tmp_path / name])
    with pytest.raises(UserError, match=r"patched\.py is written twice"):
        check_save_paths([tmp_path / "patched.py", tmp_path / "patched.onnx", tmp_path / "patched.py"])
    for content in (b"", b"text", {"weak_network": "simcnn"}, [1]):
        path = tmp_path / "mine.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        before = path.read_bytes()
        with pytest.raises(UserError, match=r"mine\.pth is there, and is not a file that this option wrote"):
            check_save_paths([path])
        assert path.read_bytes() == before
    for name, problem in (("PIL.py", "has a module"), ("json.py", "has a module"), ("my-net.py", "cannot import")):
        with pytest.raises(UserError, match=f"Python {problem}"):
            check_save_paths([tmp_path / name])
    assert checkpoint.read_bytes() == b"a user's" and "json" in sys.stdlib_module_names
