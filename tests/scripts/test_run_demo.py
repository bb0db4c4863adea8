"""The demo's command line, its stages' options, and its last screen; `make demo` runs the whole of it."""

import re
import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOP, Run, files_below

from configures.base import load
from patching.confidence import Change
from patching.report import PatchedWeakModel, method_entry


@pytest.mark.parametrize("words", [["--quick"], ["digits"], ["--model", "simcnn"]])
def test_an_unknown_option_starts_nothing(run_main: Callable[..., Run], root_dir: Path, words: list[str]) -> None:
    run = run_main("scripts/run_demo.py", *words, root=root_dir)
    run.refused(f"unrecognized arguments: {' '.join(words)}", "--help lists the options")
    assert (run.stdout, files_below(root_dir)) == ("", {})


def test_help_starts_nothing(run_main: Callable[..., Run], root_dir: Path) -> None:
    run = run_main("scripts/run_demo.py", "--help", root=root_dir)
    assert run.exit_code == 0
    assert "python scripts/run_demo.py" in run.stdout
    assert "$ python train.py" not in run.stdout
    assert files_below(root_dir) == {}


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    """The names of the script, which is not run."""
    return runpy.run_path(str(TOP / "scripts/run_demo.py"))


def test_every_stage_takes_its_options_and_settings(
    demo: dict[str, Any], run_main: Callable[..., Run], root_dir: Path
) -> None:
    for script, *words in demo["STAGES"]:
        known = set(re.findall(r"--\w+", run_main(script, "--help", root=root_dir).stdout))
        assert {word for word in words if word.startswith("--")} <= known, script
        load(demo["MODEL"], demo["DATASET"], [after for word, after in pairwise(words) if word == "--set"])


def test_a_patch_is_shown_with_its_interval(demo: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    before, after = np.array([[8, 2], [5, 5]]), np.array([[9, 1], [2, 8]])
    change = Change((0.0, 0.2), (0.1, 0.5), (0.125, 0.5), (-0.1, 0.2), (0.001, 0.001, 0.001, 1.0))
    methods = {"before": method_entry(before, None), "learned": method_entry(after, None, [change])}
    demo["show_patches"]([PatchedWeakModel(("a", "3"), (1,), 20, methods)])
    *_, line = capsys.readouterr().out.splitlines()  # headings may be wrapped
    expected = ["3", "71.4 -> 88.9", "50.0 -> 80.0", "58.8 -> 84.2", "80.0 -> 90.0", "+12.5 to +50.0 (significant)"]
    assert re.split(r"\s{2,}", line.strip()) == expected


def test_a_value_outside_its_range_is_named(demo: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    values = {name: high for name, (_, high) in demo["RANGES"].items()}
    demo["show_results"](values)
    assert "outside" not in capsys.readouterr().out
    first, (_, high) = next(iter(demo["RANGES"].items()))
    demo["show_results"](values | {first: high + 0.1})
    assert capsys.readouterr().out.splitlines()[-1] == f"outside the range of these {demo['RUNS']} runs: {first}"


def test_the_readme_has_the_ranges_of_the_demo(demo: dict[str, Any]) -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    for name, (low, high) in demo["RANGES"].items():
        assert re.search(rf"^ *{re.escape(name)} +{low:.1f} to {high:.1f}$", readme, re.MULTILINE), name
