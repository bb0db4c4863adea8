"""What the benchmarks measure on: the strong model or an untrained one, chromosomes as a search begins with, scores."""

import dataclasses

import numpy as np
import torch

from dataset.images import Images, normalise, to_device
from dataset.splits import load_split
from models.graph import Graph
from models.names import network_of
from models.opening import Stage
from models.rescnn import ResCNN
from models.simcnn import SimCNN
from models.strong_model import build_strong_network, graph_of, load_strong_model, trace_classifier
from modules import files as module_files
from modules.kernel_importance import kernel_importance
from modules.population_outputs import population_outputs
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.genetic.operators import first_population
from search.genetic.tournament import ScoringRules
from utils.errors import UserError
from utils.seeds import generator, torch_seed

IMPORTANCE_IMAGES = 1000  # enough to order the kernels where no analysis is there yet


def untrained_graph(stage: Stage) -> Graph:
    """The configuration's network with random weights: as fast as a trained one."""
    config, name = stage.config, stage.config.network_name
    torch.manual_seed(torch_seed(stage.seed, "initial weights"))
    network = network_of(name, config.num_classes, config.image_side)
    network = network.to(stage.device).to(memory_format=torch.channels_last)
    return trace_classifier(network, name, config.num_classes, config.image_side)


def model_to_measure(stage: Stage, *, untrained: bool) -> Graph:
    """The strong model, or with random weights. Raises UserError where it is not there."""
    if untrained:
        return untrained_graph(stage)
    return load_strong_model(stage.config, stage.artifacts, stage.device)


def naive_network(stage: Stage, graph: Graph) -> SimCNN | ResCNN:
    """The configuration's network with the weights of its graph, for naive.py. Raises UserError for other networks."""
    network = build_strong_network(stage.config)
    if not isinstance(network, SimCNN | ResCNN):
        raise UserError(
            f"network {stage.config.network_name}: expected SimCNN or ResCNN, which the naive side knows; "
            "give --model simcnn_x0_25"
        )
    network.load_state_dict(graph.network.state_dict())
    return network.to(stage.device).to(memory_format=torch.channels_last).eval()


def resident(images: Images, stage: Stage, dtype: torch.dtype) -> torch.Tensor:
    """Normalised images (n, 3, 32, 32) on the device, as the search holds them."""
    return normalise(to_device(images, stage.device)[0], images.normalisation, dtype)


def first_masks(stage: Stage, graph: Graph, images: Images, count: int) -> np.ndarray:
    """Unit masks (classes, count, U) of first populations, by the importance on disk or measured on a few images."""
    config = stage.config
    file = module_files.kernel_importance(stage.artifacts)
    if file.exists() and graph.digest == graph_of(config).digest:
        importance = file.load(config.num_classes, graph.units.num_kernels)
    else:
        pixels, labels = to_device(images.first(IMPORTANCE_IMAGES), stage.device)
        importance, _ = kernel_importance(graph, pixels, labels, config.importance_confidence, images.normalisation)
    layout = genome_layout(graph.units, config)
    enough = dataclasses.replace(config, population=max(count, config.population))
    return np.stack(
        [
            kernel_groups(layout, row).decode(first_population(layout, enough, stage.seed, target_class)[:count])
            for target_class, row in enumerate(importance)
        ]
    )


@dataclasses.dataclass(frozen=True)
class Instance:
    """A generation to score."""

    outputs: list[np.ndarray]  # per class (population, n) float32
    masks: list[np.ndarray]  # per class (population, K) bool
    labels: np.ndarray  # (n,)
    rules: ScoringRules


# Thresholds that every ensemble passes, so that the most survive each round.
RULES = ScoringRules(thresholds={}, survivors_min=50, survivors_max=500, accuracy_weight=0.9, distance_weight=0.1)


def searched_instance(stage: Stage, population: int, num_images: int) -> Instance:
    """The generation that a search begins with: modules of the strong model on validation images."""
    graph = load_strong_model(stage.config, stage.artifacts, stage.device)
    images = load_split(stage.config).valid.first(num_images)
    masks = first_masks(stage, graph, images, population)
    pixels = resident(images, stage, torch.float32)
    outputs = [
        population_outputs(graph, of_class, [target_class] * population, pixels)
        for target_class, of_class in enumerate(masks)
    ]
    return Instance(outputs, list(graph.units.spread(masks)), images.labels, RULES)


def scoring_instance(num_classes: int, population: int, num_images: int, num_kernels: int, seed: int) -> Instance:
    """Outputs of made-up good modules, whose errors have nothing in common: harder to score than those of a search."""
    rng = generator(seed, "scoring instance", num_classes, population, num_images)
    labels = rng.integers(num_classes, size=num_images)
    skill = rng.uniform(2.5, 3.5, (num_classes, population, 1)).astype(np.float32)
    outputs = [
        rng.standard_normal((population, num_images), np.float32) + skill[target_class] * (labels == target_class)
        for target_class in range(num_classes)
    ]
    outputs = [rows.astype(np.float32) for rows in outputs]
    masks = [rng.random((population, num_kernels)) < 0.5 for _ in range(num_classes)]
    return Instance(outputs, masks, labels, RULES)
