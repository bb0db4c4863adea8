"""Data sets for a merge, as folders of links to the images of a data set `{train,test}/CLASS/IMAGE`.

    python experiments/composing/link_images.py --dataset cifar10

NAME_even and NAME_odd have every other class each; the last 500 training images of each class validate. NAME_merge_10,
_50 and _500 have all classes and no training images: n of the test images of each class, drawn at random,
validate, and those behind the first 500 test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import global_configure  # also finds our packages before others of their names
from models.opening import OneLineParser
from utils.errors import UserError, run
from utils.seeds import generator

HELD_OUT = 500  # images of each class
LABELLED = (10, 50, 500)

OfClasses = Mapping[str, Sequence[Path]]


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", required=True, help="a folder in dataset_dir")
    top = Path(global_configure.dataset_dir) / parser.parse_args().dataset
    train, test = (
        {each.name: sorted(each.iterdir()) for each in sorted((top / part).glob("*")) if each.is_dir()}
        for part in ("train", "test")
    )
    counts = [len(images) for part in (train, test) for images in part.values()]
    if train.keys() != test.keys() or min(counts, default=0) <= HELD_OUT:
        raise UserError(
            f"{top}: expected {{train,test}}/CLASS/IMAGE, more than {HELD_OUT} images of each class in both"
        )
    for start, half in enumerate(("even", "odd")):
        names = list(train)[start::2]
        parts = {
            "train": {name: train[name][:-HELD_OUT] for name in names},
            "valid": {name: train[name][-HELD_OUT:] for name in names},
            "test": {name: test[name] for name in names},
        }
        link(parts, top.with_name(f"{top.name}_{half}"))
    drawn = {
        name: [images[place] for place in generator(global_configure.seed, "labelled", number).permutation(len(images))]
        for number, (name, images) in enumerate(test.items())
    }
    judge = {name: images[HELD_OUT:] for name, images in drawn.items()}
    for count in LABELLED:
        valid = {name: images[:count] for name, images in drawn.items()}
        link({"valid": valid, "test": judge}, top.with_name(f"{top.name}_merge_{count}"))


def link(parts: Mapping[str, OfClasses], folder: Path) -> None:
    """Make a data set of links. Raises UserError where its folder is there."""
    if folder.exists():
        raise UserError(f"{folder} is there: remove it, or move it away")
    for part, of_part in parts.items():
        for name, images in of_part.items():
            target = folder / part / name
            target.mkdir(parents=True)
            for image in images:
                (target / image.name).symlink_to(image.resolve())
    print(f"made {folder}")


if __name__ == "__main__":
    run(main)
