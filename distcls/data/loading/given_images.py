"""Loads images that belong to no data set, ahead of their use: files that people name, or images they hold in Python.

Unlike the images of a split, one that cannot be read is left out and reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from distcls.data.decoding.decode import BadImageError, Decoding
from distcls.data.decoding.given import given_pixels
from distcls.data.loading.reading import in_workers
from distcls.data.loading.transfer import copied_ahead, move


class GivenImages(NamedTuple):
    """A batch of images."""

    images: list[Any]
    """As they were given, in order."""
    pixels: torch.Tensor
    """uint8 (n, S, S, 3), of those that are not bad."""
    bad: dict[int, str]
    """Reasons, by the position in `images`."""

    @property
    def good(self) -> list[Any]:
        """Return the images that `pixels` are of."""
        return [image for place, image in enumerate(self.images) if place not in self.bad]


def load_given(
    images: Iterable[Any], decoding: Decoding, batch_size: int, device: torch.device, workers: int
) -> Iterator[GivenImages]:
    """Yield the images in order, in batches with pixels on the device; the last may be short.

    images: anything that given_pixels takes; only a few batches of them are taken ahead. workers: processes that
    decode; 0: this one does.
    """
    loader = in_workers(_Reader(decoding), _batches(images, batch_size), device, workers)
    loaded = (GivenImages(batch.images, move(batch.pixels, device), batch.bad) for batch in loader)
    return copied_ahead(loaded, lambda batch: [batch.pixels], device)


def _batches(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    images = iter(images)
    while batch := list(itertools.islice(images, size)):
        yield batch


class _Reader(Dataset):
    """Turns a list of images into a batch of pixels."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding

    def __getitem__(self, images: list[Any]) -> GivenImages:
        pixels = np.zeros((len(images), *self.decoding.shape), np.uint8)
        bad: dict[int, str] = {}
        for place, image in enumerate(images):
            try:
                pixels[place - len(bad)] = given_pixels(image, self.decoding)
            except (BadImageError, OSError) as error:
                bad[place] = str(error)
        return GivenImages(images, torch.from_numpy(pixels[: len(images) - len(bad)]), bad)
