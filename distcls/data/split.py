"""The data as training, evaluation and analysis see it: splits of labeled uint8 images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcls.data.cache.mapped_file import received, to_send
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.parallel import checked_image
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.sources.image_set import Groups, ImageSet

LISTED_BY_NAME = 200_000  # images; for larger data sets, splits.json holds positions instead of paths


@dataclass
class Split:
    """Train, val or test: a subset of an image set, without its bad images and those that data.exclude names."""

    name: str
    image_set: ImageSet
    rows: np.ndarray
    """int64 (n,), positions in image_set and pixels."""
    labels: np.ndarray
    """int64 (n,), class ids."""
    pixels: np.ndarray | None
    """uint8 (N, image_size, image_size, 3), the whole image set, memory-mapped and shared; None: decode from disk."""
    decoding: Decoding
    in_memory: bool = True
    """True if pixels, where there are any, are small enough to stay in memory; if not, workers read them from disk."""
    random_crop: RandomCrop | None = None
    """The crop that training takes of each image; equal to decoding if it cuts from the file's own pixels."""
    groups: np.ndarray | None = None
    """int64 (n,), the group that each image belongs to, or -1; None without data.groups."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_groups(self) -> int | None:
        """How many groups it has images of, where one without a group counts as one; None without data.groups."""
        if self.groups is None:
            return None
        return len(np.unique(self.groups[self.groups >= 0])) + int((self.groups < 0).sum())

    def image(self, i: int) -> np.ndarray:
        """Return uint8 (image_size, image_size, 3). Raises BadImageError or OSError if the file has since gone bad."""
        return self.whole_image(i, self.decoding)

    def whole_image(self, i: int, decoding: Decoding) -> np.ndarray:
        """Return an image as an evaluation sees it, also of a split that is decoded in random parts.

        decoding: that of Data. Shape and errors are those of `image`.
        """
        if self.pixels is None or self.decoding != decoding:  # training may crop from pixels of another size
            return checked_image(self.image_set, int(self.rows[i]), decoding)
        return np.asarray(self.pixels[self.rows[i]])

    def random_part(self, i: int, draws: np.ndarray) -> np.ndarray:
        """Return random_crop's part of the file's own pixels, uint8 (h, w, 3). Raises the same errors as `image`."""
        assert self.random_crop is not None
        cropping = dataclasses.replace(self.random_crop, draws=tuple(draws.tolist()))
        return checked_image(self.image_set, int(self.rows[i]), cropping)

    def image_name(self, i: int) -> str:
        """Return the path under the root, or a name such as digits/17."""
        return self.image_set.name(int(self.rows[i]))

    def __getstate__(self) -> dict[str, Any]:
        pixels = None if self.pixels is None else to_send(self.pixels)
        return {**self.__dict__, "pixels": pixels, "groups": None}  # loader processes do not ask for groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        pixels = state["pixels"]
        self.__dict__.update(state, pixels=None if pixels is None else received(pixels))


def split_without(
    left_out: Collection[int],
    name: str,
    image_set: ImageSet,
    rows: np.ndarray,
    pixels: np.ndarray | None,
    decoding: Decoding,
    in_memory: bool = True,
    groups: Groups | None = None,
) -> Split:
    """Return a split without these positions in its image set: bad images, and those that the user excludes.

    They are removed after the splits were cut, so that repairing one image moves no other into another split.
    """
    good = rows[~np.isin(rows, list(left_out))]
    of = None if groups is None else groups.of[good]
    return Split(name, image_set, good, image_set.labels[good], pixels, decoding, in_memory, groups=of)


@dataclass
class Data:
    """All splits of a run. val and test are None if the data has none and none was cut."""

    train: Split
    val: Split | None
    test: Split | None
    class_names: list[str]
    decoding: Decoding
    fingerprint: str
    """Hex digest of classes, labels, file names and contents, and of which image is in which split."""
    report: dict[str, Any]
    """For data_report.json: counts, ignored files, and bad files with the reasons."""
    listing_fingerprint: str = ""
    """The same without file contents, as stored by runs from before files were hashed."""
    set_fingerprints: tuple[str, ...] = ()
    """Hex digests of the image sets, whichever image is in which split."""

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that the model sees."""
        assert self.decoding.image_size is not None
        return self.decoding.image_size

    def has_fingerprint(self, fingerprint: str) -> bool:
        """True if a run with this fingerprint was started on these images.

        The fingerprint of a run from before files were hashed covers only their names and sizes.
        """
        return fingerprint in (self.fingerprint, self.listing_fingerprint)

    def splits(self) -> list[Split]:
        """Return the splits that exist, train first."""
        return [split for split in (self.train, self.val, self.test) if split is not None]

    def split_lists(self) -> dict[str, list[str] | list[int]]:
        """Return the images of each split, for splits.json: names, or positions if there are over 200,000 images."""
        splits = self.splits()
        if sum(map(len, splits)) > LISTED_BY_NAME:
            return {split.name: split.rows.tolist() for split in splits}
        return {split.name: [split.image_name(i) for i in range(len(split))] for split in splits}
