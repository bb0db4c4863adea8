"""An encoded image (PNG, JPEG ...) as the pixels that a viewer shows, in one size.

What a file may announce is bounded, so that a data set from a stranger can be tried.
"""

import contextlib
import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

SIDE = 32  # pixels, unless the configuration says another number
Resize = Literal["stretch", "crop"]
MAX_PIXELS = 64 * 1024 * 1024  # of one image
Image.init()
# What Pillow may take a file for: not EPS, for which it starts Ghostscript. It reads AVIF where it was built with it.
FORMATS = tuple(
    name for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN
)  # fmt: skip
SUFFIXES = tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS))
# Images of kinds that are not read: to be named rather than passed over like texts.
OTHER_IMAGE_SUFFIXES = (
    ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k",
    ".jp2", ".jxl", ".nef", ".nii", ".pcx", ".psd", ".qoi", ".svg", ".tga", ".webp", ".xbm", ".xcf",
)  # fmt: skip
PHOTOMETRIC, ORIENTATION, TILE = 0x0106, 0x0112, (0x0142, 0x0143)  # tags of TIFF and EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodedImage:
    """One image. Where its values have 16 bits, only its dataset tells how many of them are used."""

    pixels: np.ndarray  # (side, side, 3) uint8 RGB; or (side, side) uint16, grey
    bits: int | None  # that the largest value needs, where values have 16 bits; None where they have 8

    @property
    def is_deep_grey(self) -> bool:
        """Whether the values still have to be scaled to 8 bits."""
        return self.pixels.ndim == 2


def decode_image(content: bytes, side: int = SIDE, resize: Resize = "stretch") -> DecodedImage:
    """One encoded image: upright, on white where it is transparent, resized (bilinear) where it has another size.

    `stretch` resizes both sides to `side`; `crop` the shorter one, and cuts the middle out.

    The first image of an animation or of several pages counts. Raises ValueError or one of Pillow's errors for content
    that is no image, announces too many pixels, or whose values have no stated range.
    """
    try:
        encoded = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    tile = [getattr(encoded, "tag_v2", {}).get(tag, 1) for tag in TILE]  # decoded whole, whatever the image's own size
    width, height = max(encoded.size, tile, key=math.prod)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, expected at most {MAX_PIXELS} in all")
    has_16_bits = any(";16" in str(tile[3]) for tile in encoded.tile)  # Pillow keeps the upper 8 of colours
    if has_16_bits and "transparency" in encoded.info:
        raise ValueError("a transparent value among 16 bits, expected none")
    encoded.load()
    image: Image.Image = encoded
    with contextlib.suppress(Exception):  # EXIF data in disorder says nothing about the pixels
        image = image.transpose(UPRIGHT[image.getexif()[ORIENTATION]])
    if image.mode.startswith("I"):
        return _deep_grey(image, side, resize)
    if image.mode == "F":
        raise ValueError("floating-point values, expected 8 or 16 bits")
    bits = 8 + _largest(image).bit_length() if has_16_bits else None
    image = _on_white(image) if _is_transparent(image) else image.convert("RGB")
    return DecodedImage(np.asarray(_resized(image, side, resize)), bits)


def _deep_grey(image: Image.Image, side: int, resize: Resize) -> DecodedImage:
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # Pillow turns such values only where they have 8 bits
        raise ValueError("grey of 16 bits whose zero is white, expected zero to be black")
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(f"grey values from {grey.min()} to {grey.max()}, expected 8 or 16 bits")
    resized = _resized(Image.fromarray(grey.astype(np.float32)), side, resize)
    return DecodedImage(np.rint(np.asarray(resized)).astype(np.uint16), int(grey.max()).bit_length())


def _largest(image: Image.Image) -> int:
    """The largest value of all colours; not of the transparency."""
    return max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands() if band not in "Aa")


def _is_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _resized(image: Image.Image, side: int, resize: Resize = "stretch") -> Image.Image:
    if image.size == (side, side):
        return image
    box = None
    if resize == "crop":
        width, height = image.size
        shorter = min(width, height)
        left, top = (width - shorter) / 2, (height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BILINEAR, box)


def resize_array(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image (height, width, 3) uint8 as (side, side, 3)."""
    return np.asarray(_resized(Image.fromarray(pixels), side))


def grey_to_rgb(grey: np.ndarray, bits: int) -> np.ndarray:
    """Grey (side, side) uint16, whose largest value in the dataset needs `bits`, as (side, side, 3) uint8."""
    return np.repeat((grey >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
