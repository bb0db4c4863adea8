"""A target class's F1 after patching against the size of the module, for every round of the search for that module.

    python experiments/trade_off/patch_trade_off.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak
    python experiments/trade_off/patch_trade_off.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak \\
        --target_class 3 --images test

Needs weak models, and `module_gradient_search.py --for_patch --keep 0.1` for the target classes (all by default). The
learned rule joins them. On the weak models' validation images, by which one chooses, F1 is that of images that the rule
was not fitted on (five folds); the test images are for the report. Beside the rounds stand the weak model as it is, the
controls, and, where there are such, the module of the joint search and the one that `module_fine_tuner.py` trained.
Writes for_patch_trade_off_IMAGES.csv, .png and .svg beside the weak models.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.labelled_images import Images
from dataset.target_classes import HELP, chosen_classes
from models.graph import GraphNetwork, flops_of
from models.opening import open_stage
from models.training import predict
from modules import files as module_files
from modules.module import extract_modules
from modules.on_disk import load_kernel_mask, load_module
from patching import files as patch_files
from patching.cases import PatchCase, PatchCases
from patching.learned import held_out_answers
from patching.metrics import confusion_matrix, scores_of_target_class
from patching.rules import Learned
from patching.weak_models import WeakKind
from report.figures import save_drawing
from report.figures_of_patch_trade_off import (
    BEFORE,
    FINE_TUNED,
    FOR_PATCH,
    JOINT,
    NO_MODULE,
    WHOLE_MODEL,
    PatchTradeOff,
    mean_f1,
    patch_trade_off_figure,
)
from search.gradient import files as gradient_files
from search.gradient.rounds import check_strong_model, load_round
from utils.errors import run
from utils.files import missing
from utils.progress import progress
from utils.stage import stage_parser
from utils.tables import show_table

KINDS = {kind.option: kind for kind in WeakKind}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--exp_type", default="weak", choices=KINDS, help="which weak models; overly simple by default")
    parser.add_argument("--target_class", nargs="+", default=["all"], help=f"{HELP}; all by default")
    parser.add_argument("--target_epoch", default="best", help="of the weak model, as apply_patch.py takes it")
    parser.add_argument("--images", choices=("valid", "test"), default="valid", help="what to measure on")
    arguments = parser.parse_args()
    stage, kind = open_stage(arguments), KINDS[arguments.exp_type]
    target_classes = chosen_classes(arguments.target_class, stage.config)
    cases = PatchCases(stage, kind, for_patch=True)
    cases.check(target_classes, arguments.target_epoch)
    points = []
    for target_class in progress(target_classes, "patching, weak models"):
        case = cases.load(target_class, arguments.target_epoch)
        points += WeakModel(cases, case, arguments.images).points()
    show(points)
    images = {"valid": "validation images (by folds), to choose by", "test": "test images"}[arguments.images]
    title = f"{stage.config.name}, {kind.option} models, {len(target_classes)} target classes, {images}"
    path = patch_files.trade_off(stage.artifacts, kind, arguments.images)
    drawing = patch_trade_off_figure(points, title)
    save_drawing(drawing, path.with_suffix(""))
    print(f"\n{drawing.finding}\nsaved {path}, .png, .svg")


class WeakModel:
    """One weak model, and what becomes of it by modules of all sizes."""

    def __init__(self, cases: PatchCases, case: PatchCase, part: str) -> None:
        self.cases, self.case, self.part = cases, case, part
        self.target = len(case.classes) - 1
        split = cases.data.split_for(case.target_class)
        self.images: dict[str, Images] = {"valid": split.valid, "test": split.test}

    def points(self) -> Iterator[PatchTradeOff]:
        """Before, the controls, the joint search's module, and a module a round."""
        case, stage = self.case, self.cases.stage
        measured = getattr(case, self.part)
        yield self._point(BEFORE, 0.0, 0.0, 0.0, measured.weak.argmax(1).numpy())
        yield self._patched(NO_MODULE, 0.0, 0.0, 0.0, None)
        yield self._patched(WHOLE_MODEL, 1.0, 1.0, 1.0, {part: getattr(case, part).strong for part in self.images})
        if module_files.module(stage.artifacts, case.target_class).exists():
            module = load_module(stage.config, stage.artifacts, case.target_class, stage.device)
            kept = load_kernel_mask(stage.config, stage.artifacts, case.target_class).mean()
            yield self._of_module(JOINT, float(kept), float(kept), module)
        place, own = stage.artifacts, (case.target_class,)
        classes = own if gradient_files.log(place, own).exists() else ()  # else of the search of all classes
        file = gradient_files.log(place, classes)
        if not file.exists():
            raise missing(file.path, file.made_by)
        check_strong_model(place, classes)
        strong = self.cases.strong
        modules = classes or tuple(range(strong.num_classes))
        for row in {row.keep: row for row in file.load()}.values():  # of two of the same share the later, which settled
            masks, tuning = load_round(place, row.number, len(modules), strong.units.num_kernels, classes)
            module = extract_modules(strong, masks, tuning, modules)[modules.index(case.target_class)]
            yield self._of_module(FOR_PATCH, row.keep, float(masks[modules.index(case.target_class)].mean()), module)
        place = stage.artifacts.for_patch(case.target_class)
        known = module_files.report_for_patch(place).load_if_there()
        if known is not None and "fine_tuned" in known.search:
            module = load_module(stage.config, place, case.target_class, stage.device)
            kept = known.kernels_kept / known.kernels
            yield self._of_module(FINE_TUNED, kept, kept, module)

    def _of_module(self, method: str, keep: float, kept: float, module: GraphNetwork) -> PatchTradeOff:
        outputs = {part: predict(module, images, self.cases.stage.device)[:, 0] for part, images in self.images.items()}
        flops = flops_of(module, self.cases.strong.image_shape) / self.cases.strong.flops
        return self._patched(method, keep, kept, flops, outputs)

    def _patched(
        self, method: str, keep: float, kept: float, flops: float, outputs: dict[str, Tensor] | None
    ) -> PatchTradeOff:
        valid, test = self.case.valid, self.case.test
        of_valid = None if outputs is None else outputs["valid"]
        if self.part == "valid":
            columns = None if of_valid is None else of_valid[:, None]
            answers = held_out_answers(valid.weak, columns, valid.labels, [self.target])
        else:
            rule = Learned.fit(valid.weak, of_valid, valid.labels)
            of_test = test.weak.new_zeros(len(test.labels)) if outputs is None else outputs["test"]
            answers = rule(test.weak, of_test).argmax(1).numpy()
        return self._point(method, keep, kept, flops, answers)

    def _point(self, method: str, keep: float, kept: float, flops: float, answers: np.ndarray) -> PatchTradeOff:
        labels = getattr(self.case, self.part).labels
        scores = scores_of_target_class(confusion_matrix(labels, answers, self.target + 1), self.target)
        return PatchTradeOff(
            target_class=self.case.target_class,
            name=self.case.classes[self.target],
            method=method,
            keep=keep,
            kernels_kept=kept,
            flops=flops,
            f1=scores.f1,
            others_accuracy=scores.others_accuracy,
            images=len(labels),
        )


