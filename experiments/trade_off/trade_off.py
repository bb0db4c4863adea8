"""Accuracy lost against kernels kept and FLOPs, of all that the searches have found, and of all module sets.

    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits
    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits --images test
    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits --method gradient
    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits --modules gradient gradient_tuned

Of the gradient search every round is shown (`module_gradient_search.py --max_loss 100` does all defaults), of the
genetic search its best ensemble, finished or not, with the settings that it recorded; of the sets those that
module_fine_tuner.py trained, too. The interval says how sure the points lost are (95 %, a paired bootstrap over the
images), McNemar's p whether modules differ from the most accurate ones of the table. On the test images of CIFAR-10 and
SVHN, SimCNN and ResCNN also get the mean of the paper. Writes data/MODEL_DATASET/trade_off_IMAGES.png, .svg and .csv;
of one method alone trade_off_IMAGES_method_METHOD, of some sets alone trade_off_IMAGES_sets_SET+SET. Choose by
validation images, on which the searches select, too; the test images are for the report.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.evaluation import count_nonzero, count_parameters
from models.graph import Graph
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import load_strong_model, load_strong_split
from modules.module import CutModules
from modules.module_set import ModuleSet
from modules.module_sets import open_set
from patching.confidence import accuracy_change, accuracy_p
from report import files as report_files
from report.figures import save_drawing
from report.figures_of_trade_off import (
    FINE_TUNED,
    MODULE_SET,
    PAPER,
    TradeOff,
    is_of_the_paper,
    method_of,
    trade_off_figure,
)
from report.made_with import sets_here
from search.judging import Judge
from search.methods import METHODS
from utils.errors import MissingFile, run
from utils.tables import known, show_table

IMAGES_IN_WORDS = {"valid": "validation images, on which the searches selected", "test": "test images"}
ALIKE = ("kernels_kept", "flops", "images", "distance", "auc_mean", "auc_least")  # a judgement's and a trade-off's
HEADINGS = (
    *("kernels kept", "FLOPs", "weights", "accuracy", "points lost", "interval", "p, best"),
    *("distance", "AUC", "least", "seconds"),
)


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--images", choices=("valid", "test"), default="valid", help="what to measure accuracy on")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--method", choices=METHODS, help="measure what this method has found alone")
    only.add_argument("--modules", nargs="+", default=[], metavar="SET", help="measure these module sets alone")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    sets = [open_set(stage.config, stage.artifacts, name, ()) for name in arguments.modules]  # before any work
    images = getattr(load_strong_split(stage.config, stage.artifacts), arguments.images)
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    found = list(points_of(stage, strong, Judge(strong, images, stage.device), arguments.method, sets))
    if not found:
        raise MissingFile(
            f"{stage.artifacts.folder}: no search has found modules; first run: "
            f"{stage.artifacts.command(METHODS[arguments.method or 'gradient'].script)}"
        )
    points = compared(found, images.labels)
    if arguments.images == "test" and is_of_the_paper(stage.config):
        points.append(PAPER)
    show_table(["method", "target", *HEADINGS], [row_of(point) for point in points])
    title = f"{stage.config.name}, {len(images):,} {IMAGES_IN_WORDS[arguments.images]}"
    of_sets = ("sets", "+".join(arguments.modules)) if arguments.modules else ()  # no set's name has a +
    alone = ("method", arguments.method) if arguments.method else of_sets
    path = report_files.trade_off(stage.artifacts, arguments.images, *alone)
    save_drawing(trade_off_figure(points, title), path.with_suffix(""))
    print(f"\nsaved {path}, .png, .svg")


def compared(found: Sequence[tuple[TradeOff, np.ndarray]], labels: np.ndarray) -> list[TradeOff]:
    """The modules, each with McNemar's p of its predictions (images,) and those of the most accurate ones."""
    _, best = max(found, key=lambda each: each[0].right)
    return [replace(point, p_best=accuracy_p(labels, best, predictions)) for point, predictions in found]


def points_of(
    stage: Stage, strong: Graph, judge: Judge, only_method: str | None, only_sets: Sequence[ModuleSet]
) -> Iterator[tuple[TradeOff, np.ndarray]]:
    """All candidates of all methods, then all sets; or one method's, or some sets, alone. See `measured`."""
    parameters = count_parameters(strong.network)
    methods = [] if only_sets else [METHODS[only_method]] if only_method else METHODS.values()
    for method in methods:
        for found in method.candidates(stage):
            targets = range(strong.num_classes) if found.target_classes is None else found.target_classes
            modules = CutModules(strong, found.masks, targets, found.weights)
            name = method_of(method.name, targets, strong.num_classes)  # a line of the figure joins those of one name
            yield measured(
                judge, parameters, name, found.words, modules, found.masks, targets, found.answer, found.seconds
            )
    for each in only_sets or ([] if only_method else sets_here(stage.config, stage.artifacts)):
        search, of_set = (
            each.record.search,
            (each.modules(stage.device), each.masks(), each.target_classes, each.record.answer),
        )
        tuned = search.get("fine_tuned", {})
        seconds = search.get("seconds", math.nan) + tuned.get("seconds", 0.0)
        name = method_of(FINE_TUNED if tuned else MODULE_SET, each.target_classes, strong.num_classes)
        yield measured(judge, parameters, name, each.name, *of_set, seconds)


def measured(
    judge: Judge,
    parameters: int,
    method: str,
    target: str,
    modules: Sequence[nn.Module],
    masks: np.ndarray,
    target_classes: Sequence[int],
    answer: str,
    seconds: float,
) -> tuple[TradeOff, np.ndarray]:
    """Evaluate modules on the images, given their masks (modules, K) and the strong model's number of parameters.

    Also returns the classes (images,) that they predict.
    """
    found, predictions = judge.with_predictions(modules, masks, target_classes, answer)
    low, high = accuracy_change(judge.labels, predictions, judge.strong_predictions)
    point = TradeOff(
        method=method,
        target=target,
        points_lost=100 * (found.right_strong - found.right_composed) / found.images,
        right=found.right_composed,
        seconds=seconds,
        weights=float(np.mean([count_nonzero(module) for module in modules])) / parameters,
        lost_low=100 * low,
        lost_high=100 * high,
        **{name: getattr(found, name) for name in ALIKE},
    )
    return point, predictions


def row_of(point: TradeOff) -> list[str]:
    """A line of the table."""
    return [
        point.method,
        point.target,
        f"{point.kernels_kept:.1%}",
        known(point.flops, ".1%"),
        known(point.weights, ".1%"),
        f"{point.right / point.images:.2%} ({point.right})" if point.images else "",
        f"{point.points_lost:.2f}",
        "" if math.isnan(point.lost_low) else f"{point.lost_low:.1f} to {point.lost_high:.1f}",
        known(point.p_best, ".2g"),
        *(known(value, ".4f") for value in (point.distance, point.auc_mean, point.auc_least)),
        known(point.seconds, ".0f"),
    ]


if __name__ == "__main__":
    run(main)
