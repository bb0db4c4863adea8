"""A module while its weights are trained and its units are dropped: a small network, cut anew with each drop."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.autocast import autocast
from models.graph import Graph, GraphNetwork, Observed, Size, with_batch_statistics
from models.graph.running import Program
from search.gradient.goal import unexplained
from search.gradient.pruning import MEMORY, mask_within
from search.gradient.weight_places import WeightPlaces, head_rows

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
MAP_IMAGES = 16  # of a step, whose maps are compared: those of all 64 take as long as the rest of the step


class TrainedModule:
    """One module while it is trained.

    Args:
        graph: the strong model, on the device; the module begins with its weights, and all of its units.
        places: of the strong model's weights.
        classes: of the module. One of several classes has all logits, but only these are its answer.

    Attributes:
        unit_mask: (units,) bool, True = kept.
        network: images -> the logit (n, 1), or all logits.
        saliency: (units,) float32, see `pruning`.
        steps_done: since the beginning.
    """

    def __init__(self, graph: Graph, places: WeightPlaces, classes: tuple[int, ...]) -> None:
        self.graph, self.places, self.classes = graph, places, classes
        self.target_class = classes[0] if len(classes) == 1 else None  # as cutting takes it: None keeps all logits
        self.saliency, self.steps_done, self._began_at = torch.zeros(graph.num_units), 0, 0
        every = np.ones(graph.num_units, bool)
        self._become(every, graph.cut(every, self.target_class))

    def _become(self, unit_mask: np.ndarray, network: GraphNetwork) -> None:
        """Go on as a module of a mask (units,), whose network is trained from now on."""
        self.unit_mask, self.network = unit_mask, network
        self._program = with_batch_statistics(network.graph_program)
        # A short memory of the gradients' sizes: they change as units go.
        self._optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99), fused=True)

    @torch.no_grad()
    def begin_with_difference(self) -> None:
        """Let its output begin as the strong model's logit minus the mean of the others, which is near the log-odds.

        A network whose last layer has no weights of its own for each class begins with the logit.
        """
        rows_of = head_rows(self.graph, self.classes[0]) if len(self.classes) == 1 else {}
        for name, rows in rows_of.items():
            every = self.graph.constants[name]
            is_other = torch.ones(len(every), dtype=torch.bool, device=every.device).index_fill(0, rows, False)
            self._weights[name].copy_(every[rows] - every[is_other].mean(0))

    @property
    def _weights(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())

    def answer(
        self,
        images: Tensor,
        dtype: torch.dtype,
        observed: Iterable[Observed] = (),
        gates: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Its logits (batch, own classes) float32, by the batch's own statistics, and maps; differentiable.

        Args:
            images: (batch, channels, side, side) of `dtype`, normalised.
            dtype: bfloat16 runs the network in autocast; weights stay float32.
            observed: the strong model's maps whose counterparts are returned, by name, of the first images.
            gates: (units,) float32 ones, by which units' maps are multiplied where they are read.
        """
        logits, maps = answer_and_maps(self.network, self._program, images, dtype, observed, gates)
        return (logits if self.target_class is not None else logits[:, list(self.classes)]), maps

    def unexplained_maps(
        self, observed: Sequence[Observed], maps: Mapping[str, Tensor], strong_maps: Mapping[str, Tensor]
    ) -> Tensor:
        """The mean share of the strong model's maps that its own, of `answer`, do not explain: a scalar."""
        kept = np.append(self.unit_mask, True)  # unit -1 finds the last one
        shares = []
        for each in observed:
            channels = torch.as_tensor(np.flatnonzero(kept[each.units]), device=strong_maps[each.name].device)
            strong = strong_maps[each.name].index_select(each.dim, channels)
            if each.name in maps and maps[each.name].shape == strong.shape:  # filled up, it has other channels
                shares.append(unexplained(maps[each.name].float(), strong.float(), each.dim))
        return torch.stack(shares).mean() if shares else torch.zeros(())

    def note_saliency(self, logits: Tensor, gates: Tensor, signs: Tensor) -> None:
        """Note how much the logits of a step, of `answer`, depend on each unit.

        Args:
            logits: (images, own classes), through which the loss can be differentiated afterwards.
            gates: (units,) that `answer` was given.
            signs: -1 or 1 for each of them, at random. The square of a sum with such signs is, on average, the sum of
                the squares: of each image's own logit, by one pass backwards for all images.
        """
        (of_gates,) = torch.autograd.grad((logits * signs).sum(), gates, retain_graph=True, materialize_grads=True)
        self.saliency = MEMORY * self.saliency + (1 - MEMORY) * of_gates.cpu().square()

    def update(self, step_size: float) -> None:
        """Take a step by the gradients that are there."""
        for group in self._optimizer.param_groups:
            group["lr"] = step_size
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1

    @torch.no_grad()
    def drop(self, size: Size, keep: float) -> None:
        """Go on with the most salient units within `keep`. Their weights, and what Adam knows of them, stay."""
        mask = mask_within(torch.as_tensor(self.unit_mask), self.saliency, self.graph.units, size, keep).numpy()
        if (mask == self.unit_mask).all():
            return
        before, now = (self.places.of(each, self.target_class) for each in (self.unit_mask, mask))
        weights, moments = self._weights, self._moments()
        self._become(mask, self.graph.cut(mask, self.target_class))
        for name, value in self.places.moved(weights, before, now).items():
            self._weights[name].copy_(value)
        self._set_moments({kind: self.places.moved(each, before, now) for kind, each in moments.items()})

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """What Adam knows of the gradients of each weight, by kind and name."""
        state = {name: self._optimizer.state[weight] for name, weight in self._weights.items()}
        return {
            kind: {name: state[name].get(kind, torch.zeros_like(weight)) for name, weight in self._weights.items()}
            for kind in MOMENTS
        }

    def _set_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, weight in self._weights.items():
            # In the weight's order of memory, in which fused Adam reads all values, whatever their strides are.
            own = {kind: torch.empty_like(weight).copy_(moments[kind][name].view_as(weight)) for kind in MOMENTS}
            steps = torch.tensor(float(self.steps_done - self._began_at), device=weight.device)
            self._optimizer.state[weight] = {"step": steps, **own}

    def begin_round(self, unit_mask: np.ndarray, network: GraphNetwork, steps_done: int) -> None:
        """Begin a round as a module of a mask (units,), with no memory of steps in rounds before."""
        self._become(unit_mask, network)
        self.saliency, self.steps_done, self._began_at = torch.zeros_like(self.saliency), steps_done, steps_done

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a checkpoint holds it."""
        return {
            "kept": torch.as_tensor(self.unit_mask),
            "weights": {name: value.detach().cpu() for name, value in self.network.state_dict().items()},
            "moments": {
                kind: {name: value.cpu() for name, value in of_kind.items()}
                for kind, of_kind in self._moments().items()
            },
            "saliency": self.saliency,
            "steps_done": self.steps_done,
            "began_at": self._began_at,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`'s. Raises KeyError, TypeError, ValueError or RuntimeError for another module's."""
        weights, saliency, kept = state["weights"], state["saliency"], state["kept"]
        moments = [value for of_kind in state["moments"].values() for value in of_kind.values()]
        if not all(value.isfinite().all() for value in [*weights.values(), *moments, saliency]):
            raise ValueError("it holds NaN or infinity")
        for name, values, dtype in (("saliency", saliency, torch.float32), ("mask", kept, torch.bool)):
            if (values.shape, values.dtype) != (self.saliency.shape, dtype):
                found = f"{values.dtype} {tuple(values.shape)}"
                raise ValueError(f"expected the {name} {dtype} of {len(self.saliency)} units, found {found}")
        unit_mask = kept.numpy()
        if (unit_mask != self.unit_mask).any():
            self._become(unit_mask, self.graph.cut(unit_mask, self.target_class))
        self.network.load_state_dict(weights)
        self.saliency = saliency.clone()
        self.steps_done, self._began_at = int(state["steps_done"]), int(state["began_at"])
        self._set_moments(state["moments"])


def answer_and_maps(
    network: GraphNetwork,
    program: Program,
    images: Tensor,
    dtype: torch.dtype,
    observed: Iterable[Observed],
    gates: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """All logits float32 of images (batch, channels, side, side), and maps of the first images, by name.

    Args:
        program: that the network runs.
        dtype: bfloat16 runs it in autocast.
        observed: which maps.
        gates: (units,) in front of what reads their maps.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        maps[name] = value[:MAP_IMAGES]

    observe = {each.name: partial(keep, each.name) for each in observed}
    with autocast(images.device, dtype):
        return network.run_graph(program, images, factors=gates, observe=observe).float(), maps
