"""Encoded images become what a viewer shows, whatever their kind; what has no stated range is refused."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from confined import confined
from hypothesis import HealthCheck, given, settings
from image_trees import PNG_GREY, PNG_GREY_ALPHA, PNG_RGB, PNG_RGBA, image_bytes, png_of, random_pixels
from near_valid import near_bytes
from PIL import Image

from dataset.datasets import _decode_named
from dataset.image_files import FORMATS, UPRIGHT, decode_image, grey_to_rgb

SIDE = 32


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff_of(values: np.ndarray, *, order: str = "<", white_is_zero: bool = False) -> bytes:
    """An uncompressed TIFF file of 16-bit grey values (height, width)."""
    height, width = values.shape
    tags = (
        *((0x100, width), (0x101, height), (0x102, 16), (0x103, 1), (0x106, int(not white_is_zero))),
        *((0x111, 8 + 2 + 9 * 12 + 4), (0x115, 1), (0x116, height), (0x117, 2 * values.size)),
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    body = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return head + body + bytes(4) + values.astype(f"{order}u2").tobytes()


def rgb(content: bytes) -> np.ndarray:
    """The pixels of an image that is complete by itself."""
    image = decode_image(content)
    assert (image.pixels.shape, image.pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
    return image.pixels


KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "EPS")
GREY = np.random.default_rng(0).integers(0, 2**16, (5, 5), dtype=np.uint16)
IMAGES = [
    *(image_bytes(random_pixels(9, 7, 3), name) for name in KINDS),
    image_bytes(GREY),
    image_bytes(GREY, "TIFF"),
    image_bytes(random_pixels(9, 7, 4)),
    png_of(np.ones((4, 4, 3), np.uint16), PNG_RGB),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(near_bytes(IMAGES))
def test_a_damaged_image_is_decoded_or_refused(tmp_path: Path, content: bytes) -> None:
    """Any one exception of Pillow becomes the message that names the file; no other way out."""
    with warnings.catch_warnings(), confined(tmp_path):
        warnings.simplefilter("ignore")
        image = _decode_named("train/a/1.png", lambda name: content)
    if isinstance(image, str):
        assert image.startswith("train/a/1.png: ") and " at 0x" not in image and "\n" not in image
    else:
        assert image.is_deep_grey or (image.pixels.shape, image.pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)


def test_a_file_that_another_program_would_be_started_for_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    with pytest.raises(ValueError, match="not an image of a known format"):
        decode_image(image_bytes(random_pixels(9, 7, 3), "EPS"))


def test_images_of_other_sizes_are_resized() -> None:
    large = random_pixels(57, 91, 3)
    for side in (32, 8):
        expected = np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(decode_image(image_bytes(large), side).pixels, expected)
    np.testing.assert_array_equal(rgb(image_bytes(np.full((1, 1, 3), 7, np.uint8))), np.full((SIDE, SIDE, 3), 7))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "GIF"])
def test_every_format_is_read(format: str) -> None:
    pixels = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    assert np.abs(rgb(image_bytes(pixels, format)).astype(int) - pixels).max() <= 3  # some are lossy


def test_grey_and_bilevel_images_become_rgb() -> None:
    grey = random_pixels(SIDE, SIDE)
    np.testing.assert_array_equal(rgb(image_bytes(grey)), np.repeat(grey[..., None], 3, axis=2))
    bilevel = grey > 99
    expected = np.repeat(bilevel[..., None] * np.uint8(255), 3, axis=2)
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(rgb(image_bytes(bilevel, format)), expected)


def test_cmyk_images_become_rgb() -> None:
    red = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    assert rgb(encoded(red, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    assert np.abs(rgb(encoded(red, "JPEG"))[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_the_first_image_of_an_animation_counts() -> None:
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        content = encoded(
            first, format, save_all=True, append_images=[second], **({"lossless": True} if format == "WEBP" else {})
        )
        assert rgb(content)[5, 5].tolist() == [255, 0, 0], format


# A photograph that stands upright: what is stored is turned, and EXIF says how.
SHOWN = np.zeros((SIDE, SIDE, 3), np.uint8)
SHOWN[:8] = 255
SHOWN[:, :4, 0] = 255


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_images_stand_upright(format: str, orientation: int) -> None:
    if format not in FORMATS:
        pytest.skip(f"this Pillow does not read {format}")
    back = {**UPRIGHT, 6: UPRIGHT[8], 8: UPRIGHT[6]}
    stored = Image.fromarray(SHOWN)
    stored = stored.transpose(back[orientation]) if orientation in back else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(format, {})
    found = rgb(encoded(stored, format, exif=exif, **options))
    assert np.abs(found.astype(int) - SHOWN).max() < 80  # lossy, yet nowhere another colour


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"],
)
def test_exif_data_in_disorder_changes_nothing(exif: bytes) -> None:
    content = encoded(Image.fromarray(SHOWN), "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(rgb(content[:2] + segment + content[2:]), rgb(content))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(rgb(encoded(Image.fromarray(SHOWN), exif=exif)), SHOWN)


ALPHA = random_pixels(SIDE, SIDE, seed=1)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


@pytest.mark.parametrize(
    "make",
    [
        lambda rgb: (rgb, encoded(Image.fromarray(np.dstack([rgb, ALPHA])))),
        lambda rgb: (rgb, encoded(Image.fromarray(np.dstack([rgb, ALPHA])), "WEBP", lossless=True, exact=True)),
        lambda rgb: (rgb, encoded(Image.fromarray(np.dstack([rgb, ALPHA])), "TIFF")),
        lambda rgb: (rgb[..., [0, 0, 0]], encoded(Image.fromarray(np.dstack([rgb[..., 0], ALPHA])))),
        lambda rgb: (
            rgb,
            png_of(np.dstack([rgb, ALPHA]).astype(np.uint16) * 257, PNG_RGBA),
        ),
        lambda rgb: (
            rgb[..., [0, 0, 0]],
            png_of(np.dstack([rgb[..., 0], ALPHA]).astype(np.uint16) * 257, PNG_GREY_ALPHA),
        ),
    ],
    ids=["PNG RGBA", "WEBP RGBA", "TIFF RGBA", "PNG LA", "PNG RGBA of 16 bits", "PNG LA of 16 bits"],
)
def test_transparent_images_are_put_on_white(make: Callable[[np.ndarray], tuple[np.ndarray, bytes]]) -> None:
    pixels, content = make(random_pixels(SIDE, SIDE, 3))
    np.testing.assert_allclose(rgb(content), on_white(pixels, ALPHA), atol=1)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_transparent_entries_of_a_palette_are_put_on_white(format: str) -> None:
    pixels = random_pixels(SIDE, SIDE, 3) // 128 * 255  # eight colours, so that a palette holds them all
    palette = Image.fromarray(pixels).quantize(16)
    entry = palette.getpixel((0, 0))
    expected = np.where((pixels == pixels[0, 0]).all(2)[..., None], 255, pixels)
    np.testing.assert_array_equal(rgb(encoded(palette, format, transparency=entry)), expected)
    if format == "PNG":
        levels = bytes(128 if number == entry else 255 for number in range(16))
        half = np.where((pixels == pixels[0, 0]).all(2)[..., None], (pixels[0, 0].astype(int) + 255) / 2, pixels)
        np.testing.assert_allclose(rgb(encoded(palette, format, transparency=levels)), half, atol=1)


def test_a_transparent_value_is_put_on_white() -> None:
    grey, colour = random_pixels(SIDE, SIDE), random_pixels(SIDE, SIDE, 3)
    expected = np.where(grey == grey[0, 0], 255, grey)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(rgb(image_bytes(grey, transparency=int(grey[0, 0]))), expected)
    found = rgb(image_bytes(colour, transparency=tuple(colour[3, 4].tolist())))
    assert found[3, 4].tolist() == [255, 255, 255]
    assert (found != colour).any(axis=2).sum() == (colour == colour[3, 4]).all(2).sum()


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize(
    "encode",
    [
        image_bytes,
        lambda values: image_bytes(values, "TIFF"),
        lambda values: image_bytes(values, "TIFF", compression="tiff_lzw"),
        lambda values: tiff_of(values, order=">"),
        lambda values: b"P5 32 32 65535\n" + values.astype(">u2").tobytes(),
        lambda values: image_bytes(values.astype(np.int32), "TIFF"),
    ],
    ids=["PNG", "TIFF", "TIFF, packed", "TIFF, big-endian", "PGM", "TIFF of 32 bits"],
)
def test_grey_images_of_16_bits_are_scaled_by_the_bits_that_they_use(
    encode: Callable[[np.ndarray], bytes], bits: int
) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (SIDE, SIDE), dtype=np.uint16)
    values[0, 0] = 2**bits - 1
    image = decode_image(encode(values))
    assert image.is_deep_grey and image.bits == bits
    expected = (values >> (bits - 8)).astype(np.uint8)
    np.testing.assert_array_equal(grey_to_rgb(image.pixels, bits), np.repeat(expected[..., None], 3, axis=2))


def test_grey_images_of_16_bits_are_resized_and_turned_like_others() -> None:
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    expected = Image.fromarray(values.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(image_bytes(values)).pixels, np.rint(np.asarray(expected)))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = decode_image(image_bytes(np.ascontiguousarray(values[::-1, ::-1]), exif=exif))
    np.testing.assert_allclose(turned.pixels, np.rint(np.asarray(expected)), atol=1)


@pytest.mark.parametrize("largest", [255, 256, 4095, 16383])
def test_colour_images_of_16_bits_say_how_many_they_use(largest: int) -> None:
    values = np.random.default_rng(0).integers(0, largest, (SIDE, SIDE, 3), endpoint=True)
    values[0, 0] = largest
    assert decode_image(png_of(values, PNG_RGB)).bits == max(8, largest.bit_length())
    assert decode_image(image_bytes(random_pixels(4, 4, 3))).bits is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (image_bytes(np.full((4, 4), 0.5, np.float32), "TIFF"), "floating-point values, expected 8 or 16 bits"),
        (image_bytes(np.full((4, 4), 70000, np.int32), "TIFF"), "grey values from 70000 to 70000, expected 8 or 16"),
        (image_bytes(np.full((4, 4), -5, np.int32), "TIFF"), "grey values from -5 to -5, expected 8 or 16"),
        (tiff_of(np.full((4, 4), 5, np.uint16), white_is_zero=True), "zero is white"),
        (png_of(np.ones((4, 4, 1), np.uint16), PNG_GREY, b"\0\1"), "a transparent value among 16 bits"),
        (png_of(np.ones((4, 4, 3), np.uint16), PNG_RGB, b"\0\1" * 3), "a transparent value among 16 bits"),
        (b"", "not an image of a known format"),
    ],
    ids=["floats", "32 bits", "negative", "white is zero", "transparent grey", "transparent colour", "nothing"],
)
def test_values_without_a_stated_range_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(content)
