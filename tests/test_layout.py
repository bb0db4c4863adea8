"""DESIGN.md's list of rooms holds: imports go one way along it, and a user's packages of the same names do no harm."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP, environment

# `name/` and `name.py` at the start of a line of the list, in the order in which they may import each other.
ROOM_LIST = (TOP / "DESIGN.md").read_text(encoding="utf-8").split("```")[3]
ROOMS = [line.split()[0].removesuffix(".py").strip("/").replace("/", ".") for line in ROOM_LIST.strip().splitlines()]
PACKAGES = sorted({room.split(".")[0] for room in ROOMS} - {"global_configure"})


def python_files() -> list[Path]:
    """All Python files of the project, relative to its top."""
    files = (path.relative_to(TOP) for path in TOP.rglob("*.py"))
    return sorted(file for file in files if file.parts[0] not in ("data", "build") and not str(file).startswith("."))


def imported_modules(source: str) -> set[str]:
    """The modules that a file may import: `from a import b` may mean `a`, or `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def room_of(module: str) -> str | None:
    """The innermost room of the list that a module lies in; None where it lies in none."""
    inside = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(inside, key=len, default=None)


def wrong_imports(module: str, source: str) -> list[str]:
    """What a file of a room imports from rooms further down the list."""
    own = ROOMS.index(str(room_of(module)))
    rooms = {imported: room_of(imported) for imported in imported_modules(source)}
    return sorted(imported for imported, room in rooms.items() if room and ROOMS.index(room) > own)


def dotted(file: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


FILES = python_files()
SOURCES = {file: (TOP / file).read_text(encoding="utf-8") for file in FILES}
SCRIPTS = [file for file in FILES if '\nif __name__ == "__main__":' in SOURCES[file]]
STAGES = [script for script in SCRIPTS if script.parts[0] not in ("benchmarks", "tests")]
OF_EACH_FOLDER = {script.parent: script for script in STAGES}
OF_EACH_DEPTH = {len(folder.parts): folder for folder in OF_EACH_FOLDER}.values()
ONE_OF_EACH_FOLDER = [
    pytest.param(script, marks=[] if folder in OF_EACH_DEPTH else pytest.mark.long)
    for folder, script in OF_EACH_FOLDER.items()
]


def test_the_list_names_every_package():
    packages = {dotted(file) for file in FILES if file.name == "__init__.py"}
    # `search` is the folder of the searches, and has no file of its own.
    assert {room_of(package) for package in packages - {"search"}} == set(ROOMS) - {"global_configure"}
    # An editable installation finds these, and no others.
    installed = (TOP / "pyproject.toml").read_text(encoding="utf-8").split("\npackages = [")[1].split("]")[0]
    assert set(re.findall(r'"([\w.]+)"', installed)) == packages


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_the_rooms_before_it_alone(room):
    wrong = {str(file): wrong_imports(dotted(file), SOURCES[file]) for file in FILES if room_of(dotted(file)) == room}
    assert wrong and not {file: imports for file, imports in wrong.items() if imports}


def test_the_genetic_search_reads_only_files_of_the_gradient_search():
    for file in FILES:
        if room_of(dotted(file)) == "search.genetic":
            other = {m for m in imported_modules(SOURCES[file]) if room_of(m) == "search.gradient"}
            assert {m for m in other if not m.startswith("search.gradient.files")} <= {"search.gradient"}, file


def defaults_of(source: str, name: str) -> list[int]:
    """The lines in which a parameter or a field of a name has a default."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            given = positional[len(positional) - len(node.defaults) :]
            given += [each for each, default in zip(node.kwonlyargs, node.kw_defaults, strict=True) if default]
            lines += [argument.lineno for argument in given if argument.arg == name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            is_field = node.value is not None and "field(compare=False)" not in ast.unparse(node.value)
            lines += [node.lineno] if is_field else []
    return lines


def test_a_normalisation_has_no_default():
    """Images normalised in another way than a network learned them give wrong answers, and no error."""
    mentioned = {file: source for file, source in SOURCES.items() if "normalisation:" in source}
    assert [file for file, source in mentioned.items() if defaults_of(source, "normalisation")] == []


def test_no_script_is_imported():
    for file in FILES:
        if file.name.startswith("test_"):  # the tests of commands for faults call their functions
            continue
        imported = imported_modules(SOURCES[file])
        for script in SCRIPTS:
            # Beside each other, the files of benchmarks/ and tests/faults/ go by their last name.
            names = {dotted(script), script.stem} if script.parent == file.parent else {dotted(script)}
            assert not names & imported, f"{file} imports the script {script}"


@pytest.mark.parametrize("script", [script for script in STAGES if len(script.parts) > 1], ids=str)
def test_a_script_looks_for_our_packages_first(script):
    """Before it imports any of them, global_configure: those at the top lie beside them."""
    imports = [node for node in ast.parse(SOURCES[script]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [n.names[0].name if isinstance(n, ast.Import) else str(n.module) for n in imports]
    ours = [name for name in names if room_of(name)]
    assert ours[0] == "global_configure"


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: packages called like the rooms, none of which can be imported, and a script of the user's."""
    folder = tmp_path_factory.mktemp("strangers")
    for package in PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f"raise RuntimeError('a stranger called {package}')\n")
    (folder / "run.py").write_text("import os, sys\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", ONE_OF_EACH_FOLDER, ids=str)
def test_packages_of_the_same_names_are_not_taken(strangers, root_dir, script):
    """Neither from the user's folder nor from PYTHONPATH; where a script lies decides, not what it does."""
    command = [sys.executable, "run.py", str(TOP / script), "--help"]
    env = environment(root_dir, PYTHONPATH=str(strangers))
    done = subprocess.run(command, cwd=strangers, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: "), done.stdout


def run_program(folder: Path, code: str, root_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run a user's program in a folder of the user's, where this project is installed."""
    (folder / "program.py").write_text(code, encoding="utf-8")
    command = [sys.executable, str(folder / "program.py")]
    env = environment(root_dir, PYTHONPATH=str(TOP))
    return subprocess.run(command, cwd=root_dir, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["utils.py", "dataset/__init__.py"])
def test_a_users_own_package_in_the_way_is_named(name, tmp_path, root_dir):
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    done = run_program(tmp_path, "from patching.patched_model import load_patched_model", root_dir)
    *_, line = done.stderr.splitlines()
    package = Path(name).parts[0].removesuffix(".py")
    assert line.startswith(f"ImportError: patching needs {TOP / package}, but here `import {package}` finds {own}: ")


@pytest.mark.slow
def test_a_users_own_names_stay_the_users(tmp_path, root_dir):
    """Those that patching does not need."""
    for name in ("report", "search"):
        (tmp_path / f"{name}.py").write_text("mine = True")
    code = (
        "from patching.patched_model import load_patched_model\nimport report, search\nprint(report.mine, search.mine)"
    )
    done = run_program(tmp_path, code, root_dir)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done


def test_no_two_classes_share_a_name():
    trees = {file: ast.parse(source) for file, source in SOURCES.items() if file.parts[0] != "tests"}
    classes = [node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(classes) > 100
    assert sorted({name for name in classes if classes.count(name) > 1}) == []
