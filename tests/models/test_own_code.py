"""Networks from a user's own file: what is made, and the one line with file and line where that fails."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import TOP, refusal_of
from torch import nn

import models.layers
from models.names import check_num_classes, network_of
from utils.errors import UserError

HEADER = "from torch import nn\n\n"
NET = HEADER + "class Net(nn.Sequential):\n    def __init__(self, {}):\n        super().__init__(nn.Linear(2, {}))\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file of the user's project, and stand in that project's folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "nets.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("precision", ["double", "half", "bfloat16"])
def test_a_network_runs_in_the_precision_of_images(write: Callable[..., Path], precision: str) -> None:
    write(HEADER + f"def build(num_classes):\n    return nn.Linear(2, num_classes).{precision}()")
    assert network_of("nets.py:build", 3)(torch.zeros(1, 2)).dtype == torch.float32


def refusal(name: str, num_classes: int = 10) -> str:
    return refusal_of(lambda: network_of(name, num_classes))


@pytest.mark.filterwarnings("ignore")  # lazy modules are under development, TorchScript is deprecated
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("nn.Sequential(nn.LazyLinear(num_classes))", "has lazy layers; run it on images where it is made"),
        ("torch.jit.script(nn.Linear(2, num_classes))", "it is TorchScript; give the code that it was made of"),
        ("nn.Sequential(torch.jit.trace(nn.Linear(2, num_classes), torch.zeros(1, 2)))", "it is TorchScript"),
    ],
)
def test_networks_that_cannot_be_evaluated_as_others(write: Callable[..., Path], made: str, expected: str) -> None:
    write(f"import torch\n{HEADER}def build(num_classes):\n    return {made}")
    assert expected in refusal("nets.py:build") and "nets.py:4)" in refusal("nets.py:build")


def num_outputs(network: nn.Module) -> int:
    return network(torch.zeros(1, 2)).shape[1]


@pytest.mark.parametrize(
    ("definition", "attribute", "expected"),
    [
        (NET.format("num_classes", "num_classes"), "Net", 7),
        (NET.format("depth=18, n_classes=10", "n_classes"), "Net", 7),
        (NET.format("*, num_classes", "num_classes"), "Net", 7),
        (NET.format("outputs", "outputs"), "Net", 7),
        (HEADER + "def build(**options):\n    return nn.Linear(2, options['num_classes'])", "build", 7),
        (HEADER + "def build(pretrained=False):\n    return nn.Linear(2, 5 + pretrained)", "build", 5),
        (HEADER + "build = lambda num_classes: nn.Linear(2, num_classes)", "build", 7),
        (HEADER + "from functools import partial\nbuild = partial(nn.Linear, 2)", "build", 7),
        (HEADER + "net = nn.Linear(2, 4)", "net", 4),
    ],
)
def test_what_gets_the_number_of_classes(write: Callable, definition: str, attribute: str, expected: int) -> None:
    write(definition)
    assert num_outputs(network_of(f"nets.py:{attribute}", 7)) == expected


def test_imports_find_the_projects_own_packages_and_ours_are_back_afterwards(write: Callable) -> None:
    write("WIDTH = 3", "utils.py")
    write("", "models/__init__.py")
    write("from utils import WIDTH", "models/blocks.py")
    write(
        HEADER + "from .blocks import WIDTH\nfrom models.blocks import WIDTH as SAME\n"
        "def build():\n    import utils\n    return nn.Linear(2, WIDTH + SAME + utils.WIDTH)",
        "models/nets.py",
    )
    path = sys.path[:]
    assert num_outputs(network_of("models/nets.py:build", 10)) == 9
    assert sys.modules["models.layers"] is models.layers
    assert sys.modules["utils.errors"].UserError is UserError
    assert "models.blocks" not in sys.modules
    assert sys.path == path


def test_two_projects_with_files_of_the_same_names(write: Callable) -> None:
    for project, width in (("a", 3), ("b", 4)):
        write(f"WIDTH = {width}", f"{project}/sizes.py")
        write(HEADER + "from sizes import WIDTH\ndef build():\n    return nn.Linear(2, WIDTH)", f"{project}/types.py")
    assert num_outputs(network_of("a/types.py:build", 10)) == 3
    assert num_outputs(network_of("b/types.py:build", 10)) == 4
    assert num_outputs(network_of("a/types.py:build", 10)) == 3
    assert not Path(sys.modules["types"].__file__).is_relative_to(Path.cwd())


def test_a_file_is_read_again(write: Callable) -> None:
    for width in (3, 4):
        write(HEADER + f"def build():\n    return nn.Linear(2, {width} + 0 * {10**width})")
        assert num_outputs(network_of("nets.py:build", 10)) == width


@pytest.mark.parametrize(
    ("text", "attribute", "expected"),
    [
        ("def build(:\n    pass", "build", "{file}:1: "),
        ("import no_such_package_here", "build", "No module named 'no_such_package_here' ({file}:1: import no_such"),
        ("from utils import no_such_name", "build", "cannot import name 'no_such_name' from 'utils'"),
        ("x = 1\ny = x / 0", "build", "ZeroDivisionError: division by zero ({file}:2: y = x / 0)"),
        ("import sys\nsys.exit(3)", "build", "it ends the program ({file}:2: sys.exit(3))"),
        (NET.format("n", "n"), "Nett", "there is no Nett in nets.py: did you mean Net?"),
        (NET.format("n", "n"), "build", "there is no build in nets.py: it has Net"),
        ("build = 3", "build", "expected a function or class that makes a network, build is 3"),
        ("x = 1\ndef build(n):\n    return [n]", "build", "expected a torch.nn.Module, it gives a list ({file}:2)"),
        (NET.format("a, b", "a"), "Net", "expected a function of num_classes, Net needs a, b ({file}:3)"),
        (NET.format("n", "'n'"), "Net", "nets.py:Net with 10 classes fails: TypeError: "),
        (NET.format("n", "{}[n]"), "Net", "fails: KeyError: 10 ({file}:5: super().__init__(nn.Linear(2, {{}}[n])))"),
        ("def build(num_classes, width):\n    pass", "build", "missing 1 required positional argument: 'width'"),
    ],
)
def test_what_fails_is_one_line_with_file_and_line(write: Callable, text: str, attribute: str, expected: str) -> None:
    path = write(text)
    assert expected.format(file=path) in refusal(f"nets.py:{attribute}")


def test_an_error_in_a_file_that_it_imports(write: Callable) -> None:
    blocks = write("def width(n):\n    return n.wide", "blocks.py")
    write(HEADER + "from blocks import width\ndef build(n):\n    return nn.Linear(2, width(n))")
    assert refusal("nets.py:build").endswith(f"object has no attribute 'wide' ({blocks}:2: return n.wide)")


def test_names_of_files_that_are_none(write: Callable) -> None:
    write("")
    assert "there is no file no/nets.py; expected FILE.py:FUNCTION" in refusal("no/nets.py:build")
    assert "as in nets.py:FUNCTION" in refusal("nets.py")


def test_another_number_of_outputs(write: Callable) -> None:
    path = write("x = 1\ndef build():\n    pass")
    check_num_classes(f"{path}:build", 10, 10)
    message = refusal_of(lambda: check_num_classes(f"{path}:build", 100, 10))
    assert f"expected 10 logits, it gives 100 ({path}:2); give --num_classes 100" in message


def test_a_module_that_is_in_the_way_takes_no_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of ours that was loaded from elsewhere: its package's other modules stay loaded."""
    import configures.base

    stray = ModuleType("configures.stray")
    stray.__file__ = str(tmp_path / "stray.py")
    monkeypatch.setitem(sys.modules, "configures.stray", stray)
    monkeypatch.chdir(TOP)
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef build(num_classes):\n    return nn.Flatten()\n")
    network_of(f"{tmp_path / 'net.py'}:build", 2)
    assert sys.modules["configures.base"] is configures.base
    assert sys.modules["configures.stray"] is stray
