"""Data sets of links: what each is trained, validated and judged on."""

import numpy as np
import pytest

import global_configure

SCRIPT = "experiments/composing/link_images.py"


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A data set of four classes, 520 training images and 2 test images each, which nobody decodes."""
    for part, count in (("train", 520), ("test", 2)):
        for name in "abcd":
            folder = tmp_path / "small" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{part}{number:03}.png").touch()
    monkeypatch.setattr(global_configure, "dataset_dir", tmp_path)
    return tmp_path


def found(folder):
    """Part -> class -> the names of its images."""
    parts = {
        part.name: {each.name: sorted(image.name for image in each.iterdir()) for each in part.iterdir()}
        for part in folder.iterdir()
    }
    return {part: dict(sorted(of_part.items())) for part, of_part in parts.items()}


def test_halves_share_no_class_and_nothing_is_trained_on_that_validates(top, run_main):
    assert run_main(SCRIPT, "--dataset", "small", "--halves", root=top).exit_code == 0
    even, odd, merge = (found(top / f"small_{name}") for name in ("even", "odd", "merge_10"))
    assert [list(half["train"]) for half in (even, odd)] == [["a", "c"], ["b", "d"]]
    assert list(merge["valid"]) == list(merge["test"]) == list("abcd") and "train" not in merge
    for half in (even, odd):
        for name, images in half["train"].items():
            assert len(images) == 20 and not set(images) & set(half["valid"][name])
            assert len(merge["valid"][name]) == 10 and set(merge["valid"][name]) < set(half["valid"][name])
    assert (
        top / "small_even" / "train" / "a" / "train000.png"
    ).resolve() == top / "small" / "train" / "a" / "train000.png"
    run_main(SCRIPT, "--dataset", "small", "--halves", root=top).refused("small_even is there", "move it away")
    run_main(SCRIPT, "--dataset", "nothing", "--halves", root=top).refused("expected {train,test}/CLASS/IMAGE")


def test_weak_models_get_unequal_shares(top, run_main):
    assert run_main(SCRIPT, "--dataset", "small", "--dirichlet", "2", "--images", "40", root=top).exit_code == 0
    counts = np.array([[len(images) for images in found(top / f"small_weak_{n}")["train"].values()] for n in range(2)])
    assert counts.min() >= 1 and counts.max() <= 20 and (counts[0] != counts[1]).any()
    assert {part: list(of_part) for part, of_part in found(top / "small_judge").items()}.keys() == {"valid", "test"}
