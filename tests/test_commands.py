"""Every command of the documents is one that its script understands; the cheap ones of the README run."""

import argparse
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import TOP
from test_docs import COMMAND, GUIDES

FENCED = re.compile(r"^```(?:sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHEAP = ("preprocess/kernel_importance_analyzer.py", "scripts/make_report.py")


def fenced_commands(document: Path) -> list[list[str]]:
    """The script and the words of every command in a document's blocks, in order."""
    blocks = FENCED.findall(document.read_text(encoding="utf-8"))
    found = [command for block in blocks for command in COMMAND.finditer(block)]
    return [
        [command["script"], *shlex.split(command["words"], comments=True)]
        for command in found
        if (TOP / command["script"]).is_file()  # not those that a document makes itself
    ]


class Understood(Exception):
    """The script's command line was read without complaint."""


def read_only(parser: argparse.ArgumentParser, *args: object) -> None:
    """In place of `parse_args`: read the command line, and go no further."""
    _, unknown = argparse.ArgumentParser.parse_known_args(parser)
    if unknown:
        parser.error(f"unknown: {unknown}")
    raise Understood


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_every_command_is_understood_by_its_script(document, monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_only)
    for script, *words in fenced_commands(document):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(Understood):
            runpy.run_path(str(TOP / script), run_name="__main__")


def test_the_readme_has_commands():
    assert len(fenced_commands(TOP / "README.md")) > 15


@pytest.mark.slow
def test_the_cheap_commands_of_the_readme_run(strong_roots, tmp_path, run_main):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    ran = [words for words in fenced_commands(TOP / "README.md") if words[0] in CHEAP]
    assert len(ran) == len(CHEAP)
    for script, *words in ran:
        done = run_main(script, *words, root=root)
        assert done.exit_code == 0 and "saved" in done.stdout, done
