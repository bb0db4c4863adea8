"""The compiler is found, used once, and its failures are one line."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.fast import compiled as compiled_module
from modules.fast.compiled import COMPILERS, _problem_of, _say_once, compiled, compiler
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
    for function in (compiled, _problem_of, _say_once):
        function.cache_clear()


def test_a_source_is_compiled_once_for_all_processes(source, counted):
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
    source.write_text(SOURCE.replace("42", "43"), encoding="utf-8")
    compiled.cache_clear()
    assert compiled(source, command).answer() == 43
    assert runs() == 3


@pytest.mark.long
def test_many_processes_at_once(source):
    code = (
        "import sys; from pathlib import Path; from modules.fast.compiled import compiled, compiler;"
        "print(compiled(Path(sys.argv[1]), compiler()).answer())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, source], stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in started] == [b"42\n"] * 3
    assert [process.returncode for process in started] == [0] * 3


def test_a_folder_that_cannot_be_written(source):
    (source.parent / "__pycache__").touch()
    assert compiled(source, compiler()).answer() == 42


def test_a_source_with_an_error(source):
    source.write_text("int answer() { return nothing; }\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"answer.cpp could not be compiled and loaded by .*error: .*nothing"):
        compiled(source, compiler())


@pytest.fixture
def said(
    source: Path, no_progress_lines: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str | None], tuple[tuple[str, ...] | None, list[str]]]:
    """What `compiler()` finds for a value of CXX, asked twice, and the lines that it prints. It compiles `source`."""
    monkeypatch.setattr(compiled_module, "__file__", str(source.with_name("compiled.py")))

    def find(asked: str | None) -> tuple[tuple[str, ...] | None, list[str]]:
        if asked is None:
            monkeypatch.delenv("CXX", raising=False)
        else:
            monkeypatch.setenv("CXX", asked)
        found = compiler()
        assert compiler() == found
        return found, capsys.readouterr().out.splitlines()

    return find


def test_which_compiler(said, monkeypatch, tmp_path):
    assert said(None) == ((compiler()), [])
    assert said("c++ -DNAME='a b'") == (("c++", "-DNAME=a b"), [])
    assert said("") == (None, [])
    (tmp_path / "data").write_text("no program, and not executable", encoding="utf-8")
    for wrong in ("no-such-compiler", "c++ '-O2", "a\nb", str(tmp_path), str(tmp_path / "data")):
        found, (line,) = said(wrong)
        assert found is None
        assert line.startswith("environment variable CXX: expected a C++ compiler, or empty for none, given "), line
        assert line.endswith("torch convolves in its place: name one that is there, or set CXX= to do without"), line
    monkeypatch.setenv("PATH", str(tmp_path))
    assert said(None) == (None, [])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", "exit code 3"),
        ("#!/bin/sh\nkill -9 $$\n", "ended by signal 9"),
        (
            "#!/bin/sh\necho 'note: odd' >&2; echo 'ccache: error: no cache: Permission denied' >&2; exit 1\n",
            "ccache: error",
        ),
        ("#!/bin/sh\nprintf '\\377\\376 Fehler \\344\\n' >&2; exit 1\n", "Fehler \\xe4"),
        ("#!/bin/sh\nexit 0\n", "No such file or directory"),
        ('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo garbage > "$2"\n', "file too short"),
        ("#!/no/such/shell\n", "No such file or directory"),
        ("\0no program\n", "Exec format error"),
    ],
    ids=["fails", "killed", "no cache", "another encoding", "makes nothing", "makes garbage", "no shell", "no program"],
)
def test_a_compiler_that_does_not_work_is_done_without(script, reason, said, tmp_path):
    path = tmp_path / "bad"
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)
    found, (line,) = said(str(path))
    assert found is None
    assert line.startswith(f"answer.cpp could not be compiled and loaded by {path}: "), line
    assert reason in line
    assert line.endswith("; torch convolves in its place: fix that, or set CXX= to do without")


def test_the_next_compiler_is_tried(said, monkeypatch, tmp_path):
    for name in ("c++", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    real = next(filter(None, map(shutil.which, COMPILERS)))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert said("g++")[0] is None
    (tmp_path / "clang++").symlink_to(real)
    assert said(None) == (("clang++",), [])


def test_libraries_in_the_cache_that_do_not_load(source, said, monkeypatch):
    """As on a disk that is mounted without the right to execute."""
    load, refused = ctypes.CDLL, []

    def load_outside_of_caches(path: str) -> ctypes.CDLL:
        if "__pycache__" in path:
            refused.append(path)
            raise OSError(f"{path}: failed to map segment from shared object: Operation not permitted")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", load_outside_of_caches)
    found, lines = said(None)
    assert found and not lines and refused
    assert compiled(source, found).answer() == 42

    def load_nothing(path: str) -> ctypes.CDLL:
        raise OSError(f"{path}: Operation not permitted")

    monkeypatch.setattr(ctypes, "CDLL", load_nothing)
    for function in (compiled, _problem_of):
        function.cache_clear()
    found, (line,) = said("c++")
    assert found is None and "Operation not permitted; torch convolves" in line


@pytest.mark.slow
def test_a_user_without_compiler(strong_root, run_main, monkeypatch):
    """Slower, and said so; with a compiler that fails, the reason too; the same curve to what float32 rounds."""

    def analyze(cxx: str | None = None) -> Run:
        if cxx is not None:
            monkeypatch.setenv("CXX", cxx)
        return run_main("preprocess/layer_sensitivity_analyzer.py", *DIGITS, *ONE_POINT, root=strong_root)

    assert run_main("preprocess/kernel_importance_analyzer.py", *DIGITS, root=strong_root).exit_code == 0
    with_compiler = analyze()
    assert with_compiler.exit_code == 0, with_compiler
    assert "no C++ compiler" not in with_compiler.stdout
    for cxx, reason in (
        ("no-such-compiler", "environment variable CXX: expected a C++ compiler, or empty for none, given"),
        (shutil.which("false"), "could not be compiled and loaded by"),
        ("", ""),
    ):
        without = analyze(cxx)
        assert (without.exit_code, without.stderr) == (0, ""), without
        assert "no C++ compiler" in without.stdout
        assert sum("torch convolves in its place" in line for line in without.stdout.splitlines()) == bool(reason)
        assert reason in without.stdout
