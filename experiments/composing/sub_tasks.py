"""How accurate classifiers of some of a strong model's classes are, composed of its modules, over choices of classes.

    python experiments/composing/sub_tasks.py --model simcnn_x0_25 --dataset cifar10

Every network is run once on the validation and test images; choices of classes are then arithmetic. For each number of
classes it takes all choices, or --subsets of them at random, and prints the mean over the choices: the whole strong
model among all its classes, the same restricted to the chosen ones, the modules, and the modules with the rule that
scripts/compose.py fits, on all validation images and on 10 of each class; and the largest loss of one choice against
the restricted strong model. `scripts/compose.py --take` makes one of these classifiers.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing.rule import fitted
from models.evaluation import outputs_of
from models.graph import flops_of
from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_model, load_strong_split
from modules.module_sets import add_modules_option, open_set
from utils.errors import UserError, run
from utils.progress import progress
from utils.seeds import generator
from utils.tables import show_table

FEW = 10  # validation images of each class
COLUMNS = ("strong", "restricted", "modules", "fitted", f"fitted on {FEW} a class")
Outputs = dict[str, np.ndarray]  # labels (images,), strong and modules (images, classes)


def main() -> None:
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 3, 5, 8], help="how many classes")
    parser.add_argument("--subsets", type=int, default=40, help="choices of classes of each size, at most")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    config, device = stage.config, stage.device
    if not all(2 <= size <= config.num_classes for size in arguments.sizes):
        raise UserError(f"--sizes: expected numbers from 2 to {config.num_classes}, the strong model's classes")
    strong = load_strong_model(config, stage.artifacts, device)
    chosen = open_set(config, stage.artifacts, arguments.modules)
    modules, split = chosen.modules(device), load_strong_split(config, stage.artifacts)
    parts: dict[str, Outputs] = {}
    for part in ("valid", "test"):
        images = getattr(split, part)
        of_strong, *of_modules = outputs_of([strong.network, *modules], images, device)
        joined = torch.cat(of_modules, 1).numpy()
        parts[part] = {"labels": images.labels, "strong": of_strong.numpy(), "modules": joined}
    costs = [flops_of(module, strong.image_shape) / strong.flops for module in modules]
    print(
        f"module set {chosen.name}; test images; accuracies in percent, means over choices; losses in percentage points"
    )
    rows = [
        row_of(parts, costs, subsets_of(config.num_classes, size, arguments.subsets, stage.seed))
        for size in arguments.sizes
    ]
    headings = ["classes", "choices", *COLUMNS, "largest loss: modules", "fitted", "FLOPs, %"]
    show_table(headings, rows)


def subsets_of(classes: int, size: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """All choices of some of the classes, or `most` of them at random, sorted."""
    if math.comb(classes, size) <= max(most, 1000):
        every = list(itertools.combinations(range(classes), size))
        places = generator(seed, "choices", size).permutation(len(every))[:most]
        return sorted(every[place] for place in places)
    draws = generator(seed, "choices", size)
    found = {tuple(sorted(draws.choice(classes, size, replace=False).tolist())) for _ in range(most)}
    return sorted(found)


def row_of(parts: dict[str, Outputs], costs: Sequence[float], subsets: Sequence[tuple[int, ...]]) -> list[str | int]:
    """A row of the table, of choices of the same size."""
    accuracies = np.array(list(_accuracies(parts, subsets)))
    values = [*accuracies.mean(0), *(accuracies[:, [1]] - accuracies[:, 2:4]).max(0)]
    flops = np.mean([sum(costs[number] for number in subset) for subset in subsets])
    return [len(subsets[0]), len(subsets), *(f"{100 * value:.2f}" for value in values), f"{100 * flops:.0f}"]


def _accuracies(parts: dict[str, Outputs], subsets: Sequence[tuple[int, ...]]) -> Iterator[list[float]]:
    """Per choice the accuracy under COLUMNS."""
    for subset in progress(subsets, f"{len(subsets[0])} classes, choices"):
        classes = list(subset)
        chosen = [(part, np.isin(part["labels"], classes)) for part in parts.values()]
        valid, test = ({name: values[is_chosen] for name, values in part.items()} for part, is_chosen in chosen)
        labels, known = (np.searchsorted(classes, part["labels"]) for part in (test, valid))
        outputs, on_valid = test["modules"][:, classes], valid["modules"][:, classes]
        few = np.concatenate([np.flatnonzero(known == number)[:FEW] for number in range(len(classes))])
        of_one_model = [0] * len(classes)
        scores = (
            test["strong"][:, classes],
            outputs,
            fitted(on_valid, known, of_one_model).scores(outputs),
            fitted(on_valid[few], known[few], of_one_model).scores(outputs),
        )
        full = float((test["strong"].argmax(1) == test["labels"]).mean())
        yield [full, *(float((each.argmax(1) == labels).mean()) for each in scores)]


if __name__ == "__main__":
    run(main)
