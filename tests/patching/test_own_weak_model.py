"""Weak models made elsewhere: classes by name, logits from files, the script as a user types it, and what leaves."""

import json
import runpy
import subprocess
import sys
import sysconfig
from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TOP
from PIL import Image
from random_modules import write_modules
from torch import nn

import global_configure
from configures.base import load
from dataset.datasets import load_dataset
from dataset.image_files import SIDE
from dataset.images import IMAGENET, Images, Normalisation
from dataset.splits import load_evaluation_parts, load_split
from models.strong_model import graph_of
from modules.module_set import SetRecord
from patching.members import Form
from patching.own_weak_model import (
    Classes,
    load_weak_logits,
    logits_of_network,
    match_classes,
    parse_class_map,
    parse_names,
)
from patching.patched_model import load_patched_model
from patching.report import NO_MODULE, WHOLE_MODEL
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import save_text

SCRIPT = "scripts/patch_weak_model.py"
COMMON = ("--model", "simcnn_x0_25", "--dataset", "digits")
RARE = (3, 8)
STRONG = ("cat", "dog", "frog")


def test_classes_are_matched_by_name_in_any_order_and_form_of_unicode():
    found = match_classes(("bird", "cat", "dog"), ("dog", "bird"), STRONG, ["dog", "2"], {})
    assert found.names == ("dog", "bird", "cat") and found.added == ("cat",)
    assert found.strong_class == {0: 1, 2: 0}
    found = match_classes(("caf\u00e9", "cat"), ("cat", "cafe\u0301"), ("caf\u00e9",), ["cafe\u0301"], {})
    assert found.names == ("cat", "caf\u00e9") and found.strong_class == {1: 0}
    # Names may differ, and auto takes the shared ones.
    found = match_classes(("cat", "hound", "rose"), ("cat", "hound", "rose"), STRONG, ["auto"], {"hound": "dog"})
    assert found.strong_class == {0: 0, 1: 1} and not found.added


def test_names_with_commas_are_found_among_the_known_ones():
    known = ("red", "tulip, red", "tulip", "caf\u00e9")
    assert parse_names("tulip, red,cafe\u0301,tulip,red", known) == ("tulip, red", "caf\u00e9", "tulip", "red")
    assert parse_names("tulip,owl,", known) == ("tulip", "owl", "")


def test_auto_leaves_out_classes_without_a_module(capsys):
    with_modules = runpy.run_path(str(TOP / SCRIPT))["with_modules"]
    classes = Classes(("cat", "dog", "owl"), 2, {0: 5, 1: 6, 2: 7})
    some = SimpleNamespace(name="some", target_classes=(6,))
    assert with_modules(classes, some).strong_class == {1: 6, 2: 7}  # an added class was named, so it is needed
    assert "module set some has no module of cat: left out" in capsys.readouterr().out
    for having in ((5, 6), ()):
        of_known = replace(classes, strong_class={0: 5, 1: 6})
        assert with_modules(of_known, SimpleNamespace(name="all", target_classes=having)) == of_known


def test_a_target_whose_module_has_a_low_auc_is_named(capsys):
    show = runpy.run_path(str(TOP / SCRIPT))["show"]
    aucs = {"valid_auc_strong": (0.99, 0.85, 0.97), "valid_auc_modules": (0.9, 0.826, 0.96)}
    record = SetRecord(STRONG, 9, (5, 6, 7), 0.5, 12, 10, 9, 12, 10, 9, {}, **aucs)
    line = "AUC more than 0.02 below the strong model's: dog (0.83, strong model 0.85); compare with the control"
    for strong_number, is_named in ((1, True), (2, False)):
        report = SimpleNamespace(target_classes=(strong_number,), validation_images=12, test_images=12)
        show(SimpleNamespace(judged=[], rule="learned"), report, Classes(("hound",), 1, {0: strong_number}), record)
        assert (line in capsys.readouterr().out) == is_named


