"""Turns an image as people hold it in Python, whether PIL, NumPy or torch, into the pixels that a model sees.

The result is what decoding a file with the same pixels would give.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from distcls.data.decoding.decode import BadImageError, Decoding, decode, to_pixels
from distcls.errors import UsageError

CHANNELS = (1, 3, 4)
"""Gray, RGB and RGBA."""

ARRAYS = "uint8, or floats from 0 to 1, (height, width), (height, width, 3) or (height, width, 4)"
TENSORS = "uint8, or floats from 0 to 1, (height, width), (3, height, width) or (4, height, width)"
"""What is accepted, in words for error messages."""

FLOAT_SLACK = 1e-3
"""How far floats may lie outside 0 to 1: resizing and augmenting overshoot by that much."""


def is_path(image: Any) -> bool:
    """True for the path of a file or a folder."""
    return isinstance(image, str | os.PathLike)


def one_or_many(images: Any) -> tuple[bool, Sequence[Any]]:
    """Return True if a single image was given, and the images.

    Arrays and tensors of four dimensions are many images, as is any other iterable. Raises UsageError for things that
    are not images.
    """
    if _is_image(images) and getattr(images, "ndim", 0) < 4:
        return True, [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        return False, images  # type: ignore[return-value]  # it has a length and gives its images one by one
    if not isinstance(images, Iterable) or isinstance(images, bytes | dict | set):
        raise _not_an_image(images)
    images = list(images)
    for image in images:
        if not _is_image(image):
            raise _not_an_image(image)
    return False, images


def _is_image(image: Any) -> bool:
    return is_path(image) or isinstance(image, Image.Image | np.ndarray | torch.Tensor)


def _not_an_image(thing: Any) -> UsageError:
    return UsageError(
        f"{type(thing).__name__} is not an image: give a path, a PIL image, a NumPy array, a torch tensor, or a list "
        "of these."
    )


def given_pixels(image: Any, decoding: Decoding) -> np.ndarray:
    """Return uint8 (S, S, 3) for a path, PIL image, NumPy array or torch tensor. Raises BadImageError."""
    if is_path(image):
        return decode(image, decoding)
    if isinstance(image, Image.Image):
        return _loaded_pixels(image, decoding)
    if isinstance(image, torch.Tensor):
        return _array_pixels(_channels_last(image.detach().cpu()), decoding, TENSORS)
    return _array_pixels(image, decoding, ARRAYS)


def given_name(image: Any, place: int) -> str:
    """Return the name of an image for messages: its path, or its place among those given."""
    return os.fsdecode(image) if is_path(image) else f"image {place}"


def _loaded_pixels(image: Image.Image, decoding: Decoding) -> np.ndarray:
    try:
        image.load()
        return to_pixels(image, decoding)
    except (MemoryError, BadImageError):
        raise
    except Exception as error:  # as in decode
        raise BadImageError(str(error) or type(error).__name__) from error


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor (channels, height, width) as an array (height, width, channels)."""
    if tensor.ndim == 3 and tensor.shape[0] not in CHANNELS and tensor.shape[2] in CHANNELS:
        raise BadImageError(
            f"a tensor of shape {tuple(tensor.shape)}: torch images are (channels, height, width), so permute(2, 0, 1) "
            "it, or give it as a NumPy array"
        )
    if tensor.is_floating_point():  # NumPy has no bfloat16
        tensor = tensor.double() if tensor.dtype == torch.float64 else tensor.float()
    return tensor.movedim(0, -1).numpy() if tensor.ndim == 3 else tensor.numpy()


def _array_pixels(array: np.ndarray, decoding: Decoding, accepted: str) -> np.ndarray:
    shape = array.shape
    if array.ndim == 3 and shape[2] not in CHANNELS and shape[0] in CHANNELS:
        raise BadImageError(
            f"an array of shape {shape}: NumPy images are (height, width, channels), so transpose(1, 2, 0) it"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in CHANNELS) or 0 in shape:
        raise BadImageError(f"an image of shape {shape}: give {accepted}")
    array = array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array
    return to_pixels(Image.fromarray(np.ascontiguousarray(_to_uint8(array, decoding, accepted))), decoding)


def _to_uint8(array: np.ndarray, decoding: Decoding, accepted: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise BadImageError(f"an image of {array.dtype}: give {accepted}")
    black, white = decoding.float_range or (0.0, 1.0)
    slack = np.inf if decoding.float_range else FLOAT_SLACK  # files beyond data.float_range are clipped, too
    low, high = float(array.min()), float(array.max())
    if not (black - slack <= low and high <= white + slack):  # NaN is in no range
        raise BadImageError(
            f"floats from {low:.4g} to {high:.4g}: give {accepted}. Do not normalize them: the model does that itself"
        )
    shares = (array.astype(np.float64) - black) / (white - black)
    return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
