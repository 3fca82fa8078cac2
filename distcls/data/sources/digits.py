"""scikit-learn's 8x8 handwritten digits, a data set without a download, for first runs and tests."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.cache.arrays import Arrays, open_arrays
from distcls.data.cache.folder import cache_folder
from distcls.data.sources.image_set import ArraySet, ImageSet
from distcls.errors import DiskError, MissingInputError

VERSION = 1
"""Part of the key in the store: raise it when scikit-learn's arrays are converted differently."""


def open_digits(config: DataConfig) -> dict[str, ImageSet]:
    """Return 1,797 images of 8x8 pixels as one split. Raises MissingInputError if scikit-learn is not installed.

    The images are kept in the store, because importing scikit-learn takes seconds.
    """
    try:
        key = f"{VERSION}-{importlib.metadata.version('scikit-learn')}"
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingInputError(
            "data.name=digits reads images that are bundled with scikit-learn, which is not installed.\n"
            "Install it: pip install scikit-learn"
        ) from error
    try:
        digits = open_arrays(cache_folder(config), "digits", key, _read)["train"]
    except DiskError:  # the images are small enough for each process to have its own
        (arrays,) = _read()
        digits = ArraySet("digits", arrays.class_names, arrays.labels, arrays.images)
    return {"train": dataclasses.replace(digits, title="digits")}


def _read() -> Iterator[Arrays]:
    from sklearn.datasets import load_digits

    data, labels = map(np.asarray, load_digits(return_X_y=True))
    gray = np.rint(data.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    yield Arrays("train", [str(digit) for digit in range(10)], labels.astype(np.int64), gray.repeat(3, axis=3))
