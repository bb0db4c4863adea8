"""What a folder's files were made with: the settings that each stage recorded, and the command that gives them again.

A setting may have been given by `--set` or an option to one stage alone, so the configuration that a report is opened
with need not be the one that a stage ran with. What a stage recorded is what counts.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configures.base import KINDS, Config
from configures.setting import SettingError, check_value
from dataset.splits import TRAIN_SHARE
from models import files as model_files
from models.names import are_same
from modules import files as module_files
from modules.modularization import Modularization
from patching import files as patch_files
from patching.weak_models import WeakKind
from patching.weak_training import epochs_to_keep
from search.genetic import files as genetic_files
from search.genetic.log import Generation, best_generation
from search.gradient import files as gradient_files
from search.gradient.log import Round, smallest_within
from search.gradient.rounds import rounds_to_do
from utils.artifacts import Artifacts
from utils.errors import UserError

# Stages, as a report calls them.
TRAINING, IMPORTANCE, SENSITIVITY = "training", "kernel importance", "layer sensitivity"
GENETIC, GRADIENT, FINE_TUNING = "genetic search", "gradient search", "fine-tuning"

SHIPPED = {"seed": 0, "precision": "float32"}  # of global_configure.py
DEFAULT_MAX_LOSS = 1.0  # points, of module_gradient_search.py

# The settings' names where a stage records them under others.
OF_GRADIENT = {
    "steps": "mask_steps",
    "batch_size": "mask_batch_size",
    "step_size": "mask_step_size",
    "gain_step_size": "mask_gain_step_size",
    "mirror": "mirror",
    "distillation": "mask_distillation",
    "own_class": "mask_own_class",
}
OF_FINE_TUNING = {
    "steps": "fine_tuning_steps",
    "batch_size": "mask_batch_size",
    "step_size": "fine_tuning_step_size",
    "mirror": "mirror",
    "distillation": "mask_distillation",
    "own_class": "mask_own_class",
}
OF_TRAINING = dict.fromkeys(
    ("epochs", "batch_size", "learning_rate", "schedule", "milestones", "momentum", "weight_decay", "mirror")
)
OF_WEAK = {
    WeakKind.SIMPLE: {
        "epochs": "weak_epochs",
        "batch_size": "weak_batch_size",
        "learning_rate": "weak_learning_rate",
        "momentum": "momentum",
        "weight_decay": "weight_decay",
        "augmented": "weak_augmented",
        "mirror": "mirror",
    },
    WeakKind.POOR: {"epochs": "poor_epochs", "batch_size": "poor_batch_size", "learning_rate": "poor_learning_rate"},
}
WEAK_IMAGES = ("weak_train_images", "weak_target_images", "weak_test_images")
IMAGE_FORM = ("image_side", "resize", "mean", "std")


@dataclass(frozen=True)
class MadeWith:
    """What a stage's files were made with, as far as the stage recorded it."""

    settings: Mapping[str, Any]  # of the configuration, by name
    seed: int | None = None
    precision: str | None = None
    options: tuple[str, ...] = ()  # of the command line, without `--set`

    @classmethod
    def of(cls, content: Mapping[str, Any], names: Mapping[str, str | None], options: Sequence[str] = ()) -> "MadeWith":
        """What a record says.

        Args:
            content: the record.
            names: recorded name -> the setting's name; None: the same.
            options: of the command line.
        """
        settings = {}
        for recorded, name in names.items():
            if recorded in content and _is_value(name or recorded, value := _as_setting(content[recorded])):
                settings[name or recorded] = value
        seed, precision = content.get("seed"), content.get("precision")
        return cls(
            settings,
            seed if isinstance(seed, int) else None,
            precision if isinstance(precision, str) else None,
            tuple(options),
        )

    def of_settings(self, names: Collection[str]) -> "MadeWith":
        """The same, with these settings alone and without what belongs to the run."""
        return MadeWith({name: value for name, value in self.settings.items() if name in names})

    def command(self, artifacts: Artifacts, script: str, configured: Config, more: Sequence[str] = ()) -> str:
        """The command line that makes the same again.

        Args:
            artifacts: whose `assignments` were given to the report; those of settings that no record has are repeated.
            script: of the stage.
            configured: what the configuration file says without them.
            more: further options.
        """
        given = {name: value for name, value in self.settings.items() if getattr(configured, name) != value}
        sets = [f"{name}={as_text(value)}" for name, value in given.items()]
        sets += [text for text in artifacts.assignments if text.partition("=")[0] not in self.settings]
        line = dataclasses.replace(artifacts, assignments=tuple(sets)).command(script, *self.options, *more)
        environment = {"seed": self.seed, "precision": self.precision}
        changed = {name: value for name, value in environment.items() if value not in (None, SHIPPED[name])}
        return " ".join([*(f"CNNMOD_{name.upper()}={value}" for name, value in changed.items()), line])


