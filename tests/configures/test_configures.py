"""Every configuration loads, and a wrong setting stops at the door with the right ones named."""

import dataclasses
import re
import sys
import typing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from conftest import Run
from hypothesis import example, given, settings

import configures
from configures import base
from configures.base import Config, known_configurations, load, override
from configures.setting import SettingError
from models.files import NetworkSettings
from models.names import is_own_network
from models.opening import open_stage, stage_parser
from models.strong_model import graph_of, strong_model_training
from search.gradient.goal import goal_of
from search.gradient.trainer import fine_tuning_settings, search_settings

PLAIN = Config("simcnn", "cifar10", 10)
SETTINGS = sorted(field.name for field in dataclasses.fields(Config) if field.name not in ("model", "dataset"))


@pytest.mark.slow
@pytest.mark.parametrize("name", known_configurations())
def test_every_configuration_loads_and_fits_its_network(name: str) -> None:
    model, dataset = next(
        (name[: -len(dataset) - 1], dataset)
        for dataset in ("svhn_5", "digits_5", "cifar10", "cifar100", "svhn", "digits")
        if name.endswith(f"_{dataset}")
    )
    config = load(model, dataset)
    assert config.name == name
    assert is_own_network(config.network_name)
    assert set(config.sensitive_layers) < set(range(len(graph_of(config).units.layers)))
    assert config.weak_model == "" or is_own_network(config.weak_model)
    assert not set(config.weak_classes) & set(config.classes)
    assert max(size for size, _ in config.accuracy_thresholds) >= config.num_classes


@pytest.mark.parametrize("model", ["simcnn", "rescnn"])
@pytest.mark.parametrize("dataset", ["cifar10", "svhn", "svhn_5"])
def test_published_settings(model: str, dataset: str) -> None:
    config = load(model, dataset)
    assert (config.epochs, config.batch_size, config.learning_rate) == (200, 128, 0.01)
    assert (config.schedule, config.milestones, config.momentum, config.weight_decay) == ("step", (60, 120), 0.9, 1e-4)
    assert (config.alpha, config.groups, config.groups_wide, config.wide_layer) == (0.9, 10, 100, 256)
    assert config.mirror == (dataset == "cifar10")
    if dataset == "svhn_5":
        assert (config.num_classes, config.classes, config.image_source) == (5, ("0", "1", "2", "3", "4"), "svhn")
        assert config.weak_classes == ("6", "7", "8", "9")
    else:
        assert (config.population, config.parents, config.elites, config.generations) == (100, 50, 20, 200)


def test_every_setting_has_a_sentence_and_says_what_it_is_part_of() -> None:
    for field in dataclasses.fields(Config)[3:]:
        assert field.metadata["sentence"].endswith("."), field.name
        stages = field.metadata["part_of"]
        assert len(stages) > 0, field.name
        assert stages == ("none",) or "none" not in stages, field.name


def with_another_value(name: str) -> Config:
    """The plain configuration, but for one setting."""
    for value in (*typing.get_args(base.KINDS[name]), True, False, 1, 2, 0.5, 0.25, 64, "0.5,0.5,0.5"):
        try:
            config = override(PLAIN, [f"{name}={value}"])
        except SettingError:
            continue
        if config != PLAIN:
            return config
    raise AssertionError(f"no other value of {name} is known")


@pytest.mark.parametrize(
    ("stage", "recorded"),
    [
        ("network", NetworkSettings.of),
        ("training", strong_model_training),
        ("gradient search", lambda config: (search_settings(config, "kernels"), goal_of(config))),
        ("fine-tuning", lambda config: (fine_tuning_settings(config), goal_of(config))),
    ],
)
def test_every_setting_of_a_stage_changes_what_the_stage_records(stage: str, recorded: Any) -> None:
    """These stages record their settings in records of their own."""
    for name in PLAIN.part_of(stage):
        assert recorded(with_another_value(name)) != recorded(PLAIN), name


def test_a_stage_without_settings_is_a_mistake() -> None:
    assert list(PLAIN.part_of("importance")) == ["importance_mode", "importance_confidence"]
    with pytest.raises(ValueError, match="no setting is part of genetic serach"):
        PLAIN.part_of("genetic serach")


