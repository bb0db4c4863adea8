"""Compose a classifier of modules, or of whole models: some classes of a strong model, or classes of several ones.

    python scripts/compose.py --take simcnn_x0_25:cifar10:cat,dog,frog
    python scripts/compose.py --take simcnn_x0_25:cifar10:cat,dog,frog --one_network 0.6
    python scripts/compose.py --take resnet20:animals --take simcnn_x0_25:vehicles:car,bus --images street --save it.py
    python scripts/compose.py --best_of simcnn_x0_25:cifar10,resnet20:cifar10

--take MODEL:DATASET:CLASSES takes the modules of these classes (all by default), of the most recent module set, or of
another one with @SET behind it; --whole takes the logits of the whole models instead, and --one_network SHARE trains
one network for the classes of each model, which costs this share of the model's FLOPs. Several --take merge classes of
several strong models. --best_of takes each class from the model whose output is best at it, by its AUC on validation
images. The rule that makes the outputs comparable is fitted on the validation images of --images, and everything is
evaluated on its test images; without --images they are the strong models' own, and outputs of different datasets are
only standardised. docs/composing.md has examples. Writes data/composed/NAME.json.
"""

import argparse
import re
import time
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing import files as composing_files
from composing.composition import Composition
from composing.report import HEADINGS, ComposedRecord, best_table
from composing.sources import open_source
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
    file = record_file(arguments.name, composition)
    if len(composition.datasets) > 1:
        say(
            f"no images of all classes: evaluated on the test images of {' and '.join(composition.datasets)} together, "
            "which may differ by more than their classes; --images NAME gives others"
        )
    record = composition.record()
    record.made_with["seconds"] = round(time.perf_counter() - start, 1)
    if composition.task == "best of":
        show_table(*best_table([source.label for source in composition.sources], composition.classes, composition.auc))
        print("each class is taken from the source with the largest area under the ROC curve (AUC) of its output\n")
    show(record)
    file.save(record)
    print(f"saved {file.path}")
    if arguments.save:
        model = composition.model()
        reported = composition.reported(model)
        made_of = {"members": record.members, "calibration": composition.calibration}
        for path in arguments.save:
            saved = ", ".join(map(str, save_as_reported(model, path, reported, composition.device, made_of)))
            print(f"saved {saved}; run on {len(reported.scores)} test images, it answers as reported")


def parse_arguments() -> argparse.Namespace:
    """The command line; complains where it does not say what to compose."""
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--take", action="append", default=[], metavar="MODEL:DATASET:CLASSES[@SET]", help="see above; may be repeated")
    add("--best_of", nargs="+", default=[], metavar="MODEL:DATASET", help="two or more, of the same classes")
    add("--whole", action="store_true", help="take whole models, not their modules")
    add("--one_network", type=float, metavar="SHARE", help="train a network of this share of each model's FLOPs")
    add("--images", metavar="NAME", help="a dataset in dataset_dir; the strong models' own by default")
    add("--calibration", choices=("fitted", "own"), help="how outputs become comparable")
    add("--class_map", default="", metavar="NEW=OLD,...", help="call the strong models' class OLD NEW")
    add("--name", help="of the JSON file; made of the models and classes by default")
    add("--save", action="append", default=[], type=Path, help="the classifier: .py (and .safetensors), or .onnx")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting of all configurations")
    add_quiet(parser)
    arguments = parser.parse_args()
    if bool(arguments.take) == bool(arguments.best_of):
        parser.error("expected --take, once or several times, or --best_of")
    if arguments.one_network is not None and not (0 < arguments.one_network <= 1 and not arguments.whole):
        parser.error("--one_network: expected a share above 0, up to 1, and no --whole")
    if arguments.name and not arguments.name.replace("_", "").replace("-", "").isalnum():
        parser.error(f"--name {arguments.name}: expected letters, digits, _ and -")
    if other := [path for path in arguments.save if path.suffix == ".pth"]:
        parser.error(f"--save {other[0]}: expected a name that ends with .py or .onnx")
    check_save_paths(arguments.save)
    return arguments


def opened(arguments: argparse.Namespace) -> Composition:
    """The sources that the command line names. Raises UserError where they are not there, or do not fit together."""
    option, texts = "--take", arguments.take
    if arguments.best_of:  # a comma may stand between sources, and between classes of one
        option, texts = "--best_of", re.split(r",(?=[^,:]+:)", ",".join(arguments.best_of))
    renamed, of_modules = parse_class_map(arguments.class_map), not arguments.whole and arguments.one_network is None
    sources = [open_source(text, option, arguments, renamed, of_modules=of_modules) for text in texts]
    if unknown := sorted(set(renamed.values()) - {name for source in sources for name in source.called}):
        raise UserError(f"--class_map: no strong model has a class {unknown[0]}")
    return Composition(
        sources,
        best_of=bool(arguments.best_of),
        images=arguments.images,
        keep_flops=arguments.one_network,
        calibration=arguments.calibration,
    )


def record_file(name: str | None, composition: Composition) -> RecordFile[ComposedRecord]:
    """The JSON file. Raises UserError, before any work, where that of another composition is there."""
    models = "+".join(dict.fromkeys(source.config.name for source in composition.sources))
    classes = "_".join(composition.classes)
    if len(models) + len(classes) > LONGEST_NAME:
        models, classes = models[: LONGEST_NAME - 20], f"{len(composition.classes)}_classes"
    named = name or re.sub(r"[^\w+-]", "_", f"{models}_{classes}")
    file = composing_files.record(composition.sources[0].stage.artifacts, named)
    there = file.load_if_there()
    if there and not composition.is_of(there):
        raise UserError(f"{file.path} is there, of another composition: give another --name, or move it away")
    return file


def show(record: ComposedRecord) -> None:
    """Print what the classifier is made of, and how it compares."""
    sources = ", ".join(dict.fromkeys(member["source"] for member in record.members.values()))
    print(f"{record.task}: {len(record.classes)} classes ({', '.join(record.classes)}) of {sources}")
    how = "fitted" if record.made_with["calibration"] == "fitted" else "standardised"
    print(f"rule: {how} on {record.images['valid']} validation images")
    print(
        f"{record.images['test']} test images; 95 % intervals of differences of accuracy, in percentage points; FLOPs "
        "of an image as a share of the strong models' together:"
    )
    show_table(HEADINGS, record.rows)


if __name__ == "__main__":
    run(main)
