"""Data sets for a merge or a choice, as folders of links to the images of a data set `{train,test}/CLASS/IMAGE`.

    python experiments/composing/link_images.py --dataset cifar10
    python experiments/composing/link_images.py --dataset cifar10 --imbalanced 10

NAME_even and NAME_odd have every other class each; the last 500 training images of each class validate. NAME_merge_10,
_50 and _500 have all classes and no training images: n of the test images of each class, drawn at random,
validate, and those behind the first 500 test.

--imbalanced N makes NAME_imbalanced_0 to N-1 instead, to train weak models on: of each class as many training images as
a share of all of them, drawn from a Dirichlet distribution of concentration 1, at least 20 and at most all. The last
500 training images of each class validate, and all test images test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import global_configure  # also finds our packages before others of their names
from models.opening import OneLineParser
from utils.errors import UserError, run
from utils.seeds import generator

HELD_OUT = 500  # images of each class
LABELLED = (10, 50, 500)
FEWEST = 20  # training images of a class of an imbalanced data set

OfClasses = Mapping[str, Sequence[Path]]


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", required=True, help="a folder in dataset_dir")
    parser.add_argument("--imbalanced", type=int, metavar="N", help="make N imbalanced data sets instead")
    arguments = parser.parse_args()
    if arguments.imbalanced is not None and arguments.imbalanced < 1:
        raise UserError(f"--imbalanced {arguments.imbalanced}: expected at least 1")
    top = Path(global_configure.dataset_dir) / arguments.dataset
    train, test = (
        {each.name: sorted(each.iterdir()) for each in sorted((top / part).glob("*")) if each.is_dir()}
        for part in ("train", "test")
    )
    least = 1 if arguments.imbalanced else HELD_OUT + 1  # test images of each class
    if (
        train.keys() != test.keys()
        or min(map(len, train.values()), default=0) <= HELD_OUT
        or min(map(len, test.values())) < least
    ):
        raise UserError(
            f"{top}: expected {{train,test}}/CLASS/IMAGE, of each class more than {HELD_OUT} images in train and "
            f"{least} or more in test"
        )
    made: dict[str, Mapping[str, OfClasses]]
    if arguments.imbalanced:
        made = {f"imbalanced_{number}": imbalanced(train, test, number) for number in range(arguments.imbalanced)}
    else:
        made = halves(train, test) | merges(test)
    folders = {top.with_name(f"{top.name}_{name}"): parts for name, parts in made.items()}
    if there := [str(folder) for folder in folders if folder.exists()]:
        raise UserError(f"{', '.join(there)}: there already; remove it, or move it away")
    for folder, parts in folders.items():
        link(parts, folder)


def halves(train: OfClasses, test: OfClasses) -> dict[str, Mapping[str, OfClasses]]:
    """The parts of two data sets of every other class each."""
    made: dict[str, Mapping[str, OfClasses]] = {}
    for start, half in enumerate(("even", "odd")):
        names = list(train)[start::2]
        made[half] = held_out({name: train[name] for name in names}) | {"test": {name: test[name] for name in names}}
    return made


def merges(test: OfClasses) -> dict[str, Mapping[str, OfClasses]]:
    """The parts of the data sets of few and many labelled images."""
    drawn = {name: shuffled(images, "labelled", number) for number, (name, images) in enumerate(test.items())}
    judge = {name: images[HELD_OUT:] for name, images in drawn.items()}
    return {
        f"merge_{count}": {"valid": {name: images[:count] for name, images in drawn.items()}, "test": judge}
        for count in LABELLED
    }


def held_out(train: OfClasses) -> dict[str, OfClasses]:
    """Training images without the last ones of each class, which validate."""
    return {
        "train": {name: images[:-HELD_OUT] for name, images in train.items()},
        "valid": {name: images[-HELD_OUT:] for name, images in train.items()},
    }


def imbalanced(train: OfClasses, test: OfClasses, number: int) -> dict[str, OfClasses]:
    """The parts of an imbalanced data set."""
    parts = held_out(train)
    total = sum(map(len, parts["train"].values()))
    shares = generator(global_configure.seed, "imbalanced", number).dirichlet(np.ones(len(train)))
    some = {
        name: shuffled(images, "imbalanced images", number, place)[: max(FEWEST, round(share * total))]
        for place, ((name, images), share) in enumerate(zip(parts["train"].items(), shares, strict=True))
    }
    return {**parts, "train": some, "test": test}


def shuffled(images: Sequence[Path], purpose: str, *numbers: int) -> list[Path]:
    """Images in a random order, which depends on the seed and on what they are for."""
    return [images[place] for place in generator(global_configure.seed, purpose, *numbers).permutation(len(images))]


def link(parts: Mapping[str, OfClasses], folder: Path) -> None:
    """Make a data set of links."""
    for part, of_part in parts.items():
        for name, images in of_part.items():
            target = folder / part / name
            target.mkdir(parents=True)
            for image in images:
                (target / image.name).symlink_to(image.resolve())
    print(f"made {folder}")


if __name__ == "__main__":
    run(main)
