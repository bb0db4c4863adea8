"""The same as `masking.py` on the CPU by a compiled library: `compiled_masking.cpp`, which says how, from Python."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.fast.compiled import compiled, compiler
from modules.fast.masking import Ending, Masking

SOURCE = Path(__file__).with_suffix(".cpp")
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def masking_for(dtype: torch.dtype, device: torch.device) -> Masking:
    """The way for maps of the dtype on the device; without a compiler that works, torch's."""
    if device.type == "cpu" and dtype in SUFFIXES and (found := compiler()):
        return CompiledMasking(found, dtype)
    return Masking()


class CompiledMasking(Masking):
    """Pools of 2x2 pixels, which most are, and everything else; other pools are torch's."""

    def __init__(self, compiler: tuple[str, ...], dtype: torch.dtype) -> None:
        self._library, self._suffix = compiled(SOURCE, compiler), SUFFIXES[dtype]

    def take(self, values: Tensor, chosen: Tensor) -> Tensor:
        """See `Masking`."""
        if values.dtype not in SUFFIXES:
            return super().take(values, chosen)
        values, chosen = _in_order(values), chosen.int()
        n, channels, height, width = values.shape
        taken = _new(values, len(chosen), height, width)
        self._run("take", n * height * width, channels, len(chosen), chosen, values, taken)
        return taken

    def end(self, made: Tensor, ending: Ending) -> tuple[Tensor, Tensor | None]:
        """See `Masking`. Of pools of 2x2 pixels which of the four it is, uint8; 4 where ReLU let nothing through."""
        n, channels, height, width = made.shape
        if not _is_halving(ending.pool, height, width):
            return super().end(made, ending)
        made, size = _in_order(made), (height // 2, width // 2)
        pooled, where = _new(made, channels, *size), _new(made, channels, *size, dtype=torch.uint8)
        self._run("pool", n, *size, channels, int(ending.is_rectified), made, pooled, where)
        return pooled, where

    def before_end(
        self,
        grad: Tensor,
        made: Tensor,
        where: Tensor | None,
        chosen: Tensor | None,
        ending: Ending,
        size: tuple[int, int],
    ) -> Tensor:
        """See `Masking`."""
        n, channels, height, width = grad.shape
        is_halving = where is not None and where.dtype == torch.uint8
        if not is_halving and (where is not None or not ending.is_rectified):
            return super().before_end(grad, made, where, chosen, ending, size)
        grad, chosen = _in_order(grad), torch.arange(channels) if chosen is None else chosen
        before, chosen = _new(grad, len(chosen), *size), chosen.int()
        if is_halving:
            self._run("unpool", n, height, width, channels, len(chosen), chosen, grad, where, before)
        else:
            self._run(
                "take_rectified", n * height * width, channels, len(chosen), chosen, grad, _in_order(made), before
            )
        return before

    def of_factors(self, of_maps: Tensor, maps: Tensor, factors: Tensor) -> Tensor:
        """See `Masking`."""
        if not of_maps.is_contiguous(memory_format=torch.channels_last):
            return super().of_factors(of_maps, maps, factors)
        n, channels, height, width = maps.shape
        sums, factors = torch.empty(channels), factors.to(maps.dtype).float()
        self._run("of_factors", n * height * width, channels, factors, _in_order(maps), of_maps, sums)
        return sums

    def _run(self, name: str, *arguments: int | Tensor) -> None:
        function: Callable[..., Any] = getattr(self._library, f"{name}_{self._suffix}")
        function.restype = None
        function(
            *(
                ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, Tensor) else ctypes.c_int64(argument)
                for argument in arguments
            )
        )


def _in_order(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _new(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """Maps of as many images, channels-last, to be filled."""
    return like.new_empty(len(like), height, width, channels, dtype=dtype).permute(0, 3, 1, 2)


def _is_halving(pool: tuple[Any, ...] | None, height: int, width: int) -> bool:
    """Whether a pool takes 2x2 pixels that do not overlap, and leaves none out."""
    if pool is None or height % 2 or width % 2:
        return False
    size, stride, padding, dilation, _ = pool
    return [_pair(size), _pair(stride or size), _pair(padding), _pair(dilation)] == [[2, 2], [2, 2], [0, 0], [1, 1]]


def _pair(value: int | list[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
