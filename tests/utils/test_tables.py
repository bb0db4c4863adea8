"""Tables: what stands on the screen, in Markdown and in CSV."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.tables import WIDTH, csv_table, fitted, markdown_table, read_csv, show_table


def test_columns_on_the_screen_are_as_wide_as_they_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["class", "n"], [["a", 1], ["long one", 20]])
    assert capsys.readouterr().out == "   class   n\n       a   1\nlong one  20\n"
    show_table(["a", "b"], [[1, ""]])  # without blanks at the end of a line
    assert capsys.readouterr().out == "a  b\n1\n"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        show_table(["a", "b"], [[1]])


def test_markdown_cells_do_not_break_the_table() -> None:
    assert markdown_table(["a | b", "c"], [["x", 1.5]]) == "| a \\| b | c |\n| --- | --- |\n| x | 1.5 |\n"


names = st.text(st.characters(exclude_characters="\r\0", codec="utf-8"))


@given(st.lists(st.tuples(names, st.floats(allow_nan=False))))
def test_csv_comes_back_exactly(rows: list[tuple[str, float]]) -> None:
    headings, *lines = read_csv(csv_table(["name", "value"], rows))
    assert headings == ["name", "value"]
    assert [(name, float(value)) for name, value in lines] == rows


FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''@a", "-", "-a"]
PLAIN = ["'s", "a=b", "-1.5", "+3", "-inf", "1e-3", "", "'", "a\tb"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula(text: str) -> None:
    """As spreadsheets read cells: an apostrophe before a text keeps it one."""
    ((heading, cell),) = csv.reader(io.StringIO(csv_table([text, text], []), newline=""))
    assert (heading, cell) == (f"'{text}", f"'{text}")
    assert read_csv(csv_table([text], [[text]])) == [[text], [text]]


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_other_texts_stay_as_they_are(text: str) -> None:
    assert list(csv.reader(io.StringIO(csv_table(["a", "b"], [[text, -1.5]]), newline="")))[1] == [text, "-1.5"]
    assert read_csv(csv_table(["a", "b"], [[text, -1.5]]))[1] == [text, "-1.5"]


def test_parts_fit_the_width_and_are_never_broken() -> None:
    parts = [f"value {number}: {'x' * number}" for number in range(1, 20)]
    lines = fitted(parts, 40).splitlines()
    assert max(map(len, lines)) <= 40 and all(line.startswith("    value") for line in lines[1:])
    assert [part for line in lines for part in line.strip().split("  ")] == parts
    assert fitted(["one", "two"]) == "one  two"
    assert fitted(["x" * 90, "two"]) == "x" * 90 + "\n    two"


def test_the_headings_of_a_wide_table_take_several_lines(capsys):
    headings = ["", "control: learned, whole strong model", "F1", "a heading of many words"]
    show_table(headings, [["x" * 40, 1.5, 98.25, 3]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH and len(lines) > 2 and lines[-1].split() == ["x" * 40, "1.5", "98.25", "3"]
    assert sorted(" ".join(lines[:-1]).split()) == sorted(" ".join(headings).split())
