"""Make a dataset out of images that lie in one folder per class: one in five of each class is for testing.

    python scripts/split_images.py data/dataset/flowers_images data/dataset/flowers.zip

SOURCE is a folder or a zip file with CLASS/IMAGE, or with train/CLASS/IMAGE; it stays as it is. TARGET is a zip file
with {train,test}/CLASS/IMAGE. Which image is for testing depends on the image alone, so when images are added and the
command is typed again, no image changes sides; equal images lie on one.
"""

from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.hold_out import split_images
from utils.errors import UserError, run
from utils.progress import show_progress
from utils.stage import OneLineParser, add_quiet


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    add_quiet(parser)
    arguments = parser.parse_args()
    show_progress(not arguments.quiet)
    if not arguments.source.exists():
        raise UserError(f"{arguments.source} is not there: expected a folder or a zip file with CLASS/IMAGE")
    if arguments.target.suffix != ".zip" or arguments.target.exists():
        raise UserError(
            f"{arguments.target}: expected the name of a zip file that is not there yet; remove it to make it again"
        )
    for name, (num_train, num_test) in split_images(arguments.source, arguments.target).items():
        print(f"{name}: {num_train} train, {num_test} test")
    print(f"saved {arguments.target}")


if __name__ == "__main__":
    run(main)
