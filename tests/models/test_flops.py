"""FLOPs against the published numbers and against a count by hand."""

import pytest
from models.flops import count_flops

from models.registry import build_network


@pytest.mark.parametrize(("network", "published"), [("simcnn", 313.73e6), ("rescnn", 431.17e6)])
def test_full_models_cost_what_is_published(network, published):
    assert count_flops(build_network(network, 10)) / 2 == pytest.approx(published, rel=2e-3)


def test_count_by_hand():
    macs = 32 * 32 * 8 * 27 + 16 * 16 * 16 * 8 * 9 + (16 * 8 * 8) * 32 + 32 * 5
    assert count_flops(build_network("simcnn_tiny", 5)) == 2 * macs
