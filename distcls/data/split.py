"""What training, evaluation and analysis see of the data: splits of labelled uint8 images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcls.data.cache.mapped_file import received, to_send
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.parallel import checked_image
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.sources.image_set import ImageSet

LISTED_BY_NAME = 200_000  # images; splits.json of a larger data set holds positions instead of paths


@dataclass
class Split:
    """One of train, val and test: some images of an image set, without the bad ones."""

    name: str
    image_set: ImageSet
    rows: np.ndarray
    """int64 (n,), positions in image_set and in pixels."""
    labels: np.ndarray
    """int64 (n,), class ids."""
    pixels: np.ndarray | None
    """uint8 (N, image_size, image_size, 3) of the whole image set, mapped and shared; None: decode from disk."""
    decoding: Decoding
    in_memory: bool = True
    """Whether pixels, if there are any, are few enough to stay in memory; else workers read them from disk."""
    random_crop: RandomCrop | None = None
    """What training cuts out of each image. It is the decoding too where it cuts from the file's own pixels."""

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> np.ndarray:
        """uint8 (image_size, image_size, 3). Raises BadImageError or OSError where a file has gone bad meanwhile."""
        if self.pixels is None:
            return checked_image(self.image_set, int(self.rows[i]), self.decoding)
        return np.asarray(self.pixels[self.rows[i]])

    def random_part(self, i: int, draws: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3): what random_crop keeps of the file's own pixels. Raises as `image`."""
        assert self.random_crop is not None
        cropping = dataclasses.replace(self.random_crop, draws=tuple(draws.tolist()))
        return checked_image(self.image_set, int(self.rows[i]), cropping)

    def image_name(self, i: int) -> str:
        """Path under the root, or something like digits/17."""
        return self.image_set.name(int(self.rows[i]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pixels": None if self.pixels is None else to_send(self.pixels)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        pixels = state["pixels"]
        self.__dict__.update(state, pixels=None if pixels is None else received(pixels))


def split_without_bad(
    name: str,
    image_set: ImageSet,
    rows: np.ndarray,
    bad: Mapping[int, str],
    pixels: np.ndarray | None,
    decoding: Decoding,
    in_memory: bool = True,
) -> Split:
    """Splits are cut first and bad images left out then: repairing one image moves no other to another split."""
    good = rows[~np.isin(rows, list(bad))]
    return Split(name, image_set, good, image_set.labels[good], pixels, decoding, in_memory)


@dataclass
class Data:
    """All splits of a run. val and test are None where there are none and none were to be cut."""

    train: Split
    val: Split | None
    test: Split | None
    class_names: list[str]
    decoding: Decoding
    fingerprint: str
    """Hex digest of classes, labels, names and contents of files, and of which image is in which split."""
    report: dict[str, Any]
    """For data_report.json: counts, ignored files, bad files with their reasons."""
    listing_fingerprint: str = ""
    """The same without the contents of files: what runs began with before files were hashed."""

    @property
    def image_size(self) -> int:
        """Side in pixels of what the model sees."""
        assert self.decoding.image_size is not None
        return self.decoding.image_size

    def has_fingerprint(self, fingerprint: str) -> bool:
        """True if a run that began with this fingerprint began with these images, as far as it says.

        A run of a version that hashed no files knows their names and sizes only.
        """
        return fingerprint in (self.fingerprint, self.listing_fingerprint)

    def splits(self) -> list[Split]:
        """Those that exist, train first."""
        return [split for split in (self.train, self.val, self.test) if split is not None]

    def split_lists(self) -> dict[str, list[str] | list[int]]:
        """For splits.json: the images of each split, by name; by position above 200,000 images."""
        splits = self.splits()
        if sum(map(len, splits)) > LISTED_BY_NAME:
            return {split.name: split.rows.tolist() for split in splits}
        return {split.name: [split.image_name(i) for i in range(len(split))] for split in splits}
