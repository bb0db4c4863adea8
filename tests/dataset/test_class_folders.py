"""Trees of images from anybody: decoded right, or refused with the file's name; nothing outside of them is touched."""

import contextlib
import os
import shutil
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from confined import confined
from hypothesis import HealthCheck, given, settings
from image_trees import PNG_RGB, announce_less, image_bytes, png_with, random_pixels, write_tree, zip_tree
from near_valid import near_bytes

from dataset import class_folders, file_trees, image_files
from dataset.class_folders import find_class_folders
from dataset.datasets import decode
from dataset.file_trees import open_tree
from dataset.image_files import decode_image
from utils.errors import UserError

Pack = Callable[[Path], object]


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def pack(request: pytest.FixtureRequest) -> Pack:
    """What is done with a tree that was written: nothing, or packed."""
    return zip_tree if request.param else lambda folder: None


def test_a_tree_is_read_in_the_order_of_its_names(tmp_path: Path, pack: Pack) -> None:
    written = write_tree(tmp_path / "own", classes=("dog", "cat", "bird"))
    pack(tmp_path / "own")
    tree = find_class_folders(tmp_path, "own")
    assert tree is not None
    assert tree.classes == ("bird", "cat", "dog")
    for part in ("train", "test"):
        pixels, labels = decode(tree).parts[part]
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        names = [f"{part}/{name}/{number}.png" for name in tree.classes for number in range(3)]
        np.testing.assert_array_equal(pixels, np.stack([written[name] for name in names]))


def test_no_tree_is_none(tmp_path: Path) -> None:
    assert find_class_folders(tmp_path, "own") is None


def test_classes_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", classes=("10", "9", "2"), count=1)
    assert find_class_folders(tmp_path, "own").classes == ("2", "9", "10")


def test_what_is_passed_over_is_counted(tmp_path: Path, pack: Pack) -> None:
    write_tree(tmp_path / "own")
    expected = find_class_folders(tmp_path, "own")
    assert expected.passed_over == {}
    for name in (
        "train/a/.DS_Store",
        "train/a/._0.png",
        "test/a/Thumbs.db",
        "test/desktop.ini",
        "train/.hidden/x.png",
        "train/b/.ipynb_checkpoints/0.png",
        "__MACOSX/train/a/x.png",
        "README.txt",
        "LICENSE",
        "train/list.csv",
        "train/a/notes.txt",
        "train/a/labels/0.txt",
        "train/0.png",
        "extra/deep/1.png",
        "extra/deep/2.png",
        "0.png",
    ):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    pack(tmp_path / "own")
    found = find_class_folders(tmp_path, "own")
    assert (found.classes, found.images) == (expected.classes, expected.images)
    assert found.passed_over == {
        "hidden or system files": 4,
        "hidden or system folders": 3,
        ".txt": 3,
        ".csv": 1,
        "LICENSE": 1,
        "images outside of a class folder": 2,
        "folder extra": 1,
    }
    assert class_folders.describe(found.passed_over).startswith("hidden or system files: 4, ")


def test_a_folder_comes_before_a_zip_file_and_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    (tmp_path / "own.zip").write_bytes(b"no zip file, and never opened")
    tree = find_class_folders(tmp_path, "own")
    assert tree.path == tmp_path / "own" and tree.passed_over == {"own.zip beside the folder": 1}


def test_images_in_folders_below_a_class_are_its_images(tmp_path: Path, pack: Pack) -> None:
    """As torchvision's ImageFolder takes them."""
    written = write_tree(tmp_path / "own", count=1)
    for name in ("train/a/2024/may/0.png", "train/a/2023/0.png", "test/b/x/0.PNG"):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written[name] = random_pixels(32, 32, 3, seed=len(written))
        path.write_bytes(image_bytes(written[name]))
    pack(tmp_path / "own")
    tree = find_class_folders(tmp_path, "own")
    assert tree.passed_over == {}
    assert tree.images["train"] == [
        ("train/a/0.png", 0),
        ("train/a/2023/0.png", 0),
        ("train/a/2024/may/0.png", 0),
        ("train/b/0.png", 1),
    ]
    for part, (pixels, _) in decode(tree).parts.items():
        np.testing.assert_array_equal(pixels, np.stack([written[name] for name, _ in tree.images[part]]))