def show(points: list[PatchTradeOff]) -> None:
    """Print F1 of every target class in every way, and the mean."""
    keeps = list(dict.fromkeys(point.keep for point in points if point.method == FOR_PATCH))
    ways = [(BEFORE, None), (NO_MODULE, None), (WHOLE_MODEL, None), *((FOR_PATCH, keep) for keep in keeps)]
    if any(point.method == JOINT for point in points):
        ways.insert(3, (JOINT, None))
    if any(point.method == FINE_TUNED for point in points):
        ways.append((FINE_TUNED, None))
    names = list(dict.fromkeys(point.name for point in points))
    rows = []
    for method, keep in ways:
        of_way = [point for point in points if point.method == method and keep in (None, point.keep)]
        flops, others = (
            float(np.mean([getattr(point, name) for point in of_way])) for name in ("flops", "others_accuracy")
        )
        f1_of = {point.name: f"{100 * point.f1:.1f}" for point in of_way}  # not every class has every module
        rows.append(
            [
                method if keep is None else f"{method}, {keep:.0%}",
                f"{flops:.1%}",
                *(f1_of.get(name, "") for name in names),
                f"{100 * mean_f1(points, method, keep):.1f}",
                f"{100 * others:.1f}",
            ]
        )
    print("F1 of the target class in percent:")
    show_table(["patched by", "FLOPs", *names, "mean", "others' accuracy"], rows)


if __name__ == "__main__":
    run(main)
