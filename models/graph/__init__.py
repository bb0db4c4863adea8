"""Any CNN classifier as a traced graph: its kernels in units, masked, cut out exactly."""

from models.graph.batch_norm_folding import fold_batch_norm
from models.graph.batch_statistics import (
    STATISTICS_BATCH,
    STATISTICS_IMAGES,
    estimate_statistics,
    has_batch_norm,
    statistics_batches,
    with_batch_statistics,
)
from models.graph.errors import NetworkRefused
from models.graph.flops import count_flops, flops_of
from models.graph.graph import Graph, trace
from models.graph.network import GraphNetwork
from models.graph.observing import Observed, stream_maps, unit_norms
from models.graph.sizes import Size, flops_share, kernels_share
from models.graph.units import ConvLayer, Group, Units

__all__ = [
    "STATISTICS_BATCH",
    "STATISTICS_IMAGES",
    "ConvLayer",
    "Graph",
    "GraphNetwork",
    "Group",
    "NetworkRefused",
    "Observed",
    "Size",
    "Units",
    "count_flops",
    "estimate_statistics",
    "flops_of",
    "flops_share",
    "fold_batch_norm",
    "has_batch_norm",
    "kernels_share",
    "statistics_batches",
    "stream_maps",
    "trace",
    "unit_norms",
    "with_batch_statistics",
]
