"""The peak memory of a gradient search does not grow with the number of its modules."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import global_configure
from configures.base import load
from dataset.images import IMAGENET, Images, Split
from models import files as model_files
from models.opening import Stage
from models.strong_model import build_strong_network, load_with_checksum
from search.driver import run_method, write_modules
from search.gradient.method import Gradient
from utils.artifacts import Artifacts
from utils.estimate import peak_memory

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_a_hundred_modules_take_as_much_memory_as_ten(tmp_path: Path) -> None:
    from conftest import run_program  # which a search's own process does not need

    found = []
    for classes in (10, 100):
        command = [sys.executable, str(Path(__file__)), str(classes)]
        done = run_program(command, root=tmp_path / str(classes), cwd=tmp_path, env={"PYTHONPATH": str(TOP)})
        assert done.exit_code == 0, done
        found.append(int(done.stdout.split()[-1]))
    assert found[1] <= 1.2 * found[0]


def search(classes: int) -> None:
    """Search modules of a random network of some classes, in one round of a step, and print the peak memory in MiB."""
    random = np.random.default_rng(0)

    def images(count: int) -> Images:
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Images(pixels, np.arange(count) % classes, IMAGENET)

    settings = {"num_classes": classes, "classes": (), "mask_keeps": (0.3,), "mask_steps": 1, "mask_batch_size": 4}
    config = dataclasses.replace(load("simcnn_x0_25", "cifar10"), **settings)
    artifacts, device = Artifacts(Path(global_configure.root_dir), config.model, config.dataset), torch.device("cpu")
    torch.manual_seed(0)
    model_files.entire_model(artifacts).save(build_strong_network(config).state_dict())
    stage = Stage(config, artifacts, device, torch.float32, 0)
    strong, checksum = load_with_checksum(config, artifacts, device)
    split = Split(tuple(map(str, range(classes))), images(40), images(10), images(10))
    method = Gradient(max_loss=100)
    files = method.files(artifacts)
    rows = run_method(stage, strong, split, method, files, checksum)
    write_modules(stage, strong, split, method, files, rows, None)
    print(peak_memory() // 2**20)


if __name__ == "__main__":
    search(int(sys.argv[1]))
