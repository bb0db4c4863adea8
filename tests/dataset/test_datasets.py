"""Every way to a dataset gives the same arrays, decoded once; a split stays as it is."""

import dataclasses
import hashlib
import os
import pickle  # writes only: the format of CIFAR's official files, which torchvision reads
import shutil
import tarfile
import time
import tracemalloc
import urllib.request
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.io
import torchvision
from conftest import files_below
from hypothesis import given
from image_trees import PNG_RGB, image_bytes, png_of, random_pixels, write_tree
from PIL import Image
from sklearn.datasets import load_digits

import global_configure
from configures.base import Config, load
from dataset import datasets
from dataset.class_folders import find_class_folders
from dataset.datasets import outline
from dataset.image_files import SIDE, Resize
from dataset.images import (
    IMAGENET,
    Dataset,
    Images,
    Normalisation,
    choose_classes,
)
from dataset.splits import copies_between, is_among, load_evaluation_parts, load_split, own_validation_order, split
from utils.artifacts import load_json, save_json
from utils.errors import UserError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_dataset(name: str, side: int = SIDE, resize: Resize = "stretch") -> Dataset:
    return datasets.load_dataset(name, side, resize, IMAGENET)


@pytest.fixture
def dataset_dir(root_dir: Path) -> Path:
    folder = root_dir / "data" / "dataset"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def description(dataset_dir: Path) -> Path:
    """Of a dataset `own` of two classes, which was decoded."""
    write_tree(dataset_dir / "own")
    load_dataset("own")
    return dataset_dir.parent / "decoded_dataset" / "own" / "description.json"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trees that were decoded so far."""
    names: list[str] = []
    decode = datasets.decode
    monkeypatch.setattr(datasets, "decode", lambda tree, *form: names.append(tree.path.name) or decode(tree, *form))
    return names


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection gets through."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def assert_same(first: Dataset, second: Dataset) -> None:
    assert first.classes == second.classes
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(first, part).pixels, getattr(second, part).pixels)
        np.testing.assert_array_equal(getattr(first, part).labels, getattr(second, part).labels)


def test_decoded_once_and_again_after_a_change_and_kept_without_its_source(
    dataset_dir: Path, decoded: list[str]
) -> None:
    write_tree(dataset_dir / "own")
    first = load_dataset("own")
    assert decoded == ["own"]
    assert_same(load_dataset("own"), first)
    assert decoded == ["own"]
    assert isinstance(first.train.pixels, np.memmap)
    (dataset_dir / "own" / "train" / "a" / "0.png").unlink()
    changed = load_dataset("own")
    assert len(changed.train) == len(first.train) - 1
    shutil.rmtree(dataset_dir / "own")
    assert_same(load_dataset("own"), changed)
    assert decoded == ["own", "own"]


def test_classes_whose_folders_are_exchanged_are_decoded_again(dataset_dir: Path) -> None:
    """Files of one size and one time, as archives have them."""
    for part in ("train", "test"):
        for name, grey in (("a", 0), ("b", 255)):
            path = dataset_dir / "own" / part / name / "0.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (grey,) * 3).save(path)
            os.utime(path, (1, 1))
    assert load_dataset("own").train.pixels[:, 0, 0, 0].tolist() == [0, 255]
    for part in ("train", "test"):
        folder = dataset_dir / "own" / part
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            (folder / old).rename(folder / new)
    assert load_dataset("own").train.pixels[:, 0, 0, 0].tolist() == [255, 0]


def test_arrays_of_two_states_of_a_folder_are_never_taken_for_one(
    dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process decodes the folder as it was, another one as it is now, and the first is ended while it writes."""
    write_tree(dataset_dir / "own")
    decode, save_array = datasets.decode, datasets.save_array

    def decode_while_the_folder_changes(tree: Any, *form: Any) -> Any:
        decoded = decode(tree, *form)
        monkeypatch.setattr(datasets, "decode", decode)
        (dataset_dir / "own" / "train" / "b" / "0.png").rename(dataset_dir / "own" / "train" / "a" / "9.png")
        assert load_dataset("own").train.labels.tolist() == [0, 0, 0, 0, 1, 1]
        monkeypatch.setattr(datasets, "save_array", stop_at_labels)
        return decoded

    def stop_at_labels(path: Path, array: np.ndarray) -> None:
        if "labels" in path.name:
            raise KeyboardInterrupt
        save_array(path, array)

    monkeypatch.setattr(datasets, "decode", decode_while_the_folder_changes)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("own")
    monkeypatch.setattr(datasets, "save_array", save_array)
    found, again = load_dataset("own").train, decode(find_class_folders(dataset_dir, "own"))
    np.testing.assert_array_equal(found.pixels, again.parts["train"][0])
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_stop_while_decoding_leaves_nothing_that_looks_whole(
    dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(dataset_dir / "own")
    load_dataset("own")
    (dataset_dir / "own" / "train" / "a" / "0.png").unlink()
    saved: list[Path] = []

    def stop_at_the_second(path: Path, array: np.ndarray) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save_array(path, array)

    save_array = datasets.save_array
    monkeypatch.setattr(datasets, "save_array", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("own")
    monkeypatch.setattr(datasets, "save_array", save_array)
    assert len(load_dataset("own").train) == 5
    (dataset_dir / "own").rename(dataset_dir / "moved")
    assert len(load_dataset("own").train) == 5


def test_half_written_arrays_of_killed_processes_are_removed(dataset_dir: Path, description: Path) -> None:
    old, new = (description.with_name(f".train_images.npy.{name}.partial") for name in ("0a", "0b"))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    load_dataset("own")  # which is decoded already
    assert new.exists() and not old.exists()  # another process may be writing the new one


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"])
def test_a_damaged_decoded_array_is_found(description: Path, name: str) -> None:
    path = description.with_name(name)
    whole = path.read_bytes()
    for place in (20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=rf"cannot use .*{name}.*after removing .*decoded_dataset/own"):
            load_dataset("own")
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot use"):
        load_dataset("own")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"classes": []}', '{"fingerprint": 1}', "[" * 100_000])
def test_a_damaged_description_is_made_again(dataset_dir: Path, description: Path, content: str) -> None:
    first = load_dataset("own")
    description.write_text(content)
    assert_same(load_dataset("own"), first)
    description.write_text(content)
    shutil.rmtree(dataset_dir / "own")
    with pytest.raises(UserError, match=r"cannot use .*description\.json"):
        load_dataset("own")


def test_a_description_whose_checksum_lost_its_name_is_made_again(description: Path) -> None:
    whole = description.read_text()
    description.write_text(whole.replace('"sha256"', '"sha257"'))
    load_dataset("own")
    assert description.read_text() == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": ["a"]}, "1 classes, and labels up to 1"),
        *(
            ({"parts": parts}, "expected the parts train and test")
            for parts in (["train"], [], "train", None, 3, [["train"]], ["test", "train"], {"train": 1})
        ),
    ],
    ids=str,
)
def test_a_description_of_something_else_is_refused(description: Path, changed: dict[str, Any], message: str) -> None:
    save_json(description, {**load_json(description, ""), **changed})
    with pytest.raises(UserError, match=message):
        load_dataset("own")


