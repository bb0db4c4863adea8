"""The compiler is found, used once, and its failures are one line."""

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.fast.compiled import compiled, compiler
from tests.conftest import Run
from utils.errors import UserError

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
DIGITS = ("--model", "simcnn_x0_25", "--dataset", "digits")
ONE_POINT = ("--target_conv", "12", "--set", "sensitivity_ratios=0.5,1", "--set", "sensitivity_images=40")
SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def counted(tmp_path: Path) -> tuple[tuple[str, ...], Callable[[], int]]:
    """A compiler that writes down its runs, and how many there were."""
    log, script = tmp_path / "log", tmp_path / "compiler"
    real = shutil.which(compiler()[0])
    script.write_text(f'#!/bin/sh\necho run >> "{log}"\nexec "{real}" "$@"\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return (str(script),), lambda: len(log.read_text(encoding="utf-8").split()) if log.exists() else 0


@pytest.fixture(autouse=True)
def no_library_of_this_process() -> None:
    compiled.cache_clear()


def test_compiled_once_for_all_processes(source: Path, counted: tuple[tuple[str, ...], Callable[[], int]]) -> None:
    command, runs = counted
    assert compiled(source, command).answer() == 42
    assert runs() == 1
    compiled.cache_clear()  # as in another process
    assert compiled(source, command).answer() == 42
    assert runs() == 1
    (library,) = (source.parent / "__pycache__").iterdir()
    content = library.read_bytes()
    library.unlink()  # its pages are in use
    library.write_bytes(content[: len(content) // 2])
    compiled.cache_clear()
    assert compiled(source, command).answer() == 42
    assert runs() == 2
    assert library.read_bytes() == content


@pytest.mark.slow
def test_many_processes_at_once(source: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modules.fast.compiled import compiled, compiler;"
        "print(compiled(Path(sys.argv[1]), compiler()).answer())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, source], stdout=subprocess.PIPE) for _ in range(6)]
    assert [process.communicate()[0] for process in started] == [b"42\n"] * 6
    assert [process.returncode for process in started] == [0] * 6


def test_a_changed_source_is_compiled_again(source: Path, counted: tuple[tuple[str, ...], Callable[[], int]]) -> None:
    command, runs = counted
    assert compiled(source, command).answer() == 42
    source.write_text(SOURCE.replace("42", "43"), encoding="utf-8")
    compiled.cache_clear()
    assert compiled(source, command).answer() == 43
    assert runs() == 2


def test_a_folder_that_cannot_be_written(source: Path) -> None:
    (source.parent / "__pycache__").touch()
    assert compiled(source, compiler()).answer() == 42


def test_a_source_with_an_error(source: Path) -> None:
    source.write_text("int answer() { return nothing; }\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"answer.cpp could not be compiled and loaded by .*error: .*nothing.*set CXX= to do without"
    ):
        compiled(source, compiler())


def test_which_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert compiler()
    monkeypatch.setenv("CXX", "c++ -DNAME='a b'")
    assert compiler() == ("c++", "-DNAME=a b")
    monkeypatch.setenv("CXX", "")
    assert compiler() is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="CXX: expected a C\\+\\+ compiler, or empty for none, given 'no-such"):
        compiler()
    monkeypatch.setenv("CXX", "g++ '-O2")
    with pytest.raises(UserError, match=r"given .*-O2"):
        compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler() is None


def test_a_user_without_compiler(
    strong_root: Path, run_main: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower, and said so; with a compiler that fails, one line."""

    def analyze(cxx: str | None = None) -> Run:
        if cxx is not None:
            monkeypatch.setenv("CXX", cxx)
        return run_main("preprocess/layer_sensitivity_analyzer.py", *DIGITS, *ONE_POINT, root=strong_root)

    assert run_main("preprocess/kernel_importance_analyzer.py", *DIGITS, root=strong_root).exit_code == 0
    with_compiler = analyze()
    assert with_compiler.exit_code == 0, with_compiler
    assert "no C++ compiler" not in with_compiler.stdout
    analyze("no-such-compiler").refused("environment variable CXX", "'no-such-compiler'")
    failing = shutil.which("false")
    analyze(failing).refused("layers.cpp could not be compiled and loaded", "exit code 1")
    without = analyze("")
    assert without.exit_code == 0, without
    assert "no C++ compiler" in without.stdout
