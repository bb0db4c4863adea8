"""Any CNN classifier as a traced graph: its kernels in units, masked, cut out exactly."""

from models.graph.errors import NetworkRefused
from models.graph.graph import Graph, trace
from models.graph.network import GraphNetwork
from models.graph.units import ConvLayer, Group, Units

__all__ = ["ConvLayer", "Graph", "GraphNetwork", "Group", "NetworkRefused", "Units", "trace"]