@pytest.mark.parametrize("inside", ["own", "own/own", "flowers/images/data"])
def test_a_tree_may_lie_in_a_folder_of_its_own(tmp_path: Path, pack: Pack, inside: str) -> None:
    """As in the zip file that "compress this folder" makes."""
    write_tree(tmp_path / "plain")
    write_tree(tmp_path / "own" / inside)
    (tmp_path / "own" / "README.txt").touch()
    (tmp_path / "own" / "__MACOSX").mkdir()
    pack(tmp_path / "own")
    tree, plain = find_class_folders(tmp_path, "own"), find_class_folders(tmp_path, "plain")
    assert tree.classes == plain.classes
    assert tree.images["train"] == [(f"{inside}/{name}", label) for name, label in plain.images["train"]]
    assert tree.passed_over == {"hidden or system folders": 1, ".txt": 1}
    np.testing.assert_array_equal(decode(tree).parts["test"][0], decode(plain).parts["test"][0])


@pytest.mark.parametrize(
    "names",
    [
        {"train": "Train", "test": "TEST"},
        {"train": "training", "test": "Testing", "valid": "Validation"},
        {"train": "train", "test": "test", "valid": "val"},
        {"train": "TRAIN", "test": "test", "valid": "Valid"},
    ],
)
def test_the_parts_names(tmp_path: Path, names: dict[str, str]) -> None:
    write_tree(tmp_path / "plain")
    (tmp_path / "own").mkdir()
    for part, folder in names.items():
        shutil.copytree(tmp_path / "plain" / ("test" if part == "valid" else part), tmp_path / "own" / folder)
    tree = find_class_folders(tmp_path, "own")
    assert tree.classes == ("a", "b") and set(tree.images) == set(names)
    assert all(name.startswith(f"{names[part]}/") for part in names for name, _ in tree.images[part])
    decoded, plain = decode(tree).parts, decode(find_class_folders(tmp_path, "plain")).parts
    for part in names:
        np.testing.assert_array_equal(decoded[part][0], plain["test" if part == "valid" else part][0])


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "Train", "test"), "Train and train are both the train part"),
        (("train", "test", "val", "valid"), "val and valid are both the valid part"),
        (("train", "val"), "found train, val; add test, or give one of them its name"),
        (
            ("rose", "tulip"),
            r"found CLASS/IMAGE \(rose, tulip\); .* type: mv .*own .*own_images && python scripts/split",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, folders: Sequence[str], message: str) -> None:
    write_tree(tmp_path / "plain")
    for folder in folders:
        shutil.copytree(tmp_path / "plain" / "train" / "a", tmp_path / "own" / folder / "a")
        if folder in ("rose", "tulip"):
            shutil.copy(tmp_path / "plain" / "train" / "a" / "0.png", tmp_path / "own" / folder)
    with pytest.raises(UserError, match=rf"own: .*{message}"):
        find_class_folders(tmp_path, "own")


def test_a_class_whose_images_are_all_passed_over_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    for path in (tmp_path / "own" / "test" / "a").iterdir():
        path.rename(path.with_suffix(".png_"))
    with pytest.raises(UserError, match=r"class test/a is empty: .* in train and test \(passed over: \.png_: 3\)"):
        find_class_folders(tmp_path, "own")


