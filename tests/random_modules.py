"""Small networks whose logits depend on everything in them, and random masks of them that hypothesis draws."""

from collections.abc import Mapping, Sequence

import hypothesis.strategies as st
import numpy as np
import torch
from torch import nn

from configures.base import Config
from dataset.images import IMAGENET
from models.graph import ConvLayer, Graph, GraphNetwork, Group, Units, trace
from models.names import network_of
from models.rescnn import Conv, ResCNN
from models.strong_model import load_strong_model
from modules.module_set import ModuleSet, SetRecord
from modules.module_sets import write_set
from patching.members import Form, Logits, Member
from patching.patched_model import PatchedModel, PatchOrigin
from patching.rules import Rule
from utils.artifacts import Artifacts
from utils.seeds import randomise


def extract_module(graph: Graph, kernel_mask: np.ndarray, target_class: int | None = None) -> GraphNetwork:
    """The module of a kernel mask (K,) bool, True = kept; with all logits unless a class is given."""
    return graph.cut(graph.units.gather(kernel_mask), target_class)


def with_random_biases(network: nn.Module, seed: int) -> nn.Module:
    """The network in float64 and evaluation mode, with biases, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                value.normal_(generator=generator)
    return network


def random_network(layers: Sequence[Conv], num_classes: int, seed: int, hidden: Sequence[int] = ()) -> ResCNN:
    """Of conv layers 3x3 with pools and additions, then FC layers, in float64; for images of 32 pixels."""
    torch.manual_seed(seed)
    return with_random_biases(ResCNN(num_classes, layers=layers, hidden=hidden), seed)


def random_graph(layers: Sequence[Conv], num_classes: int, seed: int, hidden: Sequence[int] = ()) -> Graph:
    """The graph of `random_network`."""
    return trace(random_network(layers, num_classes, seed, hidden), 32)


def write_modules(config: Config, artifacts: Artifacts, masks: Mapping[int, np.ndarray], name: str) -> ModuleSet:
    """A set of the modules of these classes' masks (K,) bool, which says nothing else of them that is true."""
    strong = load_strong_model(config, artifacts, torch.device("cpu"))
    modules = [extract_module(strong, mask, target_class) for target_class, mask in masks.items()]
    classes, kept = tuple(map(str, range(config.num_classes))), tuple(int(mask.sum()) for mask in masks.values())
    record = SetRecord(classes, strong.units.num_kernels, kept, 0.5, 9, 9, 9, 9, 9, 9, {}, target_classes=tuple(masks))
    all_masks = np.stack(list(masks.values()))
    return write_set(config, artifacts, modules, all_masks, record, name=name, default_name=name)


def random_patched_model(
    rule: Rule,
    classes: Sequence[str] = ("6", "7", "8", "9", "2"),
    weak_network: str = "simcnn_tiny",
    strong_network: str = "simcnn_x0_25",
    form: Form | None = None,
    weak_form: Form | None = None,
) -> PatchedModel:
    """A patched model of untrained networks by their names; its module keeps half of the kernels, for the last class.

    The weak model's form is that of the module by default.
    """
    form = form or Form(32, "stretch", IMAGENET)
    weak_form, count = weak_form or form, len(classes)
    weak = network_of(weak_network, count, weak_form.side)
    strong = network_of(strong_network, count, form.side)
    for seed, (network, side) in enumerate(((weak, weak_form.side), (strong, form.side))):
        randomise(network, side, seed=seed)
    graph = trace(strong, form.side)
    kernel_mask = graph.units.spread(graph.units.repair(np.random.default_rng(0).random(graph.num_units) < 0.5))
    origin = PatchOrigin(weak_network, strong_network, count, (0,), kernel_mask[None])
    module = Member(extract_module(graph, kernel_mask, 0), form, [count - 1])
    return PatchedModel(Member(Logits(weak, count), weak_form, range(count)), [module], rule, classes, origin)


@st.composite
def network_layers(draw: st.DrawFn, max_layers: int = 6, max_kernels: int = 5) -> tuple[Conv, ...]:
    """Networks of any form: chains of additions, additions after pools."""
    layers: list[Conv] = []
    sides: list[int] = []
    for number in range(draw(st.integers(1, max_layers))):
        side = sides[-1] if sides else 32
        pool = side > 4 and draw(st.booleans())
        side = side // 2 if pool else side
        partners = [earlier for earlier in range(number) if sides[earlier] == side]
        add = draw(st.sampled_from(partners)) if partners and draw(st.booleans()) else None
        kernels = draw(st.integers(1, max_kernels)) if add is None else layers[add].kernels
        layers.append(Conv(kernels, pool, add))
        sides.append(side)
    return tuple(layers)


@st.composite
def unit_masks(draw: st.DrawFn, units: Units) -> np.ndarray:
    """Masks (U,) bool that leave one unit of each group or more; often all units or one alone."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros(units.num_units, bool)
    for group in units.groups:
        width = len(group.units)
        count = draw(st.sampled_from([1, width, max(1, width // 2), max(1, width - 1)]))
        mask[random.choice(group.units, count, replace=False)] = True
    return mask


def kernel_masks(units: Units) -> st.SearchStrategy[np.ndarray]:
    """The same as masks (K,) bool over kernels."""
    return unit_masks(units).map(units.spread)


def units_of_layers(units_of_each: Sequence[Sequence[int]]) -> Units:
    """The units of a network that is not there: of each conv layer those of its kernels, -1 of one always kept."""
    layers, start = [], 0
    for number, of_layer in enumerate(units_of_each):
        reason = "it is read whole" if set(of_layer) == {-1} else None
        layers.append(ConvLayer(f"conv {number}", slice(start, start + len(of_layer)), reason))
        start += len(of_layer)
    unit_of_kernel = np.concatenate([np.array(of_layer, np.int64) for of_layer in units_of_each])
    num_units = int(unit_of_kernel.max()) + 1
    groups: dict[tuple[int, ...], list[int]] = {}
    for unit in range(num_units):
        layers_of_unit = tuple(number for number, of_layer in enumerate(units_of_each) if unit in of_layer)
        groups.setdefault(layers_of_unit, []).append(unit)
    never_empty = {tuple(sorted(set(of_layer))) for of_layer in units_of_each if -1 not in of_layer}
    return Units(
        unit_of_kernel,
        tuple(layers),
        tuple(Group(of_group, np.array(members)) for of_group, members in groups.items()),
        tuple(np.array(members) for members in sorted(never_empty, key=lambda members: (len(members), members))),
        np.arange(-1, num_units),
        np.full(num_units + 1, -1),
        num_units,
    )


def tied_units(num_kernels: Sequence[int], tied_to: Sequence[int]) -> Units:
    """Units of layers so wide, each with the units of the first layer that it is tied to."""
    units_of: dict[int, list[int]] = {}
    for layer, (width, first) in enumerate(zip(num_kernels, tied_to, strict=True)):
        if layer == first:
            start = sum(map(len, units_of.values()))
            units_of[layer] = list(range(start, start + width))
    return units_of_layers([units_of[first] for first in tied_to])
