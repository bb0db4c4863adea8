"""Take a trained model of your own over as the strong model, so that every later stage works on it.

    python scripts/import_model.py --model resnet18 --dataset flowers --checkpoint best.pth
    python scripts/import_model.py --model mine --dataset flowers --network my_network.py:build --checkpoint best.pth
    python scripts/import_model.py --model resnet18 --dataset pets --checkpoint a.pth --outputs dog=151-268,other=rest

--model names the folder of its files, data/MODEL_DATASET, and is typed again at every later stage; the network is the
one called so (of ours or torchvision's), or what --network says: torchvision:NAME, timm:NAME or FILE.py:FUNCTION, which
runs as your own code. The weights are found in what people save (docs/your_network.md); nothing in a checkpoint is run.

--outputs says which of the network's outputs the classes of the images are, where it has more: a number for each class
in the classes' order, 3,0,7, or CLASS=OUTPUTS, where `rest` stands for all others. The logit of a class with several
outputs is the log-sum-exp of their logits, which is the logit of the sum of their softmax probabilities. A class's
module has the outputs of its class alone. From then on the network's name says the outputs, which later stages read:
resnet18[1000:151-268,0-150+269-999].

Says how good the model is on your images, and which kernels modules can do without; writes entire_model.pth and
network.json. Where the model is clearly better with images normalised in another usual way, with red and blue
exchanged, or with its outputs in another order, that is taken, said and recorded, for later stages too; --as_given
keeps what you gave. Images: docs/your_images.md.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import Config, known_configurations
from dataset.datasets import load_source, outline
from dataset.images import Images, Split, record_of
from dataset.splits import load_split
from models import files as model_files
from models.adapted import LISTED, Adapted, groups_of, short_name, split_name
from models.checkpoints import OtherOutputs, Weights, load_foreign_checkpoint
from models.evaluation import count_right, cpu_state, predict, show_cost, show_layers
from models.files import NetworkSettings
from models.graph import Graph
from models.graph.agreement import agrees
from models.input_forms import Explanation, can_tell_from_chance, class_order, explain, is_near_chance
from models.names import network_of
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import (
    build_strong_network,
    check_is_free,
    count_outputs,
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
LISTED_CLASSES = 20  # by name
COMPARED = 100  # validation images that the network is asked again about, as later stages make it


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of torch.save or safetensors")
    parser.add_argument("--checkpoint_key", help="where in it the weights are, if several fit: ema, state_dict ...")
    parser.add_argument("--network", help="the network, if it is not called like --model")
    parser.add_argument("--outputs", help="which outputs are the classes: 3,0,7 or dog=151-268,other=rest")
    parser.add_argument("--as_given", action="store_true", help="take no other form of images and order of outputs")
    parser.add_argument("--anyway", action="store_true", help="take a model over that is hardly better than chance")
    parser.add_argument("--fresh", action="store_true", help="set aside what is in the folder")
    arguments = parser.parse_args()
    if arguments.network is not None:
        arguments.set.insert(0, f"network={arguments.network}")
    stage = open_stage(arguments, is_new=True)
    with held(model_files.training_role(stage.artifacts)):
        import_model(stage, arguments)


def import_model(stage: Stage, arguments: argparse.Namespace) -> None:
    """Read, judge and write the model."""
    config, artifacts = stage.config, stage.artifacts
    if not arguments.fresh:
        check_is_free(artifacts)
    check_writable(artifacts.folder)
    if arguments.outputs is None:
        network = build_strong_network(config)
        weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
    else:
        config, network, weights = with_outputs(config, arguments)
    print(f"checkpoint: {arguments.checkpoint}: {weights.describe()}", flush=True)
    graph = traced(config, network, stage.device)
    show_cost(network, graph)
    show_layers(graph.units)
    split = load_split(config)
    show_split(config, split)
    tried = spread(split.valid, max(TRIED, TRIED_OF_CLASS * len(split.classes)))
    other = judge(graph, tried, config, stage.device, arguments)
    if other is not None:
        given = config
        config, network = in_other_form(given, network, other)
        if config.network_name != given.network_name:
            graph = traced(config, network, stage.device)
        split = load_split(config)
        tried = spread(split.valid, len(tried))
    check_is_made_again(config, network, graph, spread(tried, COMPARED), stage.device)
    for name, images in (("valid", split.valid), ("test", split.test)):
        right = count_right(predict(graph.network, images, stage.device), images.labels)
        print(f"{name} accuracy {right / len(images):.2%} ({right} of {len(images)})", flush=True)
    if arguments.fresh:
        set_folder_aside(artifacts, model_files.training_role(artifacts))
    recorded = NetworkSettings.of(config, graph)
    model_files.network_settings(artifacts).save(recorded)
    model_files.image_order(artifacts).remove()  # of a published model, whose taking was interrupted
    model_files.trained_on(artifacts).save(record_of(split))
    file = model_files.entire_model(artifacts)
    file.save(cpu_state(network))
    print(f"saved {file.path}")
    if config != stage.config:
        show_changes(stage.config, config)
    if config.name not in known_configurations():  # later stages read them from that file
        unrecorded = [text for text in artifacts.assignments if text.partition("=")[0] not in recorded.settings]
        artifacts = dataclasses.replace(artifacts, assignments=tuple(unrecorded))
    of_class = artifacts.command("module_gradient_search.py", "--target_class", "CLASS", "--keep_flops", "0.5")
    print(f"next, for the module of a class: {of_class}")


def with_outputs(config: Config, arguments: argparse.Namespace) -> tuple[Config, nn.Module, Weights]:
    """The network with the outputs that `--outputs` says, its weights, and the configuration that names it.

    The network is made with as many outputs as the checkpoint has.
    """
    name, changes = split_name(config.network_name)
    if changes.groups:
        raise UserError(f"--outputs: the name of the network says outputs already: {config.network_name}; give one")
    count, side = config.num_classes, config.image_side
    try:
        network = network_of(name, count, side)
        weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
    except OtherOutputs as error:
        count = error.count
        network = network_of(name, count, side)
        weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
    count = count_outputs(network, name, count, side)
    classes = config.classes or outline(config.image_source, side, config.resize)[0]
    changes = changes.with_outputs(groups_of(arguments.outputs, classes, count), count)
    config = dataclasses.replace(config, network=f"{name}{changes}")
    return config, Adapted(network, changes) if changes else network, weights


def traced(config: Config, network: nn.Module, device: torch.device) -> Graph:
    """The network's graph."""
    return trace_classifier(network, config.network_name, config.num_classes, config.image_side).to(device)