def test_a_class_is_one_however_its_accent_is_written(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", classes=("cafe\u0301", "the"))
    (tmp_path / "own" / "test" / "cafe\u0301").rename(tmp_path / "own" / "test" / "caf\u00e9")
    assert find_class_folders(tmp_path, "own").classes == ("caf\u00e9", "the")


@pytest.mark.parametrize("name", ["two\nlines", "t\tab", "a\\b", " a", "a ", os.fsdecode(b"\xff\xfe")])
def test_a_class_name_that_is_no_line_of_text_is_refused(tmp_path: Path, name: str) -> None:
    try:
        write_tree(tmp_path / "own", classes=("a", name))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(UserError, match=r"class folder '.*': expected a name in UTF-8 on one line"):
        find_class_folders(tmp_path, "own")


def test_separators_of_windows_in_a_zip_file(tmp_path: Path) -> None:
    written = write_tree(tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("own\\train\\", b"")
        for name in written:
            archive.write(tmp_path / "own" / name, "own\\" + name.replace("/", "\\"))
    tree = find_class_folders(tmp_path, "packed")
    assert tree.classes == ("a", "b") and tree.passed_over == {}
    plain = decode(find_class_folders(tmp_path, "own")).parts
    np.testing.assert_array_equal(decode(tree).parts["train"][0], plain["train"][0])


def test_of_two_files_with_one_name_in_a_zip_file_the_last_counts(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    zip_tree(tmp_path / "own")
    changed = random_pixels(32, 32, 3, seed=99)
    with zipfile.ZipFile(tmp_path / "own.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/a/0.png", image_bytes(changed))
    tree = find_class_folders(tmp_path, "own")
    assert len(tree.images["train"]) == 6
    np.testing.assert_array_equal(decode(tree).parts["train"][0][0], changed)


def test_an_encrypted_zip_file_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    zip_tree(tmp_path / "own")
    content = (tmp_path / "own.zip").read_bytes()
    at = content.index(b"PK\1\2") + 8  # the flags of the first entry of the central directory
    (tmp_path / "own.zip").write_bytes(content[:at] + bytes([content[at] | 1]) + content[at + 1 :])
    with pytest.raises(UserError, match=r"own\.zip is encrypted: expected a zip file without a password"):
        find_class_folders(tmp_path, "own")


def test_the_fingerprint_changes_with_the_images(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    first = tmp_path / "own" / "train" / "a" / "0.png"
    content = first.read_bytes()
    fingerprints = [find_class_folders(tmp_path, "own").fingerprint]
    assert find_class_folders(tmp_path, "own").fingerprint == fingerprints[0]

    def changed() -> None:
        fingerprints.append(find_class_folders(tmp_path, "own").fingerprint)
        assert len(set(fingerprints)) == len(fingerprints)

    os.utime(first, ns=(1, 1))
    changed()
    first.write_bytes(content + b"x")
    changed()
    (first.parent / "new.png").write_bytes(content)
    changed()
    first.unlink()
    changed()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda own: shutil.rmtree(own / "test" / "b"), "class test/b is missing"),
        (lambda own: [path.unlink() for path in (own / "train" / "a").iterdir()], "class train/a is empty"),
        (lambda own: shutil.rmtree(own / "test"), "found train alone; add test, or, .*split_images"),
        (lambda own: shutil.rmtree(own / "train"), "found test alone; add train"),
        (lambda own: [shutil.rmtree(own / part) for part in ("test", "train")], "found none"),
    ],
    ids=["missing class", "empty class", "no test", "no train", "nothing"],
)
def test_a_missing_or_empty_class_is_named(
    tmp_path: Path, pack: Pack, spoil: Callable[[Path], object], message: str
) -> None:
    own = tmp_path / "own"
    write_tree(own)
    spoil(own)
    pack(own)
    with pytest.raises(UserError, match=rf"own.*{message}"):
        find_class_folders(tmp_path, "own")


PNG = image_bytes(random_pixels(32, 32, 3))
BROKEN = {
    "text": b"this is no image",
    "empty": b"",
    "cut": PNG[: len(PNG) // 2],
    "changed": PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:],
    "cut jpeg": image_bytes(random_pixels(64, 64, 3), "JPEG")[:500],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_image_is_named(tmp_path: Path, pack: Pack, content: bytes) -> None:
    own = tmp_path / "own"
    write_tree(own)
    (own / "train" / "b" / "1.png").write_bytes(content)
    pack(own)
    with pytest.raises(UserError, match=r"own.*cannot read image train/b/1\.png: .*; repair or remove it"):
        decode(find_class_folders(tmp_path, "own"))


@pytest.mark.parametrize("size", [(8193, 8192), (12_000, 12_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_image_bombs_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "test" / "a" / "0.png").write_bytes(png_with(*size, 8, PNG_RGB, bytes(100)))
    with pytest.raises(UserError, match=r"cannot read image test/a/0\.png: .*pixels"):
        decode(find_class_folders(tmp_path, "own"))


def webp_announcing(side: int) -> bytes:
    """An animation on a large canvas, with one small image on it."""
    small = image_bytes(random_pixels(8, 8, 3), "WEBP")[12:]
    frame = bytes(6) + b"\7\0\0\7\0\0" + bytes(4) + small

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    canvas = b"\2\0\0\0" + 2 * (side - 1).to_bytes(3, "little")
    return chunk(b"RIFF", b"WEBP" + chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame))


def tiff_of_one_tile(side: int) -> bytes:
    """A deflated grey TIFF of 16 x 16 pixels in one tile; a tile is decoded whole."""
    data = zlib.compress(bytes(side * side))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\10\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize("make", [webp_announcing, tiff_of_one_tile])
def test_image_bombs_of_other_formats_are_refused(
    make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode_image(make(64)).pixels.shape == (32, 32, 3)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="64 x 64 pixels, expected at most 1000 in all"):
        decode_image(make(64))


def test_files_that_are_too_large_are_refused(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_trees, "MAX_FILE_BYTES", 20_000)
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "test" / "a" / "0.png").write_bytes(bytes(20_001))
    pack(tmp_path / "own")
    with pytest.raises(UserError, match=r"test/a/0\.png: 20001 bytes, expected at most 20000"):
        decode(find_class_folders(tmp_path, "own"))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "train/a/../../../evil.png",
        "/train/a/x.png",
        "train\\..\\..\\..\\evil.png",
        "\\train\\a\\x.png",
        "C:\\train\\a\\x.png",
        "c:/train/a/x.png",
        "\\\\server\\train\\x.png",
    ],
)
def test_zip_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "data" / "own")
    zip_tree(tmp_path / "data" / "own")
    with zipfile.ZipFile(tmp_path / "data" / "own.zip", "a") as archive:
        archive.writestr(name, PNG)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="leads out of it"):
        find_class_folders(tmp_path / "data", "own")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("depth", [101, 30_000])
