"""One way from an image file to pixels, for training, evaluation and prediction alike.

Imports nothing but numpy and Pillow: decoding processes start with it and must start fast.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Part of the key of every cache of decoded images: raise it whenever `decode` gives other pixels.
DECODER_VERSION = 2

# Pillow would also open EPS (by running Ghostscript), PDF and forty more; images of the world are these.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

# Pillow warns of broken metadata, and of more than 89 million pixels. Here an image is good or bad, and nobody
# reads warnings of a million images. Bad are 179 million pixels, Pillow's limit: there are cameras of 100 million.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImageError(Exception):
    """An image that cannot be decoded; the message is the reason, short, without the path."""


@dataclass(frozen=True)
class Decoding:
    """What pixels an image becomes: the same in training, evaluation and prediction."""

    image_size: int | None
    """Side in pixels of the square; None leaves an image as large as it is."""
    resize: str = "crop"
    """crop: the short side becomes image_size, the long one is cut at both ends. pad: the long side becomes
    image_size, with borders of the background. squish: both sides do, whatever the shape."""
    background: str = "white"
    """What lies behind transparent pixels and around padded images: a colour's name in CSS, or #rrggbb."""
    float_range: tuple[float, float] | None = None
    """Black and white of images whose pixels are float or 32-bit numbers: the files themselves do not say."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of an image of a size."""
        assert self.image_size is not None
        return self.image_size, self.image_size, 3


@dataclass(frozen=True)
class Original:
    """What an image file holds, before it becomes pixels for a model."""

    format: str
    """Pillow's name, such as JPEG."""
    mode: str
    """Pillow's name, such as RGB, L or I;16."""
    width: int
    height: int
    """Pixels, as people see it: upright."""
    is_animation: bool
    """Whether there are more frames, or pages, than the first."""


def decode(path_or_file: str | os.PathLike[str] | BinaryIO, decoding: Decoding) -> np.ndarray:
    """Decodes one image completely: uint8 (H, W, 3), RGB, upright, fitted. Of an animation, its first frame.

    Raises BadImageError for whatever cannot be decoded to its end.
    """
    return decode_and_describe(path_or_file, decoding)[0]


def decode_and_describe(
    path_or_file: str | os.PathLike[str] | BinaryIO, decoding: Decoding
) -> tuple[np.ndarray, Original]:
    """What `decode` gives, and what the file held. Raises BadImageError."""
    try:
        with Image.open(path_or_file, formats=FORMATS) as image:
            width, height = image.size
            image.load()
            if _lies_on_its_side(image):
                width, height = height, width
            pixels = np.array(fit(_to_rgb(_upright(image), decoding), decoding))
            return pixels, Original(image.format or "", image.mode, width, height, _is_animation(image))
    except (MemoryError, BadImageError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImageError(_reason(error, path_or_file)) from error


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a file that can be decoded has more frames, or pages, than the first."""
    with Image.open(path, formats=FORMATS) as image:
        return _is_animation(image)


def _is_animation(image: Image.Image) -> bool:
    """Not so the second picture in the JPEG of a phone, which is a depth map or a preview."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # a second frame that is broken: nobody looks at it
        return False


def fit(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Makes an RGB image square, (image_size, image_size), bilinear with antialiasing."""
    image_size = decoding.image_size
    if image_size is None or image.size == (image_size, image_size):
        return image
    if decoding.resize == "pad":
        return _pad(image, image_size, decoding.background)
    box = _central_square(image) if decoding.resize == "crop" else None
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)


def _central_square(image: Image.Image) -> tuple[float, float, float, float]:
    """The part that stays after the short side fits: Pillow cuts it to a fraction of a pixel while it resizes."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def _pad(image: Image.Image, image_size: int, background: str) -> Image.Image:
    scale = image_size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (image_size, image_size), background)
    inner = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(inner, ((image_size - width) // 2, (image_size - height) // 2))
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if is_turned else image
    except Exception:  # broken EXIF around good pixels is common: every viewer shows such an image, unrotated
        return image


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether EXIF says that width and height change places. Ask a loaded image: a PNG is loaded by asking."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception:  # as in _upright
        return False


def _to_rgb(image: Image.Image, decoding: Decoding) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return _from_numbers(image, *_black_and_white(image, decoding))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, decoding.background), rgba).convert("RGB")
    return image.convert("RGB")


def _black_and_white(image: Image.Image, decoding: Decoding) -> tuple[float, float]:
    """The range of the image's type: not that of its own pixels, for brightness must mean the same in all images.

    Raises BadImageError where the type has no range and data.float_range gives none.
    """
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, 16)  # a TIFF may have 12
        return 0, 2 ** int(np.min(bits)) - 1
    if image.format == "PPM":  # Pillow has scaled it
        return 0, 65535
    if decoding.float_range is None:
        low, high = image.getextrema()
        raise BadImageError(
            f"its pixels are numbers from {low:.4g} to {high:.4g}: "
            "say which are black and white, such as data.float_range=[0, 1]"
        )
    return decoding.float_range


def _from_numbers(image: Image.Image, black: float, white: float) -> Image.Image:
    """Gray by range, where Pillow would clip all above 255 to white, and make floats from 0 to 1 black.

    What is not a number, as where a measurement is missing, becomes black.
    """
    shares = (np.asarray(image, np.float64) - black) / (white - black)
    return Image.fromarray(np.rint(255 * np.nan_to_num(shares).clip(0, 1)).astype(np.uint8)).convert("RGB")


def _reason(error: Exception, path_or_file: str | os.PathLike[str] | BinaryIO) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "an empty file" if _is_empty(path_or_file) else "not an image, or of a format that is not supported"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _is_empty(path_or_file: str | os.PathLike[str] | BinaryIO) -> bool:
    if isinstance(path_or_file, str | os.PathLike):
        return os.path.getsize(path_or_file) == 0
    return path_or_file.seek(0, os.SEEK_END) == 0
