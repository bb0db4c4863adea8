"""Trees of images from anybody: decoded right, or refused with the file's name; nothing outside of them is touched."""

import contextlib
import io
import os
import shutil
import struct
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
from image_trees import image_bytes, random_pixels, write_tree, zip_tree
from near_valid import near_bytes
from PIL import Image, UnidentifiedImageError

from dataset import class_folders
from dataset.class_folders import decode, decode_image, find_class_folders
from utils.errors import UserError


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tree_is_read_in_the_order_of_its_names(tmp_path: Path, zipped: bool) -> None:
    written = write_tree(tmp_path / "own", classes=("dog", "cat", "bird"))
    if zipped:
        zip_tree(tmp_path / "own")
    tree = find_class_folders(tmp_path, "own")
    assert tree is not None
    assert tree.classes == ("bird", "cat", "dog")
    for part in ("train", "test"):
        pixels, labels = decode(tree, part)
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        names = [f"{part}/{name}/{number}.png" for name in tree.classes for number in range(3)]
        np.testing.assert_array_equal(pixels, np.stack([written[name] for name in names]))


def test_no_tree_is_none(tmp_path: Path) -> None:
    assert find_class_folders(tmp_path, "own") is None


def test_classes_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", classes=("10", "9", "2"), count=1)
    assert find_class_folders(tmp_path, "own").classes == ("2", "9", "10")


def test_hidden_files_and_others_folders_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    expected = find_class_folders(tmp_path, "own")
    for name in ("train/a/.DS_Store", "train/.hidden/x.png", "__MACOSX/train/a/x.png", "README.txt", "train/list.txt"):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    assert find_class_folders(tmp_path, "own") == expected


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


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda own: shutil.rmtree(own / "test" / "b"), "class test/b is missing"),
        (lambda own: [path.unlink() for path in (own / "train" / "a").iterdir()], "class train/a is empty"),
        (lambda own: shutil.rmtree(own / "test"), "class test/a is missing"),
        (lambda own: [shutil.rmtree(own / part) for part in ("test", "train")], "found none"),
    ],
    ids=["missing class", "empty class", "missing part", "nothing"],
)
def test_a_missing_or_empty_class_is_named(
    tmp_path: Path, zipped: bool, spoil: Callable[[Path], object], message: str
) -> None:
    own = tmp_path / "own"
    write_tree(own)
    spoil(own)
    if zipped:
        zip_tree(own)
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


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_image_is_named(tmp_path: Path, zipped: bool, content: bytes) -> None:
    own = tmp_path / "own"
    write_tree(own)
    (own / "train" / "b" / "1.png").write_bytes(content)
    if zipped:
        zip_tree(own)
    with pytest.raises(UserError, match=r"own.*cannot read image train/b/1\.png: .*; mend or remove it"):
        decode(find_class_folders(tmp_path, "own"), "train")


