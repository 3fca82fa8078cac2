"""Reads which images a user wants to leave out (data.exclude), such as those that `distcls audit` lists.

They are left out after the splits are cut, so that leaving out one image moves no other into another split, as removing
its file would.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from distcls.config.settings import DataConfig
from distcls.config.wording import count, nearest
from distcls.data.sources.image_set import ImageSet
from distcls.errors import BadDataError, MissingInputError, some_of

IMAGE_COLUMN = "image"
"""The column of a CSV file that names the images, in files that distcls writes too."""

SHOWN_NAMES = 3  # in a message


@dataclass
class Exclusion:
    """The images to leave out."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)
    """int64, positions of these images in each image set, by its split."""
    unknown: list[str] = field(default_factory=list)
    """Names in the file that no image has."""

    def of(self, source: str) -> np.ndarray:
        """Return the positions of the images to leave out of an image set, int64."""
        return self.rows.get(source, np.empty(0, np.int64))

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def warnings(self) -> list[str]:
        """Return a sentence if some names match no image."""
        if not self.unknown:
            return []
        return [f"data.exclude has {_names_without_image(self.unknown)}"]


def find_excluded(config: DataConfig, image_sets: Mapping[str, ImageSet]) -> Exclusion:
    """Return the images that data.exclude names; none if it is not set.

    Raises MissingInputError if the file cannot be read, and BadDataError if it has the wrong form or if none of its
    names is that of an image.
    """
    if config.exclude is None:
        return Exclusion()
    names = read_names(config.exclude)
    wanted, known = set(names), set()
    rows = {}
    for source, image_set in image_sets.items():
        of_set = [image_set.name(i) for i in range(len(image_set))]
        rows[source] = np.array([i for i, name in enumerate(of_set) if name in wanted], np.int64)
        known.update(wanted.intersection(of_set))
    unknown = sorted(wanted - known)
    if unknown and not known:
        first = next(iter(image_sets.values())).name(0)
        raise BadDataError(
            f"data.exclude={config.exclude} has {_names_without_image(unknown)}. Names are as in splits.json and "
            f"audit.csv, such as {first}"
        )
    return Exclusion(rows, unknown)


def _names_without_image(names: list[str]) -> str:
    return f"{count(len(names), 'name')} that no image has: {some_of(names, SHOWN_NAMES)}"


def read_names(path: str) -> list[str]:
    """Return the names in a .csv file's column `image`, or else one name from each line that is not empty.

    Raises MissingInputError and BadDataError.
    """
    file = os.path.expanduser(path)
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            if file.lower().endswith(".csv"):
                return _read_column(path, csv.DictReader(lines))
            return [name for line in lines if (name := line.rstrip("\r\n"))]
    except OSError as error:
        raise MissingInputError(
            f"data.exclude={path} cannot be read ({error.strerror}): give a CSV file with a column "
            f"{IMAGE_COLUMN!r}, or a text file with the name of an image on each line"
        ) from error
    except csv.Error as error:
        raise BadDataError(f"data.exclude={path} cannot be read as a CSV file: {error}") from error


def _read_column(path: str, rows: csv.DictReader[str]) -> list[str]:
    header = list(rows.fieldnames or [])
    if IMAGE_COLUMN not in header:
        raise BadDataError(
            f"data.exclude={path} line 1: the header has no column {IMAGE_COLUMN!r}, only "
            f"{', '.join(map(repr, header)) or 'nothing'}.{nearest(IMAGE_COLUMN, header)} A file with the name of an "
            "image on each line must not be called .csv"
        )
    return [name for row in rows if (name := row[IMAGE_COLUMN])]
