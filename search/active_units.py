"""MODA's modules: the units that are active on nearly all training images of the class.

After Ngo, Hassan, Shafiq and Medvidovic, "DNN Modularization via Activation-Driven Training" (MODA), ICSE 2026, arXiv
2411.01074. `train.py --set modular=moda` trains a strong model whose modules are small then; the rule itself takes any
strong model. As published: a unit is kept where it is active on at least 90 % of the class's training images; where
less than 0.5 % of a layer are, the most often active ones are, as many as the largest module has there. Differs in that
a unit is active where a pixel of its maps is above 0 (published: not 0; the same behind a ReLU), in that layers whose
maps are added count as one layer, and in that linear layers stay whole.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from configures.base import Config
from dataset.images import Split
from models.graph import Graph, Units, fold_batch_norm
from models.opening import Stage
from search.driver import DrivenMethod, Row
from search.files import Found
from search.one_shot import active_pixels

LEAST_RATE = 0.9  # of the class's training images
LEAST_OF_LAYER = 0.005


class Moda(DrivenMethod):
    """One candidate, by the activation rates of units."""

    name = "moda"
    options = ()

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Row]) -> Generator[Found, None, None]:
        """See `DrivenMethod`."""
        if not rows:
            folded = fold_batch_norm(strong).channels_last()
            rates = active_pixels(folded, split, None, lambda pixels: (pixels > 0).float()).numpy()
            yield Found(
                f"active on {LEAST_RATE:.0%} of the images", strong.units.spread(often_active(rates, strong.units))
            )

    def settings(self, config: Config) -> dict[str, Any]:
        """See `DrivenMethod`."""
        return {"least_rate": LEAST_RATE, "least_of_layer": LEAST_OF_LAYER}

    def configured(self, config: Config) -> dict[str, Any]:
        """No setting of the configuration."""
        return {}

    def chosen(self, rows: Sequence[Row]) -> Row:
        """The only candidate, however much it loses."""
        return rows[0]

    def again(self) -> list[str]:
        """See `DrivenMethod`."""
        return ["--method", self.name]


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
