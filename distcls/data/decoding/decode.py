"""One way from an image file to pixels, for training, evaluation and prediction alike.

Imports nothing but numpy and Pillow: decoding processes start with it and must start fast.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import warnings
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

DECODER_VERSION = 3
DECODER = (DECODER_VERSION, PIL.__version__)
"""Part of the key of every cache of decoded images. Raise the version whenever `decode` gives other pixels."""

# Pillow would also open EPS (by running Ghostscript), PDF and forty more; images of the world are these.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

JPEGS = ("JPEG", "MPO")
"""Pillow's names of JPEG files; those with more than one picture, as many phones write them, are MPO."""

OVERSAMPLING = 2
"""A JPEG is decoded small only while its sides stay this many times those of what is made from it."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

MAX_FILE_BYTES = 2**32
"""More than the largest image that is decoded takes in any format; files are read into memory whole."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What may lie under a file's name without being one."""

LYING = (5, 6, 7, 8)
"""EXIF's orientations of images whose width and height change places."""

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

    keeps_pixels: ClassVar[bool] = False
    """Whether what is cut out keeps its own pixels (see random_crop.py), instead of becoming image_size wide."""

    def box(self, width: int, height: int) -> Box:
        """The part of an upright image of this size that is seen."""
        if self.resize != "crop" or self.image_size is None:
            return 0, 0, width, height
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


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
    if isinstance(path_or_file, str | os.PathLike):
        with open_image_file(path_or_file) as file:
            return decode_and_describe(file, decoding)
    try:
        with Image.open(path_or_file, formats=FORMATS) as image:
            width, height = image.size
            whole = _leave_out_detail(image, decoding)
            image.load()
            if _orientation(image) in LYING:
                width, height = height, width
            pixels = np.array(fit(_to_rgb(_upright(image), decoding), decoding, whole))
            return pixels, Original(image.format or "", image.mode, width, height, _is_animation(image))
    except (MemoryError, BadImageError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImageError(_reason(error, path_or_file)) from error


def open_image_file(path: str | os.PathLike[str]) -> BinaryIO:
    """An image file, open for reading. Raises BadImageError, also for what only looks like a file.

    A pipe, a socket or a device would keep its reader waiting, or never end; so would files under /proc, which say
    that they are empty.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError(f"{KINDS.get(stat.S_IFMT(status.st_mode), 'something else')} instead of a file")
        if status.st_size == 0:
            raise BadImageError("an empty file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImageError(f"a file of {status.st_size / 1e9:,.0f} GB")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise BadImageError(_reason(error)) from error


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """All bytes of an image file. Raises BadImageError as open_image_file, and where the disk fails."""
    with open_image_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise BadImageError(_reason(error)) from error


def _is_animation(image: Image.Image) -> bool:
    """Not so the second picture in the JPEG of a phone, which is a depth map or a preview."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # a second frame that is broken: nobody looks at it
        return False


class Whole(NamedTuple):
    """The upright image that a JPEG decoded small stands for, in pixels of its own size."""

    width: int
    height: int
    left: int = 0
    top: int = 0
    """Where it begins: sides become whole small pixels at their ends, which turning may bring to the front."""


def _leave_out_detail(image: Image.Image, decoding: Decoding) -> Whole | None:
    """Has a large JPEG decoded to 1/2, 1/4 or 1/8 of its sides, where what becomes of it is still smaller.

    On photographs, the pixels moved by half a level of 255 on average (three times that without OVERSAMPLING), and
    up to a third of the time was saved.
    """
    width, height = image.size
    enough = OVERSAMPLING * (decoding.image_size or math.inf)
    if image.format not in JPEGS or min(width, height) < 2 * enough:
        return None
    orientation = _orientation(image)
    is_turned = orientation in LYING
    left, top, right, bottom = decoding.box(height, width) if is_turned else decoding.box(width, height)
    most = min(right - left, bottom - top) / enough
    if most < 2:
        return None
    image.draft(image.mode, (int(width / most), int(height / most)))
    divisor = round(width / image.width)
    added = image.width * divisor - width, image.height * divisor - height
    if is_turned:
        width, height, added = height, width, added[::-1]
    return Whole(width, height, orientation in (2, 3, 6, 7) and added[0], orientation in (3, 4, 7, 8) and added[1])


def fit(image: Image.Image, decoding: Decoding, whole: Whole | None = None) -> Image.Image:
    """Makes an RGB image square, (image_size, image_size), bilinear with antialiasing."""
    image_size = decoding.image_size
    if image_size is None or (image.size == (image_size, image_size) and not decoding.keeps_pixels):
        return image
    whole = whole or Whole(*image.size)
    divisor = round(whole.width / image.width)
    left, top, right, bottom = decoding.box(whole.width, whole.height)
    left, right = (left + whole.left) / divisor, (right + whole.left) / divisor
    top, bottom = (top + whole.top) / divisor, (bottom + whole.top) / divisor
    if decoding.keeps_pixels:
        return image.crop((int(left), int(top), math.ceil(right), math.ceil(bottom)))
    if decoding.resize == "pad":
        return _pad(image, (left, top, right, bottom), image_size, decoding.background)
    # Pillow cuts to a fraction of a pixel while it resizes.
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))


def _pad(image: Image.Image, box: Box, image_size: int, background: str) -> Image.Image:
    sides = box[2] - box[0], box[3] - box[1]
    width, height = (max(1, round(side * image_size / max(sides))) for side in sides)
    canvas = Image.new("RGB", (image_size, image_size), background)
    inner = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    canvas.paste(inner, ((image_size - width) // 2, (image_size - height) // 2))
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # broken EXIF around good pixels is common: every viewer shows such an image
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 to 8. Of a JPEG at any time, of others once they are loaded: a PNG is loaded by asking."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


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


def _reason(error: Exception, file: BinaryIO | None = None) -> str:
    if isinstance(error, UnidentifiedImageError):
        is_empty = file is not None and file.seek(0, os.SEEK_END) == 0
        return "an empty file" if is_empty else "not an image, or of a format that is not supported"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
