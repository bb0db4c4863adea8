"""The reference: every computation of the search written the straightforward way, for benchmarks and tests to compare.

Weights cut by hand per chromosome, a DataLoader that sends every image through Pillow each time, one image after the
other where statistics are collected, and a Python loop over ensembles. It knows nothing of graphs, and no networks but
SimCNN and ResCNN: there a kernel's map goes through a ReLU at once, so a map times zero is a kernel that is not there.
Each works in the precision of the network that it is given.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dataset.images import CROP_PADDING, IMAGENET, Images
from models.rescnn import ResCNN
from models.simcnn import SimCNN
from models.training import TrainingSettings, learning_rate_at
from modules.jaccard import mean_pairwise_distance
from search.genetic.tournament import Scores, ScoringRules
from utils.seeds import generator

BATCH_SIZE = 128  # images


class PillowImages(Dataset):
    """Images that are made a Pillow image, transformed and normalised whenever one is asked for."""

    def __init__(self, images: Images, augmentation: list[torch.nn.Module]) -> None:
        self.images, normalisation = images, images.normalisation or IMAGENET
        self.transform = transforms.Compose(
            [*augmentation, transforms.ToTensor(), transforms.Normalize(*normalisation)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images.pixels[index])), int(self.images.labels[index])


def batches(images: Images, device: torch.device, batch_size: int = BATCH_SIZE) -> Iterator[Tensor]:
    """Normalised images (b, 3, 32, 32) on the device, by a DataLoader."""
    for batch, _ in DataLoader(PillowImages(images, []), batch_size):
        yield batch.to(device)


def convs_of(network: SimCNN | ResCNN) -> list[torch.nn.Conv2d]:
    """The conv layers, in order."""
    return [conv for conv in network.convs if isinstance(conv, torch.nn.Conv2d)]


def module_weights(network: SimCNN | ResCNN, kernel_mask: np.ndarray, target_class: int) -> dict[str, Tensor]:
    """What is left of the network's weights without the dropped kernels, what reads them, and the other logits."""
    weights, start = dict(network.state_dict()), 0
    read: Tensor | slice = slice(None)
    for layer, conv in enumerate(convs_of(network)):
        kept = torch.as_tensor(kernel_mask[start : start + conv.out_channels], device=conv.weight.device)
        start += conv.out_channels
        weight = conv.weight.detach()[kept]
        weights[f"convs.{layer}.weight"] = weight[:, read]
        weights[f"convs.{layer}.bias"] = weights[f"convs.{layer}.bias"][kept]
        read = kept
    first, last = weights["fcs.0.weight"], f"fcs.{len(network.fcs) - 1}"
    weights["fcs.0.weight"] = first.view(len(first), conv.out_channels, -1)[:, read].flatten(1)
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = weights[name][target_class : target_class + 1]
    return weights


def module_outputs(
    network: SimCNN | ResCNN, kernel_mask: np.ndarray, target_class: int, batches: Iterable[Tensor]
) -> np.ndarray:
    """One chromosome's outputs (n,), by its kernels' mask (K,): its weights are cut and run over the batches."""
    weights = module_weights(network, kernel_mask, target_class)
    with torch.no_grad():
        outputs = [torch.func.functional_call(network, weights, (batch,))[:, 0].cpu() for batch in batches]
    return torch.cat(outputs).numpy()


def composed_accuracy(network: SimCNN | ResCNN, masks: np.ndarray, images: Images, device: torch.device) -> float:
    """The accuracy of the modules that masks (classes, K) give, composed."""
    outputs = [module_outputs(network, mask, c, batches(images, device)) for c, mask in enumerate(masks)]
    return float((np.argmax(outputs, axis=0) == images.labels).mean())


