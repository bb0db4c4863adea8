"""Files whose place a user names: what is not ours stays, and files appear whole."""

import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import check_writable
from utils.given_places import check_place, check_places_differ, check_room, readable, written_aside


def is_ours(path: Path) -> bool:
    return path.read_bytes().startswith(b"ours")


def test_a_new_place_and_a_file_of_ours_are_taken(tmp_path: Path) -> None:
    check_place("--save", tmp_path / "new" / "a.py", is_ours)
    assert not (tmp_path / "new").exists()
    (tmp_path / "old.py").write_bytes(b"ours, earlier")
    check_place("--save", tmp_path / "old.py", is_ours)


NOT_OURS = "not a file that this option wrote: give another name, or move it away"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is there, and is a folder"),
        (lambda path: path.write_bytes(b"somebody's"), NOT_OURS),
        (Path.touch, NOT_OURS),
        pytest.param(os.mkfifo, NOT_OURS, marks=pytest.mark.skipif(os.name == "nt", reason="")),  # read, it would wait
        (lambda path: (path.with_name("b.py").write_bytes(b"ours"), path.symlink_to("b.py")), "is a link"),
        (lambda path: path.symlink_to("nowhere.py"), "is a link"),
    ],
    ids=["folder", "other file", "empty file", "pipe", "link to ours", "dangling link"],
)
def test_what_is_not_ours_is_refused(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "a.py")
    with pytest.raises(UserError, match=message):
        check_place("--save", tmp_path / "a.py", is_ours)


def test_inputs_are_refused_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "weak.py"
    given.write_bytes(b"ours")
    (tmp_path / "hard.py").hardlink_to(given)
    (tmp_path / "link.py").symlink_to(given)
    monkeypatch.chdir(tmp_path)
    for name in ("weak.py", "hard.py", "link.py", f"../{tmp_path.name}/weak.py"):
        with pytest.raises(UserError, match="is an input of this command"):
            check_place("--save", Path(name), is_ours, [given])


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        check_place("--save", tmp_path / "file" / "a.py", is_ours)
    with pytest.raises(UserError, match="cannot write"), written_aside(tmp_path / "file"):
        pass


def test_the_same_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_places_differ("--save", [Path("a.py"), Path("a.onnx"), Path("b/a.py")])
    with pytest.raises(UserError, match=r"a\.py is written twice"):
        check_places_differ("--save", [Path("a.py"), tmp_path / "x" / ".." / "a.py"])


def test_files_appear_at_the_end_of_the_block_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(ValueError, match="no"), written_aside(tmp_path) as folder:
        (folder / "a").write_text("after")
        raise ValueError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "before"
    with written_aside(tmp_path) as folder:
        (folder / "a").write_text("after")
        (folder / "__pycache__").mkdir()
        assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "after"


def test_asking_whether_a_folder_can_be_written_changes_nothing(tmp_path: Path) -> None:
    for name in (".writable", "writable"):
        (tmp_path / name).write_text("a user's")
    check_writable(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writable", "writable"]
    assert (tmp_path / ".writable").read_text() == "a user's"
    check_writable(tmp_path / "not" / "there" / "yet")
    assert not (tmp_path / "not").exists()
    with pytest.raises(UserError, match=r"cannot write .*/\.writable/in: "):  # the folder that was asked about
        check_writable(tmp_path / ".writable" / "in")


def test_too_little_room_is_refused_with_the_advice(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there" / "yet", 1, "write less")
    with pytest.raises(UserError, match=r"1048576\.0 GiB are needed, .* are free: write less, or make room"):
        check_room(tmp_path, 2**50, "write less")


def test_bytes_for_people() -> None:
    assert readable(3 * 2**29) == "1.5 GiB"
    assert readable(3 * 2**19) == "1.5 MiB"
    assert readable(2**19 + 1) == "513 KiB"
