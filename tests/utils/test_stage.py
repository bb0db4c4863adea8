"""What every script opens with: the command line, the configuration, the device, the way out."""

from pathlib import Path
from typing import Any

import pytest
import torch

import global_configure
from configures.setting import SettingError
from models.opening import open_stage, stage_parser
from utils.device import (
    float64_device,
    make_deterministic,
    num_cores,
    resolve_device,
    resolve_precision,
    through_compiler,
)
from utils.errors import UserError, WaitedTooLong, run


@pytest.fixture(autouse=True)
def torch_as_before() -> Any:
    yield
    torch.set_deterministic_debug_mode("default")


def test_open_stage(root_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", "simcnn_x0_25", "--dataset", "digits", "--set", "epochs=3", "--set", "batch_size=7"]
    stage = open_stage(stage_parser("What it does.").parse_args(command))
    assert (stage.config.epochs, stage.config.batch_size) == (3, 7)
    assert stage.artifacts.folder == root_dir / "data" / "simcnn_x0_25_digits"
    assert (stage.device, stage.dtype, stage.seed) == (torch.device("cpu"), torch.float32, global_configure.seed)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"root_dir: {root_dir}  configuration: simcnn_x0_25_digits  device: cpu"
    assert second == "for this run: epochs=3 batch_size=7"
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("fast", [True, False])
def test_a_precision_without_instructions_is_said(
    fast: bool, root_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(global_configure, "precision", "bfloat16")
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: fast)
    stage = open_stage(stage_parser("What it does.").parse_args(["--model", "simcnn_x0_25", "--dataset", "digits"]))
    assert stage.dtype is torch.bfloat16
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ([] if fast else ["bfloat16: this cpu has no instructions for it; float32 is faster"])


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--model", "simcnn"],
        ["--mod", "simcnn", "--dataset", "digits"],
        ["--model", "simcnn", "--dataset", "digits", "a\nb", "--unknown"],
    ],
)
def test_a_wrong_command_line_is_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        stage_parser("What it does.").parse_args(command)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("--help lists the options")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (UserError("expected a,\n  given b"), 2, "error: expected a, given b"),
        (SettingError("no such setting"), 2, "error: no such setting"),
        (WaitedTooLong("no explorer of class 3"), 3, "error: no explorer of class 3"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on from the last whole state"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied; fix that and try again"),
        (OSError("odd"), 2, "error: the system: odd; fix that and try again"),
    ],
)
def test_the_way_out(error: BaseException, exit_code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == exit_code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:7", "gpu", "", "meta", "cpu:x", "mps", "mps:0", "xpu"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(UserError, match=rf"device {name} cannot be used: .+; expected auto, cpu, cuda or mps, where"):
        resolve_device(name)


def test_devices_and_precisions() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    cpu, mps = torch.device("cpu"), torch.device("mps")
    assert resolve_precision("bfloat16", cpu) is torch.bfloat16
    assert resolve_precision("float32", mps) is torch.float32
    with pytest.raises(
        UserError, match="precision bfloat16: expected float32 on device mps; set precision in global_conf"
    ):
        resolve_precision("bfloat16", mps)
    assert (float64_device(cpu), float64_device(mps)) == (cpu, cpu)
    assert float64_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(UserError, match="precision float16: expected one of float32, bfloat16"):
        resolve_precision("float16", cpu)
    assert num_cores() >= 1


def test_make_deterministic_seeds_torch() -> None:
    make_deterministic(3)
    first = torch.rand(3)
    make_deterministic(3)
    assert torch.equal(torch.rand(3), first)
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def test_torchs_compiler_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, *, warn_only: told.append(mode))
    network = torch.nn.Identity()
    assert through_compiler(network) is network and told == []
    make_deterministic(0)
    assert through_compiler(network) is network and told == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("no_progress_lines")
def test_quiet_prints_results_and_errors_alone(strong_root: Path, run_main: Any) -> None:
    command = ("train.py", "--model", "simcnn_x0_25", "--dataset", "digits", "--evaluation")
    loud, quiet = run_main(*command, root=strong_root), run_main(*command, "--quiet", root=strong_root)
    assert loud.stdout.startswith("root_dir: ") and "images: " in loud.stdout
    assert [line.split()[:2] for line in quiet.stdout.splitlines()] == [["valid", "accuracy"], ["test", "accuracy"]]
    assert quiet.stdout in loud.stdout and quiet.stderr == ""
    run_main(*command, "--dataset", "nothing", "--quiet", root=strong_root).refused("nothing")