def test_the_record_of_another_weak_model_is_not_replaced(tmp_path):
    report_file = runpy.run_path(str(TOP / SCRIPT))["report_file"]
    artifacts = Artifacts(tmp_path, "net", "digits")
    one, other = (Namespace(weak_checkpoint=tmp_path / name / "entire_model.pth", name=None) for name in "ab")
    file = report_file(one, artifacts)
    save_text(file.path, json.dumps({"weak_model": str(one.weak_checkpoint), "classes": []}))
    assert report_file(one, artifacts).path == file.path
    with pytest.raises(UserError, match=r"entire_model.json is there, of the weak model .*/a/.*: give another --name"):
        report_file(other, artifacts)


@pytest.mark.parametrize(
    ("weak", "targets", "renamed", "message"),
    [
        (("cat", "owl"), ["cat"], {}, "class owl has no images: expected classes of bird, cat.*--weak_classes"),
        (("cat", "cat"), ["cat"], {}, "expected every class once"),
        (("cat",), ["bird"], {}, "the strong model has no class bird: expected names of cat, dog, frog.*--class_map"),
        (("bird",), ["auto"], {}, "the strong model has no class bird"),
        (("bird",), ["bird"], {"bird": "crow"}, "--class_map bird=crow: the strong model has no class crow, but cat"),
        (("bird",), ["bird"], {"crow": "dog"}, "--class_map crow=dog: the images have no class crow, but bird"),
        (("bird",), ["7"], {}, "--target_class 7: expected a class from 0 to 1"),
    ],
)
def test_classes_that_do_not_match(weak, targets, renamed, message):
    with pytest.raises(UserError, match=message):
        match_classes(("bird", "cat"), weak, STRONG, targets, renamed)


def test_class_map():
    assert parse_class_map("a=b,c=d") == {"a": "b", "c": "d"} and parse_class_map("") == {}
    for wrong in ("a", "a=b=c", "=b", "a=,c=d"):
        with pytest.raises(UserError, match=r"--class_map .*: expected NEW=OLD"):
            parse_class_map(wrong)


def fill(root, dataset, strong_roots):
    """A strong model of digits that looks trained, and modules that keep all kernels; and what a weak model says."""
    (root / "data").mkdir()
    made = strong_roots("simcnn_x0_25", dataset) / "data"
    (root / "data" / "decoded_dataset").symlink_to(made / "decoded_dataset")
    artifacts, config = Artifacts(root, "simcnn_x0_25", dataset), load("simcnn_x0_25", dataset)
    artifacts.folder.mkdir()
    (artifacts.folder / "entire_model.pth").symlink_to(made / artifacts.folder.name / "entire_model.pth")
    whole = np.ones(graph_of(config).units.num_kernels, bool)
    write_modules(config, artifacts, dict.fromkeys(range(config.num_classes), whole), "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_configure, "root_dir", root)
        parts = load_split(load("simcnn_x0_25", "digits"))
    for part in ("valid", "test"):
        labels = getattr(parts, part).labels
        known = 6.0 * (labels[:, None] == np.arange(10)) * ~np.isin(np.arange(10), RARE)
        logits = known + np.random.default_rng(0).normal(size=known.shape)
        (root / "logits").mkdir(exist_ok=True)
        np.save(root / "logits" / f"{part}_logits.npy", logits)
        np.save(root / "logits" / f"{part}_labels.npy", labels)


IMAGES = Images(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), IMAGENET)


