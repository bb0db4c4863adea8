"""docs/notebook.ipynb runs from the first cell to the last, and its stored outputs are those of such a run."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import TOP, run_program

FILE = TOP / "docs" / "notebook.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def test_the_notebook_is_small_and_was_run_in_order():
    assert FILE.stat().st_size < 100_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert {output["output_type"] for cell in CODE for output in cell["outputs"]} == {"stream", "display_data"}
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_links_of_the_notebook_lead_somewhere():
    text = "\n".join(source_of(cell) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    assert links and not [link for link in links if not (FILE.parent / link).exists()]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, root_dir: Path):
    program = "\n".join(map(source_of, CODE)).replace("mask_steps=150", "mask_steps=15")  # weaker modules, sooner
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = run_program(command, root=root_dir, cwd=tmp_path, env={"MPLBACKEND": "Agg"}, timeout=1800)
    assert done.exit_code == 0, done.stderr
    strong, patched = (
        float(re.search(rf"{name}: test accuracy ([\d.]+)%", done.stdout)[1]) for name in ("strong model", "patched")
    )
    weak = float(re.search(r"weak alone ([\d.]+)%", done.stdout)[1])
    assert strong > 85 and patched >= weak  # chance: 10 %
    assert float(re.search(r"largest difference of a score: (\S+)", done.stdout)[1]) < 1e-3
    assert (tmp_path / "patched.onnx").exists()
