"""A patch compared with what a user may do instead with the same images: metrics, cost, intervals of the difference.

    python experiments/trade_off/patch_baselines.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak
    python experiments/trade_off/patch_baselines.py --model simcnn_x0_25 --dataset cifar10 --exp_type weak \\
        --target_class bird --modules gradient --epochs 40

Needs the weak models that experiments/patch/patch_for_weak_model/train.py trains, and a module set. The learned rule
joins a weak model and a module. Compared with it, on the test images, are the weak model

- as it is; with a temperature and a bias per class (label shift); recalibrated by the learned rule without a module;
- fine-tuned (--epochs), all layers or the last one, on its own training images and as many of the target class;
- with a network as small as the module that begins with random weights and is trained on the same images
  (`fine_tuning_steps`), to tell the target class from the others or to give what the module was trained to give;
- with all logits of the strong model, by multinomial logistic regression (stacking), or by the learned rule with the
  strong model's logit (or log-odds, if the module gives these) of the target class;
- with the module, by MODA's linear layer on training images.

Writes baselines_SET_epoch_E.json next to each weak model. Seconds are of this process; FLOPs count a multiply-add as 2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing.controls import stacked
from dataset.images import Images
from dataset.target_classes import HELP, chosen_classes
from models.evaluation import predict
from models.graph import GraphNetwork, flops_of
from models.opening import open_stage, stage_parser
from modules.module import module_of_weights
from modules.module_sets import add_modules_option, open_set
from patching import files as patch_files
from patching.baselines import EPOCHS, Way, fine_tuned, fine_tuning, label_shift, linear, timed
from patching.cases import PatchCase, PatchCases
from patching.confidence import Change, better_and_worse
from patching.from_arrays import fit_patch
from patching.weak_models import WeakKind
from patching.weak_training import weak_settings
from search.gradient.goal import Goal, unexplained
from search.gradient.groups import train_in_groups
from search.gradient.trainer import ModuleTraining, fine_tuning_settings
from utils.device import core_threads
from utils.errors import UserError, run
from utils.tables import show_table

KINDS = {kind.option: kind for kind in WeakKind}
PATCH = "patch (learned rule)"


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--exp_type", default="weak", choices=KINDS, help="which weak models; overly simple by default")
    parser.add_argument("--target_class", nargs="+", default=["all"], help=f"{HELP}; all by default")
    parser.add_argument("--target_epoch", default="best", help="of the weak model, as apply_patch.py takes it")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of fine-tuning; default: {EPOCHS}")
    add_modules_option(parser)
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        raise UserError(f"--epochs {arguments.epochs}: expected at least 1")
    stage, kind = open_stage(arguments), KINDS[arguments.exp_type]
    target_classes = chosen_classes(arguments.target_class, stage.config)
    modules = open_set(stage.config, stage.artifacts, arguments.modules, target_classes)
    cases = PatchCases(stage, kind, modules)
    cases.check(target_classes, arguments.target_epoch)
    records = {}
    for target_class in target_classes:
        case = cases.load(target_class, arguments.target_epoch)
        ways, labels, target = ways_of(cases, case, arguments.epochs), case.test.labels, len(case.classes) - 1
        records[case.classes[-1]] = {name: way.record(labels, target, ways[PATCH]) for name, way in ways.items()}
        file = patch_files.baselines(stage.artifacts, modules.name, kind, target_class, case.epoch)
        ways_here = records[case.classes[-1]]
        file.save({"modules": modules.name, "test_images": len(labels), "classes": case.classes, "ways": ways_here})
        print(f"target class {target_class} ({case.classes[-1]}), {len(labels)} test images; in percent and points:")
        show([ways_here])
        print(f"saved {file.path}\n", flush=True)
    if len(records) > 1:
        print(f"mean over {len(records)} target classes; significant differences of F1, counted:")
        show(list(records.values()))


def ways_of(cases: PatchCases, case: PatchCase, epochs: int) -> dict[str, Way]:
    """The patch, and what it is compared with, by name."""
    stage, strong, valid, test = cases.stage, cases.strong, case.valid, case.test
    if valid is None or test is None:
        raise ValueError("expected a case whose networks were evaluated")
    # As many images of the target class as of each other one, however few the weak model has seen.
    split, target = dataclasses.replace(cases.data, target_images=0).split_for(case.target_class), len(case.classes) - 1
    of_weak, of_module = flops_of(case.weak, strong.image_shape), flops_of(case.module, strong.image_shape)
    fitted_on, learned_on = len(valid.labels), len(split.train)

    def by_rule(of_valid: np.ndarray, of_test: np.ndarray, flops: int) -> Way:
        """The learned rule on the weak logits and one more number (images,) of each image."""

        def answers() -> np.ndarray:
            patch = fit_patch(valid.weak, {target: of_valid}, valid.labels)
            return patch(test.weak, {target: of_test}).argmax(1)

        return timed(answers, flops, fitted_on * flops)

    def tuned(last_layer: bool) -> Way:
        more: dict[str, Any] = {"device": stage.device, "dtype": stage.dtype, "seed": stage.seed}
        settings = fine_tuning(weak_settings(stage.config, cases.kind), epochs)
        passes = (1 if last_layer else 3) * epochs
        return timed(
            lambda: fine_tuned(case.weak, split, settings, last_layer=last_layer, **more),
            of_weak,
            of_weak * (passes * learned_on + epochs * fitted_on),
        )

    def stack() -> np.ndarray:
        valid_logits, test_logits = (
            np.concatenate([of_part.weak, predict(strong.network, images, stage.device).numpy()], 1)
            for of_part, images in ((valid, split.valid), (test, split.test))
        )
        return np.asarray(stacked(valid_logits, valid.labels, test_logits, stage.seed))

    def linear_layer() -> np.ndarray:
        weak, module = (predict(each, split.train, stage.device).numpy() for each in (case.weak, case.module))
        said = {"train": (weak, module[:, 0]), "valid": (valid.weak, valid.modules[target])}
        said["test"] = test.weak, test.modules[target]
        outputs = {part: np.column_stack([logits[:, :target], own]) for part, (logits, own) in said.items()}
        labels = {"train": split.train.labels, "valid": valid.labels, "test": test.labels}
        return linear(outputs, labels, stage.device, stage.seed)

    def trained_alone(distillation: float) -> Way:
        """The learned rule on the outputs of a network as small as the module, with random weights at first."""
        goal = OneClass(distillation, 0, answer=cases.modules.record.answer, label=target)
        settings = fine_tuning_settings(stage.config)

        def answers() -> np.ndarray:
            network = one_class_network(cases, case, goal, split.train)
            of_valid, of_test = (
                predict(network, images, stage.device).numpy()[:, 0] for images in (split.valid, split.test)
            )
            return by_rule(of_valid, of_test, both).answers

        of_image = 3 * of_module + bool(distillation) * strong.flops
        return timed(answers, both, settings.steps * settings.batch_size * of_image + fitted_on * both)

    both, all_logits = of_weak + of_module, of_weak + strong.flops
    nothing = np.zeros(fitted_on), np.zeros(len(test.labels))
    return {
        PATCH: by_rule(valid.modules[target], test.modules[target], both),
        "weak model as it is": Way(test.weak.argmax(1), of_weak, 0, 0.0),
        "label shift": timed(lambda: label_shift(valid.weak, valid.labels, test.weak), of_weak, fitted_on * of_weak),
        "no module (learned rule)": by_rule(*nothing, of_weak),
        "fine-tuned": tuned(last_layer=False),
        "fine-tuned, last layer": tuned(last_layer=True),
        "one-class network, from scratch": trained_alone(0),
        "one-class network, distilled": trained_alone(1),
        "linear layer (MODA)": timed(linear_layer, both, learned_on * both),
        "whole strong model (learned rule)": by_rule(valid.strong[target], test.strong[target], all_logits),
        "stacking, all logits": timed(stack, all_logits, fitted_on * all_logits),
    }


@dataclasses.dataclass(frozen=True)
class OneClass(Goal):
    """The goal of a network that knows one class: its `label`, or the strong model's answer, by `distillation`."""

    label: int = 0

    def loss(
        self,
        logits: Tensor,
        classes: Sequence[int],
        labels: Tensor,
        strong_logits: Tensor,
        of_step: Tensor | None = None,
    ) -> Tensor:
        """Binary cross-entropy, and the unexplained share of the answer; arguments are those of `Goal.loss`."""
        against_all = F.binary_cross_entropy_with_logits(logits[:, 0], (labels == self.label).float())
        target = self.answers(strong_logits, classes)
        of_all = target if of_step is None else self.answers(of_step, classes)
        of_answer = unexplained(logits, target, dim=1, of_all=of_all)
        return (1 - self.distillation) * against_all + self.distillation * of_answer


