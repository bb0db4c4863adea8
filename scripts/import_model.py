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
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.datasets import load_source
from dataset.images import Images, Split, record_of
from dataset.splits import load_split
from models import files as model_files
from models.checkpoints import load_foreign_checkpoint
from models.evaluation import count_right, cpu_state, predict, show_cost, show_layers
from models.files import NetworkSettings
from models.graph import Graph
from models.graph.agreement import agrees
from models.input_forms import Explanation, can_tell_from_chance, class_order, explain, is_near_chance
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import (
    build_strong_network,
    check_is_free,
    set_folder_aside,
    show_if_few,
    strong_graph,
    trace_classifier,
)
from utils.errors import UserError, run
from utils.files import check_writable
from utils.locks import held

TRIED = 1000  # validation images that other forms of images are tried on, at least
TRIED_OF_CLASS = 4  # and of each class on average: an order of classes is judged by half of them
LISTED = 20  # classes by name
COMPARED = 100  # validation images that the network is asked again about, as later stages make it


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
    tried = spread(split.valid, max(TRIED, TRIED_OF_CLASS * len(split.classes)))
    judge(graph, tried, split.classes, stage, anyway=arguments.anyway)
    check_is_made_again(network, graph, spread(tried, COMPARED), stage)
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
    names = split.classes if len(split.classes) <= LISTED else (*split.classes[:LISTED], "...")
    print(f"\nimages: {counts}; {len(split.classes)} classes: {', '.join(names)}")
    show_if_few(split.valid, split.classes)
    if load_source(stage.config, stage.config.image_source).valid is None:
        print(
            "validation images are drawn from the training images, so this model was trained on them: importance and "
            "searches look at images that it knows, and accuracies on valid are too high; better say which images it "
            "has not seen, as {train,valid,test}/CLASS/IMAGE"
        )


def spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly spread over all, in whatever order these are."""
    count = min(count, len(images))
    return images.take(np.arange(count) * len(images) // count)


def judge(graph: Graph, images: Images, classes: Sequence[str], stage: Stage, *, anyway: bool) -> None:
    """Print how the model was trained more likely, if one way explains its answers clearly better.

    Raises UserError for a model that is hardly better than chance, with the likely reason.
    """
    given, best = explain(graph.network, images, stage.device)
    logits, right = given.trial.logits, int(given.is_right.sum())
    if (logits >= 0).all() and (logits <= 1).all():
        print(
            "its outputs are from 0 to 1, as probabilities: modules need logits; take the last function out of forward"
        )
    found = f"{right} of {len(images)} validation images right"
    likely = "" if best is given else f"; {advice(best, images.labels, classes)}"
    if not can_tell_from_chance(images.labels):
        print(f"{found}: too few images to tell whether that is better than chance{likely}", flush=True)
    elif is_near_chance(right, images.labels, given.predicted):
        line = f"{found}, hardly better than chance{likely or '; likely reasons: mean and std, image_side, resize'}"
        if not anyway:
            raise UserError(f"{line}; --anyway takes it over as it is")
        print(line, flush=True)
    elif likely:
        print(f"{found}{likely}", flush=True)


def advice(best: Explanation, labels: np.ndarray, classes: Sequence[str]) -> str:
    """How the model was trained, and what to give for it."""
    form, settings = [], list(best.trial.settings)
    if best.trial.settings:
        form.append(f"with colours {best.trial.words}")
    if best.trial.is_reversed:
        form.append("with red and blue exchanged")
    who, right = "it is", int(best.is_right.sum())
    if best.order is not None:
        _, right = class_order(best.trial.logits, labels)
        outputs = [*map(str, best.order[:LISTED]), *(["..."] if len(best.order) > LISTED else [])]
        form = [f"{' and '.join(form)},"] if form else []
        who = f"its classes stand in another order: its outputs {','.join(outputs)} are"
        settings.append(f"classes={','.join(classes[label] for label in np.argsort(best.order))}")
    steps = [" ".join(f"--set {shlex.quote(setting)}" for setting in settings)] if settings else []
    if best.order is not None:
        steps[0] += " (the classes at every later stage, too)"
    if best.trial.is_reversed:
        steps.append("a FILE.py:FUNCTION that exchanges them (docs/your_network.md)")
    return f"{' and '.join(form)} {who} right on {right} of {len(labels)}: give {' and '.join(steps)}".lstrip()


def check_is_made_again(network: nn.Module, graph: Graph, images: Images, stage: Stage) -> None:
    """Raises UserError where the network, made again with its weights as in later stages, gives other logits."""
    again = build_strong_network(stage.config)
    again.load_state_dict(cpu_state(network))
    expected = predict(graph.network, images, stage.device)
    found = predict(strong_graph(stage.config, again, stage.device).network, images, stage.device)
    if not agrees(found, expected, torch.float32):
        raise UserError(
            f"network {stage.config.network_name}: made again with the same weights it gives other logits; expected a "
            "network that computes with its parameters and buffers alone, no random or changing values: register these "
            "as buffers"
        )


if __name__ == "__main__":
    run(main)
