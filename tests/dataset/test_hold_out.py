"""A test part for images that have none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, files_below
from image_trees import image_bytes, random_pixels, write_tree, zip_tree

from dataset.class_folders import find_class_folders
from dataset.decoding import decode

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
    split(images, target).refused("cannot read tulip/0.png: an empty file; mend or remove it")
    assert not target.exists()
    target.touch()
    split(images, target).refused("own.zip: expected the name of a zip file that is not there yet")