def run_masked(network: SimCNN | ResCNN, images: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """Every conv layer's output (n, kernels, h, w) before its ReLU, and the logits, in one run.

    With a mask (K,), not negative, each kernel's map is multiplied by its value in it.
    """
    outputs: list[Tensor] = []

    def hook(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        if mask is not None:
            start = sum(earlier.shape[1] for earlier in outputs)
            output = output * mask[start : start + output.shape[1], None, None]
        outputs.append(output)
        return output

    hooks = [conv.register_forward_hook(hook) for conv in network.convs]
    try:
        return outputs, network(images)
    finally:
        for handle in hooks:
            handle.remove()


def counted_maps(network: SimCNN | ResCNN, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Of each conv layer the map (n, kernels, h, w) whose norm counts, from the layers' outputs before their ReLU.

    It is that after the ReLU or, of layers that an addition ties, that after the addition.
    """
    if isinstance(network, SimCNN):
        return [output.relu() for output in outputs]
    counted: list[Tensor] = []
    joined: list[Tensor] = []
    for number, (layer, output) in enumerate(zip(network.layers, outputs, strict=True)):
        x = output.relu()
        counted.append(x)
        if layer.pool:
            x = F.max_pool2d(x, 2)
        if layer.add is not None:
            x = x + joined[layer.add]
            counted[number] = counted[layer.add] = x
        joined.append(x)
    return counted


def kernel_importance(
    network: SimCNN | ResCNN, images: Iterable[Tensor], labels: np.ndarray, num_classes: int, confidence: float
) -> tuple[np.ndarray, list[int]]:
    """Importance (classes, K) float32 and confident images per class, from one image (1, 3, 32, 32) after the other."""
    confident: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    of_class: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    for image, label in zip(images, labels, strict=True):
        with torch.no_grad():
            outputs, logits = run_masked(network, image)
            maps = counted_maps(network, outputs)
            probability = torch.softmax(logits[0], dim=0).cpu().numpy()
        row = np.concatenate([feature_map[0].double().abs().sum((1, 2)).cpu().numpy() for feature_map in maps])
        of_class[label].append(row)
        if probability.argmax() == label and probability[label] >= confidence:
            confident[label].append(row)
    nothing = [np.zeros(sum(conv.out_channels for conv in convs_of(network)))]
    used = [sure or every or nothing for sure, every in zip(confident, of_class, strict=True)]
    return np.stack([np.mean(rows, axis=0) for rows in used]).astype(np.float32), [len(rows) for rows in confident]


def train(
    model: nn.Module, images: Images, settings: TrainingSettings, device: torch.device, seed: int
) -> list[tuple[float, float]]:
    """Train in float32 with a plain loop; each epoch's mean loss, and its seconds."""
    augmentation: list[torch.nn.Module] = []
    if settings.augmented:
        augmentation.append(transforms.RandomCrop(images.pixels.shape[1], padding=CROP_PADDING))
    if settings.mirror:
        augmentation.append(transforms.RandomHorizontalFlip())
    torch.manual_seed(seed)
    loader = DataLoader(PillowImages(images, augmentation), settings.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    model.train()
    epochs = []
    for number in range(settings.epochs):
        start = time.perf_counter()
        losses = []
        for step, (batch, labels) in enumerate(loader):
            optimizer.param_groups[0]["lr"] = learning_rate_at(settings, number + step / len(loader))
            loss = F.cross_entropy(model(batch.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epochs.append((float(np.mean(losses)), time.perf_counter() - start))
    return epochs


def tournament(
    outputs: list[np.ndarray],
    masks: list[np.ndarray],
    labels: np.ndarray,
    rules: ScoringRules,
    *,
    seed: int,
    generation: int,
    protected: list[int] | None = None,
) -> Scores:
    """What `score_population` of search.genetic.tournament gives for the same arguments, ensemble by ensemble.

    A group is (classes, ensembles): tuples of chromosome indices in the classes' order.
    """
    num_classes, population = len(outputs), len(outputs[0])
    order = generator(seed, "tournament", generation).permutation(num_classes)
    groups: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = [
        ((int(target_class),), [(chromosome,) for chromosome in range(population)]) for target_class in order
    ]
    num_scored = 0
    while len(groups) > 1:
        crossed = []
        for (left_classes, left), (right_classes, right) in zip(groups[::2], groups[1::2], strict=False):
            classes = left_classes + right_classes
            ensembles = [a + b for a in left for b in right]
            num_scored += len(ensembles)
            accuracies = ensemble_accuracies(outputs, labels, classes, ensembles)
            best_first = sorted(range(len(ensembles)), key=lambda index: -accuracies[index])
            threshold = rules.threshold(len(classes))
            passing = sum(accuracy >= threshold for accuracy in accuracies)
            chosen = best_first[: min(max(passing, rules.survivors_min), rules.survivors_max)]
            if protected is not None:
                wanted = tuple(protected[target_class] for target_class in classes)
                if wanted in ensembles and ensembles.index(wanted) not in chosen:
                    chosen.append(ensembles.index(wanted))
            survivors = []
            for index in chosen:
                modules = [masks[c][chromosome] for c, chromosome in zip(classes, ensembles[index], strict=True)]
                distance = mean_pairwise_distance(np.stack(modules))
                fitness = rules.accuracy_weight * accuracies[index] + rules.distance_weight * distance
                survivors.append((ensembles[index], accuracies[index], distance, fitness))
            survivors.sort(key=lambda survivor: -survivor[3])
            crossed.append((classes, [ensemble for ensemble, *_ in survivors]))
        groups = crossed + groups[len(groups) - len(groups) % 2 :]
    fitness_of = np.zeros((num_classes, population))
    for ensemble, _, _, fitness in survivors:
        for target_class, chromosome in zip(classes, ensemble, strict=True):
            fitness_of[target_class, chromosome] = max(fitness_of[target_class, chromosome], fitness)
    members, accuracy, distances, _ = map(np.array, zip(*survivors, strict=True))
    nothing = np.zeros(len(members))  # the published fitness has no term of the modules' own classes
    return Scores(fitness_of, members[:, np.argsort(classes)], accuracy, distances, nothing, num_scored)


def ensemble_accuracies(
    outputs: list[np.ndarray], labels: np.ndarray, classes: tuple[int, ...], ensembles: list[tuple[int, ...]]
) -> list[float]:
    """Each ensemble's accuracy on the images of its own classes; equal outputs go to the lower class. 0 of none."""
    own = np.isin(labels, classes)
    own_labels = labels[own]
    own_outputs = {target_class: outputs[target_class][:, own] for target_class in classes}
    ascending = sorted(classes)
    accuracies = []
    for ensemble in ensembles:
        chromosome_of = dict(zip(classes, ensemble, strict=True))
        stacked = np.stack([own_outputs[target_class][chromosome_of[target_class]] for target_class in ascending])
        predicted = np.array(ascending)[stacked.argmax(axis=0)]
        accuracies.append(int(np.count_nonzero(predicted == own_labels)) / max(1, len(own_labels)))
    return accuracies


def same_scores(scores: Scores, others: Scores) -> bool:
    """Whether two tournaments found the same ensembles, accuracies and fitness, to the last bit."""
    return all(np.array_equal(value, getattr(others, name)) for name, value in vars(scores).items())
