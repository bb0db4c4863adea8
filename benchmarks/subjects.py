"""What the benchmarks measure on: the strong model or an untrained one, chromosomes as a search begins with, scores."""

import dataclasses

import numpy as np
import torch
from models.cnn import CNN, Architecture

from dataset.datasets import Images, load_split
from dataset.images import normalise, to_device
from models.registry import architecture_of
from models.strong_model import load_strong_model
from modules import files as module_files
from modules.kernel_importance import kernel_importance
from modules.population_outputs import population_outputs
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.genetic.operators import first_population
from search.genetic.tournament import ScoringRules
from utils.seeds import generator, torch_seed
from utils.stage import Stage

IMPORTANCE_IMAGES = 1000  # enough to order the kernels where no analysis is there yet


def untrained_model(stage: Stage, architecture: Architecture | None = None) -> CNN:
    """A network with random weights: as fast as a trained one."""
    torch.manual_seed(torch_seed(stage.seed, "initial weights"))
    model = CNN(architecture or architecture_of(stage.config.model), stage.config.num_classes)
    return model.to(stage.device, memory_format=torch.channels_last).eval()


def model_to_measure(stage: Stage, *, untrained: bool) -> CNN:
    """The strong model. Raises UserError where it is not there and not `untrained`."""
    if untrained:
        return untrained_model(stage)
    return load_strong_model(stage.config, stage.artifacts, stage.device)


def resident(images: Images, stage: Stage, dtype: torch.dtype) -> torch.Tensor:
    """Normalised images (n, 3, 32, 32) on the device, as the search holds them."""
    return normalise(to_device(images, stage.device)[0], dtype)


def first_masks(stage: Stage, model: CNN, images: Images, count: int) -> np.ndarray:
    """Masks (classes, count, K) bool of first populations, by the importance on disk or measured on a few images."""
    config, architecture = stage.config, model.architecture
    file = module_files.kernel_importance(stage.artifacts)
    if file.exists() and architecture == architecture_of(config.model):
        importance = file.load(config.num_classes, architecture.total_kernels)
    else:
        pixels, labels = to_device(images.first(IMPORTANCE_IMAGES), stage.device)
        importance, _ = kernel_importance(model, pixels, labels, config.num_classes, config.importance_confidence)
    layout = genome_layout(architecture, config)
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
    model = load_strong_model(stage.config, stage.artifacts, stage.device)
    images = load_split(stage.config).valid.first(num_images)
    masks = first_masks(stage, model, images, population)
    pixels = resident(images, stage, torch.float32)
    outputs = [
        population_outputs(model, of_class, [target_class] * population, pixels)
        for target_class, of_class in enumerate(masks)
    ]
    return Instance(outputs, list(masks), images.labels, RULES)


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
