"""The image size a model gets where the config does not name one."""

from __future__ import annotations

import numpy as np

from distcls.data.decoding import BadImageError, Decoding
from distcls.data.image_set import ImageSet

LARGEST_NATIVE = 256  # photos of one size, such as 640x640, are not trained on at that size by default
DEFAULT_SIZE = 224
ATTEMPTS = 5  # images of a class that are tried before it is left out: its first ones may be broken


def native_size(image_set: ImageSet) -> int:
    """The side in pixels of square images up to 256 that all have one size, else 224; looks at one per class."""
    size: tuple[int, ...] | None = None
    for label in range(len(image_set.class_names)):
        shape = _first_shape(image_set, label)
        if shape is None:
            continue
        if shape != (size or shape) or shape[0] != shape[1] or shape[0] > LARGEST_NATIVE:
            return DEFAULT_SIZE
        size = shape
    return size[0] if size else DEFAULT_SIZE


def _first_shape(image_set: ImageSet, label: int) -> tuple[int, ...] | None:
    for i in np.flatnonzero(image_set.labels == label)[:ATTEMPTS]:
        try:
            return image_set.image(int(i), Decoding(image_size=None)).shape
        except (BadImageError, OSError):
            continue
    return None
