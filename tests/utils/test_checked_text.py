"""JSON and CSV files between stages: any changed bit is found, other programs read them, and so are files by hand."""

import csv
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from utils.artifacts import load_json, load_table, save_json, save_table
from utils.errors import UserError

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENT = {"name": "caf\u00e9", "counts": [1, 2, 3], "share": 0.1, "search": {"rule": None, "early": True}}
COLUMNS = ("number", "share", "words")
ROWS = [{"number": n, "share": n / 3, "words": 'a b, "c"'} for n in range(3)]


def test_json_comes_back_and_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save_json(path, {**CONTENT, "counts": (1, 2, 3)})
    assert load_json(path, "its maker") == CONTENT
    assert {**CONTENT, **json.loads(path.read_text())}.keys() == {*CONTENT, "sha256"}
    path.write_text(json.dumps(CONTENT))
    assert load_json(path, "its maker") == CONTENT


def test_a_table_comes_back_and_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    save_table(path, COLUMNS, ROWS)
    texts = [{name: str(value) for name, value in row.items()} for row in ROWS]
    assert load_table(path, COLUMNS, "its maker") == texts
    with path.open(newline="") as file:
        assert [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file)] == texts
    path.write_text("number,share,words\n1,0.5,by hand\n")
    assert load_table(path, COLUMNS, "its maker") == [{"number": "1", "share": "0.5", "words": "by hand"}]


@pytest.mark.long
def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    for path, save, read in (
        (tmp_path / "a.json", lambda path: save_json(path, CONTENT), lambda path: load_json(path, "")),
        (tmp_path / "a.csv", lambda path: save_table(path, COLUMNS, ROWS), lambda path: load_table(path, COLUMNS, "")),
    ):
        save(path)
        whole, expected, found = path.read_bytes(), read(path), 0
        for bit in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                value = read(path)
            except (UserError, ValueError):
                found += 1
            else:  # a blank that JSON passes over, or the name of the checksum
                assert (
                    {key: value[key] for key in expected} == expected if path.suffix == ".json" else value == expected
                )
        assert found > 7 * len(whole)


@SAME_FOLDER
@given(lost=st.sets(st.integers(0, 2), min_size=1, max_size=2))
def test_a_lost_row_is_found(tmp_path: Path, lost: set[int]) -> None:
    path = tmp_path / "a.csv"
    save_table(path, COLUMNS, ROWS)
    heading, *lines = path.read_text().splitlines()
    kept = [line for number, line in enumerate(lines) if number not in lost]
    path.write_text("\n".join([heading, *kept]) + "\n")
    if min(lost) == 0 and kept == lines[max(lost) + 1 :]:
        return  # what is left is the end of the table, which is whole in itself: its rows' numbers tell
    with pytest.raises(ValueError, match="its checksum does not match"):
        load_table(path, COLUMNS, "its maker")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 100_000, '{"a": 1, "sha256": "0"}', '{"a": 1, "sha256": null}']
)
def test_what_is_no_such_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"cannot use .*a\.json: .*; set it aside and make it again with: its maker"):
        load_json(path, "its maker")


@pytest.mark.parametrize(
    "text",
    ["", "number,share\n1,2\n", "number,share,words,more\n", "number,share,words\n1,2\n", '"', "number,share,words"],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected"):
        load_table(path, COLUMNS, "its maker")
