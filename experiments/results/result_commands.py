"""The commands behind the tables of the results, as data: each is one of the project's scripts with its options.

Settings that a command does not name are those of the configuration file of its model and dataset. Module sets have
names, so that one root_dir holds all sets of a seed. A genetic search without one of its heuristics has a root_dir of
its own, which begins with the seed's strong model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import known_configurations, load
from utils.artifacts import Artifacts

Words = tuple[str, ...]

TRAIN = "train.py"
IMPORTANCE = "preprocess/kernel_importance_analyzer.py"
GENETIC = "scripts/run_module_search.py"
GRADIENT = "module_gradient_search.py"
FINE_TUNER = "module_fine_tuner.py"
TRADE_OFF = "experiments/trade_off/trade_off.py"
WEAK = "experiments/patch/patch_for_weak_model/train.py"
POOR = "experiments/patch/patch_for_poor_model/train.py"
PATCH = "experiments/patch/apply_patch.py"
PATCH_SIZES = "experiments/trade_off/patch_trade_off.py"

SEEDS = {"simcnn_x0_25": (0, 1, 2), "rescnn_x0_25": (0, 1), "resnet20": (0,)}  # weak models: those of the first seed
# The network with a genetic search, since it takes ten times as long as the gradient search, with its controls, and
# with poorly fitted weak models and small modules for patches.
MOST_MEASURED = "simcnn_x0_25"
KEEPS = (0.6, 0.5, 0.4, 0.3)
SMALL_KEEPS = (*KEEPS, 0.2, 0.1)  # of modules for patches
FINE_TUNED = (50, 30)  # percent of the kernels
FINE_TUNED_SEEDS = (0, 1)
ABLATIONS = {  # the genetic search's heuristics, each replaced by chance; a root_dir ends with the name
    "random_importance": "importance_mode=random",
    "random_population": "init_pop_mode=random",
    "random_survivors": "survival=random",
}


def settings(*assignments: str) -> Words:
    """The options that set settings."""
    return tuple(word for assignment in assignments for word in ("--set", assignment))


# What a trial run adds to the options of a script.
TINY: dict[str, Words] = {
    TRAIN: ("--epochs", "2"),
    GENETIC: settings("generations=2", "population=4", "parents=2", "elites=2", "search_images=40"),
    GRADIENT: settings("mask_steps=4", "mask_batch_size=8"),
    # So small that some modules are better afterwards, although nothing is learned in so few steps.
    FINE_TUNER: settings("mask_batch_size=8", "fine_tuning_steps=4", "fine_tuning_step_size=1e-6"),
    WEAK: ("--epochs", "2"),
    POOR: ("--epochs", "2", "--keep_epochs", "0"),
}


@dataclass(frozen=True)
class Command:
    """One script with its options, in one root_dir."""

    table: str  # that is made of what it writes
    root: str  # the name of the root_dir
    seed: int
    model: str
    dataset: str
    script: str
    words: Words  # in addition to --model and --dataset

    @property
    def arguments(self) -> Words:
        """Everything behind the script."""
        return ("--model", self.model, "--dataset", self.dataset, *self.words)

    @property
    def line(self) -> str:
        """The root_dir's name and the command line."""
        return " ".join([f"{self.root}: python", self.script, *self.arguments])

    def option(self, name: str) -> str:
        """The value of an option."""
        return self.words[self.words.index(name) + 1]

    def artifacts(self, folder: Path) -> Artifacts:
        """Where its files lie, in a folder of root_dirs."""
        return Artifacts(folder / self.root, self.model, self.dataset)


def commands_of(dataset: str, *, tiny: bool = False) -> list[Command]:
    """All commands on a dataset, in their order: of the networks that have a configuration file for it."""
    commands = []
    for model, seeds in SEEDS.items():
        if f"{model}_{dataset}" not in known_configurations() or (tiny and model != MOST_MEASURED):
            continue
        for seed in seeds[:1] if tiny else seeds:
            root, has_patches = f"seed_{seed}", seed == seeds[0] and bool(load(model, dataset).weak_classes)
            lists = [("modules", root, _modules(model, seed))]
            if has_patches:
                lists.append(("patching", root, _patching(model, underfitted="0" if tiny else "9")))
            if has_patches and model == MOST_MEASURED:
                lists.append(("patch_sizes", root, _patch_sizes()))
            if model == MOST_MEASURED:
                lists += [("heuristics", f"{root}_{name}", _heuristics(it)) for name, it in ABLATIONS.items()]
            commands += [
                Command(table, root, seed, model, dataset, script, (*words, *(TINY.get(script, ()) if tiny else ())))
                for table, root, entries in lists
                for script, *words in entries
            ]
    return commands


def _down_to(keeps: Sequence[float]) -> Words:
    """Of a gradient search that goes down to these shares, take the last round, however much it loses."""
    return ("--max_loss", "100", *settings(f"mask_keeps={','.join(map(str, keeps))}"))


def _modules(model: str, seed: int) -> Iterator[Words]:
    """A strong model, the searches, fine-tuned modules, and what each costs and loses."""
    yield (TRAIN,)
    if model == MOST_MEASURED:
        yield (IMPORTANCE,)
        yield GENETIC, "--as", "genetic", *settings("generations=50")
    for keep in FINE_TUNED:
        yield GRADIENT, "--as", f"keep_{keep}", *_down_to([share for share in KEEPS if 100 * share >= keep])
        if seed in FINE_TUNED_SEEDS:
            yield FINE_TUNER, "--modules", f"keep_{keep}", "--as", f"keep_{keep}_tuned"
    yield TRADE_OFF, "--images", "test"


def _patching(model: str, underfitted: str) -> Iterator[Words]:
    """Overly simple weak models, patched; poorly fitted ones, overfitted at their best epoch, underfitted early."""
    rules = ("--modules", "keep_50", "--calibration", "all")
    yield (WEAK,)
    yield PATCH, "--exp_type", "weak", "--target_epoch", "best", *rules
    if model == MOST_MEASURED:
        yield (POOR,)
        for epoch in ("best", underfitted):
            yield PATCH, "--exp_type", "poor_fit", "--target_epoch", epoch, *rules


def _patch_sizes() -> Iterator[Words]:
    """The same weak models, patched by modules of all sizes, down to very small ones, and by fine-tuned small ones."""
    yield GRADIENT, "--as", "keep_20", *_down_to(SMALL_KEEPS[:-1])
    yield FINE_TUNER, "--modules", "keep_20", "--as", "keep_20_tuned"
    yield GRADIENT, "--as", "keep_10", *_down_to(SMALL_KEEPS)
    yield PATCH_SIZES, "--exp_type", "weak", "--images", "test"


def _heuristics(setting: str) -> Iterator[Words]:
    """A genetic search without one of its heuristics."""
    yield IMPORTANCE, *settings(setting)
    yield GENETIC, *settings("generations=10", setting)
