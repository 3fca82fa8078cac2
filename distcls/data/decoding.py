"""One way from an image file to pixels, for training, evaluation and prediction alike.

Imports nothing but numpy and Pillow: decoding processes start with it and must start fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Part of the key of every cache of decoded images: raise it whenever `decode` gives other pixels.
DECODER_VERSION = 1

# Pillow would also open EPS (by running Ghostscript), PDF and forty more; images of the world are these.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")


class BadImageError(Exception):
    """An image that cannot be decoded; the message is the reason, short, without the path."""


@dataclass(frozen=True)
class Decoding:
    """What pixels an image becomes: the same in training, evaluation and prediction."""

    image_size: int | None
    """Side in pixels of the square; None leaves an image as large as it is."""
    resize: str = "crop"
    """crop: the short side becomes image_size, the long one is cut at both ends. pad: the long side becomes
    image_size, centred on black. squish: both sides do, whatever the shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of an image of a size."""
        assert self.image_size is not None
        return self.image_size, self.image_size, 3


def decode(path_or_file: str | os.PathLike[str] | BinaryIO, decoding: Decoding) -> np.ndarray:
    """Decodes one image completely: uint8 (H, W, 3), RGB, upright, fitted.

    Raises BadImageError for whatever cannot be decoded to its end.
    """
    try:
        with Image.open(path_or_file, formats=FORMATS) as image:
            image.load()
            return np.array(fit(_to_rgb(_upright(image)), decoding))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImageError(_reason(error)) from error


def fit(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Makes an image square, (image_size, image_size), bilinear with antialiasing."""
    image_size = decoding.image_size
    if image_size is None or image.size == (image_size, image_size):
        return image
    if decoding.resize == "pad":
        return _pad(image, image_size)
    box = _central_square(image) if decoding.resize == "crop" else None
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)


def _central_square(image: Image.Image) -> tuple[float, float, float, float]:
    """The part that stays after the short side fits: Pillow cuts it to a fraction of a pixel while it resizes."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def _pad(image: Image.Image, image_size: int) -> Image.Image:
    scale = image_size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (image_size, image_size))
    inner = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(inner, ((image_size - width) // 2, (image_size - height) // 2))
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF around good pixels is common: every viewer shows such an image, unrotated
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _from_deep_gray(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """16-bit (or 32-bit) gray by the range of its type, where Pillow would clip everything above 255 to white.

    Not by the range of this image: brightness must mean the same in all images.
    """
    values = np.asarray(image).astype(np.float64)
    top = 65535 if values.max() <= 65535 else 2**31 - 1
    return Image.fromarray(np.rint(values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that is not supported"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
