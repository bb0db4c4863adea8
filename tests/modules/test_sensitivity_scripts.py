"""The two layer sensitivity scripts write the same files, from wherever they are run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOP, files_below, run_script
from shuffled_engine import ShuffledEngine

import engines.opening
import global_configure
from configures.base import load
from dataset.images import normalise
from dataset.splits import load_split
from models import files as model_files
from models.strong_model import graph_of, load_strong_model
from modules import files as module_files
from modules.kernel_importance import random_importance
from utils.artifacts import Artifacts

pytestmark = pytest.mark.slow

SMALL = ["--set", "sensitivity_ratios=0.3,1.0", "--set", "sensitivity_images=40"]
ONE, ALL = "preprocess/layer_sensitivity_analyzer.py", "scripts/run_layer_sensitivity_analyzer.py"


@pytest.fixture(params=[pytest.param("simcnn_x0_25", marks=pytest.mark.long), "rescnn_x0_25"])
def prepared(
    request: pytest.FixtureRequest, strong_roots: Callable[[str, str], Path], tmp_path: Path
) -> tuple[str, Path]:
    """A network, and a root_dir with a strong one of it and its kernels' importance."""
    root = Path(shutil.copytree(strong_roots(request.param, "digits_5"), tmp_path / "root"))
    artifacts, config = Artifacts(root, request.param, "digits_5"), load(request.param, "digits_5")
    module_files.kernel_importance(artifacts).save(random_importance(5, graph_of(config).units))
    return request.param, root


def test_one_layer_as_all_layers(prepared, run_main, monkeypatch, tmp_path):
    name, root = prepared
    args = ["--model", name, "--dataset", "digits_5", *SMALL]
    artifacts, config = Artifacts(root, name, "digits_5"), load(name, "digits_5")
    monkeypatch.setattr(global_configure, "root_dir", root)
    strong = load_strong_model(config, artifacts, torch.device("cpu"))
    done = run_main(ALL, *args, root=root)
    assert done.exit_code == 0, done
    folder = module_files.layer_sensitivity(artifacts, 0).path.parent
    written = files_below(folder)
    tied_layers = strong.units.tied_layers
    names = [f"layer_{layer:02d}.npy" for layer in tied_layers]
    assert sorted(written) == sorted(
        [*(f"layer_sensitivity.{kind}" for kind in ("csv", "png", "svg")), *names, "settings.json"]
    )
    assert written["layer_sensitivity.png"].startswith(b"\x89PNG")
    settings, made_with = json.loads(written["settings.json"]), load(name, "digits_5", SMALL[1::2])
    assert settings == {**settings, **json.loads(json.dumps(made_with.part_of("sensitivity")))}

    valid = load_split(config).valid.first(40)
    with torch.no_grad():
        images = normalise(torch.tensor(valid.pixels), valid.normalisation)
        right = strong.network(images).argmax(1).numpy() == valid.labels
    for layer in tied_layers:
        curve = np.load(module_files.layer_sensitivity(artifacts, layer).path)
        assert curve.dtype == np.float32
        assert curve[:, 0].tolist() == np.array([0.3, 1.0], np.float32).tolist()
        assert curve[1, 1] == np.float32(right.mean())  # the strong model itself

    first_of_3 = next(first for first, tied in tied_layers.items() if 3 in tied)
    for layer, filed_as in ((4, 4), (3, first_of_3)):
        file = module_files.layer_sensitivity(artifacts, filed_as).path
        file.unlink()
        single = run_main(ONE, *args, "--target_conv", layer, root=root)
        assert single.exit_code == 0, single
        assert ("are tied: measured together, as conv 1" in single.stdout) == (layer != filed_as)
        assert files_below(folder) == written
    # What is there is not measured again, unless it is asked for.
    file = module_files.layer_sensitivity(artifacts, 0)
    file.save(np.array([[0.3, 0.0], [1.0, 1.0]]))
    run_main(ALL, *args, root=root)
    assert file.load(2, 2)[0, 1] == 0
    before = files_below(folder)
    for ratios in ("0.5,1.0", "0.1,0.3,1.0"):
        other = run_main(ALL, *args, "--set", f"sensitivity_ratios={ratios}", root=root)
        other.refused("layer_sensitivity was made with other settings (sensitivity_ratios: [0.3, 1.0] there", "--fresh")
    assert files_below(folder) == before
    file.path.write_bytes(file.path.read_bytes()[:-1])  # a damaged one is simply measured again
    again = run_main(ALL, *args, root=root)
    assert f"damaged, so removed and made again: {file.path}" in again.stdout
    assert files_below(folder) == written
    weights = model_files.entire_model(artifacts).path.read_bytes()
    state = strong.network.state_dict()
    last_bias = list(state)[-1]
    model_files.entire_model(artifacts).save({**state, last_bias: state[last_bias] + 1})
    for script, more in ((ALL, ()), (ONE, ("--target_conv", 4))):
        run_main(script, *args, *more, root=root).refused("other settings (strong_model_sha256: ", "--fresh")
    assert files_below(folder) == written
    model_files.entire_model(artifacts).path.write_bytes(weights)
    fresh = run_main(ALL, *args, "--fresh", root=root)
    old = folder.with_name("layer_sensitivity.old_1")
    assert f"the old curves are now {old}\n" in fresh.stdout
    assert files_below(old) == files_below(folder) == written


