"""Make a dataset out of images that lie in one folder per class: one in five of each class is for testing.

    python scripts/split_images.py data/dataset/flowers_images data/dataset/flowers.zip
    python scripts/split_images.py data/dataset/flowers_images data/dataset/flowers.zip --valid

SOURCE is a folder or a zip file with CLASS/IMAGE, or with train/CLASS/IMAGE; it stays as it is. TARGET is a zip file
with {train,test}/CLASS/IMAGE, with --valid {train,valid,test}/CLASS/IMAGE. Which image is for testing depends on the
image alone, so when images are added and the command is re-run, hardly any image changes sides (of classes of a few
images, one may); equal images lie on one.
"""

from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.hold_out import split_images
from models.opening import OneLineParser, add_quiet
from utils.errors import UserError, run
from utils.progress import show_progress

FEW = 0.1  # a held-out part with a smaller share than this is worth a line


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument("--valid", action="store_true", help="one in five of the training images is for validation")
    add_quiet(parser)
    arguments = parser.parse_args()
    show_progress(not arguments.quiet)
    if not arguments.source.exists():
        raise UserError(f"{arguments.source} is not there: expected a folder or a zip file with CLASS/IMAGE")
    if arguments.target.suffix != ".zip" or arguments.target.exists():
        raise UserError(
            f"{arguments.target}: expected the name of a zip file that is not there yet; remove it to make it again"
        )
    counts = split_images(arguments.source, arguments.target, with_valid=arguments.valid)
    for name, parts in counts.items():
        print(f"{name}: {', '.join(f'{count} {part}' for part, count in parts.items())}")
    total = {part: sum(parts[part] for parts in counts.values()) for part in next(iter(counts.values()))}
    for part in total.keys() - {"train"}:
        if total[part] < FEW * (total[part] + total["train"]):
            print(
                f"only {total[part]} of {sum(total.values())} images are for {part}, where one in five was asked for: "
                "equal images stay in one part; remove copies, or add images"
            )
    print(f"saved {arguments.target}")


if __name__ == "__main__":
    run(main)
