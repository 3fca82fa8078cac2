"""Plots as tests look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def read(path: Path) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), of a plot that is there, alone, and neither tiny, huge nor blank."""
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert 150 <= pixels.shape[0] <= 2000 and 250 <= pixels.shape[1] <= 2000
    inked = pixels.min(axis=2) < 250
    assert inked.mean() > 0.005
    border = np.concatenate([inked[0], inked[-1], inked[:, 0], inked[:, -1]])
    assert not np.any(border), "something is cut off at the edge"
    return pixels


def count_color(pixels: np.ndarray, color: str | tuple[int, ...]) -> int:
    """How many pixels have a color, "#rrggbb" or three numbers."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(color, str) else color
    return int((np.abs(pixels.astype(int) - wanted).max(axis=2) <= 3).sum())
