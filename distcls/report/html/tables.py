"""Makes tables for web pages: a click on a column's head sorts them, and shares can be drawn as bars."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distcls.report.html.page import render

ABSENT = -1e300
"""What an absent number is sorted as, below all others."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str | Markup
    """What is shown: plain text, which is escaped, or HTML."""
    value: float | str | None = None
    """What the column is sorted by, if that is not the text."""
    bar: float | None = None
    """A share from 0 to 1, drawn as a bar behind the text."""
    style: str = ""
    """A class of parts/page.css, such as "dim" or "good"."""

    @property
    def is_number(self) -> bool:
        """True if the cell is aligned right."""
        return isinstance(self.value, int | float)

    @property
    def sort_key(self) -> Any:
        """Return the value by which the page sorts."""
        return self.text if self.value is None else self.value


def number(value: float | None, text: str) -> Cell:
    """Return a cell with a number and its text; a dash for None."""
    return Cell("–", ABSENT, style="dim") if value is None else Cell(text, value)


def leading_to(name: str, file: Path, page_folder: Path) -> Cell:
    """Return a cell with a name that leads to a file, if that is there, from a page in this folder."""
    if not os.path.isfile(file):
        return Cell(name, style="short")
    address = urllib.parse.quote(os.fsencode(os.path.relpath(file, page_folder)))
    return Cell(Markup('<a href="{}">{}</a>').format(address, name), name, style="short")


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | Cell]], sortable: bool = True, tall: bool = False
) -> Markup:
    """Return a table as HTML. tall: limit its height and let it scroll, for more rows than a screen has."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    numbers = [bool(cells) and all(row[i].is_number for row in cells) for i in range(len(head))]
    return render("table.html", head=list(zip(head, numbers, strict=True)), rows=cells, sortable=sortable, tall=tall)


def pairs(rows: Sequence[tuple[str, str | Markup]]) -> Markup:
    """Return a list of names and values as HTML."""
    return render("pairs.html", rows=rows)
