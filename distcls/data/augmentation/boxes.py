"""Rectangles that random erasing and cutout blank out, and that CutMix fills from another image.

A box is (top, left, bottom, right) in shares of the image's sides, so drawing one needs no image size. It may reach
beyond the edges, and is empty if bottom <= top. A pixel is inside if its center is.
"""

from __future__ import annotations

import numpy as np
import torch

MIN_AREA, MAX_AREA = 0.02, 1 / 3
MAX_ASPECT = 10 / 3


def draw_erased(generator: np.random.Generator, size: int, share: float) -> np.ndarray:
    """Draw boxes for random erasing (Zhong et al., arXiv 1708.04896): float32 (size, 4).

    share: of the images whose box covers 2 to 33 % of them; the others get an empty one.
    """
    chosen = generator.random(size) < share
    area = generator.uniform(MIN_AREA, MAX_AREA, size)
    aspect = np.exp(generator.uniform(-np.log(MAX_ASPECT), np.log(MAX_ASPECT), size))
    sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1).clip(max=1)
    corner = generator.random((size, 2)) * (1 - sides)
    return (np.concatenate([corner, corner + sides], axis=1) * chosen[:, None]).astype(np.float32)


def draw_squares(generator: np.random.Generator, size: int, side: float | np.ndarray) -> np.ndarray:
    """Draw squares around random pixels, for cutout and CutMix: float32 (size, 4). side: a share or (size,) shares."""
    center, half = generator.random((size, 2)), np.broadcast_to(np.asarray(side) / 2, (size,))[:, None]
    return np.concatenate([center - half, center + half], axis=1).astype(np.float32)


def inside(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a mask, bool (m, height, width), of the pixels inside each image's box, given as (m, 4)."""
    top, left, bottom, right = boxes.T[:, :, None]
    rows = (torch.arange(height, device=boxes.device, dtype=boxes.dtype) + 0.5) / height
    columns = (torch.arange(width, device=boxes.device, dtype=boxes.dtype) + 0.5) / width
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]
