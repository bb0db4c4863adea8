"""Which networks of the libraries can be traced, masked and cut, and whether the cut is exact.

Run:
    python experiments/networks/try_networks.py
    python experiments/networks/try_networks.py --side 224 --only torchvision:resnet18 timm:convnext_atto

Every network gets random weights and batch norm statistics such that its logits depend on the images. In float64, on
two random images, for two random masks that keep about 60 % of the units, the masked network is compared with the
smaller one; with the second mask one class is cut out.

A network is a line of the CSV file, written when it is done. Lines that are there are not made again, so the same
command goes on where it was stopped; take a line out to have it made again. The table is written from the CSV file.
"""

import csv
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import get_type_hints

import numpy as np
import timm
import torch
import torchvision
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.graph import count_flops, trace
from models.graph.errors import where
from models.names import network_of
from models.opening import OneLineParser
from utils.device import processor
from utils.errors import reason, run
from utils.given_places import check_place
from utils.seeds import randomise
from utils.tables import markdown_table

HERE = Path(__file__).parent
NUM_CLASSES = 10
SHARE = 0.6  # of the units that are kept
SIDE = 64
INCEPTIONS = ("inception_v3", "inception_v4", "inception_resnet_v2", "nasnetalarge")
LEAST_SIDES = {**dict.fromkeys(INCEPTIONS, 96), "bat_resnext26ts": 256}
TRANSFORMERS = ("vit_", "swin_", "maxvit")  # torchvision's classifiers that are no CNNs
MOST_PARAMETERS = 200_000_000  # in float64 1.6 GB; larger networks are not tried
TITLE = "# Networks of the libraries"
HEADINGS = (
    *("network", "side", "works", "masked - cut", "logits up to", "conv layers cuttable", "kernels", "units", "groups"),
    *(f"FLOPs kept at {SHARE:.0%}", "trace s", "cut s", "remarks"),
)
TIMM_NETWORKS = HERE / "timm_networks.txt"  # CNNs of every family


@dataclass
class NetworkRow:
    """What was found out about a network; the columns of the table."""

    network: str
    side: int  # of the images, in pixels
    works: str = "no"
    exact: str = ""  # max |masked - cut|
    logits: str = ""  # up to
    cuttable_layers: int = 0  # conv layers with kernels that can be dropped
    layers: int = 0
    kernels: int = 0
    units: int = 0
    groups: int = 0
    kept_flops: str = ""
    trace_seconds: str = ""
    cut_seconds: str = ""
    reason: str = ""  # why it does not work, or why layers cannot be cut


def default_networks() -> list[str]:
    """All of torchvision's CNN classifiers and many of timm's."""
    names = torchvision.models.list_models(module=torchvision.models)
    cnns = [name for name in names if not name.startswith(TRANSFORMERS)]
    return [*(f"torchvision:{name}" for name in cnns), *(f"timm:{name}" for name in TIMM_NETWORKS.read_text().split())]


def try_network(network: str, side: int) -> NetworkRow:
    """One line of the table; an error becomes its reason."""
    row = NetworkRow(network, side)
    try:
        torch.manual_seed(0)
        model = network_of(network, NUM_CLASSES)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        if num_parameters > MOST_PARAMETERS:
            row.works, row.reason = "not tried", f"{num_parameters / 1e6:.0f} M parameters"
            return row
        randomise(model, side)
        measure(model.double(), row)
        row.works = "yes"
    except Exception as error:  # whatever a network does, the next one is tried
        row.reason = " ".join(f"{type(error).__name__}: {reason(error)}{where(error)}".split())
    return row


