"""Masked modules answer what extracted ones answer, and their gradient is that of the masks."""

from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import naive
import pytest
import torch
from hypothesis import given, settings
from models.cnn import Architecture, Conv
from random_modules import kernel_masks, random_model
from torch import Tensor

from models.rescnn import ARCHITECTURE as RESCNN
from models.simcnn import ARCHITECTURE as SIMCNN
from modules.masked_modules import freeze, mask_gradient, run_module
from modules.module import extract_module

# Wide enough that convolutions leave maps out, those of an addition too.
SMALL = Architecture((Conv(4, pool=True), Conv(12, pool=True), Conv(20), Conv(12, add=1), Conv(3)), hidden=(5,))
NETWORKS = {"simcnn": SIMCNN.scaled(1 / 16), "rescnn": RESCNN.scaled(1 / 16), "small": SMALL}


@pytest.fixture(scope="module")
def workers() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=5)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_a_masked_module_answers_as_the_extracted_one(network: str, data: st.DataObject, seed: int) -> None:
    architecture = NETWORKS[network]
    model = random_model(architecture, 3, seed)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    mask = data.draw(kernel_masks(architecture))
    frozen = freeze(model, torch.float64)
    logit = run_module(frozen, frozen.first_maps(images), torch.tensor(mask, dtype=torch.float64), 1).logit
    with torch.no_grad():
        torch.testing.assert_close(logit.detach(), extract_module(model, mask, 1)(images)[:, 0])


def loss(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits / 100, torch.tensor([0, 1, 2, 1]))


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_is_that_of_the_whole_networks(workers: ThreadPoolExecutor, batch: Tensor, network: str) -> None:
    model = random_model(NETWORKS[network], 3, seed=1)
    total = model.architecture.total_kernels
    masks = torch.rand(3, total, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.5
    _, gradient = mask_gradient(freeze(model, torch.float64), batch, masks, loss, workers)
    torch.testing.assert_close(gradient, naive.mask_gradient(model, batch, masks, loss))
    assert gradient.abs().max() > 1e-3


def test_a_dropped_kernel_hears_what_it_would_be_good_for(workers: ThreadPoolExecutor, batch: Tensor) -> None:
    """The loss's slope when a little of its map is let through."""
    frozen, step = freeze(random_model(SMALL, 3, seed=1), torch.float64), 1e-7
    masks = (torch.rand(3, SMALL.total_kernels, generator=torch.Generator().manual_seed(4)) < 0.6).double()
    value, gradient = mask_gradient(frozen, batch, masks, loss, workers)
    dropped = torch.nonzero(masks == 0).tolist()
    slopes = []
    for index in map(tuple, dropped):
        moved = masks.clone()
        moved[index] = step
        slopes.append((mask_gradient(frozen, batch, moved, loss, workers)[0] - value) / step)
    torch.testing.assert_close(gradient[masks == 0], torch.stack(slopes), rtol=1e-3, atol=1e-6)
    assert gradient[masks == 0].abs().max() > 1e-4


def test_the_number_of_workers_changes_nothing(workers: ThreadPoolExecutor) -> None:
    model = random_model(SMALL, 3, seed=5)
    frozen, images = freeze(model, torch.bfloat16), torch.randn(8, 3, 32, 32).bfloat16()
    masks = torch.ones(3, sum(SMALL.num_kernels))
    with ThreadPoolExecutor(1) as alone:
        results = [
            mask_gradient(frozen, images, masks, lambda logits: logits.square().mean(), w) for w in (workers, alone)
        ]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
