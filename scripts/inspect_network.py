"""Look into a network and a checkpoint: what was found, and which conv layers modules can be cut from.

    python scripts/inspect_network.py --network torchvision:resnet18 --num_classes 10
    python scripts/inspect_network.py --network my_network.py:build --num_classes 10 --checkpoint best.pth
    python scripts/inspect_network.py --network timm:resnet18d --num_classes 10 --checkpoint a.ckpt --checkpoint_key ema

A network is simcnn, rescnn or one of these with a width (simcnn_x0_25); torchvision:NAME; timm:NAME (first: pip install
timm); or FILE.py:NAME, a function or class of your own, which gets the number of classes and makes a torch.nn.Module.
Your own file runs, with all that it does. Nothing is downloaded or written, and nothing in a checkpoint is run.
docs/your_network.md says more.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.checkpoints import load_foreign_checkpoint
from models.cnn import IMAGE_CHANNELS, IMAGE_SIDE, count_parameters
from models.graph import Graph, Units, count_flops, trace
from models.names import check_num_classes, network_of
from utils.errors import UserError, run
from utils.stage import OneLineParser
from utils.tables import show_table

LARGEST_SIDE = 1024  # pixels
LISTED = 3  # groups of a layer that has more are counted


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--network", required=True, help="simcnn, torchvision:NAME, timm:NAME or FILE.py:NAME")
    parser.add_argument("--num_classes", type=int, required=True, help="how many classes it tells apart")
    parser.add_argument("--image_side", type=int, default=IMAGE_SIDE, help="pixels; default: 32")
    parser.add_argument("--checkpoint", type=Path, help="a file of torch.save or safetensors with its weights")
    parser.add_argument(
        "--checkpoint_key", help="where in the file they are, if several places fit: ema, state_dict ..."
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.image_side <= LARGEST_SIDE:
        raise UserError(f"--image_side {arguments.image_side}: expected pixels from 1 to {LARGEST_SIDE}")
    if arguments.checkpoint_key is not None and arguments.checkpoint is None:
        raise UserError("--checkpoint_key: expected a --checkpoint as well")

    network = network_of(arguments.network, arguments.num_classes).eval()
    side = arguments.image_side
    print(f"network: {arguments.network}, {arguments.num_classes} classes, images {side}x{side}", flush=True)
    if arguments.checkpoint is not None:
        weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
        print(f"checkpoint: {arguments.checkpoint}: {weights.describe()}", flush=True)
    graph = trace(network, side)
    check_num_classes(arguments.network, graph.num_classes, arguments.num_classes)
    show_cost(network, graph)
    show_layers(graph.units)


def show_cost(network: nn.Module, graph: Graph) -> None:
    """Print what an image costs."""
    device, dtype = graph.device_and_dtype
    image = torch.zeros(1, IMAGE_CHANNELS, *graph.image_shape[1:], device=device, dtype=dtype)
    print(f"parameters: {count_parameters(network):,}")
    print(f"FLOPs of an image: {count_flops(graph.forward, image):,} (a multiply-accumulate counts 2)\n")


def show_layers(units: Units) -> None:
    """Print which conv layers can lose kernels, and why others cannot."""
    rows = []
    for number, layer in enumerate(units.layers):
        groups = [group for group, of_group in enumerate(units.groups) if number in of_group.layers]
        rows.append([layer.name, layer.width, listed(groups), "yes" if layer.is_cuttable else f"no: {layer.reason}"])
    show_table(["conv layer", "kernels", "group", "can be cut"], rows)
    free = int((units.unit_of_kernel >= 0).sum())
    cuttable = sum(layer.is_cuttable for layer in units.layers)
    print(f"\nconv layers that can be cut: {cuttable} of {len(units.layers)}")
    print(f"kernels that can be dropped: {free:,} of {units.num_kernels:,}")
    print(f"units (kernels that go together, for example across an addition): {units.num_units:,}")
    print(f"groups (units in the same conv layers): {len(units.groups)}")


def listed(groups: Sequence[int]) -> str:
    """The groups of a layer, or how many there are."""
    return ", ".join(map(str, groups)) if len(groups) <= LISTED else f"{len(groups)} groups"


if __name__ == "__main__":
    run(main)
