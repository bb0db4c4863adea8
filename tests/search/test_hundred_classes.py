"""A genetic search of a hundred classes: it runs to its end, with the same bytes whoever evaluates its modules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, files_below, fit_last_layer
from shuffled_engine import ShuffledEngine
from torch import Tensor, nn

import global_configure
from configures.base import load
from dataset.splits import load_split
from models import files as model_files
from models import names
from models.opening import Stage, default_config
from modules.module_sets import latest_name
from search.genetic import chunks
from search.genetic import files as genetic_files
from search.genetic.generations import open_search
from search.genetic.on_engine import search_on_engine
from utils import progress
from utils.artifacts import Artifacts, save_json
from utils.files import save_array

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("module search")]
CLASSES, GENERATIONS = 100, 1
SETTINGS = ["population=4", "parents=3", "elites=1", "survivors_min=4", "survivors_max=12", "groups=4"]
NAMES = ["--model", "tiny", "--dataset", "hundred", *(word for setting in SETTINGS for word in ("--set", setting))]


class Tiny(nn.Module):
    """Few operations for each of many modules."""

    def __init__(self, num_classes: int, width: float, image_side: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 4, stride=4), nn.ReLU(), nn.Conv2d(12, 48, 2, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.fc = nn.Linear(48 * (image_side // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layers(images))


def write_images(root: Path) -> None:
    """A decoded dataset of a hundred classes: a random image of each, and noise."""
    folder, random = root / "data" / "decoded_dataset" / "hundred", np.random.default_rng(0)
    of_class = random.integers(0, 256, (CLASSES, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    for part, count in (("train", 8), ("test", 1)):
        labels = np.arange(CLASSES).repeat(count)
        noisy = of_class[labels] + random.normal(0, 60, (len(labels), 32, 32, 3))
        save_array(folder / f"{part}_images.npy", noisy.clip(0, 255).astype(np.uint8))
        save_array(folder / f"{part}_labels.npy", labels)
    classes = [f"class {number:02d}" for number in range(CLASSES)]
    save_json(folder / "description.json", {"fingerprint": "", "classes": classes, "parts": ["train", "test"]})


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_main: Callable[..., Run]) -> list[Path]:
    """Two root_dirs with the same strong model and kernel importance."""
    monkeypatch.setitem(names.NETWORKS, "tiny", Tiny)
    monkeypatch.setattr(chunks, "LEAST_SECONDS", 0.0)
    torch.manual_seed(0)
    network, made = Tiny(CLASSES, 1.0, 32), [tmp_path / name for name in ("explorers", "driver")]
    for root in made:
        write_images(root)
        monkeypatch.setattr(global_configure, "root_dir", root)
        if root == made[0]:
            fit_last_layer(network, load_split(default_config("tiny", "hundred")).train, CLASSES)
        model_files.entire_model(Artifacts(root, "tiny", "hundred")).save(network.state_dict())
        measured = run_main("preprocess/kernel_importance_analyzer.py", *NAMES, root=root)
        assert measured.exit_code == 0, measured
    return made


def found(root: Path) -> dict[str, bytes]:
    artifacts = Artifacts(root, "tiny", "hundred")
    return {
        name: content
        for place in ("ga", f"modules/{latest_name(artifacts)}")
        for name, content in files_below(artifacts.folder / place).items()
        if name.startswith(("gen_", "class_"))
    }


def test_any_number_of_explorers_finds_the_same(
    roots: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    run_main: Callable[..., Run],
    capsys: pytest.CaptureFixture,
) -> None:
    for generation in range(GENERATIONS + 1):
        until = [*NAMES, "--set", f"generations={generation}"]
        for first in ((0, 1, 2), (2, 0, 1))[generation]:
            classes = range(first, CLASSES, 3)
            explored = run_main("module_explorer.py", *until, "--target_class", *classes, root=roots[0])
            assert explored.exit_code == 0, explored
        recorded = run_main("module_recorder.py", *until, root=roots[0])
        assert recorded.exit_code == 0, recorded
    monkeypatch.setattr(global_configure, "root_dir", roots[1])
    config = load("tiny", "hundred", [*SETTINGS, f"generations={GENERATIONS}"], default_config)
    artifacts = Artifacts(roots[1], "tiny", "hundred")
    search = open_search(Stage(config, artifacts, torch.device("cpu"), torch.float32, global_configure.seed))
    with monkeypatch.context() as patch:
        patch.setattr(progress, "FIRST_LINE", 0)  # an estimate, however short the search is
        capsys.readouterr()
        rows = search.start(fresh=False, checkpoint=None, patience=None)
    assert "2 generations of 400 modules, on one core: expected to take " in capsys.readouterr().out
    search_on_engine(search, rows, None, ShuffledEngine(count=7, seed=7), None)
    assert found(roots[1]) == found(roots[0])
    assert len(rows) == GENERATIONS + 1 and len(rows[-1].ensemble) == CLASSES
    assert rows[-1].accuracy > 0.2  # of a strong model that is far above chance, 0.01
    assert genetic_files.end(artifacts).exists()
    assert len([name for name in found(roots[0]) if name.startswith("class_")]) == 2 * CLASSES
