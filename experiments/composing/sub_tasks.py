"""How accurate classifiers of some of a strong model's classes are, composed of its modules, over choices of classes.

    python experiments/composing/sub_tasks.py --model simcnn_x0_25 --dataset cifar10

Every network is run once on the validation and test images; choices of classes are then arithmetic. For each number of
classes it takes all choices, or --subsets of them at random, and prints the mean over the choices: the strong model
restricted to the chosen classes, the modules, and the modules with the rule that scripts/compose.py fits, on all
validation images and on 10 of each class; and the largest loss of one choice against the restricted strong model.
`scripts/compose.py --take` makes one of these classifiers. Writes data/MODEL_DATASET/sub_tasks_SET.csv.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing import files as composing_files
from composing.rule import fitted
from dataset.images import Images
from models.evaluation import outputs_of
from models.graph import flops_of
from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_model, load_strong_split
from modules.module_sets import add_modules_option, open_set
from utils.errors import UserError, run
from utils.files import save_text
from utils.progress import progress
from utils.seeds import generator
from utils.tables import csv_table, show_table

SIZES = (2, 3, 5, 8)
MOST_LISTED = 100_000  # choices of one size, of which some are drawn
FEW = 10  # validation images of each class
HEADINGS = ("classes", "choices", "restricted", "modules", "with the rule", f"fitted on {FEW} a class")
Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels (images,), of strong model and modules (images, classes)


def main() -> None:
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    parser.add_argument("--sizes", nargs="+", type=int, help=f"how many classes; default: {SIZES}")
    parser.add_argument("--subsets", type=int, default=40, help="choices of classes of each size, at most")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    config, device = stage.config, stage.device
    sizes = arguments.sizes or [size for size in SIZES if size <= config.num_classes]
    if not all(2 <= size <= config.num_classes for size in sizes):
        raise UserError(f"--sizes: expected numbers from 2 to {config.num_classes}, the strong model's classes")
    if arguments.subsets < 1:
        raise UserError(f"--subsets {arguments.subsets}: expected at least 1")
    strong = load_strong_model(config, stage.artifacts, device)
    chosen = open_set(config, stage.artifacts, arguments.modules)
    modules, split = chosen.modules(device), load_strong_split(config, stage.artifacts)

    def outputs(images: Images) -> Outputs:
        of_strong, *of_modules = outputs_of([strong.network, *modules], images, device)
        return images.labels, of_strong.numpy(), torch.cat(of_modules, 1).numpy()

    valid, test = outputs(split.valid), outputs(split.test)
    costs = np.array([flops_of(module, strong.image_shape) / strong.flops for module in modules])
    print(f"module set {chosen.name}; test images; means over choices in percent; losses in percentage points")
    rows = []
    for size in sizes:
        choices = choices_of(config.num_classes, size, arguments.subsets, stage.seed)
        rows.append(row_of(valid, test, costs, choices))
    headings = [*HEADINGS, "largest loss: modules", "with the rule", "FLOPs, %"]
    show_table(headings, rows)
    path = composing_files.sub_tasks(stage.artifacts, chosen.name)
    save_text(path, csv_table(headings, rows))
    print(f"saved {path}")


def choices_of(num_classes: int, size: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` different choices of `size` classes, sorted; all of them, if there are no more."""
    random = generator(seed, "choices", size)
    if math.comb(num_classes, size) <= MOST_LISTED:
        every = list(itertools.combinations(range(num_classes), size))
        return [every[place] for place in sorted(random.permutation(len(every))[:count])]
    found: set[tuple[int, ...]] = set()
    while len(found) < min(count, math.comb(num_classes, size)):
        found.add(tuple(sorted(random.choice(num_classes, size, replace=False).tolist())))
    return sorted(found)


def row_of(valid: Outputs, test: Outputs, costs: np.ndarray, choices: Sequence[tuple[int, ...]]) -> list[str | int]:
    """A row of the table, of choices of the same size; costs (classes,) of modules are shares of FLOPs."""
    found = np.array([accuracies(valid, test, each) for each in progress(choices, f"{len(choices[0])} classes")])
    losses = (found[:, :1] - found[:, 1:3]).max(0)
    numbers = [*found.mean(0), *losses]
    flops = np.mean([costs[list(choice)].sum() for choice in choices])
    return [len(choices[0]), len(choices), *(f"{100 * value:.2f}" for value in numbers), f"{100 * flops:.0f}"]


def accuracies(valid: Outputs, test: Outputs, choice: Sequence[int]) -> list[float]:
    """Those of the restricted strong model, the modules, and the modules with the rule of all and of few images."""
    classes = list(choice)
    (labels, strong, outputs), (known, _, on_valid) = (_of(part, classes) for part in (test, valid))
    few = np.concatenate([np.flatnonzero(known == number)[:FEW] for number in range(len(classes))])
    rules = [fitted(on_valid[some], known[some], [0] * len(classes)) for some in (slice(None), few)]
    scores = strong, outputs, *(rule.scores(outputs) for rule in rules)
    return [float((each.argmax(1) == labels).mean()) for each in scores]


def _of(part: Outputs, classes: list[int]) -> Outputs:
    labels, strong, modules = part
    some = np.isin(labels, classes)
    return np.searchsorted(classes, labels[some]), strong[some][:, classes], modules[some][:, classes]


if __name__ == "__main__":
    run(main)
