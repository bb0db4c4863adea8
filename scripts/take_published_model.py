"""Take a published strong model and its modules: to patch a weak model at once, without training and searching.

    python scripts/take_published_model.py --model simcnn_x0_25 --dataset cifar10
    python scripts/patch_weak_model.py --model simcnn_x0_25 --dataset cifar10 --weak_logits my_logits --target_class cat

Reads published/MODEL_DATASET (or --folder), and needs no images. Writes what train.py and a search write to
data/MODEL_DATASET: the strong model, its modules, and what they are worth. Later stages compare the images that they
are given with those that the model was trained on.
"""

import argparse
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import Config
from models import files as model_files
from models.files import NetworkSettings
from models.graph import GraphNetwork
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import (
    build_strong_network,
    check_is_free,
    graph_of,
    load_weights,
    set_folder_aside,
)
from modules.module_set import show_module_set
from modules.module_sets import add_as_option, check_new_name, write_set
from modules.published import TOP, PublishedModel, load_published
from utils.artifacts import Role
from utils.errors import UserError, reason, run
from utils.files import check_writable
from utils.locks import held


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where from; default: published/MODEL_DATASET of the project")
    parser.add_argument("--fresh", action="store_true", help="set aside what is in the model's folder")
    add_as_option(parser, "published")
    arguments = parser.parse_args()
    check_new_name(arguments.as_name)
    stage = open_stage(arguments)
    role = model_files.training_role(stage.artifacts)
    with held(role):
        take(stage, role, arguments)


def take(stage: Stage, role: Role, arguments: argparse.Namespace) -> None:
    """Read the published model, and write the strong model and the modules, in this role."""
    config, artifacts = stage.config, stage.artifacts
    folder = arguments.folder or TOP / config.name
    model = load_published(folder)
    modules = modules_of(folder, model, config)
    if arguments.fresh:
        set_folder_aside(artifacts, role)
    else:
        check_is_free(artifacts)
    check_writable(artifacts.folder)
    model_files.network_settings(artifacts).save(NetworkSettings.of(config, graph_of(config)))
    model_files.trained_on(artifacts).save(model.trained_on)
    model_files.image_order(artifacts).save(model.images)
    file = model_files.entire_model(artifacts)
    file.save(model.weights)
    load_weights(build_strong_network(config), file)  # which checks that they fit
    name = arguments.as_name
    taken = write_set(config, artifacts, modules, model.masks, model.report, name=name, default_name="published")
    show_module_set(taken.record)
    print(f"\nstrong model and module set {taken.name} in {artifacts.folder}")


def modules_of(folder: Path, model: PublishedModel, config: Config) -> list[GraphNetwork]:
    """The modules. Raises UserError for a published model of another network than the configuration's."""
    if different := model.network.difference_from(NetworkSettings.of(config)):
        raise UserError(f"{folder} is of another network ({different}): expected that of {config.name}")
    try:
        if len(model.masks) != config.num_classes:
            raise ValueError(f"expected modules of {config.num_classes} classes")
        return model.modules(graph_of(config))
    except ValueError as error:
        raise UserError(
            f"the modules in {folder} are not of {config.network_name}: {reason(error)}; take its files again"
        ) from None


if __name__ == "__main__":
    run(main)
