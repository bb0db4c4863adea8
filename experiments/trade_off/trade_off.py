"""Accuracy lost against kernels kept and FLOPs, for every round of the gradient search, beside the genetic search.

    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits
    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits --images test
    python experiments/trade_off/trade_off.py --model simcnn_x0_25 --dataset digits --only fine-tuned

Needs module_gradient_search.py to have gone down its rounds (`--keep 0.3` does all of the defaults). Next to them are
shown, where they exist, the modules that module_fine_tuner.py trained and those of a genetic search of the same model,
finished or not, with the settings that it recorded. On the test images of CIFAR-10 and SVHN, SimCNN and ResCNN also get
the mean of the paper. Writes data/MODEL_DATASET/trade_off_IMAGES.png, .svg and .csv. Choose by validation images, on
which the searches select, too; the test images are for the report.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.labelled_images import Images
from models.graph import Graph, flops_of
from models.opening import open_stage
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split
from models.training import count_right, predict
from modules import files as module_files
from modules.composed_model import ComposedModel
from modules.jaccard import mean_pairwise_distance
from modules.module import Tuning, extract_modules
from modules.on_disk import load_kernel_mask, load_modularization, load_module
from modules.own_class import auc_by_class
from report import files as report_files
from report.figures import save_drawing
from report.figures_of_trade_off import PAPER, TradeOff, is_of_the_paper, trade_off_figure
from report.made_with import of_genetic
from search.genetic import files as genetic_files
from search.genetic.generations import open_search
from search.genetic.log import best_generation
from search.genetic.scoring import ensemble_masks
from search.gradient import files as gradient_files
from search.gradient.log import asked_for
from search.gradient.rounds import check_strong_model, load_round
from utils.errors import UserError, run
from utils.files import missing
from utils.stage import Stage, stage_parser
from utils.tables import show_table

IMAGES_IN_WORDS = {"valid": "validation images, on which the searches selected", "test": "test images"}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--images", choices=("valid", "test"), default="valid", help="what to measure accuracy on")
    parser.add_argument("--only", choices=WAYS, help="measure these modules alone; all by default")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    images = getattr(load_strong_split(stage.config, stage.artifacts), arguments.images)
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    measure = Measure(stage, strong, images)
    ways = WAYS if arguments.only is None else {arguments.only: WAYS[arguments.only]}
    points = [point for points_of, _ in ways.values() for point in points_of(stage, measure)]
    if not points:
        made_by = stage.artifacts.command(ways[arguments.only][1])
        raise UserError(
            f"--only {arguments.only}: {stage.artifacts.folder} has no such modules; to make them: {made_by}"
        )
    if arguments.images == "test" and is_of_the_paper(stage.config):
        points.append(PAPER)
    show_table(
        [
            "method",
            "asked for",
            "kernels kept",
            "FLOPs",
            "accuracy",
            "points lost",
            "distance",
            "AUC",
            "least",
            "seconds",
        ],
        [
            [
                point.method,
                point.target,
                f"{point.kernels_kept:.1%}",
                known(point.flops, ".1%"),
                f"{point.right / point.images:.2%} ({point.right})" if point.images else "",
                f"{point.points_lost:.2f}",
                *(known(value, ".4f") for value in (point.distance, point.auc_mean, point.auc_least)),
                known(point.seconds, ".0f"),
            ]
            for point in points
        ],
    )
    title = f"{stage.config.name}, {len(images):,} {IMAGES_IN_WORDS[arguments.images]}"
    path = report_files.trade_off(stage.artifacts, arguments.images)
    save_drawing(trade_off_figure(points, title), path.with_suffix(""))
    print(f"\nsaved {path}, .png, .svg")


def gradient_points(stage: Stage, measure: "Measure") -> list[TradeOff]:
    """One per round. Raises UserError where no round is done."""
    artifacts = stage.artifacts
    rounds = gradient_files.log(artifacts).load_if_there()
    if not rounds:
        command = artifacts.command("module_gradient_search.py", "--keep", "0.3")
        raise missing(gradient_files.log(artifacts).path, command)
    check_strong_model(artifacts)
    points, seconds = [], 0.0
    for number, row in enumerate(rounds):
        seconds += row.seconds
        masks, tuning = load_round(artifacts, row.number, stage.config.num_classes, measure.kernels)
        points.append(measure.masks("gradient", asked_for(rounds, number), masks, tuning, seconds))
    return points


def fine_tuned_points(stage: Stage, measure: "Measure") -> list[TradeOff]:
    """The modules that are there, if they are fine-tuned; their seconds are the search's and the training's."""
    artifacts, classes = stage.artifacts, range(stage.config.num_classes)
    if not module_files.report(artifacts).exists():
        return []
    search = load_modularization(stage.config, artifacts).search
    if "fine_tuned" not in search:
        return []
    tuned, target = search["fine_tuned"], search.get("asked_for", search["method"])
    modules = [load_module(stage.config, artifacts, target_class, stage.device) for target_class in classes]
    masks = np.stack([load_kernel_mask(stage.config, artifacts, target_class) for target_class in classes])
    seconds = search.get("seconds", math.nan) + tuned["seconds"]
    return [measure.modules("fine-tuned", f"{target}, {tuned['steps']} steps", modules, masks, seconds)]


def genetic_points(stage: Stage, measure: "Measure") -> list[TradeOff]:
    """The best ensemble of the genetic search, where there is one."""
    rows = genetic_files.log(stage.artifacts).load_if_there()
    if not rows:
        return []
    made_with = of_genetic(stage.config, stage.artifacts)  # which need not be what this script was given
    search = open_search(dataclasses.replace(stage, config=dataclasses.replace(stage.config, **made_with.settings)))
    row = best_generation(rows)
    search.record_settings()  # importance that was measured again would tell other kernels
    masks = ensemble_masks(search, row.generation, row.ensemble)
    seconds = sum(earlier.seconds for earlier in rows)
    target = f"generation {row.generation} of {len(rows) - 1}"
    return [measure.masks("genetic", target, masks, None, seconds)]


# How modules are found: what measures them, and what makes them.
WAYS = {
    "gradient": (gradient_points, "module_gradient_search.py"),
    "fine-tuned": (fine_tuned_points, "module_fine_tuner.py"),
    "genetic": (genetic_points, "scripts/run_module_search.py"),
}


class Measure:
    """Compares sets of modules with the strong model that they are of, on the same images."""

    def __init__(self, stage: Stage, strong: Graph, images: Images) -> None:
        self.strong, self.images, self.device = strong, images, stage.device
        self.kernels = strong.units.num_kernels
        self.flops, self.right = strong.flops, count_right(self._logits(strong.network), images.labels)

    def masks(self, method: str, target: str, masks: np.ndarray, tuning: Tuning | None, seconds: float) -> TradeOff:
        """The modules of masks (classes, K), and of what was learned beside them, where anything was."""
        return self.modules(method, target, extract_modules(self.strong, masks, tuning), masks, seconds)

    def modules(
        self, method: str, target: str, modules: Sequence[nn.Module], masks: np.ndarray, seconds: float
    ) -> TradeOff:
        """Modules as they are, and the masks (classes, K) that they were cut by."""
        logits, labels = self._logits(ComposedModel(modules)), self.images.labels
        right, auc = count_right(logits, labels), auc_by_class(logits.numpy(), labels)
        return TradeOff(
            method=method,
            target=target,
            kernels_kept=float(masks.mean()),
            flops=float(np.mean([flops_of(module, self.strong.image_shape) for module in modules])) / self.flops,
            points_lost=100 * (self.right - right) / len(self.images),
            right=right,
            images=len(self.images),
            distance=mean_pairwise_distance(masks),
            seconds=seconds,
            auc_mean=float(np.nanmean(auc)),
            auc_least=float(np.nanmin(auc)),
        )

    def _logits(self, network: nn.Module) -> Tensor:
        return predict(network, self.images, self.device)


def known(value: float, form: str) -> str:
    """A number in a form; nothing for one that is not known."""
    return "" if math.isnan(value) else format(value, form)


if __name__ == "__main__":
    run(main)
