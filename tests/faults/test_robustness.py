"""Faults for real, a few of each kind; the commands beside this file try more of them."""

import json
import runpy
import signal
from pathlib import Path
from typing import Any

import faults
import full_disk
import kill
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


def test_run_all_names_every_command_and_makes_one_table() -> None:
    defined = {path.name for path in FOLDER.glob("*.py") if path.read_text().endswith("    run(main)\n")}
    module = runpy.run_path(str(FOLDER / "run_all.py"), run_name="run_all")
    commands = module["COMMANDS"]
    assert {full.split()[0] for full, _ in commands} == defined - {"run_all.py"}
    text = module["table"]([["kills", 20, 20, "none lost", "kill.py"]], "cores: 2")
    assert "| kills | 20 | 20 | none lost | kill.py |" in text


def test_what_was_lost_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faults, "RESULTS", tmp_path)
    with pytest.raises(SystemExit) as end:
        faults.conclude("x", [faults.Finding("a", 3, 3, ""), faults.Finding("b", 3, 2, "")], {"more": 1})
    assert end.value.code == 1
    assert "error: not everything held: b" in capsys.readouterr().err
    assert json.loads((tmp_path / "x.json").read_text())["more"] == 1


def test_what_a_kill_has_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "PATIENCE", 60.0)
    (tmp_path / "start" / "data" / "model").mkdir(parents=True)
    starts: list[str] = []

    class Forgetful:
        """Its second start lasts until it is killed; each start writes something else."""

        def __init__(self, script: Any, root: Path) -> None:
            starts.append(root.name)
            self.script, self.exit_code = script, None if len(starts) == 2 else 0
            (root / "data" / "model" / "found.npy").write_bytes(bytes([len(starts)]))

        def send(self, number: signal.Signals) -> bool:
            self.exit_code = -number
            return True

        def wait(self) -> int:
            return self.exit_code

    finding, details = kill.kill_until("test", [faults.TRAIN], Forgetful, tmp_path / "start", 1, 0)
    assert starts == ["undisturbed", "disturbed", "disturbed"]
    assert details["runs"] == [{"kills": 1, "ended with one line": 0, "different": ["model/found.npy"]}]
    assert (finding.tried, finding.held) == (1, 0)
