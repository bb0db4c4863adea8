"""Layers with weights: linear layers and 2D convolutions read channels and make new ones.

Depthwise convolutions hand channels on. On maps (n, height, width, channels) linear layers are 1x1 convolutions, and
their rows kernels. The groups of a grouped convolution are dropped whole ("tied"), with the kernels before and behind,
or kernel by kernel ("freed"), if tying would leave too little to choose from. Either is exact.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.graph.cutting import Cut
from models.graph.layouts import ChannelRow, Layout, Scattered
from models.graph.propagation import Layer, Propagation
from models.graph.values import Constant, Value


def layer_name(weight: Value) -> str:
    """A layer's name: that of its weight without 'weight'."""
    return weight.name.removesuffix(".weight")


def follow_convolution(channels: Propagation, value: Value) -> Layout:
    """New channels; those of a layer that is called again are the same ones."""
    given = value.given
    weight, groups, source, shape = given.weight, given.groups, channels.layouts[given.source], value.shape
    if not isinstance(weight, Constant) or len(shape) != 4:
        return channels.whole(value)
    if isinstance(source, Scattered) or (isinstance(source, ChannelRow) and source.dim != 1):
        return channels.whole(value, "a convolution reads it in another order")
    kernels, per_group = weight.shape[:2]
    name = layer_name(weight)
    if groups == 1:
        read = channels.read(value, 1)
        channels.slice_constant(weight, 1, read)
        made = channels.made_by(weight, kernels)
    elif name in channels.freed:
        read = channels.read(value, 1)
        made = channels.made_by(weight, kernels)
        channels.never_empty += [*np.split(read, groups), *np.split(made, groups)]
    else:
        read = source.channels if isinstance(source, ChannelRow) else np.zeros(groups * per_group, np.int64)
        made = channels.made_by(weight, kernels)
        first = np.arange(groups) * per_group
        because = "its group is always kept"
        channels.ties.join(read, read[np.repeat(first, per_group)], because)
        channels.ties.join(made, read[np.repeat(first, kernels // groups)], because)
    channels.slice_constant(given.bias, 0, made)
    channels.add_layer(Layer(name, value, made, not source.pooled, groups))
    return ChannelRow(shape, source.pooled, dim=1, channels=made)


def cut_convolution(part: Cut, value: Value) -> Value:
    """The convolution with the kernels that are kept, of the channels that are kept."""
    given = value.given
    weight, groups = given.weight, given.groups
    kernels, per_group = weight.shape[:2]
    made = part.kept(part.row(value).channels)
    source = part.channels.layouts[given.source]
    read = part.kept(source.channels) if isinstance(source, ChannelRow) else np.arange(groups * per_group)
    bias = part.constant(given.bias, {0: made})
    if groups == 1:
        return part.copy(value, weight=part.constant(weight, {0: made, 1: read}), bias=bias)
    if layer_name(weight) not in part.channels.freed:
        return part.copy(value, weight=part.constant(weight, {0: made}), bias=bias, groups=len(read) // per_group)
    of_group = [
        (made[made // (kernels // groups) == group], read[read // per_group == group] - group * per_group)
        for group in range(groups)
    ]
    sizes = [(len(rows), len(columns)) for rows, columns in of_group]
    new_weight = part.computed_constant(
        weight,
        lambda values: pack_groups(values, of_group),
        (len(made), max(columns for _, columns in sizes), *weight.shape[2:]),
        (made.tobytes(), read.tobytes()),
    )
    if len(set(sizes)) == 1:
        return part.copy(value, weight=new_weight, bias=bias)
    geometry = given.stride, given.padding, given.dilation
    return part.call(uneven_groups, part.new[given.source], new_weight, bias, sizes, *geometry)


def pack_groups(weight: Tensor, of_group: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
    """Each group's kept rows and columns in one weight; groups with fewer columns are filled up with zeros."""
    most = max(len(columns) for _, columns in of_group)
    packed = weight.new_zeros(sum(len(rows) for rows, _ in of_group), most, *weight.shape[2:])
    start = 0
    for rows, columns in of_group:
        row_index, column_index = (torch.as_tensor(places, device=weight.device) for places in (rows, columns))
        packed[start : start + len(rows), : len(columns)] = weight[row_index][:, column_index]
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


def is_plain_convolution(value: Value) -> bool:
    """Whether it is one of the two forms in which torch writes it."""
    return value.operator.overload in ("aten.conv2d.default", "aten.conv2d.padding")


def padding_of(convolution: Value) -> list[int] | None:
    """How many pixels a convolution puts at each side of its maps; None if that is not the same at both ends."""
    given = convolution.given
    if not isinstance(given.padding, str):
        return list(given.padding)
    if given.padding == "valid":
        return [0, 0]
    both = [dilation * (size - 1) for dilation, size in zip(given.dilation, given.weight.shape[2:], strict=True)]
    return None if any(pixels % 2 for pixels in both) else [pixels // 2 for pixels in both]


def follow_linear(channels: Propagation, value: Value) -> Layout:
    """New channels along the last dimension."""
    given, shape = value.given, value.shape
    weight, source, last = given.weight, channels.layouts[given.source], len(shape) - 1
    if not isinstance(weight, Constant):
        return channels.whole(value)
    if isinstance(source, Scattered) or (isinstance(source, ChannelRow) and source.dim != last):
        return channels.whole(value, "a linear layer reads it in another order")
    channels.slice_constant(weight, 1, channels.read(value, last))
    made = channels.made_by(weight, shape[-1])
    channels.slice_constant(given.bias, 0, made)
    channels.add_layer(Layer(layer_name(weight), value, made, len(shape) == 4 and not source.pooled))
    return ChannelRow(shape, source.pooled, dim=last, channels=made)


def cut_linear(part: Cut, value: Value) -> Value:
    """The layer with the rows and columns that are kept."""
    given = value.given
    made, source = part.kept(part.row(value).channels), part.channels.layouts[given.source]
    index = {0: made, 1: part.kept(source.channels)} if isinstance(source, ChannelRow) else {0: made}
    weight = part.constant(given.weight, index)
    return part.copy(value, weight=weight, bias=part.constant(given.bias, {0: made}))
