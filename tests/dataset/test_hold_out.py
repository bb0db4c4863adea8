"""A test part for images that have none."""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, files_below
from image_trees import image_bytes, random_pixels, write_tree, zip_tree

from dataset.class_folders import find_class_folders, find_classes
from dataset.datasets import decode
from dataset.hold_out import split_images
from dataset.image_hashes import hash_of, held_out

SCRIPT = "scripts/split_images.py"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """CLASS/IMAGE, some of them in a folder below their class."""
    write_tree(tmp_path / "tree", classes=("rose", "tulip"), count=20)
    shutil.move(tmp_path / "tree" / "train", tmp_path / "own_images")
    shutil.rmtree(tmp_path / "tree")
    (tmp_path / "own_images" / "rose" / "more").mkdir()
    (tmp_path / "own_images" / "rose" / "more" / "0.png").write_bytes(image_bytes(random_pixels(9, 9, seed=77)))
    (tmp_path / "own_images" / "rose" / "notes.txt").touch()
    return tmp_path / "own_images"


@pytest.fixture
def split(run_main: Any, root_dir: Path) -> Callable[..., Run]:
    return lambda *arguments: run_main(SCRIPT, *arguments, root=root_dir)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "train", "photos/train", "photos"])
def test_every_image_is_in_one_part(tmp_path: Path, images: Path, split: Any, zipped: bool, inside: str) -> None:
    if inside:
        shutil.move(images, tmp_path / "aside")
        (images / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "aside", images / inside)
    before = files_below(images / inside)
    if zipped:
        zip_tree(images)
        images = images.with_suffix(".zip")
    run = split(images, tmp_path / "own.zip")
    assert run.exit_code == 0 and run.stdout.endswith(f"saved {tmp_path}/own.zip\n"), run
    tree = find_class_folders(tmp_path, "own")
    assert tree.classes == ("rose", "tulip")
    names = {name.split("/", 1)[1]: part for part, found in tree.images.items() for name, _ in found}
    assert set(names) == {name for name in before if name.endswith(".png")}
    assert sum(len(found) for found in tree.images.values()) == 41
    assert 2 <= len(tree.images["test"]) <= 16
    assert len(decode(tree).parts["test"][0]) == len(tree.images["test"])


def test_images_that_are_added_move_none(tmp_path: Path, images: Path, split: Any) -> None:
    split(images, tmp_path / "before.zip")
    for number in range(20):
        (images / "rose" / f"new_{number}.png").write_bytes(image_bytes(random_pixels(9, 9, seed=100 + number)))
    split(images, tmp_path / "after.zip")
    before, after = (find_class_folders(tmp_path, name).images for name in ("before", "after"))
    assert set(before["test"]) <= set(after["test"]) and set(before["train"]) <= set(after["train"])


def many_images(folder: Path, count: int, classes: Sequence[str] = ("rose", "tulip")) -> dict[str, bytes]:
    """So many images of each class; the files, which are not decoded here."""
    content = {f"{name}/{number}.png": f"{name} {number}".encode() for name in classes for number in range(count)}
    for name, each in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(each)
    return content


def parts_of(archive: Path) -> dict[str, set[str]]:
    with zipfile.ZipFile(archive) as opened:
        names = [name.split("/", 1) for name in opened.namelist()]
    return {part: {name for its, name in names if its == part} for part in dict(names)}


