"""Gives all plots one style and one way to the disk.

matplotlib is imported late (it takes seconds) and used without pyplot, which keeps global state and may need a display.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font_names

from distcls.errors import DiskError
from distcls.files.atomic import printable, replacing

INK, GRAY, BLUE, ORANGE, GREEN, RED = "#24292f", "#8c959f", "#0969da", "#d4661b", "#1a7f37", "#cf222e"

DPI = 120

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#e6e8eb",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5 or $10"
    "xtick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.color": GRAY,
    "ytick.labelcolor": INK,
}

FURTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS"),
)
"""Fonts of Linux, macOS and Windows with Chinese, Japanese and Korean characters, which matplotlib's own font lacks."""


@contextmanager
def figure_file(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Give a figure of this size in inches, in our style, and write it to `path` atomically. Raises DiskError."""
    with matplotlib.rc_context({**STYLE, "font.family": _fonts()}), warnings.catch_warnings():
        # Characters that no installed font has are drawn as boxes; that needs no warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with png_file(path) as file:
            FigureCanvasAgg(figure).print_png(file)  # savefig would draw everything twice


@contextmanager
def png_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Give a file to write a picture to, which then replaces `path` atomically. Raises DiskError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as file:
            yield file
    except OSError as error:
        raise DiskError(f"Cannot write {path}: {error.strerror}. Free some space or fix its permissions.") from error


@cache
def font_files(bold: bool = False) -> list[str]:
    """Return the files of our fonts: matplotlib's own, then those that have more characters."""
    weight = "bold" if bold else "normal"
    return [findfont(FontProperties(family=name, weight=weight)) for name in _fonts()]


@cache
def _fonts() -> list[str]:
    """Return matplotlib's own font and the installed ones of FURTHER_FONTS: it warns about fonts that are missing."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns about fonts without a bold variant
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in installed)]


def shorten(text: str, length: int) -> str:
    """Shorten a long text in the middle, since class names often differ only at the end. Odd bytes become "?"."""
    text = printable(text)
    if len(text) <= length:
        return text
    end = (length - 1) // 3
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
