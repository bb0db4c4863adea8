"""The demo's command line; `make demo` runs the whole of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, files_below


@pytest.mark.parametrize("words", [["--quick"], ["digits"], ["--model", "simcnn"]])
def test_an_unknown_option_starts_nothing(run_main: Callable[..., Run], root_dir: Path, words: list[str]) -> None:
    run = run_main("scripts/run_demo.py", *words, root=root_dir)
    run.refused(f"unrecognized arguments: {' '.join(words)}", "--help lists the options")
    assert (run.stdout, files_below(root_dir)) == ("", {})


def test_help_starts_nothing(run_main: Callable[..., Run], root_dir: Path) -> None:
    run = run_main("scripts/run_demo.py", "--help", root=root_dir)
    assert run.exit_code == 0
    assert "python run_demo.py" in run.stdout
    assert "$ python train.py" not in run.stdout
    assert files_below(root_dir) == {}
