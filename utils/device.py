"""The device and the arithmetic that `global_configure.py` names, and the cores of this machine."""

import os

import torch
from torch import nn

from utils.errors import UserError, reason

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; anything else is torch's own name of a device.

    Not `mps`, which nobody has tried: who names it has it. Raises UserError for a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        # torch's own words for a kind of device that it was built without fill a page.
        why = "this torch has none" if isinstance(error, NotImplementedError) else reason(error)
        raise UserError(
            f"device {name} cannot be used: {why}; expected auto, cpu, cuda or mps, where there is one"
        ) from None
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16. Raises UserError for another name, and for bfloat16 on MPS, where it was never tried."""
    if name not in PRECISIONS:
        raise UserError(f"precision {name}: expected one of {', '.join(PRECISIONS)}")
    if device.type == "mps" and PRECISIONS[name] != torch.float32:
        raise UserError(f"precision {name}: expected float32 on device mps; set precision in global_configure.py")
    return PRECISIONS[name]


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 what comes from `device`: there, but for MPS, which has no float64, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def is_fast_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has instructions for `dtype`: without them, bfloat16 takes ten times as long."""
    if dtype != torch.bfloat16:
        return True
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, the first with them
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_tiles() -> bool:
    """Whether the processor multiplies whole tiles of bfloat16 (AMX), as far as this torch can tell."""
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False))


def precision_name(dtype: torch.dtype) -> str:
    """The name of this dtype, as `resolve_precision` takes it."""
    return str(dtype).removeprefix("torch.")


def num_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_deterministic(seed: int) -> None:
    """Seed torch's global generators and ask for algorithms that give the same bits every time."""
    torch.manual_seed(seed)
    # What `use_deterministic_algorithms` does, too, but that imports torch's compiler first: a second of each process.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # else new tensors are written twice, first with NaN
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before the first product


def through_compiler(network: nn.Module) -> nn.Module:
    """The network through torch's compiler, which is told where torch has to give the same bits every time."""
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
    return torch.compile(network)
