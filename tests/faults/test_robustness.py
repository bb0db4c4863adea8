"""Faults for real, a few of each kind; the commands beside this file try more of them."""

import json
from pathlib import Path
from typing import Any

import full_disk
import pytest
from conftest import TOP, run_script

FOLDER = TOP / "tests" / "faults"
PATIENCE = 1500  # seconds for one command on a busy machine


def run_command(root: Path, script: str, *arguments: Any) -> dict[str, Any]:
    """The JSON of a command after which everything held."""
    run = run_script(f"tests/faults/{script}.py", *arguments, root=root, timeout=PATIENCE)
    assert run.exit_code == 0, run
    (written,) = (root / "data" / "robustness").iterdir()
    result = json.loads(written.read_text())
    for row in result["rows"]:
        assert row["held"] == row["tried"] > 0
        assert row["what"] in run.stdout
    return result


@pytest.mark.long
def test_kills_leave_a_search_as_it_was(root_dir: Path) -> None:
    result = run_command(root_dir, "kill", "terminals", "--kills", 5)
    assert [row["tried"] for row in result["rows"]] == [5]
    assert result["search, terminals"]["seconds from a start to the first file"] > 0


@pytest.mark.long
def test_a_killed_launcher_goes_on(root_dir: Path) -> None:
    result = run_command(root_dir, "kill", "launcher", "--kills", 1)
    assert [row["tried"] for row in result["rows"]] == [1]


@pytest.mark.long
def test_killed_trainings_and_analyses_go_on(root_dir: Path) -> None:
    result = run_command(root_dir, "kill", "stages", "--kills", 1)
    assert len(result["rows"]) == 8


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_killed_nodes_and_drivers_of_a_ray_search_change_nothing(root_dir: Path) -> None:
    result = run_command(root_dir, "kill_nodes", "--node_kills", 3, "--driver_kills", 1)
    assert [row["tried"] for row in result["rows"]] == [3, 1, 1, 1]


@pytest.mark.long
def test_damaged_files_are_found_out_or_made_again(root_dir: Path) -> None:
    result = run_command(root_dir, "damage_files", "--count", 6, "--runs", 1)
    assert [row["what"] for row in result["rows"]] == ["damaged, loader", "damaged, script"]
    assert result["rows"][0]["tried"] == 6 * len(result["loaders"])
    assert all(row["refused"] + row["same"] == 6 for row in result["loaders"])


@pytest.mark.long
def test_a_disk_that_fills_up_or_turns_read_only_loses_nothing(root_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    if full_disk.call("mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")):
        pytest.skip("a tmpfs cannot be mounted here; test_files.py limits the size of files instead")
    assert full_disk.call("umount", str(tmp_path / "disk")) == ""
    result = run_command(root_dir, "full_disk", "--times", 2, "--last_stage", "importance")
    assert 2 in [fault["exit code"] for fault in result["faults"]]


@pytest.mark.long
def test_failed_launches_leave_no_process_behind(root_dir: Path) -> None:
    result = run_command(root_dir, "failed_launches", "--launches", 3)
    assert [launch["left behind"] for launch in result["launches"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("script", "words"),
    [("kill", ("--kills", "-1")), ("full_disk", ("--times", "many")), ("damage_files", ("--sed", "1"))],
)
def test_wrong_options_are_refused(run_main, root_dir: Path, script: str, words: tuple[str, str]) -> None:
    run_main(f"tests/faults/{script}.py", *words, root=root_dir).refused(words[0])
