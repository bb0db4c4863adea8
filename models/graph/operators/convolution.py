"""2D convolutions: plain ones read channels and make new ones; depthwise ones hand channels on.

The groups of a grouped convolution are dropped whole ("tied"), with the kernels before and behind, or kernel by kernel
("freed"), where tying would leave too little to choose from. Either is exact.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from models.graph.atoms import argument, is_constant, overload
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.propagation import RULES, Layer, Propagation, Rule
from models.graph.values import Value

WEIGHT, BIAS, STRIDE, PADDING, DILATION, GROUPS = range(1, 7)  # places of the arguments


def layer_name(weight: fx.Node) -> str:
    """A layer's name: that of its weight without 'weight'."""
    return weight.target.removesuffix(".weight")


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """New channels; those of a layer that is called again are the same ones."""
    weight, bias, groups = node.args[WEIGHT], argument(node, BIAS), argument(node, GROUPS, 1)
    source = channels.layout(node.args[0])
    shape = node.meta["shape"]
    if not is_constant(weight) or len(shape) != 4:
        return channels.whole(node)
    if source.is_scattered or (source.is_row and source.dim != 1):
        return channels.whole(node, "a convolution reads it in another order")
    kernels, per_group = channels.shape_of_constant(weight)[:2]
    name = layer_name(weight)
    if groups == 1:
        read = channels.read(node, 1, folds=True)
        channels.slice_constant(weight, 1, read)
        made = channels.made_by(weight, kernels)
    elif name in channels.freed:
        read = channels.read(node, 1, folds=True)
        made = channels.made_by(weight, kernels)
        channels.never_empty += [*np.split(read, groups), *np.split(made, groups)]
    else:
        read = source.channels if source.is_row else np.zeros(groups * per_group, np.int64)
        made = channels.made_by(weight, kernels)
        first = np.arange(groups) * per_group
        because = "its group is always kept"
        channels.classes.join(read, read[np.repeat(first, per_group)], because)
        channels.classes.join(made, read[np.repeat(first, kernels // groups)], because)
    channels.slice_constant(bias, 0, made)
    channels.add_layer(Layer(name, node, made, not source.pooled, groups))
    return Layout(shape, 1, made, source.pooled)


def cut(part: Cut, node: fx.Node) -> Value:
    """The convolution with the kernels that are kept, of the channels that are kept."""
    weight, bias, groups = node.args[WEIGHT], argument(node, BIAS), argument(node, GROUPS, 1)
    kernels, per_group = part.constants[weight.target].shape[:2]
    made = part.kept(part.layout(node).channels)
    source = part.layout(node.args[0])
    read = part.kept(source.channels) if source.is_row else np.arange(groups * per_group)
    rest = [argument(node, STRIDE, [1, 1]), argument(node, PADDING, [0, 0]), argument(node, DILATION, [1, 1])]
    images, new_bias = part.new[node.args[0]], part.constant(bias, {0: made})
    factors = part.factors(node)
    if groups == 1:
        return part.call(node.target, images, part.constant(weight, {0: made, 1: read}, factors), new_bias, *rest, 1)
    if layer_name(weight) not in part.channels.freed:
        new_weight = part.constant(weight, {0: made})
        return part.call(node.target, images, new_weight, new_bias, *rest, len(read) // per_group)
    of_group = [
        (made[made // (kernels // groups) == group], read[read // per_group == group] - group * per_group)
        for group in range(groups)
    ]
    sizes = [(len(rows), len(columns)) for rows, columns in of_group]
    new_weight = part.computed_constant(
        weight,
        lambda values: pack_groups(values, of_group, factors, per_group),
        (len(made), max(columns for _, columns in sizes), *part.constants[weight.target].shape[2:]),
        (made.tobytes(), read.tobytes(), None if factors is None else factors.numpy().tobytes()),
    )
    if len(set(sizes)) == 1:
        return part.call(node.target, images, new_weight, new_bias, *rest, groups)
    return part.call(uneven_groups, images, new_weight, new_bias, sizes, *rest)


def pack_groups(
    weight: Tensor, of_group: list[tuple[np.ndarray, np.ndarray]], factors: Tensor | None, per_group: int
) -> Tensor:
    """Each group's kept rows and columns in one weight; groups with fewer columns are filled up with zeros.

    `factors` has one value for each channel of the whole source.
    """
    most = max(len(columns) for _, columns in of_group)
    packed = weight.new_zeros(sum(len(rows) for rows, _ in of_group), most, *weight.shape[2:])
    start = 0
    for group, (rows, columns) in enumerate(of_group):
        index = torch.as_tensor(columns, device=weight.device)
        values = weight[torch.as_tensor(rows, device=weight.device)][:, index]
        if factors is not None:
            values = values * factors[group * per_group + index.cpu()].to(weight)[:, None, None]
        packed[start : start + len(rows), : len(columns)] = values
        start += len(rows)
    return packed


def uneven_groups(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sizes: list[tuple[int, int]],
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
) -> Tensor:
    """A grouped convolution whose groups have different numbers of kernels and channels.

    Args:
        images: (n, channels, height, width).
        weight: (kernels, most channels of a group, height, width): the groups' weights one below the other.
        bias: (kernels,).
        sizes: of each group its kernels and channels.
        stride, padding, dilation: as of torch's convolution.
    """
    maps, row, channel = [], 0, 0
    for kernels, channels in sizes:
        part = weight[row : row + kernels, :channels]
        of_part = None if bias is None else bias[row : row + kernels]
        maps.append(F.conv2d(images[:, channel : channel + channels], part, of_part, stride, padding, dilation))
        row, channel = row + kernels, channel + channels
    return torch.cat(maps, 1)


def is_known(node: fx.Node) -> bool:
    """Whether it is one of the two forms in which torch writes it."""
    return overload(node) in ("aten.conv2d.default", "aten.conv2d.padding")


RULES["conv2d"] = Rule(follow, cut, is_known)
