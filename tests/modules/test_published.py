"""A strong model and its modules, published in half precision and taken again."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import keep_few_images

from configures.base import load
from dataset.images import SplitRecord, record_of
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import predict
from models.files import NetworkSettings
from models.strong_model import load_strong_model
from modules.module import Tuning
from modules.module_set import SetRecord
from modules.module_sets import open_set
from modules.published import TOP, PublishedModel, check_can_publish, in_half_precision, load_published, save_published
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import save_array

MODEL, DATASET = "simcnn_x0_25", "digits_5"
NAMES = ("--model", MODEL, "--dataset", DATASET)
CPU = torch.device("cpu")
PUBLISH, TAKE = "experiments/results/publish_model.py", "scripts/take_published_model.py"


@pytest.fixture
def published() -> PublishedModel:
    """One of a network that there is not."""
    random = np.random.default_rng(0)
    weights = {"conv.weight": torch.randn(4, 3, 3, 3), "norm.num_batches_tracked": torch.tensor(7)}
    gains, logit_maps = (random.uniform(0.5, 2, shape).astype(np.float32) for shape in ((2, 4), (2, 2)))
    network = NetworkSettings("net", 2, 32, "stretch", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    trained_on = SplitRecord(("a", "b"), {"train": 8}, {"train": 123})
    report = SetRecord(("a", "b"), 4, (2, 3), 0.5, 9, 8, 7, 9, 8, 6, {"method": "genetic"}, (0.9, 1.0), (0.8, 0.9))
    masks, images = random.random((2, 4)) < 0.5, random.integers(0, 2**63, 8, np.uint64)
    return PublishedModel(weights, masks, Tuning(gains, logit_maps), network, trained_on, images, report)


def test_it_comes_back_in_half_precision(published, tmp_path):
    save_published(tmp_path, published)
    back = load_published(tmp_path)
    assert (back.network, back.trained_on, back.report) == (published.network, published.trained_on, published.report)
    assert np.array_equal(back.masks, published.masks) and np.array_equal(back.images, published.images)
    assert np.array_equal(back.tuning.gains, published.tuning.gains)
    assert np.array_equal(back.tuning.logit_maps, published.tuning.logit_maps)
    assert back.weights.keys() == published.weights.keys()
    for name, halved in in_half_precision(published.weights).items():
        assert torch.equal(back.weights[name], halved) and halved.dtype == published.weights[name].dtype
        assert torch.allclose(halved.float(), published.weights[name].float(), rtol=1e-3)


def test_only_a_published_model_is_replaced(published, tmp_path):
    folder, model_folder = tmp_path / "published", tmp_path / "model"
    check_can_publish(folder, model_folder)
    save_published(folder, published)
    check_can_publish(folder, model_folder)
    for other, name in ((folder, "arrays.npz"), (tmp_path / "mine", "report.json")):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "report.json").write_text("{}")
        with pytest.raises(UserError, match=f"{name} is there, and is not part of a published model"):
            check_can_publish(other, folder)


def test_a_weight_that_half_precision_cannot_hold_is_refused():
    with pytest.raises(UserError, match="large: expected weights up to 65,504"):
        in_half_precision({"small": torch.ones(2), "large": torch.tensor([1e5])})


def test_what_is_not_a_published_model_is_refused(published, tmp_path):
    with pytest.raises(UserError, match=r"missing .*network\.json; first run: python experiments"):
        load_published(tmp_path)
    wrong = (
        {"masks": published.masks[:1]},
        {"masks": published.masks.astype(np.uint8)},
        {"tuning": Tuning(-published.tuning.gains, published.tuning.logit_maps)},
        {"tuning": Tuning(published.tuning.gains, published.tuning.logit_maps * np.float32(np.nan))},
        {"images": published.images[:-1]},
        {"images": published.images.astype(np.int64)},
    )
    for changes in wrong:
        save_published(tmp_path, dataclasses.replace(published, **changes))
        with pytest.raises(UserError, match="not a published model: expected"):
            load_published(tmp_path)
    save_published(tmp_path, published)
    path = tmp_path / "arrays.npz"
    content = bytearray(path.read_bytes())
    for damaged in (content[:-50], b"", content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot use .*arrays.npz"):
            load_published(tmp_path)
    np.savez(path, kernels=np.array([{}], object))
    with pytest.raises(UserError, match=r"cannot use .*arrays.npz"):
        load_published(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"missing .*arrays.npz"):
        load_published(tmp_path)


@pytest.mark.parametrize("folder", sorted(TOP.iterdir()), ids=lambda folder: folder.name)
def test_what_the_project_publishes_can_be_taken(folder, tmp_path, run_main):
    model, dataset = folder.name.rsplit("_", 1)
    run = run_main(TAKE, "--model", model, "--dataset", dataset, root=tmp_path)
    assert run.exit_code == 0 and "strong model and module set published in" in run.stdout, run
    config, artifacts = load(model, dataset), Artifacts(tmp_path, model, dataset)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert load_strong_model(config, artifacts, CPU).forward(images).isfinite().all()
    assert open_set(config, artifacts).module(0, CPU)(images).isfinite().all()


@pytest.mark.slow
def test_published_and_taken_it_answers_alike(strong_roots, tmp_path, run_main, monkeypatch):
    config = load(MODEL, DATASET)
    here = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path / "here"))
    keep_few_images(here)
    there, folder = tmp_path / "there", tmp_path / "published"
    shutil.copytree(here / "data" / "decoded_dataset", there / "data" / "decoded_dataset")
    for part in ("train", "test"):  # in another order
        for path in (there / "data" / "decoded_dataset").glob(f"*/{part}_*.npy"):
            save_array(path, np.load(path, allow_pickle=False)[::-1])
    few = [word for s in ("mask_keeps=0.7", "mask_steps=4", "mask_batch_size=8") for word in ("--set", s)]
    assert run_main("module_gradient_search.py", *NAMES, "--keep", "0.6", *few, root=here).exit_code == 0
    split = load_split(config)
    model_files.trained_on(Artifacts(here, MODEL, DATASET)).save(record_of(split))

    def corrupted(folder: Path, model: PublishedModel) -> None:
        weights = {name: 1.1 * value for name, value in model.weights.items()}
        save_published(folder, dataclasses.replace(model, weights=weights))

    with monkeypatch.context() as patch:
        patch.setattr("modules.published.save_published", corrupted)
        run = run_main(PUBLISH, *NAMES, "--folder", folder, root=here)
        run.refused("test images differently than reported; nothing was saved")
        assert not list(folder.iterdir())
    run = run_main(PUBLISH, *NAMES, "--folder", folder, root=here)
    assert run.exit_code == 0, run
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    run = run_main(TAKE, *NAMES, "--folder", folder, root=there)
    assert run.exit_code == 0, run

    sets = [open_set(config, Artifacts(root, MODEL, DATASET)) for root in (here, there)]
    before, after = (each.record for each in sets)
    assert after.kernels_kept == before.kernels_kept
    for name in ("valid_right_strong", "valid_right_composed", "test_right_strong", "test_right_composed"):
        assert abs(getattr(after, name) - getattr(before, name)) <= 1
    for target_class in range(config.num_classes):
        old, new = (predict(each.module(target_class, CPU), split.test, CPU) for each in sets)
        assert float((new - old).abs().max()) < 1e-2 * float(old.abs().max())

    images = run_main("preprocess/module_output_collector.py", *NAMES, root=there)
    assert images.exit_code == 0, images  # those of the strong model, wherever they stand
    evaluated = run_main("train.py", *NAMES, "--evaluation", root=there)
    assert f"({after.test_right_strong} of {after.test_images})" in evaluated.stdout, evaluated

    run_main(TAKE, *NAMES, "--folder", folder, root=there).refused("is there, a strong model: --fresh")
    again = run_main(TAKE, *NAMES, "--folder", folder, "--fresh", root=there)
    assert again.exit_code == 0 and "the old folder is now" in again.stdout, again
    run = run_main(TAKE, "--model", MODEL, "--dataset", "digits", "--folder", folder, root=tmp_path / "other")
    run.refused("is of another network (num_classes: 5 there, 10 now)")
