"""The results on real data: run the commands behind the tables, then make the tables of the files that they wrote.

    python experiments/results/results.py
    python experiments/results/results.py --list
    python experiments/results/results.py --only "seed_1: *resnet*" "*trade_off.py*"
    python experiments/results/results.py --table modules methods
    python experiments/results/results.py --tables --publish
    python experiments/results/results.py --dataset digits_5 --tiny

PLAN lists the commands. One that has succeeded is not run again (to have all run again, remove log.csv); one that was
interrupted resumes; after a failure the commands behind it run all the same. Everything lies in root_dir/data/results:
a root_dir for every seed in roots/, what the scripts print in logs/, which commands have succeeded in log.csv, and the
tables. --publish writes the tables to experiments/results.
"""

import argparse
import dataclasses
import shutil
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from result_tables import HEURISTICS, MODULAR, TABLES, Ran, Results, write_tables

import global_configure
from configures.base import known_configurations, load
from models import files as model_files
from models.opening import OneLineParser
from utils.artifacts import TableFile
from utils.device import PRECISIONS, device_name, machine_facts, processor_and_instructions, resolve_device, utc_now
from utils.errors import UserError, run
from utils.processes import ProcessGroup
from utils.progress import time_in_words

DATASET = "cifar10"
HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
SEEDS = {"simcnn_x0_25": (0, 1, 2), "rescnn_x0_25": (0, 1), "resnet20": (0,)}  # weak models: those of the first seed
MOST_MEASURED = ("simcnn_x0_25",)  # with a genetic search, which takes ten times as long as one by gradient
GRADIENT = "module_gradient_search.py --max_loss 100"  # the last round is chosen, however much it loses
EARLY = ("9", "0")  # the epoch at which weak models are underfitted; of a trial run
PATCH = "experiments/patch/apply_patch.py --modules keep_50 --calibration all"
SEARCH = "scripts/run_module_search.py --method"
MASKED = f"--set network=mwt:{MOST_MEASURED[0]}"
SIZES = (60, 40, 20)  # per cent of the FLOPs; those of the kernels are the methods' own


@dataclass(frozen=True)
class Lines:
    """Commands of one table, for some networks and seeds: a script and its options in each line."""

    table: str
    text: str
    networks: tuple[str, ...] = tuple(SEEDS)
    seeds: tuple[int, ...] = (0, 1, 2)
    root: str = ""  # behind the name of the seed's root_dir
    is_tiny: bool = True  # whether they are part of a trial run


def one_shot(*names: str) -> str:
    """Of each one-shot method a command by kernels, which tries three shares, and some by FLOPs."""
    by_flops = [f"--keep_flops {size / 100}" for size in SIZES]
    return "\n".join(f"{SEARCH} {name} {size}" for name in names for size in ("--max_loss 100", *by_flops))


def gradient_by_flops() -> str:
    """A search by gradient for each share of the FLOPs, with a name for its modules: each replaces the one before."""
    script = GRADIENT.split()[0]
    return "\n".join(f"{script} --keep_flops {size / 100} --as gradient_flops_{size}" for size in SIZES)


