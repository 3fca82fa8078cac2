"""Chooses how a run decodes its images: as the config says, and at their own size if it sets no data.image_size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.sources.image_set import ImageSet

LARGEST_NATIVE = 256  # even if all photos are 640x640, that is too large to train on by default
DEFAULT_SIZE = 224
ATTEMPTS = 5  # images to try in a class before skipping it: its first ones may be broken
NUM_LOOKED_AT = 12  # images of the whole set: the first of a class may have a size of its own
SMALLEST_PHOTOGRAPH = 64  # pixels of the shorter side


def choose_decoding(config: DataConfig, train: ImageSet) -> Decoding:
    """Return how all images of a run are decoded."""
    decoding = decoding_of(config)
    return decoding if config.image_size else dataclasses.replace(decoding, image_size=_native_size(train, decoding))


def decoding_of(config: DataConfig) -> Decoding:
    """Return how a config says that images are decoded: at their own size if it gives none."""
    black_and_white = None if config.float_range is None else (config.float_range[0], config.float_range[1])
    return Decoding(
        config.image_size,
        config.resize,
        config.background,
        black_and_white,
        config.interpolation,
        config.crop_fraction if config.resize == "crop" else 1.0,
    )


def _native_size(image_set: ImageSet, decoding: Decoding) -> int:
    """Return the side in pixels if images are all squares of one size up to 256, else 224.

    Looks at one image of each class, and at a few from the whole set.
    """
    size: tuple[int, ...] | None = None
    for shape in _some_shapes(image_set, decoding):
        if shape is None:
            continue
        if shape != (size or shape) or shape[0] != shape[1] or shape[0] > LARGEST_NATIVE:
            return DEFAULT_SIZE
        size = shape
    return size[0] if size else DEFAULT_SIZE


def spread_over(num_images: int) -> np.ndarray:
    """Return the positions of a few images, int64, evenly spaced from the first to the last."""
    return np.linspace(0, num_images - 1, min(NUM_LOOKED_AT, num_images)).astype(np.int64)


def are_large(sides: Sequence[int] | np.ndarray) -> bool:
    """True if most images are as large as photographs are. sides: the shorter one of each, in pixels."""
    return len(sides) > 0 and float(np.median(sides)) >= SMALLEST_PHOTOGRAPH


def _some_shapes(image_set: ImageSet, decoding: Decoding) -> Iterator[tuple[int, ...] | None]:
    for label in range(len(image_set.class_names)):
        yield _first_shape(image_set, np.flatnonzero(image_set.labels == label)[:ATTEMPTS], decoding)
    for i in spread_over(len(image_set)):
        yield _first_shape(image_set, [i], decoding)


def _first_shape(image_set: ImageSet, rows: Iterable[int], decoding: Decoding) -> tuple[int, ...] | None:
    """Return the shape of the first of these images that can be decoded."""
    for i in rows:
        try:
            return image_set.image(int(i), decoding).shape
        except (BadImageError, OSError):
            continue
    return None
