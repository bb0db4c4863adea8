"""Pixels that stay on the disk where they are many: what a batch needs of them is read when it is asked for.

Of every image its checksum and its hash are computed once, and kept next to the pixels, so that no stage reads a large
dataset only to know which images they are.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import stored_digest

IN_MEMORY = 512 * 2**20  # bytes of pixels that a part of a dataset may take in memory; more stay on the disk


@dataclass(frozen=True)
class PixelsOnDisk:
    """Some images of an array on the disk, in an order of their own. Like an array, but what is indexed is read.

    Attributes:
        source: (images, side, side, 3) uint8, memory-mapped.
        digest: the SHA-256 at the end of its file. Another process that decodes the dataset again, because images were
            added, replaces the file by another one.
        places: (n,) int64, which of them these are.
        checksums: (images,) uint32, the CRC-32 of each image of the source.
        hashes: (images,) uint64, the hash of each image of the source, as `hashes_of` gives it without labels.
    """

    source: np.memmap
    digest: bytes
    places: np.ndarray
    checksums: np.ndarray
    hashes: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, side, side, 3)."""
        return (len(self.places), *self.source.shape[1:])

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            return np.asarray(self)[index]
        places = self.places[index]
        return read_images(self.source, self.digest, np.atleast_1d(places)).reshape(*np.shape(places), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pixels = read_images(self.source, self.digest, self.places)
        return pixels if dtype is None else pixels.astype(dtype)

    def in_file(self) -> "PixelsInFile":
        """Where they are, for another process of this machine."""
        return PixelsInFile(str(self.source.filename), self.digest, self.source.offset, self.source.shape, self.places)

    def take(self, index: Any) -> "PixelsOnDisk":
        """The images at the given places among these, in that order; they stay on the disk."""
        return PixelsOnDisk(self.source, self.digest, self.places[index], self.checksums, self.hashes)

    @cached_property
    def checksum(self) -> int:
        """The CRC-32 of all pixels, one image after the other."""
        length = int(np.prod(self.source.shape[1:]))
        return joined_checksum(self.checksums[self.places].tolist(), length)


@dataclass(frozen=True)
class PixelsInFile:
    """The location of pixels on this machine's disk, sent instead of the pixels."""

    file: str
    digest: bytes
    offset: int  # in bytes
    shape: tuple[int, ...]  # of the file's array
    places: np.ndarray  # (n,) int64, which of its images

    def opened(self) -> PixelsOnDisk:
        """The pixels; their checksums stay with the process that knows them.

        Raises UserError where the file was replaced.
        """
        with Path(self.file).open("rb") as file:
            _check_digest(file, self.digest)
            source = np.memmap(file, np.uint8, "r", self.offset, self.shape)
        none = np.zeros(0, np.uint64)
        return PixelsOnDisk(source, self.digest, self.places, none, none)


def is_large(num_bytes: int) -> bool:
    """Whether images of this size, in bytes, stay on the disk."""
    return num_bytes > IN_MEMORY


def read_images(source: np.memmap, digest: bytes, places: np.ndarray) -> np.ndarray:
    """Images (n, side, side, 3) uint8 at places (n,) of a memory-mapped array.

    They are read from its file: pages of the map itself would count as memory of this process. Raises UserError where
    another file has replaced it, which has another digest.
    """
    pixels = np.empty((len(places), *source.shape[1:]), np.uint8)
    length = int(np.prod(source.shape[1:]))
    with Path(str(source.filename)).open("rb", buffering=0) as file:
        _check_digest(file, digest)
        for image, place in zip(pixels, places.tolist(), strict=True):
            file.seek(source.offset + place * length)
            if file.readinto(image) != length:
                raise _changed(file)
    return pixels


def _check_digest(file: IO[bytes], digest: bytes) -> None:
    if stored_digest(file) != digest:
        raise _changed(file)


def _changed(file: IO[bytes]) -> UserError:
    return UserError(f"{file.name} was changed while it was read; run the command again")


def taken(pixels: np.ndarray, index: Any) -> np.ndarray:
    """Some of the images, in the order of the index: in memory, where they are few enough."""
    if not isinstance(pixels, PixelsOnDisk):
        return pixels[index]
    chosen = pixels.take(index)
    return cast(np.ndarray, chosen) if is_large(chosen.nbytes) else np.asarray(chosen)


def joined_checksum(checksums: Sequence[int], length: int) -> int:
    """The CRC-32 of pieces of `length` bytes each, one after the other, by the CRC-32 of each piece.

    A CRC is linear: bytes that follow turn each bit of it into a fixed pattern.
    """
    zeros = bytes(length)
    of_nothing = zlib.crc32(zeros)
    patterns = [zlib.crc32(zeros, 1 << bit) ^ of_nothing for bit in range(32)]
    tables = []  # for each byte of a checksum, what its value turns into
    for first in range(0, 32, 8):
        table = [0] * 256
        for value in range(1, 256):
            bit = value.bit_length() - 1
            table[value] = table[value ^ (1 << bit)] ^ patterns[first + bit]
        tables.append(table)
    low, second, third, high = tables
    found = 0
    for checksum in checksums:
        after = low[found & 255] ^ second[found >> 8 & 255] ^ third[found >> 16 & 255] ^ high[found >> 24]
        found = after ^ checksum
    return found


class PixelsOnDevice:
    """Pixels on the disk, like a tensor on a device: what is indexed is read and brought there.

    Args:
        pixels: (n, side, side, 3) uint8.
        device: where they are wanted.
    """

    def __init__(self, pixels: PixelsOnDisk, device: torch.device) -> None:
        self._pixels, self.device, self.shape = pixels, device, pixels.shape

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return torch.tensor(
            self._pixels[index if isinstance(index, slice) else index.cpu().numpy()], device=self.device
        )


def on_device(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Pixels as a tensor on the device, or, where they are too many for memory, as what gives one by an index.

    On a CUDA device they are many where they would take more than a quarter of what is free.
    """
    if not isinstance(pixels, PixelsOnDisk):
        return torch.tensor(pixels, device=device)
    if device.type == "cuda" and 4 * pixels.nbytes <= torch.cuda.mem_get_info(device)[0]:
        there, step = torch.empty(pixels.shape, dtype=torch.uint8, device=device), 1024
        for start in range(0, len(pixels), step):
            there[start : start + step] = torch.from_numpy(pixels[start : start + step])
        return there
    return cast(Tensor, PixelsOnDevice(pixels, device))
