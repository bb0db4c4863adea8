"""Data sets for composing, as folders of links to the images of a data set `{train,test}/CLASS/IMAGE`.

    python experiments/composing/link_images.py --dataset cifar10 --halves
    python experiments/composing/link_images.py --dataset cifar10 --dirichlet 5

--halves makes NAME_even and NAME_odd, of every other class each, and NAME_merge_10, _50 and _500, which have all
classes, so many validation images of each, and no training images. --dirichlet N makes NAME_weak_0 to N-1: of every
class a share of --images training images that is drawn from a Dirichlet distribution (alpha 1); and NAME_judge, which
has what none of them is trained on. The last 500 training images of each class validate; test images are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import global_configure  # also finds our packages before others of their names
from models.opening import OneLineParser
from utils.errors import UserError, run
from utils.seeds import generator

HELD_OUT = 500  # training images of each class
LABELLED = (10, 50, 500)
PARTS = ("train", "test")

Parts = Mapping[str, Mapping[str, Sequence[Path]]]  # part -> class -> images


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", required=True, help="a folder in dataset_dir")
    parser.add_argument("--halves", action="store_true", help="see above")
    parser.add_argument("--dirichlet", type=int, default=0, metavar="N", help="see above")
    parser.add_argument("--images", type=int, default=5000, help="training images of each of the N")
    arguments = parser.parse_args()
    top = Path(global_configure.dataset_dir) / arguments.dataset
    parts = {
        part: {each.name: sorted(each.iterdir()) for each in sorted((top / part).glob("*")) if each.is_dir()}
        for part in PARTS
    }
    if not parts["test"] or min((len(images) for images in parts["train"].values()), default=0) <= HELD_OUT:
        raise UserError(
            f"{top}: expected {{train,test}}/CLASS/IMAGE, more than {HELD_OUT} training images of each class"
        )
    train = {name: images[:-HELD_OUT] for name, images in parts["train"].items()}
    valid = {name: images[-HELD_OUT:] for name, images in parts["train"].items()}
    classes, test = list(train), parts["test"]
    made: dict[str, Parts] = {}
    if arguments.halves:
        for start, half in enumerate(("even", "odd")):
            of_half = classes[start::2]
            whole = {"train": train, "valid": valid, "test": test}
            made[half] = {part: {name: images[name] for name in of_half} for part, images in whole.items()}
        for count in LABELLED:
            made[f"merge_{count}"] = {"valid": {name: valid[name][:count] for name in classes}, "test": test}
    for number in range(arguments.dirichlet):
        shares = generator(global_configure.seed, "dirichlet", number).dirichlet([1.0] * len(classes))
        counts = [max(2, round(share * arguments.images)) for share in shares]
        some = {name: train[name][:count] for name, count in zip(classes, counts, strict=True)}
        made[f"weak_{number}"] = {"train": some, "valid": valid, "test": test}
        made["judge"] = {"valid": valid, "test": test}
    for name, of_name in made.items():
        link(of_name, top.with_name(f"{top.name}_{name}"))


def link(parts: Parts, folder: Path) -> None:
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
