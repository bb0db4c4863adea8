"""What becomes one layer: what nobody else reads, in the order that a layer has."""

import torch

from models.graph.values import Code, Value
from modules.fast.lowering import FusedLayer, fused

aten = torch.ops.aten


class Written:
    """Code of layers on maps of 4 channels."""

    def __init__(self, side: int = 8) -> None:
        self.code, self.side = Code(), side
        self.code.images.shape = (2, 4, side, side)

    def shaped(self, value: Value, side: int | None = None) -> Value:
        value.shape = (2, 4, side or self.side, side or self.side)
        return value

    def conv(self, maps: Value, name: str, padding: list[int] | str = "same") -> Value:
        weight = self.code.constant(name, (), (4, 4, 3, 3), lambda: torch.ones(4, 4, 3, 3))
        function = aten.conv2d.padding if isinstance(padding, str) else aten.conv2d.default
        return self.shaped(self.code.call(function, (maps, weight, None, [1, 1], padding)))

    def relu(self, maps: Value) -> Value:
        return self.shaped(self.code.call(aten.relu.default, (maps,)))

    def add(self, maps: Value, other: Value) -> Value:
        return self.shaped(self.code.call(aten.add.Tensor, (maps, other)))

    def pool(self, maps: Value, *more: object) -> Value:
        return self.shaped(self.code.call(aten.max_pool2d.default, (maps, [2, 2], *more)), self.side // 2)


def layers_of(*outputs: Value) -> dict[Value, FusedLayer]:
    _, layers, inside = fused(outputs)
    assert not inside & layers.keys()
    return layers


def test_everything_at_once() -> None:
    code = Written()
    images = code.code.images
    end = code.pool(code.relu(code.add(code.relu(code.conv(images, "a")), images)))
    (layer,) = layers_of(end).values()
    assert (layer.maps, layer.added, layer.values[-1]) == (images, images, end)
    assert layer.relu and layer.relu_of_sum and layer.pool
    assert layer.is_three_by_three


def test_a_residual_block() -> None:
    """The first convolution takes the addition in, the other one is computed before."""
    code = Written()
    stem = code.relu(code.conv(code.code.images, "stem"))
    main, shortcut = code.conv(stem, "main"), code.conv(stem, "shortcut")
    end = code.relu(code.add(main, shortcut))
    layers = layers_of(end)
    assert set(layers) == {stem, shortcut, end}
    assert layers[end].maps is stem and layers[end].added is shortcut
    assert layers[end].relu_of_sum and not layers[end].relu


def test_what_others_read_stays() -> None:
    code = Written()
    convolved = code.conv(code.code.images, "a")
    rectified = code.relu(convolved)
    assert set(layers_of(code.add(convolved, rectified))) == {convolved}
    assert set(layers_of(convolved, rectified)) == {convolved}


def test_what_is_no_part_of_a_layer() -> None:
    code = Written()
    convolved = code.conv(code.code.images, "a")
    for value in (
        code.code.call(aten.add.Tensor, (convolved, 1.0)),
        code.code.call(aten.add.Tensor, (convolved, code.code.images), {"alpha": 2}),
        code.code.call(aten.add.Tensor, (convolved, convolved)),
        code.pool(convolved, [1, 1]),
        code.pool(code.relu(code.relu(convolved))),
    ):
        assert not layers_of(value).get(value)
    odd = Written(side=5)
    end = odd.pool(odd.conv(odd.code.images, "a"))
    assert end not in layers_of(end)


def test_padding_by_name() -> None:
    code = Written()
    for given, padding in (("same", (1, 1)), ([1], (1, 1)), ([2, 3], (2, 3))):
        value = code.conv(code.code.images, f"{given}", given)
        assert layers_of(value)[value].padding == padding


def test_layers_of_one_recipe_differ_in_their_maps_alone() -> None:
    code = Written()
    first, second = (code.relu(code.conv(code.code.images, name)) for name in ("a", "b"))
    same = [code.relu(code.conv(maps, "c")) for maps in (first, second)]
    others = (
        code.conv(first, "c", [1, 1]),
        code.relu(code.conv(first, "d")),
        code.pool(code.relu(code.conv(first, "e"))),
    )
    one, other = (layer.recipe for value, layer in layers_of(*same).items() if value in same)
    assert one == other
    assert all(layers_of(value)[value].recipe != one for value in others)
