"""Take a trained model of your own over as the strong model, so that every later stage works on it.

    python scripts/import_model.py --model resnet18 --dataset flowers --checkpoint best.pth
    python scripts/import_model.py --model mine --dataset flowers --network my_network.py:build --checkpoint best.pth
    python scripts/import_model.py --model resnet18 --dataset flowers --checkpoint best.pth --set image_side=224

--model names the folder of its files, data/MODEL_DATASET, and is typed again at every later stage; the network is the
one called so (of ours or torchvision's), or what --network says: torchvision:NAME, timm:NAME or FILE.py:FUNCTION, which
runs as your own code. The weights are found in what people save (docs/your_network.md); nothing in a checkpoint is run.
Says how good the model is on your images, and which kernels modules can do without; writes entire_model.pth and
network.json. Images: docs/your_images.md.
"""

import argparse
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.labelled_images import Images, Split
from dataset.split_record import record_of
from dataset.splits import has_own_validation, load_split
from models import files as model_files
from models.checkpoints import load_foreign_checkpoint
from models.folder import check_is_free, set_folder_aside
from models.graph import Graph
from models.input_forms import CLEARLY, class_order, is_near_chance, try_forms
from models.inspection import show_cost, show_layers
from models.network_settings import NetworkSettings
from models.opening import open_stage
from models.strong_model import build_strong_network, trace_classifier
from models.training import count_right, predict
from models.weights import cpu_state
from utils.errors import UserError, run
from utils.files import check_writable
from utils.locks import held
from utils.stage import Stage, stage_parser

TRIED = 1000  # validation images that other forms of images are tried on


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of torch.save or safetensors")
    parser.add_argument("--checkpoint_key", help="where in it the weights are, if several fit: ema, state_dict ...")
    parser.add_argument("--network", help="the network, if it is not called like --model")
    parser.add_argument("--anyway", action="store_true", help="take a model over that is hardly better than chance")
    parser.add_argument("--fresh", action="store_true", help="set aside what is in the folder")
    arguments = parser.parse_args()
    if arguments.network is not None:
        arguments.set.insert(0, f"network={arguments.network}")
    stage = open_stage(arguments)
    with held(model_files.training_role(stage.artifacts)):
        import_model(stage, arguments)


def import_model(stage: Stage, arguments: argparse.Namespace) -> None:
    """Read, judge and write the model."""
    config, artifacts = stage.config, stage.artifacts
    if not arguments.fresh:
        check_is_free(artifacts)
    check_writable(artifacts.folder)
    network = build_strong_network(config)
    weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
    print(f"checkpoint: {arguments.checkpoint}: {weights.describe()}", flush=True)
    graph = trace_classifier(network, config.network_name, config.num_classes, config.image_side).to(stage.device)
    show_cost(network, graph)
    show_layers(graph.units)
    split = load_split(config)
    show_split(stage, split)
    judge(graph, split.valid.first(TRIED), stage, anyway=arguments.anyway)
    for name, images in (("valid", split.valid), ("test", split.test)):
        right = count_right(predict(graph.network, images, stage.device), images.labels)
        print(f"{name} accuracy {right / len(images):.2%} ({right} of {len(images)})", flush=True)
    if arguments.fresh:
        set_folder_aside(artifacts, model_files.training_role(artifacts))
    model_files.network_settings(artifacts).save(NetworkSettings.of(config, graph))
    model_files.image_order(artifacts).remove()  # of a published model, whose taking was interrupted
    model_files.trained_on(artifacts).save(record_of(split))
    file = model_files.entire_model(artifacts)
    file.save(cpu_state(network))
    print(f"saved {file.path}")


def show_split(stage: Stage, split: Split) -> None:
    """Print what the parts are, and what it costs where the model may know the validation images."""
    counts = f"{len(split.train)} train, {len(split.valid)} valid, {len(split.test)} test"
    print(f"\nimages: {counts}; {len(split.classes)} classes: {', '.join(split.classes)}")
    if not has_own_validation(stage.config):
        print(
            "validation images are drawn from the training images, so this model was trained on them: importance and "
            "searches look at images that it knows, and accuracies on valid are too high; better say which images it "
            "has not seen, as {train,valid,test}/CLASS/IMAGE"
        )


def judge(graph: Graph, images: Images, stage: Stage, *, anyway: bool) -> None:
    """Print the form of images that fits better, if one does.

    Raises UserError for a model that is hardly better than chance, with the likely reason.
    """
    given, *others = try_forms(graph.network, images, stage.device)
    best = max(others, key=lambda trial: trial.right)
    hints = []
    if best.right > given.right + CLEARLY * len(images):
        settings = " ".join(f"--set {setting}" for setting in best.settings)
        hints.append(f"with colours {best.words} it is right on {best.right} of {len(images)}: give {settings}")
    trial = best if hints else given
    order, right = class_order(trial.logits, images.labels)
    if right > trial.right + 10 * CLEARLY * len(images):
        names = ",".join(map(str, order))
        hints.append(f"its classes stand in another order: its outputs {names} are right on {right} of {len(images)}")
    found = f"{given.right} of {len(images)} validation images right"
    if is_near_chance(given.right, images.labels) and not anyway:
        likely = "; ".join(hints) or "likely reasons: mean and std, image_side, resize, the classes' order"
        raise UserError(f"{found}, hardly better than chance: {likely}; --anyway takes it over as it is")
    for hint in hints:
        print(f"{found}; {hint}", flush=True)


if __name__ == "__main__":
    run(main)
