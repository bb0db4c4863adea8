"""All benchmarks, one after the other.

    python benchmarks/run_all.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/run_all.py --model simcnn_x0_25 --dataset cifar10 --quick

Needs the strong model and, for generation.py, a search of at least two generations, on an otherwise idle machine. Of a
narrow network also the full-width one is evaluated, with random weights. Prints every table; each command writes its
own JSON below data/benchmark.
"""

import subprocess
import sys
import time
from pathlib import Path

from configures.base import known_configurations
from models.opening import open_stage
from models.registry import WIDTH_SUFFIX
from utils.errors import UserError, run
from utils.stage import stage_parser

COMMANDS = (
    "evaluation",
    "scoring",
    "generation",
    "importance",
    "sensitivity",
    "training_step",
    "training_accuracy",
    "mask_gradient",
    "convolution",
    "library_network",
    "cores",
    "growth",
    "cluster_speed_up",
)
TRAINS = ("training_accuracy",)  # whole networks, several times: minutes on digits, days on others
SMALL_DATASET = "digits"
FULL_WIDTH_IMAGES = 1000
REPETITIONS = "2"  # fewer than the commands' own default, since all of them run
FOLDER = Path(__file__).resolve().parent


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--threads", help="CPU threads, of both sides; default: one per core")
    parser.add_argument("--repetitions", help=f"measurements of each; default {REPETITIONS}, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--bfloat16", action="store_true", help="also where the device has no instructions for it")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    more = [word for assignment in arguments.set for word in ("--set", assignment)]
    more += ["--threads", arguments.threads] if arguments.threads else []
    more += ["--quick"] if arguments.quick else []
    more += ["--bfloat16"] if arguments.bfloat16 else []
    more += ["--repetitions", arguments.repetitions or ("1" if arguments.quick else REPETITIONS)]

    def chosen(command: str) -> list[str]:
        dataset = SMALL_DATASET if command in TRAINS else arguments.dataset
        return ["--model", arguments.model, "--dataset", dataset, *more]

    runs = [[command, *chosen(command)] for command in COMMANDS]
    suffix = WIDTH_SUFFIX.match(arguments.model)
    if suffix and f"{suffix['base']}_{arguments.dataset}" in known_configurations():
        full = ["--model", suffix["base"], "--dataset", arguments.dataset, "--untrained", *more]
        runs.insert(1, ["evaluation", *full, *([] if arguments.quick else ["--images", str(FULL_WIDTH_IMAGES)])])
    failed = []
    for command, *words in runs:
        print(f"\n== {command} {' '.join(words)}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, FOLDER / f"{command}.py", *words])
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        if done.returncode != 0:
            failed.append(command)
    if failed:
        raise UserError(
            f"{', '.join(failed)} did not end well, see above; the others are in {stage.artifacts.root_dir}"
        )


if __name__ == "__main__":
    run(main)
