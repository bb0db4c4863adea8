"""The settings and commands that a report reads from what the stages recorded."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP

from configures.base import KINDS, SETTABLE, load
from configures.setting import read_value
from dataset.images import SplitRecord
from models import files as model_files
from models.files import NetworkSettings
from modules.module_set import ModuleSet, SetRecord
from report.made_with import SHIPPED, MadeWith, as_recorded, as_text, of_set
from report.provenance import setting_rows
from utils.artifacts import Artifacts

CONFIG = load("simcnn_x0_25", "digits_5")


@pytest.mark.parametrize("name", SETTABLE)
def test_a_setting_as_text_is_read_as_the_same_value(name: str) -> None:
    value = getattr(CONFIG, name)
    assert read_value(name, as_text(value), KINDS[name]) == value


def test_what_was_recorded_becomes_the_command_that_makes_it_again() -> None:
    content = {"steps": 40, "batch_size": 32, "seed": 3, "precision": "bfloat16"}
    configured = {"mask_steps": 40, "mirror": True, "mask_own_class": "much", "sensitive_layers": [0, 2], "steps": 3}
    made_with = MadeWith.of(content, configured, ["--keep", "0.4"])
    expected = {"mask_steps": 40, "mirror": True, "sensitive_layers": (0, 2)}  # what is no value is left out
    assert made_with.settings == expected and MadeWith.of(content).settings == {"batch_size": 32}
    artifacts = Artifacts(Path("root"), "simcnn_x0_25", "digits_5", ("source=digits", "mask_steps=7"))
    command = made_with.command(artifacts, "module_gradient_search.py", CONFIG)
    start, *sets = command.removesuffix(" --keep 0.4").split(" --set ")
    assert start == (
        "CNNMOD_SEED=3 CNNMOD_PRECISION=bfloat16 "
        "python module_gradient_search.py --model simcnn_x0_25 --dataset digits_5"
    )
    assert sets == ["mask_steps=40", "mirror=true", "sensitive_layers=0,2", "source=digits"]


def test_seed_and_precision_that_are_not_said_are_those_that_we_ship() -> None:
    code = "import global_configure as g; print(g.seed, g.precision)"
    env = {name: value for name, value in os.environ.items() if not name.startswith("CNNMOD_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(SHIPPED["seed"]), SHIPPED["precision"]]


def test_the_strong_models_record_says_classes_and_images_but_not_the_code_to_run(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, "simcnn_x0_25", "digits_5")
    assert as_recorded(CONFIG, artifacts) == CONFIG
    recorded = dataclasses.replace(NetworkSettings.of(CONFIG), network="x.py:build", num_classes=3, image_side=48)
    model_files.network_settings(artifacts).save(recorded)
    model_files.trained_on(artifacts).save(SplitRecord(("a", "b", "c"), {}, {}))
    config = as_recorded(CONFIG, artifacts)
    assert (config.num_classes, config.classes, config.image_side) == (3, ("a", "b", "c"), 48)
    assert config.network == CONFIG.network


@pytest.mark.parametrize(
    ("name", "is_given"),
    [
        *(("gradient", False), ("gradient-2", False), ("gradient_class_3_8", False), ("gradient-2_tuned", False)),
        *(("gradient_12_classes_0a1b2c3d", False), ("gradient_flops_60", True), ("keep_50", True)),
    ],
)
def test_the_command_of_a_set_names_it_where_it_would_have_another_name(name: str, is_given: bool) -> None:
    record = SetRecord(
        ("a", "b"), 4, (2, 2), 0.5, 10, 9, 9, 10, 9, 9, {"method": "gradient"}, made_with={"date": "now"}
    )
    found = of_set(ModuleSet(name, Path("none"), record, CONFIG, ""))
    assert found.options == (("--as", name) if is_given else ())


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
