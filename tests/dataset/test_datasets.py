"""Every way to a dataset gives the same arrays, decoded once; the split is the published one."""

import hashlib
import pickle  # writes only: the format of CIFAR's official files, which torchvision reads
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision
from conftest import files_below
from image_trees import write_tree, zip_tree
from sklearn.datasets import load_digits

import global_configure
from configures.base import Config, load
from dataset import datasets
from dataset.datasets import Dataset, Images, choose_classes, load_dataset, load_split
from utils.checked_text import load_json, save_json
from utils.errors import UserError


@pytest.fixture
def dataset_dir(root_dir: Path) -> Path:
    folder = root_dir / "data" / "dataset"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were decoded so far."""
    parts: list[str] = []
    decode = datasets.decode
    monkeypatch.setattr(datasets, "decode", lambda tree, part: parts.append(part) or decode(tree, part))
    return parts


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


def test_folder_and_zip_give_the_same_arrays(dataset_dir: Path) -> None:
    written = write_tree(dataset_dir / "own", classes=("b", "a"))
    shutil.copytree(dataset_dir / "own", dataset_dir / "packed")
    zip_tree(dataset_dir / "packed")
    folder, packed = load_dataset("own"), load_dataset("packed")
    assert_same(folder, packed)
    assert folder.classes == ("a", "b")
    np.testing.assert_array_equal(folder.train.pixels[0], written["train/a/0.png"])
    np.testing.assert_array_equal(folder.test.pixels[-1], written["test/b/2.png"])
    assert folder.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_decoded_once_and_again_after_a_change(dataset_dir: Path, decoded: list[str]) -> None:
    write_tree(dataset_dir / "own")
    first = load_dataset("own")
    assert decoded == ["train", "test"]
    assert_same(load_dataset("own"), first)
    assert decoded == ["train", "test"]
    assert isinstance(first.train.pixels, np.memmap)
    (dataset_dir / "own" / "train" / "a" / "0.png").unlink()
    assert len(load_dataset("own").train) == len(first.train) - 1
    assert decoded == ["train", "test"] * 2


def test_a_decoded_dataset_outlives_its_source(dataset_dir: Path, decoded: list[str]) -> None:
    write_tree(dataset_dir / "own")
    first = load_dataset("own")
    shutil.rmtree(dataset_dir / "own")
    assert_same(load_dataset("own"), first)
    assert decoded == ["train", "test"]


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


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"])
def test_a_damaged_decoded_array_is_found(root_dir: Path, dataset_dir: Path, name: str) -> None:
    write_tree(dataset_dir / "own")
    load_dataset("own")
    path = root_dir / "data" / "decoded_dataset" / "own" / name
    whole = path.read_bytes()
    for place in (20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=rf"cannot use .*{name}.*after removing .*decoded_dataset/own"):
            load_dataset("own")
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot use"):
        load_dataset("own")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"classes": []}', '{"fingerprint": 1}', "[" * 100_000])
def test_a_damaged_description_is_made_again(dataset_dir: Path, root_dir: Path, content: str) -> None:
    write_tree(dataset_dir / "own")
    first = load_dataset("own")
    description = root_dir / "data" / "decoded_dataset" / "own" / "description.json"
    description.write_text(content)
    assert_same(load_dataset("own"), first)
    description.write_text(content)
    shutil.rmtree(dataset_dir / "own")
    with pytest.raises(UserError, match=r"cannot use .*description\.json"):
        load_dataset("own")


def test_a_description_whose_checksum_lost_its_name_is_made_again(dataset_dir: Path, root_dir: Path) -> None:
    write_tree(dataset_dir / "own")
    first = load_dataset("own")
    description = root_dir / "data" / "decoded_dataset" / "own" / "description.json"
    whole = description.read_text()
    description.write_text(whole.replace('"sha256"', '"sha257"'))
    assert_same(load_dataset("own"), first)
    assert description.read_text() == whole


def test_labels_beyond_the_classes_are_found(dataset_dir: Path, root_dir: Path) -> None:
    write_tree(dataset_dir / "own")
    load_dataset("own")
    description = root_dir / "data" / "decoded_dataset" / "own" / "description.json"
    save_json(description, {**load_json(description, ""), "classes": ["a"]})
    with pytest.raises(UserError, match="1 classes, and labels up to 1"):
        load_dataset("own")


def test_two_processes_that_decode_at_once(dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the first's description already there when it has decoded too, and must not take it away."""
    write_tree(dataset_dir / "own")
    decode, inner = datasets.decode, []

    def decode_while_another_finishes(tree: Any, part: str) -> Any:
        if not inner:
            inner.append(None)
            inner[0] = load_dataset("own")
        return decode(tree, part)

    unlink = Path.unlink
    monkeypatch.setattr(datasets, "decode", decode_while_another_finishes)

    def never(path: Path, missing_ok: bool = False) -> None:
        assert path.name != "description.json"
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


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_torchvisions_own_cifar_files(dataset_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    label_key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    classes = list(datasets.CIFAR10_CLASSES) if name == "cifar10" else [f"class_{i:02d}" for i in range(100)]
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
    ("name", "file"),
    [("cifar10", "data_batch_3"), ("cifar10", "batches.meta"), ("cifar100", "test"), ("cifar100", "meta")],
)
def test_a_changed_cifar_file_is_not_unpickled(
    dataset_dir: Path, name: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    write_cifar(dataset_dir, kind, "labels", list(datasets.CIFAR10_CLASSES), monkeypatch)
    (dataset_dir / kind.base_folder / file).write_bytes(b"cbuiltins\nprint\n(S'run'\ntR.")
    with pytest.raises(UserError, match=rf"torchvision cannot read .*{kind.base_folder}: .*corrupted.*remove it"):
        load_dataset(name)


def test_torchvisions_own_svhn_files(dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    pixels, labels, split_list = {}, {}, {}
    for part in ("train", "test"):
        pixels[part] = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        labels[part] = np.arange(12) % 10
        stored = np.where(labels[part] == 0, 10, labels[part])  # SVHN calls the digit 0 "10"
        path = dataset_dir / f"{part}_32x32.mat"
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
    test_file = dataset_dir / "test_32x32.mat"
    for damage in (lambda: test_file.write_bytes(test_file.read_bytes()[:-1]), test_file.unlink):
        damage()
        with pytest.raises(UserError, match=r"torchvision cannot read .*train_32x32\.mat: .*not found or corrupted"):
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


def test_digits_5_knows_the_digits_0_to_4(root_dir: Path) -> None:
    split, whole = load_split(load("simcnn_x0_25", "digits_5")), load_dataset("digits")
    assert split.classes == ("0", "1", "2", "3", "4")
    for part in ("train", "test"):
        ours = [getattr(split, part)] if part == "test" else [split.train, split.valid]
        labels = np.concatenate([images.labels for images in ours])
        theirs = getattr(whole, part)
        assert set(labels.tolist()) == set(range(5))
        assert len(labels) == np.isin(theirs.labels, range(5)).sum()
        by_pixels = {p.tobytes(): label for p, label in zip(theirs.pixels, theirs.labels, strict=True)}
        for images in ours:
            assert [by_pixels[p.tobytes()] for p in images.pixels] == images.labels.tolist()


def test_labels_follow_the_order_of_the_chosen_classes() -> None:
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    images = Images(pixels, np.array([0, 1, 2, 2, 1, 0]))
    dataset = Dataset(("cat", "dog", "bird"), images, images)
    train, test = choose_classes(dataset, ("bird", "cat"), "own")
    assert train.labels.tolist() == test.labels.tolist() == [1, 0, 0, 1]
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    with pytest.raises(UserError, match="dataset own has no class cow, pig: found cat, dog, bird"):
        choose_classes(dataset, ("cow", "cat", "pig"), "own")


def test_another_number_of_classes_than_configured(dataset_dir: Path) -> None:
    write_tree(dataset_dir / "own")
    with pytest.raises(
        UserError, match=r"dataset own: expected 3 classes \(num_classes in configures/simcnn_own\.py\)"
    ):
        load_split(Config("simcnn", "own", 3))


def test_take_and_first() -> None:
    images = Images(np.arange(4)[:, None], np.arange(4) * 10)
    taken = images.take(np.array([3, 1]))
    assert (taken.pixels[:, 0].tolist(), taken.labels.tolist()) == ([3, 1], [30, 10])
    assert images.first(0) is images
    assert images.first(3).labels.tolist() == [0, 10, 20]
    assert len(images.first(9)) == 4
