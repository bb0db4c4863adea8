"""Learn all modules' kernel masks by gradient, in place of the genetic search: it writes the same modules.

    python module_gradient_search.py --model simcnn_x0_25 --dataset digits
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --keep 0.4
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --max_loss 0.5

In rounds that keep fewer and fewer kernels (`mask_keeps`), each going on from the one before. --keep goes down to that
share, and lets the masks settle there for one round more; --max_loss goes down until the composed model loses more
points than that on the validation images, and takes the smallest modules within. Writes data/MODEL_DATASET/gradient,
and the modules. An interrupted search goes on when the same command is typed again. Published relatives: GradSplitter
(arXiv 2311.04438), SeaM (ICSE 2023).
"""

import argparse
import time
from dataclasses import asdict

import numpy as np

from dataset.datasets import Split, load_split
from dataset.images import normalise, to_device
from models.cnn import CNN, total_kernels
from models.strong_model import load_strong_model
from models.training import count_right, predict, progress_bar
from modules.jaccard import mean_pairwise_distance
from modules.modularization import save_modularization, show_modularization
from modules.population_outputs import population_outputs
from search.gradient.learner import STEPS_PER_STATE, MaskLearner, MaskSettings
from search.gradient.log import Round, describe, load_rounds, rounds_to_do, save_rounds, smallest_within
from utils.artifacts import CheckpointFile
from utils.core_threads import core_threads
from utils.errors import UserError, reason, run
from utils.files import damaged, set_aside, sha256_of
from utils.locks import held
from utils.recorded_settings import agree_on, fingerprint
from utils.stage import Stage, open_stage, stage_parser

MAX_LOSS = 1.0  # points, where neither option is given


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    with held(stage.artifacts.gradient_role):
        if arguments.fresh and stage.artifacts.gradient_folder.exists():
            print(f"the old search is now {set_aside(stage.artifacts.gradient_folder)}", flush=True)
        model = load_strong_model(stage.config, stage.artifacts, stage.device)
        split = load_split(stage.config)
        rounds = learn(stage, model, split, arguments.keep, arguments.max_loss)
        chosen = rounds[-1] if arguments.keep is not None else smallest_within(rounds, arguments.max_loss)
        save_modules(stage, model, split, rounds, chosen)


def learn(stage: Stage, model: CNN, split: Split, keep: float | None, max_loss: float) -> list[Round]:
    """Go down round by round, from where an earlier run ended, until `keep` is reached or more than `max_loss` lost."""
    config, artifacts = stage.config, stage.artifacts
    settings = MaskSettings(
        steps=config.mask_steps,
        batch_size=config.mask_batch_size,
        step_size=config.mask_step_size,
        distillation=config.mask_distillation,
        overlap=config.mask_overlap,
        mirror=config.mirror,
    )
    agree_on_settings(stage, settings, split)
    keeps = rounds_to_do(config.mask_keeps, keep)
    rounds = rounds_done(stage, keeps)
    truth = split.valid.labels
    valid = normalise(to_device(split.valid, stage.device)[0], stage.dtype)
    right_strong = count_right(predict(model, split.valid, stage.device, stage.dtype), truth)
    with core_threads(stage.device) as workers:
        pixels, labels = to_device(split.train, stage.device)
        learner = MaskLearner(model, pixels, labels, settings, dtype=stage.dtype, seed=stage.seed, workers=workers)
        go_on(learner, stage, keeps, len(rounds))
        while len(rounds) < len(keeps):
            if keep is None and rounds and rounds[-1].points_lost > max_loss:
                break
            start, so_far = time.perf_counter(), keeps[: len(rounds) + 1]
            learn_round(learner, stage, so_far)
            masks, logit_maps = save_round(learner, stage, so_far)
            outputs = population_outputs(model, masks, range(config.num_classes), valid)
            logits = outputs.T * logit_maps[:, 0] + logit_maps[:, 1]
            row = Round(
                number=len(rounds),
                keep=so_far[-1],
                kernels_kept=float(masks.mean()),
                distance=mean_pairwise_distance(masks),
                images=len(truth),
                right_strong=right_strong,
                right_composed=int((logits.argmax(1) == truth).sum()),
                steps=learner.steps_done,
                seconds=time.perf_counter() - start,
            )
            rounds.append(row)
            save_rounds(artifacts.gradient_log, rounds)  # last: a round is done when it is there
            artifacts.gradient_state.path.unlink(missing_ok=True)
            print(describe(row), flush=True)
    return rounds


