"""Pixels that stay on the disk: the same images, splits and checksums as in memory, and read once to be known."""

import os
import shutil
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from image_trees import write_tree

import dataset.datasets
import global_configure
from dataset.image_hashes import hashes_of
from dataset.images import IMAGENET, augment, prepared, split_fingerprint, to_device
from dataset.pixels import PixelsOnDisk, joined_checksum
from dataset.splits import split
from utils.errors import UserError

CPU = torch.device("cpu")


@given(st.integers(1, 40), st.lists(st.binary(min_size=40, max_size=40), max_size=5))
def test_the_checksum_of_pieces_is_that_of_the_whole(length: int, pieces: list[bytes]) -> None:
    pieces = [piece[:length] for piece in pieces]
    assert joined_checksum([zlib.crc32(piece) for piece in pieces], length) == zlib.crc32(b"".join(pieces))


def load() -> dataset.datasets.Dataset:
    return dataset.datasets.load_dataset("flowers", 32, "stretch", IMAGENET)


@pytest.fixture
def flowers(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a dataset's decoded images, each part of which is too large for memory."""
    monkeypatch.setattr("dataset.pixels.IN_MEMORY", 32 * 32 * 3)
    root = Path(global_configure.root_dir)
    write_tree(Path(global_configure.dataset_dir) / "flowers", count=12)
    return root / "data" / "decoded_dataset" / "flowers"


def test_images_on_the_disk_are_those_in_memory(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = split(load())
    monkeypatch.setattr("dataset.pixels.IN_MEMORY", 2**30)
    in_memory = split(load())
    assert split_fingerprint(on_disk) == split_fingerprint(in_memory)
    for part in ("train", "valid", "test"):
        images, expected = getattr(on_disk, part), getattr(in_memory, part)
        assert isinstance(images.pixels, PixelsOnDisk) and isinstance(expected.pixels, np.ndarray)
        assert np.array_equal(images.labels, expected.labels)
        assert np.array_equal(np.asarray(images.pixels), expected.pixels)
        assert np.array_equal(images.pixels[..., ::-1], expected.pixels[..., ::-1])
        assert np.array_equal(images.pixels[1], expected.pixels[1])
        for with_labels in (False, True):
            assert np.array_equal(
                hashes_of(images, with_labels=with_labels), hashes_of(expected, with_labels=with_labels)
            )
        some = torch.tensor([2, 0, 1])
        assert torch.equal(to_device(images, CPU)[0][some], to_device(expected, CPU)[0][some])
        assert images.first(3).fingerprint == expected.first(3).fingerprint
        assert images.take(images.labels == 1).fingerprint == expected.take(expected.labels == 1).fingerprint
    by_batch = prepared(in_memory.train, CPU)
    monkeypatch.setattr("dataset.pixels.IN_MEMORY", 1)
    for images in (in_memory.train, on_disk.train):
        assert torch.equal(prepared(images, CPU)[3:7], by_batch[3:7])


def test_what_reads_all_pixels_is_done_once(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load().train.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("utils.files._digest_of", lambda *_: pytest.fail("read again"))
        patch.setattr("dataset.datasets._digests_of", lambda *_: pytest.fail("read again"))
        assert load().train.fingerprint == expected
    path = flowers / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 1))  # even where the clock stands still, the time is another one
    with pytest.raises(UserError, match="its checksum does not match"):
        load()


def test_lost_or_damaged_digests_are_computed_again(flowers: Path) -> None:
    expected = load().train.fingerprint
    (flowers / "train_digests.npy").unlink()
    (flowers / "test_digests.npy").write_bytes(b"none")
    (flowers / "test_compared.json").write_text("{")
    assert load().train.fingerprint == expected
    assert load().test.pixels.checksum == zlib.crc32(np.asarray(load().test.pixels))


def test_images_that_another_process_decodes_again_are_not_taken_for_the_earlier_ones(flowers: Path) -> None:
    pixels = split(load()).train.pixels
    expected = np.asarray(pixels)
    tree = Path(global_configure.dataset_dir) / "flowers"
    shutil.move(flowers, flowers.with_name("before"))
    load()  # the same images, as another process does that started at the same time
    assert np.array_equal(pixels, expected) and np.array_equal(pixels.in_file().opened(), expected)
    write_tree(tree, count=14)
    load()
    for read in (lambda: pixels[:3], lambda: np.asarray(pixels), lambda: pixels.in_file().opened()):
        with pytest.raises(UserError, match=r"train_images\.npy was changed while it was read; run the command again"):
            read()


@pytest.mark.parametrize("mirror", [False, True])
def test_resized_crops_are_parts_of_the_image(mirror: bool) -> None:
    """Of an image whose red rises from left to right and green from top to bottom, a crop is a linear map."""
    side, count = 64, 200
    ramp = torch.linspace(0, 255, side)
    red, green = ramp.expand(side, side), ramp[:, None].expand(side, side)
    pixels = torch.stack([red, green, torch.zeros(side, side)], -1).round().byte().expand(count, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    crops = augment(pixels, mirror=mirror, generator=generator, crop="resized")
    assert crops.shape == pixels.shape and crops.dtype == torch.uint8
    wide = (crops[:, 32, -2, 0].int() - crops[:, 32, 1, 0]) / 255 * side / (side - 3)
    high = (crops[:, -2, 32, 1].int() - crops[:, 1, 32, 1]) / 255 * side / (side - 3)
    flipped = wide < 0
    assert (60 < flipped.sum() < 140) if mirror else not flipped.any()
    area, ratio = wide.abs() * high, wide.abs() / high
    assert 0.22 < area.min() < 0.4 and 0.8 < area.max() < 1.05
    assert ratio.min() > 0.7 and ratio.max() < 1.4
    again = augment(pixels, mirror=mirror, generator=torch.Generator().manual_seed(0), crop="resized")
    assert torch.equal(crops, again)
    assert not torch.equal(crops, augment(pixels, mirror=mirror, generator=generator, crop="resized"))
