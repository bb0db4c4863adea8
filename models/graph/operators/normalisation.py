"""Normalisation: batch norm and instance norm hand channels on; layer norm and group norm read them.

A layer norm's mean and variance are those of all channels. Channels that were cut count in them as zeros, so that the
smaller network computes what the masked one computes.
"""

import numpy as np
import torch
from torch import Tensor

from models.graph.cutting import Cut
from models.graph.layouts import ChannelRow, Layout
from models.graph.propagation import Propagation, of_row
from models.graph.values import Value

STATISTICS = ("weight", "bias", "running_mean", "running_var")  # of batch norm and instance norm


@of_row
def follow_by_channel(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Batch norm in evaluation mode, instance norm."""
    if source.dim != 1:
        return channels.whole(value)
    for name in STATISTICS:
        channels.slice_constant(getattr(value.given, name), 0, source.channels)
    return source.row(value.shape)


def cut_by_channel(part: Cut, value: Value) -> Value:
    """The same with the kept channels' statistics."""
    kept, given = part.kept(part.row(value).channels), value.given
    return part.copy(value, **{name: part.constant(getattr(given, name), {0: kept}) for name in STATISTICS})


@of_row
def follow_layer_norm(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Over the row of channels alone, which is the last dimension."""
    is_known = source.dim == len(source.shape) - 1 and len(value.given.normalized_shape) == 1
    return _read(channels, value, source) if is_known else channels.whole(value)


def cut_layer_norm(part: Cut, value: Value) -> Value:
    """See `partial_layer_norm`."""
    kept, given = part.kept(part.row(value).channels), value.given
    weight, bias = (part.constant(constant, {0: kept}) for constant in (given.weight, given.bias))
    (num_channels,) = given.normalized_shape
    return part.call(partial_layer_norm, part.new[given.source], num_channels, weight, bias, given.eps)


def partial_layer_norm(
    values: Tensor, num_channels: int, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Layer norm over `num_channels` channels, of which those that are not given are zero.

    Args:
        values: (..., kept channels).
        num_channels: how many there are with those that were cut.
        weight, bias: (kept channels,).
        epsilon: added to the variance.
    """
    mean = values.sum(-1, keepdim=True) / num_channels
    centred = values - mean
    num_cut = num_channels - values.shape[-1]
    variance = (centred.square().sum(-1, keepdim=True) + num_cut * mean.square()) / num_channels
    result = centred * torch.rsqrt(variance + epsilon)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


@of_row
def follow_group_norm(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Over groups of neighbouring channels."""
    return _read(channels, value, source) if source.dim == 1 else channels.whole(value)


def _read(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """A norm that mixes its channels, and has a weight and a bias of each."""
    channels.read(value, source.dim)
    for constant in (value.given.weight, value.given.bias):
        channels.slice_constant(constant, 0, source.channels)
    return source.row(value.shape)


def cut_group_norm(part: Cut, value: Value) -> Value:
    """See `partial_group_norm`."""
    layout, given = part.row(value), value.given
    kept, groups = part.kept(layout.channels), given.num_groups
    weight, bias = (part.constant(constant, {0: kept}) for constant in (given.weight, given.bias))
    per_group = len(layout.channels) // groups
    member = np.zeros((groups, len(kept)))
    member[kept // per_group, np.arange(len(kept))] = 1
    of_group = part.buffer(torch.as_tensor(member, dtype=part.dtype), f"{value.name}_groups")
    return part.call(partial_group_norm, part.new[given.source], of_group, per_group, weight, bias, given.eps)


def partial_group_norm(
    values: Tensor, member: Tensor, per_group: int, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Group norm over groups of `per_group` channels, of which those that are not given are zero.

    Args:
        values: (n, kept channels, ...).
        member: (groups, kept channels) of the values' dtype: 1 if a channel is in a group.
        per_group: channels of a group, with those that were cut.
        weight, bias: (kept channels,).
        epsilon: added to the variance.
    """
    pixels = values.flatten(2)  # (n, kept channels, pixels)
    count = per_group * pixels.shape[2]
    mean = pixels.sum(2) @ member.t() / count  # (n, groups)
    centred = pixels - (mean @ member)[:, :, None]
    num_cut = (per_group - member.sum(1)) * pixels.shape[2]
    variance = (centred.square().sum(2) @ member.t() + num_cut * mean.square()) / count
    result = centred * (torch.rsqrt(variance + epsilon) @ member)[:, :, None]
    result = result if weight is None else result * weight[:, None]
    result = result if bias is None else result + bias[:, None]
    return result.reshape(values.shape)


def is_evaluated(value: Value) -> bool:
    """Whether it normalises by statistics that were learned, not by those of the batch."""
    return not value.given.training