def show_split(config: Config, split: Split) -> None:
    """Print what the parts are, and what it costs where the model may know the validation images."""
    counts = f"{len(split.train)} train, {len(split.valid)} valid, {len(split.test)} test"
    few = len(split.classes) <= LISTED_CLASSES
    names = split.classes if few else (*split.classes[:LISTED_CLASSES], "...")
    print(f"\nimages: {counts}; {len(split.classes)} classes: {', '.join(names)}")
    show_if_few(split.valid, split.classes)
    if load_source(config, config.image_source).valid is None:
        print(
            "validation images are drawn from the training images, so this model was trained on them: importance and "
            "searches look at images that it knows, and accuracies on valid are too high; better say which images it "
            "has not seen, as {train,valid,test}/CLASS/IMAGE"
        )


def spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly spread over all, in whatever order these are."""
    count = min(count, len(images))
    return images.take(np.arange(count) * len(images) // count)


def judge(
    graph: Graph, images: Images, config: Config, device: torch.device, arguments: argparse.Namespace
) -> Explanation | None:
    """The way in which the model was trained, if it explains its answers clearly better than what was given; print it.

    Returns None where what was given is to be kept. Raises UserError for a model that is hardly better than chance,
    with the likely reason.
    """
    # Outputs that the user said are the classes in the user's order.
    given, best = explain(graph.network, images, device, orders=arguments.outputs is None)
    logits, right = given.trial.logits, int(given.is_right.sum())
    if (logits >= 0).all() and (logits <= 1).all():
        print(
            "its outputs are from 0 to 1, as probabilities: modules need logits; take the last function out of forward"
        )
    found = f"{right} of {len(images)} validation images right"
    other = "" if best is given else in_words(best, images.labels)
    if other and not arguments.as_given:
        print(
            f"{found} in the form that was given, {other}: that is taken; --as_given keeps what was given", flush=True
        )
        return best
    likely = f"; {other}: leave out --as_given to take that" if other else ""
    if not can_tell_from_chance(images.labels):
        print(f"{found}: too few images to tell whether that is better than chance{likely}", flush=True)
    elif is_near_chance(right, images.labels, given.predicted):
        line = f"{found}, hardly better than chance{likely or '; likely reasons: mean and std, image_side, resize'}"
        if not arguments.anyway:
            raise UserError(f"{line}; --anyway takes it over as it is")
        print(line, flush=True)
    elif likely:
        print(f"{found}{likely}", flush=True)
    return None


def in_words(best: Explanation, labels: np.ndarray) -> str:
    """How the model was trained more likely, and on how many images it is right then."""
    words, right = [], int(best.is_right.sum())
    if best.trial.settings:
        words.append(f"{' '.join(best.trial.settings)} ({best.trial.words})")
    if best.trial.is_reversed:
        words.append("red and blue exchanged")
    if best.order is not None:
        _, right = class_order(best.trial.logits, labels)
        outputs = [*map(str, best.order[:LISTED]), *(["..."] if len(best.order) > LISTED else [])]
        words.append(f"its outputs {','.join(outputs)} as the classes")
    return f"{right} with {' and '.join(words)}"


def in_other_form(config: Config, network: nn.Module, other: Explanation) -> tuple[Config, nn.Module]:
    """The network as it was trained, and the configuration that says so."""
    name, changes = split_name(config.network_name)
    if other.trial.is_reversed:
        changes = dataclasses.replace(changes, is_bgr=not changes.is_bgr)
    if other.order is not None:
        changes = changes.in_order(other.order.tolist())
    if isinstance(network, Adapted):
        network = network.module
    mean, std = other.trial.normalisation or (config.mean, config.std)
    config = dataclasses.replace(config, network=f"{name}{changes}", mean=mean, std=std)
    return config, Adapted(network, changes) if changes else network


def show_changes(given: Config, taken: Config) -> None:
    """Print how later stages get what differs from the given configuration."""
    there, now = (NetworkSettings.of(config).settings for config in (given, taken))
    different = {name: value for name, value in now.items() if value != there[name]}
    if given.name in known_configurations():
        values = ", ".join(f"{name}={value!r}" for name, value in different.items())
        print(f"for later stages, write into configures/{given.name}.py: {values}")
    elif "network" in different:
        print(f"the network is {short_name(taken.network_name)}, which later stages read from network.json")


def check_is_made_again(config: Config, network: nn.Module, graph: Graph, images: Images, device: torch.device) -> None:
    """Raises UserError where the network, made again with its weights as in later stages, gives other logits."""
    again = build_strong_network(config)
    again.load_state_dict(cpu_state(network))
    expected = predict(graph.network, images, device)
    found = predict(strong_graph(config, again, device).network, images, device)
    if not agrees(found, expected, torch.float32):
        raise UserError(
            f"network {config.network_name}: made again with the same weights it gives other logits; expected a "
            "network that computes with its parameters and buffers alone, no random or changing values: register these "
            "as buffers"
        )


if __name__ == "__main__":
    run(main)
