"""Every setting of the pipeline in one table, and how a configuration is loaded.

A setting is one line: its kind of value, the stage that its value is part of, its published default, and one sentence
on what it does. A file `configures/MODEL_DATASET.py` builds one `Config` and names only what differs. `load()` finds
that file, and lays the command line's `--set name=value` over it.
"""

import dataclasses
import importlib
import itertools
import math
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from configures.setting import SettingError, StageName, check_value, read_value, wrong_value

FIRST_FIVE_DIGITS = ("0", "1", "2", "3", "4")
LAST_FOUR_DIGITS = ("6", "7", "8", "9")

# Kinds of values: the type, which of its values fit, and the same in words
Whole = Annotated[int, lambda n: n >= 0, "0 or more"]
Count = Annotated[int, lambda n: n >= 1, "at least 1"]
Side = Annotated[int, lambda n: 4 <= n <= 1024, "from 4 to 1024 pixels"]
MaskSteps = Annotated[int, lambda n: n >= 20, "at least 20, so that each candidate has some"]
Several = Annotated[int, lambda n: n >= 2, "at least 2"]
Generations = Annotated[int, lambda n: n >= 2, "at least 2: a generation is bred from the one before"]
Fraction = Annotated[float, lambda x: 0 <= x <= 1, "between 0 and 1"]
Positive = Annotated[float, lambda x: 0 < x < math.inf, "above 0"]
Weight = Annotated[float, lambda x: 0 <= x < math.inf, "0 or more"]
Colours = Annotated[tuple[float, ...], lambda xs: len(xs) == 3 and all(0 <= x <= 1 for x in xs), "three from 0 to 1"]
Scales = Annotated[
    tuple[float, ...], lambda xs: len(xs) == 3 and all(0 < x <= 10 for x in xs), "three above 0, up to 10"
]
Names = Annotated[tuple[str, ...], lambda names: len(set(names)) == len(names), "each name once"]
Layers = Annotated[tuple[int, ...], lambda layers: min(layers, default=0) >= 0, "layers counted from 0"]
Epochs = Annotated[tuple[int, ...], lambda epochs: min(epochs, default=0) >= 0, "epochs counted from 0"]
Shares = Annotated[tuple[float, ...], lambda xs: xs and all(0 < x <= 1 for x in xs), "one or more shares in (0, 1]"]
FallingShares = Annotated[
    tuple[float, ...],
    lambda xs: xs and all(0 < after <= before for before, after in itertools.pairwise((1, *xs))),
    "shares in (0, 1] that do not rise",
]
Thresholds = Annotated[
    tuple[tuple[int, float], ...],
    lambda pairs: all(classes >= 2 and 0 <= accuracy <= 1 for classes, accuracy in pairs),
    "pairs CLASSES:ACCURACY with CLASSES >= 2 and ACCURACY in [0, 1]",
]

# Stages. Each writes the settings that it is made with beside its files, and refuses to mix them with others.
images = StageName("images")  # which images a stage uses: it records their checksum instead of the settings
form = StageName("network")  # which network it is, and how it is given images: stands beside the strong model
training = StageName("training")
importance = StageName("importance")
sensitivity = StageName("sensitivity")
genetic = StageName("genetic search")
gradient = StageName("gradient search")
fine_tuning = StageName("fine-tuning")
gradsplitter = StageName("GradSplitter")
seam = StageName("SeaM")
weak = StageName("weak models")
free = StageName("none")  # how long a stage runs, and what is made of its files: these settings may change on the way