class Answering(nn.Module):
    """A network of somebody's own that answers images by a function."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images.mean((1, 2, 3))[:, None] * torch.ones(3))


def unlucky(images):
    raise AssertionError("Wrong image height! Expected 224 but got 8!")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (unlucky, "does not run on images of 8 pixels: Wrong image height.*give --weak_side"),
        (lambda x: {"features": x[:, :2], "loss": None}, r"gives a dict: expected logits \(images, 3\) in it"),
        (lambda x: x[:, :2], r"gives outputs \(2,\): expected 3 logits"),
        (lambda x: x / 0, "gives NaN or infinity"),
        (lambda x: nn.functional.dropout(x, 0.5), "weak model: the network draws random numbers in evaluation mode"),
        (lambda x: x * len(x), "answer to an image depends on the images next to it"),
        (lambda x: x.squeeze(), "answer to one image alone has another form"),
    ],
)
def test_a_network_that_does_not_answer_is_refused(answer, message):
    with pytest.raises(UserError, match=message):
        logits_of_network(Answering(answer), IMAGES, 3, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [">f4", np.longdouble, np.float16, np.float32])
def test_logits_of_any_precision_and_byte_order(tmp_path, dtype):
    values = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "valid_logits.npy", values.astype(dtype))
    np.save(tmp_path / "valid_labels.npy", IMAGES.labels)
    found = load_weak_logits(tmp_path, "valid", IMAGES, ("a", "b", "c"), 3)
    assert np.array_equal(found, values) and torch.tensor(found).shape == (2, 3)


@pytest.fixture(scope="module")
def root(strong_roots, tmp_path_factory):
    """A strong model of all digits; for reading only."""
    root = tmp_path_factory.mktemp("own")
    fill(root, "digits", strong_roots)
    return root


@pytest.fixture
def patched(root, run_main):
    """Patch as a user does: what the script said, and its report."""

    def run(name, *words):
        done = run_main(SCRIPT, *COMMON, *words, "--name", name, root=root)
        assert done.exit_code == 0, done
        report = root / "data" / "patch" / "own" / "simcnn_x0_25_digits" / f"{name}.json"
        return done.stdout, json.loads(report.read_text())

    return run


@pytest.fixture
def logits(root, tmp_path):
    """A copy of the folder of logits, to spoil."""
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for file in (root / "logits").iterdir():
        np.save(folder / file.name, np.load(file))
    return folder


@pytest.mark.slow
def test_logits_alone(root, patched):
    said, report = patched("logits", "--weak_logits", root / "logits", "--target_class", *RARE)
    f1 = {method: [target["f1"] for target in entry["targets"]] for method, entry in report["methods"].items()}
    for number, target in enumerate(report["methods"]["learned"]["targets"]):
        assert target["f1"] > f1["before"][number] and target["change"]["f1"][0] > 0
    assert f1[NO_MODULE][0] < f1["learned"][0] == pytest.approx(f1[WHOLE_MODEL.format("learned")][0], abs=0.05)
    cost = report["details"]["cost"]
    assert cost["weak"] is None and cost["modules"][0] > 0
    assert report["modules"] == "whole" and "module set whole: saved" in said
    assert "control:" in said and "F1 changes by +" in said  # headings may be wrapped


@pytest.mark.slow
def test_images_that_the_strong_model_of_some_classes_was_trained_on_are_left_out(strong_roots, run_main, tmp_path):
    """The split of five digits is another one than that of ten."""
    fill(tmp_path, "digits_5", strong_roots)
    words = ("--model", "simcnn_x0_25", "--dataset", "digits_5", "--weak_images", "digits")
    done = run_main(SCRIPT, *words, "--weak_logits", tmp_path / "logits", "--target_class", 3, root=tmp_path)
    assert done.exit_code == 0, done
    trained_on = {image.tobytes() for image in load_split(load("simcnn_x0_25", "digits_5")).train.pixels}
    valid = load_split(load("simcnn_x0_25", "digits")).valid
    seen = sum(image.tobytes() in trained_on for image in valid.pixels)
    assert seen > 100
    assert f"left out: {seen} validation images that the strong model was trained on" in done.stdout
    report = json.loads((tmp_path / "data" / "patch" / "own" / "simcnn_x0_25_digits_5" / "logits.json").read_text())
    assert report["validation_images"] == len(valid) - seen


@pytest.mark.slow
def test_images_and_names_of_ones_own(root, patched, run_main, tmp_path, monkeypatch):
    """A tree with other names of the classes, without a train part: its logits stand in the order of its files."""
    monkeypatch.setattr(global_configure, "dataset_dir", tmp_path)
    digits, names = load_dataset("digits", SIDE, "stretch", IMAGENET).test, ("drei", "null", "vier")
    for part, first in (("valid", 0), ("test", 20)):
        labels = []
        for label, digit in enumerate((3, 0, 4)):
            folder = tmp_path / "ziffern" / part / names[label]
            folder.mkdir(parents=True)
            for number, place in enumerate(np.flatnonzero(digits.labels == digit)[first : first + 15]):
                Image.fromarray(digits.pixels[place]).save(folder / f"{number:02}.png")
                labels.append(label)
        logits = np.random.default_rng(first).normal(size=(len(labels), 3)) + 5.0 * (
            np.array(labels)[:, None] == np.arange(3)
        ) * (np.arange(3) > 0)
        (tmp_path / "said").mkdir(exist_ok=True)
        np.save(tmp_path / "said" / f"{part}_logits.npy", logits)
        np.save(tmp_path / "said" / f"{part}_labels.npy", labels)
    options = ("--weak_images", "ziffern", "--weak_logits", tmp_path / "said", "--target_class", "drei")
    said, report = patched("ziffern", *options, "--class_map", "drei=3")
    assert "the weak model knows drei, null, vier" in said
    before, after = (report["methods"][method]["targets"][0]["f1"] for method in ("before", "learned"))
    assert report["targets"] == [0] and report["classes"][0] == "drei" and after > before
    run_main(SCRIPT, *COMMON, *options, root=root).refused("the strong model has no class drei", "--class_map")


@pytest.mark.long
def test_auto_on_a_weak_model_that_knows_everything_changes_nothing(logits, patched, tmp_path):
    for part in ("valid", "test"):
        labels = np.load(logits / f"{part}_labels.npy")
        noise = np.random.default_rng(1).normal(size=(len(labels), 10))
        np.save(logits / f"{part}_logits.npy", 30.0 * (labels[:, None] == np.arange(10)) + noise)
    saved = tmp_path / "patched.py"
    said, report = patched("nothing", "--weak_logits", logits, "--target_class", "auto", "--save", saved)
    assert "no module helps this weak model: nothing is changed" in said
    assert said.count("no more than chance") == 10 and not saved.exists()
    assert list(report["methods"]) == ["before"] and report["targets"] == []


def test_logits_may_stand_in_the_order_of_the_split_or_of_the_files(tmp_path):
    random = np.random.default_rng(0)
    in_files = np.sort(random.integers(0, 3, 40))
    order = random.permutation(40)
    images, logits = Images(np.zeros((40, 1, 1, 3), np.uint8), in_files[order], IMAGENET), random.normal(size=(40, 3))
    for places in (np.arange(40), np.argsort(order)):
        np.save(tmp_path / "valid_logits.npy", logits[places])
        np.save(tmp_path / "valid_labels.npy", images.labels[places])
        found = load_weak_logits(tmp_path, "valid", images, ("a", "b", "c"), 3, order)
        np.testing.assert_array_equal(found, logits)
    with pytest.raises(UserError, match="expected the order of the images"):
        load_weak_logits(tmp_path, "valid", images, ("a", "b", "c"), 3)


def spoil(name, change):
    return lambda folder: np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))


def as_archive(folder):
    with (folder / "test_logits.npy").open("wb") as file:
        np.savez(file, logits=np.zeros((3, 10)))


def as_objects(folder):
    np.save(folder / "test_logits.npy", np.array([[1.0] * 10] * 3, object))


def nan_at_5(array):
    return array + np.where(np.arange(len(array)) == 5, np.nan, 0)[:, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil("test_logits", lambda a: a[:, :9]), "expected logits of 10 classes, given 9; name the weak model's"),
        (spoil("valid_logits", lambda a: a[:-1]), "expected logits and labels of 288 valid images, as the images are"),
        (spoil("test_logits", nan_at_5), "test_logits.npy: 1 images have NaN or infinity, the first is 5"),
        (spoil("valid_labels", lambda a: a + 1), "expected labels from 0 to 9 (0 to 9), given 1 to 10"),
        (spoil("test_labels", lambda a: a[::-1]), "expected the order of the images"),
        (spoil("test_labels", lambda a: a.astype(float)), "expected whole numbers (images,), given float64"),
        (spoil("test_logits", lambda a: a.astype(int)), "expected real numbers (images, classes), given int64"),
        (lambda folder: (folder / "test_logits.npy").unlink(), "there is no file"),
        (lambda folder: (folder / "test_logits.npy").write_bytes(b"x"), "is no plain array"),
        (as_archive, "is no plain array"),
        (as_objects, "is no plain array: Object arrays cannot be loaded when allow_pickle=False"),
    ],
)
def test_logits_that_do_not_fit(root, logits, run_main, damage, message):
    damage(logits)
    run_main(SCRIPT, *COMMON, "--weak_logits", logits, "--target_class", 3, root=root).refused(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --weak_network with --weak_checkpoint, or --weak_logits"),
        (("--weak_network", "simcnn"), "--weak_network and --weak_checkpoint: expected both or none"),
        (("--weak_logits", "x", "--save", "x.pt"), "expected a name that ends with .onnx or .pth or .py"),
        (("--weak_logits", "x", "--weak_classes", "0,1,x"), "class x has no images"),
        (("--weak_logits", "x", "--weak_mean", "1,2"), "setting mean"),
        (("--weak_logits", "x", "--weak_images", "nowhere"), "dataset nowhere is not there"),
        (("--weak_logits", "x", "--name", "../x"), "--name ../x: expected letters"),
        (("--weak_logits", "x", "--others_may_lose", "-1"), "--others_may_lose -1: expected points from 0 to 100"),
    ],
)
def test_bad_options(root, run_main, options, message):
    run_main(SCRIPT, *COMMON, "--target_class", 3, *options, root=root).refused(message)


MY_NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, num_classes))
"""

