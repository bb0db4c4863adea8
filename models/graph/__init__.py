"""Any CNN classifier as a traced graph: its kernels in units, masked, cut out exactly."""

from models.graph.batch_norm_folding import fold_batch_norm
from models.graph.errors import NetworkRefused
from models.graph.flops import count_flops, flops_of
from models.graph.graph import Graph, trace
from models.graph.network import GraphNetwork
from models.graph.observing import unit_norms
from models.graph.units import ConvLayer, Group, Units

__all__ = [
    "ConvLayer",
    "Graph",
    "GraphNetwork",
    "Group",
    "NetworkRefused",
    "Units",
    "count_flops",
    "flops_of",
    "fold_batch_norm",
    "trace",
    "unit_norms",
]
