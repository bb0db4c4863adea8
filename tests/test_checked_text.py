"""A changed character of a JSON or CSV file is found, or changes nothing of what it says."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from utils.checked_text import csv_text, json_text, read_csv, read_json
from utils.errors import UserError

MAKER = "python make_it.py"
CONTENT = {"generation": 13, "ensemble": [1, 20], "accuracy": 0.8125, "name": "é", "nested": {"a": None}}
ROWS = [{"generation": 0, "ensemble": "1 20", "accuracy": 0.8125}, {"generation": 1, "ensemble": "3 4", "accuracy": 1}]
READ = [{name: str(value) for name, value in row.items()} for row in ROWS]
SAME_FOLDER = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_both_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json_text(CONTENT))
    assert read_json(path, MAKER) == CONTENT
    path.write_text(csv_text(["generation", "ensemble", "accuracy"], ROWS))
    assert read_csv(path, MAKER) == READ
    assert path.read_text().startswith("generation,ensemble,accuracy,crc32\n0,1 20,0.8125,")
    path.write_text(csv_text(["generation"], []))
    assert read_csv(path, MAKER) == []


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"a": 1}')
    assert read_json(path, MAKER) == {"a": 1}
    path.write_text("a,b\n1,2\n")
    assert read_csv(path, MAKER) == [{"a": "1", "b": "2"}]
    path.write_text("")
    assert read_csv(path, MAKER) == []


@SAME_FOLDER
@given(data=st.data())
def test_no_flipped_bit_passes_for_another_value(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file"
    whole_csv = csv_text(["generation", "ensemble", "accuracy"], ROWS).encode()
    for whole, read in ((json_text(CONTENT).encode(), read_json), (whole_csv, read_csv)):
        flipped = bytearray(whole)
        flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(flipped))
        try:
            found = read(path, MAKER)
        except UserError as error:
            assert str(error).startswith(f"cannot use {path}: ")
            assert MAKER in str(error)
            continue
        if read is read_json:  # only the checksum's own name may have changed
            assert {name: value for name, value in found.items() if name in CONTENT} == CONTENT
        else:  # only the headings may have
            assert [list(row.values())[:3] for row in found] == [list(row.values()) for row in READ]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100_000, '{"a": 1, "sha256": 3}', '"' + "9" * 5000])
def test_something_else_than_a_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match="cannot use"):
        read_json(tmp_path / "file", MAKER)


@pytest.mark.parametrize("content", ["a,b\n1\n", "a,b\n1,2,3\n", "a,crc32\n1,1\n", 'a\n"1\n', "a,crc32\n\n"])
def test_a_row_that_is_not_whole_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match="cannot use"):
        read_csv(tmp_path / "file", MAKER)
