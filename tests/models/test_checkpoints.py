"""The network's weights in what people save: found under every wrapper, or refused with the first difference."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refusal_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.checkpoints import Weights, load_foreign_checkpoint
from utils.errors import UserError

State = dict[str, Any]


class Small(nn.Module):
    """A network with names of several depths, batch norm and a last layer."""

    def __init__(self, num_classes: int = 4, width: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, width, 3))
        self.fc = nn.Linear(width, num_classes)


def trained(seed: int = 1, **sizes: int) -> State:
    torch.manual_seed(seed)
    return {
        name: torch.rand_like(value) if value.dim() else value for name, value in Small(**sizes).state_dict().items()
    }


def renamed(state: State, change: Callable[[str], str]) -> State:
    return {change(name): value for name, value in state.items()}


def load(content: Any, tmp_path: Path, key: str | None = None) -> tuple[dict[str, Tensor], Weights]:
    """The weights of a network that has loaded what was saved, and how they were found."""
    torch.save(content, tmp_path / "a.pth")
    network = Small()
    weights = load_foreign_checkpoint(network, tmp_path / "a.pth", key)
    return network.state_dict(), weights


def refusal(content: Any, tmp_path: Path, key: str | None = None) -> str:
    message = refusal_of(lambda: load(content, tmp_path, key))
    assert str(tmp_path / "a.pth") in message
    assert "train" not in message.replace("training went wrong", "")
    return message


def is_same(found: dict[str, Tensor], expected: State) -> bool:
    return all(torch.equal(found[name].cpu(), value) for name, value in expected.items())


WRAPPED = {
    "plain": (lambda state: state, ".", ()),
    "with other values": (lambda state: {**state, "epoch": 3}, ".", ()),
    "in state_dict": (
        lambda state: {"state_dict": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
        "state_dict",
        (),
    ),
    "two deep": (lambda state: {"checkpoint": {"model": state}}, "checkpoint.model", ()),
    "in a tuple": (lambda state: (3, state), "1", ()),
    "DataParallel": (lambda state: renamed(state, "module.{}".format), "module", ()),
    "compiled": (lambda state: {"model": renamed(state, "_orig_mod.{}".format)}, "model._orig_mod", ()),
    "both": (lambda state: renamed(state, "_orig_mod.module.{}".format), "_orig_mod.module", ()),
    "inside": (
        lambda state: renamed(state, lambda name: name.replace("features.", "features.module._orig_mod.")),
        ".",
        ("_orig_mod", "module"),
    ),
    "inside and before": (
        lambda state: renamed(state, lambda name: "model." + name.replace("fc.", "fc._orig_mod.")),
        "model",
        ("_orig_mod",),
    ),
    "Lightning": (
        lambda state: {"state_dict": renamed(state, "model.{}".format) | {"criterion.weight": torch.ones(4)}},
        "state_dict.model",
        (),
    ),
    "averaged": (lambda state: {"n_averaged": torch.tensor(3), **renamed(state, "module.{}".format)}, "module", ()),
    "profiled": (lambda state: {**state, "total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)}, ".", ()),
    "without counters": (
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        ".",
        (),
    ),
    "the same twice": (lambda state: {"model": state, "ema": dict(state)}, "model", ()),
    "beside another network's": (lambda state: {"teacher": trained(width=9), "student": state}, "student", ()),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_weights_are_found(wrapped: str, tmp_path: Path) -> None:
    wrap, place, wrappers = WRAPPED[wrapped]
    state = trained()
    found, weights = load(wrap(state), tmp_path)
    assert is_same(found, state)
    assert (weights.place, tuple(weights.wrappers)) == (place, wrappers)


def test_a_line_says_what_was_found(tmp_path: Path) -> None:
    half = {f"model.{name}": value.half() for name, value in trained().items() if "num_batches" not in name}
    _, weights = load({"state_dict": {**half, "criterion.weight": torch.ones(4)}}, tmp_path)
    assert weights.describe() == (
        "10 of the network's 11 tensors; found at state_dict.model; from float16 to float32; "
        "left out: criterion.weight; not needed and not there: features.1.num_batches_tracked"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_networks(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: value.to(dtype) if value.dim() else value for name, value in trained().items()}
    found, _ = load(state, tmp_path)
    assert found["fc.weight"].dtype == torch.float32
    assert is_same(found, {name: value.float() for name, value in state.items()})


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "0", "features"]), max_size=3))
def test_any_words_before_the_names(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        state = trained()
        content = renamed(state, lambda name: ".".join([*words, name]))
        patch.setattr("models.checkpoints.read_foreign_file", lambda path: content)
        network = Small()
        weights = load_foreign_checkpoint(network, Path("a.pth"))
        assert is_same(network.state_dict(), state)
        assert weights.place == (".".join(words) or ".")


def test_auxiliary_classifiers_may_be_missing_or_of_other_classes(tmp_path: Path) -> None:
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1), "aux1": nn.ModuleDict({"fc": nn.Linear(2, 4)})})
    without = {name: torch.rand_like(value) for name, value in network.state_dict().items() if "aux" not in name}
    for state in (without, {**without, "aux1.fc.weight": torch.ones(9, 2)}, {**without, "aux2.weight": torch.ones(2)}):
        torch.save(state, tmp_path / "a.pth")
        load_foreign_checkpoint(network, tmp_path / "a.pth")
        assert is_same(network.state_dict(), without)


def test_a_network_that_is_wrapped_itself(tmp_path: Path) -> None:
    state = trained()
    torch.save(state, tmp_path / "a.pth")
    network = nn.DataParallel(Small())
    load_foreign_checkpoint(network, tmp_path / "a.pth")
    assert is_same(network.module.state_dict(), state)


def test_a_network_that_tells_names_apart_by_such_words(tmp_path: Path) -> None:
    network = nn.ModuleDict({"fc": nn.Linear(2, 3), "module": nn.ModuleDict({"fc": nn.Linear(2, 3)})})
    state = {name: torch.rand_like(value) for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    load_foreign_checkpoint(network, tmp_path / "a.pth")
    assert is_same(network.state_dict(), state)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"model": trained(1), "ema": trained(2)}, ["model", "ema"]),
        (renamed(trained(1), "net.{}".format) | renamed(trained(2), "ema.module.{}".format), ["net", "ema.module"]),
        (trained(1) | renamed(trained(2), "ema.{}".format), [".", "ema"]),
        ({"state_dict": trained(1) | renamed(trained(2), "module.{}".format)}, ["state_dict", "state_dict.module"]),
    ],
)
def test_several_that_fit_are_asked_about(content: State, places: list[str], tmp_path: Path) -> None:
    message = refusal(content, tmp_path)
    assert message.endswith(f"has several that fit: choose one with --checkpoint_key: {', '.join(places)}")
    for number, place in enumerate(places, start=1):
        if place != "state_dict":  # the place of both
            found, weights = load(content, tmp_path, place)
            assert is_same(found, trained(number))
            assert weights.place == place


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    content = {"model": trained(), "args": {"lr": 0.1}}
    assert refusal(content, tmp_path, "args").startswith("--checkpoint_key args: expected a place in ")
    assert refusal(content, tmp_path, "args").endswith("a.pth: model")


def without(*names: str) -> State:
    return {name: value for name, value in trained().items() if name not in names}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            trained(num_classes=100),
            "is of a network with 100 classes: its fc has 100 outputs, and that of the network 4; ",
        ),
        ({"model": renamed(trained(num_classes=9), "module.{}".format)}, "give --num_classes 9"),
        (
            trained(width=6),
            "expected features.0.weight to be float32 of shape (5, 3, 3, 3), found float32 of shape (6, 3",
        ),
        (without("fc.bias"), "expected fc.bias to be float32 of shape (4,), found absent (10 of 11 tensors fit)"),
        ({"a": without("fc.bias")}, "found absent at a (10 of 11"),
        ({**trained(), "fc2.weight": torch.ones(2)}, "found fc2.weight, which the network does not have (11 of 11"),
        ({**trained(), "fc.bias": torch.ones(4, dtype=torch.int8)}, "found int8 of shape (4,)"),
        ({**trained(), "fc.bias": torch.ones(4).to_sparse()}, "found sparse_coo float32 of shape (4,)"),
        ({"state_dict": {"conv1.w": torch.ones(2)}}, "expected names like features.0.weight, found conv1.w"),
        ({"epoch": 3}, "holds no tensors by name; expected a state_dict"),
        (torch.ones(3), "holds no tensors by name; expected a state_dict"),
        ({"a": {"b": {"c": {"d": trained()}}}}, "holds no tensors by name"),
        (
            {**trained(), "fc.bias": torch.tensor([0, 1, torch.nan, torch.inf])},
            "2 of 4 values of fc.bias are NaN or inf",
        ),
        (
            {**trained(), "fc.bias": torch.full((4,), 1e300, dtype=torch.float64)},
            "values of fc.bias are NaN or infinite",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_first_difference(content: Any, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(content, tmp_path)


def test_a_refused_checkpoint_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = Small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save({**trained(), "fc.bias": torch.full((4,), torch.nan)}, tmp_path / "a.pth")
    with pytest.raises(UserError):
        load_foreign_checkpoint(network, tmp_path / "a.pth")
    assert is_same(network.state_dict(), before)


def test_many_places_take_no_more_than_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """None keeps a list of what lies at all others."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False))
    content = {f"x{number}.0.weight": torch.zeros(1, 2) for number in range(2_000)}
    monkeypatch.setattr("models.checkpoints.read_foreign_file", lambda path: content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"found float32 of shape \(1, 2\) at x0 \(0 of 1 tensors fit\)"):
            load_foreign_checkpoint(network, Path("a.pth"))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    content = {f"x{number}.0.weight": torch.full((1, 1), float(number)) for number in range(50)}
    with pytest.raises(UserError, match=r"choose one with --checkpoint_key: x0, x1, .*, x9 and 40 more$"):
        load_foreign_checkpoint(network, Path("a.pth"))


def test_an_object_that_is_there_many_times_is_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a few bytes can lead to it in a thousand times a thousand ways."""
    state = trained()
    content = [[[state] * 1000] * 1000] * 1000
    monkeypatch.setattr("models.checkpoints.read_foreign_file", lambda path: content)
    assert load_foreign_checkpoint(Small(), Path("a.pth")).place == "0.0.0"