# In the order in which they run. Settings that a command does not name are those of the configuration file.
PLAN = [
    Lines("modules", "train.py"),
    Lines(
        "modules",
        """preprocess/kernel_importance_analyzer.py
        scripts/run_module_search.py --as genetic --set generations=50""",
        MOST_MEASURED,
    ),
    Lines(
        "modules",
        f"""{GRADIENT} --as keep_50 --set mask_keeps=0.6,0.5
        {GRADIENT} --as keep_30 --set mask_keeps=0.6,0.5,0.4,0.3""",
    ),
    Lines(
        "modules",
        """module_fine_tuner.py --modules keep_50 --as keep_50_tuned
        module_fine_tuner.py --modules keep_30 --as keep_30_tuned""",
        seeds=(0, 1),
    ),
    Lines("modules", "experiments/trade_off/trade_off.py --images test"),
    Lines(
        "patching",
        f"""experiments/patch/patch_for_weak_model/train.py
        {PATCH} --exp_type weak --target_epoch best""",
        seeds=(0,),
    ),
    Lines(  # poorly fitted weak models, overfitted at their best epoch, underfitted early
        "patching",
        f"""experiments/patch/patch_for_poor_model/train.py
        {PATCH} --exp_type poor_fit --target_epoch best
        {PATCH} --exp_type poor_fit --target_epoch EARLY""",
        MOST_MEASURED,
        (0,),
    ),
    Lines(  # down to very small modules
        "patch_sizes",
        f"""{GRADIENT} --as keep_20 --set mask_keeps=0.6,0.5,0.4,0.3,0.2
        module_fine_tuner.py --modules keep_20 --as keep_20_tuned
        {GRADIENT} --as keep_10 --set mask_keeps=0.6,0.5,0.4,0.3,0.2,0.1
        experiments/trade_off/patch_trade_off.py --exp_type weak --images test""",
        MOST_MEASURED,
        (0,),
    ),
    Lines("sub_tasks", "experiments/composing/sub_tasks.py --modules keep_50"),
    Lines("patch_baselines", "experiments/trade_off/patch_baselines.py --exp_type weak --modules keep_50", seeds=(0,)),
    # Search methods that `modules` lacks; whatever their modules lose, all of their candidates are measured.
    Lines("methods", one_shot("taylor", "random"), root="_methods"),
    Lines("methods", one_shot("uniform", "importance", "concern", "magnitude"), root="_methods", is_tiny=False),
    Lines("methods", f"{SEARCH} moda", root="_methods"),
    Lines(
        "methods",
        f"""{SEARCH} incite --max_loss 100
        {SEARCH} gradsplitter --max_loss 100
        {SEARCH} seam --max_loss 100""",
        MOST_MEASURED,
        (0,),
        root="_methods",
    ),
    Lines("methods", gradient_by_flops(), root="_methods"),
    Lines("methods", "experiments/trade_off/trade_off.py --images test", root="_methods"),
    Lines(
        "methods",
        f"""train.py --set modular=moda
        {SEARCH} moda
        {gradient_by_flops()}
        experiments/trade_off/trade_off.py --images test""",
        MOST_MEASURED,
        (0,),
        root="_moda",
    ),
    Lines(
        "methods",
        f"""train.py --set modular=mwt {MASKED}
        {SEARCH} mwt {MASKED}
        experiments/trade_off/trade_off.py --images test {MASKED}""",
        MOST_MEASURED,
        (0,),
        root="_mwt",
    ),
    *(
        Lines(
            "heuristics",
            f"""preprocess/kernel_importance_analyzer.py --set {setting}
            scripts/run_module_search.py --set generations=10 --set {setting}""",
            MOST_MEASURED,
            root=name,
        )
        for name, (setting, _) in HEURISTICS.items()
    ),
]

# What a trial run adds to the options of a script.
TINY = {
    "train.py": "--epochs 2",
    "scripts/run_module_search.py": "--set generations=2 --set population=4 --set parents=2 --set elites=2 "
    "--set search_images=40 --set mask_batch_size=8 --set gradsplitter_steps=20 --set seam_steps=20",
    "module_gradient_search.py": "--set mask_steps=4 --set mask_batch_size=8",
    # So small that some modules are better afterwards, although nothing is learned in so few steps.
    "module_fine_tuner.py": "--set mask_batch_size=8 --set fine_tuning_steps=4 --set fine_tuning_step_size=1e-6",
    "experiments/trade_off/patch_baselines.py": "--target_class 0 --epochs 1 --set fine_tuning_steps=4 "
    "--set mask_batch_size=8",
    "experiments/composing/sub_tasks.py": "--sizes 2 --subsets 2",
    "experiments/patch/patch_for_weak_model/train.py": "--epochs 2",
    "experiments/patch/patch_for_poor_model/train.py": "--epochs 2 --keep_epochs 0",
}


@dataclass(frozen=True)
class Command:
    """One script with its options, in one root_dir."""

    table: str  # that is made of what it writes
    root: str  # the name of the root_dir
    seed: int
    model: str
    words: tuple[str, ...]  # the script, --model, --dataset, and the other options

    @property
    def line(self) -> str:
        """The root_dir's name and the command line."""
        return f"{self.root}: python {' '.join(self.words)}"


def commands_of(dataset: str, *, tiny: bool = False) -> list[Command]:
    """All commands on a dataset, in their order: of the networks that have a configuration file for it."""
    commands = []
    for lines in PLAN:
        for model in MOST_MEASURED if tiny else SEEDS:
            is_known = model in lines.networks and f"{model}_{dataset}" in known_configurations()
            if (
                (tiny and not lines.is_tiny)
                or not is_known
                or (lines.table.startswith("patch") and not load(model, dataset).weak_classes)
            ):
                continue
            for seed in (0,) if tiny else SEEDS[model]:
                for line in lines.text.replace("EARLY", EARLY[tiny]).splitlines() * (seed in lines.seeds):
                    script, *options = line.split()
                    more = TINY.get(script, "").split() if tiny else ()
                    words = (script, "--model", model, "--dataset", dataset, *options, *more)
                    commands.append(Command(lines.table, f"seed_{seed}{lines.root}", seed, model, words))
    return commands


