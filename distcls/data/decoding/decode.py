"""Decodes image files to pixels, in one way for training, evaluation and prediction.

Imports only numpy and Pillow: decoding processes import this file and must start fast.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
import warnings
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

DECODER_VERSION = 4
DECODER = (DECODER_VERSION, PIL.__version__)
"""Part of the key of all cached images. Raise the version whenever `decode` returns different pixels."""

# Pillow would also open EPS (by running Ghostscript), PDF and forty more; these are the formats people train on.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

HEIF = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftyphevx", b"ftypmif1", b"ftypmsf1")
"""What HEIC files, an iPhone's photographs, have after their first four bytes. Pillow reads them with pillow-heif."""

HEIF_INSTALL = "python -m pip install 'distcls[heic]'"

JPEGS = ("JPEG", "MPO")
"""Pillow's names for JPEG files; MPO has more than one picture, as many phones write."""

OVERSAMPLING = 2
"""JPEGs are decoded at a reduced size only if that size is still this many times the final size."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
"""Pillow's filters for data.interpolation."""

MAX_FILE_BYTES = 2**32
"""More than the largest accepted image takes in any format; files are read into memory whole."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Things that are not regular files, in words for error messages."""

LYING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

# Pillow warns about broken metadata, and about images of more than 89 million pixels. Here an image is either good or
# bad, and nobody reads the warnings of a million images. Bad means above 179 million pixels, Pillow's limit, since
# there are 100-megapixel cameras.
warnings.filterwarnings("ignore", module=r"PIL\.")

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow's limit, above which it opens no image."""


class BadImageError(Exception):
    """An image that cannot be decoded; the message is the reason, in short and without the path."""


class TooManyPixelsError(BadImageError):
    """An image with more pixels than are accepted. `pixels` is None if only Pillow knows how many there are."""

    def __init__(self, message: str, pixels: int | None = None) -> None:
        super().__init__(message)
        self.pixels = pixels


@dataclass(frozen=True)
class Decoding:
    """How an image becomes pixels: the same in training, evaluation and prediction."""

    image_size: int | None
    """Side of the square in pixels; None keeps each image's own size."""
    resize: str = "crop"
    """crop: scale the short side to image_size and cut the long side at both ends. pad: scale the long side to
    image_size and add borders in the background color. squish: scale both sides to image_size, whatever the shape."""
    background: str = "white"
    """Color behind transparent pixels and around padded images: a CSS color name or #rrggbb."""
    float_range: tuple[float, float] | None = None
    """Pixel values of black and white for gray images with float, 16-bit or 32-bit pixels. Netpbm files with integers
    name their own."""
    interpolation: str = "bilinear"
    """A key of INTERPOLATION; images are always antialiased when they shrink."""
    crop_fraction: float = 1.0
    """With resize=crop, the share of the short side that the central square keeps. Images that already are squares of
    image_size stay whole."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of each decoded image; image_size must be set."""
        assert self.image_size is not None
        return self.image_size, self.image_size, 3

    keeps_pixels: ClassVar[bool] = False
    """True if the box is cut out at its own size (see random_crop.py) instead of being resized to image_size."""

    def box(self, width: int, height: int) -> Box:
        """Return the part of an upright image of this size that the model sees."""
        if self.resize != "crop" or self.image_size is None:
            return 0, 0, width, height
        side = min(width, height) * self.crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


@dataclass(frozen=True)
class Original:
    """The contents of an image file, before decoding for a model."""

    format: str
    """Pillow's name for it, such as JPEG."""
    mode: str
    """Pillow's name for it, such as RGB, L or I;16."""
    width: int
    height: int
    """Pixels of the upright image."""
    is_animation: bool
    """True if there is more than one frame or page."""


def decode(
    path_or_file: str | os.PathLike[str] | BinaryIO, decoding: Decoding, most_pixels: int | None = None
) -> np.ndarray:
    """Decode an image completely: return uint8 (H, W, 3), RGB, upright and fitted. Animations give their first frame.

    Raises BadImageError if the image cannot be decoded to its end, and TooManyPixelsError, before decoding, if it has
    more than `most_pixels`.
    """
    return decode_and_describe(path_or_file, decoding, most_pixels)[0]


def decode_and_describe(
    path_or_file: str | os.PathLike[str] | BinaryIO, decoding: Decoding, most_pixels: int | None = None
) -> tuple[np.ndarray, Original]:
    """Return what `decode` returns, and what the file holds. Raises BadImageError."""
    if isinstance(path_or_file, str | os.PathLike):
        with open_image_file(path_or_file) as file:
            return decode_and_describe(file, decoding, most_pixels)
    try:
        with _opened(path_or_file) as image:
            width, height = image.size
            if most_pixels is not None and width * height > most_pixels:
                raise TooManyPixelsError(f"more than {most_pixels:,} pixels", width * height)
            whole = _leave_out_detail(image, decoding)
            image.load()
            if _orientation(image) in LYING:
                width, height = height, width
            pixels = to_pixels(image, decoding, whole)
            return pixels, Original(image.format or "", image.mode, width, height, _is_animation(image))
    except (MemoryError, BadImageError):
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImageError(_reason(error, path_or_file)) from error


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        if file.read(12)[4:] not in HEIF:
            raise
        file.seek(0)
        _register_heif()
        return Image.open(file, formats=("HEIF",))