def test_two_processes_that_decode_at_once(dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the first's description already there when it has decoded too, and must not take it away."""
    write_tree(dataset_dir / "own")
    decode, inner = datasets.decode, []

    def decode_while_another_finishes(tree: Any, *form: Any) -> Any:
        if not inner:
            inner.append(None)
            inner[0] = load_dataset("own")
        return decode(tree, *form)

    unlink = Path.unlink
    monkeypatch.setattr(datasets, "decode", decode_while_another_finishes)

    def never(path: Path, missing_ok: bool = False) -> None:
        assert path.name != "description.json" or not path.exists()
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", never)
    assert_same(load_dataset("own"), inner[0])


def test_an_unknown_dataset_says_where_to_put_it(dataset_dir: Path) -> None:
    with pytest.raises(UserError, match=rf"dataset own is not there: put {dataset_dir}/own\.zip or the folder"):
        load_dataset("own")
    for name in ("", "../own", "a/b", "/etc", "a.b", "a\0b"):
        with pytest.raises(UserError, match="expected letters, digits, _ and -"):
            load_dataset(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_offline_one_message_lists_the_three_ways(
    dataset_dir: Path, name: str, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(name)
    assert str(error.value) == (
        f"dataset {name} is not there: (1) go online and try again; (2) put torchvision's own files into "
        f"{dataset_dir}; (3) put {dataset_dir}/{name}.zip or the folder {dataset_dir}/{name}/ there, "
        "with {train,test}/CLASS/IMAGE in it"
    )
    assert capsys.readouterr() == (f"dataset {name} is not in {dataset_dir}: downloading it\n", "")
    assert files_below(dataset_dir) == {}


def test_a_tree_comes_before_a_download(dataset_dir: Path, offline: None) -> None:
    write_tree(dataset_dir / "cifar10")
    assert load_dataset("cifar10").classes == ("a", "b")


def test_no_download_into_a_file(root_dir: Path) -> None:
    (root_dir / "data").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*dataset: .*; set another dataset_dir"):
        load_dataset("cifar10")


# Real CIFAR and SVHN files have published MD5 sums, which files as small as these cannot have. So the tests write the
# official formats and put the sums of what they wrote in the place of torchvision's: its own reader and check run.


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_cifar(dataset_dir: Path, kind: Any, label_key: str, classes: list[str], patch: pytest.MonkeyPatch) -> Any:
    """CIFAR's pickled batches: rows of 3072 bytes, a plane of red, one of green, one of blue."""
    random = np.random.default_rng(0)
    folder = dataset_dir / kind.base_folder
    folder.mkdir(parents=True)
    written: dict[str, list[Any]] = {"train": [], "test": []}
    sums: dict[str, str] = {}
    for part, batches in (("train", kind.train_list), ("test", kind.test_list)):
        for name, _ in batches:
            planes = random.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
            labels = random.integers(0, len(classes), 4).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": planes.reshape(4, -1), label_key: labels}))
            sums[name] = md5(folder / name)
            written[part] += [(planes[i].transpose(1, 2, 0), labels[i]) for i in range(4)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: classes}))
    patch.setattr(kind, "train_list", [[name, sums[name]] for name, _ in kind.train_list])
    patch.setattr(kind, "test_list", [[name, sums[name]] for name, _ in kind.test_list])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    return written


CIFAR10, CIFAR100 = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100


@pytest.mark.parametrize(
    ("name", "kind", "label_key", "classes"),
    [
        ("cifar10", CIFAR10, "labels", list(CIFAR10_CLASSES)),
        ("cifar100", CIFAR100, "fine_labels", [f"class_{i:02d}" for i in range(100)]),
    ],
)
def test_torchvisions_own_cifar_files(
    dataset_dir: Path, name: str, kind: Any, label_key: str, classes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_cifar(dataset_dir, kind, label_key, classes, monkeypatch)
    write_tree(dataset_dir / name)  # torchvision's own files come first
    dataset = load_dataset(name)
    assert dataset.classes == tuple(classes)
    for part in ("train", "test"):
        images = getattr(dataset, part)
        np.testing.assert_array_equal(images.pixels, np.stack([pixels for pixels, _ in written[part]]))
        assert images.labels.tolist() == [label for _, label in written[part]]
    monkeypatch.setattr(datasets, "TORCHVISION_READERS", dict.fromkeys(datasets.TORCHVISION_READERS))
    assert_same(load_dataset(name), dataset)  # decoded once


@pytest.mark.parametrize(
    ("kind", "file"),
    [(CIFAR10, "data_batch_3"), (CIFAR10, "batches.meta"), (CIFAR100, "test"), (CIFAR100, "meta")],
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"cbuiltins\nprint\n(S'run'\ntR."),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        Path.unlink,
    ],
    ids=["hostile", "cut", "missing"],
)
def test_a_changed_cifar_file_is_not_unpickled(
    dataset_dir: Path, kind: Any, file: str, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(dataset_dir, kind, "labels", list(CIFAR10_CLASSES), monkeypatch)
    damage(dataset_dir / kind.base_folder / file)
    wanted = rf"torchvision cannot read .*{kind.base_folder}: .*corrupted.*remove it"
    with pytest.raises(UserError, match=wanted) as error:
        load_dataset(kind.__name__.lower())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("below", ["", "svhn"])  # the latter as CNNSplitter keeps it
def test_torchvisions_own_svhn_files(dataset_dir: Path, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random, folder = np.random.default_rng(0), dataset_dir / below
    folder.mkdir(exist_ok=True)
    pixels, labels, split_list = {}, {}, {}
    for part in ("train", "test"):
        pixels[part] = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        labels[part] = np.arange(12) % 10
        stored = np.where(labels[part] == 0, 10, labels[part])  # SVHN calls the digit 0 "10"
        path = folder / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels[part].transpose(1, 2, 3, 0), "y": stored[:, None].astype(np.uint8)})
        split_list[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    dataset = load_dataset("svhn")
    assert dataset.classes == tuple("0123456789")
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(dataset, part).pixels, pixels[part])
        np.testing.assert_array_equal(getattr(dataset, part).labels, labels[part])
    five = load_split(load("simcnn", "svhn_5"))
    assert five.classes == ("0", "1", "2", "3", "4")
    assert sorted(five.test.labels.tolist()) == [0, 0, 1, 1, 2, 3, 4]
    shutil.rmtree(global_configure.root_dir / "data" / "decoded_dataset")
    test_file = folder / "test_32x32.mat"
    for damage in (lambda: test_file.write_bytes(test_file.read_bytes()[:-1]), test_file.unlink):
        damage()
        wanted = rf"torchvision cannot read {folder}/train_32x32\.mat: .*not found or corrupted"
        with pytest.raises(UserError, match=wanted):
            load_dataset("svhn")


