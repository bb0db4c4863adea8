"""Whether a network answers an image the same every time, and a traced graph as the network that it was traced from."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.graph.errors import RANDOM, NetworkRefused
from models.graph.evaluating import evaluating, first_logits, floating_parameter
from models.graph.values import Value
from utils.progress import quiet

LEAST_LIMIT = 0.01  # of the largest logit: what TF32 rounds in a deep network
COMPARED = 4  # random images


@torch.no_grad()
def check_repeats(network: nn.Module, images: Tensor, classes: int | None = None) -> Tensor | None:
    """Run a network in evaluation mode several times, and return its logits (n, classes) of the images.

    Args:
        network: it is left as it was, and so are torch's random numbers.
        images: (n, channels, side, side), as the network takes them, on its device.
        classes: how many logits it gives; None: any number.

    Raises NetworkRefused if an image's logits depend on random numbers, on earlier runs or on the images next to it.
    Returns None if the network does not run on these images, or gives no logits: that is not judged here.
    """

    def answer(batch: Tensor) -> Tensor | None:
        return first_logits(network(batch.clone()), len(batch), classes)

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(network), quiet():
        try:
            found, again, of_one = answer(images), answer(images), answer(images[:1])
        except Exception:
            return None
    if found is None or again is None:
        return None
    if of_one is None:
        raise NetworkRefused(
            "the network's answer to one image alone has another form: expected (n, classes) for every n, "
            "flatten(1) instead of squeeze() for example"
        )
    if not agrees(again, found, found.dtype, least=0):
        raise NetworkRefused(RANDOM)
    if not agrees(of_one, found[:1], found.dtype):
        raise NetworkRefused(
            "the network's answer to an image depends on the images next to it: expected layers that take each image "
            "alone in evaluation mode, such as BatchNorm2d with track_running_stats=True"
        )
    return found


@torch.no_grad()
def check_answers(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    ends: Sequence[Value],
    image_shape: tuple[int, int, int],
    classes: int | None = None,
) -> None:
    """Compare what a traced graph gives with what the network gives, on a few random images.

    Some versions of torch lose a write in place when they export a network (2.11 does, behind a dropout).

    Args:
        network: it is read in evaluation mode and left as it was.
        forward: the graph: images -> logits (n, classes).
        ends: the softmaxes and sigmoids that the network has behind them.
        image_shape: (channels, side, side).
        classes: how many logits the graph has; None: any number.

    Raises NetworkRefused if they differ by more than rounding, if the network gives no floating-point numbers,
    and as `check_repeats`. What cannot be compared is let through: networks without values (`meta`), and networks that
    refuse random images.
    """
    like = floating_parameter(network)
    if like.is_meta:
        return
    images = torch.randn(COMPARED, *image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    expected = check_repeats(network, images, classes)
    if expected is None:
        return
    if not expected.is_floating_point():
        raise NetworkRefused(f"expected logits (n, classes), the network gives numbers of {expected.dtype}")
    found = forward(images)
    for end in ends:
        found = end.changed(source=found).run()
    if ends and "log" not in ends[-1].kind:  # probabilities of small logits are all nearly the same
        found, expected = map(_centred_logarithms, (found, expected))
    if not agrees(found, expected, like.dtype):
        raise NetworkRefused(
            f"torch {torch.__version__} traces the network wrongly, its graph gives other logits: expected code that "
            "writes nothing in place (relu_, x += 1, inplace=True); write it so, or try another version of torch"
        )


def agrees(found: Tensor, expected: Tensor, dtype: torch.dtype, least: float = LEAST_LIMIT) -> bool:
    """Whether logits are the expected ones but for what a network of this dtype rounds; NaN where NaN is expected.

    The expected ones may have fewer bits: those of a network that ends in a region of autocast.
    """
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    found = found.to(expected.dtype)
    rounded = max(least, *(torch.finfo(each).eps ** 0.5 for each in (dtype, expected.dtype)))
    limit = rounded * float(expected.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(found, expected, rtol=0, atol=limit, equal_nan=True)


def _centred_logarithms(probabilities: Tensor) -> Tensor:
    logarithms = probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return logarithms - logarithms.mean(1, keepdim=True)
