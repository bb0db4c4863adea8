"""The modules of MODA and MwT: the units that are active on nearly all training images of the class.

Both take a strong model that is trained to be modular (`train.py --set modular=moda|mwt`), and a unit that is active on
at least 90 % of the class's training images.

`moda`, after Ngo, Hassan, Shafiq and Medvidovic, "DNN Modularization via Activation-Driven Training", ICSE 2026, arXiv
2411.01074. As published, where less than 0.5 % of a layer are kept, the most often active ones are, as many as the
largest module has there. Differs in that a unit is active where a pixel of its maps is above 0 (published: not 0; the
same behind a ReLU), in that layers whose maps are added count as one layer, and in that linear layers stay whole. The
rule takes any strong model.

`mwt`, after Qi, Sun, Zhang, Zhao and Gao, "Modularizing while Training", ICSE 2024, arXiv 2306.09376: a unit is active
where its mask is above 0. As published, the share of images falls by 5 % where a layer would be empty. Differs in that
modules keep the mask generators' parts for their kernels, so that their logits are right without training; as
published, the generators are removed, and a new head is trained.
"""

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configures.base import Config
from dataset.images import Split
from models import files as model_files
from models.graph import Graph, Units, fold_batch_norm
from models.mask_generators import MaskedNetwork, observed_masks
from models.modular import NOTHING
from models.opening import Stage
from models.strong_model import build_strong_network, load_weights
from search.driver import DrivenMethod, Row
from search.files import Found
from search.one_shot import active_pixels, class_means, weights_of
from utils.errors import UserError

LEAST_RATE = 0.9  # of the class's training images
LEAST_OF_LAYER = 0.005  # of MODA
LESS = 0.05  # of MwT: by so much the rate falls where it leaves a layer empty


class ActiveUnits(DrivenMethod):
    """One candidate, by the rates at which units are active."""

    options = ()

    @abstractmethod
    def masks(self, stage: Stage, strong: Graph, split: Split) -> NDArray[np.bool_]:
        """The masks (classes, units), True = kept."""

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Row]) -> Generator[Found, None, None]:
        """Yield the only candidate, unless an earlier run has."""
        if not rows:
            masks = strong.units.spread(self.masks(stage, strong, split))
            weights = weights_of(strong, masks, split, stage.device)
            yield Found(f"active on {LEAST_RATE:.0%} of the images", masks, weights)

    def configured(self, config: Config) -> dict[str, Any]:
        """No setting of the configuration."""
        return {}

    def chosen(self, rows: Sequence[Row]) -> Row:
        """The only candidate, however much it loses."""
        return rows[0]

    def again(self) -> list[str]:
        """The options that find the same modules."""
        return ["--method", self.name]


class Moda(ActiveUnits):
    """By the maps of units."""

    name = "moda"

    def masks(self, stage: Stage, strong: Graph, split: Split) -> NDArray[np.bool_]:
        """The units with a pixel above 0 on nearly all images."""
        folded = fold_batch_norm(strong).channels_last()
        rates = active_pixels(folded, split, None, lambda pixels: (pixels > 0).float()).numpy()
        return often_active(rates, strong.units)

    def settings(self, config: Config) -> dict[str, Any]:
        """The rule's constants."""
        return {"least_rate": LEAST_RATE, "least_of_layer": LEAST_OF_LAYER}


class MwT(ActiveUnits):
    """By the masks of the network's generators."""

    name = "mwt"

    def masks(self, stage: Stage, strong: Graph, split: Split) -> NDArray[np.bool_]:
        """The units with a mask above 0 on nearly all images. Raises UserError where the network has no masks."""
        network = build_strong_network(stage.config)
        if not any(isinstance(part, MaskedNetwork) for part in network.modules()):
            raise UserError(NOTHING["mwt"])
        load_weights(network, model_files.entire_model(stage.artifacts))
        network = network.to(stage.device).eval()
        kernels: dict[str, int] = {}

        def is_masked_in(images: torch.Tensor) -> torch.Tensor:
            with observed_masks(network) as masks:
                network(images)
            kernels.update((name, mask.shape[1]) for name, mask in masks.items())
            return (torch.cat([masks[name] for name in kernels], 1) > 0).float()

        rates = class_means(strong, split, "masks, batches of images", None, is_masked_in).numpy()
        by_layer = np.split(rates, np.cumsum(list(kernels.values()))[:-1], axis=1)
        return often_masked_in(dict(zip(kernels, by_layer, strict=True)), strong.units)

    def settings(self, config: Config) -> dict[str, Any]:
        """The rule's constants."""
        return {"least_rate": LEAST_RATE, "less": LESS}


def often_active(rates: np.ndarray, units: Units) -> np.ndarray:
    """The masks (classes, units) bool, True = kept, by the share of its images on which a class has a unit active.

    Args:
        rates: (classes, units) float, from 0 to 1.
        units: of the strong model.
    """
    masks = rates >= LEAST_RATE
    for of_layer in (group.units for group in units.groups):
        kept = masks[:, of_layer].sum(1)
        for target_class in np.flatnonzero(kept < LEAST_OF_LAYER * len(of_layer)):
            most_active = np.argsort(-rates[target_class, of_layer], kind="stable")[: max(1, kept.max())]
            masks[target_class, of_layer[most_active]] = True
    # Where layers of several groups are read together, or a group is no whole layer, nothing may be empty.
    return np.stack([units.repair(mask, rate) for mask, rate in zip(masks, rates, strict=True)])


def often_masked_in(rates: Mapping[str, np.ndarray], units: Units) -> np.ndarray:
    """The masks (classes, units) bool, True = kept, by the share of images on which masks are above 0.

    A unit of several kernels is kept where one of them is. Layers without masks stay whole.

    Raises ValueError for rates of a layer that is not there.

    Args:
        rates: of each masked layer, by its name, (classes, kernels) float, from 0 to 1.
        units: of the strong model.
    """
    if unknown := rates.keys() - {layer.name for layer in units.layers}:
        raise ValueError(f"{sorted(unknown)[0]}: the network has no such conv layer")
    num_classes = len(next(iter(rates.values())))
    kept = np.zeros((num_classes, units.num_units), bool)
    best = np.zeros((num_classes, units.num_units))  # the largest rate of a unit's kernels
    for layer in units.layers:
        unit_of_kernel = units.unit_of_kernel[layer.kernels]
        can_go = unit_of_kernel >= 0
        of_layer = rates.get(layer.name, np.ones((num_classes, layer.width)))
        for target_class, of_class in enumerate(of_layer):
            least = LEAST_RATE
            while not (of_class >= least).any():
                least -= LESS
            kept[target_class, unit_of_kernel[can_go & (of_class >= least)]] = True
            np.maximum.at(best[target_class], unit_of_kernel[can_go], of_class[can_go])
    return np.stack([units.repair(mask, rate) for mask, rate in zip(kept, best, strict=True)])