def test_digits_are_scikit_learns(root_dir: Path) -> None:
    dataset = load_dataset("digits")
    assert (len(dataset.train), len(dataset.test)) == (1438, 359)
    pixels = np.concatenate([dataset.train.pixels, dataset.test.pixels])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    original = load_digits()
    assert np.bincount(labels).tolist() == np.bincount(original.target).tolist()
    assert (pixels == pixels[..., :1]).all()  # grey
    # Shrunk again, every image is next to its own original; the smoothing confuses only near duplicates.
    shrunk = pixels[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64) / 255 * 16
    nearest = (np.square(original.data).sum(axis=1) - 2 * shrunk @ original.data.T).argmin(axis=1)
    assert len(set(nearest.tolist())) >= 1790
    np.testing.assert_array_equal(original.target[nearest], labels)


def rows(images: Images) -> set[bytes]:
    return {pixels.tobytes() for pixels in images.pixels}


def test_the_split_is_80_to_20_disjoint_and_always_the_same(root_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load_split(load("simcnn_x0_25", "digits"))
    assert (len(split.train), len(split.valid), len(split.test)) == (1150, 288, 359)
    whole = load_dataset("digits")
    order = np.random.default_rng(1009).permutation(1438)
    np.testing.assert_array_equal(split.train.pixels, whole.train.pixels[order[:1150]])
    np.testing.assert_array_equal(split.valid.labels, whole.train.labels[order[1150:]])
    np.testing.assert_array_equal(split.test.pixels, whole.test.pixels)
    assert not rows(split.train) & rows(split.valid)
    assert not (rows(split.train) | rows(split.valid)) & rows(split.test)
    monkeypatch.setattr(global_configure, "seed", 5)
    np.testing.assert_array_equal(load_split(load("simcnn_x0_25", "digits")).train.pixels, split.train.pixels)


def test_labels_follow_the_order_of_the_chosen_classes() -> None:
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    images = Images(pixels, np.array([0, 1, 2, 2, 1, 0]), IMAGENET)
    dataset = Dataset("own", ("cat", "dog", "bird"), images, images, images)
    chosen = choose_classes(dataset, ("bird", "cat"))
    assert chosen.classes == ("bird", "cat")
    for part in (chosen.train, chosen.valid, chosen.test):
        assert part.labels.tolist() == [1, 0, 0, 1]
        assert part.pixels[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    with pytest.raises(UserError, match="dataset own has no class cow, pig: found cat, dog, bird"):
        choose_classes(dataset, ("cow", "cat", "pig"))


def test_another_number_of_classes_than_configured(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own")
    with pytest.raises(UserError, match=r"dataset own: expected 3 classes \(setting num_classes of simcnn_own\)"):
        load_split(Config("simcnn", "own", 3))


def own_dataset(count: int, classes: int = 3, seed: int = 0, **more: Any) -> Dataset:
    """A dataset of one's own, of random images."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(count) % classes, IMAGENET)
    return Dataset("own", tuple("abcdefghijklmnop"[:classes]), images, images.first(classes), **more)


def with_images(dataset: Dataset, pixels: np.ndarray, labels: np.ndarray) -> Dataset:
    pixels, labels = np.concatenate([dataset.train.pixels, pixels]), np.concatenate([dataset.train.labels, labels])
    train = dataclasses.replace(dataset.train, pixels=pixels, labels=labels)
    return dataclasses.replace(dataset, train=train)


def test_ones_own_images_are_split_one_in_five_of_each_class() -> None:
    dataset = own_dataset(3000)
    parts = split(dataset)
    assert len(parts.train) + len(parts.valid) == 3000
    assert not rows(parts.train) & rows(parts.valid)
    counts = np.bincount(parts.valid.labels)
    assert abs(counts - 200).max() < 64  # five standard deviations of 12.6
    label = {image.tobytes(): own for image, own in zip(dataset.train.pixels, dataset.train.labels, strict=True)}
    for images in (parts.train, parts.valid):
        assert [label[image.tobytes()] for image in images.pixels] == images.labels.tolist()
        first = images.first(150)  # a random sample, not the images of the first class
        assert np.bincount(first.labels, minlength=3).min() > 20


def test_another_seed_splits_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = own_dataset(300)
    before = split(dataset)
    monkeypatch.setattr(global_configure, "split_seed", 7)
    assert rows(split(dataset).valid) != rows(before.valid)


@given(count=st.integers(6, 60), more=st.integers(0, 30), seed=st.integers(0, 99))
def test_images_that_are_added_move_none_into_validation(count: int, more: int, seed: int) -> None:
    dataset = own_dataset(count, seed=seed)
    added = own_dataset(more, seed=1000 + seed).train
    before, after = split(dataset), split(with_images(dataset, added.pixels, added.labels))
    shared = rows(before.train) & rows(after.valid)
    crowded = {  # a class whose images would all be for validation: then one is not, until there are others
        label for label in range(3) if (before.train.labels == label).sum() == 1
    }
    assert {label for image, label in pairs(after.valid) if image in shared} <= crowded
    big = [label for label in range(3) if (before.valid.labels == label).sum() > 1]
    assert all(image in rows(after.valid) for image, label in pairs(before.valid) if label in big)


def pairs(images: Images) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), int(label)) for image, label in zip(images.pixels, images.labels, strict=True)]


@given(seed=st.integers(0, 99), copies=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), max_size=30))
def test_equal_images_lie_in_one_part_whatever_their_class(seed: int, copies: list[tuple[int, int]]) -> None:
    dataset = own_dataset(12, seed=seed)
    places = [place for place, _ in copies]
    dataset = with_images(dataset, dataset.train.pixels[places], np.array([label for _, label in copies], np.int64))
    try:
        parts = split(dataset)
    except UserError as error:
        assert "too few images" in str(error)
    else:
        assert not rows(parts.train) & rows(parts.valid)
        assert len(parts.train) + len(parts.valid) == len(dataset.train)


@given(seed=st.integers(0, 999))
def test_two_different_images_of_a_class_are_enough(seed: int) -> None:
    parts = split(own_dataset(6, seed=seed))
    assert sorted(parts.train.labels) == sorted(parts.valid.labels) == [0, 1, 2]


def test_a_class_that_cannot_be_split_is_named() -> None:
    one = own_dataset(5)  # two of a, two of b, one of c
    twins = with_images(one, one.train.pixels[2:3], one.train.labels[2:3])
    for dataset in (one, twins):
        with pytest.raises(UserError, match=r"dataset own: .* at least 2 different training images of a class.* to c$"):
            split(dataset)


def test_a_validation_part_that_is_given_is_the_one(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own")
    (dataset_dir / "own" / "val").mkdir()
    for name, seed in (("a", 50), ("b", 51)):
        (dataset_dir / "own" / "val" / name).mkdir()
        pixels = random_pixels(32, 32, 3, seed=seed)
        (dataset_dir / "own" / "val" / name / "0.png").write_bytes(image_bytes(pixels))
    dataset = load_dataset("own")
    parts = load_split(Config("simcnn", "own", 2))
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (6, 2, 6)
    assert rows(parts.valid) == {random_pixels(32, 32, 3, seed=seed).tobytes() for seed in (50, 51)}
    assert rows(parts.train) == rows(dataset.train)
    shutil.rmtree(dataset_dir / "own" / "val")  # and when it has gone, its arrays are not taken for it
    assert load_dataset("own").valid is None
    assert len(load_split(Config("simcnn", "own", 2)).train) < 6


def copy_image(dataset_dir: Path, source: str, *targets: str) -> None:
    for target in targets:
        (dataset_dir / "own" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset_dir / "own" / source, dataset_dir / "own" / target)


def test_copies_of_training_images_are_counted(dataset_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(dataset_dir / "own", count=20)
    config = Config("simcnn", "own", 2)
    load_split(config)
    assert "copies" not in capsys.readouterr().out
    copy_image(dataset_dir, "train/a/0.png", "test/a/0.png", "test/b/copy.png")
    load_split(config)
    split_of = load_split(config, say_copies=False)
    part = "training" if is_among(split_of.test, split_of.train).any() else "validation"
    said = (
        f"dataset own: 2 of 41 test images are copies of {part} images: accuracy on them says nothing of new images\n"
    )
    assert said in capsys.readouterr().out
    for number in range(20):
        for name in "ab":
            copy_image(dataset_dir, f"test/{name}/{number}.png", f"train/{name}/again_{number}.png")
    found = load_split(config, say_copies=False)
    assert capsys.readouterr().out.count("copies") == 0
    assert "test images are copies of training images, " in copies_between(found)
    assert is_among(found.test, found.train).sum() + is_among(found.test, found.valid).sum() == 41


def test_copies_in_a_validation_part_are_counted(dataset_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(dataset_dir / "own", count=4)
    shutil.move(dataset_dir / "own" / "test", dataset_dir / "own" / "valid")
    copy_image(dataset_dir, "train/b/1.png", "valid/b/1.png", "test/b/1.png")
    copy_image(dataset_dir, "valid/a/1.png", "test/a/1.png")
    load_split(Config("simcnn", "own", 2))
    said = (
        "dataset own: 1 of 2 test images are copies of training images, 2 of 2 test images are copies of validation "
        "images, 1 of 8 validation images are copies of training images: accuracy on them says nothing of new images\n"
    )
    assert said in capsys.readouterr().out


def test_validation_images_have_one_order(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own", count=9)
    expected = load_split(Config("simcnn", "own", 2)).valid
    forms = [(32, "stretch", IMAGENET), (16, "stretch", IMAGENET)]
    for has_its_own in (False, True):
        if has_its_own:
            for name in "ab":
                for number in range(5):
                    path = dataset_dir / "own" / "valid" / name / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image_bytes(random_pixels(32, 32, 3, seed=100 + number + 10 * (name == "b"))))
            expected = load_split(Config("simcnn", "own", 2)).valid
            assert own_validation_order("own", forms[0]).tolist() != list(range(10))
        _, (parts, small) = load_evaluation_parts("own", forms)
        np.testing.assert_array_equal(parts["valid"].pixels, expected.pixels)
        np.testing.assert_array_equal(parts["valid"].labels, expected.labels)
        np.testing.assert_array_equal(small["valid"].labels, expected.labels)
    files, order = load_dataset("own").valid, own_validation_order("own", forms[0])
    np.testing.assert_array_equal(files.pixels[order], expected.pixels)


def test_the_fingerprint_covers_the_normalisation() -> None:
    images = own_dataset(8).train
    half = (0.5, 0.5, 0.5)
    others = [dataclasses.replace(images, normalisation=Normalisation(half, std)) for std in (half, (0.5, 0.5, 0.25))]
    assert len({each.fingerprint for each in (images, *others)}) == 3
    assert images.fingerprint == zlib.crc32(images.labels.tobytes(), zlib.crc32(images.pixels.tobytes()))


@pytest.mark.usefixtures("no_progress_lines")
def test_what_is_passed_over_is_said_once(dataset_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(dataset_dir / "own")
    load_dataset("own")
    assert capsys.readouterr().out == ""
    (dataset_dir / "own" / "train" / "a" / ".DS_Store").touch()
    (dataset_dir / "own" / "train" / "a" / "1.txt").touch()
    write_tree(dataset_dir / "own", count=4)
    load_dataset("own")
    line = f"own: passed over in {dataset_dir}/own: hidden or system files: 1, .txt: 1\n"
    assert capsys.readouterr().out == line
    load_dataset("own")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_progress_lines")
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_images_of_16_bits_are_scaled_alike_in_the_whole_dataset(
    dataset_dir: Path, root_dir: Path, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    """A dark image stays darker than the others; what was decided stands in the description."""
    write_tree(dataset_dir / "own", count=2)
    dark, light = np.full((32, 32), 2 ** (bits - 2), np.uint16), np.full((32, 32), 2**bits - 1, np.uint16)
    (dataset_dir / "own" / "train" / "a" / "0.png").write_bytes(image_bytes(dark))
    (dataset_dir / "own" / "test" / "b" / "1.png").write_bytes(image_bytes(light))
    dataset = load_dataset("own")
    assert (dataset.train.pixels[0] == 64).all() and (dataset.test.pixels[3] == 255).all()
    said = f"own: the values of its grey images of 16 bits use {bits}, so they are divided by {2 ** (bits - 8)}\n"
    assert capsys.readouterr().out == (said if bits > 8 else "")
    description = load_json(root_dir / "data" / "decoded_dataset" / "own" / "description.json", "")
    assert description["grey_bits"] == bits and description["parts"] == ["train", "test"]


@pytest.mark.parametrize("in_memory", [1, 2**30])
def test_grey_images_of_16_bits_do_not_wait_in_memory_until_all_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr("dataset.pixels.IN_MEMORY", in_memory)
    monkeypatch.setattr(datasets, "DECODED_AHEAD", 2)
    grey = np.random.default_rng(0).integers(0, 2**12, (40, 128, 128), dtype=np.uint16)
    grey[-1, 0, 0] = 2**12 - 1
    write_tree(tmp_path / "own", count=20)
    for number, path in enumerate(sorted((tmp_path / "own" / "test").rglob("*.png"))):
        path.write_bytes(image_bytes(grey[number]))
    tree = find_class_folders(tmp_path, "own")
    tracemalloc.start()
    try:
        decoded = datasets.decode(tree, 128, folder=tmp_path)
        kept = sum(pixels.nbytes for pixels, _ in decoded.parts.values()) if in_memory > 1 else 0
        assert tracemalloc.get_traced_memory()[1] - kept < grey.nbytes
    finally:
        tracemalloc.stop()
    expected = np.repeat((grey >> 4).astype(np.uint8)[..., None], 3, axis=-1)
    assert decoded.grey_bits == 12 and np.array_equal(decoded.parts["test"][0], expected)


def test_colour_images_of_16_bits_that_use_few_are_refused(dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(dataset_dir / "own", count=1)
    for largest, refused in ((4095, True), (65535, False)):
        values = np.random.default_rng(0).integers(0, largest, (8, 8, 3), endpoint=True)
        values[0, 0] = largest
        (dataset_dir / "own" / "train" / "a" / "0.png").write_bytes(png_of(values, PNG_RGB))
        if refused:
            with pytest.raises(UserError, match="own: colour images of 16 bits hold only 12 bits, and would be nearly"):
                load_dataset("own")
        else:
            assert load_dataset("own").train.pixels[0].max() > 150


def pack_cifar(dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_cifar(dataset_dir, CIFAR10, "labels", list(CIFAR10_CLASSES), monkeypatch)
    archive = dataset_dir / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(dataset_dir / CIFAR10.base_folder, CIFAR10.base_folder)
    shutil.rmtree(dataset_dir / CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return archive


@pytest.mark.usefixtures("no_progress_lines")
@pytest.mark.parametrize("below", ["", "cifar10"])
def test_a_cifar_archive_that_is_not_unpacked(
    dataset_dir: Path, below: str, offline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack_cifar(dataset_dir, monkeypatch)
    if below:
        (dataset_dir / below).mkdir()
        archive.rename(dataset_dir / below / archive.name)
    assert len(load_dataset("cifar10").train) == 20
    assert capsys.readouterr().out == ""


def test_a_cifar_archive_is_unpacked_without_the_warning_of_newer_pythons(
    dataset_dir: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 3.12 and 3.13 warn; here, as with `python -W error`, a warning is an error."""
    extract = tarfile.TarFile.extractall

    def extract_and_warn(*arguments: Any, **options: Any) -> None:
        said = "reject files or modify their metadata. Use the filter argument to control this behavior."
        warned = f"Python 3.14 will, by default, filter extracted tar archives and {said}"
        warnings.warn(warned, DeprecationWarning, stacklevel=3)
        extract(*arguments, **options)

    pack_cifar(dataset_dir, monkeypatch)
    monkeypatch.setattr(tarfile.TarFile, "extractall", extract_and_warn)
    assert len(load_dataset("cifar10").train) == 20


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
def test_half_a_cifar_archive_is_one_line(
    dataset_dir: Path, length: int, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack_cifar(dataset_dir, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:length])
    wanted = r"cifar-10-python\.tar\.gz is not whole, and cannot be downloaded again: .*; go online and try again"
    with pytest.raises(UserError, match=wanted):
        load_dataset("cifar10")


def test_images_of_another_side_are_kept_beside_the_usual_ones(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own", count=10)
    usual, large = load_dataset("own"), load_dataset("own", 48)
    assert usual.train.pixels.shape[1:] == (32, 32, 3)
    assert large.train.pixels.shape[1:] == (48, 48, 3)
    assert (large.name, large.classes) == ("own", usual.classes)
    assert_same(load_dataset("own"), usual)
    for side in (16, 40):
        assert load_dataset("digits", side).test.pixels.shape == (359, side, side, 3)


def test_the_form_of_images_is_the_configurations(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own", count=10)
    config = Config("m", "own", 2, image_side=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    parts = load_split(config)
    for images in (parts.train, parts.valid, parts.test, parts.valid.first(2), parts.train.take(np.array([0]))):
        assert images.normalisation == Normalisation((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
        assert images.pixels.shape[1:] == (16, 16, 3)


def test_the_outline_of_a_tree_decodes_nothing(dataset_dir: Path, decoded: list[str]) -> None:
    write_tree(dataset_dir / "own", count=10)
    found = outline("own")
    assert decoded == []
    dataset = load_dataset("own")
    assert found == (dataset.classes, len(dataset.train))


def test_the_outline_of_a_dataset_without_a_tree(dataset_dir: Path) -> None:
    assert outline("digits") == (tuple("0123456789"), len(load_dataset("digits").train))
    with pytest.raises(UserError, match="dataset nowhere is not there"):
        outline("nowhere")
    with pytest.raises(UserError, match=r"dataset name '\.\./own': expected letters"):
        outline("../own")


def test_resizing_stretches_or_crops_the_middle(dataset_dir: Path) -> None:
    """A wide image, red at both ends and blue in the middle."""
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :8, 0] = pixels[:, 16:, 0] = pixels[:, 8:16, 2] = 255
    for part, number in (("train", 0), ("train", 1), ("test", 0)):
        path = dataset_dir / "own" / part / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    cropped = load_dataset("own", 8, "crop").test.pixels[0]
    assert (cropped == (0, 0, 255)).all()
    stretched = load_dataset("own", 6, "stretch").test.pixels[0]
    assert (stretched[:, [0, 5]] == (255, 0, 0)).all() and (stretched[:, [2, 3]].argmax(-1) == 2).all()
