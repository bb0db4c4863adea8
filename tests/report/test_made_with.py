"""The settings and commands that a report reads from what the stages recorded."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP
from hypothesis import given
from hypothesis import strategies as st

from configures.base import KINDS, SETTABLE, load
from configures.setting import read_value
from dataset.split_record import SplitRecord
from dataset.splits import TRAIN_SHARE
from models import files as model_files
from models.network_settings import NetworkSettings
from report.made_with import (
    DEFAULT_MAX_LOSS,
    SHIPPED,
    MadeWith,
    as_recorded,
    as_text,
    is_of_log,
    rounds_again,
    weak_images,
)
from report.provenance import setting_rows
from search.gradient.log import Round, smallest_within
from search.gradient.rounds import rounds_to_do
from utils.artifacts import Artifacts
from utils.errors import UserError

CONFIG = load("simcnn_x0_25", "digits_5")


@pytest.mark.parametrize("name", SETTABLE)
def test_a_setting_as_text_is_read_as_the_same_value(name: str) -> None:
    value = getattr(CONFIG, name)
    assert read_value(name, as_text(value), KINDS[name]) == value


def test_what_was_recorded_becomes_the_command_that_makes_it_again() -> None:
    content = {"steps": 40, "batch_size": 32, "mirror": True, "overlap": "much", "seed": 3, "precision": "bfloat16"}
    names = {"steps": "mask_steps", "batch_size": "mask_batch_size", "mirror": None, "overlap": "mask_own_class"}
    made_with = MadeWith.of(content, names, ["--keep", "0.4"])
    assert made_with.settings == {"mask_steps": 40, "mask_batch_size": 32, "mirror": True}  # what is no value is left
    artifacts = Artifacts(Path("root"), "simcnn_x0_25", "digits_5", ("source=digits", "mask_steps=7"))
    assert made_with.command(artifacts, "module_gradient_search.py", CONFIG) == (
        "CNNMOD_SEED=3 CNNMOD_PRECISION=bfloat16 "
        "python module_gradient_search.py --model simcnn_x0_25 --dataset digits_5 "
        "--set mask_steps=40 --set mirror=true --set source=digits --keep 0.4"
    )


def test_seed_and_precision_that_are_not_said_are_those_that_we_ship() -> None:
    code = "import global_configure as g; print(g.seed, g.precision)"
    env = {name: value for name, value in os.environ.items() if not name.startswith("CNNMOD_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(SHIPPED["seed"]), SHIPPED["precision"]]


def search(
    configured: tuple[float, ...], keep: float | None, max_loss: float | None, lost: dict[int, int]
) -> tuple[list[Round], int]:
    """The rounds of a gradient search, which lose `lost[number]` of 100 images, and the chosen one."""
    keeps = rounds_to_do(configured, keep)
    limit = DEFAULT_MAX_LOSS if max_loss is None else max_loss
    rounds: list[Round] = []
    while len(rounds) < len(keeps):
        if keep is None and rounds and rounds[-1].points_lost > limit:
            break
        number = len(rounds)
        rounds.append(Round(number, keeps[number], keeps[number], 0.4, 100, 90, 90 - lost[number], 1, 1.0))
    return rounds, rounds[-1].number if keep is not None else smallest_within(rounds, limit).number


@given(
    st.lists(st.sampled_from([0.2, 0.3, 0.4, 0.5, 0.6, 0.8]), min_size=1, max_size=5),
    st.one_of(st.none(), st.sampled_from([0.25, 0.4, 0.9])),
    st.one_of(st.none(), st.integers(0, 6)),
    st.lists(st.integers(-2, 7), min_size=8, max_size=8),
    st.booleans(),
)
def test_the_options_found_again_choose_the_same_round(
    keeps: list[float], keep: float | None, max_loss: int | None, lost: list[int], is_as_configured: bool
) -> None:
    given_keeps = tuple(sorted(keeps, reverse=True))
    losses = dict(enumerate(lost))
    try:
        rounds, chosen = search(given_keeps, keep, max_loss, losses)
    except UserError:  # no round stays within
        return
    configured = given_keeps if is_as_configured else (0.7, 0.1)
    again, options = rounds_again(rounds, chosen, configured)
    words = dict(zip(options[::2], map(float, options[1::2]), strict=True))
    found, same = search(again, words.get("--keep"), words.get("--max_loss"), losses)
    assert same == chosen and [row.keep for row in found[: chosen + 1]] == [row.keep for row in rounds[: chosen + 1]]


def counts(each: int, target: int, test: int, classes: int) -> list[int]:
    """Training, validation and test images of a weak model, as it is made of `each` images per class."""
    own, of_target = int(classes * each * TRAIN_SHARE), int(each * TRAIN_SHARE)
    return [own + (target or of_target), classes * each - own + each - of_target, test * (classes + 1)]


@given(st.integers(2, 200), st.integers(0, 20), st.integers(1, 50), st.integers(1, 9))
def test_the_images_of_weak_models_are_told_by_their_counts(each: int, target: int, test: int, classes: int) -> None:
    recorded = counts(each, target, test, classes)
    now = {"weak_train_images": each, "weak_target_images": 0, "weak_test_images": 7}
    found = weak_images(recorded, classes, now, counts(each, 0, 7, classes))
    assert counts(each, found["weak_target_images"], found["weak_test_images"], classes) == recorded
    unknown = weak_images(recorded, classes, {**now, "weak_train_images": 10_000}, [])
    assert not unknown or counts(*(unknown[name] for name in now), classes) == recorded


def test_modules_are_of_the_log_whose_seconds_they_count() -> None:
    rows = [Round(n, 0.5, 0.5, 0.4, 100, 90, 90, 1, 1.5) for n in range(3)]
    found = {"method": "gradient", "round": 1, "seconds": 3.0}
    assert is_of_log(found, "gradient", rows)  # and one round more was learned since
    assert is_of_log({"method": "gradient", "round": 1}, "gradient", rows)  # of an earlier version
    for other in ({"seconds": 4.0}, {"round": 3}, {"method": "genetic"}, {"round": None}):
        assert not is_of_log({**found, **other}, "gradient", rows)


def test_the_strong_models_record_says_classes_and_images_but_not_the_code_to_run(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, "simcnn_x0_25", "digits_5")
    assert as_recorded(CONFIG, artifacts) == CONFIG
    recorded = dataclasses.replace(NetworkSettings.of(CONFIG), network="x.py:build", num_classes=3, image_side=48)
    model_files.network_settings(artifacts).save(recorded)
    model_files.trained_on(artifacts).save(SplitRecord(("a", "b", "c"), {}, {}))
    config = as_recorded(CONFIG, artifacts)
    assert (config.num_classes, config.classes, config.image_side) == (3, ("a", "b", "c"), 48)
    assert config.network == CONFIG.network


def test_the_table_of_settings_has_the_values_used() -> None:
    recorded = {
        "genetic search": MadeWith({"population": 7, "mirror": True}),
        "gradient search": MadeWith({"mirror": False}),
    }
    rows = {row[0]: row[1:-1] for row in setting_rows(CONFIG, recorded)}
    assert rows["population"] == ("7", "genetic search", "20", "100")
    assert rows["mirror"][0] == "True (genetic search); False (gradient search)"
    assert rows["epochs"] == ("30", "", "", "200")
    assert len(rows) == len(dataclasses.fields(CONFIG))
