"""Patch a weak model of your own, whatever it was made with, by modules of a strong model that is here.

    python scripts/patch_weak_model.py --model simcnn_x0_25 --dataset digits --weak_logits my_logits --target_class 3 8
    python scripts/patch_weak_model.py --model simcnn_x0_25 --dataset cifar10 --weak_network torchvision:resnet18 \\
        --weak_checkpoint weak.pth --target_class cat dog --save patched.py --save patched.onnx
    python scripts/patch_weak_model.py --model simcnn_x0_25 --dataset flowers --weak_network my_net.py:build \\
        --weak_checkpoint weak.pth --weak_images my_flowers --weak_side 64 --target_class auto

The weak model is a network and its checkpoint, or a folder with valid_logits.npy, valid_labels.npy, test_logits.npy and
test_labels.npy. Its images are the strong model's, or --weak_images: a dataset {valid,test}/CLASS/IMAGE in dataset_dir.
The patch is fitted on valid and evaluated on test. Classes are matched by name. --others_may_lose 0 predicts the target
classes less often, so that the other classes lose nothing on valid. docs/patching.md has examples. Writes
data/patch/own/MODEL_DATASET/NAME.json.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import override
from dataset.datasets import load_source
from dataset.images import Images
from dataset.splits import is_among, load_evaluation_parts, own_validation_order
from models.checkpoints import load_foreign_checkpoint
from models.evaluation import predict
from models.names import network_of
from models.opening import OneLineParser, open_stage, stage_parser
from models.own_code import OWN_CODE
from models.strong_model import image_order, load_strong_model, load_strong_split
from modules.module import as_answers
from modules.module_set import ModuleSet, SetRecord
from modules.module_sets import add_modules_option, open_set
from patching import files as patch_files
from patching.as_reported import Reported, checked_places, tolerance_on
from patching.comparison import Answers, compare
from patching.from_arrays import Patch, patch
from patching.members import Form, Logits, Member, takes_grey
from patching.on_disk import set_checksum
from patching.own_weak_model import (
    Classes,
    load_weak_logits,
    logits_of_network,
    match_classes,
    parse_class_map,
    parse_names,
    with_labels_of,
)
from patching.patched_model import PatchedModel, PatchOrigin
from patching.report import PatchedWeakModel
from patching.saving import check_member_leaves, check_save_paths, save_as_reported
from patching.tables import f1_table
from patching.weak_model_check import check_weak_model, other_form
from utils.artifacts import Artifacts, JsonFile, RecordFile
from utils.device import machine_facts
from utils.errors import UserError, run
from utils.progress import say, steps
from utils.tables import show_table

TRIED = 1000  # validation images that other forms of images are tried on, at most


def main() -> None:
    start = time.perf_counter()
    arguments = parse_arguments(stage_parser(__doc__))
    stage = open_stage(arguments)
    config = stage.config
    weak_config = override(config, [f"{name}={value}" for name, value in weak_settings(arguments).items()])
    are_own = arguments.weak_images in (None, config.image_source)  # whether they are the strong model's
    order = image_order(stage.artifacts) if are_own else None
    strong_split = None
    try:
        strong_split = load_strong_split(config, stage.artifacts)
    except UserError:
        if are_own:
            raise
        say(f"the images of {config.image_source} are not here: none of {arguments.weak_images} can be left out")
    strong_classes = config.classes or load_source(config, config.image_source).classes
    form, weak_form = Form.of(config), Form.of(weak_config)
    forms = [(each.side, each.resize, each.normalisation) for each in (form, weak_form)]
    images_name = arguments.weak_images or config.image_source
    images_have, (module_images, weak_images) = load_evaluation_parts(images_name, forms, order)
    weak_knows = parse_names(arguments.weak_classes, images_have) if arguments.weak_classes else images_have
    renamed = parse_class_map(arguments.class_map)
    classes = match_classes(images_have, weak_knows, strong_classes, arguments.target_class, renamed)
    if "auto" in arguments.target_class:
        classes = with_modules(classes, open_set(config, stage.artifacts, arguments.modules, ()))
    file = report_file(arguments, stage.artifacts)
    weak = load_weak_member(arguments, weak_form, classes) if arguments.weak_network else None
    fingerprint = weak_images["test"].fingerprint
    if weak is not None and weak.form.is_grey:
        colours = weak.form.normalisation
        weak_images = {part: replace(each, normalisation=colours) for part, each in weak_images.items()}
        given = f"less {colours.mean[0]:g}, divided by {colours.std[0]:g}"
        say(f"it takes grey images: of RGB their luma (ITU-R BT.601), {given}")
    if weak is not None and any(path.suffix != ".pth" for path in arguments.save):
        check_member_leaves(weak)
    chosen = open_set(config, stage.artifacts, arguments.modules, sorted(classes.strong_class.values()))
    modules = {
        target: Member(chosen.module(number, stage.device), form, [target])
        for target, number in classes.strong_class.items()
    }
    strong = load_strong_model(config, stage.artifacts, stage.device).network

    def images_of(part: str) -> tuple[Images, np.ndarray]:
        images, places = with_labels_of(module_images[part], images_have, classes.names)
        if strong_split is None or (are_own and len(strong_split.classes) == len(images_have)):
            return images, places
        return without_seen(images, places, strong_split.train, part)

    def answers(part: str) -> Answers:
        images, places = images_of(part)
        if weak is None:
            file_order = own_validation_order(images_name, forms[0]) if part == "valid" else None
            given = module_images[part], images_have, classes.weak_classes, file_order
            logits = load_weak_logits(arguments.weak_logits, part, *given)[places]
        else:
            of_weak = weak_images[part].take(places)
            logits = logits_of_network(weak.network, of_weak, classes.weak_classes, stage.device)
        whole = as_answers(predict(strong, images, stage.device), chosen.record.answer).numpy()
        return Answers(
            images.labels,
            logits,
            {target: predict(one.network, images, stage.device)[:, 0].numpy() for target, one in modules.items()},
            {target: whole[:, number] for target, number in classes.strong_class.items()},
        )

    def known_images() -> Images:
        images, places = images_of("valid")
        known = np.flatnonzero(images.labels < classes.weak_classes)
        known = known[np.linspace(0, len(known) - 1, min(len(known), TRIED)).astype(np.int64)]
        return replace(weak_images["valid"].take(places[known]), labels=images.labels[known])

    valid = answers("valid")
    check_valid_images(valid, classes)
    if weak is not None and (line := other_form(weak.network, known_images(), stage.device)):
        print(line, flush=True)
    check_weak_model(valid.weak, valid.labels, classes, anyway=arguments.anyway)
    test = answers("test")
    others_may_lose = None if arguments.others_may_lose is None else arguments.others_may_lose / 100
    options: dict[str, Any] = {"others_may_lose": others_may_lose, "seed": stage.seed}
    with steps("fitting the patch", None):
        patched = patch(valid.weak, valid.modules, valid.labels, auto="auto" in arguments.target_class, **options)
    with steps("fitting the controls", None):
        _, methods = compare(valid, test, classes.names, patched=patched, **options)
    taken = [modules[target] for target in patched.target_classes]
    judged = [vars(one) | {"helps": one.helps, "name": classes.names[one.target_class]} for one in patched.judged]
    report = PatchedWeakModel(
        classes.names,
        patched.target_classes,
        len(test.labels),
        methods,
        configuration=config.name,
        target_classes=tuple(classes.strong_class[target] for target in patched.target_classes),
        modules=chosen.name,
        modules_sha256=set_checksum(stage.artifacts, chosen.name),
        weak_model=str(arguments.weak_checkpoint or arguments.weak_logits),
        kind="own",
        validation_images=len(valid.labels),
        details={"added": classes.added, "judged": judged, "others_may_lose": arguments.others_may_lose},
        made_with=machine_facts("torch", "numpy"),
    )
    show(patched, report, classes, chosen.record)
    if patched.rule:
        report.details["cost"] = cost_of(weak, taken, report)
        show_table(*f1_table(report))
        show_cost(report.details["cost"])
        images, places = images_of("test")
        report.details["changed"] = changed_images(
            *(test.weak.argmax(1), patched(test.weak, test.modules).argmax(1)),
            *(images.labels, places),
            name=images_name,
            form=weak_form,
            fingerprint=fingerprint,
        )
    typed = [*sys.argv[1:], *([] if arguments.modules else ["--modules", chosen.name])]
    report.details["command"] = shlex.join(["python", "scripts/patch_weak_model.py", *typed])
    report.details["seed"] = stage.seed
    report.details["seconds"] = round(time.perf_counter() - start, 1)
    file.save(report)
    print(f"module set {chosen.name}: saved {file.path}")
    if arguments.save and not patched.rule:
        print("nothing to save: the weak model stays as it is")
    if patched.rule and arguments.save:
        kernels = np.stack([chosen.mask(number) for number in report.target_classes])
        names = arguments.weak_network or "", config.network_name
        origin = PatchOrigin(*names, config.num_classes, report.target_classes, kernels)
        model = PatchedModel(weak, taken, patched.rule, classes.names, origin, classes.weak_classes)
        scores = patched(test.weak, test.modules)
        pixels = weak_images["test"].pixels[places], np.asarray(images.pixels)
        reported = reported_of(model, scores, test.weak, pixels, stage.device)
        made_of = {
            "modules": f"{config.name}, set {chosen.name}",
            "target_classes": [classes.names[target] for target in patched.target_classes],
            "weak_model": Path(report.weak_model).name,
            "calibration": "learned",
        }
        for path in arguments.save:
            saved = ", ".join(map(str, save_as_reported(model, path, reported, stage.device, made_of)))
            print(f"saved {saved}; run on {len(reported.scores)} test images, it answers as reported")


def parse_arguments(parser: OneLineParser) -> argparse.Namespace:
    """The command line; complains where it names no weak model, or two."""
    add = parser.add_argument
    add("--weak_network", help="simcnn_x0_25, torchvision:NAME, timm:NAME or FILE.py:FUNCTION, which runs as your code")
    add("--weak_checkpoint", type=Path, help="its weights, as people save them; nothing in the file is run")
    add("--weak_checkpoint_key", help="where in it the weights are, if several fit")
    add("--weak_logits", type=Path, metavar="FOLDER", help="instead of a network: what it says about the images")
    add("--weak_images", metavar="NAME", help="a dataset in dataset_dir; the strong model's images by default")
    add(
        "--weak_classes", metavar="A,B,...", help="of the weak model's logits, in order; those of the images by default"
    )
    add("--weak_side", help="the weak model's images: their side in pixels; the strong model's by default")
    add("--weak_mean", metavar="R,G,B", help="what is subtracted, one value or three; default: the strong model's")
    add("--weak_std", metavar="R,G,B", help="what they are divided by then, one value or three; the same default")
    add("--class_map", default="", metavar="NEW=OLD,...", help="the images' class NEW is the strong model's OLD")
    add("--target_class", nargs="+", required=True, help="names or numbers, or auto: those whose modules help")
    add(
        "--others_may_lose",
        type=float,
        metavar="POINTS",
        help="of accuracy that the other classes may lose at most, on valid; by default what is best for all images",
    )
    add_modules_option(parser)
    add("--anyway", action="store_true", help="patch a model whose classes seem in another order, or unknown to it")
    add("--name", help="of the JSON file; the checkpoint's or folder's by default")
    of_model = "the patched model: .py (and .safetensors), .onnx or .pth"
    add("--save", action="append", default=[], type=Path, help=of_model)
    arguments = parser.parse_args()
    if bool(arguments.weak_network) == bool(arguments.weak_logits):
        parser.error("expected --weak_network with --weak_checkpoint, or --weak_logits")
    if bool(arguments.weak_network) != bool(arguments.weak_checkpoint):
        parser.error("--weak_network and --weak_checkpoint: expected both or none")
    if arguments.others_may_lose is not None and not 0 <= arguments.others_may_lose <= 100:
        parser.error(f"--others_may_lose {arguments.others_may_lose:g}: expected points from 0 to 100")
    if arguments.name and not arguments.name.replace("_", "").replace("-", "").isalnum():
        parser.error(f"--name {arguments.name}: expected letters, digits, _ and -")
    own_code = OWN_CODE.fullmatch(arguments.weak_network or "")
    inputs = (arguments.weak_checkpoint, own_code and Path(own_code["file"]))
    check_save_paths(arguments.save, [path for path in inputs if path])
    return arguments


def with_modules(classes: Classes, chosen: ModuleSet) -> Classes:
    """For `auto`: without those of the weak model's classes that the set has no module of, which a line names."""
    lacking = {
        target: number
        for target, number in classes.strong_class.items()
        if target < classes.weak_classes and number not in chosen.target_classes
    }
    if not lacking or lacking == classes.strong_class:  # `open_set` then says what is missing
        return classes
    say(f"module set {chosen.name} has no module of {', '.join(classes.names[target] for target in lacking)}: left out")
    kept = {target: number for target, number in classes.strong_class.items() if target not in lacking}
    return replace(classes, strong_class=kept)


