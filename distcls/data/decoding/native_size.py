"""Chooses how a run decodes its images: as the config says, and at their own size if it sets no data.image_size."""

from __future__ import annotations

import dataclasses

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.sources.image_set import ImageSet

LARGEST_NATIVE = 256  # even if all photos are 640x640, that is too large to train on by default
DEFAULT_SIZE = 224
ATTEMPTS = 5  # images to try in a class before skipping it: its first ones may be broken


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
    """Return the side in pixels if images are all squares of one size up to 256, else 224. Looks at one per class."""
    size: tuple[int, ...] | None = None
    for label in range(len(image_set.class_names)):
        shape = _first_shape(image_set, label, decoding)
        if shape is None:
            continue
        if shape != (size or shape) or shape[0] != shape[1] or shape[0] > LARGEST_NATIVE:
            return DEFAULT_SIZE
        size = shape
    return size[0] if size else DEFAULT_SIZE


def _first_shape(image_set: ImageSet, label: int, decoding: Decoding) -> tuple[int, ...] | None:
    for i in np.flatnonzero(image_set.labels == label)[:ATTEMPTS]:
        try:
            return image_set.image(int(i), decoding).shape
        except (BadImageError, OSError):
            continue
    return None