GREY = np.random.default_rng(0).integers(0, 2**16, (5, 5), dtype=np.uint16)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "EPS")
IMAGES = [
    *(image_bytes(random_pixels(9, 7, 3), name) for name in FORMATS),
    image_bytes(GREY),
    image_bytes(GREY, "TIFF"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(near_bytes(IMAGES))
def test_a_damaged_image_is_decoded_or_refused(tmp_path: Path, content: bytes) -> None:
    """Any one exception of Pillow becomes the message that names the file; no other way out."""
    with warnings.catch_warnings(), confined(tmp_path):
        warnings.simplefilter("ignore")
        try:
            pixels = class_folders._decode_named(Path("own"), "train/a/1.png", lambda name: content)
        except UserError as error:
            assert "train/a/1.png" in str(error)
        else:
            assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


def test_a_file_that_another_program_would_be_started_for_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    with pytest.raises(UnidentifiedImageError):
        decode_image(image_bytes(random_pixels(9, 7, 3), "EPS"))


def test_images_of_other_sizes_are_resized() -> None:
    large = random_pixels(57, 91, 3)
    expected = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_image(image_bytes(large)), expected)
    np.testing.assert_array_equal(decode_image(image_bytes(np.full((1, 1, 3), 7, np.uint8))), np.full((32, 32, 3), 7))


def test_grey_images_become_rgb() -> None:
    grey = random_pixels(32, 32)
    np.testing.assert_array_equal(decode_image(image_bytes(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_grey_images_of_16_bits_keep_their_upper_8() -> None:
    grey = np.random.default_rng(0).integers(0, 2**16, (32, 32), dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        expected = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
        np.testing.assert_array_equal(decode_image(image_bytes(grey, format)), expected)


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_grey_images_of_32_bits_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 8 or 16 bits"):
        decode_image(image_bytes(values, "TIFF"))


def test_bilevel_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    pixels = random_pixels(32, 32, 3) // 128 * 255  # eight colours, so that a palette holds them all
    palette = Image.fromarray(pixels).quantize(16)
    np.testing.assert_array_equal(palette.convert("RGB"), pixels)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([0, 128] * 8))
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "train" / "a" / "0.png").write_bytes(buffer.getvalue())
    with_alpha = np.dstack([pixels, random_pixels(32, 32)])
    (tmp_path / "own" / "train" / "a" / "1.png").write_bytes(image_bytes(with_alpha))
    bilevel = pixels[..., 0] > 0
    (tmp_path / "own" / "train" / "a" / "2.png").write_bytes(image_bytes(bilevel))
    decoded, _ = decode(find_class_folders(tmp_path, "own"), "train")  # and Pillow's warnings do not come out
    np.testing.assert_array_equal(decoded[0], pixels)
    np.testing.assert_array_equal(decoded[1], pixels)
    np.testing.assert_array_equal(decoded[2], np.repeat(bilevel[..., None] * np.uint8(255), 3, axis=2))


def png_announcing(width: int, height: int) -> bytes:
    """A PNG header of any size, with hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    announced = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + announced + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8193, 8192), (12_000, 12_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_image_bombs_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "test" / "a" / "0.png").write_bytes(png_announcing(*size))
    with pytest.raises(UserError, match=r"cannot read image test/a/0\.png: .*pixels"):
        decode(find_class_folders(tmp_path, "own"), "test")


@pytest.mark.parametrize("zipped", [False, True])
def test_files_that_are_too_large_are_refused(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_folders, "MAX_FILE_BYTES", 20_000)
    write_tree(tmp_path / "own")
    (tmp_path / "own" / "test" / "a" / "0.png").write_bytes(bytes(20_001))
    if zipped:
        zip_tree(tmp_path / "own")
    with pytest.raises(UserError, match=r"test/a/0\.png: 20001 bytes, expected at most 20000"):
        decode(find_class_folders(tmp_path, "own"), "test")


@pytest.mark.parametrize("name", ["../evil.png", "train/a/../../../evil.png", "/train/a/x.png", "train\\a\\x.png"])
def test_zip_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "data" / "own")
    zip_tree(tmp_path / "data" / "own")
    with zipfile.ZipFile(tmp_path / "data" / "own.zip", "a") as archive:
        archive.writestr(name, PNG)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="leads out of it"):
        find_class_folders(tmp_path / "data", "own")
    assert sorted(tmp_path.rglob("*")) == before


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
        pixels, labels = decode(find_class_folders(tmp_path, "own"), "train")
    except UserError as error:
        assert "own.zip" in str(error)
    else:
        assert labels.tolist() == [0, 1]
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], [0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, outside: path.symlink_to(outside / "secret.png"), r"train/a/x\.png is a link out of"),
        (lambda path, outside: path.symlink_to("../../../outside/secret.png"), r"train/a/x\.png is a link out of"),
        (lambda path, outside: path.parent.joinpath("folder").symlink_to(outside), "train/a/folder is a link out of"),
        (lambda path, outside: path.symlink_to("absent.png"), r"train/a/x\.png is not a file"),
        (lambda path, outside: path.symlink_to("x.png"), r"train/a/x\.png is not a file"),
        (lambda path, outside: os.mkfifo(path), r"train/a/x\.png is not a file"),
    ],
    ids=["absolute", "relative", "folder", "dangling", "loop", "pipe"],
)
def test_links_out_and_what_is_no_file_are_refused(
    tmp_path: Path, make: Callable[[Path, Path], object], message: str
) -> None:
    own, outside = tmp_path / "data" / "own", tmp_path / "outside"
    write_tree(own)
    outside.mkdir()
    (outside / "secret.png").write_bytes(PNG)
    make(own / "train" / "a" / "x.png", outside)
    with pytest.raises(UserError, match=message):
        find_class_folders(tmp_path / "data", "own")


def test_a_link_within_the_tree_is_an_image(tmp_path: Path) -> None:
    written = write_tree(tmp_path / "own", count=1)
    (tmp_path / "own" / "train" / "b" / "1.png").symlink_to("../a/0.png")
    pixels, labels = decode(find_class_folders(tmp_path, "own"), "train")
    assert labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(pixels[2], written["train/a/0.png"])


def test_names_that_are_no_text(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    odd = os.fsencode(tmp_path / "own" / "train" / "a") + b"/\xff\xfe.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    _, labels = decode(find_class_folders(tmp_path, "own"), "train")
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


def check_tree(folder: Path) -> None:
    """What is found as `own` is a dataset, or is refused by its name; nothing else of the system is touched."""
    with warnings.catch_warnings(), confined(folder):
        warnings.simplefilter("ignore")
        try:
            tree = find_class_folders(folder, "own")
            assert tree is not None
            for part in ("train", "test"):
                pixels, labels = decode(tree, part)
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
