"""A tree `{train,valid,test}/CLASS/IMAGE`, in a folder or a zip file: any data set that a user brings.

What is read, and what is passed over, stands in docs/your_images.md.
"""

import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from dataset.file_trees import Entry, is_passed_over, list_tree
from dataset.image_files import OTHER_IMAGE_SUFFIXES, SUFFIXES
from utils.errors import UserError
from utils.tables import printable

PARTS = ("train", "valid", "test")
PART_OF_FOLDER = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MOST_NAMES = 10  # in a message
DECODING = 2  # changes when the same files give other pixels, so that they are decoded again

Member = tuple[str, ...]  # an entry's name, taken apart, below the folder that holds the parts


@dataclass(frozen=True)
class ClassFolders:
    """A tree of images: the classes, and per part one (name, label) per image, in the order of the names."""

    path: Path
    classes: tuple[str, ...]
    images: dict[str, list[tuple[str, int]]]  # of test, and of train and valid where they are there: at least one
    fingerprint: str  # changes when an image is added, removed or changed
    passed_over: dict[str, int]  # how many of which kind


def find_class_folders(dataset_dir: Path, name: str) -> ClassFolders | None:
    """The tree `name/` or `name.zip` in `dataset_dir`, or None. Raises UserError where its classes do not fit."""
    folder, archive = dataset_dir / name, dataset_dir / f"{name}.zip"
    if folder.is_dir():
        return _read_tree(folder, Counter({f"{archive.name} beside the folder": 1} if archive.is_file() else {}))
    return _read_tree(archive, Counter()) if archive.is_file() else None


def _read_tree(path: Path, kinds: Counter[str]) -> ClassFolders:
    members = _members(path)
    top = _top(members)
    folders = _part_folders(path, top, members)
    found: dict[str, dict[str, list[str]]] = {part: {} for part in folders.values()}
    passed_over: set[tuple[Member, str]] = set()
    digest = sha256(f"decoding {DECODING}\n".encode())
    for member, entry in members:
        if noise := _passed_over(member, entry.is_folder, top, folders):
            passed_over.add(noise)
        elif len(member) >= len(top) + 2:
            class_name = _class_name(path, member[len(top) + 1])
            of_class = found[folders[member[len(top)]]].setdefault(class_name, [])
            if not entry.is_folder:
                of_class.append(entry.name)
                digest.update(f"{entry.name}\0{entry.stamp}\n".encode(errors="surrogateescape"))
    kinds.update(kind for _, kind in sorted(passed_over))
    classes = _check_classes(path, {folder: found[part] for folder, part in folders.items()}, kinds)
    label = {name: number for number, name in enumerate(classes)}
    images = {part: [(n, label[c]) for c in classes for n in found[part][c]] for part in PARTS if part in found}
    return ClassFolders(path, classes, images, digest.hexdigest(), dict(kinds.most_common()))


def find_classes(path: Path) -> dict[str, dict[str, str]]:
    """The images of a tree CLASS/IMAGE or train/CLASS/IMAGE: class -> name in the tree -> name in the class's folder.

    Raises UserError where there are none, where they are split already, or where a zip file PART/CLASS/IMAGE would not
    have their names.
    """
    members = _members(path)
    top = _top(members)
    folders = _folders_in(members, top)
    if len(folders) == 1 and PART_OF_FOLDER.get(folders[0].lower()) == "train":
        top = (*top, *folders)
    else:
        _check_not_split(path, top, folders, members)
    found: dict[str, dict[str, str]] = {}
    place_of: dict[tuple[str, str], str] = {}
    for member, entry in members:
        if member[: len(top)] == top and len(member) >= len(top) + 2 and _is_image_file(member, entry):
            class_name, in_class = _class_name(path, member[len(top)]), "/".join(member[len(top) + 1 :])
            if any(unicodedata.category(c) == "Cs" or c == "\\" for c in in_class):
                wanted = "expected a name in UTF-8 without a backslash"
                raise UserError(f"{path}: image {entry.name!a}: {wanted}; rename it")
            other = place_of.setdefault((class_name, in_class), entry.name)
            if other != entry.name:  # an accent of the class's name is written in two ways
                both = f"{other!a} and {entry.name!a} are both {class_name}/{in_class}"
                raise UserError(f"{path}: {both}: expected one image of a name in a class; rename one")
            found.setdefault(class_name, {})[entry.name] = in_class
    if not found:
        raise UserError(f"{path}: expected images as CLASS/IMAGE, found none")
    return found