def test_an_override_counts_and_is_read_by_its_type() -> None:
    changed = override(
        PLAIN,
        [
            "epochs=3",
            "learning_rate=1e-3",
            "mirror=True",
            "classes=a,b,c,d,e,f,g,h,i,j",
            "milestones=",
            "active_ratios=0.5,1",
            "accuracy_thresholds=2:0.5,10:0.25",
            "weak_source=x=y",
            "epochs=4",
        ],
    )
    assert changed == dataclasses.replace(
        PLAIN,
        epochs=4,
        learning_rate=0.001,
        mirror=True,
        classes=tuple("abcdefghij"),
        milestones=(),
        active_ratios=(0.5, 1.0),
        accuracy_thresholds=((2, 0.5), (10, 0.25)),
        weak_source="x=y",
    )


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match=r"unknown setting epcohs: did you mean epochs.*\? configures/base.py"):
        override(PLAIN, ["epcohs=3"])
    for fixed in ("model", "dataset"):
        with pytest.raises(SettingError, match=f"unknown setting {fixed}"):
            override(PLAIN, [f"{fixed}=simcnn"])
    with pytest.raises(SettingError, match=r"no configuration simcnn_mnist: expected one of .*simcnn_cifar10, simcnn_"):
        load("simcnn", "mnist")
    with pytest.raises(SettingError, match="is for model simcnn_x0_25 and dataset digits"):
        load("simcnn", "x0_25_digits")
    for name in ("base", "__init__", "../train", ""):
        with pytest.raises(SettingError, match="no configuration"):
            load(name, "cifar10")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "--set epochs: expected name=value"),
        ("epochs=0", "setting epochs: expected at least 1, given 0"),
        ("epochs=three", "setting epochs: expected int, given 'three'"),
        ("epochs=1e3", "setting epochs: expected int"),
        ("epochs=" + "9" * 400, "setting epochs: expected int, whole numbers up to 2147483647"),
        ("learning_rate=nan", "setting learning_rate: expected above 0"),
        ("learning_rate=inf", "setting learning_rate: expected above 0"),
        ("mirror=perhaps", "setting mirror: expected bool"),
        ("alpha=1.5", "setting alpha: expected between 0 and 1"),
        ("active_ratios=", "setting active_ratios: expected one or more shares"),
        ("active_ratios=0.5,nan", "setting active_ratios: expected one or more shares"),
        ("active_ratios=0.5;0.6", "setting active_ratios: expected comma-separated values"),
        ("accuracy_thresholds=2", "setting accuracy_thresholds: expected pairs like 2:0.95,4:0.9"),
        ("accuracy_thresholds=1:0.5", "setting accuracy_thresholds: expected pairs CLASSES:ACCURACY"),
        ("schedule=cosine", "setting schedule: expected step or one_cycle"),
        ("importance_mode=l2", "setting importance_mode: expected l1 or random"),
        ("parents=101", "setting parents: expected between 1 and population = 100"),
        ("survivors_max=49", "setting survivors_max: expected at least survivors_min = 50"),
        ("classes=a,b", "setting classes: expected 10 names or none"),
        ("classes=a,b,c,d,e,f,g,h,i,i", "setting classes: expected each name once"),
        ("chosen_ensemble=1,2", "setting chosen_ensemble: expected 10 chromosome indices"),
        ("chosen_ensemble=1,2,3,4,5,6,7,8,9,100", "setting chosen_ensemble: expected 10 chromosome indices below 100"),
        ("chosen_generation=-2", "setting chosen_generation: expected a generation up to generations = "),
        ("sensitive_layers=-1", "setting sensitive_layers: expected layers counted from 0"),
        ("keep_outputs=1", "setting keep_outputs: expected at least 2"),
    ],
)
def test_values_that_cannot_be_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(SettingError) as error:
        override(PLAIN, [assignment])
    assert message in str(error.value)


VALUES = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.one_of(st.integers().map(str), st.floats().map(str)), max_size=4).map(",".join),
    st.lists(st.tuples(st.integers(), st.floats()).map(lambda p: f"{p[0]}:{p[1]}"), max_size=3).map(",".join),
)


@pytest.mark.slow
@settings(max_examples=500)
@given(name=st.one_of(st.sampled_from(SETTINGS), st.text(max_size=8)), equals=st.sampled_from(["=", ""]), text=VALUES)
@example(name="epochs", equals="=", text="²")
@example(name="epochs", equals="=", text="1" + "0" * 5000)
@example(name="chosen_ensemble", equals="=", text=",".join(["-1"] * 10))
def test_any_text_is_a_configuration_or_a_setting_error(name: str, equals: str, text: str) -> None:
    try:
        config = override(PLAIN, [f"{name}{equals}{text}"])
    except SettingError as error:
        assert str(error)
    else:
        assert isinstance(config, Config)
        assert config == override(config, [f"{name}={text}"])


@settings(max_examples=300)
@given(name=st.sampled_from(SETTINGS), value=st.one_of(st.none(), st.text(), st.integers(), st.lists(st.integers())))
def test_any_value_in_a_file_is_a_configuration_or_a_setting_error(name: str, value: Any) -> None:
    """A user writes configuration files; a number in quotes must not fail later, in the middle of a search."""
    try:
        assert isinstance(dataclasses.replace(PLAIN, **{name: value}), Config)
    except SettingError as error:
        # Its own name, or that of a setting that no longer fits to it.
        assert re.match(r"setting \w+: expected ", str(error))
        assert name in str(error)


