"""Normalisation: batch norm and instance norm hand channels on; layer norm and group norm read them.

A layer norm's mean and variance are those of all channels. Channels that were cut count in them as zeros, so that the
smaller network computes what the masked one computes.
"""

import numpy as np
import torch
from torch import Tensor, fx

from models.graph.atoms import argument
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.propagation import RULES, Propagation, Rule
from models.graph.values import Value

EPSILON = 1e-5  # torch's default
STATISTICS = range(1, 5)  # places of weight, bias, mean and variance of batch norm and instance norm


def follow_by_channel(channels: Propagation, node: fx.Node) -> Layout:
    """Batch norm in evaluation mode, instance norm."""
    source = channels.layout(node.args[0])
    if source.is_plain:
        return Layout(node.meta["shape"], pooled=source.pooled)
    if source.dim != 1:
        return channels.whole(node)
    for place in STATISTICS:
        channels.slice_constant(argument(node, place), 0, source.channels)
    return source.row(node.meta["shape"])


def cut_by_channel(part: Cut, node: fx.Node) -> Value:
    """The same with the kept channels' statistics."""
    kept = part.kept(part.layout(node).channels)
    constants = [part.constant(argument(node, place), {0: kept}) for place in STATISTICS]
    return part.call(node.target, part.new[node.args[0]], *constants, *node.args[5:])


def follow_layer_norm(channels: Propagation, node: fx.Node) -> Layout:
    """Over the row of channels alone, which is the last dimension."""
    source, shape = channels.layout(node.args[0]), node.meta["shape"]
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    if source.dim != len(shape) - 1 or len(node.args[1]) != 1:
        return channels.whole(node)
    channels.read(node, source.dim, folds=False)
    for place in (2, 3):
        channels.slice_constant(argument(node, place), 0, source.channels)
    return source.row(shape)


def cut_layer_norm(part: Cut, node: fx.Node) -> Value:
    """See `partial_layer_norm`."""
    kept = part.kept(part.layout(node).channels)
    weight, bias = (part.constant(argument(node, place), {0: kept}) for place in (2, 3))
    source = part.with_factors(node)
    return part.call(partial_layer_norm, source, node.args[1][0], weight, bias, argument(node, 4, EPSILON))


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


def follow_group_norm(channels: Propagation, node: fx.Node) -> Layout:
    """Over groups of neighbouring channels."""
    source = channels.layout(node.args[0])
    if source.is_plain:
        return Layout(node.meta["shape"], pooled=source.pooled)
    if source.dim != 1:
        return channels.whole(node)
    channels.read(node, 1, folds=False)
    for place in (2, 3):
        channels.slice_constant(argument(node, place), 0, source.channels)
    return source.row(node.meta["shape"])


def cut_group_norm(part: Cut, node: fx.Node) -> Value:
    """See `partial_group_norm`."""
    layout, groups = part.layout(node), node.args[1]
    kept = part.kept(layout.channels)
    weight, bias = (part.constant(argument(node, place), {0: kept}) for place in (2, 3))
    per_group = len(layout.channels) // groups
    member = np.zeros((groups, len(kept)))
    member[kept // per_group, np.arange(len(kept))] = 1
    of_group = part.buffer(torch.as_tensor(member, dtype=part.dtype), f"{node.name}_groups")
    epsilon = argument(node, 4, EPSILON)
    return part.call(partial_group_norm, part.with_factors(node), of_group, per_group, weight, bias, epsilon)


def partial_group_norm(
    values: Tensor, member: Tensor, per_group: int, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Group norm over groups of `per_group` channels, of which those that are not given are zero.

    Args:
        values: (n, kept channels, ...).
        member: (groups, kept channels) of the values' dtype: 1 where a channel is in a group.
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


def is_evaluated(node: fx.Node) -> bool:
    """Whether it normalises by statistics that were learned, not by those of the batch."""
    return not argument(node, 5, False)


RULES["batch_norm"] = Rule(follow_by_channel, cut_by_channel, is_evaluated)
RULES["instance_norm"] = Rule(follow_by_channel, cut_by_channel)
RULES["layer_norm"] = Rule(follow_layer_norm, cut_layer_norm)
RULES["group_norm"] = Rule(follow_group_norm, cut_group_norm)
