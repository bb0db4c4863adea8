"""A target class's F1 after patching against the size of the module, for all that the searches have found.

    python experiments/trade_off/patch_trade_off.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak
    python experiments/trade_off/patch_trade_off.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak \\
        --target_class 3 --images test
    python experiments/trade_off/patch_trade_off.py --model simcnn_x0_25 --dataset digits_5 --modules gradient_tuned

Needs weak models of the target classes (all by default), and modules: `module_gradient_search.py --keep 0.1` gives some
of all sizes. The learned rule joins them. On the weak models' validation images, by which one chooses, F1 is that of
images that the rule was not fitted on (five folds); the test images are for the report. Next to the modules that
searches have found and those of all module sets (or of --modules SET alone) stand the weak model as it is, and the
controls. Writes patch_trade_off_IMAGES.csv, .png and .svg next to the weak models; behind IMAGES stand the set and the
classes that alone were measured.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.target_classes import HELP, chosen_classes
from models.evaluation import predict
from models.graph import GraphNetwork, flops_of
from models.opening import open_stage, stage_parser
from modules.module import as_answers, extract_modules
from modules.module_set import ModuleSet
from modules.module_sets import open_set
from patching import files as patch_files
from patching.cases import PatchCases
from patching.learned import held_out_answers
from patching.metrics import confusion_matrix, scores_of_target_class
from patching.rules import Given, Learned
from patching.weak_models import WeakKind
from report.figures import save_drawing
from report.figures_of_trade_off import (
    BEFORE,
    NO_MODULE,
    WHOLE_MODEL,
    PatchTradeOff,
    mean_f1,
    method_of,
    patch_trade_off_figure,
    ways_of,
)
from report.made_with import sets_here
from report.words import counted
from search.files import Found
from search.methods import METHODS
from utils.errors import run
from utils.progress import progress
from utils.tables import show_table

KINDS = {kind.option: kind for kind in WeakKind}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--exp_type", default="weak", choices=KINDS, help="which weak models; overly simple by default")
    parser.add_argument("--target_class", nargs="+", default=["all"], help=f"{HELP}; all by default")
    parser.add_argument("--target_epoch", default="best", help="of the weak model, as apply_patch.py takes it")
    parser.add_argument("--images", choices=("valid", "test"), default="valid", help="what to measure on")
    parser.add_argument("--modules", metavar="SET", help="measure this module set alone (scripts/list_modules.py)")
    arguments = parser.parse_args()
    stage, kind = open_stage(arguments), KINDS[arguments.exp_type]
    target_classes = chosen_classes(arguments.target_class, stage.config)
    cases = PatchCases(stage, kind)
    if arguments.modules:
        searched, sets = [], [open_set(stage.config, stage.artifacts, arguments.modules, target_classes)]
    else:
        searched = [(name, found) for name, method in METHODS.items() for found in method.candidates(stage)]
        sets = sets_here(stage.config, stage.artifacts)
    given = {found.answer for _, found in searched} | {each.record.answer for each in sets}
    if len(given) > 1:
        print("some modules give log-odds, others logits: the whole strong model is measured by its logit")
    answer = given.pop() if len(given) == 1 else "logit"
    points = []
    for target_class in progress(target_classes, "patching, weak models"):
        weak = WeakModel(cases, target_class, arguments.target_epoch, arguments.images)
        points += [*weak.controls(answer), *weak.by_searches(searched), *weak.by_sets(sets)]
    show(points)
    images = {"valid": "validation images (by folds), to choose by", "test": "test images"}[arguments.images]
    count = counted(len(target_classes), "target class", "target classes")
    title = f"{stage.config.name}, {kind.option} models, {count}\n{images}"
    only = [arguments.modules] if arguments.modules else []
    if len(target_classes) < stage.config.num_classes:
        only.append("_".join(["class", *map(str, target_classes)]))
    path = patch_files.trade_off(stage.artifacts, kind, arguments.images, *only)
    drawing = patch_trade_off_figure(points, title)
    save_drawing(drawing, path.with_suffix(""))
    print(f"\n{drawing.finding}\nsaved {path}, .png, .svg")


class WeakModel:
    """One weak model, and what becomes of it by modules of all sizes."""

    def __init__(self, cases: PatchCases, target_class: int, wanted_epoch: str, part: str) -> None:
        self.stage, self.strong, self.target_class, self.part = cases.stage, cases.strong, target_class, part
        weak, split = cases.weak_model(target_class, cases.epoch(target_class, wanted_epoch))
        self.images = {"valid": split.valid, "test": split.test}
        self.weak = {name: predict(weak, images, self.stage.device) for name, images in self.images.items()}
        self.classes, self.target = split.classes, len(split.classes) - 1

    def controls(self, answer: str) -> Iterator[PatchTradeOff]:
        """The weak model as it is, and patched without a module and with the whole strong model's `answer`."""
        yield self._point(BEFORE, 0.0, 0.0, 0.0, self.weak[self.part].argmax(1).numpy())
        yield self._patched(NO_MODULE, 0.0, 0.0, 0.0, None)
        logits = {part: predict(self.strong.network, images, self.stage.device) for part, images in self.images.items()}
        whole = {part: as_answers(of_part, answer)[:, self.target_class] for part, of_part in logits.items()}
        yield self._patched(WHOLE_MODEL, 1.0, 1.0, 1.0, whole)

    def by_searches(self, searched: Sequence[tuple[str, Found]]) -> Iterator[PatchTradeOff]:
        """Patched with the target class's module of each candidate that has one."""
        for method, found in searched:
            targets = range(self.strong.num_classes) if found.target_classes is None else found.target_classes
            if self.target_class in targets:
                place = targets.index(self.target_class)
                rows = slice(place, place + 1)
                weights = found.weights and found.weights[rows]
                (module,) = extract_modules(self.strong, found.masks[rows], [self.target_class], weights)
                # Searches of one class each are one way to patch; two of several classes may both have this one.
                name = (
                    f"{method}, one class" if len(targets) == 1 else method_of(method, targets, self.strong.num_classes)
                )
                yield self._of_module(name, float(found.masks.mean()), float(found.masks[place].mean()), module)

    def by_sets(self, sets: Sequence[ModuleSet]) -> Iterator[PatchTradeOff]:
        """Patched with the target class's module of each set that has one."""
        for each in sets:
            if self.target_class in each.target_classes:
                kept, module = each.mask(self.target_class).mean(), each.module(self.target_class, self.stage.device)
                yield self._of_module(f"set {each.name}", each.record.kernel_share, float(kept), module)

    def _of_module(self, method: str, keep: float, kept: float, module: GraphNetwork) -> PatchTradeOff:
        outputs = {part: predict(module, images, self.stage.device)[:, 0] for part, images in self.images.items()}
        flops = flops_of(module, self.strong.image_shape) / self.strong.flops
        return self._patched(method, keep, kept, flops, outputs)

    def _patched(
        self, method: str, keep: float, kept: float, flops: float, outputs: dict[str, Tensor] | None
    ) -> PatchTradeOff:
        outputs = outputs or {part: logits.new_zeros(len(logits)) for part, logits in self.weak.items()}
        columns = {part: values[:, None] for part, values in outputs.items()}
        labels = self.images["valid"].labels
        given = Given(self.weak["valid"].numpy(), columns["valid"].numpy(), labels, (self.target,))
        if self.part == "valid":
            answers = held_out_answers(given.weak, given.outputs, given.labels, given.targets)
        else:
            answers = Learned.fit(given)(self.weak["test"], columns["test"]).argmax(1).numpy()
        return self._point(method, keep, kept, flops, answers)

    def _point(self, method: str, keep: float, kept: float, flops: float, answers: np.ndarray) -> PatchTradeOff:
        labels = self.images[self.part].labels
        scores = scores_of_target_class(confusion_matrix(labels, answers, self.target + 1), self.target)
        return PatchTradeOff(
            self.target_class,
            self.classes[self.target],
            method,
            keep,
            kernels_kept=kept,
            flops=flops,
            f1=scores.f1,
            others_accuracy=scores.others_accuracy,
            images=len(labels),
        )


def show(points: Sequence[PatchTradeOff]) -> None:
    """Print F1 of every target class in every way, and the mean."""
    names = list(dict.fromkeys(point.name for point in points))
    rows = []
    for method, keep in ways_of(points):
        of_way = [point for point in points if (point.method, point.keep) == (method, keep)]
        flops, others = (
            float(np.mean([getattr(point, name) for point in of_way])) for name in ("flops", "others_accuracy")
        )
        f1_of = {point.name: f"{100 * point.f1:.1f}" for point in of_way}  # not every class has every module
        rows.append(
            [
                f"{method}, {keep:.0%}" if 0 < keep < 1 else method,
                f"{flops:.1%}",
                *(f1_of.get(name, "") for name in names),
                f"{100 * mean_f1(points, method, keep):.1f}",
                f"{100 * others:.1f}",
            ]
        )
    print("F1 of the target class in percent:")
    show_table(["patched by, kernels", "FLOPs", *names, "mean", "others' accuracy"], rows)


if __name__ == "__main__":
    run(main)
