"""Turns random numbers into the boxes that a random resized crop keeps, without touching pixels.

Imports no torch, because decoding processes import this file and must start fast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distcls.config.settings import RandomResizedCropConfig
from distcls.data.decoding.decode import Box, Decoding

TRIES = 10
"""How many random boxes to try before falling back to a central one, as in torchvision."""

NUM_DRAWS = 2 * TRIES + 2
"""Random numbers from 0 to 1 per image: an area and a shape for each try, then the box's vertical and horizontal
position."""


def random_boxes(
    draws: np.ndarray, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
    """Return a box (top, left, height, width) for each row of draws (n, NUM_DRAWS): int64 (n, 4).

    As torchvision's RandomResizedCrop (Szegedy et al., arXiv 1409.4842): try ten boxes of random area and shape and
    take the first that fits the image; if none does, take the largest central one.
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
    """Cuts a random part out of an image at its own size; the caller resizes it to image_size."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    draws: tuple[float, ...] = ()
    """The NUM_DRAWS random numbers for this image in this step."""

    keeps_pixels = True

    @staticmethod
    def of(decoding: Decoding, config: RandomResizedCropConfig) -> RandomCrop:
        """Return a random crop of images that are otherwise decoded like `decoding`."""
        how = {field.name: getattr(decoding, field.name) for field in fields(decoding)}
        return RandomCrop(**how, scale=(config.scale[0], config.scale[1]), ratio=(config.ratio[0], config.ratio[1]))

    def boxes(self, draws: np.ndarray, decoding: Decoding) -> np.ndarray:
        """Return the boxes for images that were all decoded to one size: (n, 4), see random_boxes."""
        return random_boxes(draws, *decoding.shape[:2], self.scale, self.ratio)

    def box(self, width: int, height: int) -> Box:
        """Return left, top, right and bottom in an upright image of this size."""
        (box,) = random_boxes(np.array([self.draws]), height, width, self.scale, self.ratio)
        top, left, inner_height, inner_width = box.tolist()
        return left, top, left + inner_width, top + inner_height
