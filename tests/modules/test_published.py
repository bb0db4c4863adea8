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
from models.graph import Graph, trace
from models.strong_model import graph_of, load_strong_model
from modules.module import extract_modules
from modules.module_set import SetRecord
from modules.module_sets import open_set
from modules.published import (
    TOP,
    PublishedModel,
    check_can_publish,
    in_half_precision,
    joined,
    load_published,
    save_published,
)
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import save_array

MODEL, DATASET = "simcnn_x0_25", "digits_5"
NAMES = ("--model", MODEL, "--dataset", DATASET)
CPU = torch.device("cpu")
PUBLISH, TAKE = "experiments/results/publish_model.py", "scripts/take_published_model.py"


RESNET = load("resnet20", "digits")  # has batch norms


def random_modules(graph: Graph, count: int) -> tuple[np.ndarray, list[dict[str, torch.Tensor]]]:
    """Masks (count, K) of the first classes' modules, and state_dicts of random weights that fit them."""
    random, units = np.random.default_rng(0), graph.units
    masks = np.stack([units.spread(random.random(units.num_units) < 0.6) for _ in range(count)])
    modules = extract_modules(graph, masks)
    return masks, [{name: torch.rand_like(value) for name, value in each.state_dict().items()} for each in modules]


def published_of(masks: np.ndarray, states: list[dict[str, torch.Tensor]]) -> PublishedModel:
    """Modules, and a strong model that is of no network."""
    weights = {
        "conv.weight": torch.randn(4, 3, 3, 3),
        "norm.running_var": torch.rand(4),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    trained_on = SplitRecord(("a", "b"), {"train": 8}, {"train": 123})
    images = np.random.default_rng(0).integers(0, 2**63, 8, np.uint64)
    classes, kept = tuple("abcdefghij"[: len(masks)]), tuple(masks.sum(1).tolist())
    report = SetRecord(classes, masks.shape[1], kept, 0.5, 9, 8, 7, 9, 8, 6, {"method": "genetic"}, parent="parent")
    return PublishedModel(weights, masks, joined(states), NetworkSettings.of(RESNET), trained_on, images, report)


@pytest.fixture
def published() -> PublishedModel:
    return published_of(*random_modules(graph_of(RESNET), 10))


def test_it_comes_back_in_half_precision(published, tmp_path):
    save_published(tmp_path, published)
    back = load_published(tmp_path)
    assert (back.network, back.trained_on, back.report) == (published.network, published.trained_on, published.report)
    assert np.array_equal(back.masks, published.masks) and np.array_equal(back.images, published.images)
    for before, after in ((published.weights, back.weights), (published.module_weights, back.module_weights)):
        assert before.keys() == after.keys()
        for name, rounded in in_half_precision(before).items():
            assert torch.equal(after[name], rounded) and rounded.dtype == before[name].dtype
            is_exact = name.endswith(("running_mean", "running_var", "tracked"))
            assert torch.equal(rounded, before[name] if is_exact else before[name].half().float())
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as arrays:
        assert {str(arrays[name].dtype) for name in arrays if name.endswith((".weight", ".bias"))} == {"float16"}


def test_each_module_has_its_own_weights_again(tmp_path):
    no_linear_end = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 2, 3), torch.nn.AdaptiveAvgPool2d(1)
    )
    pooled = trace(torch.nn.Sequential(no_linear_end, torch.nn.Flatten()), 8, num_classes=2)
    for graph, count in ((graph_of(RESNET), 10), (pooled, 2)):
        masks, states = random_modules(graph, count)
        save_published(tmp_path, published_of(masks, states))
        back = load_published(tmp_path).modules(graph)
        for module, state in zip(back, states, strict=True):
            found, expected = module.state_dict(), in_half_precision(state)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "change", ["a weight lacks", "a weight more", "a value more", "a value less", "a kernel more", "a class less"]
)
def test_weights_that_do_not_fit_the_masks_are_refused_before_anything_is_written(
    change, published, tmp_path, run_main
):
    masks, weights = published.masks.copy(), dict(published.module_weights)
    if change == "a weight lacks":
        weights.pop("fc.bias")
    elif change == "a weight more":
        weights["other"] = torch.ones(2)
    elif change in ("a value more", "a value less"):
        weights["fc.bias"] = torch.ones(11 if change == "a value more" else 9)
    elif change == "a kernel more":
        masks[1, masks[1].argmin()] = True
    else:
        masks = masks[:-1]
    names, kept = published.report.classes[: len(masks)], tuple(masks.sum(1).tolist())
    report = dataclasses.replace(published.report, classes=names, kernels_kept=kept, target_classes=())
    folder = tmp_path / "published"
    save_published(folder, dataclasses.replace(published, masks=masks, module_weights=weights, report=report))
    run = run_main(TAKE, "--model", "resnet20", "--dataset", "digits", "--folder", folder, root=tmp_path)
    run.refused("the modules in", "are not of resnet20: ", "; take its files again")
    assert not Artifacts(tmp_path, "resnet20", "digits").folder.exists()


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
    report, weights = published.report, published.module_weights
    wrong = (
        {"masks": published.masks[:1]},
        {"masks": published.masks.astype(np.uint8)},
        {"masks": ~published.masks},
        {"report": dataclasses.replace(report, target_classes=(*range(9), 8))},
        {"module_weights": {**weights, "fc.bias": weights["fc.bias"] * torch.nan}},
        {"images": published.images[:-1]},
        {"images": published.images.astype(np.int64)},
    )
    for changes in wrong:
        save_published(tmp_path, dataclasses.replace(published, **changes))
        with pytest.raises(UserError, match="not a published model of this version: expected"):
            load_published(tmp_path)
    save_published(tmp_path, published)
    path = tmp_path / "arrays.npz"
    content = bytearray(path.read_bytes())
    for damaged in (content[:-50], b"", content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot use .*arrays.npz"):
            load_published(tmp_path)
    zeros = {f"modules/{number}": np.zeros(10**6) for number in range(3)}
    for write, arrays, expected in (
        (np.savez, {"kernels": np.array([{}], object)}, "Object arrays cannot be loaded"),
        (np.savez_compressed, zeros, "announces more bytes than it holds"),
    ):
        write(path, **arrays)
        with pytest.raises(UserError, match=rf"cannot use .*arrays.npz: .*{expected}"):
            load_published(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"missing .*arrays.npz"):
        load_published(tmp_path)


@pytest.mark.parametrize("folder", sorted(filter(Path.is_dir, TOP.iterdir())), ids=lambda folder: folder.name)
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
    few = ("mask_keeps=0.7", "mask_steps=4", "mask_batch_size=8", "fine_tuning_steps=2")
    settings = [word for setting in few for word in ("--set", setting)]
    assert run_main("module_gradient_search.py", *NAMES, "--keep", "0.6", *settings, root=here).exit_code == 0
    assert run_main("module_fine_tuner.py", *NAMES, *settings, root=here).exit_code == 0
    split = load_split(config)
    model_files.trained_on(Artifacts(here, MODEL, DATASET)).save(record_of(split))

    for part in ("weights", "module_weights"):

        def corrupted(folder: Path, model: PublishedModel, part: str = part) -> None:
            weights = {name: 1.1 * value for name, value in getattr(model, part).items()}
            save_published(folder, dataclasses.replace(model, **{part: weights}))

        with monkeypatch.context() as patch:
            patch.setattr("modules.published.save_published", corrupted)
            run = run_main(PUBLISH, *NAMES, "--folder", folder, root=here)
            run.refused("test images differently than reported; nothing was saved")
            assert not list(folder.iterdir())
    run = run_main(PUBLISH, *NAMES, "--folder", folder, root=here)
    assert run.exit_code == 0, run
    run = run_main(TAKE, *NAMES, "--folder", folder, root=there)
    assert run.exit_code == 0, run

    sets = [open_set(config, Artifacts(root, MODEL, DATASET)) for root in (here, there)]
    before, after = (each.record for each in sets)
    in_full = (model_files.entire_model(Artifacts(here, MODEL, DATASET)).path, *sets[0].folder.glob("*.pth"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 0.55 * sum(path.stat().st_size for path in in_full)
    assert (after.kernels_kept, after.parent) == (before.kernels_kept, before.parent)
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
