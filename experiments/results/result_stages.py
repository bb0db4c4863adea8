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
FINE_TUNER = "module_fine_tuner.py"
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
    genetic: Mapping[str, Words]  # the networks with a genetic search, which takes the most time, and how far it goes
    poorly_fitted: Words  # the networks whose poorly fitted weak models are patched, too
    made_small: Words  # the networks whose weak models are patched by modules of all sizes, too
    # Of networks, which modules of the gradient search are fine-tuned, too: what takes them, and how they are trained.
    fine_tuned: Mapping[str, Mapping[str, tuple[Words, Words]]]
    fine_tuned_seeds: tuple[int, ...]
    ablated: Words  # the networks whose genetic searches are run without each heuristic, too
    underfitted: str  # the epoch of poorly fitted models, counted from 0, that counts as underfitted
    precision: str = "float32"
    training: Words = ()
    ablation: Words = ()  # of a genetic search without one of its heuristics
    gradient: Words = ()
    patching_modules: Words = ()  # which round's modules patch, of those that are there
    weak: Words = ()
    poor: Words = ()
    for_patch: Words = ()
    for_patch_classes: Words = ("all",)
    fine_tuned_for_patch: Words = ()  # in place of `for_patch`, where modules are fine-tuned afterwards
    fine_tuning_for_patch: Words = ()


def generations(count: int) -> Words:
    """How far a genetic search goes."""
    return ("--set", f"generations={count}")


def _smallest_of(*keeps: str) -> Words:
    """Of the rounds of a gradient search that is done, take the last of some: however much it loses."""
    return ("--max_loss", "100", "--set", f"mask_keeps={','.join(keeps)}")


def _training(steps: int, step_size: float) -> Words:
    return ("--set", f"fine_tuning_steps={steps}", "--set", f"fine_tuning_step_size={step_size}")


_HALF = ("0.8", "0.6", "0.55", "0.5")
_FORTY = (*_HALF, "0.475", "0.45", "0.425", "0.4")
PUBLISHED = Size(
    seeds={"simcnn_x0_25": (0, 1, 2), "rescnn_x0_25": (0, 1), "resnet20": (0,)},
    # 50 generations take ten times as long as the gradient search takes, on the same core, to as many kernels.
    genetic={"simcnn_x0_25": generations(50)},
    poorly_fitted=("simcnn_x0_25",),
    made_small=("simcnn_x0_25",),
    fine_tuned={
        # What has little to gain is trained in small steps, since large ones first make it worse: see docs/patching.md.
        "simcnn_x0_25": {
            "keep_0.5": (_smallest_of(*_HALF), _training(300, 0.0002)),
            "keep_0.4": (_smallest_of(*_FORTY), _training(600, 0.0005)),
            "keep_0.3": (("--keep", "0.3"), _training(1500, 0.001)),
        },
        "rescnn_x0_25": {
            "keep_0.5": (_smallest_of(*_HALF), _training(1500, 0.0005)),
            "keep_0.4": (_smallest_of(*_FORTY), _training(1500, 0.0005)),
            "keep_0.3": (("--keep", "0.3"), _training(1500, 0.001)),
        },
        "resnet20": {"keep_0.6": (_smallest_of("0.8", "0.6"), _training(500, 0.001))},
    },
    fine_tuned_seeds=(0, 1),
    ablated=("simcnn_x0_25",),
    underfitted="9",
    precision="bfloat16",
    ablation=generations(10),
    gradient=("--keep", "0.3"),
    patching_modules=_smallest_of(*_HALF),
    for_patch=("--keep", "0.1"),
    # Within 35 % of the FLOPs, and three minutes of two cores for each class.
    fine_tuned_for_patch=("--keep", "0.22", "--set", "patch_steps=500"),
    fine_tuning_for_patch=_training(4000, 0.002),
)

