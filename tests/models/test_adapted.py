"""Networks whose names say which outputs are the classes, and the order of the colours."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import refusal_of
from hypothesis import given
from random_modules import random_patched_model
from torch import nn

from models.adapted import Adapted, Changes, groups_of, short_name, split_name
from models.graph import trace
from models.graph.tracing import exported
from models.names import anchored, are_same, network_of
from models.own_code import NotTrusted, not_named
from models.strong_model import count_outputs, untrained_graph
from modules.population_outputs import population_outputs
from patching.patched_model import load_patched_model, save_patched_model
from patching.rules import MinMax
from utils.errors import UserError

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORK = """from torch import nn


def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


def of_five():
    return build(5)


def with_softmax():
    return nn.Sequential(build(5), nn.Softmax(1))
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NETWORK)
    return f"{tmp_path / 'net.py'}"


def random_groups(seed: int, num_outputs: int, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Disjoint groups of outputs, none of them empty, which may leave outputs out."""
    random = np.random.default_rng(seed)
    outputs = random.permutation(num_outputs)[: random.integers(num_classes, num_outputs + 1)]
    places = np.sort(random.choice(np.arange(1, len(outputs)), num_classes - 1, replace=False))
    return tuple(tuple(sorted(group.tolist())) for group in np.split(outputs, places))


@given(st.integers(0, 10**6), st.integers(3, 40), st.booleans(), st.data())
def test_names_come_back(seed: int, num_outputs: int, is_bgr: bool, data: st.DataObject) -> None:
    groups = random_groups(seed, num_outputs, data.draw(st.integers(2, num_outputs - 1)))
    changes = Changes(is_bgr=is_bgr).with_outputs(groups, num_outputs)
    assert split_name(f"net.py:build{changes}") == ("net.py:build", changes)
    classes = [f"class, {number}" for number in range(len(groups))]
    text = ",".join(str(changes.with_outputs(groups, num_outputs)).strip("[]").split(":")[1].split(","))
    assert groups_of(text, classes, num_outputs) == groups
    named = [f"{name}={outputs}" for name, outputs in zip(classes, text.split(","), strict=True)]
    assert groups_of(",".join(named[::-1]), classes, num_outputs) == groups


def test_the_outputs_in_their_order_are_no_change() -> None:
    assert not Changes().with_outputs(((0,), (1,), (2,)), 3)
    assert str(Changes(is_bgr=True).with_outputs(((0,), (1,)), 2)) == "[bgr]"
    turned = Changes().in_order([2, 0, 1])
    assert turned.groups == ((2,), (0,), (1,))
    assert not turned.in_order(np.argsort([2, 0, 1]).tolist())


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("3,1", ((3,), (1,))),
        ("other=rest,dog=2-3", ((2, 3), (0, 1, 4, 5))),
        ("dog=5+0-1,other=3", ((0, 1, 5), (3,))),
        ("rest,4", ((0, 1, 2, 3, 5), (4,))),
    ],
)
def test_outputs_of_classes(text: str, groups: tuple) -> None:
    assert groups_of(text, ["dog", "other"], 6) == groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected numbers such as 151, ranges such as 151-268"),
        ("dog=2;other=3", "given 'dog=2;other=3'"),
        ("dog=2,,other=3", "given ',other=3'"),
        ("dog=-1,other=rest", "given 'dog=-1,other=rest'"),
        ("3", "expected 2 entries, one for each of dog, other; given 1"),
        ("1,2,3", "given 3"),
        ("dog=2,rest", "expected CLASS=OUTPUTS for all classes, or OUTPUTS alone for all"),
        ("dgo=2,other=rest", "the images have no class dgo; did you mean dog? Expected dog, other"),
        ("dog=2", "expected outputs for each class, given none for other"),
        ("dog=2,dog=3,other=4", "given dog twice; + joins outputs"),
        ("dog=rest,other=rest", "expected rest once, given for dog and other"),
        ("dog=0-5,other=rest", "nothing is left for other=rest"),
        ("dog=2-4,other=4", "expected each output once, given 4 for dog and for other"),
        ("dog=2+1-3,other=rest", "expected each output once, given 2+1-3"),
        ("dog=6,other=rest", "expected outputs from 0 to 5, given 6"),
        ("dog=1-99999999999999,other=rest", "expected outputs from 0 to 5, given 1-99999999999999"),
        ("dog=3-1,other=rest", "expected a range that rises, given 3-1"),
    ],
)
def test_wrong_outputs_are_one_line(text: str, message: str) -> None:
    line = refusal_of(lambda: groups_of(text, ["dog", "other"], 6))
    assert message in line and line.startswith("--outputs") and "\n" not in line


@pytest.mark.parametrize("changes", ["", "rgb", "bgr,", "5:", "5:0,rest", "bgr 5:0,1", "0,1"])
def test_names_of_another_form_are_refused(changes: str) -> None:
    assert "expected behind its name [bgr], [COUNT:OUTPUTS" in refusal_of(lambda: split_name(f"resnet18[{changes}]"))


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("simcnn_x0_25[5:0,1,2]", 4, "expected outputs for each of 4 classes, given for 3"),
        ("simcnn_x0_25[5:0,5]", 2, "expected outputs from 0 to 4, given 5"),
        ("simcnn_x0_25[5:0-2,2]", 2, "given 2 for class 0 and for class 1"),
        ("simcnn_x0_25[bgr][5:0,1]", 2, "expected behind its name"),
    ],
)
def test_names_that_do_not_fit_are_refused(name: str, num_classes: int, message: str) -> None:
    assert message in refusal_of(lambda: network_of(name, num_classes))


def test_what_is_printed_of_long_names() -> None:
    assert short_name("net.py:build[5:0-2,3]") == "net.py:build[5:0-2,3]"
    many = f"resnet18[1000:{','.join(map(str, range(999, 0, -1)))}]"
    assert len(short_name(many)) < 120 and short_name(many).endswith("... for 999 classes]")


@torch.no_grad()
def test_the_logit_of_a_group_is_that_of_the_sum_of_its_probabilities(own: str) -> None:
    network = network_of(f"{own}:build[7:5,0-2+4]", 2).eval()
    outputs = network.module(IMAGES)
    assert type(network) is Adapted and outputs.shape == (3, 7)
    probabilities = outputs.softmax(1)
    chosen = torch.stack([probabilities[:, 5], probabilities[:, [0, 1, 2, 4]].sum(1)], 1)
    torch.testing.assert_close(network(IMAGES).softmax(1), chosen / chosen.sum(1, keepdim=True))


@torch.no_grad()
def test_red_and_blue_are_exchanged(own: str) -> None:
    network = network_of(f"{own}:build[bgr]", 4).eval()
    assert torch.equal(network(IMAGES.flip(1)), network.module(IMAGES))
    graph = trace(network, 16, num_classes=4)
    torch.testing.assert_close(graph.network(IMAGES), network(IMAGES))
    assert graph.digest != trace(network.module, 16, num_classes=4).digest


def test_the_digest_tells_outputs_apart(own: str) -> None:
    graphs = [untrained_graph(f"{own}:build[{changes}]", 2, 16) for changes in ("7:0-2,3", "7:0-1,3", "7:3,0-2")]
    assert len({graph.digest for graph in graphs}) == 3
    other_index = untrained_graph(f"{own}:build[7:4,0-2]", 2, 16)
    assert other_index.code_values != graphs[2].code_values


def test_a_network_that_decides_the_number_itself(own: str) -> None:
    name = f"{own}:of_five"
    assert count_outputs(network_of(name, 2), name, 2, 16) == 5
    assert untrained_graph(f"{name}[5:4,0]", 2, 16).num_classes == 2
    message = refusal_of(lambda: untrained_graph(f"{name}[6:4,0]", 2, 16))
    assert "expected a network with 6 outputs, it gives (5,)" in message


def test_outputs_behind_a_softmax_are_no_logits(own: str) -> None:
    name = f"{own}:with_softmax"
    assert "ends in a softmax: take that out" in refusal_of(lambda: count_outputs(network_of(name, 5), name, 5, 16))


def test_own_code_keeps_its_file_and_its_trust(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert anchored("net.py:build[5:0,1]") == f"{own}:build[5:0,1]"
    assert are_same("net.py:build[5:0,1]", f"{own}:build[5:0,1]")
    assert not are_same("net.py:build[5:0,1]", f"{own}:build[5:0,2]")
    assert not are_same("net.py:build[5:0,1]", f"{own}:build")
    with pytest.raises(NotTrusted, match="never ran on this machine"):
        not_named(f"{own}:build[5:0,1]", "how")


def test_a_network_without_logits_is_refused() -> None:
    network = Adapted(nn.Flatten(), Changes(5, ((0,), (1,))))
    with pytest.raises(UserError, match="expected a network with 5 outputs"):
        network(IMAGES)


@pytest.mark.slow
@torch.no_grad()
def test_a_population_of_modules_has_the_logits_of_groups() -> None:
    graph = untrained_graph("simcnn_x0_06[6:4,0+2,1+3+5]", 3, 32)
    random, images = np.random.default_rng(0), torch.randn(4, 3, 32, 32)
    masks = graph.units.repair(random.random((6, graph.num_units)) < 0.5)
    classes = [0, 1, 2, 2, 1, 0]
    found = population_outputs(graph, masks, classes, images.contiguous(memory_format=torch.channels_last))
    expected = [graph.cut(mask, number)(images)[:, 0] for mask, number in zip(masks, classes, strict=True)]
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_patched_model_is_saved_and_exported(tmp_path: Path) -> None:
    """With a module of a group of outputs, and a weak model that is given blue, green and red."""
    model = random_patched_model(MinMax(0.0, 1.0), "abc", "simcnn_tiny[bgr]", "simcnn_x0_06[6:4+1,0,2]")
    weights = [value for name, value in model.parts[0].network.state_dict().items() if name.endswith("weight")]
    assert len(weights[-1]) == 2
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = model(pixels)
    save_patched_model(model, tmp_path / "patched.pth")
    torch.testing.assert_close(load_patched_model(tmp_path / "patched.pth")(pixels), expected)
    torch.testing.assert_close(exported(model, model.examples()).module()(pixels), expected)
