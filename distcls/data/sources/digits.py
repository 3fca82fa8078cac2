"""scikit-learn's 8x8 handwritten digits: the data set that needs no network, for the first run and for tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.sources.image_set import ArraySet, ImageSet
from distcls.errors import MissingInputError


def open_digits(config: DataConfig) -> dict[str, ImageSet]:
    """1,797 images of 8x8 pixels, one split. Raises MissingInputError where scikit-learn is not installed."""
    table = np.loadtxt(_csv_path(), delimiter=",", dtype=np.int64)
    gray = np.rint(table[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    class_names = [str(digit) for digit in range(10)]
    return {"train": ArraySet("digits", class_names, table[:, 64].copy(), gray.repeat(3, axis=3))}


def _csv_path() -> Path:
    """The file inside scikit-learn: importing scikit-learn to get at it takes seconds, finding its folder does not."""
    spec = importlib.util.find_spec("sklearn")
    folders = (spec and spec.submodule_search_locations) or []
    for folder in folders:
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise MissingInputError(
        "data.name=digits reads the images that scikit-learn carries, and scikit-learn is not installed here.\n"
        "Install it: pip install scikit-learn"
    )
