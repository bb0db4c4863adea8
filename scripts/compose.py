"""Compose a classifier of modules, or of whole models: some classes of a strong model, or classes of several ones.

    python scripts/compose.py --take simcnn_x0_25:cifar10:cat,dog,frog
    python scripts/compose.py --take resnet20:animals --take simcnn_x0_25:vehicles:car,bus --images street --save it.py
    python scripts/compose.py --best_of simcnn_x0_25:cifar10,resnet20:cifar10

--take MODEL:DATASET:CLASSES takes the modules of these classes (all by default), of the most recent module set, or of
another one with @SET behind it; --whole takes the logits of the whole models instead. Several --take merge classes of
several strong models. --best_of takes each class from the model whose module is best at it, by its AUC on validation
images. A scale and a bias of each output, which make the outputs comparable, are fitted on the validation images of
--images, and everything is judged on its test images; without --images they are the strong models' own, and outputs of
different datasets are only standardised. docs/composing.md has examples. Writes data/composed/NAME.json.
"""

import argparse
import re
import time
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing import files as composing_files
from composing.composition import Composition
from composing.report import HEADINGS, ComposedRecord, best_table
from composing.sources import check_classes, common_classes, open_source
from models.opening import OneLineParser, add_quiet
from patching.own_weak_model import parse_class_map
from patching.saving import check_save_paths, save_as_reported
from utils.artifacts import RecordFile
from utils.errors import UserError, run
from utils.progress import say
from utils.tables import show_table

LONGEST_NAME = 80  # characters of a record's name that is made of classes


def main() -> None:
    start = time.perf_counter()
    arguments = parse_arguments()
    composition = opened(arguments)
    file = record_file(arguments, composition)
    labelled = len(composition.datasets) == 1
    calibration = arguments.calibration or ("fitted" if labelled else "own")
    if not labelled:
        named = " and ".join(composition.datasets)
        say(
            f"no images of all classes: judged on the test images of {named} together, which may differ by more than "
            "their classes; --images NAME gives others"
        )
    rule = composition.by_common_images if calibration == "fitted" else composition.by_own_images
    record = composition.record(rule, calibration=calibration)
    record.made_with["seconds"] = round(time.perf_counter() - start, 1)
    if composition.task == "best of":
        show_table(*best_table([source.label for source in composition.sources], composition.classes, composition.auc))
        print("each class is taken from the source with the largest area under the ROC curve (AUC) of its output\n")
    show(record)
    file.save(record)
    print(f"saved {file.path}")
    if arguments.save:
        model = composition.model(rule)
        reported = composition.reported(model)
        made_of = {"members": record.members, "calibration": calibration}
        for path in arguments.save:
            saved = ", ".join(map(str, save_as_reported(model, path, reported, composition.device, made_of)))
            print(f"saved {saved}; run on {len(reported.scores)} test images, it answers as reported")


def parse_arguments() -> argparse.Namespace:
    """The command line; complains where it does not say what to compose."""
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--take", action="append", default=[], metavar="MODEL:DATASET:CLASSES[@SET]", help="see above; may be repeated")
    add(
        "--best_of",
        nargs="+",
        default=[],
        metavar="MODEL:DATASET",
        help="two or more of --take's form, of the same classes",
    )
    add("--whole", action="store_true", help="take whole models, not their modules")
    add("--images", metavar="NAME", help="a dataset in dataset_dir; the strong models' own by default")
    add(
        "--calibration",
        choices=("fitted", "own"),
        help="fitted on the validation images (the default where they are of one dataset), or outputs standardised by "
        "each strong model's own ones",
    )
    add("--class_map", default="", metavar="THEIRS=OURS,...", help="the strong models' names where they are others")
    add("--name", help="of the JSON file; made of the models and classes by default")
    add("--save", action="append", default=[], type=Path, help="the classifier: .py (and .safetensors), .onnx or .pth")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting of all configurations")
    add_quiet(parser)
    arguments = parser.parse_args()
    if bool(arguments.take) == bool(arguments.best_of):
        parser.error("expected --take, once or several times, or --best_of")
    if arguments.name and not arguments.name.replace("_", "").replace("-", "").isalnum():
        parser.error(f"--name {arguments.name}: expected letters, digits, _ and -")
    check_save_paths(arguments.save)
    return arguments


def opened(arguments: argparse.Namespace) -> Composition:
    """The sources that the command line names. Raises UserError where they are not there, or do not fit together."""
    renamed = parse_class_map(arguments.class_map)
    option, texts = "--take", arguments.take
    if arguments.best_of:  # a comma may stand between sources, and between classes of one
        option, texts = "--best_of", re.split(r",(?=[^,:]+:)", ",".join(arguments.best_of))
    sources = [open_source(text, option, arguments, renamed, whole=arguments.whole) for text in texts]
    if arguments.best_of:
        task, classes = "best of", common_classes(sources)
    else:
        task, classes = ("sub-task" if len(sources) == 1 else "merge"), check_classes(sources)
    composition = Composition(task, sources, classes, arguments.images, sources[0].stage.seed)
    if task == "best of" and len(composition.datasets) > 1:
        named = " and ".join(composition.datasets)
        raise UserError(f"--best_of: the models are of {named}: give --images NAME to compare them on")
    return composition


def record_file(arguments: argparse.Namespace, composition: Composition) -> RecordFile[ComposedRecord]:
    """The JSON file. Raises UserError, before any work, where that of another composition is there."""
    models = "+".join(dict.fromkeys(source.config.name for source in composition.sources))
    name = arguments.name or re.sub(r"[^\w+-]", "_", f"{models}_{'_'.join(composition.classes)}")
    if not arguments.name and len(name) > LONGEST_NAME:
        name = f"{models[: LONGEST_NAME - 20]}_{len(composition.classes)}_classes"
    file = composing_files.record(composition.sources[0].stage.artifacts, name)
    if file.exists():
        there = file.load()
        labels = {source.label for source in composition.sources}
        if (there.task, there.classes, there.sources.keys()) != (composition.task, composition.classes, labels):
            raise UserError(f"{file.path} is there, of another composition: give another --name, or move it away")
    return file


def show(record: ComposedRecord) -> None:
    """Print what the classifier is made of, and how it compares."""
    sources = ", ".join(dict.fromkeys(member["source"] for member in record.members.values()))
    print(f"{record.task}: {len(record.classes)} classes ({', '.join(record.classes)}) of {sources}")
    if record.made_with["calibration"] == "fitted":
        print(f"rule: a scale and a bias of each output, fitted on {record.images['valid']} validation images")
    else:
        print("rule: outputs standardised by each strong model's own validation images")
    print(
        f"{record.images['test']} test images; 95 % intervals of differences of accuracy, in percentage points; FLOPs "
        "of an image as a share of the strong models' together:"
    )
    show_table(HEADINGS, record.rows)


if __name__ == "__main__":
    run(main)
