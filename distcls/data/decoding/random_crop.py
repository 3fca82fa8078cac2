"""Which part of an image a random resized crop keeps: from random numbers to boxes, apart from all pixels.

Imports nothing but numpy and the decoding: loader workers start with it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distcls.config.settings import RandomResizedCropConfig
from distcls.data.decoding.decode import Box, Decoding

TRIES = 10
"""Random boxes that are tried for an image before the central one is taken, as in torchvision."""

NUM_DRAWS = 2 * TRIES + 2
"""Numbers from 0 to 1 for an image: the area and the shape of each try, and where the box lies, down and right."""


def random_boxes(
    draws: np.ndarray, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
    """Top, left, height and width of a box in an image for each row of draws (n, NUM_DRAWS): int64 (n, 4).

    The rule of torchvision's RandomResizedCrop (Szegedy et al., arXiv 1409.4842): the first of ten boxes of a
    random share of the area and a random shape that lies inside; if none does, the largest central one.
    """
    areas = height * width * (scale[0] + draws[:, :TRIES] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    shapes = np.exp(low + draws[:, TRIES : 2 * TRIES] * (high - low))
    widths = np.rint(np.sqrt(areas * shapes)).astype(np.int64)
    heights = np.rint(np.sqrt(areas / shapes)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    images, first = np.arange(len(draws)), fits.argmax(1)
    sides = np.stack([heights[images, first], widths[images, first]], 1)
    room = np.array([height, width]) - sides
    corners = np.floor(draws[:, 2 * TRIES :] * (room + 1)).astype(np.int64)
    boxes = np.concatenate([corners, sides], 1)
    return np.where(fits.any(1)[:, None], boxes, _central_box(height, width, ratio))


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> np.ndarray:
    inner_width = min(width, max(1, round(height * ratio[1])))
    inner_height = min(height, max(1, round(width / ratio[0])))
    return np.array([(height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width])


@dataclass(frozen=True)
class RandomCrop(Decoding):
    """Cuts a part out of an image as large as it is; who asked for it resizes it to image_size."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    draws: tuple[float, ...] = ()
    """The NUM_DRAWS numbers of this image in this step."""

    keeps_pixels = True

    @staticmethod
    def of(decoding: Decoding, config: RandomResizedCropConfig) -> RandomCrop:
        """Random parts of images that are otherwise decoded like this."""
        how = {field.name: getattr(decoding, field.name) for field in fields(decoding)}
        return RandomCrop(**how, scale=(config.scale[0], config.scale[1]), ratio=(config.ratio[0], config.ratio[1]))

    def boxes(self, draws: np.ndarray, decoding: Decoding) -> np.ndarray:
        """Where to cut images that have all been decoded to one size: (n, 4), see random_boxes."""
        return random_boxes(draws, *decoding.shape[:2], self.scale, self.ratio)

    def box(self, width: int, height: int) -> Box:
        """Left, top, right and bottom in an upright image of this size."""
        (box,) = random_boxes(np.array([self.draws]), height, width, self.scale, self.ratio)
        top, left, inner_height, inner_width = box.tolist()
        return left, top, left + inner_width, top + inner_height
