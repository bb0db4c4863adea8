"""Data sets for a merge or a choice, as folders of links to the images of data sets `{train,test}/CLASS/IMAGE`.

    python experiments/composing/link_images.py --dataset cifar10
    python experiments/composing/link_images.py --dataset animals vehicles --held_out 100
    python experiments/composing/link_images.py --dataset cifar10 --imbalanced 10

For a merge of models that know different classes: NAME_even and NAME_odd have every other class each, or, of several
data sets A and B, A_part and B_part all of theirs. The last 500 training images of each class (--held_out) validate.
NAME_all has all classes (of several data sets NAME is A_B), to train a single network on for comparison. NAME_merge_10,
_50 and _500 have all classes and no training images: n of the held out images of each class, drawn at random,
validate, and as many test images of each class as the smallest one has test. Elsewhere all test images test.

--imbalanced N makes NAME_imbalanced_0 to N-1 instead, to train weak models on: of each class as many training images as
a share of all of them, drawn from a Dirichlet distribution of concentration 1, at least 20 and at most all. Others
validate and test as above.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import global_configure  # also finds our packages before others of their names
from models.opening import OneLineParser
from utils.errors import UserError, run
from utils.seeds import generator

LABELLED = (10, 50, 500)  # images of each class
FEWEST = 20  # training images of a class of an imbalanced data set

OfClasses = Mapping[str, Sequence[Path]]
Parts = Mapping[str, OfClasses]  # train, valid, test


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", required=True, nargs="+", metavar="NAME", help="folders in dataset_dir")
    parser.add_argument("--held_out", type=int, default=500, metavar="N", help="training images of each class")
    parser.add_argument("--imbalanced", type=int, metavar="N", help="make N imbalanced data sets instead")
    arguments = parser.parse_args()
    if arguments.imbalanced is not None and (arguments.imbalanced < 1 or len(arguments.dataset) > 1):
        raise UserError(f"--imbalanced {arguments.imbalanced}: expected at least 1, and one data set")
    if arguments.held_out < LABELLED[0]:
        raise UserError(f"--held_out {arguments.held_out}: expected at least {LABELLED[0]}")
    given = {name: parts_of(name, arguments.held_out) for name in arguments.dataset}
    classes = [each for name in arguments.dataset for each in given[name]["test"]]
    if twice := sorted({each for each in classes if classes.count(each) > 1}):
        raise UserError(f"--dataset: expected different classes, given twice: {', '.join(twice)}")
    every = {
        part: {name: images for parts in given.values() for name, images in parts[part].items()}
        for part in ("train", "valid", "test")
    }
    name = "_".join(given)
    if arguments.imbalanced:
        made = {f"{name}_imbalanced_{number}": imbalanced(every, number) for number in range(arguments.imbalanced)}
    else:
        apart = {f"{each}_part": parts for each, parts in given.items()} if len(given) > 1 else halves(name, every)
        made = {**apart, f"{name}_all": every, **merges(name, every)}
    folders = {Path(global_configure.dataset_dir) / each: parts for each, parts in made.items()}
    if there := [str(folder) for folder in folders if folder.exists()]:
        raise UserError(f"{', '.join(there)}: there already; remove it, or move it away")
    link(folders)


def parts_of(dataset: str, count: int) -> Parts:
    """The images of a data set, of which the last `count` training images of each class validate.

    Raises UserError where there are too few.
    """
    top = Path(global_configure.dataset_dir) / dataset
    train, test = (
        {each.name: sorted(each.iterdir()) for each in sorted((top / part).glob("*")) if each.is_dir()}
        for part in ("train", "test")
    )
    least = min((len(images) for images in train.values()), default=0)
    if train.keys() != test.keys() or least <= count or not all(test.values()):
        raise UserError(
            f"{top}: expected {{train,test}}/CLASS/IMAGE, of each class more than {count} images in train (--held_out) "
            "and one or more in test"
        )
    return {
        "train": {name: images[:-count] for name, images in train.items()},
        "valid": {name: images[-count:] for name, images in train.items()},
        "test": test,
    }


def halves(name: str, parts: Parts) -> dict[str, Parts]:
    """Two data sets of every other class each."""
    return {
        f"{name}_{half}": {part: dict(list(images.items())[start::2]) for part, images in parts.items()}
        for start, half in enumerate(("even", "odd"))
    }


def merges(name: str, parts: Parts) -> dict[str, Parts]:
    """Data sets of few and many labelled images; a rule that is fitted to as many of each class is judged on such."""
    drawn, judge = (
        {each: shuffled(images, purpose, number) for number, (each, images) in enumerate(parts[part].items())}
        for part, purpose in (("valid", "labelled"), ("test", "judged"))
    )
    fewest = min(map(len, judge.values()))
    return {
        f"{name}_merge_{count}": {
            "valid": {each: images[:count] for each, images in drawn.items()},
            "test": {each: images[:fewest] for each, images in judge.items()},
        }
        for count in LABELLED
        if count <= min(map(len, drawn.values()))
    }


def imbalanced(parts: Parts, number: int) -> Parts:
    """An imbalanced data set."""
    total = sum(map(len, parts["train"].values()))
    shares = generator(global_configure.seed, "imbalanced", number).dirichlet(np.ones(len(parts["train"])))
    some = {
        name: shuffled(images, "imbalanced images", number, place)[: max(FEWEST, round(share * total))]
        for place, ((name, images), share) in enumerate(zip(parts["train"].items(), shares, strict=True))
    }
    return {**parts, "train": some}


def shuffled(images: Sequence[Path], purpose: str, *numbers: int) -> list[Path]:
    """Images in a random order, which depends on the seed and on what they are for."""
    return [images[place] for place in generator(global_configure.seed, purpose, *numbers).permutation(len(images))]


def link(folders: Mapping[Path, Parts]) -> None:
    """Make data sets of links, which appear when all of them are whole."""
    partial = {folder: folder.with_name(f".{folder.name}.partial") for folder in folders}
    try:
        for folder, parts in folders.items():
            shutil.rmtree(partial[folder], ignore_errors=True)  # of a process that was killed
            for part, of_part in parts.items():
                for name, images in of_part.items():
                    target = partial[folder] / part / name
                    target.mkdir(parents=True)
                    for image in images:
                        (target / image.name).symlink_to(image.resolve())
        for folder in folders:
            partial[folder].rename(folder)
            print(f"made {folder}")
    finally:
        for each in partial.values():
            shutil.rmtree(each, ignore_errors=True)


if __name__ == "__main__":
    run(main)
