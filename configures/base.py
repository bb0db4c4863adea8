"""Every setting of the pipeline: its type, its published default, and one sentence on what it does.

A file `configures/MODEL_DATASET.py` builds one `Config` and names only what differs. `load()` finds that file, and
lays the command line's `--set name=value` over it.
"""

import dataclasses
import importlib
import itertools
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_FIVE_DIGITS = ("0", "1", "2", "3", "4")
LAST_FOUR_DIGITS = ("6", "7", "8", "9")
LARGEST = 2**31 - 1  # of any whole number; what is larger could not be run anyway


class SettingError(ValueError):
    """A setting that does not exist or cannot have that value; the message names what can be."""


def setting(default: Any, sentence: str) -> Any:
    """A dataclass field that carries its own documentation."""
    return dataclasses.field(default=default, metadata={"sentence": sentence})


@dataclass(frozen=True)
class Config:
    """All settings of one model on one dataset. Raises SettingError for values that cannot work."""

    model: str
    dataset: str
    num_classes: int

    # Data
    source: str = setting("", "The dataset that the images are read from, where it is not called like `dataset`.")
    classes: tuple[str, ...] = setting(
        (), "The source's classes that the strong model knows, in label order; empty = all."
    )
    mirror: bool = setting(False, "Whether training may flip images: right where a mirror image keeps its class.")

    # Training of the strong model
    epochs: int = setting(200, "Passes over the training images.")
    batch_size: int = setting(128, "Images per training step.")
    learning_rate: float = setting(0.01, "The SGD step size (the largest one of a one_cycle schedule).")
    schedule: str = setting(
        "step", "`step`: a tenth of the step size after each milestone; `one_cycle`: up, then down to 0."
    )
    milestones: tuple[int, ...] = setting(
        (60, 120), "The epochs after which the `step` schedule divides the step size by ten."
    )
    momentum: float = setting(0.9, "SGD momentum.")
    weight_decay: float = setting(1e-4, "SGD weight decay.")

    # Kernel importance
    importance_mode: str = setting(
        "l1", "`l1`: mean L1 norm of the feature map; `random`: kernels in index order, the control."
    )
    importance_confidence: float = setting(
        0.9, "The least softmax confidence of an image that importance is measured on."
    )

    # Layer sensitivity
    sensitivity_ratios: tuple[float, ...] = setting(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "The shares of a layer's kernels that are tried."
    )
    sensitivity_images: int = setting(0, "How many validation images the sensitivity analysis uses; 0 = all.")
    sensitivity_tolerance: float = setting(0.05, "The loss of accuracy from which a layer counts as having fallen.")
    sensitive_from: float = setting(
        0.4, "A layer is recommended as sensitive if it falls at this share of its kernels or above."
    )
    sensitive_layers: tuple[int, ...] = setting(
        (), "The conv layers, counted from 0, that keep more kernels at the start."
    )

    # Kernel groups: the genome
    groups: int = setting(10, "Kernel groups, so genes, of a layer with fewer than `wide_layer` kernels.")
    groups_wide: int = setting(100, "Kernel groups of a layer with `wide_layer` kernels or more.")
    wide_layer: int = setting(256, "From how many kernels on a layer is cut into `groups_wide` groups.")

    # Module search
    init_pop_mode: str = setting(
        "sensitivity",
        "First population: `sensitivity` (important groups first), `random` (uniform) or `gradient` (its last round).",
    )
    active_ratios_sensitive: tuple[float, ...] = setting(
        (0.6, 0.7, 0.8), "The shares of a sensitive layer's groups that a first chromosome may switch on."
    )
    active_ratios: tuple[float, ...] = setting((0.4, 0.5, 0.6, 0.7), "The same for the other layers.")
    rank_scale: float = setting(
        10.0, "How many ranks down a group's chance to be in a first chromosome falls by a factor e."
    )
    population: int = setting(100, "Chromosomes per class.")
    parents: int = setting(50, "The best chromosomes, which are crossed.")
    elites: int = setting(20, "The best chromosomes, which go on unchanged.")
    mutation: float = setting(0.05, "The share of an offspring's genes that is drawn again.")
    generations: int = setting(200, "How many generations follow the first population at the most.")
    patience: int = setting(20, "With --early_stop: generations without a better ensemble after which the search ends.")
    search_images: int = setting(0, "How many validation images the search scores on; 0 = all.")
    accuracy_thresholds: tuple[tuple[int, float], ...] = setting(
        ((2, 0.95), (4, 0.95), (8, 0.85), (10, 0.80)),
        "The accuracy that lets an ensemble of so many classes survive a round.",
    )
    survivors_min: int = setting(50, "Ensembles that survive a tournament round at the least.")
    survivors_max: int = setting(500, "Ensembles that survive a tournament round at the most.")
    alpha: float = setting(
        0.9, "The weight of accuracy in fitness; 1 - alpha is that of the modules' Jaccard distance."
    )
    gamma: float = setting(0.9, "Below this accuracy of the last best ensemble, accuracy counts more.")
    chosen_generation: int = setting(
        -1, "A generation to take the modules from, instead of the best one; -1 = the best."
    )
    chosen_ensemble: tuple[int, ...] = setting(
        (), "One chromosome index per class, instead of that generation's best ensemble."
    )
    keep_outputs: int = setting(2, "How many generations' outputs files stay on disk.")

    # Gradient search
    mask_keeps: tuple[float, ...] = setting(
        (0.8, 0.6, 0.55, 0.5, 0.475, 0.45, 0.425, 0.4, 0.35, 0.3),
        "The shares of the kernels that the rounds of the gradient search go down to, one after the other; where two "
        "are equal, the second round lets the masks settle, in smaller steps.",
    )
    mask_steps: int = setting(500, "Steps of a round.")
    mask_batch_size: int = setting(64, "Training images per step.")
    mask_step_size: float = setting(0.003, "Adam's step size on the kernels' scores.")
    mask_distillation: float = setting(
        0.5, "The share of the loss that is the divergence from the strong model; the rest is cross-entropy."
    )
    mask_overlap: float = setting(0.0, "The weight in the loss of the modules' mean Jaccard similarity.")

    # Patching
    weak_model: str = setting("", "The network of the overly simple weak model.")
    weak_source: str = setting("", "The dataset of the weak model's other classes; empty = `source`.")
    weak_classes: tuple[str, ...] = setting((), "The weak model's other classes; the target class comes after them.")
    weak_train_images: int = setting(0, "Training images per class of the weak model; 0 = all.")
    weak_test_images: int = setting(0, "Test images per class of the weak model; 0 = all.")
    weak_epochs: int = setting(100, "Epochs of the overly simple weak model.")
    weak_batch_size: int = setting(128, "Its images per training step.")
    weak_learning_rate: float = setting(0.01, "Its SGD step size.")
    weak_augmented: bool = setting(True, "Whether its training images are cropped (and flipped, with `mirror`).")
    poor_epochs: int = setting(200, "Epochs of the poorly fitted weak model.")
    poor_batch_size: int = setting(128, "Its images per training step.")
    poor_learning_rate: float = setting(0.01, "Its SGD step size.")
    keep_every: int = setting(10, "Of either kind of weak model, every so-manyth epoch's checkpoint is kept.")
    keep_epochs: tuple[int, ...] = setting(
        (84, 169), "Epochs, counted from 0, that are kept besides; the last and the best one always are."
    )

    def __post_init__(self) -> None:
        """Refuse what no stage could run with."""
        for name, kind in typing.get_type_hints(Config).items():
            expected = getattr(kind, "__name__", "") if isinstance(kind, type) else str(kind)
            self._check(name, is_of_kind(getattr(self, name), kind), f"{expected}, whole numbers up to {LARGEST}")
        for name in ("num_classes", "batch_size", "groups", "groups_wide", "wide_layer", "population", "survivors_min"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("num_classes", self.num_classes >= 2, "at least 2")
        self._check(
            "classes", not self.classes or len(self.classes) == self.num_classes, f"{self.num_classes} names or none"
        )
        for name in (
            "epochs",
            "weak_epochs",
            "poor_epochs",
            "weak_batch_size",
            "poor_batch_size",
            "keep_every",
            "patience",
            "mask_steps",
            "mask_batch_size",
        ):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("generations", "search_images", "sensitivity_images", "weak_train_images", "weak_test_images"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("rank_scale", "learning_rate", "weak_learning_rate", "poor_learning_rate", "mask_step_size"):
            self._check(name, 0 < getattr(self, name) < float("inf"), "above 0")
        for name in (
            "momentum",
            "weight_decay",
            "importance_confidence",
            "mutation",
            "alpha",
            "gamma",
            "sensitivity_tolerance",
            "mask_distillation",
        ):
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("sensitivity_ratios", "active_ratios", "active_ratios_sensitive"):
            ratios = getattr(self, name)
            self._check(name, len(ratios) > 0 and all(0 < r <= 1 for r in ratios), "one or more shares in (0, 1]")
        falling = all(after <= before for before, after in itertools.pairwise(self.mask_keeps))
        shares = len(self.mask_keeps) > 0 and all(0 < share <= 1 for share in self.mask_keeps)
        self._check("mask_keeps", shares and falling, "shares in (0, 1] that do not rise")
        self._check("mask_overlap", 0 <= self.mask_overlap < float("inf"), "0 or more")
        for name in ("classes", "weak_classes"):
            names = getattr(self, name)
            self._check(name, len(set(names)) == len(names), "each name once")
        self._check("schedule", self.schedule in ("step", "one_cycle"), "step or one_cycle")
        self._check("importance_mode", self.importance_mode in ("l1", "random"), "l1 or random")
        modes = ("sensitivity", "random", "gradient")
        self._check("init_pop_mode", self.init_pop_mode in modes, "sensitivity, random or gradient")
        self._check(
            "survivors_max", self.survivors_max >= self.survivors_min, f"at least survivors_min = {self.survivors_min}"
        )
        self._check("parents", 1 <= self.parents <= self.population, f"between 1 and population = {self.population}")
        self._check("elites", 1 <= self.elites <= self.population, f"between 1 and population = {self.population}")
        self._check("keep_outputs", self.keep_outputs >= 2, "at least 2: a generation is bred from the one before")
        self._check("keep_epochs", all(epoch >= 0 for epoch in self.keep_epochs), "epochs counted from 0")
        thresholds_fit = all(size >= 2 and 0 <= accuracy <= 1 for size, accuracy in self.accuracy_thresholds)
        self._check(
            "accuracy_thresholds", thresholds_fit, "pairs CLASSES:ACCURACY with CLASSES >= 2 and ACCURACY in [0, 1]"
        )
        chosen_fits = len(self.chosen_ensemble) in (0, self.num_classes)
        chosen_fits = chosen_fits and all(0 <= index < self.population for index in self.chosen_ensemble)
        self._check(
            "chosen_ensemble", chosen_fits, f"{self.num_classes} chromosome indices below {self.population}, or none"
        )
        last = f"a generation up to generations = {self.generations}, or -1 for the best"
        self._check("chosen_generation", -1 <= self.chosen_generation <= self.generations, last)
        self._check("sensitive_layers", all(layer >= 0 for layer in self.sensitive_layers), "layers counted from 0")

    def _check(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise SettingError(f"setting {name}: expected {expected}, given {getattr(self, name)!r}")

    @property
    def image_source(self) -> str:
        """The dataset that the strong model's images are read from."""
        return self.source or self.dataset

    @property
    def weak_image_source(self) -> str:
        """The dataset that the weak model's other classes are read from."""
        return self.weak_source or self.image_source

    @property
    def name(self) -> str:
        """MODEL_DATASET: the name of the configuration's file and of its artifacts' folder."""
        return f"{self.model}_{self.dataset}"


def known_configurations() -> list[str]:
    """The names MODEL_DATASET that have a file in `configures/`, sorted."""
    folder = Path(__file__).resolve().parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))


def load(model: str, dataset: str, overrides: list[str] | None = None) -> Config:
    """The configuration of a model and a dataset, with `name=value` overrides laid over its file.

    Raises SettingError for an unknown configuration, setting or value, naming the known ones.
    """
    name = f"{model}_{dataset}"
    if name not in known_configurations():
        raise SettingError(
            f"no configuration {name}: expected one of {', '.join(known_configurations())}; "
            f"for your own model or dataset write configures/{name}.py"
        )
    try:
        config = getattr(importlib.import_module(f"configures.{name}"), "config", None)
    except SettingError as error:
        raise SettingError(f"configures/{name}.py: {error}") from None
    except Exception as error:  # a file that users write
        raise SettingError(
            f"configures/{name}.py: {type(error).__name__}: {error}; the settings are {', '.join(_known_settings())}"
        ) from None
    if not isinstance(config, Config):
        raise SettingError(f"configures/{name}.py: expected config = Config(...) in it")
    if (config.model, config.dataset) != (model, dataset):
        raise SettingError(
            f"configures/{name}.py is for model {config.model} and dataset {config.dataset}: "
            f"expected model={model!r}, dataset={dataset!r} in it"
        )
    return override(config, overrides or [])


def override(config: Config, assignments: list[str]) -> Config:
    """`config` with each `name=value` laid over it; the values are read by the setting's type."""
    types = typing.get_type_hints(Config)
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"--set {assignment}: expected name=value")
        if name not in types or name in ("model", "dataset"):
            raise SettingError(f"unknown setting {name}: expected one of {', '.join(_known_settings())}")
        try:
            changes[name] = parse_value(text, types[name])
        except ValueError:
            kind = getattr(types[name], "__name__", str(types[name]))
            if types[name] in (int, float, bool, str):
                expected = kind
            elif "tuple[int, float]" in str(types[name]):
                expected = "pairs like 2:0.95,4:0.9"
            else:
                expected = "comma-separated values"
            raise SettingError(f"setting {name}: expected {expected}, given {text!r}") from None
    return dataclasses.replace(config, **changes)


def _known_settings() -> list[str]:
    return sorted(set(typing.get_type_hints(Config)) - {"model", "dataset"})


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotation `kind`: a scalar, `tuple[kind, ...]` or a tuple of so many kinds."""
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is float:
        return isinstance(value, float) or is_of_kind(value, int)
    if kind in (bool, str):
        return isinstance(value, kind)
    kinds = typing.get_args(kind)
    if not isinstance(value, tuple):
        return False
    if kinds[-1] is Ellipsis:
        return all(is_of_kind(element, kinds[0]) for element in value)
    return len(value) == len(kinds) and all(map(is_of_kind, value, kinds))


def parse_value(text: str, kind: Any) -> Any:
    """`text` as a value of the annotation `kind`: a scalar, `a,b,c`, or `a:b,c:d`. Raises ValueError for others."""
    if kind is bool:
        choices = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() not in choices:
            raise ValueError(text)
        return choices[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    element = typing.get_args(kind)[0]
    parts = [part for part in text.split(",") if part]
    if typing.get_origin(element) is tuple:
        first, second = typing.get_args(element)
        pairs = [part.split(":") for part in parts]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(text)
        return tuple((first(a), second(b)) for a, b in pairs)
    return tuple(parse_value(part, element) for part in parts)