def test_workers_of_an_engine_measure_the_same(prepared, run_main, monkeypatch):
    name, root = prepared
    args = ["--model", name, "--dataset", "digits_5", *SMALL]
    folder = module_files.layer_sensitivity(Artifacts(root, name, "digits_5"), 0).path.parent
    assert run_main(ALL, *args, root=root).exit_code == 0
    written = files_below(folder)
    monkeypatch.setattr(engines.opening, "LocalEngine", lambda **_: ShuffledEngine(count=2))
    assert run_main(ALL, *args, "--fresh", "--engine", "local", root=root).exit_code == 0
    assert files_below(folder) == written
    run_main(ALL, *args, "--address", "auto", root=root).refused("--address auto: only with --engine ray")


@pytest.mark.long
def test_from_their_own_folders(strong_roots, tmp_path, run_main):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    args = ["--model", "simcnn_x0_25", "--dataset", "digits_5"]
    random = ["--set", "importance_mode=random"]
    done = run_main("preprocess/kernel_importance_analyzer.py", *args, *random, root=root)
    assert done.exit_code == 0, done
    assert "importance_mode random: kernels in index order, nothing measured" in done.stdout
    single = run_script(ONE, *args, *SMALL, "--target_conv", 12, root=root, cwd=TOP / "preprocess")
    assert single.exit_code == 0, single
    folder = module_files.layer_sensitivity(Artifacts(root, "simcnn_x0_25", "digits_5"), 0).path.parent
    (written,) = [item for item in files_below(folder).items() if item[0] != "settings.json"]
    done = run_script(ALL, *args, *SMALL, root=root, cwd=TOP / "scripts")
    assert done.exit_code == 0, done
    assert f"saved {folder / 'layer_sensitivity.png'}" in done.stdout
    assert files_below(folder)[written[0]] == written[1]


def test_numbers_that_overflow_stop_with_where(strong_roots, tmp_path, run_main):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    args = ["--model", "simcnn_x0_25", "--dataset", "digits_5"]
    artifacts = Artifacts(root, "simcnn_x0_25", "digits_5")
    weights = model_files.entire_model(artifacts).load()
    units = graph_of(load("simcnn_x0_25", "digits_5")).units
    module_files.kernel_importance(artifacts).save(random_importance(5, units))
    importance = module_files.kernel_importance(artifacts).path.read_bytes()
    model_files.entire_model(artifacts).save({**weights, "convs.0.weight": weights["convs.0.weight"] * 1e38})
    done = run_main("preprocess/kernel_importance_analyzer.py", *args, root=root)
    done.refused("kernels is NaN or infinite: train the strong model again with: python train.py", "--fresh")
    assert module_files.kernel_importance(artifacts).path.read_bytes() == importance
    for script, more in ((ALL, ()), (ONE, ("--target_conv", 3))):
        done = run_main(script, *args, *SMALL, *more, root=root)
        done.refused("a module's outputs are NaN or infinite; retrain the strong model")
    assert not list(module_files.sensitivity_settings(artifacts).path.parent.glob("*.npy"))


def test_importance_of_another_strong_model_is_refused(strong_roots, tmp_path, run_main):
    root = Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits_5"), tmp_path / "root"))
    args = ["--model", "simcnn_x0_25", "--dataset", "digits_5"]
    assert run_main("preprocess/kernel_importance_analyzer.py", *args, root=root).exit_code == 0
    model = model_files.entire_model(Artifacts(root, "simcnn_x0_25", "digits_5"))
    weights = model.load()
    model.save({**weights, "convs.0.bias": weights["convs.0.bias"] + 0.1})
    for script, more in ((ONE, ("--target_conv", 3)), ("module_explorer.py", ("--target_class", 0))):
        done = run_main(script, *args, *SMALL, *more, root=root)
        done.refused("kernel_importance is of another strong model", "python preprocess/kernel_importance_analyzer.py")
