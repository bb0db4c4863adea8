"""Publish the strong model and its modules that are here: in half precision, for the repository.

    python experiments/results/publish_model.py --model simcnn_x0_25 --dataset cifar10

Writes published/MODEL_DATASET (or --folder), with what they are worth in half precision on the validation and test
images; scripts/take_published_model.py makes a strong model and modules of it again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
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
from modules.module_set import show_module_set
from modules.module_sets import add_modules_option, evaluate_set, open_set
from modules.published import (
    TOP,
    PublishedModel,
    check_can_publish,
    in_half_precision,
    joined,
    load_published,
    save_published,
)
from patching.as_reported import checked_places, differs, tolerance_on
from utils.device import commit
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
    check_network_settings(config, stage.artifacts)
    check_can_publish(folder, stage.artifacts.folder)
    split = load_strong_split(config, stage.artifacts)
    network = build_strong_network(config)
    load_weights(network, model_files.entire_model(stage.artifacts))
    weights = in_half_precision(cpu_state(network))
    network.load_state_dict(weights)
    strong, found = strong_graph(config, network, stage.device), chosen.record
    masks, modules = chosen.masks(), chosen.modules(stage.device)
    of_modules = [in_half_precision(cpu_state(module)) for module in modules]
    for module, state in zip(modules, of_modules, strict=True):
        module.load_state_dict(state)
    search = {**found.search, "published_of_commit": commit()}
    report = evaluate_set(strong, modules, masks, chosen.target_classes, split, stage.device, search, found.answer)
    report = replace(report, parent=found.parent)
    trained_on = model_files.trained_on(stage.artifacts).load()
    images = image_order_of(split).hashes
    settings = NetworkSettings.of(config)
    model = PublishedModel(weights, masks, joined(of_modules), settings, trained_on, images, report)
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
    again = [strong.network, *published.modules(strong)]
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


if __name__ == "__main__":
    run(main)
