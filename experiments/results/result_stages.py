"""What is run for the published experiments: stages of the project's own commands, in their order, as data.

A stage's words are what its script is given beside --model and --dataset. What they do not say stands in the
configuration file of the model and the dataset.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import known_configurations, load

Words = tuple[str, ...]

TRAIN = "train.py"
IMPORTANCE = "preprocess/kernel_importance_analyzer.py"
GENETIC = "scripts/run_module_search.py"
GRADIENT = "module_gradient_search.py"
OUTPUTS = "preprocess/module_output_collector.py"
TRADE_OFF = "experiments/trade_off/trade_off.py"
WEAK = "experiments/patch/patch_for_weak_model/train.py"
POOR = "experiments/patch/patch_for_poor_model/train.py"
PATCH = "experiments/patch/apply_patch.py"
PATCH_SIZES = "experiments/trade_off/patch_trade_off.py"
ALL_RULES = ("--calibration", "all")

# One heuristic of the genetic search less each; a stage's folder is called so.
ABLATIONS: Mapping[str, Words] = {
    "random_importance": ("--set", "importance_mode=random"),
    "random_population": ("--set", "init_pop_mode=random"),
    "random_survivors": ("--set", "survival=random"),
}


@dataclass(frozen=True)
class Size:
    """How much is run."""

    seeds: Mapping[str, tuple[int, ...]]  # of every network; weak models are of the first one
    genetic: Mapping[str, Mapping[int, Words]]  # those of them with a genetic search, which takes the most time
    poorly_fitted: Words  # the networks whose poorly fitted weak models are patched, too
    made_small: Words  # the networks whose weak models are patched by modules of all sizes, too
    ablated: Words  # the networks whose genetic searches are run without each heuristic, too
    underfitted: str  # the epoch of poorly fitted models, counted from 0, that counts as underfitted
    precision: str = "float32"
    training: Words = ()
    ablation: Words = ()  # of a genetic search without one of its heuristics
    gradient: Words = ()
    patching_modules: Words = ()  # which round's modules patch, of those that are there: see `_of_patching`
    weak: Words = ()
    poor: Words = ()
    for_patch: Words = ()
    for_patch_classes: Words = ("all",)


def generations(count: int) -> Words:
    """How far a genetic search goes."""
    return ("--set", f"generations={count}")


PUBLISHED = Size(
    seeds={"simcnn_x0_25": (0, 1, 2), "rescnn_x0_25": (0, 1), "resnet20": (0,)},
    # 50 generations take ten times as long as the gradient search takes, on the same core, to as many kernels.
    genetic={"simcnn_x0_25": {0: generations(50), 1: generations(20), 2: generations(20)}},
    poorly_fitted=("simcnn_x0_25",),
    made_small=("simcnn_x0_25",),
    ablated=("simcnn_x0_25",),
    underfitted="9",
    precision="bfloat16",
    ablation=generations(10),
    gradient=("--keep", "0.3"),
    patching_modules=("--set", "mask_keeps=0.8,0.6,0.55,0.5"),
    for_patch=("--keep", "0.1"),
)

_FEW_STEPS = ("--set", "mask_steps=4", "--set", "mask_batch_size=8")
_FEW_CHROMOSOMES = tuple(
    word
    for setting in ("generations=2", "population=4", "parents=2", "elites=2", "search_images=40")
    for word in ("--set", setting)
)
TINY = Size(
    seeds={"simcnn_x0_25": (0,)},
    genetic={"simcnn_x0_25": {0: _FEW_CHROMOSOMES}},
    poorly_fitted=("simcnn_x0_25",),
    made_small=("simcnn_x0_25",),
    ablated=("simcnn_x0_25",),
    underfitted="0",
    training=("--epochs", "2"),
    ablation=_FEW_CHROMOSOMES,
    gradient=("--keep", "0.5", "--set", "mask_keeps=0.7", *_FEW_STEPS),
    patching_modules=("--set", "mask_keeps=0.7,0.5", *_FEW_STEPS),
    weak=("--epochs", "2"),
    poor=("--epochs", "2", "--keep_epochs", "0"),
    for_patch=("--keep", "0.4", "--set", "patch_keeps=0.7", "--set", "patch_steps=4", "--set", "mask_batch_size=8"),
    for_patch_classes=("0",),
)


@dataclass(frozen=True)
class Stage:
    """Commands that are run one after the other, in a root_dir that all stages of the same `root` share."""

    model: str
    dataset: str
    root: str
    what: str
    seed: int
    commands: tuple[Words, ...]  # script, words
    needs: tuple[str, ...] = ()  # names of stages before it, whose files it reads
    strong_from: str = ""  # the root whose strong model is taken over first

    @property
    def name(self) -> str:
        """MODEL/ROOT/WHAT."""
        return f"{self.model}/{self.root}/{self.what}"

    def option(self, name: str) -> str:
        """What the last command is given by an option."""
        words = self.commands[-1]
        return words[words.index(name) + 1]

    @property
    def settings(self) -> list[str]:
        """The `NAME=VALUE` that the last command is given by --set."""
        words = self.commands[-1]
        return [value for option, value in itertools.pairwise(words) if option == "--set"]


def stages_of(dataset: str, size: Size) -> Iterator[Stage]:
    """All stages on a dataset: of the networks that have a configuration file for it; with weak models if that has."""
    seeds_of = {m: seeds for m, seeds in size.seeds.items() if f"{m}_{dataset}" in known_configurations()}
    for model, seeds in seeds_of.items():
        for seed in seeds:
            make = partial(_stage, model, dataset, f"seed_{seed}", seed)
            genetic = size.genetic.get(model, {}).get(seed)
            searches = ("gradient",) if genetic is None else ("genetic", "gradient")
            yield from _of_modules(make, size, genetic, searches)
            if seed == seeds[0] and load(model, dataset).weak_classes:
                yield from _of_patching(make, size, searches)
                if model in size.made_small:
                    yield from _of_small_modules(make, size)
                if model in size.poorly_fitted:
                    yield from _of_poorly_fitted(make, size)
    for model in (model for model in size.ablated if model in seeds_of):
        for seed, (name, words) in itertools.product(size.genetic[model], ABLATIONS.items()):
            make = partial(_stage, model, dataset, f"seed_{seed}_{name}", seed, strong_from=f"seed_{seed}")
            yield make("importance", (IMPORTANCE, *words))
            yield make("genetic", (GENETIC, *size.ablation, *words), needs=("importance",))


def _stage(
    model: str,
    dataset: str,
    root: str,
    seed: int,
    what: str,
    *commands: Words,
    needs: Words = (),
    strong_from: str = "",
) -> Stage:
    lines = tuple((script, "--model", model, "--dataset", dataset, *words) for script, *words in commands)
    before = [f"{model}/{strong_from}/strong"] if strong_from else []
    needed = (*before, *(f"{model}/{root}/{need}" for need in needs))
    return Stage(model, dataset, root, what, seed, lines, needed, strong_from)


def _of_modules(make: Callable[..., Stage], size: Size, genetic: Words | None, searches: Words) -> Iterator[Stage]:
    """A strong model, the searches, and what each costs and loses."""
    yield make("strong", (TRAIN, *size.training))
    if genetic is not None:
        yield make("importance", (IMPORTANCE,), needs=("strong",))
        yield make("genetic", (GENETIC, *genetic), needs=("importance",))
    yield make("gradient", (GRADIENT, *size.gradient), needs=("strong",))
    # The settings of a genetic search name the generation that counts.
    yield make("trade_off", (TRADE_OFF, "--images", "test", *(genetic or ())), needs=searches)


def _of_patching(make: Callable[..., Stage], size: Size, searches: Words) -> Iterator[Stage]:
    """Overly simple weak models, patched."""
    # Both searches write the modules, and the last one counts. All rounds are done: however much one loses, of those
    # down to the last of `mask_keeps` the smallest is taken.
    take = (GRADIENT, "--max_loss", "100", *size.patching_modules)
    yield make("modules", take, (OUTPUTS,), needs=searches)
    yield make("weak", (WEAK, *size.weak), needs=("strong",))
    words = ("--exp_type", "weak", "--target_epoch", "best", *ALL_RULES)
    yield make("patch_weak", (PATCH, *words), needs=("modules", "weak"))


def _of_small_modules(make: Callable[..., Stage], size: Size) -> Iterator[Stage]:
    """The same weak models, patched by modules that were searched for that, down to very small ones."""
    classes = ("--target_class", *size.for_patch_classes)
    yield make("for_patch", (GRADIENT, "--for_patch", *classes, *size.for_patch), needs=("strong",))
    sizes = (PATCH_SIZES, "--exp_type", "weak", *classes, "--images", "test")
    yield make("patch_sizes", sizes, needs=("modules", "weak", "for_patch"))


def _of_poorly_fitted(make: Callable[..., Stage], size: Size) -> Iterator[Stage]:
    """Weak models that are overfitted at their best epoch, and underfitted at an early one."""
    yield make("poor", (POOR, *size.poor), needs=("strong",))
    for what, epoch in (("patch_overfitted", "best"), ("patch_underfitted", size.underfitted)):
        words = ("--exp_type", "poor_fit", "--target_epoch", epoch, *ALL_RULES)
        yield make(what, (PATCH, *words), needs=("modules", "poor"))
