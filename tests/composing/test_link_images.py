"""Data sets of links: what each is trained, validated and judged on."""

from pathlib import Path

import pytest

import global_configure

SCRIPT = "experiments/composing/link_images.py"


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A data set of four classes, 600 images each in both parts, which are never decoded."""
    for part in ("train", "test"):
        for name in "abcd":
            folder = tmp_path / "small" / part / name
            folder.mkdir(parents=True)
            for number in range(600):
                (folder / f"{part}{number:03}.png").touch()
    monkeypatch.setattr(global_configure, "dataset_dir", tmp_path)
    return tmp_path


def found(folder):
    """Part -> class -> the names of its images."""
    parts = sorted(folder.glob("*/*"))
    return {
        part.name: {each.name: {image.name for image in each.iterdir()} for each in parts if each.parent == part}
        for part in folder.iterdir()
    }


def test_halves_share_no_class_and_no_image_is_in_two_parts(top, run_main):
    assert run_main(SCRIPT, "--dataset", "small", root=top).exit_code == 0
    names = ("even", "odd", "all", "merge_10", "merge_500")
    even, odd, every, few, many = (found(top / f"small_{name}") for name in names)
    assert [list(half["train"]) for half in (even, odd)] == [["a", "c"], ["b", "d"]]
    for half in (even, odd):
        assert {len(images) for images in half["train"].values()} == {100}
        assert not any(images & half["valid"][name] for name, images in half["train"].items())
    assert all(every[part] == even[part] | odd[part] for part in ("train", "valid", "test"))
    for merge in (few, many):
        assert merge["test"] == every["test"] and "train" not in merge
        assert all(images <= every["valid"][name] for name, images in merge["valid"].items())
    assert all(images < many["valid"][name] and len(images) == 10 for name, images in few["valid"].items())
    assert few["valid"]["a"] != few["valid"]["b"]
    image = "train/a/train000.png"
    assert (top / "small_even" / image).resolve() == top / "small" / image
    run_main(SCRIPT, "--dataset", "small", root=top).refused("small_even", "there already", "move it away")
    run_main(SCRIPT, "--dataset", "nothing", root=top).refused("expected {train,test}/CLASS/IMAGE")


def test_data_sets_of_different_classes_are_merged_as_they_are(top, run_main):
    for part in ("train", "test"):
        for name, count in (("e", 60), ("f", 70)):
            folder = top / "other" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{part}{number:03}.png").touch()
    both = ("--dataset", "small", "other")
    run_main(SCRIPT, *both, root=top).refused("other", "more than 500 images", "--held_out")
    run_main(SCRIPT, *both, "--held_out", 9, root=top).refused("--held_out 9: expected at least 10")
    run_main(SCRIPT, *both, "--held_out", 20, "--imbalanced", 2, root=top).refused("--imbalanced 2", "one data set")
    run_main(SCRIPT, "--dataset", "small", "small", root=top).refused("given twice")
    assert run_main(SCRIPT, *both, "--held_out", 20, root=top).exit_code == 0
    one, other, every, few = (
        found(top / name) for name in ("small_part", "other_part", "small_other_all", "small_other_merge_10")
    )
    assert [len(each["train"][name]) for each, name in ((one, "a"), (other, "e"), (every, "e"))] == [580, 40, 40]
    assert list(every["train"]) == list(few["valid"]) == list("abcdef")
    assert {len(images) for images in few["test"].values()} == {60} and len(every["test"]["f"]) == 70
    assert not (top / "small_other_merge_50").exists()  # 20 are held out


def test_imbalanced_data_sets_differ_in_their_training_images_alone(top, run_main):
    run_main(SCRIPT, "--dataset", "small", "--imbalanced", 0, root=top).refused("--imbalanced 0: expected at least 1")
    assert run_main(SCRIPT, "--dataset", "small", "--imbalanced", 2, root=top).exit_code == 0
    one, other = (found(top / f"small_imbalanced_{number}") for number in range(2))
    assert one["valid"] == other["valid"] and one["test"] == other["test"]
    assert {len(images) for images in one["valid"].values()} == {500}
    assert not any(images & one["valid"][name] for name, images in one["train"].items())
    counts = [[len(images) for images in each["train"].values()] for each in (one, other)]
    assert counts[0] != counts[1] and all(20 <= count <= 100 for of_one in counts for count in of_one)
    assert min(counts[0]) < 100


def test_all_imbalanced_data_sets_are_made_or_none_and_few_test_images_are_enough(top, run_main):
    for image in (top / "small" / "test").glob("*/*[1-9].png"):
        image.unlink()  # 60 of each class are left
    (top / "small_imbalanced_1").mkdir()
    run_main(SCRIPT, "--dataset", "small", "--imbalanced", 2, root=top).refused("small_imbalanced_1", "there already")
    assert not (top / "small_imbalanced_0").exists()
    (top / "small_imbalanced_1").rmdir()
    assert run_main(SCRIPT, "--dataset", "small", "--imbalanced", 2, root=top).exit_code == 0
    assert {len(images) for images in found(top / "small_imbalanced_1")["test"].values()} == {60}


def test_an_interrupted_run_leaves_no_data_set(top, run_main, monkeypatch):
    link, links = Path.symlink_to, []

    def stop_in_the_second(path, *more):
        links.append(path)
        if len(links) == 3000:  # a data set has 100 or more images of each class and part
            raise KeyboardInterrupt
        link(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", stop_in_the_second)
        assert run_main(SCRIPT, "--dataset", "small", root=top).exit_code == 130
    assert len({path.parts[len(top.parts)] for path in links}) > 1
    assert [path.name for path in top.iterdir()] == ["small"]
    (top / ".small_even.partial" / "train" / "z").mkdir(parents=True)  # of a process that was killed
    assert run_main(SCRIPT, "--dataset", "small", root=top).exit_code == 0
    assert list(found(top / "small_even")["train"]) == ["a", "c"]
