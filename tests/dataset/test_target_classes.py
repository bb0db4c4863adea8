"""A command line names classes by number or by name, and a wrong one is one line that names the right ones."""

import dataclasses

import pytest

import global_configure
from configures.base import load
from dataset.target_classes import chosen_classes, class_number
from utils.errors import UserError

CONFIG = load("simcnn_x0_25", "digits")
NAMED = dataclasses.replace(load("simcnn_x0_25", "digits"), num_classes=3, classes=("cat", "Cat", "two words"))
NAMES = ("cat", "two", "caf\u00e9")


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("2", 2), ("02", 2), ("cat", 0), ("two", 1), ("caf\u00e9", 2), ("cafe\u0301", 2)]
)
def test_a_class_is_meant_by_its_number_or_its_name(text: str, number: int) -> None:
    assert class_number(text, NAMES) == number


def test_a_number_is_never_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("2", "9", "10")
    assert [class_number(text, names) for text in ("0", "1", "2")] == [0, 1, 2]
    said = "warning: --target_class 2 is the class of that number, called 10; the class called 2 is number 0"
    assert capsys.readouterr().out.splitlines() == [said]
    with pytest.raises(
        UserError, match=r"^--target_class 9: expected a class from 0 to 2, or its name; the class called 9 is"
    ):
        class_number("9", names)


@pytest.mark.parametrize("text", ["3", "-1", "1.0", "", " ", "dog", "\u0661", "9" * 5000, "+1", "--1"])
def test_an_unknown_class_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=rf"^--target_class {text[:1]}.*: expected a class from 0 to 2, or its name"[:80]
    ):
        class_number(text, NAMES)


def test_the_nearest_names_are_shown() -> None:
    for text, near in (("CAT", "0 (cat), 1 (Cat)"), ("two word", "2 (two words)")):
        with pytest.raises(UserError) as error:
            chosen_classes([text], NAMED)
        assert str(error.value).endswith(f"expected a class from 0 to 2, or its name; did you mean {near}?")
    with pytest.raises(UserError, match=r"they are 0 \(kind 0\), .*9 \(kind 9\), and 90 more$"):
        class_number("dog", [f"kind {number}" for number in range(100)])


def test_several_classes_and_all_of_them() -> None:
    assert chosen_classes(["2", "cat", "0", "two words"], NAMED) == [0, 2]
    assert chosen_classes(["all"], NAMED) == chosen_classes(["1", "all"], NAMED) == [0, 1, 2]


def test_names_come_from_the_dataset(root_dir: object) -> None:
    assert CONFIG.classes == ()
    assert chosen_classes(["7", "3"], CONFIG) == [3, 7]
    assert not (global_configure.root_dir / "data").exists()  # numbers need no dataset
    with pytest.raises(UserError, match=r"--target_class seven: .*they are 0 \(0\), 1 \(1\)"):
        chosen_classes(["seven"], CONFIG)
    missing = dataclasses.replace(CONFIG, source="absent")
    assert chosen_classes(["7"], missing) == [7]
    with pytest.raises(UserError, match="dataset absent is not there"):
        chosen_classes(["seven"], missing)
