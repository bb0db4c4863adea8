"""Trees of random images, in folders and zip files."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


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


def zip_tree(folder: Path) -> None:
    """Pack `folder` into `folder.zip` and remove it."""
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
