"""What a folder's files were made with: the settings that each stage recorded, and the command that gives them again.

A setting may have been given by `--set` or an option to one stage alone, so the configuration that a report is opened
with need not be the one that a stage ran with. What a stage recorded is what counts.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from configures.base import Config
from configures.setting import SettingError
from models import files as model_files
from models.names import are_same
from models.training import NEWER, TrainingSettings
from modules import files as module_files
from modules.module_set import ModuleSet
from modules.module_sets import module_sets
from search.methods import METHODS
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.recorded_settings import configured_of

# Stages, as a report calls them.
TRAINING, IMPORTANCE, SENSITIVITY = "training", "kernel importance", "layer sensitivity"

SHIPPED = {"seed": 0, "precision": "float32"}  # of global_configure.py
IMAGE_FORM = ("image_side", "resize", "mean", "std")


@dataclass(frozen=True)
class MadeWith:
    """What a stage's files were made with, as far as the stage recorded it."""

    settings: Mapping[str, Any]  # of the configuration, by name
    seed: int | None = None
    precision: str | None = None
    options: tuple[str, ...] = ()  # of the command line, without `--set`

    @classmethod
    def of(
        cls, content: Mapping[str, Any], configured: Mapping[str, Any] | None = None, options: Sequence[str] = ()
    ) -> "MadeWith":
        """What a record says, `content` with seed and precision; the settings stand among it, or in `configured`."""
        seed, precision = content.get("seed"), content.get("precision")
        return cls(
            configured_of(content if configured is None else configured),
            seed if isinstance(seed, int) else None,
            precision if isinstance(precision, str) else None,
            tuple(options),
        )

    def command(self, artifacts: Artifacts, script: str, configured: Config, more: Sequence[str] = ()) -> str:
        """The command line of a script, with `more` options, that makes the same again.

        The `assignments` of the artifacts were given to the report; those of settings that no record has are repeated.
        `configured` is what the configuration file says without them.
        """
        given = {name: value for name, value in self.settings.items() if getattr(configured, name) != value}
        sets = [f"{name}={as_text(value)}" for name, value in given.items()]
        sets += [text for text in artifacts.assignments if text.partition("=")[0] not in self.settings]
        line = dataclasses.replace(artifacts, assignments=tuple(sets)).command(script, *self.options, *more)
        given = {name: getattr(self, name) for name in SHIPPED}
        changed = [f"CNNMOD_{n.upper()}={value}" for n, value in given.items() if value not in (None, SHIPPED[n])]
        return " ".join([*changed, line])


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


def sets_here(config: Config, artifacts: Artifacts) -> list[ModuleSet]:
    """The module sets of the strong model that is there, the oldest first."""
    found = []
    for each in module_sets(config, artifacts):
        with contextlib.suppress(UserError):
            each.check_source(artifacts)
            found.append(each)
    return found


def records(
    config: Config, artifacts: Artifacts, sets: Sequence[ModuleSet]
) -> Iterator[tuple[str, Callable[[], MadeWith]]]:
    """The stages that recorded something, in their order, and what reads it, which raises UserError for damage.

    `config` is the configuration without what was given to the report.
    """
    if model_files.training_state(artifacts).exists() and model_files.training_log(artifacts).exists():
        yield TRAINING, lambda: of_training(config, artifacts)
    if module_files.importance_settings(artifacts).exists():
        yield IMPORTANCE, lambda: MadeWith.of(module_files.importance_settings(artifacts).load())
    if module_files.sensitivity_settings(artifacts).exists():
        yield SENSITIVITY, lambda: of_sensitivity(config, artifacts)
    for each in sets:
        yield set_in_words(each), partial(of_set, each)


def of_training(config: Config, artifacts: Artifacts) -> MadeWith:
    """What the strong model was trained with."""
    file = model_files.training_state(artifacts)
    described = file.load().get("description")
    if not isinstance(described, dict):
        raise file.damaged("expected the state of a training")
    stopped = len(model_files.training_log(artifacts).load()) < described.get("epochs", 0)
    described = {name: getattr(TrainingSettings, name) for name in NEWER} | described  # what its defaults leave out
    found = MadeWith.of(described, options=["--early_stop"] if stopped else [])
    return dataclasses.replace(found, settings={**of_network(config, artifacts), **found.settings})


def of_network(config: Config, artifacts: Artifacts) -> dict[str, Any]:
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
    found = MadeWith.of(content)
    images, trained_on = content.get("images"), model_files.trained_on(artifacts).load_if_there()
    if not isinstance(images, int) or trained_on is None:
        return found
    there = trained_on.images.get("valid", 0)
    asked = config.sensitivity_images if min(config.sensitivity_images or there, there) == images else images
    return dataclasses.replace(found, settings={**found.settings, "sensitivity_images": asked})


def set_in_words(modules: ModuleSet) -> str:
    """The stage that made a module set, as a report calls it."""
    return f"module set {modules.name}"


def last_step(modules: ModuleSet) -> dict[str, Any]:
    """What a set's record says of the stage that wrote it: of fine-tuning, where its modules were fine-tuned."""
    search = modules.record.search
    return dict_in(search, "fine_tuned") or search


def dict_in(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values by name below a name; none where there are none."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def script_of(modules: ModuleSet) -> str:
    """The script that wrote a module set."""
    search = modules.record.search
    if "published_of_commit" in search:
        return "scripts/take_published_model.py"
    method = METHODS.get(modules.record.method)
    return "module_fine_tuner.py" if "fine_tuned" in search or method is None else method.script


def of_set(modules: ModuleSet) -> MadeWith:
    """What a module set was made with."""
    record, step = modules.record, last_step(modules)
    default = rf"{re.escape(record.method)}(_class(_\d+)+|_\d+_classes_[0-9a-f]{{8}})?(-\d+|_tuned)*"
    is_named = record.made_with and not re.fullmatch(default, modules.name)  # by earlier versions it was not
    options = [
        *(["--modules", record.parent] if record.parent else []),
        *map(str, step.get("options", ())),
        *(["--as", modules.name] if is_named else []),
    ]
    return MadeWith.of(step | dict_in(step, "settings"), dict_in(step, "configured"), options)