_FEW_STEPS = ("--set", "mask_steps=4", "--set", "mask_batch_size=8")
_FEW_CHROMOSOMES = tuple(
    word
    for setting in ("generations=2", "population=4", "parents=2", "elites=2", "search_images=40")
    for word in ("--set", setting)
)
# Small enough that the modules are no worse afterwards, which would leave them as they were.
_FEW_TRAINING_STEPS = ("--set", "mask_batch_size=8", *_training(4, 1e-6))
_SMALL_GRADIENT = ("--keep", "0.5", "--set", "mask_keeps=0.7", *_FEW_STEPS)
_SMALL_PATCH = ("--keep", "0.4", "--set", "patch_keeps=0.7", "--set", "patch_steps=4", "--set", "mask_batch_size=8")
TINY = Size(
    seeds={"simcnn_x0_25": (0,)},
    genetic={"simcnn_x0_25": _FEW_CHROMOSOMES},
    poorly_fitted=("simcnn_x0_25",),
    made_small=("simcnn_x0_25",),
    fine_tuned={"simcnn_x0_25": {"keep_0.5": (_SMALL_GRADIENT, _FEW_TRAINING_STEPS)}},
    fine_tuned_seeds=(0,),
    ablated=("simcnn_x0_25",),
    underfitted="0",
    training=("--epochs", "2"),
    ablation=_FEW_CHROMOSOMES,
    gradient=_SMALL_GRADIENT,
    patching_modules=(*_smallest_of("0.7", "0.5"), *_FEW_STEPS),
    weak=("--epochs", "2"),
    poor=("--epochs", "2", "--keep_epochs", "0"),
    for_patch=_SMALL_PATCH,
    for_patch_classes=("0",),
    fine_tuned_for_patch=_SMALL_PATCH,
    fine_tuning_for_patch=_FEW_TRAINING_STEPS,
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
    other_root: str = ""  # from which the files of some stages are taken over first
    taken: tuple[str, ...] = ()  # what those stages are called there

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
            genetic = size.genetic.get(model)
            searches = ("gradient",) if genetic is None else ("genetic", "gradient")
            yield from _of_modules(make, size, genetic, searches)
            if seed in size.fine_tuned_seeds:
                yield from _of_fine_tuned_modules(model, dataset, seed, size)
            if seed == seeds[0] and load(model, dataset).weak_classes:
                yield from _of_patching(make, size, searches)
                if model in size.made_small:
                    yield from _of_small_modules(make, size)
                    yield _of_fine_tuned_patches(model, dataset, seed, size)
                if model in size.poorly_fitted:
                    yield from _of_poorly_fitted(make, size)
    for model in (model for model in size.ablated if model in seeds_of):
        for seed, (name, words) in itertools.product(seeds_of[model], ABLATIONS.items()):
            make = _beside(model, dataset, seed, name, "strong")
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
    other_root: str = "",
    taken: Words = (),
) -> Stage:
    lines = tuple((script, "--model", model, "--dataset", dataset, *words) for script, *words in commands)
    needed = (*(f"{model}/{other_root}/{need}" for need in taken), *(f"{model}/{root}/{need}" for need in needs))
    return Stage(model, dataset, root, what, seed, lines, needed, other_root, taken)


def _beside(model: str, dataset: str, seed: int, name: str, *taken: str) -> Callable[..., Stage]:
    """Makes stages in a root of their own, with what some stages left in the seed's root."""
    root = f"seed_{seed}"
    return partial(_stage, model, dataset, f"{root}_{name}", seed, other_root=root, taken=taken)


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
    # Both searches write the modules, and the last one counts.
    yield make("modules", (GRADIENT, *size.patching_modules), (OUTPUTS,), needs=searches)
    yield make("weak", (WEAK, *size.weak), needs=("strong",))
    words = ("--exp_type", "weak", "--target_epoch", "best", *ALL_RULES)
    yield make("patch_weak", (PATCH, *words), needs=("modules", "weak"))


def _of_small_modules(make: Callable[..., Stage], size: Size) -> Iterator[Stage]:
    """The same weak models, patched by modules that were searched for that, down to very small ones."""
    classes = ("--target_class", *size.for_patch_classes)
    yield make("for_patch", (GRADIENT, "--for_patch", *classes, *size.for_patch), needs=("strong",))
    sizes = (PATCH_SIZES, "--exp_type", "weak", *classes, "--images", "test")
    yield make("patch_sizes", sizes, needs=("modules", "weak", "for_patch"))


def _of_fine_tuned_modules(model: str, dataset: str, seed: int, size: Size) -> Iterator[Stage]:
    """The gradient search's modules of some sizes, fine-tuned; each in a root of its own, since one has one set."""
    for name, (search, training) in size.fine_tuned.get(model, {}).items():
        make = _beside(model, dataset, seed, name, "strong", "gradient")
        measure = (TRADE_OFF, "--images", "test", "--only", "fine-tuned")
        yield make("fine_tuned", (GRADIENT, *search), (FINE_TUNER, *training), measure)


def _of_fine_tuned_patches(model: str, dataset: str, seed: int, size: Size) -> Stage:
    """The same weak models, patched by small modules that were searched for that and fine-tuned."""
    classes = ("--target_class", *size.for_patch_classes)
    make = _beside(model, dataset, seed, "for_patch", "strong", "weak")
    return make(
        "fine_tuned_patches",
        (GRADIENT, "--for_patch", *classes, *size.fine_tuned_for_patch),
        (FINE_TUNER, "--for_patch", *classes, *size.fine_tuning_for_patch),
        (PATCH_SIZES, "--exp_type", "weak", *classes, "--images", "test"),
    )


def _of_poorly_fitted(make: Callable[..., Stage], size: Size) -> Iterator[Stage]:
    """Weak models that are overfitted at their best epoch, and underfitted at an early one."""
    yield make("poor", (POOR, *size.poor), needs=("strong",))
    for what, epoch in (("patch_overfitted", "best"), ("patch_underfitted", size.underfitted)):
        words = ("--exp_type", "poor_fit", "--target_epoch", epoch, *ALL_RULES)
        yield make(what, (PATCH, *words), needs=("modules", "poor"))