def report_file(arguments: argparse.Namespace, artifacts: Artifacts) -> RecordFile[PatchedWeakModel]:
    """The JSON file of the patch. Raises UserError, before any work, where another file is there."""
    given = (arguments.weak_checkpoint or arguments.weak_logits).resolve()
    name = arguments.name or (given.stem if arguments.weak_checkpoint else given.name)
    file = patch_files.own_report(artifacts, name)
    if file.exists():
        there = JsonFile(file.path, file.made_by).load()
        if not {"weak_model", "classes"} <= there.keys():
            raise UserError(f"{file.path} is there, and is no report of a patch: give another --name, or move it away")
        if (other := Path(str(there["weak_model"]))).resolve() != given:
            raise UserError(f"{file.path} is there, of the weak model {other}: give another --name, or move it away")
    return file


def weak_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings in which the weak model's images differ from the strong model's."""
    colours = (
        value if value is None or "," in value else ",".join([value] * 3)
        for value in (arguments.weak_mean, arguments.weak_std)
    )
    given = dict(zip(("image_side", "mean", "std"), (arguments.weak_side, *colours), strict=True))
    return {name: value for name, value in given.items() if value is not None}


def load_weak_member(arguments: argparse.Namespace, form: Form, classes: Classes) -> Member:
    """The weak model with its weights, and the form of its images. Raises UserError where they do not fit."""
    network = network_of(arguments.weak_network, classes.weak_classes, form.side)
    weights = load_foreign_checkpoint(network, arguments.weak_checkpoint, arguments.weak_checkpoint_key)
    say(f"weak model: {arguments.weak_checkpoint}: {weights.describe()}")
    network.eval()
    form = form.in_grey if takes_grey(network, form.side) else form
    logits = Logits(network, classes.weak_classes, is_grey=form.is_grey)
    return Member(logits, form, range(classes.weak_classes)).eval()


def without_seen(images: Images, places: np.ndarray, trained_on: Images, part: str) -> tuple[Images, np.ndarray]:
    """The images, and their places (n,), that the strong model was not trained on.

    Another dataset may have some; and of some of a dataset's classes the split may be another one than that of all.
    """
    new = np.flatnonzero(~is_among(images, trained_on))
    if len(new) < len(images):
        of_part = {"valid": "validation", "test": "test"}[part]
        say(f"left out: {len(images) - len(new)} {of_part} images that the strong model was trained on")
    return images.take(new), places[new]


def check_valid_images(valid: Answers, classes: Classes) -> None:
    """Raises UserError, with its name, for a target class that no validation image is of."""
    for target in classes.strong_class:
        if not (valid.labels == target).any():
            name = classes.names[target]
            raise UserError(f"class {name} has no validation images: expected some to fit the patch on")


def show(patched: Patch, report: PatchedWeakModel, classes: Classes, modules: SetRecord) -> None:
    """Print what each module is worth, and before and after."""
    knows = f"the weak model knows {', '.join(classes.names[: classes.weak_classes])}"
    print(knows + (f"; added: {', '.join(classes.added)}" if classes.added else ""))
    print(f"modules, by cross-validation on {report.validation_images} validation images:")
    for one in patched.judged:
        print(f"  {classes.names[one.target_class]}: {one}")
    if patched.rule is None:
        print("no module helps this weak model: nothing is changed")
        return
    if lower := [number for number in report.target_classes if number in modules.uninformative]:
        print(f"{modules.aucs_in_words(lower)}; compare with the control without a module")
    print(f"before -> after on {report.test_images} test images, in percent; changes in points with 95 % confidence:")
    print(report)


def changed_images(
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    places: np.ndarray,
    name: str,
    form: Form,
    fingerprint: int,
) -> dict[str, Any]:
    """The test images that the patch gained and lost, for the report: their labels, answers and places.

    The arrays are (images,) int64; `places` are those among the test images of the dataset `name`, in a form, which
    have the fingerprint.
    """
    changed = np.flatnonzero((before == labels) != (after == labels))
    values = {"labels": labels, "before": before, "after": after, "places": places}
    of_images = {"images": name, "form": form.to_plain(), "fingerprint": fingerprint}
    return {**of_images, **{each: of[changed].tolist() for each, of in values.items()}}


def cost_of(weak: Member | None, modules: list[Member], report: PatchedWeakModel) -> dict[str, Any]:
    """FLOPs of one image and parameters; of a weak model that is known by its logits alone, nothing.

    Percentage points of F1 per GFLOP count from the control without modules.
    """
    added = [sum(values) for values in zip(*(module.cost for module in modules), strict=True)]
    own = None if weak is None else [*weak.cost]
    return {
        "weak": own,
        "modules": added,
        "composed": None if own is None else [own[0] + added[0], own[1] + added[1]],
        "f1_points_per_gflop": 100 * report.f1_over_no_module("learned") / (added[0] / 1e9),
    }


def show_cost(cost: dict[str, Any]) -> None:
    """Print FLOPs and parameters."""
    rows = [[name, *(f"{value:,}" for value in cost[name])] for name in ("weak", "modules", "composed") if cost[name]]
    show_table(["", "FLOPs", "parameters"], rows)
    gained = cost["f1_points_per_gflop"]
    print(f"percentage points of F1 per GFLOP compared with no module, all target classes: {gained:.1f}")


def reported_of(
    model: PatchedModel, scores: np.ndarray, weak: np.ndarray, pixels: Sequence[np.ndarray], device: torch.device
) -> Reported:
    """Test images in the form that the model to be saved takes, and the scores (images, classes) that are reported.

    `weak` (images, weak classes) is what the weak model says, `pixels` are those that it and the modules see.
    """
    some = checked_places(len(scores))
    of_weak, of_modules = (values[some] for values in pixels)
    given = {"weak_logits": weak[some].astype(np.float32), "pixels": of_modules}
    given |= {"weak_pixels": of_weak, "module_pixels": of_modules}
    return Reported({name: given[name] for name in model.inputs}, scores[some], tolerance_on(device))


if __name__ == "__main__":
    run(main)
