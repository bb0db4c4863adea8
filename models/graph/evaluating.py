"""A network in evaluation mode, for a while: afterwards it is what it was before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from utils.errors import UserError


@contextmanager
def evaluating(network: nn.Module, device: torch.device | str | None = None) -> Iterator[None]:
    """Run a block with a network in evaluation mode, and leave the network as it was.

    The training flag of every submodule is put back, and so are parameters and buffers, with their device, the values
    of buffers, and other attributes: what a forward in inference mode leaves there cannot be trained with.

    Args:
        network: any network; its hooks are run by its forward as ever.
        device: where the network is meanwhile; by default where it is.
    """
    was_training = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with _left_as_it_is(network, device):
            yield
    finally:
        for module, was in was_training:  # a module stands before those inside it
            if module.training != was:
                module.train(was)  # not the flag alone: some networks merge weights in evaluation mode
                module.training = was


@contextmanager
def _left_as_it_is(network: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """What a block, or a move to another device, does to the tensors and attributes of a network is undone."""
    dicts = [part for module in network.modules() for part in (module._parameters, module._buffers, vars(module))]
    entries = [dict(part) for part in dicts]
    values = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    data = []
    if device is not None:
        data = [(tensor, tensor.data) for tensor in _with_gradients(network.parameters())]
        network.to(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in data:
                tensor.data = before
            for buffer, before in values:
                if not (buffer.is_meta or torch.equal(buffer, before)):
                    buffer.copy_(before)
        for part, entry in zip(dicts, entries, strict=True):
            if part.keys() != entry.keys() or any(part[name] is not value for name, value in entry.items()):
                part.clear()  # the dict itself: others have it
                part.update(entry)


def has_modes_of_its_own(network: nn.Module) -> bool:
    """Whether a part of the network does more than to set its flag when its mode changes: merges weights, say."""
    return any(
        type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval
        for module in network.modules()
    )


def first_logits(outputs: Any, count: int, classes: int | None = None) -> Tensor | None:
    """The first of the values that a network gives for `count` images that is logits (count, classes), or None.

    Args:
        outputs: a tensor, or tensors in tuples, lists and dicts.
        count: of the images.
        classes: how many there are; None: any number.
    """
    leaves = (value for value in tree_leaves(outputs) if isinstance(value, Tensor))
    fitting = (value for value in leaves if value.dim() == 2 and value.shape[0] == count)
    return next((value for value in fitting if classes in (None, value.shape[1])), None)


class OneAnswer(nn.Module):
    """A network that answers by several values: the first one of them that is logits (batch, classes).

    Args:
        network: images (batch, channels, side, side) -> logits, alone or in tuples, lists and dicts.
        classes: how many logits there are; None: any number.
    """

    def __init__(self, network: nn.Module, classes: int | None) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, images: Tensor) -> Tensor:
        """Raises UserError if none is."""
        return one_answer(self.network(images), images, self.classes)


def one_answer(answer: Any, images: Tensor, classes: int | None) -> Tensor:
    """A network's answer to images if it is a tensor, else the logits in it. Raises UserError if none is."""
    if isinstance(answer, Tensor):
        return answer
    # `len` of the images would fix the batch size of an exported network
    found = first_logits(answer, images.shape[0], classes)
    if found is None:
        raise UserError(
            f"the network gives a {type(answer).__name__}: expected logits (images, {classes or 'classes'}) in it"
        )
    return found


def floating_parameter(network: nn.Module) -> Tensor:
    """One that tells the network's dtype and device; a zero if it has none."""
    return next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))


def _with_gradients(parameters: Iterator[nn.Parameter]) -> Iterator[Tensor]:
    for parameter in parameters:
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