def one_class_network(cases: PatchCases, case: PatchCase, goal: OneClass, images: Images) -> GraphNetwork:
    """A network of the case's module's kernels, trained on images from random weights on.

    The random weights are drawn as in He et al., arXiv 1502.01852; batch norms begin as the identity.
    """
    stage, random = cases.stage, torch.Generator().manual_seed(cases.stage.seed)
    weights = {}
    for name, value in case.module.state_dict().items():
        if value.dim() > 1:
            weights[name] = torch.randn(value.shape, generator=random) * (2 / value[0].numel()) ** 0.5
        else:
            weights[name] = torch.full_like(value, name.endswith(("weight", "running_var")))
    training = ModuleTraining.on(
        stage.device, images, goal, fine_tuning_settings(stage.config), stage.dtype, stage.seed
    )
    with core_threads(stage.device) as workers:
        ((number, mask, trained),) = train_in_groups(
            cases.strong,
            [case.target_class],
            training,
            (1.0, 1.0),
            workers,
            begins=lambda _: (case.kernels, weights),
            what="one class alone",
        )
    return module_of_weights(cases.strong, mask, number, trained)


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """Print metrics and cost, the mean over weak models, and the patch minus each way.

    Of one weak model the intervals of the differences; of several how often the difference of F1 is significant.
    """
    headings = ["", "F1", "others' accuracy", "MFLOPs/image", "GFLOPs to fit", "s to fit", "patch minus this: F1"]
    rows = []
    for name in records[0]:
        of_way = [record[name] for record in records]
        differences = [Change.from_json(each["patch_minus_this"]) for each in of_way]
        better, worse = better_and_worse(differences, "f1")
        of_patch = np.mean([record[PATCH]["f1"] - record[name]["f1"] for record in records])
        sure = differences[0].in_words("f1") if len(records) == 1 else f"better {better}, worse {worse}"
        others = differences[0].in_words("others_accuracy") if len(records) == 1 else ""
        columns = (("f1", 100), ("others_accuracy", 100), ("flops_per_image", 1e-6), ("fit_flops", 1e-9))
        means = [f"{factor * np.mean([each[column] for each in of_way]):.1f}" for column, factor in columns]
        seconds = f"{np.mean([each['fit_seconds'] for each in of_way]):.1f}"
        rows.append([name, *means, seconds, "" if name == PATCH else f"{100 * of_patch:+.1f}: {sure}", others])
    if len(records) == 1:
        headings.append("others' accuracy")
    else:
        rows = [row[:-1] for row in rows]
    show_table(headings, rows)


if __name__ == "__main__":
    run(main)