def save_modules(stage: Stage, model: CNN, split: Split, rounds: list[Round], chosen: Round) -> None:
    """Cut the modules of a round out, write them and say how good they are."""
    artifacts, num_classes = stage.artifacts, stage.config.num_classes
    print(f"\nmodules of round {chosen.number}, which was to keep {100 * chosen.keep:g}%")
    masks = artifacts.gradient_kernels(chosen.number).load(num_classes, total_kernels(model.architecture))
    logit_maps = artifacts.gradient_logit_maps(chosen.number).load(num_classes, 2)
    search = {"method": "gradient", "round": chosen.number, "seconds": sum(row.seconds for row in rounds)}
    with held(artifacts.recorder_role):  # which writes modules too
        show_modularization(save_modularization(model, masks, split, stage, search, logit_maps))
    print(f"rounds: {len(rounds)}; seconds: {search['seconds']:.0f}; modules in {artifacts.module(0).path.parent}")


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for shares and points that cannot be."""
    parser = stage_parser(__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--keep", type=float, help="the share of the kernels to keep at the most, on average")
    target.add_argument(
        "--max_loss",
        type=float,
        default=MAX_LOSS,
        help=f"the points of validation accuracy to lose at the most; default: {MAX_LOSS:g}",
    )
    parser.add_argument("--fresh", action="store_true", help="set an earlier gradient search aside and start anew")
    arguments = parser.parse_args()
    if arguments.keep is not None and not 0 < arguments.keep <= 1:
        raise UserError(f"--keep {arguments.keep:g}: expected a share above 0, up to 1")
    if not -100 <= arguments.max_loss <= 100:
        raise UserError(f"--max_loss {arguments.max_loss:g}: expected points, from -100 to 100")
    return arguments


def agree_on_settings(stage: Stage, settings: MaskSettings, split: Split) -> None:
    """Raises UserError where the folder's rounds were made with others."""
    made_with = {
        **asdict(settings),
        "seed": stage.seed,
        "precision": stage.precision,
        "strong_model_sha256": sha256_of(stage.artifacts.entire_model.path),
        "train_images_crc32": fingerprint(split.train),
        "valid_images_crc32": fingerprint(split.valid),
    }
    again = stage.artifacts.command("module_gradient_search.py", "--fresh")
    agree_on(stage.artifacts.gradient_settings, made_with, again=again)


def rounds_done(stage: Stage, keeps: list[float]) -> list[Round]:
    """The rounds that are done, as far as they are those that are asked for now."""
    again = stage.artifacts.command("module_gradient_search.py", "--fresh")
    rounds = load_rounds(stage.artifacts.gradient_log, again)
    same = [row.keep == keep for row, keep in zip(rounds, keeps, strict=False)]
    return rounds[: same.index(False) if False in same else len(same)]


def go_on(learner: MaskLearner, stage: Stage, keeps: list[float], num_done: int) -> None:
    """Take up the state within the round to come, where one was written, else the state after the last round.

    Raises UserError for a file that holds no such state.
    """
    within = stage.artifacts.gradient_state
    if within.exists() and load_state(learner, within, keeps[: num_done + 1]):
        print(f"going on after step {learner.steps_done}", flush=True)
    elif num_done:
        last = stage.artifacts.gradient_round(num_done - 1)
        if not load_state(learner, last, keeps[:num_done]):
            raise damaged(last.path, last.made_by, f"expected the state after rounds to keep {keeps[:num_done]}")
        print(f"going on after round {num_done - 1}", flush=True)


def save_state(learner: MaskLearner, file: CheckpointFile, keeps: list[float]) -> None:
    """Write the state after, or within, the last of the rounds that went down to `keeps`."""
    file.save({"keeps": keeps, **learner.state()})


def load_state(learner: MaskLearner, file: CheckpointFile, keeps: list[float]) -> bool:
    """Go on from a file's state if it is one of these rounds. Raises UserError where it is not a state."""
    state = file.load()
    try:
        if list(state["keeps"]) != keeps:
            return False
        learner.load_state(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise damaged(file.path, file.made_by, f"not the state of such a search: {reason(error)}") from None
    return True


def learn_round(learner: MaskLearner, stage: Stage, keeps: list[float]) -> None:
    """The steps, as far as they are not done yet, of the round that goes down to the last of `keeps`."""
    before, keep = (1.0, *keeps)[-2:]
    steps = range(learner.steps_done, len(keeps) * stage.config.mask_steps)
    for step in progress_bar(steps, f"round {len(keeps) - 1}"):
        learner.step(before, keep)
        if (step + 1) % STEPS_PER_STATE == 0:
            save_state(learner, stage.artifacts.gradient_state, keeps)


def save_round(learner: MaskLearner, stage: Stage, keeps: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Write the state after the last of the rounds; write and return its masks (classes, K) and logit maps."""
    number, masks, logit_maps = len(keeps) - 1, learner.masks(keeps[-1]), learner.logit_maps()
    stage.artifacts.gradient_kernels(number).save(masks)
    stage.artifacts.gradient_logit_maps(number).save(logit_maps)
    save_state(learner, stage.artifacts.gradient_round(number), keeps)
    return masks, logit_maps


if __name__ == "__main__":
    run(main)