@functools.cache
def _register_heif() -> None:
    """Let Pillow open HEIF files. Called only for those, because it takes a while, and pillow-heif is an extra."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise BadImageError(f"a HEIC file, which needs pillow-heif: {HEIF_INSTALL}") from error
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def to_pixels(image: Image.Image, decoding: Decoding, whole: Whole | None = None) -> np.ndarray:
    """Return uint8 (H, W, 3), RGB, upright and fitted, of an image that Pillow has loaded, which stays as it is.

    Raises BadImageError if its numbers have no known range.
    """
    return np.array(fit(_upright(_to_rgb(image, decoding), _orientation(image)), decoding, whole))


def open_image_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an image file for reading. Raises BadImageError, also for anything that is not a regular file.

    A pipe, socket or device could block its reader or never end, and so could files under /proc, which claim to be
    empty.
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
    """Return all bytes of an image file. Raises BadImageError like open_image_file, and if the disk fails."""
    with open_image_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise BadImageError(_reason(error)) from error


def _is_animation(image: Image.Image) -> bool:
    """True if there are more frames than the first; the depth map or preview in a phone's JPEG is not a frame."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # the second frame is broken, but nobody looks at it
        return False


class Whole(NamedTuple):
    """The full-size upright image behind a JPEG that was decoded at a reduced size, in full-size pixels."""

    width: int
    height: int
    left: int = 0
    top: int = 0
    """Where it begins: sides are rounded up to whole reduced pixels at their end, which turning may bring to the
    front."""


def _leave_out_detail(image: Image.Image, decoding: Decoding) -> Whole | None:
    """Decode a large JPEG at 1/2, 1/4 or 1/8 of its sides if the final image is smaller still.

    On photographs, this changed pixels by half a level of 255 on average (three times that without OVERSAMPLING)
    and saved up to a third of the time.
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
    """Make an RGB image square, (image_size, image_size), by resizing with antialiasing."""
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
        return _pad(image, (left, top, right, bottom), image_size, decoding)
    # Pillow crops to a fraction of a pixel while it resizes.
    return image.resize((image_size, image_size), INTERPOLATION[decoding.interpolation], (left, top, right, bottom))


def _pad(image: Image.Image, box: Box, image_size: int, decoding: Decoding) -> Image.Image:
    sides = box[2] - box[0], box[3] - box[1]
    width, height = (max(1, round(side * image_size / max(sides))) for side in sides)
    canvas = Image.new("RGB", (image_size, image_size), decoding.background)
    inner = image.resize((width, height), INTERPOLATION[decoding.interpolation], box=box)
    canvas.paste(inner, ((image_size - width) // 2, (image_size - height) // 2))
    return canvas


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TO_UPRIGHT[orientation]) if orientation in TO_UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Except for JPEGs, ask after loading: asking loads a PNG."""
    with contextlib.suppress(Exception):  # broken EXIF around good pixels is common, and every viewer shows such images
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
    """Return data.float_range, or that of the image's type, not of its pixels: brightness must mean the same in all.

    Raises BadImageError if neither the type nor data.float_range gives a range.
    """
    if image.format == "PPM" and image.mode == "I":  # Pillow has scaled it: the file's own numbers are gone
        return 0, 65535
    if decoding.float_range is not None:
        return decoding.float_range
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, 16)  # a TIFF may have 12
        return 0, 2 ** int(np.min(bits)) - 1
    low, high = image.getextrema()
    raise BadImageError(
        f"its pixels are numbers from {low:.4g} to {high:.4g}: "
        "give the values of black and white, such as data.float_range=[0, 1]"
    )


def _from_numbers(image: Image.Image, black: float, white: float) -> Image.Image:
    """Scale the range to gray; Pillow would clip everything above 255 to white and make floats from 0 to 1 black.

    NaN, such as a missing measurement, becomes black.
    """
    shares = (np.asarray(image, np.float64) - black) / (white - black)
    return Image.fromarray(np.rint(255 * np.nan_to_num(shares).clip(0, 1)).astype(np.uint8)).convert("RGB")


def _reason(error: Exception, file: BinaryIO | None = None) -> str:
    if isinstance(error, UnidentifiedImageError):
        is_empty = file is not None and file.seek(0, os.SEEK_END) == 0
        return "an empty file" if is_empty else "not an image, or in an unsupported format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
