"""Draws pages of images: training batches, predictions, mistakes and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from distcls.report.figure import GREEN, GREY, INK, RED, figure_file, shorten

MAX_IMAGES = 64


def plot_images(
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    heading: str,
    colors: Sequence[str] | None = None,
) -> None:
    """Draw a grid of the first 64 images, uint8 (n, H, W, 3), each below its title.

    colors: the colour of each image's title and frame, such as "green" or "red".
    """
    shown = min(len(images), MAX_IMAGES)
    grid = _grid(shown, max((title.count("\n") + 1 for title in titles[:shown]), default=0))
    with figure_file(path, grid.width, grid.height) as figure:
        page = page_in_inches(figure)
        page.text(0.1, 0.12, heading, va="top", fontsize=12, weight="bold")
        for index in range(shown):
            color = _ink(colors[index]) if colors else INK
            left, top = grid.place(index)
            title = _short_title(titles[index], grid.cell)
            top = draw_image(page, images[index], left, top, grid.cell, frame=color if colors else None)
            page.text(left + grid.cell / 2, top - 0.04, title, color=color, fontsize=8, ha="center", va="bottom")
        if not shown:
            page.text(grid.width / 2, 0.7 * grid.height, "nothing to show", ha="center", color=GREY)


def prediction_title(predicted: str, confidence: float, true: str, image: str) -> str:
    """Return an image's title for `plot_images`: the predicted class, the true one if it differs, and the name."""
    lines = [f"predicted {predicted} ({confidence:.0%})", *([f"true {true}"] if true != predicted else []), image]
    return "\n".join(lines)


def page_in_inches(figure: Figure) -> Axes:
    """Return one pair of axes for the whole figure, in inches from its top left, for pages of many images.

    Separate axes for each image would take ten times as long to draw.
    """
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    page.set_axis_off()
    return page


def draw_image(page: Axes, image: np.ndarray, left: float, top: float, side: float, frame: str | None = None) -> float:
    """Draw uint8 (H, W, 3) inside a square, with a frame of this colour; return its upper edge, all in inches."""
    most = max(image.shape[:2])
    height, width = (side * length / most for length in image.shape[:2])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    crisp = most < side * page.figure.dpi
    page.imshow(
        image, extent=(left, left + width, top + height, top), aspect="auto",
        interpolation="nearest" if crisp else "antialiased",
    )  # fmt: skip
    if frame:
        page.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=frame, linewidth=2))
    return top


class _Grid(NamedTuple):
    """The layout of images on a page, in inches."""

    columns: int
    rows: int
    cell: float
    title: float

    @property
    def width(self) -> float:
        return max(self.columns, 3) * (self.cell + 0.12) + 0.12

    @property
    def height(self) -> float:
        return max(self.rows, 1) * (self.cell + self.title) + 0.5

    def place(self, index: int) -> tuple[float, float]:
        """Return the left and top edge of an image."""
        row, column = divmod(index, self.columns)
        return 0.12 + column * (self.cell + 0.12), 0.4 + self.title + row * (self.cell + self.title)


def _grid(num_images: int, title_lines: int) -> _Grid:
    """Return a nearly square layout that leaves few places empty in the last row."""
    fewest, most = math.ceil(math.sqrt(num_images)), math.ceil(math.sqrt(1.8 * num_images))
    columns = min(range(max(fewest, 1), max(most, 1) + 1), key=lambda columns: -num_images % columns)
    cell = 1.15 if num_images > 36 else 1.4 if num_images > 12 else 1.8
    return _Grid(columns, math.ceil(num_images / columns), cell, 0.135 * title_lines + 0.18)


def _ink(color: str) -> str:
    return {"green": GREEN, "red": RED}.get(color, color)


def _short_title(title: str, inches: float) -> str:
    """Shorten a title to a width. Paths keep their ends, which tell files apart."""
    most = int(inches * 15)
    lines = [f"…{line[1 - most :]}" if "/" in line and len(line) > most else line for line in title.split("\n")]
    return "\n".join(shorten(line, most) for line in lines)
