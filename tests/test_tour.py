"""The tour holds: its commands, typed one after the other as they stand, print what it says, but for the digits."""

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import TOP, run_program

TOUR = (TOP / "docs" / "tour.md").read_text(encoding="utf-8")
# A command, and the block behind it where there is one: what it prints.
STEPS = re.findall(r"^```sh\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", TOUR, re.MULTILINE | re.DOTALL)
# Lines that are printed or not as the machine is fast (utils/progress.py), or as it rounds.
BY_CHANCE = re.compile(
    r"(: [\d,]+ of [\d,]+(, about .* left)?|, [\d.]+ (s|min) so far)$|: no better than recal|: expected to take "
)
UNINFORMATIVE = re.compile(r"^uninformative modules: .*\n", re.MULTILINE)  # also as it rounds
CONTINUED = re.compile(r"(?<!^\.\.\.)\n {4}(?=\S)", re.MULTILINE)  # lines end where their numbers have more digits


def shape(line: str) -> str:
    """A line without what differs by machine: numbers, units of time, a model's answers, and what was chance."""
    words = r"(not )?significant|unchanged|no more than chance|helps|reduces|increases|(?<=\.png )\w+$"
    line = re.sub(words, "~", line)
    return re.sub(r"# (s|min|h)\b", "# s", " ".join(re.sub(r"[-+]?\d[\d,.]*", "#", line).split()))


def pattern(printed: str) -> re.Pattern[str]:
    """What a document says is printed, where `...` is any lines."""
    lines = told(printed)
    return re.compile("".join(r"(?:.*\n)*?" if line == "..." else re.escape(shape(line)) + "\n" for line in lines))


def told(printed: str) -> list[str]:
    """The lines that are printed on every machine, each whole."""
    lines = CONTINUED.sub("  ", UNINFORMATIVE.sub("", printed)).splitlines()
    return [line for line in lines if not BY_CHANCE.search(line)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project as a reader stands in it, with data of his own: links to its scripts, and a `python`."""
    for path in (*TOP.glob("*.py"), *(TOP / name for name in ("scripts", "experiments", "preprocess"))):
        (tmp_path / path.name).symlink_to(path)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_the_tour_is_ten_commands():
    assert re.findall(r"^\*\*(\d+)\. ", TOUR, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert len(STEPS) == 10 and STEPS[0][0].startswith("make setup")


@pytest.mark.long
def test_the_commands_of_the_tour_print_what_it_says(folder: Path):
    own = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
    for command, printed in STEPS[1:]:
        done = run_program(["/bin/sh", "-e", "-c", command], root=folder, cwd=folder, env=own, timeout=1800)
        assert done.exit_code == 0, done.stderr
        lines = [shape(line) + "\n" for line in told(done.stdout)]
        assert pattern(printed).fullmatch("".join(lines)), done.stdout
