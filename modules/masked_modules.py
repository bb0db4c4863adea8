"""The modules of a strong model before they are cut out: its feature maps times masks, and the masks' gradient.

The strong model's weights are frozen. On the CPU each module is a run of the graph of its own, so that modules run in
threads of one core each, dropped kernels cost nothing, and what no mask stands in front of is computed once for all. On
other devices, where starting an operator costs more than a small network's maps, all modules are one run, but for
networks whose code keeps images apart less plainly.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.graph import Graph, fold_batch_norm
from models.graph.agreement import agrees
from models.graph.operators import RULES, rule_of
from models.graph.operators.layers import padding_of
from models.graph.running import Program, Step
from models.graph.values import Constant, Value
from modules.fast.compiled_masking import masking_for
from modules.fast.masking import Ending, Masking
from modules.masked_layers import Convolution, Scaled


@dataclass(frozen=True)
class FrozenGraph:
    """A strong model's graph in the precision of the search, as modules run it."""

    graph: Graph  # its batch norms are folded
    first: Program  # the steps that no mask stands in front of
    behind: Program  # the other steps, and in front of them those of the first ones whose values they read
    shared: frozenset[str]  # these, by node
    convolutions: Mapping[str, tuple[Convolution, Tensor]]  # by node; beside it the unit of each of its kernels
    done_before: frozenset[str]  # ReLUs and pools that are part of a convolution

    @property
    def constants(self) -> list[Tensor]:
        """The weights, as the programs are given them."""
        return [self.graph.constants[name] for _, name in self.first.constants]

    @torch.no_grad()
    def first_values(self, images: Tensor) -> dict[str, Any]:
        """What no mask changes, by node; images (n, channels, side, side) in the weights' precision."""
        values: dict[str, Any] = {}

        def keep(name: str) -> Callable[[Any], None]:
            return lambda value: values.update({name: value})

        self.first.run(images, self.constants, observe={name: keep(name) for name in self.shared})
        return values

    def logit(self, images: Tensor, first_values: Mapping[str, Any], mask: Tensor, target_class: int) -> Tensor:
        """One module's logit (n,) in the mask's precision, differentiable in the mask.

        Args:
            images: (n, channels, side, side) in the weights' precision.
            first_values: of these images.
            mask: (units,) float; 0 = dropped.
            target_class: whose logit.
        """
        is_kept = torch.cat([mask.detach() != 0, mask.new_ones(1, dtype=torch.bool)])  # unit -1 finds the last one
        layers: dict[str, Callable[..., Any]] = {name: _constant(value) for name, value in first_values.items()}
        layers |= {step.name: _reader(step) for step in self.behind.steps if step.factors is not None}
        layers |= {name: _convolve(layer, is_kept[units]) for name, (layer, units) in self.convolutions.items()}
        layers |= dict.fromkeys(self.done_before, lambda maps, *_: maps)
        last = self.behind.steps[-1]
        only_one = last.function is torch.ops.aten.linear.default
        if only_one:
            layers[last.name] = _of_class(layers.get(last.name, last.function), target_class)
        (logits,) = self.behind.run(images, self.constants, factors=mask, layers=layers)
        return logits[:, 0 if only_one else target_class].to(mask.dtype)

    @cached_property
    def runs_together(self) -> bool:
        """Whether several modules can be one run: images are the first dimension of whatever masks stand in front of,
        which attention may turn, and no image's logits depend on the other images.
        """
        steps = self.graph.program.steps
        masked = {step.factors.source for step in steps if step.factors is not None}
        made: set[tuple[int, int]] = set()  # numbers of images, and the first dimension of maps of so many

        def first_of(number: int) -> Callable[[Tensor], None]:
            return lambda value: made.add((number, len(value)))

        device, dtype = self.graph.device_and_dtype
        for number in (2, 3):
            images = torch.zeros(number, *self.graph.image_shape, device=device, dtype=dtype)
            with torch.no_grad():
                observe = {step.name: first_of(number) for step in steps if step.place in masked}
                self.graph.forward(images, observe=observe)
        images = torch.randn(2, *self.graph.image_shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        with torch.no_grad():
            together = self.graph.forward(images)
            alone = torch.cat([self.graph.forward(image[None]) for image in images])
        return agrees(alone, together, dtype) and all(number == size for number, size in made)

    def logits(self, images: Tensor, masks: Tensor, target_classes: Sequence[int]) -> Tensor:
        """The logits (n, modules) of modules in one run, in the masks' precision, differentiable in the masks.

        The graph must be one that `runs_together`.

        Args:
            images: (n, channels, side, side) in the weights' precision; each is run once for each module.
            masks: (modules, units) float; 0 = dropped.
            target_classes: whose logits.
        """
        program, modules = self.graph.program, len(masks)
        constants = [self.graph.constants[name] for _, name in program.constants]
        layers = {step.name: _reader(step) for step in program.steps if step.factors is not None}
        of_all = _channels_last(images.repeat(modules, *[1] * (images.dim() - 1)))
        (logits,) = program.run(of_all, constants, factors=masks.repeat_interleave(len(images), 0), layers=layers)
        own = torch.as_tensor(target_classes, device=logits.device).repeat_interleave(len(images))[:, None]
        return logits.gather(1, own).view(modules, -1).T.to(masks.dtype)


def freeze(graph: Graph, dtype: torch.dtype) -> FrozenGraph:
    """A strong model as the search for its modules' masks uses it.

    Raises ValueError if it has no units: there is nothing to search.
    """
    if graph.num_units == 0:
        raise ValueError("expected a network with kernels that can be dropped, given one without")
    graph = fold_batch_norm(graph).to(dtype=dtype)
    graph = graph.with_constants({name: _channels_last(value) for name, value in graph.constants.items()})
    program, masked = graph.program, _behind_masks(graph)
    behind = {value.name for value in masked}
    read = {operand for value in masked for operand in value.operands}
    shared = {value.name for value in read if value.target is not None} - behind
    device, _ = graph.device_and_dtype
    convolutions, done_before, masking = {}, set(), masking_for(dtype, device)
    for value in filter(_is_plain_convolution, masked):
        kernels = graph.channels.layout(value)
        if kernels.is_row:
            followers, units = _followers(value, graph.channels.users), graph.units.unit_of_channel[kernels.channels]
            convolutions[value.name] = _convolution(value, followers, masking), torch.as_tensor(units, device=device)
            done_before.update(follower.name for follower in followers)
    return FrozenGraph(
        graph,
        replace(program, steps=tuple(step for step in program.steps if step.name not in behind)),
        replace(program, steps=tuple(step for step in program.steps if step.name in behind | shared)),
        frozenset(shared),
        convolutions,
        frozenset(done_before),
    )


def mask_gradient(
    model: FrozenGraph,
    images: Tensor,
    masks: Tensor,
    loss: Callable[[Tensor], Tensor],
    workers: Executor,
    target_classes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """A loss of modules' logits, and its gradient with respect to their masks.

    Args:
        model: the strong model.
        images: (batch, channels, side, side) normalised, channels-last, in the model's precision.
        masks: (modules, units) float: masks, or masks times gains. Dropped units (0) get their gradient too.
        loss: of the logits (batch, modules), a scalar; what else it reads gets its gradient as usual.
        workers: run the modules on the CPU, one at a time each; the result does not depend on how many they are.
        target_classes: of the modules; None = module c is of class c.

    Returns the loss, detached, and the gradient (modules, units).
    """
    target_classes = list(range(len(masks)) if target_classes is None else target_classes)
    if images.device.type != "cpu" and model.runs_together:
        return gradient_in_one_run(model, images, masks, loss, target_classes)
    first_values = model.first_values(images)
    factors = [mask.clone().requires_grad_() for mask in masks]

    def logit(factors: Tensor, target_class: int) -> Tensor:
        return model.logit(images, first_values, factors, target_class)

    logits = list(workers.map(logit, factors, target_classes))
    composed = torch.stack([logit.detach() for logit in logits], 1).requires_grad_()
    value = loss(composed)
    value.backward()
    gradients = workers.map(
        lambda *of_run: torch.autograd.grad(*of_run)[0], logits, factors, composed.grad.T.contiguous()
    )
    return value.detach(), torch.stack(list(gradients))


def gradient_in_one_run(
    model: FrozenGraph,
    images: Tensor,
    masks: Tensor,
    loss: Callable[[Tensor], Tensor],
    target_classes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """What `mask_gradient` gives, of all modules together; of a model that `runs_together`."""
    masks = masks.clone().requires_grad_()
    value = loss(model.logits(images, masks, target_classes))
    value.backward()
    return value.detach(), masks.grad


# What a module's run has in place of operators
def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _reader(step: Step) -> Callable[..., Any]:
    """An operator behind its factors."""

    def read(source: Tensor, *args: Any, factors: Tensor, **kwargs: Any) -> Any:
        return step.function(Scaled.apply(source, factors, step.factors.dim), *args, **kwargs)

    return read


def _convolve(layer: Convolution, is_heard: Tensor) -> Callable[..., Tensor]:
    def convolve(
        maps: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, factors: Tensor | None = None, **__: Any
    ) -> Tensor:
        return layer(maps, weight, bias, factors, is_heard)

    return convolve


def _of_class(linear: Callable[..., Tensor], target_class: int) -> Callable[..., Tensor]:
    """A linear layer that makes one logit (n, 1)."""

    def of_class(source: Tensor, weight: Tensor, bias: Tensor | None = None, **factors: Tensor) -> Tensor:
        row = slice(target_class, target_class + 1)
        return linear(source, weight[row], None if bias is None else bias[row], **factors)

    return of_class


# What is found out about the graph
def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _behind_masks(graph: Graph) -> list[Value]:
    """The operators that masks stand in front of, or whose operands depend on masks."""
    readers = {step.name for step in graph.program.steps if step.factors is not None}
    found: dict[Value, None] = {}
    for value in graph.values:
        if value.target is not None and (value.name in readers or any(operand in found for operand in value.operands)):
            found[value] = None
    return list(found)


def _is_plain_convolution(value: Value) -> bool:
    """Whether it is a convolution of images, without groups, padded alike on both sides."""
    if rule_of(value) is not RULES["conv2d"]:
        return False
    given = value.given
    is_of_images = isinstance(given.weight, Constant) and len(value.shape) == 4 and given.groups == 1
    return is_of_images and padding_of(value) is not None


def _followers(convolution: Value, users: Mapping[Value, Sequence[Value]]) -> list[Value]:
    """The ReLU and the max-pool behind a convolution, as far as nothing else reads what is in front of them."""
    found, last = [], convolution
    for name in ("relu", "max_pool2d"):
        if len(users[last]) != 1 or users[last][0].kind != name:
            break
        (last,) = users[last]
        found.append(last)
    return found


def _convolution(value: Value, followers: list[Value], masking: Masking) -> Convolution:
    given, pool = value.given, None
    if len(followers) == 2:
        of_pool = followers[1].given
        pool = of_pool.kernel_size, of_pool.stride, of_pool.padding, of_pool.dilation, of_pool.ceil_mode
    padding = padding_of(value)
    return Convolution(given.stride, padding, given.dilation, Ending(bool(followers), pool), masking)