@pytest.fixture
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write `configures/NAME.py` as a user does, but in a folder of the test that counts as part of the package."""

    def write(name: str, text: str) -> None:
        folder = tmp_path / "configures"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(configures, "__path__", [*configures.__path__, str(folder)])
        monkeypatch.setattr(base, "known_configurations", lambda: [name])
        monkeypatch.setitem(sys.modules, f"configures.{name}", None)  # so that it is not there after the test
        monkeypatch.delitem(sys.modules, f"configures.{name}")

    return write


def test_a_configuration_of_the_users_own(own_configuration: Any) -> None:
    own_configuration(
        "simcnn_own",
        'from configures.base import Config\nconfig = Config(model="simcnn", dataset="own", num_classes=3)\n',
    )
    assert load("simcnn", "own", ["epochs=2"]) == Config("simcnn", "own", 3, epochs=2)


@pytest.fixture
def notice() -> str:
    """What is said once of the old name `keep_every`."""
    base.current_name.cache_clear()
    return "setting keep_every is now called checkpoint_every\n"


def test_old_names_are_no_settings_and_stand_for_settings() -> None:
    assert set(base.RENAMED.values()) <= set(base.SETTABLE) and not base.RENAMED.keys() & set(base.SETTABLE)


def test_an_old_name_on_the_command_line(notice: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert override(PLAIN, ["keep_every=3"]) == dataclasses.replace(PLAIN, checkpoint_every=3)
    assert capsys.readouterr().err == notice
    with pytest.raises(SettingError, match="setting checkpoint_every: expected at least 1, given 0"):
        override(PLAIN, ["keep_every=0"])


@pytest.mark.parametrize("given", ["keep_every=3)", "checkpoint_every=7)\nconfig = replace(config, keep_every=3)"])
def test_an_old_name_in_a_configuration_of_the_users_own(
    own_configuration: Any, notice: str, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    own_configuration(
        "simcnn_own",
        "from dataclasses import replace\nfrom configures.base import Config\n"
        f'config = Config(model="simcnn", dataset="own", num_classes=3, {given}\n',
    )
    assert load("simcnn", "own") == Config("simcnn", "own", 3, checkpoint_every=3)
    assert capsys.readouterr().err == notice


def test_a_stage_repeats_an_old_name_by_the_new_one(notice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the commands that it prints and starts."""
    given = ["--model", "simcnn_x0_25", "--dataset", "digits", "--set", "keep_every=3"]
    stage = open_stage(stage_parser("").parse_args(given))
    assert stage.artifacts.assignments == ("checkpoint_every=3",) and stage.config.checkpoint_every == 3
    printed = capsys.readouterr()
    assert printed.err == notice and "for this run: checkpoint_every=3" in printed.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "config = Config(model='simcnn', dataset='own', num_classes=3, epcohs=3)",
            "argument 'epcohs'.*; the settings",
        ),
        ("config = Config(model='simcnn', dataset='own')", "num_classes.*; the settings are .*epochs"),
        ("config = Config(model='simcnn', dataset='own', num_classes=3, epochs='3')", "setting epochs: expected int"),
        (
            "config = Config(model='simcnn', dataset='own', num_classes=3, epochs=0)",
            "setting epochs: expected at least",
        ),
        ("config = Config(model='simcnn', dataset='other', num_classes=3)", "is for model simcnn and dataset other"),
        ("configuration = 3", r"expected config = Config\(...\) in it"),
        ("config = {'epochs': 3}", r"expected config = Config\(...\) in it"),
        ("config = Config(", ":2: '\\(' was never closed; fix that and try again$"),
        ("import absent_package", ":2: ModuleNotFoundError: No module named 'absent_package'$"),
        ("\nepochs = epcohs + 1", ":3: NameError: name 'epcohs' is not defined"),
        ("import json\njson.loads('{')", ":3: JSONDecodeError: "),
        ("import sys\nsys.exit('no')", ":3: it ends the program; expected config = Config"),
        ("\0", "null bytes"),
    ],
)
def test_mistakes_in_a_users_file_name_the_file(own_configuration: Any, text: str, message: str) -> None:
    own_configuration("simcnn_own", f"from configures.base import Config\n{text}\n")
    with pytest.raises(SettingError, match=rf"configures/simcnn_own\.py.*{message}"):
        load("simcnn", "own")


def test_a_mistake_in_a_file_that_a_users_file_imports(
    own_configuration: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shared_settings.py").write_text("\n\nepochs = (3\n")
    monkeypatch.syspath_prepend(tmp_path)
    own_configuration("simcnn_own", "from shared_settings import epochs\n")
    with pytest.raises(
        SettingError, match=r"configures/simcnn_own.py:1: SyntaxError: .*\(shared_settings.py, line 3\)"
    ):
        load("simcnn", "own")


def test_train_on_images_and_a_configuration_of_the_users_own(
    own_configuration: Any, root_dir: Path, run_main: Any
) -> None:
    """What the README promises: a tree of images and one file in configures/."""
    from image_trees import write_tree

    own_configuration(
        "simcnn_x0_0625_own",
        "from configures.base import Config\n"
        'config = Config(model="simcnn_x0_0625", dataset="own", num_classes=2, epochs=1, batch_size=4)\n',
    )
    write_tree(root_dir / "data" / "dataset" / "own", classes=("cat", "dog"))
    run: Run = run_main("train.py", "--model", "simcnn_x0_0625", "--dataset", "own", root=root_dir)
    assert (run.exit_code, run.stderr) == (0, "")
    assert "images: 4 train, 2 valid, 6 test; 2 classes" in run.stdout
    assert (root_dir / "data" / "simcnn_x0_0625_own" / "entire_model.pth").exists()
