"""One network for some of a strong model's classes: trained, as modules are, while units are dropped."""

from collections.abc import Sequence

from torch import nn

from models.graph import Graph, trace
from models.opening import Stage
from models.strong_model import load_strong_split
from patching.members import Columns
from patching.own_weak_model import with_labels_of
from search.gradient.goal import goal_of
from search.gradient.trainer import ModuleTraining, Trainer, search_settings
from utils.device import core_threads
from utils.progress import progress


def one_network(stage: Stage, strong: Graph, classes: Sequence[int], keep: float) -> nn.Module:
    """A smaller network that takes the place of the strong model restricted to some classes.

    It begins as the strong model and is trained on the training images of these classes, towards their labels and the
    strong model's answers among these classes. In side by side modules each has kernels of its own; here all classes
    share those that stay.

    Args:
        stage: of the strong model; the settings are those of the gradient search.
        strong: the strong model.
        classes: its numbers of them, in the order of the outputs.
        keep: the share of its FLOPs to keep.

    Returns a network: normalised images (n, 3, side, side) -> logits (n, classes).
    """
    split = load_strong_split(stage.config, stage.artifacts)
    images, _ = with_labels_of(split.train, split.classes, [split.classes[number] for number in classes])
    restricted = trace(Columns(strong.network, classes).to(stage.device), strong.image_shape[1])
    settings = search_settings(stage.config, "flops")
    training = ModuleTraining.on(stage.device, images, goal_of(stage.config), settings, stage.dtype, stage.seed)
    with core_threads(stage.device) as workers:
        trainer = Trainer(restricted, [tuple(range(len(classes)))], training, workers)
        for _ in progress(range(stage.config.mask_steps), "training one network, steps"):
            trainer.step(1.0, keep)
        trainer.finish_round()
    return trainer.modules[0].network.eval()