OUTSIDE = """
import sys
import numpy as np, torch
import patched

inputs = [torch.tensor(np.load(path)) for path in sys.argv[2:]]
np.save(sys.argv[1], patched.scores(patched.load(), *inputs).numpy())
for name in ("patching", "models", "utils", "configures"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is there")
"""


@pytest.fixture
def weak_network(tmp_path):
    """A network of the user's own that knows nine digits, on images of 16 pixels, and its checkpoint."""
    (tmp_path / "my_net.py").write_text(MY_NET)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, 9))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weak.pth")
    known = ("--weak_classes", "0,1,2,3,4,5,6,7,8", "--weak_side", 16)
    form = ("--weak_mean", "0.5,0.5,0.5", "--weak_std", "0.5,0.5,0.5")
    named = ("--weak_network", f"{tmp_path / 'my_net.py'}:build", "--weak_checkpoint", tmp_path / "weak.pth")
    return (*named, *known, *form, "--anyway")  # it is random


@pytest.mark.slow
def test_a_random_network_is_not_patched(root, run_main, weak_network):
    """Nor does anything appear."""
    done = run_main(SCRIPT, *COMMON, *weak_network[:-1], "--target_class", 9, "--name", "random", root=root)
    done.refused("hardly better than chance", "--anyway patches it as it is")
    assert not (root / "data" / "patch" / "own" / "simcnn_x0_25_digits" / "random.json").exists()


