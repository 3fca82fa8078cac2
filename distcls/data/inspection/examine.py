"""Describes every image of a set for `distcls check`: its file and its pixels.

This takes one pass, which reads each file once and decodes it as training does, in the same processes
(decoding/parallel.py).
"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np

from distcls.data.decoding.decode import Decoding, Original, decode_and_describe
from distcls.data.decoding.parallel import OnProgress, checked_image, do_all, noting_if_bad
from distcls.data.sources.folder import FolderSet
from distcls.data.sources.image_set import CONTENT_BYTES, ImageSet, content_digest


@dataclass
class Inspected:
    """The findings for n consecutive images. Rows of bad images are 0."""

    start: int
    """Position of the first one in the image set."""
    digests: np.ndarray
    """uint8 (n, 16): content_digest of a file's bytes, or of the pixels if an image has no file of its own."""
    sizes: np.ndarray
    """int32 (n, 2), width and height in pixels."""
    formats: Counter[str]
    modes: Counter[str]
    """The number of images per format and mode, by Pillow's names."""
    num_animations: int
    bad: dict[int, str]
    """Position and reason of each image that cannot be decoded."""
    histogram: np.ndarray
    """int64 (3, 256), how often each value of red, green and blue occurs in the measured images."""
    pixel_sum: np.ndarray
    """float64 (S, S, 3), sum of the measured images, decoded."""
    num_measured: int

    @staticmethod
    def empty(start: int, count: int, shape: tuple[int, ...]) -> Inspected:
        """Return empty findings with room for `count` images; shape: (S, S, 3), of a decoded image."""
        return Inspected(
            start=start,
            digests=np.zeros((count, CONTENT_BYTES), np.uint8),
            sizes=np.zeros((count, 2), np.int32),
            formats=Counter(),
            modes=Counter(),
            num_animations=0,
            bad={},
            histogram=np.zeros((3, 256), np.int64),
            pixel_sum=np.zeros(shape),
            num_measured=0,
        )

    def add(self, part: Inspected) -> None:
        """Merge in the findings for some of these images."""
        rows = slice(part.start - self.start, part.start - self.start + len(part.sizes))
        self.digests[rows], self.sizes[rows] = part.digests, part.sizes
        self.formats += part.formats
        self.modes += part.modes
        self.num_animations += part.num_animations
        self.bad |= part.bad
        self.histogram += part.histogram
        self.pixel_sum += part.pixel_sum
        self.num_measured += part.num_measured


def inspect(
    image_set: ImageSet, decoding: Decoding, measured: np.ndarray, progress: OnProgress | None = None
) -> Inspected:
    """Decode and describe every image. measured: bool (N,), True for images whose pixels enter the statistics."""
    found = Inspected.empty(0, len(image_set), decoding.shape)
    for part in do_all(InspectJob(image_set, decoding, measured), progress):
        found.add(part)
    found.bad = dict(sorted(found.bad.items()))
    return found


@dataclass(frozen=True)
class InspectJob:
    """Everything a decoding process needs to know."""

    image_set: ImageSet
    decoding: Decoding
    measured: np.ndarray

    def do_chunk(self, start: int, stop: int) -> Inspected:
        """Return the findings for the images from start to stop."""
        found = Inspected.empty(start, stop - start, self.decoding.shape)
        measured = np.zeros((stop - start, *self.decoding.shape), np.uint8)
        for i in range(start, stop):
            with noting_if_bad(i, found.bad):
                pixels, original, digest = _look_at(self.image_set, i, self.decoding)
                found.digests[i - start] = np.frombuffer(digest, np.uint8)
                found.sizes[i - start] = original.width, original.height
                found.formats[original.format] += 1
                found.modes[original.mode] += 1
                found.num_animations += original.is_animation
                if self.measured[i]:
                    measured[found.num_measured] = pixels
                    found.num_measured += 1
        measured = measured[: found.num_measured]
        found.pixel_sum += measured.sum(0, dtype=np.uint64)
        for channel in range(3):
            found.histogram[channel] += np.bincount(measured[..., channel].ravel(), minlength=256)
        return found


def _look_at(image_set: ImageSet, i: int, decoding: Decoding) -> tuple[np.ndarray, Original, bytes]:
    """Return image i's decoded pixels, its original properties and a digest of its content. Raises BadImageError."""
    if isinstance(image_set, FolderSet):
        content = image_set.content(i)
        pixels, original = decode_and_describe(io.BytesIO(content), decoding)
        return pixels, original, content_digest(content)
    pixels = checked_image(image_set, i, decoding)
    whole = image_set.image(i, dataclasses.replace(decoding, image_size=None))
    original = Original("in memory", "RGB", whole.shape[1], whole.shape[0], is_animation=False)
    return pixels, original, content_digest(whole.tobytes())
