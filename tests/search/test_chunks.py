"""Chunks of modules: all of them, in order, and balanced; what they cost is learned."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from search.genetic.chunks import LEAST_SECONDS, ModuleCosts, block_chunks, guided_chunks, image_blocks


@given(seconds=st.lists(st.floats(1e-3, 10), min_size=0, max_size=60), workers=st.integers(0, 200))
def test_chunks_cover_everything_once_and_in_order(seconds: list[float], workers: int) -> None:
    chunks = guided_chunks(np.array(seconds), workers)
    assert [place for chunk in chunks for place in range(chunk.start, chunk.stop)] == list(range(len(seconds)))
    assert all(chunk.start < chunk.stop for chunk in chunks)


def test_chunks_grow_smaller_and_end_together() -> None:
    seconds = np.random.default_rng(0).uniform(0.5, 1.5, 1000)
    chunks = guided_chunks(seconds, 10)
    sizes = [seconds[chunk].sum() for chunk in chunks]
    assert len(chunks) < 150 and sizes[0] > 20 * sizes[-1]
    ends = np.zeros(10)
    for size in sizes:  # each to the worker that is free first
        ends[ends.argmin()] += size
    assert ends.max() < 1.02 * ends.mean()
    small = guided_chunks(np.full(1000, 1e-3), 100)
    assert min(len(range(1000)[chunk]) for chunk in small[:-1]) >= round(LEAST_SECONDS / 1e-3) - 1
    assert guided_chunks(np.full(20, 60.0), 1000) == [slice(place, place + 1) for place in range(20)]


@given(count=st.integers(1, 60), workers=st.integers(1, 200), blocks=st.integers(1, 7))
def test_blocks_cover_every_module_once(count: int, workers: int, blocks: int) -> None:
    chunks = block_chunks(np.full(count, 1.0), workers, blocks)
    assert [(block, module) for block, chunk in chunks for module in range(chunk.start, chunk.stop)] == [
        (block, module) for block in range(blocks) for module in range(count)
    ]


def test_images_are_cut_where_modules_are_long_and_few() -> None:
    assert image_blocks(np.full(800, 10.0), 400) == 1
    assert image_blocks(np.full(800, 10.0), 1024) == 3
    assert image_blocks(np.full(800, 0.5), 1024) == 2  # no shorter than is worth a task
    assert image_blocks(np.full(8, 0.01), 100) == 1
    assert image_blocks(np.empty(0), 100) == 1


def test_costs_are_learned_by_class() -> None:
    costs, masks = ModuleCosts(3, 0.1), np.ones((4, 10), bool)
    masks[1, 5:] = False
    of_class = np.array([0, 0, 2, 2])
    assert np.allclose(costs.of(masks, of_class), [1, 0.5, 1, 1])
    costs.measured(masks[:2], of_class[:2], 3.0)
    costs.measured(masks[2:], of_class[2:], 0.5)
    assert np.allclose(costs.of(masks, of_class), [1, 0.5, 1, 1])
    costs.learn()
    assert np.allclose(costs.of(masks, of_class), [2, 1, 0.25, 0.25])
    assert np.allclose(costs.of(masks[:1], np.array([1])), 1)