@pytest.mark.slow
def test_a_checkpoint_is_not_replaced_by_a_patched_model(root, run_main, weak_network, tmp_path):
    """The weights of `weak.py` would be named as the checkpoint is."""
    checkpoint = tmp_path / "weak.safetensors"
    checkpoint.write_bytes(b"a user's")
    given = [checkpoint if str(word).endswith("weak.pth") else word for word in weak_network]
    done = run_main(SCRIPT, *COMMON, *given, "--target_class", 9, "--save", tmp_path / "weak.py", root=root)
    done.refused("weak.safetensors is an input of this command; give another name")
    assert checkpoint.read_bytes() == b"a user's" and not done.stdout
    done = run_main(SCRIPT, *COMMON, *given, "--target_class", 9, "--save", tmp_path / "my_net.py", root=root)
    done.refused("my_net.py is an input of this command")


@pytest.mark.slow
def test_a_class_is_added_and_the_patched_model_runs_without_this_project(patched, weak_network, tmp_path):
    out = tmp_path / "out"
    said, report = patched("added", *weak_network, "--target_class", 9, "--save", out / "patched.py")
    assert "added: 9" in said
    before, after = (report["methods"][method]["targets"][0]["f1"] for method in ("before", "learned"))
    assert before == 0 < after and report["details"]["added"] == ["9"]
    weak, modules, composed = (report["details"]["cost"][name] for name in ("weak", "modules", "composed"))
    assert [sum(pair) for pair in zip(weak, modules, strict=True)] == composed

    config = load("simcnn_x0_25", "digits")
    forms = [(side, "stretch", IMAGENET) for side in (16, 32)]
    _, parts = load_evaluation_parts("digits", forms)
    for name, part in zip(("weak", "module"), parts, strict=True):
        np.save(out / f"{name}.npy", part["test"].pixels)
    (out / "outside.py").write_text(OUTSIDE)
    site = sysconfig.get_path("purelib")  # without -S its .pth files would lead to this project
    program = f"import runpy, sys; sys.path += ['.', {site!r}]; runpy.run_path('outside.py', run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-c", program, "scores.npy", "weak.npy", "module.npy"]
    subprocess.run(command, cwd=out, check=True, timeout=300, env={"OMP_NUM_THREADS": "1"})
    answers, labels = np.load(out / "scores.npy").argmax(1), parts[0]["test"].labels
    reported = np.trace(report["methods"]["learned"]["confusion_matrix"])
    assert abs(int((answers == labels).sum()) - reported) <= 1  # where two scores are nearly equal
    assert config.num_classes == np.load(out / "scores.npy").shape[1]


