"""Draws pages of images: training batches, predictions, mistakes and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.font_manager import get_font
from PIL import Image, ImageDraw, ImageFont

from distcls.report.figure import DPI, GRAY, GREEN, INK, RED, font_files, png_file, shorten

MAX_IMAGES = 64

LINE = 0.135
"""Inches from one line of a title to the next."""

FRAME = 3
"""Pixels."""


def plot_images(
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    heading: str,
    colors: Sequence[str] | None = None,
) -> None:
    """Draw a grid of the first 64 images, uint8 (n, H, W, 3), each below its title.

    colors: the color of each image's title and frame, such as "green" or "red".
    """
    shown = min(len(images), MAX_IMAGES)
    grid = _grid(shown, max((title.count("\n") + 1 for title in titles[:shown]), default=0))
    page = Page(grid.width, grid.height)
    page.write(heading, 0.1, 0.3, INK, size=12, bold=True)
    for index in range(shown):
        color = _ink(colors[index]) if colors else INK
        left, top = grid.place(index)
        upper = page.draw_image(images[index], left, top, grid.cell, frame=color if colors else None)
        lines = _short_title(titles[index], grid.cell).split("\n")
        for above, line in enumerate(reversed(lines)):
            page.write(line, left + grid.cell / 2, upper - 0.06 - LINE * above, color, anchor="ms")
    if not shown:
        page.write("nothing to show", grid.width / 2, 0.7 * grid.height, GRAY, anchor="ms")
    page.save(path)


def prediction_title(predicted: str, confidence: float, true: str, image: str) -> str:
    """Return an image's title for `plot_images`: the predicted class, the true one if it differs, and the name."""
    lines = [f"predicted {predicted} ({confidence:.0%})", *([f"true {true}"] if true != predicted else []), image]
    return "\n".join(lines)


class Page:
    """A white page on which images and texts are placed, in inches from its top left.

    Pillow draws it: matplotlib takes two seconds for the pages of a run, and Pillow a tenth of one.
    """

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (round(width * DPI), round(height * DPI)), "white")
        self.pen = ImageDraw.Draw(self.image)

    def write(
        self, text: str, x: float, y: float, color: str, size: int = 8, bold: bool = False, anchor: str = "ls"
    ) -> None:
        """Write one line. size: in points. anchor: Pillow's, where (x, y) is: "ls" is left on the baseline."""
        self.pen.text((x * DPI, y * DPI), text, fill=color, font=_font(text, size, bold), anchor=anchor)

    def save(self, path: str | Path) -> None:
        """Write the page as PNG. Raises DiskError."""
        with png_file(path) as file:
            self.image.save(file, "png")

    def draw_image(self, image: np.ndarray, left: float, top: float, side: float, frame: str | None = None) -> float:
        """Draw uint8 (H, W, 3) inside a square, with a frame of this color; return its upper edge."""
        most = max(image.shape[:2])
        height, width = (max(round(side * DPI * length / most), 1) for length in image.shape[:2])
        x, y = round(left * DPI + (side * DPI - width) / 2), round(top * DPI + (side * DPI - height) / 2)
        crisp = most < side * DPI
        resampling = Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS
        self.image.paste(Image.fromarray(np.asarray(image)).resize((width, height), resampling), (x, y))
        if frame:
            self.pen.rectangle((x - 1, y - 1, x + width, y + height), outline=frame, width=FRAME)
        return y / DPI


def _font(text: str, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Return the first of our fonts that has all characters of a text; matplotlib's own if none has."""
    files = font_files(bold)
    has_all = (file for file in files if all(_has(file, character) for character in text))
    return _opened(files[0] if text.isascii() else next(has_all, files[0]), size)


@cache
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, round(size * DPI / 72))


@cache
def _has(file: str, character: str) -> bool:
    return get_font(file).get_char_index(ord(character)) != 0


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
    return _Grid(columns, math.ceil(num_images / columns), cell, LINE * title_lines + 0.18)


def _ink(color: str) -> str:
    return {"green": GREEN, "red": RED}.get(color, color)


def _short_title(title: str, inches: float) -> str:
    """Shorten a title to a width. Paths keep their ends, which tell files apart."""
    most = int(inches * 15)
    lines = [f"…{line[1 - most :]}" if "/" in line and len(line) > most else line for line in title.split("\n")]
    return "\n".join(shorten(line, most) for line in lines)
