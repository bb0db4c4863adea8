"""How fast the fast parts are, each next to a plain version of it, which must compute the same.

    python benchmarks/compare.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/compare.py evaluation --model simcnn --dataset cifar10 --untrained --images 1000
    python benchmarks/compare.py generation importance --model simcnn_x0_25 --dataset cifar10 --threads 1

Without a name all are measured, except training_accuracy, which trains whole networks several times. Both sides run in
turns in one process, so that their ratio holds on a busy machine. All but convolution need the strong model, if not
--untrained; generation needs a genetic search of at least two generations, with the same --set. comparisons.py says
what each does. Prints tables, and writes data/benchmark/MODEL_DATASET/NAME.json.
"""

from collections import defaultdict

from comparisons import COMPARISONS
from measuring import add_options, open_benchmark, save_benchmark

from models.opening import stage_parser
from utils.errors import UserError, run

NOT_BY_DEFAULT = ("training_accuracy",)


def main() -> None:
    sentences: dict[str, list[str]] = defaultdict(list)
    for name, comparison in COMPARISONS.items():
        for size_name, size in comparison.sizes.items():
            sentences[size_name].append(f"{name}: {size.sentence}, default {size.full}, quick {size.quick}")
    parser = stage_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMPARISONS))
    add_options(parser, {name: "; ".join(lines) for name, lines in sentences.items()})
    parser.add_argument("--generation", type=int, help="of the search; default: the last one that is scored")
    arguments = parser.parse_args()
    names = arguments.names or [name for name in COMPARISONS if name not in NOT_BY_DEFAULT]
    if unknown := [name for name in names if name not in COMPARISONS]:
        raise UserError(f"{unknown[0]}: expected one of {', '.join(COMPARISONS)}")
    failed = []
    for name in names:
        comparison = COMPARISONS[name]
        try:
            benchmark = open_benchmark(arguments, name, comparison.sizes)
            save_benchmark(benchmark, comparison.measure(benchmark))
        except UserError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise UserError("; ".join(failed))


if __name__ == "__main__":
    run(main)
