"""Opens all images that an audit looks at: as small squares to compare, and as pictures to show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distcls.config.settings import DataConfig
from distcls.data.build import OneProcess, build_data
from distcls.data.decoding.parallel import OnProgress
from distcls.data.split import Split
from distcls.errors import UsageError, some_of
from distcls.sweeps.audit.out_of_fold import OutOfFold

SIDE = 32
"""Pixels of the squares that images are compared as."""

LARGEST_PICTURE = 128
"""Pixels of the longer side of a picture on the page."""

SHOWN_NAMES = 3  # in a message


@dataclass
class Gallery:
    """All images of a data set, N in number, split by split, train first."""

    splits: list[Split]
    class_names: list[str]
    names: list[str]
    labels: np.ndarray
    """int64 (N,)."""
    places: list[str]
    """The split of each image, or "fold 2" if a fold of a cross-validation had it as val."""
    predicted: np.ndarray
    """int64 (n,), the position in this gallery of each image of an OutOfFold."""
    picture_size: int

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def num_images(self) -> int:
        """The number of images that can be predicted: one that is listed twice with the same label counts once."""
        return len(set(zip(self.names, self.labels.tolist(), strict=True)))

    @property
    def has_own_val(self) -> bool:
        """True if the data itself has a val split, so that it cannot be cut into folds."""
        train, *others = self.splits
        return any(split.name == "val" and split.image_set is not train.image_set for split in others)

    def squares(self) -> np.ndarray:
        """Return uint8 (N, SIDE, SIDE, 3), each image squeezed into a square."""
        return np.concatenate([_pixels(split) for split in self.splits])

    def blank(self) -> np.ndarray:
        """Return a white picture."""
        return np.full((self.picture_size, self.picture_size, 3), 255, np.uint8)

    def picture(self, i: int) -> np.ndarray:
        """Return the whole image, uint8 (S, S, 3), with borders if it is not square. Raises BadImageError."""
        for split in self.splits:
            if i < len(split):
                break
            i -= len(split)
        decoding = dataclasses.replace(split.decoding, image_size=self.picture_size, resize="pad")
        return split.image_set.image(int(split.rows[i]), decoding)


def open_gallery(
    config: DataConfig, image_size: int, found: OutOfFold, run_dir: Path, progress: OnProgress | None = None
) -> Gallery:
    """Open the images of a run. config: the run's; image_size: the side in pixels that its model sees.

    Raises UsageError if they are not the images that were predicted, and whatever build_data raises.
    """
    small = dataclasses.replace(config, image_size=SIDE, resize="squish", decode_size=None, cache=DataConfig().cache)
    data = build_data(small, OneProcess(), progress)
    splits = data.splits()
    names = [split.image_name(i) for split in splits for i in range(len(split))]
    labels = np.concatenate([split.labels for split in splits])
    places = [split.name for split in splits for _ in range(len(split))]
    rows = {key: row for row, key in enumerate(zip(names, labels.tolist(), strict=True))}
    keys = list(zip(found.names, found.labels.tolist(), strict=True))
    unknown = [name for name, label in keys if (name, label) not in rows]
    if unknown or data.class_names != found.class_names:
        what = f"not there or have other labels now: {some_of(unknown, SHOWN_NAMES)}" if unknown else "in other classes"
        raise UsageError(
            f"the images are not those of {run_dir}: {len(unknown) or len(keys):,} of {len(keys):,} are {what}. "
            "Restore them, give the right folder with --data DIR, or train again"
        )
    predicted = np.array([rows[key] for key in keys], np.int64)
    for row, place in zip(predicted.tolist(), found.places, strict=True):
        places[row] = place
    return Gallery(splits, data.class_names, names, labels, places, predicted, min(image_size, LARGEST_PICTURE))


def _pixels(split: Split) -> np.ndarray:
    if split.pixels is not None:
        return split.pixels[split.rows]
    return np.stack([split.image(i) for i in range(len(split))])