def _is_value(name: str, value: Any) -> bool:
    try:
        check_value(name, value, KINDS[name])
    except SettingError:
        return False
    return True


def _as_setting(value: Any) -> Any:
    """Tuples instead of the lists that JSON has."""
    return tuple(map(_as_setting, value)) if isinstance(value, list | tuple) else value


def as_text(value: Any) -> str:
    """A setting's value as `--set` takes it: `0.5`, `true`, `a,b`, `2:0.95,4:0.9`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)
    return str(value)


def as_recorded(config: Config, artifacts: Artifacts) -> Config:
    """The configuration with the number of classes and the form of images that the strong model was made with.

    Its network stays the configuration's: a record alone must not run a user's own code. Raises UserError where the
    record is damaged.
    """
    recorded = model_files.network_settings(artifacts).load_if_there()
    if recorded is None:
        return config
    form = {name: getattr(recorded, name) for name in IMAGE_FORM}
    if recorded.num_classes != config.num_classes:
        trained_on = model_files.trained_on(artifacts).load_if_there()
        form |= {
            "num_classes": recorded.num_classes,
            "classes": () if trained_on is None else trained_on.classes,
            "chosen_ensemble": (),
        }
    try:
        return dataclasses.replace(config, **form)
    except SettingError as error:
        raise model_files.network_settings(artifacts).damaged(str(error)) from None


def records(config: Config, artifacts: Artifacts) -> Iterator[tuple[str, Callable[[], MadeWith]]]:
    """The stages that recorded something, in their order, and what reads it, which raises UserError for damage.

    `config` is the configuration without what was given to the report.
    """
    if model_files.training_state(artifacts).exists() and model_files.training_log(artifacts).exists():
        yield TRAINING, lambda: of_training(config, artifacts)
    if module_files.importance_settings(artifacts).exists():
        names = dict.fromkeys(config.part_of("importance"))
        yield IMPORTANCE, lambda: MadeWith.of(module_files.importance_settings(artifacts).load(), names)
    if module_files.sensitivity_settings(artifacts).exists():
        yield SENSITIVITY, lambda: of_sensitivity(config, artifacts)
    searches = {GENETIC: (genetic_files.settings, of_genetic), GRADIENT: (gradient_files.settings, of_gradient)}
    for name, (settings, read) in searches.items():
        if settings(artifacts).exists():
            yield name, lambda read=read: read(config, artifacts)
    if "fine_tuned" in _search_of_modules(artifacts):
        yield FINE_TUNING, lambda: of_fine_tuning(artifacts)


def of_training(config: Config, artifacts: Artifacts) -> MadeWith:
    """What the strong model was trained with."""
    file = model_files.training_state(artifacts)
    described = file.load().get("description")
    if not isinstance(described, dict):
        raise file.damaged("expected the state of a training")
    stopped = len(model_files.training_log(artifacts).load()) < described.get("epochs", 0)
    found = MadeWith.of(described, OF_TRAINING, ["--early_stop"] if stopped else [])
    return dataclasses.replace(found, settings={**_of_network(config, artifacts), **found.settings})


def _of_network(config: Config, artifacts: Artifacts) -> dict[str, Any]:
    """The network, the form of images and the classes of the strong model, as far as they are recorded."""
    recorded = model_files.network_settings(artifacts).load_if_there()
    trained_on = model_files.trained_on(artifacts).load_if_there()
    found: dict[str, Any] = {}
    if recorded is not None:
        found = {name: getattr(recorded, name) for name in ("num_classes", *IMAGE_FORM)}
        found["network"] = config.network if are_same(recorded.network, config.network_name) else recorded.network
    if trained_on is not None:
        all_of_source = not config.classes and len(trained_on.classes) == config.num_classes
        found["classes"] = () if all_of_source else trained_on.classes
    return found


def of_sensitivity(config: Config, artifacts: Artifacts) -> MadeWith:
    """What the curves were measured with."""
    content = module_files.sensitivity_settings(artifacts).load()
    found = MadeWith.of(content, dict.fromkeys(config.part_of("sensitivity")))
    images, trained_on = content.get("images"), model_files.trained_on(artifacts).load_if_there()
    if not isinstance(images, int) or trained_on is None:
        return found
    there = trained_on.images.get("valid", 0)
    asked = config.sensitivity_images if min(config.sensitivity_images or there, there) == images else images
    return dataclasses.replace(found, settings={**found.settings, "sensitivity_images": asked})


def of_genetic(config: Config, artifacts: Artifacts) -> MadeWith:
    """What the genetic search was made with."""
    content = genetic_files.settings(artifacts).load()
    found = MadeWith.of(content, dict.fromkeys(config.part_of("genetic search")))
    settings, options = dict(found.settings), []
    if end := genetic_files.end(artifacts).load_if_there():
        settings["generations"] = end.generations
        options = ["--early_stop"] if end.early_stop else []
    rows = genetic_files.log(artifacts).load_if_there()
    search = _search_of_modules(artifacts)
    if rows and is_of_log(search, "genetic", rows):
        own = rows[: search.get("generations") or len(rows)]
        chosen, best = search["generation"], best_generation(own)
        settings["chosen_generation"] = -1 if chosen == best.generation else chosen
        ensemble = _as_setting(search.get("ensemble", ()))
        settings["chosen_ensemble"] = () if ensemble == rows[chosen].ensemble else ensemble
    return dataclasses.replace(found, settings=settings, options=tuple(options))


def of_gradient(config: Config, artifacts: Artifacts) -> MadeWith:
    """What the gradient search was made with."""
    found = MadeWith.of(gradient_files.settings(artifacts).load(), OF_GRADIENT)
    rounds = gradient_files.log(artifacts).load_if_there()
    if not rounds:
        return found
    search = _search_of_modules(artifacts)
    chosen = search["round"] if is_of_log(search, "gradient", rounds) else len(rounds) - 1
    keeps, options = rounds_again(rounds, chosen, config.mask_keeps)
    return dataclasses.replace(found, settings={**found.settings, "mask_keeps": keeps}, options=options)


def rounds_again(
    rounds: Sequence[Round], chosen: int, configured: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """`mask_keeps` and the options with which the gradient search takes the same rounds and the modules of `chosen`.

    Args:
        rounds: of the log, at least one.
        chosen: the number of the round that the modules are of.
        configured: the `mask_keeps` of the configuration, which stay where they give the same rounds.
    """
    done, last = tuple(row.keep for row in rounds), rounds[-1].keep
    if chosen == len(rounds) - 1 and done[-2:] == (last, last):  # as --keep asks for
        keeps = configured if rounds_to_do(configured, last) == done else (done[:-2] or (last,))
        return keeps, ("--keep", f"{last:g}")
    keeps = configured if configured[: len(done)] == done else done
    # Up to the chosen round none lost more than was allowed, and of those within it is the smallest.
    before = [row.points_lost for row in rounds[: chosen + 1]]
    if max(before) <= DEFAULT_MAX_LOSS and smallest_within(rounds, DEFAULT_MAX_LOSS).number == chosen:
        return keeps, ()
    return keeps, ("--max_loss", repr(max(before)))


def of_fine_tuning(artifacts: Artifacts) -> MadeWith:
    """What the modules were fine-tuned with."""
    tuned = _search_of_modules(artifacts).get("fine_tuned")
    return MadeWith.of(tuned if isinstance(tuned, dict) else {}, OF_FINE_TUNING)


def _search_of_modules(artifacts: Artifacts) -> dict[str, Any]:
    """How the modules that are there were found; empty where none are, or their report is damaged."""
    try:
        report: Modularization | None = module_files.report(artifacts).load_if_there()
    except UserError:  # its own section says so
        return {}
    return {} if report is None else report.search


def is_of_log(search: Mapping[str, Any], method: str, rows: Sequence[Generation] | Sequence[Round]) -> bool:
    """Whether modules are of the search that a log is of, and not of another method's or of one that was set aside.

    The log may have gone on since. Its rows' seconds tell two searches apart: they are summed in the modules' report.

    Args:
        search: how the modules were found, from their report.
        method: the log's.
        rows: of the log.
    """
    chosen = search.get("generation" if method == "genetic" else "round")
    if search.get("method", method) != method or not isinstance(chosen, int) or not 0 <= chosen < len(rows):
        return False
    seconds = search.get("seconds")
    if not isinstance(seconds, int | float):  # an earlier version did not record them
        return True
    sums = [sum(row.seconds for row in rows[:count]) for count in range(chosen + 1, len(rows) + 1)]
    return any(abs(total - seconds) <= 1e-6 * max(1.0, abs(total)) for total in sums)


def of_weak_model(
    config: Config, artifacts: Artifacts, kind: WeakKind, target_class: int, now: Mapping[str, int], images: list[int]
) -> MadeWith:
    """What a weak model was trained with. Raises UserError where the record is missing or damaged.

    Args:
        config: the configuration without what was given to the report.
        artifacts: where the files are.
        kind: of the weak model.
        target_class: of the weak model.
        now: the settings WEAK_IMAGES of the report.
        images: training, validation and test images that these give; empty where they are not known.
    """
    content = patch_files.weak_model_settings(artifacts, kind, target_class).load()
    found = MadeWith.of(content, OF_WEAK[kind])
    settings = dict(found.settings)
    classes, recorded, kept = content.get("classes"), content.get("images"), _as_setting(content.get("kept_epochs"))
    if isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes):
        settings["weak_classes"] = tuple(classes[:-1])
        if recorded == images:
            settings |= now
        elif isinstance(recorded, list) and len(recorded) == 3 and all(isinstance(count, int) for count in recorded):
            settings |= weak_images(recorded, len(classes) - 1, now, images)
    epochs = settings.get(f"{kind}_epochs")
    if _is_value("keep_epochs", kept) and kept and isinstance(epochs, int):
        is_as_configured = tuple(epochs_to_keep(epochs, config.keep_every, config.keep_epochs)) == kept
        settings["keep_every"] = config.keep_every if is_as_configured else epochs
        settings["keep_epochs"] = config.keep_epochs if is_as_configured else kept[:-1]
    return dataclasses.replace(found, settings=settings)


def weak_images(
    recorded: Sequence[int], weak_classes: int, now: Mapping[str, int], images: Sequence[int]
) -> dict[str, int]:
    """The settings WEAK_IMAGES that give a weak model's images, of a dataset that is cut by TRAIN_SHARE.

    Args:
        recorded: its training, validation and test images.
        weak_classes: how many classes it knows besides the target class.
        now: the settings of the report.
        images: what those give; empty where that is not known.

    Several numbers of images per class may give the same counts: that of the report is taken where it is one of them,
    then one by which the target class has as many as the others. Empty where no number, or more than one, is left.
    """
    train, valid, test = recorded
    fitting = {}
    for each in range(1, train + valid + 1):
        own, of_target = int(weak_classes * each * TRAIN_SHARE), int(each * TRAIN_SHARE)
        if weak_classes * each - own + each - of_target == valid and train > own:
            fitting[each] = 0 if train - own == of_target else train - own
    alike = [each for each, target in fitting.items() if target == 0]
    chosen = now["weak_train_images"] if now["weak_train_images"] in fitting else None
    for few in (alike, list(fitting)):
        chosen = few[0] if chosen is None and len(few) == 1 else chosen
    if chosen is None:
        return {}
    found = {"weak_train_images": chosen, "weak_target_images": fitting[chosen]}
    if list(images[2:]) == [test]:
        return {**found, "weak_test_images": now["weak_test_images"]}
    return found if test % (weak_classes + 1) else {**found, "weak_test_images": test // (weak_classes + 1)}