def main() -> None:
    arguments = parsed_arguments()
    dataset, tiny = arguments.dataset, arguments.tiny
    commands = commands_of(dataset, tiny=tiny)
    if not commands:
        raise UserError(f"--dataset {dataset}: no network of the results has a configuration file for it")
    folder = Path(global_configure.root_dir).resolve() / "data" / "results" / f"{dataset}{'_tiny' * tiny}"
    options = ["--dataset", dataset] * (dataset != DATASET) + ["--tiny"] * tiny
    made_by = " ".join(["python experiments/results/results.py", *options])
    log = TableFile(folder / "log.csv", made_by, Ran)
    of_tables = [each for each in commands if arguments.table is None or each.table in arguments.table]
    wanted, ran = chosen(of_tables, arguments.only), {row.line: row for row in log.load_if_there()}
    if arguments.list:
        for command in wanted:
            took = f"{ran[command.line].seconds:.0f} s" if command.line in ran else "to do"
            print(f"{command.line}  [{command.table}, {took}]")
        return
    precision = arguments.precision or ("float32" if tiny else "bfloat16")
    to_do, failed = [command for command in wanted if command.line not in ran and not arguments.tables], 0
    for number, command in enumerate(to_do, start=1):
        print(f"{number} of {len(to_do)}  {command.line}", flush=True)
        try:
            print(f"    {time_in_words(run_command(command, folder, log, precision))}", flush=True)
        except UserError as error:
            print(f"    failed: {error}", flush=True)
            failed += 1
    if not arguments.only:
        ran = {row.line: row for row in log.load_if_there()}
        lines = {command.line: command.table for command in commands}
        pairs = list(dict.fromkeys((command.model, command.seed) for command in commands))
        results = Results(folder / "roots", dataset, pairs, EARLY[tiny], made_by, lines, ran)
        write_tables(results, HERE if arguments.publish else folder)
    if failed:
        raise UserError(f"{failed} commands failed, see above; the same command tries them again")


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for --publish of what is not published."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", default=DATASET, help=f"{DATASET} by default")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--precision", choices=PRECISIONS, help="bfloat16 by default; of --tiny float32")
    parser.add_argument("--table", nargs="+", choices=TABLES, help="the commands of these tables alone")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="the commands that match, as --list shows them")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--list", action="store_true", help="show the commands, and run nothing")
    way.add_argument("--tables", action="store_true", help="run nothing, make the tables of what there is")
    parser.add_argument("--publish", action="store_true", help=f"write the tables to {HERE.relative_to(TOP)}")
    arguments = parser.parse_args()
    if arguments.publish and (arguments.tiny or arguments.only or arguments.table or arguments.dataset != DATASET):
        raise UserError(f"--publish: expected all commands on {DATASET}, without --tiny, --only, --table and --dataset")
    return arguments


def chosen(commands: list[Command], patterns: list[str] | None) -> list[Command]:
    """The commands that match one of the patterns; None = all. Raises UserError for a pattern that none matches."""
    found = [c for c in commands if patterns is None or any(fnmatch(c.line, pattern) for pattern in patterns)]
    if not found:
        raise UserError(f"--only {' '.join(patterns or ())}: no command matches; --list shows all of them")
    return found


def run_command(command: Command, folder: Path, log: TableFile[Ran], precision: str) -> float:
    """Run a command and log it; returns its seconds. Raises UserError, with its message, where it fails."""
    roots, script = folder / "roots", TOP / command.words[0]
    share_datasets(roots / command.root)
    if command.root.removeprefix(f"seed_{command.seed}") not in ("", *MODULAR):
        copy_strong_model(command, roots)
    variables = {
        "CNNMOD_ROOT_DIR": str(roots / command.root),
        "CNNMOD_DATASET_DIR": str(Path(global_configure.dataset_dir).resolve()),
        "CNNMOD_SEED": str(command.seed),
        "CNNMOD_PRECISION": precision,
    }
    start, facts = time.monotonic(), machine_facts("torch", "torchvision", "numpy")
    with ProcessGroup(folder / "logs" / command.root) as group:
        group.start(f"{command.model}_{script.stem}", script, command.words[1:], variables)
        group.wait()
    rows, seconds = log.load_if_there(), round(time.monotonic() - start, 1)
    versions = [f"{name} {facts[name]}" for name in ("torch", "torchvision", "numpy")]
    device = device_name(resolve_device(global_configure.device))
    machine = ", ".join([device, processor_and_instructions(), f"{facts['cores']} cores", *versions])
    log.save([*rows, Ran(len(rows), command.line, seconds, utc_now(), facts["commit"], f"{machine}, {precision}")])
    return seconds


def share_datasets(root: Path) -> None:
    """Let a root_dir have the decoded datasets of all others."""
    link, shared = (each / "data" / "decoded_dataset" for each in (root, Path(global_configure.root_dir).resolve()))
    for folder in (shared, link.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(shared, target_is_directory=True)


def copy_strong_model(command: Command, roots: Path) -> None:
    """Into a seed's further root_dir. Raises UserError where there is none."""
    dataset = command.words[command.words.index("--dataset") + 1]
    here = Results(roots, dataset).artifacts(command.model, command.root)
    there = dataclasses.replace(here, root_dir=roots / f"seed_{command.seed}")
    here.folder.mkdir(exist_ok=True)
    for file in (model_files.network_settings, model_files.trained_on, model_files.entire_model):
        file(there).check_is_there()
        shutil.copyfile(file(there).path, file(here).path)


if __name__ == "__main__":
    run(main)
