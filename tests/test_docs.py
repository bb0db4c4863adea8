"""The documents hold: their commands, Python blocks, links and the table of files are those of the code."""

import importlib
import inspect
import re
import runpy
import typing
import warnings
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest
from conftest import TOP
from draw_idea import COLOURS, idea
from PIL import Image
from random_modules import random_patched_model

from patching.patched_model import save_patched_model
from patching.rules import MinMax
from utils.artifacts import ArrayFile, ArtifactFile, Artifacts
from utils.errors import UserError

GUIDES = [TOP / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md")] + sorted((TOP / "docs").glob("*.md"))
DOCUMENTS = [*GUIDES, TOP / "published" / "README.md", *sorted((TOP / "experiments" / "results").glob("*.md"))]
MAKEFILE = (TOP / "Makefile").read_text(encoding="utf-8")
COMMAND = re.compile(r"(?:cd (?P<folder>\S+) && )?\bpython (?P<script>[\w/]+\.py)(?P<words>[^;&|`\n]*)")
CODE = re.compile(r"```(?P<language>\w*)\n(?P<block>.*?)```|`(?P<span>[^`\n]+)`", re.DOTALL)


def code_of(document: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block and every `span`."""
    for found in CODE.finditer(document.read_text(encoding="utf-8")):
        yield found["language"] or "", found["block"] or found["span"] or ""


def python_blocks(document: Path) -> list[str]:
    """The blocks that a user can copy into a program."""
    return [text for language, text in code_of(document) if language == "python"]


def commands() -> dict[Path, set[str]]:
    """Every script of ours that the documents and the Makefile call, and all options that they give it."""
    texts = [MAKEFILE, *(text for document in DOCUMENTS for _, text in code_of(document))]
    of_the_reader = {Path(name).name for text in texts for name in re.findall(r"cat > (\S+)", text)}
    found: dict[Path, set[str]] = {}
    for command in (command for text in texts for command in COMMAND.finditer(text)):
        script = Path(command["folder"] or "") / command["script"]
        if script.name not in of_the_reader:
            found.setdefault(script, set()).update(re.findall(r"--\w+", command["words"]))
    return found


@pytest.mark.parametrize(
    ("script", "options"), sorted(commands().items()), ids=lambda value: str(value) if isinstance(value, Path) else ""
)
def test_commands_name_scripts_and_options_that_exist(script, options, run_main, root_dir):
    assert (TOP / script).is_file()
    if options:
        known = set(re.findall(r"--\w+", run_main(str(script), "--help", root=root_dir).stdout))
        assert options <= known


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_make_knows_the_targets(document):
    named = {target for _, text in code_of(document) for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_the_readme_calls_every_stage():
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    stages = [*TOP.glob("*.py"), *(TOP / "preprocess").glob("*.py"), *TOP.glob("experiments/patch/**/*.py")]
    assert not [stage for stage in stages if str(stage.relative_to(TOP)) not in readme]


def test_the_steps_are_numbered_once():
    steps = re.findall(r"^\*\*(\d+)\. ", (TOP / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)] and len(steps) > 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        linked = document.parent / name if name else document
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}, target


@pytest.mark.parametrize("theme", COLOURS)
def test_the_picture_of_the_idea_is_what_its_script_draws(theme):
    assert (TOP / "docs" / f"idea_{theme}.svg").read_text(encoding="utf-8") == idea(COLOURS[theme])
    assert f"docs/idea_{theme}.svg" in (TOP / "README.md").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    places = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\d\S*)",
    }
    texts = {name: (TOP / name).read_text(encoding="utf-8") for name in places}
    versions = {name: re.search(pattern, texts[name], re.MULTILINE)[1] for name, pattern in places.items()}
    assert len(set(versions.values())) == 1, versions


def test_paths_in_the_design_exist():
    before_section_4 = (TOP / "DESIGN.md").read_text(encoding="utf-8").split("## 4.")[0]
    rows = re.findall(r"^\|.+\| (.+) \|$", before_section_4, re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`(\w+/[\w/]+\.py)`", row)]
    assert len(paths) > 20
    assert not [path for path in paths if not (TOP / path).is_file()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [
        # A patched model as ONNX, too, which other tests make.
        pytest.param(document, marks=pytest.mark.long if document.name == "patching.md" else [], id=document.name)
        for document in GUIDES
        if python_blocks(document)
    ],
)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    blocks = python_blocks(document)
    if "torch.onnx" in "".join(blocks) and not importlib.util.find_spec("onnxscript"):
        blocks = [block for block in blocks if "torch.onnx" not in block]
    save_patched_model(random_patched_model(MinMax(0.0, 1.0)), tmp_path / "patched.pth")
    Image.new("RGB", (40, 30)).save(tmp_path / "cat.png")
    program = "\n".join(["encoded = 2 * [open('cat.png', 'rb').read()]", *blocks])
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path("program.py", run_name="__main__")


def stand_in(parameter: str, kind: type, artifacts: Artifacts) -> typing.Any:
    """A value for a parameter of a function in a `files.py`."""
    if parameter == "classes":  # of a search
        return ()
    if issubclass(kind, Enum):
        return next(iter(kind))
    return {Artifacts: artifacts, int: 3, str: {"kind": "weak", "calibration": "learned"}.get(parameter, "best")}[kind]


def files_of_the_code(artifacts: Artifacts) -> Iterator[tuple[str, ArtifactFile | Path]]:
    """Every file that the rooms' `files.py` name, with stand-ins for classes, epochs and the like."""
    for path in sorted(TOP.glob("*/**/files.py")):
        room = ".".join(path.relative_to(TOP).with_suffix("").parts)
        if room.startswith(("utils", "tests", "data")):
            continue
        for name, function in inspect.getmembers(importlib.import_module(room), inspect.isfunction):
            if function.__module__ != room or name.startswith("_"):
                continue
            kinds = typing.get_type_hints(function)
            kinds.pop("return", None)
            if Artifacts not in kinds.values():  # in the folder of a module set
                continue
            values = [stand_in(parameter, kind, artifacts) for parameter, kind in kinds.items()]
            try:
                file = function(*values)
            except UserError:  # it reads another file first
                continue
            if isinstance(file, ArtifactFile) or (isinstance(file, Path) and file.suffix):
                yield f"{room}.{name}", file


def test_the_table_of_files_is_that_of_the_code(root_dir):
    design = (TOP / "DESIGN.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)`.* \| .+ \| (.+) \|$", design.split("## 5.")[1].split("## 6.")[0], re.MULTILINE)
    table = {}
    for path, content in rows:
        folder = path.replace("MODEL_DATASET", "simcnn_x0_25_digits_5").replace("{weak,poor}", "weak")
        table[re.compile(re.sub(r"(?<![A-Za-z])[A-Z]+(?![A-Za-z])", r"\\w+", re.escape(folder)))] = content
    artifacts = Artifacts(root_dir, "simcnn_x0_25", "digits_5")
    names = []
    for name, file in files_of_the_code(artifacts):
        path = file.path if isinstance(file, ArtifactFile) else file
        relative = str(path.relative_to(root_dir / "data"))
        contents = [content for pattern, content in table.items() if pattern.fullmatch(relative)]
        assert len(contents) == 1, f"{name}: {relative} has {len(contents)} rows in DESIGN.md"
        if isinstance(file, ArrayFile):
            assert file.dtype in contents[0], f"{name}: {file.dtype}, and in DESIGN.md {contents[0]}"
        if isinstance(file, ArtifactFile):
            assert (TOP / file.made_by.split()[1]).is_file(), f"{name}: {file.made_by}"
        names.append(name)
    assert len(names) > 25