def _check_not_split(path: Path, top: Member, folders: Sequence[str], members: Sequence[tuple[Member, Entry]]) -> None:
    """Raises UserError where the folders are parts of a split. A class may be called as a part is, and has images."""
    inside = [(member[len(top) :], entry) for member, entry in members if member[: len(top)] == top]
    classes = {member[0] for member, entry in inside if len(member) == 2 and _is_image_file(member, entry)}
    parts = {name: PART_OF_FOLDER[name.lower()] for name in folders if name.lower() in PART_OF_FOLDER}
    parts = {name: part for name, part in parts.items() if name not in classes}
    if parts and (len(parts) == len(folders) or len(set(parts.values())) > 1):
        alone = "/".join((*top, next((name for name in parts if parts[name] == "train"), next(iter(parts)))))
        raise UserError(
            f"{path} is split already: expected CLASS/IMAGE, found {{{','.join(parts)}}}/CLASS/IMAGE; "
            f"take it as it is, or give {alone} of it alone"
        )


def _members(path: Path) -> list[tuple[Member, Entry]]:
    return [(tuple(entry.name.split("/")), entry) for entry in list_tree(path)]


def _top(members: Sequence[tuple[Member, Entry]]) -> Member:
    """The folder that holds the parts: it may lie in folders that hold no other one, as when a folder is packed."""
    top: Member = ()
    while True:
        folders = _folders_in(members, top)
        if len(folders) != 1 or folders[0].lower() in PART_OF_FOLDER or not _folders_in(members, (*top, *folders)):
            return top
        top = (*top, *folders)


def _folders_in(members: Sequence[tuple[Member, Entry]], top: Member) -> list[str]:
    """The names of the folders in `top`, but for those that are passed over; a zip file may not list them."""
    depth = len(top)
    names = {
        member[depth]
        for member, entry in members
        if member[:depth] == top and (len(member) > depth + 1 or (len(member) == depth + 1 and entry.is_folder))
    }
    return sorted(name for name in names if not is_passed_over(name))


def _part_folders(path: Path, top: Member, members: Sequence[tuple[Member, Entry]]) -> dict[str, str]:
    """The parts by the names of their folders. Raises UserError where train or test is missing, or there twice."""
    names = _folders_in(members, top)
    folders = {name: part for part in PARTS for name in names if PART_OF_FOLDER.get(name.lower()) == part}
    for part in PARTS:
        same = [name for name in folders if folders[name] == part]
        if len(same) > 1:
            raise UserError(f"{path}: {' and '.join(same)} are both the {part} part: expected one; merge them")
    missing = {"train", "test"} - set(folders.values())
    if not missing or set(folders.values()) == {"valid", "test"}:  # enough to patch; who trains says what is missing
        return folders
    wanted = f"{path}: expected images as {{train,test}}/CLASS/IMAGE"
    there = listed(list(folders))
    if len(missing) == 2:
        classes = [
            name
            for name in names
            if any(member[: len(top) + 1] == (*top, name) and _is_image(member[-1]) for member, _ in members)
        ]
        if not classes:
            raise UserError(f"{wanted}, found none")
        raise UserError(f"{wanted}, found CLASS/IMAGE ({listed(classes)}); {_how_to_split(path)}")
    if "valid" in folders.values():
        raise UserError(f"{wanted}, found {there}; add {missing.pop()}, or give one of them its name")
    if missing == {"train"}:
        raise UserError(f"{wanted}, found {there} alone; add train")
    raise UserError(f"{wanted}, found {there} alone; add test, or, {_how_to_split(path)}")