GREY_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, num_classes)
        )

    def forward(self, images):
        return {"loss": None, "logits": self.layers(images)}
"""


@pytest.mark.slow
def test_a_grey_network_that_answers_with_a_dict_is_patched_and_saved(patched, tmp_path):
    """Its batch norm has other statistics than these images, so training mode would move them."""
    (tmp_path / "net.py").write_text(GREY_NET)
    program: dict = {}
    exec(GREY_NET, program)  # noqa: S102
    torch.manual_seed(0)
    torch.save(program["Net"](10).state_dict(), tmp_path / "weak.pth")
    named = ("--weak_network", f"{tmp_path / 'net.py'}:Net", "--weak_checkpoint", tmp_path / "weak.pth")
    form = ("--weak_side", 16, "--weak_mean", 0.13, "--weak_std", 0.31)
    saved, loadable = tmp_path / "patched.py", tmp_path / "patched.pth"
    options = ("--target_class", 3, "--anyway", "--save", saved, "--save", loadable, "--others_may_lose", 0)
    said, report = patched("grey", *named, *form, *options)
    assert "it takes grey images: of RGB their luma (ITU-R BT.601), less 0.13, divided by 0.31" in said
    assert f"saved {saved}, {saved.with_suffix('.safetensors')}; run on 359 test images" in said
    assert f"saved {loadable}; run on 359 test images" in said
    assert report["details"]["others_may_lose"] == 0 and report["methods"]["learned"]["rule"]["lowered_by"] >= 0
    assert load_patched_model(loadable).weak.form == Form(16, "stretch", Normalisation((0.13,) * 3, (0.31,) * 3), True)


@pytest.mark.slow
def test_a_report_of_somebody_else_is_not_replaced(root, run_main, logits):
    report = root / "data" / "patch" / "own" / "simcnn_x0_25_digits" / "mine.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text('{"mine": 1}')
    done = run_main(SCRIPT, *COMMON, "--weak_logits", logits, "--target_class", 3, "--name", "mine", root=root)
    done.refused("mine.json is there, and is no report of a patch: give another --name, or move it away")
    assert report.read_text() == '{"mine": 1}'
    report.unlink()
