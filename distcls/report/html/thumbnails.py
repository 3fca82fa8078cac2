"""Shows stored thumbnails on a web page: each sheet is in the page once, and a thumbnail is a window onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distcls.report.html.page import data_uri, render
from distcls.runs.results import Sheet

SIDE = 112
"""Longest side of a thumbnail on the page, in CSS pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """A part of a sheet, as attributes of an HTML element."""

    sheet: str
    """The class that `sheet_style` gave a sheet."""
    style: str
    """CSS that says which part to show."""
    is_crisp: bool
    """True if its pixels are enlarged and should stay squares."""


@dataclass(frozen=True)
class Figure:
    """One or more thumbnails, side by side, and the lines below them."""

    thumbnails: Sequence[Thumbnail]
    lines: Sequence[tuple[str, str]]
    """(text, class of parts/page.css), as plain text."""


def sheet_style(name: str, sheet: Sheet) -> Markup:
    """Return the style that puts a sheet into the page. name: letters and digits."""
    kind = "image/png" if sheet.content.startswith(b"\x89PNG") else "image/jpeg"
    return Markup(f"<style>.{_class(name)}{{background-image:url({data_uri(sheet.content, kind)})}}</style>")


def _class(name: str) -> str:
    return f"sheet-{name}"  # no class of parts/page.css begins like this


def thumbnails(name: str, sheet: Sheet, side: float = SIDE) -> list[Thumbnail]:
    """Return the thumbnails of a sheet. name: as given to `sheet_style`. side: the longest side, in CSS pixels."""
    rows = -(-len(sheet.sizes) // sheet.columns)
    shown = []
    for (top, left), (height, width) in zip(sheet.corners(), sheet.sizes, strict=True):
        scale = side / max(height, width)
        size = f"{sheet.cell[1] * sheet.columns * scale:.2f}px {sheet.cell[0] * rows * scale:.2f}px"
        style = (
            f"width:{width * scale:.1f}px;height:{height * scale:.1f}px;background-size:{size};"
            f"background-position:{-left * scale:.2f}px {-top * scale:.2f}px"
        )
        shown.append(Thumbnail(_class(name), style, scale > 1))
    return shown


def gallery(figures: Sequence[Figure], shown: int | None = None) -> Markup:
    """Return figures in rows, as HTML. shown: how many to show at first; the others can be unfolded."""
    shown = shown if shown is not None and len(figures) > shown + 2 else len(figures)
    return render("gallery.html", figures=figures[:shown], more=figures[shown:])
