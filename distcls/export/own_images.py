"""Finds images to prove an exported file with: the run's own, where they are still here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distcls.config.settings import Config
from distcls.config.wording import count
from distcls.data.decoding.decode import Decoding, fit
from distcls.data.decoding.parallel import checked_image, noting_if_bad
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ImageSet
from distcls.data.splitting.cut import cut_splits
from distcls.data.splitting.groups import find_groups
from distcls.errors import DistclsError, MissingInputError
from distcls.files.atomic import read_json
from distcls.runs.results import load_pictures

SPLITS = ("val", "test", "train")
"""Where images are taken from: the first of these splits that the run has."""

NUM_RANDOM = 20


@dataclass(frozen=True)
class OwnImages:
    """Images of a run, spread evenly over one of its splits."""

    pixels: np.ndarray
    """uint8 (n, S, S, 3), as the classifier takes them."""
    kind: str
    """For people: "val image"."""
    labels: np.ndarray | None = None
    """int64 (n,), class ids; None if unknown."""
    image_set: ImageSet | None = None
    """The set that they are from, in which their places are `rows`; None if it is not here."""
    rows: np.ndarray | None = None

    @property
    def title(self) -> str:
        """Return how many there are of which kind: "100 val images"."""
        return count(len(self.pixels), self.kind)

    def spread(self, most: int) -> OwnImages:
        """Return up to `most` of them, evenly spread."""
        return self._at(_spread(np.arange(len(self.pixels)), most))

    def without(self, most: int) -> OwnImages:
        """Return those that spread(most) leaves out."""
        places = np.arange(len(self.pixels))
        return self._at(np.setdiff1d(places, _spread(places, most)))

    def _at(self, places: np.ndarray) -> OwnImages:
        parts = {
            name: None if part is None else part[places]
            for name, part in (("labels", self.labels), ("rows", self.rows))
        }
        return dataclasses.replace(self, pixels=self.pixels[places], **parts)

    def originals(self, decoding: Decoding) -> Iterator[np.ndarray]:
        """Yield each image at its own size, uint8 (H, W, 3). Raises BadImageError; only for images of a set."""
        assert self.image_set is not None and self.rows is not None
        at_own_size = dataclasses.replace(decoding, image_size=None)
        for row in self.rows:
            yield self.image_set.image(int(row), at_own_size)


def find_images(run_dir: Path, config: Config, class_names: list[str], decoding: Decoding, most: int) -> OwnImages:
    """Return up to `most` images of a run's val split. Nothing is downloaded, and only these images are decoded.

    Raises MissingInputError, with the reason, if the run's images are not here any more.
    """
    data = dataclasses.replace(config.data, image_size=decoding.image_size, download=False)
    try:
        image_sets = open_image_sets(data, least_classes=1)
        labels = {name: image_set.labels for name, image_set in image_sets.items()}
        cuts = cut_splits(labels, data, groups=find_groups(data, image_sets))
    except (DistclsError, OSError) as error:
        raise MissingInputError(f"They are not here: {error}") from error
    if image_sets["train"].class_names != class_names:
        raise MissingInputError(f"{data.root or data.name} has other classes than the run: give its own, --data DIR")
    split = next(name for name in SPLITS if name in cuts)
    source, rows = cuts[split]
    image_set = image_sets[source]
    listed = _listed(run_dir, split)
    if listed is not None:
        rows = np.array([row for row in rows if int(row) in listed or image_set.name(int(row)) in listed], np.int64)
    pixels, good, bad = [], [], {}
    for row in _spread(rows, most).tolist():
        with noting_if_bad(row, bad):
            pixels.append(checked_image(image_set, row, decoding))
            good.append(row)
    if not pixels:
        raise MissingInputError(
            f"{data.root or data.name} has none of the run's {split} images: say where they are, --data DIR"
        )
    return OwnImages(np.stack(pixels), f"{split} image", image_set.labels[good], image_set, np.array(good))


def stand_ins(run_dir: Path, decoding: Decoding) -> OwnImages:
    """Return images for a run whose own are gone: the pictures in its folder, or if there are none, noise."""
    pictures = [image for kept in load_pictures(run_dir).values() for image in kept.pixels]
    if pictures:
        fitted = [np.asarray(fit(Image.fromarray(pixels), decoding)) for pixels in pictures]
        return OwnImages(np.stack(fitted), "stored picture")
    noise = np.random.default_rng(0).integers(0, 256, (NUM_RANDOM, *decoding.shape), np.uint8)
    return OwnImages(noise, "random image")


def _listed(run_dir: Path, split: str) -> set[Any] | None:
    """Return the names (or places) of a split's images, as the run began with them; None if it does not say."""
    try:
        return set(read_json(run_dir / "splits.json")[split])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` of the rows, evenly spread: neighbors are often of one class."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))] if len(rows) else rows
