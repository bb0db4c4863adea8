"""Faults for real, a few of each kind; tests/faults tries more of them."""

import importlib
import json
import os
import runpy
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import TOP, run_script

from utils.errors import UserError
from utils.stage import Stage

FOLDER = TOP / "experiments" / "robustness"
PATIENCE = 1500  # seconds for one command on a busy machine


@pytest.fixture
def neighbour(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A file of the folder; its scripts import their neighbours."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def run_command(root: Path, name: str, script: str, *arguments: Any) -> dict[str, Any]:
    """The JSON of a command after which everything held."""
    run = run_script(f"tests/faults/{script}.py", *arguments, root=root, timeout=PATIENCE)
    assert run.exit_code == 0, run
    result = json.loads((root / "data" / "robustness" / f"{name}.json").read_text())
    for row in result["rows"]:
        assert row["held"] == row["tried"] > 0
        assert row["what"] in run.stdout
    return result


def test_twenty_kills_leave_a_search_as_it_was(root_dir: Path) -> None:
    result = run_command(root_dir, "kill_search_terminals", "kill_search", "--kills", 20)
    assert [row["tried"] for row in result["rows"]] == [20]
    assert len(result["seconds from a restart to the next file"]) > 0


def test_a_killed_launcher_goes_on(root_dir: Path) -> None:
    result = run_command(root_dir, "kill_search_launcher", "kill_search", "--way", "launcher", "--kills", 1)
    assert [row["tried"] for row in result["rows"]] == [1]


def test_killed_trainings_and_analyses_go_on(root_dir: Path) -> None:
    result = run_command(root_dir, "kill_stages", "kill_stages", "--kills", 1)
    assert len(result["rows"]) == 7


def test_damaged_files_are_found_out_or_made_again(root_dir: Path) -> None:
    result = run_command(root_dir, "damage_files", "damage_files", "--count", 6, "--runs", 1)
    assert [row["what"] for row in result["rows"]] == ["damaged, loader", "damaged, script"]
    assert result["rows"][0]["tried"] == 6 * len(result["loaders"])
    assert all(row["refused"] + row["same"] == 6 for row in result["loaders"])


def test_strange_inputs_are_loaded_or_refused(root_dir: Path) -> None:
    result = run_command(root_dir, "fuzz_loaders", "fuzz_loaders", "--inputs", 20)
    assert len(result["loaders"]) > 20
    for counts in result["loaders"].values():
        assert set(counts) <= {"accepted", "refused"}
        assert sum(counts.values()) == 20
    assert not (root_dir / "data" / "robustness" / "fuzz_failures").exists()


def test_a_disk_that_fills_up_or_turns_read_only_loses_nothing(neighbour, root_dir: Path, tmp_path: Path) -> None:
    full_disk = neighbour("full_disk")
    (tmp_path / "disk").mkdir()
    if full_disk.call("mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")):
        pytest.skip("a tmpfs cannot be mounted here; test_files.py limits the size of files instead")
    assert full_disk.call("umount", str(tmp_path / "disk")) == ""
    result = run_command(root_dir, "full_disk", "full_disk", "--times", 2, "--last_stage", "importance")
    assert 2 in [fault["exit code"] for fault in result["faults"]]


