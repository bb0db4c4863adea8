"""Joint fitness of all classes' chromosomes: ensembles are built as a tournament, scored exactly, pruned as they grow.

A chromosome is only as good as the ensembles that it appears in. Classes in random order are paired; all ensembles of
two groups are scored on the validation images of the groups' own classes; the best survive and are crossed with their
neighbours' survivors, until ensembles span all classes (Qi et al., ASE 2022, section 4.2).

How it is fast, and exact. Per image all outputs are replaced by their rank, ties going to the lower class as argmax has
it, so that ranks of different classes never tie. An ensemble is right on an image if the rank of the label's module is
above the best rank of the others. Two arrays per partial ensemble, its best rank on each image and, on its own classes'
images, the rank of the label's module where it is right (else -1), give the accuracy of every pair of partial ensembles
by comparing and counting.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from utils.device import num_cores
from utils.jaccard import jaccard_distances
from utils.seeds import generator

# Images compared at a time: a count of at most 255 x 8 fits the eight byte-wide counters of a 64-bit word.
IMAGE_BLOCK = 255 * 8


@dataclass(frozen=True)
class ScoringRules:
    """What decides who survives, and what fitness is."""

    thresholds: dict[int, float]  # classes of an ensemble -> the accuracy that lets it survive; 0 where not named
    survivors_min: int
    survivors_max: int
    accuracy_weight: float  # alpha'
    distance_weight: float  # 1 - alpha


@dataclass(frozen=True)
class Scores:
    """What a tournament gives."""

    fitness: np.ndarray  # (classes, population) float64: the best final ensemble's with that chromosome, or 0
    ensembles: np.ndarray  # (final ensembles, classes) int64 chromosome indices, best fitness first
    ensemble_accuracy: np.ndarray  # (final ensembles,) float64
    ensemble_distance: np.ndarray  # (final ensembles,) float64: mean pairwise Jaccard distance
    ensemble_fitness: np.ndarray  # (final ensembles,) float64
    num_scored: int  # ensembles whose accuracy was counted


@dataclass(frozen=True)
class Group:
    """Partial ensembles over some of the classes. E ensembles, `own` images of these classes, n images in all."""

    classes: tuple[int, ...]
    members: np.ndarray  # (E, len(classes)) chromosome indices
    best_rank: np.ndarray  # (E, n): the largest rank over the members, on every image
    right_rank: np.ndarray  # (E, own): that rank where the label's module has it, else -1
    own_images: np.ndarray  # (own,) indices into the n images
    distance_sum: np.ndarray  # (E,) float64: summed Jaccard distance over the pairs of members


def accuracy_weight(alpha: float, gamma: float, last_best_accuracy: float | None) -> float:
    """alpha' = alpha + max(0, gamma - accuracy of the last generation's best); alpha in the first generation."""
    return alpha if last_best_accuracy is None else alpha + max(0.0, gamma - last_best_accuracy)


def score_population(
    outputs: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    labels: np.ndarray,
    rules: ScoringRules,
    *,
    seed: int,
    generation: int,
    protected: Sequence[int] | None = None,
    threads: int | None = None,
    device: torch.device | None = None,
) -> Scores:
    """Fitness of every chromosome, and the final ensembles.

    Args:
        outputs: per class (population, n) float32: its modules' outputs on the n images.
        masks: per class (population, K) bool: the kernels that they keep.
        labels: (n,) the images' classes.
        rules: thresholds, bounds on survivors and weights.
        seed, generation: decide the order of the classes.
        protected: one chromosome per class: the last best ensemble, never pruned.
        threads: for comparing and counting on the CPU; None = all cores. The result does not depend on it.
        device: a CUDA device to compare and count on; None = the CPU.

    Ties: equal outputs go to the lower class; equal accuracies and fitnesses keep the order of construction.
    """
    num_classes = len(outputs)
    ranks = rank_outputs(outputs)
    stacked_masks = np.concatenate(masks)
    # (class, chromosome, other class, other chromosome), in one matrix product
    distances = jaccard_distances(stacked_masks, stacked_masks).reshape(2 * (num_classes, len(masks[0])))
    order = generator(seed, "tournament", generation).permutation(num_classes)
    groups = [_single(int(target_class), ranks, labels) for target_class in order]
    num_scored = 0
    while True:
        paired = []
        for left, right in zip(groups[::2], groups[1::2], strict=False):
            scored = _cross(left, right, distances, rules, protected, threads, device)
            num_scored += len(left.members) * len(right.members)
            paired.append(scored)
        if len(groups) == 2:
            group, accuracy, fitness = paired[0]
            break
        # An odd one out waits a round.
        groups = [group for group, _, _ in paired] + groups[len(groups) - len(groups) % 2 :]
    in_class_order = np.argsort(group.classes)
    ensembles = group.members[:, in_class_order]
    chromosome_fitness = np.zeros((num_classes, len(outputs[0])))
    for target_class in range(num_classes):
        np.maximum.at(chromosome_fitness[target_class], ensembles[:, target_class], fitness)
    distance = group.distance_sum / _num_pairs(num_classes)
    return Scores(chromosome_fitness, ensembles, accuracy, distance, fitness, num_scored)


def _num_pairs(modules: int) -> int:
    return modules * (modules - 1) // 2


def rank_outputs(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Per image the rank of each output among all classes' and chromosomes': (classes, population, n) integers.

    Order-preserving, and equal outputs of two classes rank the lower class higher, as argmax over the classes has it.
    """
    num_classes, population, num_images = len(outputs), len(outputs[0]), outputs[0].shape[1]
    # Classes descending, so that a stable ascending sort puts the lower of two tied classes behind, that is higher.
    stacked = torch.stack([torch.as_tensor(np.ascontiguousarray(rows.T)) for rows in reversed(outputs)], dim=1)
    order = torch.sort(stacked.reshape(num_images, num_classes * population), dim=1, stable=True).indices
    kind = np.int16 if num_classes * population <= np.iinfo(np.int16).max else np.int32
    ranks = np.empty(order.shape, kind)
    np.put_along_axis(ranks, order.numpy(), np.arange(order.shape[1], dtype=kind)[None, :], axis=1)
    by_class = ranks.reshape(num_images, num_classes, population)[:, ::-1]
    return np.ascontiguousarray(by_class.transpose(1, 2, 0))