def test_the_first_split_is_that_of_the_contents_hashes(tmp_path: Path) -> None:
    content = many_images(tmp_path / "own", 60)
    split_images(tmp_path / "own", tmp_path / "own.zip")
    hashes = np.array([hash_of(each, 1009) for each in content.values()], np.uint64)
    is_test = held_out(hashes, np.arange(120) // 60)
    assert parts_of(tmp_path / "own.zip")["test"] == {name for name, test in zip(content, is_test, strict=True) if test}


def test_what_is_left_can_be_split_again_and_again(tmp_path: Path, split: Any) -> None:
    source, left = tmp_path / "own", 466
    many_images(source, left // 2)
    for number in range(4):
        target = tmp_path / f"{number}.zip"
        run = split(source, target)
        assert run.exit_code == 0 and "only" not in run.stdout, run
        parts = parts_of(target)
        assert len(parts["train"]) + len(parts["test"]) == left
        assert 0.14 * left < len(parts["test"]) < 0.27 * left
        with zipfile.ZipFile(target) as archive:
            archive.extractall(tmp_path / str(number))
        source, left = tmp_path / str(number) / "train", len(parts["train"])


def test_three_parts_at_once_are_those_of_two_splits(tmp_path: Path, split: Any) -> None:
    many_images(tmp_path / "own", 100)
    run = split(tmp_path / "own", tmp_path / "three.zip", "--valid")
    three = parts_of(tmp_path / "three.zip")
    for name in ("rose", "tulip"):
        counts = [f"{sum(each.startswith(name) for each in three[part])} {part}" for part in ("train", "valid", "test")]
        assert f"{name}: {', '.join(counts)}\n" in run.stdout
    split(tmp_path / "own", tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "two.zip") as archive:
        archive.extractall(tmp_path / "two")
    split(tmp_path / "two" / "train", tmp_path / "again.zip")
    again = parts_of(tmp_path / "again.zip")
    assert three["test"] == parts_of(tmp_path / "two.zip")["test"]
    assert (three["train"], three["valid"]) == (again["train"], again["test"])
    assert 20 <= len(three["valid"]) <= 44


def test_far_fewer_than_asked_for_are_named(tmp_path: Path, split: Any) -> None:
    texts = [f"{number}".encode() for number in range(40)]
    low = [hash_of(text, 1009) < 0.2 * 2**64 for text in texts]
    first = {is_test: texts[low.index(is_test)] for is_test in (False, True)}
    for name in ("rose", "tulip"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "test.png").write_bytes(first[True])
        for number in range(40):
            (tmp_path / "own" / name / f"{number}.png").write_bytes(first[False])
    run = split(tmp_path / "own", tmp_path / "own.zip")
    assert (
        "only 2 of 82 images are for test, where one in five was asked for: equal images stay in one" in run.stdout
    ), run


@pytest.mark.parametrize("folders", [("train", "test"), ("Train", "val"), ("train", "valid", "testing"), ("test",)])
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_split_already_is_refused(tmp_path: Path, split: Any, folders: Sequence[str], zipped: bool) -> None:
    for folder in folders:
        many_images(tmp_path / "own" / "photos" / folder, 3)
    source = tmp_path / "own"
    if zipped:
        zip_tree(source)
        source = source.with_suffix(".zip")
    found = f"{{{','.join(sorted(folders))}}}/CLASS/IMAGE; take it as it is, or give photos/"
    split(source, tmp_path / "new.zip").refused(f"{source.name} is split already: expected CLASS/IMAGE, found {found}")
    assert not (tmp_path / "new.zip").exists()


def test_a_class_may_be_called_as_a_part_is(tmp_path: Path) -> None:
    many_images(tmp_path / "own", 30, ("train", "car", "test"))
    many_images(tmp_path / "own" / "train", 2, ("side",))
    assert set(find_classes(tmp_path / "own")) == {"car", "test", "train"}


def test_what_the_message_says_is_what_works(
    tmp_path: Path, images: Path, split: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.errors import UserError

    images.rename(tmp_path / "own")
    with pytest.raises(UserError) as error:
        find_class_folders(tmp_path, "own")
    move, script = str(error.value).split("type: ")[1].split(" && ")
    assert move == f"mv {tmp_path}/own {tmp_path}/own_images"
    (tmp_path / "own").rename(tmp_path / "own_images")
    assert script.startswith(f"python {SCRIPT} ")
    assert split(*script.split()[2:]).exit_code == 0
    assert find_class_folders(tmp_path, "own").classes == ("rose", "tulip")


def test_bad_input_is_one_line(tmp_path: Path, images: Path, split: Any) -> None:
    target = tmp_path / "own.zip"
    split(tmp_path / "absent", target).refused("absent is not there: expected a folder or a zip file with CLASS/IMAGE")
    split(images, tmp_path / "own").refused("own: expected the name of a zip file that is not there yet")
    split(images / "rose" / "more", target).refused("more: expected images as CLASS/IMAGE, found none")
    for path in (images / "tulip").iterdir():
        path.write_bytes(b"all alike")
    split(images, target).refused("expected at least 2 different images of a class", "add some to tulip")
    (images / "tulip" / "0.png").write_bytes(b"")
    split(images, target).refused("cannot read tulip/0.png: an empty file; repair or remove it")
    assert not target.exists()
    target.touch()
    split(images, target).refused("own.zip: expected the name of a zip file that is not there yet")


def test_two_folders_of_a_class_are_one_unless_images_have_the_same_name(tmp_path: Path, split: Any) -> None:
    many_images(tmp_path / "own", 20, ("the", "caf\u00e9"))
    other = tmp_path / "own" / "cafe\u0301"
    other.mkdir()
    (other / "more.png").write_bytes(b"more")
    split_images(tmp_path / "own", tmp_path / "own.zip")
    assert sum(map(len, parts_of(tmp_path / "own.zip").values())) == 41
    (other / "1.png").write_bytes(b"another")
    split(tmp_path / "own", tmp_path / "new.zip").refused(
        "'cafe\\u0301/1.png' and 'caf\\xe9/1.png' are both caf\u00e9/1.png: expected one image of a name in a class"
    )
    assert not (tmp_path / "new.zip").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rose\\0/1.png", "class folder 'rose\\\\0': expected a name in UTF-8 on one line, without a backslash"),
        ("rose/more\\0.png", "image 'rose/more\\\\0.png': expected a name in UTF-8 without a backslash; rename it"),
        (os.fsdecode(b"rose/\xff\xfe3.png"), "image 'rose/\\udcff\\udcfe3.png': expected a name in UTF-8"),
    ],
)
def test_names_that_a_zip_file_would_change_are_refused(
    tmp_path: Path, images: Path, split: Any, name: str, message: str
) -> None:
    (images / name).parent.mkdir(exist_ok=True)
    try:
        (images / name).write_bytes(b"one more")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    split(images, tmp_path / "own.zip").refused(message)
    assert not (tmp_path / "own.zip").exists()