def _how_to_split(path: Path) -> str:
    aside = path.with_name(f"{path.stem}_images{path.suffix}")
    before, after, new = (shlex.quote(str(place)) for place in (path, aside, path.with_suffix(".zip")))
    script = f"python scripts/split_images.py {after} {new}"
    return f"to test with one image in five of them, type: mv {before} {after} && {script}"


def _passed_over(member: Member, is_folder: bool, top: Member, folders: dict[str, str]) -> tuple[Member, str] | None:
    """What is passed over with an entry, the folder that it lies in perhaps, and its kind; None for what is read."""
    for depth, name in enumerate(member, start=1):
        if is_passed_over(name):
            return member[:depth], "hidden or system" + (" folders" if is_folder or depth < len(member) else " files")
    below = member[len(top) :]
    depth = next((d for d, (one, other) in enumerate(zip(member, top, strict=False)) if one != other), len(top))
    if depth == len(top) and (not below or below[0] in folders):
        if is_folder or (len(below) > 2 and _is_image(below[-1])):
            return None
        return member, _kind(member[-1])
    outside = member[: depth + 1]
    return outside, f"folder {outside[-1]}" if is_folder or len(member) > len(outside) else _kind(member[-1])


def _is_image_file(member: Member, entry: Entry) -> bool:
    return not entry.is_folder and not any(map(is_passed_over, member)) and _is_image(member[-1])


def _is_image(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix == "" or suffix in SUFFIXES or suffix in OTHER_IMAGE_SUFFIXES


def _kind(name: str) -> str:
    """The kind of a file that is passed over."""
    suffix = PurePosixPath(name).suffix.lower()
    return "images outside of a class folder" if suffix and _is_image(name) else suffix or name


def _class_name(path: Path, name: str) -> str:
    """The name of a class; composed, since one file system takes an accent apart and another does not."""
    # A zip file cannot have a backslash in a name: it separates folders there.
    if name != name.strip() or any(unicodedata.category(c) in ("Cc", "Cs") or c == "\\" for c in name):
        wanted = "expected a name in UTF-8 on one line, without a backslash or a space at its ends"
        raise UserError(f"{path}: class folder {name!a}: {wanted}; rename it")
    return unicodedata.normalize("NFC", name)


def _check_classes(path: Path, found: dict[str, dict[str, list[str]]], passed_over: Counter[str]) -> tuple[str, ...]:
    """The classes, in their order; `found` has every folder's images by class."""
    names = sorted({name for images in found.values() for name in images})
    if not names:
        raise UserError(f"{path}: expected images as {{train,test}}/CLASS/IMAGE, found none{_noise(passed_over)}")
    for folder, images in found.items():
        for name in names:
            if not images.get(name):
                state = "is empty" if name in images else "is missing"
                parts = " and ".join([", ".join(list(found)[:-1]), list(found)[-1]])
                raise UserError(
                    f"{path}: class {folder}/{name} {state}: expected the same classes, with images, in {parts}"
                    f"{_noise(passed_over)}"
                )
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(names)


def _noise(passed_over: Counter[str]) -> str:
    return f" (passed over: {describe(passed_over)})" if passed_over else ""


def describe(passed_over: dict[str, int]) -> str:
    """How many of which kind were passed over: `.txt: 3, folder extra: 1`."""
    return listed([f"{kind}: {count:,}" for kind, count in passed_over.items()])


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first ten names, and how many there are besides."""
    more = [f"and {len(names) - MOST_NAMES:,} more"] if len(names) > MOST_NAMES else []
    return separator.join([*map(printable, names[:MOST_NAMES]), *more])