def test_failed_launches_leave_no_process_behind(root_dir: Path) -> None:
    result = run_command(root_dir, "failed_launches", "failed_launches", "--launches", 3)
    assert [launch["left behind"] for launch in result["launches"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("script", "words"),
    [("kill_search", ("--kills", "-1")), ("fuzz_loaders", ("--inputs", "many")), ("damage_files", ("--sed", "1"))],
)
def test_wrong_options_are_refused(neighbour, run_main, root_dir: Path, script: str, words: tuple[str, str]) -> None:
    run_main(f"tests/faults/{script}.py", *words, root=root_dir).refused(words[0])


def test_run_all_names_every_command_and_makes_one_table(neighbour) -> None:
    defined = {path.name for path in FOLDER.glob("*.py") if "run(main)" in path.read_text(encoding="utf-8")}
    module = runpy.run_path(str(FOLDER / "run_all.py"), run_name="run_all")
    commands = module["COMMANDS"]
    assert {full[0] for _, full, _ in commands} == defined - {"run_all.py"}
    text = module["table"]([["kills", 20, 20, "none lost", "kill_search.py"]], "cores: 2")
    assert "| kills | 20 | 20 | none lost | kill_search.py |" in text


def test_what_was_lost_ends_with_exit_code_1(neighbour, root_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = neighbour("faults")
    with pytest.raises(SystemExit) as end:
        faults.conclude("x", root_dir, [faults.Finding("a", 3, 3, ""), faults.Finding("b", 3, 2, "")], {"more": 1})
    assert end.value.code == 1
    assert "error: not everything held: b" in capsys.readouterr().err
    assert json.loads((root_dir / "data" / "robustness" / "x.json").read_text())["more"] == 1


def _crash(stage: Stage, content: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(stage: Stage, content: bytes) -> None:
    try:
        while True:
            time.process_time()
    except Exception:
        raise UserError("nobody may catch this") from None


def _stray(stage: Stage, content: bytes) -> None:
    (stage.artifacts.root_dir.parent / "outside").write_text("stray")
    raise UserError("and refuses")


def _swell(stage: Stage, content: bytes) -> None:
    bytearray(3 * 2**30)


def _say_nothing(stage: Stage, content: bytes) -> None:
    raise UserError(" ")


def _fail(stage: Stage, content: bytes) -> None:
    raise KeyError("of the loader's own")


@pytest.mark.parametrize(
    ("load", "outcome"),
    [
        (_crash, "died_-9"),
        (_hang, "too_long"),
        (_stray, "reached_out"),
        (_swell, "MemoryError"),
        (_say_nothing, "said_nothing"),
        (_fail, "KeyError"),
        (lambda stage, content: None, "accepted"),
    ],
)
def test_the_fuzzer_notices(
    neighbour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Stage, bytes], None], outcome: str
) -> None:
    fuzz_loaders, targets = neighbour("fuzz_loaders"), neighbour("fuzz_targets")
    monkeypatch.setattr(fuzz_loaders, "TIME_LIMIT", 0.5)
    # A valid input is tried before the others, in which nothing may go wrong.
    late = targets.Target("late", lambda stage, content: content != b"seed" and load(stage, content), _other, True)
    counts = fuzz_loaders.fuzz(late, [b"seed"], tmp_path / "loader", 3, 0, tmp_path / "kept")
    assert counts == {outcome: 3}
    kept = [path.read_bytes() for path in sorted((tmp_path / "kept").glob("late_*.input"))]
    assert kept == ([] if outcome == "accepted" else [b"other"] * 3)


def _other(random: Any, seeds: list[bytes]) -> bytes:
    return b"other"


def test_what_a_kill_has_changed_is_noticed(neighbour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killing, faults = neighbour("killing"), neighbour("faults")
    monkeypatch.setattr(killing, "PATIENCE", 60.0)
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

    (finding,), details = killing.kill_until("test", [faults.TRAIN], Forgetful, tmp_path / "start", 1, 0)
    assert starts == ["undisturbed", "disturbed", "disturbed"]
    assert details["runs"] == [{"kills": 1, "ended with one line": 0, "different": ["model/found.npy"]}]
    assert (finding.tried, finding.held) == (1, 0)


def test_a_fuzzer_that_cannot_begin_says_so(neighbour, tmp_path: Path) -> None:
    fuzz_loaders, targets = neighbour("fuzz_loaders"), neighbour("fuzz_targets")
    picky = targets.Target("picky", _say_nothing, _other, True)
    with pytest.raises(RuntimeError, match="the fuzzer of picky failed itself"):
        fuzz_loaders.fuzz(picky, [b"seed"], tmp_path / "loader", 3, 0, tmp_path / "kept")