@torch.no_grad()
def measure(model: nn.Module, row: NetworkRow) -> None:
    """Enter into a row what becomes of a network."""
    start = time.perf_counter()
    graph = trace(model, row.side)
    row.trace_seconds = f"{time.perf_counter() - start:.1f}"
    layers = graph.units.layers
    row.layers, row.cuttable_layers = len(layers), sum(layer.is_cuttable for layer in layers)
    row.kernels, row.units, row.groups = graph.units.num_kernels, graph.num_units, len(graph.units.groups)
    whole = Counter(layer.reason for layer in layers if layer.reason)
    row.reason = "; ".join(f"{count} layers: {because}" for because, count in whole.most_common(2))
    images = torch.randn(2, *graph.image_shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    random = np.random.default_rng(0)
    differences, flops, largest = [], [], 0.0
    for target_class in (None, 3):
        mask = graph.units.repair(random.random(graph.num_units) < SHARE)
        masked = graph.forward(images, torch.as_tensor(mask, dtype=torch.double))
        start = time.perf_counter()
        cut = graph.cut(mask, target_class)
        row.cut_seconds = f"{time.perf_counter() - start:.2f}"
        found = cut(images)
        expected = masked if target_class is None else masked[:, [target_class]]
        if found.shape != expected.shape or not bool(found.isfinite().all()):
            raise ArithmeticError(f"logits {tuple(found.shape)}, expected finite ones {tuple(expected.shape)}")
        differences.append(float((found - expected).abs().max()))
        largest = max(largest, float(masked.abs().max()))
        flops.append(count_flops(cut, images[:1]) / count_flops(graph.forward, images[:1]))
    row.exact, row.logits, row.kept_flops = f"{max(differences):.0e}", f"{largest:.1f}", f"{flops[0]:.2f}"


def read_rows(path: Path) -> list[NetworkRow]:
    """The lines of the CSV file; none if there is no file."""
    if not path.exists():
        return []
    kinds = get_type_hints(NetworkRow)
    with path.open(newline="") as file:
        return [NetworkRow(**{name: kind(line[name]) for name, kind in kinds.items()}) for line in csv.DictReader(file)]


def _begins_with(line: str, path: Path) -> bool:
    return path.read_bytes().startswith(line.encode())


def append_row(path: Path, row: NetworkRow) -> None:
    """Write one line behind the others."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(NetworkRow)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def markdown(rows: list[NetworkRow], note: str = "") -> str:
    """The table, and what it was made with; a note stands under it."""
    tried = [row for row in rows if row.works != "not tried"]
    worked = [row for row in rows if row.works == "yes"]
    exact = [row for row in worked if float(row.exact) <= 1e-10]
    lines = [
        TITLE,
        "",
        "Made by `python experiments/networks/try_networks.py`, which says what the columns mean.",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}; {processor()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread.",
        "",
        f"{len({row.network for row in tried})} networks were tried. Of their {len(tried)} lines {len(worked)} work; "
        f"{len(exact)} of these are exact (at most 1e-10 apart).",
        "",
    ]
    table = []
    for row in rows:
        layers = f"{row.cuttable_layers}/{row.layers}" if row.layers else ""
        cells = [row.network, row.side, row.works, row.exact, row.logits, layers, row.kernels, row.units, row.groups]
        table.append([*cells, row.kept_flops, row.trace_seconds, row.cut_seconds, row.reason.replace("|", "/")])
    return "\n".join([*lines, markdown_table(HEADINGS, table)]) + (f"\n{note}\n" if note else "")


def main() -> None:
    """Try the networks and write the tables."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="LIBRARY:NAME", help="these networks; default: all")
    parser.add_argument(
        "--side", type=int, default=SIDE, help=f"pixels; default: {SIDE}, more where a network needs it"
    )
    parser.add_argument("--csv", type=Path, default=HERE / "networks.csv", help="what is added to")
    parser.add_argument("--markdown", type=Path, default=HERE / "NETWORKS.md", help="the table of all its lines")
    parser.add_argument("--note", default="", help="a sentence to stand under the table")
    args = parser.parse_args()
    columns = ",".join(field.name for field in fields(NetworkRow))
    for option, path, first_line in (("--csv", args.csv, columns), ("--markdown", args.markdown, TITLE)):
        check_place(option, path, partial(_begins_with, first_line))
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    done = {(row.network, row.side) for row in read_rows(args.csv)}
    for network in args.only or default_networks():
        side = max(args.side, LEAST_SIDES.get(network.partition(":")[2], 0))
        if (network, side) in done:
            continue
        row = try_network(network, side)
        append_row(args.csv, row)
        print(f"{network} at {side}: works {row.works}, masked - cut {row.exact} {row.reason}", flush=True)
    args.markdown.write_text(markdown(read_rows(args.csv), args.note))


if __name__ == "__main__":
    run(main)
