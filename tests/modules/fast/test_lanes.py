"""An operator on the compiled library's order of memory gives what it gives in torch's order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.graph.operators import on_lanes
from models.graph.values import Code, Value
from modules.fast.compiled import compiler
from modules.fast.layers import CompiledConvolutions

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
aten = torch.ops.aten
CHANNELS = 6
MAPS, GATES = (5, CHANNELS, 8, 8), (5, CHANNELS, 1, 1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.1


def constant(value: Tensor) -> Callable[[Code], Value]:
    return lambda code: code.constant(f"{value.shape}", (), tuple(value.shape), lambda: value)


PER_CHANNEL = [constant(random(CHANNELS).abs() + factor) for factor in (1, 2, 3, 4)]
# Functions and their arguments; "maps" and "gates" are operands.
BY_CHANNEL: dict[str, tuple[Callable[..., Any], tuple]] = {
    "sigmoid": (aten.sigmoid.default, ("maps",)),
    "gate": (aten.mul.Tensor, ("maps", "gates")),
    "number": (aten.add.Tensor, ("maps", 2.5)),
    "scale": (aten.mul.Tensor, ("maps", constant(random(CHANNELS, 1, 1)))),
    "one value": (aten.div.Tensor, ("maps", constant(torch.tensor(3.0)))),
    "batch norm": (aten.batch_norm.default, ("maps", *PER_CHANNEL, False, 0.1, 1e-5, False)),
    "slopes": (aten.prelu.default, ("maps", constant(random(CHANNELS)))),
    "one slope": (aten.prelu.default, ("maps", constant(random(1)))),
    "pool": (aten.max_pool2d.default, ("maps", [3, 3], [2, 2], [1, 1])),
    "mean pool": (aten.avg_pool2d.default, ("maps", [2, 2])),
    "global pool": (aten.adaptive_avg_pool2d.default, ("maps", [1, 1])),
    "mean": (aten.mean.dim, ("maps", [2, 3])),
    "largest": (aten.amax.default, ("maps", [-1, -2], True)),
    "row": (aten.reshape.default, ("gates", [-1, CHANNELS])),
    "flatten pixels": (aten.flatten.using_ints, ("maps", 2)),
    "concatenation": (aten.cat.default, (["maps", "maps"], 1)),
    "side by side": (aten.cat.default, (["maps", "maps"], 3)),
    "some channels": (aten.slice.Tensor, ("maps", 1, 2, 5)),
    "last channels": (aten.slice.Tensor, ("maps", 1, -2, 2**63 - 1)),
    "all images": (aten.slice.Tensor, ("maps", 0, 0, 2**63 - 1)),
    "every second pixel": (aten.slice.Tensor, ("maps", 3, 0, 2**63 - 1, 2)),
    "order": (aten.index_select.default, ("maps", 1, constant(torch.tensor([4, 0, 0, 5])))),
    "padded pixels": (aten.constant_pad_nd.default, ("maps", [1, 2, 0, 1], 0.5)),
    "padded channels": (aten.constant_pad_nd.default, ("maps", [0, 0, 0, 0, 2, 1])),
    "mirrored pixels": (aten.pad.default, ("maps", [1, 2, 0, 1, 0, 0], "reflect")),
    "mirrored pixels of maps": (aten.reflection_pad2d.default, ("maps", [1, 2, 0, 1])),
    "gated": (aten.glu.default, ("maps", 1)),
    "halves": (aten.chunk.default, ("maps", 2, 1)),
    "thirds of two": (aten.split.Tensor, ("maps", 4, 1)),
    "parts": (aten.split_with_sizes.default, ("maps", [1, 5], 1)),
}
MIXING: dict[str, tuple[Callable[..., Any], tuple]] = {
    "over channels": (aten.mean.dim, ("maps", [1])),
    "over images": (aten.cat.default, (["maps", "maps"], 0)),
    "some images": (aten.slice.Tensor, ("maps", 0, 0, 2)),
    "other shape": (aten.reshape.default, ("maps", [-1, CHANNELS * 64])),
    "one map for all": (aten.mul.Tensor, ("maps", constant(random(8, 8)))),
    "sorted": (aten.softmax.int, ("maps", 1)),
    "mirrored channels": (aten.pad.default, ("maps", [0, 0, 0, 0, 2, 1], "reflect")),
    "every second channel": (aten.slice.Tensor, ("maps", 1, 0, 6, 2)),
}


def written(function: Callable[..., Any], args: tuple) -> tuple[Value, dict[Value, Tensor], Any]:
    """The operator as a value, its operands' tensors, and what it gives on them."""
    code = Code()
    operands = {"maps": code.images, "gates": code.call(aten.adaptive_avg_pool2d.default, (code.images, [1, 1]))}
    operands["maps"].shape, operands["gates"].shape = MAPS, GATES
    tensors = {operands["maps"]: random(*MAPS), operands["gates"]: random(*GATES)}

    def with_operands(arg: Any) -> Any:
        if isinstance(arg, list):
            return [with_operands(part) for part in arg]
        return arg(code) if callable(arg) else operands.get(arg, arg) if isinstance(arg, str) else arg

    value = code.call(function, tuple(map(with_operands, args)))
    computed = {given: given.compute() for given in value.operands if given not in tensors}
    result = function(*value.on({**tensors, **computed}.__getitem__).args)
    value.shape = tuple(result.shape) if isinstance(result, Tensor) else None
    return value, tensors, result


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_on_lanes(name: str) -> None:
    value, tensors, result = written(*BY_CHANNEL[name])
    way = CompiledConvolutions(compiler())
    on_placed = on_lanes(value, way.lanes).on(lambda given: way.place(tensors[given]))
    found = on_placed.target(*on_placed.args, **on_placed.kwargs)
    pairs = [(found, result)] if isinstance(result, Tensor) else list(zip(found, result, strict=True))
    for placed, plain in pairs:
        torch.testing.assert_close(way.unplace(placed, plain), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MIXING)
def test_what_is_not_by_channel(name: str) -> None:
    value, _, _ = written(*MIXING[name])
    assert on_lanes(value, 32) is None
