"""The gradient search as a search method of the driver."""

from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from configures.base import Config
from dataset.images import Split
from engines.engine import Engine
from engines.opening import chosen_engine
from models.graph import Graph
from models.opening import Stage
from search.driver import MAX_LOSS, DrivenMethod
from search.files import Found, SearchFiles
from search.gradient import files
from search.gradient.goal import goal_of
from search.gradient.log import Round, knows, smallest_that_knows
from search.gradient.rounds import GradientSearch
from search.gradient.trainer import search_settings
from search.method import Course, Panel
from utils.artifacts import Artifacts
from utils.errors import UserError

# Which code found the kernels: other code must not go on with its rounds. Raised when a change of saliency or descent
# changes what is found. Version 1.0.0, which dropped units by the loss, recorded none.
SEARCH_VERSION = 2


@dataclass(frozen=True)
class Gradient(DrivenMethod):
    """The search by gradient, as it was asked for.

    Attributes:
        classes: whose modules, in rising order; () = all.
        keep: the share of the kernels to go down to, in one round.
        keep_flops: the same of the floating-point operations. With neither, `mask_keeps` says the rounds.
        for_patch: choose modules to patch weak models with.
        max_loss: the percentage points of validation accuracy to lose at most, where neither of these says more.
        engine: opens the engine that learns, or None to learn in this process, on a device.
    """

    classes: tuple[int, ...] = ()
    keep: float | None = None
    keep_flops: float | None = None
    for_patch: bool = False
    max_loss: float = MAX_LOSS
    engine: Callable[[torch.device], AbstractContextManager[Engine | None]] = lambda device: nullcontext()

    name = "gradient"
    script = "module_gradient_search.py"
    options = ("keep", "keep_flops", "max_loss", "engine", "address")
    course = Course(
        "round",
        Panel("kernels_kept", "kernels kept in %", "the kernels that modules keep", 100),
        (
            Panel(
                "points_lost",
                "accuracy lost in percentage points,\nvalidation images, by which a round is chosen",
                "the percentage points that the composed model loses on validation images",
            ),
            Panel("distance", "mean Jaccard distance of the modules", "the mean Jaccard distance of the modules"),
        ),
        "One point a round: each goes on from the one before, and keeps fewer kernels of each module. Left: "
        "how much worse the composed model is than the strong model on all validation images, 0 = as good; since the "
        "round is chosen by these images, the loss on test images, above, is what counts. Right: how different the "
        "modules are.",
    )

    def __post_init__(self) -> None:
        for option in ("keep", "keep_flops"):
            share = getattr(self, option)
            if share is not None and not 0 < share <= 1:
                raise UserError(f"--{option} {share:g}: expected a share above 0, up to 1")
        if not -100 <= self.max_loss <= 100:
            raise UserError(f"--max_loss {self.max_loss:g}: expected percentage points, from -100 to 100")

    def as_asked(self, arguments: Namespace) -> "Gradient":
        """See `DrivenMethod`."""
        given = {name: getattr(arguments, name) for name in ("keep", "keep_flops", "max_loss")}
        given = {name: value for name, value in given.items() if value is not None}
        return replace(self, engine=partial(chosen_engine, arguments), **given)

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Round]) -> Generator[Found, None, None]:
        """See `DrivenMethod`: a candidate a round, until smaller modules would not be chosen."""
        keeps, files = self._keeps(stage.config), self.files(stage.artifacts, self.classes)
        settings = search_settings(stage.config, self._budget)
        search = GradientSearch(stage, strong, split.train, files, self.classes, keeps, settings)
        with self.engine(stage.device) as engine:
            on_engine = None if engine is None else search.on_engine(engine)
            while len(rows) < len(keeps) and not (rows and self._is_over(rows)):
                yield search.learned(len(rows), on_engine)
                search.forget_state()

    def going_on(self, config: Config, rows: Sequence[Round]) -> list[Round]:
        """See `DrivenMethod`: as far as rounds are those that are asked for now."""
        asked = zip(rows, self._keeps(config), strict=False)
        same = [(row.keep, row.budget) == (keep, self._budget) for row, keep in asked]
        return list(rows[: same.index(False) if False in same else len(same)])

    def chosen(self, rows: Sequence[Round]) -> Round:
        """See `DrivenMethod`; the last one where a share was asked for."""
        if self._share is not None:
            return rows[-1]
        # Further rounds are there if more loss was allowed before; modules must not depend on that.
        rows = rows[: next((last for last in range(1, len(rows)) if self._is_over(rows[:last])), len(rows))]
        return smallest_that_knows(rows) if self.for_patch else super().chosen(rows)

    @property
    def _share(self) -> float | None:
        return self.keep if self.keep_flops is None else self.keep_flops

    @property
    def _budget(self) -> str:
        return "kernels" if self.keep_flops is None else "flops"

    def _keeps(self, config: Config) -> tuple[float, ...]:
        return config.mask_keeps if self._share is None else (self._share,)

    def _is_over(self, rounds: Sequence[Round]) -> bool:
        if self._share is not None:
            return False
        if self.for_patch:
            return not knows(rounds[-1]) and any(map(knows, rounds))
        return rounds[-1].points_lost > self.max_loss

    # What its record says
    def settings(self, config: Config) -> dict[str, Any]:
        """See `DrivenMethod`."""
        unnamed = {} if files.is_short(self.classes) else {files.CLASSES: self.classes}
        of_steps = search_settings(config, self._budget).recorded()
        del of_steps["budget"]  # each round has its own
        return {"search_version": SEARCH_VERSION, **of_steps, **goal_of(config).recorded(), **unnamed}

    def configured(self, config: Config) -> dict[str, Any]:
        """See `DrivenMethod`."""
        return config.part_of("gradient search") | {"mask_keeps": config.mask_keeps}

    def again(self) -> list[str]:
        """See `DrivenMethod`."""
        chosen = ["--keep", f"{self.keep:g}"] if self.keep is not None else []
        chosen += ["--keep_flops", f"{self.keep_flops:g}"] if self.keep_flops is not None else []
        chosen += ["--for_patch"] if self.for_patch else []
        return [
            *(chosen or self.max_loss_option()),
            *(["--target_class", *map(str, self.classes)] if self.classes else []),
        ]

    # Its files
    def files(self, artifacts: Artifacts, classes: tuple[int, ...] = ()) -> SearchFiles[Round]:
        """See `Method`."""
        return files.of_search(artifacts, classes)

    def searched(self, artifacts: Artifacts) -> list[tuple[int, ...]]:
        """See `DrivenMethod`."""
        return files.searched(artifacts)