@dataclass(frozen=True)
class Config:
    """All settings of one model on one dataset. Raises SettingError for values that cannot work."""

    model: str
    dataset: str
    num_classes: Several

    # Network
    network: str = form(
        "", "The network, where it is not called like `model`: torchvision:NAME, timm:NAME or FILE.py:FUNCTION."
    )

    # Data
    source: str = images("", "The dataset that the images are read from, where it is not called like `dataset`.")
    classes: Names = images((), "The source's classes that the strong model knows, in label order; empty = all.")
    image_side: Side = form(32, "To how many pixels a side images are resized.", also=(images,))
    resize: Literal["stretch", "crop"] = form(
        "stretch",
        "How: `stretch` both sides; or `crop`: the shorter side is resized, and the middle is cut out.",
        also=(images,),
    )
    mean: Colours = form((0.485, 0.456, 0.406), "What is subtracted of red, green and blue between 0 and 1.")
    std: Scales = form((0.229, 0.224, 0.225), "What they are divided by then.")
    mirror: bool = training(
        False,
        "Whether training may flip images: right where a mirror image keeps its class.",
        also=(gradient, fine_tuning, seam, weak),
    )

    # Training of the strong model
    crop: Literal["shifted", "resized"] = training(
        "shifted",
        "Random crops of training images: `shifted` by up to 4 pixels; or `resized`: a quarter of the image or more, "
        "enlarged to the whole, for images of many pixels.",
        also=(gradient, fine_tuning),
    )
    epochs: Count = training(200, "Passes over the training images.")
    batch_size: Count = training(128, "Images per training step.")
    learning_rate: Positive = training(0.01, "The SGD step size (the largest one of a one_cycle schedule).")
    schedule: Literal["step", "one_cycle"] = training(
        "step", "`step`: a tenth of the step size after each milestone; `one_cycle`: up, then down to 0."
    )
    milestones: tuple[int, ...] = training(
        (60, 120), "The epochs after which the `step` schedule divides the step size by ten."
    )
    momentum: Fraction = training(0.9, "SGD momentum.", also=(weak,))
    weight_decay: Fraction = training(1e-4, "SGD weight decay.", also=(weak,))
    modular: Literal["none", "moda", "mwt"] = training(
        "none",
        "`moda`: images of a class are trained to use the same channels, and other classes others; `mwt`: likewise the "
        "masks of a network with mask generators (`network=mwt:NAME`).",
    )
    moda_affinity: Weight = training(1.0, "Its weight in the loss of how differently images of a class use them.")
    moda_dispersion: Weight = training(1.0, "The weight of how alike images of different classes use them.")
    moda_compactness: Weight = training(0.3, "The weight of the mean activation.")
    mwt_cohesion: Weight = training(0.5, "The weight in the loss of how differently images of a class are masked.")
    mwt_coupling: Weight = training(1.5, "The weight of how alike images of different classes are masked.")

    # Kernel importance
    importance_mode: Literal["l1", "random"] = importance(
        "l1", "`l1`: mean L1 norm of the feature map; `random`: kernels in index order, the control."
    )
    importance_confidence: Fraction = importance(
        0.9, "The least softmax confidence of an image that importance is measured on."
    )

    # Layer sensitivity
    sensitivity_ratios: Shares = sensitivity(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "The shares of a layer's kernels that are tried."
    )
    sensitivity_images: Whole = images(0, "How many validation images the sensitivity analysis uses; 0 = all.")
    sensitivity_tolerance: Fraction = free(0.05, "The loss of accuracy from which a layer counts as having fallen.")
    sensitive_from: float = free(
        0.4, "A layer is recommended as sensitive if it falls at this share of its kernels or above."
    )

    # Kernel groups: the genome
    groups: Count = genetic(10, "Kernel groups, so genes, of a layer with fewer than `wide_layer` kernels.")
    groups_wide: Count = genetic(100, "Kernel groups of a layer with `wide_layer` kernels or more.")
    wide_layer: Count = genetic(256, "From how many kernels on a layer is cut into `groups_wide` groups.")

    # Module search
    init_pop_mode: Literal["sensitivity", "random", "gradient"] = genetic(
        "sensitivity",
        "First population: `sensitivity` (important groups first), `random` (uniform) or `gradient` (the masks of its "
        "last round, without their weights).",
    )
    active_ratios_sensitive: Shares = genetic(
        (0.6, 0.7, 0.8), "The shares of a sensitive layer's groups that a first chromosome may switch on."
    )
    active_ratios: Shares = genetic((0.4, 0.5, 0.6, 0.7), "The same for the other layers.")
    rank_scale: Positive = genetic(
        10.0, "How many ranks down a group's chance to be in a first chromosome falls by a factor e."
    )
    sensitive_layers: Layers = genetic((), "The conv layers, counted from 0, that keep more kernels at the start.")
    population: Count = genetic(100, "Chromosomes per class.")
    parents: int = genetic(50, "The best chromosomes, which are crossed.")
    elites: int = genetic(20, "The best chromosomes, which go on unchanged.")
    mutation: Fraction = genetic(0.05, "The share of an offspring's genes that is drawn again.")
    generations: Whole = free(200, "How many generations follow the first population at the most.")
    patience: Count = free(20, "With --early_stop: generations without a better ensemble after which the search ends.")
    search_images: Whole = genetic(0, "How many validation images the search scores on; 0 = all.")
    accuracy_thresholds: Thresholds = genetic(
        ((2, 0.95), (4, 0.95), (8, 0.85), (10, 0.80)),
        "The accuracy that lets an ensemble of that many classes survive a round; the pair with the most classes also "
        "applies to larger ensembles.",
    )
    survivors_min: Count = genetic(50, "Ensembles that survive a tournament round at the least.")
    survivors_max: int = genetic(500, "Ensembles that survive a tournament round at the most.")
    survival: Literal["accuracy", "random"] = genetic(
        "accuracy",
        "Which partial ensembles live on: `accuracy`, the most accurate ones, or `random`, as many, drawn: a control.",
    )
    alpha: Fraction = genetic(
        0.9, "The weight of accuracy in fitness; 1 - alpha is that of the modules' Jaccard distance."
    )
    gamma: Fraction = genetic(0.9, "Below this accuracy of the last best ensemble, accuracy counts more.")
    own_class: Weight = genetic(
        0.0, "The weight in fitness of the modules' mean AUC for their own classes; 0, as published, is none."
    )
    chosen_generation: int = free(-1, "A generation to take the modules from, instead of the best one; -1 = the best.")
    chosen_ensemble: tuple[int, ...] = free(
        (), "One chromosome index per class, instead of that generation's best ensemble."
    )
    keep_outputs: Generations = free(2, "How many generations' outputs files stay on disk.")

    # Gradient search
    mask_keeps: FallingShares = free(
        (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
        "The shares of the kernels that the rounds of the gradient search go down to where no share is asked for; "
        "where two are equal, the second round only trains the weights.",
    )
    mask_steps: Count = gradient(500, "Steps of a round.")
    mask_batch_size: Count = gradient(64, "Training images per step.", also=(fine_tuning, gradsplitter, seam))
    mask_step_size: Positive = gradient(0.001, "Adam's step size on the modules' weights, at the beginning of a round.")
    mask_distillation: Fraction = gradient(
        0.5,
        "The share of the loss that is the divergence from the strong model; the rest is cross-entropy.",
        also=(fine_tuning,),
    )
    mask_own_class: Weight = gradient(
        0.3,
        "The weight in the loss of the share of the strong logit's variance that the module's does not explain.",
        also=(fine_tuning,),
    )
    mask_answer: Literal["logit", "log_odds"] = gradient(
        "logit",
        "What a module gives: its class's `logit`; or its `log_odds` against all other classes of the strong model, by "
        "which images of these classes are told apart better, and others possibly worse.",
    )
    mask_map_distillation: Weight = gradient(
        1.0,
        "The weight in the loss of the share of the strong model's feature maps that the module's do not explain, "
        "after residual additions or, without them, at the inputs of layers; it falls to 0 during a round.",
        also=(fine_tuning,),
    )

    # Fine-tuning of modules
    fine_tuning_steps: Count = fine_tuning(
        1500, "Steps of the training of modules' weights, by `module_fine_tuner.py`."
    )
    fine_tuning_step_size: Positive = fine_tuning(
        0.001,
        "Adam's step size then, at the beginning.",
    )

    # Published methods that learn masks
    gradsplitter_steps: MaskSteps = gradsplitter(
        1000, "Steps of GradSplitter; as published 145 epochs, which the phases keep their shares of."
    )
    gradsplitter_step_size: Positive = gradsplitter(
        0.01, "Adam's step size on the masks, which begin at 1 and drop a kernel at 0; as published 0.001."
    )
    gradsplitter_alpha: Weight = gradsplitter(0.1, "The weight in its loss of the share of the kernels that are kept.")
    seam_steps: MaskSteps = seam(1000, "Steps of SeaM; as published 300 epochs, which the phases keep their shares of.")
    seam_step_size: Positive = seam(
        0.01, "Adam's step size on the masks, which begin at 1 and drop a weight at 0; as published 0.01 to 0.12."
    )
    seam_alpha: Weight = seam(1.0, "The weight in its loss of the share of the weights that are kept.")

    # Patching
    weak_model: str = weak("", "The network of the overly simple weak model.")
    weak_source: str = weak("", "The dataset of the weak model's other classes; empty = `source`.")
    weak_classes: Names = weak((), "The weak model's other classes; the target class comes after them.")
    weak_train_images: Whole = weak(0, "Training images per class of the weak model; 0 = all.")
    weak_target_images: Whole = weak(
        0, "Images that it is trained on of the target class; 0 = as many as of each other class."
    )
    weak_test_images: Whole = weak(0, "Test images per class of the weak model; 0 = all.")
    weak_epochs: Count = weak(100, "Epochs of the overly simple weak model.")
    weak_batch_size: Count = weak(128, "Its images per training step.")
    weak_learning_rate: Positive = weak(0.01, "Its SGD step size.")
    weak_augmented: bool = weak(True, "Whether its training images are cropped (and flipped, with `mirror`).")
    poor_epochs: Count = weak(200, "Epochs of the poorly fitted weak model.")
    poor_batch_size: Count = weak(128, "Its images per training step.")
    poor_learning_rate: Positive = weak(0.01, "Its SGD step size.")
    checkpoint_every: Count = weak(10, "For both kinds of weak models: every how many epochs a checkpoint is kept.")
    keep_epochs: Epochs = weak(
        (84, 169), "Epochs, counted from 0, that are kept besides; the last and the best one always are."
    )

    def __post_init__(self) -> None:
        """Refuse what no stage could run with."""
        for name, annotation in KINDS.items():
            check_value(name, getattr(self, name), annotation)

        # What settings expect of each other
        classes, population, fewest, last = self.num_classes, self.population, self.survivors_min, self.generations
        chosen = self.chosen_ensemble
        chosen_fits = len(chosen) in (0, classes) and all(0 <= index < population for index in chosen)
        self._check("classes", len(self.classes) in (0, classes), f"{classes} names or none")
        self._check("parents", 1 <= self.parents <= population, f"between 1 and population = {population}")
        self._check("elites", 1 <= self.elites <= population, f"between 1 and population = {population}")
        self._check("survivors_max", self.survivors_max >= fewest, f"at least survivors_min = {fewest}")
        self._check("chosen_ensemble", chosen_fits, f"{classes} chromosome indices below {population}, or none")
        expected = f"a generation up to generations = {last}, or -1 for the best"
        self._check("chosen_generation", -1 <= self.chosen_generation <= last, expected)

    def _check(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise wrong_value(name, expected, getattr(self, name))

    def part_of(self, stage: str) -> dict[str, Any]:
        """What a stage's files are made with, in the table's order. Raises ValueError for a stage without settings."""
        names = [field.name for field in dataclasses.fields(self) if stage in field.metadata.get("part_of", ())]
        if not names:
            raise ValueError(f"no setting is part of {stage}")
        return {name: getattr(self, name) for name in names}

    @property
    def network_name(self) -> str:
        """The strong model's network, as `models.names` knows it."""
        return self.network or self.model

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


RENAMED = {"keep_every": "checkpoint_every"}  # what earlier versions called settings, and their names now
KINDS = typing.get_type_hints(Config, include_extras=True)
SETTABLE = sorted(set(KINDS) - {"model", "dataset"})


@cache
def current_name(name: str) -> str:
    """A setting's name now. Of one that an earlier version called otherwise it says so, once."""
    if name in RENAMED:
        print(f"setting {name} is now called {RENAMED[name]}", file=sys.stderr, flush=True)
    return RENAMED.get(name, name)


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the settings' names now; a value by an old name counts."""
    now = {name: value for name, value in values.items() if name not in RENAMED}
    return now | {current_name(name): value for name, value in values.items() if name in RENAMED}


def _accepting_old_names(config: type[Config]) -> None:
    """Let users' configuration files call settings as earlier versions did."""
    made = config.__init__
    init: Any = wraps(made)(lambda self, *args, **given: made(self, *args, **renamed(given)))
    config.__init__ = init  # type: ignore[method-assign]  # the dataclass's own knows one name of each


_accepting_old_names(Config)


def known_configurations() -> list[str]:
    """The names MODEL_DATASET that have a file in `configures/`, sorted."""
    folder = Path(__file__).resolve().parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base", "setting"))


def load(
    model: str,
    dataset: str,
    overrides: list[str] | None = None,
    without_file: Callable[[str, str], Config] | None = None,
) -> Config:
    """The configuration of a model and a dataset, with `name=value` overrides laid over its file.

    Where there is no file, they are laid over what `without_file` gives for the model and the dataset. Raises
    SettingError for an unknown configuration, setting or value, naming the known ones.
    """
    name = f"{model}_{dataset}"
    if name not in known_configurations():
        if without_file is not None:
            return override(without_file(model, dataset), overrides or [])
        raise SettingError(
            f"no configuration {name}: expected one of {', '.join(known_configurations())}; "
            f"for your own model or dataset write configures/{name}.py"
        )
    try:
        config = getattr(importlib.import_module(f"configures.{name}"), "config", None)
    except SettingError as error:
        raise SettingError(f"configures/{name}.py: {error}") from None
    except (Exception, SystemExit) as error:  # a file that users write
        raise SettingError(f"configures/{name}.py{_mistake(error, name)}") from None
    if not isinstance(config, Config):
        raise SettingError(f"configures/{name}.py: expected config = Config(...) in it")
    if (config.model, config.dataset) != (model, dataset):
        raise SettingError(
            f"configures/{name}.py is for model {config.model} and dataset {config.dataset}: "
            f"expected model={model!r}, dataset={dataset!r} in it"
        )
    return override(config, overrides or [])


def _mistake(error: BaseException, name: str) -> str:
    """`:LINE: ` of the configuration `name` that an error comes from, where it does, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == f"{name}.py"]
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.lineno and not lines:  # else it is of a file that this one imports
        lines, said = [error.lineno], f"{error.msg}; fix that and try again"
    elif isinstance(error, SystemExit):
        said = "it ends the program; expected config = Config(...) in it"
    elif isinstance(error, TypeError):  # perhaps by a name that is no setting, or without one that has no default
        said += f"; the settings are {', '.join(SETTABLE)}"
    return f":{lines[-1]}: {said}" if lines else f": {said}"


def override(config: Config, assignments: list[str]) -> Config:
    """`config` with each `name=value` laid over it; the values are read by the setting's type."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"--set {assignment}: expected name=value")
        name = current_name(name)
        if name not in SETTABLE:
            near = " or ".join(get_close_matches(name, SETTABLE))
            raise SettingError(
                f"unknown setting {name}: {f'did you mean {near}? ' if near else ''}configures/base.py lists those of "
                "models and stages; root_dir, device, precision and seed are in global_configure.py"
            )
        changes[name] = read_value(name, text, KINDS[name])
    return dataclasses.replace(config, **changes)
