"""Look into a network and a checkpoint: what was found, and which conv layers modules can be cut from.

    python scripts/inspect_network.py --network torchvision:resnet18 --num_classes 10
    python scripts/inspect_network.py --network my_network.py:build --num_classes 10 --checkpoint best.pth
    python scripts/inspect_network.py --network timm:resnet18d --num_classes 10 --checkpoint a.ckpt --checkpoint_key ema
    python scripts/inspect_network.py --network "torchvision:resnet18[1000:151-268,281-285]"

A network is simcnn, rescnn, resnet20 or one of these with a width (simcnn_x0_25); torchvision:NAME; timm:NAME (first:
pip install timm); or FILE.py:NAME, a function or class of your own, which gets the number of classes and makes a
torch.nn.Module. Your own file runs, with all that it does. In brackets behind the name stand the number of outputs, and
the outputs of each class, where the classes are some of them. Nothing is downloaded or written, and nothing in a
checkpoint is run.
docs/your_network.md says more.
"""

from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.image_files import SIDE
from models.adapted import split_name
from models.checkpoints import load_foreign_checkpoint
from models.evaluation import show_cost, show_layers
from models.names import network_of
from models.opening import OneLineParser, add_quiet
from models.strong_model import trace_classifier
from utils.errors import UserError, run
from utils.progress import show_progress

LARGEST_SIDE = 1024  # pixels


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--network", required=True, help="simcnn, torchvision:NAME, timm:NAME or FILE.py:NAME")
    parser.add_argument("--num_classes", type=int, help="how many classes it tells apart, if its name does not say")
    parser.add_argument("--image_side", type=int, default=SIDE, help="pixels; default: 32")
    parser.add_argument("--checkpoint", type=Path, help="a file of torch.save or safetensors with its weights")
    parser.add_argument(
        "--checkpoint_key", help="where in the file they are, if several places fit: ema, state_dict ..."
    )
    add_quiet(parser)
    arguments = parser.parse_args()
    show_progress(not arguments.quiet)
    if not 1 <= arguments.image_side <= LARGEST_SIDE:
        raise UserError(f"--image_side {arguments.image_side}: expected pixels from 1 to {LARGEST_SIDE}")
    if arguments.checkpoint_key is not None and arguments.checkpoint is None:
        raise UserError("--checkpoint_key: expected a --checkpoint as well")

    side, num_classes = arguments.image_side, arguments.num_classes or len(split_name(arguments.network)[1].groups)
    if not num_classes:
        parser.error("expected --num_classes, how many classes the network tells apart")
    network = network_of(arguments.network, num_classes, side).eval()
    print(f"network: {arguments.network}, {num_classes} classes, images {side}x{side}", flush=True)
    if arguments.checkpoint is not None:
        weights = load_foreign_checkpoint(network, arguments.checkpoint, arguments.checkpoint_key)
        print(f"checkpoint: {arguments.checkpoint}: {weights.describe()}", flush=True)
    graph = trace_classifier(network, arguments.network, num_classes, side)
    show_cost(network, graph)
    show_layers(graph.units)


if __name__ == "__main__":
    run(main)