def _single(target_class: int, ranks: np.ndarray, labels: np.ndarray) -> Group:
    own_images = np.flatnonzero(labels == target_class)
    chromosomes = ranks[target_class]
    return Group(
        classes=(target_class,),
        members=np.arange(len(chromosomes))[:, None],
        best_rank=chromosomes,
        right_rank=chromosomes[:, own_images],  # alone, a module is always the largest
        own_images=own_images,
        distance_sum=np.zeros(len(chromosomes)),
    )


def _cross(
    left: Group,
    right: Group,
    distances: np.ndarray,
    rules: ScoringRules,
    protected: Sequence[int] | None,
    threads: int | None,
    device: torch.device | None,
) -> tuple[Group, np.ndarray, np.ndarray]:
    """The surviving ensembles of two groups, by falling fitness, with their accuracy and fitness."""
    classes = left.classes + right.classes
    num_own = len(left.own_images) + len(right.own_images)
    num_right = count_greater(left.right_rank, right.best_rank[:, left.own_images], threads, device)
    num_right += count_greater(right.right_rank, left.best_rank[:, right.own_images], threads, device).T
    accuracy = (num_right / max(1, num_own)).ravel()
    distance_sum = left.distance_sum[:, None] + right.distance_sum[None, :]
    for a, members_a in zip(left.classes, left.members.T, strict=True):
        for b, members_b in zip(right.classes, right.members.T, strict=True):
            distance_sum += distances[a, members_a[:, None], b, members_b]
    distance_sum = distance_sum.ravel()
    distance = distance_sum / _num_pairs(len(classes))
    fitness = rules.accuracy_weight * accuracy + rules.distance_weight * distance

    always = None if protected is None else _find(left, right, protected)
    chosen = select_survivors(accuracy, fitness, rules.thresholds.get(len(classes), 0.0), rules, always)
    e, f = np.divmod(chosen, len(right.members))
    group = Group(
        classes=classes,
        members=np.concatenate([left.members[e], right.members[f]], axis=1),
        best_rank=np.maximum(left.best_rank[e], right.best_rank[f]),
        right_rank=np.concatenate(
            [
                _still_right(left.right_rank[e], right.best_rank[f][:, left.own_images]),
                _still_right(right.right_rank[f], left.best_rank[e][:, right.own_images]),
            ],
            axis=1,
        ),
        own_images=np.concatenate([left.own_images, right.own_images]),
        distance_sum=distance_sum[chosen],
    )
    return group, accuracy[chosen], fitness[chosen]