def test_zip_names_in_too_many_folders_are_refused(tmp_path: Path, depth: int) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("a/" * depth + "1.png", PNG)
    with pytest.raises(UserError, match=r"own\.zip: 'a/.{,100} lies in more than 100 folders: expected"):
        find_class_folders(tmp_path, "own")


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_methods_of_packing_are_refused(tmp_path: Path, method: int, name: str) -> None:
    write_tree(tmp_path / "own")
    zip_tree(tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "own.zip", "a", method) as archive:
        archive.writestr("train/a/9.png", PNG)
    with pytest.raises(UserError, match=rf"own\.zip: 'train/a/9\.png' is packed by {name}: expected deflate or none"):
        find_class_folders(tmp_path, "own")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_holds_more_than_it_announces_is_refused(tmp_path: Path, method: int) -> None:
    announce_less(tmp_path / "own.zip", "train/a/1.png", bytes(2**26), method)
    tracemalloc.start()
    try:
        with open_tree(tmp_path / "own.zip") as read, pytest.raises((ValueError, zipfile.BadZipFile)):
            read("train/a/1.png")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_member_that_holds_less_than_it_announces_is_refused(tmp_path: Path) -> None:
    announce_less(tmp_path / "own.zip", "train/a/1.png", bytes(50), zipfile.ZIP_DEFLATED, 100)
    with open_tree(tmp_path / "own.zip") as read, pytest.raises((ValueError, zipfile.BadZipFile), match=r"less|CRC"):
        read("train/a/1.png")


