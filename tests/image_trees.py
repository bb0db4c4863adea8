"""Trees of random images, in folders and zip files; zip files that announce less than they hold."""

import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PNG_GREY, PNG_RGB, PNG_GREY_ALPHA, PNG_RGBA = 0, 2, 4, 6  # colour types


def image_bytes(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def png_of(values: np.ndarray, colour_type: int, transparent: bytes = b"") -> bytes:
    """A PNG file of 16-bit values (height, width, channels), of kinds that Pillow reads and does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_with(values.shape[1], values.shape[0], 16, colour_type, rows, transparent)


def png_with(width: int, height: int, bits: int, colour_type: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG file whose header says this, whatever its rows hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    more = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_tree(folder: Path, classes: Sequence[str] = ("a", "b"), count: int = 3) -> dict[str, np.ndarray]:
    """A tree of random 32x32 PNG files; returns their pixels by name."""
    written = {}
    for part in ("train", "test"):
        for name in classes:
            for number in range(count):
                path = folder / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random_pixels(32, 32, 3, seed=len(written))
                path.write_bytes(image_bytes(pixels))
                written[str(path.relative_to(folder))] = pixels
    return written


def announce_less(path: Path, name: str, content: bytes, method: int, announced: int = 100) -> None:
    """A zip file of one member that announces its first bytes, with their checksum, and holds all of them."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
        (info,) = archive.infolist()
        info.file_size, info.CRC = announced, zlib.crc32(content[:announced])  # as the directory at the end has it


def zip_tree(folder: Path) -> None:
    """Pack `folder` into `folder.zip` and remove it."""
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
