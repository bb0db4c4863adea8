"""Publish the strong model and its modules that are here: in half precision, a few megabytes, for the repository.

    python experiments/results/publish_model.py --model simcnn_x0_25 --dataset cifar10

Writes published/MODEL_DATASET (or --folder), with what they are worth in half precision on the validation and test
images; scripts/take_published_model.py makes a strong model and modules of it again.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from result_log import commit_now
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.images import Images
from dataset.splits import image_order_of
from models import files as model_files
from models.evaluation import cpu_state, predict
from models.files import NetworkSettings
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import (
    build_strong_network,
    check_network_settings,
    load_strong_split,
    load_weights,
    strong_graph,
)
from modules.module import Tuning, extract_modules
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import add_modules_option, evaluate_set, open_set
from modules.published import TOP, PublishedModel, check_can_publish, in_half_precision, load_published, save_published
from patching.as_reported import checked_places, differs, tolerance_on
from search.gradient import files as gradient_files
from utils.errors import UserError, run
from utils.given_places import written_aside


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where to; default: published/MODEL_DATASET of the project")
    add_modules_option(parser)
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    folder = arguments.folder or TOP / stage.config.name
    config, chosen = stage.config, open_set(stage.config, stage.artifacts, arguments.modules)
    found = chosen.record
    if found.parent or "fine_tuned" in found.search:
        raise UserError(
            f"module set {chosen.name} is fine-tuned, and published modules are cut from the strong model: "
            "give another --modules SET"
        )
    check_network_settings(config, stage.artifacts)
    check_can_publish(folder, stage.artifacts.folder)
    split = load_strong_split(config, stage.artifacts)
    network = build_strong_network(config)
    load_weights(network, model_files.entire_model(stage.artifacts))
    weights = in_half_precision(cpu_state(network))
    network.load_state_dict(weights)
    masks, tuning = modules_here(stage, chosen)
    strong = strong_graph(config, network, stage.device)
    modules = extract_modules(strong, masks, tuning)
    search = {**found.search, "published_of_commit": commit_now()}
    report = evaluate_set(strong, modules, masks, chosen.target_classes, split, stage.device, search)
    trained_on = model_files.trained_on(stage.artifacts).load()
    images = image_order_of(split).hashes
    model = PublishedModel(weights, masks, tuning, NetworkSettings.of(config), trained_on, images, report)
    with written_aside(folder) as aside:
        save_published(aside, model)
        check_answers_again(stage, aside, [strong.network, *modules], split.test)
    show_module_set(report)
    for name in ("valid_right_strong", "valid_right_composed", "test_right_strong", "test_right_composed"):
        print(f"{name}: {getattr(found, name)} in full precision, {getattr(report, name)} as published")
    print(f"saved {folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB")


def check_answers_again(stage: Stage, folder: Path, networks: Sequence[nn.Module], images: Images) -> None:
    """Raises UserError where a published model, taken from its folder, answers a sample of images differently.

    `networks` are those that were evaluated: the strong model's, then the modules in the order of their classes.
    """
    published = load_published(folder)
    network = build_strong_network(stage.config)
    network.load_state_dict(published.weights)
    strong = strong_graph(stage.config, network, stage.device)
    again = [strong.network, *extract_modules(strong, published.masks, published.tuning)]
    some = images.take(checked_places(len(images)))
    expected, found = (
        np.concatenate([predict(network, some, stage.device).numpy() for network in each], 1)
        for each in (networks, again)
    )
    if different := int(differs(found, expected, tolerance_on(stage.device)).sum()):
        raise UserError(
            f"{folder.parent}: the published model answers {different} of {len(some)} test images differently than "
            "reported; nothing was saved"
        )


def modules_here(stage: Stage, chosen: ModuleSet) -> tuple[np.ndarray, Tuning]:
    """The masks (classes, K) bool of a set's modules, and what was learned besides.

    Raises UserError where the gradient search's round that they are of is another one by now.
    """
    masks, found = chosen.masks(), chosen.record
    if found.search.get("method") != "gradient":
        return masks, Tuning(np.ones(masks.shape, np.float32), np.tile(np.float32([1, 0]), (len(masks), 1)))
    of_round, tuning = gradient_files.of_search(stage.artifacts).load(int(found.search["round"]), masks.shape)
    if not np.array_equal(of_round, masks):
        again = stage.artifacts.command("module_gradient_search.py")
        raise UserError(f"the modules are not those of round {found.search['round']}; make them again with: {again}")
    return masks, tuning


if __name__ == "__main__":
    run(main)