def test_no_zip_file(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    zip_tree(tmp_path / "own")
    whole = (tmp_path / "own.zip").read_bytes()
    for content in (b"", b"no zip", whole[:-30], whole[: len(whole) // 2]):
        (tmp_path / "own.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"own\.zip is not a zip file that opens"):
            find_class_folders(tmp_path, "own")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_file_gives_the_same_images_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    """A flipped byte in a date or in an attribute may pass; one that would change an image may not."""
    path = tmp_path / "own.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(("train/a/1", "train/b/1", "test/a/1", "test/b/1")):
            archive.writestr(f"{name}.png", image_bytes(np.full((2, 2, 3), number, np.uint8)))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        pixels, labels = decode(find_class_folders(tmp_path, "own")).parts["train"]
    except UserError as error:
        assert "own.zip" in str(error)
    else:
        assert labels.tolist() == [0, 1]
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], [0, 1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("absent.png"), "a link to nothing"),
        (lambda path: path.symlink_to("x.png"), "a link to nothing"),
        (lambda path: os.mkfifo(path), "neither a file nor a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "neither a file nor a folder"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.write_text("<html>not found</html>"), "not an image of a known format"),
    ],
    ids=["dangling", "to itself", "pipe", "device", "empty", "a web page"],
)
def test_what_is_no_image_file_is_named(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    write_tree(tmp_path / "own")
    make(tmp_path / "own" / "train" / "a" / "x.png")
    with pytest.raises(UserError, match=rf"own: cannot read image train/a/x\.png: {reason}; repair or remove it"):
        decode(find_class_folders(tmp_path, "own"))


def test_all_broken_images_are_named_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", count=8)
    for part in ("train", "test"):
        for number in range(7):
            (tmp_path / "own" / part / "a" / f"{number}.png").write_bytes(BROKEN["text"])
    with pytest.raises(UserError) as error:
        decode(find_class_folders(tmp_path, "own"))
    message = str(error.value)
    assert "cannot read 14 images: train/a/0.png: not an image of a known format; train/a/1.png:" in message
    assert "test/a/2.png" in message and "test/a/3.png" not in message
    assert "and 4 more; repair or remove them (read are " in message and "0x" not in message


def test_links_are_followed(tmp_path: Path) -> None:
    written = write_tree(tmp_path / "own", count=1)
    own, outside = tmp_path / "own", tmp_path / "outside"
    write_tree(outside, count=1)
    (own / "train" / "b" / "1.png").symlink_to("../a/0.png")
    (own / "train" / "c").symlink_to(outside / "train" / "a")
    (own / "test" / "c").symlink_to("../../outside/test/a")
    tree = find_class_folders(tmp_path, "own")
    assert tree.classes == ("a", "b", "c")
    pixels, labels = decode(tree).parts["train"]
    assert labels.tolist() == [0, 1, 1, 2]
    np.testing.assert_array_equal(pixels[2], written["train/a/0.png"])
    linked = tmp_path / "linked"
    linked.symlink_to(own)
    assert find_class_folders(tmp_path, "linked").images == tree.images


@pytest.mark.parametrize("target", [".", "..", "../..", "../b"])
def test_a_link_loop_ends(tmp_path: Path, target: str) -> None:
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "train" / "a" / "loop").symlink_to(target)
    (tmp_path / "own" / "train" / "b" / "loop").symlink_to("../a")
    with pytest.raises(UserError, match=r"own/train/.*loop is a link to a folder that it lies in; remove it"):
        find_class_folders(tmp_path, "own")


def test_folders_that_link_to_each_other_without_a_loop_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_trees, "MAX_FOLDERS", 1000)
    write_tree(tmp_path / "own")
    for number in range(12):
        folder = tmp_path / "own" / f"{number:02d}"
        folder.mkdir()
        for other in range(number):
            (folder / str(other)).symlink_to(f"../{other:02d}")
    with pytest.raises(UserError, match="own: more than 1000 folders"):
        find_class_folders(tmp_path, "own")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    odd = os.fsencode(tmp_path / "own" / "train" / "a") + b"/\xff\xfe.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    _, labels = decode(find_class_folders(tmp_path, "own")).parts["train"]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


def check_tree(folder: Path) -> None:
    """What is found as `own` is a dataset, or is refused by its name; nothing else of the system is touched."""
    with warnings.catch_warnings(), confined(folder):
        warnings.simplefilter("ignore")
        try:
            tree = find_class_folders(folder, "own")
            assert tree is not None
            for pixels, labels in decode(tree).parts.values():
                assert pixels.shape == (len(labels), 32, 32, 3)
                assert set(labels.tolist()) == set(range(len(tree.classes)))
        except UserError as error:
            assert "own" in str(error)


WHOLE = [(part, name, "1.png") for part in ("train", "test") for name in "ab"]
ODD_NAMES = ["train", "test", "a", "b", "1.png", ".hidden", "__MACOSX", "x" * 255, "\u00e9\n", "0", "\u00b2", " "]
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=6)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(
    st.lists(
        st.sampled_from(WHOLE) | st.lists(NAMES | st.sampled_from([*ODD_NAMES, "..", "."]), min_size=1, max_size=4),
        max_size=8,
    )
)
def test_any_tree_of_names_is_a_dataset_or_a_user_error(tmp_path: Path, entries: list[Sequence[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, on names that come twice
        with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
            for entry in entries:
                archive.writestr("/".join(entry), PNG)
    check_tree(tmp_path)


@SAME_FOLDER
@given(st.data())
def test_any_bytes_near_a_zip_file_are_a_dataset_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    archives = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "own.zip", "w", compression) as archive:
            for name in WHOLE:
                archive.writestr("/".join(name), PNG)
        archives.append((tmp_path / "own.zip").read_bytes())
    words = [b"../../outside.png", b"/train/a/1.png", b"train\\a", b"PK\3\4", b"PK\1\2", b"PK\5\6"]
    (tmp_path / "own.zip").write_bytes(data.draw(near_bytes(archives, words)))
    check_tree(tmp_path)


@SAME_FOLDER
@given(
    without=st.sampled_from([None, *WHOLE]),
    entries=st.lists(
        st.tuples(
            st.sampled_from(["image", "broken", "empty", "folder", "link", "pipe"]),
            st.lists(st.sampled_from(ODD_NAMES), min_size=1, max_size=4),
            st.sampled_from(["../../../outside", "/etc/passwd", "../a", "1.png", "absent", ".", "/dev/zero"]),
        ),
        max_size=5,
    ),
)
def test_any_folder_is_a_dataset_or_a_user_error(
    tmp_path: Path, without: tuple[str, ...] | None, entries: list[tuple[str, list[str], str]]
) -> None:
    shutil.rmtree(tmp_path / "own", ignore_errors=True)
    whole = [("image", [*names], "") for names in WHOLE if names != without]
    for kind, names, place in [*whole, *entries]:
        path = tmp_path.joinpath("own", *names)
        with contextlib.suppress(OSError):  # a file stands where a folder should, or a name is too long
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(place)
            elif kind == "pipe":
                os.mkfifo(path)
            elif not path.is_symlink() and not path.exists():
                path.write_bytes({"image": PNG, "broken": PNG[:40], "empty": b""}[kind])
    check_tree(tmp_path)
