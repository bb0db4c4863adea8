"""What is asked of any network's weights."""

from torch import Tensor, nn


def count_parameters(network: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict on the CPU, real numbers in float32, as checkpoints hold it."""
    return {
        name: (value.detach().float() if value.is_floating_point() else value).to("cpu", copy=True)
        for name, value in network.state_dict().items()
    }