def _still_right(right_rank: np.ndarray, others_best: np.ndarray) -> np.ndarray:
    return np.where(right_rank > others_best, right_rank, right_rank.dtype.type(-1))


def _find(left: Group, right: Group, protected: Sequence[int]) -> int | None:
    """The index of the protected ensemble's part among the crossed ensembles, where both halves hold it."""
    halves = []
    for group in (left, right):
        wanted = [protected[target_class] for target_class in group.classes]
        found = np.flatnonzero((group.members == wanted).all(axis=1))
        if not len(found):
            return None
        halves.append(int(found[0]))
    return halves[0] * len(right.members) + halves[1]


def select_survivors(
    accuracy: np.ndarray, fitness: np.ndarray, threshold: float, rules: ScoringRules, always: int | None
) -> np.ndarray:
    """Indices of the ensembles that survive, by falling fitness.

    The most accurate survive: as many as reach the threshold, but at least `survivors_min` and at most `survivors_max`;
    `always` is added where it is not among them.
    """
    num_surviving = int(np.clip((accuracy >= threshold).sum(), rules.survivors_min, rules.survivors_max))
    chosen = np.argsort(-accuracy, kind="stable")[:num_surviving]
    if always is not None and always not in chosen:
        chosen = np.append(chosen, always)
    return chosen[np.argsort(-fitness[chosen], kind="stable")]


def count_greater(
    values: np.ndarray, others: np.ndarray, threads: int | None = None, device: torch.device | None = None
) -> np.ndarray:
    """For each row of (a, n) and each row of (b, n): in how many of the n places the first is greater: (a, b) int64.

    The hot spot of the search. Each block of comparisons is a row of bytes 0 or 1, which are added eight at a time as
    64-bit words; memory beyond the result stays within b x 2 KiB per thread.
    """
    if device is not None and device.type == "cuda":
        return _count_greater_cuda(values, others, device)
    counts = np.zeros((len(values), len(others)), np.int64)
    threads = threads or num_cores()
    for start in range(0, values.shape[1], IMAGE_BLOCK):
        block = np.ascontiguousarray(others[:, start : start + IMAGE_BLOCK])
        rows = np.array_split(np.arange(len(values)), min(threads, len(values)))
        with ThreadPoolExecutor(threads) as pool:  # numpy releases the interpreter lock in these loops
            list(pool.map(lambda r, b=block, s=start: _count_rows(values, b, s, r, counts), rows))
    return counts


def _count_rows(values: np.ndarray, block: np.ndarray, start: int, rows: np.ndarray, counts: np.ndarray) -> None:
    num_others, width = block.shape
    greater = np.zeros((num_others, -(-width // 8) * 8), bool)  # rows padded to whole words with False
    words = greater.view(np.uint64)
    for row in rows:
        np.greater(values[row, start : start + width], block, out=greater[:, :width])
        counts[row] += np.add.reduce(words, axis=1).view(np.uint8).reshape(num_others, 8).sum(axis=1, dtype=np.int64)


def _count_greater_cuda(values: np.ndarray, others: np.ndarray, device: torch.device) -> np.ndarray:
    left, right = torch.as_tensor(values, device=device), torch.as_tensor(np.ascontiguousarray(others), device=device)
    at_once = max(1, 2**28 // max(1, right.numel()))  # comparisons that are held at a time: 256 MiB
    counts = [(rows[:, None] > right[None]).sum(-1) for rows in left.split(at_once)]
    return torch.cat(counts).cpu().numpy()
